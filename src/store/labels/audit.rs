//! What people are asked and say about the items that the audit drew.

use std::collections::HashSet;

use super::{
    PICTURE_IS_THERE,
    agreement::{Consensus, consensus},
};
use crate::{
    domain::{AuditDraw, Verdict},
    store::{Store, StoreError},
};

/// Drawn items that wait for an answer and are asked about: the oldest of them.
const ASKED: i64 = 200;
/// Drawn items that judge a student: the newest.
const JUDGING: i64 = 5_000;

/// What people say of a drawn item.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditAnswer {
    /// The item.
    pub verdict: Verdict,
    /// Its class; `None` where people disagree or can't tell.
    pub class: Option<String>,
    /// Least chance over its own, see [`AuditDraw::weight`].
    pub weight: f64,
}

impl Store {
    /// The verdicts of all drawn items from `from` on.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn drawn(&self, from: i64) -> Result<HashSet<i64>, StoreError> {
        let ids: Vec<i64> = sqlx::query_scalar("SELECT verdict FROM draws WHERE verdict >= ?")
            .bind(from)
            .fetch_all(&self.database)
            .await?;
        Ok(ids.into_iter().collect())
    }

    /// The oldest of the newest [`JUDGING`] drawn items with a picture that fewer than two people have answered about, at most
    /// [`ASKED`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub(in crate::store) async fn drawn_to_ask(&self) -> Result<Vec<Verdict>, StoreError> {
        let query = format!(
            "SELECT v.id, v.body FROM draws AS d CROSS JOIN verdicts AS v ON v.id = d.verdict \
             WHERE d.verdict > coalesce((SELECT verdict FROM draws WHERE verdict > 0 ORDER BY verdict DESC LIMIT 1 OFFSET ?), 0)
             AND v.frame IS NOT NULL{} AND (SELECT count(*) FROM current_labels AS c WHERE c.verdict = d.verdict) < 2 ORDER BY d.verdict LIMIT ?",
            PICTURE_IS_THERE
        );
        let asked = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(JUDGING).bind(ASKED);
        let rows: Vec<(i64, String)> = asked.fetch_all(&self.database).await?;
        rows.iter().map(|(id, body)| self.identity.verdict(*id, body)).collect()
    }

    /// What people say of the newest [`JUDGING`] drawn items that somebody answered about, the oldest first.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn audit_answers(&self) -> Result<Vec<AuditAnswer>, StoreError> {
        let rows: Vec<(i64, String, f64, f64)> = sqlx::query_as(
            "SELECT v.id, v.body, d.chance, d.least FROM draws AS d CROSS JOIN verdicts AS v ON v.id = d.verdict \
             WHERE EXISTS (SELECT 1 FROM current_labels AS c WHERE c.verdict = d.verdict) ORDER BY d.verdict DESC LIMIT ?",
        )
        .bind(JUDGING)
        .fetch_all(&self.database)
        .await?;
        let mut answers = Vec::new();
        for (id, body, chance, least) in rows.into_iter().rev() {
            let said = self.current_labels(id, id).await?.remove(&id).unwrap_or_default();
            let class = match consensus(&said) {
                Some(Consensus::Class(class)) => Some(class),
                _ => None,
            };
            let weight = AuditDraw { chance, least }.weight();
            answers.push(AuditAnswer { verdict: self.identity.verdict(id, &body)?, class, weight });
        }
        Ok(answers)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use time::OffsetDateTime;

    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::{Ask, QueueOrder},
    };

    #[tokio::test]
    async fn a_draw_is_held_by_the_record_asked_about_among_the_others_and_its_answer_judges() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let kept = |n: i64| Verdict {
            frame: Some(format!("20261125-{n:024}")),
            camera: "belt".into(),
            uid: crate::domain::draw_uid(OffsetDateTime::UNIX_EPOCH),
            ..verdict(Action::Divert)
        };
        let verdicts: Vec<Verdict> = (0..8).map(kept).collect();
        let draw = |at: usize| at.is_multiple_of(4).then_some(AuditDraw { chance: 0.3, least: 0.1 });
        let draws: Vec<_> = (0..8).map(draw).collect();
        store.insert_drawn(&[], &verdicts, &draws).await.unwrap();
        assert_eq!(store.drawn(0).await.unwrap(), HashSet::from([1, 5]));
        for sql in ["UPDATE draws SET chance = 1", "DELETE FROM draws"] {
            assert!(sqlx::query(sql).execute(&store.writer).await.is_err(), "{sql}");
        }
        let ask =
            Ask { by: "anna".into(), limit: 8, order: QueueOrder::Useful, second_share: 0.0, busy: HashSet::new() };
        let queue = store.queue(ask.clone()).await.unwrap();
        let ids: Vec<i64> = queue.items.iter().map(|v| v.id).collect();
        assert_eq!((queue.waiting, ids.len()), (8, 8));
        assert_eq!([ids[0], ids[2]], [1, 5], "every second one, the oldest first: {ids:?}");

        assert_eq!(store.audit_answers().await.unwrap(), []);
        store.add_label(1, Some("cod"), "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        store.add_label(5, None, "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        store.add_label(2, Some("cod"), "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        let answers = store.audit_answers().await.unwrap();
        let told: Vec<_> = answers.iter().map(|a| (a.verdict.id, a.class.as_deref())).collect();
        assert_eq!(told, [(1, Some("cod")), (5, None)], "the item that was not drawn judges nobody");
        assert!((answers[0].weight - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(store.queue(ask).await.unwrap().waiting, 5);
    }
}
