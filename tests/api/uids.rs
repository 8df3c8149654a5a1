//! What an answer says of its item finds it again: verdict, picture, labels, whichever store holds them.

use reqwest::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use serde_json::{Value, json};

use crate::common::{pictures::jpeg, server::start};

#[tokio::test(flavor = "multi_thread")]
async fn the_uid_of_an_answer_finds_verdict_picture_and_labels() {
    let server = start().await;
    let answer: Value = server.post("/classify", jpeg(100, 2)).await.json().await.unwrap();
    let item = &answer["verdicts"][0];
    let uid = item["uid"].as_str().unwrap_or_else(|| panic!("the answer has no uid: {item}")).to_owned();
    let state = item["record"].as_str().unwrap();
    assert!(state == "queued" && item["id"].is_null() || state == "recorded" && item["id"] == 1, "{item}");
    server.recorded(1).await;
    let found = server.get(&format!("/verdicts/{uid}")).await;
    assert_eq!((&found["verdict"]["uid"], &found["verdict"]["id"]), (&json!(uid), &json!(1)));
    assert_eq!(found["verdict"]["scores"], item["scores"]);
    assert_eq!(server.get("/verdicts/1").await, found, "its number finds it too");
    assert_eq!(server.get("/verdicts").await["verdicts"][0]["uid"], json!(uid));

    let said = json!({"verdict": uid, "class": "cod", "by": "anna"}).to_string();
    let label: Value = server.post("/labels", said).await.json().await.unwrap();
    assert_eq!((&label["uid"], &label["verdict"]), (&json!(uid), &json!(1)));
    for path in [format!("/labels?verdict={uid}"), "/labels?verdict=1".into()] {
        assert_eq!(server.get(&path).await["labels"], json!([label]), "{path}");
    }
    assert_eq!(server.get(&format!("/verdicts/{uid}")).await["labels"], json!([label]));
    assert_eq!(server.get(&format!("/items?verdict={uid}")).await["items"][0]["labels"], json!([label]));
    assert_eq!(server.ask(&format!("/items/{uid}.jpg")).await.status(), 200);

    let other = "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee";
    let refused = server.post("/labels", json!({"verdict": other, "class": "cod", "by": "anna"}).to_string()).await;
    assert_eq!(refused.status(), 404);
    for path in
        [format!("/verdicts/{other}"), format!("/items/{other}.jpg"), "/verdicts/9".into(), "/verdicts/x".into()]
    {
        assert_eq!(server.ask(&path).await.status(), 404, "{path}");
    }
    for path in [format!("/labels?verdict={other}"), format!("/items?verdict={other}")] {
        let page = server.get(&path).await;
        assert!(page["labels"].as_array().or(page["items"].as_array()).unwrap().is_empty(), "{path}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_no_picture_of_another_store_under_the_same_number() {
    let (one, other) = (start().await, start().await);
    for (server, seed) in [(&one, 2), (&other, 3)] {
        server.post("/classify", jpeg(100, seed)).await;
        server.recorded(1).await;
    }
    let first = one.ask("/items/1.jpg").await;
    let kept = first.headers()[CACHE_CONTROL].to_str().unwrap().to_owned();
    assert!(kept.contains("no-cache"), "a number is asked for again each time, not {kept}");
    let tag = first.headers()[ETAG].clone();
    let again = async |server: &crate::common::server::Server| {
        let asked = server.client.get(format!("{}/items/1.jpg", server.url)).header(IF_NONE_MATCH, tag.clone());
        asked.send().await.unwrap().status()
    };
    assert_eq!((again(&one).await, again(&other).await), (304.try_into().unwrap(), 200.try_into().unwrap()));
    let uid = async |server: &crate::common::server::Server| {
        server.get("/verdicts").await["verdicts"][0]["uid"].as_str().unwrap().to_owned()
    };
    let (uid, foreign) = (uid(&one).await, uid(&other).await);
    let by_uid = one.ask(&format!("/items/{uid}.jpg")).await;
    assert!(by_uid.headers()[CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    assert_eq!(by_uid.headers()[ETAG], tag);
    assert_eq!(one.ask(&format!("/items/{foreign}.jpg")).await.status(), 404);
}
