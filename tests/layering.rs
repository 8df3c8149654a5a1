//! The direction of imports, read from the sources: who may lean on whom.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room and the rooms it may import. `main`, `app`, `bench`, `doctor`, `draw`,
/// `evaluate`, `labels` and `probe` stand on top of all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("engine", &[]),
    ("metrics", &[]),
    ("nets", &[]),
    ("scorecard", &[]),
    ("pixels", &["domain"]),
    ("model", &["domain", "engine", "scorecard"]),
    ("dataset", &["model", "pixels"]),
    ("onnx", &["engine", "nets"]),
    ("tokens", &[]),
    ("corrupt", &["domain", "pixels"]),
    ("promote", &["domain", "model", "scorecard"]),
    ("reference", &["domain", "engine", "model", "pixels", "scorecard"]),
    ("store", &["domain", "model"]),
    ("export", &["domain", "store"]),
    ("snapshot", &["dataset", "domain", "model", "pixels", "store"]),
    ("belt", &["domain", "pixels"]),
    ("output", &["domain", "metrics"]),
    ("line", &["belt", "domain", "engine", "metrics", "model", "output", "pixels", "scorecard", "store"]),
    ("exam", &["corrupt", "dataset", "domain", "engine", "line", "model", "pixels", "promote"]),
    ("learner", &[]),
    ("rounds", &["dataset", "domain", "exam", "learner", "line", "metrics", "model", "promote", "snapshot", "store"]),
    ("config", &["api", "engine", "line", "rounds", "store"]),
    (
        "api",
        &["domain", "engine", "export", "line", "metrics", "model", "pixels", "promote", "rounds", "store", "tokens"],
    ),
];

/// A crate that only one room may import.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("ort", &["engine"]),
    ("tch", &["learn"]),
    ("axum", &["api"]),
    ("hyper", &["api", "output"]),
    ("rustls", &["api", "output"]),
    ("sqlx", &["store"]),
    ("ed25519_dalek", &["store"]),
    ("object_store", &["store"]),
    ("nokhwa", &["line"]),
    ("v4l", &["line"]),
    ("retina", &["line"]),
    ("aravis", &["line"]),
    ("openh264", &["line"]),
    ("tiny_skia", &["belt"]),
    ("tokio_modbus", &["output"]),
    ("rumqttc", &["output"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap();
            let room =
                inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_string();
            let text = fs::read_to_string(&path).unwrap();
            // The tests at a file's end may build what they need from any room.
            let text = text.split("\n#[cfg(test)]").next().unwrap();
            let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            (room, path, code.join("\n"))
        })
        .collect()
}

/// Rooms named behind `crate::` or `beltsight::`, also inside braces.
fn imports(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (start, _) in code.match_indices("crate::").chain(code.match_indices("beltsight::")) {
        let rest = &code[start..];
        let rest = &rest[rest.find("::").unwrap() + 2..];
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(list) = rest.strip_prefix('{') else {
            rooms.insert(word(rest));
            continue;
        };
        let mut depth = 1;
        let mut at_start = true;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_start = true,
                c if at_start && c.is_alphabetic() => {
                    rooms.insert(word(&list[i..]));
                    at_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let code = "use crate::a;\nuse crate::{b::{c, d}, e};\nlet x = crate::f::g();\nuse beltsight::{h};";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["a", "b", "e", "f", "h"]);
}

#[test]
fn rooms_lean_only_on_the_rooms_below_them() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else { continue };
        for import in imports(&code).into_iter().filter(|i| *i != room && !allowed.contains(&i.as_str())) {
            wrong.push(format!("{} imports {import}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_framework_stays_in_its_room() {
    let mut wrong = Vec::new();
    for (room, path, code) in sources() {
        for (name, rooms) in ONLY_IN {
            let used = code
                .match_indices(&format!("{name}::"))
                .any(|(i, _)| !code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'));
            if used && !rooms.contains(&room.as_str()) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_of_the_library_has_a_place_in_the_order() {
    let known: BTreeSet<&str> = MAY_IMPORT
        .iter()
        .map(|(name, _)| *name)
        .chain(["main", "lib", "app", "bench", "doctor", "draw", "evaluate", "labels", "learn", "probe"])
        .collect();
    let unknown: BTreeSet<String> =
        sources().into_iter().map(|(room, ..)| room).filter(|r| !known.contains(r.as_str())).collect();
    assert!(unknown.is_empty(), "give these rooms a place in MAY_IMPORT: {unknown:?}");
}
