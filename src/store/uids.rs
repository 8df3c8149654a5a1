//! What a verdict is called outside its store, and the verdict that is called so.
//!
//! A verdict's uid stands in its document. Documents of before there were uids are chained and stay as they are: what they
//! are called follows from their store and id, as a UUIDv8 of 60 bits of the store's identity and 62 bits of the id. The
//! store's identity is the hash of its record's first entry, which was made once, stays through retention, and goes with
//! every copy.
//!
//! Invariant: a uid is found by an index or by the id that it holds, never by a walk of the store.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::Verdict;

/// The verdict with this uid of its own.
const OWN: &str = "SELECT min(id) FROM verdicts WHERE uid = ?";
/// The verdict of this id, where it has no uid of its own.
const OLDER: &str = "SELECT id FROM verdicts WHERE id = ? AND uid IS NULL";

/// A verdict as a path, a query or a file names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictName {
    /// By its id, which another store has for another item.
    Id(i64),
    /// By its uid, which no other item has.
    Uid(Uuid),
}

impl FromStr for VerdictName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let id = text.parse().map(Self::Id);
        id.or_else(|_| text.parse().map(Self::Uid)).map_err(|_| format!("`{text}` is neither an id nor a uid"))
    }
}

impl fmt::Display for VerdictName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Uid(uid) => uid.fmt(f),
        }
    }
}

/// A number, or text.
impl<'de> Deserialize<'de> for VerdictName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named;
        impl de::Visitor<'_> for Named {
            type Value = VerdictName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a verdict's id or uid")
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<VerdictName, E> {
                Ok(VerdictName::Id(id))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<VerdictName, E> {
                i64::try_from(id).map(VerdictName::Id).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VerdictName, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Named)
    }
}

/// What tells a store from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct StoreIdentity([u8; 8]);

impl StoreIdentity {
    /// That of the store of this connection, whose record has begun.
    pub async fn read(connection: &mut SqliteConnection) -> Result<Self, StoreError> {
        let first: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT hash FROM record WHERE seq = 1").fetch_optional(connection).await?;
        let start = first.as_deref().and_then(<[u8]>::first_chunk).copied();
        start.map(Self).ok_or_else(|| StoreError::Record("its first entry is gone".into()))
    }

    /// The uid of a verdict that has none of its own.
    pub fn uid(self, id: i64) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0);
        bytes[8..].copy_from_slice(&id.to_be_bytes());
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// The id in a uid that [`Self::uid`] gave; `None` for every other one.
    fn id(self, uid: Uuid) -> Option<i64> {
        let id = (uid.as_u128() & ((1 << 62) - 1)) as i64;
        (self.uid(id) == uid).then_some(id)
    }

    /// The verdict `id` as its document says it, with all that it is called.
    ///
    /// # Errors
    /// [`StoreError::Row`].
    pub fn verdict(self, id: i64, document: &str) -> Result<Verdict, StoreError> {
        let read: Verdict = serde_json::from_str(document).map_err(|e| StoreError::Row { id, why: e.to_string() })?;
        let uid = if read.uid.is_nil() { self.uid(id) } else { read.uid };
        Ok(Verdict { id, uid, ..read })
    }

    /// The uid of the verdict `id`, whose document says `own`.
    pub fn or_own(self, id: i64, own: Option<&str>) -> Uuid {
        own.and_then(|uid| uid.parse().ok()).unwrap_or_else(|| self.uid(id))
    }
}

impl Store {
    /// The id of a verdict; `None` where no verdict has this uid. Whether there is one of an id is not looked up.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn verdict_id(&self, name: VerdictName) -> Result<Option<i64>, StoreError> {
        let uid = match name {
            VerdictName::Id(id) => return Ok(Some(id)),
            VerdictName::Uid(uid) => uid,
        };
        Ok(match self.identity.id(uid) {
            Some(id) => sqlx::query_scalar(OLDER).bind(id).fetch_optional(&self.database).await?,
            None => sqlx::query_scalar(OWN).bind(uid.to_string()).fetch_one(&self.database).await?,
        })
    }

    /// The verdict that is called so.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Row`].
    pub async fn verdict_named(&self, name: VerdictName) -> Result<Option<Verdict>, StoreError> {
        match self.verdict_id(name).await? {
            Some(id) => self.verdict(id).await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        domain::{Action, testing::verdict},
        store::{Event, Page, forger::edit},
    };

    const OTHER: &str = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee";

    /// An item of before there were uids.
    fn older() -> Verdict {
        Verdict { uid: Uuid::nil(), ..verdict(Action::Reject) }
    }

    #[tokio::test]
    async fn a_verdict_is_found_by_its_own_uid_and_an_older_one_by_that_of_store_and_id() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("one")).await.unwrap();
        let own = verdict(Action::Accept);
        store.insert(&[older(), own.clone(), older()]).await.unwrap();
        let page = Page { limit: 9, ..Page::default() };
        let uids: Vec<Uuid> = store.verdicts(page).await.unwrap().iter().rev().map(|v| v.uid).collect();
        assert_eq!((uids[1], uids[0].get_version_num(), uids[2].get_version_num()), (own.uid, 8, 8));
        for (uid, id) in uids.iter().zip(1..) {
            let found = store.verdict_named(VerdictName::Uid(*uid)).await.unwrap().unwrap();
            assert_eq!((found.id, found.uid), (id, *uid));
        }
        let not = [OTHER.parse().unwrap(), store.identity.uid(2), store.identity.uid(4), Uuid::nil(), Uuid::max()];
        for uid in not {
            assert_eq!(store.verdict_named(VerdictName::Uid(uid)).await.unwrap(), None, "{uid}");
        }
        store.close().await;

        // A copy is the same store, another store is not, and a reader sees what the service sees.
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        for file in ["verdicts.sqlite", "record.key", "record.pub"] {
            std::fs::copy(folder.path().join("one").join(file), copy.join(file)).unwrap();
        }
        let copy = Store::open(&copy).await.unwrap();
        let other = Store::open(&folder.path().join("other")).await.unwrap();
        other.insert(&[older()]).await.unwrap();
        let reader = Store::open_to_read(&folder.path().join("one")).await.unwrap();
        let first = async |store: &Store| store.verdict(1).await.unwrap().unwrap().uid;
        assert_eq!((first(&copy).await, first(&reader).await), (uids[0], uids[0]));
        assert_ne!(first(&other).await, uids[0]);
        assert_eq!(other.verdict_named(VerdictName::Uid(uids[0])).await.unwrap(), None);
    }

    #[tokio::test]
    async fn labels_and_events_of_an_item_are_found_by_its_uid() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let frame = Some("20261125-0123456789abcdef01234567".into());
        let ids = store.insert(&[Verdict { frame, ..verdict(Action::Reject) }, older()]).await.unwrap();
        for id in ids {
            let uid = store.verdict(id).await.unwrap().unwrap().uid;
            let said = store.add_label(id, Some("cod"), "anna", time::OffsetDateTime::UNIX_EPOCH).await.unwrap();
            assert_eq!((said.uid, store.history(id).await.unwrap()), (uid, vec![said]));
            let (gate, camera) = ("out".to_owned(), "belt".to_owned());
            let missed = Event::RejectMissed { gate, camera, track: 7, uid: Some(uid), lot: None, passed: None };
            store.append(missed.clone()).await.unwrap();
            let told = store.item_events(uid).await.unwrap();
            assert_eq!(told.into_iter().map(|entry| entry.event).collect::<Vec<_>>(), [missed]);
        }
        let items = store.items(&crate::store::ItemPage { limit: 9, ..Default::default() }).await.unwrap();
        assert!(items.iter().all(|item| item.labels[0].uid == item.verdict.uid));
    }

    #[tokio::test]
    async fn no_lookup_walks_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let events = "SELECT seq, CAST(body AS TEXT) FROM record WHERE verdict IS NULL AND uid = ? ORDER BY seq";
        for (query, index) in [(OWN, "verdicts_by_uid"), (OLDER, "PRIMARY KEY"), (events, "record_events_by_uid")] {
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
                    .fetch_all(&store.database)
                    .await
                    .unwrap();
            let steps: Vec<&str> = plan.iter().map(|step| step.3.as_str()).collect();
            assert!(matches!(&steps[..], [step] if step.starts_with("SEARCH") && step.contains(index)), "{steps:?}");
        }
    }

    #[tokio::test]
    async fn a_uid_that_was_edited_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.insert(&[verdict(Action::Reject), older()]).await.unwrap();
        store.close().await;
        let sql = format!("UPDATE verdicts SET body = json_set(body, '$.uid', '{OTHER}') WHERE id = 2");
        assert_eq!(edit(folder.path(), sql).await, 1);
        assert!(!crate::store::verify(folder.path(), None, None).await.unwrap().findings.is_empty());
    }

    #[test]
    fn names_are_numbers_or_uids() {
        let uid = Uuid::parse_str(OTHER).unwrap();
        for (text, name) in [
            ("7", Some(VerdictName::Id(7))),
            (OTHER, Some(VerdictName::Uid(uid))),
            ("0190AAAA-BBBB-7CCC-8DDD-EEEEEEEEEEEE", Some(VerdictName::Uid(uid))),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), name, "{text}");
        }
        assert_eq!(serde_json::from_str(&format!("\"{OTHER}\"")).ok(), Some(VerdictName::Uid(uid)));
        assert_eq!(serde_json::from_str("7").ok(), Some(VerdictName::Id(7)));
        assert!(serde_json::from_str::<VerdictName>("7.5").is_err());
    }
}
