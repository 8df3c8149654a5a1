//! Labeling: what a person says about an item is kept, can be taken back, is asked of the right people, and reaches the
//! data set; over HTTP and in a browser.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;

use beltsight::{
    domain::{Action, ClassScore, Decision, Picture, Reason, Region, Source, Timings, Verdict},
    pixels,
    store::{Store, frame_key},
};
use common::{CLASSES, Server, picture, start};
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
    let count = |class: &str| server.metrics.labels.with_label_values(&[class]).get();
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
    for path in ["/labels?limit=501", "/labels/queue", "/labels/queue?by=anna&limit=51", "/labels/queue?by=a&order=x"] {
        let answer = server.client.get(format!("{}{path}", server.url)).send().await.unwrap();
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
    let get = async |path: &str| server.client.get(format!("{}{path}", server.url)).send().await.unwrap();
    let answer = get("/items/1.jpg").await;
    assert_eq!(answer.headers()["content-type"], "image/jpeg");
    let jpeg = answer.bytes().await.unwrap();
    let cut = pixels::decode(&jpeg, pixels::Limits::default()).unwrap();
    assert_eq!((cut.width, cut.height), (46, 46), "40 pixels and 15 % around");
    for (path, status) in [
        ("/items/2.jpg", 409),
        ("/items/3.jpg", 409),
        ("/items/9.jpg", 404),
        ("/items/1.png", 404),
        ("/items/x.jpg", 404),
    ] {
        assert_eq!(get(path).await.status(), StatusCode::from_u16(status).unwrap(), "{path}");
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
