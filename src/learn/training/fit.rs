//! One student from a recipe: which method, with which settings, on which pools of pictures.

use std::path::Path;

use anyhow::Context;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::{
    methods::{
        Method,
        distillation::{Distillation, Softness},
        fixmatch::FixMatch,
        pseudo_label::{PseudoLabel, ThresholdedPseudoLabel},
        supervised::Supervised,
    },
    network::model::Model,
    pictures::views::{View, Views},
    training::{
        generations::{self, Rounds},
        interrupt,
        trainer::{self, Desk, Material, Plan, TrainError},
    },
};

/// A way to make a student from labeled and unlabeled pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Subcommand)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Labeled pictures alone.
    Supervised,
    /// Lee 2013.
    PseudoLabel(PseudoLabel),
    /// The thresholded variant.
    ThresholdedPseudoLabel(ThresholdedPseudoLabel),
    /// Xie et al. 2020.
    NoisyStudent(Rounds),
    /// Sohn et al. 2020.
    #[command(name = "fixmatch")]
    FixMatch(FixMatch),
    /// Hinton et al. 2015, from the teacher of [`Ground`].
    Distillation(Softness),
}

impl Recipe {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Recipe::Supervised => "supervised",
            Recipe::PseudoLabel(_) => "pseudo-label",
            Recipe::ThresholdedPseudoLabel(_) => "thresholded-pseudo-label",
            Recipe::NoisyStudent(_) => "noisy-student",
            Recipe::FixMatch(_) => "fixmatch",
            Recipe::Distillation(_) => "distillation",
        }
    }

    /// The kinds of views that it shows.
    pub fn views(&self) -> &'static [View] {
        match self {
            Recipe::NoisyStudent(_) => &[View::Noisy],
            Recipe::FixMatch(_) => &[View::Weak, View::Strong],
            _ => &[View::Weak],
        }
    }
}

/// Indices of the pictures that take part.
#[derive(Clone, Copy, Debug)]
pub struct Pools<'a> {
    /// Trained on with their labels.
    pub labeled: &'a [usize],
    /// Trained on without.
    pub unlabeled: &'a [usize],
    /// Checked while training.
    pub validation: &'a [usize],
}

/// What all students of one command share.
pub struct Ground<'a> {
    /// Inputs of the trained part.
    pub views: &'a Views<'a>,
    /// Class per picture, where it is known.
    pub labels: &'a [Option<usize>],
    /// Number of classes.
    pub classes: usize,
    /// The network that every student starts from.
    pub start: &'a Model,
    /// Settings of the trainer.
    pub plan: Plan,
    /// ε of supervised training.
    pub label_smoothing: f64,
    /// A teacher's logits `[pictures, classes]`, for distillation.
    pub teacher: Option<&'a Tensor>,
    /// The run's folder.
    pub out: &'a Path,
    /// Go on from checkpoints.
    pub resume: bool,
}

impl Ground<'_> {
    /// Makes the student `name` by `recipe`.
    ///
    /// # Errors
    /// The trainer's; see [`generations::noisy_student`].
    pub fn fit(&self, name: &str, recipe: &Recipe, pools: &Pools) -> anyhow::Result<Model> {
        match recipe {
            Recipe::Supervised => {
                let taught: Vec<usize> = pools.labeled.iter().filter_map(|&i| self.labels[i]).collect();
                let method = Supervised::balanced(self.label_smoothing, &taught, self.classes);
                Ok(self.train(name, self.start, &self.plan, &method, pools)?)
            }
            Recipe::PseudoLabel(method) => Ok(self.train(name, self.start, &self.plan, method, pools)?),
            Recipe::ThresholdedPseudoLabel(method) => Ok(self.train(name, self.start, &self.plan, method, pools)?),
            Recipe::FixMatch(method) => Ok(self.train(name, self.start, &self.plan, method, pools)?),
            Recipe::NoisyStudent(settings) => generations::noisy_student(self, name, settings, pools),
            Recipe::Distillation(softness) => {
                let teacher = self.teacher.context("there is no teacher to distil")?.shallow_clone();
                Ok(self.train(name, self.start, &self.plan, &Distillation { teacher, softness: *softness }, pools)?)
            }
        }
    }

    /// Logits of plain pictures.
    pub fn logits(&self, model: &Model, pictures: &[usize]) -> Vec<Vec<f32>> {
        trainer::logits(model, self.plan.cut, self.views, pictures)
    }

    /// Trains from `start` with a method's loss. Cached embeddings are standardised first, and the scale folded into the
    /// head afterwards.
    ///
    /// # Errors
    /// The trainer's.
    pub fn train(
        &self,
        name: &str,
        start: &Model,
        plan: &Plan,
        method: &dyn Method,
        pools: &Pools,
    ) -> Result<Model, TrainError> {
        let everyone = [pools.labeled, pools.unlabeled].concat();
        let scaled = self.views.standardised(&everyone, method.wanted().labeled);
        let views = scaled.as_ref().map_or(self.views, |(views, _)| views);
        let Pools { labeled, unlabeled, validation } = *pools;
        let material = Material { views, labels: self.labels, labeled, unlabeled, validation };
        let stop = |_: usize| interrupt::requested();
        let desk = Desk { run: name, out: self.out, resume: self.resume, stop: &stop };
        let mut model = trainer::train(start.shallow_clone(), plan, &material, method, &desk)?;
        if let Some((_, scale)) = &scaled {
            scale.fold_into(&mut model);
        }
        Ok(model)
    }
}
