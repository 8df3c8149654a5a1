//! Distillation (Hinton, Vinyals & Dean 2015, arXiv:1503.02531): the student learns the teacher's softened answers.

use clap::Args;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Loss, Method, StepOutputs, ViewRequest, mean, rows_of};
use crate::pictures::views::View;

/// How much of the teacher, and how soft.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct DistillationSettings {
    /// T: HIGHER is softer.
    #[arg(long, default_value_t = 4.0)]
    pub temperature: f64,
    /// λ: weight of the teacher against the labels, 0 to 1.
    #[arg(long, default_value_t = 0.9)]
    pub soft: f64,
    /// Unlabeled pictures per labeled one in a step.
    #[arg(long, default_value_t = 3)]
    pub mu: usize,
}

/// Distillation from a table of teacher logits.
#[derive(Debug)]
pub struct Distillation {
    /// The teacher's logits `[pictures, classes]` for every plain picture.
    teacher: Tensor,
    /// Classes that the teacher knows, int64.
    known: Tensor,
    /// Temperature and weights.
    settings: DistillationSettings,
}

impl Distillation {
    /// From `teacher`, logits `[pictures, classes]` of which the columns `known` count: of the other classes it has never
    /// heard, and says nothing (as in Learning without Forgetting, Li & Hoiem 2016, arXiv:1606.09282, eq. 2 and 3).
    pub fn new(teacher: Tensor, known: &[usize], settings: DistillationSettings) -> Self {
        let known = Tensor::from_slice(&known.iter().map(|&class| class as i64).collect::<Vec<_>>());
        Self { teacher, known, settings }
    }

    /// `T² · KL(p_teacher(T) ‖ p_student(T))` per picture `[n]`; T² keeps the gradient's size as T changes (§2.1).
    fn divergence(&self, student: &Tensor, teacher: &Tensor) -> Tensor {
        let t = self.settings.temperature;
        let known = self.known.to_device(student.device());
        let log_p = |logits: &Tensor| (logits.index_select(1, &known) / t).log_softmax(1, Kind::Float);
        let (teacher_log_p, student_log_p) = (log_p(teacher), log_p(student));
        (teacher_log_p.exp() * (&teacher_log_p - student_log_p)).sum_dim_intlist(1i64, false, Kind::Float) * (t * t)
    }
}

impl Method for Distillation {
    fn view_request(&self) -> ViewRequest {
        ViewRequest { labeled: View::Weak, unlabeled: &[View::Weak], ratio: self.settings.mu, eval_logits: false }
    }

    /// `λ · mean over all pictures of T² KL + (1 − λ) · mean CE(y_l, student)`.
    fn loss(&self, outputs: &StepOutputs) -> Loss {
        let all = Tensor::cat(&[&outputs.labeled_logits, &outputs.unlabeled_logits[0]], 0);
        let pictures = [outputs.labeled, outputs.unlabeled].concat();
        let teacher = mean(&self.divergence(&all, &rows_of(&self.teacher, &pictures, &all)));
        let labeled = outputs.labeled_loss();
        Loss {
            total: &teacher * self.settings.soft + &labeled * (1.0 - self.settings.soft),
            parts: vec![("teacher", teacher), ("labeled", labeled)],
            pseudo_targets: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::methods::testing::{step_outputs, value};

    fn method(teacher: &[f32], temperature: f64, soft: f64) -> Distillation {
        let settings = DistillationSettings { temperature, soft, mu: 1 };
        Distillation::new(Tensor::from_slice(teacher).view([-1, 2]), &[0, 1], settings)
    }

    #[test]
    fn it_has_the_value_of_the_formula() {
        // T = 2: teacher (ln 9, 0) softens to 0.75, 0.25; the student says 0.5, 0.5.
        let method = method(&[9f32.ln(), 0.0, 9f32.ln(), 0.0], 2.0, 0.6);
        let found = value(&method.loss(&step_outputs(&[[0.0, 0.0]], &[0], &[&[[0.0, 0.0]]], &[0, 1])).total);
        let kl = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
        assert!((found - (0.6 * 4.0 * kl + 0.4 * 2f64.ln())).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_keeps_its_size_as_the_temperature_rises() {
        let size = |temperature: f64| {
            let student = Tensor::from_slice(&[0.3f32, -0.2]).view([1, 2]).set_requires_grad(true);
            let method = method(&[1.0, -1.0], temperature, 1.0);
            method.divergence(&student, &method.teacher).sum(Kind::Float).backward();
            student.grad().norm().double_value(&[])
        };
        // For high T the gradient tends to (z_student − z_teacher) / classes, logits centred (§2.1, eq. 4).
        let limit = ((0.25f64 - 1.0) / 2.0).abs() * 2f64.sqrt();
        for temperature in [5.0, 20.0, 100.0] {
            assert!((size(temperature) / limit - 1.0).abs() < 0.03, "T = {temperature}: {}", size(temperature) / limit);
        }
    }

    #[test]
    fn of_a_class_that_the_teacher_does_not_know_it_says_nothing() {
        let logits = |values: &[f32]| Tensor::from_slice(values).view([1, 3]);
        let settings = DistillationSettings { temperature: 1.0, soft: 1.0, mu: 1 };
        let method = Distillation::new(logits(&[1.0, 0.0, 0.0]), &[0, 2], settings);
        let student = logits(&[0.5, 7.0, 0.2]).set_requires_grad(true);
        method.divergence(&student, &method.teacher).sum(Kind::Float).backward();
        let gradient = Vec::<f32>::try_from(student.grad().view(-1)).unwrap();
        assert!(gradient[1] == 0.0 && gradient[0] < 0.0 && gradient[2] > 0.0, "{gradient:?}");
    }

    #[test]
    fn higher_temperatures_are_softer() {
        let teacher = Tensor::from_slice(&[4f32, 0.0]).view([1, 2]);
        let top = |t: f64| (&teacher / t).softmax(1, Kind::Float).max().double_value(&[]);
        assert!(top(1.0) > top(4.0) && top(4.0) > top(20.0));
    }
}
