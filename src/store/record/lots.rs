//! Lots: opened and closed by entries of the record, which is all there is of them.
//!
//! Invariant: at most one lot is open. A verdict belongs to the lot that was open when it was decided, and so does what
//! became of its item; a loss belongs to the lot in which it happened. So entries of a closed lot may stand behind its
//! closing: they waited for the store, the gate or the sensor. They are its, and no other lot's.

use std::sync::atomic::Ordering;

use serde::Serialize;
use sqlx::{AssertSqlSafe, SqliteConnection};
use time::OffsetDateTime;

use super::{
    chain::{self, Body, UNSAID, extend, no_head, tail},
    event::{Entry, Event},
    signer::hex,
};
use crate::{
    domain::{Action, Verdict, time::rfc3339},
    store::{Store, StoreError, uids::StoreIdentity},
};

/// The places of the events that name a lot, which is bound twice. Each half has an index; with OR there would be none.
pub(in crate::store) const NAMED: &str = "SELECT seq FROM record WHERE verdict IS NULL AND lot = ? UNION
    SELECT seq FROM record WHERE verdict IS NULL AND kind IN ('corrective_opened', 'corrective_closed')
        AND EXISTS (SELECT 1 FROM json_each(body, '$.lots') WHERE value = ?)";

/// A lot's name in its opening entry.
pub(in crate::store) const NAME: &str = "CASE WHEN verdict IS NULL THEN json_extract(body, '$.name') END";

impl Store {
    /// The number of the open lot: the place of its opening in the record.
    pub fn open_lot(&self) -> Option<i64> {
        Some(self.lot.load(Ordering::Acquire)).filter(|lot| *lot > 0)
    }

    /// Opens a lot, and closes the open one before, in one step; returns its number.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing has changed.
    pub async fn begin_lot(&self, name: &str, by: &str) -> Result<i64, StoreError> {
        let opened = Event::LotOpened { name: name.into(), by: by.into() };
        let lot = self.change_lot(by, Some(opened)).await?;
        Ok(lot.unwrap_or(0))
    }

    /// Closes the open lot; returns its number, or `None` when none was open.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing has changed.
    pub async fn end_lot(&self, by: &str) -> Result<Option<i64>, StoreError> {
        self.change_lot(by, None).await
    }

    /// Appends an event that happened at `time` while `lot` was open, if it does not say a lot itself; returns its place. A
    /// loss in a lot that was signed off meanwhile withdraws that.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then it was not recorded.
    pub async fn append_of(&self, event: Event, time: OffsetDateTime, lot: Option<i64>) -> Result<i64, StoreError> {
        let (loss, lot_of_it) = (event.loss(), event.happened_in().or(lot));
        let body = serde_json::to_value(Entry { seq: 0, time, event }).and_then(|mut body| {
            if let Some(fields) = body.as_object_mut() {
                fields.entry("lot").or_insert(lot.into());
            }
            serde_json::to_string(&body)
        });
        let body = Body::Event(body.map_err(|e| sqlx::Error::Encode(e.into()))?);
        let mut transaction = self.begin().await?;
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        let seq = tail.seq + 1;
        let mut bodies = vec![body];
        if let (Some(loss), Some(lot)) = (loss, lot_of_it.filter(|lot| self.open_lot() != Some(*lot))) {
            let why = format!("entry {seq} tells of {loss}");
            bodies.extend(withdrawals(&mut transaction, &[lot], &why).await?);
        }
        extend(&mut transaction, self.signer()?, tail, &bodies).await?;
        transaction.commit().await?;
        Ok(seq)
    }

    async fn change_lot(&self, by: &str, opened: Option<Event>) -> Result<Option<i64>, StoreError> {
        let mut transaction = self.begin().await?;
        // Read only now: nobody else can change it while the transaction holds the write lock.
        let open = self.open_lot();
        let closed = open.map(|lot| Event::LotClosed { lot, by: by.into() });
        let bodies: Vec<_> =
            closed.into_iter().chain(opened.clone()).map(chain::event).collect::<Result<_, StoreError>>()?;
        if bodies.is_empty() {
            return Ok(None);
        }
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        let tail = extend(&mut transaction, self.signer()?, tail, &bodies).await?;
        transaction.commit().await?;
        let now_open = if opened.is_some() { tail.seq } else { 0 };
        self.lot.store(now_open, Ordering::Release);
        Ok(if opened.is_some() { Some(now_open) } else { open })
    }
}

/// A lot, as its entries tell it.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Lot {
    /// Its number: the place of its opening in the record.
    pub lot: i64,
    /// What people call it; several lots may share a name.
    pub name: String,
    /// When it was opened (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub opened: OffsetDateTime,
    /// Who opened it; empty where nobody said.
    pub opened_by: String,
    /// When it was closed (RFC 3339); `null` while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub closed: Option<OffsetDateTime>,
    /// Who closed it; empty where nobody said.
    pub closed_by: String,
    /// The entry that closed it.
    pub closed_at: Option<i64>,
    /// Who reviewed it, the last one first; empty while it is not signed off.
    pub signed_off: Vec<SignOff>,
    /// Reviews that hold no more, the last one first: the lot came into doubt after them.
    pub withdrawn: Vec<WithdrawnSignOff>,
}

/// A review that holds no more.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct WithdrawnSignOff {
    /// Who.
    pub name: String,
    /// When they signed (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub time: OffsetDateTime,
    /// What they said about it.
    pub remark: String,
    /// When it was withdrawn (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub withdrawn: OffsetDateTime,
    /// What put the lot in doubt, in words.
    pub why: String,
}

/// A review of a closed lot.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct SignOff {
    /// Who.
    pub name: String,
    /// When (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub time: OffsetDateTime,
    /// What they said about it.
    pub remark: String,
}

/// How many verdicts of a lot are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Tally)]
pub struct LotTally {
    /// What happened to them.
    pub action: Action,
    /// The most probable class; `null` after a fault.
    pub class: Option<String>,
    /// The model that judged.
    pub model: String,
    /// The thresholds that decided.
    pub thresholds: String,
    /// How many.
    pub verdicts: i64,
}

/// Verdicts of a lot that retention has removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct RemovedOf {
    /// How many.
    pub verdicts: i64,
    /// When retention last removed some (RFC 3339).
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = "date-time")]
    pub before: OffsetDateTime,
}

impl Store {
    /// The newest lots, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn lots(&self, limit: usize) -> Result<Vec<Lot>, StoreError> {
        self.find_lots(None, "", limit).await
    }

    /// Lots, newest first: those opened before the number `before`, whose name contains `name` whatever its case.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn find_lots(&self, before: Option<i64>, name: &str, limit: usize) -> Result<Vec<Lot>, StoreError> {
        let query = format!(
            "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL AND kind = 'lot_opened' AND seq < ?
                 AND instr(lower({NAME}), lower(?)) > 0 ORDER BY seq DESC LIMIT ?"
        );
        let rows: Vec<(i64, String)> = sqlx::query_as(AssertSqlSafe(query))
            .bind(before.unwrap_or(i64::MAX))
            .bind(name)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&self.database)
            .await?;
        self.gather_lots(rows).await
    }

    /// The lots of these opening entries, newest first, with what was said of them since.
    async fn gather_lots(&self, mut rows: Vec<(i64, String)>) -> Result<Vec<Lot>, StoreError> {
        let (Some(first), Some(last)) = (rows.last(), rows.first()) else { return Ok(Vec::new()) };
        // The + keeps SQLite from going through all entries of these kinds.
        let told = sqlx::query_as(
            "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL AND lot BETWEEN ? AND ?
                 AND +kind IN ('lot_closed', 'signed_off', 'sign_off_withdrawn')",
        );
        let told: Vec<(i64, String)> = told.bind(first.0).bind(last.0).fetch_all(&self.database).await?;
        rows.extend(told);
        rows.sort_by_key(|row| row.0);
        let events: Vec<Entry> = rows.iter().map(|(seq, body)| chain::entry(*seq, body)).collect::<Result<_, _>>()?;
        Ok(gather(&events).into_iter().rev().collect())
    }

    /// The lot of this number.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn lot(&self, lot: i64) -> Result<Option<Lot>, StoreError> {
        let opened = sqlx::query_as(
            "SELECT seq, CAST(body AS TEXT) FROM record WHERE seq = ? AND verdict IS NULL AND +kind = 'lot_opened'",
        );
        let opened = opened.bind(lot).fetch_all(&self.database).await?;
        Ok(self.gather_lots(opened).await?.pop())
    }

    /// The newest lot of this name.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn lot_named(&self, name: &str) -> Result<Option<Lot>, StoreError> {
        let query = format!(
            "SELECT seq FROM record WHERE verdict IS NULL AND kind = 'lot_opened' AND {NAME} = ? ORDER BY seq DESC LIMIT 1"
        );
        let lot = sqlx::query_scalar(AssertSqlSafe(query)).bind(name).fetch_optional(&self.database).await?;
        match lot {
            Some(lot) => self.lot(lot).await,
            None => Ok(None),
        }
    }

    /// A lot's verdicts, counted.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn tallies(&self, lot: i64) -> Result<Vec<LotTally>, StoreError> {
        let rows: Vec<(String, Option<String>, String, String, i64)> = sqlx::query_as(
            "SELECT action, class, model, thresholds, verdicts FROM tallies WHERE lot = ? ORDER BY verdicts DESC",
        )
        .bind(lot)
        .fetch_all(&self.database)
        .await?;
        let tally = |(action, class, model, thresholds, verdicts): (String, _, _, _, _)| {
            let known = [Action::Accept, Action::Reject, Action::Divert].into_iter().find(|a| a.name() == action);
            let action = known.ok_or_else(|| StoreError::Record(format!("there is no action `{action}`")))?;
            Ok(LotTally { action, class, model, thresholds, verdicts })
        };
        rows.into_iter().map(tally).collect()
    }

    /// The newest rejected and diverted items of a lot, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn taken_off(&self, lot: i64, limit: usize) -> Result<Vec<Verdict>, StoreError> {
        let query = "SELECT id, body FROM verdicts WHERE lot = ? AND action <> 'accept' ORDER BY id DESC LIMIT ?";
        let rows: Vec<(i64, String)> =
            sqlx::query_as(query).bind(lot).bind(limit as i64).fetch_all(&self.database).await?;
        rows.iter().map(|(id, body)| self.identity.verdict(*id, body)).collect()
    }

    /// How many verdicts of a lot retention has removed.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Record`].
    pub async fn removed_of(&self, lot: &Lot) -> Result<Option<RemovedOf>, StoreError> {
        let mut connection = self.database.acquire().await?;
        let verdicts: Option<i64> = sqlx::query_scalar("SELECT verdicts FROM lots_removed WHERE lot = ?")
            .bind(lot.lot)
            .fetch_optional(&mut *connection)
            .await?;
        let Some(verdicts) = verdicts else { return Ok(None) };
        let last = chain::last_of(&mut connection, &["verdicts_removed"]).await?;
        Ok(last.map(|entry| RemovedOf { verdicts, before: entry.time }))
    }

    /// Reviews a closed lot whose challenges are decided and that no open corrective action puts in doubt.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with the reason, [`StoreError::Database`].
    pub async fn sign_off(&self, lot: i64, name: &str, remark: &str) -> Result<(), StoreError> {
        let refuse = |why: String| Err(StoreError::Refused(why));
        // Held until the end: no doubt is told between the looking and the signing.
        let mut transaction = self.begin().await?;
        let Some(found) = self.lot(lot).await? else { return refuse(format!("there is no lot {lot}")) };
        if found.closed.is_none() {
            return refuse(format!("lot {} is still open", found.name));
        }
        // Looked at first: a miss is recorded in one step with its corrective action, which is then seen below.
        let challenges = self.challenges(Some(lot)).await?;
        if let Some(running) = challenges.iter().find(|challenge| challenge.found.is_none()) {
            return refuse(format!("challenge test {} of lot {} is not decided yet", running.challenge, found.name));
        }
        let open: Vec<_> = self.corrective_actions(Some(lot)).await?;
        if let Some(action) = open.iter().find(|action| action.closed.is_none()) {
            return refuse(format!("corrective action {} about lot {} is open", action.action, found.name));
        }
        let signed = [chain::event(Event::SignedOff { lot, name: name.into(), remark: remark.into() })?];
        let tail = tail(&mut transaction).await?.ok_or_else(no_head)?;
        extend(&mut transaction, self.signer()?, tail, &signed).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// The entries that withdraw the sign-offs of those of `lots` that are signed off.
pub(in crate::store) async fn withdrawals(
    connection: &mut SqliteConnection,
    lots: &[i64],
    why: &str,
) -> Result<Vec<Body>, StoreError> {
    // The newest word of each lot: SQLite takes `kind` from the row of the greatest `seq`.
    let last: Vec<(i64, i64, String)> = sqlx::query_as(
        "SELECT lot, max(seq), kind FROM record
         WHERE verdict IS NULL AND kind IN ('signed_off', 'sign_off_withdrawn') GROUP BY lot",
    )
    .fetch_all(connection)
    .await?;
    let signed = last.into_iter().filter(|(lot, _, kind)| lots.contains(lot) && kind == "signed_off");
    signed.map(|(lot, ..)| chain::event(Event::SignOffWithdrawn { lot, why: why.into() })).collect()
}

/// Lots in the order of their opening.
fn gather(events: &[Entry]) -> Vec<Lot> {
    let mut lots: Vec<Lot> = Vec::new();
    for Entry { seq, time, event } in events {
        match event {
            Event::LotOpened { name, by } => lots.push(Lot {
                lot: *seq,
                name: name.clone(),
                opened: *time,
                opened_by: by.clone(),
                closed: None,
                closed_by: String::new(),
                closed_at: None,
                signed_off: Vec::new(),
                withdrawn: Vec::new(),
            }),
            Event::LotClosed { lot, by } => {
                if let Some(lot) = lots.iter_mut().rev().find(|l| l.lot == *lot) {
                    (lot.closed, lot.closed_by, lot.closed_at) = (Some(*time), by.clone(), Some(*seq));
                }
            }
            Event::SignedOff { lot, name, remark } => {
                if let Some(lot) = lots.iter_mut().rev().find(|l| l.lot == *lot) {
                    lot.signed_off.insert(0, SignOff { name: name.clone(), time: *time, remark: remark.clone() });
                }
            }
            Event::SignOffWithdrawn { lot, why } => {
                if let Some(lot) = lots.iter_mut().rev().find(|l| l.lot == *lot) {
                    let signed = std::mem::take(&mut lot.signed_off).into_iter();
                    let withdrawn = signed.map(|SignOff { name, time: signed, remark }| {
                        let (withdrawn, why) = (*time, why.clone());
                        WithdrawnSignOff { name, time: signed, remark, withdrawn, why }
                    });
                    lot.withdrawn.splice(0..0, withdrawn);
                }
            }
            _ => {}
        }
    }
    lots
}

/// An entry of a lot, to be written down.
#[derive(Clone, Debug)]
pub struct LotEntry {
    /// Its place.
    pub seq: i64,
    /// `verdict`, `verdict_gone`, or the event's kind.
    pub kind: String,
    /// When the picture was taken or the event happened (RFC 3339); empty for a verdict that is gone.
    pub time: String,
    /// The verdict's number, if it is or was one.
    pub id: Option<i64>,
    /// The verdict, if it is one.
    pub verdict: Option<Verdict>,
    /// The event as JSON, if it is one.
    pub details: String,
    /// Its hash in hexadecimal digits.
    pub hash: String,
    /// Whether it happened while the lot was open, and stands behind its closing.
    pub told_later: bool,
}

impl Store {
    /// Entries of `lot` after the place `after` and up to `end`, in order: its verdicts, the events between its opening
    /// and closing that say no other lot, those of verdicts there that are gone, and the events that name it.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn lot_entries(&self, lot: &Lot, after: i64, end: i64, limit: u32) -> Result<Vec<LotEntry>, StoreError> {
        const COLUMNS: &str = "record.seq, record.verdict, CAST(record.body AS BLOB), record.hash, record.kind";
        let closed = lot.closed_at.unwrap_or(end);
        let last = self.last_of_lot(lot.lot, closed).await?.min(end);
        let query = format!(
            "SELECT {COLUMNS}, v.body FROM record LEFT JOIN verdicts v ON v.id = record.verdict
             WHERE record.seq > ? AND record.seq <= ?
               AND (v.lot = ? OR (v.id IS NULL AND record.seq BETWEEN ? AND ? AND {UNSAID}) OR record.seq IN ({NAMED}))
             ORDER BY record.seq LIMIT ?"
        );
        let mut rows: Vec<EntryRow> = sqlx::query_as(AssertSqlSafe(query))
            .bind(after)
            .bind(last)
            .bind(lot.lot)
            .bind(lot.lot)
            .bind(closed)
            .bind(lot.lot)
            .bind(lot.lot)
            .bind(limit)
            .fetch_all(&self.database)
            .await?;
        if rows.len() < limit as usize {
            // Behind the lot's end only what names it, found by index.
            let query = format!(
                "SELECT {COLUMNS}, NULL FROM record WHERE record.seq IN ({NAMED}) AND record.seq > ? AND record.seq <= ?
                 ORDER BY record.seq LIMIT ?"
            );
            let later: Vec<EntryRow> = sqlx::query_as(AssertSqlSafe(query))
                .bind(lot.lot)
                .bind(lot.lot)
                .bind(after.max(last))
                .bind(end)
                .bind(limit - rows.len() as u32)
                .fetch_all(&self.database)
                .await?;
            rows.extend(later);
        }
        rows.into_iter().map(|row| lot_entry(self.identity, lot.closed_at, row)).collect()
    }

    /// The place behind which no verdict of the lot stands. Those that waited for the store stand a little behind its
    /// closing; ids rise with places.
    async fn last_of_lot(&self, lot: i64, closed: i64) -> Result<i64, StoreError> {
        let late: Option<i64> = sqlx::query_scalar(
            "SELECT seq FROM record WHERE seq >= ? AND verdict >= (SELECT max(id) FROM verdicts WHERE lot = ?)
             ORDER BY seq LIMIT 1",
        )
        .bind(closed)
        .bind(lot)
        .fetch_optional(&self.database)
        .await?;
        Ok(late.unwrap_or(closed))
    }
}

/// Place, verdict, body, hash, kind, document.
type EntryRow = (i64, Option<i64>, Vec<u8>, Vec<u8>, Option<String>, Option<String>);

fn lot_entry(
    identity: StoreIdentity,
    closed_at: Option<i64>,
    (seq, id, body, hash, kind, document): EntryRow,
) -> Result<LotEntry, StoreError> {
    let hash = hex(&hash);
    let behind = closed_at.is_some_and(|closed| seq > closed);
    let Some(number) = id else {
        let details = String::from_utf8_lossy(&body).into_owned();
        let Entry { time, event, .. } = chain::entry(seq, &details)?;
        let (kind, time, told_later) = (kind.unwrap_or_default(), rfc3339(time), behind && event.loss().is_some());
        return Ok(LotEntry { seq, kind, time, id, verdict: None, details, hash, told_later });
    };
    let (details, told_later) = (String::new(), behind);
    let Some(document) = document else {
        let (kind, time) = ("verdict_gone".into(), String::new());
        return Ok(LotEntry { seq, kind, time, id, verdict: None, details, hash, told_later });
    };
    let verdict = identity.verdict(number, &document)?;
    let (kind, time, verdict) = ("verdict".into(), rfc3339(verdict.time), Some(verdict));
    Ok(LotEntry { seq, kind, time, id, verdict, details, hash, told_later })
}
