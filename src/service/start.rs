//! The start: opens everything, wires it together, and starts it in the order in which the parts need each other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result, ensure};
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{line::RunningLine, record::OpenRecord, stop::RunningService, tasks};
use crate::{
    api::{self, Api},
    config::Config,
    line::{infer::Infer, swap::Swapper},
    metrics::Metrics,
    rounds::keeper,
    store::{Clock, Store},
    student::{engine, open::Student, registry::Registry},
    tokens::Tokens,
};

/// Verdicts that a reader of the streams may be behind.
const STREAMED: usize = 1024;

/// Starts the service.
///
/// # Errors
/// Whatever keeps it from starting.
pub(super) async fn start(config: Config) -> Result<RunningService> {
    let tokens = open_tokens(&config)?;
    let tls = config.server.tls.as_ref().map(api::Tls::acceptor).transpose()?;
    let metrics = Metrics::new()?;
    metrics.cores.set(engine::cores() as i64);
    let stop = CancellationToken::new();

    let registry = config.model.registry();
    let (infer, workers) = start_infer(&registry, &config, &metrics)?;
    let swapper = Arc::new(swapper(&config, &infer, &metrics));

    // Before the store: where another service is, its record is left alone.
    let listener = bind(config.server.listen).await?;
    let (recorded, _) = broadcast::channel(STREAMED);
    let (record, recorder) = OpenRecord::start(&config, &metrics, recorded.clone()).await?;
    let store = &record.store;
    let notes = tasks::registry::ServingNotes::start(registry.clone(), store.clone(), metrics.clone()).await;
    let line = RunningLine::start(&config, &infer, &recorder, &record, &metrics, &stop)?;

    let rounds = keeper::RoundKeeperParts {
        settings: config.rounds.clone(),
        store: store.clone(),
        folder: config.store.folder.clone(),
        registry: registry.clone(),
        swapper: swapper.clone(),
        metrics: metrics.clone(),
        recorded: recorded.subscribe(),
        deadline: config.line.deadline,
    };
    let (rounds, learning) = keeper::start(rounds, stop.clone());
    let (ready, ready_reader) = watch::channel(true);
    metrics.ready.set(1);
    let kept = KeptRecord::start(&config, &infer.card().classes, store, &line, &metrics, &stop);
    let following = tokio::spawn(tasks::registry::follow(notes, swapper.clone(), stop.clone()));

    let parts = api::ApiDependencies {
        infer: infer.clone(),
        tokens,
        store: store.clone(),
        recorder,
        metrics: metrics.clone(),
        recorded,
        cameras: line.cameras.views.clone(),
        stop: stop.clone(),
        ready: ready_reader,
        swapper,
        registry,
        challenges: config.planned_challenges().into(),
        labels: config.labels,
        clock: kept.clock,
        retention_held: kept.retention_held,
        rounds,
        ejector: line.line.ejector.clone(),
        alive: line.line.alive.clone(),
    };
    // Scripts and tests wait for this line.
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{}", listener.local_addr()?);
    let router = api::router(Api::new(parts, config.api)?);
    let limits = api::ConnectionLimits {
        connections: config.server.max_connections,
        client_timeout: config.server.client_timeout,
    };
    let server = tokio::spawn(api::serve(listener, tls, router, limits, stop.clone()));
    Ok(RunningService {
        ready,
        metrics,
        stop,
        server,
        following,
        learning,
        line,
        infer,
        workers,
        record,
        challenges: kept.challenges,
        anchoring: kept.anchoring,
    })
}

/// What looks after the record by itself, until the stop.
struct KeptRecord {
    challenges: JoinHandle<()>,
    anchoring: JoinHandle<tasks::anchor::Anchors>,
    clock: Arc<Clock>,
    /// Why retention removes less than its settings say.
    retention_held: watch::Receiver<Vec<String>>,
}

impl KeptRecord {
    fn start(
        config: &Config,
        classes: &[String],
        store: &Store,
        line: &RunningLine,
        metrics: &Metrics,
        stop: &CancellationToken,
    ) -> Self {
        for (camera, planned) in config.planned_challenges() {
            if let Some(class) = planned.class.filter(|class| !classes.contains(class)) {
                let piece = planned.piece;
                tracing::warn!("the student knows no class `{class}`: challenge `{piece}` on {camera} will be missed");
            }
        }
        for camera in &config.camera {
            metrics.store.challenge_overdue.with_label_values(&[camera.name()]).set(0);
        }
        let everything = || (store.clone(), metrics.clone(), stop.clone());
        let (kept, counts, end) = everything();
        let (planned, ejector) = (config.planned_challenges(), line.line.ejector.clone());
        let challenges = tokio::spawn(tasks::challenges::watch(kept, planned, ejector, counts, end));
        let clock = Arc::new(Clock::kernel());
        let (held, retention_held) = watch::channel(Vec::new());
        let (kept, counts, end) = everything();
        tokio::spawn(tasks::retention::retain(kept, config.retention.clone(), clock.clone(), held, counts, end));
        let anchors = tasks::anchor::Anchors::start(&config.record.anchor, store, metrics.clone());
        let anchoring = tokio::spawn(anchors.keep(store.clone(), stop.clone()));
        let (kept, counts, end) = everything();
        tokio::spawn(tasks::disk::watch(kept, counts, end));
        let (kept, counts, end) = everything();
        tokio::spawn(tasks::labels::count(kept, counts, end));
        Self { challenges, anchoring, clock, retention_held }
    }
}

/// The access tokens. Without any, nothing but this machine may be listened to.
fn open_tokens(config: &Config) -> Result<Tokens> {
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

/// Opens the student that is to serve and starts the threads that run it.
fn start_infer(
    registry: &Registry,
    config: &Config,
    metrics: &Metrics,
) -> Result<(Infer, Vec<thread::JoinHandle<()>>)> {
    let student = open_serving(registry, config, metrics)?;
    metrics.student.loads.with_label_values(&["loaded"]).inc();
    tracing::info!(
        model = student.card.label,
        precision = student.card.precision,
        provider = student.engine.provider(),
        asked = %config.model.device,
        cores = engine::cores(),
        "model is warm"
    );
    Ok(Infer::start(student, config.infer.clone(), metrics.clone())?)
}

/// Opens the student that the registry says is to serve; if it is refused, the one before it, and so on, because a line
/// that stands still helps nobody.
fn open_serving(registry: &Registry, config: &Config, metrics: &Metrics) -> Result<Student> {
    let model = &config.model;
    let mut stack = registry.stack()?;
    loop {
        let version = stack.pop().unwrap_or_else(|| model.version.clone());
        let folder = model.root.join(&version);
        match Student::open(&folder, model.precision.as_deref(), model.device, model.threads, config.infer.max_batch) {
            Ok(student) => return Ok(student),
            Err(e) => {
                metrics.student.loads.with_label_values(&["refused"]).inc();
                if stack.is_empty() {
                    return Err(e.into());
                }
                tracing::error!("{version} is to serve but is refused: {e}; trying the one before");
            }
        }
    }
}

fn swapper(config: &Config, infer: &Infer, metrics: &Metrics) -> Swapper {
    Swapper {
        infer: infer.clone(),
        metrics: metrics.clone(),
        root: config.model.root.clone(),
        precision: config.model.precision.clone(),
        device: config.model.device,
        threads: config.model.threads,
        max_batch: config.infer.max_batch,
        loading: Mutex::new(()),
    }
}

async fn bind(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| {
        format!("{listen} can't be listened on: is another service there? Choose another server.listen")
    })
}
