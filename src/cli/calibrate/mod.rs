//! `beltsight camera calibrate`: what `[camera.geometry]` should say, measured from a checkerboard, a ruler, or a belt that
//! runs by an encoder.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    board::{Board, Gray, Place},
    fit::Fit,
};
use super::DEFAULT_CONFIG;
use crate::{
    config::Config,
    domain::{Frame, Picture, Raw},
    line::{
        camera::{self, CameraConfig, CameraEvent},
        eject::EncoderWatch,
        geometry::{Lens, LensBend},
        handover::Handover,
        locate::{LocateConfig, Locator},
    },
    picture::pixels::{self, PixelLimits},
};

mod board;
mod fit;

/// Corners that lie farther off a flat board, in pixels, root mean square, tell of a camera that looks aslant, a bent board,
/// or a picture that moved.
const MOST_OFF: f64 = 0.7;
/// Of a camera a picture is taken so often, and so many at most.
const EVERY: Duration = Duration::from_millis(250);
const MOST: usize = 60;
/// A board that moved by so many pixels tells the belt's direction.
const MOVED: f64 = 20.0;
/// By how much encoder and board may differ, as a share.
const APART: f64 = 0.05;
/// Pixels by which a person misses a ruler's end.
const MISSED: f64 = 1.0;

/// What is measured, and in what.
#[derive(clap::Args)]
pub struct Calibration {
    /// Side of a square of the checkerboard that lies on the belt, in mm.
    #[arg(long, conflicts_with = "ruler")]
    square: Option<f64>,
    /// Length of the ruler that lies on the belt, in mm; `--ends` says where.
    #[arg(long, requires = "ends")]
    ruler: Option<f64>,
    /// Where the ruler's ends are in the picture, in pixels: x,y,x,y.
    #[arg(long, requires = "ruler")]
    ends: Option<String>,
    /// Configuration file.
    #[arg(long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The camera's name there.
    #[arg(long, default_value = "belt")]
    camera: String,
    /// Seconds to look; let the belt run meanwhile, to tell its direction too.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Picture files, in the order in which they were taken, instead of the camera.
    pictures: Vec<PathBuf>,
}

/// A picture with a board, and where the encoder saw the belt then.
struct Seen {
    board: Board,
    fit: Fit,
    at: Option<Counted>,
}

/// A counting, and the place of the belt in it, in mm.
type Counted = (u32, f64);

/// What was measured.
struct Measured {
    size: (u32, u32),
    /// By how many degrees the pictures were turned already.
    rotation: u32,
    /// In mm, and by how much it may be wrong.
    scale: (f64, f64),
    lens: Option<[(f64, f64); 2]>,
    /// The way of the board from the first picture to the last, in straight pixels.
    moved: Option<Place>,
    notes: Vec<String>,
}

/// Measures and prints the table.
///
/// # Errors
/// When there is nothing to measure by, or it is not seen well enough.
pub fn run(calibration: &Calibration) -> Result<()> {
    let measured = match (calibration.square, calibration.ruler) {
        (Some(square), _) => {
            ensure!(square > 0.0 && square.is_finite(), "--square must be above 0");
            by_board(calibration, square)?
        }
        (None, Some(ruler)) => by_ruler(calibration, ruler)?,
        (None, None) => by_encoder(calibration)?,
    };
    print!("{}", table(&measured));
    Ok(())
}

/// The table, with what may be wrong about it.
fn table(measured: &Measured) -> String {
    let Measured { size: (width, height), scale: (scale, doubt), lens, moved, notes, .. } = measured;
    let mut text: String = notes.iter().map(|note| format!("# {note}\n")).collect();
    let across = |(x, y): Place| x.abs() >= y.abs();
    let turned = moved.is_some_and(|moved| !across(moved));
    let (width, height) = if turned { (height, width) } else { (width, height) };
    let rotation = (measured.rotation + if turned { 90 } else { 0 }) % 360;
    text += &format!(
        "[camera.geometry]\nscale = \"{scale:.5}mm/px\"  # +- {doubt:.5}\nwidth = {width}\nheight = {height}\n"
    );
    match *moved {
        // Turned clockwise, what ran down runs to the left.
        Some((x, y)) => {
            let right = if turned { y < 0.0 } else { x > 0.0 };
            let (along, off) = if turned { (y, x) } else { (x, y) };
            let skew = (off / along).atan().to_degrees();
            text += &format!("direction = \"{}\"\n", if right { "right" } else { "left" });
            text += &format!("rotation = {rotation}  # the belt runs {skew:+.1} degrees off the picture's edge\n");
        }
        None => {
            text += "# direction and rotation: the belt did not run\n";
            if rotation != 0 {
                text += &format!("rotation = {rotation}\n");
            }
        }
    }
    if let Some([(k1, e1), (k2, e2)]) = lens {
        text += &format!("lens = {{ k1 = {k1:.4}, k2 = {k2:.4} }}  # +- {e1:.4}, {e2:.4}\n");
    }
    text
}

/// The bend in pixels from the picture's middle.
fn straight(size: (u32, u32), [k1, k2]: [f64; 2], (x, y): Place) -> Place {
    // The finder counts from the middle of the first pixel, geometry from its edge.
    let (x, y) = Lens::new(LensBend { k1, k2 }, size.0, size.1).straight(x + 0.5, y + 0.5);
    (x - f64::from(size.0) / 2.0, y - f64::from(size.1) / 2.0)
}

fn by_board(calibration: &Calibration, square: f64) -> Result<Measured> {
    let (shots, rotation) = shots(calibration)?;
    let size = shots.first().map(|(picture, _)| (picture.width, picture.height)).context("no picture came")?;
    ensure!(
        shots.iter().all(|(picture, _)| (picture.width, picture.height) == size),
        "the pictures differ in size: take all with one camera"
    );
    let (mut seen, mut why) = (Vec::new(), String::new());
    for (picture, at) in &shots {
        match board::find(&gray(picture)) {
            Ok(board) => {
                let sides = (f64::from(size.0), f64::from(size.1));
                let fit = fit::fit(&board, square, sides, &|bend, place| straight(size, bend, place));
                seen.push(Seen { board, fit, at: *at });
            }
            Err(no) => why = no,
        }
    }
    let count = shots.len();
    let surest = |a: &&Seen, b: &&Seen| {
        let doubt = |seen: &Seen| (seen.fit.lens.is_none(), seen.fit.scale.1);
        doubt(a).partial_cmp(&doubt(b)).unwrap_or(std::cmp::Ordering::Equal)
    };
    let Some(best) = seen.iter().min_by(surest) else { bail!("in none of {count} pictures: {why}") };
    let Fit { scale: (scale, doubt), lens, turned, off, reaches, .. } = best.fit;
    ensure!(
        off <= MOST_OFF,
        "the board's corners lie {off:.2} px off a flat board, more than {MOST_OFF}: the camera looks aslant, the board is bent, \
         or the picture moved"
    );
    let bend = lens.map_or([0.0; 2], |[(k1, _), (k2, _)]| [k1, k2]);
    let middle = |seen: &Seen| {
        let (count, corners) = (seen.board.corners.len() as f64, seen.board.corners.values());
        corners
            .map(|place| straight(size, bend, *place))
            .fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count))
    };
    // Boards of which as much is seen: else their middles are of other squares.
    let whole = seen.iter().map(|seen| seen.board.corners.len()).max().unwrap_or_default();
    let mut wholes = seen.iter().filter(|seen| seen.board.corners.len() == whole);
    let first = wholes.next();
    let ends = first.zip(wholes.next_back());
    let way = ends.map(|(first, last)| {
        let (from, to) = (middle(first), middle(last));
        (to.0 - from.0, to.1 - from.1)
    });
    let mut moved = way.filter(|(x, y)| x.hypot(*y) >= MOVED);
    let mean = seen.iter().map(|seen| seen.fit.scale.0).sum::<f64>() / seen.len() as f64;
    let spread = seen.iter().map(|seen| (seen.fit.scale.0 - mean).powi(2)).sum::<f64>() / seen.len() as f64;
    let mut notes = vec![
        format!(
            "{} of {count} pictures show the board, the best one {} by {} inner corners, which lie {off:.2} px off it",
            seen.len(),
            best.board.size.0,
            best.board.size.1
        ),
        format!("squares of {square} mm; their edges lie {turned:+.1} degrees off the picture's"),
    ];
    if lens.is_none() {
        notes.push(match reaches {
            true => "the lens bends nothing that can be told".into(),
            false => {
                "the lens can't be told: lay the board so that it reaches towards the picture's corners".to_owned()
            }
        });
    }
    if let (Some((first, last)), Some((x, y))) = (ends, moved) {
        let counted = first.at.zip(last.at).filter(|(from, to)| from.0 == to.0).map(|(from, to)| to.1 - from.1);
        if counted.is_some_and(|counted| counted < 0.0) {
            moved = Some((-x, -y)); // it ran backwards
        }
        notes.push(match counted {
            Some(counted) => compare(counted.abs(), x.hypot(y) * scale)?,
            None => "the belt is taken to have run forwards: no encoder was read".into(),
        });
    }
    Ok(Measured { size, rotation, scale: (scale, doubt.max(spread.sqrt())), lens, moved, notes })
}

/// What the encoder says of the way that the board went, both in mm.
fn compare(counted: f64, went: f64) -> Result<String> {
    let apart = counted / went - 1.0;
    ensure!(
        apart.abs() <= APART,
        "the board went {went:.1} mm and the encoder counted {counted:.1} mm: the squares' side or eject.encoder.scale is wrong"
    );
    Ok(format!("the board went {went:.1} mm while the encoder counted {counted:.1} mm: {:+.2} % apart", apart * 100.0))
}

fn by_ruler(calibration: &Calibration, ruler: f64) -> Result<Measured> {
    ensure!(ruler > 0.0 && ruler.is_finite(), "--ruler must be above 0");
    let (shots, rotation) = shots(calibration)?;
    let size = shots.first().map(|(picture, _)| (picture.width, picture.height)).context("no picture came")?;
    let ends = calibration.ends.as_deref().unwrap_or_default();
    let ends: Vec<f64> = ends.split(',').filter_map(|number| number.trim().parse().ok()).collect();
    let [x0, y0, x1, y1] = ends[..] else { bail!("--ends needs four numbers: x,y,x,y") };
    let inside = |x: f64, y: f64| (0.0..=size.0.into()).contains(&x) && (0.0..=size.1.into()).contains(&y);
    ensure!(inside(x0, y0) && inside(x1, y1), "--ends lie outside the picture of {} by {} pixels", size.0, size.1);
    let pixels = (x1 - x0).hypot(y1 - y0);
    ensure!(pixels >= 10.0 * MOVED, "the ruler is only {pixels:.0} pixels long: take a longer one");
    let (scale, off) = (ruler / pixels, ((y1 - y0).atan2(x1 - x0).to_degrees() + 45.0).rem_euclid(90.0) - 45.0);
    let doubt = scale * MISSED * std::f64::consts::SQRT_2 / pixels;
    let notes = vec![
        format!(
            "a ruler of {ruler} mm over {pixels:.1} pixels, {off:+.1} degrees off the picture's edge, its ends known to a pixel"
        ),
        "what the lens bends is in it; a checkerboard tells it apart".into(),
    ];
    Ok(Measured { size, rotation, scale: (scale, doubt), lens: None, moved: None, notes })
}

/// From the way that the pictures tell and the encoder counts.
fn by_encoder(calibration: &Calibration) -> Result<Measured> {
    ensure!(
        calibration.pictures.is_empty(),
        "picture files need --square or --ruler: nothing else tells millimetres in them"
    );
    let (camera, encoder) = opened(calibration)?;
    let encoder = encoder.context(
        "nothing tells millimetres: give --square with a checkerboard on the belt, --ruler, or configure [eject.encoder]",
    )?;
    let (mut locator, mut placed, mut size) = (Locator::new(LocateConfig::default()), Vec::new(), (0, 0));
    look_through(&camera, calibration.seconds, |frame| {
        let picture = camera.geometry.rotation.turn(&decoded(&frame)?);
        size = (picture.width, picture.height);
        let _ = locator.look(&picture, frame.captured);
        if let (Some(pixels), Some((counting, mm))) = (locator.travel(), counted(Some(&encoder), frame.captured)) {
            placed.push((counting, mm, pixels));
        }
        Ok(())
    })?;
    let (scale, doubt) = scale_of(&placed)?;
    let way = |of: &dyn Fn(&(u32, f64, f64)) -> f64| placed.last().map_or(0.0, of) - placed.first().map_or(0.0, of);
    let (mm, pixels) = (way(&|place| place.1), way(&|place| place.2));
    let notes = vec![
        format!("{} pictures of a running belt beside the encoder, over {pixels:.0} pixels", placed.len()),
        "what the lens bends is in it; a checkerboard tells it apart".into(),
    ];
    let rotation = camera.geometry.rotation.degrees();
    Ok(Measured { size, rotation, scale: (scale, doubt), lens: None, moved: Some((pixels * mm.signum(), 0.0)), notes })
}

/// What a pixel is in mm where the belt was at these places, `(counting, mm, pixels)`, and its standard error: from ten
/// stretches of the way, each told by itself.
fn scale_of(placed: &[(u32, f64, f64)]) -> Result<(f64, f64)> {
    let few =
        || "the belt did not run far enough while the encoder was read and the pictures told its way: look longer";
    let (Some(first), Some(last)) = (placed.first(), placed.last()) else { bail!(few()) };
    ensure!(placed.iter().all(|place| place.0 == first.0), "the encoder was reset meanwhile: try again");
    let (mm, pixels) = (last.1 - first.1, last.2 - first.2);
    ensure!(placed.len() >= 30 && pixels.abs() >= 10.0 * MOVED, few());
    ensure!(mm.abs() > 0.0, "the belt moved in the pictures and the encoder did not count: is it this belt's?");
    let length = placed.len() / 10;
    let parts: Vec<f64> = placed
        .chunks(length)
        .filter_map(|part| part.first().zip(part.last()))
        .filter(|(from, to)| (to.2 - from.2).abs() >= MOVED / 2.0)
        .map(|(from, to)| ((to.1 - from.1) / (to.2 - from.2)).abs())
        .collect();
    ensure!(parts.len() >= 5, few());
    let (scale, count) = ((mm / pixels).abs(), parts.len() as f64);
    let doubt = (parts.iter().map(|part| (part - scale).powi(2)).sum::<f64>() / (count - 1.0) / count).sqrt();
    ensure!(doubt <= APART * scale, "stretches of the belt differ by too much: {scale:.4} +- {doubt:.4} mm per pixel");
    Ok((scale, doubt))
}

/// Where the encoder saw the belt at `at`, in mm.
fn counted(encoder: Option<&EncoderWatch>, at: Instant) -> Option<Counted> {
    encoder?.place(at).ok().map(|(counting, metres)| (counting, metres * 1e3))
}

/// The pictures, each with where the encoder saw the belt then; and by how many degrees they were turned.
type Shots = (Vec<(Picture, Option<Counted>)>, u32);

fn shots(calibration: &Calibration) -> Result<Shots> {
    if !calibration.pictures.is_empty() {
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).with_context(|| path.display().to_string())?;
            let picture = pixels::decode(&bytes, PixelLimits::default()).with_context(|| path.display().to_string())?;
            Ok((picture, None))
        };
        return Ok((calibration.pictures.iter().map(read).collect::<Result<_>>()?, 0));
    }
    let (camera, encoder) = opened(calibration)?;
    let (mut shots, mut next) = (Vec::new(), None::<Instant>);
    look_through(&camera, calibration.seconds, |frame| {
        if shots.len() < MOST && next.is_none_or(|next| frame.captured >= next) {
            next = Some(frame.captured + EVERY);
            let picture = camera.geometry.rotation.turn(&decoded(&frame)?);
            shots.push((picture, counted(encoder.as_ref(), frame.captured)));
        }
        Ok(())
    })?;
    Ok((shots, camera.geometry.rotation.degrees()))
}

/// The camera, and the encoder if there is one, which is read from now on.
fn opened(calibration: &Calibration) -> Result<(CameraConfig, Option<EncoderWatch>)> {
    ensure!((0.0..=600.0).contains(&calibration.seconds), "--seconds must be 0 to 600");
    let config = Config::read(&calibration.config)?;
    let name = &calibration.camera;
    let camera = config.camera.iter().find(|camera| camera.name() == name);
    let camera = camera.with_context(|| format!("there is no camera {name} in the configuration"))?.clone();
    let encoder = config.eject.and_then(|eject| eject.encoder).map(EncoderWatch::start).transpose()?;
    Ok((camera, encoder))
}

/// Looks through a camera for so many seconds.
///
/// # Errors
/// The first of `each`.
fn look_through(camera: &CameraConfig, seconds: f64, mut each: impl FnMut(Frame) -> Result<()>) -> Result<()> {
    let (frames, stop, started) = (Handover::default(), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        scope.spawn(|| {
            camera::run(camera, &frames, &stop, &|event| {
                if let CameraEvent::Lost(why) = event {
                    eprintln!("the camera is lost: {why}");
                }
            });
        });
        let mut looked = Ok(());
        while looked.is_ok() && started.elapsed().as_secs_f64() < seconds {
            looked = frames.take(Duration::from_millis(50)).map_or(Ok(()), &mut each);
        }
        stop.store(true, Ordering::Relaxed);
        looked
    })
}

fn decoded(frame: &Frame) -> Result<Picture> {
    Ok(match &frame.raw {
        Raw::Jpeg(bytes) => pixels::decode(bytes, PixelLimits::default())?,
        Raw::Rgb(picture) => (**picture).clone(),
    })
}

fn gray(picture: &Picture) -> Gray {
    let bright =
        |rgb: &[u8]| (0.299 * f32::from(rgb[0]) + 0.587 * f32::from(rgb[1]) + 0.114 * f32::from(rgb[2])) / 255.0;
    let values = picture.rgb.chunks_exact(3).map(bright).collect();
    Gray { width: picture.width as usize, height: picture.height as usize, values }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
