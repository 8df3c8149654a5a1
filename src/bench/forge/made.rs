//! The store that is forged: every table has rows, every kind of page is in it.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::answers::answers;
use crate::{
    domain::{Action, ClassScore, Decision, Reason, Region, Source, Thresholds, Timings, Verdict, draw_uid},
    store::{AnchoredHead, Deed, Entry, Event, PUBLIC, Retention, RetentionState, Store, frame_key},
    student::to_serve::{Deciding, ToServe},
};

/// The files that are forged.
const DATABASE: &str = "verdicts.sqlite";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A store, once closed and once as it is while the service runs, with its log.
pub(super) struct Made {
    closed: TempDir,
    running: TempDir,
    /// Its head, left elsewhere.
    pub(super) head: AnchoredHead,
    pub(super) answers: Vec<String>,
}

impl Made {
    pub(super) async fn new() -> Result<Self> {
        let (closed, running) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let store = Store::open(closed.path()).await?;
        fill(&store).await?;
        store.close().await;
        // Opened again, so that the log holds the last part alone.
        let store = Store::open(closed.path()).await?;
        for _ in 0..3 {
            store.insert(&[verdict(Action::Reject, 9, None)]).await?;
        }
        let lot = store.begin_lot("the last", "Bo").await?;
        store.insert(&[verdict(Action::Accept, 10, Some(lot))]).await?;
        let head = store.anchored_head().await?;
        for file in [DATABASE, &format!("{DATABASE}-wal"), PUBLIC] {
            fs::copy(closed.path().join(file), running.path().join(file))?;
        }
        store.close().await;
        let mut made = Self { closed, running, head, answers: Vec::new() };
        let copy = made.copy(false)?;
        made.answers = answers(copy.path()).await;
        Ok(made)
    }

    /// A fresh copy, without the key; `log`: as it is while the service runs.
    pub(super) fn copy(&self, log: bool) -> Result<TempDir> {
        let folder = tempfile::tempdir()?;
        let from = if log { &self.running } else { &self.closed };
        fs::create_dir(folder.path().join("frames"))?;
        for file in [DATABASE, PUBLIC] {
            fs::copy(from.path().join(file), folder.path().join(file))?;
        }
        if log {
            let file = format!("{DATABASE}-wal");
            fs::copy(from.path().join(&file), folder.path().join(&file))?;
        }
        Ok(folder)
    }
}

async fn fill(store: &Store) -> Result<()> {
    let now = OffsetDateTime::now_utc();
    let root = Path::new("/models").to_owned();
    let thresholds = Thresholds {
        accept: vec!["cod".into()],
        accept_from: 0.9,
        unsure_from: 0.5,
        temperature: 1.0,
        unknown_from: None,
    };
    let model = Some(Deciding { sha256: "0".repeat(64), thresholds: thresholds.clone() });
    let mut to_serve = ToServe { root, version: "a".into(), history: Vec::new(), model };
    store.note_serving(&to_serve, true).await?;
    to_serve.version = "b".into();
    store.note_serving(&to_serve, false).await?;
    let model = json!({ "kind": "model", "model": "belt-small@0123456789ab", "sha256": "0",
        "thresholds_hash": "0123456789ab", "thresholds": thresholds });
    store.append(event(model)?).await?;
    old(store, now).await?;
    for n in 0..3 {
        let lot = store.begin_lot(&format!("lot {n}"), "Ada").await?;
        let gap = event(json!({ "kind": "gap", "verdicts": n, "pictures": 0, "events": 1 }))?;
        let lost = event(json!({ "kind": "camera_lost", "camera": "belt", "why": "unplugged" }))?;
        for part in 0..4 {
            let verdicts: Vec<Verdict> = (0..100).map(|i| of_lot(part * 100 + i, lot)).collect();
            store.insert_after(&[gap.clone(), lost.clone()], &verdicts).await?;
        }
        store.append(event(json!({ "kind": "camera_back", "camera": "belt" }))?).await?;
        challenge(store, lot, n < 2).await?;
        store.end_lot("Ada").await?;
        if n < 2 {
            let signed = json!({ "kind": "signed_off", "lot": lot, "name": "Cleo", "remark": "fine" });
            store.append(event(signed)?).await?;
        }
    }
    people(store, now).await
}

/// An event out of what it stands as in the record.
fn event(mut said: Value) -> Result<Event> {
    said["time"] = "2026-11-29T08:00:00Z".into();
    Ok(serde_json::from_value::<Entry>(said)?.event)
}

/// Verdicts and pictures that retention removes.
async fn old(store: &Store, now: OffsetDateTime) -> Result<()> {
    let then = now - DAY * 90;
    let mut verdicts = Vec::new();
    for n in 0..20u8 {
        let jpeg = Bytes::from(vec![n; 40]);
        let key = frame_key(&jpeg, then);
        store.put_frame(&key, jpeg).await?;
        verdicts.push(Verdict { time: then, frame: Some(key), ..verdict(Action::Reject, 1, None) });
    }
    let last = verdicts.split_off(10);
    store.insert(&verdicts).await?;
    let late: Vec<Verdict> = last.into_iter().map(|old| Verdict { time: now, ..old }).collect();
    store.insert(&late).await?;
    let rules = Retention { other_pictures: DAY * 30, verdicts: DAY * 30, ..Retention::default() };
    store.retain(&rules, now, true, &mut RetentionState::default()).await?;
    Ok(())
}

/// A challenge that is missed, with its corrective action.
async fn challenge(store: &Store, lot: i64, closed: bool) -> Result<()> {
    let asked = json!({ "kind": "challenge", "lot": lot, "camera": "belt", "piece": "trout dummy", "class": "trout",
        "within_s": 60.0, "after_verdict": 20, "by": "Ada" });
    let challenge = store.append(event(asked)?).await?;
    let missed = json!({ "kind": "challenge_result", "challenge": challenge, "lot": lot, "camera": "belt",
        "found": false, "verdict": null, "items": 3 });
    store.append(event(missed)?).await?;
    let opened = json!({ "kind": "corrective_opened", "lot": lot, "challenge": challenge, "cause": "missed",
        "last_good": null, "lots": [lot] });
    let action = store.append(event(opened)?).await?;
    if closed {
        let done = json!({ "kind": "corrective_closed", "action": action, "lot": lot, "lots": [lot],
            "done": "cleaned the lens", "by": "Bo" });
        store.append(event(done)?).await?;
    }
    Ok(())
}

/// Labels and the audit log.
async fn people(store: &Store, now: OffsetDateTime) -> Result<()> {
    let long = "a person with a long name ".repeat(60);
    for (verdict, class, by) in [
        (40, Some("cod"), "Ada"),
        (40, Some("cod"), "Bo"),
        (41, None, "Ada"),
        (42, Some("bass"), "Bo"),
        (42, Some("trout"), "Ada"),
        (43, Some("cod"), long.as_str()),
    ] {
        store.add_label(verdict, class, by, now).await?;
    }
    store.withdraw_label(4, "Bo", now).await?;
    for (status, role) in [(200, "admin"), (403, "viewer"), (201, "operator")] {
        let [time, name, role, address, method, path] =
            ["2026-11-29T09:00:00Z", "eve", role, "10.0.0.7:5000", "POST", "/lots"].map(String::from);
        store.audit(&Deed { id: 0, time, name, role, address, method, path, status }).await?;
    }
    Ok(())
}

fn of_lot(n: usize, lot: i64) -> Verdict {
    let action = [Action::Accept, Action::Accept, Action::Reject, Action::Divert][n % 4];
    let mut one = verdict(action, n as u64, Some(lot));
    if n.is_multiple_of(7) {
        one.frame = Some(format!("20261129-{n:024x}"));
    }
    if n.is_multiple_of(97) {
        // Larger than a page.
        one.scores = (0..150).map(|n| ClassScore { class: format!("class {n}"), probability: 0.001 }).collect();
    }
    one
}

fn verdict(action: Action, track: u64, lot: Option<i64>) -> Verdict {
    let reason = match action {
        Action::Accept => Reason::Accepted,
        Action::Reject => Reason::WrongClass,
        Action::Divert => Reason::Unsure,
    };
    let class = Some(if action == Action::Accept { "cod" } else { "trout" }.into());
    let time = OffsetDateTime::now_utc();
    Verdict {
        id: 0,
        uid: draw_uid(time),
        time,
        source: if track.is_multiple_of(3) { Source::Http } else { Source::Belt },
        camera: "belt".into(),
        track,
        region: Some(Region { x: 211, y: 87, width: 231, height: 94 }),
        decision: Decision { action, reason, class, accept_probability: 0.25 },
        scores: vec![ClassScore { class: "trout".into(), probability: 0.75 }],
        model: "belt-small@0123456789ab".into(),
        thresholds: "0123456789ab".into(),
        lot,
        fault: None,
        timings: Timings { decode_ms: 1.5, locate_ms: 0.12, queue_ms: 0.21, infer_ms: 7.1, total_ms: 8.8 },
        frame: None,
        truth: None,
        novelty: Some(0.5),
        optics: None,
    }
}
