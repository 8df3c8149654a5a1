//! `results.json`: what a comparison of learning methods found, and what can be asked of it.
//!
//! Invariant: a file written by an earlier version is still read, so that a stopped comparison can go on.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::training::method_plan::MethodPlan;

/// How many labels per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelBudget {
    /// This many.
    Each(usize),
    /// Every one.
    All,
}

impl FromStr for LabelBudget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("all", _) => Ok(LabelBudget::All),
            (_, Ok(n)) if n > 0 => Ok(LabelBudget::Each(n)),
            _ => Err(format!("`{text}` is neither a number of labels nor `all`")),
        }
    }
}

impl fmt::Display for LabelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelBudget::Each(n) => write!(f, "{n}"),
            LabelBudget::All => f.write_str("all"),
        }
    }
}

/// `results.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// When the last cell was finished (RFC 3339).
    pub date: String,
    /// Processor and cores.
    pub machine: String,
    /// The command.
    pub command: String,
    /// Hash of the data snapshot.
    pub data_sha256: String,
    /// Pictures to train on and to check with.
    pub pictures: (usize, usize),
    /// Classes.
    pub classes: Vec<String>,
    /// The network, its input side, what is trained.
    pub network: String,
    /// Settings of every method that ran.
    pub methods: Vec<MethodPlan>,
    /// All other settings that a cell depends on.
    #[serde(default)]
    pub setting: serde_json::Value,
    /// Seconds for views and trunk, shared by all cells.
    pub preparing_seconds: f64,
    /// One per method, number of labels and seed.
    pub cells: Vec<ComparisonCell>,
}

/// One student.
#[derive(Debug, Serialize, Deserialize)]
pub struct ComparisonCell {
    /// The method as it was written.
    pub method: String,
    /// LabelBudget per class.
    pub labels: LabelBudget,
    /// The seed.
    pub seed: u64,
    /// On the validation share.
    pub score: ValidationScore,
    /// Training time.
    pub seconds: f64,
    /// Pseudo-labels used, as a share of those made, over the run.
    pub coverage: Vec<f64>,
    /// Share of the used ones that was right, over the run; `None` where none was used.
    pub precision: Vec<Option<f64>>,
    /// The small student distilled from it.
    pub distilled: Option<DistilledScore>,
}

/// A distilled student.
#[derive(Debug, Serialize, Deserialize)]
pub struct DistilledScore {
    /// On the validation share.
    pub score: ValidationScore,
    /// Training time.
    pub seconds: f64,
}

/// How good a student is on the validation share.
#[derive(Debug, Serialize, Deserialize)]
pub struct ValidationScore {
    /// Top-1.
    pub accuracy: f64,
    /// Accepted classes against the rest, where accepted classes are known.
    pub auc: Option<f64>,
    /// Error per corruption at strengths 1 to 5.
    pub corrupted: BTreeMap<String, [f64; 5]>,
}

impl ValidationScore {
    /// Mean error over all corruptions and strengths.
    pub fn mean_corruption_error(&self) -> f64 {
        let all: Vec<f64> = self.corrupted.values().flatten().copied().collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    }
}

impl Comparison {
    /// The numbers of labels that were tried, rising.
    pub fn label_budgets(&self) -> Vec<LabelBudget> {
        let mut all: Vec<LabelBudget> = self.cells.iter().map(|c| c.labels).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The methods in the order in which they came.
    pub fn method_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.method.as_str()) {
                names.push(&cell.method);
            }
        }
        names
    }

    /// The students of one method and number of labels, one per seed.
    pub fn cells_of(&self, method: &str, labels: LabelBudget) -> impl Iterator<Item = &ComparisonCell> {
        self.cells.iter().filter(move |c| c.method == method && c.labels == labels)
    }

    /// Mean and deviation over seeds; none when no cell has the value.
    pub fn spread(
        &self,
        method: &str,
        labels: LabelBudget,
        value: impl Fn(&ComparisonCell) -> Option<f64>,
    ) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.cells_of(method, labels).filter_map(value).collect();
        (!values.is_empty()).then(|| mean_sd(&values))
    }

    /// The same as text: empty where no cell has the value; a lone value has no deviation.
    pub fn spread_text(
        &self,
        method: &str,
        labels: LabelBudget,
        digits: usize,
        value: impl Fn(&ComparisonCell) -> Option<f64>,
    ) -> String {
        let values: Vec<f64> = self.cells_of(method, labels).filter_map(value).collect();
        let (mean, sd) = mean_sd(&values);
        match values.len() {
            0 => String::new(),
            1 => format!("{mean:.digits$}"),
            _ => format!("{mean:.digits$} ± {sd:.digits$}"),
        }
    }

    /// For every method and number of labels: the fewest labels with which supervised learning is as accurate.
    pub fn labels_saved(&self) -> Vec<String> {
        let accuracy = |method: &str, labels| self.spread(method, labels, |c| Some(c.score.accuracy)).map(|s| s.0);
        let mut lines = Vec::new();
        if !self.method_names().contains(&"supervised") {
            return lines;
        }
        for labels in self.label_budgets() {
            for method in self.method_names().into_iter().filter(|m| *m != "supervised") {
                let Some(reached) = accuracy(method, labels) else { continue };
                let enough =
                    self.label_budgets().into_iter().find(|&n| accuracy("supervised", n).is_some_and(|a| a >= reached));
                let needs = match enough {
                    Some(n) if n > labels => {
                        format!("what supervised learning needs {n} for").replace("needs all", "needs all labels")
                    }
                    Some(_) => continue,
                    None => "what supervised learning does not reach with any number tried".into(),
                };
                let noun = if labels == LabelBudget::Each(1) { "label" } else { "labels" };
                lines.push(format!("With {labels} {noun} per class {method} reaches {reached:.4}: {needs}."));
            }
        }
        lines
    }
}

/// Mean and standard deviation (of the sample; 0 for a single value).
pub fn mean_sd(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
}

/// A comparison for the tests of what is made from one.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A comparison with a cell per (method, labels, accuracy).
    pub fn comparison(accuracies: &[(&str, usize, f64)]) -> Comparison {
        let cell = |&(method, n, accuracy): &(&str, usize, f64)| ComparisonCell {
            method: method.into(),
            labels: LabelBudget::Each(n),
            seed: 1,
            score: ValidationScore {
                accuracy,
                auc: None,
                corrupted: [("blur".to_string(), [0.1, 0.2, 0.3, 0.4, 0.5])].into(),
            },
            seconds: 1.0,
            coverage: vec![0.5],
            precision: vec![Some(0.9)],
            distilled: None,
        };
        Comparison {
            date: "2026-01-01T00:00:00Z".into(),
            machine: "test".into(),
            command: String::new(),
            data_sha256: "0123456789abcdef".into(),
            pictures: (8, 2),
            classes: vec!["a".into(), "b".into()],
            network: "n".into(),
            methods: vec![],
            setting: serde_json::Value::Null,
            preparing_seconds: 0.0,
            cells: accuracies.iter().map(cell).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::comparison, *};

    #[test]
    fn what_it_buys_is_the_fewest_labels_that_supervised_learning_needs() {
        let found = comparison(&[
            ("supervised", 4, 0.7),
            ("supervised", 10, 0.8),
            ("supervised", 40, 0.9),
            ("fixmatch", 4, 0.85),
            ("fixmatch", 10, 0.95),
            ("fixmatch", 40, 0.89),
        ]);
        let lines = found.labels_saved();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("With 4 labels") && lines[0].contains("needs 40 for"));
        assert!(lines[1].contains("With 10 labels") && lines[1].contains("does not reach"));
    }

    #[test]
    fn without_supervised_learning_nothing_is_said_of_it() {
        assert!(comparison(&[("fixmatch", 4, 0.7)]).labels_saved().is_empty());
    }

    #[test]
    fn deviation_is_that_of_a_sample() {
        assert_eq!(mean_sd(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(mean_sd(&[5.0]), (5.0, 0.0));
    }
}
