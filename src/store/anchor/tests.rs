//! What the anchor finds, what it can't, and that every place gets the head.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::*;
use crate::{
    domain::{Action, testing::verdict},
    store::{
        Event, PUBLIC, SECRET,
        forger::{edit, sign_again},
        verify, verify_anchor,
    },
};

/// Copies a closed store.
fn copy(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["verdicts.sqlite", PUBLIC, SECRET] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

/// A day's work; then the head is left elsewhere.
async fn work(folder: &Path) -> String {
    let store = Store::open(folder).await.unwrap();
    store.append(Event::Stopped).await.unwrap(); // no two are of one moment
    store.insert(&vec![verdict(Action::Accept); 40]).await.unwrap();
    store.insert(&vec![verdict(Action::Reject); 2]).await.unwrap();
    let head = store.anchored_head().await.unwrap();
    store.close().await;
    head.line() + "\n"
}

async fn by_itself(folder: &Path) -> usize {
    verify(folder, None, None).await.unwrap().findings.len()
}

async fn anchored(folder: &Path, lines: &str) -> Vec<String> {
    let found = verify_anchor(folder, None, lines.as_bytes(), None).await.unwrap().findings;
    found.into_iter().map(|finding| format!("{}: {}", finding.entry, finding.what)).collect()
}

#[tokio::test]
async fn yesterdays_folder_put_back_is_found_by_the_anchor_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = work(folder.path()).await;
    let yesterday = copy(folder.path());
    lines += &work(folder.path()).await;
    assert_eq!((by_itself(folder.path()).await, anchored(folder.path(), &lines).await), (0, vec![]));
    assert_eq!(by_itself(yesterday.path()).await, 0, "by itself it is whole");
    let found = anchored(yesterday.path(), &lines).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("87: ") && found[0].ends_with("the record ends at 44: it was put back"), "{found:?}");
    // … and written on, beyond the place that was left elsewhere.
    work(yesterday.path()).await;
    work(yesterday.path()).await;
    assert_eq!(by_itself(yesterday.path()).await, 0);
    let found = anchored(yesterday.path(), &lines).await;
    assert!(found.len() == 1 && found[0].ends_with(": rewritten"), "{found:?}");
}

#[tokio::test]
async fn a_record_rewritten_and_signed_again_with_the_key_is_found_by_the_anchor_alone() {
    let folder = tempfile::tempdir().unwrap();
    let lines = work(folder.path()).await;
    let accepted = "UPDATE verdicts SET body = replace(body, '\"reject\"', '\"accept\"') WHERE action = 'reject'";
    assert_eq!(edit(folder.path(), accepted).await, 2);
    assert!(by_itself(folder.path()).await > 0);
    let counted = "UPDATE counts SET verdicts = 42 WHERE action = 'accept'; DELETE FROM counts WHERE action = 'reject';
        UPDATE tallies SET verdicts = 42 WHERE action = 'accept'; DELETE FROM tallies WHERE action = 'reject'";
    assert_eq!(edit(folder.path(), counted).await, 4);
    sign_again(folder.path()).await;
    assert_eq!(by_itself(folder.path()).await, 0, "the key's holder leaves no trace inside");
    let found = anchored(folder.path(), &lines).await;
    assert!(found.len() == 1 && found[0].starts_with("44: ") && found[0].ends_with(": rewritten"), "{found:?}");
}

#[tokio::test]
async fn heads_from_before_a_box_was_restored_say_so_and_later_ones_that_differ_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut lines = work(folder.path()).await;
    let archived = copy(folder.path());
    lines += &work(folder.path()).await;
    crate::store::mark_restored(archived.path(), time::OffsetDateTime::now_utc(), "44:00").unwrap();
    let after = work(archived.path()).await;
    work(archived.path()).await;
    let found = anchored(archived.path(), &(lines + &after)).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("87: ") && found[0].contains("entry 45 says that the record was restored"),
        "{found:?}"
    );
    let wrong = AnchoredHead { hash: "0".repeat(64), ..AnchoredHead::read(after.trim()).unwrap() };
    let found = anchored(archived.path(), &(wrong.line() + "\n")).await;
    assert!(found[0].contains("rewritten"), "{found:?}");
}

#[tokio::test]
async fn a_record_begun_anew_with_the_key_is_found_by_the_anchor_alone() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lines = work(folder.path()).await;
    for file in [PUBLIC, SECRET] {
        fs::copy(folder.path().join(file), other.path().join(file)).unwrap();
    }
    let more = work(other.path()).await;
    assert_eq!(by_itself(other.path()).await, 0);
    let found = anchored(other.path(), &(lines + &more)).await;
    assert!(found.len() == 1 && found[0].ends_with("belongs to another record"), "{found:?}");
    // Heads of a box with another key say so.
    let third = tempfile::tempdir().unwrap();
    let found = anchored(other.path(), &work(third.path()).await).await;
    assert!(found[0].ends_with("; this key did not sign what was left"), "{found:?}");
}

#[tokio::test]
async fn what_came_after_the_last_head_can_be_cut_off_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let lines = work(folder.path()).await;
    let then = copy(folder.path());
    work(folder.path()).await; // left nowhere
    assert_eq!((by_itself(then.path()).await, anchored(then.path(), &lines).await), (0, vec![]));
}

#[tokio::test]
async fn what_somebody_says_falsely_in_the_right_way_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let id = store.insert(&[verdict(Action::Reject)]).await.unwrap()[0];
    store.add_label(id, Some("salmon"), "Eve", time::OffsetDateTime::now_utc()).await.unwrap(); // it is a cod
    let lot = store.begin_lot("K-17", "Eve").await.unwrap();
    store.end_lot("Eve").await.unwrap();
    store.append(Event::SignedOff { lot, name: "Eve".into(), remark: "all looked at".into() }).await.unwrap();
    store.close().await;
    assert_eq!(by_itself(folder.path()).await, 0);
}

#[tokio::test]
async fn a_picture_that_is_gone_is_no_finding() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let jpeg = bytes::Bytes::from_static(&[7; 50]);
    let key = crate::store::frame_key(&jpeg, time::OffsetDateTime::now_utc());
    store.put_frame(&key, jpeg).await.unwrap();
    store.insert(&[crate::domain::Verdict { frame: Some(key), ..verdict(Action::Reject) }]).await.unwrap();
    store.close().await;
    fs::remove_dir_all(folder.path().join("frames")).unwrap();
    fs::create_dir(folder.path().join("frames")).unwrap();
    assert_eq!(by_itself(folder.path()).await, 0);
    assert_eq!(crate::store::verify_pictures(folder.path()).unwrap(), (0, vec![]));
}

fn settings(text: &str) -> AnchorSettings {
    let settings: AnchorSettings = toml::from_str(text).unwrap();
    settings.check().unwrap();
    settings
}

async fn head(folder: &Path) -> AnchoredHead {
    let store = Store::open(folder).await.unwrap();
    store.append(Event::Stopped).await.unwrap();
    let head = store.anchored_head().await.unwrap();
    store.close().await;
    head
}

async fn leave(text: &str, folder: &Path, head: &AnchoredHead) -> Result<(), String> {
    let targets = AnchorTarget::all(&settings(text), folder);
    assert_eq!(targets.len(), 1);
    targets[0].leave(head).await
}

#[tokio::test]
async fn a_file_gets_a_line_for_each_head_also_after_one_that_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (path, store) = (folder.path().join("heads.jsonl"), folder.path().join("data"));
    let file = format!("file = {path:?}");
    let first = head(&store).await;
    leave(&file, &store, &first).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.clone() + &text[..40]).unwrap(); // as a power cut may leave it
    let second = head(&store).await;
    leave(&file, &store, &second).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let read: Vec<_> = text.lines().map(AnchoredHead::read).collect();
    assert_eq!(read, [Some(first), None, Some(second)]);
    let found = verify_anchor(&store, None, text.as_bytes(), None).await.unwrap();
    assert_eq!((found.heads, found.other_lines, found.last, found.findings), (2, 1, 3, vec![]));
    let why = leave("file = '/no/such/folder/heads.jsonl'", &store, &head(&store).await).await.unwrap_err();
    assert!(why.contains("/no/such/folder"), "{why}");
    assert_eq!(anchored(&store, "").await, ["0: no head of a record was left there"]);
}

#[tokio::test]
async fn a_collector_of_logs_gets_the_head_over_udp_and_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let left = head(folder.path()).await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    leave(&format!("syslog = {{ address = '{address}' }}"), folder.path(), &left).await.unwrap();
    let mut bytes = [0; 2000];
    let n = tokio::time::timeout(Duration::from_secs(5), udp.recv(&mut bytes)).await.unwrap().unwrap();
    let message = String::from_utf8(bytes[..n].to_vec()).unwrap();
    let words: Vec<&str> = message.splitn(8, ' ').collect();
    assert_eq!((words[0], words[1], words[3], words[5], words[6]), ("<109>1", &*left.time, "beltsight", "anchor", "-"));
    assert_eq!(AnchoredHead::read(&message), Some(left.clone()));
    assert_eq!(anchored(folder.path(), &message).await, [""; 0]);

    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let text = format!("syslog = {{ address = '{address}', tcp = true }}");
    let (left_it, framed) = tokio::join!(leave(&text, folder.path(), &left), async {
        let mut framed = String::new();
        tcp.accept().await.unwrap().0.read_to_string(&mut framed).await.unwrap();
        framed
    });
    left_it.unwrap();
    let (length, message) = framed.split_once(' ').unwrap();
    assert_eq!(length.parse::<usize>().unwrap(), message.len());
    assert_eq!(AnchoredHead::read(message), Some(left.clone()));
    drop(tcp);
    assert!(leave(&text, folder.path(), &left).await.is_err(), "nobody listens");
}

/// A time-stamp authority: OpenSSL's behind a plain HTTP server, for one request.
async fn authority(folder: &Path, listener: &TcpListener) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut request = Vec::new();
    let (start, length) = loop {
        let mut some = [0; 4096];
        let n = stream.read(&mut some).await.unwrap();
        request.extend_from_slice(&some[..n]);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some(end) = text.find("\r\n\r\n") else { continue };
        assert!(text.contains("content-type: application/timestamp-query"), "{text}");
        let length =
            text.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap().parse::<usize>().unwrap();
        let start = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        if end > 0 && request.len() >= start + length {
            break (start, length);
        }
    };
    fs::write(folder.join("query.tsq"), &request[start..start + length]).unwrap();
    openssl(folder, "ts -reply -queryfile query.tsq -signer tsa.pem -inkey tsa.key -config tsa.cnf -out answer.tsr");
    let answer = fs::read(folder.join("answer.tsr")).unwrap();
    let header = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
    stream.write_all(header.as_bytes()).await.unwrap();
    stream.write_all(&answer).await.unwrap();
}

fn openssl(folder: &Path, arguments: &str) {
    let out = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{arguments}: {}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_stamp_authoritys_token_is_kept_and_holds_with_its_certificate_alone() {
    if Command::new("openssl").arg("version").output().is_err() {
        return eprintln!("openssl is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, store) = (folder.path(), folder.path().join("data"));
    fs::write(path.join("serial"), "01\n").unwrap();
    let config = "[req]\ndistinguished_name = dn\nprompt = no\nx509_extensions = ext\n[dn]\nCN = authority\n[ext]
extendedKeyUsage = critical, timeStamping\n[tsa]\ndefault_tsa = one\n[one]\nserial = serial\nsigner_digest = sha256
default_policy = 1.2.3.4.1\ndigests = sha256\naccuracy = secs:1\ness_cert_id_alg = sha256\n";
    fs::write(path.join("tsa.cnf"), config).unwrap();
    for (name, key) in [("other", "rsa:2048"), ("tsa", "rsa:2048")] {
        openssl(
            path,
            &format!("req -x509 -newkey {key} -nodes -keyout {name}.key -out {name}.pem -days 2 -config tsa.cnf"),
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = format!("tsa = {{ url = 'http://{}/' }}", listener.local_addr().unwrap());
    let left = head(&store).await;
    let (left_it, ()) = tokio::join!(leave(&text, &store, &left), authority(path, &listener));
    left_it.unwrap();
    let lines = fs::read_to_string(store.join("anchors.jsonl")).unwrap();
    let kept = AnchoredHead::read(&lines).unwrap();
    assert!(kept.token.is_some() && AnchoredHead { token: None, ..kept.clone() } == left);

    let [tsa, other] = ["tsa", "other"].map(|name| stamp::certificate(&path.join(format!("{name}.pem"))).unwrap());
    let with = async |lines: &str, certificate: &[u8]| {
        let found = verify_anchor(&store, None, lines.as_bytes(), Some(certificate)).await.unwrap();
        (found.tokens, found.findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>())
    };
    assert_eq!(with(&lines, &tsa).await, (1, vec![]));
    assert_eq!(with(&lines, &other).await.1, ["its time-stamp token is not signed by this authority"]);
    // The token of one head does not serve another, not even for another time.
    let later = AnchoredHead { time: "2027-01-01T00:00:00Z".into(), ..kept.clone() }.line();
    assert_eq!(with(&later, &tsa).await.1, ["its time-stamp token is about something else"]);
    fs::remove_file(store.join("anchors.jsonl")).unwrap();
    let ahead = AnchoredHead { time: "2127-01-01T00:00:00Z".into(), ..left.clone() };
    let (left_it, ()) = tokio::join!(leave(&text, &store, &ahead), authority(path, &listener));
    left_it.unwrap();
    let lines = fs::read_to_string(store.join("anchors.jsonl")).unwrap();
    assert!(with(&lines, &tsa).await.1[0].ends_with("a clock ran ahead"));
    let cut = AnchoredHead { token: kept.token.map(|token| token[..400].into()), ..left }.line();
    assert!(with(&cut, &tsa).await.1[0].contains("can't be read"));
}
