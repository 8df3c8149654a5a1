//! HTTP: one file per resource; `error.rs` alone knows status codes.
//!
//! Invariant: work is admitted before its body is kept or looked at, so that overload costs next to nothing; every wait
//! is bounded by [`Settings`]; no handler decodes or opens a model on the async threads.

mod denied;
mod error;
mod http;
mod input;
mod openapi;
mod page;
mod resources;
mod routes;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use crate::{
    domain::Verdict,
    line::{eject::Ejector, infer::Infer, live::View, record::Recorder, swap::Swapper},
    metrics::Metrics,
    rounds::keeper::Handle,
    store::Store,
    student::registry::Registry,
    tokens::Tokens,
};
pub use denied::Denied;
pub use error::{ApiError, Problem};
use http::{access, decoders::Decoders};
pub use http::{
    access::{Caller, Rule},
    serve::{Limits, Peer, Tls, TlsError, serve},
};
use resources::labels;
pub use resources::labels::LabelSettings;
pub use routes::{Route, TABLE, router};

/// Limits of the HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Largest request body in bytes; more is answered 413.
    pub max_body: usize,
    /// Most requests that may be read, decoded or judged at once; more are answered 429.
    pub max_in_flight: usize,
    /// From arrival to answer, the reading of the body included; later is answered 503.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Threads that decode pictures, at low priority while the belt runs; 0 means one a core.
    pub decode_threads: usize,
    /// Most event streams open at once.
    pub max_streams: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_body: 20 << 20,
            max_in_flight: 32,
            deadline: Duration::from_secs(5),
            decode_threads: 0,
            max_streams: 64,
        }
    }
}

/// What the API needs of the service.
pub struct Parts {
    /// The inference worker.
    pub infer: Infer,
    /// Who may ask.
    pub tokens: Tokens,
    /// Verdicts and frames.
    pub store: Store,
    /// Takes the verdicts of `/classify`.
    pub recorder: Recorder,
    /// All metrics.
    pub metrics: Metrics,
    /// Committed verdicts.
    pub recorded: broadcast::Sender<Arc<Verdict>>,
    /// The cameras, in the order of the configuration.
    pub cameras: Arc<[Arc<View>]>,
    /// Whether the service takes work; false while starting, stopping, or when a needed part is broken.
    pub ready: watch::Receiver<bool>,
    /// Ends the event streams, so that a graceful shutdown is not held up by them.
    pub stop: CancellationToken,
    /// How people label.
    pub labels: LabelSettings,
    /// Loads students.
    pub swapper: Arc<Swapper>,
    /// Which student serves and which served before.
    pub registry: Registry,
    /// The learning beside the line.
    pub rounds: Handle,
    /// Moves the gates, if there are any.
    pub ejector: Option<Ejector>,
}

/// State of the API; clones share it.
#[derive(Clone)]
pub struct Api(Arc<State>);

struct State {
    parts: Parts,
    settings: Settings,
    admission: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    decoders: Decoders,
    held: labels::Held,
    description: OpenApi,
}

impl std::ops::Deref for Api {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl Api {
    /// Starts the decode threads and follows the file of tokens.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn new(parts: Parts, settings: Settings) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if settings.decode_threads == 0 { cores } else { settings.decode_threads };
        tokio::spawn(access::follow(parts.tokens.clone(), parts.stop.clone()));
        let api = Self(Arc::new(State {
            admission: Arc::new(Semaphore::new(settings.max_in_flight)),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            decoders: Decoders::start(threads, parts.infer.clone())?,
            held: labels::Held::default(),
            description: routes::description(),
            parts,
            settings,
        }));
        labels::touch(&api);
        Ok(api)
    }
}
