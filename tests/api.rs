//! The HTTP API, against a real student in ONNX Runtime.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Cursor, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use beltsight::{
    api::{ApiSettings, TABLE},
    domain::Source,
    line::{
        infer::{self, Infer},
        swap,
    },
    metrics::Metrics,
    student::{
        engine::{Device, Engine},
        manifest::MANIFEST,
    },
};
use common::{CLASSES, SIDE, jpeg, picture, start, start_with, test_model_folder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// An 8×8 CMYK JPEG made with ImageMagick: `convert -size 8x8 xc:'#4080c0' -colorspace CMYK -strip`.
const CMYK: &str = concat!(
    "ffd8ffee000e41646f626500640000000002ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a",
    "333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffdb0043011112121815182f1a",
    "1a2f634238426363636363636363636363636363636363636363636363636363636363636363636363636363636363636363",
    "636363636363ffc00014080008000804012200021101031101042200ffc40016000101010000000000000000000000000000",
    "0406ffc40014100100000000000000000000000000000000ffc40014010100000000000000000000000000000005ffc40014",
    "110100000000000000000000000000000000ffda000e040100021103110400003f00840085da001fffd9",
);

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8], data: &[u8]| {
        let body = [kind, data].concat();
        let crc = !body.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
        });
        bytes.extend([&(data.len() as u32).to_be_bytes()[..], &body, &crc.to_be_bytes()].concat());
    };
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat());
    chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1]);
    chunk(b"IEND", &[]);
    bytes
}

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

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_picture_is_refused_in_words_and_counted() {
    let server = start().await;
    let whole = jpeg(64, 1);
    let cmyk: Vec<u8> = (0..CMYK.len()).step_by(2).map(|i| u8::from_str_radix(&CMYK[i..i + 2], 16).unwrap()).collect();
    let cases: [(&str, Vec<u8>, u16, &str); 8] = [
        ("empty", vec![], 400, "empty"),
        ("damaged", whole[..whole.len() / 2].to_vec(), 422, "damaged"),
        ("too_large", png(60_000, 60_000), 413, "60000x60000"),
        ("unknown_format", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), 415, "no JPEG, PNG or WebP"),
        ("unknown_format", b"a sentence about fish".to_vec(), 415, "no JPEG, PNG or WebP"),
        ("damaged", png(4, 4), 422, "damaged"),
        ("unsupported", cmyk, 422, "CMYK"),
        ("damaged", vec![0xff, 0xd8], 422, "damaged"),
    ];
    for (kind, body, status, words) in cases {
        let before = server.bad(kind);
        let detail = problem(server.post("/classify", body).await, status, kind).await;
        assert!(detail.contains(words), "{kind}: {detail}");
        assert_eq!(server.bad(kind), before + 1, "{kind} is counted once");
    }
    let form = reqwest::multipart::Form::new().text("note", "no file here");
    let response = server.client.post(format!("{}/classify", server.url)).multipart(form).send().await.unwrap();
    problem(response, 400, "empty").await;
    assert_eq!(
        server.metrics.verdicts.with_label_values(&["http", "", "reject"]).get(),
        0,
        "none of them is a verdict"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_without_reading_them() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // Only the head is sent: an answer proves that the body was not waited for.
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert_eq!(server.bad("body_too_large"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_length_is_cut_at_the_limit() {
    let server = start_with(ApiSettings { max_body: 100_000, ..ApiSettings::default() }).await;
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "{:x}\r\n", 110_000).unwrap();
    stream.write_all(&vec![7; 110_000]).unwrap(); // and no last chunk: the sender would go on for ever
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_gets_a_verdict_that_is_recorded_with_its_frame() {
    let server = start().await;
    let sent = jpeg(100, 2);
    let answer: Value = server.post("/classify", sent.clone()).await.json().await.unwrap();
    assert!(answer["model"].as_str().unwrap().starts_with("one@"), "{answer}");
    let verdict = &answer["verdicts"][0];
    let total: f64 = verdict["scores"].as_array().unwrap().iter().map(|s| s["probability"].as_f64().unwrap()).sum();
    assert!((total - 1.0).abs() < 1e-5, "probabilities sum to {total}");
    assert_eq!(verdict["source"], "http");
    assert!(verdict["timings"]["total_ms"].as_f64().unwrap() >= verdict["timings"]["infer_ms"].as_f64().unwrap());
    server.recorded(1).await;
    let page = server.get("/verdicts").await;
    let stored = &page["verdicts"][0];
    assert_eq!(
        (&stored["id"], &stored["scores"], &stored["action"]),
        (&json!(1), &verdict["scores"], &verdict["action"])
    );
    let frame = format!("{}/frames/{}", server.url, stored["frame"].as_str().unwrap());
    let kept = server.client.get(frame).send().await.unwrap();
    assert_eq!(kept.headers()["content-type"], "image/jpeg");
    assert_eq!(kept.bytes().await.unwrap(), sent, "a JPEG is kept as it came");
    let action = verdict["action"].as_str().unwrap();
    assert_eq!(server.metrics.verdicts.with_label_values(&["http", "", action]).get(), 1);
    assert_eq!(server.get("/verdicts/counts").await["verdicts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn png_webp_sixteen_bit_and_forms_are_taken() {
    let server = start().await;
    let picture = picture(SIDE, 3);
    let eight = image::RgbImage::from_raw(SIDE, SIDE, picture.rgb.clone()).unwrap();
    let sixteen = image::DynamicImage::ImageRgb8(eight.clone()).into_rgb16();
    let encode = |image: image::DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let png8 = encode(eight.clone().into(), image::ImageFormat::Png);
    let png16 = encode(sixteen.into(), image::ImageFormat::Png);
    let webp = encode(eight.into(), image::ImageFormat::WebP);
    let mut answers = Vec::new();
    for body in [png8.clone(), png16, webp] {
        let answer: Value = server.post("/classify", body).await.json().await.unwrap();
        answers.push(answer["verdicts"][0]["scores"].clone());
    }
    let part = reqwest::multipart::Part::bytes(png8).file_name("fish.png");
    let form = reqwest::multipart::Form::new().text("note", "first").part("picture", part);
    let form = server.client.post(format!("{}/classify?locate=false", server.url)).multipart(form);
    let answer: Value = form.send().await.unwrap().json().await.unwrap();
    answers.push(answer["verdicts"][0]["scores"].clone());
    assert!(answers.iter().all(|a| a == &answers[0] && a.as_array().unwrap().len() == 3), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_answered_at_once_and_passes() {
    let server = start_with(ApiSettings { max_in_flight: 2, ..ApiSettings::default() }).await;
    let slow: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address).unwrap();
            write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslow").unwrap();
            stream
        })
        .collect();
    let mut response = server.post("/classify", jpeg(32, 1)).await;
    for _ in 0..100 {
        if response.status() == 429 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // the slow ones were not admitted yet
        response = server.post("/classify", jpeg(32, 1)).await;
    }
    let asked = Instant::now();
    response = server.post("/classify", jpeg(32, 1)).await;
    let took = asked.elapsed();
    assert_eq!(response.headers()["retry-after"], "1");
    problem(response, 429, "busy").await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!(server.metrics.refused.with_label_values(&["/classify"]).get() >= 1);
    drop(slow);
    for _ in 0..100 {
        if server.post("/classify", jpeg(32, 1)).await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the places of clients that went away were not given back");
}

/// Reads one answer with a `Content-Length` and returns its status line.
fn answer(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_lowercase());
    }
    let length = head.iter().find_map(|l| l.strip_prefix("content-length: ")).expect("a whole answer");
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    head.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_client_can_send_to_the_end_and_keeps_its_connection() {
    let server = start_with(ApiSettings { max_in_flight: 0, ..ApiSettings::default() }).await;
    let connect = || {
        let stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        BufReader::new(stream)
    };
    let half = vec![7; 200_000];
    let mut stream = connect();
    for _ in 0..3 {
        write!(stream.get_mut(), "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n")
            .unwrap();
        stream.get_mut().write_all(&half).unwrap();
        std::thread::sleep(Duration::from_millis(5)); // a server that answers and closes has done so by now
        stream.get_mut().write_all(&half).unwrap();
        assert_eq!(answer(&mut stream), "http/1.1 429 too many requests");
    }
    write!(stream.get_mut(), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(answer(&mut stream), "http/1.1 200 ok");

    let mut never_ends = connect();
    let asked = Instant::now();
    write!(never_ends.get_mut(), "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow")
        .unwrap();
    assert_eq!(answer(&mut never_ends), "http/1.1 429 too many requests");
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_slowly_is_cut_off_at_the_deadline() {
    let server = start_with(ApiSettings { deadline: Duration::from_millis(300), ..ApiSettings::default() }).await;
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslow").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 503");
}

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
        let response = server.client.get(format!("{}/verdicts?{wrong}", server.url)).send().await.unwrap();
        problem(response, 400, "malformed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_deliver_recorded_verdicts_and_the_newest_frame() {
    let server = start().await;
    let mut verdicts = server.client.get(format!("{}/verdicts/stream", server.url)).send().await.unwrap();
    assert_eq!(verdicts.headers()["content-type"], "text/event-stream");
    server.post("/classify", jpeg(32, 1)).await;
    let mut text = String::new();
    while !text.contains("\n\n") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), verdicts.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.contains("event: verdict") && text.contains("id: 1"), "{text}");

    let none = server.client.get(format!("{}/live.jpg", server.url)).send().await.unwrap();
    problem(none, 404, "not_found").await;
    let mut live = server.client.get(format!("{}/live", server.url)).send().await.unwrap();
    let newest = jpeg(48, 9);
    let frame =
        |jpeg: Vec<u8>| beltsight::line::live::LiveFrame { jpeg: jpeg.into(), width: 48, height: 48, items: vec![] };
    server.camera.frame.send_replace(Some(frame(newest.clone())));
    let chunk = tokio::time::timeout(Duration::from_secs(10), live.chunk()).await.unwrap().unwrap().unwrap();
    let text = std::str::from_utf8(&chunk).unwrap();
    assert!(text.starts_with("event: frame") && text.contains(r#""width":48"#), "{text}");
    let shown = server.client.get(format!("{}/live.jpg", server.url)).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(shown, newest);
    let named = server.client.get(format!("{}/live.jpg?camera=belt", server.url)).send().await.unwrap();
    assert_eq!(named.bytes().await.unwrap(), newest);
    for path in ["/live.jpg?camera=other", "/live?camera=other"] {
        problem(server.client.get(format!("{}{path}", server.url)).send().await.unwrap(), 404, "not_found").await;
    }
    server.camera.is(beltsight::line::live::CameraState::Lost("unplugged".into()));
    assert_eq!(server.get("/cameras").await, json!([{"name": "belt", "state": "lost", "why": "unplugged"}]));

    server.stop.cancel();
    let ends = async { while let Ok(Some(_)) = verdicts.chunk().await {} };
    tokio::time::timeout(Duration::from_secs(5), ends).await.expect("an open stream holds up the shutdown");
}

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
        let mut png = Cursor::new(Vec::new());
        let image = image::RgbImage::from_raw(SIDE, SIDE, picture.rgb.clone()).unwrap();
        image.write_to(&mut png, image::ImageFormat::Png).unwrap(); // lossless, so both see the same pixels
        let verdict: Value = server.post("/classify", png.into_inner()).await.json().await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_is_refused_in_words_while_the_old_one_serves() {
    let server = start().await;
    let broken = |name: &str| test_model_folder(&server.models, name, 2);
    let hash = broken("hash").join("student.onnx");
    let mut bytes = std::fs::read(&hash).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&hash, bytes).unwrap();
    let edit = |name: &str, from: &str, to: &str| {
        let path = broken(name).join(MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    edit("missing", "\nclasses = [", "\nclasses_were_here = [");
    edit("short", "    \"bass\",\n", "");
    let cut = broken("cut");
    let onnx = std::fs::read(cut.join("student.onnx")).unwrap();
    std::fs::write(cut.join("student.onnx"), &onnx[..onnx.len() / 2]).unwrap();
    let text = std::fs::read_to_string(cut.join(MANIFEST)).unwrap();
    let (old, new) = (beltsight::domain::hash::sha256(&onnx), beltsight::domain::hash::sha256(&onnx[..onnx.len() / 2]));
    std::fs::write(cut.join(MANIFEST), text.replace(&old, &new)).unwrap(); // so that the graph itself is looked at

    let words =
        [("hash", "SHA-256"), ("missing", "classes"), ("short", "names 2 classes, the graph has 3"), ("cut", "ONNX")];
    for (name, words) in words {
        let response = server.post(&format!("/v2/repository/models/{name}/load"), "").await;
        let detail = problem(response, 422, "model").await;
        assert!(detail.contains(words) && detail.contains("the serving model was kept"), "{name}: {detail}");
        let answer: Value = server.post("/classify", jpeg(32, 1)).await.json().await.unwrap();
        assert!(answer["model"].as_str().unwrap().starts_with("one@"), "{answer}");
    }
    assert_eq!(server.metrics.model_loads.with_label_values(&["refused"]).get(), 4);
    problem(server.post("/v2/repository/models/..%2Fone/load", "").await, 404, "not_found").await;

    broken("two");
    let loaded: Value = server.post("/v2/repository/models/two/load", "").await.json().await.unwrap();
    assert!(loaded["model"].as_str().unwrap().starts_with("two@"), "{loaded}");
    let answer: Value = server.post("/classify", jpeg(32, 1)).await.json().await.unwrap();
    assert_eq!(answer["model"], loaded["model"]);
    let index: Value = server.post("/v2/repository/index", "{}").await.json().await.unwrap();
    assert!(index.as_array().unwrap().contains(&json!({"name": "two", "state": "READY"})), "{index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_models_change_every_item_is_scored_by_the_one_its_verdict_names() {
    let server = start().await;
    let open = |name: &str, seed| {
        let folder = test_model_folder(&server.models, name, seed);
        swap::open(&folder, None, Device::Cpu, 2, 2).unwrap()
    };
    let pixels = picture(SIDE, 4).rgb;
    let ask = |n: usize| {
        let deadline = Instant::now() + Duration::from_secs(20);
        let source = if n.is_multiple_of(4) { Source::Belt } else { Source::Http };
        let answer = server.infer.submit(pixels.clone(), source, deadline).unwrap();
        async move {
            let scored = answer.await.unwrap();
            (scored.model.unwrap().label.clone(), scored.scores.unwrap().probabilities)
        }
    };
    let mut expected = BTreeMap::new();
    for (name, seed) in [("two", 2), ("three", 3)] {
        server.infer.exchange(open(name, seed));
        let (label, scores) = ask(1).await;
        assert!(label.starts_with(name), "{label} serves from the next item on");
        expected.insert(label, scores);
    }
    let mut answers = JoinSet::new();
    for round in 0..12 {
        for n in 0..16 {
            answers.spawn(ask(n));
        }
        let (name, seed) = [("two", 2), ("three", 3)][round % 2];
        server.infer.exchange(open(name, seed));
        let serving = server.infer.card().label.clone();
        assert!(serving.starts_with(name));
        let (label, _) = ask(0).await;
        assert_eq!(label, serving, "what is asked after the exchange is answered by the new model");
    }
    let mut counts = BTreeMap::new();
    while let Some(answer) = answers.join_next().await {
        let (label, scores) = answer.unwrap();
        let wanted = &expected[&label];
        assert!(scores.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-5), "{label}: {scores:?} {wanted:?}");
        *counts.entry(label).or_insert(0) += 1;
    }
    assert_eq!(counts.values().sum::<usize>(), 12 * 16);
    assert_eq!(counts.len(), 2, "both served: {counts:?}");
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
    assert_eq!(server.client.get(format!("{}/readyz", server.url)).send().await.unwrap().status(), 503);
    assert_eq!(server.client.get(format!("{}/healthz", server.url)).send().await.unwrap().status(), 200);
    let none = server.client.get(format!("{}/nothing/here", server.url)).send().await.unwrap();
    problem(none, 404, "not_found").await;
    let method = server.client.get(format!("{}/classify", server.url)).send().await.unwrap();
    problem(method, 405, "method").await;
    let frame = server.client.get(format!("{}/frames/..%2F..%2Fmodels", server.url)).send().await.unwrap();
    problem(frame, 404, "not_found").await;
    let text = server.client.get(format!("{}/metrics", server.url)).send().await.unwrap().text().await.unwrap();
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
    let page = server.client.get(&server.url).send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'self'"));
    assert!(page.text().await.unwrap().contains("/page.js"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_a_gpu_student_go_to_its_padded_session_and_every_item_gets_its_own_scores() {
    // As `swap::open` arranges it where a GPU runs, here on the CPU: the padded session refuses what is larger than it.
    let folder = tempfile::tempdir().unwrap();
    let model = test_model_folder(folder.path(), "one", 1);
    let mut student = swap::open(&model, None, Device::Cpu, 1, 4).unwrap();
    let onnx = std::fs::read(model.join("student.onnx")).unwrap();
    student.lanes = vec![Engine::open(&onnx, Device::Cpu, 1).unwrap().padded(4)];
    let mut alone = Engine::open(&onnx, Device::Cpu, 1).unwrap();
    let metrics = Metrics::new().unwrap();
    let (infer, threads) = Infer::start(student, infer::Settings::default(), metrics.clone()).unwrap();
    let pictures: Vec<Vec<u8>> =
        (0..32).map(|p| (0..SIDE * SIDE * 3).map(|i| (i * (p + 3) % 256) as u8).collect()).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    let answers: Vec<_> = pictures.iter().map(|p| infer.submit(p.clone(), Source::Http, deadline).unwrap()).collect();
    for (answer, picture) in answers.into_iter().zip(&pictures) {
        let found = answer.await.unwrap().scores.unwrap().embedding;
        let wanted = alone.run_all(std::slice::from_ref(picture), 1).unwrap().embedding;
        assert!(found.iter().zip(&wanted).all(|(a, b)| (a - b).abs() < 1e-4));
    }
    let batches = metrics.batch_size.get_sample_count();
    assert!((8..32).contains(&batches), "{batches} batches for 32 items");
    infer.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
