//! What all trainings of one command share, and one training with it.

use std::path::Path;

use anyhow::ensure;
use beltsight::files::heartbeat;
use tch::{Tensor, no_grad};

use crate::{
    methods::{Method, supervised::Supervised},
    network::model::Model,
    pictures::views::{FrozenTrunk, View, ViewSource},
    training::{
        TrainError, interrupt,
        plan::{PicturePools, RunContext, TrainingData, TrainingPlan},
        trainer,
    },
};

/// What all students of one command share.
pub struct FitContext<'a> {
    /// Inputs of the trained part.
    pub views: &'a ViewSource<'a>,
    /// Class per picture, where it is known.
    pub labels: &'a [Option<usize>],
    /// Number of classes.
    pub classes: usize,
    /// The network that every student starts from.
    pub start: &'a Model,
    /// Settings of the trainer.
    pub plan: TrainingPlan,
    /// ε of supervised training.
    pub label_smoothing: f64,
    /// A teacher's logits `[pictures, classes]`, for distillation.
    pub teacher: Option<&'a Tensor>,
    /// Classes that the head of `start` knows already; none where it begins at zero.
    pub known: &'a [usize],
    /// The run's folder.
    pub out: &'a Path,
    /// Go on from checkpoints.
    pub resume: bool,
}

impl FitContext<'_> {
    /// Trains `start` with a method's loss; `name` is that of the run. Cached embeddings are standardised first, and the
    /// scale folded into the head afterwards.
    ///
    /// # Errors
    /// The trainer's.
    pub fn train(
        &self,
        name: &str,
        start: &Model,
        plan: &TrainingPlan,
        method: &dyn Method,
        pools: &PicturePools,
    ) -> Result<Model, TrainError> {
        let trained_on = [pools.labeled, pools.unlabeled].concat();
        let standardised = self.views.standardised(&trained_on, method.view_request().labeled);
        let views = standardised.as_ref().map_or(self.views, |(views, _)| views);
        let data = TrainingData { views, labels: self.labels, pools: *pools };
        let stop = |_: usize| interrupt::requested();
        let run = RunContext { name, out: self.out, resume: self.resume, stop: &stop };
        let mut model = start.shallow_clone();
        if let Some((_, scaling)) = &standardised {
            scaling.take_out_of(&mut model);
        }
        let mut model = trainer::train(model, plan, &data, method, &run)?;
        if let Some((_, scaling)) = &standardised {
            scaling.fold_into(&mut model);
        }
        Ok(model)
    }

    /// The supervised loss.
    pub fn supervised(&self) -> Supervised {
        Supervised { smoothing: self.label_smoothing, view: View::Weak }
    }

    /// What distillation learns from: the teacher's logits `[pictures, classes]`, or what `start` itself says, and the
    /// classes that count there.
    ///
    /// # Errors
    /// When there is neither; ONNX Runtime's.
    pub fn lesson(&self) -> anyhow::Result<(Tensor, Vec<usize>)> {
        if let Some(teacher) = self.teacher {
            return Ok((teacher.shallow_clone(), (0..self.classes).collect()));
        }
        ensure!(!self.known.is_empty(), "there is no teacher to distil: give --from, or use `distill --teacher`");
        let all: Vec<usize> = (0..self.labels.len()).collect();
        Ok((self.bulk_logits(self.start, &all)?, self.known.to_vec()))
    }

    /// Logits of plain pictures.
    pub fn logits(&self, model: &Model, pictures: &[usize]) -> Vec<Vec<f32>> {
        trainer::logits(model, self.plan.cut, self.views, pictures)
    }

    /// Logits `[pictures, classes]` of many plain pictures: through ONNX Runtime wherever a whole trunk has to be run.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn bulk_logits(&self, model: &Model, pictures: &[usize]) -> anyhow::Result<Tensor> {
        if let ViewSource::Fresh(augmenter) = self.views {
            let mut trunk = FrozenTrunk::open(model, model.net.blocks.len())?;
            let mut logits = Vec::new();
            for chunk in pictures.chunks(512) {
                heartbeat::beat();
                if let Some(embedding) = trunk.run(&augmenter.pictures.some(chunk)?, |_| true)? {
                    logits.push(no_grad(|| model.head(&embedding, None)));
                }
            }
            return Ok(Tensor::cat(&logits, 0));
        }
        let logits = self.logits(model, pictures);
        Ok(Tensor::from_slice(&logits.concat()).view([pictures.len() as i64, -1]))
    }
}
