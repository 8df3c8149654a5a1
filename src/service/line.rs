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
};

use anyhow::Result;
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use super::tasks::lots;
use crate::{
    config::Config,
    line::{
        camera::{self, CameraConfig, CameraEvent},
        eject::{self, Ejector},
        handover::Handover,
        infer::Infer,
        inspect,
        live::{CameraState, View},
        outage::CameraOutage,
        priority,
        record::Recorder,
        vital,
    },
    metrics::Metrics,
    store::Store,
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
    /// Starts what moves the gates, then the cameras. Lots that the gates' outputs tell of go to `store`.
    ///
    /// # Errors
    /// When an output can't be used, or no thread can be started.
    pub(super) fn start(
        config: &Config,
        infer: &Infer,
        recorder: &Recorder,
        store: &Store,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let runtime = BeltRuntime::start()?;
        let gate_recorder = recorder.clone();
        let (ejector, ejecting) = config
            .eject
            .clone()
            .map(|eject| Ejector::start(eject, metrics, move |event| gate_recorder.event(event)))
            .transpose()?
            .unzip();
        if let Some(ejector) = &ejector {
            tokio::spawn(lots::follow(store.clone(), ejector.lot(), metrics.clone(), stop.clone()));
        }
        let line = inspect::Line {
            infer: infer.clone(),
            ejector,
            recorder: recorder.clone(),
            metrics: metrics.clone(),
            deadline: config.line.deadline,
            locate: config.locate.clone(),
            waiting: runtime.handle.clone(),
            background: Handle::current(),
        };
        let cameras = Cameras::start(&line, &config.camera, stop)?;
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
    /// Starts the cameras one after the other; `stop` ends their inspection.
    fn start(line: &inspect::Line, configs: &[CameraConfig], stop: &CancellationToken) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (mut views, mut threads) = (Vec::new(), Vec::new());
        for config in configs {
            let view = Arc::new(View::new(config.name()));
            threads.extend(start_camera(line, config.clone(), &view, stop, &stopped)?);
            views.push(view);
        }
        Ok(Self { views: views.into(), threads, stopped })
    }

    /// Tells the cameras to end; they end when they next look.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

/// A camera's two threads: one drains the camera, one inspects.
fn start_camera(
    line: &inspect::Line,
    config: CameraConfig,
    view: &Arc<View>,
    stop: &CancellationToken,
    stopped: &Arc<AtomicBool>,
) -> Result<[thread::JoinHandle<()>; 2]> {
    let name = view.camera.clone();
    let frames = Arc::new(Handover::default());
    line.metrics.begin_camera(&name);
    let watch = CameraWatch {
        outage: CameraOutage::new(line.recorder.clone(), line.ejector.clone(), &name),
        view: view.clone(),
        metrics: line.metrics.clone(),
    };
    let (sink, stopped) = (frames.clone(), stopped.clone());
    let camera = vital::thread(format!("camera-{name}"), move || {
        priority::set(priority::BELT);
        camera::run(&config, &sink, &stopped, &|event| watch.on(event));
    })?;
    let (line, view, stop) = (line.clone(), view.clone(), stop.clone());
    let inspector = vital::thread(format!("line-{name}"), move || inspect::run(&line, &view, &frames, &stop))?;
    Ok([camera, inspector])
}

/// Tells what happens to a camera: to its view, its metrics, the log, the record and the gates.
struct CameraWatch {
    outage: CameraOutage,
    view: Arc<View>,
    metrics: Metrics,
}

impl CameraWatch {
    fn on(&self, event: CameraEvent) {
        let (view, metrics) = (&self.view, &self.metrics);
        let name = &*view.camera;
        let up = |up: i64| metrics.camera.up.with_label_values(&[name]).set(up);
        let frozen = |frozen: i64| metrics.camera.frozen.with_label_values(&[name]).set(frozen);
        let dropped = |why: &str| metrics.camera.frames_dropped.with_label_values(&[name, why]);
        match event {
            CameraEvent::Frame => {
                self.outage.seen();
                view.is(CameraState::Up);
                metrics.camera.frames.with_label_values(&[name]).inc();
                up(1);
                frozen(0);
            }
            CameraEvent::Frozen(after) => {
                let why = format!("frozen: it has sent the very same picture for more than {after:?}");
                tracing::warn!(camera = name, "camera {why}");
                self.outage.lost(&why);
                view.is(CameraState::Frozen(why));
                up(0);
                frozen(1);
            }
            CameraEvent::Still => dropped("frozen").inc(),
            CameraEvent::Dropped => dropped("stale").inc(),
            CameraEvent::BadFrame(why) => {
                tracing::warn!(camera = name, "a frame was refused: {why}");
                dropped("driver").inc();
            }
            CameraEvent::Skipped(frames) => dropped("driver").inc_by(frames.into()),
            CameraEvent::Opened => tracing::info!(camera = name, "camera opened"),
            CameraEvent::Lost(why) => {
                tracing::warn!(camera = name, "camera lost: {why}");
                self.outage.lost(&why);
                view.is(CameraState::Lost(why));
                up(0);
                frozen(0);
                metrics.camera.reconnects.with_label_values(&[name]).inc();
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
