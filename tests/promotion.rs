//! From a candidate to the student that serves, and back.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{start, test_model_folder};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_person_promotes_and_rolls_back_and_the_story_says_who() {
    let server = start().await;
    test_model_folder(&server.models, "two", 2);
    let cut = test_model_folder(&server.models, "cut", 3);
    std::fs::write(cut.join("student.onnx"), b"half").unwrap();
    let order = |why: &str| json!({"by": "Ann", "why": why}).to_string();

    assert_eq!(server.post("/models/rollback", order("")).await.status(), 409, "nothing served before");
    assert_eq!(server.post("/models/none/promote", order("")).await.status(), 404);
    assert_eq!(server.post("/models/..%2Fone/promote", order("")).await.status(), 404);
    assert_eq!(server.post("/models/two/promote", "{}").await.status(), 400, "nobody said who");
    assert_eq!(server.post("/models/cut/promote", order("")).await.status(), 422);
    assert_eq!(server.infer.card().version, "one");

    let promoted: Value = server.post("/models/two/promote", order("new light")).await.json().await.unwrap();
    assert!(promoted["model"].as_str().unwrap().starts_with("two@"), "{promoted}");
    assert_eq!(server.infer.card().version, "two");
    let models = server.get("/models").await;
    assert_eq!((&models["serving"], &models["before"]), (&json!("two"), &json!("one")));
    let back: Value = server.post("/models/rollback", order("too strict")).await.json().await.unwrap();
    assert!(back["model"].as_str().unwrap().starts_with("one@"), "{back}");
    let history = server.get("/models").await["history"].clone();
    let told: Vec<_> = history.as_array().unwrap().iter().map(|e| (&e["change"], &e["version"], &e["why"])).collect();
    assert_eq!(
        told,
        [
            (&json!("promote"), &json!("two"), &json!("new light")),
            (&json!("rollback"), &json!("one"), &json!("too strict"))
        ]
    );
    assert_eq!(history[1]["by"], "Ann");
}

/// `beltsight serve` with the simulated belt; killed when dropped.
struct Service {
    child: Child,
    url: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(config: &Path) -> Service {
    let child = Command::new(env!("CARGO_BIN_EXE_beltsight"))
        .args(["serve", "--config"])
        .arg(config)
        .env("RUST_LOG", "info,ort=warn")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut service = Service { child, url: String::new() };
    let mut lines = BufReader::new(service.child.stderr.take().unwrap()).lines();
    for line in lines.by_ref() {
        if let Some((_, address)) = line.unwrap().split_once("listening on ") {
            service.url = address.trim().to_string();
            // Read on, or the service would block on a full pipe.
            std::thread::spawn(move || lines.for_each(drop));
            return service;
        }
    }
    panic!("the service did not start");
}

/// A models folder with the shipped student and a copy of it by the name `next`.
fn two_students(folder: &Path) -> PathBuf {
    let root = folder.join("models");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/belt-small");
    for name in ["belt-small", "next"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
        for file in std::fs::read_dir(&shipped).unwrap().flatten() {
            std::fs::copy(file.path(), root.join(name).join(file.file_name())).unwrap();
        }
    }
    let manifest = root.join("next/manifest.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("version = \"belt-small\"", "version = \"next\"", 1)).unwrap();
    root
}

async fn serving(url: &str) -> String {
    let ready: Value = reqwest::get(format!("{url}/readyz")).await.unwrap().json().await.unwrap();
    ready["model"].as_str().unwrap().split('@').next().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_rolls_a_running_service_back_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let root = two_students(folder.path());
    let config = folder.path().join("beltsight.toml");
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n[model]\nroot = '{}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n",
        root.display(),
        folder.path().join("data").display(),
    );
    std::fs::write(&config, text).unwrap();
    let service = serve(&config);
    let order = |what: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_beltsight"))
            .args(["models", "--root"])
            .arg(&root)
            .args(what)
            .args(["--by", "Ann", "--config"])
            .arg(&config)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    let until = async |wanted: &str| {
        let patience = Instant::now();
        while serving(&service.url).await != wanted {
            assert!(patience.elapsed() < Duration::from_secs(20), "{wanted} never served");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(serving(&service.url).await, "belt-small");
    order(&["promote", "next"]);
    until("next").await;
    let began = Instant::now();
    order(&["rollback"]);
    until("belt-small").await;
    let took = began.elapsed();
    println!("rolled back in {} ms, command and warm-up included", took.as_millis());
    assert!(took < Duration::from_secs(1), "{took:?}");

    // A restart keeps to the registry; a damaged student there gives way to the one before it.
    order(&["promote", "next"]);
    drop(service);
    assert_eq!(serving(&serve(&config).url).await, "next");
    std::fs::write(root.join("next/student.int8.onnx"), b"half").unwrap();
    std::fs::write(root.join("next/student.onnx"), b"half").unwrap();
    assert_eq!(serving(&serve(&config).url).await, "belt-small");
}
