//! Slow clients, many clients, HTTPS, and an end in order.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use beltsight::{
    api::{ApiSettings, ConnectionLimits},
    tokens::{self, Role},
};
use common::{
    installed, peers,
    pictures::jpeg,
    process::{connect, succeeds, until},
    served::{Served, configured, shipped},
    server::{Server, start_within},
};

const PATIENCE: Duration = Duration::from_secs(1);

async fn impatient(connections: usize) -> Server {
    start_within(ApiSettings::default(), ConnectionLimits { connections, client_timeout: PATIENCE }).await
}

/// Waits until the other side has closed; returns what it said before.
fn closed(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the connection is still open after 10 s: {e}"),
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_dribble_their_head_are_cut_off_and_others_get_their_places() {
    let server = impatient(40).await;
    let mut slow: Vec<TcpStream> = (0..40).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").unwrap();
    }
    let dribble = std::thread::spawn(move || {
        let start = Instant::now();
        // A byte every 50 ms for ever: each is a sign of life, and yet it must not help.
        while slow.iter_mut().filter_map(|stream| stream.write_all(b"a").ok()).count() > 0 {
            assert!(start.elapsed() < 6 * PATIENCE, "slow clients hold their connections for ever");
            std::thread::sleep(Duration::from_millis(50));
        }
        start.elapsed()
    });
    let asked = Instant::now();
    let answer = server.ask("/healthz").await;
    let waited = asked.elapsed();
    assert_eq!(answer.status(), 200);
    assert!(waited < 2 * PATIENCE, "40 slow clients hold up an honest one for {waited:?}");
    let held = tokio::task::spawn_blocking(|| dribble.join()).await.unwrap().unwrap();
    println!("all places taken by slow clients: an honest one waited {waited:?}; the last slow one lasted {held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_a_slow_body_and_an_unread_answer_end() {
    let limits = ConnectionLimits { connections: 3, client_timeout: PATIENCE };
    let server =
        start_within(ApiSettings { deadline: Duration::from_millis(700), ..ApiSettings::default() }, limits).await;
    let start = Instant::now();
    let silent = server.connect();
    let mut body = server.connect();
    body.write_all(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxx").unwrap();
    let mut unread = server.connect();
    // Far more answers than buffers on the way can take, and none of them is read.
    let many = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(2000);
    std::thread::spawn(move || {
        let _ = unread.write_all(many.as_bytes());
        std::thread::sleep(Duration::from_secs(20));
        drop(unread);
    });
    let (silent, body) = tokio::task::spawn_blocking(move || (closed(silent), closed(body))).await.unwrap();
    assert_eq!(silent, "");
    assert!(body.starts_with("HTTP/1.1 503") && body.contains("deadline"), "{body}");
    assert!(start.elapsed() < 3 * PATIENCE, "{:?}", start.elapsed());
    // All three places are free again: two others are held, and an honest request is served beside them.
    loop {
        let held = [server.connect(), server.connect()];
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ask = server.client.get(format!("{}/healthz", server.url)).timeout(Duration::from_millis(500)).send();
        if ask.await.is_ok_and(|answer| answer.status() == 200) {
            break;
        }
        drop(held);
        assert!(start.elapsed() < 10 * PATIENCE, "an unread answer holds its place for ever");
    }
    println!("an unread answer's place was free after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_and_too_many_headers_are_refused() {
    let server = impatient(8).await;
    let ask = |head: String| {
        let mut stream = server.connect();
        let _ = stream.write_all(head.as_bytes());
        closed(stream)
    };
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(200 << 10));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(500));
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100 << 10));
    for head in [long, many, path, "FISH\r\n\r\n".into(), "\0\0\0\0\r\n\r\n".into()] {
        let said = ask(head);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{}", &said[..said.len().min(100)]);
    }
    assert_eq!(server.ask("/healthz").await.status(), 200);
}

/// The shipped student, with more lines in `[server]`. What the service said, when it does not start.
fn start(folder: &Path, server: &str) -> Result<Served, String> {
    Served::start(&configured(folder, &shipped(), server, ""), &[])
}

/// A self-signed certificate for localhost, made by openssl; `None`, with a word, where there is no openssl or curl.
fn certificate(folder: &Path) -> Option<()> {
    if !["openssl", "curl"].into_iter().all(installed) {
        return None;
    }
    let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
    let mut openssl = Command::new("openssl");
    openssl
        .args(request.split(' '))
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"]);
    succeeds(openssl.current_dir(folder));
    Some(())
}

fn curl(folder: &Path, arguments: &[&str]) -> (String, bool) {
    let run = Command::new("curl")
        .args(["-sS", "-i", "--max-time", "10", "--cacert", "certificate.pem"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    (said, run.status.success())
}

fn tls(folder: &Path, key: &str) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    format!("client_timeout = '1s'\n[server.tls]\ncertificate = '{}'\nkey = '{}'", path("certificate.pem"), path(key))
}

#[test]
fn with_a_certificate_the_service_speaks_https_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate(folder.path()) else { return };
    let token = tokens::add(&folder.path().join("data/tokens.toml"), "eve", Role::Viewer, None).unwrap();
    let service = start(folder.path(), &tls(folder.path(), "key.pem")).unwrap();
    let port = service.url.strip_prefix("https://127.0.0.1:").expect("the log says https://…").to_string();
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let max = version.trim_start_matches("--tlsv");
        let url = format!("https://localhost:{port}/verdicts");
        let bearer = format!("authorization: Bearer {token}");
        let (said, ok) = curl(folder.path(), &[version, "--tls-max", max, "-H", &bearer, &url]);
        assert!(ok && said.starts_with("HTTP/1.1 200"), "{version}: {said}");
        assert!(curl(folder.path(), &[version, "--tls-max", max, &url]).0.starts_with("HTTP/1.1 401"));
    }
    let login = format!("{{\"token\":\"{token}\"}}");
    let (said, _) = curl(folder.path(), &["-d", &login, &format!("https://127.0.0.1:{port}/login")]);
    assert!(said.contains("HttpOnly; SameSite=Strict; Secure"), "{said}");
    assert!(!curl(folder.path(), &[&format!("http://localhost:{port}/healthz")]).1, "plain HTTP gets no answer");
    let old = curl(folder.path(), &["--tlsv1.0", "--tls-max", "1.1", &format!("https://localhost:{port}/healthz")]);
    assert!(!old.1, "TLS 1.1 is not spoken");
    // A client that never finishes its handshake.
    let mut slow = connect(format!("127.0.0.1:{port}"));
    slow.write_all(&[0x16, 0x03, 0x01, 0x02]).unwrap();
    let started = Instant::now();
    closed(slow);
    assert!(started.elapsed() < 3 * PATIENCE, "{:?}", started.elapsed());
}

#[test]
fn a_key_that_does_not_fit_keeps_the_service_from_starting_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate(folder.path()) else { return };
    std::fs::rename(folder.path().join("key.pem"), folder.path().join("right.pem")).unwrap();
    let right = std::fs::read(folder.path().join("certificate.pem")).unwrap();
    certificate(folder.path()).unwrap();
    std::fs::write(folder.path().join("certificate.pem"), right).unwrap();
    for (key, words) in [("key.pem", "can't be used"), ("none.pem", "none.pem"), ("certificate.pem", "no PEM key")] {
        let said = start(folder.path(), &tls(folder.path(), key)).err().expect("it must not start");
        assert!(said.contains("server.tls") && said.contains(words), "{key}: {said}");
    }
    assert!(start(folder.path(), &tls(folder.path(), "right.pem")).is_ok());
}

#[test]
fn a_renewed_certificate_is_taken_up_without_a_restart_and_one_that_does_not_fit_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let Some(()) = certificate(folder.path()) else { return };
    let service = start(folder.path(), &tls(folder.path(), "key.pem")).unwrap();
    let url = format!("{}/healthz", service.url);
    assert!(curl(folder.path(), &[&url]).1);
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        println!("{what} after {:?}", until(what, Duration::from_secs(10), holds));
    };
    let said = |words: &str| service.log().contains(words);
    // curl trusts certificate.pem alone, so it accepts the new one only when that is in use.
    std::fs::copy(folder.path().join("certificate.pem"), folder.path().join("old.pem")).unwrap();
    certificate(folder.path()).unwrap();
    until("the renewed certificate is in use", &|| curl(folder.path(), &[&url]).1);
    assert!(!curl(folder.path(), &["--cacert", "old.pem", &url]).1, "the old one is not");
    // A key of another certificate.
    let good = std::fs::read(folder.path().join("key.pem")).unwrap();
    std::fs::copy(folder.path().join("certificate.pem"), folder.path().join("good.pem")).unwrap();
    certificate(folder.path()).unwrap();
    std::fs::copy(folder.path().join("good.pem"), folder.path().join("certificate.pem")).unwrap();
    until("it is refused", &|| curl(folder.path(), &[&url]).1 && said("the certificate before it stays in use"));
    assert!(said("server.tls: this certificate and key can't be used"));
    std::fs::write(folder.path().join("key.pem"), good).unwrap();
    let times = || service.log().matches("renewed certificate is in use").count();
    until("the right key is taken up", &|| curl(folder.path(), &[&url]).1 && times() == 2);
}

#[test]
fn a_stop_finishes_requests_at_hand_and_does_not_wait_for_open_streams_or_idle_clients() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = start(folder.path(), "").unwrap();
    let address = service.url.trim_start_matches("http://").to_string();
    let open = |head: &str| {
        let mut stream = connect(&address);
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let stream = open("GET /verdicts/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let idle = open("");
    let picture = jpeg(64, 1);
    let head = format!("POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", picture.len());
    let mut at_hand = open(&head);
    at_hand.write_all(&picture[..100]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let told = Instant::now();
    service.process.signal("-TERM");
    std::thread::sleep(Duration::from_millis(200));
    at_hand.write_all(&picture[100..]).unwrap();
    let said = closed(at_hand);
    assert!(said.starts_with("HTTP/1.1 200"), "the request at hand is answered: {said}");
    let status = service.process.wait();
    let took = told.elapsed();
    assert!(status.success() && took < Duration::from_secs(4), "{status}, {took:?}");
    assert!(closed(stream).starts_with("HTTP/1.1 200"));
    closed(idle);
    println!("stopped after {took:?}");
}

/// What a URL answers, through curl; empty while nothing answers.
fn got(url: &str) -> String {
    let run = Command::new("curl").args(["-sS", "--max-time", "5", url]).output().unwrap();
    String::from_utf8_lossy(&run.stdout).into_owned()
}

#[test]
fn the_prometheus_of_the_compose_file_is_let_in_with_its_token() {
    if !installed("curl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let token = tokens::add(&folder.path().join("data/tokens.toml"), "prometheus", Role::Viewer, None).unwrap();
    let service = start(folder.path(), "").unwrap();
    let compose = include_str!("../deploy/compose.yml");
    let (_, inline) = compose.split_once("    content: |\n").unwrap();
    let config: String =
        inline.lines().take_while(|l| l.starts_with("      ")).map(|l| format!("{}\n", &l[6..])).collect();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/rules");
    let mut here = config;
    for (from, to) in [
        ("/run/secrets/beltsight_token", path("token")),
        ("beltsight:8080", service.url.trim_start_matches("http://").into()),
        ("/etc/prometheus/rules", rules.display().to_string()),
        ("interval: 5s", "interval: 1s".into()),
    ] {
        assert!(here.contains(from), "{here}");
        here = here.replace(from, &to);
    }
    std::fs::write(path("token"), format!("{token}\n")).unwrap();
    let Some((_prometheus, prometheus)) = peers::prometheus(folder.path(), &here) else { return };
    let ask = |path: &str| got(&format!("{prometheus}/api/v1/{path}"));
    let started = Instant::now();
    loop {
        let said = ask("query?query=beltsight_ready");
        if said.contains("\"job\":\"beltsight\"") && said.contains(",\"1\"]") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{said}; {}", ask("targets"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(got(&format!("{}/metrics", service.url)).contains("unauthorized"), "without the token it is not");
}

#[test]
fn what_keeps_the_service_from_starting_is_said_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), "").unwrap();
    let address = first.url.trim_start_matches("http://");
    let second = folder.path().join("second");
    std::fs::create_dir(&second).unwrap();
    let config = configured(&second, &shipped(), "", "");
    let text = std::fs::read_to_string(&config).unwrap().replace("127.0.0.1:0", address);
    std::fs::write(&config, text).unwrap();
    let said = Served::start(&config, &[]).err().unwrap();
    assert!(said.contains("is another service there?") && !said.contains("panicked"), "{said}");
    assert!(!second.join("data").exists(), "the store is left alone");

    let eject = "[[camera]]\nname = 'belt'\nsource = 'simulated'\nbelt = { seed = 1 }\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\n\
                 actions = ['reject', 'divert']\nspeed = '1m/s'\nscale = '1mm/px'\ndistance = '500mm'\n[[eject.output]]\n\
                 kind = 'webhook'\nurl = 'http://127.0.0.1:9/'\nsecret_file = 'nowhere'\ntolerance = '1s'\non_late = 'alarm'\n";
    let said = Served::start(&configured(&second, &shipped(), "", eject), &[]).err().unwrap();
    assert!(said.contains("nowhere can't be read") && !said.contains("panicked"), "{said}");
}
