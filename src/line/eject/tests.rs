use std::{collections::BTreeMap, thread, time::Duration};

use rand::{RngExt, SeedableRng};

use super::{gate::tests::TEXT, plan::EjectStep, window::GateWindow, *};
use crate::{
    domain::{Region, testing::verdict},
    line::eject::output::{CommandReport, Target},
};

const ITEMS: u64 = 500;
/// Cameras side by side, so that 500 items at 800 a minute each take ten seconds.
const BELTS: u64 = 4;
const SPEED: f64 = 1.25;

/// One item of the simulated belt: when its picture was taken and judged, where it lay, and when the gate must move.
struct Passing {
    belt: u64,
    track: u64,
    captured: Duration,
    judged: Duration,
    region: Region,
    /// When the command must leave, from where the item truly is.
    truth: Duration,
}

/// Items at 800 a minute on a belt at 1.25 m/s under a camera of 60 frames/s and 2 mm/px; see [`TEXT`] for the gate.
fn belt() -> Vec<Passing> {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(4);
    let mut items = Vec::new();
    for track in 0..ITEMS {
        let belt = track % BELTS;
        // When its centre crosses the picture's left edge, in seconds.
        let crosses = (track / BELTS) as f64 * 60.0 / 800.0 + belt as f64 * 0.019 + random.random_range(0.0..0.01);
        let frame = 1.0 / 60.0;
        let whole = crosses + 0.1 / SPEED; // the item is 100 px, 200 mm long
        let captured = ((whole / frame).ceil() + belt as f64 / BELTS as f64) * frame;
        let centre = (captured - crosses) * SPEED * 1e3 / 2.0;
        let left = (centre - 50.0).round();
        items.push(Passing {
            belt,
            track,
            captured: Duration::from_secs_f64(captured),
            judged: Duration::from_secs_f64(captured + random.random_range(0.005..0.05)),
            region: Region { x: left as u32, y: 10, width: 100, height: 60 },
            truth: Duration::from_secs_f64(crosses + 1.5 / SPEED - 0.02),
        });
    }
    items.sort_by_key(|item| item.judged);
    items
}

/// A configuration with as many cameras and gates as belts.
fn settings() -> EjectSettings {
    let mut settings: EjectSettings = toml::from_str(TEXT).unwrap();
    let gate = settings.gate.remove(0);
    for belt in 0..BELTS {
        settings.gate.push(EjectorGate {
            name: format!("gate-{belt}"),
            camera: format!("belt-{belt}"),
            ..gate.clone()
        });
    }
    settings
}

fn judged(item: &Passing) -> Verdict {
    let mut verdict = verdict(Action::Reject);
    verdict.camera = format!("belt-{}", item.belt);
    (verdict.track, verdict.region) = (item.track, Some(item.region));
    verdict
}

#[test]
fn five_hundred_items_are_hit_within_eight_milliseconds() {
    let (settings, metrics) = (settings(), Metrics::new().unwrap());
    let (ejector, received) = Ejector::new(&settings, &metrics, Arc::new(|event| panic!("{event:?}")));
    let (sender, mut commands) = mpsc::channel::<EjectorCommand>(64);
    let messages = ejector.0.messages.clone();
    let keeper = ejector.keep(&settings, received, vec![sender]).unwrap();
    let gate = thread::spawn(move || {
        priority::real_time(); // it stands for the outputs' thread
        let mut hits: BTreeMap<u64, Vec<Instant>> = BTreeMap::new();
        while let Some(command) = commands.blocking_recv() {
            let at = Instant::now();
            hits.entry(command.subject.track).or_default().push(at);
            assert_eq!(format!("gate-{}", command.subject.track % BELTS), *command.subject.gate);
            messages
                .send(TimekeeperMessage::Report(CommandReport { id: command.id, output: 0, at, result: Ok(()) }))
                .unwrap();
        }
        hits
    });
    let (items, start) = (belt(), Instant::now() + Duration::from_millis(20));
    for item in &items {
        thread::sleep((start + item.judged).saturating_duration_since(Instant::now()));
        ejector.act(&judged(item), start + item.captured, None);
    }
    let messages = ejector.0.messages.clone();
    messages.send(TimekeeperMessage::Stop).unwrap();
    keeper.join().unwrap();
    let hits = gate.join().unwrap();

    let mut errors: Vec<f64> = Vec::new();
    for item in &items {
        let at = &hits[&item.track];
        assert_eq!(at.len(), 1, "item {} was hit {} times", item.track, at.len());
        let truth = start + item.truth;
        errors.push(if at[0] > truth { at[0] - truth } else { truth - at[0] }.as_secs_f64() * 1e3);
    }
    errors.sort_by(f64::total_cmp);
    let share = |q: f64| errors[((errors.len() - 1) as f64 * q) as usize];
    println!(
        "{ITEMS} items, ms off where the item truly is: p50 {:.2}, p99 {:.2}, most {:.2}",
        share(0.5),
        share(0.99),
        share(1.0)
    );
    assert!(share(1.0) <= 8.0, "{} ms off", share(1.0));
    assert_eq!(metrics.eject.commands.with_label_values(&["log", "acknowledged"]).get(), ITEMS);
    let late = &metrics.eject.send_late;
    assert_eq!(late.get_sample_count(), ITEMS);
    println!("leaving after due on average {:.3} ms", late.get_sample_sum() / ITEMS as f64 * 1e3);
}

#[test]
fn the_speed_that_the_camera_saw_moves_the_gate_and_without_one_the_command_is_late() {
    let mut settings: EjectSettings = toml::from_str(TEXT).unwrap();
    settings.gate[0].speed = GateSpeed::Seen;
    settings.gate[0].distance = 400.0;
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(settings, &metrics, LineAlive::default(), |_| ()).unwrap();
    let mut verdict = verdict(Action::Reject);
    verdict.camera = "belt".into();
    verdict.region = Some(Region { x: 50, y: 0, width: 100, height: 50 });
    let now = Instant::now();
    ejector.act(&verdict, now, Some(500.0)); // 200 mm at 500 px/s, which are 1 m/s: 200 ms, less 20
    ejector.act(&verdict, now, None);
    running.close(); // waits for the first
    assert!(now.elapsed() >= Duration::from_millis(180));
    let ended = |outcome: &str| metrics.eject.commands.with_label_values(&["log", outcome]).get();
    assert_eq!((ended("acknowledged"), ended("no_moment")), (1, 1));
}

#[test]
fn what_waits_follows_the_belt_that_the_camera_sees_go_stop_and_go_on() {
    let mut settings: EjectSettings = toml::from_str(TEXT).unwrap();
    (settings.gate[0].speed, settings.gate[0].distance) = (GateSpeed::Seen, 400.0);
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = Ejector::start(settings, &metrics, LineAlive::default(), |_| ()).unwrap();
    let mut verdict = verdict(Action::Reject);
    verdict.camera = "belt".into();
    verdict.region = Some(Region { x: 50, y: 0, width: 100, height: 50 });
    let ended = |outcome: &str| metrics.eject.commands.with_label_values(&["log", outcome]).get();
    // Pictures 20 ms apart of a belt at 500 px/s, which are 1 m/s; it stands when half of the 200 mm are done.
    let (start, mut pixels) = (Instant::now(), 0.0);
    for n in 0..55u32 {
        let captured = start + Duration::from_millis(20) * n;
        thread::sleep((captured + Duration::from_millis(5)).saturating_duration_since(Instant::now()));
        pixels += if (15..45).contains(&n) { 0.0 } else { 10.0 };
        ejector.seen("belt", Some(pixels), captured);
        if n == 10 {
            ejector.act(&verdict, captured, Some(500.0));
        }
        assert!(n > 48 || ended("acknowledged") == 0, "it left at picture {n}, before the item came");
    }
    assert_eq!(ended("acknowledged"), 1);
    // It stands, and then nobody sees it any more: what waits is late.
    let captured = start + Duration::from_millis(20) * 54;
    verdict.region = Some(Region { x: 0, y: 0, width: 2, height: 50 });
    for _ in 0..2 {
        ejector.seen("belt", Some(pixels), Instant::now()); // it stands
        thread::sleep(Duration::from_millis(60));
    }
    ejector.act(&verdict, captured, Some(500.0));
    running.close();
    assert_eq!((ended("acknowledged"), ended("no_position")), (1, 1));
}

#[test]
fn accepted_items_move_nothing_and_every_other_verdict_ends_in_the_counts() {
    let mut settings: EjectSettings = toml::from_str(TEXT).unwrap();
    settings.gate[0].distance = 400.0;
    let metrics = Metrics::new().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) = Ejector::start(settings, &metrics, LineAlive::default(), tell).unwrap();
    let mut verdict = verdict(Action::Accept);
    verdict.camera = "belt".into();
    verdict.region = Some(Region { x: 50, y: 0, width: 100, height: 50 });
    let now = Instant::now();
    ejector.act(&verdict, now, None);
    verdict.decision.action = Action::Reject;
    ejector.act(&verdict, now, None); // 200 mm are 160 ms
    verdict.decision.action = Action::Divert;
    ejector.act(&verdict, now - Duration::from_secs(1), None); // passed the gate long ago
    verdict.region = None;
    ejector.act(&verdict, now, None); // nobody knows where it is
    running.close(); // waits for the first
    assert!(now.elapsed() >= Duration::from_millis(140));
    let ended = |outcome: &str| metrics.eject.commands.with_label_values(&["log", outcome]).get();
    assert_eq!((ended("acknowledged"), ended("late_verdict"), ended("no_moment")), (1, 1, 1));
    assert_eq!(metrics.eject.late_actions.with_label_values(&["alarm"]).get(), 2);
    let told = told.lock().unwrap();
    let late =
        |event: &Event| matches!(event, Event::EjectLate { gate, led_to, .. } if gate == "out" && led_to == "alarm");
    assert!(told.len() == 2 && told.iter().all(late), "{told:?}");
}

#[test]
fn what_record_and_outputs_are_told_names_the_item_by_its_uid() {
    let told = Arc::<Mutex<Vec<Event>>>::default();
    let kept = told.clone();
    let settings: EjectSettings = toml::from_str(TEXT).unwrap();
    let tell = Arc::new(move |event| kept.lock().unwrap().push(event));
    let (ejector, _received) = Ejector::new(&settings, &Metrics::new().unwrap(), tell);
    let verdict = verdict(Action::Reject);
    let subject = Arc::new(Subject::new("out".into(), &verdict));
    assert_eq!(serde_json::to_value(&*subject).unwrap()["uid"], verdict.uid.to_string());
    ejector.receive(OutputNotice::Numbered { output: 0, number: 7, target: 9, subject: subject.clone() });
    ejector.0.outcomes.late(0, &LateReason::Passed, &subject);
    ejector.0.outcomes.confirmed(&confirm::SensorOutcome::Missed(subject), "out");
    let uids: Vec<_> = told
        .lock()
        .unwrap()
        .iter()
        .map(|event| match event {
            Event::EjectCommand { uid, .. } | Event::EjectLate { uid, .. } | Event::RejectMissed { uid, .. } => *uid,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(uids, [Some(verdict.uid); 3]);
}

#[test]
fn a_late_command_and_a_missed_reject_name_the_lot_of_their_item() {
    let sensor = "confirm = { after = '1ms', window = '1ms' }\n        coil = 0";
    let settings: EjectSettings = toml::from_str(&TEXT.replace("coil = 0", sensor)).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    let tell = move |event: Event| kept.lock().unwrap().push(serde_json::to_value(event).unwrap());
    let (ejector, running) = Ejector::start(settings, &Metrics::new().unwrap(), LineAlive::default(), tell).unwrap();
    let item = Verdict { camera: "belt".into(), lot: Some(7), region: None, ..verdict(Action::Reject) };
    ejector.act(&item, Instant::now(), None); // nobody knows where it is
    running.close();
    let told = told.lock().unwrap();
    let mut kinds: Vec<_> = told.iter().map(|event| (event["kind"].as_str().unwrap(), &event["lot"])).collect();
    kinds.sort_by_key(|(kind, _)| *kind);
    assert_eq!(kinds, [("eject_late", &serde_json::json!(7)), ("reject_missed", &serde_json::json!(7))]);
}

#[test]
fn a_camera_that_sees_nothing_is_as_bad_as_a_late_command_and_one_without_gates_is_not() {
    let plc = "[[output]]
        kind = 'modbus'
        address = '127.0.0.1:1'
        pulse = '30ms'
        heartbeat = 100
        stop_line = 3
        tolerance = '8ms'
        on_late = 'stop_line'";
    let settings: EjectSettings = toml::from_str(&format!("{TEXT}\n{plc}\n{plc}")).unwrap(); // asked once, not once per output
    let metrics = Metrics::new().unwrap();
    let (ejector, _received) = Ejector::new(&settings, &metrics, Arc::new(|event| panic!("{event:?}")));
    ejector.blind("elsewhere", "frozen");
    assert_eq!(*ejector.0.outcomes.requests.borrow(), LineRequests::default());
    ejector.blind("belt", "frozen");
    let requests = LineRequests { stop: 1, why: "camera belt is lost: frozen".into(), ..LineRequests::default() };
    assert_eq!(*ejector.0.outcomes.requests.borrow(), requests);
}

#[test]
fn rejects_in_a_row_that_the_sensor_did_not_see_ask_the_line() {
    let plc = "[[output]]
        kind = 'modbus'
        address = '127.0.0.1:1'
        pulse = '30ms'
        heartbeat = 100
        stop_line = 3
        tolerance = '8ms'
        on_late = 'alarm'";
    let sensor = "confirm = { after = '1ms', window = '1ms', on_missed = 'stop_line', in_a_row = 3 }\n        coil = 0";
    let settings: EjectSettings = toml::from_str(&format!("{}\n{plc}", TEXT.replace("coil = 0", sensor))).unwrap();
    let why = toml::from_str::<EjectSettings>(&TEXT.replace("coil = 0", sensor)).unwrap().check(&["belt"]).unwrap_err();
    assert!(why.contains("on_missed"), "the log alone can't: {why}");
    let metrics = Metrics::new().unwrap();
    let (ejector, _received) = Ejector::new(&settings, &metrics, Arc::new(|_| ()));
    let outcomes = &ejector.0.outcomes;
    let missed = confirm::SensorOutcome::Missed(Arc::new(Subject::new("out".into(), &verdict(Action::Reject))));
    let seen = confirm::SensorOutcome::Confirmed(Arc::new(Subject::new("out".into(), &verdict(Action::Reject))));
    for outcome in [&missed, &missed, &seen, &missed, &missed] {
        outcomes.confirmed(outcome, "out");
        assert_eq!(outcomes.requests.borrow().stop, 0, "no three in a row");
    }
    outcomes.confirmed(&missed, "out");
    assert_eq!(outcomes.requests.borrow().stop, 1);
    assert!(outcomes.requests.borrow().why.contains("gate out"));
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_flush_ends_when_the_encoder_has_counted_the_stretch_of_belt_and_not_by_the_clock() {
    let encoder = "[encoder]\nkind = 'modbus'\naddress = 'plc:502'\ncount = 0\nscale = '1mm'\n";
    let settings: EjectSettings = toml::from_str(&(encoder.to_owned() + TEXT)).unwrap();
    let (ejector, _received) = Ejector::new(&settings, &Metrics::new().unwrap(), Arc::new(|_| {}));
    let mut flush = flush::Flush::ask(ejector.clone());
    let (mut at, mut over) = (Instant::now(), false);
    // 1,500 mm and a fifth more, at 2 m/s. It stands for long first.
    let mut to = |mm: i64, flush: &mut flush::Flush| {
        at += 10 * MS;
        ejector.0.belt.counted(mm, at, MS);
        flush.over()
    };
    assert!(!to(5000, &mut flush) && !to(5000, &mut flush));
    for mm in (5000..6700_i32).step_by(20).chain((6000..6700).step_by(20).rev()).chain((6000..6780).step_by(20)) {
        over |= to(mm.into(), &mut flush);
    }
    assert!(!over, "what ran back has to pass again");
    // A reset: the way before it counts, and that after it.
    assert!(!to(100_000, &mut flush) && !to(100_010, &mut flush));
    assert!(!to(100_020, &mut flush) && !to(100_040, &mut flush) && to(100_060, &mut flush));
}

/// An item `length` metres long on a belt of 1 m/s, and the gate whose coil is raised for 30 ms at least.
fn long(due: Instant, track: u64, length: f64, beside: bool) -> EjectOrder {
    let mut verdict = verdict(if beside { Action::Accept } else { Action::Reject });
    verdict.track = track;
    EjectOrder {
        gate: 0,
        target: Target { coil: Some(0), register: None, command: None },
        due: Ok(due),
        pace: None,
        count: None,
        window: GateWindow { least: 30 * MS, length, speed: 1.0, pause: 80 * MS, beside },
        subject: Arc::new(Subject::new("out".into(), &verdict)),
    }
}

/// How each item ends that was added at the start: when its command left, in ms, and for how long the gate is told to be
/// open; -1 for one that is late because the gate can't open yet.
fn ends(orders: Vec<EjectOrder>, start: Instant) -> Vec<(u64, i64, u64)> {
    let mut plan = EjectPlan::new(16, vec![8 * MS]);
    orders.into_iter().for_each(|order| plan.add(order, start));
    let mut ends = Vec::new();
    for ms in 0..2000u32 {
        for step in plan.steps(start + MS * ms) {
            match step {
                EjectStep::Send(0, command) => {
                    ends.push((command.subject.track, ms.into(), command.hold.as_millis() as u64));
                    plan.reported(command.id, 0, start + MS * ms, Ok(()));
                }
                EjectStep::Late(_, LateReason::TooSoon, subject) => ends.push((subject.track, -1, 0)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(plan.is_empty());
    ends
}

#[test]
fn a_gate_stays_open_between_two_rejects_that_lie_nearer_than_its_pause_and_shuts_between_others() {
    let start = Instant::now();
    let bad = |ms: u32, track, length| long(start + MS * ms, track, length, false);
    // The first is open from 100 to 130 ms.
    for (second, hold) in [(120, 0), (130, 0), (131, 51), (209, 129), (210, 0), (300, 0)] {
        let ends = ends(vec![bad(100, 1, 0.0), bad(second, 2, 0.0)], start);
        assert_eq!(ends, [(1, 100, hold), (2, second.into(), 0)], "{second}");
    }
    // One that was judged too late for that can't leave: the gate is shut.
    let mut plan = EjectPlan::new(16, vec![8 * MS]);
    plan.add(bad(100, 1, 0.0), start);
    assert!(matches!(plan.steps(start + 100 * MS)[..], [EjectStep::Send(..)]));
    for (due, late) in [(209, true), (211, false)] {
        plan.add(bad(due, 2, 0.0), start + 150 * MS);
        let steps = plan.steps(start + MS * due);
        let soon = steps.iter().any(|step| matches!(step, EjectStep::Late(0, LateReason::TooSoon, _)));
        let sent = steps.iter().any(|step| matches!(step, EjectStep::Send(..)));
        assert_eq!((soon, sent), (late, !late), "{due}: {steps:?}");
    }
}

#[test]
fn a_gate_whose_end_nobody_knows_is_not_told_again_within_its_pause() {
    let start = Instant::now();
    let told = |ms: u32, track| {
        let window = GateWindow { pause: 80 * MS, ..GateWindow::default() };
        EjectOrder { window, ..long(start + MS * ms, track, 0.0, false) }
    };
    let ends = ends(vec![told(100, 1), told(179, 2), told(180, 3)], start);
    assert_eq!(ends, [(1, 100, 0), (2, -1, 0), (3, 180, 0)]);
}

#[test]
fn a_gate_is_open_as_long_as_the_item_and_longer_than_its_pulse_if_need_be() {
    let start = Instant::now();
    for (length, hold) in [(0.01, 30), (0.03, 30), (0.25, 250), (90.0, 60_000)] {
        let mut plan = EjectPlan::new(16, vec![8 * MS]);
        plan.add(long(start, 1, length, false), start);
        let steps = plan.steps(start);
        let [EjectStep::Send(0, command)] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(command.hold.as_millis(), hold, "{length} m");
    }
    // A belt that runs at half the speed takes twice as long; one that stands, as long as is borne.
    for (speed, hold) in [(0.5, 500), (-0.5, 500), (0.0, 60_000)] {
        assert_eq!(long(start, 1, 0.25, false).window.open(Some(speed)).as_millis(), hold, "{speed}");
    }
}

#[test]
fn a_good_item_leaves_beside_a_bad_one_and_with_all_that_lie_between() {
    let start = Instant::now();
    let of = |ms: u32, track, beside| long(start + MS * ms, track, 0.1, beside);
    // Each is 100 ms long, and 50 ms lie between two: the gate can't be shut. Good ones behind, before, on both sides.
    let ended = |orders| ends(orders, start).into_iter().map(|(track, at, _)| (track, at)).collect::<Vec<_>>();
    assert_eq!(ended(vec![of(100, 1, false), of(250, 2, true)]), [(1, 100), (2, 250)]);
    assert_eq!(ended(vec![of(100, 1, true), of(250, 2, false)]), [(1, 100), (2, 250)]);
    let row = vec![of(100, 1, true), of(250, 2, true), of(400, 3, false), of(550, 4, true), of(730, 5, true)];
    assert_eq!(ended(row), [(1, 100), (2, 250), (3, 400), (4, 550)], "80 ms behind the last it can");
    assert_eq!(ended(vec![of(100, 1, true), of(250, 2, true)]), [], "none has to leave");
    // A good one that is judged when the gate is shut already goes on.
    let mut plan = EjectPlan::new(16, vec![8 * MS]);
    plan.add(of(100, 1, false), start);
    assert_eq!(plan.steps(start + 100 * MS).len(), 1);
    plan.add(of(250, 2, true), start + 210 * MS);
    assert!(!plan.steps(start + 250 * MS).iter().any(|step| matches!(step, EjectStep::Send(..))));
    // None of them is told late, whatever happens.
    let mut plan = EjectPlan::new(1, vec![8 * MS]);
    plan.add(of(100, 1, true), start);
    plan.add(of(100, 2, true), start); // no place
    plan.give_up();
    assert!(plan.steps(start + 900 * MS).is_empty());
}
