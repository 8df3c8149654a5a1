//! The simulated belt at full speed against a real service process: which item every verdict is about, how long it took,
//! when the commands left, what memory and processor it cost, and from which speed and number of cameras on it breaks.
//!
//! The belt is seeded, so this program computes which items passed. A verdict belongs to the item that lay where and when
//! the verdict says; the species tells whether that is so. Drawing the belt is the service's work too: a report says what
//! share of its processor time went there, which a camera would not cost.

mod counters;
mod matching;

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result};
use counters::{ServiceCounters, TICKS};
use matching::ItemMatching;
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    machine,
    network_camera::NetworkCamera,
    quantile, resident,
    service::{MeasuredService, ON_CPU},
};
use crate::{
    belt::BeltConfig,
    domain::{Verdict, ms},
};

/// Pictures per second.
const FRAME_RATE: f64 = 60.0;
/// Width and height of the pictures: small, because they are drawn on the cores that judge them.
const PICTURE: (u32, u32) = (320, 180);
/// Millimetres per pixel: at 800 items per minute the belt runs at 1.25 m/s.
const SCALE: f64 = 0.578;
/// From capture to verdict.
const DEADLINE: Duration = Duration::from_millis(50);
/// Before the first item that counts.
const SETTLE: Duration = Duration::from_secs(2);
/// How long each speed and number of cameras is tried.
const STEP: Duration = Duration::from_secs(20);
/// By how much the next speed is faster.
const FASTER: f64 = 1.25;
/// Most cameras and items per minute tried.
const MOST: (usize, f64) = (16, 10_000.0);
/// What is measured.
#[derive(Clone, Debug)]
pub struct BeltBenchPlan {
    /// Model folder.
    pub model: std::path::PathBuf,
    /// How long.
    pub span: Duration,
    /// Items per minute.
    pub items_per_minute: f64,
    /// Seed of the belt; camera `n` has `seed + n`.
    pub seed: u64,
    /// Through a network camera that this program is, instead of drawing within the service.
    pub mjpeg: bool,
    /// Go on with faster belts and more cameras until an item is missed or late.
    pub until_it_breaks: bool,
}

/// What was seen.
#[derive(Debug, Serialize)]
pub struct BeltReport {
    /// Where and on which day.
    pub machine: String,
    /// Processes that wanted a core when it began, averaged over a minute; ours not among them.
    pub load_before: f64,
    /// Seed of the belt.
    pub seed: u64,
    /// The run asked for.
    pub run: BeltRun,
    /// Faster and faster belts of one camera; the last one broke.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faster: Vec<BeltRun>,
    /// More and more cameras, each over a belt of its own; the last one broke.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<BeltRun>,
}

/// One run of a service.
#[derive(Debug, Serialize)]
pub struct BeltRun {
    /// Cameras.
    pub cameras: usize,
    /// Whether they were network cameras that send MJPEG.
    pub mjpeg: bool,
    /// Items per minute on each belt.
    pub items_per_minute: f64,
    /// Pictures per second that each camera drew; the belt asks for 60.
    pub frames_per_second: f64,
    /// Pictures that the line did not look at, because a newer one was there.
    pub frames_dropped: u64,
    /// Seconds.
    pub seconds: f64,
    /// Items that came and went in that time.
    pub items: usize,
    /// Items without a verdict.
    pub missed: usize,
    /// Items with more than one.
    pub doubled: usize,
    /// Verdicts whose place is that of an item of another species; of a network camera, which tells no species, those
    /// whose place is more than a quarter of a pitch from any item.
    pub misplaced: usize,
    /// Verdicts that no score stands behind.
    pub faults: usize,
    /// Verdicts later than the deadline of 50 ms.
    pub overruns: usize,
    /// Capture to verdict.
    pub latency_ms: LatencyMs,
    /// Verdicts, frames and events that were not recorded.
    pub not_recorded: u64,
    /// The commands that moved the gates.
    pub commands: CommandCounts,
    /// Resident memory of the service over the run, in MB.
    pub resident_mb: Vec<f64>,
    /// Cores that the service kept busy.
    pub cores_busy: f64,
    /// Share of that which drew the belt; a network camera's belt is drawn elsewhere.
    pub drawing_share: Option<f64>,
}

/// Capture to verdict, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct LatencyMs {
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub most: f64,
}

/// Ejector commands since the service started.
#[derive(Debug, Default, Serialize)]
pub struct CommandCounts {
    /// Rejected and diverted items.
    pub ordered: u64,
    /// How they ended.
    pub ended: BTreeMap<String, u64>,
    /// How many left at most so many milliseconds after they were due. None leaves before.
    pub left_within_ms: BTreeMap<String, u64>,
}

/// Measures.
///
/// # Errors
/// When the service can't be started, asked or told apart.
pub async fn run(plan: &BeltBenchPlan) -> Result<BeltReport> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let load_before = load.split(' ').next().context("no load")?.parse()?;
    let mut report = BeltReport {
        machine: machine(),
        load_before,
        seed: plan.seed,
        run: run_once(plan, 1, plan.items_per_minute, plan.span).await?,
        faster: Vec::new(),
        cameras: Vec::new(),
    };
    if plan.until_it_breaks {
        let mut rate = plan.items_per_minute;
        while rate < MOST.1 && report.faster.last().is_none_or(BeltRun::whole) {
            rate *= FASTER;
            report.faster.push(run_once(plan, 1, rate, STEP).await?);
        }
        let mut cameras = 1;
        while cameras < MOST.0 && report.cameras.last().is_none_or(BeltRun::whole) {
            cameras += 1;
            report.cameras.push(run_once(plan, cameras, plan.items_per_minute, STEP).await?);
        }
    }
    Ok(report)
}

impl BeltRun {
    /// Whether every item got its one verdict in time.
    pub fn whole(&self) -> bool {
        let wrong = self.missed + self.doubled + self.misplaced + self.faults + self.overruns;
        wrong == 0 && self.not_recorded == 0
    }

    /// Counts the items of camera `n` and what its verdicts say of them; `shown` is when picture 0 was taken, where that
    /// is known. Gives how long each verdict took.
    fn count_items(
        &mut self,
        observed: &Observation,
        n: usize,
        belt: BeltConfig,
        shown: Option<f64>,
    ) -> Result<Vec<Duration>> {
        let mut verdicts: Vec<&Verdict> = observed.verdicts.iter().filter(|v| v.camera == camera_name(n)).collect();
        verdicts.sort_by_key(|v| v.time);
        let matching = ItemMatching::of(&verdicts, belt, shown)?;
        let passed = matching.passed(observed.from, observed.to);
        self.items += passed.len();
        let counts = passed.iter().map(|item| matching.verdicts.get(item).map_or(0, Vec::len));
        self.missed += counts.clone().filter(|n| *n == 0).count();
        self.doubled += counts.filter(|n| *n > 1).count();
        self.misplaced += matching.misplaced;
        let mut latencies = Vec::new();
        for verdict in passed.iter().filter_map(|item| matching.verdicts.get(item)).flatten() {
            let took = Duration::try_from_secs_f64(verdict.timings.total_ms / 1e3)?;
            self.faults += usize::from(verdict.fault.is_some());
            self.overruns += usize::from(took > DEADLINE);
            latencies.push(took);
        }
        Ok(latencies)
    }
}

/// The belt under camera `n`.
fn belt(plan: &BeltBenchPlan, camera: usize, items_per_minute: f64) -> BeltConfig {
    let (width, height) = PICTURE;
    BeltConfig {
        seed: plan.seed + camera as u64,
        width,
        height,
        // As slow as items may come without touching.
        speed: (items_per_minute / 60.0 * 0.45 * f64::from(width) * 1.125).ceil(),
        items_per_minute,
        empty_share: 0.0,
        frame_rate: FRAME_RATE,
        ..BeltConfig::default()
    }
}

fn camera_name(camera: usize) -> String {
    format!("belt-{camera}")
}

/// Starts a service that sees every belt: through the network camera that shows it, or drawing it itself.
fn start_service(plan: &BeltBenchPlan, belts: &[BeltConfig], shown: &[NetworkCamera]) -> Result<MeasuredService> {
    let camera = |(n, belt): (usize, &BeltConfig)| match shown.get(n) {
        Some(camera) => {
            json!({ "name": camera_name(n), "source": "mjpeg", "url": format!("http://{}/belt", camera.address) })
        }
        None => json!({ "name": camera_name(n), "source": "simulated", "belt": belt }),
    };
    let gate = |(n, belt): (usize, &BeltConfig)| {
        json!({
            "name": format!("out-{n}"), "camera": camera_name(n), "actions": ["reject", "divert"], "distance": "900mm",
            "speed": format!("{}m/s", belt.speed * SCALE / 1e3), "scale": format!("{SCALE}mm/px"),
        })
    };
    let config = json!({
        "line": { "deadline": format!("{}ms", DEADLINE.as_millis()) },
        "camera": belts.iter().enumerate().map(camera).collect::<Vec<_>>(),
        "eject": {
            "gate": belts.iter().enumerate().map(gate).collect::<Vec<_>>(),
            "output": [{ "kind": "log", "tolerance": "8ms", "on_late": "alarm" }],
        },
    });
    MeasuredService::with_config(&plan.model, ON_CPU, &toml::to_string(&config)?)
}

/// What one service did between two moments.
struct Observation {
    from: OffsetDateTime,
    to: OffsetDateTime,
    /// At `from`, at `to`, and when the last items of the span were recorded.
    counters: [ServiceCounters; 3],
    resident_mb: Vec<f64>,
    /// Of all cameras since the service started.
    verdicts: Vec<Verdict>,
}

impl Observation {
    async fn of(service: &MeasuredService, began: OffsetDateTime, span: Duration) -> Result<Self> {
        service.ready().await?;
        tokio::time::sleep(SETTLE).await;
        let (from, before) = (OffsetDateTime::now_utc(), ServiceCounters::of(service).await?);
        let mut resident_mb = Vec::new();
        for _ in 0..60 {
            tokio::time::sleep(span / 60).await;
            resident_mb.push(resident(service.pid())? as f64 / 1e6);
        }
        let (to, after) = (OffsetDateTime::now_utc(), ServiceCounters::of(service).await?);
        tokio::time::sleep(SETTLE).await; // the last ones are still being recorded, and their commands on their way
        let verdicts = service.verdicts_since(began).await?;
        let counters = [before, after, ServiceCounters::of(service).await?];
        Ok(Self { from, to, counters, resident_mb, verdicts })
    }
}

async fn run_once(plan: &BeltBenchPlan, cameras: usize, items_per_minute: f64, span: Duration) -> Result<BeltRun> {
    let belts: Vec<BeltConfig> = (0..cameras).map(|n| belt(plan, n, items_per_minute)).collect();
    let shown: Vec<NetworkCamera> =
        belts.iter().filter(|_| plan.mjpeg).map(|belt| NetworkCamera::start(belt.clone())).collect::<Result<_>>()?;
    let began = OffsetDateTime::now_utc();
    let service = start_service(plan, &belts, &shown)?;
    let observed = Observation::of(&service, began, span).await?;
    drop(service);

    let [before, after, end] = &observed.counters;
    let seconds = (observed.to - observed.from).as_seconds_f64();
    let since = |of: fn(&ServiceCounters) -> f64| of(after) - of(before);
    let processor = since(|counters| counters.ticks);
    let mut run = BeltRun {
        cameras,
        mjpeg: plan.mjpeg,
        items_per_minute,
        frames_per_second: since(|counters| counters.sum("beltsight_frames_total", "")) / seconds / cameras as f64,
        frames_dropped: since(|counters| counters.sum("beltsight_frames_dropped_total", "")) as u64,
        seconds,
        items: 0,
        missed: 0,
        doubled: 0,
        misplaced: 0,
        faults: 0,
        overruns: 0,
        latency_ms: LatencyMs::default(),
        not_recorded: end.sum("beltsight_record_dropped_total", "") as u64,
        commands: end.commands(),
        resident_mb: observed.resident_mb.clone(),
        cores_busy: processor / TICKS / seconds,
        drawing_share: (!plan.mjpeg).then(|| since(|counters| counters.drawing) / processor.max(1.0)),
    };
    let mut latencies = Vec::new();
    for (n, belt) in belts.into_iter().enumerate() {
        latencies.extend(run.count_items(&observed, n, belt, shown.get(n).map(|camera| camera.began))?);
    }
    latencies.sort();
    let at = |q| ms(quantile(&latencies, q));
    run.latency_ms = LatencyMs { p50: at(0.5), p99: at(0.99), p99_9: at(0.999), most: at(1.0) };
    println!("{}", serde_json::to_string(&run)?);
    Ok(run)
}
