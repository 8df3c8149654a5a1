//! What is written: the record's entries, and the files of models, rounds and tokens.

use std::{collections::BTreeSet, fs};

use beltsight::{
    rounds::{RoundOutcome, RoundPlan, gate::PromotionGateRuling},
    store::Entry,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Facts,
    asking::{asked, expected_names, json_document, toml_document, toml_text},
    beltsight,
    common::served::{configured, shipped},
    golden, hold, same, told,
};

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
