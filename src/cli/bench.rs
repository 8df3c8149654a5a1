//! `beltsight bench`: each measurement's arguments beside the plan made of them.

mod frames;
mod round;

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};

use self::round::RoundBenchArgs;
use crate::{
    bench::{self, belt, classify, forge, kills, load, photos, precision, profiles, record, recovery, story},
    picture::dataset,
    student::{engine::Device, manifest::Manifest},
};

/// Measure speed; the README's figures come from here.
#[derive(clap::Subcommand)]
pub enum BenchCommand {
    /// `/classify` against a plain loop and against a Python service.
    Classify(ClassifyBenchArgs),
    /// int8 against float32, a GPU against the CPU: time, agreement.
    Precision(PrecisionBenchArgs),
    /// The simulated belt at full speed: every item exactly one verdict, in time; memory, processor, commands.
    Belt(BeltBenchArgs),
    /// More requests than can be served, beside a running belt.
    Overload(OverloadBenchArgs),
    /// Many swaps of the serving student, beside a running belt and requests.
    Swaps(SwapsBenchArgs),
    /// The closed loop on real photos: a few labels at the start, a stream, an expert, rounds.
    Photos(PhotosBenchArgs),
    /// The whole story on the simulated belt: the scene changes, a round learns it beside the line.
    Story(StoryBenchArgs),
    /// One round by its settings on the simulated belt: the candidate beside the incumbent on fresh items.
    Round(RoundBenchArgs),
    /// Many requests; memory must stay flat.
    Soak(SoakBenchArgs),
    /// The record: verdicts written and verified per second; every page's queries as it grows.
    Record(RecordBenchArgs),
    /// The item search on belts that creep, stand, start, jog and stick: every item once, whole.
    Profiles(ProfilesBenchArgs),
    /// Random forgeries of a record: each is found, or changes no answer.
    Forge(ForgeBenchArgs),
    /// A dead box: archive beside a writer, restore in an empty folder, verify, serve.
    Recovery(RecoveryBenchArgs),
    /// Kills at random moments of work, archive, retention, restoring, migration: nothing acknowledged is lost.
    Kills(KillsBenchArgs),
    /// Rounds on very many frames: time and memory of each.
    Frames(frames::FramesBenchArgs),
}

/// Measures and prints what was found.
///
/// # Errors
/// When a service can't be started or asked, or a file can't be read or written.
pub fn run(command: BenchCommand) -> Result<ExitCode> {
    tokio::runtime::Runtime::new()?.block_on(async {
        match command {
            BenchCommand::Classify(args) => args.run().await,
            BenchCommand::Precision(args) => args.run(),
            BenchCommand::Belt(args) => args.run().await,
            BenchCommand::Overload(args) => args.run().await,
            BenchCommand::Swaps(args) => args.run().await,
            BenchCommand::Photos(args) => args.run().await,
            BenchCommand::Story(args) => args.run().await,
            BenchCommand::Round(args) => args.run().await,
            BenchCommand::Soak(args) => args.run().await,
            BenchCommand::Record(args) => args.run().await,
            BenchCommand::Profiles(args) => args.run(),
            BenchCommand::Forge(args) => args.run().await,
            BenchCommand::Recovery(args) => args.run().await,
            BenchCommand::Kills(args) => args.run().await,
            BenchCommand::Frames(args) => bench::frames::run(args.plan()).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `bench classify`.
#[derive(clap::Args)]
pub struct ClassifyBenchArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Folder of JPEGs.
    #[arg(long)]
    data: PathBuf,
    /// cpu, cuda, cuda:<number> or tensorrt.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Python interpreter with fastapi, uvicorn, onnxruntime and pillow (`deploy/bench/setup` makes one).
    #[arg(long)]
    python: Option<PathBuf>,
}

impl ClassifyBenchArgs {
    async fn run(self) -> Result<()> {
        let plan = classify::ClassifyBenchPlan {
            pictures: bench::jpegs(&self.data)?,
            model: self.model,
            device: self.device,
            span: Duration::from_secs(self.seconds),
            rounds: self.rounds,
            python: self.python,
        };
        classify::run(plan).await?;
        Ok(())
    }
}

/// Arguments of `bench precision`.
#[derive(clap::Args)]
pub struct PrecisionBenchArgs {
    /// Model folder with both files.
    #[arg(long)]
    model: PathBuf,
    /// Labeled pictures.
    #[arg(long)]
    data: PathBuf,
    /// cpu, cuda, cuda:<number> or tensorrt.
    #[arg(long, default_value = "cpu")]
    device: Device,
}

impl PrecisionBenchArgs {
    fn run(&self) -> Result<()> {
        let side = Manifest::read(&self.model)?.input.side;
        let pictures = dataset::read(&self.data)?.load(side)?;
        if pictures.is_empty() {
            bail!("no pictures in {}", self.data.display());
        }
        println!("machine: {}", bench::machine());
        for pair in precision::precision(&self.model, &pictures, self.device)? {
            print!("{pair}");
        }
        Ok(())
    }
}

/// Arguments of `bench belt`.
#[derive(clap::Args)]
pub struct BeltBenchArgs {
    /// Model folder.
    #[arg(long, default_value = "models/belt-small")]
    model: PathBuf,
    /// Seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Items per minute.
    #[arg(long, default_value_t = 800.0)]
    items_per_minute: f64,
    /// Seed of the belt.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Through a network camera (MJPEG) that this program is, instead of drawing within the service.
    #[arg(long)]
    mjpeg: bool,
    /// Then faster belts, then more cameras, each until an item is missed or late.
    #[arg(long)]
    until_it_breaks: bool,
    /// Write the report here as JSON; it is printed too.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl BeltBenchArgs {
    async fn run(self) -> Result<()> {
        let plan = belt::BeltBenchPlan {
            model: self.model,
            span: Duration::from_secs(self.seconds),
            items_per_minute: self.items_per_minute,
            seed: self.seed,
            mjpeg: self.mjpeg,
            until_it_breaks: self.until_it_breaks,
        };
        let report = serde_json::to_string_pretty(&belt::run(&plan).await?)?;
        println!("{report}");
        if let Some(out) = self.out {
            fs::write(&out, report + "\n").with_context(|| out.display().to_string())?;
        }
        Ok(())
    }
}

/// Arguments of `bench overload`.
#[derive(clap::Args)]
pub struct OverloadBenchArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Folder of JPEGs.
    #[arg(long)]
    data: PathBuf,
    /// Offered load over capacity.
    #[arg(long, default_value_t = 4.0)]
    factor: f64,
    /// Seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

impl OverloadBenchArgs {
    async fn run(self) -> Result<()> {
        let span = Duration::from_secs(self.seconds);
        load::overload(&self.model, bench::jpegs(&self.data)?, self.factor, span).await?;
        Ok(())
    }
}

/// Arguments of `bench swaps`.
#[derive(clap::Args)]
pub struct SwapsBenchArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Folder of JPEGs.
    #[arg(long)]
    data: PathBuf,
    /// Number of swaps.
    #[arg(long, default_value_t = 500)]
    swaps: usize,
}

impl SwapsBenchArgs {
    async fn run(self) -> Result<()> {
        load::swaps(&self.model, bench::jpegs(&self.data)?, self.swaps).await?;
        Ok(())
    }
}

/// Arguments of `bench photos`.
#[derive(clap::Args)]
pub struct PhotosBenchArgs {
    /// Data set.
    #[arg(long)]
    data: PathBuf,
    /// Folder for everything it makes; the report goes to `photos.json` there.
    #[arg(long)]
    out: PathBuf,
    /// What `beltsight train` is told for the first student, in one string.
    #[arg(long, default_value = "supervised")]
    first: String,
    /// What it is told in the rounds.
    #[arg(long, default_value = "fixmatch")]
    train: String,
    /// What `beltsight distill` is told in the rounds; without it, what was trained serves.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    distill: String,
    /// The class that may pass.
    #[arg(long)]
    accept: String,
    /// Labels per class at the start.
    #[arg(long, default_value_t = 4)]
    start: usize,
    /// Labels before each round.
    #[arg(long, default_value_t = 30)]
    batch: usize,
    /// Rounds.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Ask for labels by chance instead of by usefulness.
    #[arg(long)]
    random: bool,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl PhotosBenchArgs {
    async fn run(self) -> Result<()> {
        let out = self.out.join("photos.json");
        let plan = photos::PhotosPlan {
            data: self.data,
            out: self.out,
            first: words(&self.first),
            train: words(&self.train),
            distill: words(&self.distill),
            accept: self.accept,
            start: self.start,
            batch: self.batch,
            rounds: self.rounds,
            useful: !self.random,
            seed: self.seed,
        };
        let report = photos::run(plan).await?;
        Ok(fs::write(out, serde_json::to_string_pretty(&report)?)?)
    }
}

/// Arguments of `bench story`.
#[derive(clap::Args)]
pub struct StoryBenchArgs {
    /// Folder for everything it makes; the story itself goes to `story.json` there.
    #[arg(long)]
    out: PathBuf,
    /// What `beltsight train` is told in the rounds, in one string.
    #[arg(long, default_value = "fixmatch --input 128")]
    train: String,
    /// What `beltsight distill` is told in the rounds, in one string; empty: what was trained serves.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    distill: String,
    /// Ask for labels by chance instead of by usefulness.
    #[arg(long)]
    random: bool,
    /// Seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds that the belt is watched in each phase.
    #[arg(long, default_value_t = 90)]
    phase: u64,
}

impl StoryBenchArgs {
    async fn run(self) -> Result<()> {
        let out = self.out.join("story.json");
        let plan = story::StoryPlan {
            out: self.out,
            train: words(&self.train),
            distill: words(&self.distill),
            useful: !self.random,
            seed: self.seed,
            phase: Duration::from_secs(self.phase),
        };
        let story = story::tell(plan).await?;
        Ok(fs::write(out, serde_json::to_string_pretty(&story)?)?)
    }
}

/// Arguments of `bench soak`.
#[derive(clap::Args)]
pub struct SoakBenchArgs {
    /// Model folder.
    #[arg(long)]
    model: PathBuf,
    /// Folder of JPEGs.
    #[arg(long)]
    data: PathBuf,
    /// Number of requests.
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
}

impl SoakBenchArgs {
    async fn run(self) -> Result<()> {
        load::soak(&self.model, bench::jpegs(&self.data)?, self.requests).await
    }
}

/// Arguments of `bench record`.
#[derive(clap::Args)]
pub struct RecordBenchArgs {
    /// Number of verdicts.
    #[arg(long, default_value_t = 400_000)]
    verdicts: usize,
    /// Fill a store in this folder, which stays, and time every query on it instead.
    #[arg(long)]
    store: Option<PathBuf>,
    /// With --store: only queries whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// With --store: verify the record too.
    #[arg(long)]
    verify: bool,
    /// With --store: append each figure here, one line of JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl RecordBenchArgs {
    async fn run(self) -> Result<()> {
        let Some(store) = self.store else {
            println!("{}", serde_json::to_string_pretty(&record::run(self.verdicts).await?)?);
            return Ok(());
        };
        let Self { verdicts, only, verify, out, .. } = self;
        let verdicts = i64::try_from(verdicts)?;
        record::scale(&record::ScalePlan { store, verdicts, only, verify, out }).await
    }
}

/// Arguments of `bench profiles`.
#[derive(clap::Args)]
pub struct ProfilesBenchArgs {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Seeds from that one on.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Only profiles whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
    /// Finished cells, one line of JSON each; those that stand there are not run again.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl ProfilesBenchArgs {
    fn run(self) -> Result<()> {
        profiles::run(&profiles::ProfilesPlan { first: self.first, seeds: self.seeds, only: self.only, out: self.out })
    }
}

/// Arguments of `bench forge`.
#[derive(clap::Args)]
pub struct ForgeBenchArgs {
    /// Seed of the first hundred; each further hundred has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Forgeries.
    #[arg(long, default_value_t = 2000)]
    edits: usize,
    /// Finished cells, one line of JSON each; those that stand there are not run again.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl ForgeBenchArgs {
    async fn run(self) -> Result<()> {
        forge::run(&forge::ForgePlan { seed: self.seed, edits: self.edits, out: self.out }).await
    }
}

/// Arguments of `bench kills`.
#[derive(clap::Args)]
pub struct KillsBenchArgs {
    /// Seed of the moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kills of each kind.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Only kinds whose name contains this: work, archive, retention, restore, migration.
    #[arg(long, default_value = "")]
    only: String,
    /// Model folder.
    #[arg(long, default_value = "models/belt-small")]
    model: PathBuf,
    /// Finished cells, one line of JSON each; those that stand there are not run again.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl KillsBenchArgs {
    async fn run(self) -> Result<()> {
        let Self { seed, kills, only, model, out } = self;
        kills::run(&kills::KillsPlan { seed, kills, only, model, out }).await
    }
}

/// Arguments of `bench recovery`.
#[derive(clap::Args)]
pub struct RecoveryBenchArgs {
    /// Verdicts in the box; a tenth of them has a picture of 20 kB.
    #[arg(long, default_value_t = 1_000_000)]
    verdicts: usize,
    /// Seed of the pictures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Model folder.
    #[arg(long, default_value = "models/belt-small")]
    model: PathBuf,
    /// Where the box is made; it needs 8 GB for a million verdicts.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
}

impl RecoveryBenchArgs {
    async fn run(self) -> Result<()> {
        let Self { verdicts, seed, model, folder } = self;
        let report = recovery::run(recovery::RecoveryPlan { verdicts, seed, model, folder }).await?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}

/// The words of an argument that holds several.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}
