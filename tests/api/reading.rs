//! What can be read: pages of verdicts, streams, health, metrics and the description.

use std::{collections::BTreeSet, time::Duration};

use beltsight::api::TABLE;
use serde_json::json;

use crate::{
    common::{pictures::jpeg, server::start},
    problem,
};

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_complete_and_without_duplicates() {
    let server = start().await;
    for seed in 0..7 {
        assert_eq!(server.post("/classify", jpeg(32, seed)).await.status(), 200);
    }
    server.recorded(7).await;
    let (mut ids, mut before) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/verdicts?limit=3{before}")).await;
        ids.extend(page["verdicts"].as_array().unwrap().iter().map(|v| v["id"].as_i64().unwrap()));
        let Some(next) = page["next"].as_i64() else { break };
        before = format!("&before={next}");
    }
    assert_eq!(ids, [7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(server.get("/verdicts?source=belt").await["verdicts"], json!([]));
    for wrong in ["limit=0", "limit=501", "action=eat", "before=x", "colour=red"] {
        let response = server.ask(&format!("/verdicts?{wrong}")).await;
        problem(response, 400, "malformed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_deliver_recorded_verdicts_and_the_newest_frame() {
    let server = start().await;
    let mut verdicts = server.ask("/verdicts/stream").await;
    assert_eq!(verdicts.headers()["content-type"], "text/event-stream");
    server.post("/classify", jpeg(32, 1)).await;
    let mut text = String::new();
    while !text.contains("\n\n") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), verdicts.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.contains("event: verdict") && text.contains("id: 1"), "{text}");

    let none = server.ask("/live.jpg").await;
    problem(none, 404, "not_found").await;
    let mut live = server.ask("/live").await;
    let newest = jpeg(48, 9);
    let frame =
        |jpeg: Vec<u8>| beltsight::line::live::LiveFrame { jpeg: jpeg.into(), width: 48, height: 48, items: vec![] };
    server.camera.frame.send_replace(Some(frame(newest.clone())));
    let chunk = tokio::time::timeout(Duration::from_secs(10), live.chunk()).await.unwrap().unwrap().unwrap();
    let text = std::str::from_utf8(&chunk).unwrap();
    assert!(text.starts_with("event: frame") && text.contains(r#""width":48"#), "{text}");
    let shown = server.ask("/live.jpg").await.bytes().await.unwrap();
    assert_eq!(shown, newest);
    let named = server.ask("/live.jpg?camera=belt").await;
    assert_eq!(named.bytes().await.unwrap(), newest);
    for path in ["/live.jpg?camera=other", "/live?camera=other"] {
        problem(server.ask(path).await, 404, "not_found").await;
    }
    server.camera.is(beltsight::line::live::CameraState::Lost("unplugged".into()));
    assert_eq!(server.get("/cameras").await, json!([{"name": "belt", "state": "lost", "why": "unplugged"}]));

    server.stop.cancel();
    let ends = async { while let Ok(Some(_)) = verdicts.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(5), ends).await.expect("an open stream holds up the shutdown");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_errors_keep_their_shape() {
    let server = start().await;
    let ready = server.get("/readyz").await;
    assert_eq!(
        (&ready["ready"], &ready["provider"], &ready["precision"]),
        (&json!(true), &json!("cpu"), &json!("float32"))
    );
    server.ready.send_replace(false);
    assert_eq!(server.ask("/readyz").await.status(), 503);
    assert_eq!(server.ask("/healthz").await.status(), 200);
    let none = server.ask("/nothing/here").await;
    problem(none, 404, "not_found").await;
    let method = server.ask("/classify").await;
    assert_eq!(method.headers()["allow"], "POST");
    problem(method, 405, "method").await;
    let lots = server.client.put(format!("{}/lots", server.url)).send().await.unwrap();
    assert_eq!((lots.status().as_u16(), &lots.headers()["allow"]), (405, &"GET, HEAD, POST".parse().unwrap()));
    let long = server.client.get(format!("{}/healthz", server.url)).header("x-long", "a".repeat(100_000));
    problem(long.send().await.unwrap(), 431, "head_too_large").await;
    let frame = server.ask("/frames/..%2F..%2Fmodels").await;
    problem(frame, 404, "not_found").await;
    let text = server.ask("/metrics").await.text().await.unwrap();
    assert!(text.contains(r#"beltsight_http_requests_total{route="other",status="404"} 1"#), "{text}");
    assert!(text.contains(r#"beltsight_http_requests_total{route="/readyz",status="503"} 1"#));
    assert!(!text.contains("nothing/here"), "paths are no labels");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_lists_every_route() {
    let server = start().await;
    let document = server.get("/openapi.json").await;
    let described: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| format!("{method} {path}")))
        .collect();
    let routed: BTreeSet<String> = TABLE.iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(described, routed);
    assert!(routed.len() >= 20, "{routed:?}");
    let page = server.ask("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    assert!(page.text().await.unwrap().contains("/page.js"));
}
