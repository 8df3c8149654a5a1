//! Bodies that are too large, too many or too slow.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use beltsight::api::ApiSettings;

use crate::{
    common::{
        pictures::jpeg,
        server::{start, start_with},
    },
    problem,
};

/// The beginning of an answer, which has the status.
fn status(mut stream: TcpStream) -> String {
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_without_reading_them() {
    let server = start().await;
    let mut stream = server.connect();
    // Only the head is sent: an answer proves that the body was not waited for.
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n").unwrap();
    assert_eq!(status(stream), "HTTP/1.1 413");
    assert_eq!(server.bad("body_too_large"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_length_is_cut_at_the_limit() {
    let server = start_with(ApiSettings { max_body: 100_000, ..ApiSettings::default() }).await;
    let mut stream = server.connect();
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    write!(stream, "{:x}\r\n", 110_000).unwrap();
    stream.write_all(&vec![7; 110_000]).unwrap(); // and no last chunk: the sender would go on for ever
    assert_eq!(status(stream), "HTTP/1.1 413");
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_answered_at_once_and_passes() {
    let server = start_with(ApiSettings { max_in_flight: 2, ..ApiSettings::default() }).await;
    let slow: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
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
    assert!(server.metrics.http.refused.with_label_values(&["/classify"]).get() >= 1);
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
    let half = vec![7; 200_000];
    let mut stream = BufReader::new(server.connect());
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

    let mut never_ends = BufReader::new(server.connect());
    let asked = Instant::now();
    write!(never_ends.get_mut(), "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nslow")
        .unwrap();
    assert_eq!(answer(&mut never_ends), "http/1.1 429 too many requests");
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_slowly_is_cut_off_at_the_deadline() {
    let server = start_with(ApiSettings { deadline: Duration::from_millis(300), ..ApiSettings::default() }).await;
    let mut stream = server.connect();
    write!(stream, "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nslow").unwrap();
    assert_eq!(status(stream), "HTTP/1.1 503");
}
