//! Wires the service: channels, threads, tasks, shutdown.
//!
//! | queue | from → to | capacity | when full |
//! |---|---|---|---|
//! | frames | camera → line | 2 frames | the oldest is dropped and counted: the newest picture matters |
//! | belt items | line → worker | `infer.belt_queue` | the item is rejected (fault `overloaded`) |
//! | HTTP items | API → worker | `infer.http_queue` | 429 |
//! | admission | network → API | `api.max_in_flight` | 429; the body is thrown away as it comes |
//! | records | line, API → store | `record.queue` | dropped and counted: the line never waits for the disk; HTTP leaves the belt a quarter |
//! | orders | line → eject | `eject.queue` | the command is late and acted on as configured |
//! | commands | eject → output | 64 commands | the same |
//! | recorded | store → streams | 1,024 verdicts | slow readers skip |
//! | live | line → page | 1 frame of each camera | the newest replaces the old |

pub mod tasks;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, Api},
    config::Config,
    domain::Verdict,
    line::{
        camera::{self, Event as CameraEvent},
        eject::Ejector,
        handover::Handover,
        infer::{self, Infer},
        inspect,
        live::{CameraState, View},
        outage::CameraOutage,
        priority,
        record::Recorder,
        swap::{self, Swapper},
    },
    metrics::Metrics,
    rounds::keeper,
    service::tasks::{challenges, lots},
    store::{Event, Retention, Store, StoreError},
    student::{engine, registry::Registry},
    tokens::Tokens,
};

/// How often labels are counted.
const COUNT: Duration = Duration::from_secs(10);
/// How often what is too old is looked for.
const RETAIN: Duration = Duration::from_secs(3600);
/// How often the registry of what serves is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// Runs the service until SIGINT or SIGTERM; returns after everything recorded is on disk.
///
/// # Errors
/// Whatever keeps the service from starting, in words.
pub fn serve(config: Config) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,ort=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(config))
}

async fn run(config: Config) -> Result<()> {
    let listen = config.server.listen;
    let tokens = guarded(&config)?;
    let tls = config.server.tls.as_ref().map(api::Tls::acceptor).transpose()?;
    let metrics = Metrics::new()?;
    metrics.cores.set(engine::cores() as i64);
    let stop = CancellationToken::new();

    let registry = Registry { root: config.model.root.clone(), first: config.model.version.clone() };
    let student = open_serving(&registry, &config, &metrics)?;
    metrics.model_loads.with_label_values(&["loaded"]).inc();
    tracing::info!(
        model = student.card.label,
        precision = student.card.precision,
        provider = student.engine.provider(),
        asked = %config.model.device,
        cores = engine::cores(),
        "model is warm"
    );
    let (infer, workers) = Infer::start(student, config.infer.clone(), metrics.clone())?;
    let swapper = Arc::new(Swapper {
        infer: infer.clone(),
        metrics: metrics.clone(),
        root: config.model.root.clone(),
        precision: config.model.precision.clone(),
        device: config.model.device,
        threads: config.model.threads,
        max_batch: config.infer.max_batch,
        loading: Mutex::new(()),
    });

    // Before the store: where another service is, its record is left alone.
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("{listen} can't be listened on: is another service there? Choose another server.listen")
    })?;
    let store = Store::open(&config.store.folder).await?;
    if let Err(e) = record_start(&store).await {
        // The line goes on without a store, so it starts without one too; what is lost is counted.
        metrics.record_dropped.with_label_values(&["event"]).inc();
        tracing::error!("the start could not be recorded: {e}");
    }
    tell_head(&store).await;
    let (recorded, _) = broadcast::channel::<Arc<Verdict>>(1024);
    // Recording outlives the line, so that the last verdicts are written too.
    let stop_recording = CancellationToken::new();
    let (recorder, writer) =
        Recorder::start(store.clone(), &config.record, metrics.clone(), recorded.clone(), stop_recording.clone());

    let belt = Belt::start()?;
    let gate_recorder = recorder.clone();
    let (ejector, ejecting) = config
        .eject
        .map(|eject| Ejector::start(eject, &metrics, move |event| gate_recorder.event(event)))
        .transpose()?
        .map_or((None, None), |(e, r)| (Some(e), Some(r)));
    if let Some(ejector) = &ejector {
        tokio::spawn(lots::follow(store.clone(), ejector.lot(), metrics.clone(), stop.clone()));
    }
    let line = inspect::Line {
        infer: infer.clone(),
        ejector: ejector.clone(),
        recorder: recorder.clone(),
        metrics: metrics.clone(),
        deadline: config.line.deadline,
        locate: config.locate.clone(),
        waiting: belt.handle.clone(),
        background: tokio::runtime::Handle::current(),
    };
    let stop_cameras = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let camera_names = config.camera.iter().map(|camera| camera.name().to_owned()).collect();
    let mut cameras = Vec::new();
    for camera in config.camera {
        let view = Arc::new(View::new(camera.name()));
        threads.extend(start_line(&line, camera, &view, &stop, &stop_cameras)?);
        cameras.push(view);
    }

    let rounds = keeper::Parts {
        settings: config.rounds,
        store: store.clone(),
        folder: config.store.folder,
        registry: registry.clone(),
        swapper: swapper.clone(),
        metrics: metrics.clone(),
        recorded: recorded.subscribe(),
        deadline: config.line.deadline,
    };
    let (rounds_handle, learning) = keeper::start(rounds, stop.clone());

    let challenges = challenges::watch(store.clone(), config.challenge, camera_names, metrics.clone(), stop.clone());
    let challenges = tokio::spawn(challenges);
    let (ready, ready_reader) = watch::channel(true);
    metrics.ready.set(1);
    let parts = api::ApiDependencies {
        infer: infer.clone(),
        tokens,
        store: store.clone(),
        recorder,
        metrics: metrics.clone(),
        recorded,
        cameras: cameras.into(),
        stop: stop.clone(),
        ready: ready_reader,
        swapper: swapper.clone(),
        registry: registry.clone(),
        labels: config.labels,
        rounds: rounds_handle,
        ejector,
    };
    tokio::spawn(retain(store.clone(), config.retention, metrics.clone(), stop.clone()));
    tokio::spawn(count_labels(store.clone(), metrics.clone(), stop.clone()));
    let following = tokio::spawn(follow(registry, swapper, stop.clone()));
    // Scripts and tests wait for this line.
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{}", listener.local_addr()?);
    let router = api::router(Api::new(parts, config.api)?);
    let limits = api::ConnectionLimits {
        connections: config.server.max_connections,
        client_timeout: config.server.client_timeout,
    };
    let server = tokio::spawn(api::serve(listener, tls, router, limits, stop.clone()));
    told_to_stop().await;
    tracing::info!("stopping");
    ready.send_replace(false);
    metrics.ready.set(0);
    stop.cancel();
    // Requests at hand are finished; one that takes longer is left.
    let _ = tokio::time::timeout(Duration::from_secs(5), server).await;

    following.await?;
    learning.await?;
    stop_cameras.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = tokio::task::spawn_blocking(move || thread.join()).await; // one that panicked has ended the process
    }
    infer.stop();
    for worker in workers {
        let _ = tokio::task::spawn_blocking(move || worker.join()).await;
    }
    drop(belt);
    if let Some(ejecting) = ejecting {
        let _ = tokio::task::spawn_blocking(move || ejecting.close()).await; // what was ordered is still done
    }
    drop(line);
    stop_recording.cancel();
    writer.await?;
    challenges.await?;
    if let Err(e) = store.append(Event::Stopped).await {
        tracing::error!("the end could not be recorded: {e}");
    }
    tell_head(&store).await;
    store.close().await;
    Ok(())
}

/// The access tokens. Without any, nothing but this machine may be listened to.
fn guarded(config: &Config) -> Result<Tokens> {
    let (path, listen) = (config.tokens(), config.server.listen);
    let tokens = Tokens::open(&path)?;
    if !tokens.guarded() {
        ensure!(
            listen.ip().to_canonical().is_loopback(),
            "server.listen is {listen}, which others can reach, and {} holds no access token, so everybody could run the \
             line: make one with `beltsight tokens add --name NAME --role admin`, or listen on 127.0.0.1",
            path.display()
        );
        tracing::warn!(
            "no access token is set: this machine alone is served, without asking; `beltsight tokens add` makes one"
        );
    } else if config.server.tls.is_none() && !listen.ip().to_canonical().is_loopback() {
        tracing::warn!("tokens and pictures travel unencrypted: set [server.tls], or put a proxy with HTTPS before us");
    }
    Ok(tokens)
}

/// Opens the student that the registry says is to serve; if it is refused, the one before it, and so on, because a line
/// that stands still helps nobody.
fn open_serving(registry: &Registry, config: &Config, metrics: &Metrics) -> Result<infer::Student> {
    let model = &config.model;
    let mut stack = registry.stack()?;
    loop {
        let version = stack.pop().unwrap_or_else(|| model.version.clone());
        let folder = model.root.join(&version);
        match swap::open(&folder, model.precision.as_deref(), model.device, model.threads, config.infer.max_batch) {
            Ok(student) => return Ok(student),
            Err(e) => {
                metrics.model_loads.with_label_values(&["refused"]).inc();
                if stack.is_empty() {
                    return Err(e.into());
                }
                tracing::error!("{version} is to serve but is refused: {e}; trying the one before");
            }
        }
    }
}

/// Keeps the gauges of what waits for a label and of how far people agree.
async fn count_labels(store: Store, metrics: Metrics, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match (store.unlabeled().await, store.agreement().await) {
            (Ok(waiting), Ok(agreement)) => {
                metrics.label_queue.set(waiting as i64);
                metrics.label_kappa.set(agreement.kappa.unwrap_or(f64::NAN));
            }
            (Err(e), _) | (_, Err(e)) => tracing::warn!("labels can't be counted: {e}"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(COUNT) => {}
        }
    }
}

/// Follows the registry, so that `beltsight models promote` and `rollback` reach a running service.
async fn follow(registry: Registry, swapper: Arc<Swapper>, stop: CancellationToken) {
    let mut known = registry.history().map_or(0, |history| history.len());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FOLLOW) => {}
        }
        let (registry, swapper) = (registry.clone(), swapper.clone());
        match tokio::task::spawn_blocking(move || catch_up(&registry, &swapper, known)).await {
            Ok(Ok(entries)) => known = entries,
            Ok(Err(e)) => tracing::error!("the registry of what serves can't be followed: {e:#}"),
            Err(e) => tracing::error!("{e}"),
        }
    }
}

/// Loads the student that is to serve if the registry got entries beyond `known`; tells how many it has.
fn catch_up(registry: &Registry, swapper: &Swapper, known: usize) -> Result<usize> {
    let look = || -> Result<_> {
        let entries = registry.history()?.len();
        let version = registry.stack()?.pop().context("no version")?;
        Ok((entries, (swapper.infer.card().version != version).then_some(version)))
    };
    let (entries, apart) = look()?;
    if entries == known || apart.is_none() {
        return Ok(entries);
    }
    // Whoever is changing it from within this service has yet to write the entry: look again then.
    let Ok(turn) = swapper.try_turn() else { return Ok(known) };
    let (entries, apart) = look()?;
    if let Some(version) = apart {
        // One that is refused is not tried again: the refusal is in the log, and the line goes on.
        let _ = swapper.load(&version, &turn);
    }
    Ok(entries)
}

/// Removes what is older than it has to be kept, every hour.
async fn retain(store: Store, rules: Retention, metrics: Metrics, stop: CancellationToken) {
    while rules != Retention::default() {
        match store.retain(&rules, time::OffsetDateTime::now_utc()).await {
            Ok(removed) => tracing::info!("retention: {removed:?}"),
            Err(e) => {
                metrics.store_errors.inc();
                tracing::error!("retention: {e}");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RETAIN) => {}
        }
    }
}

/// The runtime in which the belt's verdicts are waited for. One may not be dropped by a task, as an error on the way up
/// would: it is shut down instead.
struct Belt {
    handle: tokio::runtime::Handle,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Belt {
    fn start() -> std::io::Result<Self> {
        let belt = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("belt")
            .on_thread_start(|| priority::set(priority::BELT))
            .enable_time()
            .build()?;
        Ok(Self { handle: belt.handle().clone(), runtime: Some(belt) })
    }
}

impl Drop for Belt {
    fn drop(&mut self) {
        if let Some(belt) = self.runtime.take() {
            belt.shutdown_background();
        }
    }
}

async fn record_start(store: &Store) -> Result<(), StoreError> {
    let started = store.starting(env!("CARGO_PKG_VERSION")).await?;
    store.append(started).await?;
    Ok(())
}

/// Logs where the record ends, for `beltsight record verify --kept`.
async fn tell_head(store: &Store) {
    match store.head().await {
        Ok((entry, hash)) => tracing::info!("the record ends at {entry}:{hash}"),
        Err(e) => tracing::error!("{e}"),
    }
}

/// A camera's two threads: one drains the camera, one inspects.
fn start_line(
    line: &inspect::Line,
    config: camera::CameraConfig,
    view: &Arc<View>,
    stop: &CancellationToken,
    stop_cameras: &Arc<AtomicBool>,
) -> Result<[thread::JoinHandle<()>; 2]> {
    let name = view.camera.clone();
    let frames = Arc::new(Handover::default());
    let metrics = line.metrics.clone();
    metrics.begin_camera(&name);
    let on_event = {
        let (name, view) = (name.clone(), view.clone());
        let outage = CameraOutage::new(line.recorder.clone(), line.ejector.clone(), &name);
        move |event: CameraEvent| match event {
            CameraEvent::Frame => {
                outage.seen();
                view.is(CameraState::Up);
                metrics.frames.with_label_values(&[&name]).inc();
                metrics.camera_up.with_label_values(&[&name]).set(1);
                metrics.camera_frozen.with_label_values(&[&name]).set(0);
            }
            CameraEvent::Frozen(after) => {
                let why = format!("frozen: it has sent the very same picture for more than {after:?}");
                tracing::warn!(camera = &*name, "camera {why}");
                outage.lost(&why);
                view.is(CameraState::Frozen(why));
                metrics.camera_up.with_label_values(&[&name]).set(0);
                metrics.camera_frozen.with_label_values(&[&name]).set(1);
            }
            CameraEvent::Still => metrics.frames_dropped.with_label_values(&[&name, "frozen"]).inc(),
            CameraEvent::Dropped => metrics.frames_dropped.with_label_values(&[&name, "stale"]).inc(),
            CameraEvent::BadFrame(why) => {
                tracing::warn!(camera = &*name, "a frame was refused: {why}");
                metrics.frames_dropped.with_label_values(&[&name, "driver"]).inc();
            }
            CameraEvent::Skipped(frames) => {
                metrics.frames_dropped.with_label_values(&[&name, "driver"]).inc_by(frames.into())
            }
            CameraEvent::Opened => tracing::info!(camera = &*name, "camera opened"),
            CameraEvent::Lost(why) => {
                tracing::warn!(camera = &*name, "camera lost: {why}");
                outage.lost(&why);
                view.is(CameraState::Lost(why));
                metrics.camera_up.with_label_values(&[&name]).set(0);
                metrics.camera_frozen.with_label_values(&[&name]).set(0);
                metrics.camera_reconnects.with_label_values(&[&name]).inc();
            }
        }
    };
    let (sink, stopped) = (frames.clone(), stop_cameras.clone());
    let camera = vital(format!("camera-{name}"), move || {
        priority::set(priority::BELT);
        camera::run(&config, &sink, &stopped, &on_event);
    })?;
    let (line, view, stopped) = (line.clone(), view.clone(), stop.clone());
    let inspector = vital(format!("line-{name}"), move || inspect::run(&line, &view, &frames, &stopped))?;
    Ok([camera, inspector])
}

/// A thread without which items pass unjudged. One that panics ends the process, after the panic's own words: the PLC misses
/// the heartbeat, and systemd starts the service anew.
fn vital(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(|| {
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
            std::process::abort();
        }
    })
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(e) => {
            tracing::error!("SIGTERM can't be caught: {e}; only Ctrl-C stops in order");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
