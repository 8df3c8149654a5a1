//! Tensors by the Open Inference Protocol.

use std::io::Write;

use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    common::{
        pictures::{encoded, picture},
        server::{CLASSES, SIDE, start},
    },
    problem,
};

fn tensor(pixels: &[u8], n: usize) -> Value {
    json!({"id": "7", "inputs": [{"name": "image", "datatype": "UINT8", "shape": [n, SIDE, SIDE, 3], "data": pixels}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_gives_the_same_probabilities_as_classify() {
    let server = start().await;
    let metadata = server.get("/v2/models/one").await;
    assert_eq!(metadata["inputs"][0]["shape"], json!([-1, SIDE, SIDE, 3]));
    assert_eq!(metadata["classes"], json!(CLASSES));
    assert_eq!(server.get("/v2/models/one/ready").await, json!({"ready": true}));
    let pictures = [picture(SIDE, 4), picture(SIDE, 5)];
    let pixels = pictures.iter().flat_map(|p| p.rgb.clone()).collect::<Vec<u8>>();
    let answer: Value = server.post("/v2/models/one/infer", tensor(&pixels, 2).to_string()).await.json().await.unwrap();
    assert_eq!((&answer["id"], &answer["outputs"][0]["shape"]), (&json!("7"), &json!([2, 3])));
    assert_eq!(answer["outputs"][1]["shape"], json!([2, 128]));
    for (i, picture) in pictures.iter().enumerate() {
        let image = image::RgbImage::from_raw(SIDE, SIDE, picture.rgb.clone()).unwrap();
        let png = encoded(image, ImageFormat::Png); // lossless, so both see the same pixels
        let verdict: Value = server.post("/classify", png).await.json().await.unwrap();
        for score in verdict["verdicts"][0]["scores"].as_array().unwrap() {
            let class = CLASSES.iter().position(|c| score["class"] == *c).unwrap();
            let v2 = answer["outputs"][0]["data"][i * 3 + class].as_f64().unwrap();
            let difference = (v2 - score["probability"].as_f64().unwrap()).abs();
            assert!(difference < 1e-5, "picture {i} class {class} differs by {difference}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_that_do_not_fit_are_refused_and_counted() {
    let server = start().await;
    let size = (SIDE * SIDE * 3) as usize;
    let mut nan = tensor(&vec![0; size], 1).to_string();
    nan = nan.replacen("[0,", "[NaN,", 1);
    for (body, kind) in [
        (tensor(&vec![0; size - 1], 1).to_string(), "shape"),
        (tensor(&vec![0; size], 2).to_string(), "shape"),
        (nan, "not_finite"),
        ("{}".into(), "malformed"),
        (String::new(), "malformed"),
    ] {
        let before = server.bad(kind);
        problem(server.post("/v2/models/one/infer", body).await, 400, kind).await;
        assert_eq!(server.bad(kind), before + 1, "{kind}");
    }
    problem(server.post("/v2/models/two/infer", "{}").await, 404, "not_found").await;
    problem(server.post("/v2/models/one/versions/1/infer", "{}").await, 404, "not_found").await;
    let refused: Value = server.post("/v2/models/one/infer", "{}").await.json().await.unwrap();
    assert_eq!(refused["error"], refused["detail"], "where the protocol's clients look for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_tensors_come_and_go_behind_the_json_compressed_or_not() {
    let server = start().await;
    let pixels = picture(SIDE, 4).rgb;
    let plain: Value = server.post("/v2/models/one/infer", tensor(&pixels, 1).to_string()).await.json().await.unwrap();
    let version = server.get("/v2/models/one").await["versions"][0].as_str().unwrap().to_owned();
    let path = format!("/v2/models/one/versions/{version}");
    assert_eq!(server.get(&path).await["name"], "one");
    assert_eq!(server.get(&format!("{path}/ready")).await, json!({"ready": true}));
    let head = json!({
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, SIDE, SIDE, 3],
            "parameters": {"binary_data_size": pixels.len()}}],
        "outputs": [{"name": "embedding"}, {"name": "probabilities", "parameters": {"binary_data": true}}],
    });
    let head = head.to_string();
    let body = [head.as_bytes(), &pixels].concat();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(&body).unwrap();
    for (body, coding) in [(body, "identity"), (zipped.finish().unwrap(), "gzip")] {
        let request = server.client.post(format!("{}{path}/infer", server.url)).header("content-encoding", coding);
        let request = request.header("inference-header-content-length", head.len());
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let json: usize = answer.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
        let bytes = answer.bytes().await.unwrap();
        let said: Value = serde_json::from_slice(&bytes[..json]).unwrap();
        assert_eq!(said["outputs"][1]["data"], plain["outputs"][1]["data"]);
        assert_eq!(said["outputs"][0]["parameters"]["binary_data_size"], bytes.len() - json);
        let raw: Vec<f64> =
            bytes[json..].chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
        let told = plain["outputs"][0]["data"].as_array().unwrap();
        assert!(raw.len() == 3 && raw.iter().zip(told).all(|(a, b)| (a - b.as_f64().unwrap()).abs() < 1e-6));
    }
    let done = server.get("/v2/models/one/stats").await;
    assert_eq!(done["model_stats"][0]["inference_stats"]["success"]["count"], 3, "{done}");
    assert_eq!(done["model_stats"][0]["inference_count"], 3);
}
