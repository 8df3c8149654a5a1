//! A shift on a belt that stops and goes, with an independent encoder and PLC: by how much each kick misses its item. The shift
//! itself runs on demand and appends a line of JSON to `docs/results/shift.jsonl`:
//!
//! ```sh
//! SHIFT=own cargo test --features learn,rtsp --test eject -- --ignored --nocapture ten_minutes_of_stop_and_go
//! ```
//!
//! `SHIFT` is `own` (our timing by the encoder), `plc` (the PLC fires by itself), `speed` (a speed register) or `seen` (the
//! camera's own speed); `SHIFT_SECONDS` (600) and `SHIFT_SEED` (1) may be others.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use beltsight::{domain::Action, line::eject::Ejector, metrics::Metrics, store::Event};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{
    bench::{ended, settings, verdict},
    common::process::free_port,
    encoder::{DELAY, Kick, Shift, WAY, begin, encoder, kicks, late, plant, plc},
};

/// The belt's speed at work, in mm/s: with items 75 mm apart on average, 800 a minute.
const CRUISE: f64 = 1000.0;
/// Millimetres per second squared.
const RAMP: f64 = 1000.0;
/// A kick nearer than this to an item is one for it, in mm; items lie 50 mm apart at least.
const REACH: f64 = 25.0;

/// A share of the items has to leave.
#[derive(Clone, Debug)]
struct Item {
    /// Where it lies on the belt, in mm.
    place: f64,
    /// When it is below the camera first, in seconds.
    at: f64,
    bad: bool,
}

/// Work, stops, creeping, two jogs back, and the times at which the encoder is reset and silent twice.
fn profile(seconds: f64, seed: u64) -> Vec<[f64; 2]> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut profile = vec![[1.0, 0.0]];
    let back = [seconds * 0.3, seconds * 0.7];
    let (mut now, mut speed, mut backs) = (1.0, 0.0_f64, 0);
    while now < seconds {
        let (to, holds) = if backs < 2 && now > back[backs] && speed == 0.0 {
            backs += 1;
            (-250.0, 1.0)
        } else {
            match random.random_range(0..10) {
                0..6 => (CRUISE, random.random_range(3.0..15.0)),
                6 => (250.0, random.random_range(2.0..6.0)),
                7 => (50.0, random.random_range(2.0..4.0)),
                _ => (0.0, random.random_range(1.0..6.0)),
            }
        };
        now += ((to - speed) / RAMP).abs().max(0.001);
        profile.push([now, to]);
        now += holds;
        profile.push([now, to]);
        speed = to;
    }
    profile
}

/// Items 50 to 100 mm apart, four in ten of them bad.
fn items(shift: &Shift, seconds: f64, seed: u64) -> Vec<Item> {
    let mut random = ChaCha8Rng::seed_from_u64(seed + 1000);
    let (mut place, mut items) = (20.0, Vec::new());
    for at in (0..(seconds * 1e3) as u32).map(|n| f64::from(n) / 1e3) {
        if shift.way(at) >= place {
            items.push(Item { place, at, bad: random.random_bool(0.4) });
            place += random.random_range(50.0..100.0);
        }
    }
    items
}

/// What came of a shift.
#[derive(Debug, Default, PartialEq)]
struct Score {
    /// Of each kick for an item that had to leave, how far from it, in mm.
    errors: Vec<f64>,
    /// Kicks at good items, at none, and at one that had been kicked.
    others: usize,
    /// Bad items that were neither kicked nor told late.
    unsaid: usize,
    /// Kicks more than 8 mm off that were not told late.
    off: usize,
}

/// Holds the kicks, each a place of the belt at the gate, against the items.
fn score(kicked: &[f64], items: &[Item], late: &BTreeMap<u64, String>) -> Score {
    let (mut score, mut left) = (Score::default(), vec![true; items.len()]);
    for mm in kicked {
        let off = |item: &Item| mm - item.place - WAY;
        let nearest = (0..items.len()).min_by(|a, b| off(&items[*a]).abs().total_cmp(&off(&items[*b]).abs()));
        let error = nearest.map_or(f64::INFINITY, |n| off(&items[n]));
        match nearest.filter(|n| items[*n].bad && left[*n] && error.abs() <= REACH) {
            Some(n) => {
                left[n] = false;
                score.errors.push(error);
                score.off += usize::from(error.abs() > 8.0 && !late.contains_key(&(n as u64)));
            }
            None => score.others += 1,
        }
    }
    let unsaid = |(n, item): &(usize, &Item)| item.bad && left[*n] && !late.contains_key(&(*n as u64));
    score.unsaid = items.iter().enumerate().filter(unsaid).count();
    score.errors.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
    score
}

#[test]
fn the_score_counts_what_was_planted() {
    let item = |place, bad| Item { place, at: 0.0, bad };
    let items = [item(0.0, true), item(60.0, false), item(130.0, true), item(200.0, true), item(270.0, true)];
    let late = BTreeMap::from([(4, "passed".to_string())]);
    let at = |mm: f64| mm + WAY;
    // A good hit, one 9 mm off, a second one at the same item, one at a good item, one at nothing; 200 is missed unsaid.
    let score = score(&[at(0.5), at(139.0), at(131.0), at(62.0), at(400.0)], &items, &late);
    assert_eq!(score, Score { errors: vec![0.5, 9.0], others: 3, unsaid: 1, off: 1 });
}

/// The settings of a way, and what the peer is to do besides running the belt.
fn way(name: &str, port: u16) -> (String, Value) {
    let registers = json!({ "registers": { "7": "out" }, "delay": DELAY });
    let timed = "register = 7\ndelay = '20ms'\ndistance = '350mm'\nmax_speed = '2m/s'";
    let place = |gate: &str, output: &str| settings("", output).replace("distance = '150mm'", gate);
    match name {
        "own" => (encoder(port) + &place(timed, &plc(port, "12ms")), registers),
        "plc" => {
            let gate = "command = { registers = 200, done = 60 }\ndistance = '350mm'\nmax_speed = '2m/s'";
            let more = json!({ "commands": { "out": { "registers": 200, "done": 60 } } });
            (encoder(port) + &place(gate, &plc(port, "60ms")), more)
        }
        "speed" => (place(timed, &(plc(port, "12ms").replace("100ms", "20ms") + "\nspeed = 50")), registers),
        "seen" => (place(timed, &plc(port, "12ms")).replace("speed = '1.0m/s'", "speed = 'seen'"), registers),
        other => panic!("SHIFT is {other}; it must be own, plc, speed or seen"),
    }
}

/// Judges every bad item 30 ms after its picture. With `sees` it tells the belt's way as a camera of 30 pictures a second does,
/// to a tenth of a pixel.
fn judge(ejector: &Ejector, shift: &Shift, items: &[Item], sees: bool) {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut picture = 0u32;
    for (track, item) in (0..).zip(items).filter(|(_, item)| item.bad) {
        loop {
            let taken = f64::from(picture) / 30.0;
            let moment = shift.start + Duration::from_secs_f64(taken + 0.015);
            if !sees || taken + 0.015 > item.at + 0.03 {
                break;
            }
            thread::sleep(moment.saturating_duration_since(Instant::now()));
            let pixels = shift.way(taken) + random.random_range(-0.1..0.1);
            ejector.seen("belt", Some(pixels), shift.start + Duration::from_secs_f64(taken));
            picture += 1;
        }
        let captured = shift.start + Duration::from_secs_f64(item.at);
        thread::sleep((captured + Duration::from_millis(30)).saturating_duration_since(Instant::now()));
        let speed = (shift.way(item.at + 0.01) - shift.way(item.at - 0.01)) / 0.02;
        ejector.act(&verdict(track, Action::Reject), captured, sees.then_some(speed as f32));
    }
}

fn number(name: &str, default: f64) -> f64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text}")))
}

#[test]
#[ignore = "runs for ten minutes and writes a result"]
fn ten_minutes_of_stop_and_go() {
    let (seconds, seed) = (number("SHIFT_SECONDS", 600.0), number("SHIFT_SEED", 1.0) as u64);
    let name = std::env::var("SHIFT").unwrap_or_else(|_| "own".into());
    let (port, folder, metrics) = (free_port(), tempfile::tempdir().unwrap(), Metrics::new().unwrap());
    let shift = Shift::new(&profile(seconds, seed), Duration::from_secs(4));
    let (text, more) = way(&name, port);
    let share = |share: f64| seconds * share;
    let mut plan = json!({ "counts_per_mm": -10, "bits": 16, "first": 15_000, "resets": [share(0.45)], "speed_at": 50,
        "silent": [[share(0.2), share(0.2) + 5.0], [share(0.6), share(0.6) + 5.0]] });
    plan.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let plant = plant(port, folder.path(), &shift, plan).expect("pymodbus is installed: deploy/setup --test");
    let (ejector, running, told) = begin(&text, &metrics);
    let items = items(&shift, seconds, seed);
    judge(&ejector, &shift, &items, name == "seen");
    thread::sleep(Duration::from_secs(2));
    running.close();

    let (late, numbers) = (late(&told), numbers(&told.lock().unwrap()));
    let fired = kicks(&plant, if name == "plc" { "fired" } else { "kick" });
    let mut score = score(&fired.iter().map(|kick| kick.hit_mm).collect::<Vec<_>>(), &items, &late);
    if name == "plc" {
        score.others += wrong(&fired, &items, &numbers);
    }
    let at = |q: f64| score.errors.get(((score.errors.len() as f64 - 1.0) * q) as usize).map(|e| round(e.abs()));
    let ends: BTreeMap<String, u64> = ended(&metrics, "modbus").into_iter().collect();
    let encoder = &metrics.encoder;
    let line = json!({
        "way": name, "seconds": seconds, "seed": seed, "metres": round(shift.way(seconds) / 1e3),
        "items": items.len(), "bad": items.iter().filter(|item| item.bad).count(),
        "most_a_minute": most_a_minute(&items), "kicks": fired.len(), "late": late.len(), "ends": ends,
        "mm_p50": at(0.5), "mm_p99": at(0.99), "mm_max": at(1.0),
        "kicks_on_others": score.others, "off_8_mm_unsaid": score.off, "neither_kicked_nor_late": score.unsaid,
        "wraps": encoder.wraps.get(), "resets": encoder.resets.get(), "reverses": encoder.reverses.get(),
        "silences": encoder.silences.get(),
        "load": std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next(),
        "cores": thread::available_parallelism().map_or(0, usize::from),
    });
    println!("{line}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results/shift.jsonl");
    writeln!(OpenOptions::new().create(true).append(true).open(file).unwrap(), "{line}").unwrap();
}

/// The most items that come below the camera within a minute.
fn most_a_minute(items: &[Item]) -> usize {
    (0..items.len())
        .map(|n| items[n..].iter().take_while(|item| item.at < items[n].at + 60.0).count())
        .max()
        .unwrap_or(0)
}

/// The item of each command's number. They go round after 65,535, which no shift reaches.
fn numbers(told: &[Event]) -> BTreeMap<u16, u64> {
    let number = |event: &Event| match event {
        Event::EjectCommand { number, track, .. } => Some((*number, *track)),
        _ => None,
    };
    told.iter().filter_map(number).collect()
}

/// Kicks whose number is that of an item elsewhere.
fn wrong(fired: &[Kick], items: &[Item], numbers: &BTreeMap<u16, u64>) -> usize {
    let place = |kick: &Kick| numbers.get(&kick.number).map(|track| items[*track as usize].place + WAY);
    fired.iter().filter(|kick| place(kick).is_none_or(|place| (kick.hit_mm - place).abs() > REACH)).count()
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
