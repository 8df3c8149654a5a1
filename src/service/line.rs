//! The line while the service runs: what moves the gates, the runtime in which verdicts are waited for, and two threads
//! for each camera.
//!
//! Invariant: a thread without which items would pass unjudged ends the process when it panics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::{
    record::OpenRecord,
    tasks::{flush, lots},
};
use crate::{
    config::Config,
    line::{
        area::SearchArea,
        camera::{self, CameraConfig, CameraEvent},
        eject::output::alive::LineAlive,
        eject::{self, Ejector, flush::Flush},
        handover::Handover,
        infer::Infer,
        inspect,
        live::View,
        outage::{CameraOutage, OutageSettings},
        priority, probe,
        record::Recorder,
        vital,
    },
    metrics::Metrics,
};

/// All of the line but the worker, which HTTP uses too.
pub(super) struct RunningLine {
    pub cameras: Cameras,
    pub runtime: BeltRuntime,
    /// Ends the commands to the gates, if there are gates.
    pub ejecting: Option<eject::EjectorThreads>,
    /// What each camera's threads have a copy of.
    pub line: inspect::Line,
}

impl RunningLine {
    /// Starts what moves the gates, then the cameras. Lots that the gates' outputs tell of go to `record`, which says too
    /// whether the belt is to be flushed.
    ///
    /// # Errors
    /// When an output can't be used, or no thread can be started.
    pub(super) fn start(
        config: &Config,
        infer: &Infer,
        recorder: &Recorder,
        record: &OpenRecord,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let runtime = BeltRuntime::start()?;
        let gates = |camera: &str| config.eject.iter().flat_map(|eject| &eject.gate).any(|gate| gate.camera == camera);
        let camera = |camera: &CameraConfig| (camera.name().into(), gates(camera.name()), camera.stalled_after());
        let alive = LineAlive::new(config.camera.iter().map(camera));
        let gate_recorder = recorder.clone();
        let (ejector, ejecting) = config
            .eject
            .clone()
            .map(|eject| Ejector::start(eject, metrics, alive.clone(), move |event| gate_recorder.event(event)))
            .transpose()?
            .unzip();
        if let Some(ejector) = &ejector {
            let store = &record.store;
            tokio::spawn(lots::follow(store.clone(), ejector.lot(), metrics.clone(), stop.clone()));
            if let Some(down_since) = record.crashed {
                let asked = Flush::ask(ejector.clone());
                tokio::spawn(flush::follow(store.clone(), recorder.clone(), asked, down_since, stop.clone()));
            }
        }
        let line = inspect::Line {
            infer: infer.clone(),
            ejector,
            recorder: recorder.clone(),
            alive,
            metrics: metrics.clone(),
            deadline: config.line.deadline,
            locate: config.locate.clone(),
            sight: inspect::Sight::default(),
            waiting: runtime.handle.clone(),
            background: Handle::current(),
        };
        if !config.camera.is_empty() {
            runtime.handle.spawn(probe::run(infer.clone(), line.alive.clone(), metrics.clone()));
        }
        let cameras = Cameras::start(&line, &config.camera, config.line.ask_again)?;
        Ok(Self { cameras, runtime, ejecting, line })
    }
}

/// Every camera of the configuration, running.
pub(super) struct Cameras {
    /// What each shows, in the order of the configuration.
    pub views: Arc<[Arc<View>]>,
    /// Two for each camera.
    pub threads: Vec<thread::JoinHandle<()>>,
    stopped: Arc<AtomicBool>,
}

impl Cameras {
    /// Starts the cameras one after the other. Of a lost one the gates are asked again after `ask_again`.
    fn start(line: &inspect::Line, configs: &[CameraConfig], ask_again: Duration) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (mut views, mut threads) = (Vec::new(), Vec::new());
        for config in configs {
            let view = Arc::new(View::new(config.name()));
            let area = SearchArea::open(&config.area).map_err(|why| anyhow!("camera {}: {why}", config.name))?;
            let (rotation, direction) = (config.geometry.rotation, config.geometry.direction);
            let sight = inspect::Sight { rotation, direction, area };
            let locate = config.located(&line.locate).map_err(|why| anyhow!(why))?;
            let line = inspect::Line { sight, locate, ..line.clone() };
            threads.extend(start_camera(&line, config.clone(), &view, ask_again, &stopped)?);
            views.push(view);
        }
        Ok(Self { views: views.into(), threads, stopped })
    }

    /// Tells the cameras and their inspection to end; they end when they next look. Until then the belt is looked at.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A camera's two threads: one drains the camera, one inspects.
fn start_camera(
    line: &inspect::Line,
    config: CameraConfig,
    view: &Arc<View>,
    ask_again: Duration,
    stopped: &Arc<AtomicBool>,
) -> Result<[thread::JoinHandle<()>; 2]> {
    let name = view.camera.clone();
    let frames = Arc::new(Handover::default());
    line.metrics.begin_camera(&name);
    let settings = OutageSettings { stalled_after: config.stalled_after(), ask_again };
    let inspect::Line { recorder, ejector, metrics, alive, .. } = line.clone();
    let outage = Arc::new(CameraOutage::new(recorder, ejector, view.clone(), metrics, alive, settings));
    let watch = CameraWatch { outage: outage.clone(), name: name.clone(), metrics: line.metrics.clone() };
    let (sink, stop) = (frames.clone(), stopped.clone());
    let camera = vital::thread(format!("camera-{name}"), move || {
        priority::set(priority::BELT);
        camera::run(&config, &sink, &stop, &|event| watch.on(event));
    })?;
    let (line, view, stop) = (line.clone(), view.clone(), stopped.clone());
    let inspector = vital::thread(format!("line-{name}"), move || inspect::run(&line, &view, &frames, &outage, &stop))?;
    Ok([camera, inspector])
}

/// Tells what happens to a camera: to its metrics, the log, and what watches for outages.
struct CameraWatch {
    outage: Arc<CameraOutage>,
    name: Arc<str>,
    metrics: Metrics,
}

impl CameraWatch {
    fn on(&self, event: CameraEvent) {
        let (name, metrics) = (&*self.name, &self.metrics.camera);
        let dropped = |why: &str| metrics.frames_dropped.with_label_values(&[name, why]);
        match event {
            CameraEvent::Frame => metrics.frames.with_label_values(&[name]).inc(),
            CameraEvent::Frozen(after) => {
                let why = format!("frozen: it has sent the very same picture for more than {after:?}");
                tracing::warn!(camera = name, "camera {why}");
                self.outage.frozen(&why);
            }
            CameraEvent::Still => dropped("frozen").inc(),
            CameraEvent::Dropped => dropped("stale").inc(),
            CameraEvent::Late => dropped("late").inc(),
            CameraEvent::BadFrame(why) => {
                tracing::warn!(camera = name, "a frame was refused: {why}");
                dropped("driver").inc();
                self.outage.unusable(&why);
            }
            CameraEvent::Skipped(frames) => dropped("driver").inc_by(frames.into()),
            CameraEvent::Opened => tracing::info!(camera = name, "camera opened"),
            CameraEvent::Lost(why) => {
                tracing::warn!(camera = name, "camera lost: {why}");
                self.outage.lost(&why);
                metrics.reconnects.with_label_values(&[name]).inc();
            }
        }
    }
}

/// The runtime in which the belt's verdicts are waited for, apart from HTTP. A task may not drop a runtime, as an error
/// on the way up would: this one shuts it down instead.
pub(super) struct BeltRuntime {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl BeltRuntime {
    /// Starts its one thread, at the belt's priority.
    fn start() -> std::io::Result<Self> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("belt")
            .on_thread_start(|| priority::set(priority::BELT))
            .enable_time()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for BeltRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
