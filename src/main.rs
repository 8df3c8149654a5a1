//! The command line: parse, load the configuration, call the right function; nothing else.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use beltsight::{
    bench::{self, stills},
    cli::{camera, doctor, labels},
    config::Config,
    export,
    picture::dataset,
    rounds::{self, learner},
    service, store,
    student::{engine, evaluate, manifest, reference, registry::Registry},
    tokens::{self, Role},
};
use clap::{Parser, Subcommand};

/// Pictures come and go between many threads: glibc keeps an arena for each and fragments it by tens of megabytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Run the inspection service.
    Serve {
        /// Configuration file; every key stands in deploy/beltsight.toml.
        #[arg(long, default_value = "deploy/beltsight.toml")]
        config: PathBuf,
    },
    /// Say what this machine has and lacks.
    Doctor {
        /// Configuration file, for the folders of models and data.
        #[arg(long, default_value = "deploy/beltsight.toml")]
        config: PathBuf,
    },
    /// List, verify or show model folders; say which serves.
    Models {
        #[command(subcommand)]
        command: ModelsCmd,
        /// Folder with a folder per version.
        #[arg(long, default_value = "models", global = true)]
        root: PathBuf,
    },
    /// Who may use the service over HTTP.
    Tokens {
        #[command(subcommand)]
        command: TokensCmd,
        /// Configuration file, for where the tokens are.
        #[arg(long, default_value = "deploy/beltsight.toml", global = true)]
        config: PathBuf,
    },
    /// Run, or go on with, the round in a folder (the service starts it this way).
    Round {
        /// The round's folder, `<store>/rounds/<number>`.
        folder: PathBuf,
    },
    /// Measure a model on labeled pictures.
    Evaluate {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Folder with photos.csv or index.csv, or with a folder per class.
        #[arg(long)]
        data: PathBuf,
        /// `float32` or `int8`; absent: what the manifest says serves.
        #[arg(long)]
        precision: Option<String>,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// The simulated belt.
    Belt {
        #[command(subcommand)]
        command: BeltCmd,
    },
    /// Look through a camera.
    Camera {
        #[command(subcommand)]
        command: CameraCmd,
    },
    /// Train a student (runs beltsight-learn; see `beltsight train --help`).
    #[command(disable_help_flag = true)]
    Train(HandedOn),
    /// Teach a small student what a teacher knows (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Distill(HandedOn),
    /// Compare learning methods over numbers of labels (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Compare(HandedOn),
    /// Repeat a published experiment (runs beltsight-learn).
    #[command(disable_help_flag = true)]
    Reproduce(HandedOn),
    /// The record: verify it, export a lot.
    Record {
        #[command(subcommand)]
        command: RecordCmd,
    },
    /// Labels in and out: a data set to learn from, Label Studio's JSON, CSV.
    Labels {
        #[command(subcommand)]
        command: labels::Command,
        /// Configuration file, for the store and the classes.
        #[arg(long, default_value = "deploy/beltsight.toml", global = true)]
        config: PathBuf,
    },
    /// Measure speed; the README's figures come from here.
    Bench {
        #[command(subcommand)]
        command: BenchCmd,
    },
}

#[derive(Subcommand)]
enum ModelsCmd {
    /// One line per version.
    List,
    /// Check hashes and open every file in ONNX Runtime.
    Verify {
        /// Version; absent: all.
        version: Option<String>,
    },
    /// Print a manifest.
    Show {
        /// Version.
        version: String,
    },
    /// Measure anew what a version was trained on, so that the service can tell what is new to it.
    Reference {
        /// Version.
        version: String,
        /// The pictures it was trained on: a data set's folder.
        #[arg(long)]
        data: PathBuf,
    },
    /// Print every change of the serving student.
    History,
    /// Make a version serve; a running service takes it over at once.
    Promote {
        /// Version.
        version: String,
        #[command(flatten)]
        order: Order,
    },
    /// Make the student serve again that served before; a running service takes it over at once.
    Rollback {
        #[command(flatten)]
        order: Order,
    },
}

/// Who changes what serves, from where on.
#[derive(clap::Args)]
struct Order {
    /// Configuration file, for the version that serves when none was ever promoted.
    #[arg(long, default_value = "deploy/beltsight.toml")]
    config: PathBuf,
    /// Name of the person.
    #[arg(long)]
    by: String,
    /// Why, for the record.
    #[arg(long, default_value = "")]
    why: String,
}

#[derive(Subcommand)]
enum TokensCmd {
    /// Make a token and print it: the only time that it can be seen.
    Add {
        /// Who holds it: letters, digits, dots, dashes, underscores.
        #[arg(long)]
        name: String,
        /// `viewer`, `labeler`, `operator` or `admin`.
        #[arg(long)]
        role: Role,
        /// Days until it expires; absent: never.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// One line per token.
    List,
    /// Forget a token; the running service refuses it within two seconds.
    Revoke {
        /// Its name.
        name: String,
    },
}

#[derive(Subcommand)]
enum BeltCmd {
    /// Draw a labeled data set, cut as serving cuts items.
    Draw {
        /// Output folder.
        #[arg(long)]
        out: PathBuf,
        /// Number of items.
        #[arg(long, default_value_t = 1000)]
        items: usize,
        /// Seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

#[derive(Subcommand)]
enum CameraCmd {
    /// Open a camera as the service would and report what arrives.
    Probe {
        /// Configuration file.
        #[arg(long, default_value = "deploy/beltsight.toml")]
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
}

#[derive(Subcommand)]
enum RecordCmd {
    /// Check every entry, verdict and signature of a record; also beside a running service.
    Verify {
        /// The store's folder.
        #[arg(long, default_value = "data")]
        store: PathBuf,
        /// The public key, kept elsewhere; absent: the store's own record.pub.
        #[arg(long)]
        public_key: Option<PathBuf>,
        /// An entry that it must still hold, `ENTRY:HASH`, from an exported lot or the log.
        #[arg(long)]
        kept: Option<store::Kept>,
        /// Compare every kept picture with the hash in its name too.
        #[arg(long)]
        pictures: bool,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Print a lot: every entry as CSV, or a page to print; also beside a running service.
    Export {
        /// The store's folder.
        #[arg(long, default_value = "data")]
        store: PathBuf,
        /// Name of the lot, the newest of that name, or its number.
        #[arg(long)]
        lot: String,
        /// Its form.
        #[arg(long)]
        format: Form,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Form {
    Csv,
    Html,
}

#[derive(Subcommand)]
enum BenchCmd {
    /// `/classify` against a plain loop and against a Python service.
    Classify {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Folder of JPEGs.
        #[arg(long)]
        data: PathBuf,
        /// cpu, cuda, cuda:<number> or tensorrt.
        #[arg(long, default_value = "cpu")]
        device: engine::Device,
        /// Seconds a measurement.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Rounds.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Python interpreter with fastapi, uvicorn, onnxruntime and pillow (`deploy/bench/setup` makes one).
        #[arg(long)]
        python: Option<PathBuf>,
    },
    /// int8 against float32, a GPU against the CPU: time, agreement.
    Precision {
        /// Model folder with both files.
        #[arg(long)]
        model: PathBuf,
        /// Labeled pictures.
        #[arg(long)]
        data: PathBuf,
        /// cpu, cuda, cuda:<number> or tensorrt.
        #[arg(long, default_value = "cpu")]
        device: engine::Device,
    },
    /// The simulated belt at full speed: every item exactly one verdict, in time; memory, processor, commands.
    Belt {
        /// Model folder.
        #[arg(long, default_value = "models/belt-small")]
        model: PathBuf,
        /// Seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// Items a minute.
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
    },
    /// More requests than can be served, beside a running belt.
    Overload {
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
    },
    /// Many swaps of the serving student, beside a running belt and requests.
    Swaps {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Folder of JPEGs.
        #[arg(long)]
        data: PathBuf,
        /// Number of swaps.
        #[arg(long, default_value_t = 500)]
        swaps: usize,
    },
    /// The closed loop on real photos: a few labels at the start, a stream, an expert, rounds.
    Photos {
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
        /// Labels a class at the start.
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
    },
    /// The whole story on the simulated belt: the scene changes, a round learns it beside the line.
    Story {
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
    },
    /// Many requests; memory must stay flat.
    Soak {
        /// Model folder.
        #[arg(long)]
        model: PathBuf,
        /// Folder of JPEGs.
        #[arg(long)]
        data: PathBuf,
        /// Number of requests.
        #[arg(long, default_value_t = 100_000)]
        requests: usize,
    },
    /// The record: verdicts written and verified a second.
    Record {
        /// Number of verdicts.
        #[arg(long, default_value_t = 400_000)]
        verdicts: usize,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("beltsight: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Cmd) -> Result<ExitCode> {
    match command {
        Cmd::Serve { config } => service::serve(Config::read(&config)?)?,
        Cmd::Doctor { config } => return examine(&Config::read(&config)?),
        Cmd::Models { command, root } => return models(command, &root),
        Cmd::Tokens { command, config } => access(command, &Config::read(&config)?.tokens())?,
        Cmd::Round { folder } => {
            let number = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
            let number = number.with_context(|| format!("{} is no round's folder", folder.display()))?;
            let done = rounds::run::run(&rounds::Folder { path: std::path::absolute(folder)?, number });
            if let Err(e) = &done
                && e.is::<rounds::run::Killed>()
            {
                eprintln!("beltsight: {e:#}");
                return Ok(ExitCode::from(rounds::AGAIN));
            }
            done?;
        }
        Cmd::Evaluate { model, data, precision, json } => {
            let card = evaluate::evaluate(&model, precision.as_deref(), &data)?;
            if json { println!("{}", serde_json::to_string_pretty(&card)?) } else { print!("{card}") }
        }
        Cmd::Belt { command: BeltCmd::Draw { out, items, seed } } => stills::write(&out, seed, items)?,
        Cmd::Camera { command: CameraCmd::Probe { config, camera, seconds, save } } => {
            camera::run(&Config::read(&config)?, &camera, Duration::from_secs(seconds), save.as_deref())?;
        }
        Cmd::Train(arguments) => return Err(learn("train", &arguments)),
        Cmd::Distill(arguments) => return Err(learn("distill", &arguments)),
        Cmd::Compare(arguments) => return Err(learn("compare", &arguments)),
        Cmd::Reproduce(arguments) => return Err(learn("reproduce", &arguments)),
        Cmd::Record { command } => return tokio::runtime::Runtime::new()?.block_on(record(command)),
        Cmd::Labels { command, config } => {
            tokio::runtime::Runtime::new()?.block_on(labels::run(command, &Config::read(&config)?))?;
        }
        Cmd::Bench { command } => tokio::runtime::Runtime::new()?.block_on(measure(command))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn examine(config: &Config) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for check in doctor::checks(&config.model.root, &config.store.folder) {
        match check.found {
            Ok(found) => println!("ok       {:<18} {found}", check.what),
            Err(mend) if check.needed => {
                println!("MISSING  {:<18} {mend}", check.what);
                code = ExitCode::FAILURE;
            }
            Err(mend) => println!("absent   {:<18} {mend}", check.what),
        }
    }
    Ok(code)
}

fn access(command: TokensCmd, path: &Path) -> Result<()> {
    let now = time::OffsetDateTime::now_utc();
    match command {
        TokensCmd::Add { name, role, days } => {
            let expires = days.map(|days| now + time::Duration::days(days.into()));
            println!("{}", tokens::add(path, &name, role, expires)?);
            eprintln!("{name} is {role} now. The token above can't be shown again; {} holds its hash.", path.display());
        }
        TokensCmd::List => {
            let day = |t: time::OffsetDateTime| t.date().to_string();
            for entry in tokens::list(path)? {
                let expires = entry.expires.map_or("never expires".into(), |t| {
                    format!("{} {}", if t <= now { "EXPIRED" } else { "expires" }, day(t))
                });
                println!("{:<24} {:<9} made {}  {expires}", entry.name, entry.role, day(entry.created));
            }
        }
        TokensCmd::Revoke { name } => {
            let left = tokens::revoke(path, &name)?;
            eprintln!("{name} is revoked.");
            if left == 0 {
                eprintln!(
                    "No token is left: after a restart the service serves everybody on this machine, and nobody beyond."
                );
            }
        }
    }
    Ok(())
}

fn models(command: ModelsCmd, root: &Path) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    match command {
        ModelsCmd::Show { version } => {
            let manifest = manifest::Manifest::read(&root.join(version))?;
            println!("{}", toml::to_string_pretty(&manifest)?);
        }
        ModelsCmd::Reference { version, data } => {
            let folder = root.join(version);
            let pictures = dataset::read(&data)?.load(manifest::Manifest::read(&folder)?.input.side)?;
            let reference = reference::write(&folder, &pictures)?;
            println!("{} centres, edge {:.4}", reference.centres.len(), reference.edge);
        }
        ModelsCmd::History => {
            for e in (Registry { root: root.into(), first: String::new() }).history()? {
                println!("{}  {:<8} {:<24} by {}: {}", e.at, e.change.name(), e.version, e.by, e.why);
            }
        }
        ModelsCmd::Promote { version, order } => {
            let registry = Registry { root: root.into(), first: Config::read(&order.config)?.model.version };
            registry.promote(&version, &order.by, &order.why)?;
            println!("{version} serves from now on");
        }
        ModelsCmd::Rollback { order } => {
            let registry = Registry { root: root.into(), first: Config::read(&order.config)?.model.version };
            println!("{} serves again", registry.rollback(&order.by, &order.why)?);
        }
        ModelsCmd::List => {
            for folder in manifest::list(root).with_context(|| root.display().to_string())? {
                let m = manifest::Manifest::read(&folder)?;
                let accuracy = m.scorecard.map_or("-".into(), |s| format!("{:.4}", s.accuracy));
                println!(
                    "{:<24} {:<8} {:>4} px  {} classes  accuracy {accuracy}  {}",
                    m.version,
                    m.serve,
                    m.input.side,
                    m.classes.len(),
                    m.created
                );
            }
        }
        ModelsCmd::Verify { version } => {
            let folders = match version {
                Some(version) => vec![root.join(version)],
                None => manifest::list(root).with_context(|| root.display().to_string())?,
            };
            for folder in folders {
                let precisions: Vec<String> = match manifest::Manifest::read(&folder) {
                    Ok(m) => m.files.into_keys().collect(),
                    Err(e) => {
                        println!("REFUSED  {e}");
                        code = ExitCode::FAILURE;
                        continue;
                    }
                };
                for precision in precisions {
                    match beltsight::line::swap::open(&folder, Some(&precision), engine::Device::Cpu, 1, 1) {
                        Ok(student) => println!("ok       {} {precision}", student.card.label),
                        Err(e) => {
                            println!("REFUSED  {e}");
                            code = ExitCode::FAILURE;
                        }
                    }
                }
            }
        }
    }
    Ok(code)
}

/// Arguments of a command of `beltsight-learn`.
#[derive(clap::Args)]
struct HandedOn {
    /// Handed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Replaces this process by `beltsight-learn`. Returns only when that fails.
fn learn(what: &str, HandedOn { arguments }: &HandedOn) -> anyhow::Error {
    match learner::command() {
        Ok(mut command) => {
            let failed = command.arg(what).args(arguments).exec();
            anyhow::Error::new(failed).context(command.get_program().to_string_lossy().into_owned())
        }
        Err(e) => e.into(),
    }
}

async fn record(command: RecordCmd) -> Result<ExitCode> {
    let (folder, lot, format) = match command {
        RecordCmd::Verify { store, public_key, kept, pictures, json } => {
            let mut found = store::verify(&store, public_key.as_deref(), kept.as_ref()).await?;
            if pictures {
                let (all, changed) = store::verify_pictures(&store)?;
                eprintln!("{all} pictures, {} changed", changed.len());
                found.findings.extend(changed);
            }
            if json {
                println!("{}", serde_json::to_string_pretty(&found)?)
            } else {
                print!("{found}")
            }
            return Ok(if found.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        RecordCmd::Export { store, lot, format } => (store, lot, format),
    };
    let store = store::Store::open_to_read(&folder).await?;
    let named = match store.lot_named(&lot).await? {
        Some(found) => Some(found),
        None => store.lot(lot.parse().unwrap_or(0)).await?,
    };
    let lot = named.with_context(|| format!("there is no lot `{lot}` in {}", folder.display()))?;
    let mut out = std::io::stdout().lock();
    match format {
        Form::Csv => {
            let mut csv = export::LotCsv::new(store, lot).await?;
            while let Some(piece) = csv.next().await? {
                out.write_all(&piece)?;
            }
        }
        Form::Html => {
            let items = export::taken_off(&store, lot.lot).await?;
            let report = export::LotReport::read(&store, lot).await?;
            let verified = store::verify_lot(&folder, &report.lot).await?; // last, so that it covers what was read
            out.write_all(export::page(&report, &items, &verified).as_bytes())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(command: BenchCmd) -> Result<()> {
    match command {
        BenchCmd::Classify { model, data, device, seconds, rounds, python } => {
            let pictures = bench::jpegs(&data)?;
            let span = Duration::from_secs(seconds);
            bench::classify::run(bench::classify::Plan { model, device, pictures, span, rounds, python }).await?;
        }
        BenchCmd::Precision { model, data, device } => {
            let manifest = manifest::Manifest::read(&model)?;
            let pictures = dataset::read(&data)?.load(manifest.input.side)?;
            if pictures.is_empty() {
                bail!("no pictures in {}", data.display());
            }
            println!("machine: {}", bench::machine());
            for pair in bench::precision::precision(&model, &pictures, device)? {
                print!("{pair}");
            }
        }
        BenchCmd::Belt { model, seconds, items_per_minute, seed, mjpeg, until_it_breaks, out } => {
            let span = Duration::from_secs(seconds);
            let plan = bench::belt::Plan { model, span, items_per_minute, seed, mjpeg, until_it_breaks };
            let report = serde_json::to_string_pretty(&bench::belt::run(&plan).await?)?;
            println!("{report}");
            if let Some(out) = out {
                std::fs::write(&out, report + "\n").with_context(|| out.display().to_string())?;
            }
        }
        BenchCmd::Overload { model, data, factor, seconds } => {
            bench::load::overload(&model, bench::jpegs(&data)?, factor, Duration::from_secs(seconds)).await?;
        }
        BenchCmd::Swaps { model, data, swaps } => {
            bench::load::swaps(&model, bench::jpegs(&data)?, swaps).await?;
        }
        BenchCmd::Photos { data, out, first, train, distill, accept, start, batch, rounds, random, seed } => {
            let plan = bench::photos::Plan {
                data,
                out: out.clone(),
                first: words(&first),
                train: words(&train),
                distill: words(&distill),
                accept,
                start,
                batch,
                rounds,
                useful: !random,
                seed,
            };
            let report = bench::photos::run(plan).await?;
            std::fs::write(out.join("photos.json"), serde_json::to_string_pretty(&report)?)?;
        }
        BenchCmd::Story { out, train, distill, random, seed, phase } => {
            let plan = bench::story::Plan {
                out: out.clone(),
                train: words(&train),
                distill: words(&distill),
                useful: !random,
                seed,
                phase: Duration::from_secs(phase),
            };
            let story = bench::story::tell(plan).await?;
            std::fs::write(out.join("story.json"), serde_json::to_string_pretty(&story)?)?;
        }
        BenchCmd::Soak { model, data, requests } => {
            bench::load::soak(&model, bench::jpegs(&data)?, requests).await?;
        }
        BenchCmd::Record { verdicts } => {
            println!("{}", serde_json::to_string_pretty(&bench::record::run(verdicts).await?)?);
        }
    }
    Ok(())
}

/// The words of an argument that holds several.
fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}
