//! The order of the rooms, held on the graph of files: who may lean on whom.
//!
//! The sources are read with `syn`, see [`reader`]. File `a` uses file `b` where `a` names an item that `b` defines, by
//! whatever path: `crate::`, `super::super::`, the library's name, an imported module, a glob, or a re-export, which is
//! followed to the definition. What is compiled for tests alone does not count, nor does a `mod` line.
//!
//! - A room uses the rooms below it. The reasons for exceptions stand beside them.
//! - No files use each other in a circle, not even inside a room. A parent (`mod.rs`) names its children, and children
//!   may use what their parent defines: that is what a folder is. So a circle is excused if it runs through a file that
//!   is the parent of all its other files, however far above them. Any other circle fails: between two children, or
//!   through a file from outside the folder.
//! - A framework is used in its room alone.
//! - No file is longer than 500 lines, its tests aside, and `main.rs` than 100. Files of `tests/` count with all lines.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::LazyLock,
};

use reader::{Files, Sources, read};

#[path = "layering/reader.rs"]
mod reader;
#[path = "layering/trials.rs"]
mod trials;

/// The rooms, top to bottom, by path below `src`; a file belongs to the longest that leads to it. A room may use those
/// below it. `main.rs` may use all, and nothing may use what it or `lib.rs` defines.
///
/// This is the order in which the data flows, but for four rooms:
/// - `config` reads the settings of the rooms that have some, so it stands above them. Tasks of the service have
///   settings too, and the service itself reads `config`: so `service/tasks` stands apart, below `config`.
/// - `learn` is a program of its own. It stands right above what it uses of the library, so that it uses no more.
/// - `network` stands above `student`: for int8, `network/onnx` measures ranges with the student's engine.
/// - `line/eject/output` stands below the rest of `line`: it knows verdicts and metrics, and nothing of the line.
const ROOMS: &[&str] = &[
    "cli",
    "bench",
    "service",
    "config",
    "service/tasks",
    "api",
    "rounds",
    "line",
    "export",
    "archive",
    "store",
    "learn",
    "network",
    "student",
    "belt",
    "picture",
    "tokens",
    "line/eject/output",
    "metrics",
    "files",
    "statistics",
    "domain",
];

/// Uses that the order forbids and that are right all the same: who uses what, both by path below `src`, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Circles that are known and not yet opened; one that is open must be struck.
const KNOWN_CIRCLES: &[&[&str]] = &[];

/// Crates that are used in these rooms alone.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("ort", &["student/engine"]),
    ("tch", &["learn"]),
    ("axum", &["api"]),
    ("hyper", &["api", "line/eject/output"]),
    ("rustls", &["api", "line/eject/output"]),
    ("sqlx", &["store"]),
    ("ed25519_dalek", &["store"]),
    ("object_store", &["store"]),
    ("nokhwa", &["line/camera"]),
    ("v4l", &["line/camera"]),
    ("retina", &["line/camera"]),
    ("aravis", &["line/camera"]),
    ("openh264", &["line/camera"]),
    ("tiny_skia", &["belt"]),
    // The simulated belt serves its own encoder as a PLC would.
    ("tokio_modbus", &["line/eject/output", "line/eject/encoder", "line/camera/simulated_encoder"]),
    ("rumqttc", &["line/eject/output", "line/eject/encoder"]),
];

/// Most lines of a file. In `src`, its tests do not count; what stands in `tests` counts whole.
const MOST_LINES: usize = 500;

/// The sources in `folder` of the package, by path below it.
fn sources_in(folder: &str) -> Sources {
    fn collect(root: &Path, folder: &Path, found: &mut Sources) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut sources = Sources::new();
    collect(&root, &root, &mut sources);
    sources
}

/// Our files, read once.
static FILES: LazyLock<Files> =
    LazyLock::new(|| read(&sources_in("src"), &[("beltsight", "lib.rs"), ("", "main.rs"), ("", "learn/main.rs")]));

/// Whether `file` is what `path` names, or lies in the folder that it names.
fn lies_in(file: &str, path: &str) -> bool {
    file.strip_prefix(path).is_some_and(|rest| rest == ".rs" || rest.is_empty() || rest.starts_with('/'))
}

/// The place of a file's room in the order; lower is higher up.
fn room(rooms: &[&str], file: &str) -> Option<usize> {
    (0..rooms.len()).filter(|room| lies_in(file, rooms[*room])).max_by_key(|room| rooms[*room].len())
}

fn is_root(file: &str) -> bool {
    file == "main.rs" || file == "lib.rs"
}

/// Uses that the order of `rooms` forbids, as lines to read, and the exceptions that nothing needs.
fn wrong_uses(files: &Files, rooms: &[&str], exceptions: &[(&str, &str, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut needed = BTreeSet::new();
    for (from, used) in &files.uses {
        for (to, names) in used {
            let (Some(above), below) = (room(rooms, from), room(rooms, to)) else { continue };
            // Whoever has no room is named by another test. What a root defines, nobody below it may use.
            if below.map_or(!is_root(to), |below| above <= below) {
                continue;
            }
            let excepted = exceptions.iter().position(|(user, of, _)| lies_in(from, user) && lies_in(to, of));
            if let Some(exception) = excepted {
                needed.insert(exception);
                continue;
            }
            let below = below.map_or_else(|| to.clone(), |below| format!("room {}", rooms[below]));
            for (name, line) in names {
                let above = rooms[above];
                wrong.push(format!("src/{from}:{line} → src/{to}: {name} (room {above} may not use {below})"));
            }
        }
    }
    let unneeded = (0..exceptions.len()).filter(|exception| !needed.contains(exception));
    wrong.extend(unneeded.map(|e| format!("nothing needs this exception, strike it: {:?}", exceptions[e])));
    wrong
}

/// Files that use each other in a circle which no parent excuses.
fn circles(files: &Files) -> BTreeSet<BTreeSet<&str>> {
    let all = files.uses.keys().map(String::as_str).collect();
    circles_among(files, &all)
}

fn circles_among<'f>(files: &'f Files, among: &BTreeSet<&'f str>) -> BTreeSet<BTreeSet<&'f str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = among.iter().map(|file| (*file, reach(files, file, among))).collect();
    let mut found = BTreeSet::new();
    for file in among {
        let circle: BTreeSet<&str> =
            reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect();
        if circle.is_empty() {
            continue;
        }
        match circle.iter().find(|top| circle.iter().all(|file| file == *top || is_below(files, file, top))) {
            Some(top) => {
                let rest = circle.iter().copied().filter(|file| file != top).collect();
                found.extend(circles_among(files, &rest));
            }
            None => drop(found.insert(circle)),
        }
    }
    found
}

/// The files to which uses lead from `file`, by way of files `among` these.
fn reach<'f>(files: &'f Files, file: &'f str, among: &BTreeSet<&'f str>) -> BTreeSet<&'f str> {
    let mut reached = BTreeSet::new();
    let mut ahead = vec![file];
    while let Some(file) = ahead.pop() {
        let used = files.uses[file].keys().map(String::as_str).filter(|used| among.contains(used));
        ahead.extend(used.filter(|used| reached.insert(*used)));
    }
    reached
}

fn is_below(files: &Files, file: &str, top: &str) -> bool {
    let mut above = files.parent.get(file);
    while let Some(file) = above {
        if file == top {
            return true;
        }
        above = files.parent.get(file);
    }
    false
}

/// A circle as lines to read.
fn told(files: &Files, circle: &BTreeSet<&str>) -> String {
    let mut text = format!("a circle of {} files:", circle.len());
    for from in circle {
        for (to, names) in files.uses[*from].iter().filter(|(to, _)| circle.contains(to.as_str())) {
            let names: Vec<_> = names.keys().map(String::as_str).collect();
            text += &format!("\n  src/{from} → src/{to}: {}", names.join(", "));
        }
    }
    text
}

/// Uses of crates outside their rooms, and crates that are not used where they should be.
fn frameworks_outside(files: &Files, only_in: &[(&str, &[&str])]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, rooms) in only_in {
        let users = files.crates.iter().filter_map(|(file, crates)| crates.get(*name).map(|line| (file, line)));
        let (inside, outside): (Vec<_>, Vec<_>) =
            users.partition(|(file, _)| rooms.iter().any(|room| lies_in(file, room)));
        wrong.extend(outside.iter().map(|(file, line)| format!("src/{file}:{line} uses {name}")));
        for room in rooms.iter().filter(|room| !inside.iter().any(|(file, _)| lies_in(file, room))) {
            wrong.push(format!("src/{room} does not use {name}, strike it"));
        }
    }
    wrong
}

#[test]
fn every_path_in_the_sources_is_understood() {
    assert!(FILES.unresolved.is_empty(), "{}", FILES.unresolved.join("\n"));
}

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let wrong = wrong_uses(&FILES, ROOMS, EXCEPTIONS);
    assert!(wrong.is_empty(), "{} wrong uses:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let known: BTreeSet<BTreeSet<&str>> = KNOWN_CIRCLES.iter().map(|circle| circle.iter().copied().collect()).collect();
    let found = circles(&FILES);
    let mut wrong: Vec<String> = found.difference(&known).map(|circle| told(&FILES, circle)).collect();
    wrong.extend(known.difference(&found).map(|circle| format!("no circle any more, strike it: {circle:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_framework_stays_in_its_room() {
    let wrong = frameworks_outside(&FILES, ONLY_IN);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_room_and_every_room_a_file() {
    let mut wrong: Vec<String> = FILES
        .lines
        .keys()
        .filter(|file| !is_root(file) && room(ROOMS, file).is_none())
        .map(|file| format!("src/{file} has no room: give it a place in ROOMS"))
        .collect();
    let used: BTreeSet<_> = FILES.lines.keys().filter_map(|file| room(ROOMS, file)).collect();
    let empty = (0..ROOMS.len()).filter(|room| !used.contains(room));
    wrong.extend(empty.map(|room| format!("room {} has no file, strike it", ROOMS[room])));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_at_most_twenty_rooms() {
    // `service/tasks` and `line/eject/output` are corners of rooms, with walls of their own.
    let rooms = ROOMS.iter().filter(|room| !room.contains('/')).count();
    assert!(rooms <= 20, "{rooms} rooms");
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut wrong = Vec::new();
    for (file, lines) in &FILES.lines {
        let most = if file == "main.rs" { 100 } else { MOST_LINES };
        let is_long = *lines > most && !FILES.tests.contains(file);
        if is_long {
            wrong.push(format!("src/{file} has {lines} lines, tests aside; at most {most}"));
        }
    }
    let tests = sources_in("tests");
    assert!(tests.contains_key("layering.rs"), "{:?}", tests.keys());
    for (file, lines) in tests.iter().map(|(file, text)| (file, text.lines().count())) {
        if lines > MOST_LINES {
            wrong.push(format!("tests/{file} has {lines} lines; at most {MOST_LINES}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
