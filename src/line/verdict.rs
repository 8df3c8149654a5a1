//! One item's scores → its [`Verdict`], the same way for belt and HTTP.
//!
//! Invariant: a verdict holds only finite numbers, so that it can always be stored, sent and read back.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    domain::{ClassScore, Fault, Optics, Region, Scored, Source, Timings, Verdict, draw_uid},
    student::decide::{Look, decide},
};

/// Where an item came from and when.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Belt or HTTP.
    pub source: Source,
    /// Camera name; empty for HTTP.
    pub camera: Arc<str>,
    /// Track number on its camera; 0 for HTTP.
    pub track: u64,
    /// Where the item lay in its frame; `None` when the whole picture was judged.
    pub region: Option<Region>,
    /// Whether it may be several items.
    pub several: bool,
    /// Whether no picture showed it whole.
    pub partial: bool,
    /// When the picture was taken or arrived.
    pub wall: OffsetDateTime,
    /// The species that really was there, on a simulated belt.
    pub truth: Option<String>,
    /// Brightness and sharpness of what the network was given; `None` for HTTP.
    pub optics: Option<Optics>,
}

/// One answer from those to several looks at an item: the mean of their probabilities and embeddings, by the student of
/// the newest. A look that failed counts only when all did; then the item has the first one's fault.
pub fn mean(mut looks: Vec<Scored>) -> Scored {
    let newest = looks.iter().rposition(|look| look.scores.is_ok());
    let Some(newest) = newest else {
        let none = Scored { scores: Err(Fault::Timeout), model: None, timings: Timings::default() };
        return looks.into_iter().next().unwrap_or(none);
    };
    let mut newest = looks.swap_remove(newest);
    let Ok(sum) = &mut newest.scores else { return newest };
    let same = |look: &Scored| match (&look.model, &newest.model) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let mut count = 1.0;
    for scores in looks.iter().filter(|look| same(look)).filter_map(|look| look.scores.as_ref().ok()) {
        let add = |sum: &mut [f32], more: &[f32]| sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        add(&mut sum.probabilities, &scores.probabilities);
        add(&mut sum.embedding, &scores.embedding);
        count += 1.0;
    }
    sum.probabilities.iter_mut().chain(&mut sum.embedding).for_each(|value| *value /= count);
    newest
}

/// Decides about one item and writes everything down. `timings` holds decode, locate and total; queue and infer are
/// taken from `scored`.
pub fn assemble(origin: Origin, scored: &Scored, timings: Timings) -> Verdict {
    let card = scored.model.as_deref();
    let whole = Look::whole(card, &scored.scores);
    let look = Look { several: origin.several, partial: origin.partial, ..whole };
    let probabilities = scored.scores.as_ref().map_or(&[][..], |s| &s.probabilities);
    let classes = card.map_or(&[][..], |c| &c.classes);
    let finite = |p: f32| if p.is_finite() { p } else { 0.0 };
    let mut scores: Vec<_> = classes
        .iter()
        .zip(probabilities)
        .map(|(class, &p)| ClassScore { class: class.clone(), probability: finite(p) })
        .collect();
    scores.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    Verdict {
        uid: draw_uid(origin.wall),
        id: 0,
        time: origin.wall,
        source: origin.source,
        camera: origin.camera.to_string(),
        track: origin.track,
        region: origin.region,
        decision: decide(&scored.scores, look),
        scores,
        model: card.map_or_else(String::new, |c| c.label.clone()),
        thresholds: String::new(),
        lot: None,
        fault: scored.scores.as_ref().err().map(ToString::to_string),
        timings: Timings { queue_ms: scored.timings.queue_ms, infer_ms: scored.timings.infer_ms, ..timings },
        frame: None,
        truth: origin.truth,
        novelty: look.novelty,
        optics: origin.optics,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Action, Card, Reason, Scores, Thresholds};

    fn origin() -> Origin {
        Origin {
            source: Source::Belt,
            camera: "belt-1".into(),
            track: 7,
            region: None,
            several: false,
            partial: false,
            wall: OffsetDateTime::UNIX_EPOCH,
            truth: None,
            optics: None,
        }
    }

    fn card() -> Arc<Card> {
        Arc::new(Card {
            label: "test@0".into(),
            sha256: String::new(),
            version: "test".into(),
            precision: "float32".into(),
            classes: ["salmon", "cod"].map(String::from).to_vec(),
            side: 8,
            thresholds: Thresholds {
                accept: vec!["salmon".into()],
                accept_from: 0.9,
                unsure_from: 0.6,
                temperature: 1.0,
                unknown_from: None,
            },
            reference: None,
        })
    }

    #[test]
    fn scores_are_named_best_first_and_times_are_merged() {
        let scores = Ok(Scores { probabilities: vec![0.25, 0.75], embedding: vec![] });
        let worker = Timings { queue_ms: 1.0, infer_ms: 2.0, ..Timings::default() };
        let scored = Scored { scores, model: Some(card()), timings: worker };
        let verdict = assemble(origin(), &scored, Timings { total_ms: 9.0, ..Timings::default() });
        assert_eq!(verdict.scores[0], ClassScore { class: "cod".into(), probability: 0.75 });
        assert_eq!((verdict.decision.action, verdict.decision.reason), (Action::Reject, Reason::WrongClass));
        assert_eq!((verdict.timings.queue_ms, verdict.timings.infer_ms, verdict.timings.total_ms), (1.0, 2.0, 9.0));
    }

    #[test]
    fn several_looks_are_averaged_and_a_failed_one_counts_only_when_all_failed() {
        let (one, other) = (card(), card());
        let look = |salmon: f32, model: &Arc<Card>| {
            let scores = Ok(Scores { probabilities: vec![salmon, 1.0 - salmon], embedding: vec![salmon] });
            Scored { scores, model: Some(model.clone()), timings: Timings::default() }
        };
        let failed = |fault| Scored { scores: Err(fault), model: None, timings: Timings::default() };
        let salmon = |looks| mean(looks).scores.map(|s| (s.probabilities[0], s.embedding[0]));
        assert_eq!(salmon(vec![look(0.5, &one)]), Ok((0.5, 0.5)));
        assert_eq!(salmon(vec![look(0.5, &one), failed(Fault::Overloaded), look(0.75, &one)]), Ok((0.625, 0.625)));
        assert_eq!(salmon(vec![look(0.5, &one), look(0.75, &other)]), Ok((0.75, 0.75)), "students are not mixed");
        assert_eq!(salmon(vec![failed(Fault::Overloaded), failed(Fault::Timeout)]), Err(Fault::Overloaded));
        assert_eq!(salmon(vec![]), Err(Fault::Timeout));
        assert!(salmon(vec![look(f32::NAN, &one), look(0.75, &one)]).is_ok_and(|(p, _)| p.is_nan()), "doubt stays");
    }

    #[test]
    fn nan_and_faults_reject_and_survive_json() {
        let nan = Ok(Scores { probabilities: vec![f32::NAN, 1.0], embedding: vec![] });
        for scores in [nan, Err(Fault::Timeout)] {
            let verdict = assemble(
                origin(),
                &Scored { scores, model: Some(card()), timings: Timings::default() },
                Timings::default(),
            );
            assert_eq!(verdict.decision.action, Action::Reject);
            let text = serde_json::to_string(&verdict).unwrap_or_default();
            assert_eq!(serde_json::from_str::<Verdict>(&text).ok(), Some(verdict));
        }
    }
}
