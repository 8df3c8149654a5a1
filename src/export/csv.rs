//! A lot as CSV: every entry of it, verdicts and events, with the hashes that hold them. Of a verdict that retention
//! removed there is its number, of the kind `verdict_gone`. `told` is `later` where an entry stands behind the lot's closing.
//!
//! Invariant: read and written a page at a time, so a lot of any size costs the same memory.

use csv::Writer;

use crate::store::{Lot, LotEntry, Store, StoreError};

/// Column names.
pub const HEADER: [&str; 18] = [
    "entry",
    "kind",
    "time",
    "verdict",
    "camera",
    "track",
    "action",
    "reason",
    "class",
    "accept_probability",
    "model",
    "thresholds",
    "frame",
    "fault",
    "details",
    "hash",
    "uid",
    "told",
];
/// Entries in a page.
const PAGE: u32 = 1000;

/// A lot's CSV, in pieces.
pub struct LotCsv {
    store: Store,
    lot: Lot,
    after: Option<i64>,
    end: i64,
}

impl LotCsv {
    /// The CSV of `lot` as it is now.
    ///
    /// # Errors
    /// The store's.
    pub async fn new(store: Store, lot: Lot) -> Result<Self, StoreError> {
        let end = store.head().await?.0;
        Ok(Self { store, lot, after: None, end })
    }

    /// The next piece, the header first; `None` at the end.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        let mut rows = Writer::from_writer(Vec::new());
        let written = |e: csv::Error| StoreError::Record(e.to_string());
        let Some(after) = self.after else {
            self.after = Some(self.lot.lot - 1);
            rows.write_record(HEADER).map_err(written)?;
            return rows.into_inner().map(Some).map_err(|e| StoreError::Record(e.to_string()));
        };
        let entries = self.store.lot_entries(&self.lot, after, self.end, PAGE).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        self.after = Some(last.seq);
        for entry in entries {
            rows.write_record(row(entry).map(|cell| safe(&cell))).map_err(written)?;
        }
        rows.into_inner().map(Some).map_err(|e| StoreError::Record(e.to_string()))
    }
}

fn row(entry: LotEntry) -> [String; 18] {
    let LotEntry { seq, kind, time, id, verdict, details, hash, told_later } = entry;
    let told = if told_later { "later".into() } else { String::new() };
    let Some(v) = verdict else {
        let empty = String::new;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        return [
            seq.to_string(),
            kind,
            time,
            id,
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            empty(),
            details,
            hash,
            empty(),
            told,
        ];
    };
    [
        seq.to_string(),
        kind,
        time,
        v.id.to_string(),
        v.camera,
        v.track.to_string(),
        v.decision.action.name().into(),
        v.decision.reason.name().into(),
        v.decision.class.unwrap_or_default(),
        v.decision.accept_probability.to_string(),
        v.model,
        v.thresholds,
        v.frame.unwrap_or_default(),
        v.fault.unwrap_or_default(),
        details,
        hash,
        v.uid.to_string(),
        told,
    ]
}

/// Spreadsheets run a cell that begins so as a formula.
fn safe(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.into() }
}
