//! `/challenges` and `/corrective-actions`: known wrong pieces sent through, and what followed from a missed one.

use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{
    api::{
        Api, Caller,
        error::{ApiError, Problem},
        http::body,
        input::text,
    },
    store::{Announcement, Challenge, ChallengeDue, CorrectiveAction},
};

/// Longest text, in characters.
const TEXT: usize = 500;
/// Longest time that a piece may take, in seconds.
const LONGEST: f64 = 600.0;

/// A known wrong piece that is about to be sent through.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChallenge {
    /// The camera it will pass.
    camera: String,
    /// What it is, in words.
    piece: String,
    /// Only an item that is taken for this class counts as found. Absent: the class that the plan says of this piece, or else
    /// any item that is rejected or diverted.
    class: Option<String>,
    /// It passes within this many seconds, at most 600; 30 if absent.
    within_s: Option<f64>,
    /// Who sends it.
    #[serde(default)]
    by: String,
}

/// The number of a challenge.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChallengeNumber {
    /// Its number.
    challenge: i64,
}

/// How something was put right.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// What was done.
    done: String,
    /// Who did it.
    by: String,
}

/// Announces a challenge. It is decided by the items that pass the camera in that time: found when one is rejected or
/// diverted, its gate acknowledged that, and the sensor after it, where there is one, saw it leave; a missed one opens a
/// corrective action.
#[utoipa::path(post, path = "/challenges", tag = "record", request_body = NewChallenge,
    responses((status = 201, body = ChallengeNumber), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn announce(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<ChallengeNumber>), ApiError> {
    let new: NewChallenge = body::json(&api, request).await?;
    let within_s = new.within_s.unwrap_or(30.0);
    if !(within_s > 0.0 && within_s <= LONGEST) {
        return Err(ApiError::Malformed(format!("`within_s` must be more than 0 and at most {LONGEST}")));
    }
    let camera = text("camera", &new.camera, TEXT)?;
    if !api.cameras.iter().any(|view| *view.camera == *camera) {
        let known: Vec<_> = api.cameras.iter().map(|view| &*view.camera).collect();
        return Err(ApiError::Malformed(format!("there is no camera `{camera}`; there are: {}", known.join(", "))));
    }
    let piece = text("piece", &new.piece, TEXT)?;
    let planned = api.challenges.iter().find(|(of, planned)| *of == camera && planned.piece == piece);
    let class = new.class.or_else(|| planned?.1.class.clone());
    let card = api.infer.card();
    if let Some(class) = &class {
        if !card.classes.contains(class) {
            let known = card.classes.join(", ");
            return Err(ApiError::Malformed(format!("the student knows no class `{class}`; it knows: {known}")));
        }
        if card.thresholds.accept.contains(class) {
            return Err(ApiError::Malformed(format!("`{class}` is what may pass: no piece is taken off for it")));
        }
    }
    let said = Announcement { camera, piece, class, within_s, by: caller.attribute(&new.by) };
    let challenge = api.store.challenge(said).await?;
    Ok((StatusCode::CREATED, Json(ChallengeNumber { challenge })))
}

/// All challenges, newest first.
#[utoipa::path(get, path = "/challenges", tag = "record",
    responses((status = 200, body = Vec<Challenge>), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(State(api): State<Api>) -> Result<Json<Vec<Challenge>>, ApiError> {
    let mut all = api.store.challenges(None).await?;
    all.reverse();
    Ok(Json(all))
}

/// When the challenges of the plan are due, the most urgent first.
#[utoipa::path(get, path = "/challenges/due", tag = "record",
    responses((status = 200, body = Vec<ChallengeDue>), (status = 503, body = Problem)))]
pub(in crate::api) async fn due(State(api): State<Api>) -> Result<Json<Vec<ChallengeDue>>, ApiError> {
    Ok(Json(api.store.challenges_due(&api.challenges, OffsetDateTime::now_utc()).await?))
}

/// All corrective actions, newest first.
#[utoipa::path(get, path = "/corrective-actions", tag = "record",
    responses((status = 200, body = Vec<CorrectiveAction>), (status = 503, body = Problem)))]
pub(in crate::api) async fn actions(State(api): State<Api>) -> Result<Json<Vec<CorrectiveAction>>, ApiError> {
    let mut all = api.store.corrective_actions(None).await?;
    all.reverse();
    Ok(Json(all))
}

/// Says that something was put right. Refused until a challenge on the camera was found after the action was opened.
#[utoipa::path(post, path = "/corrective-actions/{action}/close", tag = "record", request_body = Correction,
    params(("action" = i64, Path, description = "Its number")),
    responses((status = 204), (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn close(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(action): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let correction: Correction = body::json(&api, request).await?;
    let number = action.parse().map_err(|_| ApiError::NotFound(format!("there is no corrective action {action}")))?;
    let (done, by) = (text("done", &correction.done, TEXT)?, caller.attribute(&text("by", &correction.by, TEXT)?));
    api.store.close_corrective_action(number, &done, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}
