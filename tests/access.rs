//! Who is let in: every route with every role, the browser's way in, and what the service refuses to do.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use beltsight::{
    api::{Route, TABLE},
    tokens::{self, Role},
};
use common::{
    pictures::jpeg,
    process::{beltsight, fails},
    server::{Server, start},
};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// A token of each role, by the role's name.
fn one_each(server: &Server) -> BTreeMap<&'static str, String> {
    let made = Role::ALL.map(|r| (r.name(), tokens::add(&server.tokens_file, r.name(), r, None).unwrap()));
    server.tokens.refresh();
    made.into()
}

async fn ask(server: &Server, method: &str, route: &str, token: Option<&str>) -> (u16, Value) {
    // Nothing is named so, and no body comes along: who is let in gets an answer, but changes nothing.
    let path = route.replace("{key}", "none").replace(['{', '}'], "");
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
    let mut request = server.client.request(method, format!("{}{path}", server.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, if status >= 400 { answer.json().await.unwrap_or_default() } else { Value::Null })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_every_role_as_the_table_says() {
    let server = start().await;
    let tokens = one_each(&server);
    let past = OffsetDateTime::now_utc() - time::Duration::SECOND;
    let expired = tokens::add(&server.tokens_file, "expired", Role::Admin, Some(past)).unwrap();
    let revoked = tokens::add(&server.tokens_file, "revoked", Role::Admin, None).unwrap();
    tokens::revoke(&server.tokens_file, "revoked").unwrap();
    server.tokens.refresh();
    let mut asked = 0;
    for Route { method, path: route, rule, .. } in TABLE {
        let nobody = [None, Some("bs_wrong"), Some(&*expired), Some(&*revoked)];
        let callers = nobody.into_iter().map(|token| (token, None));
        for (token, role) in callers.chain(Role::ALL.map(|r| (Some(&*tokens[r.name()]), Some(r)))) {
            let (status, problem) = ask(&server, method, route, token).await;
            let who = format!("{method} {route} by {role:?}, token {token:?}: {status} {problem}");
            match (rule.least, role) {
                (None, _) => assert!(![401, 403].contains(&status) || *route == "/login", "{who}"),
                (Some(_), None) => assert_eq!(status, 401, "{who}"),
                (Some(least), Some(role)) if role < least => {
                    assert_eq!((status, &problem["type"]), (403, &json!("urn:beltsight:problem:forbidden")), "{who}");
                }
                (Some(_), Some(_)) => assert!(![401, 403, 405, 500].contains(&status), "{who}"),
            }
            asked += 1;
        }
    }
    assert_eq!(asked, TABLE.len() * 8);
    let refused = |reason| server.metrics.http.access_refused.with_label_values(&[reason]).get();
    assert!(refused("no_token") > 15 && refused("unknown_token") > 15 && refused("expired_token") > 15);
    assert!(refused("role") > 3);
}

#[test]
fn what_is_open_and_what_changes_things_is_decided_here_and_not_by_accident() {
    let open: BTreeSet<String> =
        TABLE.iter().filter(|r| r.rule.least.is_none()).map(|r| format!("{} {}", r.method, r.path)).collect();
    // Pages are open because they hold no data: files that are the same for everybody.
    let pages = [
        ["/", "/page.css", "/page.js"],
        ["/label", "/label.css", "/label.js"],
        ["/learning", "/learning.css", "/learning.js"],
        ["/record", "/record.css", "/record.js"],
    ];
    let files: Vec<String> = pages.iter().flatten().map(|file| format!("get {file}")).collect();
    let log_in = ["post /login", "post /logout"];
    let probes = ["get /healthz", "get /readyz", "get /v2/health/live", "get /v2/health/ready"];
    assert_eq!(
        open,
        log_in.into_iter().chain(probes).map(String::from).chain(files).collect(),
        "whoever opens a route says so here"
    );
    for Route { method, path, rule, .. } in TABLE.iter().filter(|r| r.method != "get" && r.rule.least.is_some()) {
        let reads = *path == "/v2/repository/index"; // POST by Triton's protocol
        // What comes as often as items is no change by a person; the first is recorded as verdicts.
        let version = "/v2/models/{model}/versions/{version}/infer";
        let items = ["/classify", "/v2/models/{model}/infer", version, "/confirmations/{gate}"].contains(path);
        assert!(reads || rule.least > Some(Role::Viewer), "a viewer may not {method} {path}");
        assert!(rule.changes != (reads || items), "{method} {path} is in the audit log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_described_route_has_a_rule_and_every_other_method_is_refused() {
    let server = start().await;
    let document = server.get("/openapi.json").await;
    for (route, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let ruled = TABLE.iter().any(|r| r.path == route && r.method == method);
            assert!(ruled, "give {method} {route} a line in src/api/routes.rs");
        }
    }
    let admin = &one_each(&server)["admin"];
    for route in TABLE.iter().map(|r| r.path).collect::<BTreeSet<_>>() {
        for method in ["get", "post", "put", "delete", "patch", "options", "trace", "fish"] {
            if !TABLE.iter().any(|r| r.path == route && r.method == method) {
                assert_eq!(ask(&server, method, route, Some(admin)).await.0, 405, "{method} {route}");
            }
        }
    }
    assert_eq!(ask(&server, "head", "/verdicts", None).await.0, 401, "HEAD is as guarded as GET");
    assert_eq!(ask(&server, "head", "/verdicts", Some(admin)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_looks_and_logs_out() {
    let server = start().await;
    let viewer = &one_each(&server)["viewer"];
    let url = |path: &str| format!("{}{path}", server.url);
    let page = server.ask("/").await;
    assert_eq!(page.status(), 200, "the page itself is open");
    assert!(page.text().await.unwrap().contains("id=\"login\""));
    let wrong = server.client.post(url("/login")).json(&json!({"token": "bs_wrong"})).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().get("set-cookie").is_none());
    let long = server.client.post(url("/login")).body(vec![b'x'; 5000]).send().await.unwrap();
    assert_eq!(long.status(), 413);

    let answer = server.client.post(url("/login")).json(&json!({ "token": viewer })).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let set = answer.headers()["set-cookie"].to_str().unwrap().to_string();
    assert!(set.contains("; HttpOnly") && set.contains("; SameSite=Strict") && set.contains("Path=/;"), "{set}");
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"name": "viewer", "role": "viewer"}));
    let cookie = set.split(';').next().unwrap();
    let get = |path: &str| server.client.get(url(path)).header("cookie", cookie).send();
    for path in ["/whoami", "/verdicts", "/cameras", "/live", "/verdicts/stream", "/metrics"] {
        assert_eq!(get(path).await.unwrap().status(), 200, "{path}");
    }
    let load = server.client.post(url("/v2/repository/models/one/load")).header("cookie", cookie);
    assert_eq!(load.send().await.unwrap().status(), 403, "a cookie is worth no more than its token");
    let out = server.client.post(url("/logout")).header("cookie", cookie).send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("beltsight=; Path=/; Max-Age=0"));

    let mut stream = get("/verdicts/stream").await.unwrap();
    assert_eq!(stream.status(), 200);
    tokens::revoke(&server.tokens_file, "viewer").unwrap();
    let start = Instant::now();
    while get("/whoami").await.unwrap().status() == 200 {
        assert!(start.elapsed() < Duration::from_secs(3), "a revoked token is out without a restart");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let end = async { while stream.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(7), end).await.expect("an open stream ends with its token");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_can_use_nobodys_browser_against_us() {
    let server = start().await;
    let classify = |name: &'static str, value: &'static str| {
        let request = server.client.post(format!("{}/classify", server.url)).header(name, value);
        request.body(jpeg(32, 1)).send()
    };
    assert_eq!(classify("x-any", "thing").await.unwrap().status(), 200, "no token is set, and we are on this machine");
    for (name, value, kind) in [
        ("origin", "https://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("host", "evil.example", 421), // DNS rebinding
        ("host", "192.168.1.9", 421),
    ] {
        assert_eq!(classify(name, value).await.unwrap().status(), kind, "{name}: {value}");
    }
    let rebound = server.client.get(format!("{}/verdicts", server.url)).header("host", "evil.example:8080");
    assert_eq!(rebound.send().await.unwrap().status(), 421);
    let answer = server.ask("/live.jpg").await;
    assert_eq!(answer.headers()["cross-origin-resource-policy"], "same-origin");
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    assert!(answer.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    // A refusal is told even to a client that is still sending when it is refused.
    let large = server.client.post(format!("{}/classify", server.url)).header("host", "evil.example");
    assert_eq!(large.body(vec![7; 5 << 20]).send().await.unwrap().status(), 421);

    let tokens = one_each(&server);
    let cross = server.client.post(format!("{}/classify", server.url)).header("origin", "https://evil.example");
    let cross = cross.header("cookie", format!("beltsight={}", tokens["admin"])).body(jpeg(32, 1));
    assert_eq!(cross.send().await.unwrap().status(), 403, "not with a cookie either");
    let named = server.client.get(format!("{}/verdicts", server.url)).header("host", "box.factory");
    assert_eq!(named.bearer_auth(&tokens["viewer"]).send().await.unwrap().status(), 200, "with tokens any name goes");
}

/// Starts the service with this `[server]` section; what it says until it ends.
fn refused(server: &str, folder: &std::path::Path) -> String {
    let config = folder.join("beltsight.toml");
    std::fs::write(&config, format!("[server]\n{server}\n[store]\nfolder = '{}'\n", folder.display())).unwrap();
    fails(beltsight().args(["serve", "--config"]).arg(&config))
}

#[test]
fn without_a_token_or_with_doubtful_ones_the_service_does_not_start_where_others_reach_it() {
    let folder = tempfile::tempdir().unwrap();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let said = refused(&format!("listen = '{listen}'"), folder.path());
        assert!(said.contains(listen) && said.contains("beltsight tokens add"), "{said}");
    }
    let file = folder.path().join("tokens.toml");
    std::fs::write(&file, "[[token]]\nname = 'a'\nrole = 'king'\n").unwrap();
    let said = refused("listen = '127.0.0.1:0'", folder.path());
    assert!(said.contains("king") && said.contains("nobody is let in"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_in_the_audit_log_done_or_refused_and_reading_is_not() {
    let server = start().await;
    let audit = async |token: &str| -> Value {
        let answer = server.client.get(format!("{}/audit", server.url)).bearer_auth(token).send().await.unwrap();
        answer.json().await.unwrap()
    };
    let load = "/v2/repository/models/one/load";
    assert_eq!(ask(&server, "post", load, None).await.0, 200); // no token is set yet
    let tokens = one_each(&server);
    let (viewer, operator, admin) = (&tokens["viewer"], &tokens["operator"], &tokens["admin"]);
    assert_eq!(ask(&server, "post", load, Some(operator)).await.0, 200);
    assert_eq!(ask(&server, "post", load, Some(viewer)).await.0, 403);
    assert_eq!(ask(&server, "get", "/audit", Some(viewer)).await.0, 403, "a page may read it again every second");
    assert_eq!(ask(&server, "post", load, None).await.0, 401, "strangers can't fill the log");
    assert_eq!(ask(&server, "get", "/verdicts", Some(viewer)).await.0, 200);
    assert_eq!(ask(&server, "post", &load.replace("one", "none"), Some(admin)).await.0, 404);
    let log = audit(admin).await;
    let entries: Vec<[String; 4]> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| ["name", "role", "path", "status"].map(|key| e[key].to_string().replace('"', "")))
        .collect();
    let expected = [
        ["admin", "admin", "/v2/repository/models/none/load", "404"],
        ["viewer", "viewer", load, "403"],
        ["operator", "operator", load, "200"],
        ["local", "admin", load, "200"],
    ];
    assert_eq!(entries, expected.map(|entry| entry.map(String::from)));
    assert_eq!(log["entries"][0]["address"], "127.0.0.1");
    let when = log["entries"][0]["time"].as_str().unwrap();
    let when = OffsetDateTime::parse(when, &time::format_description::well_known::Rfc3339).unwrap();
    assert!((OffsetDateTime::now_utc() - when).whole_seconds().abs() < 60);

    let page = server.client.get(format!("{}/audit?limit=1&before=2", server.url)).bearer_auth(admin);
    let page: Value = page.send().await.unwrap().json().await.unwrap();
    assert_eq!((&page["entries"][0]["id"], &page["next"]), (&json!(1), &json!(1)));

    // The store is gone: the change is made and told, the loss is counted.
    server.store.close().await;
    assert_eq!(ask(&server, "post", load, Some(operator)).await.0, 200);
    assert_eq!(server.metrics.http.audit_lost.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_client_went_away_is_in_the_audit_log_too() {
    use std::io::Write;
    let server = start().await;
    let loaded = || server.metrics.student.loads.with_label_values(&["loaded"]).get() as usize;
    let before = loaded();
    for n in 0..10 {
        let mut gone = server.connect();
        write!(gone, "POST /v2/repository/models/one/load HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        // Gone before, while and after the model is loaded; a request that was never begun changes nothing.
        tokio::time::sleep(Duration::from_millis(10 * n)).await;
    }
    let (start, mut quiet) = (Instant::now(), Instant::now());
    let mut seen = (0, 0);
    while quiet.elapsed() < Duration::from_secs(1) {
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let deeds = server.store.deeds(None, 100).await.unwrap();
        let now = (loaded() - before, deeds.iter().filter(|deed| deed.status == 200).count());
        if now != seen {
            (seen, quiet) = (now, Instant::now());
        }
    }
    assert!(seen.0 > 0 && seen.0 == seen.1, "{} models were loaded, {} are in the log", seen.0, seen.1);
}
