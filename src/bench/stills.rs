//! Stills of the simulated belt for learning, cut exactly as serving cuts them: by the same locator, at the same
//! moment, with the same margin.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rayon::prelude::*;

use crate::{
    belt::{Belt, BeltConfig, BeltError, Species},
    domain::{Picture, Region},
    line::locate::{LocateConfig, Locator},
    picture::{
        dataset::{self, DataError},
        pixels::{self, CROP_MARGIN, PixelError},
    },
};

/// Items drawn from one belt; the next belt has other colours, lamps and dirt.
const ITEMS_PER_BELT: usize = 60;
/// Seconds until the locator knows the belt when it starts to look at one with items on it.
const SETTLING: f64 = 5.0;
const JPEG_QUALITY: i32 = 95;

/// Why no data set was written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The belt could not be drawn.
    #[error(transparent)]
    Belt(#[from] BeltError),
    /// A file could not be written.
    #[error("{path}: {error}", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The list could not be written.
    #[error(transparent)]
    List(#[from] DataError),
    /// A still could not be encoded.
    #[error(transparent)]
    Pixels(#[from] PixelError),
}

/// Draws `items` stills into `out/photos/<species>/` and lists them in `out/photos.csv`, with the columns `file`,
/// `species`, `salmonid` (1 for salmon), `split_group` (one per item) and `mask` (always 0: none are written).
/// Every species is equally frequent. The same seed and count give the same files, byte for byte.
///
/// # Errors
/// See [`DatasetError`].
pub fn write(out: &Path, seed: u64, items: usize) -> Result<(), DatasetError> {
    let salmon_share = 1.0 / Species::ALL.len() as f64;
    write_of(out, seed, items, &BeltConfig { salmon_share, empty_share: 0.05, ..BeltConfig::default() })
}

/// As [`write`], of belts like `like`: its sizes, shares, species and change count.
///
/// # Errors
/// See [`DatasetError`].
pub fn write_of(out: &Path, seed: u64, items: usize, like: &BeltConfig) -> Result<(), DatasetError> {
    write_spans(out, items, |first| {
        // Seeds far from those a person would type for the service's own belt.
        let belt = seed.wrapping_mul(1_000_003).wrapping_add(7_919 + first as u64);
        (BeltConfig { seed: belt, ..like.clone() }, 0.0)
    })
}

/// As [`write_of`], of the one belt `belt`, from `start` after its first picture on.
///
/// # Errors
/// See [`DatasetError`].
pub fn write_one(out: &Path, belt: &BeltConfig, start: Duration, items: usize) -> Result<(), DatasetError> {
    let pitch = 60.0 / belt.items_per_minute;
    // A span is drawn apart from the one before; a tenth more time than its items need keeps them apart.
    write_spans(out, items, |first| (belt.clone(), start.as_secs_f64() + first as f64 * pitch * 1.1))
}

/// Draws spans of [`ITEMS_PER_BELT`] items, each by the belt and from the second that `span` gives for its first item.
fn write_spans(out: &Path, items: usize, span: impl Fn(usize) -> (BeltConfig, f64) + Sync) -> Result<(), DatasetError> {
    for species in Species::ALL {
        let folder = out.join("photos").join(species.name());
        fs::create_dir_all(&folder).map_err(|error| DatasetError::Write { path: folder, error })?;
    }
    let firsts: Vec<usize> = (0..items).step_by(ITEMS_PER_BELT).collect();
    let rows: Vec<Vec<[String; 5]>> = firsts
        .into_par_iter()
        .map(|first| {
            let (belt, start) = span(first);
            write_belt(out, &belt, start, first, ITEMS_PER_BELT.min(items - first))
        })
        .collect::<Result<_, _>>()?;
    let columns = ["file", "species", "salmonid", "split_group", "mask"];
    Ok(dataset::write_table(out, columns, rows.into_iter().flatten())?)
}

fn write_belt(
    out: &Path,
    like: &BeltConfig,
    from: f64,
    first: usize,
    count: usize,
) -> Result<Vec<[String; 5]>, DatasetError> {
    // Fewer pictures per second than a camera takes: only those with a newly whole item are kept anyway.
    let config = BeltConfig { frame_rate: 12.0, ..like.clone() };
    let frame_rate = config.frame_rate;
    let mut belt = Belt::new(config)?;
    let mut locator = Locator::new(LocateConfig::default());
    let start = Instant::now(); // only differences between pictures matter
    let mut rows = Vec::new();
    let mut n = (from * frame_rate) as u64;
    while rows.len() < count {
        let (picture, truths) = belt.frame(n);
        for item in locator.look(&picture, start + Duration::from_secs_f64(n as f64 / frame_rate)) {
            if from > 0.0 && (n as f64) < (from + SETTLING) * frame_rate {
                continue; // the belt starts empty, but here it is looked at midway
            }
            let (x, y) = item.region.centre();
            let Some(truth) = truths.iter().find(|t| holds(t.region, x, y)) else { continue };
            if rows.len() == count {
                break;
            }
            let square = pixels::square_around(item.region, CROP_MARGIN, picture.width, picture.height);
            let still = pixels::encode_jpeg(&cut(&picture, square), JPEG_QUALITY)?;
            let file = format!("photos/{0}/{0}_{1:05}.jpg", truth.species, first + rows.len());
            let path = out.join(&file);
            fs::write(&path, still).map_err(|error| DatasetError::Write { path, error })?;
            let species = truth.species.clone();
            let salmonid = u8::from(species == Species::Salmon.name()).to_string();
            let group = format!("{species}_g{:05}", first + rows.len());
            rows.push([file, species, salmonid, group, "0".into()]);
        }
        n += 1;
    }
    Ok(rows)
}

fn holds(region: Region, x: f32, y: f32) -> bool {
    let inside = |v: f32, start: u32, size: u32| v >= start as f32 && v < (start + size) as f32;
    inside(x, region.x, region.width) && inside(y, region.y, region.height)
}

/// The pixels of `region`, which lies inside.
fn cut(picture: &Picture, region: Region) -> Picture {
    let row = |y: u32| {
        let from = (y * picture.width + region.x) as usize * 3;
        &picture.rgb[from..from + region.width as usize * 3]
    };
    let rgb = (region.y..region.y + region.height).flat_map(row).copied().collect();
    Picture { width: region.width, height: region.height, rgb }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_listed_decodable_and_the_same_again() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(a.path(), 3, 24).unwrap();
        write(b.path(), 3, 24).unwrap();
        let csv = fs::read_to_string(a.path().join("photos.csv")).unwrap();
        assert_eq!(csv, fs::read_to_string(b.path().join("photos.csv")).unwrap());
        let files: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(files.len(), 24);
        for file in files {
            let bytes = fs::read(a.path().join(file)).unwrap();
            assert_eq!(bytes, fs::read(b.path().join(file)).unwrap(), "{file}");
            let still = pixels::decode(&bytes, pixels::PixelLimits::default()).unwrap();
            assert_eq!(still.width, still.height, "{file} is a square");
            assert!(still.width >= 110, "{file} shows a fish, not a speck: {}", still.width);
        }
    }
}
