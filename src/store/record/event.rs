//! What the record holds besides verdicts, as JSON documents with a `kind` and a `time`.
//!
//! Invariant: kinds and fields are only ever added, so that an old record can be read for ever.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::Thresholds;

/// One entry that is not a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The record's first entry. Verdicts that were in the store before it follow as entries at once.
    Began {
        /// Whether the rows that people write beside it are held from the start; false in records of older versions.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rows: bool,
    },
    /// The service started. Since the entry before it nothing was inspected.
    Started {
        /// Of this program.
        version: String,
        /// False when the service before it did not stop in order: it crashed, was killed or lost power.
        after_stop: bool,
        /// The last sign of the service before it: when the entry before this one was committed.
        #[serde(default, with = "time::serde::rfc3339::option")]
        down_since: Option<OffsetDateTime>,
    },
    /// The service stopped in order.
    Stopped,
    /// The store was restored from an archive: what was recorded after the archive was made is not in it.
    Restored {
        /// When the archive was made.
        #[serde(with = "time::serde::rfc3339")]
        archived: OffsetDateTime,
        /// Where the record ended then: `ENTRY:HASH`.
        record: String,
        /// When it was restored.
        #[serde(with = "time::serde::rfc3339")]
        restored: OffsetDateTime,
    },
    /// From here on verdicts may come from this model with these thresholds.
    Model {
        /// As in verdicts, `name@hash-prefix`.
        model: String,
        /// SHA-256 of its file.
        sha256: String,
        /// As in verdicts: the first 12 hexadecimal digits of the SHA-256 of `thresholds` as JSON.
        thresholds_hash: String,
        /// In full.
        thresholds: Thresholds,
    },
    /// A lot begins; its number is this entry's place.
    LotOpened {
        /// What people call it.
        name: String,
        /// Who opened it; empty where nobody said.
        by: String,
    },
    /// A lot ends.
    LotClosed {
        /// Its number.
        lot: i64,
        /// Who closed it; empty where nobody said.
        by: String,
    },
    /// A camera can't be opened, stopped sending or is frozen; items pass it unjudged until it is back.
    CameraLost {
        /// Its name.
        camera: String,
        /// What the camera's driver said; begins with `frozen` where it goes on sending the very same picture.
        why: String,
    },
    /// A lost camera sends again, a frozen one something else.
    CameraBack {
        /// Its name.
        camera: String,
    },
    /// The first picture of a camera since the service started was searched: nobody looked at its belt before.
    CameraBegan {
        /// Its name.
        camera: String,
    },
    /// Nobody looks at a camera's belt any more: the service stops.
    CameraEnded {
        /// Its name.
        camera: String,
    },
    /// Items were followed on the belt and went on without a verdict.
    PassedUnjudged {
        /// The camera's name.
        camera: String,
        /// How many.
        items: u64,
        /// When the first of them was missed.
        #[serde(with = "time::serde::rfc3339")]
        from: OffsetDateTime,
    },
    /// A camera's items get no scores, several in a row; each was rejected.
    Degraded {
        /// The camera's name.
        camera: String,
        /// What keeps them from being scored, in words.
        fault: String,
    },
    /// A camera's items are scored again.
    Recovered {
        /// The camera's name.
        camera: String,
        /// Items that had no scores.
        items: u64,
    },
    /// A command to a gate was not acknowledged in time: the item may have stayed on the belt.
    EjectLate {
        /// The gate's name.
        gate: String,
        /// The item's camera.
        camera: String,
        /// Its track number on that camera, as in its verdict.
        track: u64,
        /// Its uid, as in its verdict; absent in older records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<Uuid>,
        /// What should have moved the gate: `modbus`, `mqtt`, `webhook` or `log`.
        output: String,
        /// Why, in words.
        why: String,
        /// What it led to: `stop_line`, `divert` or `alarm`.
        led_to: String,
        /// The lot that was open when the item was judged.
        #[serde(default)]
        lot: Option<i64>,
        /// When its picture was taken; absent in records of older versions.
        #[serde(default, with = "time::serde::rfc3339::option")]
        passed: Option<OffsetDateTime>,
    },
    /// The service before this one did not stop in order: what lies before the gate is led aside until it has passed.
    FlushAsked {
        /// The gate's name.
        gate: String,
        /// Its camera.
        camera: String,
        /// The verdicts whose commands may have been under way.
        under_way: Vec<i64>,
        /// What it led to: `divert`, `stop_line` or `alarm`.
        led_to: String,
    },
    /// What lay before the gates at the start has passed them all.
    FlushOver,
    /// A PLC was given a command that it carries out by itself when the belt is there.
    EjectCommand {
        /// The gate's name.
        gate: String,
        /// The item's camera.
        camera: String,
        /// Its track number on that camera, as in its verdict.
        track: u64,
        /// Its uid, as in its verdict; absent in older records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<Uuid>,
        /// What it was told by: the output's name.
        output: String,
        /// The command's number at this gate.
        number: u16,
        /// The encoder's count at which the item is at the gate.
        target: u32,
    },
    /// A good item was led out because the gate could not be shut between it and one that had to leave.
    EjectBeside {
        /// The gate's name.
        gate: String,
        /// The item's camera.
        camera: String,
        /// Its track number on that camera, as in its verdict.
        track: u64,
        /// Its uid, as in its verdict.
        uid: Uuid,
    },
    /// The encoder said nothing for so long that nobody knows where the belt is; commands are late until it is back.
    EncoderLost {
        /// Why, in words.
        why: String,
    },
    /// A lost encoder counts again.
    EncoderBack,
    /// The encoder's count jumped as no belt runs: it was reset. What waited by the old counting was late.
    EncoderReset {
        /// The count before.
        from: u32,
        /// The count after.
        to: u32,
    },
    /// For a second a camera saw another way of the belt than the encoder counted; commands are late until they agree.
    EncoderApart {
        /// The camera's name.
        camera: String,
        /// Its way in that second, in mm.
        seen_mm: f64,
        /// The encoder's.
        counted_mm: f64,
    },
    /// Camera and encoder agree again.
    EncoderAgrees {
        /// The camera's name.
        camera: String,
    },
    /// The belt began to run backwards; what waits for its gate is held.
    BeltReversed,
    /// The belt runs forwards again.
    BeltForward {
        /// How far back it went, in mm.
        back_mm: f64,
    },
    /// An item that should have left the belt was not seen to by the sensor after the gate.
    RejectMissed {
        /// The gate's name.
        gate: String,
        /// The item's camera.
        camera: String,
        /// Its track number on that camera, as in its verdict.
        track: u64,
        /// Its uid, as in its verdict; absent in older records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<Uuid>,
        /// The lot that was open when the item was judged.
        #[serde(default)]
        lot: Option<i64>,
        /// When its picture was taken; absent in records of older versions.
        #[serde(default, with = "time::serde::rfc3339::option")]
        passed: Option<OffsetDateTime>,
    },
    /// Something left the belt that no verdict asked for.
    RejectFalse {
        /// The gate's name.
        gate: String,
    },
    /// A known wrong piece is about to be sent through; its number is this entry's place.
    Challenge {
        /// The open lot.
        lot: Option<i64>,
        /// The camera it will pass.
        camera: String,
        /// What it is, in words.
        piece: String,
        /// Set: only an item that is taken for this class counts as found.
        class: Option<String>,
        /// It passes within this many seconds.
        within_s: f64,
        /// Only verdicts with a higher id decide.
        after_verdict: i64,
        /// Who sends it.
        by: String,
    },
    /// How a challenge ended.
    ChallengeResult {
        /// Its number.
        challenge: i64,
        /// The lot that was open when it was announced.
        lot: Option<i64>,
        /// The camera.
        camera: String,
        /// Whether an item was taken off the belt that can have been the piece.
        found: bool,
        /// The verdict about it.
        verdict: Option<i64>,
        /// Items that passed the camera in the time announced.
        items: i64,
        /// Whether the gate acknowledged the command for it; absent where no gate is configured, or nothing was taken off.
        #[serde(default)]
        acknowledged: Option<bool>,
        /// Whether the sensor after the gate saw it leave; absent where there is none.
        #[serde(default)]
        confirmed: Option<bool>,
        /// Why it was missed, in words; empty where it was found, and in older records.
        #[serde(default)]
        why: String,
    },
    /// Something must be put right; its number is this entry's place.
    CorrectiveOpened {
        /// The lot that was open when the challenge was announced.
        lot: Option<i64>,
        /// The challenge that was missed.
        challenge: i64,
        /// What happened, in words.
        cause: String,
        /// When a challenge was last found on that camera: what passed since is in doubt. `None`: never.
        #[serde(default, with = "time::serde::rfc3339::option")]
        last_good: Option<OffsetDateTime>,
        /// The lots that are in doubt: all that were open since then.
        #[serde(default)]
        lots: Vec<i64>,
    },
    /// It was put right.
    CorrectiveClosed {
        /// Its number.
        action: i64,
        /// The lot it concerned.
        lot: Option<i64>,
        /// The lots that were in doubt.
        #[serde(default)]
        lots: Vec<i64>,
        /// What was done, in words.
        done: String,
        /// Who did it.
        by: String,
    },
    /// Somebody reviewed a closed lot.
    SignedOff {
        /// Its number.
        lot: i64,
        /// Who.
        name: String,
        /// What they say about it.
        remark: String,
    },
    /// A lot that was signed off came into doubt later: nothing that was signed before this entry holds.
    SignOffWithdrawn {
        /// Its number.
        lot: i64,
        /// What put it in doubt, in words.
        why: String,
    },
    /// Somebody asked for a change over HTTP; see [`crate::store::Deed`].
    Audit {
        /// The token's name; `local` when no token is set.
        name: String,
        /// The token's role.
        role: String,
        /// Where the request came from.
        address: String,
        /// The HTTP method.
        method: String,
        /// The path without its query.
        path: String,
        /// How it was answered: the HTTP status.
        status: u16,
    },
    /// A row beside the record was written: its newest entry of this kind holds it.
    RowHeld {
        /// The table's name: `labels`, `audit`, `frames_gone`, `serving` or `draws`.
        table: String,
        /// What tells its rows apart: the id, the picture's key, or the verdict.
        row: String,
        /// SHA-256 of the row's columns as a JSON array.
        sha256: String,
    },
    /// From here on rows are held; those that were there before stand as entries right before this one.
    RowsAdopted {
        /// How many.
        rows: u64,
    },
    /// Pictures whose time was over were removed.
    PicturesRemoved {
        /// How many.
        pictures: u64,
    },
    /// Documents of verdicts whose time was over were removed; their entries stay.
    VerdictsRemoved {
        /// Those with ids up to this one, labeled ones excepted.
        to: i64,
        /// How many.
        verdicts: u64,
        /// Lot and how many of it; lot 0 for those of none. Older versions did not say.
        #[serde(default)]
        lots: Vec<(i64, i64)>,
    },
    /// What could not be recorded while one lot was open, or none; the line went on without.
    Gap {
        /// The lot.
        #[serde(default)]
        lot: Option<i64>,
        /// Verdicts.
        verdicts: u64,
        /// Pictures that should have been kept.
        #[serde(default)]
        pictures: u64,
        /// Events of other kinds.
        #[serde(default)]
        events: u64,
        /// When the first of all these was lost.
        #[serde(default, with = "time::serde::rfc3339::option")]
        from: Option<OffsetDateTime>,
        /// When the last one was.
        #[serde(default, with = "time::serde::rfc3339::option")]
        to: Option<OffsetDateTime>,
    },
    /// An admin says that the clock is right, so that age may decide what is removed, until it is set or the service ends.
    ClockConfirmed {
        /// Who.
        by: String,
    },
    /// The clock was set: times before and after this entry can't be compared.
    ClockSet {
        /// By how many seconds; below 0 backwards.
        seconds: f64,
    },
}

impl Event {
    /// In words, what passed unjudged, was not taken off or is not in the record, if the event tells so: it puts its lot in
    /// doubt.
    pub fn loss(&self) -> Option<&'static str> {
        Some(match self {
            Self::Gap { verdicts, events, .. } if verdicts + events > 0 => "verdicts or events that were not recorded",
            Self::EjectLate { .. } => "a late command to a gate",
            Self::RejectMissed { .. } => "a reject that was not seen to leave the belt",
            Self::PassedUnjudged { .. } => "items that passed unjudged",
            Self::CameraLost { .. } => "a lost camera",
            Self::Degraded { .. } => "items that could not be judged",
            Self::EncoderLost { .. } => "a lost encoder",
            _ => return None,
        })
    }

    /// The lot to which the event belongs whenever it is told, where it is about something that passed or was lost.
    pub fn happened_in(&self) -> Option<i64> {
        match self {
            Self::EjectLate { lot, .. } | Self::RejectMissed { lot, .. } | Self::Gap { lot, .. } => *lot,
            _ => None,
        }
    }
}

/// An entry as it stands in the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the record; 0 until it has one.
    #[serde(skip)]
    pub seq: i64,
    /// When it happened; it may have waited for the store since.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
