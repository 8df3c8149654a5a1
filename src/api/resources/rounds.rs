//! `/rounds`: what the learning beside the line does and did; start, end, approve.
//!
//! Invariant: nothing here learns or waits for learning; orders go to the keeper, the story is read from the disk.

use axum::{
    Extension, Json,
    extract::{Request, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{blocking, models::StudentSummary};
use crate::{
    api::{
        Api, Caller,
        error::{ApiError, Problem},
        http::body,
    },
    rounds::{
        RoundEnd, RoundFolder, RoundOutcome, RoundPlan,
        keeper::{RoundOrder, RoundStatus},
    },
    student::manifest::Manifest,
};

/// Most rounds in an answer; the newest.
const SHOWN: usize = 50;

/// What learning does and did.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rounds {
    /// At present.
    now: RoundStatus,
    /// The newest rounds, newest first.
    rounds: Vec<RoundSummary>,
}

/// One round.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Round)]
pub struct RoundSummary {
    /// Its number.
    number: u32,
    /// What started it.
    trigger: String,
    /// When it began (RFC 3339).
    started: String,
    /// The student that served then and that the candidate has to beat.
    incumbent: String,
    /// The candidate, once there is one.
    candidate: Option<StudentSummary>,
    /// How it ended; `null` while it runs.
    end: Option<RoundEnd>,
    /// Why it ended so.
    why: Option<String>,
    /// When it ended (RFC 3339).
    ended: Option<String>,
    /// Held-out pictures of the examination.
    pictures: Option<usize>,
    /// Accuracy of incumbent and candidate on them.
    accuracy: Option<[f64; 2]>,
    /// Every check of the gate.
    #[schema(value_type = Vec<Object>)]
    checks: Vec<crate::rounds::gate::PromotionGateCheck>,
}

/// Who orders it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Name of the person, 1 to 64 characters; the caller if absent. With a token it can be no other name than the token's.
    by: Option<String>,
}

/// What learning does and did.
#[utoipa::path(get, path = "/rounds", tag = "rounds", responses((status = 200, body = Rounds)))]
pub(in crate::api) async fn list(State(api): State<Api>) -> Result<Json<Rounds>, ApiError> {
    let now = api.rounds.status.borrow().clone();
    let read = move || {
        let folders = RoundFolder::all(&api.rounds.store).map_err(|e| ApiError::Internal(e.to_string()))?;
        let rounds = folders.iter().rev().take(SHOWN).filter_map(round).collect();
        Ok(Json(Rounds { now, rounds }))
    };
    blocking(read).await
}

fn round(folder: &RoundFolder) -> Option<RoundSummary> {
    let plan: RoundPlan = folder.read("plan.json")?;
    let outcome: Option<RoundOutcome> = folder.read("outcome.json");
    let examined = folder.read("ruling.json");
    let (end, why, ended, ruling) = match outcome {
        Some(o) => (Some(o.end), Some(o.why), Some(o.at), o.ruling.or(examined)),
        None => (None, None, None, examined),
    };
    Some(RoundSummary {
        number: plan.number,
        trigger: plan.trigger,
        started: plan.started,
        incumbent: plan.incumbent.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        candidate: Manifest::read(&folder.candidate()).ok().map(StudentSummary::from),
        end,
        why,
        ended,
        pictures: ruling.as_ref().map(|r| r.pictures),
        accuracy: ruling.as_ref().map(|r| r.accuracy),
        checks: ruling.map(|r| r.checks).unwrap_or_default(),
    })
}

/// Starts a round now.
#[utoipa::path(post, path = "/rounds", tag = "rounds", request_body = Person,
    responses((status = 202), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(in crate::api) async fn start(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    order(&api, &caller, request, RoundOrder::Start).await
}

/// Ends the round that runs.
#[utoipa::path(post, path = "/rounds/stop", tag = "rounds", request_body = Person,
    responses((status = 202), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(in crate::api) async fn stop(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    order(&api, &caller, request, RoundOrder::Stop).await
}

/// Lets the candidate serve that passed every check and waits for a person.
#[utoipa::path(post, path = "/rounds/approve", tag = "rounds", request_body = Person,
    responses((status = 202), (status = 403, body = Problem), (status = 409, body = Problem)))]
pub(in crate::api) async fn approve(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    order(&api, &caller, request, RoundOrder::Approve).await
}

async fn order(api: &Api, caller: &Caller, request: Request, order: RoundOrder) -> Result<StatusCode, ApiError> {
    let person: Person = body::json(api, request).await?;
    api.rounds.order(order, &caller.sign(person.by.as_deref())?).await?;
    Ok(StatusCode::ACCEPTED)
}
