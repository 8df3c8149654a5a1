//! The keys of the configuration.

use std::{collections::BTreeSet, fs};

use beltsight::config::Config;
use serde_json::Value;

use super::{
    Facts,
    asking::{asked, toml_document, toml_text},
    common::served::shipped,
    golden, hold, told,
};

#[test]
fn every_configuration_key_is_read_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("beltsight.toml");
    let read = |document: &Value| {
        fs::write(&file, toml_text(document)).unwrap();
        Config::read(&file).map(|config| format!("{config:#?}")).map_err(|e| e.to_string())
    };
    let mut facts = Facts::new();
    for example in ["line", "modbus", "network", "encoder", "encoder_mqtt"] {
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
