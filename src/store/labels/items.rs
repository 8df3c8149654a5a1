//! Items whose picture was kept, with what people say about them now: the gallery's pages, and what is learned from.
//!
//! Invariant: what a page costs does not grow with the store: it goes along one index and looks at [`SCAN`] rows of it at
//! most; what it has not looked at yet it leaves to the next page.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite};
use tokio_stream::StreamExt;

use super::{Label, PICTURE_IS_THERE};
use crate::{
    domain::{Action, Verdict},
    store::{MAX_PAGE, Store, StoreError, search::SCAN},
};

/// Whether somebody's label of the verdict `v` stands; a condition and `)` follow.
const LABELED: &str = "EXISTS (SELECT 1 FROM current_labels c WHERE c.verdict = v.id";

/// Which items with a kept picture are wanted; newest first.
#[derive(Clone, Debug, Default)]
pub struct ItemPage {
    /// Only older ones than this verdict.
    pub before: Option<i64>,
    /// At most this many; more than [`MAX_PAGE`] are never returned.
    pub limit: u32,
    /// Only this one.
    pub verdict: Option<i64>,
    /// Only those with this action.
    pub action: Option<Action>,
    /// Only those of this class: labeled so, or judged so where nobody labeled them.
    pub class: Option<String>,
    /// Only labeled ones, or only unlabeled ones.
    pub labeled: Option<bool>,
}

/// An item with what each person says about it now.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct LabeledItem {
    /// The verdict.
    pub verdict: Verdict,
    /// Current labels, oldest first.
    pub labels: Vec<Label>,
}

/// Some items that were found, newest first.
#[derive(Clone, Debug, Default)]
pub struct FoundItems {
    /// They.
    pub items: Vec<LabeledItem>,
    /// Where to go on, as [`ItemPage::before`]: all that are wanted down to this id are here. `None`: there are no more.
    pub next: Option<i64>,
}

impl Store {
    /// A page of items, filled as far as there are some.
    ///
    /// # Errors
    /// As [`Store::find_items`].
    pub async fn items(&self, page: &ItemPage) -> Result<Vec<LabeledItem>, StoreError> {
        let mut page = ItemPage { limit: page.limit.min(MAX_PAGE), ..page.clone() };
        let mut all = Vec::new();
        while page.limit > 0 {
            let found = self.find_items(&page).await?;
            page.limit -= found.items.len() as u32;
            all.extend(found.items);
            let Some(next) = found.next else { break };
            page.before = Some(next);
        }
        Ok(all)
    }

    /// Items whose picture was kept, with what people say about them now; one page's work, see [`FoundItems::next`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn find_items(&self, page: &ItemPage) -> Result<FoundItems, StoreError> {
        let page = ItemPage { limit: page.limit.min(MAX_PAGE), ..page.clone() };
        let (mut rows, next) = match (&page.class, page.labeled) {
            (Some(_), None) => {
                // Labeled so, and judged so where nobody labeled them: two searches side by side.
                let (mut labeled, one) = self.candidates_of(&page, true).await?;
                let (unlabeled, other) = self.candidates_of(&page, false).await?;
                labeled.extend(unlabeled);
                labeled.sort_by_key(|row| Reverse(row.0));
                (labeled, one.max(other))
            }
            (_, labeled) => self.candidates_of(&page, labeled == Some(true)).await?,
        };
        rows.retain(|row| next.is_none_or(|next| row.0 >= next));
        let cut = rows.len() > page.limit as usize;
        rows.truncate(page.limit as usize);
        let next = if cut { rows.last().map(|row| row.0) } else { next };
        let mut items = Vec::new();
        for (id, body) in rows {
            let verdict = self.identity.verdict(id, &body)?;
            let mut labels = self.labels_of_item(id).await?;
            labels.iter_mut().for_each(|label| label.uid = verdict.uid);
            items.push(LabeledItem { verdict, labels });
        }
        Ok(FoundItems { items, next })
    }

    /// Ids of the items with a kept picture that nobody has labeled, by the day (UTC) of their picture as its key begins,
    /// `20261125`: eight bytes for each.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn unlabeled_by_day(&self) -> Result<BTreeMap<String, Vec<i64>>, StoreError> {
        let query = format!(
            "SELECT substr(v.frame, 1, 8), v.id FROM verdicts AS v \
             WHERE v.frame IS NOT NULL AND NOT {LABELED}){PICTURE_IS_THERE} ORDER BY v.id"
        );
        let mut rows = sqlx::query_as::<_, (String, i64)>(sqlx::AssertSqlSafe(query)).fetch(&self.database);
        let mut days: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        while let Some((day, id)) = rows.try_next().await? {
            days.entry(day).or_default().push(id);
        }
        Ok(days)
    }

    /// Id and document of items along one index, newest first, and down to which id they are all; `labels`: along what
    /// people said, else along the pictures that were kept, or their class.
    async fn candidates_of(
        &self,
        page: &ItemPage,
        labels: bool,
    ) -> Result<(Vec<(i64, String)>, Option<i64>), StoreError> {
        let along = |query: &mut QueryBuilder<Sqlite>, floor: i64| {
            let (id, class) = match (labels, &page.class) {
                (true, _) => ("verdict", page.class.clone()),
                (false, Some(class)) => ("id", Some(class.clone())),
                (false, None) => ("id", None),
            };
            match class {
                Some(class) => query.push("class = ").push_bind(class),
                None => query.push(if labels { "withdraws IS NULL" } else { "frame IS NOT NULL" }),
            };
            query.push(format!(" AND {id} >= ")).push_bind(page.verdict.unwrap_or(floor));
            query.push(format!(" AND {id} < "));
            query.push_bind(page.verdict.map_or(i64::MAX, |id| id + 1).min(page.before.unwrap_or(i64::MAX)));
        };
        let from = if labels { "SELECT verdict FROM labels WHERE " } else { "SELECT id FROM verdicts WHERE " };
        let mut query = QueryBuilder::<Sqlite>::new(from);
        along(&mut query, i64::MIN);
        query.push(" ORDER BY 1 DESC LIMIT 1 OFFSET ").push_bind(SCAN - 1);
        let floor: Option<i64> = query.build_query_scalar().fetch_optional(&self.database).await?;
        let down_to = floor.unwrap_or(i64::MIN);

        let mut query = QueryBuilder::<Sqlite>::new("");
        if labels {
            query.push("SELECT v.id, v.body FROM (SELECT DISTINCT verdict FROM labels WHERE ");
            along(&mut query, down_to);
            query.push(") AS l CROSS JOIN verdicts AS v ON v.id = l.verdict WHERE +v.frame IS NOT NULL AND ");
            query.push(LABELED);
            if let Some(class) = &page.class {
                query.push(" AND c.class = ").push_bind(class.clone());
            }
            query.push(")");
        } else {
            query.push("SELECT v.id, v.body FROM verdicts AS v WHERE ");
            along(&mut query, down_to);
            if page.class.is_some() {
                query.push(" AND +v.frame IS NOT NULL");
            }
            if page.labeled == Some(false) || page.class.is_some() {
                query.push(" AND NOT ").push(LABELED).push(")");
            }
        }
        query.push(PICTURE_IS_THERE);
        if let Some(action) = page.action {
            query.push(" AND +v.action = ").push_bind(action.name());
        }
        query.push(" ORDER BY v.id DESC LIMIT ").push_bind(page.limit);
        let rows: Vec<(i64, String)> = query.build_query_as().fetch_all(&self.database).await?;
        let next = if rows.len() == page.limit as usize { rows.last().map(|row| row.0) } else { floor };
        Ok((rows, next))
    }

    async fn labels_of_item(&self, verdict: i64) -> Result<Vec<Label>, StoreError> {
        let labels = self.current_labels(verdict, verdict).await?;
        Ok(labels.into_iter().next().map(|(_, labels)| labels).unwrap_or_default())
    }
}
