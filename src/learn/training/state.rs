//! Every tensor that moves while a student is trained, and the checkpoint that holds it.
//!
//! Invariant: a checkpoint holds all of the state and names the run that it belongs to; another run refuses it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use tch::{Tensor, no_grad};

use crate::{
    network::{
        model::{Model, from_host, to_host},
        weights::{self, Weights},
    },
    training::{
        TrainError,
        optim::{Ema, FlatParams, Sgd},
        plan::{RunContext, TrainingData, TrainingPlan},
    },
};

/// A network in training: its weights, their momentum and their moving average.
pub struct TrainingState {
    /// The network with its newest weights.
    pub model: Model,
    /// Steps done so far.
    pub steps_done: usize,
    weights: FlatParams,
    buffers: FlatParams,
    sgd: Sgd,
    ema: Ema,
}

/// Where a run saves its state, and what must agree before it reads it back.
pub struct Checkpoint {
    path: PathBuf,
    identity: String,
}

impl Checkpoint {
    /// The checkpoint of `run`: it must agree in the plan, the network and the pictures that are trained on.
    pub fn of(run: &RunContext, plan: &TrainingPlan, data: &TrainingData, start: &Model) -> Self {
        let (labeled, unlabeled) = (data.pools.labeled, data.pools.unlabeled);
        Self {
            path: run.out.join("checkpoints").join(format!("{}.safetensors", run.name.replace(' ', "-"))),
            identity: serde_json::json!([plan, start.net.name, start.net.input, labeled, unlabeled]).to_string(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl TrainingState {
    /// Readies `model` for training from block `plan.cut` on.
    pub fn new(mut model: Model, plan: &TrainingPlan) -> Self {
        let (trained, buffers) = moving_names(&model, plan.cut);
        // Copies: the trunk may be shared with other runs.
        let (mut weights, buffers) =
            (FlatParams::copy(&model.params, &trained), FlatParams::copy(&model.params, &buffers));
        weights.parts = weights.parts.into_iter().map(|(name, part)| (name, part.set_requires_grad(true))).collect();
        for (name, part) in weights.parts.iter().chain(&buffers.parts) {
            model.params.insert(name.clone(), part.shallow_clone());
        }
        let sgd = Sgd::new(&weights, plan.weight_decay);
        let ema = Ema::new(&weights, &buffers, plan.ema);
        Self { model, steps_done: 0, weights, buffers, sgd, ema }
    }

    /// ∇ of the scalar `loss` with respect to every trained weight.
    pub fn gradient(&self, loss: &Tensor) -> Tensor {
        self.weights.gradient(loss)
    }

    /// One step down the gradient, which the moving average follows.
    pub fn descend(&mut self, gradient: &Tensor, lr: f64) {
        self.sgd.step(&mut self.weights, gradient, lr);
        self.ema.update(&self.weights, &self.buffers, self.steps_done);
        self.steps_done += 1;
    }

    /// The network with its averaged weights.
    pub fn averaged(&self) -> Model {
        let mut model = self.model.shallow_clone();
        model.params.extend(self.ema.moving().map(|(name, value)| (name.clone(), value.shallow_clone())));
        model
    }

    /// Writes the checkpoint.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        fs::create_dir_all(checkpoint.path.parent().unwrap_or(Path::new(".")))?;
        let mut tensors = Weights::new();
        for (name, average) in self.ema.moving() {
            tensors.insert(format!("weight:{name}"), to_host(&self.model.params[name]));
            tensors.insert(format!("average:{name}"), to_host(average));
        }
        for (name, momentum) in &self.sgd.momentum.parts {
            tensors.insert(format!("momentum:{name}"), to_host(momentum));
        }
        let metadata = [("step".into(), self.steps_done.to_string()), ("run".into(), checkpoint.identity.clone())];
        Ok(weights::write(&checkpoint.path, &tensors, HashMap::from(metadata))?)
    }

    /// Goes back to where the checkpoint was written; without one it stays at the start.
    ///
    /// # Errors
    /// [`TrainError::OtherRun`] when the checkpoint belongs to another run; the system's.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainError> {
        if !checkpoint.path.is_file() {
            return Ok(());
        }
        let (tensors, metadata) = weights::read(&checkpoint.path)?;
        let other_run = || TrainError::OtherRun(checkpoint.path.clone());
        if metadata.get("run") != Some(&checkpoint.identity) {
            return Err(other_run());
        }
        let restore = |prefix: &str, name: &str, into: &Tensor| {
            let value = from_host(tensors.get(&format!("{prefix}:{name}")).ok_or_else(other_run)?);
            no_grad(|| into.shallow_clone().copy_(&value));
            Ok::<(), TrainError>(())
        };
        for (name, average) in self.ema.moving() {
            restore("weight", name, &self.model.params[name])?;
            restore("average", name, average)?;
        }
        for (name, momentum) in &self.sgd.momentum.parts {
            restore("momentum", name, momentum)?;
        }
        self.steps_done = metadata.get("step").and_then(|step| step.parse().ok()).ok_or_else(other_run)?;
        Ok(())
    }
}

/// Names of the weights that are trained and, after them, of the BatchNorm buffers that move along.
fn moving_names(model: &Model, cut: usize) -> (Vec<String>, Vec<String>) {
    let live: Vec<String> =
        model.net.blocks[cut..].iter().flat_map(|block| block.names()).map(|name| format!("{name}.")).collect();
    let names = model.params.keys().filter(|n| n.starts_with("head.") || live.iter().any(|l| n.starts_with(l)));
    names.cloned().partition(|name| !name.contains(".bn.running_"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::network;

    use super::*;

    #[test]
    fn a_frozen_block_does_not_move_and_its_statistics_neither() {
        let net = network::by_name("small", Some(32)).unwrap();
        let model = Model::random(&net, 2, 8);
        let (trained, buffers) = moving_names(&model, net.blocks.len() - 1);
        assert_eq!(trained, ["head.bias", "head.weight", "top.bn.bias", "top.bn.weight", "top.weight"]);
        assert_eq!(buffers, ["top.bn.running_mean", "top.bn.running_var"]);
    }
}
