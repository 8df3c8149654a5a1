//! `/v2`: the Open Inference Protocol, version 2, over HTTP: what KServe, Triton and their clients speak. Tensors come and go
//! as JSON, or as raw bytes behind it (Triton's binary tensor data extension).
//!
//! One model serves at a time, under its folder's name; its version is the hash of its file. Pictures come as `image`, UINT8 `[n, side, side, 3]`; the
//! calibrated `probabilities` and the `embedding` go out. Raw scores only: nothing is decided or recorded here.

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::tensors::{self, DATATYPE, INPUT};
use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        http::body,
    },
    domain::{Card, Fault, Source},
    line::observe::faulted,
};

const PROBABILITIES: &str = "probabilities";
const EMBEDDING: &str = "embedding";
/// How many bytes of a body are JSON, where raw tensors follow.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What it speaks beyond the protocol.
const EXTENSIONS: [&str; 3] = ["model_repository", "binary_tensor_data", "statistics"];

/// What the server is.
#[derive(Serialize, ToSchema)]
#[schema(as = Server)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 3],
}

/// What a model takes and gives.
#[derive(Serialize, ToSchema)]
#[schema(as = Metadata)]
pub struct ModelMetadata {
    name: String,
    /// Prefix of the SHA-256 of its ONNX file.
    versions: [String; 1],
    platform: &'static str,
    inputs: [TensorMetadata; 1],
    outputs: [TensorMetadata; 2],
    /// Class names in the order of `probabilities` (not part of the protocol).
    classes: Vec<String>,
}

/// Name, type and shape of a tensor; −1 is any size.
#[derive(Serialize, ToSchema)]
pub struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// The answer to an inference request.
#[derive(Serialize, ToSchema)]
pub struct InferResponse {
    model_name: String,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor>,
}

/// A tensor that goes out, row-major.
#[derive(Serialize, ToSchema)]
#[schema(as = Output)]
pub struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: [usize; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<RawParameters>,
}

/// Of a tensor whose bytes follow the JSON.
#[derive(Serialize, ToSchema)]
pub struct RawParameters {
    /// How many; little-endian.
    binary_data_size: usize,
}

/// Requests and inferences since the service started.
#[derive(Serialize, ToSchema)]
pub struct Statistics {
    model_stats: [ModelStatistics; 1],
}

/// Of the model that serves, and of those that served before it.
#[derive(Serialize, ToSchema)]
pub struct ModelStatistics {
    name: String,
    version: String,
    /// Items that were scored, those of the belt included.
    inference_count: u64,
    /// Batches in which they were.
    execution_count: u64,
    inference_stats: InferenceStatistics,
}

/// Requests to `infer`.
#[derive(Serialize, ToSchema)]
pub struct InferenceStatistics {
    success: CountAndTime,
    fail: CountAndTime,
}

/// How many there were.
#[derive(Serialize, ToSchema)]
pub struct CountAndTime {
    count: u64,
    /// Nanoseconds together: 0 for `fail`, whose time is told with that of `success`.
    ns: u64,
}

/// A health answer of the protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerLive)]
pub struct Liveness {
    live: bool,
}

/// A readiness answer of the protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerReady)]
pub struct ProtocolReadiness {
    ready: bool,
}

/// What this server is.
#[utoipa::path(get, path = "/v2", tag = "v2", responses((status = 200, body = ServerMetadata)))]
pub(in crate::api) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "beltsight", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

/// Answers while the process lives.
#[utoipa::path(get, path = "/v2/health/live", tag = "v2", responses((status = 200, body = Liveness)))]
pub(in crate::api) async fn live() -> Json<Liveness> {
    Json(Liveness { live: true })
}

/// Whether the server takes work; 503 when it does not.
#[utoipa::path(get, path = "/v2/health/ready", tag = "v2",
    responses((status = 200, body = ProtocolReadiness), (status = 503, body = ProtocolReadiness)))]
pub(in crate::api) async fn ready(State(api): State<Api>) -> (StatusCode, Json<ProtocolReadiness>) {
    let (status, _) = super::health::readyz(State(api)).await;
    (status, Json(ProtocolReadiness { ready: status == StatusCode::OK }))
}

/// What a model takes and gives.
#[utoipa::path(get, path = "/v2/models/{model}", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = ModelMetadata), (status = 404, body = Problem)))]
pub(in crate::api) async fn metadata(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<ModelMetadata>, ApiError> {
    Ok(Json(ModelMetadata::of(&*serving(&api, &model, None)?)))
}

/// What a version of a model takes and gives.
#[utoipa::path(get, path = "/v2/models/{model}/versions/{version}", tag = "v2",
    params(("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ModelMetadata), (status = 404, body = Problem)))]
pub(in crate::api) async fn version_metadata(
    State(api): State<Api>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, ApiError> {
    Ok(Json(ModelMetadata::of(&*serving(&api, &model, Some(&version))?)))
}

impl ModelMetadata {
    fn of(card: &Card) -> Self {
        let (side, classes) = (i64::from(card.side), card.classes.len() as i64);
        let tensor = |name, datatype, shape: &[i64]| TensorMetadata { name, datatype, shape: shape.to_vec() };
        Self {
            name: card.version.clone(),
            versions: [hash(card)],
            platform: "onnxruntime_onnx",
            inputs: [tensor(INPUT, DATATYPE, &[-1, side, side, 3])],
            outputs: [tensor(PROBABILITIES, "FP32", &[-1, classes]), tensor(EMBEDDING, "FP32", &[-1, -1])],
            classes: card.classes.clone(),
        }
    }
}

/// Whether this model serves; 404 when it does not.
#[utoipa::path(get, path = "/v2/models/{model}/ready", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = ProtocolReadiness), (status = 404, body = Problem),
        (status = 503, body = ProtocolReadiness)))]
pub(in crate::api) async fn model_ready(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<(StatusCode, Json<ProtocolReadiness>), ApiError> {
    serving(&api, &model, None)?;
    Ok(ready(State(api)).await)
}

/// Whether this version of the model serves; 404 when it does not.
#[utoipa::path(get, path = "/v2/models/{model}/versions/{version}/ready", tag = "v2",
    params(("model" = String, Path), ("version" = String, Path)),
    responses((status = 200, body = ProtocolReadiness), (status = 404, body = Problem),
        (status = 503, body = ProtocolReadiness)))]
pub(in crate::api) async fn version_ready(
    State(api): State<Api>,
    Path((model, version)): Path<(String, String)>,
) -> Result<(StatusCode, Json<ProtocolReadiness>), ApiError> {
    serving(&api, &model, Some(&version))?;
    Ok(ready(State(api)).await)
}

/// Requests and inferences since the service started.
#[utoipa::path(get, path = "/v2/models/{model}/stats", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = Statistics), (status = 404, body = Problem)))]
pub(in crate::api) async fn statistics(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Statistics>, ApiError> {
    let card = serving(&api, &model, None)?;
    let (http, batches) = (&api.metrics.http, &api.metrics.line.batch_size);
    let routes = ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"];
    let done: u64 = routes.iter().map(|route| http.requests.with_label_values(&[route, "200"]).get()).sum();
    let times = routes.map(|route| http.seconds.with_label_values(&[route]));
    let (all, seconds) =
        times.iter().fold((0, 0.0), |(n, sum), one| (n + one.get_sample_count(), sum + one.get_sample_sum()));
    Ok(Json(Statistics {
        model_stats: [ModelStatistics {
            name: card.version.clone(),
            version: hash(&card),
            inference_count: batches.get_sample_sum() as u64,
            execution_count: batches.get_sample_count(),
            inference_stats: InferenceStatistics {
                success: CountAndTime { count: done, ns: (seconds * 1e9) as u64 },
                fail: CountAndTime { count: all.saturating_sub(done), ns: 0 },
            },
        }],
    }))
}

/// Scores pictures that are already cut to the model's side.
#[utoipa::path(post, path = "/v2/models/{model}/infer", params(("model" = String, Path)), tag = "v2",
    request_body(content = serde_json::Value, description = "`inputs`: one tensor `image`, UINT8, [n, side, side, 3]; as raw \
        bytes behind the JSON where the header Inference-Header-Content-Length tells the JSON's length"),
    responses((status = 200, body = InferResponse), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn infer(
    State(api): State<Api>,
    Path(model): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let card = serving(&api, &model, None)?;
    score(api, &card, request).await
}

/// Scores pictures by this version of the model.
#[utoipa::path(post, path = "/v2/models/{model}/versions/{version}/infer", tag = "v2",
    params(("model" = String, Path), ("version" = String, Path)),
    request_body(content = serde_json::Value, description = "As that of `/v2/models/{model}/infer`"),
    responses((status = 200, body = InferResponse), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn version_infer(
    State(api): State<Api>,
    Path((model, version)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let card = serving(&api, &model, Some(&version))?;
    score(api, &card, request).await
}

async fn score(api: Api, card: &Card, mut request: Request) -> Result<Response, ApiError> {
    let deadline = Instant::now() + api.0.settings.deadline;
    let permit = body::admit(&api, &mut request).await?;
    let head = match request.headers().get(JSON_LENGTH) {
        None => None,
        Some(told) => Some(told.to_str().ok().and_then(|told| told.parse().ok()).ok_or_else(|| {
            ApiError::Malformed(format!("the header {JSON_LENGTH} must be a number of bytes, not {told:?}"))
        })?),
    };
    let bytes = body::whole(&api, request).await?;
    let side = card.side as usize;
    let decoded = api.0.decoders.run(permit.clone(), move || {
        let read = tensors::parse(&bytes, head)?;
        let wanted = read.wanted([PROBABILITIES, EMBEDDING])?;
        Ok::<_, ApiError>((read.pictures(side)?, wanted, read.id))
    });
    let (pictures, wanted, id) = decoded.await??;

    let n = pictures.len();
    let fault = |fault| {
        faulted(&api.metrics, Source::Http, "", &fault);
        ApiError::Fault(fault)
    };
    let waiting = pictures
        .into_iter()
        .map(|pixels| api.infer.submit(pixels, Source::Http, deadline))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault)?;
    let (mut probabilities, mut embedding) = (Vec::new(), Vec::new());
    for answer in waiting {
        let scored = answer.await.map_err(|_| ApiError::Internal("the inference worker is gone".into()))?;
        let scores = scored.scores.map_err(fault)?;
        if scored.model.is_none_or(|model| model.label != card.label) {
            return Err(fault(Fault::Inference("the model changed while the request waited".into())));
        }
        probabilities.extend(scores.probabilities);
        embedding.extend(scores.embedding);
    }
    let (mut outputs, mut raw) = (Vec::new(), Vec::new());
    for (name, values, wanted) in [(PROBABILITIES, probabilities, wanted[0]), (EMBEDDING, embedding, wanted[1])] {
        let Some(as_bytes) = wanted else { continue };
        let shape = [n, values.len() / n];
        let parameters = as_bytes.then_some(RawParameters { binary_data_size: values.len() * size_of::<f32>() });
        if as_bytes {
            raw.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        outputs.push(OutputTensor { name, datatype: "FP32", shape, data: (!as_bytes).then_some(values), parameters });
    }
    let answer = InferResponse { model_name: card.version.clone(), model_version: hash(card), id, outputs };
    if raw.is_empty() {
        return Ok(Json(answer).into_response());
    }
    let mut body = serde_json::to_vec(&answer).map_err(|e| ApiError::Internal(e.to_string()))?;
    let json = body.len().to_string();
    body.extend(raw);
    let kind = (header::CONTENT_TYPE, "application/octet-stream".to_owned());
    Ok(([kind, (JSON_LENGTH, json)], body).into_response())
}

/// The model that serves, if it is this one, and this version of it.
fn serving(api: &Api, model: &str, version: Option<&str>) -> Result<std::sync::Arc<Card>, ApiError> {
    let card = api.infer.card();
    if card.version != model {
        return Err(ApiError::NotFound(format!("`{model}` does not serve; `{}` does", card.version)));
    }
    match version {
        Some(version) if version != hash(&card) => {
            Err(ApiError::NotFound(format!("version `{version}` of `{model}` does not serve; `{}` does", hash(&card))))
        }
        _ => Ok(card),
    }
}

/// The hash prefix in `version@hash`.
fn hash(card: &Card) -> String {
    card.label.rsplit('@').next().unwrap_or_default().into()
}
