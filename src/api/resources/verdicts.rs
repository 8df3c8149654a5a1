//! `GET /verdicts`, `/verdicts/stream`, `/verdicts/counts`: the record, in pages and live.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::sse::{Event, Sse},
};
use serde::{Deserialize, Serialize};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};
use utoipa::ToSchema;

use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        http::streams::send,
        input::{page_size, query},
    },
    domain::{Action, Source, Verdict},
    store::{Counts, Entry, Label, Page, VerdictName},
};

/// Which verdicts are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VerdictQuery {
    /// Only older ones than this id: pass `next` of the page before.
    before: Option<i64>,
    /// Only newer ones than this id.
    after: Option<i64>,
    /// Page size, 1 to 500; 50 if absent.
    limit: Option<u32>,
    /// Only those with this action.
    action: Option<Action>,
    /// Only those from there.
    source: Option<Source>,
    /// Only those of the lot of this number.
    lot: Option<i64>,
}

/// A page of verdicts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verdicts {
    /// The page.
    pub verdicts: Vec<Verdict>,
    /// Pass it as `before` to get the next page; absent on the last one.
    pub next: Option<i64>,
}

/// A page of recorded verdicts, newest first.
#[utoipa::path(get, path = "/verdicts", params(VerdictQuery), tag = "verdicts",
    responses((status = 200, body = Verdicts), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<VerdictQuery>, QueryRejection>,
) -> Result<Json<Verdicts>, ApiError> {
    let VerdictQuery { before, after, limit, action, source, lot } = query(asked)?;
    let limit = page_size(limit, 50)?;
    let verdicts = api.store.verdicts(Page { before, after, limit, action, source, lot }).await?;
    let full = verdicts.len() == limit as usize;
    let next = verdicts.last().filter(|_| full).map(|v| v.id);
    Ok(Json(Verdicts { verdicts, next }))
}

/// A recorded verdict, and what is known of its item since.
#[derive(Debug, Serialize, ToSchema)]
pub struct VerdictHistory {
    /// The verdict.
    verdict: Verdict,
    /// Every label that the item ever had, oldest first.
    labels: Vec<Label>,
    /// Entries of the record about it, oldest first: commands that were given or late, and rejects that no sensor saw.
    events: Vec<ItemEvent>,
}

/// An entry of the record about an item.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemEvent {
    /// Its place in the record.
    entry: i64,
    /// Its kind, its time and what it says.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    event: Entry,
}

/// One recorded verdict, by its uid or id, with its item's labels and events.
#[utoipa::path(get, path = "/verdicts/{verdict}", tag = "verdicts",
    params(("verdict" = String, Path, description = "Its uid, or its id, which another store has for another item")),
    responses((status = 200, body = VerdictHistory), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn one(
    State(api): State<Api>,
    Path(verdict): Path<String>,
) -> Result<Json<VerdictHistory>, ApiError> {
    let none = || ApiError::NotFound(format!("verdict {verdict} is not recorded; a queued one can be read once it is"));
    let name: VerdictName = verdict.parse().map_err(|_| none())?;
    let verdict = api.store.verdict_named(name).await?.ok_or_else(none)?;
    let labels = api.store.history(verdict.id).await?;
    let events = api.store.item_events(verdict.uid).await?;
    let events = events.into_iter().map(|event| ItemEvent { entry: event.seq, event }).collect();
    Ok(Json(VerdictHistory { verdict, labels, events }))
}

/// How many verdicts are recorded, by action.
#[utoipa::path(get, path = "/verdicts/counts", tag = "verdicts",
    responses((status = 200, body = Counts), (status = 503, body = Problem)))]
pub(in crate::api) async fn counts(State(api): State<Api>) -> Result<Json<Counts>, ApiError> {
    Ok(Json(api.store.counts().await?))
}

/// Verdicts as they are recorded: server-sent events named `verdict`, with their id. A client that can't keep up skips
/// verdicts and is told how many by an event named `skipped`; it holds nobody up.
#[utoipa::path(get, path = "/verdicts/stream", tag = "verdicts",
    responses((status = 200, body = Verdict, content_type = "text/event-stream"), (status = 429, body = Problem)))]
pub(in crate::api) async fn stream(
    State(api): State<Api>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let recorded = BroadcastStream::new(api.recorded.subscribe());
    let event = |recorded: Result<Arc<Verdict>, _>| match recorded {
        Ok(verdict) => Event::default().event("verdict").id(verdict.id.to_string()).json_data(&*verdict).ok(),
        Err(BroadcastStreamRecvError::Lagged(n)) => Some(Event::default().event("skipped").data(n.to_string())),
    };
    send(&api, recorded.filter_map(event))
}
