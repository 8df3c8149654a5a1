//! Routes: what they take and answer, and the role they ask for.

use std::collections::BTreeSet;

use beltsight::api::TABLE;
use serde_json::Value;

use super::{Facts, hold, service, text, told};

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
