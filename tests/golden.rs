//! What may not change unnoticed: configuration keys, commands, routes, metrics, record kinds, the fields of files and
//! answers; and a store and models that an earlier program wrote, which are read, served and written on.
//!
//! Each list stands in `tests/golden/*.txt`, one fact a line, and is made by asking the program itself: a key that it
//! does not know, it refuses with a list of those that it knows. A test fails with what was removed, added or changed.
//! `UPDATE_GOLDEN=1` writes the lists anew: only for a change that is meant.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use beltsight::api::TABLE;
use beltsight::config::Config;
use beltsight::rounds::gate::PromotionGateRuling;
use beltsight::rounds::{RoundOutcome, RoundPlan};
use beltsight::store::Entry;
use common::served::{Served, configured, shipped};
use serde::{Serialize, de::DeserializeOwned};
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

#[track_caller]
fn same(what: &str, expected: &str, found: &str) {
    let [expected, mut found] = [expected, found].map(|text| said(&serde_json::from_str(text).unwrap()));
    for (about, fact) in found.iter_mut().filter(|(about, _)| *about == ".head_hash") {
        // Of the record's newest entry: that the service was started, at another time.
        fact.clone_from(&expected[about]);
    }
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

// ---- Documents whose reader is asked what it knows.

/// A way to a value in a document, as keys and places.
type Way = Vec<Step>;

#[derive(Clone)]
enum Step {
    Key(String),
    Place(usize),
}

/// The value at the end of a way.
fn at<'a>(document: &'a mut Value, way: &[Step]) -> &'a mut Value {
    way.iter().fold(document, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Place(place) => &mut value[*place],
    })
}

/// Every value of a document with its way and its name: `camera[usb].timeout`. Elements of a list are told apart by
/// their kind; where they have none, only those of the first are named.
fn values(document: &Value) -> Vec<(Way, String)> {
    fn walk(value: &Value, way: &Way, name: &str, found: &mut Vec<(Way, String)>) {
        if !way.is_empty() {
            found.push((way.clone(), name.to_owned()));
        }
        let mut go = |step: Step, name: String, value: &Value| {
            let mut way = way.clone();
            way.push(step);
            walk(value, &way, &name, found);
        };
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    go(Step::Key(key.clone()), format!("{name}{dot}{key}"), value);
                }
            }
            Value::Array(elements) => {
                for (place, element) in elements.iter().enumerate().filter(|(_, element)| element.is_object()) {
                    let kind = ["source", "kind", "name"].iter().find_map(|tag| element[*tag].as_str());
                    match kind {
                        Some(kind) => go(Step::Place(place), format!("{name}[{kind}]"), element),
                        None if place == 0 => go(Step::Place(place), format!("{name}[]"), element),
                        None => {}
                    }
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(document, &Vec::new(), "", &mut found);
    found
}

/// What stands between backticks behind `expected`.
fn expected_names(error: &str) -> Option<String> {
    let (_, expected) = error.split_once("expected ")?;
    let names: Vec<&str> = expected.lines().next()?.split('`').skip(1).step_by(2).collect();
    (!names.is_empty()).then(|| names.join(" "))
}

/// The kind of value that a reader says it expects, without names of types.
fn expected_kind(error: &str) -> Option<String> {
    let (_, expected) = error.split_once("expected ")?;
    let expected = expected.split_once(" at line ").map_or(expected, |(kind, _)| kind).lines().next()?.trim();
    let first = expected.split(' ').next()?;
    Some(match first {
        "struct" | "internally" | "map" => "a table".into(),
        "enum" | "variant" => "a name".into(),
        _ if first == "one" || first.starts_with('`') => "a name".into(),
        _ => expected.trim_end_matches([',', '.']).to_owned(),
    })
}

/// Asks `read` for the keys it knows, their kinds, whether they may be absent, and what they then are: `shown` is how a
/// document reads once it was understood. `document` holds every key, each with another value than its default.
fn asked(facts: &mut Facts, room: &str, document: &Value, read: &dyn Fn(&Value) -> Result<String, String>) {
    let whole = read(document).unwrap_or_else(|e| panic!("{room}: the complete example is refused: {e}"));
    let with = |way: &[Step], value: Value| {
        let mut changed = document.clone();
        *at(&mut changed, way) = value;
        read(&changed)
    };
    let strange = serde_json::json!({ "golden": true });
    let mut tables: Vec<(Way, String)> = vec![(Vec::new(), String::new())];
    for (way, name) in values(document) {
        let mut value = document.clone();
        let value = at(&mut value, &way).clone();
        if value.is_object() {
            tables.push((way.clone(), name.clone()));
        }
        let (Some(Step::Key(key)), before) = (way.last(), &way[..way.len() - 1]) else { continue };
        let kind = match (&value, with(&way, strange.clone())) {
            (Value::Object(_), _) => {
                with(&way, Value::Bool(true)).err().and_then(|e| expected_kind(&e)).unwrap_or("anything".into())
            }
            (_, Ok(_)) => "anything".into(),
            (_, Err(e)) => expected_kind(&e).unwrap_or_else(|| "a value".into()),
        };
        let of = match &value {
            Value::Array(elements) if !elements.iter().any(Value::is_object) => {
                let error = with(&way, Value::Array(vec![strange.clone()])).err();
                error.and_then(|e| expected_kind(&e)).map(|kind| format!(" of {kind}")).unwrap_or_default()
            }
            _ => String::new(),
        };
        let words = match &value {
            Value::String(_) => with(&way, "golden".into()).err().filter(|e| e.contains("unknown variant")),
            Value::Array(elements) if elements.first().is_some_and(Value::is_string) => {
                with(&way, serde_json::json!(["golden"])).err().filter(|e| e.contains("unknown variant"))
            }
            _ => None,
        };
        let words = words.and_then(|e| expected_names(&e)).map(|names| format!(", one of {names}")).unwrap_or_default();
        let mut without = document.clone();
        at(&mut without, before).as_object_mut().unwrap().remove(key);
        let absent = match read(&without) {
            Err(_) => "needed".to_owned(),
            Ok(shown) => {
                assert_ne!(shown, whole, "{room}: {name} in the complete example must differ from its default");
                if value.is_object() { "may be absent".into() } else { format!("else {}", apart(&whole, &shown)) }
            }
        };
        told(facts, format!("{room} {name}"), format!("{kind}{of}{words}; {absent}"));
    }
    for (way, name) in tables {
        let mut changed = document.clone();
        at(&mut changed, &way)["golden"] = Value::Bool(true);
        let error = read(&changed).err();
        let known = match &error {
            None => "others are passed over".into(),
            Some(e) => expected_names(e).unwrap_or_else(|| "others are refused".into()),
        };
        told(facts, format!("{room} {name}{}*", if name.is_empty() { "" } else { "." }), known);
    }
}

/// What stands in `shown` where it differs from `whole`, on one line: values alone, without names of types.
fn apart(whole: &str, shown: &str) -> String {
    let (whole, shown): (Vec<&str>, Vec<&str>) = (whole.lines().collect(), shown.lines().collect());
    let same = |pairs: &mut dyn Iterator<Item = (&&str, &&str)>| pairs.take_while(|(a, b)| a == b).count();
    let before = same(&mut whole.iter().zip(&shown));
    let behind = same(&mut whole[before..].iter().rev().zip(shown[before..].iter().rev()));
    let lines: Vec<&str> = shown[before..shown.len() - behind].iter().map(|line| line.trim()).collect();
    let value = |line: &str| {
        let value = line.split_once([':', '=']).map_or(line, |(_, value)| value);
        value.trim().trim_end_matches(',').to_owned()
    };
    match lines[..] {
        [] => "nothing".into(),
        [line] => value(line),
        _ => lines.iter().map(|line| value(line)).collect::<Vec<_>>().join(" "),
    }
}

/// A TOML file as a document; it holds no times.
fn toml_document(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

fn toml_text(document: &Value) -> String {
    toml::to_string(document).unwrap()
}

#[test]
fn every_configuration_key_is_read_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("beltsight.toml");
    let read = |document: &Value| {
        fs::write(&file, toml_text(document)).unwrap();
        Config::read(&file).map(|config| format!("{config:#?}")).map_err(|e| e.to_string())
    };
    let mut facts = Facts::new();
    for example in ["line", "modbus", "network"] {
        let document = toml_document(&golden().join(format!("config/{example}.toml")));
        asked(&mut facts, example, &document, &read);
    }
    // Keys that are flattened into a gate can't be asked for; how a gate reads shows them.
    let gate = read(&toml_document(&golden().join("config/modbus.toml"))).unwrap();
    let gate = &gate[gate.find("gate: [").unwrap()..gate.find("output: [").unwrap()];
    let fields: BTreeSet<&str> = gate.lines().filter_map(|line| Some(line.split_once(": ")?.0.trim())).collect();
    told(&mut facts, "modbus eject.gate, as it reads", fields.into_iter().collect::<Vec<_>>().join(" "));
    hold("config", &facts);
}

#[test]
fn every_key_of_the_shipped_example_stands_among_the_known_ones() {
    let text = fs::read_to_string(golden().join("config.txt")).unwrap();
    let last = |name: &str| name.rsplit(['.', ' ']).next().unwrap().to_owned();
    let known: BTreeSet<String> = text.lines().filter_map(|line| Some(last(line.split_once(": ")?.0))).collect();
    let example = fs::read_to_string(shipped().join("../deploy/beltsight.toml")).unwrap();
    let mut seen = 0;
    for line in example.lines() {
        let Some((key, value)) = line.trim_start_matches(['#', ' ']).split_once(" = ") else { continue };
        if !key.chars().all(|c| c.is_ascii_lowercase() || c == '_') || value.is_empty() {
            continue; // a sentence
        }
        seen += 1;
        assert!(known.contains(key), "{key} of deploy/beltsight.toml is no known key");
    }
    assert!(seen > 120, "{seen} keys were seen");
}

// ---- Commands.

/// Runs a program; whether it went well, and what it printed.
fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new(program).args(arguments).env("NO_COLOR", "1").output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

fn beltsight(arguments: &[&str]) -> (bool, String) {
    run(env!("CARGO_BIN_EXE_beltsight"), arguments)
}

/// Adds the options and arguments of a command and of those below it, read from its help.
fn commands(facts: &mut Facts, program: &str, name: &str, words: &[&str]) {
    let mut arguments = words.to_vec();
    arguments.push("--help");
    let (_, help) = run(program, &arguments);
    let command = [&[name], words].concat().join(" ");
    let usage = help.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap();
    told(facts, format!("{command}, used as"), usage);
    let (mut part, mut entry) = ("", None::<(String, String)>);
    let mut below = Vec::new();
    let mut close = |entry: Option<(String, String)>, part: &str| {
        let Some((head, text)) = entry else { return };
        let among = |opening: &str| {
            let start = text.find(opening)?;
            Some(text[start..].split_once(']')?.0.to_owned() + "]")
        };
        let more: Vec<String> = ["[default: ", "[possible values: "].into_iter().filter_map(among).collect();
        let kind = if part == "Arguments" { "argument" } else { "option" };
        told(facts, format!("{command} {head}"), format!("{kind} {}", more.join(" ")).trim());
    };
    for line in help.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|_| !line.starts_with(' ')) {
            close(entry.take(), part);
            part = match heading {
                "Commands" => "Commands",
                "Arguments" => "Arguments",
                "Options" => "Options",
                _ => "",
            };
            continue;
        }
        let text = line.trim();
        match part {
            "Commands" => {
                let word = text.split(' ').next().unwrap();
                if !word.is_empty() && word != "help" && line.starts_with("  ") && !line.starts_with("   ") {
                    below.push(word.to_owned());
                }
            }
            "Options" | "Arguments" => {
                let opens = if part == "Options" { text.starts_with('-') } else { text.starts_with(['<', '[']) };
                let indented = line.len() - line.trim_start().len();
                if opens && indented <= 6 {
                    close(entry.take(), part);
                    let (head, rest) = text.split_once("  ").unwrap_or((text, ""));
                    entry = Some((head.to_owned(), rest.to_owned()));
                } else if let Some((_, known)) = &mut entry {
                    known.push(' ');
                    known.push_str(text);
                }
            }
            _ => {}
        }
    }
    close(entry.take(), part);
    told(facts, format!("{command}, below it"), if below.is_empty() { "nothing".into() } else { below.join(" ") });
    for word in below {
        // These are handed on to the learning program, with all that follows.
        if name == "beltsight" && words.is_empty() && ["train", "distill", "compare", "reproduce"].contains(&&*word) {
            continue;
        }
        let words = [words, &[word.as_str()]].concat();
        commands(facts, program, name, &words);
    }
}

#[test]
fn every_command_takes_the_options_it_took() {
    let mut facts = Facts::new();
    commands(&mut facts, env!("CARGO_BIN_EXE_beltsight"), "beltsight", &[]);
    hold("commands", &facts);
}

#[cfg(feature = "learn")]
#[test]
fn every_command_of_the_learning_program_takes_the_options_it_took() {
    let mut facts = Facts::new();
    commands(&mut facts, env!("CARGO_BIN_EXE_beltsight-learn"), "beltsight-learn", &[]);
    hold("learning_commands", &facts);
}

// ---- What is served.

/// A service without cameras, with a store of its own.
fn service(folder: &Path) -> Served {
    Served::start(&configured(folder, &shipped(), "", ""), &[]).unwrap()
}

async fn text(url: String) -> String {
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

/// A schema of the API's description, with what it refers to put in: every field by its path, with its type.
fn fields(api: &Value, schema: &Value, path: &str, found: &mut Facts) {
    if let Some(reference) = schema["$ref"].as_str() {
        return fields(api, &api["components"]["schemas"][reference.rsplit('/').next().unwrap()], path, found);
    }
    let parts = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    for part in parts("allOf") {
        fields(api, &part, path, found);
    }
    let (null, kinds): (Vec<Value>, Vec<Value>) = parts("oneOf").into_iter().partition(|part| part["type"] == "null");
    let or_null = |found: &mut Facts| {
        for kind in found.get_mut(path).into_iter().filter(|kind| !kind.ends_with("or null")) {
            kind.push_str(" or null");
        }
    };
    for (n, kind) in kinds.iter().enumerate() {
        let several = if kinds.len() > 1 { format!("{path}#{n}") } else { path.to_owned() };
        fields(api, kind, &several, found);
    }
    if !null.is_empty() {
        or_null(found);
    }
    let (mut kind, mut nullable) = (schema["type"].as_str().unwrap_or_default().to_owned(), false);
    if let Some(kinds) = schema["type"].as_array() {
        nullable = kinds.iter().any(|kind| kind == "null");
        kind = kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or_default().to_owned();
    }
    if kind.is_empty() {
        if parts("allOf").is_empty() && kinds.is_empty() {
            told(found, path, "anything");
        }
        return;
    }
    for more in ["format", "minItems", "maxItems"] {
        match &schema[more] {
            Value::Null => {}
            Value::String(text) => kind = format!("{kind} {text}"),
            other => kind = format!("{kind} {more} {other}"),
        }
    }
    let words: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() {
        kind = format!("{kind} {}", words.join("|"));
    }
    if nullable {
        kind += " or null";
    }
    told(found, path, kind);
    if schema["items"].is_object() {
        fields(api, &schema["items"], &format!("{path}[]"), found);
    }
    let needed: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        fields(api, field, &path, found);
        if !needed.contains(&key.as_str()) {
            found.entry(path).and_modify(|kind| kind.push_str(", may be absent"));
        }
    }
    if schema["additionalProperties"] == false {
        told(found, format!("{path}.*"), "no others");
    }
}

#[tokio::test]
async fn every_route_takes_and_answers_what_it_did_and_asks_for_the_same_role() {
    let folder = tempfile::tempdir().unwrap();
    let served = service(folder.path());
    let api: Value = serde_json::from_str(&text(format!("{}/openapi.json", served.url)).await).unwrap();
    let (mut facts, mut described) = (Facts::new(), BTreeSet::new());
    for (route, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = format!("{method} {route}");
            described.insert(name.clone());
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let about =
                    format!("{name}, {} {}", parameter["in"].as_str().unwrap(), parameter["name"].as_str().unwrap());
                fields(&api, &parameter["schema"], &about, &mut facts);
                let needed = if parameter["required"] == true { ", needed" } else { "" };
                facts.entry(about).and_modify(|kind| kind.push_str(needed));
            }
            let mut bodies = vec![(format!("{name}, body"), &operation["requestBody"]["content"])];
            for (status, response) in operation["responses"].as_object().unwrap() {
                let about = format!("{name}, {status}");
                if response["content"].is_null() {
                    told(&mut facts, about, "nothing");
                } else if status.starts_with(['4', '5']) {
                    // Errors are all alike; on one line each.
                    let mut error = Facts::new();
                    let (kind, content) = response["content"].as_object().unwrap().iter().next().unwrap();
                    fields(&api, &content["schema"], "", &mut error);
                    let error: Vec<String> = error.iter().map(|(field, kind)| format!("{field} {kind}")).collect();
                    told(&mut facts, about, format!("{kind} {}", error.join("; ").trim()));
                } else {
                    bodies.push((about, &response["content"]));
                }
            }
            for (about, content) in bodies {
                let Some(kinds) = content.as_object() else { continue };
                let names: Vec<&str> = kinds.keys().map(String::as_str).collect();
                told(&mut facts, format!("{about}, as"), names.join(" "));
                for content in kinds.values().filter(|content| content["schema"].is_object()) {
                    fields(&api, &content["schema"], &about, &mut facts);
                }
            }
        }
    }
    let mut ruled = BTreeSet::new();
    for route in TABLE {
        let name = format!("{} {}", route.method, route.path);
        let role = route.rule.least.map_or("nobody in particular".into(), |role| role.to_string());
        told(
            &mut facts,
            format!("{name}, role"),
            format!("{role}{}", if route.rule.changes { ", audited" } else { "" }),
        );
        ruled.insert(name);
    }
    assert_eq!(described, ruled, "described routes and those of the access table");
    hold("routes", &facts);
}

/// The arguments of a call that begins at `text`, up to its closing parenthesis.
fn call(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' if !quoted => depth += 1,
            ')' | ']' if !quoted => {
                if depth == 0 {
                    return &text[..i];
                }
                depth -= 1;
            }
            _ => {}
        }
    }
    text
}

/// The texts in quotes, none of which holds an escaped one.
fn quoted(text: &str) -> Vec<&str> {
    text.split('"').skip(1).step_by(2).collect()
}

/// Name, type and labels of the metrics that the sources make with `counters(…, "name", "help", &["label"])` and its
/// sisters: a metric of which nothing was counted yet is missing in what is served.
fn metrics_in_sources() -> BTreeMap<String, (String, BTreeSet<String>)> {
    fn walk(folder: &Path, texts: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, texts);
            } else if path.extension().is_some_and(|e| e == "rs") {
                texts.push(fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut texts = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
    let mut found = BTreeMap::new();
    for (helper, kind) in [
        ("counter", "counter"),
        ("counters", "counter"),
        ("gauge", "gauge"),
        ("gauges", "gauge"),
        ("float_gauge", "gauge"),
        ("float_gauges", "gauge"),
        ("histogram", "histogram"),
        ("histograms", "histogram"),
    ] {
        for text in &texts {
            for (start, opening) in text.match_indices(&format!("{helper}(")) {
                let arguments = call(&text[start + opening.len()..]);
                let (before, words) = (&text[..start], quoted(arguments));
                let longer = before.ends_with(|c: char| c.is_alphanumeric() || c == '_') || before.ends_with("fn ");
                let plain = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                let Some((name, _help)) = words.first().zip(words.get(1)) else { continue };
                if longer || !plain(name) {
                    continue;
                }
                let labels = arguments.find("&[\"").map_or(Vec::new(), |i| quoted(call(&arguments[i + 2..])));
                let labels = labels.into_iter().map(String::from).collect();
                found.insert(format!("beltsight_{name}"), (kind.to_owned(), labels));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_metric_has_the_type_and_the_labels_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let served = service(folder.path());
    let exposed = text(format!("{}/metrics", served.url)).await;
    let mut metrics = metrics_in_sources();
    assert!(metrics.len() > 50, "the reader of the sources sees them: {:?}", metrics.keys());
    let exposed_types = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in exposed_types {
        let samples = exposed.lines().filter(|line| {
            let sampled = line.split(['{', ' ']).next().unwrap();
            let sampled =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| sampled.strip_suffix(end)).unwrap_or(sampled);
            sampled == name || line.split(['{', ' ']).next() == Some(name)
        });
        let labels: BTreeSet<String> = samples
            .filter_map(|line| Some(line.split_once('{')?.1.rsplit_once('}')?.0.to_owned()))
            .flat_map(|labels| {
                let names = labels.split("\",").filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned()));
                names.collect::<Vec<_>>()
            })
            .filter(|label| label != "le")
            .collect();
        let known = metrics.entry(name.into()).or_insert_with(|| (kind.into(), labels.clone()));
        assert_eq!(*known, (kind.into(), labels), "{name} in the sources and as it is served");
    }
    let facts = metrics.into_iter().map(|(name, (kind, labels))| {
        let labels: Vec<String> = labels.into_iter().collect();
        (name, format!("{kind} {}", labels.join(" ")).trim_end().to_owned())
    });
    hold("metrics", &facts.collect());
}

// ---- What is written.

/// Asks for the fields of what is read from JSON and written as JSON: what is read of a complete example is written again
/// word for word, so no field is lost, renamed or new.
fn written<T: DeserializeOwned + Serialize>(facts: &mut Facts, room: &str, document: &Value) {
    let read = |document: &Value| {
        let read: T = serde_json::from_value(document.clone()).map_err(|e| e.to_string())?;
        serde_json::to_string_pretty(&read).map_err(|e| e.to_string())
    };
    let again = read(document).unwrap_or_else(|e| panic!("{room}: {e}"));
    same(&format!("{room}, read and written again,"), &document.to_string(), &again);
    asked(facts, room, document, &read);
}

fn json_document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_kind_of_record_entry_has_the_fields_it_had() {
    let mut facts = Facts::new();
    let strange = serde_json::json!({ "kind": "golden", "time": "2026-11-28T12:00:00Z" });
    let kinds = serde_json::from_value::<Entry>(strange).unwrap_err();
    let kinds = expected_names(&kinds.to_string()).unwrap();
    let examples = fs::read_to_string(golden().join("files/record.jsonl")).unwrap();
    let mut shown = BTreeSet::new();
    for line in examples.lines() {
        let example: Value = serde_json::from_str(line).unwrap();
        let kind = example["kind"].as_str().unwrap().to_owned();
        written::<Entry>(&mut facts, &kind, &example);
        shown.insert(kind);
    }
    let known: BTreeSet<String> = kinds.split(' ').map(String::from).collect();
    assert_eq!(shown, known, "tests/golden/files/record.jsonl shows every kind");
    facts.retain(|about, _| !about.ends_with(" kind")); // they are told once
    told(&mut facts, "kinds", kinds);
    hold("record", &facts);
}

#[test]
fn every_file_of_models_rounds_and_tokens_has_the_fields_it_had() {
    let (mut facts, files) = (Facts::new(), golden().join("files"));
    written::<RoundPlan>(&mut facts, "plan.json", &json_document(&files.join("plan.json")));
    written::<PromotionGateRuling>(&mut facts, "ruling.json", &json_document(&files.join("ruling.json")));
    written::<RoundOutcome>(&mut facts, "outcome.json", &json_document(&files.join("outcome.json")));

    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let printed = |arguments: &[&str]| {
        let (ok, said) = beltsight(arguments);
        if ok { Ok(said) } else { Err(said) }
    };
    fs::create_dir(folder.path().join("seven")).unwrap();
    let manifest = toml_document(&files.join("manifest.toml"));
    let read = |document: &Value| {
        fs::write(folder.path().join("seven/manifest.toml"), toml_text(document)).unwrap();
        printed(&["models", "--root", root, "show", "seven"])
    };
    let again: toml::Table = read(&manifest).unwrap().parse().unwrap();
    let again = serde_json::to_string(&again).unwrap();
    same("manifest.toml, read and written again,", &manifest.to_string(), &again);
    asked(&mut facts, "manifest.toml", &manifest, &read);

    let serving = json_document(&files.join("serving.json"));
    asked(&mut facts, "serving.json", &serde_json::json!({ "entry": serving }), &|document| {
        fs::write(folder.path().join("serving.json"), document["entry"].to_string()).unwrap();
        printed(&["models", "--root", root, "history"])
    });

    let config = configured(folder.path(), &shipped(), "", "");
    fs::create_dir(folder.path().join("data")).unwrap();
    let tokens = toml_document(&files.join("tokens.toml"));
    asked(&mut facts, "tokens.toml", &tokens, &|document| {
        fs::write(folder.path().join("data/tokens.toml"), toml_text(document)).unwrap();
        printed(&["tokens", "--config", config.to_str().unwrap(), "list"])
    });
    hold("files", &facts);
}

// ---- What an earlier program wrote; `tests/fixtures/before/README.txt` tells how.

fn before() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/before")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Its store as `data`, its models as `models`, and a configuration that serves them without a camera.
fn earlier() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    copy(&before().join("store"), &folder.path().join("data"));
    copy(&before().join("models"), &folder.path().join("models"));
    let rest = "[labels]\nclasses = ['hake']\nsecond_share = 0.2";
    let config = configured(folder.path(), &folder.path().join("models"), "", rest);
    let text = fs::read_to_string(&config).unwrap().replace("[model]", "[model]\nversion = 'tiny'");
    fs::write(&config, text).unwrap();
    (folder, config)
}

/// What the earlier program said.
fn expected(file: &str) -> String {
    fs::read_to_string(before().join("expected").join(file)).unwrap()
}

#[track_caller]
fn went_well(arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_beltsight")).args(arguments).env("NO_COLOR", "1").output().unwrap();
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_commands_read_what_an_earlier_program_wrote() {
    let (folder, config) = earlier();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (store, models, config) = (path("data"), path("models"), config.to_str().unwrap());
    let key = before().join("record.pub");
    let verify = ["record", "verify", "--store", &store, "--pictures", "--public-key", key.to_str().unwrap()];
    assert!(went_well(&verify).contains("whole and unchanged"));
    same("the record", &expected("verify.json"), &went_well(&[&verify[..], &["--json"]].concat()));
    let lot = went_well(&["record", "export", "--store", &store, "--lot", "K-17 <Lachs>", "--format", "csv"]);
    assert_eq!(lot, expected("lot.csv"));
    let labels = |format: &str| went_well(&["labels", "--config", config, "export", "--format", format]);
    assert_eq!(labels("csv"), expected("labels.csv"));
    same("the labels for Label Studio", &expected("label_studio.json"), &labels("label-studio"));
    for (command, file) in [
        (&["list"][..], "models_list.txt"),
        (&["history"], "models_history.txt"),
        (&["verify"], "models_verify.txt"),
        (&["show", "tiny"], "models_show.txt"),
    ] {
        assert_eq!(went_well(&[&["models", "--root", &models][..], command].concat()), expected(file), "{command:?}");
    }
    assert_eq!(went_well(&["tokens", "--config", config, "list"]), expected("tokens.txt"));

    // The registry is written on; what was there stays word for word.
    copy(&shipped().join("belt-small"), &folder.path().join("models/belt-small"));
    let history = || json_document(&folder.path().join("models/serving.json"));
    let earlier = history().as_array().unwrap().clone();
    let by = ["--config", config, "--by", "Cy", "--why", "later"];
    went_well(&[&["models", "--root", &models, "promote", "belt-small"][..], &by].concat());
    went_well(&[&["models", "--root", &models, "rollback"][..], &by].concat());
    let now = history().as_array().unwrap().clone();
    assert_eq!(now[..earlier.len()], earlier);
    let added: Vec<_> = now[earlier.len()..].iter().map(|e| (&e["change"], &e["version"], &e["by"])).collect();
    let cy = Value::from("Cy");
    assert_eq!(added, [(&"promote".into(), &"belt-small".into(), &cy), (&"rollback".into(), &"tiny".into(), &cy)]);
}

#[tokio::test]
async fn the_service_answers_from_what_an_earlier_program_wrote_and_writes_on() {
    let (folder, config) = earlier();
    let mut served = Served::start(&config, &[]).unwrap_or_else(|said| panic!("it does not start: {said}"));
    let client = reqwest::Client::new();
    let ask = async |who: &str, path: &str, body: Option<Vec<u8>>| {
        let token = fs::read_to_string(before().join(format!("token.{who}"))).unwrap();
        let url = format!("{}{path}", served.url);
        let request = body.map_or(client.get(&url), |body| client.post(&url).body(body));
        let response = request.bearer_auth(token.trim()).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    };
    let questions = expected("questions.txt");
    for question in questions.lines() {
        let (file, path) = question.split_once(' ').unwrap();
        same(path, &expected(&format!("{file}.json")), &ask("ada", path, None).await);
    }
    let lots: Value = serde_json::from_str(&expected("lots.json")).unwrap();
    let lot = lots[1]["lot"].as_i64().unwrap();
    assert_eq!(ask("vic", &format!("/lots/{lot}/export.csv"), None).await, expected("lot.csv"));

    // One item more, and what a person says of it.
    let record: Value = serde_json::from_str(&expected("verify.json")).unwrap();
    let newest = record["verdicts"].as_i64().unwrap() + 1;
    let items: Value = serde_json::from_str(&expected("items.json")).unwrap();
    let frame = items["items"][0]["verdict"]["frame"].as_str().unwrap();
    let picture = find(&folder.path().join("data/frames"), frame);
    ask("leo", "/classify", Some(fs::read(picture).unwrap())).await;
    let patience = std::time::Instant::now();
    loop {
        let page: Value = serde_json::from_str(&ask("leo", "/verdicts?limit=1", None).await).unwrap();
        if page["verdicts"][0]["id"] == newest {
            break;
        }
        assert!(patience.elapsed().as_secs() < 20, "the item is not recorded: {page}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let label = serde_json::json!({ "verdict": newest, "class": "salmon" });
    ask("leo", "/labels", Some(label.to_string().into_bytes())).await;
    served.process.signal("-TERM");
    assert!(served.process.wait().success());

    let (store, key) = (folder.path().join("data"), before().join("record.pub"));
    let kept = format!("{}:{}", record["entries"], record["head"].as_str().unwrap());
    let verify = ["record", "verify", "--json", "--pictures", "--kept", &kept, "--store", store.to_str().unwrap()];
    let now = went_well(&[&verify[..], &["--public-key", key.to_str().unwrap()]].concat());
    let now: Value = serde_json::from_str(&now).unwrap();
    assert_eq!(now["findings"], serde_json::json!([]));
    assert_eq!(now["verdicts"], newest);
    assert!(now["entries"].as_i64() > record["entries"].as_i64().map(|n| n + 3), "start, item, label, stop: {now}");
}

/// The file whose name begins with the key of a frame.
fn find(folder: &Path, key: &str) -> PathBuf {
    let name = key.rsplit('-').next().unwrap();
    let days = fs::read_dir(folder).unwrap().map(|day| day.unwrap().path());
    let files = days.flat_map(|day| fs::read_dir(day).unwrap()).map(|file| file.unwrap().path());
    let mut found =
        files.filter(|file| file.file_name().unwrap().to_str().unwrap().contains(name.trim_end_matches(".jpg")));
    found.next().unwrap_or_else(|| panic!("no picture {key}"))
}
