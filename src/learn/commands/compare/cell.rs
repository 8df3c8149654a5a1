//! One cell of a comparison: a student by one method from one number of labels and one seed, measured.

use std::time::Instant;

use super::{CompareCommand, SpelledMethod, distillation::DistillationStage};
use crate::{
    commands::setup::TrainingSetup,
    pictures::views::ViewSource,
    training::{
        comparison::{ComparisonCell, DistilledScore, LabelBudget},
        fit::FitContext,
        log::{self, Metric},
        plan::{PicturePools, TrainingPlan},
        robustness::RobustnessBenchmark,
    },
};

/// What all cells share.
pub struct CellRunner<'a> {
    /// The command.
    pub command: &'a CompareCommand,
    /// Pictures and the network that every student starts from.
    pub setup: &'a TrainingSetup,
    /// Inputs of the trained part.
    pub views: ViewSource<'a>,
    /// Class per picture.
    pub labels: Vec<Option<usize>>,
    /// The held-out pictures.
    pub validation: &'a [usize],
    /// What every student is measured on.
    pub benchmark: RobustnessBenchmark,
    /// With `--distill`: where the small students learn.
    pub distillation: Option<DistillationStage>,
}

impl CellRunner<'_> {
    /// Trains and measures one student.
    ///
    /// # Errors
    /// The trainer's; ONNX Runtime's; the log's.
    pub fn run(
        &self,
        method: &SpelledMethod,
        budget: LabelBudget,
        seed: u64,
        pools: &PicturePools,
    ) -> anyhow::Result<ComparisonCell> {
        let (command, options) = (self.command, &self.command.options);
        let began = Instant::now();
        let name = format!("{} {budget} {seed}", method.text.replace(' ', "_"));
        let context = FitContext {
            views: &self.views,
            labels: &self.labels,
            classes: self.setup.data.classes.len(),
            start: &self.setup.start,
            plan: TrainingPlan { seed, ..options.plan(self.setup, &method.plan, pools.labeled.len()) },
            label_smoothing: options.label_smoothing,
            teacher: None,
            known: &self.setup.known,
            out: &options.out,
            resume: options.resume,
        };
        let student = method.plan.fit(&context, &name, pools)?;
        let seconds = began.elapsed().as_secs_f64();
        let score = self.benchmark.score(&student, &context.logits(&student, self.validation))?;
        let distilled = match &self.distillation {
            Some(stage) if seed <= command.distill => {
                let all_pictures: Vec<usize> = (0..self.setup.data.pictures.len()).collect();
                let teacher = context.bulk_logits(&student, &all_pictures)?;
                Some(stage.distil(command, (&name, seed), &teacher, pools, self.validation)?)
            }
            _ => None,
        };
        let lines = self.pseudo_label_lines(&name)?;
        let cell = ComparisonCell {
            method: method.text.clone(),
            labels: budget,
            seed,
            score,
            seconds,
            coverage: lines.iter().filter_map(|line| line.coverage).collect(),
            precision: lines.iter().map(|line| line.precision).collect(),
            distilled,
        };
        print_line(&cell);
        Ok(cell)
    }

    /// The log's lines of the run `name`, and of the runs inside it, that say something of pseudo-labels.
    fn pseudo_label_lines(&self, name: &str) -> anyhow::Result<Vec<Metric>> {
        let mut lines = log::read(&self.command.options.out)?;
        lines.retain(|line| {
            let of_run = line.run.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '));
            of_run && line.coverage.is_some()
        });
        Ok(lines)
    }
}

fn print_line(cell: &ComparisonCell) {
    let ComparisonCell { method, labels, seed, score, seconds, distilled, .. } = cell;
    let small_student = |distilled: &DistilledScore| format!("; distilled {:.4}", distilled.score.accuracy);
    println!(
        "{labels:>4} labels, seed {seed}, {method:<28} accuracy {:.4}, corrupted error {:.4}, {seconds:.0} s{}",
        score.accuracy,
        score.mean_corruption_error(),
        distilled.as_ref().map_or(String::new(), small_student)
    );
}
