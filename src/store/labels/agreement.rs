//! How far people agree about items: what an item's labels come to, and Cohen's kappa. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::store::{Label, Store, StoreError};

/// Labels among which agreement is measured.
pub const NEWEST: i64 = 20_000;

/// What the labels of one item come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consensus {
    /// More than half of those who labeled it name this class.
    Class(String),
    /// More than half can't tell.
    CantTell,
    /// Nobody has a majority.
    Disputed,
}

/// The majority among what people say now about one item; `None` without a label.
pub fn consensus(labels: &[Label]) -> Option<Consensus> {
    let mut votes: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for label in labels {
        *votes.entry(label.class.as_deref()).or_default() += 1;
    }
    let (class, most) = votes.into_iter().max_by_key(|(_, n)| *n)?;
    Some(match class {
        _ if most * 2 <= labels.len() => Consensus::Disputed,
        Some(class) => Consensus::Class(class.to_owned()),
        None => Consensus::CantTell,
    })
}

/// Agreement of two people over the items that both labeled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Agreement {
    /// Items that at least two people labeled.
    pub items: usize,
    /// Share of them with the same answer, 0 to 1; 0 without items.
    pub agreed: f64,
    /// Cohen's kappa (Cohen 1960): agreement beyond chance, 1 when always, 0 when no better than chance. `None` without
    /// items, and where everybody gave one and the same answer, because chance alone would agree then.
    pub kappa: Option<f64>,
}

/// Cohen's kappa over pairs of answers, first and second labeler; "can't tell" (`None`) is an answer like any other.
pub fn agreement(pairs: &[(Option<&str>, Option<&str>)]) -> Agreement {
    let n = pairs.len() as f64;
    if pairs.is_empty() {
        return Agreement { items: 0, agreed: 0.0, kappa: None };
    }
    let mut answers: BTreeMap<Option<&str>, (f64, f64)> = BTreeMap::new();
    for &(first, second) in pairs {
        answers.entry(first).or_default().0 += 1.0;
        answers.entry(second).or_default().1 += 1.0;
    }
    let agreed = pairs.iter().filter(|(a, b)| a == b).count() as f64 / n;
    let by_chance: f64 = answers.values().map(|(a, b)| a / n * (b / n)).sum();
    let kappa = (by_chance < 1.0).then(|| (agreed - by_chance) / (1.0 - by_chance));
    Agreement { items: pairs.len(), agreed, kappa }
}

impl Store {
    /// [`agreement`] over the items that at least two people labeled, the first two of each, among the newest [`NEWEST`]
    /// labels: how people agree now, at a price that does not grow.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn agreement(&self) -> Result<Agreement, StoreError> {
        let rows: Vec<(i64, Option<String>)> = sqlx::query_as(
            "SELECT verdict, class FROM current_labels WHERE verdict IN \
             (SELECT verdict FROM labels WHERE id > (SELECT coalesce(max(id), 0) FROM labels) - ? \
              GROUP BY +verdict HAVING count(DISTINCT labeler) > 1) ORDER BY verdict, id",
        )
        .bind(NEWEST)
        .fetch_all(&self.database)
        .await?;
        let pairs: Vec<_> = rows
            .chunk_by(|a, b| a.0 == b.0)
            .filter_map(|said| Some((said.first()?.1.as_deref(), said.get(1)?.1.as_deref())))
            .collect();
        Ok(agreement(&pairs))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    fn said(classes: &[Option<&str>]) -> Vec<Label> {
        let label = |(i, class): (usize, &Option<&str>)| Label {
            id: i as i64,
            verdict: 1,
            uid: uuid::Uuid::nil(),
            class: class.map(str::to_owned),
            by: i.to_string(),
            at: OffsetDateTime::UNIX_EPOCH,
            withdrawn: false,
            current: true,
        };
        classes.iter().enumerate().map(label).collect()
    }

    #[test]
    fn only_more_than_half_makes_a_class() {
        let (cod, bass) = (Some("cod"), Some("bass"));
        assert_eq!(consensus(&[]), None);
        assert_eq!(consensus(&said(&[cod])), Some(Consensus::Class("cod".into())));
        assert_eq!(consensus(&said(&[cod, bass])), Some(Consensus::Disputed));
        assert_eq!(consensus(&said(&[cod, bass, cod])), Some(Consensus::Class("cod".into())));
        assert_eq!(consensus(&said(&[cod, None])), Some(Consensus::Disputed));
        assert_eq!(consensus(&said(&[None, None, bass])), Some(Consensus::CantTell));
        assert_eq!(consensus(&said(&[cod, bass, cod, bass])), Some(Consensus::Disputed));
    }

    #[test]
    fn kappa_is_cohens() {
        // The textbook case: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no.
        let (yes, no) = (Some("yes"), Some("no"));
        let pairs: Vec<_> = [((yes, yes), 20), ((yes, no), 5), ((no, yes), 10), ((no, no), 15)]
            .into_iter()
            .flat_map(|(pair, n)| std::iter::repeat_n(pair, n))
            .collect();
        let found = agreement(&pairs);
        assert_eq!((found.items, found.agreed), (50, 0.7));
        assert!((found.kappa.unwrap() - 0.4).abs() < 1e-12, "{found:?}");
        assert_eq!(agreement(&[(yes, yes), (no, no), (None, None)]).kappa, Some(1.0));
        assert_eq!(agreement(&[(yes, no), (no, yes)]).kappa, Some(-1.0));
        assert_eq!(agreement(&[(yes, yes), (yes, yes)]).kappa, None, "one answer alone proves nothing");
        assert_eq!(agreement(&[]), Agreement { items: 0, agreed: 0.0, kappa: None });
    }
}
