//! What the keeper tells of itself twice a second: to the page, to `/rounds` and to the metrics.

use std::time::Instant;

use serde::Serialize;
use utoipa::ToSchema;

use super::{RoundKeeper, RoundState};
use crate::{
    domain::Spread,
    rounds::{RoundPlan, RoundStage},
};

/// What the keeper does at present.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = Status)]
pub struct RoundStatus {
    /// The round that runs; `null` when none does.
    pub round: Option<u32>,
    /// What it does.
    pub stage: Option<RoundStage>,
    /// The stages that it goes through, in order; empty when none runs.
    pub steps: Vec<RoundStage>,
    /// How far the stage is, 0 to 1, where it can be told.
    pub progress: Option<f64>,
    /// Seconds until the stage is done, where it can be told.
    pub seconds_left: Option<u64>,
    /// What started it.
    pub trigger: Option<String>,
    /// Labeled items in the store.
    pub labels: usize,
    /// Labels since the last round began.
    pub new_labels: usize,
    /// Mean novelty of the newest belt items; `null` before there are enough of them.
    pub novelty: Option<f32>,
    /// Their brightness, beside what was learned.
    pub brightness: Option<Compared>,
    /// Their sharpness, likewise.
    pub sharpness: Option<Compared>,
    /// The version in probation.
    pub probation: Option<String>,
}

/// A quantity of the newest belt items beside the same of the training pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Compared {
    /// Its mean over the newest belt items.
    pub now: f32,
    /// What the serving student was trained on, where its folder says it.
    pub learned: Option<Spread>,
}

/// What a running round does, how far that is (0 to 1), and the seconds left, where they can be told.
type StageProgress = (Option<RoundStage>, Option<f64>, Option<u64>);

impl RoundState {
    fn progress(&self, shadow_items: usize) -> StageProgress {
        match self {
            RoundState::Idle => (None, None, None),
            RoundState::Paused { until, .. } => {
                let left = until.saturating_duration_since(Instant::now()).as_secs();
                (Some(RoundStage::Paused), None, Some(left))
            }
            RoundState::Approval { .. } => (Some(RoundStage::Approval), None, None),
            RoundState::Shadow { shadow, .. } => {
                let share = shadow.tally().items as f64 / shadow_items.max(1) as f64;
                (Some(RoundStage::Shadow), Some(share.min(1.0)), None)
            }
            RoundState::Process { folder, process } => {
                let (stage, progress) = folder.stage();
                let told = progress.filter(|done| *done > 0.02); // less says nothing of the rest
                let left = told.map(|done| (process.began.elapsed().as_secs_f64() * (1.0 - done) / done) as u64);
                (Some(stage), progress, left)
            }
        }
    }
}

impl RoundKeeper {
    /// Publishes metrics and status.
    pub(super) fn publish(&self) {
        let settings = &self.parts.settings;
        let (stage, progress, seconds_left) = self.state.progress(settings.gate.shadow_items);
        let metrics = &self.parts.metrics;
        for each in RoundStage::ALL {
            metrics.rounds.stage.with_label_values(&[each.name()]).set(i64::from(stage == Some(each)));
        }
        metrics.rounds.progress.set(progress.unwrap_or(0.0));
        metrics.rounds.labels_new.set(self.new_labels() as i64);

        let card = self.parts.swapper.infer.card();
        let reference = card.reference.as_deref();
        let brightness = self.belt.mean(|item| Some(item.optics?.brightness));
        let sharpness = self.belt.mean(|item| Some(item.optics?.sharpness));
        let folder = self.state.folder();
        let plan = folder.and_then(|folder| folder.read::<RoundPlan>("plan.json"));
        self.status.send_replace(RoundStatus {
            round: folder.map(|folder| folder.number),
            stage,
            steps: plan.as_ref().map(|plan| plan.steps(settings.automatic)).unwrap_or_default(),
            progress,
            seconds_left,
            trigger: plan.map(|plan| plan.trigger),
            labels: self.labels,
            new_labels: self.new_labels(),
            novelty: self.belt.novelty(),
            brightness: brightness.map(|now| Compared { now, learned: reference.and_then(|r| r.brightness) }),
            sharpness: sharpness.map(|now| Compared { now, learned: reference.and_then(|r| r.sharpness) }),
            probation: self.probation.as_ref().map(|probation| probation.version.clone()),
        });
    }
}
