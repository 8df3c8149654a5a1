//! Acting on time through real outputs: an independent PLC (pymodbus) that dies and comes back in the middle.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Action, Verdict},
    line::eject::Ejector,
    metrics::Metrics,
    service::tasks::lots,
    store::{Event, Store},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

/// At 800 items a minute.
const PITCH: Duration = Duration::from_millis(75);
/// From capture to the gate of [`settings`].
const WAY: Duration = Duration::from_millis(100);

/// A free port of this machine.
fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn verdict(track: u64, action: Action) -> Verdict {
    serde_json::from_value(json!({
        "id": 0, "time": "2026-11-25T08:00:00Z", "source": "belt", "camera": "belt", "track": track,
        "region": {"x": 0, "y": 0, "width": 100, "height": 50}, "action": action.name(), "reason": "wrong_class",
        "class": "cod", "accept_probability": 0.1, "scores": [], "model": "test@0", "fault": null,
        "timings": {"decode_ms": 0.0, "locate_ms": 0.0, "queue_ms": 0.0, "infer_ms": 0.0, "total_ms": 0.0},
        "frame": null, "truth": null,
    }))
    .unwrap()
}

/// A gate 100 ms down the belt, and an output.
fn settings(gate: &str, output: &str) -> String {
    format!(
        "[[gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\nspeed = '1.0m/s'\n\
         scale = '1.0mm/px'\ndistance = '150mm'\n{gate}\n[[output]]\n{output}\n"
    )
}

/// How many commands ended how, over all outcomes.
fn ended(metrics: &Metrics, output: &str) -> Vec<(String, u64)> {
    let text = metrics.text();
    let lines = text.lines().filter_map(|line| line.strip_prefix("beltsight_eject_commands_total{outcome=\""));
    lines
        .filter_map(|line| {
            let (outcome, rest) = line.split_once('"')?;
            let count = rest.strip_prefix(&format!(",output=\"{output}\"}} "))?.parse().ok()?;
            (count > 0).then(|| (outcome.to_string(), count))
        })
        .collect()
}

fn until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// A program whose lines are kept with their times; killed when dropped.
struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, kept) = (child.stdout.take().unwrap(), lines.clone());
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                kept.lock().unwrap().push((Instant::now(), line));
            }
        });
        Self { child, lines }
    }

    fn said(&self, line: &str) -> Vec<Instant> {
        self.lines.lock().unwrap().iter().filter(|(_, l)| l == line).map(|(at, _)| *at).collect()
    }

    fn count(&self, start: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|(_, l)| l.starts_with(start)).count()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where the Python libraries of the other side are, if they are.
fn peers() -> Option<PathBuf> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join(".vendor/peers");
    if !peers.is_dir() {
        println!("skipped: pymodbus and pysparkplug are not installed; deploy/setup --test installs them");
        return None;
    }
    Some(peers)
}

/// pymodbus on `port`; `None` where it is not installed.
fn plc(port: u16) -> Option<Running> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let peers = peers()?;
    let mut command = Command::new("python3");
    command.arg(home.join("tests/modbus_server.py")).arg(port.to_string()).env("PYTHONPATH", peers);
    let running = Running::start(&mut command);
    until("pymodbus serves", Duration::from_secs(20), || !running.said("serving").is_empty());
    Some(running)
}

/// Sends items at 800 a minute; before item `n` calls `before(n)`. The moment when each was due.
fn run_belt(ejector: &Ejector, items: u64, mut before: impl FnMut(u64)) -> Vec<Instant> {
    let start = Instant::now();
    let due = |n: u64| start + PITCH * n as u32 + WAY;
    for n in 0..items {
        before(n);
        let captured = start + PITCH * n as u32;
        thread::sleep((captured + Duration::from_millis(30)).saturating_duration_since(Instant::now()));
        ejector.act(&verdict(n, Action::Reject), captured, None);
    }
    (0..items).map(due).collect()
}

#[test]
fn a_plc_that_dies_and_comes_back_loses_no_command_in_silence() {
    let port = port();
    let Some(plc_1) = plc(port) else { return };
    let text = settings(
        "coil = 0",
        &format!(
            "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'\n\
             stop_line = 3\ntolerance = '60ms'\non_late = 'stop_line'"
        ),
    );
    let metrics = Metrics::new().unwrap();
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, tell).unwrap();
    until("the heart beats", Duration::from_secs(5), || plc_1.count("register 100 ") >= 3);

    let (mut first, mut second) = (Some(plc_1), None);
    let mut raised = Vec::new();
    let mut dead = None;
    let due = run_belt(&ejector, 80, |n| match n {
        30 => {
            let plc = first.take().unwrap();
            raised = plc.said("coil 0 1");
            assert_eq!(plc.count("coil 3 1"), 0, "nothing was late before");
            dead = Some((n, Instant::now()));
            drop(plc); // SIGKILL
        }
        45 => second = plc(port),
        _ => {}
    });
    let second = second.unwrap();
    until("all commands ended", Duration::from_secs(5), || {
        ended(&metrics, "modbus").iter().map(|(_, n)| n).sum::<u64>() == 80
    });
    let ends = ended(&metrics, "modbus");
    let acknowledged = ends.iter().find(|(outcome, _)| outcome == "acknowledged").unwrap().1;
    let late = 80 - acknowledged;
    let after = second.said("coil 0 1");
    println!("ends {ends:?}; raised {} before the kill and {} after the restart", raised.len(), after.len());

    // Exactly once: an acknowledged command was seen by the PLC; at most the one in flight was seen and not acknowledged.
    let seen = (raised.len() + after.len()) as u64;
    assert!(seen == acknowledged || seen == acknowledged + 1, "{seen} raised, {acknowledged} acknowledged");
    assert!((10..=30).contains(&late), "{late} late while the PLC was away");
    // Each late one is in the record, once, and asked for a stop, and the PLC that came back took it.
    let told: Vec<u64> = told
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            Event::EjectLate { track, led_to, .. } if led_to == "stop_line" => *track,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(told.len() as u64 == late && told.iter().collect::<std::collections::BTreeSet<_>>().len() == told.len());
    assert_eq!(metrics.eject_late_actions.with_label_values(&["stop_line"]).get(), late);
    let [asked, taken] = [&metrics.line_asked, &metrics.line_acknowledged];
    let count = |of: &prometheus::IntCounterVec| of.with_label_values(&["modbus", "stop_line"]).get();
    until("the stop is taken", Duration::from_secs(5), || count(taken) == late);
    assert_eq!(count(asked), late);
    assert!(second.count("coil 3 1") >= 1);
    assert!(metrics.output_reconnects.with_label_values(&["modbus"]).get() >= 1);

    // On time: the raised coil as the PLC reported it, against the moment when the item was there.
    let mut off: Vec<f64> = raised
        .iter()
        .chain(&after)
        .map(|at| {
            let off = due.iter().map(|due| if at > due { *at - *due } else { *due - *at });
            off.min().unwrap().as_secs_f64() * 1e3
        })
        .collect();
    off.sort_by(f64::total_cmp);
    println!("ms from due to the PLC: p50 {:.2}, most {:.2}", off[off.len() / 2], off[off.len() - 1]);
    // Every coil is lowered again, and the heart beats on.
    until("the coil is low", Duration::from_secs(5), || {
        let lines = second.lines.lock().unwrap();
        lines.iter().rfind(|(_, l)| l.starts_with("coil 0 ")).is_some_and(|(_, l)| l == "coil 0 0")
    });
    let beats = second.count("register 100 ");
    until("the heart beats on", Duration::from_secs(5), || second.count("register 100 ") > beats + 3);
    // What was ordered is done before the service stops, and no gate stays open.
    let raised = second.count("coil 0 1");
    ejector.act(&verdict(80, Action::Reject), Instant::now(), None);
    running.close();
    let last = |second: &Running| {
        second.lines.lock().unwrap().iter().rfind(|(_, l)| l.starts_with("coil 0 ")).map(|(_, l)| l.clone())
    };
    until("it is done", Duration::from_secs(1), || {
        second.count("coil 0 1") == raised + 1 && last(&second).as_deref() == Some("coil 0 0")
    });
    let beats = second.count("register 100 ");
    thread::sleep(Duration::from_millis(300));
    assert!(second.count("register 100 ") <= beats + 1, "a stopped service has no heartbeat");
}

#[test]
fn a_plc_that_hangs_makes_commands_late_and_a_stop_goes_through_when_it_wakes() {
    let port = port();
    let Some(plc) = plc(port) else { return };
    let text = settings(
        "register = 7",
        &format!(
            "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'\n\
             divert = 4\ntolerance = '30ms'\non_late = 'divert'"
        ),
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 2);
    run_belt(&ejector, 20, |n| match n {
        5 => plc.signal("-STOP"),
        10 => plc.signal("-CONT"),
        _ => {}
    });
    until("all ended", Duration::from_secs(5), || ended(&metrics, "modbus").iter().map(|(_, n)| n).sum::<u64>() == 20);
    let ends = ended(&metrics, "modbus");
    println!("ends {ends:?}");
    let acknowledged = ends.iter().find(|(outcome, _)| outcome == "acknowledged").unwrap().1;
    assert!((8..=17).contains(&acknowledged), "{ends:?}");
    until("everything is led aside", Duration::from_secs(5), || plc.count("coil 4 1") >= 1);
    assert_eq!(metrics.eject_late_actions.with_label_values(&["divert"]).get(), 20 - acknowledged);
    running.close();
}

#[test]
fn what_the_sensor_saw_is_matched_to_the_verdicts_and_the_speed_is_the_encoders() {
    let port = port();
    let Some(mut plc) = plc(port) else { return };
    let text = settings(
        "register = 7\nconfirm = { input = 2, after = '50ms', window = '70ms' }",
        &format!(
            "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'\n\
             speed = 5\ntolerance = '60ms'\non_late = 'alarm'"
        ),
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
    plc.tell("speed 5 1000");
    until("the speed is read", Duration::from_secs(5), || metrics.belt_speed.get() == 1.0);

    // Twelve items, 200 ms apart; the sensor sees ten of them, and one thing more.
    let (start, pitch) = (Instant::now(), Duration::from_millis(200));
    for n in 0..12u32 {
        let captured = start + pitch * n;
        thread::sleep(captured.saturating_duration_since(Instant::now()));
        ejector.act(&verdict(n.into(), Action::Reject), captured, None);
        if n == 4 || n == 9 {
            continue; // it stays on the belt
        }
        thread::sleep((captured + WAY + Duration::from_millis(45)).saturating_duration_since(Instant::now()));
        plc.tell("input 2 1");
        thread::sleep(Duration::from_millis(25));
        plc.tell("input 2 0");
    }
    thread::sleep(Duration::from_millis(200));
    plc.tell("input 2 1");
    let count = |result: &str| metrics.confirmations.with_label_values(&[result]).get();
    until("the last pulse is counted", Duration::from_secs(2), || count("false") == 1);
    assert_eq!((count("confirmed"), count("missed"), count("false")), (10, 2, 1));
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 12)]);

    // Half the speed, twice the time.
    plc.tell("speed 5 500");
    until("the speed is read", Duration::from_secs(5), || metrics.belt_speed.get() == 0.5);
    let captured = Instant::now();
    ejector.act(&verdict(12, Action::Reject), captured, None);
    until("the command is there", Duration::from_secs(2), || plc.count("register 7 ") == 13);
    let took = plc.said("register 7 13").first().map(|at| *at - captured).unwrap();
    println!("at half the speed the command came after {took:?}");
    assert!((200..260).contains(&took.as_millis()), "{took:?} instead of 200 ms");
    // The belt stands while an item is on its way, a second at this speed: the command waits for it.
    plc.tell("speed 5 100");
    until("the speed is read", Duration::from_secs(5), || metrics.belt_speed.get() == 0.1);
    ejector.act(&verdict(13, Action::Reject), Instant::now(), None);
    plc.tell("speed 5 0");
    until("the speed is read", Duration::from_secs(5), || metrics.belt_speed.get() == 0.0);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(plc.count("register 7 "), 13, "the item has not come yet");
    plc.tell("speed 5 1000");
    until("the command is there", Duration::from_secs(2), || plc.count("register 7 ") == 14);
    // A service that starts anew does not write what stands there already.
    running.close();
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
    until("its command is there", Duration::from_secs(5), || {
        ejector.act(&verdict(14, Action::Reject), Instant::now(), None); // late as long as nobody has read the speed
        thread::sleep(Duration::from_millis(300));
        plc.count("register 7 ") > 14
    });
    assert_eq!(plc.count("register 7 15"), 1);
    // A belt that stands has no moment, nor has one whose speed nobody tells.
    let lost = metrics.eject_commands.with_label_values(&["modbus", "no_moment"]);
    let before = lost.get();
    plc.tell("speed 5 0");
    until("the speed is read", Duration::from_secs(5), || metrics.belt_speed.get() == 0.0);
    ejector.act(&verdict(15, Action::Reject), Instant::now(), None);
    drop(plc);
    thread::sleep(Duration::from_millis(2300));
    ejector.act(&verdict(16, Action::Reject), Instant::now(), None);
    running.close();
    assert_eq!(lost.get(), before + 2);
}

/// Mosquitto on `port`, and a client that prints everything below `plant/`; `None` where they are not installed.
fn broker(port: u16, folder: &Path) -> Option<(Running, Running)> {
    if Command::new("mosquitto").arg("-h").output().is_err()
        || Command::new("mosquitto_sub").arg("-h").output().is_err()
    {
        println!("skipped: mosquitto is not installed; deploy/setup --test installs it");
        return None;
    }
    let config = folder.join("mosquitto.conf");
    std::fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")).unwrap();
    let mut command = Command::new("mosquitto");
    let running = Running::start(command.arg("-c").arg(config).stderr(Stdio::null()));
    until("mosquitto listens", Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut command = Command::new("mosquitto_sub");
    let told =
        Running::start(command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q", "1", "-v", "-t", "plant/#"]));
    Some((running, told))
}

/// Track numbers of the commands that a subscriber saw, in order.
fn tracks(told: &Running) -> Vec<u64> {
    let lines = told.lines.lock().unwrap();
    let messages = lines.iter().filter_map(|(_, line)| line.strip_prefix("plant/line/eject/out "));
    let messages = messages.map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap());
    messages.map(|message| message["track"].as_u64().unwrap()).collect()
}

#[test]
fn a_broker_that_dies_and_comes_back_loses_no_command_in_silence() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let Some(broker_1) = broker(port, folder.path()) else { return };
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\ntolerance = '60ms'\n\
         on_late = 'stop_line'"
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&settings("", &output)).unwrap(), &metrics, |_| {}).unwrap();
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
    until("all commands ended", Duration::from_secs(5), || {
        ended(&metrics, "mqtt").iter().map(|(_, n)| n).sum::<u64>() == 80
    });
    until("the last one is told", Duration::from_secs(5), || tracks(&told).last() == Some(&79));
    let (ends, after) = (ended(&metrics, "mqtt"), tracks(&told));
    let acknowledged = ends.iter().find(|(outcome, _)| outcome == "acknowledged").unwrap().1;
    let late = 80 - acknowledged;
    println!("ends {ends:?}; {} told before the kill, {} after the restart", before.len(), after.len());
    // Once each, in order, and nothing of the broken connection is sent to the next one.
    assert!(before.windows(2).chain(after.windows(2)).all(|pair| pair[0] < pair[1]), "{before:?} {after:?}");
    assert!(before.len() >= 28 && after[0] >= 45 && after.ends_with(&[75, 76, 77, 78, 79]), "{before:?} {after:?}");
    assert!((10..=35).contains(&late), "{late} late while the broker was away");
    assert_eq!(metrics.eject_late_actions.with_label_values(&["stop_line"]).get(), late);
    // The stop reached the new broker, and the line's retained state says so.
    let count = |of: &prometheus::IntCounterVec| of.with_label_values(&["mqtt", "stop_line"]).get();
    until("the stop is taken", Duration::from_secs(5), || count(&metrics.line_acknowledged) == late);
    assert_eq!(count(&metrics.line_asked), late);
    let state = format!("plant/line/state {{\"diverts\":0,\"online\":true,\"stops\":{late}");
    until("the state says so", Duration::from_secs(5), || told.count(&state) >= 1);
    running.close();
    until("the will is told", Duration::from_secs(5), || told.count("plant/line/state {\"online\":false}") == 1);
}

#[test]
fn a_broker_passes_on_what_sensor_and_encoder_say() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let Some((_broker, _told)) = broker(port, folder.path()) else { return };
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\nspeed = 'plant/encoder'\n\
         tolerance = '60ms'\non_late = 'alarm'"
    );
    let text = settings("confirm = { after = '50ms', window = '500ms' }", &output);
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
    let say = |topic: &str, message: &str| {
        let port = port.to_string();
        let said = Command::new("mosquitto_pub").args(["-p", &port, "-q", "1", "-t", topic, "-m", message]).status();
        assert!(said.unwrap().success());
    };
    until("it is connected", Duration::from_secs(5), || {
        metrics.output_down.with_label_values(&["mqtt"]).get() == 0 && {
            say("plant/encoder", "0.8");
            metrics.belt_speed.get() == 0.8
        }
    });
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    thread::sleep(WAY);
    say("plant/line/confirm/out", "");
    say("plant/line/confirm/another", "");
    let count = |result: &str| metrics.confirmations.with_label_values(&[result]).get();
    until("it is confirmed", Duration::from_secs(2), || count("confirmed") == 1);
    say("plant/encoder", "fast");
    thread::sleep(Duration::from_millis(100));
    ejector.act(&verdict(2, Action::Reject), Instant::now(), None);
    until("it is missed at once", Duration::from_secs(2), || count("missed") == 1);
    assert_eq!(metrics.eject_commands.with_label_values(&["mqtt", "no_moment"]).get(), 1);
    running.close();
}

#[test]
fn a_broker_that_talks_nonsense_makes_commands_late_and_nothing_else() {
    let port = port();
    nonsense(port, 2, |random, request| {
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

#[test]
fn the_line_is_an_edge_node_of_sparkplug_b() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let Some(peers) = peers() else { return };
    let Some((_broker, _told)) = broker(port, folder.path()) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sparkplug_peer.py");
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(arguments).env("PYTHONPATH", &peers);
        command
    };
    let address = port.to_string();
    let mut command = Command::new("mosquitto_sub");
    let heard = Running::start(command.args(["-p", &address, "-t", "spBv1.0/#", "-F", "%t %x"]));
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\n\
         sparkplug = {{ group = 'plant', node = 'line-1' }}\ntolerance = '60ms'\non_late = 'stop_line'"
    );
    thread::sleep(Duration::from_millis(300)); // the subscriber says nothing when it is ready
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&settings("", &output)).unwrap(), &metrics, |_| {}).unwrap();
    until("it is born", Duration::from_secs(5), || heard.count("spBv1.0/plant/NBIRTH/line-1 ") == 1);
    ejector.act(&verdict(1, Action::Reject), Instant::now() - Duration::from_secs(1), None); // too late: the line is to stop
    until("its state is told", Duration::from_secs(5), || heard.count("spBv1.0/plant/NDATA/line-1 ") == 1);
    let command = folder.path().join("rebirth");
    let made = python(&["rebirth"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(&command, made.stdout).unwrap();
    let topic = "spBv1.0/plant/NCMD/line-1";
    let said = Command::new("mosquitto_pub").args(["-p", &address, "-t", topic, "-f"]).arg(command).status().unwrap();
    assert!(said.success());
    until("it is born again", Duration::from_secs(5), || heard.count("spBv1.0/plant/NBIRTH/line-1 ") == 2);
    running.close();
    until("it is dead", Duration::from_secs(5), || heard.count("spBv1.0/plant/NDEATH/line-1 ") == 1);

    let mut reader = python(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = reader.stdin.take().unwrap();
    heard.lines.lock().unwrap().iter().for_each(|(_, line)| writeln!(lines, "{line}").unwrap());
    drop(lines);
    let said = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
    let state =
        |stops: u32, why: &str| format!("line/stops:UInt64={stops} line/diverts:UInt64=0 line/why:String={why}");
    let birth = "NBIRTH seq=0 bdSeq:Int64=0 Node Control/Rebirth:Boolean=False";
    let (calm, stopped) = (state(0, ""), state(1, "late_verdict at gate out: belt 1"));
    let want = [
        format!("{birth} {calm}"),
        format!("NDATA seq=1 {stopped}"),
        "NCMD Node Control/Rebirth:Boolean=True".into(),
        format!("{birth} {stopped}"),
        "NDEATH bdSeq:Int64=0".into(),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), want);
}

/// A store whose lots are those that an output tells.
struct Lots {
    runtime: tokio::runtime::Runtime,
    store: Store,
    stop: tokio_util::sync::CancellationToken,
}

impl Lots {
    fn follow(folder: &Path, ejector: &Ejector, metrics: &Metrics) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(Store::open(folder)).unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        runtime.spawn(lots::follow(store.clone(), ejector.lot(), metrics.clone(), stop.clone()));
        Self { runtime, store, stop }
    }

    /// Names, oldest first; an open one with a star.
    fn names(&self) -> Vec<String> {
        let lots = self.runtime.block_on(self.store.lots(100)).unwrap();
        lots.iter().rev().map(|lot| format!("{}{}", lot.name, if lot.closed.is_none() { "*" } else { "" })).collect()
    }

    fn come_to(&self, wanted: &[&str]) -> Duration {
        until(&format!("the lots are {wanted:?}"), Duration::from_secs(10), || self.names() == wanted)
    }

    fn close(self) {
        self.stop.cancel();
        self.runtime.block_on(self.store.close());
    }
}

#[test]
fn a_register_of_the_plc_opens_and_closes_lots_once_each_over_broken_connections_and_restarts() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let Some(mut first) = plc(port) else { return };
    let text = settings(
        "coil = 0",
        &format!(
            "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'\n\
             lot = 20\ntolerance = '60ms'\non_late = 'alarm'"
        ),
    );
    let metrics = Metrics::new().unwrap();
    let start = || Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
    let (ejector, running) = start();
    let lots = Lots::follow(folder.path(), &ejector, &metrics);
    until("the heart beats", Duration::from_secs(5), || first.count("register 100 ") >= 3);
    assert_eq!(lots.names(), [""; 0], "0 is no lot");
    first.tell("speed 20 17"); // an input register
    println!("opened within {:?}", lots.come_to(&["17*"]));
    // The same number on a new connection is the same lot.
    drop(first);
    let mut second = plc(port).unwrap();
    second.tell("speed 20 17");
    until("the heart beats", Duration::from_secs(10), || second.count("register 100 ") >= 5);
    assert_eq!(lots.names(), ["17*"], "while the PLC was away the lot stayed open, and it is not opened again");
    second.tell("speed 20 18");
    lots.come_to(&["17", "18*"]);
    // A service that starts again.
    running.close();
    lots.close();
    let (ejector, running) = start();
    let lots = Lots::follow(folder.path(), &ejector, &metrics);
    let beats = second.count("register 100 ");
    until("the heart beats", Duration::from_secs(10), || second.count("register 100 ") >= beats + 5);
    assert_eq!(lots.names(), ["17", "18*"]);
    second.tell("speed 20 0");
    lots.come_to(&["17", "18"]);
    second.tell("speed 20 18");
    lots.come_to(&["17", "18", "18*"]);
    running.close();
    lots.close();
}

#[test]
fn a_topic_of_the_broker_opens_and_closes_lots_and_a_retained_name_counts() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
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
    let (ejector, running) = Ejector::start(toml::from_str(&text).unwrap(), &metrics, |_| {}).unwrap();
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

/// The receiver of webhooks, in Python, on `port`; with certificate and key behind TLS.
fn receiver(port: u16, secret: &str, tls: &[PathBuf]) -> Running {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook_server.py");
    let running = Running::start(Command::new("python3").arg(script).args([&port.to_string(), secret]).args(tls));
    until("the receiver serves", Duration::from_secs(20), || !running.said("serving").is_empty());
    running
}

#[test]
fn a_webhook_is_signed_and_tried_again_with_the_same_id_until_its_time_is_over() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "correct horse battery\n").unwrap();
    let mut hook = receiver(port, "correct horse battery", &[]);
    let output = format!(
        "kind = 'webhook'\nurl = 'http://127.0.0.1:{port}/gate'\nsecret_file = '{}'\ntolerance = '5s'\n\
         on_late = 'stop_line'",
        secret.display()
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(&settings("", &output)).unwrap(), &metrics, |_| {}).unwrap();
    let of = |outcome: &str| metrics.eject_commands.with_label_values(&["webhook", outcome]).get();

    // Every first attempt is answered 500.
    (0..5).for_each(|track| ejector.act(&verdict(track, Action::Reject), Instant::now(), None));
    until("all are taken", Duration::from_secs(5), || of("acknowledged") == 5);
    let lines: Vec<String> = hook.lines.lock().unwrap().iter().skip(1).map(|(_, line)| line.clone()).collect();
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
    let taken = || metrics.line_acknowledged.with_label_values(&["webhook", "stop_line"]).get();
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

/// Made by openssl: `ca.pem`, which vouches for `server.pem` and `client.pem`, and `other.pem`, which vouches for nobody;
/// keys beside them. `None` where there is no openssl.
fn certificates(folder: &Path) -> Option<()> {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: openssl is not installed; deploy/setup --test installs it");
        return None;
    }
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let openssl = |arguments: String| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout";
    for name in ["ca", "other"] {
        openssl(format!("req -x509 {key} {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    }
    for name in ["server", "client"] {
        openssl(format!("req {key} {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 2 -extfile names -out {name}.pem"));
    }
    Some(())
}

/// Starts an output and orders the gate again and again until a command ends; `None` when it was acknowledged, or why it
/// was not, as the record has it.
fn refused(output: &str, fits: &str) -> Option<String> {
    let (metrics, told) = (Metrics::new().unwrap(), Arc::<Mutex<Vec<Event>>>::default());
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) = Ejector::start(toml::from_str(&settings("", output)).unwrap(), &metrics, tell).unwrap();
    let name = output.split('\'').nth(1).unwrap();
    let acknowledged = || metrics.eject_commands.with_label_values(&[name, "acknowledged"]).get() > 0;
    let late = || {
        let told = told.lock().unwrap();
        told.iter().find_map(|event| match event {
            Event::EjectLate { why, .. } if why.contains(fits) => Some(why.clone()),
            _ => None,
        })
    };
    let mut track = 0;
    until(fits, Duration::from_secs(20), || {
        track += 1;
        ejector.act(&verdict(track, Action::Reject), Instant::now(), None);
        thread::sleep(Duration::from_millis(150));
        acknowledged() || late().is_some()
    });
    let why = if acknowledged() { None } else { late() };
    running.close();
    println!("{name}: {why:?}");
    why
}

#[test]
fn a_broker_behind_tls_is_believed_only_where_the_right_authority_vouches_and_hears_who_we_are() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
    let Some(()) = certificates(folder.path()) else { return };
    if Command::new("mosquitto").arg("-h").output().is_err() {
        return println!("skipped: mosquitto is not installed; deploy/setup --test installs it");
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = Command::new("mosquitto_passwd").args(["-b", "-c", &path("users"), "line", "a long one"]).status();
    assert!(made.unwrap().success());
    std::fs::write(path("password"), "a long one\n").unwrap();
    std::fs::write(
        path("mosquitto.conf"),
        format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\npersistence false\n\
             cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n",
            path("users"),
            path("ca.pem"),
            path("server.pem"),
            path("server.key")
        ),
    )
    .unwrap();
    let _broker = Running::start(Command::new("mosquitto").arg("-c").arg(path("mosquitto.conf")).stderr(Stdio::null()));
    until("mosquitto listens", Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
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
        let why = Ejector::start(toml::from_str(&text).unwrap(), &Metrics::new().unwrap(), |_| {}).err().unwrap();
        assert!(why.to_string().contains(words) && why.to_string().starts_with("mqtt: tls: "), "{why}");
    }
}

#[test]
fn a_webhook_over_https_goes_only_to_whom_the_right_authority_vouches_for() {
    let (port, folder) = (port(), tempfile::tempdir().unwrap());
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

#[test]
fn the_service_acts_on_the_verdicts_of_its_cameras() {
    let folder = tempfile::tempdir().unwrap();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\n[model]\nroot = '{}'\ndevice = 'cpu'\n[store]\nfolder = '{}'\n\
         [[camera]]\nname = 'belt'\nsource = 'simulated'\nbelt = {{ salmon_share = 0.0, empty_share = 0.0, width = 320, height = 180 }}\n\
         [eject]\n[[eject.gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\n\
         speed = '0.24m/s'\nscale = '1.0mm/px'\ndistance = '600mm'\nconfirm = {{ after = '1s', window = '900ms' }}\n\
         [[eject.output]]\nkind = 'log'\ntolerance = '20ms'\non_late = 'alarm'\n",
        home.join("models").display(),
        folder.path().join("data").display(),
    );
    let config = folder.path().join("beltsight.toml");
    std::fs::write(&config, text).unwrap();
    // A shell joins stderr, where the log goes, to stdout, and gives its place to the service, so that signals arrive.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" serve --config \"$1\" 2>&1"]).arg(env!("CARGO_BIN_EXE_beltsight")).arg(&config);
    let service = Running::start(command.env("RUST_LOG", "info,ort=warn").env("NO_COLOR", "1"));
    let eject = |line: &str| line.contains(" eject ") && line.contains("late_us=");
    let ejected =
        || service.lines.lock().unwrap().iter().filter(|(_, l)| eject(l)).map(|(_, l)| l.clone()).collect::<Vec<_>>();
    until("five items are ejected", Duration::from_secs(60), || ejected().len() >= 5);
    let url = {
        let lines = service.lines.lock().unwrap();
        lines.iter().find_map(|(_, l)| Some(l.split_once("listening on ")?.1.trim().to_string())).unwrap()
    };
    let post = |path: &str| {
        let mut answer = Command::new("curl");
        answer.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"]);
        String::from_utf8(answer.arg(format!("{url}{path}")).output().unwrap().stdout).unwrap()
    };
    thread::sleep(Duration::from_secs(1));
    assert_eq!((post("/confirmations/out").as_str(), post("/confirmations/another").as_str()), ("204", "404"));
    let metrics = Command::new("curl").args(["-s", &format!("{url}/metrics")]).output().unwrap();
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    assert!(metrics.contains("beltsight_confirmations_total{result=\"confirmed\"} 1\n"), "{metrics}");
    service.signal("-TERM");
    until("it has stopped", Duration::from_secs(20), || {
        !Path::new(&format!("/proc/{}/exe", service.child.id())).exists()
    });
    let (lines, all) = (ejected(), service.count(""));
    let field = |line: &str, name: &str| {
        let rest = line.split(&format!("{name}=")).nth(1)?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    let ids: Vec<u64> = lines.iter().filter_map(|line| field(line, "id")).collect();
    assert_eq!(ids, (1..=lines.len() as u64).collect::<Vec<_>>(), "{lines:?}");
    let late: Vec<u64> = lines.iter().filter_map(|line| field(line, "late_us")).collect();
    println!("{} commands of {all} lines, µs late {late:?}", lines.len());
    assert!(late.iter().all(|late| *late < 20_000), "{late:?}");
    let said = service.lines.lock().unwrap();
    assert!(!said.iter().any(|(_, line)| line.contains("a command is late")), "{said:?}");
}

/// Answers every connection with nonsense that looks like Modbus, or not at all; runs until the process ends.
fn nonsense(port: u16, seed: u64, frame: fn(&mut ChaCha8Rng, &[u8]) -> Vec<u8>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut random = ChaCha8Rng::seed_from_u64(random.random());
            thread::spawn(move || {
                let mut request = [0; 512];
                while let Ok(n @ 1..) = stream.read(&mut request) {
                    match random.random_range(0..20) {
                        0 => return,
                        1 => thread::sleep(Duration::from_millis(random.random_range(0..400))),
                        2 => {
                            // A flood without an end in sight.
                            let flood = vec![random.random(); 1 << 20];
                            (0..20).for_each(|_| drop(stream.write_all(&flood)));
                        }
                        _ => drop(stream.write_all(&frame(&mut random, &request[..n]))),
                    }
                }
            });
        }
    });
}

/// Resident memory of this process in MB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4 / 1024
}

/// Sends 100 commands to an output that talks nonsense: each ends exactly once, none as acknowledged.
fn survives(output: &str, settings: &str, seconds: u64) {
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(toml::from_str(settings).unwrap(), &metrics, |_| {}).unwrap();
    let before = resident();
    let (start, commands) = (Instant::now(), 100);
    for track in 0..commands {
        ejector.act(&verdict(track, Action::Reject), Instant::now(), None);
        thread::sleep(Duration::from_millis(seconds * 1000 / commands));
    }
    running.close();
    let ends = ended(&metrics, output);
    println!("{output}: ends {ends:?} in {:?}, memory {before} → {} MB", start.elapsed(), resident());
    assert_eq!(ends.iter().map(|(_, n)| n).sum::<u64>(), commands);
    assert!(ends.iter().all(|(outcome, _)| outcome != "acknowledged"), "{ends:?}");
    assert!(resident() < before + 64, "{before} → {} MB", resident());
}

#[test]
fn a_plc_that_talks_nonsense_makes_commands_late_and_nothing_else() {
    let port = port();
    nonsense(port, 1, |random, request| {
        let mut answer = request.to_vec();
        match random.random_range(0..7) {
            0 => answer = (0..random.random_range(1..300)).map(|_| random.random()).collect(),
            1 => answer[0] ^= 1, // another transaction
            2 => answer.truncate(random.random_range(1..answer.len())),
            3 => answer[4..6].copy_from_slice(&[random.random(), random.random()]), // another length
            // The right header with any function and data: an exception, a wrong count, too little of it.
            4 => answer[7..].iter_mut().for_each(|byte| *byte = random.random()),
            5 => {} // right for a write, wrong for what reads it back
            _ => {
                let code = 0x80 | answer[7];
                answer.truncate(7);
                answer[5] = 3;
                answer.extend([code, random.random()]);
            }
        }
        answer
    });
    let output = format!(
        "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '20ms'\n\
         stop_line = 3\ntolerance = '30ms'\non_late = 'stop_line'"
    );
    survives("modbus", &settings("coil = 0", &output), 4);
}
