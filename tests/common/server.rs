//! A whole service for tests: a real student in ONNX Runtime, a store in a temporary folder, the API on a free port.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use beltsight::{
    api::{self, Api, ApiDependencies, ApiSettings, ConnectionLimits},
    domain::{Thresholds, Verdict, hash::sha256},
    line::{
        eject::output::alive::LineAlive,
        infer::{self, Infer},
        live::View,
        record::{self, Recorder},
        swap::Swapper,
    },
    metrics::Metrics,
    network::{
        self, Net,
        onnx::{Tensor, Weights, export},
    },
    rounds::{self, keeper},
    store::{Clock, PlannedChallenge, Store},
    student::{
        engine::Device,
        manifest::{File, Input, Lineage, Manifest},
        open::Student,
        registry::Registry,
    },
    tokens::Tokens,
};
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::process::{asked_until, connect};

/// Input side of the test student.
pub const SIDE: u32 = 32;
/// Its classes.
pub const CLASSES: [&str; 3] = ["salmon", "cod", "bass"];

/// Seeded weights of a plausible size, so that outputs differ from picture to picture.
pub fn weights(net: &Net, seed: u64) -> Weights {
    let mut state = seed | 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut tensor = |shape: &[usize], scale: f32| {
        let data = (0..shape.iter().product()).map(|_| random() * scale).collect();
        Tensor { shape: shape.to_vec(), data }
    };
    let filled = |n: usize, value: f32| Tensor { shape: vec![n], data: vec![value; n] };
    let mut weights = BTreeMap::new();
    for conv in net.convs() {
        let fan_in = conv.inputs / conv.groups * conv.kernel * conv.kernel;
        let shape = [conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel];
        weights.insert(format!("{}.weight", conv.name), tensor(&shape, (6.0 / fan_in as f32).sqrt()));
        for (part, value) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            weights.insert(format!("{}.bn.{part}", conv.name), filled(conv.outputs, value));
        }
    }
    weights.insert("head.weight".into(), tensor(&[CLASSES.len(), net.features], 0.3));
    weights.insert("head.bias".into(), filled(CLASSES.len(), 0.0));
    weights
}

/// Writes the model folder `root/version` with a student of seeded random weights.
pub fn test_model_folder(root: &Path, version: &str, seed: u64) -> PathBuf {
    let folder = root.join(version);
    std::fs::create_dir_all(&folder).unwrap();
    let net = network::small(SIDE as usize);
    let onnx = export(&net, &weights(&net, seed), CLASSES.len()).unwrap();
    std::fs::write(folder.join("student.onnx"), &onnx).unwrap();
    let file = File {
        name: "student.onnx".into(),
        sha256: sha256(&onnx),
        bytes: onnx.len() as u64,
        max_probability_difference: 0.0,
    };
    let manifest = Manifest {
        version: version.into(),
        created: "2026-11-25T00:00:00Z".into(),
        serve: "float32".into(),
        classes: CLASSES.map(String::from).to_vec(),
        input: Input { side: SIDE, format: "uint8 RGB NHWC".into() },
        files: [("float32".to_owned(), file)].into(),
        thresholds: Thresholds {
            accept: vec!["salmon".into()],
            accept_from: 0.9,
            unsure_from: 0.2,
            temperature: 1.0,
            unknown_from: None,
        },
        lineage: Lineage { net: "small".into(), seed, ..Lineage::default() },
        reference: None,
        learned: None,
        scorecard: None,
    };
    manifest.write(&folder).unwrap();
    folder
}

/// A running service; it stops when dropped.
pub struct Server {
    pub url: String,
    pub address: SocketAddr,
    pub client: reqwest::Client,
    pub metrics: Metrics,
    pub infer: Infer,
    pub tokens: Tokens,
    pub tokens_file: PathBuf,
    pub store: Store,
    pub models: PathBuf,
    pub camera: Arc<View>,
    pub ready: watch::Sender<bool>,
    pub recorded: broadcast::Sender<Arc<Verdict>>,
    pub recorder: Recorder,
    pub folder: TempDir,
    pub stop: CancellationToken,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.infer.stop();
    }
}

/// Starts a service with usual limits.
pub async fn start() -> Server {
    start_with(ApiSettings::default()).await
}

/// Starts a service serving the model `one`.
pub async fn start_with(settings: ApiSettings) -> Server {
    start_within(settings, ConnectionLimits { connections: 256, client_timeout: Duration::from_secs(5) }).await
}

/// The known wrong piece of the camera.
fn planned() -> PlannedChallenge {
    PlannedChallenge { piece: "trout dummy".into(), class: Some("cod".into()), every: Duration::from_secs(3600) }
}

fn swapper(infer: &Infer, metrics: &Metrics, models: &Path) -> Swapper {
    Swapper {
        infer: infer.clone(),
        metrics: metrics.clone(),
        root: models.into(),
        precision: None,
        device: Device::Cpu,
        threads: 2, // so that there are sessions side by side
        max_batch: 2,
        loading: Mutex::new(()),
    }
}

/// Starts a service that bears with its clients only so far.
pub async fn start_within(settings: ApiSettings, limits: ConnectionLimits) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    let student = Student::open(&test_model_folder(&models, "one", 1), None, Device::Cpu, 2, 2).unwrap();
    let metrics = Metrics::new().unwrap();
    let (infer, _threads) = Infer::start(student, infer::InferSettings::default(), metrics.clone()).unwrap();
    let store = Store::open(&folder.path().join("store")).await.unwrap();
    let stop = CancellationToken::new();
    let recorded = broadcast::channel(64).0;
    let record = record::RecordSettings { keep_share: 1.0, ..record::RecordSettings::default() };
    let (recorder, _task) =
        Recorder::start(store.clone(), &record, 0.5, metrics.clone(), recorded.clone(), stop.clone());
    let camera = Arc::new(View::new("belt"));
    let (ready, is_ready) = watch::channel(true);
    let tokens_file = folder.path().join("tokens.toml"); // none yet
    let tokens = Tokens::open(&tokens_file).unwrap();
    let swapper = Arc::new(swapper(&infer, &metrics, &models));
    let registry = Registry { root: models.clone(), first: "one".into() };
    let rounds = keeper::RoundKeeperParts {
        settings: rounds::RoundSettings::default(),
        store: store.clone(),
        folder: folder.path().join("store"),
        registry: registry.clone(),
        swapper: swapper.clone(),
        metrics: metrics.clone(),
        recorded: recorded.subscribe(),
        deadline: Duration::from_millis(50),
    };
    let (rounds, _learning) = keeper::start(rounds, stop.clone());
    let parts = ApiDependencies {
        infer: infer.clone(),
        tokens: tokens.clone(),
        store: store.clone(),
        recorder: recorder.clone(),
        metrics: metrics.clone(),
        recorded: recorded.clone(),
        cameras: [camera.clone()].into(),
        ready: is_ready,
        stop: stop.clone(),
        labels: api::LabelSettings { classes: vec!["hake".into()], second_share: 0.1 },
        challenges: [("belt".to_owned(), planned())].into(),
        clock: Arc::new(Clock::asking(|| false)),
        retention_held: watch::channel(vec!["nobody vouches for the clock: nothing is removed by its age".into()]).1,
        swapper,
        registry,
        rounds,
        ejector: None,
        alive: LineAlive::default(),
    };
    let router = api::router(Api::new(parts, settings).unwrap());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stopped = stop.clone();
    tokio::spawn(api::serve(listener, None, router, limits, stopped));
    Server {
        url: format!("http://{address}"),
        address,
        client: reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap(),
        metrics,
        infer,
        tokens,
        tokens_file,
        store,
        models,
        camera,
        ready,
        recorded,
        recorder,
        folder,
        stop,
    }
}

impl Server {
    /// The answer to GET.
    pub async fn ask(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    /// GET as JSON.
    pub async fn get(&self, path: &str) -> serde_json::Value {
        self.ask(path).await.json().await.unwrap()
    }

    /// POST a body.
    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).body(body).send().await.unwrap()
    }

    /// The value of a counter of bad inputs.
    pub fn bad(&self, kind: &str) -> u64 {
        self.metrics.http.bad_input.with_label_values(&[kind]).get()
    }

    /// A bare connection, for what no honest client sends; it waits 10 s for an answer.
    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Waits until `n` verdicts are committed.
    pub async fn recorded(&self, n: u64) {
        let recorded = async || self.metrics.store.recorded.get();
        asked_until("verdicts are recorded", Duration::from_secs(10), recorded, |recorded| *recorded >= n).await;
    }
}
