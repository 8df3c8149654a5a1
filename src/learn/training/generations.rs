//! Noisy Student's generations (Xie et al. 2020, arXiv:1911.04252, algorithm 1): every student is the next teacher.
//!
//! The command line, the log and the checkpoints call a generation a *round*.

use std::{collections::BTreeSet, time::Instant};

use anyhow::ensure;
use beltsight::{network as architectures, student::scorecard::argmax};
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::{
    methods::{
        noisy_student::{NoisyStudent, filter_and_balance},
        supervised::Supervised,
    },
    network::model::{Model, rows},
    pictures::views::{View, ViewSource},
    training::{
        fit::FitContext,
        plan::{PicturePools, TrainingPlan},
    },
};

/// Settings of Noisy Student.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct Generations {
    /// Rounds after the first teacher.
    #[arg(long = "rounds", value_name = "ROUNDS", default_value_t = 3)]
    #[serde(rename = "rounds")]
    pub count: usize,
    /// Pictures that the teacher is less sure of are left out.
    #[arg(long, default_value_t = 0.3)]
    pub threshold: f32,
    /// Learn the teacher's class instead of its probabilities.
    #[arg(long)]
    pub hard: bool,
    /// Unlabeled pictures per labeled one in a step.
    #[arg(long, default_value_t = 7)]
    pub mu: usize,
    /// The student's dropout before the classifier.
    #[arg(long, default_value_t = 0.5)]
    pub dropout: f64,
    /// The student's chance that its last residual block takes part (stochastic depth).
    #[arg(long, default_value_t = 0.8)]
    pub survival: f64,
    /// Networks of the students, one per round, the last one repeated, so that they can grow (needs --trainable all)
    /// [default: the teacher's].
    #[arg(long, value_delimiter = ',')]
    pub students: Vec<String>,
}

/// Teacher → labels for the pool → student → the next teacher.
///
/// # Errors
/// The trainer's; when the teacher is sure of no picture; when students are to grow over a frozen trunk.
pub fn noisy_student(
    context: &FitContext,
    name: &str,
    settings: &Generations,
    pools: &PicturePools,
) -> anyhow::Result<Model> {
    // The first teacher learns with noise too (algorithm 1, step 1).
    let supervised = Supervised { view: View::Noisy, ..context.supervised() };
    let noised = TrainingPlan { dropout: settings.dropout, survival: settings.survival, ..context.plan.clone() };
    let mut teacher = context.train(&format!("{name} teacher"), context.start, &noised, &supervised, pools)?;
    for generation in 1..=settings.count {
        // The teacher sees plain pictures and has no noise: its labels are as good as it can make them.
        let began = Instant::now();
        let logits = context.bulk_logits(&teacher, pools.unlabeled)?;
        let probabilities = rows(&logits.softmax(1, Kind::Float));
        let kept = filter_and_balance(pools.unlabeled, &probabilities, settings.threshold);
        let labeling = began.elapsed();
        println!(
            "{name} round {generation}: {} pictures labeled in {:.1} s, {} kept and balanced",
            pools.unlabeled.len(),
            labeling.as_secs_f64(),
            kept.len()
        );
        ensure!(!kept.is_empty(), "round {generation}: the teacher is sure of no picture; lower --threshold");
        let distinct: BTreeSet<usize> = kept.iter().copied().collect();
        let method = NoisyStudent {
            teacher: teacher_table(&probabilities, pools.unlabeled, context, settings.hard),
            ratio: settings.mu,
            kept: distinct.len() as f64 / pools.unlabeled.len() as f64,
            labeling,
        };
        let grown = grown_student(settings, generation, context)?;
        let start = grown.as_ref().unwrap_or(context.start);
        let pools = PicturePools { unlabeled: &kept, ..*pools };
        teacher = context.train(&format!("{name} round {generation}"), start, &noised, &method, &pools)?;
    }
    Ok(teacher)
}

/// The teacher's answers by picture `[pictures, classes]`; zeros for pictures outside the pool.
fn teacher_table(probabilities: &[Vec<f32>], pool: &[usize], context: &FitContext, hard: bool) -> Tensor {
    let classes = context.classes;
    let mut table = vec![0f32; context.labels.len() * classes];
    for (row, &picture) in probabilities.iter().zip(pool) {
        let answer = &mut table[picture * classes..(picture + 1) * classes];
        if hard {
            answer[argmax(row)] = 1.0;
        } else {
            answer.copy_from_slice(row);
        }
    }
    Tensor::from_slice(&table).view([-1, classes as i64])
}

/// The network that a generation's student starts from, where it is another one than the teacher's.
fn grown_student(settings: &Generations, generation: usize, context: &FitContext) -> anyhow::Result<Option<Model>> {
    let Some(name) = settings.students.get(generation - 1).or(settings.students.last()) else { return Ok(None) };
    if name == context.start.net.name {
        return Ok(None);
    }
    ensure!(
        matches!(context.views, ViewSource::Fresh(_)),
        "students can grow only where whole networks are trained: --trainable all"
    );
    let net = architectures::by_name(name, Some(context.start.net.input))
        .ok_or_else(|| anyhow::anyhow!("--students names {name}; known are {:?}", architectures::NAMES))?;
    let student = Model::random(&net, context.classes, context.plan.seed.wrapping_add(generation as u64));
    Ok(Some(student.on(context.start.device())))
}
