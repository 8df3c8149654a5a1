//! What an earlier program wrote; `tests/fixtures/before/README.txt` tells how.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{
    asking::json_document,
    common::served::{Served, configured, shipped},
    same,
};

fn before() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Its store as `data`, its models as `models`, and a configuration that serves them without a camera.
fn earlier() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    copy(&before().join("store"), &folder.path().join("data"));
    copy(&before().join("models"), &folder.path().join("models"));
    let rest = "[labels]\nclasses = ['hake']\nsecond_share = 0.2";
    let config = configured(folder.path(), &folder.path().join("models"), "", rest);
    let text = fs::read_to_string(&config).unwrap().replace("[model]", "[model]\nversion = 'tiny'");
    fs::write(&config, text).unwrap();
    (folder, config)
}

/// What the earlier program said.
fn expected(file: &str) -> String {
    fs::read_to_string(before().join("expected").join(file)).unwrap()
}

/// A CSV without what was added behind its columns, `uid` and in a lot's the empty `told`, and with pictures named by their
/// verdicts' numbers.
fn by_number(text: &str) -> String {
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let mut written = csv::Writer::from_writer(Vec::new());
    let header = rows.headers().unwrap().clone();
    let [uid, verdict] = ["uid", "verdict"].map(|name| header.iter().position(|column| column == name).unwrap());
    assert!(header.iter().skip(uid + 1).eq(["told"].into_iter().take(header.len() - uid - 1)), "{header:?}");
    written.write_record(header.iter().take(uid)).unwrap();
    for row in rows.records().map(Result::unwrap) {
        assert!(row.iter().skip(uid + 1).all(str::is_empty), "{row:?}");
        let [by_uid, by_number] = [uid, verdict].map(|column| format!("items/{}.jpg", &row[column]));
        written.write_record(row.iter().take(uid).map(|cell| cell.replace(&by_uid, &by_number))).unwrap();
    }
    String::from_utf8(written.into_inner().unwrap()).unwrap()
}

#[track_caller]
fn went_well(arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_beltsight")).args(arguments).env("NO_COLOR", "1").output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_commands_read_what_an_earlier_program_wrote() {
    let (folder, config) = earlier();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (store, models, config) = (path("data"), path("models"), config.to_str().unwrap());
    let key = before().join("record.pub");
    let verify = ["record", "verify", "--store", &store, "--pictures", "--public-key", key.to_str().unwrap()];
    assert!(went_well(&verify).contains("whole and unchanged"));
    same("the record", &expected("verify.json"), &went_well(&[&verify[..], &["--json"]].concat()));
    let lot = went_well(&["record", "export", "--store", &store, "--lot", "K-17 <Lachs>", "--format", "csv"]);
    assert_eq!(by_number(&lot), expected("lot.csv"));
    let labels = |format: &str| went_well(&["labels", "--config", config, "export", "--format", format]);
    assert_eq!(by_number(&labels("csv")), expected("labels.csv"));
    let mut tasks: Value = serde_json::from_str(&labels("label-studio")).unwrap();
    for task in tasks.as_array_mut().unwrap() {
        let [uid, id] = [&task["data"]["uid"], &task["data"]["verdict"]].map(Value::to_string);
        let image = task["data"]["image"].as_str().unwrap().replace(uid.trim_matches('"'), &id);
        task["data"]["image"] = image.into();
    }
    same("the labels for Label Studio", &expected("label_studio.json"), &tasks.to_string());
    for (command, file) in [
        (&["list"][..], "models_list.txt"),
        (&["history"], "models_history.txt"),
        (&["verify"], "models_verify.txt"),
        (&["show", "tiny"], "models_show.txt"),
    ] {
        assert_eq!(went_well(&[&["models", "--root", &models][..], command].concat()), expected(file), "{command:?}");
    }
    assert_eq!(went_well(&["tokens", "--config", config, "list"]), expected("tokens.txt"));

    // The registry is written on; what was there stays word for word.
    copy(&shipped().join("belt-small"), &folder.path().join("models/belt-small"));
    let history = || json_document(&folder.path().join("models/serving.json"));
    let earlier = history().as_array().unwrap().clone();
    let by = ["--config", config, "--by", "Cy", "--why", "later"];
    went_well(&[&["models", "--root", &models, "promote", "belt-small"][..], &by].concat());
    went_well(&[&["models", "--root", &models, "rollback"][..], &by].concat());
    let now = history().as_array().unwrap().clone();
    assert_eq!(now[..earlier.len()], earlier);
    let added: Vec<_> = now[earlier.len()..].iter().map(|e| (&e["change"], &e["version"], &e["by"])).collect();
    let cy = Value::from("Cy");
    assert_eq!(added, [(&"promote".into(), &"belt-small".into(), &cy), (&"rollback".into(), &"tiny".into(), &cy)]);
}

/// An answer without the place where the record ends: the program that starts writes on.
fn headless(answer: &str) -> String {
    let mut answer: Value = serde_json::from_str(answer).unwrap();
    if let Some(fields) = answer.as_object_mut() {
        fields.retain(|name, _| name != "head" && name != "head_hash");
    }
    answer.to_string()
}

#[tokio::test]
async fn the_service_answers_from_what_an_earlier_program_wrote_and_writes_on() {
    let (folder, config) = earlier();
    let mut served = Served::start(&config, &[]).unwrap_or_else(|said| panic!("it does not start: {said}"));
    let client = reqwest::Client::new();
    let ask = async |who: &str, path: &str, body: Option<Vec<u8>>| {
        let token = fs::read_to_string(before().join(format!("token.{who}"))).unwrap();
        let url = format!("{}{path}", served.url);
        let request = body.map_or(client.get(&url), |body| client.post(&url).body(body));
        let response = request.bearer_auth(token.trim()).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    };
    let questions = expected("questions.txt");
    for question in questions.lines() {
        let (file, path) = question.split_once(' ').unwrap();
        same(path, &headless(&expected(&format!("{file}.json"))), &headless(&ask("ada", path, None).await));
    }
    let lots: Value = serde_json::from_str(&expected("lots.json")).unwrap();
    let lot = lots[1]["lot"].as_i64().unwrap();
    let lot = ask("vic", &format!("/lots/{lot}/export.csv"), None).await;
    assert_eq!(by_number(&lot), expected("lot.csv"));

    // One item more, and what a person says of it.
    let record: Value = serde_json::from_str(&expected("verify.json")).unwrap();
    let newest = record["verdicts"].as_i64().unwrap() + 1;
    let items: Value = serde_json::from_str(&expected("items.json")).unwrap();
    let frame = items["items"][0]["verdict"]["frame"].as_str().unwrap();
    let picture = find(&folder.path().join("data/frames"), frame);
    ask("leo", "/classify", Some(fs::read(picture).unwrap())).await;
    let patience = std::time::Instant::now();
    loop {
        let page: Value = serde_json::from_str(&ask("leo", "/verdicts?limit=1", None).await).unwrap();
        if page["verdicts"][0]["id"] == newest {
            break;
        }
        assert!(patience.elapsed().as_secs() < 20, "the item is not recorded: {page}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let label = serde_json::json!({ "verdict": newest, "class": "salmon" });
    ask("leo", "/labels", Some(label.to_string().into_bytes())).await;
    served.process.signal("-TERM");
    assert!(served.process.wait().success());

    let (store, key) = (folder.path().join("data"), before().join("record.pub"));
    let kept = format!("{}:{}", record["entries"], record["head"].as_str().unwrap());
    let verify = ["record", "verify", "--json", "--pictures", "--kept", &kept, "--store", store.to_str().unwrap()];
    let now = went_well(&[&verify[..], &["--public-key", key.to_str().unwrap()]].concat());
    let now: Value = serde_json::from_str(&now).unwrap();
    assert_eq!(now["findings"], serde_json::json!([]));
    assert_eq!(now["verdicts"], newest);
    assert!(now["entries"].as_i64() > record["entries"].as_i64().map(|n| n + 3), "start, item, label, stop: {now}");
}

/// The file whose name begins with the key of a frame.
fn find(folder: &Path, key: &str) -> PathBuf {
    let name = key.rsplit('-').next().unwrap();
    let days = fs::read_dir(folder).unwrap().map(|day| day.unwrap().path());
    let files = days.flat_map(|day| fs::read_dir(day).unwrap()).map(|file| file.unwrap().path());
    let mut found =
        files.filter(|file| file.file_name().unwrap().to_str().unwrap().contains(name.trim_end_matches(".jpg")));
    found.next().unwrap_or_else(|| panic!("no picture {key}"))
}
