//! Hostile input: whatever comes in, nothing panics, nothing answers 500, and memory stays bounded.
//!
//! Seeded, so that a failure can be run again; bounded to some seconds each.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use beltsight::{
    api::TABLE,
    config::Config,
    picture::pixels::{self, PixelLimits},
    tokens::{self, Role},
};
use common::{
    pictures::{encoded, jpeg, picture, png, png_chunk, png_header},
    server::{SIDE, start},
};
use image::ImageFormat;
use rand::{RngExt, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Panics of this process.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// How long one test tries.
const SPAN: Duration = Duration::from_secs(6);

/// The largest resident memory of this process so far, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// `valid` with a few bytes changed, cut out, doubled, or with a part of `other` put in.
fn mutated(random: &mut ChaCha8Rng, valid: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..random.random_range(1..6) {
        let length = bytes.len();
        if length == 0 {
            break;
        }
        let at = random.random_range(0..length);
        let span = random.random_range(1..=32.min(length - at));
        match random.random_range(0..7) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + span)),
            4 => {
                let part = bytes[at..at + span].to_vec();
                bytes.splice(at..at, part);
            }
            5 => bytes[at..at + span].fill(*[0x00, 0x7f, 0x80, 0xff].choose(random).unwrap()),
            _ => {
                let from = random.random_range(0..other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes
}

/// A JSON value that nobody would send.
fn hostile(random: &mut ChaCha8Rng) -> Value {
    match random.random_range(0..14) {
        0 => Value::Null,
        1 => json!(random.random::<bool>()),
        2 => json!(random.random::<i64>()),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!(1e308),
        6 => json!(-0.5),
        7 => json!(""),
        8 => json!("x".repeat(random.random_range(1..5000))),
        9 => json!("\0\u{1b}[2J\u{202e}🐟'; DROP TABLE verdicts; --"),
        10 => json!("../../../../etc/passwd"),
        11 => json!([[[[[]]]], {}]),
        12 => json!({"a": {"b": [null]}}),
        _ => json!(vec![0; random.random_range(0..200)]),
    }
}

/// A value of this schema, or, one time in four, something else.
fn of_schema(random: &mut ChaCha8Rng, document: &Value, schema: &Value, depth: usize) -> Value {
    if depth > 6 || random.random_range(0..4) == 0 {
        return hostile(random);
    }
    if let Some(name) = schema["$ref"].as_str() {
        let target = document.pointer(name.trim_start_matches('#')).unwrap();
        return of_schema(random, document, target, depth + 1);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "object" => {
            let mut object = Map::new();
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                if random.random_range(0..10) > 0 {
                    object.insert(name.clone(), of_schema(random, document, property, depth + 1));
                }
            }
            if random.random_range(0..10) == 0 {
                object.insert("unknown".into(), hostile(random));
            }
            object.into()
        }
        "array" => {
            let n = random.random_range(0..4);
            (0..n).map(|_| of_schema(random, document, &schema["items"], depth + 1)).collect()
        }
        "string" => json!(["eve", "salmon", "one", "2026-11-25T00:00:00Z"].choose(random).unwrap()),
        "integer" => json!(random.random_range(0..5)),
        "number" => json!(random.random::<f64>()),
        "boolean" => json!(true),
        _ => hostile(random),
    }
}

/// An inference request that is nearly right.
fn tensor(random: &mut ChaCha8Rng) -> Value {
    let side = SIDE as usize;
    let odd = random.random_range(0..4) == 0;
    let shape = if odd { json!([hostile(random), side, u64::MAX, 3]) } else { json!([1, side, side, 3]) };
    let mut data = vec![json!(random.random_range(0..300)); side * side * 3];
    let at = random.random_range(0..data.len());
    data[at] = hostile(random);
    json!({"id": hostile(random), "inputs": [{"name": "image", "shape": shape, "datatype": "UINT8", "data": data}],
        "outputs": if random.random() { json!([]) } else { hostile(random) }})
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}

/// What stands for a parameter in a path or a query, percent-encoded.
fn parameter(random: &mut ChaCha8Rng) -> String {
    let odd =
        ["", "0", "-1", "1", "one", "9223372036854775808", "1e9", "..", "../..", "a/b", "\0", "🐟", "%", "null", "{}"];
    match random.random_range(0..8) {
        0 => percent(&"x".repeat(random.random_range(1..3000))),
        1 => "%ff%fe%".into(),
        _ => percent(odd.choose(random).unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_the_service_panic_or_fail() {
    let server = start().await;
    // A panic outside a handler would only look like a broken connection.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        hook(panic);
    }));
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).pool_max_idle_per_host(0).build().unwrap();
    let document = server.get("/openapi.json").await;
    let token = tokens::add(&server.tokens_file, "eve", Role::Admin, None).unwrap();
    server.tokens.refresh();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let other = jpeg(64, 2);
    let (before, start) = (peak_mib(), Instant::now());
    // A round would start a learning process; its body is that of /rounds/stop.
    let rules: Vec<_> = TABLE.iter().filter(|r| (r.method, r.path) != ("post", "/rounds")).collect();
    let (mut asked, mut answered_well, mut reset) = (0, 0, 0);
    while start.elapsed() < SPAN {
        for rule in &rules {
            let description = &document["paths"][rule.path][rule.method];
            let mut path = String::new();
            for part in rule.path.split('/').skip(1) {
                let value = if part.starts_with('{') { parameter(&mut random) } else { part.into() };
                path += &format!("/{value}");
            }
            let mut separator = '?';
            for wanted in description["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query") {
                if random.random() {
                    path += &format!("{separator}{}={}", wanted["name"].as_str().unwrap(), parameter(&mut random));
                    separator = '&';
                }
            }
            let schema = &description["requestBody"]["content"]["application/json"]["schema"];
            let json_body = if rule.path.ends_with("/infer") {
                serde_json::to_vec(&tensor(&mut random)).unwrap()
            } else {
                serde_json::to_vec(&of_schema(&mut random, &document, schema, 0)).unwrap()
            };
            let body = match random.random_range(0..6) {
                0 => (0..random.random_range(0..500)).map(|_| random.random()).collect(),
                1 => [b"[".repeat(50_000), b"{\"a\":".repeat(10_000)].concat(),
                2 => mutated(&mut random, &other, &json_body),
                3 => mutated(&mut random, &json_body, &other),
                _ => json_body,
            };
            let path =
                if rule.path.ends_with("/infer") { path.replace(&path[11..path.len() - 6], "one") } else { path };
            let kinds = ["application/json", "image/jpeg", "multipart/form-data; boundary=x", "text/plain", "\u{ff}"];
            let method = reqwest::Method::from_bytes(rule.method.to_uppercase().as_bytes()).unwrap();
            let Ok(url) = reqwest::Url::parse(&format!("{}{path}", server.url)) else { continue };
            let mut request = client.request(method, url).bearer_auth(&token);
            if rule.method != "get" {
                request = request.header("content-type", *kinds.choose(&mut random).unwrap()).body(body.clone());
            }
            let answer = match request.send().await {
                Ok(answer) => answer,
                // A server that answers and closes while its client still sends may reset the connection.
                Err(e) if e.is_request() && !e.is_timeout() && rule.method != "get" => {
                    reset += 1;
                    continue;
                }
                Err(e) => panic!("{} {path}: {e:?}", rule.method),
            };
            let status = answer.status().as_u16();
            let ends = answer.headers().get("content-type").is_none_or(|kind| kind != "text/event-stream");
            let said = if ends && status >= 500 { answer.text().await.unwrap() } else { String::new() };
            assert!(status < 500, "{} {path} with {:?}: {status} {said}", rule.method, String::from_utf8_lossy(&body));
            answered_well += usize::from(status == 200);
            asked += 1;
        }
    }
    let grown = peak_mib() - before;
    println!("{asked} requests, {answered_well} answered 200, {reset} reset; memory grew by {grown} MiB");
    assert!(asked > 300 && answered_well > asked / 20 && reset < asked / 20, "{asked} {answered_well} {reset}");
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    assert!(grown < 200, "memory grew by {grown} MiB");
    assert_eq!(server.ask("/healthz").await.status(), 200);
}

/// Valid pictures of every kind that is taken.
fn pictures() -> Vec<Vec<u8>> {
    let small = picture(48, 3);
    let eight = image::RgbImage::from_raw(48, 48, small.rgb).unwrap();
    let alpha = image::DynamicImage::ImageRgb8(eight.clone()).into_rgba16();
    vec![
        jpeg(48, 1),
        jpeg(300, 2),
        encoded(eight.clone(), ImageFormat::Png),
        encoded(alpha, ImageFormat::Png),
        encoded(eight, ImageFormat::WebP),
    ]
}

#[test]
fn no_damaged_picture_panics_or_takes_more_memory_than_its_limits_allow() {
    let limits = PixelLimits { max_side: 2000, max_pixels: 1_000_000 };
    let valid = pictures();
    assert!(valid.iter().all(|bytes| pixels::decode(bytes, limits).is_ok()));
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (before, start) = (peak_mib(), Instant::now());
    let (mut tried, mut decoded) = (0, 0);
    while start.elapsed() < SPAN {
        let (one, other) = (valid.choose(&mut random).unwrap(), valid.choose(&mut random).unwrap());
        let bytes = mutated(&mut random, one, other);
        if let Ok(picture) = pixels::decode(&bytes, limits) {
            assert!(u64::from(picture.width) * u64::from(picture.height) <= limits.max_pixels);
            assert_eq!(picture.rgb.len(), (picture.width * picture.height * 3) as usize);
            assert!(pixels::fit(&picture, None, 32).is_ok());
            decoded += 1;
        }
        tried += 1;
    }
    let grown = peak_mib() - before;
    println!("{tried} damaged pictures, {decoded} decoded all the same; memory grew by {grown} MiB");
    assert!(tried > 1000 && decoded > 10 && decoded < tried);
    assert!(grown < 64, "memory grew by {grown} MiB; a picture within the limits needs 8 at most");
}

#[test]
fn a_small_file_that_unpacks_to_much_is_refused_before_it_does() {
    let zeros = |megabytes: usize| {
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        (0..megabytes).for_each(|_| packed.write_all(&[0; 1 << 20]).unwrap());
        packed.finish().unwrap()
    };
    let bomb = zeros(400);
    assert!(bomb.len() < 1 << 20);
    let header = |side: u32| png_header(side, side);
    let before = peak_mib();
    let cases = [
        ("pixels", png(&[header(8), png_chunk(b"IDAT", &bomb)])),
        (
            "colour profile",
            png(&[
                header(8),
                png_chunk(b"iCCP", &[b"x\0\0".to_vec(), bomb.clone()].concat()),
                png_chunk(b"IDAT", &zeros(1)),
            ]),
        ),
        (
            "text",
            png(&[
                header(8),
                png_chunk(b"zTXt", &[b"x\0\0".to_vec(), bomb.clone()].concat()),
                png_chunk(b"IDAT", &zeros(1)),
            ]),
        ),
        ("size", png(&[header(60_000), png_chunk(b"IDAT", &bomb)])),
    ];
    for (what, bytes) in cases {
        let answer = pixels::decode(&bytes, PixelLimits { max_side: 2000, max_pixels: 1_000_000 });
        let grown = peak_mib() - before;
        assert!(grown < 64, "{what}: memory grew by {grown} MiB: {:?}", answer.map(|p| p.width));
    }
}

/// A gate for a camera, in a configuration, moved by this register and watched by this input.
fn gate((camera, place): (&str, u16)) -> String {
    format!(
        "[[eject.gate]]\nname = '{camera}'\ncamera = '{camera}'\nactions = ['reject', 'divert']\nspeed = '1.25m/s'\n\
         scale = '2.1mm/px'\nwidth = 640\ndistance = '900mm'\ndelay = '25ms'\nregister = {place}\n\
         confirm = {{ input = {place}, after = '150ms', window = '30ms' }}\n"
    )
}

/// One output of each kind.
const EJECT: &str = "
[[eject.output]]
kind = 'log'
tolerance = '8ms'
on_late = 'alarm'
[[eject.output]]
kind = 'modbus'
address = '10.0.0.5:502'
unit = 1
pulse = '50ms'
heartbeat = 100
every = '250ms'
speed = 5
lot = 20
poll = '10ms'
stop_line = 3
divert = 4
tolerance = '8ms'
on_late = 'stop_line'
[[eject.output]]
kind = 'mqtt'
host = '10.0.0.6'
port = 8883
topic = 'plant/line-1'
client = 'beltsight'
sparkplug = { group = 'plant', node = 'line-1' }
user = 'line'
tolerance = '20ms'
on_late = 'divert'
[[eject.output]]
kind = 'webhook'
url = 'https://gate.example/gate'
secret_file = '/etc/beltsight/webhook'
tolerance = '30s'
on_late = 'alarm'
";

#[test]
fn no_configuration_and_no_file_of_tokens_panics() {
    let shipped = include_str!("../deploy/beltsight.toml").to_string()
        + "\n[[camera]]\nname = 'a'\nsource = 'usb'\ndevice = '0'\nformat = 'YUYV'\nwidth = 1\nheight = 1\nframe_rate = 30\ntimeout = '1s'"
        + "\n[[camera]]\nname = 'b'\nsource = 'folder'\npath = 'p'\nframe_rate = 2.0\n"
        + &[("belt", 7), ("a", 8), ("b", 9)].map(gate).concat()
        + EJECT;
    let folder = tempfile::tempdir().unwrap();
    let (config, access) = (folder.path().join("config.toml"), folder.path().join("tokens.toml"));
    for role in Role::ALL {
        tokens::add(&access, role.name(), role, Some(time::OffsetDateTime::UNIX_EPOCH)).unwrap();
    }
    let valid_tokens = std::fs::read(&access).unwrap();
    let values = [
        "-1",
        "0",
        "1e400",
        "nan",
        "-inf",
        "9223372036854775807",
        "9223372036854775808",
        "''",
        "'-1s'",
        "'999999999999y'",
        "true",
        "[]",
        "{}",
        "1979-05-27",
        "'\\u0000'",
        "\"\\u0000\"",
        "'auto'",
        "'1/0'",
        "0.0000000001",
    ];
    std::fs::write(&config, &shipped).unwrap();
    Config::read(&config).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let start = Instant::now();
    let (mut tried, mut taken) = (0, 0);
    while start.elapsed() < SPAN {
        let text = if random.random() {
            // One key gets a value of another kind.
            let mut lines: Vec<String> = shipped.lines().map(String::from).collect();
            let at = random.random_range(0..lines.len());
            if let Some((key, _)) = lines[at].clone().split_once('=').filter(|(key, _)| !key.starts_with('#')) {
                lines[at] = format!("{key}= {}", values.choose(&mut random).unwrap());
            }
            lines.join("\n").into_bytes()
        } else {
            mutated(&mut random, shipped.as_bytes(), b"[[[[[[[[[[[[\"\"\"'''={}{}{}")
        };
        std::fs::write(&config, text).unwrap();
        taken += usize::from(Config::read(&config).is_ok());
        std::fs::write(&access, mutated(&mut random, &valid_tokens, b"[[token]]\nname = 'x'\nrole = 'admin'\n"))
            .unwrap();
        let _ = tokens::list(&access);
        tried += 1;
    }
    for deep in ["a = ", "[[a]]\nb = "].map(|start| format!("{start}{}", "[".repeat(200_000))) {
        std::fs::write(&config, deep).unwrap();
        assert!(Config::read(&config).is_err());
    }
    println!("{tried} configurations and files of tokens; {taken} configurations were valid all the same");
    assert!(tried > 200 && taken > tried / 20, "{taken} of {tried}: most keys are looked at");
}
