//! A broker of MQTT.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Action,
    line::{eject::Ejector, eject::output::alive::LineAlive},
    metrics::Metrics,
};
use rand::RngExt;

use crate::{
    bench::{
        Lots, WAY, all_ended, certificates, ended, nonsense, refused, run_belt, settings, start, survives, verdict,
    },
    common::{
        installed,
        peers::mosquitto,
        process::{Running, free_port, succeeds, until},
    },
};

/// Mosquitto on `port`, and a client that prints everything below `plant/`; `None` where they are not installed.
pub fn broker(port: u16, folder: &Path) -> Option<(Running, Running)> {
    if !installed("mosquitto_sub") {
        return None;
    }
    let running = mosquitto(port, folder, "allow_anonymous true")?;
    Some((running, subscriber(port, &["-q", "1", "-v", "-t", "plant/#"])))
}

/// A client that prints what a broker tells it.
pub fn subscriber(port: u16, topics: &[&str]) -> Running {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string()]).args(topics);
    Running::start(command.stdout(Stdio::piped()))
}

/// Track numbers of the commands that a subscriber saw, in order.
fn tracks(told: &Running) -> Vec<u64> {
    let lines = told.lines();
    let messages = lines.iter().filter_map(|line| line.strip_prefix("plant/line/eject/out "));
    let messages = messages.map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap());
    messages.map(|message| message["track"].as_u64().unwrap()).collect()
}

#[test]
fn a_broker_that_dies_and_comes_back_loses_no_command_in_silence() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(broker_1) = broker(port, folder.path()) else { return };
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\ntolerance = '60ms'\n\
         on_late = 'stop_line'"
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&settings("", &output), &metrics);
    until("the state is told", Duration::from_secs(5), || {
        broker_1.1.count("plant/line/state {\"diverts\":0,\"online\":true,\"stops\":0") == 1
    });
    let (mut first, mut second, mut before) = (Some(broker_1), None, Vec::new());
    run_belt(&ejector, 80, |n| match n {
        30 => {
            let (broker, told) = first.take().unwrap();
            before = tracks(&told);
            drop(broker); // SIGKILL
        }
        45 => second = broker(port, folder.path()),
        _ => {}
    });
    let (_broker, told) = second.unwrap();
    all_ended(&metrics, "mqtt", 80);
    until("the last one is told", Duration::from_secs(5), || tracks(&told).last() == Some(&79));
    let (ends, after) = (ended(&metrics, "mqtt"), tracks(&told));
    let acknowledged = ends.iter().find(|(outcome, _)| outcome == "acknowledged").unwrap().1;
    let late = 80 - acknowledged;
    println!("ends {ends:?}; {} told before the kill, {} after the restart", before.len(), after.len());
    // Once each, in order, and nothing of the broken connection is sent to the next one.
    assert!(before.windows(2).chain(after.windows(2)).all(|pair| pair[0] < pair[1]), "{before:?} {after:?}");
    assert!(before.len() >= 28 && after[0] >= 45 && after.ends_with(&[75, 76, 77, 78, 79]), "{before:?} {after:?}");
    assert!((10..=35).contains(&late), "{late} late while the broker was away");
    assert_eq!(metrics.eject.late_actions.with_label_values(&["stop_line"]).get(), late);
    // The stop reached the new broker, and the line's retained state says so.
    let count = |of: &prometheus::IntCounterVec| of.with_label_values(&["mqtt", "stop_line"]).get();
    until("the stop is taken", Duration::from_secs(5), || count(&metrics.eject.line_acknowledged) == late);
    assert_eq!(count(&metrics.eject.line_asked), late);
    let state = format!("plant/line/state {{\"diverts\":0,\"online\":true,\"stops\":{late}");
    until("the state says so", Duration::from_secs(5), || told.count(&state) >= 1);
    running.close();
    until("the will is told", Duration::from_secs(5), || told.count("plant/line/state {\"online\":false}") == 1);
}

#[test]
fn a_broker_passes_on_what_sensor_and_encoder_say() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, _told)) = broker(port, folder.path()) else { return };
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\nspeed = 'plant/encoder'\n\
         tolerance = '60ms'\non_late = 'alarm'"
    );
    let text = settings("confirm = { after = '50ms', window = '500ms' }", &output);
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    let say = |topic: &str, message: &str| {
        let port = port.to_string();
        succeeds(Command::new("mosquitto_pub").args(["-p", &port, "-q", "1", "-t", topic, "-m", message]));
    };
    until("it is connected", Duration::from_secs(5), || {
        metrics.eject.output_down.with_label_values(&["mqtt"]).get() == 0 && {
            say("plant/encoder", "0.8");
            metrics.eject.belt_speed.get() == 0.8
        }
    });
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    thread::sleep(WAY);
    say("plant/line/confirm/out", "");
    say("plant/line/confirm/another", "");
    let count = |result: &str| metrics.eject.confirmations.with_label_values(&[result]).get();
    until("it is confirmed", Duration::from_secs(2), || count("confirmed") == 1);
    say("plant/encoder", "fast");
    thread::sleep(Duration::from_millis(100));
    ejector.act(&verdict(2, Action::Reject), Instant::now(), None);
    until("it is missed at once", Duration::from_secs(2), || count("missed") == 1);
    all_ended(&metrics, "mqtt", 2); // the sensor's word comes before the command's
    assert_eq!(metrics.eject.commands.with_label_values(&["mqtt", "no_moment"]).get(), 1);
    running.close();
}

/// Publishes a message.
fn say(port: u16, topic: &str, message: &str) {
    let port = port.to_string();
    succeeds(Command::new("mosquitto_pub").args(["-p", &port, "-q", "1", "-t", topic, "-m", message]));
}

/// Waits until the encoder's word is taken.
fn encoder_says(metrics: &Metrics, port: u16, speed: &str) {
    until("the speed is taken", Duration::from_secs(5), || {
        say(port, "plant/encoder", speed);
        metrics.eject.belt_speed.get() == speed.parse::<f64>().unwrap()
    });
}

/// A broker on `port` as output, with more lines; late after 60 ms.
fn output(port: u16, more: &str) -> String {
    format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\ntolerance = '60ms'\n\
         on_late = 'alarm'\n{more}"
    )
}

#[test]
fn what_is_held_when_the_encoder_is_lost_is_late_and_does_not_leave_when_it_returns() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, told)) = broker(port, folder.path()) else { return };
    let text = settings("", &output(port, "speed = 'plant/encoder'"));
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    encoder_says(&metrics, port, "0.1");
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None); // a second away
    encoder_says(&metrics, port, "0");
    thread::sleep(Duration::from_millis(2300));
    assert_eq!(ended(&metrics, "mqtt"), [("no_moment".to_string(), 1)], "it stood, and nobody knows what it does now");
    encoder_says(&metrics, port, "1");
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(tracks(&told), [0; 0]);
    running.close();
}

#[test]
fn a_belt_that_runs_backwards_holds_what_waits_for_it() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, told)) = broker(port, folder.path()) else { return };
    let text = settings("", &output(port, "speed = 'plant/encoder'"));
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    encoder_says(&metrics, port, "0.1");
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None); // a second away
    encoder_says(&metrics, port, "-1");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(tracks(&told), [0; 0], "it runs away from the gate");
    encoder_says(&metrics, port, "1"); // it is some 500 mm farther away by now
    let back = Instant::now();
    until("it is sent", Duration::from_secs(3), || tracks(&told) == [1]);
    assert!(back.elapsed() > Duration::from_millis(400), "it came back after {:?}", back.elapsed());
    running.close();
}

#[test]
fn a_command_that_can_not_be_on_time_any_more_since_the_belt_sped_up_is_late() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, told)) = broker(port, folder.path()) else { return };
    let text = settings("delay = '500ms'", &output(port, "speed = 'plant/encoder'"));
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    encoder_says(&metrics, port, "0.1");
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None); // a second away, half of which the gate takes
    encoder_says(&metrics, port, "1"); // 100 ms away at most
    all_ended(&metrics, "mqtt", 1);
    assert_eq!(ended(&metrics, "mqtt"), [("late_speed".to_string(), 1)]);
    assert_eq!(tracks(&told), [0; 0]);
    running.close();
}

#[test]
fn a_message_too_large_for_us_costs_neither_connection_nor_commands() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, told)) = broker(port, folder.path()) else { return };
    for (topic, size) in [("plant/line/confirm/old", 20_000), ("plant/line/confirm/film", 3_000_000)] {
        let file = folder.path().join("message");
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        let address = port.to_string();
        succeeds(Command::new("mosquitto_pub").args(["-p", &address, "-r", "-t", topic, "-f"]).arg(&file));
        let text = settings("confirm = { after = '50ms', window = '500ms' }", &output(port, ""));
        let metrics = Metrics::new().unwrap();
        let (ejector, running) = start(&text, &metrics);
        until("it is connected", Duration::from_secs(5), || told.count("plant/line/state ") > 0);
        thread::sleep(Duration::from_millis(1500));
        let lost = metrics.eject.output_reconnects.with_label_values(&["mqtt"]).get();
        (0..5).for_each(|track| {
            ejector.act(&verdict(track, Action::Reject), Instant::now(), None);
            thread::sleep(Duration::from_millis(100));
        });
        all_ended(&metrics, "mqtt", 5);
        println!("{size} bytes: the connection was lost {lost} times");
        assert_eq!(ended(&metrics, "mqtt"), [("acknowledged".to_string(), 5)]);
        assert!(lost <= u64::from(size > 1 << 20), "{size} bytes: the connection was lost {lost} times");
        running.close();
    }
}

#[test]
fn two_services_on_one_broker_leave_each_other_alone() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some((_broker, _told)) = broker(port, folder.path()) else { return };
    let text = settings("", &output(port, ""));
    let services: Vec<_> = [0; 2].map(|_| Metrics::new().unwrap()).into_iter().map(|m| (start(&text, &m), m)).collect();
    thread::sleep(Duration::from_secs(2));
    for ((ejector, running), metrics) in services {
        let lost = metrics.eject.output_reconnects.with_label_values(&["mqtt"]).get();
        assert_eq!(lost, 0, "the connection was lost {lost} times");
        ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
        all_ended(&metrics, "mqtt", 1);
        assert_eq!(ended(&metrics, "mqtt"), [("acknowledged".to_string(), 1)]);
        running.close();
    }
}

#[test]
fn a_topic_of_the_broker_opens_and_closes_lots_and_a_retained_name_counts() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(first) = broker(port, folder.path()) else { return };
    let say = |name: &[u8]| {
        let mut said = Command::new("mosquitto_pub");
        said.args(["-p", &port.to_string(), "-q", "1", "-r", "-t", "plant/lot"]);
        said.arg(if name.is_empty() { "-n" } else { "-s" });
        let mut said = said.stdin(Stdio::piped()).spawn().unwrap();
        said.stdin.take().unwrap().write_all(name).unwrap();
        assert!(said.wait().unwrap().success());
    };
    say(b"K-17");
    let text = settings(
        "",
        &format!(
            "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\nlot = 'plant/lot'\n\
             tolerance = '60ms'\non_late = 'alarm'"
        ),
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    let lots = Lots::follow(&folder.path().join("store"), &ejector, &metrics);
    println!("opened within {:?}", lots.come_to(&["K-17*"]));
    drop(first);
    let _second = broker(port, folder.path()).unwrap();
    say(b"K-17");
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(lots.names(), ["K-17*"]);
    say(b"\xff\xfe");
    say("Lachs 4711 \u{e4}".as_bytes());
    lots.come_to(&["K-17", "Lachs 4711 \u{e4}*"]);
    say(b"");
    lots.come_to(&["K-17", "Lachs 4711 \u{e4}"]);
    running.close();
    lots.close();
}

#[test]
fn a_broker_behind_tls_is_believed_only_where_the_right_authority_vouches_and_hears_who_we_are() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(()) = certificates(folder.path()) else { return };
    if !installed("mosquitto_passwd") {
        return;
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    succeeds(Command::new("mosquitto_passwd").args(["-b", "-c", &path("users"), "line", "a long one"]));
    std::fs::write(path("password"), "a long one\n").unwrap();
    let more = format!(
        "user root\nallow_anonymous false\npassword_file {}\ncafile {}\ncertfile {}\nkeyfile {}\n\
         require_certificate true",
        path("users"),
        path("ca.pem"),
        path("server.pem"),
        path("server.key")
    );
    let Some(_broker) = mosquitto(port, folder.path(), &more) else { return };
    let output = |ca: &str, client: &str| {
        format!(
            "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\ntolerance = '100ms'\n\
             on_late = 'alarm'\nuser = 'line'\npassword_file = '{}'\ntls = {{ ca = '{}'{client} }}",
            path("password"),
            path(ca)
        )
    };
    let client = format!(", certificate = '{}', key = '{}'", path("client.pem"), path("client.key"));
    assert_eq!(refused(&output("ca.pem", &client), "none"), None);
    let wrong = refused(&output("other.pem", &client), "not connected").expect("another authority");
    assert!(refused(&output("other.pem", &client), "UnknownIssuer").is_some(), "{wrong}");
    assert!(refused(&output("ca.pem", ""), "ertificate").is_some(), "without a certificate of ours");
    std::fs::write(path("password"), "a wrong one\n").unwrap();
    assert!(refused(&output("ca.pem", &client), "onnection refused").is_some(), "with a wrong password");

    // What can't be read keeps the service from starting.
    for (ca, client, words) in [("none.pem", &*client, "none.pem"), ("client.key", &client, "client.key")] {
        let text = settings("", &output(ca, client));
        let why =
            Ejector::start(toml::from_str(&text).unwrap(), &Metrics::new().unwrap(), LineAlive::default(), |_| {})
                .err()
                .unwrap();
        assert!(why.to_string().contains(words) && why.to_string().starts_with("mqtt: tls: "), "{why}");
    }
}

#[test]
fn a_broker_that_talks_nonsense_makes_commands_late_and_nothing_else() {
    let port = nonsense(2, |random, request| {
        // After CONNECT a good CONNACK, mostly, so that what follows is looked at; the answer to a publish never fits.
        if request[0] == 0x10 && random.random_range(0..4) != 0 {
            return vec![0x20, 2, 0, 0];
        }
        let kind: u8 = random.random_range(0..16);
        match random.random_range(0..5) {
            0 => (0..random.random_range(1..300)).map(|_| random.random()).collect(),
            1 => vec![kind << 4, 0xff, 0xff, 0xff, 0x7f], // 256 MB to come
            2 => vec![kind << 4 | 2, 2, random.random(), random.random()], // acknowledges what nobody sent
            3 => vec![kind << 4, 0],
            _ => vec![0x62, 2, 0xff, 0xff, 0x70, 2, 0xff, 0xff, 0x50, 2, 0xff, 0xff],
        }
    });
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\ntolerance = '30ms'\n\
         on_late = 'stop_line'"
    );
    survives("mqtt", &settings("", &output), 4);
}
