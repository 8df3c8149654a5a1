//! The outline of a fish: fish coordinates → points and paths in units of its length, the snout at x = 0.5.

use tiny_skia::{Path, PathBuilder, Point};

use super::species::Anatomy;

/// The body in fish coordinates.
pub(super) struct Body {
    pub anatomy: &'static Anatomy,
    pub bend: f32,
    pub plump: f32,
    /// Seen from above both sides are the back's.
    pub symmetric: bool,
}

impl Body {
    /// The point at (t, v) in units of the length, snout at x = 0.5.
    pub fn at(&self, t: f32, v: f32) -> Point {
        let profile = if v < 0.0 || self.symmetric { self.anatomy.back } else { self.anatomy.belly };
        let thin = if self.symmetric && self.anatomy.tail.1 > 0.08 { 0.85 } else { 1.0 };
        Point::from_xy(0.5 - t, self.spine(t) + v * along(profile, t) * self.plump * thin)
    }

    /// How far the middle line is bent aside at t.
    pub fn spine(&self, t: f32) -> f32 {
        self.bend * (1.0 - (2.0 * t - 0.9).powi(2)) - self.bend / 2.0
    }

    /// Where the body ends and the tail begins.
    fn end(&self) -> f32 {
        self.anatomy.back.last().map_or(0.88, |p| p.0)
    }

    /// The body without fins and tail.
    pub fn outline(&self) -> Option<Path> {
        let mut path = PathBuilder::new();
        let steps = 40;
        let t = |i: usize| (i as f32 / steps as f32).powf(1.4) * self.end();
        for (i, p) in
            (0..=steps).map(|i| self.at(t(i), -1.0)).chain((0..=steps).rev().map(|i| self.at(t(i), 1.0))).enumerate()
        {
            if i == 0 { path.move_to(p.x, p.y) } else { path.line_to(p.x, p.y) }
        }
        path.close();
        path.finish()
    }

    /// The tail, notched.
    pub fn tail(&self) -> Option<Path> {
        let (notch, spread) = self.anatomy.tail;
        let spread = if self.symmetric && spread > 0.08 { spread * 0.35 } else { spread };
        let end = self.end() - 0.02;
        let (a, b) = (self.at(end, -1.0), self.at(end, 1.0));
        let drift = self.spine(1.0);
        let mut path = PathBuilder::new();
        path.move_to(a.x, a.y);
        path.quad_to(0.5 - (end + 0.07), a.y - 0.01, -0.5, drift - spread);
        path.quad_to(0.5 - notch + 0.004, drift - spread * 0.3, 0.5 - notch, drift);
        path.quad_to(0.5 - notch + 0.004, drift + spread * 0.3, -0.5, drift + spread);
        path.quad_to(0.5 - (end + 0.07), b.y + 0.01, b.x, b.y);
        path.close();
        path.finish()
    }

    /// One fin; see [`Anatomy::fins`].
    pub fn fin(&self, (from, to, height, peak): (f32, f32, f32, f32)) -> Option<Path> {
        let side = -height.signum();
        let top = self.at(from + (to - from) * peak, side);
        let (a, b) = (self.at(from, side * 0.8), self.at(to, side * 0.8));
        let mut path = PathBuilder::new();
        path.move_to(a.x, a.y);
        path.quad_to((a.x + top.x) / 2.0, top.y - height * 0.8, top.x, top.y - height);
        path.quad_to((b.x + top.x) / 2.0, top.y - height * 0.75, b.x - 0.012, b.y - height * 0.25);
        path.line_to(b.x, b.y);
        path.close();
        path.finish()
    }

    /// A line through points (t, v).
    pub fn line(&self, points: impl IntoIterator<Item = (f32, f32)>) -> Option<Path> {
        let mut path = PathBuilder::new();
        for (i, (t, v)) in points.into_iter().enumerate() {
            let p = self.at(t, v);
            if i == 0 { path.move_to(p.x, p.y) } else { path.line_to(p.x, p.y) }
        }
        path.finish()
    }
}

/// Smooth interpolation of (t, value) pairs (Catmull-Rom).
pub(super) fn along(points: &[(f32, f32)], t: f32) -> f32 {
    let last = points.len() - 1;
    let i = points.iter().rposition(|p| p.0 <= t).unwrap_or(0).min(last - 1);
    let (p1, p2) = (points[i], points[i + 1]);
    let (p0, p3) = (points[i.saturating_sub(1)], points[(i + 2).min(last)]);
    let f = ((t - p1.0) / (p2.0 - p1.0)).clamp(0.0, 1.0);
    let slope = |a: (f32, f32), b: (f32, f32)| if b.0 > a.0 { (b.1 - a.1) / (b.0 - a.0) * (p2.0 - p1.0) } else { 0.0 };
    let (m1, m2) = (slope(p0, p2), slope(p1, p3));
    let (f2, f3) = (f * f, f * f * f);
    (2.0 * f3 - 3.0 * f2 + 1.0) * p1.1 + (f3 - 2.0 * f2 + f) * m1 + (3.0 * f2 - 2.0 * f3) * p2.1 + (f3 - f2) * m2
}
