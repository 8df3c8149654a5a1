//! Whether verdicts' documents are what the record's entries hold: asked before one of them, or a picture, is removed by what
//! it says. Whoever changed a document's time would else have it removed, and the removal signed.
//!
//! Invariant: a document is proven only by an entry whose hash fits the entry before it.

use std::collections::{BTreeSet, HashMap};

use sha2::{Digest, Sha256};

use super::{
    Store, StoreError,
    record::{chain::link, verify::verify_span},
};

/// Most entries that are verified for one batch of documents.
const SPAN: i64 = 4096;

/// The oldest documents, as far as they were looked at.
pub(super) struct OldestDocuments {
    /// The id of the last one.
    pub last: i64,
    /// Id and document of those that are as their entries hold them.
    pub proven: Vec<(i64, String)>,
    /// What is wrong with the others, or with the record there, in words.
    pub findings: Vec<String>,
}

impl Store {
    /// Up to `most` documents of unlabeled verdicts with ids above `after`, in order, and what proves them; `None` where there
    /// are none.
    pub(super) async fn oldest_documents(&self, after: i64, most: i64) -> Result<Option<OldestDocuments>, StoreError> {
        let mut documents: Vec<(i64, String)> = sqlx::query_as(
            "SELECT id, body FROM verdicts AS v
             WHERE id > ? AND NOT EXISTS (SELECT 1 FROM labels WHERE verdict = v.id) ORDER BY id LIMIT ?",
        )
        .bind(after)
        .bind(most)
        .fetch_all(&self.database)
        .await?;
        let Some(&(first, _)) = documents.first() else { return Ok(None) };
        let from = self.place_of(first).await?;
        let entries: Vec<(i64, i64, Vec<u8>)> = sqlx::query_as(
            "SELECT seq, verdict, CAST(body AS BLOB) FROM record
             WHERE seq BETWEEN ? AND ? AND verdict IS NOT NULL ORDER BY seq",
        )
        .bind(from)
        .bind(from + SPAN)
        .fetch_all(&self.database)
        .await?;
        let held: HashMap<i64, (i64, Vec<u8>)> =
            entries.into_iter().map(|(seq, id, digest)| (id, (seq, digest))).collect();
        // A document without an entry among them lies further on, or is no verdict's.
        let within = documents.iter().take_while(|(id, _)| held.contains_key(id)).count().max(1);
        documents.truncate(within);
        let last = documents.last().map_or(first, |(id, _)| *id);
        let mut changed = BTreeSet::new();
        let mut findings = Vec::new();
        let mut proven = Vec::new();
        for (id, document) in documents {
            match held.get(&id) {
                Some((_, digest)) if Sha256::digest(&document)[..] == digest[..] => proven.push((id, document)),
                Some((seq, _)) => {
                    changed.insert(*seq);
                    findings.push(format!("verdict {id} is not as entry {seq} holds it"));
                }
                None => findings.push(format!("verdict {id} is held by no entry where it should be")),
            }
        }
        let to = held.get(&last).map_or(from, |(seq, _)| *seq);
        let broken = verify_span(&self.database, &self.signer()?.public(), (from, to)).await?;
        let broken: Vec<_> = broken.into_iter().filter(|found| !changed.contains(&found.entry)).collect();
        if let Some(found) = broken.first() {
            proven.clear();
            findings.push(format!("the record is broken at entry {}: {}", found.entry, found.what));
        }
        Ok(Some(OldestDocuments { last, proven, findings }))
    }

    /// The place of the entry that holds the verdict `id`, or of the first that holds a later one. Ids rise with places.
    async fn place_of(&self, id: i64) -> Result<i64, StoreError> {
        let (mut low, mut high) = (1, self.head().await?.0);
        while low < high {
            let middle = low + (high - low) / 2;
            let next: Option<(i64, i64)> = sqlx::query_as(
                "SELECT seq, verdict FROM record WHERE seq >= ? AND verdict IS NOT NULL ORDER BY seq LIMIT 1",
            )
            .bind(middle)
            .fetch_optional(&self.database)
            .await?;
            match next {
                Some((seq, verdict)) if verdict < id => low = seq + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// Whether the verdict's document is the one its entry holds, and the entry fits the one before it.
    pub(super) async fn is_proven(&self, id: i64, document: &str) -> Result<bool, StoreError> {
        let middle = self.place_of(id).await?;
        type Place = (i64, i64, Vec<u8>, Vec<u8>, Option<Vec<u8>>);
        let entry: Option<Place> = sqlx::query_as(
            "SELECT r.seq, r.verdict, CAST(r.body AS BLOB), r.hash, (SELECT hash FROM record WHERE seq = r.seq - 1)
             FROM record AS r WHERE r.seq >= ? AND r.verdict IS NOT NULL ORDER BY r.seq LIMIT 1",
        )
        .bind(middle)
        .fetch_optional(&self.database)
        .await?;
        let Some((seq, verdict, digest, hash, Some(before))) = entry else { return Ok(false) };
        let Ok(before) = <[u8; 32]>::try_from(before) else { return Ok(false) };
        let fits = link(&before, seq, Some(verdict), &digest)[..] == hash[..];
        Ok(fits && verdict == id && Sha256::digest(document)[..] == digest[..])
    }
}
