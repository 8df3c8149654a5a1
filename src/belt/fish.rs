//! One fish: what it is, how it lies, and how it is drawn.
//!
//! Fish coordinates: `t` runs from the snout (0) to the tips of the tail (1), `v` from the back (-1) to the belly (1);
//! every marking is placed by (t, v), so it follows the outline and the bend of the body.

use std::f32::consts::{PI, TAU};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LinearGradient, Mask, Paint, Path, PathBuilder, Pixmap, Point, Shader,
    SpreadMode, Stroke, Transform,
};

/// The species on the belt; salmon is the one that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Species {
    /// Atlantic salmon.
    Salmon,
    /// Atlantic herring.
    Herring,
    /// Atlantic mackerel.
    Mackerel,
    /// European sea bass.
    SeaBass,
    /// European flounder.
    Flounder,
}

impl Species {
    /// Every species, in the order used for class lists.
    pub const ALL: [Species; 5] =
        [Species::Salmon, Species::Herring, Species::Mackerel, Species::SeaBass, Species::Flounder];

    /// Lower-case name, as in truths, folders and class lists.
    pub fn name(self) -> &'static str {
        match self {
            Species::Salmon => "salmon",
            Species::Herring => "herring",
            Species::Mackerel => "mackerel",
            Species::SeaBass => "sea_bass",
            Species::Flounder => "flounder",
        }
    }

    /// Shortest and longest, as a share of the picture's width.
    fn lengths(self) -> (f32, f32) {
        match self {
            Species::Salmon => (0.29, 0.43),
            Species::Herring => (0.23, 0.33),
            Species::Mackerel => (0.25, 0.36),
            Species::SeaBass => (0.26, 0.40),
            Species::Flounder => (0.24, 0.36),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Pose {
    OnItsSide,
    BellyDown,
    BellyUp,
}

/// Everything that makes one fish look as it does.
pub(super) struct Fish {
    pub species: Species,
    /// Snout to tail, pixels.
    length: f32,
    /// 0 small to 1 large within its species.
    size: f32,
    /// Where the head points: 0 is right, a quarter turn is down.
    angle: f32,
    mirrored: bool,
    pose: Pose,
    /// Share of the length that the middle is bent aside.
    bend: f32,
    /// Thickness against the species' usual.
    plump: f32,
    /// 0 dry to 1 dripping.
    wet: f32,
    /// Brightness and colour against the species' usual.
    tint: [f32; 3],
    /// 0 grayish to 1 as painted.
    colour: f32,
    /// Seed of spots, bars and scales.
    markings: u64,
}

impl Fish {
    /// Draws a fish from `random`: a salmon, or one of `others`; `width` is the picture's.
    pub fn draw(random: &mut ChaCha8Rng, salmon_share: f64, others: &[Species], width: f32) -> Self {
        let species = if random.random_bool(salmon_share) {
            Species::Salmon
        } else {
            others[random.random_range(0..others.len())]
        };
        let (shortest, longest) = species.lengths();
        let size = random.random_range(0.0f32..1.0);
        let along = if random.random_bool(0.5) { 0.0 } else { PI };
        let angle = if random.random_bool(0.8) {
            along + random.random_range(-0.5f32..0.5)
        } else {
            random.random_range(0.0..TAU)
        };
        let pose = match (species, random.random_range(0.0f32..1.0)) {
            (Species::Flounder, p) if p < 0.12 => Pose::BellyUp,
            (Species::Flounder, _) => Pose::BellyDown,
            (_, p) if p < 0.12 => Pose::BellyDown,
            _ => Pose::OnItsSide,
        };
        let shade = random.random_range(0.82f32..1.14);
        Self {
            species,
            length: (shortest + (longest - shortest) * size) * width,
            size,
            angle,
            mirrored: random.random_bool(0.5),
            pose,
            bend: random.random_range(-0.05f32..0.05),
            plump: random.random_range(0.88f32..1.14),
            wet: random.random_range(0.0f32..1.0),
            tint: [shade, shade, shade].map(|s| s * random.random_range(0.93f32..1.07)),
            colour: random.random_range(0.45f32..1.0),
            markings: random.random(),
        }
    }

    /// Half the height of the picture rows it may cover, pixels (an upper bound).
    pub fn half_height(&self) -> f32 {
        self.half(self.angle.sin().abs(), self.angle.cos().abs())
    }

    /// Half the width of the picture columns it may cover, pixels (an upper bound).
    pub fn half_width(&self) -> f32 {
        self.half(self.angle.cos().abs(), self.angle.sin().abs())
    }

    /// Half of what its length covers by the share `along` and its depth by the share `across`.
    fn half(&self, along: f32, across: f32) -> f32 {
        let depth = if self.species == Species::Flounder { 0.72 } else { 0.42 };
        self.length / 2.0 * (along * 1.02 + depth * self.plump * across + 0.04)
    }

    /// "a medium salmon lying on its side, head to the left, wet".
    pub fn sentence(&self) -> String {
        let size = ["small", "medium", "large"][((self.size * 3.0) as usize).min(2)];
        let species = self.species.name().replace('_', " ");
        let pose = match self.pose {
            Pose::OnItsSide => "on its side",
            Pose::BellyDown => "belly down",
            Pose::BellyUp => "belly up",
        };
        let quarter = (self.angle / (TAU / 4.0)).round().rem_euclid(4.0) as usize;
        let head = ["to the right", "towards the bottom", "to the left", "towards the top"][quarter.min(3)];
        let wet = if self.wet > 0.66 {
            "very wet"
        } else if self.wet > 0.33 {
            "wet"
        } else {
            "nearly dry"
        };
        format!("a {size} {species} lying {pose}, head {head}, {wet}")
    }
}

/// Colours and outline of a species.
struct Anatomy {
    /// (t, half depth) along the back; the body ends at the last t, where the tail begins.
    back: &'static [(f32, f32)],
    belly: &'static [(f32, f32)],
    /// t of the tail's notch, half of its spread.
    tail: (f32, f32),
    /// (start t, end t, height, where its highest point lies between them); above 0 on the back, below 0 on the belly.
    fins: &'static [(f32, f32, f32, f32)],
    back_colour: [f32; 3],
    side_colour: [f32; 3],
    belly_colour: [f32; 3],
    fin_colour: [f32; 4],
    eye: f32,
}

fn anatomy(species: Species) -> Anatomy {
    match species {
        Species::Salmon => Anatomy {
            back: &[
                (0.0, 0.005),
                (0.05, 0.042),
                (0.15, 0.072),
                (0.3, 0.098),
                (0.45, 0.104),
                (0.65, 0.076),
                (0.8, 0.046),
                (0.88, 0.042),
            ],
            belly: &[
                (0.0, 0.008),
                (0.05, 0.038),
                (0.15, 0.072),
                (0.3, 0.102),
                (0.45, 0.106),
                (0.65, 0.074),
                (0.8, 0.042),
                (0.88, 0.042),
            ],
            tail: (0.965, 0.105),
            fins: &[
                (0.4, 0.53, 0.075, 0.25),
                (0.73, 0.765, 0.03, 0.9),
                (0.66, 0.75, -0.06, 0.3),
                (0.5, 0.57, -0.045, 0.5),
            ],
            back_colour: [74.0, 86.0, 96.0],
            side_colour: [168.0, 174.0, 178.0],
            belly_colour: [226.0, 226.0, 220.0],
            fin_colour: [88.0, 94.0, 98.0, 235.0],
            eye: 0.014,
        },
        Species::Herring => Anatomy {
            back: &[
                (0.0, 0.006),
                (0.05, 0.036),
                (0.15, 0.062),
                (0.3, 0.08),
                (0.45, 0.082),
                (0.65, 0.058),
                (0.8, 0.03),
                (0.87, 0.024),
            ],
            belly: &[
                (0.0, 0.014),
                (0.05, 0.046),
                (0.15, 0.084),
                (0.3, 0.108),
                (0.45, 0.106),
                (0.65, 0.07),
                (0.8, 0.03),
                (0.87, 0.024),
            ],
            tail: (0.91, 0.105),
            fins: &[(0.44, 0.56, 0.06, 0.25), (0.7, 0.8, -0.028, 0.3), (0.5, 0.55, -0.035, 0.5)],
            back_colour: [62.0, 88.0, 110.0],
            side_colour: [182.0, 190.0, 196.0],
            belly_colour: [228.0, 230.0, 228.0],
            fin_colour: [140.0, 146.0, 148.0, 205.0],
            eye: 0.021,
        },
        Species::Mackerel => Anatomy {
            back: &[
                (0.0, 0.004),
                (0.06, 0.036),
                (0.18, 0.07),
                (0.33, 0.088),
                (0.48, 0.084),
                (0.65, 0.052),
                (0.8, 0.02),
                (0.88, 0.014),
            ],
            belly: &[
                (0.0, 0.006),
                (0.06, 0.038),
                (0.18, 0.074),
                (0.33, 0.094),
                (0.48, 0.088),
                (0.65, 0.052),
                (0.8, 0.02),
                (0.88, 0.014),
            ],
            tail: (0.91, 0.11),
            fins: &[
                (0.32, 0.43, 0.06, 0.15),
                (0.56, 0.64, 0.035, 0.2),
                (0.68, 0.7, 0.016, 0.6),
                (0.73, 0.75, 0.014, 0.6),
                (0.78, 0.8, 0.012, 0.6),
                (0.58, 0.66, -0.035, 0.2),
                (0.7, 0.72, -0.015, 0.6),
                (0.76, 0.78, -0.013, 0.6),
            ],
            back_colour: [48.0, 92.0, 98.0],
            side_colour: [156.0, 176.0, 176.0],
            belly_colour: [228.0, 230.0, 222.0],
            fin_colour: [88.0, 100.0, 102.0, 220.0],
            eye: 0.017,
        },
        Species::SeaBass => Anatomy {
            back: &[
                (0.0, 0.006),
                (0.05, 0.04),
                (0.15, 0.082),
                (0.28, 0.112),
                (0.42, 0.112),
                (0.62, 0.08),
                (0.78, 0.048),
                (0.87, 0.044),
            ],
            belly: &[
                (0.0, 0.012),
                (0.05, 0.042),
                (0.15, 0.08),
                (0.28, 0.106),
                (0.42, 0.11),
                (0.62, 0.082),
                (0.78, 0.046),
                (0.87, 0.044),
            ],
            tail: (0.945, 0.11),
            fins: &[
                (0.3, 0.49, 0.075, 0.35),
                (0.53, 0.68, 0.06, 0.15),
                (0.6, 0.7, -0.06, 0.25),
                (0.3, 0.37, -0.055, 0.6),
            ],
            back_colour: [92.0, 98.0, 98.0],
            side_colour: [164.0, 168.0, 166.0],
            belly_colour: [224.0, 222.0, 212.0],
            fin_colour: [120.0, 120.0, 112.0, 225.0],
            eye: 0.02,
        },
        Species::Flounder => Anatomy {
            back: &[
                (0.0, 0.01),
                (0.06, 0.07),
                (0.15, 0.13),
                (0.3, 0.195),
                (0.45, 0.21),
                (0.62, 0.155),
                (0.77, 0.06),
                (0.84, 0.038),
            ],
            belly: &[
                (0.0, 0.012),
                (0.06, 0.065),
                (0.15, 0.13),
                (0.3, 0.195),
                (0.45, 0.215),
                (0.62, 0.155),
                (0.77, 0.06),
                (0.84, 0.038),
            ],
            tail: (0.995, 0.075),
            fins: &[(0.08, 0.79, 0.06, 0.55), (0.2, 0.79, -0.06, 0.45)],
            back_colour: [104.0, 92.0, 72.0],
            side_colour: [122.0, 108.0, 82.0],
            belly_colour: [112.0, 98.0, 76.0],
            fin_colour: [96.0, 84.0, 66.0, 235.0],
            eye: 0.017,
        },
    }
}

/// The body in fish coordinates.
struct Body {
    anatomy: Anatomy,
    bend: f32,
    plump: f32,
    /// Seen from above both sides are the back's.
    symmetric: bool,
}

impl Body {
    /// The point at (t, v) in units of the length, snout at x = 0.5.
    fn at(&self, t: f32, v: f32) -> Point {
        let profile = if v < 0.0 || self.symmetric { self.anatomy.back } else { self.anatomy.belly };
        let thin = if self.symmetric && self.anatomy.tail.1 > 0.08 { 0.85 } else { 1.0 };
        Point::from_xy(0.5 - t, self.spine(t) + v * along(profile, t) * self.plump * thin)
    }

    fn spine(&self, t: f32) -> f32 {
        self.bend * (1.0 - (2.0 * t - 0.9).powi(2)) - self.bend / 2.0
    }

    fn end(&self) -> f32 {
        self.anatomy.back.last().map_or(0.88, |p| p.0)
    }

    fn outline(&self) -> Option<Path> {
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

    fn tail(&self) -> Option<Path> {
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

    fn fin(&self, (from, to, height, peak): (f32, f32, f32, f32)) -> Option<Path> {
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
    fn line(&self, points: impl IntoIterator<Item = (f32, f32)>) -> Option<Path> {
        let mut path = PathBuilder::new();
        for (i, (t, v)) in points.into_iter().enumerate() {
            let p = self.at(t, v);
            if i == 0 { path.move_to(p.x, p.y) } else { path.line_to(p.x, p.y) }
        }
        path.finish()
    }
}

/// Smooth interpolation of (t, value) pairs (Catmull-Rom).
fn along(points: &[(f32, f32)], t: f32) -> f32 {
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

/// Paper, pen and the body's mask.
struct Canvas<'a> {
    pixmap: Pixmap,
    to_pixels: Transform,
    fish: &'a Fish,
    inside: Option<Mask>,
}

impl Canvas<'_> {
    fn colour(&self, rgb: [f32; 3], alpha: f32) -> Color {
        let gray = rgb[0] * 0.3 + rgb[1] * 0.59 + rgb[2] * 0.11;
        let part = |c: usize| {
            let value = gray + (rgb[c] - gray) * (0.4 + 0.6 * self.fish.colour);
            (value * self.fish.tint[c] / 255.0).clamp(0.0, 1.0)
        };
        Color::from_rgba(part(0), part(1), part(2), (alpha / 255.0).clamp(0.0, 1.0)).unwrap_or(Color::BLACK)
    }

    fn paint(&mut self, path: Option<Path>, shader: Shader<'_>, on_body: bool) {
        let Some(path) = path else { return };
        let paint = Paint { shader, ..Paint::default() };
        let mask = if on_body { self.inside.as_ref() } else { None };
        self.pixmap.fill_path(&path, &paint, FillRule::Winding, self.to_pixels, mask);
    }

    fn fill(&mut self, path: Option<Path>, rgb: [f32; 3], alpha: f32, on_body: bool) {
        let colour = self.colour(rgb, alpha);
        self.paint(path, Shader::SolidColor(colour), on_body);
    }

    fn stroke(&mut self, path: Option<Path>, width: f32, rgb: [f32; 3], alpha: f32) {
        let Some(path) = path else { return };
        let paint = Paint { shader: Shader::SolidColor(self.colour(rgb, alpha)), ..Paint::default() };
        let stroke = Stroke { width, line_cap: LineCap::Round, ..Stroke::default() };
        self.pixmap.stroke_path(&path, &paint, &stroke, self.to_pixels, self.inside.as_ref());
    }
}

fn spot(p: Point, rx: f32, ry: f32) -> Option<Path> {
    tiny_skia::Rect::from_ltrb(p.x - rx, p.y - ry, p.x + rx, p.y + ry).and_then(PathBuilder::from_oval)
}

/// Draws `fish` in the middle of a square that holds it in every pose; premultiplied RGBA.
pub(super) fn draw(fish: &Fish) -> Pixmap {
    let side = (fish.length * 1.12).ceil() as u32 + 4;
    // A square of a few hundred pixels: new() fails only for 0 or gigabytes.
    let pixmap = Pixmap::new(side, side).unwrap_or_else(|| unreachable!("the side is a few hundred pixels"));
    let flip = if fish.mirrored { -1.0 } else { 1.0 };
    let to_pixels = Transform::from_scale(fish.length, fish.length * flip)
        .post_rotate(fish.angle.to_degrees())
        .post_translate(side as f32 / 2.0, side as f32 / 2.0);
    let mut canvas = Canvas { pixmap, to_pixels, fish, inside: None };
    let symmetric = fish.pose == Pose::BellyDown && fish.species != Species::Flounder;
    let body = Body { anatomy: anatomy(fish.species), bend: fish.bend, plump: fish.plump, symmetric };
    let mut random = ChaCha8Rng::seed_from_u64(fish.markings);

    draw_fins(&mut canvas, &body);
    draw_body(&mut canvas, &body);
    match fish.species {
        Species::Salmon => draw_salmon(&mut canvas, &body, &mut random),
        Species::Herring => draw_herring(&mut canvas, &body, &mut random),
        Species::Mackerel => draw_mackerel(&mut canvas, &body, &mut random),
        Species::SeaBass => draw_sea_bass(&mut canvas, &body, &mut random),
        Species::Flounder => draw_flounder(&mut canvas, &body, &mut random),
    }
    draw_head(&mut canvas, &body);
    draw_wetness(&mut canvas, &body, &mut random);
    canvas.pixmap
}

fn draw_fins(canvas: &mut Canvas<'_>, body: &Body) {
    let [r, g, b, alpha] = body.anatomy.fin_colour;
    let fins = body.anatomy.fins;
    canvas.fill(body.tail(), [r, g, b], alpha, false);
    for fin in fins {
        if !body.symmetric {
            canvas.fill(body.fin(*fin), [r, g, b], alpha, false);
        }
    }
    if body.symmetric {
        // From above one sees the pectoral fins on both sides instead.
        for side in [1.0, -1.0] {
            canvas.fill(body.fin((0.2, 0.3, 0.045 * side, 0.8)), [r, g, b], alpha, false);
        }
    }
}

fn draw_body(canvas: &mut Canvas<'_>, body: &Body) {
    let Some(outline) = body.outline() else { return };
    let mut inside = Mask::new(canvas.pixmap.width(), canvas.pixmap.height());
    if let Some(mask) = inside.as_mut() {
        mask.fill_path(&outline, FillRule::Winding, true, canvas.to_pixels);
    }
    canvas.inside = inside;
    let a = &body.anatomy;
    let (back, flank, belly) = match canvas.fish.pose {
        Pose::BellyUp => ([224.0, 220.0, 210.0], [232.0, 230.0, 222.0], [220.0, 216.0, 204.0]),
        _ => (a.back_colour, a.side_colour, a.belly_colour),
    };
    let c = |rgb| canvas.colour(rgb, 255.0);
    let stops = if body.symmetric {
        vec![(0.0, c(flank)), (0.2, c(back)), (0.5, c(back.map(|x| x * 0.82))), (0.8, c(back)), (1.0, c(flank))]
    } else {
        vec![
            (0.05, c(back.map(|x| x * 0.85))),
            (0.28, c(back)),
            (0.5, c(flank)),
            (0.8, c(belly)),
            (1.0, c(belly.map(|x| x * 0.86))),
        ]
    };
    let half = along(a.back, 0.4) * body.plump;
    let stops = stops.into_iter().map(|(at, colour)| GradientStop::new(at, colour)).collect();
    let (from, to) = (Point::from_xy(0.0, body.spine(0.4) - half), Point::from_xy(0.0, body.spine(0.4) + half));
    if let Some(shader) = LinearGradient::new(from, to, stops, SpreadMode::Pad, Transform::identity()) {
        canvas.paint(Some(outline), shader, false);
    }
}

/// Black spots, often crosses, on the back and the gill cover; a bright side, sometimes rosy.
fn draw_salmon(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    if random.random_bool(0.4) {
        let band = body.line((0..20).map(|i| (0.15 + i as f32 * 0.035, 0.15)));
        canvas.stroke(band, 0.06, [206.0, 150.0, 146.0], 70.0);
    }
    let lowest = if body.symmetric { 0.85 } else { 0.05 };
    for _ in 0..random.random_range(9..42) {
        let (t, v) = (random.random_range(0.1f32..0.84), random.random_range(-0.88f32..lowest));
        let r = random.random_range(0.0045f32..0.0085);
        canvas.fill(spot(body.at(t, v), r, r * random.random_range(0.6f32..1.0)), [30.0, 32.0, 34.0], 215.0, true);
    }
    let lateral = body.line((0..24).map(|i| (0.2 + i as f32 * 0.029, -0.05)));
    canvas.stroke(lateral, 0.003, [110.0, 116.0, 120.0], 130.0);
}

/// Rows of large loose scales.
fn draw_herring(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    for row in -3..=4 {
        for i in 0..26 {
            let (t, v) = (0.2 + (i as f32 + 0.5 * (row & 1) as f32) * 0.025, row as f32 * 0.22);
            if random.random_bool(0.2) {
                continue; // lost scale
            }
            let (p, r) = (body.at(t, v), 0.011);
            let mut arc = PathBuilder::new();
            arc.move_to(p.x, p.y - r);
            arc.quad_to(p.x - r * 1.3, p.y, p.x, p.y + r);
            canvas.stroke(arc.finish(), 0.003, [96.0, 108.0, 118.0], 95.0);
        }
    }
    if random.random_bool(0.3) {
        let p = body.at(random.random_range(0.2f32..0.5), random.random_range(-0.3f32..0.4));
        canvas.fill(spot(p, 0.02, 0.012), [176.0, 120.0, 116.0], 90.0, true); // bruise
    }
}

/// Wavy dark bars across the back.
fn draw_mackerel(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    let lowest: f32 = if body.symmetric { 0.95 } else { random.random_range(-0.1..0.15) };
    let bars = random.random_range(18..28);
    for i in 0..bars {
        let t = 0.14 + 0.7 * (i as f32 + random.random_range(-0.25f32..0.25)) / bars as f32;
        let (phase, lean) = (random.random_range(0.0f32..TAU), random.random_range(0.0f32..0.02));
        let steps = 8;
        let bar = body.line((0..=steps).map(|k| {
            let v = -1.0 + (lowest + 1.0) * k as f32 / steps as f32;
            (t + lean * (v + 1.0) + 0.008 * (v * 5.0 + phase).sin(), v)
        }));
        canvas.stroke(bar, random.random_range(0.006f32..0.013), [22.0, 38.0, 46.0], 205.0);
    }
}

/// Lateral line, fine scales, a dark patch on the gill cover; young ones have dark dots on the back.
fn draw_sea_bass(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    for row in -6..=6 {
        let v = row as f32 * 0.15;
        let line = body.line((0..28).map(|i| (0.22 + i as f32 * 0.023, v)));
        canvas.stroke(line, 0.0022, [112.0, 116.0, 114.0], 85.0);
    }
    if random.random_bool(0.35) {
        for _ in 0..random.random_range(8..26) {
            let (t, v) = (random.random_range(0.22f32..0.8), random.random_range(-0.9f32..0.0));
            canvas.fill(spot(body.at(t, v), 0.004, 0.004), [44.0, 46.0, 46.0], 190.0, true);
        }
    }
    let lateral = body.line((0..24).map(|i| (0.22 + i as f32 * 0.028, -0.25 + 0.2 * i as f32 / 24.0)));
    canvas.stroke(lateral, 0.005, [66.0, 70.0, 70.0], 160.0);
    if !body.symmetric {
        canvas.fill(spot(body.at(0.215, -0.35), 0.014, 0.016), [52.0, 52.0, 52.0], 150.0, true);
    }
}

/// Mottles and rusty dots above; plain and pale below.
fn draw_flounder(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    let pale = canvas.fish.pose == Pose::BellyUp;
    for _ in 0..if pale { 4 } else { 46 } {
        let (t, v) = (random.random_range(0.08f32..0.8), random.random_range(-0.95f32..0.95));
        let (rx, ry) = (random.random_range(0.01f32..0.035), random.random_range(0.01f32..0.03));
        let dark = random.random_bool(0.6);
        let rgb = if dark { [70.0, 62.0, 48.0] } else { [150.0, 134.0, 102.0] };
        canvas.fill(spot(body.at(t, v), rx, ry), rgb, if pale { 30.0 } else { 85.0 }, true);
    }
    if !pale && random.random_bool(0.6) {
        for _ in 0..random.random_range(5..16) {
            let p = body.at(random.random_range(0.15f32..0.78), random.random_range(-0.85f32..0.85));
            canvas.fill(spot(p, 0.009, 0.009), [176.0, 104.0, 58.0], 190.0, true);
        }
    }
    let line = body.line((0..24).map(|i| {
        let t = 0.17 + i as f32 * 0.028;
        (t, if t < 0.32 { -0.25 * (1.0 - ((t - 0.24) / 0.08).powi(2)).max(0.0) } else { 0.0 })
    }));
    canvas.stroke(line, 0.004, [72.0, 64.0, 50.0], if pale { 60.0 } else { 170.0 });
}

fn draw_head(canvas: &mut Canvas<'_>, body: &Body) {
    let r = body.anatomy.eye;
    let flounder = canvas.fish.species == Species::Flounder;
    let eyes: &[(f32, f32)] = match (canvas.fish.pose, flounder) {
        (Pose::BellyUp, _) => &[],
        (_, true) => &[(0.085, -0.45), (0.075, 0.1)],
        (Pose::BellyDown, false) => &[(0.07, -0.75), (0.07, 0.75)],
        (Pose::OnItsSide, false) => &[(0.065, -0.28)],
    };
    if !body.symmetric {
        let gill = if flounder { 0.17 } else { 0.2 };
        let cover = body.line((0..=10).map(|i| {
            let v = -0.6 + 1.4 * i as f32 / 10.0;
            (gill - 0.035 * v * v, v)
        }));
        canvas.stroke(cover, 0.006, [70.0, 72.0, 74.0], 120.0);
        let mouth = body.line([(0.002, 0.3), (0.03, 0.35), (0.055, 0.5)]);
        canvas.stroke(mouth, 0.005, [60.0, 58.0, 58.0], 170.0);
        let pectoral = body.at(0.235, 0.3);
        let mut fin = PathBuilder::new();
        fin.move_to(pectoral.x, pectoral.y);
        fin.quad_to(pectoral.x - 0.06, pectoral.y - 0.012, pectoral.x - 0.105, pectoral.y + 0.022);
        fin.quad_to(pectoral.x - 0.05, pectoral.y + 0.034, pectoral.x, pectoral.y + 0.012);
        fin.close();
        let [r, g, b, _] = body.anatomy.fin_colour;
        canvas.fill(fin.finish(), [r, g, b], 150.0, true);
    }
    for (t, v) in eyes {
        let p = body.at(*t, *v);
        canvas.fill(spot(p, r, r), [206.0, 200.0, 170.0], 255.0, true);
        canvas.fill(spot(p, r * 0.62, r * 0.62), [18.0, 18.0, 20.0], 255.0, true);
    }
}

/// Highlights of the lamps on a wet skin.
fn draw_wetness(canvas: &mut Canvas<'_>, body: &Body, random: &mut ChaCha8Rng) {
    let wet = canvas.fish.wet;
    let lit = if body.symmetric { 0.0 } else { -0.45 };
    for _ in 0..(2.0 + wet * 9.0) as usize {
        let t = random.random_range(0.08f32..0.75);
        let v = lit + random.random_range(-0.18f32..0.3);
        let length = random.random_range(0.02f32..0.12);
        let streak = body.line((0..=6).map(|i| (t + length * i as f32 / 6.0, v)));
        canvas.stroke(streak, random.random_range(0.004f32..0.012), [255.0, 255.0, 255.0], 40.0 + 130.0 * wet);
    }
}
