//! One learning method per file: the views that it asks for, and its loss. No optimizer, no files.
//!
//! Adding a method touches three files: its own here (settings, `impl Method`), the list below, and
//! `training/method_plan.rs` (a variant of `MethodPlan` and its rows), from which the command line and `compare` are made.
//!
//! Invariant: a method never sees the label of an unlabeled picture; the trainer compares its pseudo-labels with the
//! truth (where an experiment knows it), for the log only.

pub mod balance;
pub mod distillation;
pub mod fixmatch;
pub mod noisy_student;
pub mod pseudo_label;
pub mod supervised;

use std::time::Duration;

use tch::{Kind, Tensor};

use self::balance::Balance;
use crate::pictures::views::View;

/// The views that a method asks for at every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewRequest {
    /// How labeled pictures are shown.
    pub labeled: View,
    /// How unlabeled pictures are shown: each of them once per entry, all in the same batch as the labeled ones.
    pub unlabeled: &'static [View],
    /// μ: unlabeled pictures per labeled one.
    pub ratio: usize,
    /// Whether it needs [`StepOutputs::eval_logits`].
    pub eval_logits: bool,
}

/// The network's outputs of one step, in training mode, from a single pass over the whole batch.
#[derive(Debug)]
pub struct StepOutputs<'a> {
    /// Steps done before this one.
    pub step: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Labeled pictures, indices.
    pub labeled: &'a [usize],
    /// Their classes, int64 `[labeled]`.
    pub targets: Tensor,
    /// How frequent the classes are among all labels of the run.
    pub balance: &'a Balance,
    /// Their logits `[labeled, classes]`.
    pub labeled_logits: Tensor,
    /// Unlabeled pictures, indices.
    pub unlabeled: &'a [usize],
    /// Logits of the first unlabeled view in evaluation mode, as in service: without noise, without gradient.
    pub eval_logits: Option<Tensor>,
    /// Logits `[unlabeled, classes]`, one tensor per entry of [`ViewRequest::unlabeled`].
    pub unlabeled_logits: Vec<Tensor>,
}

/// What is minimised, and what it is made of.
#[derive(Debug)]
pub struct Loss {
    /// The scalar to differentiate.
    pub total: Tensor,
    /// Named scalars for the log.
    pub parts: Vec<(&'static str, Tensor)>,
    /// What the method took for the truth about the unlabeled pictures.
    pub pseudo_targets: Option<PseudoTargets>,
}

/// The pseudo-labels of one step.
#[derive(Debug)]
pub struct PseudoTargets {
    /// Class per unlabeled picture, int64 `[unlabeled]`.
    pub classes: Tensor,
    /// 1 where it was used, 0 where it was not trusted, float `[unlabeled]`; the share that is used where only those come
    /// that are.
    pub kept: Tensor,
}

/// A learning method.
pub trait Method {
    /// The views that it asks for; the same at every step.
    fn view_request(&self) -> ViewRequest;
    /// Its loss for one step.
    fn loss(&self, outputs: &StepOutputs) -> Loss;
    /// How long a teacher took, before the first step, to make the labels that it brings along; for the log.
    fn labeling(&self) -> Duration {
        Duration::ZERO
    }
}

impl StepOutputs<'_> {
    /// Mean cross-entropy of the labeled pictures, balanced: the labeled part of every method's loss.
    fn labeled_loss(&self) -> Tensor {
        mean(&self.balance.cross_entropy(&self.labeled_logits, &self.targets))
    }
}

/// Mean cross-entropy of logits `[n, classes]` with the step's own guesses, of which those count that are `kept`; balanced
/// over the guesses that count. The mean is over all pictures.
fn guess_loss(logits: &Tensor, guesses: &Tensor, kept: &Tensor) -> Tensor {
    let balance = Balance::of_guesses(guesses, kept, logits.size()[1]);
    mean(&(balance.cross_entropy(logits, guesses) * kept))
}

/// Cross-entropy per picture `[n]` of logits with target probabilities, both `[n, classes]`.
fn soft_cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    -(logits.log_softmax(1, Kind::Float) * targets).sum_dim_intlist(1i64, false, Kind::Float)
}

/// Rows of a table `[pictures, classes]` for some pictures, where `logits` are.
fn rows_of(table: &Tensor, pictures: &[usize], logits: &Tensor) -> Tensor {
    let rows = table.index_select(0, &Tensor::from_slice(&pictures.iter().map(|&i| i as i64).collect::<Vec<_>>()));
    rows.to_device(logits.device())
}

fn mean(values: &Tensor) -> Tensor {
    values.mean(Kind::Float)
}

/// Numbers from scalars and small tensors, for the tests of the methods.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A step of a run over two classes: logits of labeled pictures, their classes, logits of each unlabeled view.
    pub fn step_outputs<'a>(
        labeled: &[[f32; 2]],
        targets: &[i64],
        views: &[&[[f32; 2]]],
        pictures: &'a [usize],
    ) -> StepOutputs<'a> {
        let table = |rows: &[[f32; 2]]| Tensor::from_slice(rows.as_flattened()).view([-1, 2]);
        StepOutputs {
            step: 0,
            steps: 1,
            labeled: &pictures[..labeled.len()],
            targets: Tensor::from_slice(targets),
            balance: Box::leak(Box::new(Balance::of_labels(0..2, 2))), // a few bytes for a test
            labeled_logits: table(labeled),
            unlabeled: &pictures[labeled.len()..],
            eval_logits: None,
            unlabeled_logits: views.iter().map(|rows| table(rows)).collect(),
        }
    }

    /// A scalar's value.
    pub fn value(tensor: &Tensor) -> f64 {
        tensor.double_value(&[])
    }
}
