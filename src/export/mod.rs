//! A lot on paper: what the record says about it, as CSV and as a page to print.
//!
//! Invariant: everything here is read from the record; nothing is remembered elsewhere, nothing is written.

mod csv;
mod html;

use serde::Serialize;
use time::OffsetDateTime;

pub use self::{
    csv::{HEADER, LotCsv},
    html::{opening, page},
};
use crate::{
    domain::{Action, Thresholds, Verdict, time::rfc3339},
    store::{Challenge, CorrectiveAction, Counts, Entry, Event, Lot, LotTally, RemovedOf, Store, StoreError},
};

/// Rejected and diverted items listed on the page; the CSV has all.
pub const LISTED: usize = 1000;
/// Kinds of events that begin and end outages.
const OUTAGES: [&str; 9] = [
    "restored",
    "started",
    "camera_began",
    "camera_lost",
    "camera_back",
    "camera_ended",
    "degraded",
    "recovered",
    "gap",
];
/// Further kinds that tell of what passed unjudged or was not taken off.
const LOSSES: [&str; 4] = ["eject_late", "reject_missed", "passed_unjudged", "encoder_lost"];

/// What the record says about a lot.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Report)]
pub struct LotReport {
    /// The lot.
    pub lot: Lot,
    /// Verdicts of it that retention has removed; counts and tallies are of what is left. `null` for none.
    pub removed: Option<RemovedOf>,
    /// Its verdicts by action.
    pub counts: Counts,
    /// Its verdicts by action, class, model and thresholds, most first.
    pub tallies: Vec<LotTally>,
    /// The models and thresholds that judged.
    pub models: Vec<LotModel>,
    /// When nothing or not everything was inspected, oldest first.
    pub outages: Vec<Outage>,
    /// Verdicts that could not be recorded while it was open.
    pub not_recorded: u64,
    /// Commands to its gates that were not acknowledged in time.
    pub eject_late: usize,
    /// Its items that should have left the belt and were not seen to.
    pub rejects_missed: usize,
    /// What happened in it and was told after it was closed, in the order of telling; it counts above.
    pub told_later: Vec<ToldLater>,
    /// Challenge tests.
    pub challenges: Vec<Challenge>,
    /// What had to be put right.
    pub corrective_actions: Vec<CorrectiveAction>,
    /// The record's newest entry when this was read.
    pub head: i64,
    /// Its hash.
    pub head_hash: String,
}

/// A model with its thresholds.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = Model)]
pub struct LotModel {
    /// `name@hash-prefix`.
    pub model: String,
    /// SHA-256 of its file.
    pub sha256: String,
    /// The thresholds' name.
    pub thresholds_hash: String,
    /// The thresholds.
    #[schema(value_type = Object)]
    pub thresholds: Thresholds,
    /// Verdicts of the lot by it.
    pub verdicts: i64,
}

/// A loss that was told after its lot was closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ToldLater {
    /// Its entry.
    pub entry: i64,
    /// When it happened, as far as is known (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub time: OffsetDateTime,
    /// What it is, in words.
    pub what: String,
}

/// An interval in which nothing or not everything was inspected.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Outage {
    /// `service`, or the camera's name.
    pub of: String,
    /// What it was, in words.
    pub what: String,
    /// Since when (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub from: OffsetDateTime,
    /// Until when (RFC 3339); `null` while it lasts.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub to: Option<OffsetDateTime>,
}

impl LotReport {
    /// Reads everything about `lot`.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(store: &Store, lot: Lot) -> Result<Self, StoreError> {
        let (head, head_hash) = store.head().await?;
        let to = lot.closed_at.unwrap_or(head);
        let events = store.lot_events(lot.lot, to, &[&OUTAGES[..], &LOSSES].concat()).await?;
        let tallies = store.tallies(lot.lot).await?;
        let mut counts = Counts::default();
        for tally in &tallies {
            let n = tally.verdicts as u64;
            counts.verdicts += n;
            match tally.action {
                Action::Accept => counts.accept += n,
                Action::Reject => counts.reject += n,
                Action::Divert => counts.divert += n,
            }
        }
        let gap = |entry: &Entry| if let Event::Gap { verdicts, .. } = entry.event { verdicts } else { 0 };
        // What the lot's end did not wait for is told behind it.
        let behind = |entry: &Entry| lot.closed_at.is_some_and(|closed| entry.seq > closed);
        let mut all = told_of_outages(store, &lot, to).await?;
        all.extend(events.iter().filter(|entry| behind(entry)).cloned());
        let mut outages = outages(&all);
        outages.retain(|o| o.to.is_none_or(|to| to >= lot.opened));
        Ok(Self {
            models: models(&announced(store, to, &tallies).await?, &tallies),
            outages,
            not_recorded: events.iter().map(gap).sum(),
            eject_late: events.iter().filter(|entry| matches!(entry.event, Event::EjectLate { .. })).count(),
            rejects_missed: events.iter().filter(|entry| matches!(entry.event, Event::RejectMissed { .. })).count(),
            told_later: events.iter().filter(|entry| behind(entry)).filter_map(told_later).collect(),
            challenges: store.challenges(Some(lot.lot)).await?,
            corrective_actions: store.corrective_actions(Some(lot.lot)).await?,
            removed: store.removed_of(&lot).await?,
            lot,
            counts,
            tallies,
            head,
            head_hash,
        })
    }
}

/// Entries that begin and end outages: those in the lot, and before it how each camera was since the service started, for
/// what was broken then may still have been.
async fn told_of_outages(store: &Store, lot: &Lot, to: i64) -> Result<Vec<Entry>, StoreError> {
    let started = store.last_event("started", lot.lot).await?;
    let since = started.as_ref().map_or(0, |entry| entry.seq);
    let mut all: Vec<Entry> = started.into_iter().collect();
    all.extend(store.camera_states(lot.lot).await?.into_iter().filter(|entry| entry.seq > since));
    all.extend(store.events_between(&OUTAGES, lot.lot, to).await?);
    Ok(all)
}

/// The announcements of the models in `tallies`, as far as there are any up to the place `to`; the newest of each.
async fn announced(store: &Store, to: i64, tallies: &[LotTally]) -> Result<Vec<Entry>, StoreError> {
    let mut wanted: Vec<(&str, &str)> = tallies.iter().map(|t| (t.model.as_str(), t.thresholds.as_str())).collect();
    let (mut found, mut before) = (Vec::new(), to.saturating_add(1));
    while !wanted.is_empty() {
        let Some(entry) = store.last_event("model", before).await? else { break };
        before = entry.seq;
        let left = wanted.len();
        if let Event::Model { model, thresholds_hash, .. } = &entry.event {
            wanted.retain(|&(of, with)| of != model || with != thresholds_hash);
        }
        if wanted.len() < left {
            found.push(entry);
        }
    }
    found.reverse();
    Ok(found)
}

/// The newest rejected and diverted items of a lot, oldest first, [`LISTED`] at most.
///
/// # Errors
/// The store's.
pub async fn taken_off(store: &Store, lot: i64) -> Result<Vec<Verdict>, StoreError> {
    let mut found = store.taken_off(lot, LISTED).await?;
    found.reverse();
    Ok(found)
}

/// A loss, as one that was told later.
fn told_later(Entry { seq, time, event }: &Entry) -> Option<ToldLater> {
    let (at, what) = match event {
        Event::EjectLate { gate, camera, track, why, passed, .. } => {
            (*passed, format!("a command to gate {gate} for {camera} {track} was late: {why}"))
        }
        Event::RejectMissed { gate, camera, track, passed, .. } => {
            (*passed, format!("{camera} {track} should have left the belt at gate {gate} and was not seen to"))
        }
        Event::Gap { verdicts, events, from, .. } => {
            (*from, format!("{verdicts} verdicts and {events} events could not be recorded"))
        }
        Event::PassedUnjudged { camera, items, from } => {
            (Some(*from), format!("{items} items passed {camera} unjudged"))
        }
        Event::CameraLost { camera, why } => (None, format!("camera {camera} was lost: {why}")),
        Event::EncoderLost { why } => (None, format!("the encoder was lost: {why}")),
        _ => return None,
    };
    event.loss().map(|_| ToldLater { entry: *seq, time: at.unwrap_or(*time), what })
}

fn models(announced: &[Entry], tallies: &[LotTally]) -> Vec<LotModel> {
    let mut models: Vec<LotModel> = Vec::new();
    for entry in announced {
        let Event::Model { model, sha256, thresholds_hash, thresholds } = &entry.event else { continue };
        if models.iter().any(|m| m.model == *model && m.thresholds_hash == *thresholds_hash) {
            continue; // the service started with it again
        }
        let of_it = |t: &&LotTally| t.model == *model && t.thresholds == *thresholds_hash;
        let verdicts = tallies.iter().filter(of_it).map(|t| t.verdicts).sum();
        if verdicts > 0 {
            let (model, thresholds_hash) = (model.clone(), thresholds_hash.clone());
            let (sha256, thresholds) = (sha256.clone(), thresholds.clone());
            models.push(LotModel { model, sha256, thresholds_hash, thresholds, verdicts });
        }
    }
    models
}

/// Intervals out of the entries that begin and end them.
fn outages(events: &[Entry]) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let (mut started, mut restored) = (None, None);
    for Entry { time, event, .. } in events {
        let begin = |of: &str, what: String| Outage { of: of.into(), what, from: *time, to: None };
        let end = |outages: &mut Vec<Outage>, of: &str, start: &str| {
            for outage in outages.iter_mut().filter(|o| o.to.is_none() && o.of == of && o.what.starts_with(start)) {
                outage.to = Some(*time);
            }
        };
        match event {
            Event::Restored { archived, .. } => restored = Some(*archived),
            Event::Started { after_stop, down_since, .. } => {
                started = Some(*time);
                // A new service finds out for itself what is broken.
                for outage in outages.iter_mut().filter(|o| o.to.is_none()) {
                    outage.to = Some(*time);
                }
                if let Some(from) = down_since {
                    let what = match restored.take() {
                        Some(archived) => {
                            format!("restored from an archive of {}: what came after it is lost", rfc3339(archived))
                        }
                        None if *after_stop => "stopped".into(),
                        None => "interrupted (crash, kill or power)".into(),
                    };
                    outages.push(Outage { of: "service".into(), what, from: *from, to: Some(*time) });
                }
            }
            Event::CameraBegan { camera } => {
                let from = started.unwrap_or(*time);
                outages.push(Outage { to: Some(*time), from, ..begin(camera, "not looked at yet".into()) });
            }
            Event::CameraEnded { camera } => {
                outages.push(begin(camera, "looked at no more: the service stopped".into()))
            }
            Event::CameraLost { camera, why } => outages.push(begin(camera, format!("{LOST}: {why}"))),
            Event::CameraBack { camera } => end(&mut outages, camera, LOST),
            Event::Degraded { camera, fault } => outages.push(begin(camera, format!("{UNJUDGED}: {fault}"))),
            Event::Recovered { camera, .. } => end(&mut outages, camera, UNJUDGED),
            Event::Gap { verdicts, pictures, events, from: Some(from), to, .. } => {
                let what = format!(
                    "could not be written: {verdicts} verdicts, {pictures} pictures, {events} events are missing"
                );
                outages.push(Outage { of: "record".into(), what, from: *from, to: *to });
            }
            _ => {}
        }
    }
    outages
}

const LOST: &str = "camera lost";
const UNJUDGED: &str = "items could not be judged and were rejected";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An event of these fields.
    fn told(kind: &str, fields: serde_json::Value) -> Event {
        let mut body = fields;
        body["kind"] = kind.into();
        serde_json::from_value(body).unwrap()
    }

    #[tokio::test]
    async fn what_is_told_late_counts_for_the_lot_in_which_it_happened() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let first = store.begin_lot("A", "").await.unwrap();
        let item = |lot: i64| {
            serde_json::json!({ "gate": "out", "camera": "belt", "track": 4, "output": "log", "why": "late",
                "led_to": "alarm", "lot": lot })
        };
        store.append(told("eject_late", item(first))).await.unwrap();
        let second = store.begin_lot("B", "").await.unwrap();
        for kind in ["eject_late", "reject_missed"] {
            store.append(told(kind, item(first))).await.unwrap();
        }
        let gap = serde_json::json!({ "verdicts": 5, "from": "2026-11-29T08:00:00Z", "to": "2026-11-29T08:00:01Z",
            "lot": first });
        store.append(told("gap", gap)).await.unwrap();
        store.append(told("reject_missed", item(second))).await.unwrap();

        let mut seen = Vec::new();
        for lot in [first, second] {
            let report = LotReport::read(&store, store.lot(lot).await.unwrap().unwrap()).await.unwrap();
            seen.push((report.eject_late, report.rejects_missed, report.not_recorded));
        }
        assert_eq!(seen, [(2, 1, 5), (0, 1, 0)]);

        // They stand on the first lot's page and export, marked, and on the other's not at all.
        let mut exports = Vec::new();
        for lot in [first, second] {
            let lot = store.lot(lot).await.unwrap().unwrap();
            let mut csv = LotCsv::new(store.clone(), lot.clone()).await.unwrap();
            let mut text = String::new();
            while let Some(piece) = csv.next().await.unwrap() {
                text.push_str(&String::from_utf8(piece).unwrap());
            }
            let losses = text.lines().filter(|line| line.contains("eject_late") || line.contains("reject_missed"));
            let losses: Vec<bool> = losses.map(|line| line.ends_with(",later")).collect();
            let verified = crate::store::verify_lot(store.folder(), &lot).await.unwrap();
            let report = LotReport::read(&store, lot).await.unwrap();
            let marked = page(&report, &[], &verified).matches("(told later)").count();
            exports.push((losses, report.told_later.len(), marked));
        }
        assert_eq!(exports, [(vec![false, true, true], 3, 3), (vec![false], 0, 0)]);
    }

    #[tokio::test]
    async fn what_a_restored_box_does_not_know_is_an_outage_of_the_open_lot() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.append(store.starting("1").await.unwrap()).await.unwrap();
        let lot = store.begin_lot("A", "").await.unwrap();
        store.close().await;
        let archived = OffsetDateTime::now_utc() - time::Duration::hours(7);
        crate::store::mark_restored(folder.path(), archived, "3:00").unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.append(store.starting("1").await.unwrap()).await.unwrap();
        let report = LotReport::read(&store, store.lot(lot).await.unwrap().unwrap()).await.unwrap();
        let outage = report.outages.last().unwrap();
        assert_eq!((outage.from, outage.of.as_str()), (archived, "service"));
        assert!(outage.what.starts_with("restored from an archive of "), "{}", outage.what);
        store.append(Event::Stopped).await.unwrap();
        let next = store.starting("1").await.unwrap();
        assert!(matches!(next, Event::Started { after_stop: true, .. }), "told once: {next:?}");
    }

    #[test]
    fn outages_begin_and_end_with_their_entries_and_with_the_service() {
        let at = |s: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(s);
        let camera = || "belt".to_string();
        let entry = |s: i64, event| Entry { seq: s, time: at(s), event };
        let events = [
            entry(1, Event::CameraLost { camera: camera(), why: "unplugged".into() }),
            entry(3, Event::Degraded { camera: camera(), fault: "late".into() }),
            entry(4, Event::CameraBack { camera: camera() }),
            entry(9, Event::Started { version: "1".into(), after_stop: false, down_since: Some(at(6)) }),
            entry(12, Event::CameraLost { camera: camera(), why: "unplugged".into() }),
            entry(
                15,
                Event::Gap { lot: None, verdicts: 3, pictures: 0, events: 0, from: Some(at(13)), to: Some(at(14)) },
            ),
        ];
        let seen: Vec<_> = outages(&events)
            .into_iter()
            .map(|o| (o.of, o.from.unix_timestamp(), o.to.map(OffsetDateTime::unix_timestamp)))
            .collect();
        let wanted = [
            (camera(), 1, Some(4)),
            (camera(), 3, Some(9)),
            ("service".to_string(), 6, Some(9)),
            (camera(), 12, None),
            ("record".to_string(), 13, Some(14)),
        ];
        assert_eq!(seen, wanted);
    }
}
