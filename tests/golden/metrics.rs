//! Metrics with their types and labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::{hold, service, text};

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
