//! The simulated belt at full speed against a real service process: which item every verdict is about, how long it took,
//! when the commands left, what memory and processor it cost, and from which speed and number of cameras on it breaks.
//!
//! The belt is seeded, so this program computes which items passed. A verdict belongs to the item that lay where and when
//! the verdict says; the species tells whether that is so. Drawing the belt is the service's work too: a report says what
//! share of its processor time went there, which a camera would not cost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{
    classify::{ON_CPU, Service},
    eye::Eye,
    load::recorded_since,
    machine, quantile, resident,
};
use crate::{
    belt::{Belt, BeltConfig, Species},
    domain::{Action, Verdict, ms},
};

/// Pictures a second.
const FRAME_RATE: f64 = 60.0;
/// Width and height of the pictures: small, because they are drawn on the cores that judge them.
const PICTURE: (u32, u32) = (320, 180);
/// Millimetres a pixel: at 800 items a minute the belt runs at 1.25 m/s.
const SCALE: f64 = 0.578;
/// From capture to verdict.
const DEADLINE: Duration = Duration::from_millis(50);
/// Before the first item that counts.
const SETTLE: Duration = Duration::from_secs(2);
/// How long each speed and number of cameras is tried.
const STEP: Duration = Duration::from_secs(20);
/// By how much the next speed is faster.
const FASTER: f64 = 1.25;
/// Most cameras and items a minute tried.
const MOST: (usize, f64) = (16, 10_000.0);
/// Clock ticks a second, which Linux fixes for programs.
const TICKS: f64 = 100.0;
/// Bounds of `eject_send_late_seconds` that are reported.
const WITHIN: [&str; 6] = ["0.0005", "0.001", "0.002", "0.003", "0.005", "0.008"];

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Model folder.
    pub model: std::path::PathBuf,
    /// How long.
    pub span: Duration,
    /// Items a minute.
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
pub struct Report {
    /// Where and on which day.
    pub machine: String,
    /// Processes that wanted a core when it began, averaged over a minute; ours not among them.
    pub load_before: f64,
    /// Seed of the belt.
    pub seed: u64,
    /// The run asked for.
    pub run: Run,
    /// Faster and faster belts of one camera; the last one broke.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faster: Vec<Run>,
    /// More and more cameras, each over a belt of its own; the last one broke.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cameras: Vec<Run>,
}

/// One run of a service.
#[derive(Debug, Serialize)]
pub struct Run {
    /// Cameras.
    pub cameras: usize,
    /// Whether they were network cameras that send MJPEG.
    pub mjpeg: bool,
    /// Items a minute on each belt.
    pub items_per_minute: f64,
    /// Pictures a second that each camera drew; the belt asks for 60.
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
    pub latency_ms: Latency,
    /// Verdicts, frames and events that were not recorded.
    pub not_recorded: u64,
    /// The commands that moved the gates.
    pub commands: Commands,
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
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub most: f64,
}

/// Commands since the service started.
#[derive(Debug, Default, Serialize)]
pub struct Commands {
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
pub async fn run(plan: &Plan) -> Result<Report> {
    let load = fs::read_to_string("/proc/loadavg")?;
    let load_before = load.split(' ').next().context("no load")?.parse()?;
    let mut report = Report {
        machine: machine(),
        load_before,
        seed: plan.seed,
        run: one(plan, 1, plan.items_per_minute, plan.span).await?,
        faster: Vec::new(),
        cameras: Vec::new(),
    };
    if plan.until_it_breaks {
        let mut rate = plan.items_per_minute;
        while rate < MOST.1 && report.faster.last().is_none_or(Run::whole) {
            rate *= FASTER;
            report.faster.push(one(plan, 1, rate, STEP).await?);
        }
        let mut cameras = 1;
        while cameras < MOST.0 && report.cameras.last().is_none_or(Run::whole) {
            cameras += 1;
            report.cameras.push(one(plan, cameras, plan.items_per_minute, STEP).await?);
        }
    }
    Ok(report)
}

impl Run {
    /// Whether every item got its one verdict in time.
    pub fn whole(&self) -> bool {
        let wrong = self.missed + self.doubled + self.misplaced + self.faults + self.overruns;
        wrong == 0 && self.not_recorded == 0
    }
}

/// The belt under camera `n`.
fn belt(plan: &Plan, camera: usize, items_per_minute: f64) -> BeltConfig {
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

fn name(camera: usize) -> String {
    format!("belt-{camera}")
}

fn start(plan: &Plan, belts: &[BeltConfig], eyes: &[Eye]) -> Result<Service> {
    let camera = |(n, belt): (usize, &BeltConfig)| match eyes.get(n) {
        Some(eye) => json!({ "name": name(n), "source": "mjpeg", "url": format!("http://{}/belt", eye.address) }),
        None => json!({ "name": name(n), "source": "simulated", "belt": belt }),
    };
    let gate = |(n, belt): (usize, &BeltConfig)| {
        json!({
            "name": format!("out-{n}"), "camera": name(n), "actions": ["reject", "divert"], "distance": "900mm",
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
    Service::with_config(&plan.model, ON_CPU, &toml::to_string(&config)?)
}

async fn one(plan: &Plan, cameras: usize, items_per_minute: f64, span: Duration) -> Result<Run> {
    let belts: Vec<BeltConfig> = (0..cameras).map(|n| belt(plan, n, items_per_minute)).collect();
    let eyes: Vec<Eye> =
        belts.iter().filter(|_| plan.mjpeg).map(|belt| Eye::start(belt.clone())).collect::<Result<_>>()?;
    let began = OffsetDateTime::now_utc();
    let service = start(plan, &belts, &eyes)?;
    service.ready().await?;
    tokio::time::sleep(SETTLE).await;
    let (from, before) = (OffsetDateTime::now_utc(), Counts::of(&service).await?);
    let mut resident_mb = Vec::new();
    for _ in 0..60 {
        tokio::time::sleep(span / 60).await;
        resident_mb.push(resident(service.pid())? as f64 / 1e6);
    }
    let (to, after) = (OffsetDateTime::now_utc(), Counts::of(&service).await?);
    tokio::time::sleep(SETTLE).await; // the last ones are still being recorded, and their commands on their way
    let verdicts = recorded_since(began, &service).await?;
    let end = Counts::of(&service).await?;
    drop(service);

    let seconds = (to - from).as_seconds_f64();
    let since = |of: fn(&Counts) -> f64| of(&after) - of(&before);
    let processor = since(|counts| counts.ticks);
    let mut run = Run {
        cameras,
        mjpeg: plan.mjpeg,
        items_per_minute,
        frames_per_second: since(|counts| counts.sum("beltsight_frames_total", "")) / seconds / cameras as f64,
        frames_dropped: since(|counts| counts.sum("beltsight_frames_dropped_total", "")) as u64,
        seconds,
        items: 0,
        missed: 0,
        doubled: 0,
        misplaced: 0,
        faults: 0,
        overruns: 0,
        latency_ms: Latency::default(),
        not_recorded: end.sum("beltsight_record_dropped_total", "") as u64,
        commands: end.commands(),
        resident_mb,
        cores_busy: processor / TICKS / seconds,
        drawing_share: (!plan.mjpeg).then(|| since(|counts| counts.drawing) / processor.max(1.0)),
    };
    let mut times = Vec::new();
    for (n, belt) in belts.into_iter().enumerate() {
        let mut own: Vec<&Verdict> = verdicts.iter().filter(|v| v.camera == name(n)).collect();
        own.sort_by_key(|v| v.time);
        let told = Told::of(&own, belt, eyes.get(n).map(|eye| eye.began))?;
        let passed = told.passed(seconds_of(from), seconds_of(to));
        run.items += passed.len();
        let counts = passed.iter().map(|item| told.verdicts.get(item).map_or(0, Vec::len));
        run.missed += counts.clone().filter(|n| *n == 0).count();
        run.doubled += counts.filter(|n| *n > 1).count();
        run.misplaced += told.misplaced;
        let about = passed.iter().filter_map(|item| told.verdicts.get(item)).flatten();
        for verdict in about {
            let took = Duration::try_from_secs_f64(verdict.timings.total_ms / 1e3)?;
            run.faults += usize::from(verdict.fault.is_some());
            run.overruns += usize::from(took > DEADLINE);
            times.push(took);
        }
    }
    times.sort();
    let at = |q| ms(quantile(&times, q));
    run.latency_ms = Latency { p50: at(0.5), p99: at(0.99), p99_9: at(0.999), most: at(1.0) };
    println!("{}", serde_json::to_string(&run)?);
    Ok(run)
}

fn seconds_of(time: OffsetDateTime) -> f64 {
    (time - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// Where on the belt of picture 0, taken at `start`, the item of `verdict` lies.
fn at(verdict: &Verdict, start: f64, speed: f64) -> f64 {
    let centre = verdict.region.map_or(0.0, |region| f64::from(region.centre().0));
    (seconds_of(verdict.time) - start) * speed - centre
}

/// Which item each verdict is about.
struct Told<'a> {
    config: BeltConfig,
    /// Where each item lies on the belt.
    positions: Vec<f64>,
    /// When picture 0 was taken.
    start: f64,
    verdicts: BTreeMap<usize, Vec<&'a Verdict>>,
    misplaced: usize,
}

impl<'a> Told<'a> {
    /// `verdicts` of one camera since the service started, the oldest first; `began`: when picture 0 was taken, where
    /// that is known.
    fn of(verdicts: &[&'a Verdict], config: BeltConfig, began: Option<f64>) -> Result<Self> {
        let (Some(first), Some(last)) = (verdicts.first(), verdicts.last()) else { bail!("no verdicts") };
        let belt = Belt::new(config.clone())?;
        let seconds = seconds_of(last.time) - began.unwrap_or(seconds_of(first.time));
        let places = 0..(seconds * config.items_per_minute / 60.0) as u64 + 100;
        let items: Vec<(f64, Species)> = places.filter_map(|i| Some((belt.position(i)?, belt.species(i)?))).collect();
        if let Some(began) = began {
            return Ok(Self::with(verdicts, &config, &items, began));
        }
        // Which item the first verdict is about is told by the species that follow.
        let some = &verdicts[..verdicts.len().min(200)];
        let start = |item: usize| (at(first, 0.0, config.speed) - items[item].0) / config.speed;
        let best = (0..40).map(start).min_by_key(|start| Self::with(some, &config, &items, *start).misplaced);
        Ok(Self::with(verdicts, &config, &items, best.context("no place fits")?))
    }

    fn with(verdicts: &[&'a Verdict], config: &BeltConfig, items: &[(f64, Species)], start: f64) -> Self {
        let quarter = config.speed * 60.0 / config.items_per_minute / 4.0;
        let mut told = Self {
            positions: items.iter().map(|(position, _)| *position).collect(),
            start,
            config: config.clone(),
            verdicts: BTreeMap::new(),
            misplaced: 0,
        };
        for &verdict in verdicts {
            let position = at(verdict, told.start, config.speed);
            let next = told.positions.partition_point(|p| *p < position).min(items.len() - 1);
            let item = match next.checked_sub(1) {
                Some(before) if position - told.positions[before] < told.positions[next] - position => before,
                _ => next,
            };
            let off = position - told.positions[item];
            // The wall clock may run a little faster or slower than the one that moves the belt.
            told.start += 0.05 * off / config.speed;
            let right = verdict.truth.as_ref().map_or(off.abs() < quarter, |truth| truth == items[item].1.name());
            told.misplaced += usize::from(!right);
            told.verdicts.entry(item).or_default().push(verdict);
        }
        told
    }

    /// The items that came into the picture and left it between `from` and `to`.
    fn passed(&self, from: f64, to: f64) -> BTreeSet<usize> {
        let (speed, width) = (self.config.speed, f64::from(self.config.width));
        let half = 0.225 * width; // of the longest item
        let whole = |position: f64| {
            let comes = self.start + (position - half) / speed;
            comes >= from && comes + (width + 2.0 * half) / speed <= to
        };
        (0..self.positions.len()).filter(|item| whole(self.positions[*item])).collect()
    }
}

/// What the service counts, at one moment.
struct Counts {
    metrics: String,
    /// Processor time in clock ticks: all threads, and those that draw.
    ticks: f64,
    drawing: f64,
}

impl Counts {
    async fn of(service: &Service) -> Result<Self> {
        let metrics = reqwest::get(service.at("/metrics")).await?.text().await?;
        let process = format!("/proc/{}", service.pid());
        let mut drawing = 0.0;
        for task in fs::read_dir(format!("{process}/task"))? {
            let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue }; // it has just ended
            // The only thing that a simulated camera's thread does.
            drawing += if stat.contains(" (camera-") { ticks(&stat)? } else { 0.0 };
        }
        Ok(Self { metrics, ticks: ticks(&fs::read_to_string(format!("{process}/stat"))?)?, drawing })
    }

    /// The lines of a metric whose labels contain `with`: labels and value.
    fn lines<'a>(&'a self, metric: &'a str, with: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        let lines = self.metrics.lines().filter_map(move |line| line.strip_prefix(metric)?.strip_prefix('{'));
        lines
            .filter_map(|line| line.rsplit_once("} "))
            .filter(move |(labels, _)| labels.contains(with))
            .filter_map(|(labels, value)| Some((labels, value.parse().ok()?)))
    }

    fn sum(&self, metric: &str, with: &str) -> f64 {
        self.lines(metric, with).map(|(_, value)| value).sum()
    }

    fn commands(&self) -> Commands {
        let verdicts = |action: Action| {
            let action = format!("action=\"{}\"", action.name());
            self.lines("beltsight_verdicts_total", &action)
                .filter(|(labels, _)| labels.contains("source=\"belt\""))
                .map(|(_, value)| value as u64)
                .sum::<u64>()
        };
        let outcome = |labels: &str| labels.split('"').nth(1).unwrap_or_default().to_owned();
        let ended = self.lines("beltsight_eject_commands_total", "output=\"log\"");
        let within = |bound: &&str| {
            let label = format!("le=\"{bound}\"");
            let milliseconds = bound.parse::<f64>().unwrap_or_default() * 1e3;
            (milliseconds.to_string(), self.sum("beltsight_eject_send_late_seconds_bucket", &label) as u64)
        };
        Commands {
            ordered: verdicts(Action::Reject) + verdicts(Action::Divert),
            ended: ended.filter(|(_, n)| *n > 0.0).map(|(labels, n)| (outcome(labels), n as u64)).collect(),
            left_within_ms: WITHIN.iter().map(within).collect(),
        }
    }
}

/// User and system time of a process or thread (`/proc/…/stat`), in clock ticks.
fn ticks(stat: &str) -> Result<f64> {
    let (_, rest) = stat.rsplit_once(") ").context("no stat")?; // the name may hold anything
    let fields: Vec<&str> = rest.split(' ').collect();
    let time = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    time(11).zip(time(12)).map(|(user, system)| user + system).context("no times in stat")
}
