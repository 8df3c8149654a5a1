//! A receiver of webhooks.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use beltsight::{domain::Action, metrics::Metrics};

use crate::{
    bench::{certificates, refused, settings, start, verdict},
    common::process::{Running, free_port, until},
};

/// The receiver of webhooks, in Python, on `port`; with certificate and key behind TLS.
fn receiver(port: u16, secret: &str, tls: &[PathBuf]) -> Running {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook_server.py");
    let mut command = Command::new("python3");
    command.arg(script).args([&port.to_string(), secret]).args(tls);
    let running = Running::start(command.stdout(Stdio::piped()));
    until("the receiver serves", Duration::from_secs(20), || !running.said("serving").is_empty());
    running
}

#[test]
fn a_webhook_is_signed_and_tried_again_with_the_same_id_until_its_time_is_over() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "correct horse battery\n").unwrap();
    let mut hook = receiver(port, "correct horse battery", &[]);
    let output = format!(
        "kind = 'webhook'\nurl = 'http://127.0.0.1:{port}/gate'\nsecret_file = '{}'\ntolerance = '5s'\n\
         on_late = 'stop_line'",
        secret.display()
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&settings("", &output), &metrics);
    let of = |outcome: &str| metrics.eject.commands.with_label_values(&["webhook", outcome]).get();

    // Every first attempt is answered 500.
    (0..5).for_each(|track| ejector.act(&verdict(track, Action::Reject), Instant::now(), None));
    until("all are taken", Duration::from_secs(5), || of("acknowledged") == 5);
    let lines: Vec<String> = hook.lines().split_off(1);
    let field = |n: usize| lines.iter().map(|l| l.split(' ').nth(n).unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(
        (field(1), field(3)),
        (vec!["eject".to_string(); 5], ["0", "1", "2", "3", "4"].map(String::from).to_vec())
    );
    let ids: std::collections::BTreeSet<_> = field(2).into_iter().collect();
    assert_eq!(ids.len(), 5, "{ids:?}");

    // Away for a moment: nothing is late. Away for too long: the line is to stop, and is told so later.
    drop(hook);
    ejector.act(&verdict(5, Action::Reject), Instant::now(), None);
    thread::sleep(Duration::from_millis(300));
    hook = receiver(port, "correct horse battery", &[]);
    until("it is taken", Duration::from_secs(8), || of("acknowledged") == 6);
    drop(hook);
    ejector.act(&verdict(6, Action::Divert), Instant::now(), None);
    until("it is late", Duration::from_secs(10), || of("failed") + of("unacknowledged") == 1);
    hook = receiver(port, "correct horse battery", &[]);
    until("the stop is taken", Duration::from_secs(8), || hook.count("took stop_line ") == 1);
    let taken = || metrics.eject.line_acknowledged.with_label_values(&["webhook", "stop_line"]).get();
    until("the stop is known to be taken", Duration::from_secs(2), || taken() == 1);
    assert_eq!(hook.count("took eject "), 0, "what is late is not sent any more");

    // Signed with another secret: refused at once, not tried again.
    drop(hook);
    hook = receiver(port, "incorrect horse battery", &[]);
    ejector.act(&verdict(7, Action::Divert), Instant::now(), None);
    until("it is refused", Duration::from_secs(1), || of("failed") + of("unacknowledged") == 2);
    assert_eq!(hook.count("took "), 0);
    running.close();
}

#[test]
fn a_webhook_that_nobody_has_needed_yet_is_not_down() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "correct horse battery\n").unwrap();
    let output = format!(
        "kind = 'webhook'\nurl = 'http://127.0.0.1:{port}/gate'\nsecret_file = '{}'\ntolerance = '200ms'\n\
         on_late = 'stop_line'",
        secret.display()
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&settings("", &output), &metrics);
    thread::sleep(Duration::from_millis(300));
    let down = || metrics.eject.output_down.with_label_values(&["webhook"]).get();
    assert_eq!(down(), 0, "nobody has asked anything of it");
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    until("nobody takes a command", Duration::from_secs(3), || down() == 1);
    // A stop that is taken shows that it is back, before another command does.
    let _hook = receiver(port, "correct horse battery", &[]);
    until("the stop is taken", Duration::from_secs(8), || down() == 0);
    running.close();
}

#[test]
fn a_webhook_over_https_goes_only_to_whom_the_right_authority_vouches_for() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(()) = certificates(folder.path()) else { return };
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("secret"), "correct horse battery\n").unwrap();
    let hook = receiver(port, "correct horse battery", &[path("server.pem"), path("server.key")]);
    let output = |tls: &str| {
        format!(
            "kind = 'webhook'\nurl = 'https://localhost:{port}/gate'\nsecret_file = '{}'\ntolerance = '1s'\n\
             on_late = 'alarm'\n{tls}",
            path("secret").display()
        )
    };
    let tls = |ca: &str| format!("tls = {{ ca = '{}' }}", path(ca).display());
    assert!(refused(&output(&tls("other.pem")), "UnknownIssuer").is_some(), "another authority");
    assert!(refused(&output(""), "UnknownIssuer").is_some(), "this machine does not trust the test's authority");
    assert_eq!(hook.count("took "), 0);
    assert_eq!(refused(&output(&tls("ca.pem")), "none"), None);
    assert!(hook.count("took eject ") >= 1);
}
