//! What may not change unnoticed: configuration keys, commands, routes, metrics, record kinds, the fields of files and
//! answers; and a store and models that an earlier program wrote, which are read, served and written on.
//!
//! Each list stands in `tests/golden/*.txt`, one fact a line, and is made by asking the program itself: a key that it
//! does not know, it refuses with a list of those that it knows. A test fails with what was removed, added or changed.
//! `UPDATE_GOLDEN=1` writes the lists anew: only for a change that is meant.
#![allow(clippy::unwrap_used)]

mod asking;
mod before;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod config;
mod files;
mod metrics;
mod routes;
mod threats;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::served::{Served, configured, shipped};
use serde_json::Value;

/// Facts by what they are about, both as text.
type Facts = BTreeMap<String, String>;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn told(facts: &mut Facts, about: impl Into<String>, fact: impl Into<String>) {
    let (about, fact) = (about.into(), fact.into());
    let before = facts.insert(about.clone(), fact.clone());
    assert!(before.as_ref().is_none_or(|before| *before == fact), "{about} is told twice: {before:?} and {fact}");
}

/// Compares with the list `name`, or writes it.
fn hold(name: &str, facts: &Facts) {
    let path = golden().join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let text: String = facts.iter().map(|(about, fact)| format!("{about}: {fact}\n")).collect();
        fs::write(&path, text).unwrap();
        return;
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let known: Facts = text
        .lines()
        .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{}: {line}", path.display())))
        .map(|(about, fact)| (about.to_owned(), fact.to_owned()))
        .collect();
    let differences = differences(&known, facts);
    assert!(
        differences.is_empty(),
        "not as tests/golden/{name}.txt has it; if that is meant, run this test with UPDATE_GOLDEN=1\n{differences}"
    );
}

fn differences(known: &Facts, found: &Facts) -> String {
    let mut text = String::new();
    for (about, fact) in known {
        match found.get(about) {
            None => writeln!(text, "removed  {about}: {fact}").unwrap(),
            Some(now) if now != fact => writeln!(text, "changed  {about}: {fact}\n      to {about}: {now}").unwrap(),
            Some(_) => {}
        }
    }
    for (about, fact) in found.iter().filter(|(about, _)| !known.contains_key(*about)) {
        writeln!(text, "added    {about}: {fact}").unwrap();
    }
    text
}

/// What an answer or file says, one value a line.
fn said(document: &Value) -> Facts {
    fn walk(value: &Value, path: &str, facts: &mut Facts) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| walk(value, &format!("{path}.{key}"), facts));
            }
            Value::Array(elements) => {
                told(facts, format!("{path}[]"), elements.len().to_string());
                elements.iter().enumerate().for_each(|(i, value)| walk(value, &format!("{path}[{i}]"), facts));
            }
            value => told(facts, path, value.to_string()),
        }
    }
    let mut facts = Facts::new();
    walk(document, "", &mut facts);
    facts
}

/// Fields that answers have gained beside those that they had.
const SINCE: [&str; 9] = [
    ".uid",
    ".withdrawn[]",
    "].acknowledged",
    "].confirmed",
    "].why",
    "].retest",
    "].camera",
    ".told_later[]",
    ".unknown_from",
];

#[track_caller]
fn same(what: &str, expected: &str, found: &str) {
    let [expected, mut found] = [expected, found].map(|text| said(&serde_json::from_str(text).unwrap()));
    for (about, fact) in found.iter_mut().filter(|(about, _)| *about == ".head_hash") {
        // Of the record's newest entry: that the service was started, at another time.
        fact.clone_from(&expected[about]);
    }
    found.retain(|about, _| expected.contains_key(about) || !SINCE.iter().any(|since| about.ends_with(since)));
    let differences = differences(&expected, &found);
    assert!(differences.is_empty(), "{what} is not what it was:\n{differences}");
}

#[test]
fn what_is_removed_added_or_changed_is_told() {
    let facts = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Facts>();
    let (known, found) = (facts(&[("a", "1"), ("b", "2"), ("c", "3")]), facts(&[("a", "1"), ("c", "4"), ("d", "5")]));
    assert_eq!(differences(&known, &found), "removed  b: 2\nchanged  c: 3\n      to c: 4\nadded    d: 5\n");
    assert_eq!(differences(&known, &known), "");
}

/// Runs a program; whether it went well, and what it printed.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new(program).args(arguments).env("NO_COLOR", "1").output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

fn beltsight(arguments: &[&str]) -> (bool, String) {
    run(env!("CARGO_BIN_EXE_beltsight"), arguments)
}

/// A service without cameras, with a store of its own.
fn service(folder: &Path) -> Served {
    Served::start(&configured(folder, &shipped(), "", ""), &[]).unwrap()
}

async fn text(url: String) -> String {
    reqwest::get(url).await.unwrap().text().await.unwrap()
}
