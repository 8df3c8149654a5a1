//! Every learning method, in miniature, by the commands that a user types: it runs to its end, leaves a student that
//! serves, and says what it did. Whether a method helps is measured by `beltsight compare`, not here.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use beltsight::{
    bench::{copy_model, stills},
    rounds::{RoundSettings, start::with_incumbent},
    student::{engine::Device, evaluate::evaluate, manifest::Manifest, open::Student, scorecard::Scorecard},
};
use common::process::{self, beltsight};
use serde_json::Value;

const SMALL: [&str; 8] = ["--net", "small", "--input", "32", "--steps", "8", "--batch", "8"];

/// A command that reads `data` and writes `out` succeeds; what it prints.
fn succeeds(arguments: &[&str], data: &Path, out: &Path) -> String {
    process::succeeds(beltsight().args(arguments).arg("--data").arg(data).arg("--out").arg(out))
}

/// A command that reads `data` and would write `out` is refused; what it says.
fn refused(arguments: &[&str], data: &Path, out: &Path) -> String {
    process::fails(beltsight().args(arguments).arg("--data").arg(data).arg("--out").arg(out))
}

/// A drawn data set of `items` in a fresh folder, which is deleted with the guard.
fn drawn(items: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    stills::write(&data, 5, items).unwrap();
    (folder, data)
}

fn metrics(run: &Path) -> Vec<Value> {
    fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn every_method_leaves_a_student_that_serves() {
    let (folder, data) = drawn(100);
    for (method, parts) in [
        ("pseudo-label", vec!["alpha", "labeled", "unlabeled"]),
        ("thresholded-pseudo-label", vec!["kept", "labeled", "unlabeled"]),
        ("noisy-student", vec!["labeled", "unlabeled"]),
        ("fixmatch", vec!["kept", "labeled", "unlabeled"]),
    ] {
        let out = folder.path().join(method);
        let mut options = [&["train", method, "--labels", "3"][..], &SMALL].concat();
        if method == "noisy-student" {
            options.extend(["--threshold", "0.1"]); // after eight steps a teacher is sure of little
        }
        succeeds(&options, &data, &out);
        let student = Student::open(&out.join("model"), None, Device::Cpu, 1, 2).unwrap();
        assert_eq!(student.card.classes.len(), 5, "{method}");
        let lineage = Manifest::read(&out.join("model")).unwrap().lineage;
        assert_eq!((lineage.method.as_str(), lineage.labeled), (method, 15));
        let last = metrics(&out).pop().unwrap();
        let named: Vec<&str> = last["parts"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(named, parts, "{method}");
        assert!((0.0..=1.0).contains(&last["coverage"].as_f64().unwrap()), "{method}: {last}");
        assert!(last["waiting"].as_f64().unwrap() < 1.0 && last["backward"].as_f64().unwrap() > 0.0, "{method}");
        let page = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(page.contains("Views of one picture") && page.contains("pseudo-labels used"), "{method}");
    }
    let rounds = metrics(&folder.path().join("noisy-student"));
    for run in ["final teacher", "final round 1", "final round 2", "final round 3"] {
        assert!(rounds.iter().any(|line| line["run"] == run), "{run}");
    }
}

#[test]
fn a_student_grows_between_rounds() {
    let (folder, data) = drawn(60);
    let out = folder.path().join("grown");
    let options = ["train", "noisy-student", "--labels", "3", "--rounds", "1", "--students", "small_wide"];
    let said = refused(&[&options[..], &["--threshold", "0.999"], &SMALL].concat(), &data, &out);
    assert!(said.contains("lower --threshold"), "a pool of nothing is no lesson");
    succeeds(&[&options[..], &["--threshold", "0.1"], &SMALL].concat(), &data, &out);
    let manifest = Manifest::read(&out.join("model")).unwrap();
    assert_eq!(manifest.lineage.net, "small_wide");
}

#[test]
fn unlabeled_pictures_come_from_a_folder_and_are_part_of_the_snapshot() {
    let (folder, data) = drawn(60);
    let (_guard, more) = drawn(30);
    let run = |name: &str, unlabeled: Option<&Path>| {
        let out = folder.path().join(name);
        let path = unlabeled.map(|p| p.display().to_string());
        let mut options = [&["train", "fixmatch", "--labels", "4"][..], &SMALL].concat();
        options.extend(path.iter().flat_map(|p| ["--unlabeled", p.as_str()]));
        succeeds(&options, &data, &out);
        Manifest::read(&out.join("model")).unwrap().lineage.data_sha256
    };
    assert_ne!(run("without", None), run("with", Some(&more)));
    let said = refused(&[&["train", "fixmatch"][..], &SMALL].concat(), &data, &folder.path().join("no"));
    assert!(said.contains("give --unlabeled"), "{said}");
}

#[test]
fn a_teacher_of_another_size_is_distilled_and_one_of_other_classes_refused() {
    let (folder, data) = drawn(60);
    let (teacher, out) = (folder.path().join("teacher"), folder.path().join("student"));
    let options = ["train", "supervised", "--net", "small_wide", "--input", "48", "--steps", "6", "--folds", "1"];
    succeeds(&options, &data, &teacher);
    let name = teacher.display().to_string();
    let said = succeeds(&[&["distill", "--teacher", &name][..], &SMALL].concat(), &data, &out);
    assert!(said.contains("teacher teacher") && said.contains("student, int8"), "{said}");
    let lineage = Manifest::read(&out.join("model")).unwrap().lineage;
    assert_eq!((lineage.method.as_str(), lineage.teacher.as_deref()), ("distillation", Some("teacher")));
    let page = |run: &Path| fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page(&out).contains("What distilling bought") && !page(&out).contains("may flatter"));

    // The same network as a bare ONNX file from anywhere: what it learned from is not known.
    let bare = teacher.join("model/student.onnx").display().to_string();
    let student = folder.path().join("bare");
    succeeds(&[&["distill", "--teacher", &bare][..], &SMALL].concat(), &data, &student);
    assert!(page(&student).contains("says nothing of what it learned from"));

    // One that learned from everything in the end, and its student again with another teacher's checkpoints.
    let crossed = folder.path().join("crossed");
    succeeds(&[&["train", "supervised", "--folds", "2"][..], &SMALL].concat(), &data, &crossed);
    let crossed = crossed.display().to_string();
    let options = [&["distill", "--teacher", &crossed][..], &SMALL].concat();
    let said = refused(&[&options[..], &["--resume"]].concat(), &data, &student);
    assert!(said.contains("made with other settings"), "{said}");
    succeeds(&options, &data, &student);
    assert!(page(&student).contains("learned from every picture"));

    let other = folder.path().join("other");
    fs::create_dir_all(other.join("a")).unwrap();
    fs::create_dir_all(other.join("b")).unwrap();
    let files: Vec<PathBuf> = walk(&data);
    for (i, file) in files.iter().take(20).enumerate() {
        fs::copy(file, other.join(["a", "b"][i % 2]).join(format!("{i}.jpg"))).unwrap();
    }
    let options = [&["distill", "--accept", "a", "--teacher", &name][..], &SMALL].concat();
    let said = refused(&options, &other, &folder.path().join("no"));
    assert!(said.contains("the teacher knows the classes"), "{said}");
}

#[test]
fn a_network_whose_published_weights_are_missing_does_not_train_from_noise_unasked() {
    let (folder, data) = drawn(20);
    let learner = folder.path().join("beltsight-learn"); // away from any .vendor
    // After two steps from random weights the exported graph misses its limit of 1e-4 by 5 % on these stills: a fault of the
    // export on a network that has learned nothing, not of what is tried here.
    fs::copy(env!("CARGO_BIN_EXE_beltsight-learn"), &learner).unwrap();
    let run = |more: &[&str]| {
        let mut command = Command::new(&learner);
        command.args(["train", "supervised", "--input", "32", "--steps", "3", "--batch", "4"]).args(more);
        let (data, out) = (data.display().to_string(), folder.path().join("run").display().to_string());
        command.args(["--data", &data, "--out", &out]).current_dir(folder.path());
        command
    };
    let said = process::fails(&mut run(&[]));
    assert!(said.contains("no pretrained weights of efficientnet_lite0"), "{said}");
    process::succeeds(&mut run(&["--trainable", "all"]));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(walk(&path));
        } else if path.extension().is_some_and(|e| e == "jpg") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_comparison_writes_its_page_and_goes_on_where_it_was() {
    let (folder, data) = drawn(60);
    let out = folder.path().join("compared");
    let options = ["compare", "--labels", "2", "--seeds", "1", "--methods", "supervised,fixmatch --threshold 0.5"];
    let distil = ["--distill", "1", "--student-input", "32", "--student-steps", "4"];
    let all = [&options[..], &distil, &SMALL].concat();
    let said = succeeds(&all, &data, &out);
    assert!(said.contains("| 2 | supervised |") && said.contains("| 2 | fixmatch --threshold 0.5 |"), "{said}");
    let results = || -> Value { serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap() };
    let first = results();
    let cells = first["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 2);
    for cell in cells {
        assert_eq!(cell["score"]["corrupted"].as_object().unwrap().len(), 7);
        assert!(cell["distilled"]["score"]["accuracy"].as_f64().is_some());
    }
    assert!(fs::read_to_string(out.join("comparison.html")).unwrap().contains("Error on damaged pictures"));
    succeeds(&[&all[..], &["--resume"]].concat(), &data, &out);
    assert_eq!(results()["cells"], first["cells"], "nothing is trained twice");
    let said = refused(&[&all[..], &["--resume", "--lr", "0.001"]].concat(), &data, &out);
    assert!(said.contains("made with other settings"), "{said}");

    // What was not distilled is now.
    let out = folder.path().join("later");
    succeeds(&[&options[..], &distil[2..], &SMALL].concat(), &data, &out);
    succeeds(&[&all[..], &["--resume"]].concat(), &data, &out);
    let later: Value = serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap();
    let cells = later["cells"].as_array().unwrap();
    assert!(cells.len() == 2 && cells.iter().all(|cell| cell["distilled"].is_object()), "{later}");
}

/// Two labels' worth of Lee's experiment on real digits, so small that only its plumbing is shown.
#[test]
fn the_experiments_on_digits_run() {
    let mnist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/mnist");
    if !mnist.is_dir() {
        println!("skipped: {} is not here", mnist.display());
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let small = ["--steps", "100", "--units", "60", "--seeds", "1"];
    let lee = [&["reproduce", "lee2013", "--labels", "100"][..], &small].concat();
    succeeds(&lee, &mnist, out.path());
    let result: Value = serde_json::from_slice(&fs::read(out.path().join("lee2013.json")).unwrap()).unwrap();
    let error = result["result"][0]["pseudo_label_error_percent"][0].as_f64().unwrap();
    assert!(error < 80.0, "guessing errs on 90 %; found {error}");
    succeeds(&[&["reproduce", "hinton2015"][..], &small].concat(), &mnist, out.path());
    let result: Value = serde_json::from_slice(&fs::read(out.path().join("hinton2015.json")).unwrap()).unwrap();
    let run = &result["result"]["errors"][0];
    let errors = |name: &str| run[name].as_u64().unwrap();
    assert!(errors("distilled") < 9000 && errors("of_which_threes") > errors("of_which_threes_with_bias"), "{run}");
}

/// Pictures of `classes`, of each as many as said, in `to`: a folder a class.
fn some_of(data: &Path, to: &Path, classes: &[(&str, &str, usize)]) {
    for (class, name, count) in classes {
        fs::create_dir_all(to.join(name)).unwrap();
        for (i, file) in walk(&data.join("photos").join(class)).iter().take(*count).enumerate() {
            fs::copy(file, to.join(name).join(format!("{i}.jpg"))).unwrap();
        }
    }
}

#[test]
fn few_labels_are_all_learned_and_every_picture_is_judged_by_a_student_that_did_not_see_it() {
    let (folder, data) = drawn(60);
    let (few, out) = (folder.path().join("few"), folder.path().join("out"));
    some_of(&data, &few, &[("salmon", "salmon", 8), ("herring", "herring", 7), ("mackerel", "mackerel", 1)]);
    let options = [&["train", "supervised", "--accept", "salmon"][..], &SMALL].concat();
    succeeds(&options, &few, &out);
    let manifest = Manifest::read(&out.join("model")).unwrap();
    assert_eq!((manifest.lineage.labeled, manifest.lineage.folds), (16, Some(3)), "no label is given away");
    let cv: Value = serde_json::from_slice(&fs::read(out.join("cv.json")).unwrap()).unwrap();
    let mut judged: Vec<&str> =
        cv["pictures"].as_array().unwrap().iter().map(|picture| picture["file"].as_str().unwrap()).collect();
    judged.sort_unstable();
    judged.dedup();
    assert_eq!(judged.len(), 15, "each once, but for the only mackerel, which every student learns");
    let runs: Vec<Value> = metrics(&out).into_iter().map(|line| line["run"].clone()).collect();
    assert!(["fold 1", "fold 2", "fold 3", "final"].iter().all(|run| runs.contains(&Value::from(*run))), "{runs:?}");

    let held_out = folder.path().join("held-out");
    succeeds(&[&options[..], &["--folds", "1"]].concat(), &few, &held_out);
    let lineage = Manifest::read(&held_out.join("model")).unwrap().lineage;
    assert!(lineage.folds.is_none() && lineage.labeled < 16, "{lineage:?}");
}

#[test]
fn a_training_goes_on_from_a_student_keeps_its_classes_and_learns_a_new_one() {
    let (folder, data) = drawn(60);
    let model = shipped().display().to_string();
    let (new, out) = (folder.path().join("new"), folder.path().join("out"));
    some_of(&data, &new, &[("salmon", "salmon", 6), ("herring", "herring", 6), ("sea_bass", "trout", 6)]);
    // As in a round: what it knows of classes that no label shows it holds on frames that nobody labeled.
    let frames = data.display().to_string();
    let from = ["train", "distillation", "--from", &model, "--steps", "60", "--unlabeled", &frames];
    let said = succeeds(&from, &new, &out);
    assert!(said.contains("small starts from belt-small"), "{said}");
    let manifest = Manifest::read(&out.join("model")).unwrap();
    assert_eq!(manifest.classes, ["flounder", "herring", "mackerel", "salmon", "sea_bass", "trout"]);
    assert_eq!(manifest.thresholds.accept, ["salmon"], "as with the student that it goes on from");
    assert_eq!(manifest.lineage.from.as_deref(), Some("belt-small"));
    assert_eq!(manifest.read_learned(&out.join("model")).unwrap().unwrap().len(), 18);
    let accuracy = |model: &Path| evaluate(model, Some("float32"), &data).unwrap();
    let (before, after) = (accuracy(&shipped()), accuracy(&out.join("model")));
    for class in ["flounder", "mackerel"] {
        let recall = |card: &Scorecard| card.recall_per_class[card.classes.iter().position(|c| c == class).unwrap()];
        assert!(recall(&after) > recall(&before) - 0.1, "{class}, which it saw no picture of: {after}");
    }

    // Again from the new one, on the same pictures: it knows the answers, and so can't be judged by them.
    let strict = folder.path().join("strict");
    copy_model(&out.join("model"), &strict).unwrap();
    let mut manifest = Manifest::read(&strict).unwrap();
    manifest.thresholds.accept_from = 0.995;
    manifest.thresholds.temperature = 9.0;
    manifest.write(&strict).unwrap();
    let (again, strict) = (folder.path().join("again"), strict.display().to_string());
    succeeds(&["train", "distillation", "--from", &strict, "--steps", "8"], &new, &again);
    let thresholds = Manifest::read(&again.join("model")).unwrap().thresholds;
    assert_eq!((thresholds.accept_from, thresholds.temperature), (0.995, 9.0), "no milder than before");
}

#[test]
fn what_a_training_cannot_go_on_from_is_refused_in_words() {
    let (folder, data) = drawn(30);
    let (out, model) = (folder.path().join("out"), shipped().display().to_string());
    let said = refused(&["train", "distillation", "--from", &model, "--net", "small"], &data, &out);
    assert!(said.contains("cannot be used with"), "{said}");
    let nowhere = folder.path().display().to_string();
    let said = refused(&["train", "supervised", "--from", &nowhere], &data, &out);
    assert!(said.contains("--from") && said.contains("manifest.toml"), "{said}");
    let said = refused(&[&["train", "distillation"][..], &SMALL].concat(), &data, &out);
    assert!(said.contains("there is no teacher to distil: give --from"), "{said}");
    let other = folder.path().join("other");
    copy_model(&shipped(), &other).unwrap();
    let mut manifest = Manifest::read(&other).unwrap();
    manifest.lineage.net = "small_wide".into();
    manifest.write(&other).unwrap();
    let said = refused(&["train", "supervised", "--from", &other.display().to_string()], &data, &out);
    assert!(said.contains("small_wide") && said.contains("has shape"), "{said}");
}

/// The shipped student.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/belt-small")
}

#[test]
fn the_default_round_goes_on_from_the_shipped_student() {
    let (words, why) = with_incumbent(&RoundSettings::default().train, &shipped());
    assert_eq!(why, None);
    let from = words.iter().position(|word| word == "--from").unwrap();
    assert_eq!(words[from + 1], shipped().to_str().unwrap());
}

#[test]
fn what_cannot_be_read_back_is_not_gone_on_from_and_the_reason_is_told() {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(shipped()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let trial = |change: fn(&mut Manifest)| {
        let mut manifest = Manifest::read(&shipped()).unwrap();
        change(&mut manifest);
        manifest.write(copy.path()).unwrap();
        let (words, why) = with_incumbent(&RoundSettings::default().train, copy.path());
        assert_eq!(words, ["pseudo-label", "--net", "small"], "{why:?}");
        why.unwrap()
    };
    assert!(trial(|m| m.lineage.net = "resnet".into()).contains("its network `resnet` is none of"));
    let other = trial(|m| m.lineage.net = "small_wide".into());
    assert!(other.contains("has shape"), "{other}");
    assert!(trial(|m| drop(m.files.remove("float32"))).contains("no float32 file"));

    let fixmatch = ["fixmatch", "--from", "incumbent", "--steps", "9"].map(String::from);
    assert_eq!(with_incumbent(&fixmatch, copy.path()).0, ["fixmatch", "--steps", "9"]);
    let plain = ["supervised", "--net", "small"].map(String::from);
    assert_eq!(with_incumbent(&plain, copy.path()), (plain.to_vec(), None));
}
