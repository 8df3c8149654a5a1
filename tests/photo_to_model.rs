//! From labeled pictures to a model folder that serves, by the commands that a user types.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use beltsight::{
    bench::stills,
    student::{engine::Device, evaluate::evaluate, manifest::Manifest, open::Student},
};
use common::process::{beltsight, fails, succeeds};

/// `beltsight train supervised`, small enough for a test; returns the manifest it wrote.
fn train(data: &Path, out: &Path) -> Manifest {
    let mut train = beltsight();
    train.args(["train", "supervised", "--net", "small", "--input", "32", "--epochs", "4", "--seed", "3"]);
    succeeds(train.arg("--data").arg(data).arg("--out").arg(out));
    Manifest::read(&out.join("model")).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_student_and_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let (data, a, b) = (folder.path().join("data"), folder.path().join("a"), folder.path().join("b"));
    stills::write(&data, 5, 120).unwrap();
    let (first, second) = (train(&data, &a), train(&data, &b));
    assert_eq!(first.scorecard, second.scorecard);
    for precision in ["float32", "int8"] {
        assert_eq!(first.files[precision].sha256, second.files[precision].sha256, "{precision}");
    }
    assert_eq!(first.lineage.method, "supervised");
    let held_out = first.scorecard.as_ref().unwrap().pictures;
    assert_eq!((first.lineage.labeled, held_out), (120, 120), "few labels: each is learned, and was held out once");
    assert!(first.files["float32"].max_probability_difference <= 1e-4);

    for file in ["config.json", "metrics.jsonl", "report.html", "weights.safetensors", "cv.json"] {
        assert!(a.join(file).is_file(), "{file}");
    }
    let student = Student::open(&a.join("model"), Some("int8"), Device::Cpu, 1, 4).unwrap();
    assert_eq!(student.card.classes, first.classes);
    let card = evaluate(&a.join("model"), Some("float32"), &data).unwrap();
    assert_eq!(card.pictures, 120);
    assert!(card.accuracy > 0.2, "five classes, so guessing gives 0.2; found {}", card.accuracy);
}

#[test]
fn a_data_set_that_cannot_be_learned_from_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut train = beltsight();
    train.args(["train", "supervised", "--net", "small", "--data"]).arg(folder.path());
    let said = fails(train.arg("--out").arg(folder.path().join("out")));
    assert!(said.contains("neither photos.csv"), "{said}");
}
