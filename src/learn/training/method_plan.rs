//! The table of learning methods: the command line, `compare` and the settings of a training are made from it.

use anyhow::Context;
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::{
    methods::{
        Method,
        distillation::{Distillation, DistillationSettings},
        fixmatch::FixMatch,
        pseudo_label::{PseudoLabel, ThresholdedPseudoLabel},
    },
    network::model::Model,
    pictures::views::View,
    training::{
        fit::FitContext,
        generations::{self, Generations},
        optim::Schedule,
        plan::PicturePools,
    },
};

/// A learning method with its settings: how a student is made from labeled and unlabeled pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum MethodPlan {
    /// From labeled pictures alone.
    Supervised,
    /// Its own guesses as labels, with a slowly rising weight (Lee 2013).
    PseudoLabel(PseudoLabel),
    /// Its own guesses as labels where it is sure of them.
    ThresholdedPseudoLabel(ThresholdedPseudoLabel),
    /// Rounds of a teacher that labels and a larger, noised student (Xie et al. 2020).
    NoisyStudent(Generations),
    /// What a weak view makes it sure of is the label of a strong view (Sohn et al. 2020).
    #[command(name = "fixmatch")]
    FixMatch(FixMatch),
    /// Hinton et al. 2015, from the teacher of [`FitContext`]; `distill` is its own command, because it needs one.
    #[command(skip)]
    Distillation(DistillationSettings),
}

impl MethodPlan {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            MethodPlan::Supervised => "supervised",
            MethodPlan::PseudoLabel(_) => "pseudo-label",
            MethodPlan::ThresholdedPseudoLabel(_) => "thresholded-pseudo-label",
            MethodPlan::NoisyStudent(_) => "noisy-student",
            MethodPlan::FixMatch(_) => "fixmatch",
            MethodPlan::Distillation(_) => "distillation",
        }
    }

    /// The kinds of views that it trains on.
    pub fn views(&self) -> &'static [View] {
        match self {
            MethodPlan::NoisyStudent(_) => &[View::Noisy],
            MethodPlan::FixMatch(_) => &[View::Weak, View::Strong],
            _ => &[View::Weak],
        }
    }

    /// Whether it learns from unlabeled pictures too.
    pub fn uses_unlabeled(&self) -> bool {
        *self != MethodPlan::Supervised
    }

    /// How its learning rate falls.
    pub fn schedule(&self) -> Schedule {
        match self {
            MethodPlan::FixMatch(_) => Schedule::SevenSixteenths,
            _ => Schedule::HalfCosine,
        }
    }

    /// Dropout before the classifier; `of_network` is the network's own.
    pub fn dropout(&self, of_network: f64) -> f64 {
        match self {
            MethodPlan::PseudoLabel(_) => 0.5, // Lee 2013, §4.1
            _ => of_network,
        }
    }

    /// Makes the student `name`.
    ///
    /// # Errors
    /// The trainer's; see [`generations::noisy_student`].
    pub fn fit(&self, context: &FitContext, name: &str, pools: &PicturePools) -> anyhow::Result<Model> {
        let train = |method: &dyn Method| Ok(context.train(name, context.start, &context.plan, method, pools)?);
        match self {
            MethodPlan::Supervised => train(&context.supervised(pools)),
            MethodPlan::PseudoLabel(method) => train(method),
            MethodPlan::ThresholdedPseudoLabel(method) => train(method),
            MethodPlan::FixMatch(method) => train(method),
            MethodPlan::NoisyStudent(settings) => generations::noisy_student(context, name, settings, pools),
            MethodPlan::Distillation(settings) => {
                let teacher = context.teacher.context("there is no teacher to distil")?.shallow_clone();
                train(&Distillation { teacher, settings: *settings })
            }
        }
    }
}
