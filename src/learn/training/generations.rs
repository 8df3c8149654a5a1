//! Noisy Student's rounds (Xie et al. 2020, arXiv:1911.04252, algorithm 1).

use std::{collections::BTreeSet, time::Instant};

use anyhow::ensure;
use beltsight::network as architectures;
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::{
    methods::{
        noisy_student::{NoisyStudent, filter_and_balance},
        supervised::Supervised,
    },
    network::model::{Model, rows},
    pictures::views::{View, Views, through_trunk},
    training::{
        fit::{Ground, Pools},
        trainer::Plan,
    },
};

/// Settings of the rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Args)]
pub struct Rounds {
    /// Rounds after the first teacher.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
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
pub fn noisy_student(ground: &Ground, name: &str, settings: &Rounds, pools: &Pools) -> anyhow::Result<Model> {
    let taught: Vec<usize> = pools.labeled.iter().filter_map(|&i| ground.labels[i]).collect();
    // The first teacher learns with noise too (algorithm 1, step 1).
    let supervised =
        Supervised { view: View::Noisy, ..Supervised::balanced(ground.label_smoothing, &taught, ground.classes) };
    let noised = Plan { dropout: settings.dropout, survival: settings.survival, ..ground.plan.clone() };
    let mut teacher = ground.train(&format!("{name} teacher"), ground.start, &noised, &supervised, pools)?;
    for round in 1..=settings.rounds {
        // The teacher sees plain pictures and has no noise: its labels are as good as it can make them.
        let began = Instant::now();
        let logits = answers(&teacher, ground, pools.unlabeled)?;
        let probabilities = rows(&logits.softmax(1, Kind::Float));
        let kept = filter_and_balance(pools.unlabeled, &probabilities, settings.threshold);
        let labeling = began.elapsed();
        println!(
            "{name} round {round}: {} pictures labeled in {:.1} s, {} kept and balanced",
            pools.unlabeled.len(),
            labeling.as_secs_f64(),
            kept.len()
        );
        ensure!(!kept.is_empty(), "round {round}: the teacher is sure of no picture; lower --threshold");
        let distinct: BTreeSet<usize> = kept.iter().copied().collect();
        let student = NoisyStudent {
            teacher: table(&probabilities, pools.unlabeled, ground, settings.hard),
            ratio: settings.mu,
            kept: distinct.len() as f64 / pools.unlabeled.len() as f64,
            labeling,
        };
        let start = grown(settings, round, ground)?;
        let pools = Pools { unlabeled: &kept, ..*pools };
        teacher = ground.train(
            &format!("{name} round {round}"),
            start.as_ref().unwrap_or(ground.start),
            &noised,
            &student,
            &pools,
        )?;
    }
    Ok(teacher)
}

/// A network's logits `[pictures, classes]` for plain pictures, through ONNX Runtime wherever a whole trunk has to be
/// run.
///
/// # Errors
/// ONNX Runtime's.
pub fn answers(model: &Model, ground: &Ground, pictures: &[usize]) -> anyhow::Result<Tensor> {
    if let Views::Fresh(camera) = ground.views {
        let chosen: Vec<Vec<u8>> = pictures.iter().map(|&i| camera.pictures[i].clone()).collect();
        if let Some(embedding) = through_trunk(model, model.net.blocks.len(), &chosen, |_| true)? {
            return Ok(no_grad(|| model.head(&embedding, None)));
        }
    }
    let logits = ground.logits(model, pictures);
    Ok(Tensor::from_slice(&logits.concat()).view([pictures.len() as i64, -1]))
}

/// The teacher's answers by picture `[pictures, classes]`; zeros for pictures outside the pool.
fn table(probabilities: &[Vec<f32>], pool: &[usize], ground: &Ground, hard: bool) -> Tensor {
    let mut table = vec![0f32; ground.labels.len() * ground.classes];
    for (row, &picture) in probabilities.iter().zip(pool) {
        let place = &mut table[picture * ground.classes..(picture + 1) * ground.classes];
        if hard {
            place[beltsight::student::scorecard::argmax(row)] = 1.0;
        } else {
            place.copy_from_slice(row);
        }
    }
    Tensor::from_slice(&table).view([-1, ground.classes as i64])
}

/// The network that a round's student starts from, where it is another one than the teacher's.
fn grown(settings: &Rounds, round: usize, ground: &Ground) -> anyhow::Result<Option<Model>> {
    let Some(name) = settings.students.get(round - 1).or(settings.students.last()) else { return Ok(None) };
    if name == ground.start.net.name {
        return Ok(None);
    }
    ensure!(
        matches!(ground.views, Views::Fresh(_)),
        "students can grow only where whole networks are trained: --trainable all"
    );
    let net = architectures::by_name(name, Some(ground.start.net.input))
        .ok_or_else(|| anyhow::anyhow!("--students names {name}; known are {:?}", architectures::NAMES))?;
    let student = Model::random(&net, ground.classes, ground.plan.seed.wrapping_add(round as u64));
    Ok(Some(student.on(ground.start.device())))
}
