//! `GET /healthz`, `/readyz`, `/metrics`: for orchestrators and Prometheus.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{api::Api, line::live::View};

/// Whether the service takes work, and with what.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// True when it does.
    pub ready: bool,
    /// The serving model, `name@hash-prefix`.
    pub model: String,
    /// `float32` or `int8`.
    pub precision: String,
    /// Novelty from which on the serving model's items are diverted as unknown; `null`: it has no limit to the unknown, and
    /// accepts what its scores are sure of.
    pub unknown_from: Option<f32>,
    /// ONNX Runtime's execution provider: `cpu`, `cuda` or `tensorrt`.
    pub provider: &'static str,
    /// CPU cores that the process may use.
    pub cores: usize,
    /// Why no heartbeat counts; `None` while the line is alive, or nothing is moved.
    pub line_why_not: Option<String>,
    /// Why retention leaves what is over its time: the clock, what may go in a day, documents that were changed.
    pub retention_held: Vec<String>,
    /// The line of each camera. One that is not alive does not make the service unready: the others go on, and HTTP too.
    pub lines: Vec<LineReadiness>,
}

/// One camera's line.
#[derive(Debug, Serialize, ToSchema)]
pub struct LineReadiness {
    /// The camera's name.
    pub camera: String,
    /// Whether its belt is looked at.
    pub alive: bool,
    /// Why not.
    pub why: Option<String>,
}

/// Answers while the process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = String)))]
pub(in crate::api) async fn healthz() -> &'static str {
    "ok"
}

/// Whether the service takes work; 503 when it does not.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub(in crate::api) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let ready = *api.ready.borrow();
    let card = api.infer.card();
    let line = |view: &std::sync::Arc<View>| {
        let why = api.alive.camera_why_not(&view.camera);
        LineReadiness { camera: view.camera.to_string(), alive: why.is_none(), why }
    };
    let readiness = Readiness {
        ready,
        model: card.label.clone(),
        precision: card.precision.clone(),
        unknown_from: card.thresholds.unknown_from,
        provider: api.infer.provider(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        line_why_not: api.alive.why_not(),
        retention_held: api.retention_held.borrow().clone(),
        lines: api.cameras.iter().map(line).collect(),
    };
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(readiness))
}

/// All metrics in Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, body = String)))]
pub(in crate::api) async fn metrics(State(api): State<Api>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], api.metrics.text())
}
