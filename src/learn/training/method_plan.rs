//! The table of learning methods: the command line, `compare` and the settings of a training are made from it.

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
    /// What the student of --from knows, and the labels (Hinton et al. 2015); `distill` learns from any other teacher.
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

    /// Whether it learns nothing without unlabeled pictures: a teacher has something to say of labeled ones too.
    pub fn needs_unlabeled(&self) -> bool {
        self.uses_unlabeled() && !matches!(self, MethodPlan::Distillation(_))
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
            MethodPlan::Supervised => train(&context.supervised()),
            MethodPlan::PseudoLabel(method) => train(method),
            MethodPlan::ThresholdedPseudoLabel(method) => train(method),
            MethodPlan::FixMatch(method) => train(method),
            MethodPlan::NoisyStudent(settings) => generations::noisy_student(context, name, settings, pools),
            MethodPlan::Distillation(settings) => {
                let (teacher, known) = context.lesson()?;
                train(&Distillation::new(teacher, &known, *settings))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::{network, student::scorecard::argmax};
    use tch::Tensor;

    use super::*;
    use crate::{
        pictures::{
            augment::WeakAugmentation,
            picture_set::PictureSet,
            views::{Augmenter, FrozenTrunk, ViewSource},
        },
        random::generator,
        training::plan::TrainingPlan,
    };

    const SIDE: usize = 32;

    /// Gray pictures, the common ones mostly darker than the rare ones: at equal frequencies 84 % can be told.
    fn pictures(common: usize, rare: usize) -> Vec<Vec<u8>> {
        use rand::RngExt;
        let mut rng = generator(5, common as u64, 0);
        let mut normal = || (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        (0..common + rare)
            .map(|n| {
                let brightness = if n < common { 110.0 } else { 140.0 } + 15.0 * normal();
                (0..SIDE * SIDE * 3).map(|_| (brightness + 8.0 * normal()).clamp(0.0, 255.0) as u8).collect()
            })
            .collect()
    }

    /// Share of 100 rare and of 100 common pictures that a student by `method` tells, which learned from 4 rare ones among
    /// 396 common ones, all labeled.
    fn told(method: &MethodPlan) -> [f64; 2] {
        let mut all = pictures(396, 4);
        all.extend(pictures(100, 100));
        let labels: Vec<Option<usize>> =
            (0..600).map(|n| Some(usize::from((396..400).contains(&n) || n >= 500))).collect();
        let training: Vec<usize> = (0..400).collect();
        let start = Model::random(&network::by_name("small", Some(SIDE)).unwrap(), 2, 8);
        let blocks = start.net.blocks.len();
        let all = PictureSet::of(&all, SIDE);
        let augmenter = Augmenter { pictures: &all, weak: WeakAugmentation::for_side(SIDE), seed: 4 };
        let kinds = [View::Weak, View::Strong, View::Noisy];
        let out = tempfile::tempdir().unwrap();
        let trunk = FrozenTrunk::open(&start, blocks).unwrap();
        let cache = (out.path(), 1 << 30);
        let views = ViewSource::cached(trunk, &augmenter, (&kinds, 1), cache, |_| true).unwrap().unwrap();
        let teacher: Vec<f32> = (0..600).flat_map(|_| [0.0, 0.0]).collect();
        let teacher = Tensor::from_slice(&teacher).view([-1, 2]);
        let context = FitContext {
            views: &views,
            labels: &labels,
            classes: 2,
            start: &start,
            plan: TrainingPlan {
                cut: blocks,
                steps: 400,
                pass: 100,
                batch: 32,
                lr: 0.02,
                schedule: method.schedule(),
                weight_decay: 5e-4,
                ema: 0.99,
                dropout: 0.0,
                survival: 1.0,
                seed: 4,
                identity: String::new(),
            },
            label_smoothing: 0.0,
            teacher: Some(&teacher),
            known: &[],
            out: out.path(),
            resume: false,
        };
        let pools = PicturePools { labeled: &training, unlabeled: &training, validation: &[] };
        let student = method.fit(&context, "final", &pools).unwrap();
        [500..600, 400..500].map(|range| {
            let rows: Vec<usize> = range.collect();
            let logits = context.logits(&student, &rows);
            let right = logits.iter().zip(&rows);
            right.filter(|(row, i)| Some(argmax(row)) == labels[**i]).count() as f64 / 100.0
        })
    }

    #[test]
    fn every_method_tells_the_rare_class_of_a_skewed_belt() {
        let soft = DistillationSettings { temperature: 1.0, soft: 0.1, mu: 1 };
        let methods = [
            MethodPlan::Supervised,
            MethodPlan::PseudoLabel(PseudoLabel { alpha: 1.0, ramp_begins: 0.1, ramp_ends: 0.6, mu: 3 }),
            MethodPlan::ThresholdedPseudoLabel(ThresholdedPseudoLabel { threshold: 0.95, warm_up: 0.4, mu: 3 }),
            MethodPlan::FixMatch(FixMatch { threshold: 0.95, lambda: 1.0, mu: 3, align: false }),
            MethodPlan::NoisyStudent(Generations {
                count: 1,
                threshold: 0.3,
                hard: false,
                mu: 3,
                dropout: 0.0,
                survival: 1.0,
                students: vec![],
            }),
            MethodPlan::Distillation(soft),
        ];
        let found: Vec<(&str, [f64; 2])> = methods.iter().map(|method| (method.name(), told(method))).collect();
        println!("rare and common pictures told: {found:?}");
        for (method, [rare, common]) in found {
            // The noise of Noisy Student changes the light, the only cue here: it must not call everything common all the same.
            let told = rare > 0.5 && (common > 0.5 || method == "noisy-student");
            assert!(told, "{method}: {rare} of the rare, {common} of the common");
        }
    }
}
