//! HTTP: one file per resource; `error.rs` alone knows status codes.
//!
//! Invariant: work is admitted before its body is kept or looked at, so that overload costs next to nothing; every wait
//! is bounded by [`Settings`]; no handler decodes or opens a model on the async threads.

mod error;
mod http;
mod openapi;
mod page;
mod resources;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    routing::{delete, get, post},
};
use serde::Deserialize;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::{
    domain::Verdict,
    line::{eject::Ejector, infer::Infer, live::View, record::Recorder, swap::Swapper},
    metrics::Metrics,
    rounds::keeper::RoundsHandle,
    store::Store,
    student::registry::Registry,
    tokens::Tokens,
};
pub use error::{ApiError, Problem};
use http::{access, decoders::Decoders, login, measure};
pub use http::{
    access::{Caller, Denied, Rule, TABLE},
    serve::{Limits, Peer, Tls, TlsError, serve},
    settings::ServerSettings,
};
pub use resources::labels::LabelSettings;
use resources::{
    audit, challenges, classify, confirmations, frames, health, items, labels, live, lots, models, rounds, v2, verdicts,
};

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

impl Settings {
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
    pub rounds: RoundsHandle,
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
            parts,
            settings,
        }));
        labels::touch(&api);
        Ok(api)
    }
}

/// All routes. Each needs a line in [`TABLE`] too, or nobody may use it.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/classify", post(classify::classify))
        .route("/confirmations/{gate}", post(confirmations::confirm))
        .route("/verdicts", get(verdicts::list))
        .route("/verdicts/stream", get(verdicts::stream))
        .route("/verdicts/counts", get(verdicts::counts))
        .route("/lots", get(lots::list))
        .route("/lots", post(lots::open))
        .route("/lots/close", post(lots::close))
        .route("/lots/{lot}", get(lots::one))
        .route("/lots/{lot}/sign-off", post(lots::sign_off))
        .route("/lots/{lot}/export.csv", get(lots::csv))
        .route("/lots/{lot}/export.html", get(lots::html))
        .route("/challenges", get(challenges::list))
        .route("/challenges", post(challenges::announce))
        .route("/corrective-actions", get(challenges::actions))
        .route("/corrective-actions/{action}/close", post(challenges::close))
        .route("/frames/{key}", get(frames::frame))
        .route("/labels", get(labels::list))
        .route("/labels", post(labels::add))
        .route("/labels/{id}", delete(labels::withdraw))
        .route("/labels/classes", get(labels::classes))
        .route("/labels/queue", get(labels::queue))
        .route("/labels/agreement", get(labels::agreement))
        .route("/items", get(items::list))
        .route("/items/{picture}", get(items::picture))
        .route("/cameras", get(live::cameras))
        .route("/live", get(live::stream))
        .route("/live.jpg", get(live::picture))
        .route("/models", get(models::list))
        .route("/models/rollback", post(models::rollback))
        .route("/models/{version}/promote", post(models::promote))
        .route("/rounds", get(rounds::list))
        .route("/rounds", post(rounds::start))
        .route("/rounds/stop", post(rounds::stop))
        .route("/rounds/approve", post(rounds::approve))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/v2", get(v2::server))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready))
        .route("/v2/models/{model}", get(v2::metadata))
        .route("/v2/models/{model}/ready", get(v2::model_ready))
        .route("/v2/models/{model}/infer", post(v2::infer))
        .route("/v2/repository/index", post(models::index))
        .route("/v2/repository/models/{model}/load", post(models::load))
        .route("/", get(page::html))
        .route("/page.css", get(page::css))
        .route("/page.js", get(page::js))
        .route("/audit", get(audit::list))
        .route("/login", post(login::login))
        .route("/logout", post(login::logout))
        .route("/whoami", get(login::whoami))
        .route("/label", get(page::label_html))
        .route("/label.css", get(page::label_css))
        .route("/label.js", get(page::label_js))
        .route("/learning", get(page::learning_html))
        .route("/learning.css", get(page::learning_css))
        .route("/learning.js", get(page::learning_js))
        .route("/record", get(page::record_html))
        .route("/record.css", get(page::record_css))
        .route("/record.js", get(page::record_js))
        .fallback(async || ApiError::NotFound("there is nothing at this path; see /openapi.json".into()))
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(DefaultBodyLimit::max(api.0.settings.max_body))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn_with_state(api.clone(), access::guard))
        .layer(from_fn_with_state(api.clone(), measure::measure))
        .with_state(api)
}

/// Runs what reads the disk or waits for long on a thread where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::Internal(e.to_string()))?
}
