//! Which parts of the record hold a lot, and whether they are whole.

use std::collections::HashMap;

use ed25519_dalek::VerifyingKey;
use sqlx::{
    Row, SqliteConnection,
    sqlite::{SqlitePool, SqliteRow},
};

use super::{
    Finding, LotVerification, TOLD, finding,
    parts::{Head, signed_head, verify_parts},
    whole::schema_findings,
};
use crate::store::{
    Lot,
    record::{chain::CHECKPOINT, lots::NAMED, signer::hex},
    tallies::Alike,
};

pub(super) async fn verify_around(
    pool: &SqlitePool,
    key: &VerifyingKey,
    lot: &Lot,
) -> Result<LotVerification, sqlx::Error> {
    let mut findings = schema_findings(pool).await?;
    // One state: else an entry that is written meanwhile would stand behind the head.
    let mut state = pool.begin().await?;
    let head = signed_head(&mut *state, key).await?.unwrap_or_else(|| {
        findings.push(finding(0, "the head is not signed by this key"));
        Head { seq: 0, hash: [0; 32] }
    });
    // Verdicts that waited for the store stand a little behind the lot's closing.
    let last: Option<i64> = sqlx::query_scalar(
        "SELECT seq FROM record WHERE seq >= ? AND verdict = (SELECT max(id) FROM verdicts WHERE lot = ?)
         ORDER BY seq LIMIT 1",
    )
    .bind(lot.lot)
    .bind(lot.lot)
    .fetch_optional(&mut *state)
    .await?;
    let last = lot.closed_at.unwrap_or(head.seq).max(last.unwrap_or(0)).max(lot.lot);
    let later: Vec<i64> = sqlx::query_scalar(NAMED).bind(lot.lot).bind(lot.lot).fetch_all(&mut *state).await?;
    let removal: Option<(i64, i64)> = sqlx::query_as(
        "SELECT seq, json_extract(body, '$.to') FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed'
         ORDER BY seq DESC LIMIT 1",
    )
    .fetch_optional(&mut *state)
    .await?;
    let told = told(&mut state, lot.lot).await?;
    state.rollback().await?;

    let (removal, removed_to) = removal.unzip();
    let mut spans = vec![(lot.lot, last)];
    spans.extend(later.into_iter().chain(removal).map(|seq| (seq, seq)));
    findings.extend(spans.iter().filter(|span| span.0 < 1).map(|span| finding(span.0, "stands before the record")));
    let parts = between_checkpoints(spans, head.seq);
    let found = verify_parts(pool, key, &parts, head, removed_to.unwrap_or(0)).await?;
    findings.extend(found.findings);
    if findings.is_empty() {
        let counted = Some(found.counted.alike.into_iter().filter(|(alike, _)| alike.lot == lot.lot).collect());
        // Retention may have gone on meanwhile: then the counts are read again.
        if told.is_some() && told != counted && self::told(&mut *pool.acquire().await?, lot.lot).await? != counted {
            findings.push(finding(lot.lot, "its verdicts are counted otherwise than they are"));
        }
    }
    findings.sort();
    findings.truncate(TOLD);
    Ok(LotVerification { parts, removed: found.removed, public_key: hex(key.as_bytes()), findings })
}

/// What the counts say of a lot; `None` in a store of a version that did not count.
async fn told(connection: &mut SqliteConnection, lot: i64) -> Result<Option<HashMap<Alike, i64>>, sqlx::Error> {
    let counts = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'tallies')";
    if !sqlx::query_scalar::<_, bool>(counts).fetch_one(&mut *connection).await? {
        return Ok(None);
    }
    let rows = sqlx::query("SELECT action, class, model, thresholds, verdicts FROM tallies WHERE lot = ?")
        .bind(lot)
        .fetch_all(connection)
        .await?;
    let alike = |row: &SqliteRow| {
        let (action, class) = (row.try_get(0)?, row.try_get(1)?);
        Ok((Alike { lot, action, class, model: row.try_get(2)?, thresholds: row.try_get(3)? }, row.try_get(4)?))
    };
    rows.iter().map(alike).collect::<Result<_, _>>().map(Some)
}

/// What is wrong with the parts of the record that hold `spans`.
pub(super) async fn verify_spans(
    pool: &SqlitePool,
    key: &VerifyingKey,
    spans: Vec<(i64, i64)>,
) -> Result<Vec<Finding>, sqlx::Error> {
    let Some(head) = signed_head(pool, key).await? else {
        return Ok(vec![finding(0, "the head is not signed by this key")]);
    };
    let removed_to: Option<i64> = sqlx::query_scalar(
        "SELECT json_extract(body, '$.to') FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed'
         ORDER BY seq DESC LIMIT 1",
    )
    .fetch_optional(pool)
    .await?;
    let parts = between_checkpoints(spans, head.seq);
    Ok(verify_parts(pool, key, &parts, head, removed_to.unwrap_or(0)).await?.findings)
}

/// The parts of the record that hold `spans` of entries, in order: each from the checkpoint before to the one after it, for
/// both ends are signed, and at most to the end of the record, `head` or the last span.
fn between_checkpoints(mut spans: Vec<(i64, i64)>, head: i64) -> Vec<(i64, i64)> {
    spans.sort_unstable();
    let end = spans.iter().map(|span| span.1).fold(head, i64::max);
    let mut parts: Vec<(i64, i64)> = Vec::new();
    for (first, last) in spans {
        let from = ((first - 1) / CHECKPOINT * CHECKPOINT).max(1);
        let to = ((last - 1) / CHECKPOINT + 1).saturating_mul(CHECKPOINT).min(end);
        match parts.last_mut() {
            Some(part) if part.1 >= from => part.1 = part.1.max(to),
            _ => parts.push((from, to)),
        }
    }
    parts
}
