//! `compare`: learning methods over numbers of labels, over seeds, on one fixed validation share.
//!
//! Invariant: nothing of the validation share is trained on, labeled or not; results are written after every cell, so
//! that a stopped comparison goes on where it was.

mod cell;
mod distillation;

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, ensure};
use beltsight::{domain::time::rfc3339_now, files};
use clap::{Args, Parser};
use serde::Serialize;

use self::{cell::CellRunner, distillation::DistillationStage};
use crate::{
    commands::setup::{TrainingOptions, TrainingSetup},
    methods::distillation::DistillationSettings,
    network::device,
    pages::comparison as page,
    pictures::{data, views::View},
    training::{
        TrainError,
        comparison::{Comparison, ComparisonCell, LabelBudget},
        interrupt,
        method_plan::MethodPlan,
        plan::PicturePools,
        robustness::RobustnessBenchmark,
    },
};

/// Options of `compare`.
#[derive(Args, Clone, Debug, Serialize)]
pub struct CompareCommand {
    /// Numbers of labels per class; `all` uses every label of the training share.
    #[arg(long, value_delimiter = ',', default_value = "4,10,40")]
    labels: Vec<LabelBudget>,
    /// Methods, each with options of its own if wanted, as in "supervised,fixmatch --threshold 0.9".
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "supervised,pseudo-label,thresholded-pseudo-label,noisy-student,fixmatch"
    )]
    methods: Vec<String>,
    /// Seeds 1 to this one; a seed chooses the labeled pictures, the order and dropout. Views and initial weights are the
    /// same for all of them.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Distil every student of the first seeds, this many, into --student.
    #[arg(long, default_value_t = 0)]
    distill: u64,
    /// The network that would serve.
    #[arg(long, default_value = "small")]
    student: String,
    /// Side of its input in pixels.
    #[arg(long, default_value_t = 64)]
    student_input: usize,
    /// Steps of distillation.
    #[arg(long, default_value_t = 600)]
    student_steps: usize,
    #[command(flatten)]
    softness: DistillationSettings,
    #[command(flatten)]
    options: TrainingOptions,
}

/// A method with the words that asked for it.
struct SpelledMethod {
    text: String,
    plan: MethodPlan,
}

/// A method spelled as on the command line.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct MethodArgs {
    #[command(subcommand)]
    plan: MethodPlan,
}

impl CompareCommand {
    /// What a cell depends on besides method, number of labels, seed and data.
    fn setting(&self) -> serde_json::Value {
        let mut setting = serde_json::json!(self);
        for key in ["labels", "methods", "seeds", "distill"] {
            setting.as_object_mut().map(|all| all.remove(key));
        }
        for key in ["data", "out", "threads", "device"] {
            setting["options"].as_object_mut().map(|all| all.remove(key));
        }
        setting
    }

    fn spelled_methods(&self) -> anyhow::Result<Vec<SpelledMethod>> {
        let parse = |text: &String| {
            let args = MethodArgs::try_parse_from(text.split_whitespace());
            let plan = args.with_context(|| format!("--methods, `{text}`"))?.plan;
            Ok(SpelledMethod { text: text.clone(), plan })
        };
        self.methods.iter().map(parse).collect()
    }

    /// Numbers of labels and seeds in the order in which they are worked through.
    fn budgets_and_seeds(&self) -> impl Iterator<Item = (LabelBudget, u64)> + '_ {
        self.labels.iter().flat_map(|&budget| (1..=self.seeds).map(move |seed| (budget, seed)))
    }

    /// Whether `cells` lack this one, or lack its distilled student where there should be one.
    fn lacks(&self, cells: &[ComparisonCell], method: &str, budget: LabelBudget, seed: u64) -> bool {
        let complete = |cell: &ComparisonCell| cell.distilled.is_some() || seed > self.distill;
        !cells.iter().any(|cell| cell.method == method && cell.labels == budget && cell.seed == seed && complete(cell))
    }

    fn is_complete(&self, comparison: &Comparison) -> bool {
        self.budgets_and_seeds().all(|(budget, seed)| {
            self.methods.iter().all(|method| !self.lacks(&comparison.cells, method, budget, seed))
        })
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong, for the user; [`TrainError::Stopped`] inside when the user asked to stop.
pub fn run(command: &CompareCommand) -> anyhow::Result<()> {
    let options = &command.options;
    let methods = command.spelled_methods()?;
    let began = Instant::now();
    let mut setup = options.open()?;
    ensure!(options.unlabeled.is_none(), "compare takes its unlabeled pictures from --data, whose truth it can check");
    let file = options.out.join("results.json");
    let fold_of = data::folds(&setup.data.labels, &setup.data.groups, 5, options.seed).map_err(anyhow::Error::msg)?;
    let (training, validation) = data::split(&fold_of, 0);
    let mut comparison = Comparison {
        date: String::new(),
        machine: device::machine(setup.start.device()),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        data_sha256: setup.data.sha256.clone(),
        pictures: (training.len(), validation.len()),
        classes: setup.data.classes.clone(),
        network: format!("{} at {}, {:?} trained", setup.start.net.name, setup.start.net.input, setup.trainable),
        methods: methods.iter().map(|method| method.plan.clone()).collect(),
        setting: command.setting(),
        preparing_seconds: 0.0,
        cells: Vec::new(),
    };
    if options.resume && file.is_file() {
        let earlier = read_earlier(&file, &comparison)?;
        if command.is_complete(&earlier) {
            return finish(&earlier, options, began); // only the page is new: what was recorded keeps its machine and date
        }
        (comparison.date, comparison.cells) = (earlier.date, earlier.cells);
    }
    options.adapt(&mut setup, &training)?;
    let runner = prepare(command, &setup, &methods, (&training, &validation))?;
    comparison.preparing_seconds = began.elapsed().as_secs_f64();

    for (budget, seed) in command.budgets_and_seeds() {
        let labeled = match budget {
            LabelBudget::All => training.clone(),
            LabelBudget::Each(n) => {
                data::few(&setup.data.labels, &setup.data.groups, &training, n, seed).map_err(anyhow::Error::msg)?.0
            }
        };
        let pools = PicturePools { labeled: &labeled, unlabeled: &training, validation: &[] };
        for method in &methods {
            if !command.lacks(&comparison.cells, &method.text, budget, seed) {
                continue;
            }
            let cell = runner.run(method, budget, seed, &pools)?;
            // One without its distilled student may be there already.
            comparison.cells.retain(|c| (&c.method, c.labels, c.seed) != (&method.text, budget, seed));
            comparison.cells.push(cell);
            comparison.date = rfc3339_now();
            files::write(&file, serde_json::to_string_pretty(&comparison)?.as_bytes())?;
            if interrupt::requested() {
                return Err(TrainError::Stopped(file).into());
            }
        }
    }
    finish(&comparison, options, began)
}

/// The results in `file`, if they can go on as `comparison`.
fn read_earlier(file: &Path, comparison: &Comparison) -> anyhow::Result<Comparison> {
    let earlier: Comparison = serde_json::from_slice(&fs::read(file)?)?;
    let file = file.display();
    ensure!(earlier.data_sha256 == comparison.data_sha256, "{file} is of other data");
    // Older results lack their settings.
    let same_setting = earlier.setting.is_null() || earlier.setting == comparison.setting;
    ensure!(
        same_setting && earlier.network == comparison.network,
        "{file} was made with other settings: use another --out"
    );
    Ok(earlier)
}

/// Views, benchmark and the small students' stage, made once for all cells.
fn prepare<'a>(
    command: &'a CompareCommand,
    setup: &'a TrainingSetup,
    methods: &[SpelledMethod],
    (training, validation): (&[usize], &'a [usize]),
) -> anyhow::Result<CellRunner<'a>> {
    let options = &command.options;
    let cut = options.plan(setup, &methods[0].plan, training.len()).cut;
    let mut kinds: Vec<View> = methods.iter().flat_map(|method| method.plan.views()).copied().collect();
    kinds.sort_unstable();
    kinds.dedup();
    let views = options.views(setup, cut, &kinds)?;
    let benchmark =
        RobustnessBenchmark::new(&setup.data, validation, (&setup.start, cut), &options.accept, &options.out)?;
    let distillation = (command.distill > 0).then(|| DistillationStage::open(command, validation)).transpose()?;
    Ok(CellRunner { command, setup, views, labels: setup.data.known(), validation, benchmark, distillation })
}

/// Writes the page and prints the table.
fn finish(comparison: &Comparison, options: &TrainingOptions, began: Instant) -> anyhow::Result<()> {
    let html = page::render(comparison)?;
    files::write(&options.out.join("comparison.html"), html.as_bytes())?;
    options.forget_features()?;
    println!("{}", page::table(comparison));
    println!("{} in {:.0} s", options.out.join("comparison.html").display(), began.elapsed().as_secs_f64());
    Ok(())
}
