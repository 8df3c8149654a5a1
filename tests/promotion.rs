//! From a candidate to the student that serves, and back.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use beltsight::{
    rounds::{
        RoundEnd, RoundFolder, RoundOutcome, RoundPlan,
        gate::{PromotionGateCheck, PromotionGateLimits, PromotionGateRuling},
    },
    student::manifest::{Lineage, Manifest},
    tokens::{self, Role},
};
use common::{
    browser::{Browser, Page},
    pictures::jpeg,
    process::{asked_until, beltsight, succeeds},
    served::{Served, configured, copy_shipped, shipped},
    server::{start, test_model_folder},
};
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

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_everybody_orders_in_their_own_name() {
    let server = start().await;
    test_model_folder(&server.models, "two", 2);
    let token = |name: &str, role| tokens::add(&server.tokens_file, name, role, None).unwrap();
    let (ada, bo) = (token("ada", Role::Operator), token("bo", Role::Admin));
    server.tokens.refresh();
    let order = async |token: &str, path: &str, body: Value| {
        let request = server.client.post(format!("{}{path}", server.url)).bearer_auth(token).body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap_or_default())
    };
    let as_bo = json!({"by": "bo"});
    for path in ["/models/two/promote", "/models/rollback", "/rounds", "/rounds/stop"] {
        let (status, problem) = order(&ada, path, as_bo.clone()).await;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(status == 403 && detail.contains("this token is `ada`"), "{path}: {status} {problem}");
    }
    assert_eq!(order(&bo, "/rounds/approve", json!({"by": "ada"})).await.0, 403, "not even an admin");
    assert_eq!(order(&bo, "/rounds/approve", json!({})).await.0, 409, "nothing waits");
    assert_eq!(server.infer.card().version, "one");

    assert_eq!(order(&ada, "/models/two/promote", json!({"why": "new light"})).await.0, 200);
    assert_eq!(order(&bo, "/models/rollback", json!({"by": " bo "})).await.0, 200);
    assert_eq!(order(&ada, "/v2/repository/models/two/load", json!({})).await.0, 200);
    let models = server.client.get(format!("{}/models", server.url)).bearer_auth(&ada).send().await.unwrap();
    let models: Value = models.json().await.unwrap();
    let by: Vec<_> = models["history"].as_array().unwrap().iter().map(|entry| entry["by"].clone()).collect();
    assert_eq!(by, ["ada", "bo", "ada"], "{models}");
}

/// A copy of the shipped student in `to`, by the name `version`, with another past.
fn student(to: &Path, version: &str, created: &str, past: impl FnOnce(&mut Lineage)) {
    copy_shipped(to);
    let mut manifest = Manifest::read(to).unwrap();
    (manifest.version, manifest.created) = (version.into(), created.into());
    past(&mut manifest.lineage);
    manifest.write(to).unwrap();
}

/// A models folder with the shipped student and a copy of it by the name `next`.
fn two_students(folder: &Path) -> PathBuf {
    let root = folder.join("models");
    for name in ["belt-small", "next"] {
        student(&root.join(name), name, "2026-11-25T01:07:04Z", |_| ());
    }
    root
}

/// The same, and a configuration that serves them.
fn two_students_to_serve(folder: &Path) -> (PathBuf, PathBuf) {
    let root = two_students(folder);
    let config = configured(folder, &root, "", "");
    (root, config)
}

async fn serving(service: &Served) -> String {
    let ready = service.get("/readyz").await;
    ready["model"].as_str().unwrap().split('@').next().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_rolls_a_running_service_back_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let (root, config) = two_students_to_serve(folder.path());
    let service = Served::start(&config, &[]).unwrap();
    let order = |what: &[&str]| {
        let mut order = beltsight();
        order.args(["models", "--root"]).arg(&root).args(what).args(["--by", "Ann", "--config"]).arg(&config);
        succeeds(&mut order);
    };
    let until = async |wanted: &str| {
        asked_until("it serves", Duration::from_secs(20), async || serving(&service).await, |now| now == wanted).await;
    };
    assert_eq!(serving(&service).await, "belt-small");
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
    assert_eq!(serving(&Served::start(&config, &[]).unwrap()).await, "next");
    std::fs::write(root.join("next/student.int8.onnx"), b"half").unwrap();
    std::fs::write(root.join("next/student.onnx"), b"half").unwrap();
    assert_eq!(serving(&Served::start(&config, &[]).unwrap()).await, "belt-small");
}

/// The service follows the registry at its own pace; orders through it must not meet that half way.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_orders_one_after_another_are_neither_refused_nor_undone() {
    let folder = tempfile::tempdir().unwrap();
    let (_root, config) = two_students_to_serve(folder.path());
    let service = Served::start(&config, &[]).unwrap();
    for n in 0..100 {
        let (what, wanted) = if n % 2 == 0 { ("next/promote", "next") } else { ("rollback", "belt-small") };
        let answer = service.post(&format!("/models/{what}"), json!({"by": "Ann"}).to_string()).await;
        assert_eq!(answer.status(), 200, "order {n}: {}", answer.text().await.unwrap());
        assert_eq!(serving(&service).await, wanted, "order {n}");
    }
}

/// A ruling in which all that `failed` does not name is as it should be.
fn ruling(failed: &str) -> PromotionGateRuling {
    let told = [
        ("classes", "5 classes", "the same", "flounder, herring, mackerel, salmon, sea_bass"),
        (
            "better",
            "+0.0310, p = 0.0004",
            "above 0, p ≤ 0.025",
            "+0.0310 on 420 held-out pictures (17 mended, 4 broken)",
        ),
        ("every class", "-0.0080 (mackerel)", "≥ -0.0200", "mackerel changes most for the worse"),
        ("false accepts", "-0.0040", "≤ +0.0100", "0.0060 of the bad items pass, 0.0100 with the incumbent"),
        ("calibrated", "0.0130", "≤ 0.1000", "expected calibration error 0.0130, the incumbent's 0.0110"),
        ("robust", "+0.0070", "≥ -0.0200", "accuracy 0.9420 on damaged pictures, the incumbent's 0.9350"),
        ("fast enough", "1.02 times", "≤ 1.25 times", "0.52 ms a picture, the incumbent 0.51 ms"),
    ];
    let check = |(name, figure, limit, found): (&str, &str, &str, &str)| {
        let passed = name != failed;
        let figure = if passed { figure } else { "+0.0020, p = 0.4018" };
        PromotionGateCheck {
            name: name.into(),
            passed,
            found: found.into(),
            figure: figure.into(),
            limit: limit.into(),
        }
    };
    let checks: Vec<PromotionGateCheck> = told.into_iter().map(check).collect();
    let promote = checks.iter().all(|check| check.passed);
    PromotionGateRuling { promote, checks, pictures: 420, accuracy: [0.9476, 0.9786], disagreement: 0.03, shadow: None }
}

/// The folder of round `number`, as its process leaves it behind: a candidate and the gate's ruling.
fn examined(
    store: &Path,
    number: u32,
    day: u32,
    incumbent: &Path,
    trigger: &str,
    ruling: &PromotionGateRuling,
) -> RoundFolder {
    let folder = RoundFolder::new(store, number);
    let plan = RoundPlan {
        number,
        version: String::new(), // as older programs wrote it
        trigger: trigger.into(),
        started: format!("2026-11-{day}T08:12:00Z"),
        labels: 120 * number as usize,
        store: store.into(),
        incumbent: incumbent.into(),
        train: ["fixmatch", "--net", "small"].map(String::from).to_vec(),
        distill: vec!["--net".into(), "small".into()],
        base: None,
        held_out: None,
        held_out_share: 0.3,
        unlabeled: 5000,
        memory: 8 << 30,
        gate: PromotionGateLimits::default(),
        tests_before: 0,
    };
    folder.write("plan.json", &plan).unwrap();
    folder.write("ruling.json", ruling).unwrap();
    let version = folder.version();
    student(&folder.candidate(), version, &format!("2026-11-{day}T08:40:00Z"), |past| {
        past.method = "distill".into();
        past.labeled = 84 * number as usize;
        past.seed = number.into();
        past.command = format!("beltsight-learn distill --net small --teacher {version}-teacher --data train");
        past.data_sha256 = format!("{number:02x}").repeat(32);
        past.teacher = (number != 2).then(|| format!("{version}-teacher"));
    });
    folder
}

fn over(folder: &RoundFolder, day: u32, end: RoundEnd, why: &str, ruling: Option<PromotionGateRuling>) {
    let outcome = RoundOutcome { end, why: why.into(), at: format!("2026-11-{day}T08:50:00Z"), ruling };
    folder.write("outcome.json", &outcome).unwrap();
}

/// A service some weeks after it was set up: rounds that were promoted, held, taken back and failed, and one that is
/// about to be in its shadow run.
fn some_weeks_later(folder: &Path) -> PathBuf {
    let (root, store) = (folder.join("models"), folder.join("data"));
    student(&root.join("belt-small"), "belt-small", "2026-11-02T01:07:04Z", |_| ());
    let (good, poor) = (ruling(""), ruling("better"));
    for (number, day, incumbent) in [(1, 10, "belt-small"), (4, 19, "round-0001")] {
        let round = examined(&store, number, day, &root.join(incumbent), "labels", &good);
        over(&round, day, RoundEnd::Promoted, &good.checks[1].found, Some(good.clone()));
        std::fs::rename(round.candidate(), root.join(round.version())).unwrap();
        std::fs::create_dir_all(round.candidate()).unwrap();
        for file in std::fs::read_dir(root.join(round.version())).unwrap().flatten() {
            std::fs::copy(file.path(), round.candidate().join(file.file_name())).unwrap();
        }
    }
    let held = examined(&store, 2, 13, &root.join("round-0001"), "schedule", &poor);
    over(&held, 13, RoundEnd::Held, &poor.reasons(), Some(poor.clone()));
    let failed = examined(&store, 3, 16, &root.join("round-0001"), "drift", &poor);
    std::fs::remove_file(failed.path.join("ruling.json")).unwrap();
    std::fs::remove_dir_all(failed.candidate()).unwrap();
    over(&failed, 16, RoundEnd::Failed, "its process ended with exit status: 1: No space left on device", None);
    examined(&store, 5, 24, &root.join("round-0001"), "labels", &good);
    let entry = |change: &str, version: &str, day: u32, by: &str, why: &str| json!({"change": change, "version": version, "at": format!("2026-11-{day}T08:51:00Z"), "by": by, "why": why});
    let history = json!([
        entry("promote", "round-0001", 10, "gate", &good.checks[1].found),
        entry("promote", "round-0004", 19, "Bo", &good.checks[1].found),
        entry("rollback", "round-0001", 20, "probation", "31.0 % of the items were not let pass, 12.0 % before"),
    ]);
    std::fs::write(root.join("serving.json"), history.to_string()).unwrap();
    configured(folder, &root, "", "[rounds]\nautomatic = false\n[rounds.gate]\nshadow_items = 40")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_missed_in_probation_takes_the_student_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (root, store) = (folder.path().join("models"), folder.path().join("data"));
    student(&root.join("belt-small"), "belt-small", "2026-11-02T01:07:04Z", |_| ());
    examined(&store, 1, 10, &root.join("belt-small"), "labels", &ruling(""));
    let rest = "[rounds]\nprobation = '4s'\n[rounds.gate]\nshadow_items = 0\n\
                [[camera]]\nname = 'belt'\nsource = 'mjpeg'\nurl = 'http://127.0.0.1:9/'";
    let service = Served::start(&configured(folder.path(), &root, "", rest), &[]).unwrap();
    let until = async |path: &str, field: &[&str], wanted: &Value| {
        let is_wanted = |answer: &Value| field.iter().fold(answer, |value, name| &value[*name]) == wanted;
        let what = format!("{path}: {field:?} is {wanted}");
        asked_until(&what, Duration::from_secs(30), async || service.get(path).await, is_wanted).await
    };
    until("/rounds", &["now", "probation"], &json!("round-0001")).await;
    // The camera is not there, so the piece is missed; what is announced in probation counts, also when it is decided
    // only after the four seconds.
    let piece = json!({"camera": "belt", "piece": "trout dummy", "within_s": 3.0, "by": "Ada"}).to_string();
    assert_eq!(service.post("/challenges", piece).await.status(), 201);
    let models = until("/models", &["serving"], &json!("belt-small")).await;
    let last = &models["history"][1];
    assert_eq!((&last["change"], &last["by"]), (&json!("rollback"), &json!("probation")), "{models}");
    assert!(last["why"].as_str().unwrap().contains("trout dummy on belt) was missed"), "{models}");
    until("/rounds", &["now", "probation"], &Value::Null).await;
}

/// Has pictures judged until the shadow run has compared `share` of what it wants; what finds it busy is passed over.
async fn shadowed(service: &Served, share: f64) {
    let patience = Instant::now();
    for seed in 0.. {
        assert_eq!(service.post("/classify", jpeg(64, seed)).await.status(), 200);
        let story = service.get("/rounds").await;
        let now = &story["now"];
        if now["stage"] != "shadow" || now["progress"].as_f64().unwrap_or_default() >= share {
            return;
        }
        assert!(patience.elapsed() < Duration::from_secs(60), "{now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Answers the question that the page asks before it orders anything.
fn sure(page: &Page, name: Option<&str>, why: Option<&str>) {
    page.until("document.getElementById('sure').open");
    for (field, text) in [("#name", name), ("#why", why)] {
        if let Some(text) = text {
            page.click(field);
            page.write(text);
        }
    }
    page.click("#yes");
    page.until("!document.getElementById('sure').open");
}

const RESTS: &str = "document.getElementById('stage').textContent === 'No round runs'";

fn row(version: &str, class: &str) -> String {
    format!("document.querySelector('#tree [data-version={version:?}]')?.classList.contains({class:?})")
}

/// What serves and since when, where everybody comes from, and why a candidate was held.
async fn the_page_tells_the_story_so_far(service: &Served, page: &Page<'_>) {
    page.until("document.getElementById('stage').textContent.includes('scores live items')");
    shadowed(service, 0.5).await;
    page.until("document.getElementById('progress').value >= 0.5");
    assert_eq!(page.text("#steps .at"), "Shadow run");
    assert_eq!(page.text("#serving"), "round-0001");
    assert!(page.text("#since").contains("brought back by probation"), "{}", page.text("#since"));
    for (version, class) in [
        ("round-0001", "serves"),
        ("belt-small", "served"),
        ("round-0002", "held"),
        ("round-0004", "taken-back"),
        ("round-0004-teacher", "teacher"),
    ] {
        assert_eq!(page.run(&row(version, class)), json!(true), "{version} is {class}");
    }
    let order = page.run("[...document.querySelectorAll('#tree > li')].map((e) => e.dataset.version)");
    let names: Vec<&str> = order.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let place = |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(place("round-0004") < place("round-0004-teacher") && place("round-0004-teacher") < place("round-0001"));
    assert_eq!(names.last(), Some(&"belt-small"), "{names:?}");
    assert!(page.text("#rounds .held .reason").contains("Held by: better"), "{}", page.text("#rounds .held"));
    assert!(page.text("#rounds .failed .reason").contains("No space left"), "{}", page.text("#rounds .failed"));
    page.click("#rounds [data-round='2'] summary");
    page.until("document.querySelector('#rounds [data-round=\"2\"] table')?.offsetParent");
    let failed = page.text("#rounds [data-round='2'] tr.failed");
    assert!(failed.contains("p = 0.4018") && failed.contains("p ≤ 0.025"), "figure and limit: {failed}");
    page.click("#tree [data-version='round-0001'] summary");
    page.until("document.querySelector('#tree [data-version=\"round-0001\"] dl')?.offsetParent");
    let told = page.text("#tree [data-version='round-0001']");
    let accuracy = Manifest::read(&shipped().join("belt-small")).unwrap().scorecard.unwrap().accuracy;
    let accuracy = format!("accuracy {accuracy:.4}");
    for words in ["round-0001-teacher", &"01".repeat(32), "84 pictures", "distill --net small", "by gate", &accuracy] {
        assert!(told.contains(words), "{words}: {told}");
    }
    page.run("scrollTo(0, 0)");
    page.seen("learning");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_follows_a_round_approves_promotes_and_rolls_back_in_the_browser() {
    let Some(browser) = Browser::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let service = Served::start(&some_weeks_later(folder.path()), &[]).unwrap();
    let url = &service.url;
    let page = browser.page(&format!("{url}/learning"), 1280, 1250);

    the_page_tells_the_story_so_far(&service, &page).await;

    // The shadow run ends; a second round is refused while this one waits for a person, who lets it serve.
    shadowed(&service, 1.0).await;
    page.until("!document.getElementById('approve').hidden");
    page.run("document.getElementById('start').click()"); // a page that is behind still shows it
    sure(&page, Some("Ada"), None);
    page.until("document.getElementById('banner').textContent === 'round 5 runs already'");
    page.click("#approve");
    sure(&page, None, None);
    page.until(&row("round-0005", "serves"));
    page.until(RESTS);
    assert!(page.text("#since").contains("promoted by Ada"), "{}", page.text("#since"));
    assert!(page.run("document.getElementById('banner').hidden").as_bool().unwrap());

    // Nothing changes before the question is answered, nor by a No.
    page.click("#rollback");
    page.until("document.getElementById('sure').open");
    page.click("#no");
    page.until("!document.getElementById('sure').open");
    assert_eq!(serving(&service).await, "round-0005");
    page.click("#rollback");
    sure(&page, None, Some("too strict"));
    page.until("document.getElementById('serving').textContent === 'round-0001'");
    assert_eq!(serving(&service).await, "round-0001");
    page.until(&row("round-0005", "taken-back"));

    // Any student may be let serve; a damaged one is refused, and what serves goes on.
    page.click("#tree [data-version='round-0004'] summary");
    page.click("#tree [data-version='round-0004'] .promote");
    sure(&page, None, Some("it was the lamp"));
    page.until(&row("round-0004", "serves"));
    assert_eq!(serving(&service).await, "round-0004");
    std::fs::write(folder.path().join("models/round-0005/student.int8.onnx"), b"half").unwrap();
    page.click("#tree [data-version='round-0005'] summary");
    page.click("#tree [data-version='round-0005'] .promote");
    sure(&page, None, None);
    page.until("document.getElementById('banner').textContent.includes('SHA-256')");
    assert_eq!(serving(&service).await, "round-0004");

    // A round by the button: nobody has labeled anything, and it says so.
    page.click("#start");
    sure(&page, None, None);
    page.until("document.querySelector('#rounds [data-round=\"6\"].failed') !== null");
    let why = page.text("#rounds [data-round='6']");
    assert!(why.contains("started by Ada") && why.contains("nobody has labeled an item yet"), "{why}");

    // A reload keeps the picture.
    page.until(RESTS);
    let heads = "[...document.querySelectorAll('#tree > li, #rounds > li')]\
         .map((e) => e.className + ' ' + e.querySelector('summary').innerText)";
    let before = page.run(heads);
    page.reload();
    page.until("document.querySelectorAll('#tree > li').length > 0");
    assert_eq!(page.run(heads), before);
    assert_eq!(page.text("#serving"), "round-0004");
    assert_eq!(page.complaints(), Vec::<String>::new());

    // On a tablet.
    let small = browser.page(&format!("{url}/learning"), 768, 1024);
    small.until("document.querySelectorAll('#tree > li').length > 0");
    assert_eq!(small.run("document.documentElement.scrollWidth <= 768"), json!(true), "nothing runs out of the page");
    small.seen("learning-tablet");
}
