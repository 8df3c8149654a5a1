//! The promotion gate: two students' answers on the same held-out pictures → a [`PromotionGateRuling`]. Pure.
//!
//! Every check is a function of its own, listed in [`CHECKS`]; a new one is written there and gets its limit in
//! [`PromotionGateLimits`].
//!
//! Invariant: doubt holds the candidate. Every check must pass; NaN, missing or unequal figures fail theirs.

use serde::{Deserialize, Serialize};

use crate::student::scorecard::{argmax, calibration_error};

/// What a candidate must keep to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromotionGateLimits {
    /// Level of the one-sided paired test: this share of equal candidates may look better by chance.
    pub significance: f64,
    /// Recall that a class may lose, as a share of its pictures.
    pub class_loss: f64,
    /// Share of the bad items that may pass in addition.
    pub more_false_accepts: f64,
    /// Expected calibration error that is always allowed; a candidate above it must not be above the incumbent's.
    pub calibration_error: f64,
    /// Accuracy on damaged pictures that may be lost.
    pub damaged_loss: f64,
    /// Median time of one picture's inference over the incumbent's.
    pub slower: f64,
    /// Live items that both models must have scored.
    pub shadow_items: usize,
    /// Share of live items on whose action they may disagree beyond their disagreement on the held-out pictures.
    pub shadow_disagreement: f64,
}

impl Default for PromotionGateLimits {
    fn default() -> Self {
        Self {
            significance: 0.025,
            class_loss: 0.02,
            more_false_accepts: 0.01,
            calibration_error: 0.1,
            damaged_loss: 0.02,
            slower: 1.25,
            shadow_items: 200,
            shadow_disagreement: 0.25,
        }
    }
}

/// One student's answers on the held-out pictures, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExamAnswers {
    /// Class names in the order of the probabilities.
    pub classes: Vec<String>,
    /// Classes that pass.
    pub accept: Vec<String>,
    /// Per picture a probability per class.
    pub clean: Vec<Vec<f32>>,
    /// Per picture whether it would pass, by the model's own thresholds.
    pub accepted: Vec<bool>,
    /// Per damaged picture a probability per class.
    pub damaged: Vec<Vec<f32>>,
    /// Median time of the inference of one picture alone, in milliseconds. (Higher percentiles tell more of the machine's
    /// other work than of the model.)
    pub infer_ms: f64,
}

/// The true classes of the held-out pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOutTruth {
    /// Per held-out picture its class name.
    pub clean: Vec<String>,
    /// Per damaged picture its class name.
    pub damaged: Vec<String>,
}

/// One question about the candidate and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotionGateCheck {
    /// Short name, from a closed set.
    pub name: String,
    /// Whether the candidate passed it.
    pub passed: bool,
    /// What was found: a sentence with its figures.
    pub found: String,
    /// What was measured, short; empty where there is nothing to measure or an older gate ruled.
    #[serde(default)]
    pub figure: String,
    /// What it had to keep to, short; empty likewise.
    #[serde(default)]
    pub limit: String,
}

impl ExamAnswers {
    /// Whether there is a finite answer of the right width to every picture.
    fn answer_all(&self, truth: &HeldOutTruth) -> bool {
        let finite = |row: &Vec<f32>| row.len() == self.classes.len() && row.iter().all(|p| p.is_finite());
        self.clean.len() == truth.clean.len()
            && self.accepted.len() == truth.clean.len()
            && self.damaged.len() == truth.damaged.len()
            && self.clean.iter().chain(&self.damaged).all(finite)
    }
}

impl PromotionGateCheck {
    fn new(name: &str, passed: bool, figure: String, limit: String, found: String) -> Self {
        Self { name: name.into(), passed, found, figure, limit }
    }
}

/// What the promotion gate says and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromotionGateRuling {
    /// True only if every check passed.
    pub promote: bool,
    /// All checks that could be made.
    pub checks: Vec<PromotionGateCheck>,
    /// Held-out pictures.
    pub pictures: usize,
    /// Accuracy of the incumbent and of the candidate.
    pub accuracy: [f64; 2],
    /// Share of the held-out pictures on which one would pass the item and the other not.
    pub disagreement: f64,
    /// The shadow run, once it is over.
    pub shadow: Option<ShadowRun>,
}

impl PromotionGateRuling {
    fn of(checks: Vec<PromotionGateCheck>) -> Self {
        let promote = checks.iter().all(|check| check.passed);
        Self { promote, checks, pictures: 0, accuracy: [0.0; 2], disagreement: 0.0, shadow: None }
    }

    /// The checks that failed and why, as one line; empty when none did.
    pub fn reasons(&self) -> String {
        let failed: Vec<_> =
            self.checks.iter().filter(|c| !c.passed).map(|c| format!("{}: {}", c.name, c.found)).collect();
        failed.join("; ")
    }
}

/// Judges `candidate` against `incumbent`: first whether they can be compared at all, then every check in turn.
pub fn rule(
    incumbent: &ExamAnswers,
    candidate: &ExamAnswers,
    truth: &HeldOutTruth,
    limits: &PromotionGateLimits,
) -> PromotionGateRuling {
    let classes = same_classes(incumbent, candidate);
    if !classes.passed {
        return PromotionGateRuling::of(vec![classes]);
    }
    let Some(pair) = ExamPair::of(incumbent, candidate, truth) else {
        return PromotionGateRuling::of(vec![classes, incomplete_answers(truth)]);
    };
    let checks = CHECKS.iter().map(|check| check(&pair, limits));
    PromotionGateRuling {
        pictures: pair.clean.len(),
        accuracy: [share(pair.old_right.iter().copied()), share(pair.new_right.iter().copied())],
        disagreement: share(incumbent.accepted.iter().zip(&candidate.accepted).map(|(old, new)| old != new)),
        ..PromotionGateRuling::of(std::iter::once(classes).chain(checks).collect())
    }
}

/// What a comparable pair of students is checked for, in the order of the ruling.
const CHECKS: [fn(&ExamPair<'_>, &PromotionGateLimits) -> PromotionGateCheck; 6] =
    [better, every_class, false_accepts, calibrated, robust, fast_enough];

/// Two students' whole answers to the same pictures, over the same classes.
struct ExamPair<'a> {
    incumbent: &'a ExamAnswers,
    candidate: &'a ExamAnswers,
    truth: &'a HeldOutTruth,
    /// Per held-out picture the index of its class.
    clean: Vec<usize>,
    /// Per damaged picture the index of its class.
    damaged: Vec<usize>,
    /// Per held-out picture whether the incumbent named its class.
    old_right: Vec<bool>,
    /// Per held-out picture whether the candidate named its class.
    new_right: Vec<bool>,
}

impl<'a> ExamPair<'a> {
    /// `None` without pictures, where an answer is missing or not finite, or where the truth names an unknown class.
    fn of(incumbent: &'a ExamAnswers, candidate: &'a ExamAnswers, truth: &'a HeldOutTruth) -> Option<Self> {
        if truth.clean.is_empty() || !incumbent.answer_all(truth) || !candidate.answer_all(truth) {
            return None;
        }
        let class = |name: &String| candidate.classes.iter().position(|class| class == name);
        let clean: Vec<usize> = truth.clean.iter().map(class).collect::<Option<_>>()?;
        let damaged = truth.damaged.iter().map(class).collect::<Option<_>>()?;
        let (old_right, new_right) = (right(&incumbent.clean, &clean), right(&candidate.clean, &clean));
        Some(Self { incumbent, candidate, truth, clean, damaged, old_right, new_right })
    }
}

/// Per picture whether its class is the most probable one.
fn right(probabilities: &[Vec<f32>], truth: &[usize]) -> Vec<bool> {
    probabilities.iter().zip(truth).map(|(row, class)| argmax(row) == *class).collect()
}

fn same_classes(incumbent: &ExamAnswers, candidate: &ExamAnswers) -> PromotionGateCheck {
    let same = incumbent.classes == candidate.classes && incumbent.accept == candidate.accept;
    let found = if same {
        candidate.classes.join(", ")
    } else {
        let listed = |exam: &ExamAnswers| format!("{} (accepting {})", exam.classes.join(", "), exam.accept.join(", "));
        format!("the candidate knows {}, the incumbent {}", listed(candidate), listed(incumbent))
    };
    PromotionGateCheck::new("classes", same, format!("{} classes", candidate.classes.len()), "the same".into(), found)
}

fn incomplete_answers(truth: &HeldOutTruth) -> PromotionGateCheck {
    let found = format!("{} pictures, of which not all have finite answers of known classes", truth.clean.len());
    PromotionGateCheck::new("answers", false, String::new(), String::new(), found)
}

/// More held-out pictures right than the incumbent, beyond chance.
fn better(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let answers = || pair.old_right.iter().zip(&pair.new_right);
    let won = answers().filter(|(old, new)| !**old && **new).count();
    let lost = answers().filter(|(old, new)| **old && !**new).count();
    let (p, n) = (mcnemar(won, lost), pair.clean.len());
    let gain = (won as f64 - lost as f64) / n as f64;
    PromotionGateCheck::new(
        "better",
        p <= limits.significance && won > lost,
        format!("{gain:+.4}, p = {p:.4}"),
        format!("above 0, p ≤ {}", limits.significance),
        format!(
            "{gain:+.4} on {n} held-out pictures ({won} mended, {lost} broken; 95 % interval {:+.4} to {:+.4}; p = {p:.4}, \
             wanted at most {})",
            gain - 1.96 * deviation(won, lost, n),
            gain + 1.96 * deviation(won, lost, n),
            limits.significance
        ),
    )
}

/// No class loses much of its recall.
fn every_class(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let recall = |right: &[bool], class: usize| {
        share(right.iter().zip(&pair.clean).filter(|(_, truth)| **truth == class).map(|(right, _)| *right))
    };
    let loss = |class: usize| recall(&pair.old_right, class) - recall(&pair.new_right, class);
    let losses = pair.candidate.classes.iter().enumerate().map(|(class, name)| (loss(class), name.as_str()));
    let (worst, class) = losses.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, ""));
    PromotionGateCheck::new(
        "every class",
        worst <= limits.class_loss,
        format!("{:+.4} ({class})", -worst),
        format!("≥ {:+.4}", -limits.class_loss),
        format!("{class} changes most for the worse: {:+.4} of its recall, allowed {:+.4}", -worst, -limits.class_loss),
    )
}

/// Hardly more of the bad items pass.
fn false_accepts(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let bad: Vec<bool> = pair.truth.clean.iter().map(|name| !pair.candidate.accept.contains(name)).collect();
    let passing = |exam: &ExamAnswers| {
        share(exam.accepted.iter().zip(&bad).filter(|(_, bad)| **bad).map(|(accepted, _)| *accepted))
    };
    let (old, new) = (passing(pair.incumbent), passing(pair.candidate));
    let more = new - old;
    PromotionGateCheck::new(
        "false accepts",
        more <= limits.more_false_accepts,
        format!("{more:+.4}"),
        format!("≤ {:+.4}", limits.more_false_accepts),
        format!(
            "{new:.4} of the bad items pass, {old:.4} with the incumbent, allowed {:+.4}",
            limits.more_false_accepts
        ),
    )
}

/// Its probabilities mean what they say, or as much as the incumbent's do.
fn calibrated(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let [old, new] = [pair.incumbent, pair.candidate].map(|exam| calibration_error(&exam.clean, &pair.clean, 15));
    let allowed = limits.calibration_error.max(old);
    PromotionGateCheck::new(
        "calibrated",
        new <= allowed,
        format!("{new:.4}"),
        format!("≤ {allowed:.4}"),
        format!("expected calibration error {new:.4}, the incumbent's {old:.4}"),
    )
}

/// Damaged pictures cost it hardly more than they cost the incumbent.
fn robust(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let [old, new] =
        [pair.incumbent, pair.candidate].map(|exam| share(right(&exam.damaged, &pair.damaged).into_iter()));
    PromotionGateCheck::new(
        "robust",
        old - new <= limits.damaged_loss,
        format!("{:+.4}", new - old),
        format!("≥ {:+.4}", -limits.damaged_loss),
        format!("accuracy {new:.4} on damaged pictures, the incumbent's {old:.4}"),
    )
}

/// It takes hardly longer per picture.
fn fast_enough(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let (old, new) = (pair.incumbent.infer_ms, pair.candidate.infer_ms);
    PromotionGateCheck::new(
        "fast enough",
        new <= limits.slower * old,
        format!("{:.2} times", new / old),
        format!("≤ {} times", limits.slower),
        format!("{new:.2} ms per picture, the incumbent {old:.2} ms, allowed {} times that", limits.slower),
    )
}

/// What happened while the candidate scored live items beside the incumbent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowRun {
    /// Items scored by both.
    pub items: usize,
    /// Items on which one would pass it and the other not.
    pub apart: usize,
    /// Items for which the candidate had no scores.
    pub faults: usize,
}

/// The last check: `ruling` with what the shadow run says.
pub fn with_shadow(
    mut ruling: PromotionGateRuling,
    shadow: ShadowRun,
    limits: &PromotionGateLimits,
) -> PromotionGateRuling {
    let apart = shadow.apart as f64 / shadow.items.max(1) as f64;
    let allowed = ruling.disagreement + limits.shadow_disagreement;
    ruling.checks.push(PromotionGateCheck::new(
        "shadow",
        shadow.items >= limits.shadow_items && shadow.faults == 0 && apart <= allowed,
        format!("{apart:.4} apart, {} faults of {}", shadow.faults, shadow.items),
        format!("≤ {allowed:.4}, 0 of {}", limits.shadow_items),
        format!(
            "{} live items beside the incumbent (wanted {}), {} faults, another action for {apart:.4} of them, allowed {allowed:.4}",
            shadow.items, limits.shadow_items, shadow.faults
        ),
    ));
    ruling.promote = ruling.checks.iter().all(|check| check.passed);
    ruling.shadow = Some(shadow);
    ruling
}

/// Probability that of `won + lost` pictures on which two equal models differ at least `won` speak for one of them:
/// McNemar's test, exact and one-sided (McNemar 1947; binomial with p = ½).
pub fn mcnemar(won: usize, lost: usize) -> f64 {
    let n = won + lost;
    // ln C(n, k) - n ln 2, from k = n downwards; sums of logarithms do not overflow for any n.
    let mut term = -(n as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in (won..=n).rev() {
        sum += term.exp();
        if k > 0 {
            term += (k as f64).ln() - ((n - k + 1) as f64).ln();
        }
    }
    sum.min(1.0)
}

/// Standard deviation of the difference of two paired shares of `n`.
fn deviation(won: usize, lost: usize, n: usize) -> f64 {
    let (won, lost, n) = (won as f64, lost as f64, n as f64);
    ((won + lost - (won - lost).powi(2) / n).max(0.0)).sqrt() / n
}

/// Share of `true`; 0 of none.
fn share(flags: impl Iterator<Item = bool>) -> f64 {
    let (mut held, mut all) = (0usize, 0usize);
    for flag in flags {
        held += usize::from(flag);
        all += 1;
    }
    held as f64 / all.max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Pictures of the simulated held-out sets: with this many a gain of 3 points shows.
    const HELD_OUT: usize = 1000;
    const CLASSES: [&str; 3] = ["salmon", "cod", "bass"];

    /// Answers that are right where `right` says so, each with a probability of 0.92 (so nearly calibrated).
    fn exam(right: &[bool], truth: &[usize]) -> ExamAnswers {
        let rows: Vec<Vec<f32>> = right
            .iter()
            .zip(truth)
            .map(|(right, t)| {
                let said = if *right { *t } else { (t + 1) % 3 };
                (0..3).map(|c| if c == said { 0.92 } else { 0.04 }).collect()
            })
            .collect();
        ExamAnswers {
            classes: CLASSES.map(String::from).to_vec(),
            accept: vec!["salmon".into()],
            accepted: rows.iter().map(|row| row[0] > 0.5).collect(),
            damaged: rows[..HELD_OUT / 2].to_vec(),
            clean: rows,
            infer_ms: 8.0,
        }
    }

    fn truth_of(truth: &[usize]) -> HeldOutTruth {
        let names = |t: &[usize]| t.iter().map(|t| CLASSES[*t].to_string()).collect();
        HeldOutTruth { clean: names(truth), damaged: names(&truth[..HELD_OUT / 2]) }
    }

    /// Two models that are right on 90 % and 90 % + `gain` of the pictures and differ on 7 % of them (as two students
    /// of one teacher do), drawn freshly for each `seed`.
    fn rule_by_chance(gain: f64, seed: u64) -> PromotionGateRuling {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let truth: Vec<usize> = (0..HELD_OUT).map(|i| i % 3).collect();
        let (won, lost) = ((0.07 + gain) / 2.0, (0.07 - gain) / 2.0);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for _ in 0..HELD_OUT {
            let draw: f64 = rng.random();
            let pair = match draw {
                d if d < won => (false, true),
                d if d < won + lost => (true, false),
                d if d < won + lost + 0.90 - lost => (true, true),
                _ => (false, false),
            };
            old.push(pair.0);
            new.push(pair.1);
        }
        rule(&exam(&old, &truth), &exam(&new, &truth), &truth_of(&truth), &PromotionGateLimits::default())
    }

    #[test]
    fn of_200_equal_candidates_at_most_5_percent_pass_and_of_200_with_3_points_more_at_least_80() {
        let promoted = |gain| (0..200).filter(|&seed| rule_by_chance(gain, seed).promote).count();
        let (equal, better) = (promoted(0.0), promoted(0.03));
        println!(
            "{HELD_OUT} held-out pictures: {equal} of 200 equal candidates promoted, {better} of 200 with +3 points"
        );
        assert!(equal <= 10, "{equal} of 200 equal candidates were promoted");
        assert!(better >= 160, "only {better} of 200 candidates with 3 points more were promoted");
    }

    #[test]
    fn mcnemar_gives_the_binomial_tail() {
        assert!((mcnemar(8, 2) - 56.0 / 1024.0).abs() < 1e-12); // (45 + 10 + 1) / 2^10
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-12 && (mcnemar(0, 5) - 1.0).abs() < 1e-12);
        assert!((mcnemar(5, 0) - 1.0 / 32.0).abs() < 1e-12);
        assert!(mcnemar(2600, 2400) < 0.003 && mcnemar(2600, 2400) > 0.002, "normal: z = 2.81, p = 0.0024");
    }

    /// A clearly better candidate, for the other checks to spoil.
    fn better() -> (ExamAnswers, ExamAnswers, HeldOutTruth) {
        let truth: Vec<usize> = (0..HELD_OUT).map(|i| i % 3).collect();
        let old: Vec<bool> = (0..HELD_OUT).map(|i| i % 7 != 0).collect();
        let new: Vec<bool> = (0..HELD_OUT).map(|i| i % 21 != 0).collect();
        (exam(&old, &truth), exam(&new, &truth), truth_of(&truth))
    }

    fn reasons(spoil: impl Fn(&mut ExamAnswers, &mut HeldOutTruth)) -> String {
        let (old, mut new, mut truth) = better();
        spoil(&mut new, &mut truth);
        let ruling = rule(&old, &new, &truth, &PromotionGateLimits::default());
        assert_eq!(ruling.promote, ruling.reasons().is_empty());
        ruling.reasons()
    }

    #[test]
    fn every_way_to_be_worse_is_held_with_its_reason() {
        assert_eq!(reasons(|_, _| ()), "");
        // 10 of the 333 bass that both know: 3 points of one class, while the whole gains 8.
        let worse_on_bass = |new: &mut ExamAnswers, truth: &mut HeldOutTruth| {
            let bass = (0..HELD_OUT).filter(|&i| truth.clean[i] == "bass" && i % 7 != 0);
            for i in bass.take(58) {
                new.clean[i] = vec![0.04, 0.92, 0.04];
            }
        };
        let why = reasons(worse_on_bass);
        assert!(why.starts_with("every class: bass") && !why.contains(';'), "{why}");
        let why = reasons(|new, _| new.infer_ms = 10.1);
        assert!(why.starts_with("fast enough") && !why.contains(';'), "{why}");
        let why = reasons(|new, _| new.classes[2] = "trout".into());
        assert!(why.starts_with("classes: the candidate knows salmon, cod, trout"), "{why}");
        let why = reasons(|new, _| new.accepted.fill(true));
        assert!(why.starts_with("false accepts: 1.0000") && !why.contains(';'), "{why}");
        let why = reasons(|new, _| new.damaged.iter_mut().take(80).for_each(|row| row.rotate_left(1)));
        assert!(why.starts_with("robust") && !why.contains(';'), "{why}");
        let why = reasons(|new, _| {
            new.clean.iter_mut().for_each(|row| row.iter_mut().for_each(|p| *p = if *p > 0.5 { 0.5 } else { 0.25 }))
        });
        assert!(why.starts_with("calibrated") && !why.contains(';'), "{why}");
    }

    #[test]
    fn missing_nan_and_unknown_answers_hold() {
        assert!(reasons(|new, _| new.clean[3][0] = f32::NAN).starts_with("answers"));
        assert!(reasons(|new, _| drop(new.clean.pop())).starts_with("answers"));
        assert!(reasons(|_, truth| truth.clean[0] = "eel".into()).starts_with("answers"));
        assert!(reasons(|new, _| new.infer_ms = f64::NAN).starts_with("fast enough"));
        let empty = HeldOutTruth { clean: vec![], damaged: vec![] };
        let none = ExamAnswers { clean: vec![], accepted: vec![], damaged: vec![], ..better().0 };
        assert!(!rule(&none, &none, &empty, &PromotionGateLimits::default()).promote);
    }

    #[test]
    fn the_shadow_run_has_the_last_word() {
        let (old, new, truth) = better();
        let limits = PromotionGateLimits::default();
        let after = |items, apart, faults| {
            with_shadow(rule(&old, &new, &truth, &limits), ShadowRun { items, apart, faults }, &limits)
        };
        assert!(after(200, 20, 0).promote);
        assert!(!after(199, 0, 0).promote, "too few items");
        assert!(!after(200, 0, 1).promote, "a fault");
        let ruling = after(200, 100, 0);
        assert!(!ruling.promote && ruling.reasons().starts_with("shadow: 200 live items"), "{}", ruling.reasons());
    }
}
