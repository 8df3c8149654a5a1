//! Scores of one item → what happens to it. Pure and total.
//!
//! Invariant: doubt never passes an item. Accepting needs proof (`probability >= accept_from`, false for NaN); every
//! fault, every NaN and every missing score rejects.

use crate::{
    domain::{Action, Card, Decision, Fault, Reason, Scores},
    student::scorecard::argmax,
};

/// Decides about one item.
///
/// The accept probability is the sum over the accepted classes. At or above `accept_from` the item passes if an
/// accepted class is also the most probable one; in the unsure band (`unsure_from` to `accept_from`) it is diverted for
/// a person; below, or when another class is most probable, it is rejected.
pub fn decide(card: Option<&Card>, scores: &Result<Scores, Fault>) -> Decision {
    let fault = Decision { action: Action::Reject, reason: Reason::Fault, class: None, accept_probability: 0.0 };
    let (Some(card), Ok(scores)) = (card, scores) else { return fault };
    if scores.probabilities.len() != card.classes.len() || scores.probabilities.is_empty() {
        return fault;
    }
    let best = &card.classes[argmax(&scores.probabilities)];
    let accepted = |class: &String| card.thresholds.accept.contains(class);
    let probability: f32 =
        card.classes.iter().zip(&scores.probabilities).filter(|(class, _)| accepted(class)).map(|(_, p)| p).sum();
    let finite = scores.probabilities.iter().all(|p| p.is_finite());
    let (action, reason) = if finite && probability >= card.thresholds.accept_from && accepted(best) {
        (Action::Accept, Reason::Accepted)
    } else if finite && probability >= card.thresholds.unsure_from {
        (Action::Divert, Reason::Unsure)
    } else if finite && !accepted(best) {
        (Action::Reject, Reason::WrongClass)
    } else {
        (Action::Reject, Reason::LowScore)
    };
    let accept_probability = if probability.is_finite() { probability } else { 0.0 };
    Decision { action, reason, class: Some(best.clone()), accept_probability }
}

/// Diverts what would pass although its picture is not that of one whole item: what lies outside the picture may be anything,
/// and one good item among several must not let the others by.
pub fn unless_incomplete(decision: Decision, partial: bool, several: bool) -> Decision {
    let reason = match decision.action {
        Action::Accept if partial => Reason::Partial,
        Action::Accept if several => Reason::Several,
        _ => return decision,
    };
    Decision { action: Action::Divert, reason, ..decision }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Thresholds;

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
            },
            reference: None,
        }
    }

    fn said(probabilities: [f32; 3]) -> (Action, Reason) {
        let scores = Ok(Scores { probabilities: probabilities.to_vec(), embedding: vec![] });
        let decision = decide(Some(&card()), &scores);
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
    fn doubt_never_passes_an_item() {
        for nan in [[f32::NAN, 0.0, 0.0], [1.0, f32::NAN, 0.0], [f32::NAN; 3], [f32::INFINITY, 0.0, 0.0]] {
            assert_eq!(said(nan).0, Action::Reject, "{nan:?}");
        }
        let short = Ok(Scores { probabilities: vec![1.0], embedding: vec![] });
        assert_eq!(decide(Some(&card()), &short).action, Action::Reject);
        for fault in [Fault::Timeout, Fault::Overloaded, Fault::Decode("cut".into()), Fault::NoModel] {
            assert_eq!(decide(Some(&card()), &Err(fault)).reason, Reason::Fault);
        }
        assert_eq!(decide(None, &short).action, Action::Reject);
    }

    #[test]
    fn several_items_and_parts_of_one_are_never_accepted_for_one() {
        let told = |action, partial, several| {
            let decision = Decision { action, reason: Reason::Accepted, class: None, accept_probability: 1.0 };
            let decision = unless_incomplete(decision, partial, several);
            (decision.action, decision.reason)
        };
        assert_eq!(told(Action::Accept, false, true), (Action::Divert, Reason::Several));
        assert_eq!(told(Action::Accept, true, false), (Action::Divert, Reason::Partial));
        assert_eq!(told(Action::Accept, false, false), (Action::Accept, Reason::Accepted));
        assert_eq!(told(Action::Reject, true, true).0, Action::Reject);
    }
}
