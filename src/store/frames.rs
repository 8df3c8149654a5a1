//! Kept frames: JPEG files, named by day and content, so that the items of one frame share one file.
//!
//! Invariant: a frame becomes visible whole or not at all (`object_store` writes aside and renames), and no key leaves
//! the folder.

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use time::{Date, OffsetDateTime};

use super::{
    Store, StoreError,
    record::rows::{self, HeldTable},
};
use crate::domain::hash::sha256;

/// A frame on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its key.
    pub(super) key: String,
    /// Its size.
    pub(super) bytes: u64,
    /// When it was last written, in seconds since 1970.
    pub(super) written: i64,
}

/// The key of a JPEG taken at `time`: `20261125-` and 24 hexadecimal digits of its SHA-256.
pub fn frame_key(jpeg: &[u8], time: OffsetDateTime) -> String {
    let day = time.to_offset(time::UtcOffset::UTC).date();
    format!("{:04}{:02}{:02}-{}", day.year(), u8::from(day.month()), day.day(), &sha256(jpeg)[..24])
}

/// `20261125-00ff…` → `20261125/00ff….jpg`; `None` for anything that [`frame_key`] would not have made.
fn place(key: &str) -> Option<Path> {
    let (day, hash) = key.split_once('-')?;
    let digits = day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit());
    let hex = hash.len() == 24 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits && hex).then(|| Path::from(format!("{day}/{hash}.jpg")))
}

impl Store {
    /// Writes a frame under `key` (see [`frame_key`]); writing the same one again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Frames`].
    pub async fn put_frame(&self, key: &str, jpeg: Bytes) -> Result<(), StoreError> {
        let path = place(key).ok_or_else(|| no_key(key))?;
        self.there().await?; // a folder that was moved away must not be made again
        self.frames.put(&path, jpeg.into()).await?;
        Ok(())
    }

    /// The JPEG stored under `key`, or `None`.
    ///
    /// # Errors
    /// [`StoreError::Frames`].
    pub async fn frame(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let Some(path) = place(key) else { return Ok(None) };
        match self.frames.get(&path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Store {
    /// Days (UTC) of which there are frames, oldest first.
    pub(super) async fn frame_days(&self) -> Result<Vec<Date>, StoreError> {
        let found = self.frames.list_with_delimiter(None).await?.common_prefixes;
        let mut days: Vec<Date> = found.iter().filter_map(|path| day(path.as_ref())).collect();
        days.sort();
        Ok(days)
    }

    /// Keys of a day's frames.
    pub(super) async fn frame_keys(&self, day: Date) -> Result<Vec<String>, StoreError> {
        Ok(self.frame_files(day).await?.into_iter().map(|file| file.key).collect())
    }

    /// A day's frames as they lie on the disk.
    pub(super) async fn frame_files(&self, day: Date) -> Result<Vec<Stored>, StoreError> {
        let day = format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day());
        let found = self.frames.list_with_delimiter(Some(&Path::from(day.clone()))).await?.objects;
        let key = |file: &str| Some(format!("{day}-{}", file.strip_suffix(".jpg")?));
        let stored = |object: &object_store::ObjectMeta| {
            let key = key(object.location.filename()?)?;
            Some(Stored { key, bytes: object.size, written: object.last_modified.timestamp() })
        };
        Ok(found.iter().filter_map(stored).collect())
    }

    /// Whether the frame is there.
    ///
    /// # Errors
    /// [`StoreError::Frames`].
    pub async fn has_frame(&self, key: &str) -> Result<bool, StoreError> {
        let Some(path) = place(key) else { return Ok(false) };
        match self.frames.head(&path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes a frame; one that is gone already is as good. From then on its verdicts are not found by
    /// [`Store::items`] and [`Store::queue`].
    pub(super) async fn remove_frame(&self, key: &str) -> Result<(), StoreError> {
        let path = place(key).ok_or_else(|| no_key(key))?;
        let mut transaction = self.begin().await?;
        sqlx::query(
            "INSERT OR REPLACE INTO frames_gone (key, upto) \
             SELECT frame, max(id) FROM verdicts WHERE frame = ? GROUP BY frame",
        )
        .bind(key)
        .execute(&mut *transaction)
        .await?;
        rows::hold(&mut transaction, self.signer()?, HeldTable::FramesGone, key, None).await?;
        transaction.commit().await?;
        match self.frames.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// `20261125` as a date.
fn day(name: &str) -> Option<Date> {
    let part = |range: std::ops::Range<usize>| name.get(range)?.parse::<u16>().ok();
    let month = u8::try_from(part(4..6)?).ok()?.try_into().ok()?;
    Date::from_calendar_date(part(0..4)?.into(), month, u8::try_from(part(6..8)?).ok()?).ok()
}

fn no_key(key: &str) -> object_store::Error {
    object_store::Error::Generic { store: "frames", source: format!("`{key}` is not a frame key").into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_back_byte_for_byte_and_no_key_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let jpeg = Bytes::from_static(b"\xff\xd8 not looked at \xff\xd9");
        let key = frame_key(
            &jpeg,
            (OffsetDateTime::UNIX_EPOCH - std::time::Duration::from_secs(60))
                .to_offset(time::UtcOffset::from_hms(1, 0, 0).unwrap()),
        );
        assert!(key.starts_with("19691231-"), "days are UTC: {key}");
        store.put_frame(&key, jpeg.clone()).await.unwrap();
        store.put_frame(&key, jpeg.clone()).await.unwrap();
        assert_eq!(store.frame(&key).await.unwrap(), Some(jpeg));
        std::fs::write(folder.path().join("secret.jpg"), "x").unwrap();
        for wrong in ["", "../secret", "20261126-../../secret", "20261126-0123456789abcdef01234567"] {
            assert_eq!(store.frame(wrong).await.unwrap(), None, "{wrong}");
        }
        assert!(store.put_frame("../secret", Bytes::new()).await.is_err());
    }
}
