//! The bench on which an output is tried: verdicts that order its gate, a belt that brings them on time, and peers.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use beltsight::{
    domain::{Action, Verdict},
    line::{
        eject::output::alive::LineAlive,
        eject::{self, Ejector},
    },
    metrics::Metrics,
    service::tasks::lots,
    store::{Event, Store},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::common::{
    installed, missing,
    process::{succeeds, until},
};

/// At 800 items a minute.
const PITCH: Duration = Duration::from_millis(75);
/// From capture to the gate of [`settings`].
pub const WAY: Duration = Duration::from_millis(100);

pub fn verdict(track: u64, action: Action) -> Verdict {
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
pub fn settings(gate: &str, output: &str) -> String {
    format!(
        "[[gate]]\nname = 'out'\ncamera = 'belt'\nactions = ['reject', 'divert']\nspeed = '1.0m/s'\n\
         scale = '1.0mm/px'\ndistance = '150mm'\n{gate}\n[[output]]\n{output}\n"
    )
}

/// Starts the ejector that a text describes; what it tells the record is lost.
pub fn start(settings: &str, metrics: &Metrics) -> (Ejector, eject::EjectorThreads) {
    Ejector::start(toml::from_str(settings).unwrap(), metrics, LineAlive::default(), |_| {}).unwrap()
}

/// How many commands ended how, over all outcomes.
pub fn ended(metrics: &Metrics, output: &str) -> Vec<(String, u64)> {
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

/// Waits until so many commands have ended, over all outcomes.
pub fn all_ended(metrics: &Metrics, output: &str, commands: u64) {
    until("all commands ended", Duration::from_secs(5), || {
        ended(metrics, output).iter().map(|(_, n)| n).sum::<u64>() == commands
    });
}

/// Where the Python libraries of the other side are, if they are.
pub fn peers() -> Option<PathBuf> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join(".vendor/peers");
    if !peers.is_dir() {
        missing("pymodbus and pysparkplug in .vendor/peers");
        return None;
    }
    Some(peers)
}

/// Sends items at 800 a minute; before item `n` calls `before(n)`. The moment when each was due.
pub fn run_belt(ejector: &Ejector, items: u64, mut before: impl FnMut(u64)) -> Vec<Instant> {
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

/// Starts an output and orders the gate again and again until a command ends; `None` when it was acknowledged, or why it
/// was not, as the record has it.
pub fn refused(output: &str, fits: &str) -> Option<String> {
    let (metrics, told) = (Metrics::new().unwrap(), Arc::<Mutex<Vec<Event>>>::default());
    let kept = told.clone();
    let tell = move |event| kept.lock().unwrap().push(event);
    let (ejector, running) =
        Ejector::start(toml::from_str(&settings("", output)).unwrap(), &metrics, LineAlive::default(), tell).unwrap();
    let name = output.split('\'').nth(1).unwrap();
    let acknowledged = || metrics.eject.commands.with_label_values(&[name, "acknowledged"]).get() > 0;
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

/// Made by openssl: `ca.pem`, which vouches for `server.pem` and `client.pem`, and `other.pem`, which vouches for nobody;
/// keys beside them. `None` where there is no openssl.
pub fn certificates(folder: &Path) -> Option<()> {
    if !installed("openssl") {
        return None;
    }
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    let openssl = |arguments: String| {
        succeeds(Command::new("openssl").args(arguments.split(' ')).current_dir(folder));
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

/// Answers every connection with what `frame` makes of its request, or not at all; runs until the process ends. Its port.
pub fn nonsense(seed: u64, frame: fn(&mut ChaCha8Rng, &[u8]) -> Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
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
    port
}

/// Resident memory of this process in MB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4 / 1024
}

/// Sends 100 commands to an output that talks nonsense: each ends exactly once, none as acknowledged.
pub fn survives(output: &str, settings: &str, seconds: u64) {
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(settings, &metrics);
    let before = resident();
    let (begun, commands) = (Instant::now(), 100);
    for track in 0..commands {
        ejector.act(&verdict(track, Action::Reject), Instant::now(), None);
        thread::sleep(Duration::from_millis(seconds * 1000 / commands));
    }
    running.close();
    let ends = ended(&metrics, output);
    println!("{output}: ends {ends:?} in {:?}, memory {before} → {} MB", begun.elapsed(), resident());
    assert_eq!(ends.iter().map(|(_, n)| n).sum::<u64>(), commands);
    assert!(ends.iter().all(|(outcome, _)| outcome != "acknowledged"), "{ends:?}");
    assert!(resident() < before + 64, "{before} → {} MB", resident());
}

/// A store whose lots are those that an output tells.
pub struct Lots {
    runtime: tokio::runtime::Runtime,
    store: Store,
    stop: tokio_util::sync::CancellationToken,
}

impl Lots {
    pub fn follow(folder: &Path, ejector: &Ejector, metrics: &Metrics) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(Store::open(folder)).unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        runtime.spawn(lots::follow(store.clone(), ejector.lot(), metrics.clone(), stop.clone()));
        Self { runtime, store, stop }
    }

    /// Names, oldest first; an open one with a star.
    pub fn names(&self) -> Vec<String> {
        let lots = self.runtime.block_on(self.store.lots(100)).unwrap();
        lots.iter().rev().map(|lot| format!("{}{}", lot.name, if lot.closed.is_none() { "*" } else { "" })).collect()
    }

    pub fn come_to(&self, wanted: &[&str]) -> Duration {
        until(&format!("the lots are {wanted:?}"), Duration::from_secs(10), || self.names() == wanted)
    }

    pub fn close(self) {
        self.stop.cancel();
        self.runtime.block_on(self.store.close());
    }
}
