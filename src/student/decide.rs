//! Scores of one item and what else is known of it → what happens to it. Pure and total; line, shadow run, exam and
//! evaluation all decide here.
//!
//! Reasons, in this order; the first that applies is given:
//!
//! | reason | action | where |
//! |---|---|---|
//! | `fault` | reject | no student, no scores, or scores of another width |
//! | `low_score` | reject | a score that is not a number |
//! | `unsure` | divert | the accept probability reaches `unsure_from`, but not `accept_from`, or another class is the most probable one |
//! | `wrong_class` | reject | below `unsure_from`, and another class is the most probable one |
//! | `low_score` | reject | below `unsure_from` |
//! | `partial` | divert | it would pass, but no picture showed it whole |
//! | `several` | divert | it would pass, but may be several items |
//! | `unknown` | divert | it would pass, but lies farther than `unknown_from` from what the student was trained on, or nobody can tell |
//! | `accepted` | accept | otherwise |
//!
//! Invariant: doubt never passes an item. Accepting needs proof (`probability >= accept_from`, false for NaN); every
//! fault, every NaN and every missing score rejects.

use crate::{
    domain::{Action, Card, Decision, Fault, Reason, Scores},
    student::scorecard::argmax,
};

/// What is known of an item besides its scores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look<'a> {
    /// The student that scored it; `None`: none is loaded.
    pub student: Option<&'a Card>,
    /// How far it lies from what the student was trained on, see [`Card::novelty`]; `None` where that can't be told.
    pub novelty: Option<f32>,
    /// Whether its outline may be that of several items.
    pub several: bool,
    /// Whether no picture showed it whole.
    pub partial: bool,
}

impl<'a> Look<'a> {
    /// One whole item, as `student` sees it.
    pub fn whole(student: Option<&'a Card>, scores: &Result<Scores, Fault>) -> Self {
        let novelty = student.zip(scores.as_ref().ok()).and_then(|(card, scores)| card.novelty(scores));
        Self { student, novelty, ..Self::default() }
    }
}

/// Decides about one item. The accept probability is the sum over the accepted classes.
///
/// Where another class is the most probable one and the accepted ones still reach the unsure band (0.3 salmon, 0.7 herring,
/// `unsure_from` 0.25), the item is diverted: it may well be good, a person sees it, and it passes in neither case.
pub fn decide(scores: &Result<Scores, Fault>, look: Look) -> Decision {
    let fault = Decision { action: Action::Reject, reason: Reason::Fault, class: None, accept_probability: 0.0 };
    let (Some(card), Ok(scores)) = (look.student, scores) else { return fault };
    if scores.probabilities.len() != card.classes.len() || scores.probabilities.is_empty() {
        return fault;
    }
    let thresholds = &card.thresholds;
    let best = &card.classes[argmax(&scores.probabilities)];
    let accepted = |class: &String| thresholds.accept.contains(class);
    let probability: f32 =
        card.classes.iter().zip(&scores.probabilities).filter(|(class, _)| accepted(class)).map(|(_, p)| p).sum();
    let finite = scores.probabilities.iter().all(|p| p.is_finite());
    let (action, reason) = if !finite {
        (Action::Reject, Reason::LowScore)
    } else if probability >= thresholds.accept_from && accepted(best) {
        // Written so that a novelty that is missing or NaN is not within the limit.
        let known = thresholds.unknown_from.is_none_or(|limit| look.novelty.is_some_and(|novelty| novelty <= limit));
        match (look.partial, look.several, known) {
            (true, _, _) => (Action::Divert, Reason::Partial),
            (_, true, _) => (Action::Divert, Reason::Several),
            (_, _, false) => (Action::Divert, Reason::Unknown),
            (false, false, true) => (Action::Accept, Reason::Accepted),
        }
    } else if probability >= thresholds.unsure_from {
        (Action::Divert, Reason::Unsure)
    } else if !accepted(best) {
        (Action::Reject, Reason::WrongClass)
    } else {
        (Action::Reject, Reason::LowScore)
    };
    let accept_probability = if probability.is_finite() { probability } else { 0.0 };
    Decision { action, reason, class: Some(best.clone()), accept_probability }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{Reference, Thresholds};

    fn card() -> Card {
        Card {
            label: "test@0".into(),
            sha256: String::new(),
            version: "test".into(),
            precision: "float32".into(),
            classes: ["salmon", "cod", "bass"].map(String::from).to_vec(),
            side: 8,
            thresholds: Thresholds {
                accept: vec!["salmon".into()],
                accept_from: 0.9,
                unsure_from: 0.6,
                temperature: 1.0,
                unknown_from: None,
            },
            reference: None,
        }
    }

    fn scores(probabilities: [f32; 3]) -> Result<Scores, Fault> {
        Ok(Scores { probabilities: probabilities.to_vec(), embedding: vec![0.0, 2.0] })
    }

    fn said(probabilities: [f32; 3]) -> (Action, Reason) {
        let (card, scores) = (card(), scores(probabilities));
        let decision = decide(&scores, Look::whole(Some(&card), &scores));
        (decision.action, decision.reason)
    }

    #[test]
    fn acceptance_needs_proof() {
        assert_eq!(said([0.9, 0.05, 0.05]), (Action::Accept, Reason::Accepted));
        assert_eq!(said([0.899, 0.1, 0.001]), (Action::Divert, Reason::Unsure));
        assert_eq!(said([0.6, 0.4, 0.0]), (Action::Divert, Reason::Unsure));
        assert_eq!(said([0.59, 0.41, 0.0]), (Action::Reject, Reason::LowScore));
        assert_eq!(said([0.1, 0.9, 0.0]), (Action::Reject, Reason::WrongClass));
    }

    #[test]
    fn what_may_well_be_good_is_diverted_though_another_class_is_more_probable() {
        let mut card = card();
        (card.thresholds.accept_from, card.thresholds.unsure_from) = (0.5, 0.25);
        let scores = scores([0.3, 0.7, 0.0]);
        let decision = decide(&scores, Look::whole(Some(&card), &scores));
        assert_eq!((decision.action, decision.reason), (Action::Divert, Reason::Unsure));
    }

    #[test]
    fn an_item_unlike_anything_learned_is_diverted_however_sure_the_student_is() {
        let reference = |centre: Vec<f32>| Reference { centres: vec![centre], edge: 0.5, ..Reference::default() };
        let told = |reference: Option<Reference>, limit: Option<f32>| {
            let mut card = Card { reference: reference.map(Arc::new), ..card() };
            card.thresholds.unknown_from = limit;
            let scores = scores([0.99, 0.01, 0.0]);
            let decision = decide(&scores, Look::whole(Some(&card), &scores));
            (decision.action, decision.reason)
        };
        let (near, far) = (|| Some(reference(vec![0.1, 0.9])), || Some(reference(vec![1.0, 0.0])));
        assert_eq!(told(far(), Some(1.5)), (Action::Divert, Reason::Unknown), "2.8 edges away");
        assert_eq!(told(near(), Some(1.5)), (Action::Accept, Reason::Accepted));
        assert_eq!(told(far(), Some(3.0)), (Action::Accept, Reason::Accepted));
        assert_eq!(told(far(), None), (Action::Accept, Reason::Accepted), "no limit was measured");
        assert_eq!(told(None, Some(1.5)), (Action::Divert, Reason::Unknown), "nobody can tell");
        let nan = reference(vec![f32::NAN, 0.0]);
        assert_eq!(told(Some(nan), Some(1.5)), (Action::Divert, Reason::Unknown));
    }

    #[test]
    fn doubt_never_passes_an_item() {
        for nan in [[f32::NAN, 0.0, 0.0], [1.0, f32::NAN, 0.0], [f32::NAN; 3], [f32::INFINITY, 0.0, 0.0]] {
            assert_eq!(said(nan).0, Action::Reject, "{nan:?}");
        }
        let short = Ok(Scores { probabilities: vec![1.0], embedding: vec![] });
        let card = card();
        let by = |student, scores: &Result<Scores, Fault>| decide(scores, Look::whole(student, scores));
        assert_eq!(by(Some(&card), &short).action, Action::Reject);
        for fault in [Fault::Timeout, Fault::Overloaded, Fault::Decode("cut".into()), Fault::NoModel] {
            assert_eq!(by(Some(&card), &Err(fault)).reason, Reason::Fault);
        }
        assert_eq!(by(None, &short).action, Action::Reject);
    }

    #[test]
    fn several_items_and_parts_of_one_are_never_accepted_for_one() {
        let card = card();
        let told = |salmon, partial, several| {
            let scores = scores([salmon, 1.0 - salmon, 0.0]);
            let decision = decide(&scores, Look { partial, several, ..Look::whole(Some(&card), &scores) });
            (decision.action, decision.reason)
        };
        assert_eq!(told(0.95, false, true), (Action::Divert, Reason::Several));
        assert_eq!(told(0.95, true, false), (Action::Divert, Reason::Partial));
        assert_eq!(told(0.95, true, true), (Action::Divert, Reason::Partial), "the first of the order");
        assert_eq!(told(0.95, false, false), (Action::Accept, Reason::Accepted));
        assert_eq!(told(0.1, true, true), (Action::Reject, Reason::WrongClass));
    }
}
