//! A PLC by Modbus TCP.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::Action,
    line::{eject::Ejector, eject::output::alive::LineAlive},
    metrics::Metrics,
    store::Event,
};
use rand::RngExt;

use crate::{
    bench::{Lots, WAY, all_ended, ended, nonsense, peers, run_belt, settings, start, survives, verdict},
    common::process::{Running, free_port, until},
};

/// pymodbus on `port`; `None` where it is not installed.
pub fn plc(port: u16) -> Option<Running> {
    let peers = peers()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/modbus_server.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(port.to_string()).env("PYTHONPATH", peers);
    let running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    until("pymodbus serves", Duration::from_secs(20), || !running.said("serving").is_empty());
    Some(running)
}

/// A gate behind the PLC, with more lines for the gate and for the output.
fn described(port: u16, gate: &str, output: &str) -> String {
    let plc =
        format!("kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100\nevery = '100ms'");
    settings(gate, &format!("{plc}\n{output}"))
}

#[test]
fn a_plc_that_dies_and_comes_back_loses_no_command_in_silence() {
    let port = free_port();
    let Some(plc_1) = plc(port) else { return };
    let text = described(port, "coil = 0", "stop_line = 3\ntolerance = '60ms'\non_late = 'stop_line'");
    let metrics = Metrics::new().unwrap();
    let told: Arc<Mutex<Vec<Event>>> = Arc::default();
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) =
        Ejector::start(toml::from_str(&text).unwrap(), &metrics, LineAlive::default(), tell).unwrap();
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
    all_ended(&metrics, "modbus", 80);
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
    assert_eq!(metrics.eject.late_actions.with_label_values(&["stop_line"]).get(), late);
    let [asked, taken] = [&metrics.eject.line_asked, &metrics.eject.line_acknowledged];
    let count = |of: &prometheus::IntCounterVec| of.with_label_values(&["modbus", "stop_line"]).get();
    until("the stop is taken", Duration::from_secs(5), || count(taken) == late);
    assert_eq!(count(asked), late);
    assert!(second.count("coil 3 1") >= 1);
    assert!(metrics.eject.output_reconnects.with_label_values(&["modbus"]).get() >= 1);

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
    let is_low = || second.last("coil 0 ").as_deref() == Some("coil 0 0");
    until("the coil is low", Duration::from_secs(5), is_low);
    let beats = second.count("register 100 ");
    until("the heart beats on", Duration::from_secs(5), || second.count("register 100 ") > beats + 3);
    // What was ordered is done before the service stops, and no gate stays open.
    let raised = second.count("coil 0 1");
    ejector.act(&verdict(80, Action::Reject), Instant::now(), None);
    running.close();
    until("it is done", Duration::from_secs(1), || second.count("coil 0 1") == raised + 1 && is_low());
    let beats = second.count("register 100 ");
    thread::sleep(Duration::from_millis(300));
    assert!(second.count("register 100 ") <= beats + 1, "a stopped service has no heartbeat");
}

#[test]
fn no_command_waits_for_the_answer_to_a_poll() {
    let port = free_port();
    let Some(mut plc) = plc(port) else { return };
    let text = described(port, "register = 7", "speed = 5\ntolerance = '60ms'\non_late = 'alarm'");
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    plc.tell("speed 5 1000");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 1.0);
    plc.tell("slow 4 200"); // with a heartbeat every 100 ms somebody always waits for the speed
    thread::sleep(Duration::from_millis(300));
    run_belt(&ejector, 20, |_| ());
    all_ended(&metrics, "modbus", 20);
    let took = metrics.eject.acknowledged_late.with_label_values(&["modbus"]);
    let (count, ms) = (took.get_sample_count(), took.get_sample_sum() * 1e3);
    println!("{count} of 20 acknowledged, on average {:.1} ms after they were due", ms / count.max(1) as f64);
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 20)]);
    running.close();
}

#[test]
fn a_coil_stays_raised_as_long_as_the_item_and_between_two_that_lie_too_near() {
    let port = free_port();
    let Some(plc) = plc(port) else { return };
    let gate = "coil = 0\npause = '80ms'\ndwell = '5mm'\nneighbours = 'both'";
    let metrics = Metrics::new().unwrap();
    let text = described(port, gate, "tolerance = '60ms'\non_late = 'alarm'");
    // So far away that the second of two is judged before the gate opens for the first.
    let (text, way) = (text.replace("distance = '150mm'", "distance = '450mm'"), WAY + Duration::from_millis(300));
    let (ejector, running) = start(&text, &metrics);
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 2);
    // Items of 110 ms, margins included, to which the pulse of 30 ms is nothing; from one's end to the next's front 40 ms, then
    // 690 ms, then 40 ms again to a good one, which leaves too, and 290 ms to one that does not.
    let (begun, mut fronts) = (Instant::now(), Vec::new());
    for (n, (ms, action)) in (0..).zip([
        (0, Action::Reject),
        (150, Action::Reject),
        (950, Action::Accept),
        (1100, Action::Reject),
        (1500, Action::Accept),
    ]) {
        let captured = begun + Duration::from_millis(ms);
        thread::sleep(captured.saturating_duration_since(Instant::now()));
        ejector.act(&verdict(n, action), captured, None);
        fronts.push(captured + way - Duration::from_millis(55));
    }
    thread::sleep(Duration::from_millis(800));
    running.close();
    let (up, down) = (plc.said("coil 0 1"), plc.said("coil 0 0"));
    assert_eq!(
        (up.len(), down.len()),
        (4, 2),
        "each command raises it; it is lowered behind the second and the fourth"
    );
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 4)]);
    let off = |at: Instant, wanted: Instant| at.max(wanted) - at.min(wanted);
    for (at, front) in up.iter().zip(&fronts) {
        assert!(off(*at, *front) < Duration::from_millis(40), "{:?}", off(*at, *front));
    }
    for (at, front) in down.iter().zip([fronts[1], fronts[3]]) {
        let end = front + Duration::from_millis(110);
        println!("lowered {:?} off the item's end", off(*at, end));
        assert!(off(*at, end) < Duration::from_millis(40), "{:?}", off(*at, end));
    }
}

#[test]
fn a_plc_is_found_by_its_name() {
    let port = free_port();
    let Some(plc) = plc(port) else { return };
    let text = described(port, "coil = 0", "tolerance = '60ms'\non_late = 'alarm'").replace("127.0.0.1:", "localhost:");
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 2);
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    all_ended(&metrics, "modbus", 1);
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 1)]);
    running.close();
}

#[test]
fn a_plc_that_hangs_makes_commands_late_and_a_stop_goes_through_when_it_wakes() {
    let port = free_port();
    let Some(plc) = plc(port) else { return };
    let text = described(port, "register = 7", "divert = 4\ntolerance = '30ms'\non_late = 'divert'");
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 2);
    run_belt(&ejector, 20, |n| match n {
        5 => plc.signal("-STOP"),
        10 => plc.signal("-CONT"),
        _ => {}
    });
    all_ended(&metrics, "modbus", 20);
    let ends = ended(&metrics, "modbus");
    println!("ends {ends:?}");
    let acknowledged = ends.iter().find(|(outcome, _)| outcome == "acknowledged").unwrap().1;
    assert!((8..=17).contains(&acknowledged), "{ends:?}");
    until("everything is led aside", Duration::from_secs(5), || plc.count("coil 4 1") >= 1);
    assert_eq!(metrics.eject.late_actions.with_label_values(&["divert"]).get(), 20 - acknowledged);
    running.close();
}

#[test]
fn what_the_sensor_saw_is_matched_to_the_verdicts_and_the_speed_is_the_encoders() {
    let port = free_port();
    let Some(mut plc) = plc(port) else { return };
    let text = described(
        port,
        "register = 7\nconfirm = { input = 2, after = '50ms', window = '70ms' }",
        "speed = 5\ntolerance = '60ms'\non_late = 'alarm'",
    );
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    plc.tell("speed 5 1000");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 1.0);

    // Twelve items, 200 ms apart; the sensor sees ten of them, and one thing more.
    let (begun, pitch) = (Instant::now(), Duration::from_millis(200));
    for n in 0..12u32 {
        let captured = begun + pitch * n;
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
    let count = |result: &str| metrics.eject.confirmations.with_label_values(&[result]).get();
    until("the last pulse is counted", Duration::from_secs(2), || count("false") == 1);
    assert_eq!((count("confirmed"), count("missed"), count("false")), (10, 2, 1));
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 12)]);

    // Half the speed, twice the time.
    plc.tell("speed 5 500");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 0.5);
    let captured = Instant::now();
    ejector.act(&verdict(12, Action::Reject), captured, None);
    until("the command is there", Duration::from_secs(2), || plc.count("register 7 ") == 13);
    let took = plc.said("register 7 13").first().map(|at| *at - captured).unwrap();
    println!("at half the speed the command came after {took:?}");
    assert!((200..260).contains(&took.as_millis()), "{took:?} instead of 200 ms");
    // The belt stands while an item is on its way, a second at this speed: the command waits for it.
    plc.tell("speed 5 100");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 0.1);
    ejector.act(&verdict(13, Action::Reject), Instant::now(), None);
    plc.tell("speed 5 0");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 0.0);
    thread::sleep(Duration::from_millis(1200));
    assert_eq!(plc.count("register 7 "), 13, "the item has not come yet");
    plc.tell("speed 5 1000");
    until("the command is there", Duration::from_secs(2), || plc.count("register 7 ") == 14);
    // A service that starts anew does not write what stands there already.
    running.close();
    let (ejector, running) = start(&text, &metrics);
    until("its command is there", Duration::from_secs(5), || {
        ejector.act(&verdict(14, Action::Reject), Instant::now(), None); // late as long as nobody has read the speed
        thread::sleep(Duration::from_millis(300));
        plc.count("register 7 ") > 14
    });
    assert_eq!(plc.count("register 7 15"), 1);
    // What is judged while the belt stands is held until it runs on.
    let lost = metrics.eject.commands.with_label_values(&["modbus", "no_moment"]);
    let (before, commands) = (lost.get(), plc.count("register 7 "));
    plc.tell("speed 5 0");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 0.0);
    ejector.act(&verdict(15, Action::Reject), Instant::now(), None);
    thread::sleep(Duration::from_millis(2500)); // the PLC goes on saying that it stands
    assert_eq!((lost.get(), plc.count("register 7 ")), (before, commands), "it is neither late nor sent");
    plc.tell("speed 5 1000");
    until("the command is there", Duration::from_secs(2), || plc.count("register 7 ") == commands + 1);
    // What waits while nobody tells the speed any more has no moment, nor has what is judged then.
    plc.tell("speed 5 0");
    until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == 0.0);
    ejector.act(&verdict(16, Action::Reject), Instant::now(), None);
    drop(plc);
    thread::sleep(Duration::from_millis(2300));
    assert_eq!(lost.get(), before + 1, "what is held is late when the encoder is lost");
    ejector.act(&verdict(17, Action::Reject), Instant::now(), None);
    running.close();
    assert_eq!(lost.get(), before + 2);
}

#[test]
fn a_plc_that_is_away_at_first_is_served_when_it_comes_however_slow_its_heart_beats() {
    let port = free_port();
    let plc_alone = format!("kind = 'modbus'\naddress = '127.0.0.1:{port}'\npulse = '30ms'\nheartbeat = 100");
    let output = format!("{plc_alone}\nevery = '1s'\ntolerance = '60ms'\non_late = 'alarm'");
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&settings("coil = 0", &output), &metrics);
    thread::sleep(Duration::from_millis(1500)); // it is away
    ejector.act(&verdict(0, Action::Reject), Instant::now(), None);
    all_ended(&metrics, "modbus", 1);
    assert_eq!(metrics.eject.output_down.with_label_values(&["modbus"]).get(), 1);
    let Some(plc) = plc(port) else { return };
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 1);
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    all_ended(&metrics, "modbus", 2);
    assert!(ended(&metrics, "modbus").contains(&("acknowledged".into(), 1)), "{:?}", ended(&metrics, "modbus"));
    assert_eq!(metrics.eject.output_down.with_label_values(&["modbus"]).get(), 0);
    running.close();
}

#[test]
fn a_belt_that_runs_backwards_or_impossibly_fast_brings_nothing_to_its_gate() {
    let port = free_port();
    let Some(mut plc) = plc(port) else { return };
    let text = described(port, "register = 7", "speed = 5\ntolerance = '60ms'\non_late = 'alarm'");
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    let commands = |plc: &Running| plc.count("register 7 ");
    let read = |speed: f64| {
        until("the speed is read", Duration::from_secs(5), || metrics.eject.belt_speed.get() == speed);
    };
    plc.tell("speed 5 50");
    read(0.05);
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None); // two seconds away
    plc.tell("speed 5 65535"); // -1 mm/s
    thread::sleep(Duration::from_millis(700));
    assert_eq!(commands(&plc), 0, "at {} m/s the item does not come", metrics.eject.belt_speed.get());
    plc.tell("speed 5 30000"); // the belt is for 1 m/s
    thread::sleep(Duration::from_millis(700));
    assert_eq!(commands(&plc), 0, "no belt runs so fast");
    plc.tell("speed 5 64536"); // a metre per second backwards
    read(-1.0);
    ejector.act(&verdict(2, Action::Reject), Instant::now(), None);
    thread::sleep(Duration::from_millis(400));
    assert_eq!(commands(&plc), 0, "neither what waits nor what is judged now comes");
    plc.tell("speed 5 1000");
    until("both come", Duration::from_secs(3), || commands(&plc) == 2);
    all_ended(&metrics, "modbus", 2);
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 2)]);
    running.close();
}

#[test]
fn of_two_plcs_the_one_that_is_away_is_the_one_that_is_down() {
    let (port, nobody) = (free_port(), free_port());
    let Some(plc) = plc(port) else { return };
    let second = format!("kind = 'modbus'\naddress = '127.0.0.1:{nobody}'\npulse = '30ms'\nheartbeat = 100");
    let more = "tolerance = '60ms'\non_late = 'alarm'";
    let text = described(port, "coil = 0", &format!("{more}\n[[output]]\n{second}\n{more}"));
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&text, &metrics);
    until("the heart beats", Duration::from_secs(5), || plc.count("register 100 ") >= 2);
    ejector.act(&verdict(1, Action::Reject), Instant::now(), None);
    until("both have ended", Duration::from_secs(3), || {
        let all = metrics.text();
        let ends = all.lines().filter(|line| line.starts_with("beltsight_eject_commands_total{"));
        ends.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>() == 2
    });
    let down = |name: &str| metrics.eject.output_down.with_label_values(&[name]).get();
    assert_eq!((down("modbus"), down("modbus-2")), (0, 1));
    assert_eq!(ended(&metrics, "modbus"), [("acknowledged".to_string(), 1)]);
    assert_eq!(ended(&metrics, "modbus-2"), [("failed".to_string(), 1)]);
    running.close();
}

#[test]
fn a_register_of_the_plc_opens_and_closes_lots_once_each_over_broken_connections_and_restarts() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(mut first) = plc(port) else { return };
    let text = described(port, "coil = 0", "lot = 20\ntolerance = '60ms'\non_late = 'alarm'");
    let metrics = Metrics::new().unwrap();
    let begin = || start(&text, &metrics);
    let (ejector, running) = begin();
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
    let (ejector, running) = begin();
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
fn a_plc_that_talks_nonsense_makes_commands_late_and_nothing_else() {
    let port = nonsense(1, |random, request| {
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
