//! `GET /verdicts`, `/verdicts/stream`, `/verdicts/counts`: the record, in pages and live.

use std::{convert::Infallible, pin::Pin, sync::Arc};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::sse::{Event, Sse},
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{BroadcastStream, ReceiverStream, errors::BroadcastStreamRecvError},
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
    store::{Counts, Entry, Found, Label, MAX_PAGE, Page, Store, VerdictName},
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
    /// Only those of lots with this name.
    lot_name: Option<String>,
    /// Only those of this class, the most probable one.
    class: Option<String>,
    /// Only those of this camera.
    camera: Option<String>,
    /// Only those taken then or later (RFC 3339).
    from: Option<String>,
    /// Only those taken before then (RFC 3339).
    to: Option<String>,
}

/// A page of verdicts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verdicts {
    /// The page.
    pub verdicts: Vec<Verdict>,
    /// Pass it as `before` to get the next page; absent on the last one. Where few verdicts match, a page may hold fewer
    /// than were asked for, or none, and still not be the last.
    pub next: Option<i64>,
}

/// A page of recorded verdicts, newest first.
#[utoipa::path(get, path = "/verdicts", params(VerdictQuery), tag = "verdicts",
    responses((status = 200, body = Verdicts), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<VerdictQuery>, QueryRejection>,
) -> Result<Json<Verdicts>, ApiError> {
    let VerdictQuery { before, after, limit, action, source, lot, lot_name, class, camera, from, to } = query(asked)?;
    let limit = page_size(limit, 50)?;
    let (from, to) = (moment("from", from)?, moment("to", to)?);
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        return Err(ApiError::Malformed("`from` must not be later than `to`".into()));
    }
    let page = Page { before, after, limit, action, source, lot, lot_name, class, camera, from, to };
    let Found { verdicts, next } = api.store.find(&page).await?;
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

/// A time in a query.
fn moment(key: &str, text: Option<String>) -> Result<Option<OffsetDateTime>, ApiError> {
    let parse = |text: String| {
        let refuse = |_| {
            ApiError::Malformed(format!(
                "`{key}` must be a time as 2026-11-29T06:00:00Z, a + in it written as %2B, not {text:?}"
            ))
        };
        OffsetDateTime::parse(&text, &Rfc3339).map_err(refuse)
    };
    text.map(parse).transpose()
}

/// How many verdicts are recorded, by action.
#[utoipa::path(get, path = "/verdicts/counts", tag = "verdicts",
    responses((status = 200, body = Counts), (status = 503, body = Problem)))]
pub(in crate::api) async fn counts(State(api): State<Api>) -> Result<Json<Counts>, ApiError> {
    Ok(Json(api.store.counts().await?))
}

/// Verdicts as they are recorded: server-sent events named `verdict`, with their id. A client that can't keep up skips
/// verdicts and is told how many by an event named `skipped`; it holds nobody up. One that comes back with the header
/// `Last-Event-ID`, as browsers do, is first given all that were recorded since, as fast as it takes them, and skips only
/// what retention has removed.
#[utoipa::path(get, path = "/verdicts/stream", tag = "verdicts",
    params(("Last-Event-ID" = Option<i64>, Header, description = "The id of the last verdict that was received")),
    responses((status = 200, body = Verdict, content_type = "text/event-stream"), (status = 400, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn stream(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let events: Pin<Box<dyn Stream<Item = Event> + Send>> = match headers.get("last-event-id") {
        None => Box::pin(BroadcastStream::new(api.recorded.subscribe()).filter_map(|one| match one {
            Ok(verdict) => event(&verdict),
            Err(BroadcastStreamRecvError::Lagged(n)) => Some(skipped(n)),
        })),
        Some(last) => {
            let last = last.to_str().ok().and_then(|id| id.parse::<i64>().ok()).filter(|id| *id >= 0);
            let last = last.ok_or_else(|| ApiError::Malformed("`Last-Event-ID` must be a verdict's id".into()))?;
            let (events, resumed) = mpsc::channel(1);
            // A higher one than there is comes from another store.
            let last = last.min(api.store.newest_verdict().await?);
            let resume = Resume { store: api.store.clone(), recorded: api.recorded.subscribe(), last, events };
            tokio::spawn(resume.run());
            Box::pin(ReceiverStream::new(resumed))
        }
    };
    send(&api, events)
}

fn event(verdict: &Verdict) -> Option<Event> {
    Event::default().event("verdict").id(verdict.id.to_string()).json_data(verdict).ok()
}

fn skipped(n: u64) -> Event {
    Event::default().event("skipped").data(n.to_string())
}

/// A stream that goes on behind a verdict: from the record until it has caught up, then as verdicts are recorded.
struct Resume {
    store: Store,
    recorded: broadcast::Receiver<Arc<Verdict>>,
    /// The last one that was sent.
    last: i64,
    events: mpsc::Sender<Event>,
}

impl Resume {
    async fn run(mut self) {
        loop {
            // What is recorded from here on waits for us; where it is too much, it is read from the record again.
            self.recorded = self.recorded.resubscribe();
            if self.catch_up().await.is_none() {
                return;
            }
            loop {
                let next = tokio::select! {
                    next = self.recorded.recv() => next,
                    () = self.events.closed() => return,
                };
                match next {
                    Ok(verdict) if verdict.id > self.last => {
                        if self.send(&verdict).await.is_none() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
    }

    /// `None` when the client is gone, or the store fails: then the client comes again.
    async fn catch_up(&mut self) -> Option<()> {
        loop {
            let some = self.store.verdicts_after(self.last, MAX_PAGE).await;
            let some = some.inspect_err(|e| tracing::error!("a stream broke off: {e}")).ok()?;
            if some.is_empty() {
                return Some(());
            }
            for verdict in some {
                let gone = verdict.id - self.last - 1;
                if gone > 0 {
                    self.events.send(skipped(gone as u64)).await.ok()?;
                }
                self.send(&verdict).await?;
            }
        }
    }

    async fn send(&mut self, verdict: &Verdict) -> Option<()> {
        self.last = verdict.id;
        match event(verdict) {
            Some(event) => self.events.send(event).await.ok(),
            None => Some(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::testing::verdict;

    #[tokio::test]
    async fn whoever_comes_back_misses_nothing_even_if_it_is_slow() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (recorded, _) = broadcast::channel(4);
        let insert = async |n: usize| {
            let ids = store.insert(&vec![verdict(Action::Accept); n]).await.unwrap();
            for id in ids {
                let _ = recorded.send(Arc::new(Verdict { id, ..verdict(Action::Accept) }));
            }
        };
        insert(1200).await;
        let (events, mut resumed) = mpsc::channel(1);
        let resume = Resume { store: store.clone(), recorded: recorded.subscribe(), last: 3, events };
        let task = tokio::spawn(resume.run());
        let mut next = 4;
        for more in [7, 0, 600, 1, 3] {
            insert(more).await; // far more than the channel holds: those it skips are read from the record
            let newest = store.newest_verdict().await.unwrap();
            while next <= newest {
                let event = format!("{:?}", resumed.recv().await.unwrap());
                assert!(event.contains(&format!("id: {next}\\n")), "{event} instead of {next}");
                next += 1;
            }
        }
        assert_eq!(next, 1200 + 611 + 1);
        drop(resumed);
        tokio::time::timeout(std::time::Duration::from_secs(5), task).await.expect("it goes on for nobody").unwrap();
    }
}
