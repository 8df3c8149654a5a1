//! The whole service, with its log as the output.

use std::{path::Path, process::Command, thread, time::Duration};

use crate::bench::{Running, until};

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
