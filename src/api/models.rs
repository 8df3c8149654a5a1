//! `/v2/repository`: Triton's model repository extension: list the model folders, load one.
//!
//! Invariant: a model is verified and warmed up beside the serving one; when anything is wrong with it, the refusal
//! says what, and the serving model goes on.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::{Path, State},
};
use serde::Serialize;
use tokio::task::spawn_blocking;
use utoipa::ToSchema;

use super::{
    Api,
    error::{ApiError, Problem},
};
use crate::{line::swap, model};

/// A model folder.
#[derive(Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Its name.
    name: String,
    /// `READY` for the model that serves, else `UNAVAILABLE`.
    state: &'static str,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Loaded {
    /// The model that serves now, `name@hash-prefix`.
    model: String,
}

/// The model folders.
#[utoipa::path(post, path = "/v2/repository/index", tag = "v2", responses((status = 200, body = Vec<Entry>)))]
pub(super) async fn index(State(api): State<Api>) -> Result<Json<Vec<Entry>>, ApiError> {
    let serving = api.infer.card().version.clone();
    let entry = |name: String| {
        let state = if name == serving { "READY" } else { "UNAVAILABLE" };
        Entry { name, state }
    };
    Ok(Json(folders(&api).await?.into_iter().map(|(name, _)| entry(name)).collect()))
}

/// Loads a model folder and serves with it; on a refusal the serving model goes on.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = Loaded), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(super) async fn load(State(api): State<Api>, Path(model): Path<String>) -> Result<Json<Loaded>, ApiError> {
    let (_, folder) = folders(&api)
        .await?
        .into_iter()
        .find(|(name, _)| *name == model)
        .ok_or_else(|| ApiError::NotFound(format!("there is no model folder `{model}`")))?;
    // Spawned, so that a client that goes away does not leave the loading half done.
    let loading = tokio::spawn(open(api, folder));
    loading.await.map_err(|e| ApiError::Internal(e.to_string()))?
}

async fn open(api: Api, folder: PathBuf) -> Result<Json<Loaded>, ApiError> {
    let _alone = Alone::take(&api.0.loading)?;
    let (device, threads, max_batch) = (api.device, api.threads, api.max_batch);
    let opened = spawn_blocking(move || swap::open(&folder, None, device, threads, max_batch))
        .await
        .map_err(|e| ApiError::Internal(e.to_string()))?;
    let outcome = if opened.is_ok() { "loaded" } else { "refused" };
    api.metrics.model_loads.with_label_values(&[outcome]).inc();
    let student = opened.inspect_err(|e| tracing::warn!("a model was refused: {e}"))?;
    let card = student.card.clone();
    tracing::info!("model {} was loaded", card.label);
    api.infer.exchange(student);
    Ok(Json(Loaded { model: card.label.clone() }))
}

/// Name and path of each model folder; only these can be loaded, so no path leaves the root.
async fn folders(api: &Api) -> Result<Vec<(String, PathBuf)>, ApiError> {
    let root = api.models.clone();
    let listed = spawn_blocking(move || model::list(&root)).await.map_err(|e| ApiError::Internal(e.to_string()))?;
    let folders = listed.map_err(|e| ApiError::Internal(format!("{}: {e}", api.models.display())))?;
    let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path));
    Ok(folders.into_iter().filter_map(named).collect())
}

/// Held while a model is loading: a second one would take twice the memory.
struct Alone<'a>(&'a AtomicBool);

impl<'a> Alone<'a> {
    fn take(flag: &'a AtomicBool) -> Result<Self, ApiError> {
        if flag.swap(true, Ordering::AcqRel) { Err(ApiError::Loading) } else { Ok(Self(flag)) }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
