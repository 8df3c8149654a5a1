//! The small student that would serve, distilled from a student of the comparison.

use std::time::Instant;

use tch::{Kind, Tensor};

use super::CompareCommand;
use crate::{
    commands::setup::{Trainable, TrainingOptions, TrainingSetup},
    network::model::rows,
    training::{
        comparison::DistilledScore,
        fit::FitContext,
        method_plan::MethodPlan,
        plan::{PicturePools, TrainingPlan},
        robustness::RobustnessBenchmark,
    },
};

/// Where small students learn from the others: the same pictures at their own input side.
pub struct DistillationStage {
    options: TrainingOptions,
    setup: TrainingSetup,
    benchmark: RobustnessBenchmark,
}

impl DistillationStage {
    /// Reads the pictures again and corrupts the validation share, at the small student's input side.
    ///
    /// # Errors
    /// When data can't be read; ONNX Runtime's; [`crate::training::TrainError::Stopped`].
    pub fn open(command: &CompareCommand, validation: &[usize]) -> anyhow::Result<Self> {
        let options = TrainingOptions {
            net: command.student.clone(),
            input: Some(command.student_input),
            weights: None,
            from: None,
            trainable: Some(Trainable::All),
            adapt: false,
            steps: Some(command.student_steps),
            epochs: None,
            lr: None,
            weight_decay: None,
            ..command.options.clone()
        };
        let setup = options.read()?;
        let benchmark =
            RobustnessBenchmark::new(&setup.data, validation, (&setup.start, 0), &options.accept, &options.out)?;
        Ok(Self { options, setup, benchmark })
    }

    /// Distils `teacher`, the logits `[pictures, classes]` of the student `name`, and measures the small student on
    /// `validation`.
    ///
    /// # Errors
    /// The trainer's; ONNX Runtime's.
    pub fn distil(
        &self,
        command: &CompareCommand,
        (name, seed): (&str, u64),
        teacher: &Tensor,
        pools: &PicturePools,
        validation: &[usize],
    ) -> anyhow::Result<DistilledScore> {
        let began = Instant::now();
        let method = MethodPlan::Distillation(command.softness);
        let plan = TrainingPlan { seed, ..self.options.plan(&self.setup, &method, pools.labeled.len()) };
        let views = self.options.views(&self.setup, 0, &[])?;
        let labels = self.setup.data.known();
        let context = FitContext {
            views: &views,
            labels: &labels,
            classes: self.setup.data.classes.len(),
            start: &self.setup.start,
            plan,
            label_smoothing: 0.0,
            teacher: Some(teacher),
            known: &[],
            out: &command.options.out,
            resume: command.options.resume,
        };
        let student = method.fit(&context, &format!("distilled {name}"), pools)?;
        let seconds = began.elapsed().as_secs_f64();
        let logits = rows(&context.bulk_logits(&student, validation)?.to_kind(Kind::Float));
        Ok(DistilledScore { score: self.benchmark.score(&student, &logits)?, seconds })
    }
}
