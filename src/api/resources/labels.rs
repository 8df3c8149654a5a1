//! `/labels`: what people say about items: say it, take it back, read it; what to look at next; how far people agree.
//!
//! Invariant: a label names an item whose picture was kept and a class that is known, so that it can be learned from;
//! and nobody below an operator speaks for somebody else.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json,
    extract::{Path, Query, Request, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, OneOfBuilder, Type},
};

use crate::{
    api::{
        Api, Caller,
        denied::Denied,
        error::{ApiError, Problem},
        http::body,
        input::{MAX_NAME, only, page_size, query},
    },
    domain::Verdict,
    store::{Agreement, Ask, Label, LabelPage, QueueOrder, VerdictName},
    tokens::Role,
};

/// How people label.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelSettings {
    /// Classes that labels may name beyond those of the serving student: kinds it is yet to learn.
    pub classes: Vec<String>,
    /// Share of the labeled items that is asked of a second person too, 0 to 1.
    pub second_share: f64,
}

impl Default for LabelSettings {
    fn default() -> Self {
        Self { classes: vec![], second_share: 0.1 }
    }
}

impl LabelSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.second_share) {
            return Err("labels.second_share must lie between 0 and 1".into());
        }
        if self.classes.iter().any(|class| class.trim().is_empty()) {
            return Err("labels.classes holds a class without a name".into());
        }
        Ok(())
    }
}

/// Maximum items per answer of the queue.
const MAX_QUEUE: usize = 50;
/// How long an item stays reserved for one labeler.
const RESERVED_FOR: Duration = Duration::from_secs(120);
/// Maximum items reserved at once; beyond it two people may get the same one.
const MAX_RESERVED: usize = 10_000;
/// The metric's name for "can't tell" among the classes.
const CANT_TELL: &str = "cant_tell";

/// Which item is reserved for whom, so that people at work at the same time do not label the same ones.
#[derive(Default)]
pub(in crate::api) struct Reservations(Mutex<HashMap<i64, (String, Instant)>>);

impl Reservations {
    /// The items that are reserved for others than `by` at `now`.
    fn by_others(&self, by: &str, now: Instant) -> HashSet<i64> {
        let mut reserved = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reserved.retain(|_, (_, since)| now.duration_since(*since) < RESERVED_FOR);
        reserved.iter().filter(|(_, (who, _))| who != by).map(|(id, _)| *id).collect()
    }

    /// Reserves these items for `by`, and gives back all others that `by` had.
    fn reserve(&self, by: &str, items: &[Verdict], now: Instant) {
        let mut reserved = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reserved.retain(|_, (who, _)| who != by);
        let room = MAX_RESERVED.saturating_sub(reserved.len());
        for verdict in items.iter().take(room) {
            // Another's first claim stands: both have it then only because it is asked of two.
            reserved.entry(verdict.id).or_insert_with(|| (by.to_owned(), now));
        }
    }
}

/// A label to be added.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLabel {
    /// The item's verdict: its uid, or its id, which another store has for another item.
    #[schema(schema_with = id_or_uid)]
    verdict: VerdictName,
    /// The class; `null` for "can't tell".
    #[serde(deserialize_with = "Option::deserialize")] // so that leaving it out is an error
    class: Option<String>,
    /// Who says it, 1 to 64 characters; the caller if absent. Only an operator may name somebody else.
    by: Option<String>,
}

fn id_or_uid() -> OneOfBuilder {
    let id = ObjectBuilder::new().schema_type(Type::Integer);
    let uid = ObjectBuilder::new().schema_type(Type::String);
    OneOfBuilder::new().item(id).item(uid)
}

/// Which labels are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LabelQuery {
    /// Only older ones than this id: pass `next` of the page before.
    before: Option<i64>,
    /// Page size, 1 to 500; 50 if absent.
    limit: Option<u32>,
    /// Only those of this item: the verdict's uid or id.
    #[param(value_type = Option<String>)]
    verdict: Option<VerdictName>,
    /// Only those of this person.
    by: Option<String>,
    /// Only those of this class.
    class: Option<String>,
    /// Only what people say now: neither corrected nor withdrawn.
    current: Option<bool>,
}

/// A page of labels, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Labels {
    /// The page.
    labels: Vec<Label>,
    /// Pass it as `before` to get the next page; absent on the last one.
    next: Option<i64>,
}

/// Who takes a label back.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WithdrawalQuery {
    /// The person; the caller if absent. Only an operator may name somebody else, or take back another's label.
    by: Option<String>,
}

/// Who asks for work.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct QueueQuery {
    /// The person, 1 to 64 characters; the caller if absent. Only an operator may ask for somebody else.
    by: Option<String>,
    /// Most items, 1 to 50; 10 if absent.
    limit: Option<usize>,
    /// `useful` (if absent): what teaches most first; `random`: by chance, for comparison.
    #[serde(default)]
    order: QueueOrder,
}

/// What a person should look at, in order.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Work)]
pub struct QueuePage {
    /// The first items; their pictures are at `/items/<uid>.jpg`. Others are not given them for two minutes.
    items: Vec<Verdict>,
    /// How many there are for this person in all.
    waiting: usize,
    /// Labels of this person that stand.
    done: u64,
}

/// The classes that a label may name: the serving student's, then those of the configuration.
#[utoipa::path(get, path = "/labels/classes", tag = "labels", responses((status = 200, body = Vec<String>)))]
pub(in crate::api) async fn classes(State(api): State<Api>) -> Json<Vec<String>> {
    Json(known(&api))
}

fn known(api: &Api) -> Vec<String> {
    let mut classes = api.infer.card().classes.clone();
    for class in &api.labels.classes {
        if !classes.contains(class) {
            classes.push(class.clone());
        }
    }
    classes
}

/// Starts the counters at 0: a counter that was never touched is absent.
pub(in crate::api) fn touch(api: &Api) {
    known(api).iter().map(String::as_str).chain([CANT_TELL]).for_each(|class| {
        api.metrics.store.labels.with_label_values(&[class]);
    });
}

/// The history of labels, newest first.
#[utoipa::path(get, path = "/labels", params(LabelQuery), tag = "labels",
    responses((status = 200, body = Labels), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<LabelQuery>, QueryRejection>,
) -> Result<Json<Labels>, ApiError> {
    let LabelQuery { before, limit, verdict, by, class, current } = query(asked)?;
    let limit = page_size(limit, 50)?;
    let verdict = only(&api.store, verdict).await?;
    let page = LabelPage { before, limit, verdict, by, class, current: current.unwrap_or(false) };
    let labels = api.store.labels(&page).await?;
    let next = labels.last().filter(|_| labels.len() == limit as usize).map(|l| l.id);
    Ok(Json(Labels { labels, next }))
}

/// Adds a label. A newer label of the same person replaces the older one, which stays in the history.
#[utoipa::path(post, path = "/labels", request_body = NewLabel, tag = "labels",
    responses((status = 200, body = Label), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn add(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<Label>, ApiError> {
    let NewLabel { verdict, class, by } = body::json(&api, request).await?;
    let by = person(&caller, by.as_deref())?;
    let item = api.store.verdict_named(verdict).await?;
    let item = item.ok_or_else(|| ApiError::NotFound(format!("there is no verdict {verdict}")))?;
    let there = match &item.frame {
        Some(key) => api.store.has_frame(key).await?,
        None => false,
    };
    if !there {
        return Err(ApiError::NoPicture(verdict));
    }
    if let Some(class) = &class {
        let known = known(&api);
        if !known.contains(class) {
            return Err(ApiError::Class { class: class.clone(), known: known.join(", ") });
        }
    }
    let label = api.store.add_label(item.id, class.as_deref(), &by, OffsetDateTime::now_utc()).await?;
    api.metrics.store.labels.with_label_values(&[class.as_deref().unwrap_or(CANT_TELL)]).inc();
    Ok(Json(label))
}

/// Takes a label back; what its labeler said before holds again. The label stays in the history.
#[utoipa::path(delete, path = "/labels/{id}", params(("id" = i64, Path), WithdrawalQuery), tag = "labels",
    responses((status = 200, body = Label), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn withdraw(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    asked: Result<Query<WithdrawalQuery>, QueryRejection>,
) -> Result<Json<Label>, ApiError> {
    let WithdrawalQuery { by } = query(asked)?;
    let none = || ApiError::NotFound(format!("there is no label {id} that could be withdrawn"));
    let label = match id.parse() {
        Ok(number) => api.store.one_label(number).await?.ok_or_else(none)?,
        Err(_) => return Err(none()),
    };
    person(&caller, Some(&label.by))?;
    let by = person(&caller, by.as_deref())?;
    let withdrawn = api.store.withdraw_label(label.id, &by, OffsetDateTime::now_utc()).await?;
    withdrawn.map(Json).ok_or_else(none)
}

/// What a person should look at next.
#[utoipa::path(get, path = "/labels/queue", params(QueueQuery), tag = "labels",
    responses((status = 200, body = QueuePage), (status = 400, body = Problem), (status = 403, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn queue(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    asked: Result<Query<QueueQuery>, QueryRejection>,
) -> Result<Json<QueuePage>, ApiError> {
    let QueueQuery { by, limit, order } = query(asked)?;
    let by = person(&caller, by.as_deref())?;
    let limit = limit.unwrap_or(10);
    if !(1..=MAX_QUEUE).contains(&limit) {
        return Err(ApiError::Malformed(format!("`limit` must be 1 to {MAX_QUEUE}, not {limit}")));
    }
    let (reservations, now) = (&api.0.reservations, Instant::now());
    let busy = reservations.by_others(&by, now);
    let done = api.store.labels_of(&by).await?;
    let ask = Ask { by: by.clone(), limit, order, second_share: api.labels.second_share, busy };
    let queue = api.store.queue(ask).await?;
    reservations.reserve(&by, &queue.items, now);
    Ok(Json(QueuePage { items: queue.items, waiting: queue.waiting, done }))
}

/// How far people agree about the items that two of them labeled.
#[utoipa::path(get, path = "/labels/agreement", tag = "labels",
    responses((status = 200, body = Agreement), (status = 503, body = Problem)))]
pub(in crate::api) async fn agreement(State(api): State<Api>) -> Result<Json<Agreement>, ApiError> {
    Ok(Json(api.store.agreement().await?))
}

/// For whom the caller speaks: themselves, or `by` without blanks around it.
fn person(caller: &Caller, by: Option<&str>) -> Result<String, ApiError> {
    let by = by.unwrap_or(&caller.name).trim();
    if by.is_empty() || by.chars().count() > MAX_NAME || by.chars().any(char::is_control) {
        return Err(ApiError::Malformed(format!("`by` must name a person in 1 to {MAX_NAME} characters")));
    }
    if by != caller.name && caller.role < Role::Operator {
        return Err(Denied::Role { name: caller.name.clone(), has: caller.role, needs: Role::Operator }.into());
    }
    Ok(by.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::{Action, testing::verdict};

    #[test]
    fn what_one_person_has_before_them_is_reserved_for_two_minutes_and_no_longer() {
        let (reservations, start) = (Reservations::default(), Instant::now());
        let items = |ids: &[i64]| ids.iter().map(|&id| Verdict { id, ..verdict(Action::Reject) }).collect::<Vec<_>>();
        reservations.reserve("anna", &items(&[1, 2]), start);
        reservations.reserve("ben", &items(&[2, 3]), start);
        assert_eq!(reservations.by_others("ben", start), HashSet::from([1, 2]));
        assert_eq!(reservations.by_others("anna", start), HashSet::from([3]));
        reservations.reserve("anna", &items(&[4]), start + RESERVED_FOR / 2);
        assert_eq!(
            reservations.by_others("carl", start + RESERVED_FOR / 2),
            HashSet::from([3, 4]),
            "asking again gives back the rest"
        );
        assert_eq!(reservations.by_others("carl", start + RESERVED_FOR), HashSet::from([4]));
    }
}
