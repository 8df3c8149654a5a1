//! Which items are worth a person's look, in which order. The choice is pure; [`Store::queue`] only fetches.
//!
//! Invariant: nobody is asked twice about an item, and nobody about one that another labeled, except for the share that
//! is asked of two people.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite};
use tokio::task::spawn_blocking;

use super::PICTURE_IS_THERE;
use crate::{
    domain::{Action, Reason, Verdict},
    store::{Label, Store, StoreError},
};

/// Only this many of the newest items with a kept picture are looked at: older ones tell less about today's belt.
pub const WINDOW: u32 = 5_000;
/// Of those, only among this many: where most pictures are gone, a search would go through the whole store.
const LOOKED_AT: i64 = 50_000;
/// How much less an item is worth for every one of the same predicted class that was chosen before it.
const CLASS_STEP: f32 = 0.1;

/// In which order a person is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = QueueOrder)]
pub enum QueueOrder {
    /// What teaches most first.
    #[default]
    Useful,
    /// By chance, but always the same: what useful labeling is compared with.
    Random,
}

/// Who asks for what.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The person.
    pub by: String,
    /// Most items.
    pub limit: usize,
    /// In which order.
    pub order: QueueOrder,
    /// Share of the labeled items that is asked of a second person, 0 to 1.
    pub second_share: f64,
    /// Items that others have before them at this moment.
    pub busy: HashSet<i64>,
}

/// What one person may be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// The first items.
    pub items: Vec<Verdict>,
    /// How many there are in all.
    pub waiting: usize,
}

/// What looking at an item is worth, 0 to 2.5: doubt (1 − the gap between the two best probabilities; 1 after a fault or
/// for what is not a number), + 0.5 for the unsure, + 0.25 for the other rejects, + up to 1 for how far it lies from
/// what the model was trained on (0 at the training data's middle, 1 from twice its edge on).
pub fn usefulness(verdict: &Verdict) -> f32 {
    let margin = verdict.margin();
    let doubt = if margin.is_finite() { 1.0 - margin.clamp(0.0, 1.0) } else { 1.0 };
    let action = match (verdict.decision.action, verdict.decision.reason) {
        (_, Reason::Unsure) | (Action::Divert, _) => 0.5,
        (Action::Reject, _) => 0.25,
        (Action::Accept, _) => 0.0,
    };
    let novelty = verdict.novelty.map_or(0.0, |n| if n.is_finite() { (n / 2.0).clamp(0.0, 1.0) } else { 1.0 });
    doubt + action + novelty
}

/// A number in 0..1 that depends on `id` alone and on no pattern in it (the mixing function of SplitMix64).
pub fn hash_share(id: i64, salt: u64) -> f64 {
    let mut z = (id as u64 ^ salt).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Whether the item `id` belongs to the share that is asked of two people.
pub fn asked_twice(id: i64, share: f64) -> bool {
    hash_share(id, 0x5ec0_4d1a_be1e_4001) < share
}

/// Whether `by` may be asked about `verdict`, of which `said` is what people say now.
fn open(verdict: &Verdict, said: &[Label], ask: &Ask) -> bool {
    let second = asked_twice(verdict.id, ask.second_share);
    match said {
        [] => second || !ask.busy.contains(&verdict.id),
        [one] => second && one.by != ask.by,
        _ => false,
    }
}

/// Chooses from `candidates` (all with a kept frame), given what people say now by verdict.
pub fn choose(candidates: Vec<Arc<Verdict>>, said: &BTreeMap<i64, Vec<Label>>, ask: &Ask) -> Queue {
    let labels = |v: &Verdict| said.get(&v.id).map_or(&[][..], Vec::as_slice);
    // Scenes that are labeled already or were just chosen: a second look at one teaches little.
    let mut seen: HashSet<Scene> =
        candidates.iter().filter(|v| !labels(v).is_empty()).flat_map(|v| scenes(v)).collect();
    let mut waiting: Vec<Arc<Verdict>> = candidates.into_iter().filter(|v| open(v, labels(v), ask)).collect();
    let total = waiting.len();
    if ask.order == QueueOrder::Random {
        waiting.sort_by(|a, b| hash_share(a.id, 0xabcd).total_cmp(&hash_share(b.id, 0xabcd)));
        let items = waiting.iter().take(ask.limit).map(|v| Verdict::clone(v)).collect();
        return Queue { items, waiting: total };
    }
    // The worst first, so that the best can be taken from the end; of equals the newest first.
    waiting.sort_by_cached_key(|v| (usefulness(v).to_bits(), v.id)); // it is never negative, so its bits rise with it
    let mut classes: BTreeMap<Option<String>, (usize, Vec<Arc<Verdict>>)> = BTreeMap::new();
    for verdict in waiting {
        classes.entry(verdict.decision.class.clone()).or_default().1.push(verdict);
    }
    let mut items = Vec::new();
    let mut again = Vec::new(); // of a scene that was shown; asked when nothing else is left
    while items.len() < ask.limit {
        let worth = |(chosen, rest): &(usize, Vec<Arc<Verdict>>)| {
            rest.last().map_or(f32::NEG_INFINITY, |v| usefulness(v) - CLASS_STEP * *chosen as f32)
        };
        let Some((chosen, rest)) = classes.values_mut().max_by(|a, b| worth(a).total_cmp(&worth(b))) else { break };
        let Some(verdict) = rest.pop() else { break };
        // A second labeler is asked about a scene just because it is labeled.
        if labels(&verdict).is_empty() && scenes(&verdict).iter().any(|scene| seen.contains(scene)) {
            again.push(verdict);
            continue;
        }
        *chosen += 1;
        seen.extend(scenes(&verdict));
        items.push(verdict);
    }
    items.extend(again);
    let items = items.iter().take(ask.limit).map(|v| Verdict::clone(v)).collect();
    Queue { items, waiting: total }
}

/// `audit` and the others in turn, at most `limit`: neither waits for the other to end.
fn interleave(audit: Vec<Verdict>, others: Queue, limit: usize) -> Queue {
    let waiting = audit.len() + others.waiting;
    let (mut audit, mut others) = (audit.into_iter(), others.items.into_iter());
    let mut items = Vec::new();
    while items.len() < limit {
        let before = items.len();
        items.extend(audit.next());
        items.extend(others.next());
        if items.len() == before {
            break;
        }
    }
    items.truncate(limit);
    Queue { items, waiting }
}

/// What makes two items near-identical: one group, see [`Verdict::group`], or one frame.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Scene {
    Group(String),
    Frame(String),
}

fn scenes(verdict: &Verdict) -> Vec<Scene> {
    let group = (!verdict.camera.is_empty()).then(|| Scene::Group(verdict.group()));
    group.into_iter().chain(verdict.frame.clone().map(Scene::Frame)).collect()
}

/// The newest items with a kept picture, kept at hand: reading thousands of documents again for every label would take
/// time from the line. A verdict never changes, so only newer ones have to be added.
#[derive(Default)]
pub(in crate::store) struct Window {
    /// Up to this verdict all were looked at.
    newest: i64,
    /// By rising id, at most [`WINDOW`].
    items: VecDeque<Arc<Verdict>>,
}

impl Window {
    /// Reads everything again the next time: pictures were removed.
    pub(in crate::store) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Store {
    /// What `ask.by` should look at, best first; see [`choose`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn queue(&self, ask: Ask) -> Result<Queue, StoreError> {
        let mut candidates = self.candidates().await?;
        let first = candidates.first().map_or(i64::MAX, |v| v.id);
        let mut said = self.current_labels(first, i64::MAX).await?;
        // What was drawn is asked about because it was drawn, not for what it would teach.
        let (drawn, asked) = (self.drawn(first).await?, self.drawn_to_ask().await?);
        candidates.retain(|v| !drawn.contains(&v.id));
        for verdict in asked.iter().filter(|v| v.id < first) {
            said.extend(self.current_labels(verdict.id, verdict.id).await?);
        }
        let choice = spawn_blocking(move || {
            let labels = |v: &Verdict| said.get(&v.id).map_or(&[][..], Vec::as_slice);
            let audit: Vec<Verdict> = asked.into_iter().filter(|v| open(v, labels(v), &ask)).collect();
            interleave(audit, choose(candidates, &said, &ask), ask.limit)
        })
        .await;
        choice.map_err(|e| sqlx::Error::Io(std::io::Error::other(e)).into())
    }

    /// How many of the newest [`WINDOW`] items with a kept picture nobody has labeled.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn unlabeled(&self) -> Result<u64, StoreError> {
        let candidates = self.candidates().await?;
        let said = self.current_labels(candidates.first().map_or(i64::MAX, |v| v.id), i64::MAX).await?;
        Ok(candidates.iter().filter(|v| !said.contains_key(&v.id)).count() as u64)
    }

    /// The newest [`WINDOW`] items with a kept picture, by rising id.
    async fn candidates(&self) -> Result<Vec<Arc<Verdict>>, StoreError> {
        let mut window = self.window.lock().await;
        let newest = self.newest_verdict().await?;
        let floor: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM verdicts WHERE frame IS NOT NULL AND id > ? ORDER BY id DESC LIMIT 1 OFFSET ?",
        )
        .bind(window.newest)
        .bind(LOOKED_AT)
        .fetch_optional(&self.database)
        .await?;
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id, body FROM verdicts AS v WHERE v.frame IS NOT NULL");
        query.push(PICTURE_IS_THERE).push(" AND v.id > ").push_bind(floor.unwrap_or(window.newest));
        query.push(" AND v.id <= ").push_bind(newest);
        query.push(" ORDER BY v.id DESC LIMIT ").push_bind(WINDOW);
        let rows: Vec<(i64, String)> = query.build_query_as().fetch_all(&self.database).await?;
        // The first time these are a few megabytes of JSON: not on a thread that answers others.
        let identity = self.identity;
        let read = spawn_blocking(move || rows.iter().rev().map(|(id, body)| identity.verdict(*id, body)).collect());
        let new: Result<Vec<Verdict>, StoreError> =
            read.await.unwrap_or_else(|e| Err(sqlx::Error::Io(std::io::Error::other(e)).into()));
        window.items.extend(new?.into_iter().map(Arc::new));
        window.newest = newest;
        let surplus = window.items.len().saturating_sub(WINDOW as usize);
        window.items.drain(..surplus);
        Ok(window.items.iter().cloned().collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{ClassScore, Decision, Source, testing::verdict};

    /// A belt item of `class` with probability `p`, a track and frame of its own.
    fn item(id: i64, action: Action, class: &str, p: f32) -> Verdict {
        let reason = match action {
            Action::Accept => Reason::Accepted,
            Action::Reject => Reason::WrongClass,
            Action::Divert => Reason::Unsure,
        };
        let score = |class: &str, probability| ClassScore { class: class.into(), probability };
        let base = verdict(action);
        Verdict {
            id,
            source: Source::Belt,
            camera: "belt".into(),
            track: id as u64,
            frame: Some(format!("frame-{id}")),
            decision: Decision { action, reason, class: Some(class.into()), accept_probability: 0.5 },
            scores: vec![score(class, p), score("other", 1.0 - p)],
            ..base
        }
    }

    fn said(id: i64, by: &str) -> (i64, Vec<Label>) {
        let (class, at) = (Some("cod".into()), OffsetDateTime::UNIX_EPOCH);
        let uid = uuid::Uuid::nil();
        (id, vec![Label { id, verdict: id, uid, class, by: by.into(), at, withdrawn: false, current: true }])
    }

    fn choose(candidates: Vec<Verdict>, said: &BTreeMap<i64, Vec<Label>>, ask: &Ask) -> Queue {
        super::choose(candidates.into_iter().map(Arc::new).collect(), said, ask)
    }

    fn ids(queue: &Queue) -> Vec<i64> {
        queue.items.iter().map(|v| v.id).collect()
    }

    fn ask(by: &str, limit: usize, busy: &HashSet<i64>) -> Ask {
        Ask { by: by.into(), limit, order: QueueOrder::Useful, second_share: 0.0, busy: busy.clone() }
    }

    #[test]
    fn doubt_rejects_and_novelty_come_first() {
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        close(usefulness(&item(1, Action::Accept, "a", 1.0)), 0.0);
        close(usefulness(&item(1, Action::Accept, "a", 0.55)), 0.9);
        close(usefulness(&item(1, Action::Divert, "a", 0.55)), 1.4);
        close(usefulness(&item(1, Action::Reject, "a", 1.0)), 0.25);
        let novel = |novelty| Verdict { novelty: Some(novelty), ..item(1, Action::Accept, "a", 1.0) };
        close(usefulness(&novel(1.0)), 0.5);
        close(usefulness(&novel(9.0)), 1.0);
        close(usefulness(&novel(f32::NAN)), 1.0);
        close(usefulness(&Verdict { scores: vec![], ..item(1, Action::Reject, "a", 1.0) }), 1.25);
        close(usefulness(&item(1, Action::Accept, "a", f32::NAN)), 1.0);
    }

    #[test]
    fn classes_take_turns_and_one_scene_is_not_shown_twice_in_a_row() {
        let none = HashSet::new();
        let mut all: Vec<Verdict> = (1..=5).map(|i| item(i, Action::Divert, "a", 0.51 + i as f32 / 1000.0)).collect();
        all.push(item(6, Action::Divert, "b", 0.6)); // 0.18 less useful than the first of a
        let order = ids(&choose(all.clone(), &BTreeMap::new(), &ask("anna", 10, &none)));
        assert_eq!(order, [1, 2, 6, 3, 4, 5]);
        all[1].frame = all[0].frame.clone();
        for older in [0, 2] {
            (all[older].uid, all[older].track) = (uuid::Uuid::nil(), 1);
        }
        let order = ids(&choose(all.clone(), &BTreeMap::new(), &ask("anna", 10, &none)));
        assert_eq!(order, [1, 4, 6, 5, 2, 3], "the same frame and the same track come last");
        let order = ids(&choose(all, &[said(1, "ben")].into(), &ask("anna", 10, &none)));
        assert_eq!(order, [4, 5, 6, 2, 3], "also when the scene was labeled before");
    }

    #[test]
    fn a_track_of_another_run_of_the_service_is_another_scene() {
        let mut all: Vec<Verdict> = (1..=3).map(|i| item(i, Action::Divert, "a", 0.6)).collect();
        all.iter_mut().for_each(|verdict| verdict.track = 1); // as after two restarts
        let order = ids(&choose(all, &[said(3, "ben")].into(), &ask("anna", 1, &HashSet::new())));
        assert_eq!(order, [2]);
    }

    #[test]
    fn nobody_is_asked_again_except_the_share_that_is_asked_of_two() {
        let none = HashSet::new();
        let all: Vec<Verdict> = (1..=2000).map(|i| item(i, Action::Divert, "a", 0.6)).collect();
        let labeled: BTreeMap<i64, Vec<Label>> = (1..=2000).map(|i| said(i, "anna")).collect();
        let share = |by: &'static str, second_share| {
            let ask = Ask { second_share, ..ask(by, usize::MAX, &none) };
            ids(&choose(all.clone(), &labeled, &ask))
        };
        assert!(share("anna", 1.0).is_empty());
        assert!(share("ben", 0.0).is_empty());
        assert_eq!(share("ben", 1.0).len(), 2000);
        let tenth = share("ben", 0.1);
        assert!((160..=240).contains(&tenth.len()), "{} of 2000 at 10 %", tenth.len());
        let last_digits: HashSet<i64> = tenth.iter().map(|id| id % 10).collect();
        assert_eq!(last_digits.len(), 10, "no pattern of the id decides");
        let mut twice = labeled.clone();
        for (id, labels) in &mut twice {
            labels.extend(said(*id, "ben").1);
        }
        let ask = Ask { second_share: 1.0, ..ask("carl", 10, &none) };
        assert!(choose(all, &twice, &ask).items.is_empty(), "two are enough");
    }

    #[test]
    fn what_another_has_before_him_is_not_asked_at_the_same_time() {
        let all: Vec<Verdict> = (1..=4).map(|i| item(i, Action::Divert, "a", 0.6)).collect();
        let busy = HashSet::from([3, 4]);
        assert_eq!(ids(&choose(all, &BTreeMap::new(), &ask("ben", 10, &busy))), [2, 1]);
    }

    #[test]
    fn the_random_order_stays_and_has_nothing_to_do_with_usefulness() {
        let none = HashSet::new();
        let all: Vec<Verdict> = (0..1000).map(|i| item(i, Action::Divert, "a", 0.5 + i as f32 / 2000.0)).collect();
        let random = Ask { order: QueueOrder::Random, ..ask("anna", 200, &none) };
        let first = choose(all.clone(), &BTreeMap::new(), &random);
        let mut turned = all.clone();
        turned.reverse();
        assert_eq!(ids(&first), ids(&choose(turned, &BTreeMap::new(), &random)), "a reload shows the same");
        let mean = first.items.iter().map(|v| v.id as f64).sum::<f64>() / 200.0;
        assert!((440.0..560.0).contains(&mean), "of ids 0 to 999 the mean is {mean}");
        let useful = choose(all, &BTreeMap::new(), &ask("anna", 200, &none));
        assert_eq!((useful.items.len(), useful.waiting, first.waiting), (200, 1000, 1000));
        assert_eq!(ids(&useful), (0..200).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_queue_holds_only_items_with_a_picture_and_shrinks_with_every_label() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let mut all: Vec<Verdict> = (1..=6).map(|i| item(i, Action::Divert, "a", 0.5 + i as f32 / 20.0)).collect();
        all[2].frame = None;
        store.insert(&all).await.unwrap();
        let none = HashSet::new();
        let waiting = async |by: &str| store.queue(ask(by, 3, &none)).await.unwrap();
        assert_eq!(ids(&waiting("anna").await), [1, 2, 4]);
        assert_eq!((waiting("anna").await.waiting, store.unlabeled().await.unwrap()), (5, 5));
        let label = store.add_label(1, None, "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ids(&waiting("anna").await), [2, 4, 5], "also one that could not be told");
        assert_eq!((waiting("ben").await.waiting, store.unlabeled().await.unwrap()), (4, 4));
        store.withdraw_label(label.id, "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        assert_eq!(ids(&waiting("anna").await), [1, 2, 4]);
        store.insert(&[item(0, Action::Divert, "b", 0.5)]).await.unwrap();
        assert_eq!(ids(&waiting("anna").await), [7, 1, 2], "what is new is seen");
    }
}
