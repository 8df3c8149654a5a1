//! Boards drawn with known millimetres, turned, bent, blurred and noisy, are measured within the errors that are told.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    board::{self, Gray, Place},
    fit::{self, Fit},
};
use crate::{
    domain::Picture,
    line::geometry::{Geometry, Lens, LensBend, Rotation},
};

const SIZE: (usize, usize) = (960, 540);

/// A board of 11 by 7 squares of 20 mm on a grey belt.
struct Drawn {
    /// Millimetres of a pixel.
    scale: f64,
    /// Degrees clockwise.
    turned: f64,
    /// Its middle, from the picture's.
    middle: Place,
    bend: LensBend,
    /// Pixels.
    blur: f64,
    /// Standard deviation, of 255.
    noise: f64,
    /// How much closer its right end is to the camera than its left one, as a share.
    aslant: f64,
    seed: u64,
}

const FLAT: Drawn = Drawn {
    scale: 0.4,
    turned: 0.0,
    middle: (0.0, 0.0),
    bend: LensBend { k1: 0.0, k2: 0.0 },
    blur: 0.7,
    noise: 2.0,
    aslant: 0.0,
    seed: 1,
};

impl Drawn {
    fn draw(&self) -> Gray {
        let (width, height) = SIZE;
        let lens = Lens::new(self.bend, width as u32, height as u32);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let (sin, cos) = self.turned.to_radians().sin_cos();
        let bright = |x: f64, y: f64| {
            let (x, y) = lens.straight(x + 0.5, y + 0.5);
            let (x, y) = (x - width as f64 / 2.0 - self.middle.0, y - height as f64 / 2.0 - self.middle.1);
            let nearer = 1.0 / (1.0 + self.aslant * x / width as f64);
            let (x, y) = (x * nearer, y * nearer);
            let (u, v) = ((cos * x + sin * y) * self.scale / 20.0 + 5.5, (cos * y - sin * x) * self.scale / 20.0 + 3.5);
            match (0.0..11.0).contains(&u) && (0.0..7.0).contains(&v) {
                true if (u.floor() + v.floor()) as i64 % 2 == 0 => 0.1,
                true => 0.8,
                // White paper around it, then the belt.
                false if (-1.0..12.0).contains(&u) && (-1.0..8.0).contains(&v) => 0.8,
                false => 0.4,
            }
        };
        // Each pixel is the mean of 16 places, spread as widely as the blur says.
        let mut values = Vec::with_capacity(width * height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let spread = |n: i32| (f64::from(n) - 1.5) / 4.0 * (1.0 + self.blur * 2.0);
            let sum: f64 = (0..16).map(|n| bright(x as f64 + spread(n % 4), y as f64 + spread(n / 4))).sum();
            let noise: f64 = (0..4).map(|_| random.random_range(-0.5..0.5)).sum::<f64>() * 1.732 * self.noise / 255.0;
            values.push((sum / 16.0 + noise).clamp(0.0, 1.0) as f32);
        }
        Gray { width, height, values }
    }

    fn measured(&self) -> Result<Fit, String> {
        let board = board::find(&self.draw())?;
        let size = (SIZE.0 as f64, SIZE.1 as f64);
        let straight = |[k1, k2]: [f64; 2], (x, y): Place| {
            let (x, y) = Lens::new(LensBend { k1, k2 }, SIZE.0 as u32, SIZE.1 as u32).straight(x, y);
            (x - size.0 / 2.0, y - size.1 / 2.0)
        };
        Ok(fit::fit(&board, 20.0, size, &straight))
    }
}

#[test]
fn a_flat_board_is_measured_however_it_lies_and_whatever_blurs_it() {
    let mut worst: f64 = 0.0;
    for (turned, scale, blur, noise) in [
        (0.0, 0.4, 0.3, 0.0),
        (0.0, 0.4, 2.5, 6.0),
        (7.0, 0.4, 1.0, 4.0),
        (-30.0, 0.45, 1.0, 4.0),
        (44.0, 0.5, 1.0, 2.0),
        (90.0, 0.6, 1.0, 2.0),
        (3.0, 1.2, 0.5, 3.0),
        (3.0, 1.6, 0.5, 3.0),
    ] {
        let drawn = Drawn { turned, scale, blur, noise, middle: (23.4, -11.7), ..FLAT };
        let fit = drawn.measured().unwrap_or_else(|e| panic!("{turned} degrees, {scale} mm, blur {blur}: {e}"));
        let (found, doubt) = fit.scale;
        println!(
            "{turned} degrees, {scale} mm/px, blur {blur}, noise {noise}: {found:.5} +- {doubt:.5}, {:.3} degrees, {:.3} px off, lens {:?}",
            fit.turned, fit.off, fit.lens
        );
        assert!((found - scale).abs() <= 4.0 * doubt + 2e-4 * scale, "{found} for {scale}");
        worst = worst.max((found / scale - 1.0).abs());
        let off = (fit.turned - turned).rem_euclid(90.0);
        assert!(off.min(90.0 - off) < 0.05, "{} for {turned}", fit.turned);
        assert!(fit.lens.is_none(), "{:?}", fit.lens);
    }
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn what_a_lens_bends_is_measured_where_the_board_reaches_far_enough() {
    for (k1, k2) in [(0.12, 0.0), (-0.08, 0.0), (0.2, -0.04), (0.04, 0.0)] {
        for turned in [0.0, 12.0] {
            let drawn = Drawn { bend: LensBend { k1, k2 }, scale: 0.32, turned, noise: 3.0, ..FLAT };
            let fit = drawn.measured().unwrap_or_else(|e| panic!("{k1}, {k2}, {turned}: {e}"));
            println!("k {k1}, {k2}, {turned} degrees: {fit:?}");
            let (found, doubt) = fit.scale;
            assert!((found / 0.32 - 1.0).abs() < 2e-3 && (found - 0.32).abs() <= 4.0 * doubt + 1e-4, "{found}");
            let [(a, _), (b, _)] = fit.lens.expect("it is found");
            // Where the board reaches, the two bends place a pixel within one.
            for square in [0.1, 0.2, 0.35_f64] {
                let off = ((a - k1) * square + (b - k2) * square * square) * square.sqrt() * 551.0;
                assert!(off.abs() < 0.8, "{off} pixels at {square}");
            }
        }
    }
    let near = Drawn { bend: LensBend { k1: 0.1, k2: 0.0 }, scale: 1.0, ..FLAT }.measured().unwrap();
    assert!(near.lens.is_none() && !near.reaches, "{near:?}");
}

#[test]
fn what_is_no_board_is_refused_in_words() {
    let (width, height) = SIZE;
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let noise = Gray { width, height, values: (0..width * height).map(|_| random.random_range(0.0..1.0)).collect() };
    for (what, picture) in [
        ("nothing", Gray { width, height, values: vec![0.5; width * height] }),
        ("noise", noise),
        ("stripes", Gray { width, height, values: (0..width * height).map(|n| (n % width / 20 % 2) as f32).collect() }),
        ("a tiny picture", Gray { width: 9, height: 9, values: vec![0.1; 81] }),
    ] {
        let said = board::find(&picture).err().unwrap_or_else(|| panic!("{what} is a board"));
        println!("{what}: {said}");
        assert!(said.contains("no checkerboard is seen"), "{said}");
    }
    assert!(Drawn { scale: 4.0, ..FLAT }.measured().is_err(), "squares of five pixels");
    // A camera that looks aslant leaves the corners off any flat board.
    let aslant = Drawn { aslant: 0.15, ..FLAT }.measured().unwrap();
    println!("aslant: {aslant:?}");
    assert!(aslant.off > super::MOST_OFF, "{aslant:?}");
}

/// Files in a folder, as a user has them.
fn calibration(
    files: Vec<std::path::PathBuf>,
    square: Option<f64>,
    ruler: Option<(f64, [f64; 4])>,
) -> super::Calibration {
    super::Calibration {
        square,
        ruler: ruler.map(|(mm, _)| mm),
        ends: ruler.map(|(_, ends)| ends.map(|end| end.to_string()).join(",")),
        config: "nowhere.toml".into(),
        camera: "belt".into(),
        seconds: 1.0,
        pictures: files,
    }
}

fn saved(folder: &std::path::Path, name: &str, drawn: &Drawn, turned: bool) -> std::path::PathBuf {
    let gray = drawn.draw();
    let (width, height) = (gray.width as u32, gray.height as u32);
    let rgb = gray.values.iter().flat_map(|value| [(value * 255.0).round() as u8; 3]).collect();
    let picture = Picture { width, height, rgb };
    let rotation = Rotation::try_from(if turned { 270 } else { 0 }).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, crate::picture::pixels::encode_png(&rotation.turn(&picture)).unwrap()).unwrap();
    path
}

#[test]
fn picture_files_of_a_running_belt_give_a_table_that_the_configuration_takes() {
    let folder = tempfile::tempdir().unwrap();
    let bend = LensBend { k1: 0.1, k2: 0.0 };
    for (turned, direction, rotation) in [(false, "left", 0), (true, "left", 90)] {
        let at = |x: f64| Drawn { bend, scale: 0.4, turned: 2.0, middle: (x, 4.0), noise: 3.0, ..FLAT };
        // To the left; turned by 270 degrees, that is down, and a further quarter makes it left again.
        let files: Vec<_> = [90.0, 40.0, -10.0, -60.0]
            .iter()
            .map(|x| saved(folder.path(), &format!("{turned}{x}.png"), &at(*x), turned))
            .collect();
        let measured = super::by_board(&calibration(files, Some(20.0), None), 20.0).unwrap();
        let text = super::table(&measured);
        println!("{text}");
        let read: toml::Table = toml::from_str(&text).unwrap();
        let geometry: Geometry = read["camera"]["geometry"].clone().try_into().unwrap();
        geometry.check().unwrap();
        assert!((geometry.scale.unwrap() / 0.4 - 1.0).abs() < 3e-3, "{text}");
        assert_eq!((geometry.width, geometry.height), (Some(SIZE.0 as u32), Some(SIZE.1 as u32)));
        assert_eq!((geometry.direction.unwrap().name(), geometry.rotation.degrees()), (direction, rotation));
        assert!((geometry.lens.unwrap().k1 - 0.1).abs() < 0.02, "{text}");
    }
}

#[test]
fn a_ruler_is_measured_by_its_ends_and_what_can_t_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let board = saved(folder.path(), "board.png", &FLAT, false);
    let ruler = |ends| super::by_ruler(&calibration(vec![board.clone()], None, Some((300.0, ends))), 300.0);
    let measured = ruler([100.0, 200.0, 700.0, 210.0]).unwrap();
    assert!((measured.scale.0 - 300.0 / 600.083).abs() < 1e-4 && measured.scale.1 < 0.0015, "{:?}", measured.scale);
    let said = |result: anyhow::Result<super::Measured>| result.err().unwrap().to_string();
    assert!(said(ruler([100.0, 200.0, 120.0, 210.0])).contains("longer"));
    assert!(said(ruler([100.0, 200.0, 1700.0, 210.0])).contains("outside"));
    let aslant = saved(folder.path(), "aslant.png", &Drawn { aslant: 0.15, ..FLAT }, false);
    assert!(said(super::by_board(&calibration(vec![aslant], Some(20.0), None), 20.0)).contains("aslant"));
    let blank = folder.path().join("blank.png");
    std::fs::write(&blank, crate::picture::pixels::encode_png(&Picture::filled(320, 240, [90; 3])).unwrap()).unwrap();
    let words = said(super::by_board(&calibration(vec![blank.clone()], Some(20.0), None), 20.0));
    assert!(words.contains("in none of 1 pictures: no checkerboard is seen"), "{words}");
    assert!(said(super::by_encoder(&calibration(vec![blank], None, None))).contains("--square"));
}

#[test]
fn a_belt_beside_its_encoder_tells_what_a_pixel_is_and_how_sure_that_is() {
    let run = |length: u32, noise: f64, reset: u32| -> Vec<(u32, f64, f64)> {
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let at = |n: u32| f64::from(n) * 8.0;
        (0..length)
            .map(|n| (u32::from(n > reset), at(n) * 0.37 + 5000.0, at(n) + random.random_range(-noise..=noise)))
            .collect()
    };
    let (scale, doubt) = super::scale_of(&run(250, 0.2, 999)).unwrap();
    println!("{scale:.5} +- {doubt:.5}");
    assert!((scale - 0.37).abs() < 4.0 * doubt + 1e-4 && doubt < 2e-3, "{scale} {doubt}");
    let said = |placed: &[(u32, f64, f64)]| super::scale_of(placed).unwrap_err().to_string();
    assert!(
        said(&run(250, 0.2, 100)).contains("reset")
            && said(&run(20, 0.2, 999)).contains("longer")
            && said(&[]).contains("longer")
    );
    assert!(said(&run(250, 90.0, 999)).contains("differ"));
    let still: Vec<_> = run(250, 0.2, 999).into_iter().map(|(counting, _, pixels)| (counting, 7.0, pixels)).collect();
    assert!(said(&still).contains("did not count"));
}
