//! Verdicts by time, class, camera, lot and whatever else they can be asked for, a page at a time, newest first.
//!
//! Invariant: what a page costs does not grow with the store. A search goes along one index and looks at [`SCAN`] verdicts at
//! most; what it has not looked at yet it leaves to the next page.

use sqlx::{QueryBuilder, Sqlite};

use super::{
    Found, MAX_PAGE, Page, Store, StoreError,
    record::lots::NAME,
    tallies::{BLOCK, milliseconds},
};
use crate::domain::Action;

/// Verdicts that one page looks at where an index alone does not find them.
pub(in crate::store) const SCAN: i64 = 2_000;
/// Lots of one name that are looked at, the newest ones.
const NAMESAKES: i64 = 1_000;

impl Store {
    /// A page of verdicts, filled as far as there are some.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub async fn verdicts(&self, mut page: Page) -> Result<Vec<crate::domain::Verdict>, StoreError> {
        page.limit = page.limit.min(MAX_PAGE);
        let mut all = Vec::new();
        while page.limit > 0 {
            let found = self.find(&page).await?;
            page.limit -= found.verdicts.len() as u32;
            all.extend(found.verdicts);
            let Some(next) = found.next else { break };
            page.before = Some(next);
        }
        Ok(all)
    }

    /// Verdicts as `page` asks for them; one page's work, see [`Found::next`].
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn find(&self, page: &Page) -> Result<Found, StoreError> {
        let page = &Page { limit: page.limit.min(MAX_PAGE), ..page.clone() };
        let Some(name) = &page.lot_name else { return self.find_along(page).await };
        let mut lots = self.newest_of(name, page).await?;
        lots.sort_unstable_by(|a, b| b.cmp(a));
        let mut all = Found::default();
        for (newest, lot) in lots {
            if all.verdicts.len() == page.limit as usize && all.next.is_some_and(|next| newest < next) {
                break; // what is left is older
            }
            let of_lot = Page { lot: Some(lot), lot_name: None, ..page.clone() };
            all = merge(all, self.find_along(&of_lot).await?, page.limit);
        }
        Ok(all)
    }

    /// Newest verdict before the page and number, of each lot of this name that has one.
    async fn newest_of(&self, name: &str, page: &Page) -> Result<Vec<(i64, i64)>, StoreError> {
        let query = format!(
            "SELECT v.newest, lot FROM (SELECT seq AS lot, (SELECT max(id) FROM verdicts WHERE lot = record.seq AND id < ?)
                 AS newest FROM record WHERE verdict IS NULL AND kind = 'lot_opened' AND {NAME} = ?
                 ORDER BY seq DESC LIMIT {NAMESAKES}) AS v WHERE newest IS NOT NULL AND (?3 IS NULL OR lot = ?3)"
        );
        let query = sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(page.before.unwrap_or(i64::MAX)).bind(name);
        Ok(query.bind(page.lot).fetch_all(&self.database).await?)
    }

    async fn find_along(&self, page: &Page) -> Result<Found, StoreError> {
        let Some(ids) = self.ids_of(page).await? else { return Ok(Found::default()) };
        let along = Along::of(page);
        let mut floor = None;
        if along.residual(page) {
            let mut query = QueryBuilder::<Sqlite>::new("SELECT id FROM verdicts WHERE ");
            along.push(&mut query, page, ids);
            query.push(" ORDER BY id DESC LIMIT 1 OFFSET ").push_bind(SCAN - 1);
            floor = query.build_query_scalar::<i64>().fetch_optional(&self.database).await?;
        }
        let mut query = QueryBuilder::<Sqlite>::new("SELECT id, body FROM verdicts WHERE ");
        along.push(&mut query, page, (ids.0.max(floor.unwrap_or(i64::MIN)), ids.1));
        along.push_residual(&mut query, page);
        query.push(" ORDER BY id DESC LIMIT ").push_bind(page.limit);
        let rows: Vec<(i64, String)> = query.build_query_as().fetch_all(&self.database).await?;
        let next = if rows.len() == page.limit as usize { rows.last().map(|row| row.0) } else { floor };
        let verdicts: Result<Vec<_>, _> = rows.iter().map(|(id, body)| self.identity.verdict(*id, body)).collect();
        let mut verdicts = verdicts?;
        // SQLite's seconds are rounded; here the time is compared as it is.
        verdicts.retain(|v| page.from.is_none_or(|from| v.time >= from) && page.to.is_none_or(|to| v.time < to));
        Ok(Found { verdicts, next })
    }

    /// First and last id that can be in the page; `None` for none.
    async fn ids_of(&self, page: &Page) -> Result<Option<(i64, i64)>, StoreError> {
        let (first, last) = (
            page.after.map_or(i64::MIN, |id| id.saturating_add(1)),
            page.before.map_or(i64::MAX, |id| id.saturating_sub(1)),
        );
        if page.from.is_none() && page.to.is_none() {
            return Ok(Some((first, last)));
        }
        let blocks: (Option<i64>, Option<i64>) =
            sqlx::query_as("SELECT min(block), max(block) FROM spans WHERE last >= ? AND first <= ?")
                .bind(page.from.map_or(i64::MIN, milliseconds))
                .bind(page.to.map_or(i64::MAX, milliseconds))
                .fetch_one(&self.database)
                .await?;
        let (Some(from), Some(to)) = blocks else { return Ok(None) };
        Ok(Some((first.max(from.saturating_mul(BLOCK)), last.min(to.saturating_mul(BLOCK).saturating_add(BLOCK - 1)))))
    }
}

/// What was found side by side, as one page.
pub(in crate::store) fn merge(one: Found, other: Found, limit: u32) -> Found {
    let floor = one.next.max(other.next); // down to this id both are complete
    let mut verdicts = one.verdicts;
    verdicts.extend(other.verdicts);
    verdicts.sort_by_key(|verdict| std::cmp::Reverse(verdict.id));
    verdicts.retain(|verdict| floor.is_none_or(|floor| verdict.id >= floor));
    let cut = verdicts.len() > limit as usize;
    verdicts.truncate(limit as usize);
    let next = if cut { verdicts.last().map(|verdict| verdict.id) } else { floor };
    Found { verdicts, next }
}

/// The index that a search goes along: the one that leaves least to look through, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Along {
    /// Items of the lot that were not accepted.
    TakenOff,
    Lot,
    Class,
    Camera,
    Action,
    Source,
    Ids,
}

impl Along {
    fn of(page: &Page) -> Self {
        let taken_off = page.action.is_some_and(|action| action != Action::Accept);
        match page {
            Page { lot: Some(_), .. } if taken_off => Self::TakenOff,
            Page { lot: Some(_), .. } => Self::Lot,
            Page { class: Some(_), .. } => Self::Class,
            _ if taken_off => Self::Action,
            Page { camera: Some(_), .. } => Self::Camera,
            Page { action: Some(_), .. } => Self::Action,
            Page { source: Some(_), .. } => Self::Source,
            _ => Self::Ids,
        }
    }

    /// Whether the page asks for more than the index tells.
    fn residual(self, page: &Page) -> bool {
        let Page { action, source, class, camera, from, to, .. } = page;
        from.is_some()
            || to.is_some()
            || action.is_some() && self != Self::Action
            || source.is_some() && self != Self::Source
            || class.is_some() && self != Self::Class
            || camera.is_some() && self != Self::Camera
    }

    /// What the index finds.
    fn push(self, query: &mut QueryBuilder<Sqlite>, page: &Page, (first, last): (i64, i64)) {
        match self {
            Self::TakenOff => query.push("action <> 'accept' AND lot = ").push_bind(page.lot).push(" AND "),
            Self::Lot => query.push("lot = ").push_bind(page.lot).push(" AND "),
            Self::Class => query.push("class = ").push_bind(page.class.clone()).push(" AND "),
            Self::Camera => query.push("camera = ").push_bind(page.camera.clone()).push(" AND "),
            Self::Action => query.push("action = ").push_bind(page.action.map(Action::name)).push(" AND "),
            Self::Source => query.push("source = ").push_bind(page.source.map(|source| source.name())).push(" AND "),
            Self::Ids => query,
        };
        query.push("id BETWEEN ").push_bind(first).push(" AND ").push_bind(last);
    }

    /// The rest, by a look into the index that tells it: cheaper than to open the document of each.
    fn push_residual(self, query: &mut QueryBuilder<Sqlite>, page: &Page) {
        let mut look = |column: &str, value: Option<String>, told: Self| {
            if let Some(value) = value.filter(|_| self != told) {
                let index = format!("verdicts AS r INDEXED BY verdicts_by_{column}");
                query.push(format!(" AND EXISTS (SELECT 1 FROM {index} WHERE r.{column} = ")).push_bind(value);
                query.push(" AND r.id = verdicts.id)");
            }
        };
        look("action", page.action.map(|action| action.name().into()), Self::Action);
        look("source", page.source.map(|source| source.name().into()), Self::Source);
        look("class", page.class.clone(), Self::Class);
        look("camera", page.camera.clone(), Self::Camera);
        if let Some(from) = page.from {
            query.push(" AND unixepoch(time) >= ").push_bind(from.unix_timestamp() - 1);
        }
        if let Some(to) = page.to {
            query.push(" AND unixepoch(time) <= ").push_bind(to.unix_timestamp() + 1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{Source, Verdict, testing::verdict};

    /// 6,000 verdicts a second apart, the clock set back by an hour in the middle; three lots, two of one name.
    async fn store(folder: &std::path::Path) -> (Store, Vec<Verdict>, [i64; 3]) {
        let store = Store::open(folder).await.unwrap();
        let mut lots = [0; 3];
        for (lot, name) in lots.iter_mut().zip(["A", "B", "A"]) {
            *lot = store.begin_lot(name, "plc").await.unwrap();
        }
        let classes = ["cod", "bass", "eel"];
        let actions = [Action::Accept, Action::Accept, Action::Reject, Action::Divert];
        let one = |id: i64| {
            let seconds = if id > 3000 { id - 3600 } else { id };
            let mut one = Verdict {
                id,
                time: OffsetDateTime::UNIX_EPOCH
                    + time::Duration::milliseconds(1_795_000_000_000 + seconds * 1000 + id % 7),
                camera: if id % 5 == 0 { "second" } else { "belt" }.into(),
                source: if id % 11 == 0 { Source::Http } else { Source::Belt },
                lot: Some(lots[(id / 2001) as usize]),
                ..verdict(actions[(id % 4) as usize])
            };
            one.decision.class = Some(if id == 17 { "shark" } else { classes[(id % 3) as usize] }.into());
            one
        };
        let all: Vec<Verdict> = (1..=6000).map(one).collect();
        store.insert(&all).await.unwrap();
        (store, all, lots)
    }

    /// Ids of all pages, and how many pages there were.
    async fn pages(store: &Store, mut page: Page) -> (Vec<i64>, usize) {
        let (mut ids, mut pages) = (Vec::new(), 0);
        loop {
            let found = store.find(&page).await.unwrap();
            assert!(found.verdicts.len() <= page.limit as usize);
            ids.extend(found.verdicts.iter().map(|verdict| verdict.id));
            pages += 1;
            let Some(next) = found.next else { return (ids, pages) };
            assert!(page.before.is_none_or(|before| next < before), "it does not go on");
            page.before = Some(next);
        }
    }

    #[tokio::test]
    async fn every_search_finds_what_looking_at_all_of_them_finds_in_short_steps() {
        let folder = tempfile::tempdir().unwrap();
        let (store, all, lots) = store(folder.path()).await;
        let at = |ms: i64| Some(OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_795_000_000_000 + ms));
        let (class, camera) = (Some("cod".to_owned()), Some("second".to_owned()));
        let page = || Page { limit: 60, ..Page::default() };
        let mut asked = vec![
            page(),
            Page { class: Some("shark".into()), ..page() },
            Page { class: Some("shark".into()), action: Some(Action::Divert), ..page() },
            Page { class: Some("none".into()), ..page() },
            Page { from: at(2_000_000), to: at(2_100_004), ..page() },
            Page { from: at(2_000_000), to: at(2_100_004), class: class.clone(), ..page() },
            Page { from: at(99_000_000), ..page() },
            Page { to: at(-600_000), ..page() },
            Page { from: at(-500_000), to: at(-400_000), camera: camera.clone(), ..page() },
            Page { lot_name: Some("A".into()), ..page() },
            Page { lot_name: Some("A".into()), action: Some(Action::Reject), class: class.clone(), ..page() },
            Page { lot_name: Some("C".into()), ..page() },
            Page { after: Some(5900), camera: camera.clone(), ..page() },
        ];
        for bits in 0..32 {
            let set = |bit: u32| bits & (1 << bit) != 0;
            asked.push(Page {
                action: set(0).then_some(if bits % 2 == 0 { Action::Accept } else { Action::Divert }),
                source: set(1).then_some(Source::Http),
                lot: set(2).then_some(lots[1]),
                class: class.clone().filter(|_| set(3)),
                camera: camera.clone().filter(|_| set(4)),
                ..page()
            });
        }
        for page in asked {
            let wanted = |v: &&Verdict| {
                page.after.is_none_or(|after| v.id > after)
                    && page.action.is_none_or(|action| v.decision.action == action)
                    && page.source.is_none_or(|source| v.source == source)
                    && page.lot.is_none_or(|lot| v.lot == Some(lot))
                    && page
                        .lot_name
                        .as_deref()
                        .is_none_or(|name| (v.lot == Some(lots[1])) == (name == "B") && name != "C")
                    && (page.class.is_none() || v.decision.class == page.class)
                    && page.camera.as_ref().is_none_or(|camera| v.camera == *camera)
                    && page.from.is_none_or(|from| v.time >= from)
                    && page.to.is_none_or(|to| v.time < to)
            };
            let ids: Vec<i64> = all.iter().rev().filter(wanted).map(|v| v.id).collect();
            let (found, steps) = pages(&store, page.clone()).await;
            assert_eq!(found, ids, "{page:?}");
            assert!(steps <= ids.len() / 60 + 6, "{steps} pages for {} verdicts: {page:?}", ids.len());
        }
    }
}
