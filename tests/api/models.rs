//! Students that change while items are judged.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Source,
    line::infer::{self, Infer},
    metrics::Metrics,
    student::{
        engine::{Device, Engine},
        manifest::MANIFEST,
        open::Student,
    },
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    common::{
        pictures::{jpeg, picture},
        server::{SIDE, start, test_model_folder},
    },
    problem,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_is_refused_in_words_while_the_old_one_serves() {
    let server = start().await;
    let broken = |name: &str| test_model_folder(&server.models, name, 2);
    let hash = broken("hash").join("student.onnx");
    let mut bytes = std::fs::read(&hash).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&hash, bytes).unwrap();
    let edit = |name: &str, from: &str, to: &str| {
        let path = broken(name).join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    edit("missing", "\nclasses = [", "\nclasses_were_here = [");
    edit("short", "    \"bass\",\n", "");
    let cut = broken("cut");
    let onnx = std::fs::read(cut.join("student.onnx")).unwrap();
    std::fs::write(cut.join("student.onnx"), &onnx[..onnx.len() / 2]).unwrap();
    let text = std::fs::read_to_string(cut.join(MANIFEST)).unwrap();
    let (old, new) = (beltsight::domain::hash::sha256(&onnx), beltsight::domain::hash::sha256(&onnx[..onnx.len() / 2]));
    std::fs::write(cut.join(MANIFEST), text.replace(&old, &new)).unwrap(); // so that the graph itself is looked at

    let words =
        [("hash", "SHA-256"), ("missing", "classes"), ("short", "names 2 classes, the graph has 3"), ("cut", "ONNX")];
    for (name, words) in words {
        let response = server.post(&format!("/v2/repository/models/{name}/load"), "").await;
        let detail = problem(response, 422, "model").await;
        assert!(detail.contains(words) && detail.contains("the serving model was kept"), "{name}: {detail}");
        let answer: Value = server.post("/classify", jpeg(32, 1)).await.json().await.unwrap();
        assert!(answer["model"].as_str().unwrap().starts_with("one@"), "{answer}");
    }
    assert_eq!(server.metrics.student.loads.with_label_values(&["refused"]).get(), 4);
    problem(server.post("/v2/repository/models/..%2Fone/load", "").await, 404, "not_found").await;

    broken("two");
    let loaded: Value = server.post("/v2/repository/models/two/load", "").await.json().await.unwrap();
    assert!(loaded["model"].as_str().unwrap().starts_with("two@"), "{loaded}");
    let answer: Value = server.post("/classify", jpeg(32, 1)).await.json().await.unwrap();
    assert_eq!(answer["model"], loaded["model"]);
    let index: Value = server.post("/v2/repository/index", "{}").await.json().await.unwrap();
    assert!(index.as_array().unwrap().contains(&json!({"name": "two", "state": "READY"})), "{index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_models_change_every_item_is_scored_by_the_one_its_verdict_names() {
    let server = start().await;
    let open = |name: &str, seed| {
        let folder = test_model_folder(&server.models, name, seed);
        Student::open(&folder, None, Device::Cpu, 2, 2).unwrap()
    };
    let pixels = picture(SIDE, 4).rgb;
    let ask = |n: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let source = if n.is_multiple_of(4) { Source::Belt } else { Source::Http };
        let answer = server.infer.submit(pixels.clone(), source, deadline).unwrap();
        async move {
            let scored = answer.await.unwrap();
            (scored.model.unwrap().label.clone(), scored.scores.unwrap().probabilities)
        }
    };
    let mut expected = BTreeMap::new();
    for (name, seed) in [("two", 2), ("three", 3)] {
        server.infer.exchange(open(name, seed));
        let (label, scores) = ask(1).await;
        assert!(label.starts_with(name), "{label} serves from the next item on");
        expected.insert(label, scores);
    }
    let mut answers = JoinSet::new();
    for round in 0..12 {
        for n in 0..16 {
            answers.spawn(ask(n));
        }
        let (name, seed) = [("two", 2), ("three", 3)][round % 2];
        server.infer.exchange(open(name, seed));
        let serving = server.infer.card().label.clone();
        assert!(serving.starts_with(name));
        let (label, _) = ask(0).await;
        assert_eq!(label, serving, "what is asked after the exchange is answered by the new model");
    }
    let mut counts = BTreeMap::new();
    while let Some(answer) = answers.join_next().await {
        let (label, scores) = answer.unwrap();
        let wanted = &expected[&label];
        assert!(scores.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{label}: {scores:?} {wanted:?}");
        *counts.entry(label).or_insert(0) += 1;
    }
    assert_eq!(counts.values().sum::<usize>(), 12 * 16);
    assert_eq!(counts.len(), 2, "both served: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_gpu_student_go_to_its_padded_session_and_every_item_gets_its_own_scores() {
    // As `swap::open` arranges it where a GPU runs, here on the CPU: the padded session refuses what is larger than it.
    let folder = tempfile::tempdir().unwrap();
    let model = test_model_folder(folder.path(), "one", 1);
    let mut student = Student::open(&model, None, Device::Cpu, 1, 4).unwrap();
    let onnx = std::fs::read(model.join("student.onnx")).unwrap();
    student.lanes = vec![Engine::open(&onnx, Device::Cpu, 1).unwrap().padded(4)];
    let mut alone = Engine::open(&onnx, Device::Cpu, 1).unwrap();
    let metrics = Metrics::new().unwrap();
    let (infer, threads) = Infer::start(student, infer::InferSettings::default(), metrics.clone()).unwrap();
    let pictures: Vec<Vec<u8>> =
        (0..32).map(|p| (0..SIDE * SIDE * 3).map(|i| (i * (p + 3) % 256) as u8).collect()).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let answers: Vec<_> = pictures.iter().map(|p| infer.submit(p.clone(), Source::Http, deadline).unwrap()).collect();
    for (answer, picture) in answers.into_iter().zip(&pictures) {
        let found = answer.await.unwrap().scores.unwrap().embedding;
        let wanted = alone.run_all(std::slice::from_ref(picture), 1).unwrap().embedding;
        assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    let batches = metrics.line.batch_size.get_sample_count();
    assert!((8..32).contains(&batches), "{batches} batches for 32 items");
    infer.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
