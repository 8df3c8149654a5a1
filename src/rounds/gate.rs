//! The promotion gate: two students' answers on the same held-out pictures → a [`PromotionGateRuling`]. Pure.
//!
//! Every check is a function of its own, listed in [`CHECKS`]; a new one is written there and gets its limit in
//! [`PromotionGateLimits`].
//!
//! Invariant: doubt holds the candidate. Every check must pass; NaN, missing or unequal figures fail theirs.

use serde::{Deserialize, Serialize};

use super::sides::{self, Evidence, PairedDraw};
use crate::student::scorecard::{argmax, calibration_error};

/// What a candidate must keep to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromotionGateLimits {
    /// Level of the test that the candidate costs less: this share of equal candidates may look better by chance. 0.05 over
    /// the [`PromotionGateLimits::tests`] that one audit has to bear.
    pub significance: f64,
    /// Level of each of the two tests that it is not worse, on one side of the gate each.
    pub not_worse: f64,
    /// Share of the bad items that may pass in addition.
    pub more_false_accepts: f64,
    /// Share of the good items that may be kept from passing in addition.
    pub more_false_rejects: f64,
    /// What an escape costs, in false rejects.
    pub escape_cost: f64,
    /// Candidates that one store's answers may judge, whatever became of them; then nothing is promoted any more.
    pub tests: u32,
    /// Recall that a class may lose, as a share of its pictures.
    pub class_loss: f64,
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
            significance: 0.05 / 50.0,
            not_worse: 0.025,
            more_false_accepts: 0.005,
            more_false_rejects: 0.01,
            escape_cost: 20.0,
            tests: 50,
            class_loss: 0.02,
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
    /// Per held-out picture its class name; empty where people can't tell.
    pub clean: Vec<String>,
    /// Per held-out picture the least chance of any item when it was drawn over its own; empty where all had the same.
    #[serde(default)]
    pub weights: Vec<f64>,
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
        accuracy: [&pair.old_right, &pair.new_right].map(|right| {
            share(right.iter().zip(&pair.clean).filter(|(_, class)| class.is_some()).map(|(right, _)| *right))
        }),
        disagreement: share(incumbent.accepted.iter().zip(&candidate.accepted).map(|(old, new)| old != new)),
        ..PromotionGateRuling::of(std::iter::once(classes).chain(checks).collect())
    }
}

/// What a comparable pair of students is checked for, in the order of the ruling.
const CHECKS: [fn(&ExamPair<'_>, &PromotionGateLimits) -> PromotionGateCheck; 7] =
    [escapes, false_rejects, better, every_class, calibrated, robust, fast_enough];

/// Two students' whole answers to the same pictures, over the same classes.
struct ExamPair<'a> {
    incumbent: &'a ExamAnswers,
    candidate: &'a ExamAnswers,
    truth: &'a HeldOutTruth,
    /// Per held-out picture the index of its class; `None` where people can't tell.
    clean: Vec<Option<usize>>,
    /// Per damaged picture the index of its class.
    damaged: Vec<Option<usize>>,
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
        let clean: Vec<Option<usize>> = truth
            .clean
            .iter()
            .map(|name| if name.is_empty() { Some(None) } else { class(name).map(Some) })
            .collect::<Option<_>>()?;
        let damaged = truth.damaged.iter().map(|name| class(name).map(Some)).collect::<Option<_>>()?;
        let (old_right, new_right) = (right(&incumbent.clean, &clean), right(&candidate.clean, &clean));
        Some(Self { incumbent, candidate, truth, clean, damaged, old_right, new_right })
    }

    /// What the students would have done with the held-out items.
    fn draws(&self) -> Vec<PairedDraw> {
        let passes = self.incumbent.accepted.iter().zip(&self.candidate.accepted);
        let draw = |(at, (old, new)): (usize, (&bool, &bool))| PairedDraw {
            good: self.clean[at].map(|class| self.candidate.accept.contains(&self.candidate.classes[class])),
            weight: self.truth.weights.get(at).copied().unwrap_or(1.0),
            passes: [*old, *new],
        };
        passes.enumerate().map(draw).collect()
    }
}

/// Per picture whether its class is the most probable one.
fn right(probabilities: &[Vec<f32>], truth: &[Option<usize>]) -> Vec<bool> {
    probabilities.iter().zip(truth).map(|(row, class)| Some(argmax(row)) == *class).collect()
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

/// Hardly more of the bad items pass.
fn escapes(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let found = sides::escapes(&pair.draws(), limits.more_false_accepts, limits.not_worse);
    side("escapes", "bad", limits.more_false_accepts, limits.not_worse, &found)
}

/// Hardly more of the good items are kept from passing.
fn false_rejects(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let found = sides::false_rejects(&pair.draws(), limits.more_false_rejects, limits.not_worse);
    side("false rejects", "good", limits.more_false_rejects, limits.not_worse, &found)
}

fn side(name: &str, kind: &str, margin: f64, level: f64, found: &Evidence) -> PromotionGateCheck {
    let Evidence { shown, answers, wrong: [old, new], .. } = found;
    let wanted = format!("at most {margin:+} of the {kind} ones more, at a level of {level}");
    PromotionGateCheck::new(
        name,
        *shown,
        format!("{new} of {answers}, {old} before"),
        format!("≤ {margin:+}"),
        format!(
            "{new} of {answers} {kind} items decided wrongly, {old} by the incumbent; {wanted}{}",
            needs(found, &format!("answers on {kind} items"))
        ),
    )
}

/// Its wrong decisions cost less than the incumbent's, beyond chance.
fn better(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let found = sides::cost(&pair.draws(), limits.escape_cost, limits.significance);
    let Evidence { shown, answers, wrong: [old, new], .. } = &found;
    PromotionGateCheck::new(
        "better",
        *shown,
        format!("{new} wrong of {answers}, {old} before"),
        format!("cost below, level {}", limits.significance),
        format!(
            "{new} of {answers} items decided wrongly, {old} by the incumbent, an escape counted as {} false rejects; it must \
             cost less at a level of {}{}",
            limits.escape_cost,
            limits.significance,
            needs(&found, "such answers")
        ),
    )
}

/// What a check that is not passed waits for.
fn needs(found: &Evidence, what: &str) -> String {
    match found.needed {
        _ if found.shown => String::new(),
        Some(more) => format!("; needs {more} more {what}"),
        None => "; what was answered speaks against it".into(),
    }
}

/// No class loses much of its recall.
fn every_class(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let recall = |right: &[bool], class: usize| {
        share(right.iter().zip(&pair.clean).filter(|(_, truth)| **truth == Some(class)).map(|(right, _)| *right))
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

/// Its probabilities mean what they say, or as much as the incumbent's do.
fn calibrated(pair: &ExamPair<'_>, limits: &PromotionGateLimits) -> PromotionGateCheck {
    let known: Vec<usize> = pair.clean.iter().flatten().copied().collect();
    let [old, new] = [pair.incumbent, pair.candidate].map(|exam| {
        let rows = exam.clean.iter().zip(&pair.clean).filter(|(_, class)| class.is_some());
        calibration_error(&rows.map(|(row, _)| row.clone()).collect::<Vec<_>>(), &known, 15)
    });
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

/// Another check on `ruling`: the answers that judged it may have judged only so many before. Each test has its share of the
/// error; when it is spent, no further one proves anything.
pub fn within(mut ruling: PromotionGateRuling, before: u32, limits: &PromotionGateLimits) -> PromotionGateRuling {
    ruling.checks.push(PromotionGateCheck::new(
        "tests",
        before < limits.tests,
        format!("{}", before + 1),
        format!("≤ {}", limits.tests),
        format!("the store's answers judged {before} candidates before, and may judge {} in all", limits.tests),
    ));
    ruling.promote = ruling.checks.iter().all(|check| check.passed);
    ruling
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

    /// Pictures of the simulated held-out sets.
    const HELD_OUT: usize = 3000;
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
            damaged: rows[..rows.len() / 2].to_vec(),
            clean: rows,
            infer_ms: 8.0,
        }
    }

    fn truth_of(truth: &[usize], weights: Vec<f64>) -> HeldOutTruth {
        let names = |t: &[usize]| t.iter().map(|t| CLASSES[*t].to_string()).collect();
        HeldOutTruth { clean: names(truth), damaged: names(&truth[..truth.len() / 2]), weights }
    }

    /// Nearly normal: a sum of twelve even draws.
    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0
    }

    /// An item of the belt: its class, and the margins with which both students are right, or wrong below 0.
    struct BeltItem {
        class: usize,
        margins: [f64; 2],
    }

    /// Students that are right on 95 % and on what `quantile` of the normal distribution says, with correlated margins. Half of
    /// the items are good.
    fn belt(items: usize, correlation: f64, quantile: f64, rng: &mut ChaCha8Rng) -> Vec<BeltItem> {
        let item = |at: usize, rng: &mut ChaCha8Rng| {
            let (own, other) = (normal(rng), normal(rng));
            let second = correlation * own + (1.0 - correlation * correlation).sqrt() * other;
            BeltItem { class: [0, 1, 0, 2][at % 4], margins: [1.645 + own, quantile + second] }
        };
        (0..items).map(|at| item(at, rng)).collect()
    }

    fn judge(items: &[(BeltItem, f64)], limits: &PromotionGateLimits) -> PromotionGateRuling {
        let truth: Vec<usize> = items.iter().map(|(item, _)| item.class).collect();
        let right = |who: usize| items.iter().map(|(item, _)| item.margins[who] > 0.0).collect::<Vec<_>>();
        let truth_of = truth_of(&truth, items.iter().map(|(_, weight)| *weight).collect());
        rule(&exam(&right(0), &truth), &exam(&right(1), &truth), &truth_of, limits)
    }

    /// Draws `answers` items by chance, three times as often where the incumbent is in doubt.
    fn audit(answers: usize, correlation: f64, quantile: f64, rng: &mut ChaCha8Rng) -> Vec<(BeltItem, f64)> {
        let mut drawn = Vec::new();
        while drawn.len() < answers {
            let item = belt(4, correlation, quantile, rng).swap_remove(rng.random_range(0..4));
            let doubtful = item.margins[0].abs() < 1.0;
            if doubtful || rng.random_bool(1.0 / 3.0) {
                drawn.push((item, if doubtful { 1.0 / 3.0 } else { 1.0 }));
            }
        }
        drawn
    }

    /// Only that it is wrong less often counts, and that hardly.
    fn only_better() -> PromotionGateLimits {
        PromotionGateLimits {
            more_false_accepts: 0.9,
            more_false_rejects: 0.9,
            class_loss: 1.0,
            calibration_error: 1.0,
            damaged_loss: 1.0,
            escape_cost: 1.0,
            significance: 0.025,
            ..PromotionGateLimits::default()
        }
    }

    #[test]
    fn of_2000_equal_students_at_most_5_percent_are_promoted_by_60_answers_of_the_audit() {
        for correlation in [0.0, 0.5, 0.8] {
            let (mut by_audit, mut strictly, mut by_doubt) = (0, 0, 0);
            for seed in 0..2000 {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let drawn = audit(60, correlation, 1.645, &mut rng);
                by_audit += usize::from(judge(&drawn, &only_better()).promote);
                strictly += usize::from(judge(&drawn, &PromotionGateLimits::default()).promote);
                // What the gate was given before: of 600 items those that the incumbent doubted most.
                let mut asked = belt(600, correlation, 1.645, &mut rng);
                asked.sort_by(|a, b| a.margins[0].abs().total_cmp(&b.margins[0].abs()));
                let asked: Vec<_> = asked.into_iter().take(60).map(|item| (item, 1.0)).collect();
                by_doubt += usize::from(judge(&asked, &only_better()).promote);
            }
            println!(
                "margins {correlation} correlated: {by_audit} of 2000 promoted, {strictly} with margins; {by_doubt} by doubt"
            );
            assert!(by_audit <= 100 && strictly <= 100, "{by_audit} and {strictly} of 2000 equal students");
            assert!(correlation > 0.0 || by_doubt > 400, "the audit makes no difference: {by_doubt}");
        }
    }

    #[test]
    fn one_that_lets_one_more_of_100_bad_items_pass_is_promoted_by_chance_alone() {
        // 95 % right, and 94 %: its margins are shown on either side in at most 5 % of the runs, however many answers.
        let limits = PromotionGateLimits { significance: 0.9, ..only_better() };
        let limits = PromotionGateLimits { more_false_accepts: 0.005, ..limits };
        let promoted = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let ruling = judge(&audit(3000, 0.8, 1.555, &mut rng), &limits);
            ruling.checks.iter().any(|check| check.name == "escapes" && check.passed)
        };
        let passed = (0..200).filter(|seed| promoted(*seed)).count();
        assert!(passed <= 10, "{passed} of 200 pass though a point more of the bad items do");
    }

    #[test]
    fn a_better_student_is_promoted_when_the_answers_suffice() {
        // 95 % right, then 98 %.
        let limits = PromotionGateLimits { class_loss: 0.1, damaged_loss: 0.1, ..PromotionGateLimits::default() };
        let promoted = |answers: usize| {
            (0..100)
                .filter(|seed| {
                    judge(&audit(answers, 0.8, 2.054, &mut ChaCha8Rng::seed_from_u64(*seed)), &limits).promote
                })
                .count()
        };
        let (few, many) = (promoted(200), promoted(3000));
        println!("{few} of 100 promoted by 200 answers, {many} by 3000");
        assert!(many >= 80 && few <= 20, "{few} by 200 answers, {many} by 3000");
    }

    /// A clearly better candidate, for the other checks to spoil.
    fn better() -> (ExamAnswers, ExamAnswers, HeldOutTruth) {
        let truth: Vec<usize> = (0..HELD_OUT).map(|i| i % 3).collect();
        let old: Vec<bool> = (0..HELD_OUT).map(|i| i % 7 != 0).collect();
        let new: Vec<bool> = (0..HELD_OUT).map(|i| i % 21 != 0).collect();
        (exam(&old, &truth), exam(&new, &truth), truth_of(&truth, vec![]))
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
        // Of the bass it knows 4 points less than the incumbent, while the whole gains.
        let worse_on_bass = |new: &mut ExamAnswers, truth: &mut HeldOutTruth| {
            let bass = (0..HELD_OUT).filter(|&i| truth.clean[i] == "bass" && i % 7 != 0);
            for i in bass.take(180) {
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
        assert!(why.starts_with("escapes: 2000 of 2000 bad items decided wrongly, 143 by the incumbent"), "{why}");
        let why = reasons(|new, _| new.accepted.fill(false));
        assert!(why.starts_with("false rejects: 1000 of 1000 good items decided wrongly"), "{why}");
        let why = reasons(|new, _| new.damaged.iter_mut().take(300).for_each(|row| row.rotate_left(1)));
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
        let empty = HeldOutTruth { clean: vec![], damaged: vec![], weights: vec![] };
        let none = ExamAnswers { clean: vec![], accepted: vec![], damaged: vec![], ..better().0 };
        assert!(!rule(&none, &none, &empty, &PromotionGateLimits::default()).promote);
    }

    #[test]
    fn nothing_bad_among_the_answers_proves_nothing_and_it_is_said_how_many_are_needed() {
        let truth = vec![0; 400];
        let (old, new): (Vec<bool>, Vec<bool>) = (0..400).map(|i| (i % 2 == 0, true)).unzip();
        let ruling =
            rule(&exam(&old, &truth), &exam(&new, &truth), &truth_of(&truth, vec![]), &PromotionGateLimits::default());
        let escapes = ruling.checks.iter().find(|check| check.name == "escapes").unwrap();
        assert!(!escapes.passed, "0 of none is no proof: {escapes:?}");
        assert!(escapes.found.contains("0 of 0 bad items") && escapes.found.contains("; needs "), "{escapes:?}");
        let needed: usize = escapes.found.split("needs ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!((700..1100).contains(&needed), "{needed}: without a difference ln 40 / 0.005 = 738 at least");
    }

    #[test]
    fn what_people_cannot_tell_counts_at_its_worst() {
        let (old, mut new, mut truth) = better();
        let limits = PromotionGateLimits { class_loss: 0.1, ..PromotionGateLimits::default() };
        assert!(rule(&old, &new, &truth, &limits).promote);
        truth.clean.iter_mut().step_by(3).take(40).for_each(String::clear);
        let why = rule(&old, &new, &truth, &limits).reasons();
        assert_eq!(why, "", "both decide alike on them");
        truth.clean.iter_mut().skip(601).step_by(3).take(200).for_each(String::clear);
        new.accepted.iter_mut().skip(601).step_by(3).take(200).for_each(|passes| *passes = true);
        let why = rule(&old, &new, &truth, &limits).reasons();
        assert!(why.starts_with("escapes: "), "{why}");
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
