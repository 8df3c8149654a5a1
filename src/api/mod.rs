//! HTTP: settings and state of the API. `routes.rs` has every route, `http/` is the way in, `resources/` has one file per
//! resource, `page/` what a browser gets; `error.rs` alone knows status codes.
//!
//! Invariant: work is admitted before its body is kept or looked at, so that overload costs next to nothing; every wait
//! is bounded by [`ApiSettings`]; no handler decodes or opens a model on the async threads.

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
    line::{
        eject::Ejector, eject::output::alive::LineAlive, infer::Infer, live::View, record::Recorder, swap::Swapper,
    },
    metrics::Metrics,
    rounds::keeper::RoundsHandle,
    store::{Clock, PlannedChallenge, Store},
    student::registry::Registry,
    tokens::Tokens,
};
pub use denied::Denied;
pub use error::{ApiError, Problem};
use http::{access, decoders::Decoders};
pub use http::{
    access::{Caller, Rule},
    serve::{ConnectionLimits, Peer, Tls, TlsError, serve},
    settings::ServerSettings,
};
use resources::labels;
pub use resources::labels::LabelSettings;
pub use routes::{Route, TABLE, router};

/// Limits of the HTTP API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Largest request body in bytes; more is answered 413.
    pub max_body: usize,
    /// Most requests that may be read, decoded or judged at once; more are answered 429.
    pub max_in_flight: usize,
    /// From arrival to answer, the reading of the body included; later is answered 503.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Threads that decode pictures, at low priority while the belt runs; 0 means one per core.
    pub decode_threads: usize,
    /// Most event streams open at once.
    pub max_streams: usize,
}

impl Default for ApiSettings {
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

impl ApiSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [("api.max_in_flight", self.max_in_flight), ("api.max_body", self.max_body)] {
            if value == 0 {
                return Err(format!("{key} must be at least 1"));
            }
        }
        if self.deadline.is_zero() {
            return Err("api.deadline must be longer than 0".into());
        }
        Ok(())
    }
}

/// What the API needs of the service.
pub struct ApiDependencies {
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
    /// Known wrong pieces that are to be sent through, each with its camera.
    pub challenges: Arc<[(String, PlannedChallenge)]>,
    /// Whether age may decide what is removed.
    pub clock: Arc<Clock>,
    /// Why retention leaves what is over its time, in words.
    pub retention_held: watch::Receiver<Vec<String>>,
    /// Loads students.
    pub swapper: Arc<Swapper>,
    /// Which student serves and which served before.
    pub registry: Registry,
    /// The learning beside the line.
    pub rounds: RoundsHandle,
    /// Moves the gates, if there are any.
    pub ejector: Option<Ejector>,
    /// Whether belts are looked at and items answered.
    pub alive: LineAlive,
}

/// The API; clones share its state.
#[derive(Clone)]
pub struct Api(Arc<ApiState>);

struct ApiState {
    service: ApiDependencies,
    settings: ApiSettings,
    admission: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    decoders: Decoders,
    reservations: labels::Reservations,
    description: OpenApi,
}

impl std::ops::Deref for Api {
    type Target = ApiDependencies;
    fn deref(&self) -> &ApiDependencies {
        &self.0.service
    }
}

impl Api {
    /// Starts the decode threads and follows the file of tokens.
    ///
    /// # Errors
    /// The system's, when no thread can be started.
    pub fn new(service: ApiDependencies, settings: ApiSettings) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if settings.decode_threads == 0 { cores } else { settings.decode_threads };
        tokio::spawn(access::follow(service.tokens.clone(), service.stop.clone()));
        let api = Self(Arc::new(ApiState {
            admission: Arc::new(Semaphore::new(settings.max_in_flight)),
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            decoders: Decoders::start(threads, service.infer.clone())?,
            reservations: labels::Reservations::default(),
            description: routes::description(),
            service,
            settings,
        }));
        labels::touch(&api);
        Ok(api)
    }
}
