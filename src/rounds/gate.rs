//! Whether a candidate may take over: two models' answers on the same held-out pictures → a [`Ruling`]. Pure.
//!
//! Invariant: doubt holds the candidate. Every check must pass; NaN, missing or unequal figures fail theirs.

use serde::{Deserialize, Serialize};

use crate::student::scorecard::{argmax, calibration_error};

/// What a candidate must keep to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
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

impl Default for Limits {
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

/// One model's answers on the held-out pictures, in their order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exam {
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

/// The true classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Truth {
    /// Per held-out picture its class name.
    pub clean: Vec<String>,
    /// Per damaged picture its class name.
    pub damaged: Vec<String>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Short name, from a closed set.
    pub name: String,
    /// Whether the candidate passed it.
    pub passed: bool,
    /// What was found, in words with its figures.
    pub found: String,
    /// What was measured, short; empty where there is nothing to measure or an older gate ruled.
    #[serde(default)]
    pub figure: String,
    /// What it had to keep to, short; empty likewise.
    #[serde(default)]
    pub limit: String,
}

impl Check {
    fn new(name: &str, passed: bool, figure: String, limit: String, found: String) -> Self {
        Self { name: name.into(), passed, found, figure, limit }
    }
}

/// What the gate says and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ruling {
    /// True only if every check passed.
    pub promote: bool,
    /// All checks that could be made.
    pub checks: Vec<Check>,
    /// Held-out pictures.
    pub pictures: usize,
    /// Accuracy of the incumbent and of the candidate.
    pub accuracy: [f64; 2],
    /// Share of the held-out pictures on which one would pass the item and the other not.
    pub disagreement: f64,
    /// The shadow run, once it is over.
    pub shadow: Option<Shadow>,
}

impl Ruling {
    fn of(checks: Vec<Check>) -> Self {
        let promote = checks.iter().all(|check| check.passed);
        Self { promote, checks, pictures: 0, accuracy: [0.0; 2], disagreement: 0.0, shadow: None }
    }

    /// The checks that failed, in words; empty when none did.
    pub fn reasons(&self) -> String {
        let failed: Vec<_> =
            self.checks.iter().filter(|c| !c.passed).map(|c| format!("{}: {}", c.name, c.found)).collect();
        failed.join("; ")
    }
}

/// Weighs `candidate` against `incumbent`.
pub fn rule(incumbent: &Exam, candidate: &Exam, truth: &Truth, limits: &Limits) -> Ruling {
    let same = incumbent.classes == candidate.classes && incumbent.accept == candidate.accept;
    let classes = Check::new(
        "classes",
        same,
        format!("{} classes", candidate.classes.len()),
        "the same".into(),
        if same {
            candidate.classes.join(", ")
        } else {
            let listed = |exam: &Exam| format!("{} (accepting {})", exam.classes.join(", "), exam.accept.join(", "));
            format!("the candidate knows {}, the incumbent {}", listed(candidate), listed(incumbent))
        },
    );
    let known = |name: &String| candidate.classes.iter().position(|class| class == name);
    let index = |names: &[String]| names.iter().map(known).collect::<Option<Vec<usize>>>();
    let whole = |exam: &Exam| {
        exam.clean.len() == truth.clean.len()
            && exam.accepted.len() == truth.clean.len()
            && exam.damaged.len() == truth.damaged.len()
            && exam
                .clean
                .iter()
                .chain(&exam.damaged)
                .all(|row| row.len() == exam.classes.len() && row.iter().all(|p| p.is_finite()))
    };
    let complete = !truth.clean.is_empty() && whole(incumbent) && whole(candidate);
    let (true, true, Some(clean), Some(damaged)) = (same, complete, index(&truth.clean), index(&truth.damaged)) else {
        let why = format!("{} pictures, of which not all have finite answers of known classes", truth.clean.len());
        return Ruling::of(if same {
            vec![classes, Check::new("answers", false, String::new(), String::new(), why)]
        } else {
            vec![classes]
        });
    };

    let right = |rows: &[Vec<f32>], truth: &[usize]| -> Vec<bool> {
        rows.iter().zip(truth).map(|(row, t)| argmax(row) == *t).collect()
    };
    let (old, new) = (right(&incumbent.clean, &clean), right(&candidate.clean, &clean));
    let pairs = || old.iter().zip(&new);
    let won = pairs().filter(|(old, new)| !**old && **new).count();
    let lost = pairs().filter(|(old, new)| **old && !**new).count();
    let p = mcnemar(won, lost);
    let gain = (won as f64 - lost as f64) / clean.len() as f64;
    let better = Check::new(
        "better",
        p <= limits.significance && won > lost,
        format!("{gain:+.4}, p = {p:.4}"),
        format!("above 0, p ≤ {}", limits.significance),
        format!(
            "{gain:+.4} on {} held-out pictures ({won} mended, {lost} broken; 95 % interval {:+.4} to {:+.4}; p = {p:.4}, \
             wanted at most {})",
            clean.len(),
            gain - 1.96 * deviation(won, lost, clean.len()),
            gain + 1.96 * deviation(won, lost, clean.len()),
            limits.significance
        ),
    );

    let recall = |right: &[bool], class: usize| {
        share(right.iter().zip(&clean).filter(|(_, t)| **t == class).map(|(right, _)| *right))
    };
    let losses = candidate.classes.iter().enumerate().map(|(c, name)| (recall(&old, c) - recall(&new, c), name));
    let (worst, class) = losses.max_by(|a, b| a.0.total_cmp(&b.0)).map_or((0.0, ""), |(loss, name)| (loss, name));
    let every_class = Check::new(
        "every class",
        worst <= limits.class_loss,
        format!("{:+.4} ({class})", -worst),
        format!("≥ {:+.4}", -limits.class_loss),
        format!("{class} changes most for the worse: {:+.4} of its recall, allowed {:+.4}", -worst, -limits.class_loss),
    );

    let bad: Vec<bool> = truth.clean.iter().map(|name| !candidate.accept.contains(name)).collect();
    let passes = |exam: &Exam| share(exam.accepted.iter().zip(&bad).filter(|(_, bad)| **bad).map(|(a, _)| *a));
    let more = passes(candidate) - passes(incumbent);
    let false_accepts = Check::new(
        "false accepts",
        more <= limits.more_false_accepts,
        format!("{more:+.4}"),
        format!("≤ {:+.4}", limits.more_false_accepts),
        format!(
            "{:.4} of the bad items pass, {:.4} with the incumbent, allowed {:+.4}",
            passes(candidate),
            passes(incumbent),
            limits.more_false_accepts
        ),
    );

    let errors = [incumbent, candidate].map(|exam| calibration_error(&exam.clean, &clean, 15));
    let allowed = limits.calibration_error.max(errors[0]);
    let calibrated = Check::new(
        "calibrated",
        errors[1] <= allowed,
        format!("{:.4}", errors[1]),
        format!("≤ {allowed:.4}"),
        format!("expected calibration error {:.4}, the incumbent's {:.4}", errors[1], errors[0]),
    );

    let [sturdy_old, sturdy_new] = [incumbent, candidate].map(|exam| share(right(&exam.damaged, &damaged).into_iter()));
    let robust = Check::new(
        "robust",
        sturdy_old - sturdy_new <= limits.damaged_loss,
        format!("{:+.4}", sturdy_new - sturdy_old),
        format!("≥ {:+.4}", -limits.damaged_loss),
        format!("accuracy {sturdy_new:.4} on damaged pictures, the incumbent's {sturdy_old:.4}"),
    );

    let fast = Check::new(
        "fast enough",
        candidate.infer_ms <= limits.slower * incumbent.infer_ms,
        format!("{:.2} times", candidate.infer_ms / incumbent.infer_ms),
        format!("≤ {} times", limits.slower),
        format!(
            "{:.2} ms a picture, the incumbent {:.2} ms, allowed {} times that",
            candidate.infer_ms, incumbent.infer_ms, limits.slower
        ),
    );

    let apart = incumbent.accepted.iter().zip(&candidate.accepted).map(|(a, b)| a != b);
    Ruling {
        pictures: clean.len(),
        accuracy: [share(old.iter().copied()), share(new.iter().copied())],
        disagreement: share(apart),
        ..Ruling::of(vec![classes, better, every_class, false_accepts, calibrated, robust, fast])
    }
}

/// What happened while the candidate scored live items beside the incumbent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Items scored by both.
    pub items: usize,
    /// Items on which one would pass it and the other not.
    pub apart: usize,
    /// Items for which the candidate had no scores.
    pub faults: usize,
}

/// The last check: `ruling` with what the shadow run says.
pub fn with_shadow(mut ruling: Ruling, shadow: Shadow, limits: &Limits) -> Ruling {
    let apart = shadow.apart as f64 / shadow.items.max(1) as f64;
    let allowed = ruling.disagreement + limits.shadow_disagreement;
    ruling.checks.push(Check::new(
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
    fn exam(right: &[bool], truth: &[usize]) -> Exam {
        let rows: Vec<Vec<f32>> = right
            .iter()
            .zip(truth)
            .map(|(right, t)| {
                let said = if *right { *t } else { (t + 1) % 3 };
                (0..3).map(|c| if c == said { 0.92 } else { 0.04 }).collect()
            })
            .collect();
        Exam {
            classes: CLASSES.map(String::from).to_vec(),
            accept: vec!["salmon".into()],
            accepted: rows.iter().map(|row| row[0] > 0.5).collect(),
            damaged: rows[..HELD_OUT / 2].to_vec(),
            clean: rows,
            infer_ms: 8.0,
        }
    }

    fn truth_of(truth: &[usize]) -> Truth {
        let names = |t: &[usize]| t.iter().map(|t| CLASSES[*t].to_string()).collect();
        Truth { clean: names(truth), damaged: names(&truth[..HELD_OUT / 2]) }
    }

    /// Two models that are right on 90 % and 90 % + `gain` of the pictures and differ on 7 % of them (as two students
    /// of one teacher do), drawn anew for each `seed`.
    fn rule_by_chance(gain: f64, seed: u64) -> Ruling {
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
        rule(&exam(&old, &truth), &exam(&new, &truth), &truth_of(&truth), &Limits::default())
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
    fn better() -> (Exam, Exam, Truth) {
        let truth: Vec<usize> = (0..HELD_OUT).map(|i| i % 3).collect();
        let old: Vec<bool> = (0..HELD_OUT).map(|i| i % 7 != 0).collect();
        let new: Vec<bool> = (0..HELD_OUT).map(|i| i % 21 != 0).collect();
        (exam(&old, &truth), exam(&new, &truth), truth_of(&truth))
    }

    fn reasons(spoil: impl Fn(&mut Exam, &mut Truth)) -> String {
        let (old, mut new, mut truth) = better();
        spoil(&mut new, &mut truth);
        let ruling = rule(&old, &new, &truth, &Limits::default());
        assert_eq!(ruling.promote, ruling.reasons().is_empty());
        ruling.reasons()
    }

    #[test]
    fn every_way_to_be_worse_is_held_with_its_reason() {
        assert_eq!(reasons(|_, _| ()), "");
        // 10 of the 333 bass that both know: 3 points of one class, while the whole gains 8.
        let worse_on_bass = |new: &mut Exam, truth: &mut Truth| {
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
        let empty = Truth { clean: vec![], damaged: vec![] };
        let none = Exam { clean: vec![], accepted: vec![], damaged: vec![], ..better().0 };
        assert!(!rule(&none, &none, &empty, &Limits::default()).promote);
    }

    #[test]
    fn the_shadow_run_has_the_last_word() {
        let (old, new, truth) = better();
        let limits = Limits::default();
        let after = |items, apart, faults| {
            with_shadow(rule(&old, &new, &truth, &limits), Shadow { items, apart, faults }, &limits)
        };
        assert!(after(200, 20, 0).promote);
        assert!(!after(199, 0, 0).promote, "too few items");
        assert!(!after(200, 0, 1).promote, "a fault");
        let ruling = after(200, 100, 0);
        assert!(!ruling.promote && ruling.reasons().starts_with("shadow: 200 live items"), "{}", ruling.reasons());
    }
}
