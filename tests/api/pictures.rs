//! Pictures that are judged, and those that are refused.

use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    common::{
        pictures::{encoded, jpeg, picture, png, png_chunk, png_header},
        server::{SIDE, start},
    },
    problem,
};

/// An 8×8 CMYK JPEG made with ImageMagick: `convert -size 8x8 xc:'#4080c0' -colorspace CMYK -strip`.
const CMYK: &str = concat!(
    "ffd8ffee000e41646f626500640000000002ffdb004300100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a",
    "333d3c3933383740485c4e404457453738506d51575f626768673e4d71797064785c656763ffdb0043011112121815182f1a",
    "1a2f634238426363636363636363636363636363636363636363636363636363636363636363636363636363636363636363",
    "636363636363ffc00014080008000804012200021101031101042200ffc40016000101010000000000000000000000000000",
    "0406ffc40014100100000000000000000000000000000000ffc40014010100000000000000000000000000000005ffc40014",
    "110100000000000000000000000000000000ffda000e040100021103110400003f00840085da001fffd9",
);

/// A PNG file without pixels that says that it has so many.
fn without_pixels(width: u32, height: u32) -> Vec<u8> {
    png(&[png_header(width, height), png_chunk(b"IDAT", &[0x78, 0x9c, 0x03, 0, 0, 0, 0, 1])])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_picture_is_refused_in_words_and_counted() {
    let server = start().await;
    let whole = jpeg(64, 1);
    let cmyk: Vec<u8> = (0..CMYK.len()).step_by(2).map(|i| u8::from_str_radix(&CMYK[i..i + 2], 16).unwrap()).collect();
    let cases: [(&str, Vec<u8>, u16, &str); 9] = [
        ("empty", vec![], 400, "empty"),
        ("damaged", whole[..whole.len() / 2].to_vec(), 422, "damaged"),
        ("too_large", without_pixels(60_000, 60_000), 413, "60000x60000"),
        ("unknown_format", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), 415, "no JPEG, PNG or WebP"),
        ("unknown_format", b"a sentence about fish".to_vec(), 415, "no JPEG, PNG or WebP"),
        ("damaged", without_pixels(4, 4), 422, "damaged"),
        ("unsupported", cmyk, 422, "CMYK"),
        ("damaged", vec![0xff, 0xd8], 422, "damaged"),
        ("damaged", [&[0xff, 0xd8][..], b"and then words"].concat(), 422, "no header that tells its size"),
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
        server.metrics.line.verdicts.with_label_values(&["http", "", "reject"]).get(),
        0,
        "none of them is a verdict"
    );
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
    let kept = server.ask(&format!("/frames/{}", stored["frame"].as_str().unwrap())).await;
    assert_eq!(kept.headers()["content-type"], "image/jpeg");
    assert_eq!(kept.bytes().await.unwrap(), sent, "a JPEG is kept as it came");
    let action = verdict["action"].as_str().unwrap();
    assert_eq!(server.metrics.line.verdicts.with_label_values(&["http", "", action]).get(), 1);
    assert_eq!(server.get("/verdicts/counts").await["verdicts"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn png_webp_sixteen_bit_and_forms_are_taken() {
    let server = start().await;
    let picture = picture(SIDE, 3);
    let eight = image::RgbImage::from_raw(SIDE, SIDE, picture.rgb.clone()).unwrap();
    let sixteen = image::DynamicImage::ImageRgb8(eight.clone()).into_rgb16();
    let png8 = encoded(eight.clone(), ImageFormat::Png);
    let png16 = encoded(sixteen, ImageFormat::Png);
    let webp = encoded(eight, ImageFormat::WebP);
    let mut answers = Vec::new();
    for body in [png8.clone(), png16, webp] {
        let answer: Value = server.post("/classify", body).await.json().await.unwrap();
        answers.push(answer["verdicts"][0]["scores"].clone());
    }
    let sent = png8.clone();
    let part = reqwest::multipart::Part::bytes(png8).file_name("fish.png");
    let form = reqwest::multipart::Form::new().text("note", "first").part("picture", part);
    let form = server.client.post(format!("{}/classify?locate=false", server.url)).multipart(form);
    let answer: Value = form.send().await.unwrap().json().await.unwrap();
    answers.push(answer["verdicts"][0]["scores"].clone());
    // Forms as clients write them: a part without a file's name, names in UTF-8, capitals, a field behind the file.
    let send = async |kind: &str, heads: &[&str]| {
        let mut body = Vec::new();
        for head in heads {
            body.extend(format!("--edge\r\n{head}\r\n\r\n").bytes());
            body.extend(if head.contains("note") { &b"words"[..] } else { &sent[..] });
            body.extend(b"\r\n");
        }
        body.extend(b"--edge--\r\n");
        let request = server.client.post(format!("{}/classify", server.url)).header("content-type", kind);
        request.body(body).send().await.unwrap()
    };
    let plain = "multipart/form-data; boundary=edge";
    let file = "Content-Disposition: form-data; name=\"file\"";
    let note = "Content-Disposition: form-data; name=\"note\"";
    for (kind, heads) in [
        (plain, &[file][..]),
        ("Multipart/Form-Data; Boundary=edge", &[note, file]),
        (plain, &["content-disposition: form-data; name=file; filename*=UTF-8''f%C3%AF.png", note]),
        (plain, &["Content-Disposition: form-data; name=\"file\"\r\nContent-Type: application/octet-stream"]),
    ] {
        let answer: Value = send(kind, heads).await.json().await.unwrap();
        answers.push(answer["verdicts"][0]["scores"].clone());
    }
    let several = problem(send(plain, &[file, file]).await, 400, "malformed").await;
    assert!(several.contains("more than one file"), "{several}");
    assert!(answers.iter().all(|a| a == &answers[0] && a.as_array().unwrap().len() == 3), "{answers:?}");
}
