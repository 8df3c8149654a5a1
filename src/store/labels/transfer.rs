//! Labels out of the store and into it.
//!
//! Invariant: an import adds all of its labels or, when one names an unknown item or class, none; a label that is there
//! already is not added again.

use std::collections::{BTreeMap, HashSet};

use super::formats::ImportedLabel;
use crate::store::{ItemPage, LabeledItem, MAX_PAGE, Store, StoreError, VerdictName};

/// How an import went.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// Labels that were added.
    pub added: usize,
    /// Labels that were there already.
    pub known: usize,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A label names a class that nobody may be given.
    #[error("verdict {verdict}: there is no class `{class}`, only {}", .classes.join(", "))]
    Class {
        /// The item's verdict.
        verdict: VerdictName,
        /// The class.
        class: String,
        /// The classes that there are.
        classes: Vec<String>,
    },
    /// A label names an item that is not there, or is there without its picture.
    #[error("there is no verdict {0} whose picture was kept")]
    Item(VerdictName),
    /// The store can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Every item that somebody labeled, oldest first, with what people say now.
///
/// # Errors
/// The store's.
pub async fn all_labeled(store: &Store) -> Result<Vec<LabeledItem>, StoreError> {
    let mut all = Vec::new();
    let mut page = ItemPage { limit: MAX_PAGE, labeled: Some(true), ..ItemPage::default() };
    loop {
        let items = store.items(&page).await?;
        let Some(last) = items.last() else { break };
        page.before = Some(last.verdict.id);
        all.extend(items);
    }
    all.reverse();
    Ok(all)
}

/// Adds the labels that are not there yet, oldest first, if all name known items and one of `classes`.
///
/// # Errors
/// [`ImportError`], naming item and class.
pub async fn add_missing(
    store: &Store,
    mut labels: Vec<ImportedLabel>,
    classes: &[String],
) -> Result<Imported, ImportError> {
    let mut ids = Vec::new();
    let mut here: BTreeMap<i64, HashSet<_>> = BTreeMap::new();
    labels.sort_by_key(|label| label.at);
    for ImportedLabel { verdict, class, .. } in &labels {
        if let Some(class) = class.clone().filter(|class| !classes.contains(class)) {
            return Err(ImportError::Class { verdict: *verdict, class, classes: classes.to_vec() });
        }
        let id = store.verdict_id(*verdict).await?.ok_or(ImportError::Item(*verdict))?;
        ids.push(id);
        if here.contains_key(&id) {
            continue;
        }
        store.verdict(id).await?.filter(|v| v.frame.is_some()).ok_or(ImportError::Item(*verdict))?;
        let history = store.history(id).await?;
        here.insert(id, history.into_iter().map(|l| (l.class, l.by, l.at)).collect());
    }
    let mut done = Imported { added: 0, known: 0 };
    for (ImportedLabel { class, by, at, .. }, id) in labels.into_iter().zip(ids) {
        if !here.entry(id).or_default().insert((class.clone(), by.clone(), at)) {
            done.known += 1;
            continue;
        }
        store.add_label(id, class.as_deref(), &by, at).await?;
        done.added += 1;
    }
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use time::OffsetDateTime;

    use super::*;
    use crate::{
        domain::testing::verdict,
        domain::{Action, Verdict},
        store::labels::formats::{from_csv, from_label_studio, to_csv, to_label_studio},
    };

    /// A store of the same items as all others of a test.
    async fn store(folder: &Path) -> Store {
        let store = Store::open(folder).await.unwrap();
        let mut uids = 0x019e_0000_0000_7000_9000_0000_0000_0000..;
        let mut item = |action| Verdict { uid: uuid::Uuid::from_u128(uids.next().unwrap()), ..verdict(action) };
        let frame = Some("20261125-0123456789abcdef01234567".to_owned());
        let mut kept = || Verdict { frame: frame.clone(), ..item(Action::Reject) };
        let kept = [kept(), kept(), kept()];
        store.insert(&[&kept[..], &[item(Action::Accept)]].concat()).await.unwrap();
        store
    }

    #[tokio::test]
    async fn labels_travel_in_both_formats_and_arrive_once() {
        let root = tempfile::tempdir().unwrap();
        let one = store(&root.path().join("one")).await;
        let at = |s: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_795_000_000_500 + s);
        for (id, class, by, s) in
            [(1, Some("cod"), "anna", 1), (1, None, "ben, the \"new\" one", 2), (2, Some("sea bass"), "anna", 3)]
        {
            one.add_label(id, class, by, at(s)).await.unwrap();
        }
        let items = all_labeled(&one).await.unwrap();
        assert_eq!(items.iter().map(|i| i.labels.len()).collect::<Vec<_>>(), [2, 1]);
        let classes = ["cod".to_owned(), "sea bass".to_owned()];
        let json = to_label_studio(&items, "http://line:8080").to_string();
        let csv = to_csv(&items).unwrap();
        assert!(
            csv.starts_with(
                "file,class,split_group,verdict,by,at,uid\nitems/019e0000-0000-7000-9000-000000000000.jpg,cod,"
            ),
            "{csv}"
        );
        for (name, said) in [("json", from_label_studio(&json).unwrap()), ("csv", from_csv(&csv).unwrap())] {
            let other = store(&root.path().join(name)).await;
            assert_eq!(add_missing(&other, said.clone(), &classes).await.unwrap(), Imported { added: 3, known: 0 });
            assert_eq!(all_labeled(&other).await.unwrap(), items, "{name}");
            assert_eq!(add_missing(&other, said, &classes).await.unwrap(), Imported { added: 0, known: 3 }, "{name}");
        }
    }

    #[tokio::test]
    async fn labels_of_one_store_are_not_given_to_other_items_of_the_same_numbers() {
        let root = tempfile::tempdir().unwrap();
        let of = async |name: &str| {
            let store = Store::open(&root.path().join(name)).await.unwrap();
            let frame = Some("20261125-0123456789abcdef01234567".into());
            store.insert(&[Verdict { frame, ..verdict(Action::Reject) }]).await.unwrap();
            store
        };
        let (one, other) = (of("one").await, of("other").await);
        one.add_label(1, Some("cod"), "anna", OffsetDateTime::UNIX_EPOCH).await.unwrap();
        let items = all_labeled(&one).await.unwrap();
        let json = to_label_studio(&items, "http://line:8080").to_string();
        for said in [from_label_studio(&json).unwrap(), from_csv(&to_csv(&items).unwrap()).unwrap()] {
            let refused = add_missing(&other, said, &["cod".to_owned()]).await.unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("there is no verdict {} whose picture was kept", items[0].verdict.uid)
            );
        }
        assert!(all_labeled(&other).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_wrong_row_and_nothing_is_imported() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path()).await;
        let classes = ["cod".to_owned()];
        for (row, words) in [
            ("3,bass,anna,2026-11-25T10:00:00Z", "there is no class `bass`, only cod"),
            ("4,cod,anna,2026-11-25T10:00:00Z", "no verdict 4 whose picture was kept"),
            ("9,cod,anna,2026-11-25T10:00:00Z", "no verdict 9"),
        ] {
            let text = format!("verdict,class,by,at\n1,cod,anna,2026-11-25T10:00:00Z\n{row}\n");
            let refused = add_missing(&store, from_csv(&text).unwrap(), &classes).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(all_labeled(&store).await.unwrap().is_empty());
        for (text, words) in [
            ("verdict,class,at\n", "line 1: there is no column `by`"),
            ("verdict,class,by,at\nx,cod,anna,2026-11-25T10:00:00Z\n", "line 2: verdict"),
            ("verdict,class,by,at\n1,cod,anna,yesterday\n", "line 2: at"),
            ("verdict,class,by,at\n1,cod,,2026-11-25T10:00:00Z\n", "line 2: `by` is empty"),
        ] {
            let refused = from_csv(text).unwrap_err().to_string();
            assert!(refused.starts_with(words), "{refused}");
        }
    }
}
