//! The audit's draws: which items judge students, and with which chance each was drawn.
//!
//! Invariant: a draw is written and held by an entry in the transaction that writes its verdict, before anybody has seen the
//! item; it never changes.

use sqlx::SqliteTransaction;
use time::format_description::well_known::Rfc3339;

use super::{
    StoreError,
    record::{
        rows::{self, HeldTable},
        signer::Signer,
    },
};
use crate::domain::{AuditDraw, Verdict};

/// Writes the draws of the verdicts `ids`, which were written in this transaction, and the entries that hold them.
pub(super) async fn write(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
    ids: &[i64],
    verdicts: &[Verdict],
    draws: &[Option<AuditDraw>],
) -> Result<(), StoreError> {
    for ((id, verdict), draw) in ids.iter().zip(verdicts).zip(draws) {
        let Some(AuditDraw { chance, least }) = draw else { continue };
        let at = verdict.time.format(&Rfc3339).map_err(|e| sqlx::Error::Encode(e.into()))?;
        sqlx::query("INSERT INTO draws (verdict, at, chance, least) VALUES (?, ?, ?, ?)")
            .bind(id)
            .bind(at)
            .bind(chance)
            .bind(least)
            .execute(&mut **transaction)
            .await?;
        rows::hold(transaction, signer, HeldTable::Draws, &id.to_string(), None).await?;
    }
    Ok(())
}
