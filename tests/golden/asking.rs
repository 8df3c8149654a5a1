//! Documents whose reader is asked what it knows.

use std::{fs, path::Path};

use serde_json::Value;

use super::{Facts, told};

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
pub(super) fn expected_names(error: &str) -> Option<String> {
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
pub(super) fn asked(facts: &mut Facts, room: &str, document: &Value, read: &dyn Fn(&Value) -> Result<String, String>) {
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
pub(super) fn toml_document(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
}

pub(super) fn toml_text(document: &Value) -> String {
    toml::to_string(document).unwrap()
}

pub(super) fn json_document(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
