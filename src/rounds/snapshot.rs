//! The store → a data set to learn from: labeled and unlabeled items, cut as serving cuts them.
//!
//! Invariant: one store gives one snapshot, byte for byte, and its folder appears whole or not at all. Looks of one item
//! share a `split_group`, so they never stand on both sides of a split.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use crate::{
    domain::{Verdict, hash::sha256},
    files::{FolderDraft, heartbeat},
    picture::{
        dataset::{self, DataError, Sample},
        pixels::{self, PixelError},
    },
    rounds::near_duplicates::{Thumbnail, ThumbnailIndex},
    store::{Consensus, ItemPage, LabeledItem, MAX_PAGE, Store, StoreError, consensus},
};

/// Folder of the unlabeled pictures inside a snapshot: what `beltsight train --unlabeled` is given.
pub const UNLABELED: &str = "unlabeled";

/// Most pictures of each kind.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotLimits {
    /// Labeled ones; the newest are taken.
    pub labeled: usize,
    /// Unlabeled ones; they are drawn evenly over the days of which there are any.
    pub unlabeled: usize,
}

/// A snapshot that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Pictures listed in `photos.csv`.
    pub labeled: usize,
    /// Pictures in the folder [`UNLABELED`].
    pub unlabeled: usize,
    /// Over all contents: the hash that a training from this folder writes into its model's lineage.
    pub sha256: String,
    /// Pictures left out because a near-identical one is in it.
    pub duplicates: usize,
    /// Labeled items left out because people disagree or could not tell.
    pub unsettled: usize,
    /// Items left out because their picture is gone or damaged.
    pub missing: usize,
}

/// Why no snapshot was written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is nothing to learn from.
    #[error("nobody has labeled an item yet whose picture was kept: label some first")]
    NoLabels,
    /// The folder is taken.
    #[error("{0} exists already and is not empty: name another folder")]
    Taken(PathBuf),
    /// A file can't be written.
    #[error("{path}: {error}", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A picture can't be encoded.
    #[error(transparent)]
    Pixels(#[from] PixelError),
    /// What was written can't be read back.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// Writes `folder/photos.csv` (columns `file,class,split_group`), the labeled pictures it names, and
/// `folder/unlabeled/`, for `beltsight train … --data folder --unlabeled folder/unlabeled`.
///
/// Labeled is what a majority of its labelers agree on; unlabeled is what nobody labeled. Near-identical pictures (see
/// [`Thumbnail::is_like`]) are taken once: among the labeled of one class, and among the unlabeled and all labeled. The
/// newest labeled ones come first; of the unlabeled ones every day gives one in its turn, until a limit is reached.
/// Pictures are worked on one at a time, so that at most one core is taken from the line.
///
/// # Errors
/// [`SnapshotError`]; then `folder` is as it was.
pub async fn snapshot(store: &Store, folder: &Path, limits: SnapshotLimits) -> Result<Snapshot, SnapshotError> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(SnapshotError::Taken(folder.into()));
    }
    let draft = FolderDraft::begin(folder).map_err(at(folder))?;
    let written = write(store, draft.path(), limits).await?;
    // Flushing thousands of pictures takes seconds.
    spawn_blocking(move || draft.publish()).await.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(at(folder))?;
    Ok(written)
}

async fn write(store: &Store, folder: &Path, limits: SnapshotLimits) -> Result<Snapshot, SnapshotError> {
    let drawn = store.drawn(0).await?;
    let mut writing =
        SnapshotWriting { store, folder, drawn, seen: HashMap::new(), duplicates: 0, unsettled: 0, missing: 0 };
    let labeled = writing.labeled(limits.labeled).await?;
    let unlabeled = writing.unlabeled(limits.unlabeled).await?;
    let sha256 = hash(folder, unlabeled > 0)?;
    let SnapshotWriting { duplicates, unsettled, missing, .. } = writing;
    Ok(Snapshot { labeled, unlabeled, sha256, duplicates, unsettled, missing })
}

/// A snapshot that is being written.
struct SnapshotWriting<'a> {
    store: &'a Store,
    folder: &'a Path,
    /// What the audit drew: it judges, and never teaches.
    drawn: HashSet<i64>,
    /// Thumbnails of what is in it: by class, and of the unlabeled under "".
    seen: HashMap<String, ThumbnailIndex>,
    duplicates: usize,
    unsettled: usize,
    missing: usize,
}

impl SnapshotWriting<'_> {
    /// Writes at most `most` labeled pictures and their list; gives their number.
    async fn labeled(&mut self, most: usize) -> Result<usize, SnapshotError> {
        let mut samples = Vec::new();
        let mut page = ItemPage { limit: MAX_PAGE, labeled: Some(true), ..ItemPage::default() };
        while samples.len() < most {
            let items = self.store.items(&page).await?;
            let Some(last) = items.last() else { break };
            page.before = Some(last.verdict.id);
            for LabeledItem { verdict, labels } in
                items.into_iter().filter(|item| !self.drawn.contains(&item.verdict.id))
            {
                if samples.len() == most {
                    break;
                }
                let Some(Consensus::Class(class)) = consensus(&labels) else {
                    self.unsettled += 1;
                    continue;
                };
                let Some(still) = still(self.store, &verdict).await? else {
                    self.missing += 1;
                    continue;
                };
                let of_class = self.seen.entry(class.clone()).or_default();
                if of_class.has_like(&still.thumbnail) {
                    self.duplicates += 1;
                    continue;
                }
                let file = keep(self.folder, "labeled", verdict.id, &still)?;
                of_class.add(still.thumbnail);
                samples.push(Sample { file, class, group: verdict.group() });
            }
        }
        if samples.is_empty() {
            return Err(SnapshotError::NoLabels);
        }
        samples.sort_by(|a, b| a.file.cmp(&b.file));
        dataset::write(self.folder, &samples)?;
        Ok(samples.len())
    }

    /// Writes at most `most` unlabeled pictures, each day's in its turn; gives their number.
    async fn unlabeled(&mut self, most: usize) -> Result<usize, SnapshotError> {
        let of_days = self.store.unlabeled_by_day().await?;
        let mut days: Vec<_> = of_days.into_values().map(|ids| spread(ids).into_iter()).collect();
        let mut written = 0;
        while written < most && !days.is_empty() {
            let mut left = Vec::new();
            for mut day in days {
                if written < most && self.next_of(&mut day).await? {
                    written += 1;
                    left.push(day);
                }
            }
            days = left;
        }
        Ok(written)
    }

    /// Writes the first of `items` that is there and like nothing written before; false: there is none.
    async fn next_of(&mut self, items: &mut impl Iterator<Item = i64>) -> Result<bool, SnapshotError> {
        for id in items.filter(|id| !self.drawn.contains(id)) {
            let Some(verdict) = self.store.verdict(id).await? else { continue }; // removed meanwhile
            let Some(still) = still(self.store, &verdict).await? else {
                self.missing += 1;
                continue;
            };
            if self.seen.values().any(|index| index.has_like(&still.thumbnail)) {
                self.duplicates += 1;
                continue;
            }
            keep(self.folder, UNLABELED, id, &still)?;
            self.seen.entry(String::new()).or_default().add(still.thumbnail);
            return Ok(true);
        }
        Ok(false)
    }
}

/// The items of a day so that the first ones, however many are taken, lie about evenly over it: by the fractional part of
/// id × golden ratio (Knuth, The Art of Computer Programming 3, §6.4, theorem S). A new item changes no other's place.
fn spread(mut ids: Vec<i64>) -> Vec<i64> {
    const GOLDEN: i64 = 0x9e37_79b9_7f4a_7c15_u64 as i64;
    ids.sort_by_key(|id| id.wrapping_mul(GOLDEN) as u64);
    ids
}

/// As training hashes what it reads.
fn hash(folder: &Path, unlabeled: bool) -> Result<String, DataError> {
    let labeled = dataset::read(folder)?.hash()?;
    if !unlabeled {
        return Ok(labeled);
    }
    let unlabeled = dataset::read_unlabeled(&folder.join(UNLABELED))?.hash()?;
    Ok(sha256(format!("{labeled}\n{unlabeled}\n").as_bytes()))
}

/// An item's own picture, ready to be written.
pub(super) struct Still {
    bytes: Vec<u8>,
    kind: &'static str,
    thumbnail: Thumbnail,
}

/// `None` when the frame is gone or can't be decoded.
pub(super) async fn still(store: &Store, verdict: &Verdict) -> Result<Option<Still>, SnapshotError> {
    heartbeat::beat();
    let Some(key) = &verdict.frame else { return Ok(None) };
    let Some(jpeg) = store.frame(key).await? else { return Ok(None) };
    let region = verdict.region;
    let cut = spawn_blocking(move || {
        let Ok(frame) = pixels::decode(&jpeg, pixels::PixelLimits::default()) else { return Ok(None) };
        let item = pixels::cut_item(&frame, region);
        let thumbnail = Thumbnail::of(&item)?;
        let (bytes, kind) = match region {
            Some(_) => (pixels::encode_png(&item)?, "png"), // no second loss
            None => (jpeg.to_vec(), "jpg"),
        };
        Ok::<_, PixelError>(Some(Still { bytes, kind, thumbnail }))
    });
    Ok(cut.await.unwrap_or_else(|e| Err(PixelError::Damaged(e.to_string())))?)
}

/// Writes the picture; returns its path inside `folder`.
pub(super) fn keep(folder: &Path, kind: &str, id: i64, still: &Still) -> Result<String, SnapshotError> {
    let inside = folder.join(kind);
    fs::create_dir_all(&inside).map_err(at(&inside))?;
    let name = format!("{id:09}.{}", still.kind);
    let path = inside.join(&name);
    fs::write(&path, &still.bytes).map_err(at(&path))?;
    Ok(format!("{kind}/{name}"))
}

fn at(path: &Path) -> impl Fn(io::Error) -> SnapshotError {
    move |error| SnapshotError::Write { path: path.into(), error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::{
        domain::{Action, Picture, Region, Source, testing::verdict},
        store::frame_key,
    };

    /// A frame with blocks of seeded grays and a square at the region's place.
    fn frame(seed: u32) -> Vec<u8> {
        let mut picture = Picture::filled(96, 64, [0; 3]);
        for (i, value) in picture.rgb.iter_mut().enumerate() {
            let (x, y) = ((i / 3 % 96 / 6) as u32, (i / 3 / 96 / 6) as u32);
            *value = (((x * 31 + y * 17 + seed).wrapping_mul(2_654_435_761) >> 13) % 200) as u8;
        }
        pixels::encode_jpeg(&picture, 95).unwrap()
    }

    async fn item(store: &Store, seed: u32, track: u64, region: Option<Region>) -> i64 {
        item_of(store, 0, seed, track, region).await
    }

    async fn item_of(store: &Store, day: i64, seed: u32, track: u64, region: Option<Region>) -> i64 {
        let (jpeg, wall) = (frame(seed), OffsetDateTime::UNIX_EPOCH + time::Duration::days(day));
        let key = frame_key(&jpeg, wall);
        store.put_frame(&key, jpeg.into()).await.unwrap();
        let source = if region.is_some() { Source::Belt } else { Source::Http };
        let of = Verdict { source, camera: "belt".into(), track, region, frame: Some(key), ..verdict(Action::Reject) };
        store.insert(&[of]).await.unwrap()[0]
    }

    async fn say(store: &Store, id: i64, class: Option<&str>, by: &str) {
        store.add_label(id, class, by, OffsetDateTime::UNIX_EPOCH).await.unwrap();
    }

    #[tokio::test]
    async fn labels_become_a_data_set_that_training_reads_and_hashes_alike() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).await.unwrap();
        let region = Some(Region { x: 20, y: 10, width: 30, height: 20 });
        for seed in 1..=12 {
            item(&store, seed, seed.into(), region).await;
        }
        item(&store, 3, 1, region).await; // 13: the same picture as 3, and the same track as 1 after a restart
        item(&store, 40, 0, None).await; // 14: a whole upload
        item(&store, 9, 99, region).await; // 15: the same picture as 9, which nobody labels
        for (id, class) in [(1, "cod"), (2, "bass"), (3, "cod"), (13, "cod"), (14, "bass"), (4, "cod"), (5, "bass")] {
            say(&store, id, Some(class), "anna").await;
        }
        say(&store, 4, Some("bass"), "ben").await; // disputed
        say(&store, 6, None, "anna").await; // can't tell
        let limits = SnapshotLimits { labeled: 100, unlabeled: 100 };
        let folder = root.path().join("first");
        let found = snapshot(&store, &folder, limits).await.unwrap();
        assert_eq!((found.labeled, found.unlabeled), (5, 6), "{found:?}");
        assert_eq!((found.duplicates, found.unsettled, found.missing), (2, 2, 0));

        let data = dataset::read(&folder).unwrap();
        assert_eq!(data.classes, ["bass", "cod"]);
        let rows: Vec<_> = data.samples.iter().map(|s| (s.file.as_str(), s.class.as_str())).collect();
        let wanted = [("01.png", "cod"), ("02.png", "bass"), ("05.png", "bass"), ("13.png", "cod"), ("14.jpg", "bass")];
        assert_eq!(
            rows,
            wanted
                .map(|(file, class)| (format!("labeled/0000000{file}"), class))
                .each_ref()
                .map(|(f, c)| (f.as_str(), *c))
        );
        let groups = [0, 3].map(|place: usize| data.samples[place].group.clone());
        assert_ne!(groups[0], groups[1], "a track of another run is another scene");
        for (group, id) in groups.into_iter().zip([1, 13]) {
            assert_eq!(group, store.verdict(id).await.unwrap().unwrap().uid.to_string());
        }
        let whole = pixels::decode(&frame(2), pixels::PixelLimits::default()).unwrap();
        let cut = pixels::cut_item(&whole, region);
        assert_eq!(data.load(24).unwrap()[1], pixels::fit(&cut, None, 24).unwrap(), "nothing is lost");
        let pool = dataset::read_unlabeled(&folder.join(UNLABELED)).unwrap();
        assert_eq!(pool.samples.len(), 6);
        let trained = sha256(format!("{}\n{}\n", data.hash().unwrap(), pool.hash().unwrap()).as_bytes());
        assert_eq!(found.sha256, trained);

        let again = snapshot(&store, &root.path().join("second"), limits).await.unwrap();
        assert_eq!(again, found, "one store, one snapshot");
        let refused = snapshot(&store, &folder, limits).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::Taken(_)), "{refused}");
        let few =
            snapshot(&store, &root.path().join("few"), SnapshotLimits { labeled: 2, unlabeled: 0 }).await.unwrap();
        assert_eq!((few.labeled, few.unlabeled), (2, 0));
        assert_eq!(few.sha256, dataset::read(&root.path().join("few")).unwrap().hash().unwrap());
        assert_ne!(few.sha256, found.sha256);
    }

    #[tokio::test]
    async fn without_labels_or_pictures_nothing_is_written() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).await.unwrap();
        let gone = Verdict { frame: Some("20261125-0123456789abcdef01234567".into()), ..verdict(Action::Reject) };
        store.insert(&[gone]).await.unwrap();
        say(&store, 1, Some("cod"), "anna").await;
        let folder = root.path().join("data");
        let refused = snapshot(&store, &folder, SnapshotLimits { labeled: 9, unlabeled: 9 }).await.unwrap_err();
        assert!(matches!(refused, SnapshotError::NoLabels), "{refused}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "only the store is there");
    }

    #[tokio::test]
    async fn unlabeled_pictures_are_drawn_over_the_days_not_from_the_newest_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store")).await.unwrap();
        let labeled = item(&store, 1, 0, None).await;
        say(&store, labeled, Some("cod"), "anna").await;
        let mut seed = 1;
        let mut days = Vec::new();
        for (day, count) in [(3, 12), (4, 2), (9, 20)] {
            for _ in 0..count {
                seed += 1;
                item_of(&store, day, seed, 0, None).await;
                days.push(day);
            }
        }
        item_of(&store, 9, 2, 0, None).await; // the same as the first of day 3
        for (most, wanted) in [(6, [2, 2, 2]), (10, [4, 2, 4]), (3, [1, 1, 1]), (100, [12, 2, 20])] {
            let folder = root.path().join(most.to_string());
            let found = snapshot(&store, &folder, SnapshotLimits { labeled: 9, unlabeled: most }).await.unwrap();
            assert_eq!(found.unlabeled, wanted.iter().sum::<usize>());
            let files = dataset::read_unlabeled(&folder.join(UNLABELED)).unwrap().samples;
            let ids: Vec<usize> = files.iter().map(|sample| sample.file[..9].parse().unwrap()).collect();
            let of_day = |day| ids.iter().filter(|id| days.get(*id - 2).unwrap_or(&9) == &day).count();
            assert_eq!([of_day(3), of_day(4), of_day(9)], wanted, "{ids:?}");
            if most == 10 {
                let (first, last) = (ids[0], ids[3]);
                assert!(last - first >= 6, "day 3 is 2 to 13, drawn are {ids:?}");
            }
        }
    }
}
