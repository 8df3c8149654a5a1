//! Gates that go by the belt's place: an independent encoder and PLC (`encoder_server.py`) on a belt that stops and goes, runs
//! backwards, wraps its count, loses it, and says nothing for a while.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant, SystemTime},
};

use beltsight::{
    domain::Action,
    line::eject::{Ejector, EjectorThreads, output::alive::LineAlive},
    metrics::Metrics,
    store::Event,
};
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    bench::{ended, peers, settings, verdict},
    common::process::{Running, free_port, until},
    modbus::plc as pymodbus,
    mqtt::{broker, subscriber},
};

/// From where an item lies at capture to the gate, in mm; see [`settings`] and [`verdict`].
pub const WAY: f64 = 300.0;
/// A gate takes so long to move, where the service times it.
pub const DELAY: f64 = 0.02;

/// A belt's speed over time, `[seconds, mm/s]`, as the peer plays it.
pub struct Shift {
    profile: Vec<[f64; 2]>,
    pub start: Instant,
    unix: f64,
}

impl Shift {
    /// It begins in `after`.
    pub fn new(profile: &[[f64; 2]], after: Duration) -> Self {
        let (now, start) = (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap(), Instant::now());
        Self { profile: profile.to_vec(), start: start + after, unix: (now + after).as_secs_f64() }
    }

    /// Millimetres that the belt has gone `t` seconds after the start.
    pub fn way(&self, t: f64) -> f64 {
        let (mut way, mut at, mut speed) = (0.0, 0.0, self.profile[0][1]);
        for [until, next] in &self.profile {
            let end = until.min(t);
            if end > at {
                let reached = speed + (next - speed) * (end - at) / (until - at);
                way += (speed + reached) / 2.0 * (end - at);
            }
            if t <= *until {
                return way;
            }
            (at, speed) = (*until, *next);
        }
        way + speed * (t - at)
    }

    /// When items that lie 60 to 200 mm apart on the belt are below the camera first, up to the end: where and when.
    fn items(&self, seed: u64) -> Vec<(f64, f64)> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let end = self.profile.last().unwrap()[0];
        let (mut place, mut items) = (20.0, Vec::new());
        for t in (0..(end * 1e4) as u32).map(|n| f64::from(n) / 1e4) {
            if self.way(t) >= place {
                items.push((place, t));
                place += random.random_range(60.0..200.0);
            }
        }
        items
    }
}

/// What the peer says of a gate.
#[derive(Clone, Debug, Deserialize)]
pub struct Kick {
    what: String,
    mm: f64,
    pub hit_mm: f64,
    pub number: u16,
}

/// The peer on `port`; `None` where pymodbus is not installed.
pub fn plant(port: u16, folder: &Path, shift: &Shift, more: Value) -> Option<Running> {
    let peers = peers()?;
    let mut plan = json!({ "start": shift.unix, "speed": shift.profile });
    plan.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let file = folder.join("plant.json");
    std::fs::write(&file, plan.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoder_server.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(port.to_string()).arg(file).env("PYTHONPATH", peers);
    let running = Running::start(command.stdout(Stdio::piped()));
    until("the plant runs", Duration::from_secs(20), || !running.said("serving").is_empty());
    Some(running)
}

pub fn kicks(plant: &Running, what: &str) -> Vec<Kick> {
    let kicks = plant.lines().into_iter().filter(|line| line.contains("hit_mm"));
    kicks.map(|line| serde_json::from_str::<Kick>(&line).unwrap()).filter(|kick| kick.what == what).collect()
}

/// An ejector, and what it told the record.
pub type Told = Arc<Mutex<Vec<Event>>>;
pub fn begin(text: &str, metrics: &Metrics) -> (Ejector, EjectorThreads, Told) {
    let told = Told::default();
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) =
        Ejector::start(toml::from_str(text).unwrap(), metrics, LineAlive::default(), tell).unwrap();
    (ejector, running, told)
}

/// Judges every item 30 ms after its picture.
fn run(ejector: &Ejector, shift: &Shift, items: &[(f64, f64)]) {
    for (track, (_, t)) in (0..).zip(items) {
        let captured = shift.start + Duration::from_secs_f64(*t);
        thread::sleep((captured + Duration::from_millis(30)).saturating_duration_since(Instant::now()));
        ejector.act(&verdict(track, Action::Reject), captured, None);
    }
}

/// Tracks of the items whose commands were late, each with why.
pub fn late(told: &Told) -> BTreeMap<u64, String> {
    let late = |event: &Event| match event {
        Event::EjectLate { track, why, .. } => Some((*track, why.clone())),
        _ => None,
    };
    told.lock().unwrap().iter().filter_map(late).collect()
}

/// Prints p50, p99 and the most of the kicks' errors in mm; the most.
fn report(what: &str, mut errors: Vec<f64>, late: usize) -> f64 {
    errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    let at = |q: f64| errors[((errors.len() - 1) as f64 * q) as usize];
    println!(
        "{what}: {} kicks, mm off the item: p50 {:.2}, p99 {:.2}, most {:.2}; {late} told late",
        errors.len(),
        at(0.5).abs(),
        at(0.99).abs(),
        at(1.0).abs()
    );
    at(1.0).abs()
}

/// Ramps of a metre per second squared, stops, a jog back; see [`troubles`] for what the encoder does meanwhile.
const STOP_AND_GO: &[[f64; 2]] = &[
    [0.5, 0.0],
    [1.0, 500.0],
    [4.0, 500.0],
    [4.5, 0.0],
    [5.5, 0.0],
    [5.75, 250.0],
    [7.5, 250.0],
    [8.0, -250.0],
    [8.6, -250.0],
    [9.1, 250.0],
    [9.35, 500.0],
    [13.0, 500.0],
    [13.5, 0.0],
    [14.5, 0.0],
    [15.0, 500.0],
    [22.0, 500.0],
];

/// A wrap within two metres, a reset, a moment of silence, and one in which the encoder is lost.
fn troubles() -> Value {
    json!({ "counts_per_mm": -10, "bits": 16, "first": 15_000, "resets": [11.0], "silent": [[16.0, 16.3], [17.5, 20.0]] })
}

pub fn encoder(port: u16) -> String {
    format!("[encoder]\nkind = 'modbus'\naddress = 'localhost:{port}'\ncount = 40\nbits = 16\nscale = '-0.1mm'\n")
}

pub fn plc(port: u16, tolerance: &str) -> String {
    format!(
        "kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'\n\
         tolerance = '{tolerance}'\non_late = 'alarm'"
    )
}

#[test]
fn every_gate_moves_at_its_items_place_or_late_is_told_however_the_belt_runs() {
    let (port, folder, metrics) = (free_port(), tempfile::tempdir().unwrap(), Metrics::new().unwrap());
    let shift = Shift::new(STOP_AND_GO, Duration::from_secs(4));
    let mut more = troubles();
    more["registers"] = json!({ "7": "out" });
    more["delay"] = DELAY.into();
    let Some(plant) = plant(port, folder.path(), &shift, more) else { return };
    let gate = "register = 7\ndelay = '20ms'\ndistance = '350mm'";
    let text = settings("", &plc(port, "12ms")).replace("distance = '150mm'", gate);
    let (ejector, running, told) = begin(&(encoder(port) + &text), &metrics);
    let items = shift.items(19);
    run(&ejector, &shift, &items);
    thread::sleep((shift.start + Duration::from_millis(22_700)).saturating_duration_since(Instant::now()));
    running.close();

    let (kicks, late) = (kicks(&plant, "kick"), late(&told));
    let mut missing: BTreeMap<u64, f64> = (0..).zip(&items).map(|(track, (place, _))| (track, place + WAY)).collect();
    let mut errors = Vec::new();
    for kick in &kicks {
        let off = |goal: f64| (kick.hit_mm - goal).abs();
        let (&track, &goal) = missing.iter().min_by(|a, b| off(*a.1).total_cmp(&off(*b.1))).unwrap();
        if off(goal) > 8.0 {
            println!("{kick:?} is {} mm off {track}; late {late:?}", kick.hit_mm - goal);
        }
        missing.remove(&track);
        errors.push(kick.hit_mm - goal);
    }
    println!("ends {:?}", ended(&metrics, "modbus"));
    for (track, why) in &late {
        println!("{track} at {:.1} s: {why}", items[*track as usize].1);
    }
    let most = report("own timing", errors, late.len());
    assert!(most <= 8.0, "a kick {most} mm off its item");
    assert!(missing.keys().all(|track| late.contains_key(track)), "{missing:?} were neither kicked nor late");
    assert!(kicks.len() * 10 >= items.len() * 6, "{} of {}", kicks.len(), items.len());
    let encoder = &metrics.encoder;
    assert!(encoder.wraps.get() >= 1 && encoder.silences.get() >= 2, "{}", metrics.text());
    assert_eq!((encoder.resets.get(), encoder.reverses.get(), encoder.down.get()), (1, 1, 0));
    let told = told.lock().unwrap();
    let kinds: Vec<_> = told.iter().filter(|event| !matches!(event, Event::EjectLate { .. })).collect();
    assert!(
        matches!(
            kinds[..],
            [
                Event::BeltReversed,
                Event::BeltForward { .. },
                Event::EncoderReset { .. },
                Event::EncoderLost { .. },
                Event::EncoderBack
            ]
        ),
        "{kinds:?}"
    );
}

#[test]
fn a_plc_that_moves_the_gates_by_itself_does_it_at_the_items_place_and_says_so() {
    let (port, folder, metrics) = (free_port(), tempfile::tempdir().unwrap(), Metrics::new().unwrap());
    let shift = Shift::new(STOP_AND_GO, Duration::from_secs(4));
    let mut more = troubles();
    more["commands"] = json!({ "out": { "registers": 200, "done": 60 } });
    let Some(plant) = plant(port, folder.path(), &shift, more) else { return };
    let gate = "command = { registers = 200, done = 60 }\ndistance = '350mm'";
    let text = encoder(port) + &settings("", &plc(port, "60ms")).replace("distance = '150mm'", gate);
    let (mut ejector, mut running, mut told) = begin(&text, &metrics);
    let items = shift.items(19);
    let stop = items.iter().position(|(_, t)| *t > 13.0).unwrap();
    run(&ejector, &shift, &items[..stop]);
    // A service that starts anew goes on with the number that stands in the PLC.
    thread::sleep((shift.start + Duration::from_millis(14_000)).saturating_duration_since(Instant::now()));
    let restart = thread::spawn(move || running.close());
    let before = std::mem::take(&mut told);
    (ejector, running, told) = begin(&text, &metrics);
    for (track, (_, t)) in (0..).zip(&items).skip(stop) {
        let captured = shift.start + Duration::from_secs_f64(*t);
        thread::sleep((captured + Duration::from_millis(30)).saturating_duration_since(Instant::now()));
        ejector.act(&verdict(track, Action::Reject), captured, None);
    }
    thread::sleep((shift.start + Duration::from_millis(22_700)).saturating_duration_since(Instant::now()));
    restart.join().unwrap();
    running.close();
    told.lock().unwrap().extend(before.lock().unwrap().clone());

    let (fired, late) = (kicks(&plant, "fired"), late(&told));
    let numbers: BTreeMap<u16, u64> = told
        .lock()
        .unwrap()
        .iter()
        .filter_map(|event| match event {
            Event::EjectCommand { number, track, gate, output, .. } if gate == "out" && output == "modbus" => {
                Some((*number, *track))
            }
            _ => None,
        })
        .collect();
    let off = |kick: &Kick| kick.mm - items[numbers[&kick.number] as usize].0 - WAY;
    let tracks: Vec<u64> = fired.iter().map(|kick| numbers[&kick.number]).collect();
    println!("ends {:?}; forgotten {}", ended(&metrics, "modbus"), kicks(&plant, "forgotten").len());
    for (track, why) in &late {
        println!("{track} at {:.1} s: {why}", items[*track as usize].1);
    }
    let most = report("the PLC by itself", fired.iter().map(off).collect(), late.len());
    assert!(most <= 8.0, "a kick {most} mm off its item");
    let missing = |track: &u64| !tracks.contains(track) && !late.contains_key(track);
    let missing: Vec<u64> = (0..items.len() as u64).filter(missing).collect();
    assert!(missing.is_empty(), "{missing:?} were neither kicked nor late");
    assert!(tracks.len() * 10 >= items.len() * 7, "{} of {}", tracks.len(), items.len());
    let taken: Vec<u16> = kicks(&plant, "taken").iter().map(|kick| kick.number).collect();
    assert!(taken.windows(2).all(|pair| pair[1] == pair[0] + 1), "{taken:?}");
}

#[test]
fn no_command_waits_for_what_the_plc_says_of_those_before() {
    let (ports, folder, metrics) = ([free_port(), free_port()], tempfile::tempdir().unwrap(), Metrics::new().unwrap());
    let shift = Shift::new(&[[0.0, 500.0], [60.0, 500.0]], Duration::from_secs(1));
    let (Some(_encoder), Some(mut deaf)) = (plant(ports[0], folder.path(), &shift, json!({})), pymodbus(ports[1]))
    else {
        return;
    };
    let gate = "command = { registers = 20, done = 60 }\ndistance = '350mm'";
    let count = encoder(ports[0]).replace("bits = 16", "bits = 32").replace("-0.1mm", "0.1mm");
    let text = count + &settings("", &plc(ports[1], "60ms")).replace("distance = '150mm'", gate);
    let (ejector, running, _) = begin(&text, &metrics);
    until("the belt runs", Duration::from_secs(10), || metrics.eject.belt_speed.get() > 0.4);
    deaf.tell("slow 4 200"); // it takes commands, but answers to nothing within 200 ms
    let mut took = Vec::new();
    for track in 0..9 {
        let asked = Instant::now();
        ejector.act(&verdict(track, Action::Reject), asked - Duration::from_millis(30), None);
        let written = || deaf.said(&format!("register 22 {}", track + 1)).first().copied();
        until("the command is written", Duration::from_secs(5), || written().is_some());
        took.push(written().unwrap() - asked);
        thread::sleep(Duration::from_millis(550)); // it has its time to take it; the answer is owed still
    }
    took.sort();
    println!("a command is written after {:?} (median), {:?} at most", took[4], took[8]);
    assert!(took[4] < Duration::from_millis(50), "{took:?}");
    running.close();
}

/// A long-lived client that publishes each line that it is given.
fn publisher(port: u16, topic: &str) -> std::process::Child {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-t", topic, "-l"]);
    command.stdin(Stdio::piped()).spawn().unwrap()
}

#[test]
fn over_mqtt_the_encoder_counts_and_the_other_side_answers_with_the_commands_number() {
    let (port, folder, metrics) = (free_port(), tempfile::tempdir().unwrap(), Metrics::new().unwrap());
    let Some((_broker, told_all)) = broker(port, folder.path()) else { return };
    let commands = subscriber(port, &["-q", "1", "-t", "plant/line/eject/out"]);
    let here = format!("kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\n");
    let encoder = format!("[encoder]\n{here}topic = 'plant/count'\nscale = '0.1mm'\n");
    let output = format!("{here}topic = 'plant/line'\ntolerance = '100ms'\non_late = 'alarm'");
    let (ejector, running, told) = begin(&(encoder + &settings("command = {}", &output)), &metrics);
    let mut counts = publisher(port, "plant/count");
    let mut done = publisher(port, "plant/line/done/out");
    // 0.5 m/s from a count of -1000 on, 20 ms apart, by a clock of its own.
    let begun = Instant::now();
    let count = |at: Instant| at.duration_since(begun).as_secs_f64() * 5000.0 - 1000.0;
    let mut tick = |n: u32| {
        let at = begun + Duration::from_millis(20) * n;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let message = json!({ "count": count(at) as i64, "at": at.duration_since(begun).as_secs_f64() + 77.0 });
        writeln!(counts.stdin.as_mut().unwrap(), "{message}").unwrap();
    };
    (0..60).for_each(&mut tick);
    let captured = Instant::now() - Duration::from_millis(25);
    ejector.act(&verdict(1, Action::Reject), captured, None);
    ejector.act(&verdict(2, Action::Reject), captured, None);
    // 100 mm, which are 200 ms.
    let told_at = Instant::now();
    (60..70).for_each(&mut tick);
    let lines = commands.lines();
    let messages: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(messages.len(), 2, "{:?}", told_all.lines());
    let (first, second) = (messages[0]["number"].as_u64().unwrap(), messages[1]["number"].as_u64().unwrap());
    assert_eq!(second, first % 65_535 + 1);
    let off = messages[0]["target"].as_u64().unwrap() as f64 - count(captured) - 1000.0;
    println!("the target is {off:.1} counts off; told after {:?}", told_at.elapsed());
    assert!(off.abs() < 100.0, "{off} counts off, tenths of a millimetre");
    writeln!(done.stdin.as_mut().unwrap(), "{}", json!({ "number": first })).unwrap();
    (70..100).for_each(&mut tick);
    // One was answered, the other was not.
    until("both have ended", Duration::from_secs(2), || {
        ended(&metrics, "mqtt").iter().map(|(_, count)| count).sum::<u64>() == 2
    });
    assert_eq!(ended(&metrics, "mqtt"), [("acknowledged".into(), 1), ("unacknowledged".into(), 1)]);
    assert_eq!(late(&told).keys().collect::<Vec<_>>(), [&2]);
    running.close();
    for mut child in [counts, done] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
