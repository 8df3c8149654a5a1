//! Which way the belt runs, with hysteresis: a creeping belt shakes, and a jog back is no other way.

use crate::line::geometry::Direction;

/// Cells of travel that tell the way at first; later it takes a whole picture's width to turn it.
const FIRST: f64 = 4.0;

/// See the module.
#[derive(Default)]
pub(super) struct Way {
    sign: i8,
    /// Lowest and highest travel since the way was settled or went on, in cells.
    lowest: f64,
    highest: f64,
}

impl Way {
    /// The way that the belt is known to run; it is still noticed when it runs the other one.
    pub fn known(direction: Direction) -> Self {
        Self { sign: direction.sign(), ..Self::default() }
    }

    /// 1 towards larger x, -1 towards smaller, 0 while it is not known.
    pub fn sign(&self) -> i8 {
        self.sign
    }

    /// The belt's travel is `position` cells now; the picture is `across` cells wide.
    pub fn went_to(&mut self, position: f64, across: usize) {
        let turned = if self.sign == 0 { FIRST } else { across as f64 };
        self.lowest = self.lowest.min(position);
        self.highest = self.highest.max(position);
        let sign = if position - self.lowest > turned && self.sign <= 0 {
            1
        } else if self.highest - position > turned && self.sign >= 0 {
            -1
        } else {
            self.sign
        };
        let goes_on = sign > 0 && position >= self.highest || sign < 0 && position <= self.lowest;
        if sign != self.sign || goes_on {
            (self.sign, self.lowest, self.highest) = (sign, position, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jog_back_is_no_other_way_and_a_whole_picture_is() {
        let mut way = Way::default();
        let mut go = |range: std::ops::RangeInclusive<i32>, back: bool| {
            let steps: Vec<i32> = if back { range.rev().collect() } else { range.collect() };
            steps.into_iter().for_each(|cell| way.went_to(cell.into(), 160));
            way.sign()
        };
        assert_eq!(go(0..=3, false), 0, "a few cells tell nothing");
        assert_eq!(go(3..=300, false), 1);
        assert_eq!(go(150..=300, true), 1, "a jog");
        assert_eq!(go(150..=320, false), 1);
        assert_eq!(go(100..=320, true), -1);
    }

    #[test]
    fn a_way_that_is_known_holds_from_the_start_and_is_corrected_by_a_whole_picture() {
        let mut way = Way::known(Direction::Left);
        assert_eq!(way.sign(), -1);
        way.went_to(5.0, 160);
        assert_eq!(way.sign(), -1);
        way.went_to(161.0, 160);
        assert_eq!(way.sign(), 1);
    }
}
