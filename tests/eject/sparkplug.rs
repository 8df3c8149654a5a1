//! A host of Sparkplug B, behind a broker.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use beltsight::{domain::Action, metrics::Metrics};

use crate::{
    bench::{peers, settings, start, verdict},
    common::process::{free_port, succeeds, until},
    mqtt::{broker, subscriber},
};

#[test]
fn the_line_is_an_edge_node_of_sparkplug_b() {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let Some(peers) = peers() else { return };
    let Some((_broker, _told)) = broker(port, folder.path()) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sparkplug_peer.py");
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.arg(&script).args(arguments).env("PYTHONPATH", &peers);
        command
    };
    let address = port.to_string();
    let heard = subscriber(port, &["-t", "spBv1.0/#", "-F", "%t %x"]);
    let output = format!(
        "kind = 'mqtt'\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/line'\n\
         sparkplug = {{ group = 'plant', node = 'line-1' }}\ntolerance = '60ms'\non_late = 'stop_line'"
    );
    thread::sleep(Duration::from_millis(300)); // the subscriber says nothing when it is ready
    let metrics = Metrics::new().unwrap();
    let (ejector, running) = start(&settings("", &output), &metrics);
    until("it is born", Duration::from_secs(5), || heard.count("spBv1.0/plant/NBIRTH/line-1 ") == 1);
    ejector.act(&verdict(1, Action::Reject), Instant::now() - Duration::from_secs(1), None); // too late: the line is to stop
    until("its state is told", Duration::from_secs(5), || heard.count("spBv1.0/plant/NDATA/line-1 ") == 1);
    let command = folder.path().join("rebirth");
    let made = python(&["rebirth"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(&command, made.stdout).unwrap();
    let topic = "spBv1.0/plant/NCMD/line-1";
    succeeds(Command::new("mosquitto_pub").args(["-p", &address, "-t", topic, "-f"]).arg(command));
    until("it is born again", Duration::from_secs(5), || heard.count("spBv1.0/plant/NBIRTH/line-1 ") == 2);
    running.close();
    until("it is dead", Duration::from_secs(5), || heard.count("spBv1.0/plant/NDEATH/line-1 ") == 1);

    let mut reader = python(&[]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = reader.stdin.take().unwrap();
    heard.lines().iter().for_each(|line| writeln!(lines, "{line}").unwrap());
    drop(lines);
    let said = String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap();
    let state = |stops: u32, why: &str| {
        let alive = "line/alive:Boolean=True line/alive_why_not:String=";
        format!("line/stops:UInt64={stops} line/diverts:UInt64=0 line/why:String={why} {alive}")
    };
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
