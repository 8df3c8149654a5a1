//! Tensors by the Open Inference Protocol.

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
}
