//! `/v2`: the Open Inference Protocol, version 2, with JSON tensors: what KServe, Triton and their clients speak.
//!
//! One model serves at a time, under its folder's name. Pictures come as `image`, UINT8 `[n, side, side, 3]`; the
//! calibrated `probabilities` and the `embedding` go out. Raw scores only: nothing is decided or recorded here.

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Request, State},
    http::StatusCode,
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

/// What the server is.
#[derive(Serialize, ToSchema)]
#[schema(as = Server)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 1],
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
    data: Vec<f32>,
}

/// A health answer of the protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = Live)]
pub struct Liveness {
    live: bool,
}

/// A readiness answer of the protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = Ready)]
pub struct ProtocolReadiness {
    ready: bool,
}

/// What this server is.
#[utoipa::path(get, path = "/v2", tag = "v2", responses((status = 200, body = ServerMetadata)))]
pub(in crate::api) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata { name: "beltsight", version: env!("CARGO_PKG_VERSION"), extensions: ["model_repository"] })
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
    let card = serving(&api, &model)?;
    let (side, classes) = (i64::from(card.side), card.classes.len() as i64);
    let tensor = |name, datatype, shape: &[i64]| TensorMetadata { name, datatype, shape: shape.to_vec() };
    Ok(Json(ModelMetadata {
        name: card.version.clone(),
        versions: [hash(&card)],
        platform: "onnxruntime_onnx",
        inputs: [tensor(INPUT, DATATYPE, &[-1, side, side, 3])],
        outputs: [tensor(PROBABILITIES, "FP32", &[-1, classes]), tensor(EMBEDDING, "FP32", &[-1, -1])],
        classes: card.classes.clone(),
    }))
}

/// Whether this model serves; 404 when it does not.
#[utoipa::path(get, path = "/v2/models/{model}/ready", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = ProtocolReadiness), (status = 404, body = Problem),
        (status = 503, body = ProtocolReadiness)))]
pub(in crate::api) async fn model_ready(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<(StatusCode, Json<ProtocolReadiness>), ApiError> {
    serving(&api, &model)?;
    Ok(ready(State(api)).await)
}

/// Scores pictures that are already cut to the model's side.
#[utoipa::path(post, path = "/v2/models/{model}/infer", params(("model" = String, Path)), tag = "v2",
    request_body(content = serde_json::Value, description = "`inputs`: one tensor `image`, UINT8, [n, side, side, 3]"),
    responses((status = 200, body = InferResponse), (status = 400, body = Problem), (status = 404, body = Problem),
        (status = 413, body = Problem), (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn infer(
    State(api): State<Api>,
    Path(model): Path<String>,
    mut request: Request,
) -> Result<Json<InferResponse>, ApiError> {
    let deadline = Instant::now() + api.0.settings.deadline;
    let card = serving(&api, &model)?;
    let permit = body::admit(&api, &mut request).await?;
    let bytes = body::whole(&api, request).await?;
    let side = card.side as usize;
    let (wanted, pictures) = api
        .0
        .decoders
        .run(permit.clone(), move || {
            let wanted = tensors::parse(&bytes)?;
            let pictures = wanted.pictures(side)?;
            Ok::<_, ApiError>((wanted, pictures))
        })
        .await??;
    let asked = |name| wanted.outputs.is_empty() || wanted.outputs.iter().any(|o| o.name == name);
    if let Some(unknown) = wanted.outputs.iter().find(|o| ![PROBABILITIES, EMBEDDING].contains(&&*o.name)) {
        return Err(ApiError::Shape(format!("the model has no output `{}`", unknown.name)));
    }

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
    let outputs = [(PROBABILITIES, probabilities), (EMBEDDING, embedding)]
        .into_iter()
        .filter(|(name, _)| asked(*name))
        .map(|(name, data)| OutputTensor { name, datatype: "FP32", shape: [n, data.len() / n], data })
        .collect();
    Ok(Json(InferResponse { model_name: card.version.clone(), model_version: hash(&card), id: wanted.id, outputs }))
}

fn serving(api: &Api, model: &str) -> Result<std::sync::Arc<Card>, ApiError> {
    let card = api.infer.card();
    if card.version == model {
        Ok(card)
    } else {
        Err(ApiError::NotFound(format!("`{model}` does not serve; `{}` does", card.version)))
    }
}

/// The hash prefix in `version@hash`.
fn hash(card: &Card) -> String {
    card.label.rsplit('@').next().unwrap_or_default().into()
}
