//! Where a camera's pixels lie on the belt: what a pixel is in millimetres, which way the belt runs, how the picture is
//! turned, what the lens bends, and how old a picture is when it comes.
//!
//! Pictures are turned before anything looks at them, and not bent back: only the place of an item is, on its way to the gate.
//!
//! Source: radial distortion as a polynomial of the distance from the picture's middle (Brown 1966, "Decentering distortion of
//! lenses"), from the bent place to the straight one, so that nothing has to be solved for.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

use crate::domain::{Picture, Region};

/// Pixels that are turned at once: rows of a picture and columns of another one both stay in the cache.
const TILE: usize = 32;

/// How one camera looks at its belt. All lengths in pixels are of the turned picture.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Geometry {
    /// What a pixel is on the belt, `"2.1mm/px"`; with `lens`, one in the picture's middle. In mm.
    #[serde(deserialize_with = "millimetres_per_pixel")]
    pub scale: Option<f64>,
    /// Pixels across of the pictures for which `scale` and `lens` hold.
    pub width: Option<u32>,
    /// Pixels down of them; only `lens` needs it.
    pub height: Option<u32>,
    /// Which way the belt runs in the picture.
    pub direction: Option<Direction>,
    /// By how many degrees each picture is turned clockwise, so that the belt runs along its width.
    pub rotation: Rotation,
    /// From the exposure to the moment at which a picture is said to be taken.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// What the lens bends.
    pub lens: Option<LensBend>,
}

/// Which way the belt runs in the turned picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards larger x.
    Right,
    /// Towards smaller x.
    Left,
}

impl Direction {
    /// 1 towards larger x, -1 towards smaller.
    pub fn sign(self) -> i8 {
        match self {
            Direction::Right => 1,
            Direction::Left => -1,
        }
    }

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Right => "right",
            Direction::Left => "left",
        }
    }
}

/// Quarters of a whole turn, clockwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Rotation(u8);

impl TryFrom<u32> for Rotation {
    type Error = String;

    fn try_from(degrees: u32) -> Result<Self, String> {
        match degrees {
            0 | 90 | 180 | 270 => Ok(Self((degrees / 90) as u8)),
            _ => Err(format!("rotation is {degrees}; it must be 0, 90, 180 or 270")),
        }
    }
}

impl Rotation {
    /// In degrees.
    pub fn degrees(self) -> u32 {
        u32::from(self.0) * 90
    }

    /// Whether pictures stay as they are.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The picture, turned.
    pub fn turn(self, picture: &Picture) -> Picture {
        let (width, height) = (picture.width as usize, picture.height as usize);
        let (across, down) = if self.0 % 2 == 1 { (height, width) } else { (width, height) };
        let mut rgb = vec![0; picture.rgb.len()];
        for (top, left) in (0..height).step_by(TILE).flat_map(|y| (0..width).step_by(TILE).map(move |x| (y, x))) {
            for y in top..(top + TILE).min(height) {
                for x in left..(left + TILE).min(width) {
                    let (to_x, to_y) = match self.0 {
                        0 => (x, y),
                        1 => (height - 1 - y, x),
                        2 => (width - 1 - x, height - 1 - y),
                        _ => (y, width - 1 - x),
                    };
                    let (from, to) = ((y * width + x) * 3, (to_y * across + to_x) * 3);
                    rgb[to..to + 3].copy_from_slice(&picture.rgb[from..from + 3]);
                }
            }
        }
        Picture { width: across as u32, height: down as u32, rgb }
    }

    /// Where a region of a picture of this size lies when the picture is turned.
    pub fn turn_region(self, region: Region, width: u32, height: u32) -> Region {
        let Region { x, y, width: across, height: down } = region;
        let (right, below) = (width.saturating_sub(x + across), height.saturating_sub(y + down));
        match self.0 {
            0 => region,
            1 => Region { x: below, y: x, width: down, height: across },
            2 => Region { x: right, y: below, ..region },
            _ => Region { x: y, y: right, width: down, height: across },
        }
    }
}

/// Coefficients of the lens, without a unit: below 0 straight lines at the picture's edge bulge inwards (a pincushion), above 0
/// outwards (a barrel, as of most wide lenses).
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LensBend {
    /// Of the square of the distance from the picture's middle, which is 1 at its corners.
    pub k1: f64,
    /// Of the fourth power.
    #[serde(default)]
    pub k2: f64,
}

/// A lens and the pictures it bends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lens {
    bend: LensBend,
    /// The picture's middle, in pixels.
    middle: (f64, f64),
}

impl Lens {
    /// The lens before pictures of this size.
    pub fn new(bend: LensBend, width: u32, height: u32) -> Self {
        Self { bend, middle: (f64::from(width) / 2.0, f64::from(height) / 2.0) }
    }

    /// The square of the distance from the picture's middle, over half its diagonal.
    pub fn square(&self, x: f64, y: f64) -> f64 {
        let (across, down) = self.middle;
        ((x - across).powi(2) + (y - down).powi(2)) / (across * across + down * down)
    }

    /// Where the pixel (x, y) would be if the lens bent nothing.
    pub fn straight(&self, x: f64, y: f64) -> (f64, f64) {
        let square = self.square(x, y);
        let by = 1.0 + self.bend.k1 * square + self.bend.k2 * square * square;
        (self.middle.0 + (x - self.middle.0) * by, self.middle.1 + (y - self.middle.1) * by)
    }

    /// Pixels along the belt from the picture's left edge, at half its height, to (x, y), if the lens bent nothing.
    pub fn along(&self, x: f64, y: f64) -> f64 {
        self.straight(x, y).0 - self.straight(0.0, self.middle.1).0
    }

    /// How much longer the picture's width would be if the lens bent nothing.
    pub fn stretch(&self) -> f64 {
        self.along(2.0 * self.middle.0, self.middle.1) / (2.0 * self.middle.0)
    }
}

impl Geometry {
    /// The lens, where it is known with the size of its pictures.
    pub fn lens(&self) -> Option<Lens> {
        Some(Lens::new(self.lens?, self.width?, self.height?))
    }

    /// Refuses what no camera has.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), String> {
        if self.width == Some(0) || self.height == Some(0) {
            return Err("geometry.width and geometry.height must be above 0".into());
        }
        let Some(LensBend { k1, k2 }) = self.lens else { return Ok(()) };
        if self.lens().is_none() {
            return Err("geometry.lens needs geometry.width and geometry.height, the size of the pictures it was \
                        measured in"
                .into());
        }
        // Further out must stay further out, up to the corners.
        let grows = |n: i32| {
            let square = (f64::from(n) / 100.0).powi(2);
            1.0 + 3.0 * k1 * square + 5.0 * k2 * square * square > 0.0
        };
        if !(0..=100).all(grows) || k1.abs() > 1.0 || k2.abs() > 1.0 {
            return Err(format!("geometry.lens: k1 = {k1}, k2 = {k2} would fold the picture; no lens does"));
        }
        Ok(())
    }
}

/// A finite number before `unit`.
pub(in crate::line) fn quantity<E: Error>(text: &str, unit: &str) -> Result<f64, E> {
    let number = text.strip_suffix(unit).and_then(|number| number.trim().parse().ok());
    number.filter(|n: &f64| n.is_finite()).ok_or_else(|| E::custom(format!("{text:?} is not a number of {unit}")))
}

fn millimetres_per_pixel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let scale: f64 = quantity(&String::deserialize(deserializer)?, "mm/px")?;
    if scale <= 0.0 {
        return Err(Error::custom(format!("{scale}mm/px: scale must be above 0")));
    }
    Ok(Some(scale))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Geometry, String> {
        let geometry: Geometry = toml::from_str(text).map_err(|e| e.to_string())?;
        geometry.check().map(|()| geometry)
    }

    #[test]
    fn a_picture_is_turned_clockwise_and_regions_with_it() {
        let (width, height) = (70u32, 40u32);
        let mut picture = Picture::filled(width, height, [0; 3]);
        let mark = Region { x: 3, y: 5, width: 9, height: 4 };
        for (y, x) in (mark.y..mark.y + mark.height).flat_map(|y| (mark.x..mark.x + mark.width).map(move |x| (y, x))) {
            let at = ((y * width + x) * 3) as usize;
            picture.rgb[at] = 255;
        }
        for (degrees, wanted) in [(0, (3, 5, 9, 4)), (90, (31, 3, 4, 9)), (180, (58, 31, 9, 4)), (270, (5, 58, 4, 9))] {
            let rotation = Rotation::try_from(degrees).unwrap();
            let turned = rotation.turn(&picture);
            let region = rotation.turn_region(mark, width, height);
            assert_eq!((region.x, region.y, region.width, region.height), wanted, "{degrees}");
            for (y, x) in (0..turned.height).flat_map(|y| (0..turned.width).map(move |x| (y, x))) {
                let inside = (region.x..region.x + region.width).contains(&x)
                    && (region.y..region.y + region.height).contains(&y);
                assert_eq!(turned.at(x, y)[0] == 255, inside, "{degrees}: {x}, {y}");
            }
        }
    }

    /// The bent place of a straight one, by halving: the way that only a test has to go.
    fn bent(lens: &Lens, x: f64, y: f64) -> (f64, f64) {
        let (mut low, mut high) = (0.0, 3.0);
        for _ in 0..60 {
            let by = (low + high) / 2.0;
            let at = (lens.middle.0 + (x - lens.middle.0) * by, lens.middle.1 + (y - lens.middle.1) * by);
            let (found, wanted) = (lens.straight(at.0, at.1), (x, y));
            let far = |p: (f64, f64)| (p.0 - lens.middle.0).hypot(p.1 - lens.middle.1);
            if far(found) < far(wanted) { low = by } else { high = by }
        }
        (lens.middle.0 + (x - lens.middle.0) * low, lens.middle.1 + (y - lens.middle.1) * low)
    }

    #[test]
    fn a_bent_grid_is_told_in_straight_millimetres() {
        for (k1, k2) in [(0.12, 0.0), (-0.08, 0.02), (0.2, -0.03), (0.0, 0.0)] {
            let lens = Lens::new(LensBend { k1, k2 }, 1280, 720);
            let left = lens.straight(0.0, 360.0).0;
            for (x, y) in (100..1200).step_by(100).flat_map(|x| (60..700).step_by(80).map(move |y| (x, y))) {
                let (x, y) = (f64::from(x), f64::from(y));
                let seen = bent(&lens, x, y);
                let millimetres = 0.5 * lens.along(seen.0, seen.1);
                assert!((millimetres - 0.5 * (x - left)).abs() < 1e-6, "{k1}, {k2}: {x}, {y}: {millimetres}");
            }
        }
        assert_eq!(Lens::new(LensBend { k1: 0.0, k2: 0.0 }, 640, 480).along(123.0, 7.0), 123.0);
        assert!((Lens::new(LensBend { k1: 0.1, k2: 0.0 }, 640, 480).stretch() - 1.064).abs() < 1e-9);
    }

    #[test]
    fn what_no_camera_has_is_refused_by_key() {
        let all = "scale = '2.1mm/px'\nwidth = 640\nheight = 360\ndirection = 'left'\nrotation = 270\n\
                   latency = '35ms'\nlens = { k1 = -0.1 }";
        let geometry = read(all).unwrap();
        assert_eq!((geometry.scale, geometry.latency), (Some(2.1), Duration::from_millis(35)));
        assert_eq!((geometry.direction, geometry.rotation), (Some(Direction::Left), Rotation(3)));
        for (right, wrong, why) in [
            ("'2.1mm/px'", "'2.1mm'", "mm/px"),
            ("'2.1mm/px'", "'0mm/px'", "above 0"),
            ("'2.1mm/px'", "2.1", "scale"),
            ("640", "0", "geometry.width"),
            ("width = 640\n", "", "geometry.lens needs"),
            ("'left'", "'up'", "right"),
            ("270", "45", "0, 90, 180 or 270"),
            ("'35ms'", "'35'", "latency"),
            ("-0.1", "-0.5", "fold"),
            ("-0.1", "nan", "fold"),
            ("k1", "k3", "k1"),
            ("latency", "delay", "latency"),
        ] {
            let said = read(&all.replace(right, wrong)).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
