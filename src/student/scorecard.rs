//! What a classifier is worth on labeled pictures: AUC, average precision, recall at fixed false accepts, calibration,
//! confusion.
//!
//! For accept-or-reject figures the *positive* is an item of an accepted class, its score the summed probability of
//! the accepted classes. A *false accept* is an item of another class that would pass.

use serde::{Deserialize, Serialize};

/// Measured quality on a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scorecard {
    /// Pictures measured.
    pub pictures: usize,
    /// Share of pictures whose most probable class is the true one.
    pub accuracy: f64,
    /// Area under the ROC curve, accepted against the rest; ties count half.
    pub auc: f64,
    /// Area under the precision-recall curve (average precision).
    pub average_precision: f64,
    /// Largest share of good items that pass while at most 1 % of the bad ones do.
    pub recall_at_1pct_false_accepts: f64,
    /// The same at 0.1 %; with fewer than 1,000 bad items this means none.
    pub recall_at_01pct_false_accepts: f64,
    /// Expected calibration error of the top class, 15 equal bins (Guo et al. 2017, §2).
    pub calibration_error: f64,
    /// Classes in order.
    pub classes: Vec<String>,
    /// Recall per class; NaN-free: 0 where a class has no pictures.
    pub recall_per_class: Vec<f64>,
    /// `confusion[truth][said]`, counts.
    pub confusion: Vec<Vec<usize>>,
    /// What would happen to them on the line; absent where nothing was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided: Option<Decided>,
}

/// What the thresholds, and the limit to the unknown, make of labeled items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// Items of an accepted class.
    pub good: usize,
    /// Of these, those that would not pass.
    pub false_rejects: usize,
    /// Items of other classes.
    pub bad: usize,
    /// Of these, those that would pass.
    pub escapes: usize,
}

impl Decided {
    /// Counts one item.
    pub fn add(&mut self, good: bool, passes: bool) {
        let (all, wrong) =
            if good { (&mut self.good, &mut self.false_rejects) } else { (&mut self.bad, &mut self.escapes) };
        *all += 1;
        *wrong += usize::from(good != passes);
    }
}

impl Scorecard {
    /// Measures `probabilities` (one row per picture, in the order of `classes`) against `truth` (class indices);
    /// `accept` names the accepted classes.
    pub fn measure(probabilities: &[Vec<f32>], truth: &[usize], classes: &[String], accept: &[String]) -> Self {
        assert_eq!(probabilities.len(), truth.len(), "one row of probabilities per true class");
        let mut confusion = vec![vec![0; classes.len()]; classes.len()];
        for (row, &t) in probabilities.iter().zip(truth) {
            confusion[t][argmax(row)] += 1;
        }
        let right: usize = (0..classes.len()).map(|c| confusion[c][c]).sum();
        let ranked = ranked(probabilities, truth, classes, accept);
        Self {
            pictures: truth.len(),
            accuracy: share(right, truth.len()),
            auc: auc(&ranked),
            average_precision: average_precision(&ranked),
            recall_at_1pct_false_accepts: recall_at(&ranked, 0.01),
            recall_at_01pct_false_accepts: recall_at(&ranked, 0.001),
            calibration_error: calibration_error(probabilities, truth, 15),
            recall_per_class: (0..classes.len()).map(|c| share(confusion[c][c], confusion[c].iter().sum())).collect(),
            classes: classes.to_vec(),
            confusion,
            decided: None,
        }
    }
}

impl std::fmt::Display for Scorecard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(Decided { good, false_rejects, bad, escapes }) = self.decided {
            writeln!(f, "escapes                       {escapes:>8} of {bad} that must not pass")?;
            writeln!(f, "false rejects                 {false_rejects:>8} of {good} that may pass")?;
        }
        writeln!(f, "pictures                      {:>8}", self.pictures)?;
        writeln!(f, "accuracy (top-1)              {:>8.4}", self.accuracy)?;
        writeln!(f, "AUC                           {:>8.4}", self.auc)?;
        writeln!(f, "average precision             {:>8.4}", self.average_precision)?;
        writeln!(f, "recall at 1 % false accepts   {:>8.4}", self.recall_at_1pct_false_accepts)?;
        writeln!(f, "recall at 0.1 % false accepts {:>8.4}", self.recall_at_01pct_false_accepts)?;
        writeln!(f, "calibration error             {:>8.4}", self.calibration_error)?;
        writeln!(f, "\nconfusion (rows: truth, columns: said)")?;
        for (c, name) in self.classes.iter().enumerate() {
            let row: Vec<String> = self.confusion[c].iter().map(|n| format!("{n:>4}")).collect();
            writeln!(f, "  {name:<20} {}  recall {:.3}", row.join(""), self.recall_per_class[c])?;
        }
        Ok(())
    }
}

/// Index of the largest value; NaN never wins; 0 for an empty row.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in row.iter().enumerate() {
        if *value > row[best] || row[best].is_nan() {
            best = i;
        }
    }
    best
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Per picture: the summed probability of the accepted classes, and whether its true class is one of them.
pub fn ranked(probabilities: &[Vec<f32>], truth: &[usize], classes: &[String], accept: &[String]) -> Vec<(f64, bool)> {
    let accepted: Vec<bool> = classes.iter().map(|c| accept.contains(c)).collect();
    let score = |row: &[f32]| row.iter().zip(&accepted).filter(|(_, a)| **a).map(|(p, _)| f64::from(*p)).sum();
    probabilities.iter().zip(truth).map(|(row, &t)| (score(row), accepted[t])).collect()
}

/// Mann–Whitney form of the area under the ROC curve; 0.5 when one side is empty.
pub fn auc(ranked: &[(f64, bool)]) -> f64 {
    let mut sorted = ranked.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut start) = (0.0, 0);
    while start < sorted.len() {
        let end = start + sorted[start..].iter().take_while(|x| x.0 == sorted[start].0).count().max(1);
        let rank = (start + end + 1) as f64 / 2.0; // mean of ranks start+1 ..= end
        rank_sum += rank * sorted[start..end].iter().filter(|x| x.1).count() as f64;
        start = end;
    }
    let good = sorted.iter().filter(|x| x.1).count() as f64;
    let bad = sorted.len() as f64 - good;
    if good == 0.0 || bad == 0.0 { 0.5 } else { (rank_sum - good * (good + 1.0) / 2.0) / (good * bad) }
}

fn average_precision(ranked: &[(f64, bool)]) -> f64 {
    let total = ranked.iter().filter(|x| x.1).count();
    let (mut area, mut last_recall) = (0.0, 0.0);
    for (passed_good, passed_bad, _) in cuts(ranked) {
        let recall = share(passed_good, total);
        area += (recall - last_recall) * share(passed_good, passed_good + passed_bad);
        last_recall = recall;
    }
    area
}

fn recall_at(ranked: &[(f64, bool)], false_accepts: f64) -> f64 {
    let good = ranked.iter().filter(|x| x.1).count();
    let bad = ranked.len() - good;
    cuts(ranked)
        .into_iter()
        .filter(|(_, passed_bad, _)| share(*passed_bad, bad) <= false_accepts)
        .map(|(passed_good, _, _)| share(passed_good, good))
        .fold(0.0, f64::max)
}

/// Threshold on the accept score from which on at most `false_accepts` (a share) of the bad items pass: half-way between the
/// lowest score that passes and the highest that does not, so that it does not hang on one picture's score. `None` without
/// good or without bad items, and where no threshold achieves it.
pub fn threshold_at(ranked: &[(f64, bool)], false_accepts: f64) -> Option<f64> {
    let bad = ranked.iter().filter(|x| !x.1).count();
    if bad == 0 || bad == ranked.len() {
        return None;
    }
    let cuts = cuts(ranked);
    let passing = cuts.iter().take_while(|(_, passed_bad, _)| share(*passed_bad, bad) <= false_accepts);
    // Bad items alone may come last: what passes must end with a good one.
    let last_good = passing.enumerate().filter(|(at, (good, ..))| *at == 0 || *good > cuts[at - 1].0).last()?.0;
    let (good, _, lowest) = cuts[last_good];
    let next = cuts.get(last_good + 1).map_or(0.0, |next| next.2);
    (good > 0).then_some((lowest + next) / 2.0)
}

/// For every distinct score from high to low: good and bad items at or above it, and the score.
fn cuts(ranked: &[(f64, bool)]) -> Vec<(usize, usize, f64)> {
    let mut sorted = ranked.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut good, mut bad, mut cuts) = (0, 0, Vec::new());
    for (i, (score, is_good)) in sorted.iter().enumerate() {
        if *is_good {
            good += 1
        } else {
            bad += 1
        }
        if sorted.get(i + 1).is_none_or(|next| next.0 != *score) {
            cuts.push((good, bad, *score));
        }
    }
    cuts
}

/// Expected calibration error of the most probable class over `bins` equal bins of confidence.
pub fn calibration_error(probabilities: &[Vec<f32>], truth: &[usize], bins: usize) -> f64 {
    reliability(probabilities, truth, bins)
        .iter()
        .map(|bin| (bin.accuracy - bin.confidence).abs() * share(bin.pictures, truth.len()))
        .sum()
}

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Pictures whose confidence falls in the bin.
    pub pictures: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// Their accuracy.
    pub accuracy: f64,
}

/// Reliability diagram of the most probable class.
pub fn reliability(probabilities: &[Vec<f32>], truth: &[usize], bins: usize) -> Vec<Bin> {
    let mut table = vec![Bin::default(); bins];
    for (row, &t) in probabilities.iter().zip(truth) {
        let top = argmax(row);
        let bin = &mut table[((row[top] * bins as f32) as usize).min(bins - 1)];
        bin.pictures += 1;
        bin.confidence += f64::from(row[top]);
        bin.accuracy += f64::from(u8::from(top == t));
    }
    for bin in table.iter_mut().filter(|bin| bin.pictures > 0) {
        bin.confidence /= bin.pictures as f64;
        bin.accuracy /= bin.pictures as f64;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_counts_ties_as_half() {
        assert_eq!(auc(&[(0.9, true), (0.5, true), (0.5, false), (0.1, false)]), 3.5 / 4.0);
        assert_eq!(auc(&[(0.2, true), (0.8, false)]), 0.0);
    }

    #[test]
    fn recall_at_fixed_false_accepts_uses_the_best_threshold() {
        let mut ranked: Vec<(f64, bool)> = (0..100).map(|i| (i as f64 / 200.0, false)).collect();
        ranked.extend([(0.9, true), (0.8, true), (0.494, true), (0.1, true)]);
        assert_eq!(recall_at(&ranked, 0.0), 0.5); // 0.495 is the best bad item
        assert_eq!(recall_at(&ranked, 0.01), 0.75);
        assert_eq!(threshold_at(&ranked, 0.01), Some((0.494 + 0.49) / 2.0), "0.495 may pass, 0.490 may not");
        assert_eq!(threshold_at(&[(0.9, false), (0.8, true)], 0.01), None);
        assert_eq!(threshold_at(&[(0.9, true)], 0.01), None);
    }

    #[test]
    fn average_precision_of_a_known_ranking() {
        // good, bad, good: 1/2 * 1 + 1/2 * 2/3
        let ap = average_precision(&[(0.9, true), (0.8, false), (0.7, true)]);
        assert!((ap - (0.5 + 1.0 / 3.0)).abs() < 1e-12);
    }

    #[test]
    fn calibration_error_of_overconfidence() {
        let rows = vec![vec![0.9, 0.1]; 10];
        let truth = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1];
        assert!((calibration_error(&rows, &truth, 15) - 0.4).abs() < 1e-6);
    }

    #[test]
    fn the_confusion_counts_what_was_said() {
        let classes = ["a".to_string(), "b".to_string()];
        let card =
            Scorecard::measure(&[vec![0.8, 0.2], vec![0.7, 0.3], vec![0.1, 0.9]], &[0, 1, 1], &classes, &classes[..1]);
        assert_eq!(card.confusion, [[1, 0], [1, 1]]);
        assert_eq!(card.recall_per_class, [1.0, 0.5]);
        assert_eq!(card.auc, 1.0);
    }
}
