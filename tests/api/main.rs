//! The HTTP API, against a real student in ONNX Runtime.
#![allow(clippy::unwrap_used)]

mod bodies;
#[path = "../common/mod.rs"]
mod common;
mod models;
mod pictures;
mod reading;
mod tensors;
mod uids;

use serde_json::Value;

/// Checks status, media type and members of a problem document; returns its `detail`.
async fn problem(response: reqwest::Response, status: u16, kind: &str) -> String {
    assert_eq!(response.status(), status, "{kind}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{kind}");
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["type"], format!("urn:beltsight:problem:{kind}"));
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().unwrap().is_empty());
    problem["detail"].as_str().unwrap().to_owned()
}
