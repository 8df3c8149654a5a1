//! Fills a store through the product's own writing code, and goes on where an interrupted run stopped.
//!
//! What it holds is drawn from the verdict's number alone: four cameras, a dozen classes of which one is rare, one item in
//! ten taken off, one picture in eight kept, lots of 48,000 and one of 384,000, and the events of a plant beside them.

use std::path::Path;

use anyhow::Result;
use time::OffsetDateTime;

use crate::{
    domain::{
        Action, ClassScore, Decision, Reason, Region, Source, Thresholds, Timings, Verdict, draw_uid, hash::sha256,
    },
    store::{Announcement, Deed, Event, Store, hash_share},
};

/// Verdicts in a transaction.
const BATCH: i64 = 2_000;
/// Verdicts in a usual lot.
pub(super) const LOT: i64 = 48_000;
/// First verdict of the shift's lot, and the one after its last.
pub(super) const SHIFT: (i64, i64) = (96_000, 96_000 + 384_000);
/// Most labels.
const LABELS: i64 = 30_000;
/// The cameras.
pub(super) const CAMERAS: [&str; 4] = ["belt", "second", "third", "spare"];
/// People who label.
pub(super) const PEOPLE: [&str; 3] = ["anna", "ben", "cleo"];
/// Classes; the last one is rare.
pub(super) const CLASSES: [&str; 12] =
    ["salmon", "trout", "cod", "bass", "pike", "perch", "carp", "eel", "sole", "hake", "tuna", "shark"];

/// Opens the store in `folder` and brings it to `verdicts` verdicts.
///
/// # Errors
/// The store's.
pub(super) async fn fill(folder: &Path, verdicts: i64) -> Result<Store> {
    let store = Store::open(folder).await?;
    let mut next =
        store.verdicts(crate::store::Page { limit: 1, ..Default::default() }).await?.first().map_or(1, |v| v.id + 1);
    while next <= verdicts {
        let done = next - 1;
        if done % LOT == 0 && !(SHIFT.0 < done && done < SHIFT.1) {
            store.begin_lot(&format!("2026-{:05}", done / LOT), "plc").await?;
        }
        let to = (next + BATCH - 1).min(verdicts);
        let lot = store.open_lot();
        let batch: Vec<Verdict> = (next..=to).map(|id| verdict(id, lot)).collect();
        store.insert_after(&events(done, lot), &batch).await?;
        if done % (20 * BATCH) == 0 {
            beside(&store, &batch, done).await?;
        }
        next = to + 1;
    }
    Ok(store)
}

/// Labels, an audit entry and a challenge.
async fn beside(store: &Store, batch: &[Verdict], done: i64) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    if done / BATCH < LABELS {
        for (n, verdict) in batch.iter().filter(|v| v.frame.is_some()).step_by(8).take(20).enumerate() {
            let id = done + 1 + batch.iter().position(|v| v.track == verdict.track).unwrap_or(0) as i64;
            store.add_label(id, verdict.decision.class.as_deref(), PEOPLE[n % 2], now).await?;
            if n % 5 == 0 {
                store.add_label(id, Some(CLASSES[n % 3]), PEOPLE[2], now).await?;
            }
        }
    }
    let deed = Deed {
        id: 0,
        time: crate::domain::time::rfc3339(now),
        name: "eve".into(),
        role: "operator".into(),
        address: "127.0.0.1".into(),
        method: "POST".into(),
        path: "/lots".into(),
        status: 201,
    };
    store.audit(&deed).await?;
    let said = Announcement {
        camera: CAMERAS[0].into(),
        piece: "a shoe".into(),
        class: None,
        within_s: 10.0,
        by: PEOPLE[0].into(),
    };
    let challenge = store.challenge(said).await?;
    let found = done % (100 * BATCH) != 0;
    let (lot, camera) = (store.open_lot(), CAMERAS[0].to_owned());
    let verdict = found.then_some(done + 1);
    let (acknowledged, confirmed, why) = (None, None, String::new());
    let result =
        Event::ChallengeResult { challenge, lot, camera, found, verdict, items: 4, acknowledged, confirmed, why };
    store.append(result).await?;
    Ok(())
}

/// What happens while a batch is written.
fn events(done: i64, lot: Option<i64>) -> Vec<Event> {
    let camera = || CAMERAS[(done / BATCH) as usize % CAMERAS.len()].to_owned();
    let mut events =
        vec![Event::CameraLost { camera: camera(), why: "unplugged".into() }, Event::CameraBack { camera: camera() }];
    let command = |n: u64| Event::EjectCommand {
        gate: "gate".into(),
        camera: camera(),
        track: done as u64 + n,
        uid: None,
        output: "modbus".into(),
        number: n as u16,
        target: n as u32,
    };
    events.extend((0..100).map(command));
    if done % (50 * BATCH) == 0 {
        let accept = vec![CLASSES[0].to_owned()];
        let thresholds =
            Thresholds { accept, accept_from: 0.9, unsure_from: 0.5, temperature: 1.0, unknown_from: None };
        events.push(Event::Started { version: "1".into(), after_stop: true, down_since: None });
        let (model, sha256) = (model(done), sha256(b"model"));
        events.push(Event::Model { model, sha256, thresholds_hash: "0123456789ab".into(), thresholds });
    }
    if done % (250 * BATCH) == 0 {
        events.push(Event::CorrectiveOpened {
            lot,
            challenge: 1,
            cause: "missed".into(),
            last_good: None,
            lots: lot.into_iter().collect(),
        });
    }
    events
}

fn model(done: i64) -> String {
    format!("belt-small-{}@0123456789ab", done / 1_000_000)
}

/// When the picture of the item number `id` was taken.
pub(super) fn taken(id: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1_760_000_000) + time::Duration::milliseconds(id * 997)
}

/// The verdict that becomes number `id`.
pub fn verdict(id: i64, lot: Option<i64>) -> Verdict {
    let draw = |salt| hash_share(id, salt);
    let class = if draw(1) < 0.000_1 { CLASSES[11] } else { CLASSES[(draw(2) * draw(2) * 11.0) as usize] };
    let (action, reason) = match draw(3) {
        x if x < 0.9 => (Action::Accept, Reason::Accepted),
        x if x < 0.98 => (Action::Reject, Reason::WrongClass),
        _ => (Action::Divert, Reason::Unsure),
    };
    let time = taken(id);
    let kept = action != Action::Accept || draw(4) < 0.03;
    let day = time.date();
    let key = |id: i64| {
        let hash = sha256(&id.to_be_bytes());
        format!("{:04}{:02}{:02}-{}", day.year(), u8::from(day.month()), day.day(), hash.get(..24).unwrap_or_default())
    };
    let score = |class: &str, probability| ClassScore { class: class.into(), probability };
    Verdict {
        uid: draw_uid(time),
        id: 0,
        time,
        source: if draw(5) < 0.01 { Source::Http } else { Source::Belt },
        camera: CAMERAS[(draw(6) * draw(6) * 4.0) as usize].into(),
        track: id as u64,
        region: Some(Region { x: 211, y: 87, width: 231, height: 94 }),
        decision: Decision { action, reason, class: Some(class.into()), accept_probability: 0.031_25 },
        scores: vec![score(class, 0.91), score("other", 0.03), score("belt", 0.03)],
        model: model(id),
        thresholds: "0123456789ab".into(),
        lot,
        fault: None,
        timings: Timings { decode_ms: 1.5, locate_ms: 0.12, queue_ms: 0.21, infer_ms: 7.1, total_ms: 8.8 },
        frame: kept.then(|| key(id)),
        truth: None,
        novelty: Some(0.5),
        optics: None,
    }
}
