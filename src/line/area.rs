//! Which part of a camera's pictures is searched for items: a region that is cut out before the search, and masks in which
//! nothing is an item. Both are told as shares of the whole, turned picture, so that they outlive a change of its size.
//!
//! Behind the search everything is told in pixels of the whole picture again, and the whole picture is what is kept.
//!
//! Invariant: what a mask hides is never searched; it is filled with what lies beside it across the belt, which moves as the
//! belt does, so that nothing that stands there tells the belt's travel.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    domain::{Picture, Region},
    picture::pixels::{self, PixelLimits},
};

/// Least side of a region, as a share of the picture's: in less, nothing tells how far the belt goes.
const LEAST: f64 = 0.1;
/// Shades of a mask below this are black.
const BLACK: u32 = 128;

/// What the configuration says of the search area of one camera.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AreaSettings {
    /// Left, top, width and height of the part that is searched; absent: all of it.
    pub region: Option<[f64; 4]>,
    /// A picture of any size, stretched over the camera's: nothing black is searched.
    pub mask: Option<PathBuf>,
    /// Left, top, width and height of parts that are not searched.
    pub masks: Vec<[f64; 4]>,
}

impl AreaSettings {
    /// Refuses parts outside the picture.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), String> {
        let inside = |[x, y, width, height]: [f64; 4]| {
            x >= 0.0 && y >= 0.0 && width > 0.0 && height > 0.0 && x + width <= 1.0 + 1e-9 && y + height <= 1.0 + 1e-9
        };
        for (key, part) in
            self.region.iter().map(|part| ("region", part)).chain(self.masks.iter().map(|p| ("masks", p)))
        {
            if !inside(*part) {
                return Err(format!(
                    "{key}: {part:?} lies outside the picture; write [left, top, width, height], each a share of the \
                     picture from 0 to 1"
                ));
            }
        }
        match self.region {
            Some(part @ [_, _, width, height]) if width < LEAST || height < LEAST => {
                Err(format!("region: {part:?} is too small; each side must be at least {LEAST} of the picture's"))
            }
            _ => Ok(()),
        }
    }
}

/// The part of one camera's pictures that is searched.
#[derive(Clone, Debug, Default)]
pub struct SearchArea {
    settings: AreaSettings,
    mask: Option<Arc<Picture>>,
    /// For pictures of this size: the pixels of the cut that are filled, each with the one that it is filled from.
    fill: ((u32, u32), Vec<(u32, u32)>),
}

/// The part of a picture that is searched.
pub struct SearchedPart<'a> {
    /// It, with what masks hide filled.
    pub picture: Cow<'a, Picture>,
    /// Its left and top edge in the whole picture, in pixels.
    pub at: (u32, u32),
}

impl SearchedPart<'_> {
    /// A region of it, as one of the whole picture.
    pub fn whole(&self, region: Region) -> Region {
        Region { x: region.x + self.at.0, y: region.y + self.at.1, ..region }
    }
}

impl SearchArea {
    /// Reads the mask, if there is one.
    ///
    /// # Errors
    /// Names the key: a mask that can't be read, or one that hides everything.
    pub fn open(settings: &AreaSettings) -> Result<Self, String> {
        let read = |path: &PathBuf| read_mask(path).map_err(|why| format!("mask: {}: {why}", path.display()));
        let mask = settings.mask.as_ref().map(read).transpose()?.map(Arc::new);
        let area = Self { settings: settings.clone(), mask, ..Self::default() };
        let seen =
            (0..100).any(|y| (0..100).any(|x| !area.hides((f64::from(x) + 0.5) / 100.0, (f64::from(y) + 0.5) / 100.0)));
        if seen { Ok(area) } else { Err("mask and masks hide all that is searched".into()) }
    }

    /// Whether all of a picture is searched.
    pub fn is_all(&self) -> bool {
        self.settings.region.is_none() && !self.has_masks()
    }

    /// Whether a mask hides the place (x, y) of the part that is searched, each a share of that part.
    pub fn hides(&self, x: f64, y: f64) -> bool {
        let [left, top, width, height] = self.settings.region.unwrap_or([0.0, 0.0, 1.0, 1.0]);
        self.masked(left + x * width, top + y * height)
    }

    /// The part of a picture that is searched.
    pub fn cut<'a>(&mut self, picture: &'a Picture) -> SearchedPart<'a> {
        if self.is_all() {
            return SearchedPart { picture: Cow::Borrowed(picture), at: (0, 0) };
        }
        let Region { x, y, width, height } = self.part(picture);
        let row = width as usize * 3;
        let mut rgb = Vec::with_capacity(row * height as usize);
        for y in y..y + height {
            let from = (y as usize * picture.width as usize + x as usize) * 3;
            rgb.extend_from_slice(&picture.rgb[from..from + row]);
        }
        if self.has_masks() {
            if self.fill.0 != (width, height) {
                self.fill = ((width, height), self.filled(width, height));
            }
            for (to, from) in &self.fill.1 {
                let (to, from) = (*to as usize * 3, *from as usize * 3);
                rgb.copy_within(from..from + 3, to);
            }
        }
        SearchedPart { picture: Cow::Owned(Picture { width, height, rgb }), at: (x, y) }
    }

    /// Makes half as bright what is not searched, for people who watch.
    pub fn dim(&self, picture: &mut Picture) {
        let part = self.part(picture);
        let (width, height) = (picture.width, picture.height);
        for (n, pixel) in picture.rgb.chunks_exact_mut(3).enumerate() {
            let (x, y) = (n as u32 % width, n as u32 / width);
            let inside = (part.x..part.x + part.width).contains(&x) && (part.y..part.y + part.height).contains(&y);
            let share = |at: u32, of: u32| (f64::from(at) + 0.5) / f64::from(of);
            if !inside || self.masked(share(x, width), share(y, height)) {
                pixel.iter_mut().for_each(|value| *value /= 2);
            }
        }
    }

    fn has_masks(&self) -> bool {
        self.mask.is_some() || !self.settings.masks.is_empty()
    }

    /// The region in pixels.
    fn part(&self, picture: &Picture) -> Region {
        let [left, top, width, height] = self.settings.region.unwrap_or([0.0, 0.0, 1.0, 1.0]);
        let pixels = |from: f64, share: f64, of: u32| {
            let start = ((from * f64::from(of)).round() as u32).min(of - 1);
            (start, ((share * f64::from(of)).round() as u32).clamp(1, of - start))
        };
        let ((x, width), (y, height)) = (pixels(left, width, picture.width), pixels(top, height, picture.height));
        Region { x, y, width, height }
    }

    /// Whether a mask hides the place (x, y) of the whole picture.
    fn masked(&self, x: f64, y: f64) -> bool {
        let within = |[left, top, width, height]: &[f64; 4]| {
            (*left..left + width).contains(&x) && (*top..top + height).contains(&y)
        };
        let black = |mask: &Arc<Picture>| {
            let at = |share: f64, of: u32| ((share * f64::from(of)) as u32).min(of - 1);
            mask.at(at(x, mask.width), at(y, mask.height)).iter().map(|value| u32::from(*value)).sum::<u32>()
                < 3 * BLACK
        };
        self.settings.masks.iter().any(within) || self.mask.as_ref().is_some_and(black)
    }

    /// Which pixels of a cut of this size are filled, and from which: the nearest that is searched in the same column, across
    /// the belt; in a column without any, the nearest in the row that was filled by then.
    fn filled(&self, width: u32, height: u32) -> Vec<(u32, u32)> {
        let share = |at: u32, of: u32| (f64::from(at) + 0.5) / f64::from(of);
        let hidden = |x: u32, y: u32| self.hides(share(x, width), share(y, height));
        let mut fill = Vec::new();
        let mut empty = vec![true; width as usize];
        for x in 0..width {
            let seen: Vec<u32> = (0..height).filter(|y| !hidden(x, *y)).collect();
            empty[x as usize] = seen.is_empty();
            for y in (0..height).filter(|y| !seen.is_empty() && hidden(x, *y)) {
                let next = seen.partition_point(|seen| *seen < y);
                let sides = [next.checked_sub(1), Some(next)].into_iter().flatten().filter_map(|n| seen.get(n));
                let from = sides.min_by_key(|seen| seen.abs_diff(y)).copied().unwrap_or(y);
                fill.push((y * width + x, from * width + x));
            }
        }
        for x in (0..width).filter(|x| empty[*x as usize]) {
            let nearest = (0..width).filter(|other| !empty[*other as usize]).min_by_key(|other| other.abs_diff(x));
            fill.extend((0..height).map(|y| (y * width + x, y * width + nearest.unwrap_or(x))));
        }
        fill
    }
}

fn read_mask(path: &Path) -> Result<Picture, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    pixels::decode(&bytes, PixelLimits::default()).map_err(|e| e.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn area(region: Option<[f64; 4]>, masks: &[[f64; 4]]) -> SearchArea {
        let settings = AreaSettings { region, masks: masks.to_vec(), mask: None };
        settings.check().unwrap();
        SearchArea::open(&settings).unwrap()
    }

    /// A picture in which each pixel says where it lies.
    fn places(width: u32, height: u32) -> Picture {
        let rgb = (0..height).flat_map(|y| (0..width).flat_map(move |x| [x as u8, y as u8, 7])).collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn the_region_is_cut_out_and_told_in_the_whole_pictures_pixels() {
        let mut area = area(Some([0.25, 0.5, 0.5, 0.5]), &[]);
        let picture = places(80, 40);
        let part = area.cut(&picture);
        assert_eq!((part.picture.width, part.picture.height, part.at), (40, 20, (20, 20)));
        assert_eq!((part.picture.at(0, 0), part.picture.at(39, 19)), ([20, 20, 7], [59, 39, 7]));
        let region = part.whole(Region { x: 3, y: 4, width: 5, height: 6 });
        assert_eq!(region, Region { x: 23, y: 24, width: 5, height: 6 });
    }

    #[test]
    fn what_a_mask_hides_is_filled_across_the_belt() {
        // A rail above, a lamp in the middle, and a post over the whole height at the left.
        let mut area = area(None, &[[0.0, 0.0, 1.0, 0.25], [0.5, 0.5, 0.1, 0.1], [0.0, 0.0, 0.1, 1.0]]);
        let picture = places(100, 40);
        let part = area.cut(&picture);
        assert_eq!(part.picture.at(60, 0), [60, 10, 7], "the rail, from the belt below it");
        assert_eq!(part.picture.at(55, 20), [55, 19, 7], "the lamp, from above");
        assert_eq!(part.picture.at(55, 23), [55, 24, 7], "… and from below");
        assert_eq!(part.picture.at(3, 30), [10, 30, 7], "the post, from beside it");
        assert_eq!(part.picture.at(3, 0), [10, 10, 7]);
        assert_eq!(part.picture.at(70, 30), [70, 30, 7], "the belt is as it was");
        assert!(area.hides(0.55, 0.55) && !area.hides(0.55, 0.65));
    }

    #[test]
    fn a_mask_is_stretched_over_the_picture_and_black_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mask.png");
        let write = |picture: &Picture| {
            let image = image::RgbImage::from_raw(picture.width, picture.height, picture.rgb.clone()).unwrap();
            image.save(&file).unwrap();
        };
        let mut mask = Picture::filled(4, 2, [255; 3]);
        mask.rgb[..3].fill(0); // the upper left eighth
        write(&mask);
        let settings = AreaSettings { mask: Some(file.clone()), ..AreaSettings::default() };
        let area = SearchArea::open(&settings).unwrap();
        assert!(area.hides(0.2, 0.4) && !area.hides(0.3, 0.4) && !area.hides(0.2, 0.6));
        let mut shown = Picture::filled(40, 20, [100; 3]);
        area.dim(&mut shown);
        assert_eq!((shown.at(9, 9), shown.at(10, 9), shown.at(9, 10)), ([50; 3], [100; 3], [100; 3]));
        // In a region, the mask lies where it lies in the whole picture.
        let settings = AreaSettings { region: Some([0.0, 0.0, 0.5, 0.5]), ..settings };
        let area = SearchArea::open(&settings).unwrap();
        assert!(area.hides(0.4, 0.9) && !area.hides(0.6, 0.9));
        write(&Picture::filled(4, 2, [0; 3]));
        assert!(SearchArea::open(&settings).unwrap_err().contains("hide all"));
        std::fs::write(&file, "no picture").unwrap();
        assert!(SearchArea::open(&settings).unwrap_err().contains("mask.png"));
    }

    #[test]
    fn parts_outside_the_picture_are_refused_by_key() {
        for (region, masks, key) in [
            (Some([0.0, 0.0, 640.0, 360.0]), vec![], "region"),
            (Some([0.5, 0.0, 0.6, 1.0]), vec![], "region"),
            (Some([0.5, 0.0, 0.05, 1.0]), vec![], "too small"),
            (Some([f64::NAN, 0.0, 0.5, 1.0]), vec![], "region"),
            (None, vec![[0.0, 0.0, 0.0, 1.0]], "masks"),
            (None, vec![[-0.1, 0.0, 0.5, 1.0]], "masks"),
        ] {
            let why = AreaSettings { region, masks, mask: None }.check().unwrap_err();
            assert!(why.contains(key), "{why}");
        }
    }
}
