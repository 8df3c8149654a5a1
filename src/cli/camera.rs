//! `beltsight camera probe` opens a camera as the service would and reports what arrives; `calibrate` measures by it.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{DEFAULT_CONFIG, calibrate};
use crate::{
    config::Config,
    domain::Raw,
    line::{
        camera::{self, CameraEvent},
        handover::Handover,
    },
    picture::pixels,
};

/// Look through a camera.
#[derive(clap::Subcommand)]
pub enum CameraCommand {
    /// Open a camera as the service would and report what arrives.
    Probe {
        /// Configuration file.
        #[arg(long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// The camera's name there.
        #[arg(long, default_value = "belt")]
        camera: String,
        /// Seconds to look.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Write the last picture here as JPEG.
        #[arg(long)]
        save: Option<PathBuf>,
    },
    /// Measure what [camera.geometry] should say: by a checkerboard (--square) or a ruler (--ruler) on the belt, or by the
    /// belt's own way beside [eject.encoder].
    Calibrate(calibrate::Calibration),
}

/// Runs the command.
///
/// # Errors
/// When there is no such camera, no frame came, or the picture can't be written.
pub fn run(command: &CameraCommand) -> Result<ExitCode> {
    match command {
        CameraCommand::Probe { config, camera, seconds, save } => {
            probe(&Config::read(config)?, camera, Duration::from_secs(*seconds), save.as_deref())?;
        }
        CameraCommand::Calibrate(calibration) => calibrate::run(calibration)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks through the camera `name` of the configuration for `span`; `save` gets the last picture.
fn probe(config: &Config, name: &str, span: Duration, save: Option<&Path>) -> Result<()> {
    let known: Vec<&str> = config.camera.iter().map(camera::CameraConfig::name).collect();
    let camera = config
        .camera
        .iter()
        .find(|c| c.name() == name)
        .with_context(|| format!("there is no camera {name}; the configuration has {known:?}"))?;
    let (frames, stop, started) = (Handover::default(), AtomicBool::new(false), Instant::now());
    let mut last = None;
    let (mut count, mut oldest) = (0u32, Duration::ZERO);
    thread::scope(|scope| {
        scope.spawn(|| {
            camera::run(camera, &frames, &stop, &|event| match event {
                CameraEvent::Frame | CameraEvent::Dropped | CameraEvent::Still => {}
                event => println!("{:7.2} s  {event:?}", started.elapsed().as_secs_f64()),
            });
        });
        while started.elapsed() < span {
            if let Some(frame) = frames.take(Duration::from_millis(50)) {
                count += 1;
                oldest = oldest.max(frame.captured.elapsed());
                last = Some(frame);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    println!("{count} frames, {rate:.1} per second, the oldest {} ms old when taken", oldest.as_millis());
    let last = last.with_context(|| format!("no frame came within {span:?}"))?;
    let jpeg = match &last.raw {
        Raw::Jpeg(bytes) => bytes.to_vec(),
        Raw::Rgb(picture) => pixels::encode_jpeg(picture, 90)?,
    };
    let picture = pixels::decode(&jpeg, pixels::PixelLimits::default())?;
    println!("{} x {} pixels", picture.width, picture.height);
    if let Some(path) = save {
        std::fs::write(path, &jpeg).with_context(|| path.display().to_string())?;
    }
    Ok(())
}
