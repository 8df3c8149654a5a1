//! Paints a fish: fins, body, the markings of its species, head, wet skin, in this order.
//!
//! Every marking is placed by (t, v), so it follows the outline and the bend of the body.

use std::f32::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tiny_skia::{
    Color, FillRule, GradientStop, LineCap, LinearGradient, Mask, Paint, Path, PathBuilder, Pixmap, Point, Shader,
    SpreadMode, Stroke, Transform,
};

use super::{
    Fish, Pose,
    body::{Body, along},
    species::Species,
};

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
pub(in crate::belt) fn draw(fish: &Fish) -> Pixmap {
    let side = (fish.length * 1.12).ceil() as u32 + 4;
    // A square of a few hundred pixels: new() fails only for 0 or gigabytes.
    let pixmap = Pixmap::new(side, side).unwrap_or_else(|| unreachable!("the side is a few hundred pixels"));
    let flip = if fish.mirrored { -1.0 } else { 1.0 };
    let to_pixels = Transform::from_scale(fish.length, fish.length * flip)
        .post_rotate(fish.angle.to_degrees())
        .post_translate(side as f32 / 2.0, side as f32 / 2.0);
    let mut canvas = Canvas { pixmap, to_pixels, fish, inside: None };
    let symmetric = fish.pose == Pose::BellyDown && fish.species != Species::Flounder;
    let body = Body { anatomy: fish.species.anatomy(), bend: fish.bend, plump: fish.plump, symmetric };
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
    let a = body.anatomy;
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
