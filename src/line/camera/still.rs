//! Whether a camera sends the very same picture over and over: then its picture is of the past, and items pass unseen.
//!
//! The test is identity, since a sensor's noise changes every picture, of an empty belt too. Pictures are compared with
//! the one before, which ends at the first byte that differs; only a frozen camera costs a comparison to the end. Of a
//! JPEG the head is left out, in which some cameras put a clock or a counter. A clock in the picture itself hides that
//! it is frozen.

use std::time::{Duration, Instant};

use crate::domain::Raw;

/// What a frame shows against the frames before it.
#[derive(Debug, PartialEq)]
pub(super) enum PictureChange {
    /// Another picture than the frame before, or the same for a short while.
    News,
    /// The same for too long, and it was not said yet.
    Frozen,
    /// Frozen, as was said.
    Still,
}

/// Watches whether a camera is frozen: the picture that it shows, and since when.
pub(super) struct StillWatch {
    after: Duration,
    shown: Option<(Raw, Instant)>,
    said: bool,
}

impl StillWatch {
    /// Frozen is what shows the same for longer than `after`; never, where that is zero.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, shown: None, said: false }
    }

    pub(super) fn after(&self) -> Duration {
        self.after
    }

    pub(super) fn look(&mut self, raw: &Raw, now: Instant) -> PictureChange {
        if self.after.is_zero() {
            return PictureChange::News;
        }
        match &self.shown {
            Some((shown, since)) if same(shown, raw) => {
                if now.duration_since(*since) <= self.after {
                    PictureChange::News
                } else if std::mem::replace(&mut self.said, true) {
                    PictureChange::Still
                } else {
                    PictureChange::Frozen
                }
            }
            _ => {
                *self = Self { shown: Some((raw.clone(), now)), ..Self::new(self.after) };
                PictureChange::News
            }
        }
    }

    /// The camera was lost: if it comes back with the same picture, that is to be said again.
    pub(super) fn lost(&mut self) {
        self.said = false;
    }
}

fn same(one: &Raw, other: &Raw) -> bool {
    match (one, other) {
        (Raw::Rgb(one), Raw::Rgb(other)) => one == other,
        (Raw::Jpeg(one), Raw::Jpeg(other)) => scan(one) == scan(other),
        _ => false,
    }
}

/// A JPEG from its first scan on (ITU-T T.81, B.2.1); all of it where none is found.
fn scan(jpeg: &[u8]) -> &[u8] {
    let mut at = 2;
    while let Some([0xff, marker, high, low, ..]) = jpeg.get(at..) {
        if *marker == 0xda {
            return &jpeg[at..];
        }
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
    }
    jpeg
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{domain::Picture, picture::pixels::encode_jpeg};

    const AFTER: Duration = Duration::from_secs(10);

    fn rgb(shade: u8) -> Raw {
        Raw::Rgb(Arc::new(Picture::filled(8, 8, [shade; 3])))
    }

    /// A JPEG with a comment in its head.
    fn jpeg(shade: u8, comment: &[u8]) -> Raw {
        let jpeg = encode_jpeg(&Picture::filled(64, 64, [shade; 3]), 90).unwrap();
        let length = (comment.len() as u16 + 2).to_be_bytes();
        Raw::Jpeg([&jpeg[..2], &[0xff, 0xfe], &length, comment, &jpeg[2..]].concat().into())
    }

    #[test]
    fn the_same_picture_for_too_long_is_frozen_until_another_comes() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for picture in [|n: u8| rgb(n), |n: u8| jpeg(n, b"")] {
            let mut still = StillWatch::new(AFTER);
            let mut look = |n, seconds| still.look(&picture(n), at(seconds));
            assert_eq!(
                [look(1, 0), look(1, 5), look(1, 10)],
                [PictureChange::News, PictureChange::News, PictureChange::News]
            );
            assert_eq!([look(1, 11), look(1, 12)], [PictureChange::Frozen, PictureChange::Still]);
            assert_eq!(
                [look(2, 13), look(2, 23), look(2, 24)],
                [PictureChange::News, PictureChange::News, PictureChange::Frozen]
            );
            still.lost();
            assert_eq!(still.look(&picture(2), at(40)), PictureChange::Frozen, "back, and still the same");
        }
    }

    #[test]
    fn a_clock_in_the_head_hides_nothing_and_one_pixel_is_news() {
        let start = Instant::now();
        let mut still = StillWatch::new(AFTER);
        assert_eq!(still.look(&jpeg(1, b"12:00:00"), start), PictureChange::News);
        assert_eq!(still.look(&jpeg(1, b"12:00:11.3"), start + 2 * AFTER), PictureChange::Frozen);
        let mut picture = Picture::filled(8, 8, [1; 3]);
        assert_eq!(still.look(&Raw::Rgb(Arc::new(picture.clone())), start + 3 * AFTER), PictureChange::News);
        picture.rgb[100] = 2;
        assert_eq!(still.look(&Raw::Rgb(Arc::new(picture)), start + 5 * AFTER), PictureChange::News);
    }

    #[test]
    fn zero_never_calls_anything_frozen() {
        let start = Instant::now();
        let mut still = StillWatch::new(Duration::ZERO);
        assert!((0..10).all(|n| still.look(&rgb(1), start + n * AFTER) == PictureChange::News));
    }

    #[test]
    fn no_head_breaks_the_comparison() {
        for head in
            [&[0xff, 0xd8][..], &[], &[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0xff], &[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff]]
        {
            assert_eq!(scan(head), head);
        }
    }
}
