//! `distill`: any teacher → the small student that serves (Hinton et al. 2015, arXiv:1503.02531).

use std::path::PathBuf;

use clap::Args;

use crate::{
    commands::{
        setup::TrainingOptions,
        train::{self, Splits},
    },
    methods::distillation::DistillationSettings,
    training::{method_plan::MethodPlan, teacher::Teacher},
};

/// Options of `distill`.
#[derive(Args)]
pub struct DistillCommand {
    /// A model folder, a run's folder, or an ONNX file that gives one logit per class (in alphabetical order of the
    /// classes).
    #[arg(long)]
    teacher: PathBuf,
    /// Mean per colour that an ONNX file with float input wants, of values scaled to 0–1.
    #[arg(long, value_delimiter = ',', default_values_t = [0.485f32, 0.456, 0.406])]
    teacher_mean: Vec<f32>,
    /// Deviation per colour that an ONNX file with float input wants.
    #[arg(long, value_delimiter = ',', default_values_t = [0.229f32, 0.224, 0.225])]
    teacher_std: Vec<f32>,
    #[command(flatten)]
    settings: DistillationSettings,
    #[command(flatten)]
    options: TrainingOptions,
    #[command(flatten)]
    splits: Splits,
}

/// Runs the command.
///
/// # Errors
/// What is wrong, for the user.
pub fn run(command: &DistillCommand) -> anyhow::Result<()> {
    let mut teacher = Teacher::open(&command.teacher, &command.teacher_mean, &command.teacher_std)?;
    let method = MethodPlan::Distillation(command.settings);
    train::run(&command.options, &command.splits, &method, Some(&mut teacher))
}
