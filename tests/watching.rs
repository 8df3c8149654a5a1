//! Watching: what the service measures is what the alerts compare and the dashboards draw.
//!
//! A real Prometheus (Debian's package) scrapes the running service with the shipped rules; then every expression of
//! every rule and panel is asked for and must have data. An alert that does not fire has none by nature, so each alert
//! compares one recorded measure with a number, and the measure is asked for.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    installed, peers,
    pictures::encoded,
    process::{Running, succeeds},
    served::Served,
};
use serde_json::Value;

const MEASURES_AFTER: Duration = Duration::from_secs(60);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The service with the shipped configuration on a free port and with a store of its own.
fn service(store: &Path) -> Served {
    let environment = [("BELTSIGHT_SERVER_LISTEN", "127.0.0.1:0"), ("BELTSIGHT_STORE_FOLDER", store.to_str().unwrap())];
    Served::start(&root().join("deploy/beltsight.toml"), &environment).unwrap()
}

/// Prometheus with the shipped configuration, asking more often and for this target, and its base address.
fn prometheus(folder: &Path, target: &str) -> Option<(Running, String)> {
    let config = std::fs::read_to_string(root().join("deploy/prometheus/prometheus.yml")).unwrap();
    assert!(config.contains("interval: 5s"));
    std::os::unix::fs::symlink(root().join("deploy/prometheus/rules"), folder.join("rules")).unwrap();
    std::fs::create_dir(folder.join("targets")).unwrap();
    let target = target.trim_start_matches("http://");
    std::fs::write(folder.join("targets/beltsight.yml"), format!("- targets: [\"{target}\"]\n")).unwrap();
    peers::prometheus(folder, &config.replace("interval: 5s", "interval: 1s"))
}

/// A gray JPEG with a bright square, as a client would send it.
fn picture() -> Vec<u8> {
    let mut image = image::RgbImage::from_pixel(160, 120, image::Rgb([90, 90, 90]));
    for (x, y) in (40..120).flat_map(|x| (30..90).map(move |y| (x, y))) {
        image.put_pixel(x, y, image::Rgb([210, 190, 170]));
    }
    encoded(image, image::ImageFormat::Jpeg)
}

/// Waits until `url` is answered 200.
async fn answered(client: &reqwest::Client, url: &str, limit: Duration) {
    let start = Instant::now();
    loop {
        match client.get(url).send().await {
            Ok(answer) if answer.status() == 200 => return,
            other => assert!(start.elapsed() < limit, "{url} is not answered 200 after {limit:?}: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// How many of an instant query's samples are numbers, and how many are NaN.
async fn samples(client: &reqwest::Client, prometheus: &str, expr: &str) -> Result<(usize, usize), String> {
    let mut url = reqwest::Url::parse(&format!("{prometheus}/api/v1/query")).unwrap();
    url.query_pairs_mut().append_pair("query", expr);
    let answer: Value = client.get(url).send().await.unwrap().json().await.unwrap();
    if answer["status"] != "success" {
        return Err(answer["error"].to_string());
    }
    let samples = answer["data"]["result"].as_array().ok_or("no list of samples")?;
    let nan = samples.iter().filter(|s| s["value"][1] == "NaN").count();
    Ok((samples.len() - nan, nan))
}

/// `(where, expression)` of every panel of every dashboard, with Grafana's variables put in.
fn panels() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let board: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let (title, variables) = (&board["title"], board["templating"]["list"].as_array().unwrap());
        for panel in board["panels"].as_array().unwrap().iter().filter(|p| p["type"] != "row") {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{title}, panel {} asks for nothing", panel["title"]);
            for target in targets {
                let mut expr = target["expr"].as_str().unwrap().to_string();
                for (variable, value) in [("$__rate_interval", "1m"), ("$__range", "5m"), ("$__interval", "15s")] {
                    expr = expr.replace(variable, value);
                }
                for variable in variables {
                    expr = expr.replace(&format!("${}", variable["name"].as_str().unwrap()), ".*");
                }
                assert!(!expr.contains('$'), "{title}, panel {}: unknown variable in {expr}", panel["title"]);
                found.push((format!("{title}, panel {}", panel["title"]), expr));
            }
        }
    }
    found
}

/// The rules that Prometheus loaded: `(measures, alerts)`, each `(name, expression)`.
async fn rules(client: &reqwest::Client, prometheus: &str) -> (Vec<(String, String)>, Vec<(String, String)>) {
    let answer: Value = client.get(format!("{prometheus}/api/v1/rules")).send().await.unwrap().json().await.unwrap();
    let rules = answer["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
    let text = |v: &Value| v.as_str().unwrap().to_string();
    let (alerts, measures): (Vec<_>, Vec<_>) = rules.partition(|r| r["type"] == "alerting");
    for alert in &alerts {
        for part in ["summary", "action"] {
            assert!(alert["annotations"][part].is_string(), "alert {} has no {part}", alert["name"]);
        }
        assert!(
            ["critical", "warning"].iter().any(|s| alert["labels"]["severity"] == *s),
            "alert {} has no severity",
            alert["name"]
        );
    }
    let pairs = |rules: Vec<&Value>| rules.into_iter().map(|r| (text(&r["name"]), text(&r["query"]))).collect();
    (pairs(measures), pairs(alerts))
}

/// The measured half of `measure{…} <op> <number>`.
fn measured(alert: &str) -> Option<&str> {
    let (measure, number) = [" == ", " > ", " < "].iter().find_map(|operator| alert.split_once(operator))?;
    (measure.starts_with("beltsight:") && !measure.contains(' ') && number.parse::<f64>().is_ok()).then_some(measure)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_alert_and_every_panel_has_data_from_a_running_service() {
    let folder = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let service = service(&folder.path().join("store"));
    let address = service.url.clone();
    let Some((_prometheus, prometheus)) = prometheus(folder.path(), &address) else { return };
    answered(&client, &format!("{address}/readyz"), Duration::from_secs(60)).await;
    answered(&client, &format!("{prometheus}/-/ready"), Duration::from_secs(30)).await;

    // Clients keep asking, so that rates have something to count.
    let asking = tokio::spawn({
        let (client, url) = (client.clone(), format!("{address}/classify"));
        async move {
            loop {
                let answer =
                    client.post(&url).header("content-type", "image/jpeg").body(picture()).send().await.unwrap();
                // 429 and 503 are honest answers of a machine that runs other tests beside this one.
                assert!([200, 429, 503].contains(&answer.status().as_u16()), "{:?}", answer.text().await);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });

    let (measures, alerts) = rules(&client, &prometheus).await;
    assert!(measures.len() >= 20 && alerts.len() >= 20, "{} measures, {} alerts", measures.len(), alerts.len());
    let mut wanted = panels();
    assert!(wanted.len() >= 50, "{} expressions in the dashboards", wanted.len());
    for (name, expr) in &measures {
        // Both what the rule computes and what it recorded.
        wanted.push((format!("measure {name}"), expr.clone()));
        wanted.push((format!("measure {name}, as recorded"), name.clone()));
    }
    for (name, expr) in &alerts {
        let measure =
            measured(expr).unwrap_or_else(|| panic!("alert {name} is not `beltsight:measure > number`: {expr}"));
        let recorded = measure.split('{').next().unwrap();
        assert!(measures.iter().any(|(m, _)| m == recorded), "alert {name} compares {recorded}, which no rule records");
        wanted.push((format!("alert {name}"), measure.to_string()));
    }

    let total = wanted.len();
    let start = Instant::now();
    let mut missing = wanted;
    while !missing.is_empty() {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut still = Vec::new();
        let mut why = Vec::new();
        for (place, expr) in missing {
            match samples(&client, &prometheus, &expr).await {
                Ok((1.., _)) => {}
                Ok((_, nan)) => {
                    why.push(format!("{place}: no number ({nan} NaN): {expr}"));
                    still.push((place, expr));
                }
                Err(error) => panic!("{place}: {error}: {expr}"),
            }
        }
        missing = still;
        assert!(
            missing.is_empty() || start.elapsed() < MEASURES_AFTER,
            "{} of {total} expressions have no data after {MEASURES_AFTER:?}:\n{}",
            missing.len(),
            why.join("\n")
        );
        assert!(!asking.is_finished(), "the client's request failed: {:?}", asking.await.err());
    }
    println!("{total} expressions have data after {:.1} s", start.elapsed().as_secs_f64());

    // What the service writes is clean by promtool's standard.
    if installed("promtool") {
        let text = client.get(format!("{address}/metrics")).send().await.unwrap().text().await.unwrap();
        let mut check = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = check.wait_with_output().unwrap();
        assert!(said.status.success(), "promtool check metrics: {}", String::from_utf8_lossy(&said.stderr));
    }
    asking.abort();
}

fn promtool(arguments: &[&str], files: &[PathBuf]) {
    if !installed("promtool") {
        return;
    }
    assert!(!files.is_empty());
    succeeds(Command::new("promtool").args(arguments).args(files));
}

fn rule_files(end: &str) -> Vec<PathBuf> {
    let folder = root().join("deploy/prometheus/rules");
    let paths = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    paths.filter(|p| p.to_string_lossy().ends_with(end)).collect()
}

#[test]
fn rules_and_configuration_are_valid() {
    promtool(&["check", "rules"], &rule_files(".rules.yml"));
    promtool(&["check", "config"], &[root().join("deploy/prometheus/prometheus.yml")]);
}

#[test]
fn each_alert_fires_on_its_fault_and_on_nothing_else() {
    promtool(&["test", "rules"], &rule_files(".test.yml"));
    let read = |files: Vec<PathBuf>| files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect::<String>();
    let tests = read(rule_files(".test.yml"));
    for alert in read(rule_files(".rules.yml")).lines().filter_map(|l| l.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test fires {alert}");
    }
}
