//! `/models` and `/v2/repository` (Triton's model repository extension): which students there are, which one serves,
//! which served before; load, promote, roll back.
//!
//! Invariant: a model is verified and warmed up beside the serving one; when anything is wrong with it, the refusal
//! says what, and the serving model goes on.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::blocking;
use crate::{
    api::{
        Api, Caller,
        error::{ApiError, Problem},
        http::body,
    },
    student::{
        manifest::{self, Lineage, Manifest},
        registry::RegistryError,
    },
};

/// A model folder.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entry)]
pub struct ModelFolder {
    /// Its name.
    name: String,
    /// `READY` for the model that serves, else `UNAVAILABLE`.
    state: &'static str,
}

/// A loaded model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Loaded)]
pub struct ServingModel {
    /// The model that serves now, `name@hash-prefix`.
    model: String,
}

/// The students and their story.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// The version that serves.
    serving: String,
    /// The version of the configuration, which serves as long as none was promoted.
    first: String,
    /// The student that a rollback would bring back; `null` when there was none.
    before: Option<String>,
    /// Every model folder that can be read, by name.
    versions: Vec<StudentSummary>,
    /// Every change of the serving student, the oldest first.
    #[schema(value_type = Vec<Object>)]
    history: Vec<crate::student::registry::RegistryEntry>,
}

/// One student: where it comes from and what it is worth.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Version)]
pub struct StudentSummary {
    /// Name.
    version: String,
    /// When it was exported (RFC 3339).
    created: String,
    /// `float32` or `int8`.
    precision: String,
    /// Class names.
    classes: Vec<String>,
    /// Method, network, teacher, labels, the data's hash, seed, and the command that made it.
    #[schema(value_type = Object)]
    lineage: Lineage,
    /// What it is worth on pictures that its training held out.
    scorecard: Option<ScorecardSummary>,
}

/// The part of a scorecard that fits a line.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Measured)]
pub struct ScorecardSummary {
    /// Pictures measured.
    pictures: usize,
    /// Share named rightly.
    accuracy: f64,
    /// Area under the ROC curve, pass against not.
    auc: f64,
    /// Share of the good items that pass when one bad one in a hundred does.
    recall_at_1pct_false_accepts: f64,
    /// Expected calibration error.
    calibration_error: f64,
}

impl From<Manifest> for StudentSummary {
    fn from(m: Manifest) -> Self {
        let scorecard = m.scorecard.map(|s| ScorecardSummary {
            pictures: s.pictures,
            accuracy: s.accuracy,
            auc: s.auc,
            recall_at_1pct_false_accepts: s.recall_at_1pct_false_accepts,
            calibration_error: s.calibration_error,
        });
        Self {
            version: m.version,
            created: m.created,
            precision: m.serve,
            classes: m.classes,
            lineage: m.lineage,
            scorecard,
        }
    }
}

/// Who does it and why.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelOrder)]
pub struct ModelOrder {
    /// Name of the person, 1 to 64 characters; the caller if absent. With a token it can be no other name than the token's.
    by: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    why: String,
}

/// The model folders.
#[utoipa::path(post, path = "/v2/repository/index", tag = "v2", responses((status = 200, body = Vec<ModelFolder>)))]
pub(in crate::api) async fn index(State(api): State<Api>) -> Result<Json<Vec<ModelFolder>>, ApiError> {
    let serving = api.swapper.infer.card().version.clone();
    let entry = |name: String| {
        let state = if name == serving { "READY" } else { "UNAVAILABLE" };
        ModelFolder { name, state }
    };
    Ok(Json(blocking(move || folders(&api)).await?.into_iter().map(entry).collect()))
}

/// Loads a model folder and serves with it; on a refusal the serving model goes on.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", params(("model" = String, Path)), tag = "v2",
    responses((status = 200, body = ServingModel), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(in crate::api) async fn load(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(model): Path<String>,
) -> Result<Json<ServingModel>, ApiError> {
    take_over(api, model, caller.name, "loaded through /v2/repository".into()).await
}

/// The students, which one serves, and every change so far.
#[utoipa::path(get, path = "/models", tag = "models", responses((status = 200, body = Models)))]
pub(in crate::api) async fn list(State(api): State<Api>) -> Result<Json<Models>, ApiError> {
    let answer = move || {
        let mut versions = Vec::new();
        for name in folders(&api)? {
            // One that can't be read is told by `beltsight models verify` and when it is loaded.
            let Ok(m) = Manifest::read(&api.swapper.root.join(&name)) else { continue };
            versions.push(StudentSummary { version: name, ..m.into() }); // loaded by the folder's name
        }
        Ok(Models {
            serving: api.swapper.infer.card().version.clone(),
            first: api.registry.first.clone(),
            before: api.registry.stack()?.iter().rev().nth(1).cloned(),
            versions,
            history: api.registry.history()?,
        })
    };
    Ok(Json(blocking(answer).await?))
}

/// Makes a version serve, by a person's order.
#[utoipa::path(post, path = "/models/{version}/promote", params(("version" = String, Path)), tag = "models",
    request_body = ModelOrder, responses((status = 200, body = ServingModel), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub(in crate::api) async fn promote(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(version): Path<String>,
    request: Request,
) -> Result<Json<ServingModel>, ApiError> {
    let order: ModelOrder = body::json(&api, request).await?;
    let by = caller.sign(order.by.as_deref())?;
    take_over(api, version, by, order.why).await
}

/// Makes the student serve again that served before the present one.
#[utoipa::path(post, path = "/models/rollback", tag = "models", request_body = ModelOrder,
    responses((status = 200, body = ServingModel), (status = 403, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem)))]
pub(in crate::api) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<ServingModel>, ApiError> {
    let order: ModelOrder = body::json(&api, request).await?;
    let by = caller.sign(order.by.as_deref())?;
    let back = move || {
        let turn = api.swapper.try_turn()?;
        let mut stack = api.registry.stack()?;
        let present = stack.pop().unwrap_or_default();
        let before = stack.pop().ok_or(RegistryError::First(present))?;
        let card = api.swapper.load(&before, &turn)?;
        api.registry.rollback(&by, &order.why)?;
        Ok(Json(ServingModel { model: card.label.clone() }))
    };
    blocking(back).await
}

/// Loads `version` and writes into the registry that it serves. A client that goes away does not leave this half done.
async fn take_over(api: Api, version: String, by: String, why: String) -> Result<Json<ServingModel>, ApiError> {
    let load = move || {
        if !folders(&api)?.contains(&version) {
            return Err(ApiError::NotFound(format!("there is no model folder `{version}`")));
        }
        let turn = api.swapper.try_turn()?;
        let card = api.swapper.load(&version, &turn)?;
        match api.registry.promote(&version, &by, &why) {
            Ok(()) | Err(RegistryError::Serves(_)) => {}
            // The line has it; only after a restart would the one before serve again.
            Err(e) => tracing::error!("{version} serves, but that was not written down: {e}"),
        }
        Ok(Json(ServingModel { model: card.label.clone() }))
    };
    blocking(load).await
}

/// Names of the model folders; only these can be loaded, so no path leaves the root.
fn folders(api: &Api) -> Result<Vec<String>, ApiError> {
    let root = &api.swapper.root;
    let listed = manifest::list(root).map_err(|e| ApiError::Internal(format!("{}: {e}", root.display())))?;
    Ok(listed.into_iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
}
