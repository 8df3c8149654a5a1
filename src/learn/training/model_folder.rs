//! A trained student → the model folder that serves: `student.onnx`, `student.int8.onnx`, `learned.txt`, `manifest.toml`.
//!
//! Invariant: the folder appears whole or not at all, only after ONNX Runtime gave the trained network's own logits on
//! real pictures, and with thresholds of the graph that serves.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use beltsight::{
    domain::{Thresholds, hash::sha256, time::rfc3339_now},
    files::{FolderDraft, heartbeat},
    network::onnx::{self, Tensor},
    student::{
        engine::{Device, Engine, softmax},
        manifest::{File, Input, Manifest, Named},
        reference,
        scorecard::{Scorecard, argmax, ranked},
    },
};

use crate::training::{evaluate, export::TrainedStudent};

/// Rounding errors of float32 that a graph may have for each that the trained network has itself: see [`check_rounding`].
const ROUNDINGS: f64 = 16.0;
/// float32's unit roundoff: the largest relative error of one rounding.
const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// int8 serves when it loses at most this share of what float32 gets right, in every class and on either side of the gate.
const INT8_LOSS: f64 = 0.01;
/// Pictures whose activations set the ranges of the int8 graph, and on which roundings are measured; more change nothing
/// that can be measured.
const CALIBRATION: usize = 128;
/// File of the pictures that were learned.
const LEARNED: &str = "learned.txt";

/// A labeled picture of a run: its index, and its class.
#[derive(Clone, Copy, Debug)]
pub struct Labeled {
    /// Among the run's pictures.
    pub picture: usize,
    /// Its true class.
    pub truth: usize,
}

/// The labeled pictures of a run.
#[derive(Debug, Default)]
pub struct LabeledPictures {
    /// What the network was told the classes of.
    pub learned: Vec<Labeled>,
    /// What it did not train on; none after cross-validation, when the final network has learned from all.
    pub held_out: Vec<Labeled>,
}

/// Writes `out/model`. Both graphs are run on `pictures`; a spread of [`CALIBRATION`] of them, labels unused, sets the
/// int8 ranges. Those held out admit the int8 graph and fit its thresholds; where there are none all
/// pictures admit it, by float32's answers, and it serves with the student's thresholds. What is unknown to it is measured on
/// labeled ones alone.
///
/// # Errors
/// When the float32 graph computes something else than the network (see [`check_rounding`]), or a file can't be written.
pub fn write(
    student: &TrainedStudent,
    pictures: &[&[u8]],
    labeled: &LabeledPictures,
    version: &str,
    out: &Path,
) -> anyhow::Result<Manifest> {
    let net = &student.model.net;
    let classes = student.classes.len();
    let held_out = &labeled.held_out;
    let weights: onnx::Weights =
        student.model.weights().into_iter().map(|(name, (shape, data))| (name, Tensor { shape, data })).collect();
    let step = pictures.len().div_ceil(CALIBRATION).max(1);
    let spread: Vec<&[u8]> = pictures.iter().step_by(step).copied().collect();
    let calibration: Vec<Vec<u8>> = spread.iter().map(|p| p.to_vec()).collect();
    let float = onnx::export(net, &weights, classes)?;
    let int8 = onnx::quantize(net, &weights, classes, &calibration)?;

    check_rounding(student, &float, &spread)?;
    let float_logits = run(&float, pictures)?;
    let int8_logits = run(&int8, pictures)?;
    let int8_student = Int8Trial { student, held_out, float: &float_logits, int8: &int8_logits }.judge();
    let (serve, thresholds, scorecard) = match int8_student {
        Some((thresholds, scorecard)) => ("int8", thresholds, scorecard.unwrap_or_else(|| student.scorecard.clone())),
        None => ("float32", student.thresholds.clone(), student.scorecard.clone()),
    };

    let folder = out.join("model");
    let draft = FolderDraft::begin(&folder).with_context(|| folder.display().to_string())?;
    let temperature = student.thresholds.temperature;
    let trained = student.model.probabilities(pictures, f64::from(temperature));
    let mut files = BTreeMap::new();
    for (precision, name, bytes, logits) in
        [("float32", "student.onnx", &float, &float_logits), ("int8", "student.int8.onnx", &int8, &int8_logits)]
    {
        let apart = furthest(&probabilities(logits, temperature), &trained);
        println!("{precision:<8} {:>8} bytes, |p - p trained| <= {apart:.1e}", bytes.len());
        fs::write(draft.path().join(name), bytes)?;
        let (sha256, size) = (sha256(bytes), bytes.len() as u64);
        let file = File { name: name.into(), sha256, bytes: size, max_probability_difference: apart };
        files.insert(precision.to_string(), file);
    }
    println!("{serve} serves");
    let learned: String = student.learned.iter().map(|hash| format!("{hash}\n")).collect();
    fs::write(draft.path().join(LEARNED), &learned)?;
    let manifest = Manifest {
        version: version.into(),
        created: rfc3339_now(),
        serve: serve.into(),
        classes: student.classes.clone(),
        input: Input { side: net.input as u32, format: "uint8 RGB NHWC".into() },
        files,
        thresholds,
        lineage: student.lineage.clone(),
        reference: None,
        learned: Some(Named { name: LEARNED.into(), sha256: sha256(learned.as_bytes()) }),
        scorecard: Some(scorecard),
    };
    manifest.write(draft.path())?;
    let chosen = |of: &[Labeled]| of.iter().map(|one| (pictures[one.picture].to_vec(), one.truth)).collect::<Vec<_>>();
    reference::write(draft.path(), &chosen(&labeled.learned), &chosen(held_out), student.false_diverts)?;
    let manifest = Manifest::read(draft.path())?;
    draft.replace().with_context(|| folder.display().to_string())?; // an earlier run's goes
    Ok(manifest)
}

/// Holds the float32 graph against the trained network in double precision, on logits.
///
/// Both compute one function in float32, with sums in other orders and BatchNorm folded into the kernels. Their rounding
/// errors are alike in kind: independent, of mean zero, growing with the root of the number of roundings (Higham & Mary
/// 2019, A new approach to probabilistic rounding error analysis, theorem 2.4). How far they carry depends on the trained
/// weights alone, so the trained network's own error against double precision measures it, and never less than one
/// rounding of the largest logit. The graph may be [`ROUNDINGS`] times as far off: a running sum over n = 1,280 products,
/// the longest of our networks, rounds by √n = 36 where one over blocks rounds by √(log₂ n) = 3.2, eleven times less; and
/// folding rounds every weight once more, √2. A wrong graph is off by thousands of that. Probabilities tell less: a
/// temperature of 1/20 makes twenty times as much of the same roundings.
///
/// # Errors
/// When the graph is further off, with both errors; ONNX Runtime's.
fn check_rounding(student: &TrainedStudent, graph: &[u8], pictures: &[&[u8]]) -> anyhow::Result<()> {
    let exact = student.model.double().logits(pictures);
    let scale = exact.iter().flatten().fold(0f64, |most, logit| most.max(logit.abs()));
    let error = |rows: &[Vec<f64>]| {
        let mut apart = rows.iter().flatten().zip(exact.iter().flatten()).map(|(a, b)| (a - b).abs());
        // f64::max takes a NaN for nothing.
        apart.try_fold(0f64, |most, error| (!error.is_nan()).then_some(most.max(error))).unwrap_or(f64::NAN)
    };
    let own = error(&student.model.logits(pictures));
    let found = error(&double(&run(graph, pictures)?));
    let allowed = ROUNDINGS * own.max(UNIT * scale);
    println!("float32  logits {found:.1e} from double precision, the trained network's {own:.1e}, largest {scale:.1e}");
    ensure!(
        found <= allowed,
        "the float32 graph computes other logits than the trained network: {found:.2e} from double precision, where \
         roundings explain {allowed:.2e}; the weights are kept"
    );
    Ok(())
}

/// Whether the int8 graph may serve instead of float32.
struct Int8Trial<'a> {
    student: &'a TrainedStudent,
    held_out: &'a [Labeled],
    /// Logits of all pictures.
    float: &'a [Vec<f32>],
    int8: &'a [Vec<f32>],
}

impl Int8Trial<'_> {
    /// Thresholds, and where there are held-out pictures the scorecard, with which it serves; `None`: it does not.
    fn judge(&self) -> Option<(Thresholds, Option<Scorecard>)> {
        let (classes, accept) = (&self.student.classes, &self.student.thresholds.accept);
        let float_temperature = self.student.thresholds.temperature;
        if self.held_out.is_empty() {
            let float = probabilities(self.float, float_temperature);
            let said: Vec<usize> = float.iter().map(|row| argmax(row)).collect();
            let int8 = probabilities(self.int8, float_temperature);
            let thresholds = self.student.thresholds.clone();
            return self.keeps([&float, &int8], [&thresholds, &thresholds], &said).then_some((thresholds, None));
        }
        let chosen = |rows: &[Vec<f32>]| self.held_out.iter().map(|h| rows[h.picture].clone()).collect::<Vec<_>>();
        let truth: Vec<usize> = self.held_out.iter().map(|h| h.truth).collect();
        let logits = chosen(self.int8);
        let temperature = evaluate::temperature(&logits, &truth);
        let int8 = evaluate::softmax(&logits, temperature);
        let float = probabilities(&chosen(self.float), float_temperature);
        let thresholds = evaluate::thresholds(&int8, &truth, classes, accept, temperature);
        self.keeps([&float, &int8], [&self.student.thresholds, &thresholds], &truth)
            .then(|| (thresholds, Some(Scorecard::measure(&int8, &truth, classes, accept))))
    }

    /// Whether int8, the second of each pair, gets right what float32 does: the classes one by one, what passes and what
    /// does not. Of fewer than 100 it may lose none.
    fn keeps(&self, rows: [&[Vec<f32>]; 2], thresholds: [&Thresholds; 2], truth: &[usize]) -> bool {
        let (classes, accept) = (&self.student.classes, &self.student.thresholds.accept);
        let [float, int8] = [0, 1].map(|at| {
            let ranked = ranked(rows[at], truth, classes, accept);
            let passes = ranked.iter().map(|(score, good)| (*score >= f64::from(thresholds[at].accept_from), *good));
            passes.collect::<Vec<_>>()
        });
        let kept = |name: &str, all: usize, lost: usize| {
            let keeps = lost as f64 <= INT8_LOSS * all as f64;
            if !keeps {
                println!("int8 loses {lost} of {all} pictures of {name} that float32 gets right");
            }
            keeps
        };
        let mut keeps = true;
        for (class, name) in classes.iter().enumerate() {
            let of_class = || (0..truth.len()).filter(|&i| truth[i] == class);
            let lost = of_class().filter(|&i| argmax(&rows[0][i]) == class && argmax(&rows[1][i]) != class).count();
            keeps &= kept(name, of_class().count(), lost);
        }
        for (side, good) in [("what may pass", true), ("what may not pass", false)] {
            let of_side = || (0..truth.len()).filter(|&i| float[i].1 == good);
            let lost = of_side().filter(|&i| float[i].0 == good && int8[i].0 != good).count();
            keeps &= kept(side, of_side().count(), lost);
        }
        keeps
    }
}

/// Logits `[pictures, classes]` as ONNX Runtime computes them.
fn run(onnx: &[u8], pictures: &[&[u8]]) -> anyhow::Result<Vec<Vec<f32>>> {
    let mut engine = Engine::open(onnx, Device::Cpu, 0)?;
    let mut logits = Vec::new();
    for chunk in pictures.chunks(16) {
        heartbeat::beat();
        let owned: Vec<Vec<u8>> = chunk.iter().map(|p| p.to_vec()).collect();
        logits.extend(engine.run_all(&owned, 16)?.logits.rows().into_iter().map(|row| row.to_vec()));
    }
    Ok(logits)
}

fn double(rows: &[Vec<f32>]) -> Vec<Vec<f64>> {
    rows.iter().map(|row| row.iter().map(|logit| f64::from(*logit)).collect()).collect()
}

fn probabilities(logits: &[Vec<f32>], temperature: f32) -> Vec<Vec<f32>> {
    logits.iter().map(|row| softmax(row, temperature)).collect()
}

/// The largest difference of two tables of probabilities.
fn furthest(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use beltsight::{network, student::manifest::Lineage};

    use super::*;
    use crate::network::model::Model;

    fn pictures(count: usize, side: usize) -> Vec<Vec<u8>> {
        (0..count).map(|p| (0..side * side * 3).map(|i| ((i * (2 * p + 3) + p * 31) % 251) as u8).collect()).collect()
    }

    /// A network with statistics of its pictures, sure of itself as after long training, and as cold as can be.
    fn student(pictures: &[&[u8]]) -> TrainedStudent {
        let mut model = Model::random(&network::by_name("small", Some(32)).unwrap(), 2, 5);
        model.adapt(pictures, || true);
        let head: Vec<f32> = (0..2 * model.net.features).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let shape = [2, model.net.features as i64];
        model.params.insert("head.weight".into(), tch::Tensor::from_slice(&head).view(shape));
        let classes = vec!["good".to_string(), "bad".to_string()];
        let rows = vec![vec![0.5f32, 0.5]; 2];
        TrainedStudent {
            scorecard: Scorecard::measure(&rows, &[0, 1], &classes, &classes[..1]),
            thresholds: Thresholds {
                accept: classes[..1].to_vec(),
                accept_from: 0.5,
                unsure_from: 0.25,
                temperature: 0.05,
                unknown_from: None,
            },
            learned: ["0123456789abcdef".to_string()].into(),
            lineage: Lineage::default(),
            false_diverts: 0.01,
            model,
            classes,
        }
    }

    #[test]
    fn a_cold_student_is_not_lost_for_the_roundings_that_its_temperature_makes_large() {
        let all = pictures(64, 32);
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let student = student(&all);
        let out = tempfile::tempdir().unwrap();
        let manifest = write(&student, &all, &LabeledPictures::default(), "cold", out.path()).unwrap();
        let apart = manifest.files["float32"].max_probability_difference;
        assert!(apart > 0.0, "{apart}");
    }

    #[test]
    fn a_graph_with_one_wrong_kernel_is_refused() {
        let all = pictures(16, 32);
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let student = student(&all);
        let mut weights: onnx::Weights =
            student.model.weights().into_iter().map(|(name, (shape, data))| (name, Tensor { shape, data })).collect();
        let right = onnx::export(&student.model.net, &weights, 2).unwrap();
        check_rounding(&student, &right, &all).unwrap();
        weights.get_mut("stem.bn.running_var").unwrap().data.iter_mut().for_each(|v| *v += 1e-3); // another ε
        let wrong = onnx::export(&student.model.net, &weights, 2).unwrap();
        let error = check_rounding(&student, &wrong, &all).unwrap_err().to_string();
        assert!(error.contains("other logits"), "{error}");
    }

    #[test]
    fn int8_must_keep_every_class_and_both_sides() {
        let all = pictures(2, 32);
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let student = student(&all);
        // 1,000 pictures, of which 30 are bad; float32 is always right.
        let truth: Vec<usize> = (0..1000).map(|i| usize::from(i % 33 == 0 && i < 990)).collect();
        let held_out: Vec<Labeled> =
            truth.iter().enumerate().map(|(picture, &truth)| Labeled { picture, truth }).collect();
        let sure = |class: usize| if class == 0 { vec![2.0f32, 0.0] } else { vec![0.0, 2.0] };
        let float: Vec<Vec<f32>> = truth.iter().map(|&class| sure(class)).collect();
        let judge =
            |int8: &[Vec<f32>]| Int8Trial { student: &student, held_out: &held_out, float: &float, int8 }.judge();
        let (thresholds, scorecard) = judge(&float).unwrap();
        assert_ne!(thresholds.temperature, student.thresholds.temperature, "its own, not float32's");
        assert_eq!(scorecard.unwrap().pictures, 1000);

        let mut one_bad_lost = float.clone();
        one_bad_lost[0] = sure(0); // 999 of 1,000 agree, yet of 30 bad ones one passes
        assert!(judge(&one_bad_lost).is_none());
        let mut nine_good_lost = float.clone();
        (1..10).for_each(|i| nine_good_lost[i] = vec![0.0, 0.1]);
        assert!(judge(&nine_good_lost).is_some(), "9 of 970 are less than 1 %");
    }
}
