//! `beltsight camera probe`: opens a camera as the service would and says what arrives.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    config::Config,
    domain::Raw,
    line::{
        camera::{self, Event},
        handover::Handover,
    },
    picture::pixels,
};

/// Looks through the camera `name` of the configuration for `span`; `save` gets the last picture.
///
/// # Errors
/// When there is no such camera, no frame came, or the picture can't be written.
pub fn run(config: &Config, name: &str, span: Duration, save: Option<&Path>) -> Result<()> {
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
                Event::Frame | Event::Dropped | Event::Still => {}
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
    println!("{count} frames, {rate:.1} a second, the oldest {} ms old when taken", oldest.as_millis());
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
