//! Labeling: what a person says about an item is kept, can be taken back, is asked of the right people, and reaches the
//! data set; over HTTP and in a browser.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::HashSet, path::Path};

use beltsight::{
    domain::{Action, ClassScore, Decision, Picture, Reason, Region, Source, Timings, Verdict},
    picture::{dataset, pixels},
    store::{Store, frame_key},
    tokens::{self, Role},
};
use common::{
    browser::{Browser, Page},
    pictures::picture,
    process::beltsight,
    server::{CLASSES, Server, start},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// A belt verdict of the `i`th item, as unsure as `i` is small, whose picture is kept.
async fn item(store: &Store, i: usize, look: &Picture, action: Action) -> i64 {
    let class = |place: usize| CLASSES[(i + place) % 3].to_string();
    let best = 0.5 + (i % 40) as f32 / 100.0;
    let reason = match action {
        Action::Accept => Reason::Accepted,
        Action::Reject => Reason::WrongClass,
        Action::Divert => Reason::Unsure,
    };
    let jpeg = pixels::encode_jpeg(look, 90).unwrap();
    let wall = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1_795_000_000 + i as i64);
    let key = frame_key(&jpeg, wall);
    store.put_frame(&key, jpeg.into()).await.unwrap();
    let verdict = Verdict {
        uid: uuid::Uuid::from_u128(0x019e_0000_0000_7000_8000_0000_0000_0000 + i as u128),
        id: 0,
        time: wall,
        source: Source::Belt,
        camera: "belt".into(),
        track: i as u64,
        region: Some(Region { x: 20, y: 24, width: 40, height: 30 }),
        decision: Decision { action, reason, class: Some(class(0)), accept_probability: best },
        scores: vec![
            ClassScore { class: class(0), probability: best },
            ClassScore { class: class(1), probability: 1.0 - best },
        ],
        model: "one@0123456789ab".into(),
        fault: None,
        timings: Timings::default(),
        frame: Some(key),
        truth: None,
        novelty: None,
        optics: None,
        thresholds: String::new(),
        lot: None,
    };
    store.insert(&[verdict]).await.unwrap()[0]
}

/// `n` items, each with a picture of its own.
async fn items(store: &Store, n: usize) {
    for i in 0..n {
        let action = [Action::Divert, Action::Reject, Action::Accept][i % 3];
        item(store, i, &picture(96, i as u32), action).await;
    }
}

async fn say(server: &Server, verdict: i64, class: impl Into<Value>, by: &str) -> Value {
    let body = json!({"verdict": verdict, "class": class.into(), "by": by});
    let answer = server.post("/labels", body.to_string()).await;
    assert_eq!(answer.status(), 200, "{body}");
    answer.json().await.unwrap()
}

fn ids(answer: &Value, list: &str) -> Vec<i64> {
    let item = |v: &Value| v["id"].as_i64().or(v["verdict"]["id"].as_i64()).unwrap();
    answer[list].as_array().unwrap().iter().map(item).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_is_kept_corrected_and_taken_back_over_http() {
    let server = start().await;
    items(&server.store, 6).await;
    assert_eq!(server.get("/labels/classes").await, json!(["salmon", "cod", "bass", "hake"]));
    let first = say(&server, 1, "cod", " anna ").await;
    assert_eq!((&first["class"], &first["by"], &first["current"]), (&json!("cod"), &json!("anna"), &json!(true)));
    let second = say(&server, 1, "hake", "anna").await;
    say(&server, 2, Value::Null, "anna").await;
    let count = |class: &str| server.metrics.store.labels.with_label_values(&[class]).get();
    assert_eq!(["cod", "hake", "bass", "cant_tell"].map(count), [1, 1, 0, 1]);
    assert_eq!(ids(&server.get("/labels?current=true").await, "labels"), [3, 2]);
    assert_eq!(ids(&server.get("/labels?verdict=1").await, "labels"), [2, 1], "the history stays");
    let page = server.get("/labels?limit=2").await;
    assert_eq!((ids(&page, "labels"), page["next"].clone()), (vec![3, 2], json!(2)));

    let delete = async |path: &str| server.client.delete(format!("{}{path}", server.url)).send().await.unwrap();
    let withdrawn: Value = delete(&format!("/labels/{}?by=boss", second["id"])).await.json().await.unwrap();
    assert_eq!((&withdrawn["withdrawn"], &withdrawn["by"]), (&json!(true), &json!("anna")));
    assert_eq!(ids(&server.get("/labels?current=true").await, "labels"), [3, 1], "what she said before holds again");
    for path in ["/labels/2", "/labels/99", "/labels/x"] {
        assert_eq!(delete(path).await.status(), 404, "{path}");
    }

    let items = server.get("/items?labeled=true").await;
    assert_eq!(ids(&items, "items"), [2, 1]);
    assert_eq!(items["items"][1]["labels"][0]["class"], "cod");
    assert_eq!(ids(&server.get("/items?labeled=false&action=reject").await, "items"), [5]);
    assert_eq!(ids(&server.get("/items?verdict=4").await, "items"), [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_learned_from_is_refused_in_words() {
    let server = start().await;
    items(&server.store, 1).await;
    let bare = Verdict { frame: None, ..server.store.verdict(1).await.unwrap().unwrap() };
    server.store.insert(&[bare]).await.unwrap();
    for (body, status, words) in [
        (r#"{"verdict": 2, "class": "cod", "by": "anna"}"#, 409, "picture of verdict 2 was not kept"),
        (r#"{"verdict": 9, "class": "cod", "by": "anna"}"#, 404, "no verdict 9"),
        (r#"{"verdict": 1, "class": "eel", "by": "anna"}"#, 422, "no class `eel`, only salmon, cod, bass, hake"),
        (r#"{"verdict": 1, "class": "cod", "by": "  "}"#, 400, "1 to 64 characters"),
        (r#"{"verdict": 1, "by": "anna"}"#, 400, "missing field `class`"),
        (r#"{"verdict": 1, "class": "cod", "by": "anna", "sure": 1}"#, 400, "unknown field `sure`"),
        ("cod", 400, "expected"),
    ] {
        let answer = server.post("/labels", body).await;
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.status(), status, "{body}");
        let problem: Value = answer.json().await.unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(words), "{body}: {problem}");
    }
    for path in
        ["/labels?limit=501", "/labels/queue?by=%20", "/labels/queue?by=anna&limit=51", "/labels/queue?by=a&order=x"]
    {
        let answer = server.ask(path).await;
        assert_eq!(answer.status(), 400, "{path}");
    }
    assert_eq!(server.get("/labels").await["labels"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_items_picture_is_the_square_that_was_judged() {
    let server = start().await;
    items(&server.store, 1).await;
    let bare = Verdict { frame: None, ..server.store.verdict(1).await.unwrap().unwrap() };
    let gone = Verdict { frame: Some("20261125-0123456789abcdef01234567".into()), ..bare.clone() };
    server.store.insert(&[bare, gone]).await.unwrap();
    let answer = server.ask("/items/1.jpg").await;
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    let jpeg = answer.bytes().await.unwrap();
    let cut = pixels::decode(&jpeg, pixels::PixelLimits::default()).unwrap();
    assert_eq!((cut.width, cut.height), (46, 46), "40 pixels and 15 % around");
    for (path, status) in [
        ("/items/2.jpg", 409),
        ("/items/3.jpg", 409),
        ("/items/9.jpg", 404),
        ("/items/1.png", 404),
        ("/items/x.jpg", 404),
    ] {
        assert_eq!(server.ask(path).await.status(), StatusCode::from_u16(status).unwrap(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_at_work_share_the_queue_and_agree_about_the_share_that_both_get() {
    let server = start().await;
    items(&server.store, 60).await;
    let ask = async |by: &str| server.get(&format!("/labels/queue?by={by}&limit=5")).await;
    let (anna, ben) = (ids(&ask("anna").await, "items"), ids(&ask("ben").await, "items"));
    assert_eq!((anna.len(), ben.len()), (5, 5));
    let both: Vec<_> = anna.iter().filter(|id| ben.contains(id)).collect();
    assert!(both.len() <= 2, "at most the tenth that is asked of two: {both:?}");
    // Each labels what they are given until nothing is left.
    let mut said: Vec<(i64, &str)> = Vec::new();
    loop {
        let mut idle = true;
        for (by, class) in [("anna", "cod"), ("ben", "cod")] {
            if let Some(&id) = ids(&ask(by).await, "items").first() {
                // Ben disagrees about every fourth item.
                let class = if by == "ben" && id % 4 == 0 { "bass" } else { class };
                say(&server, id, class, by).await;
                said.push((id, by));
                idle = false;
            }
        }
        if idle {
            break;
        }
    }
    let labeled: HashSet<i64> = said.iter().map(|(id, _)| *id).collect();
    let twice = said.len() - labeled.len();
    assert_eq!(labeled.len(), 60, "nothing is left over");
    assert!((1..=14).contains(&twice), "{twice} of 60 were asked of both");
    assert_eq!(said.iter().collect::<HashSet<_>>().len(), said.len(), "nobody was asked twice");
    let agreement = server.get("/labels/agreement").await;
    assert_eq!(agreement["items"], twice);
    let same = said.iter().filter(|(id, by)| *by == "ben" && id % 4 != 0 && said.contains(&(*id, "anna"))).count();
    assert!((agreement["agreed"].as_f64().unwrap() - same as f64 / twice as f64).abs() < 1e-9, "{agreement}");
}

/// What a command of `beltsight labels` prints, for the store in `folder` and the shipped student's classes.
fn command(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let done = beltsight()
        .arg("labels")
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("BELTSIGHT_STORE_FOLDER", folder)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_leave_and_arrive_by_the_commands_that_a_user_types() {
    let root = tempfile::tempdir().unwrap();
    let (here, there) = (root.path().join("here"), root.path().join("there"));
    let store = Store::open(&here).await.unwrap();
    items(&store, 8).await;
    for (id, class) in [(1, "salmon"), (2, "sea_bass"), (3, "salmon")] {
        store.add_label(id, Some(class), "anna", OffsetDateTime::now_utc()).await.unwrap();
    }
    store.close().await;
    let data = root.path().join("data");
    let said = command(&here, &["export", "--to", &data.display().to_string()]).unwrap();
    assert!(said.starts_with("3 labeled and 5 unlabeled pictures, sha256 "), "{said}");
    assert_eq!(dataset::read(&data).unwrap().samples.len(), 3);
    assert_eq!(dataset::read_unlabeled(&data.join("unlabeled")).unwrap().samples.len(), 5);
    let refused = command(&here, &["export", "--to", &data.display().to_string()]).unwrap_err();
    assert!(refused.contains("exists already"), "{refused}");

    let store = Store::open(&there).await.unwrap();
    items(&store, 8).await;
    store.close().await;
    for (format, file) in [("label-studio", "labels.json"), ("csv", "labels.csv")] {
        let file = root.path().join(file);
        std::fs::write(&file, command(&here, &["export", "--format", format]).unwrap()).unwrap();
        let said = command(&there, &["import", &file.display().to_string()]).unwrap();
        let wanted = if format == "csv" { "0 labels added, 3 were" } else { "3 labels added, 0 were" };
        assert!(said.starts_with(wanted), "{format}: {said}");
    }
    let nowhere = command(&root.path().join("nowhere"), &["export", "--format", "csv"]).unwrap_err();
    assert!(nowhere.contains("can't be opened"), "{nowhere}");
}

const SHOWN: &str = "Number(document.getElementById('item').dataset.verdict)";

/// Opens the labeling page and gives a name, as the page asks for at the first visit.
fn sit_down<'a>(browser: &'a Browser, server: &Server, name: &str, size: (u32, u32)) -> Page<'a> {
    let page = browser.page(&format!("{}/label", server.url), size.0, size.1);
    page.until("document.getElementById('name').open");
    page.write(name);
    page.key("Enter");
    page.until(&format!("document.getElementById('who').textContent === '{name}' && {SHOWN} > 0"));
    page.until("document.getElementById('item').naturalWidth > 0");
    page
}

fn shown(page: &Page) -> i64 {
    page.run(SHOWN).as_f64().unwrap() as i64
}

/// What `by` says now, newest first: `(item, class)`.
async fn says(server: &Server, by: &str) -> Vec<(i64, Option<String>)> {
    let answer = server.get(&format!("/labels?by={by}&current=true&limit=500")).await;
    let label = |l: &Value| (l["verdict"].as_i64().unwrap(), l["class"].as_str().map(str::to_owned));
    answer["labels"].as_array().unwrap().iter().map(label).collect()
}

/// Waits until `by` has `n` labels.
async fn until_said(server: &Server, by: &str, n: usize) -> Vec<(i64, Option<String>)> {
    for _ in 0..500 {
        let said = says(server, by).await;
        if said.len() == n {
            return said;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{by} has {:?}, not {n} labels", says(server, by).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_labels_by_keys_takes_back_and_goes_on_after_a_reload() {
    let Some(browser) = Browser::start() else { return };
    let server = start().await;
    items(&server.store, 30).await;
    let page = sit_down(&browser, &server, "anna", (1280, 800));
    page.seen("queue");
    let of = |class: &str| Some(class.to_owned());

    // By number, by first letter, by space; each time the next item is there at once.
    let mut wanted = Vec::new();
    for (key, class) in [("1", of("salmon")), ("c", of("cod")), ("b", of("bass")), ("4", of("hake")), (" ", None)] {
        let item = shown(&page);
        page.key(key);
        assert_ne!(shown(&page), item, "after {key}");
        wanted.insert(0, (item, class));
    }
    page.key("x"); // means nothing
    assert_eq!(until_said(&server, "anna", 5).await, wanted);
    page.until("document.getElementById('progress').textContent.startsWith('5 done')");
    assert_eq!(page.run("document.querySelectorAll('#given li').length"), 5);

    // Undo brings the item back; a second one the item before.
    page.key("u");
    page.until(&format!("{SHOWN} === {}", wanted[0].0));
    page.click("#undo");
    page.until(&format!("{SHOWN} === {}", wanted[1].0));
    assert_eq!(until_said(&server, "anna", 3).await, wanted[2..]);
    page.key("s");
    assert_eq!(until_said(&server, "anna", 4).await[0], (wanted[1].0, of("salmon")));

    // Name, progress and undo survive a reload.
    page.reload();
    page.until(&format!("{SHOWN} > 0 && document.getElementById('progress').textContent.startsWith('4 done')"));
    assert!(!page.run("document.getElementById('name').open").as_bool().unwrap(), "the name is remembered");
    page.key("u");
    page.until(&format!("{SHOWN} === {}", wanted[1].0));
    until_said(&server, "anna", 3).await;

    // The whole frame instead of the item.
    page.key("w");
    page.until("document.getElementById('item').src.includes('/frames/')");
    page.until("document.getElementById('item').naturalWidth === 96");
    page.key("w");

    // The strip leads to a correction; the history stays.
    page.click("#given .tile");
    page.until("document.getElementById('one').open");
    page.key("h");
    page.until("document.querySelector('#history .past') !== null");
    page.seen("dialog");
    let corrected = until_said(&server, "anna", 3).await;
    assert_eq!(corrected[0], (wanted[2].0, of("hake")));
    page.click("#close");
    page.until("!document.getElementById('one').open");
    page.seen("queue-later");
    assert_eq!(page.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_label_at_once_by_key_and_by_touch_and_no_item_twice_but_the_share() {
    let Some(browser) = Browser::start() else { return };
    let server = start().await;
    items(&server.store, 40).await;
    let anna = sit_down(&browser, &server, "anna", (1280, 800));
    let ben = sit_down(&browser, &server, "ben", (768, 1024));
    ben.seen("tablet");
    for _ in 0..8 {
        anna.until(&format!("{SHOWN} > 0"));
        anna.key("2");
        for button in ["#classes [data-class=bass]", "#cant"] {
            ben.until(&format!("{SHOWN} > 0"));
            ben.touch(button);
        }
    }
    let (of_anna, of_ben) = (until_said(&server, "anna", 8).await, until_said(&server, "ben", 16).await);
    assert!(of_anna.iter().all(|(_, class)| class.as_deref() == Some("cod")));
    let told = of_ben.iter().filter(|(_, class)| class.as_deref() == Some("bass")).count();
    assert_eq!((told, of_ben.len() - told), (8, 8));
    let both = of_anna.iter().filter(|(id, _)| of_ben.iter().any(|(other, _)| other == id)).count();
    let agreement = server.get("/labels/agreement").await;
    assert_eq!(agreement["items"], both);
    assert!(both <= 3, "{both} items were labeled by both, a tenth is asked of two");
    assert_eq!(anna.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_everybody_labels_in_their_own_name() {
    let server = start().await;
    items(&server.store, 10).await;
    let token = |name: &str, role| tokens::add(&server.tokens_file, name, role, None).unwrap();
    let (anna, ben, boss) = (token("anna", Role::Labeler), token("ben", Role::Labeler), token("boss", Role::Operator));
    server.tokens.refresh();
    let ask = async |token: &str, method: &str, path: &str, body: Value| {
        let request = server.client.request(method.parse().unwrap(), format!("{}{path}", server.url));
        request.bearer_auth(token).body(body.to_string()).send().await.unwrap()
    };
    let cod = json!({"verdict": 1, "class": "cod"});
    let said: Value = ask(&anna, "POST", "/labels", cod.clone()).await.json().await.unwrap();
    assert_eq!(said["by"], "anna", "the token's name");
    let for_anna = json!({"verdict": 1, "class": "cod", "by": "anna"});
    assert_eq!(ask(&ben, "POST", "/labels", for_anna.clone()).await.status(), 403);
    assert_eq!(ask(&ben, "DELETE", "/labels/1", Value::Null).await.status(), 403);
    assert_eq!(ask(&ben, "GET", "/labels/queue?by=anna", Value::Null).await.status(), 403);
    assert_eq!(ask(&ben, "GET", "/labels/queue", Value::Null).await.status(), 200);
    assert_eq!(ask(&boss, "POST", "/labels", for_anna).await.status(), 200, "an operator brings in others' labels");
    let taken: Value = ask(&boss, "DELETE", "/labels/2", Value::Null).await.json().await.unwrap();
    assert_eq!((&taken["by"], &taken["withdrawn"]), (&json!("anna"), &json!(true)));

    // In the browser the token's name stands where otherwise a name is asked for.
    let Some(browser) = Browser::start() else { return };
    let page = browser.page(&format!("{}/label", server.url), 1280, 800);
    page.until("location.pathname === '/' && !document.getElementById('login').hidden");
    page.click("#token");
    page.write(&ben);
    page.key("Enter");
    page.until(&format!("document.getElementById('who')?.textContent === 'ben' && {SHOWN} > 0"));
    page.key("b");
    until_said_with(&server, &boss, "ben").await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}

/// Waits until the labeler `by` has one label.
async fn until_said_with(server: &Server, token: &str, by: &str) {
    for _ in 0..500 {
        let url = format!("{}/labels?by={by}&class=bass", server.url);
        let answer: Value = server.client.get(url).bearer_auth(token).send().await.unwrap().json().await.unwrap();
        if answer["labels"].as_array().unwrap().len() == 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{by} has no label");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gallery_filters_and_the_live_page_leads_to_an_items_labels() {
    let Some(browser) = Browser::start() else { return };
    let server = start().await;
    items(&server.store, 30).await;
    say(&server, 5, "hake", "ben").await;
    let page = sit_down(&browser, &server, "anna", (1280, 800));
    page.click("#to-gallery");
    let tiles = |n: usize| format!("document.querySelectorAll('#tiles .tile').length === {n}");
    page.until(&tiles(30));
    let choose = |name: &str, value: &str| {
        page.run(&format!(
            "(() => {{ const s = document.forms.filter.elements[{name:?}]; s.value = {value:?}; \
             s.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
        ));
    };
    choose("action", "reject");
    page.until(&tiles(10));
    choose("labeled", "true");
    page.until(&tiles(1));
    choose("class", "cod");
    page.until(&tiles(0));
    choose("class", "hake");
    page.until(&tiles(1));
    assert_eq!(page.text("#tiles .tile"), "hake");
    choose("class", "");
    choose("labeled", "");
    choose("action", "");
    page.until(&tiles(30));
    page.until("[...document.images].slice(0, 9).every((i) => i.complete)");
    page.seen("gallery");

    // From the live page: a click on a verdict, then the class.
    page.go(&server.url);
    page.until("document.querySelectorAll('#verdicts li').length === 20");
    page.click("#verdicts li");
    page.until("document.getElementById('one')?.open && document.getElementById('one-title').textContent === 'No. 30'");
    page.click("#one-classes [data-class=cod]");
    assert_eq!(until_said(&server, "anna", 1).await, [(30, Some("cod".to_owned()))]);
    page.until("document.querySelector('#one-classes .chosen')?.dataset.class === 'cod'");
    page.click("#history button"); // withdraw
    until_said(&server, "anna", 0).await;
    assert_eq!(page.complaints(), Vec::<String>::new());
}
