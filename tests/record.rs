//! The record, as an auditor sees it: after kills, through the API, exported.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{path::Path, time::Duration};

use beltsight::{
    api::ApiSettings,
    domain::{Action, Decision, Picture, Source, Verdict},
    picture::pixels,
    store::{Announcement, Event, GateResult, Page, Retention, RetentionState, Store, verify},
};
use common::{
    browser::Browser,
    installed, kills, peers,
    pictures::jpeg,
    process::{beltsight, free_port},
    served::{Served, configured, shipped},
    server::{self, Server, start_with},
    shown::{Shown, all_kept, watch},
};
use rand::{RngExt, SeedableRng};
use serde_json::json;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use time::OffsetDateTime;

/// The shipped student over a busy simulated belt.
fn start(folder: &Path) -> Served {
    let line = "[line]\ndeadline = '500ms'\n[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { speed = 1650.0, items_per_minute = 300.0, empty_share = 0.0, frame_rate = 10.0 }";
    Served::start(&configured(folder, &shipped(), "", line), &[]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_is_looked_at_several_times_has_one_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let line = "[line]\ndeadline = '500ms'\n[locate]\nlooks = 3\n[[camera]]\nname = 'belt'\nsource = 'simulated'
belt = { items_per_minute = 100.0, speed = 640.0, empty_share = 0.0, frame_rate = 12.0 }";
    let served = Served::start(&configured(folder.path(), &shipped(), "", line), &[]).unwrap();
    served.until("beltsight_item_looks_count", |items| items >= 20.0).await;
    let metrics = served.metrics().await;
    let [sum, count] = ["sum", "count"].map(|end| metrics.value(&format!("beltsight_item_looks_{end}")).unwrap());
    let looks = sum / count;
    assert!(looks > 1.5, "{looks} looks on average");
    let page = served.get("/verdicts?limit=200").await;
    let mut tracks: Vec<u64> =
        page["verdicts"].as_array().unwrap().iter().map(|v| v["track"].as_u64().unwrap()).collect();
    let all = tracks.len();
    tracks.sort_unstable();
    tracks.dedup();
    assert!(all >= 15 && tracks.len() == all, "{all} verdicts for {} items", tracks.len());
}

/// Sends pictures until the service is gone.
async fn send(url: String, shade: u8) {
    let client = reqwest::Client::new();
    for n in (0..=u8::MAX).cycle() {
        let jpeg = pixels::encode_jpeg(&Picture::filled(96, 64, [n, shade, 200]), 90).unwrap();
        if client.post(format!("{url}/classify")).body(jpeg).send().await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_no_shown_verdict_and_leave_a_whole_record() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let shown = Shown::default();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    for round in 0..kills(20) {
        let mut service = start(folder.path());
        let watcher = tokio::spawn(watch(service.url.clone(), shown.clone()));
        let senders: Vec<_> = (0..2).map(|n| tokio::spawn(send(service.url.clone(), n))).collect();
        // Now and then long enough for items of the belt, which is looked at for a second before.
        let longest = if round % 7 == 0 { 2500 } else { 500 };
        tokio::time::sleep(Duration::from_millis(random.random_range(longest / 5..longest))).await;
        service.process.kill();
        watcher.await.unwrap();
        for sender in senders {
            sender.await.unwrap();
        }
        let found = verify(&data, None, None).await.unwrap();
        assert_eq!(found.findings, [], "round {round}");
    }
    let store = Store::open(&data).await.unwrap();
    let (shown, kept) = all_kept(&shown, &store).await;
    let belt = shown.values().filter(|v| v.source == Source::Belt).count();
    println!("{} kills, {} verdicts shown ({belt} of the belt), {kept} kept", kills(20), shown.len());
    assert!(shown.len() > kills(20));
    let starts = store.events(&["started", "stopped"], None).await.unwrap();
    let interrupted = |n: &usize| matches!(starts[*n].event, Event::Started { after_stop: false, .. });
    assert_eq!(starts.len(), kills(20));
    assert_eq!((0..kills(20)).filter(interrupted).count(), kills(20) - 1, "the record tells of every kill");
}

async fn post(server: &Server, path: &str, body: serde_json::Value, status: u16) -> serde_json::Value {
    let response = server.post(path, body.to_string()).await;
    assert_eq!(response.status(), status, "{path}");
    response.json().await.unwrap_or_default()
}

/// Whether a command of `beltsight` went well, and all that it said.
fn command(arguments: &[&str]) -> (bool, String) {
    let out = beltsight().args(arguments).output().unwrap();
    (out.status.success(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lot_is_opened_counted_closed_reviewed_and_exported() {
    let server = server::start().await;
    let judge = async |n: u32| {
        let before = server.metrics.store.recorded.get();
        for seed in 0..n {
            assert_eq!(server.post("/classify", jpeg(40, seed)).await.status(), 200);
        }
        server.recorded(before + u64::from(n)).await;
    };
    judge(2).await; // of no lot
    post(&server, "/lots", json!({ "name": "  " }), 400).await;
    post(&server, "/lots/close", json!({}), 404).await;
    let first = post(&server, "/lots", json!({ "name": "K-17 <Lachs>", "by": "Ada" }), 201).await["lot"].clone();
    judge(5).await;
    post(&server, &format!("/lots/{first}/sign-off"), json!({ "name": "Bo" }), 409).await;
    let twice = post(&server, "/lots", json!({ "name": "K-17 <Lachs>" }), 409).await;
    assert_eq!(twice["detail"], format!("lot K-17 <Lachs> is open already, under the number {first}"));
    let second = post(&server, "/lots", json!({ "name": "=K-18" }), 201).await["lot"].clone();
    judge(3).await;
    assert_eq!(post(&server, "/lots/close", json!({ "by": "Ada" }), 200).await["lot"], second);
    judge(1).await;
    post(&server, &format!("/lots/{first}/sign-off"), json!({ "name": "Bo", "remark": "looked through" }), 204).await;

    let lots = server.get("/lots").await;
    let names: Vec<_> = lots.as_array().unwrap().iter().map(|lot| lot["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["=K-18", "K-17 <Lachs>"]);
    assert_eq!(lots[1]["signed_off"][0]["name"], "Bo");
    for (lot, count) in [(&first, 5), (&second, 3)] {
        let report = server.get(&format!("/lots/{lot}")).await;
        let tallied: i64 = report["tallies"].as_array().unwrap().iter().map(|t| t["verdicts"].as_i64().unwrap()).sum();
        assert_eq!((report["counts"]["verdicts"].as_i64(), tallied), (Some(count), count));
        assert_eq!(report["models"][0]["verdicts"], count);
        let listed = server.get(&format!("/verdicts?lot={lot}")).await;
        assert_eq!(listed["verdicts"].as_array().unwrap().len() as i64, count);
    }

    let text = async |path: String| server.ask(&path).await.text().await.unwrap();
    let csv = text(format!("/lots/{first}/export.csv")).await;
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    assert_eq!(rows.headers().unwrap(), &beltsight::export::HEADER[..]);
    let kinds: Vec<String> = rows.records().map(|row| row.unwrap()[1].to_string()).collect();
    assert_eq!(kinds.iter().filter(|kind| *kind == "verdict").count(), 5);
    assert_eq!((kinds[0].as_str(), kinds.last().unwrap().as_str()), ("lot_opened", "signed_off"));
    let html = text(format!("/lots/{first}/export.html")).await;
    assert!(html.contains("K-17 &lt;Lachs&gt;") && !html.contains("<Lachs>"), "what people typed is escaped");
    assert!(html.contains("Signed off<br>Bo") && html.contains("whole and unchanged"));
    assert!(html.contains("Entries 1 to "), "what was verified is said: {html}");

    let store = server.store.folder().to_str().unwrap();
    let (well, printed) = command(&["record", "export", "--store", store, "--lot", "=K-18", "--format", "csv"]);
    assert!(well && printed.contains(r#",lot_closed,"#), "{printed}");
    let (well, printed) = command(&["record", "verify", "--store", store]);
    assert!(well && printed.contains("whole and unchanged"), "{printed}");

    let options = SqliteConnectOptions::new().filename(server.store.folder().join("verdicts.sqlite"));
    let mut forger = SqliteConnection::connect_with(&options).await.unwrap();
    let forgery = format!(
        "DROP TRIGGER verdicts_stay;
         UPDATE verdicts SET body = json_set(body, '$.camera', 'x') WHERE id = (SELECT max(id) FROM verdicts WHERE lot = {first})"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(forgery)).execute(&mut forger).await.unwrap();
    let html = text(format!("/lots/{first}/export.html")).await;
    assert!(html.contains("is BROKEN") && html.contains("verdict 7 was changed"), "{html}");
    std::fs::write(server.store.folder().join("record.pub"), "00".repeat(32)).unwrap();
    let (well, printed) = command(&["record", "verify", "--store", store]);
    assert!(!well, "another key: {printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_left_elsewhere_at_a_lots_end_and_at_the_stop_and_a_dead_place_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (heads, port) = (folder.path().join("heads.jsonl"), free_port());
    let broker = peers::mosquitto(port, folder.path(), "allow_anonymous true");
    let anchor = format!(
        "[record.anchor]\nfile = '{}'\nsyslog = {{ address = '127.0.0.1:9', tcp = true }}
[record.anchor.mqtt]\nhost = '127.0.0.1'\nport = {port}\ntopic = 'plant/record'",
        heads.display()
    );
    let mut served = Served::start(&configured(folder.path(), &shipped(), "", &anchor), &[]).unwrap();
    served.until("beltsight_anchor_down{target=\"syslog\"}", |down| down == 1.0).await;
    let written = "beltsight_anchors_total{outcome=\"written\",target=\"file\"}";
    served.until(written, |n| n >= 1.0).await;
    assert_eq!(served.post("/lots", json!({ "name": "K-17" }).to_string()).await.status(), 201);
    assert_eq!(served.post("/classify", jpeg(40, 1)).await.status(), 200);
    assert_eq!(served.post("/lots/close", json!({}).to_string()).await.status(), 200);
    served.until(written, |n| n >= 2.0).await;
    served.stop();

    let text = std::fs::read_to_string(&heads).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let data = folder.path().join("data");
    let [store, file] = [&data, &heads].map(|path| path.to_str().unwrap());
    let (well, printed) = command(&["record", "verify", "--store", store, "--anchor", file]);
    assert!(well && printed.contains("3 heads were left elsewhere"), "{printed}");
    let kept = beltsight::store::AnchoredHead::read(lines[2]).unwrap();
    assert!(
        printed.contains(&format!("head {}, entry {}", kept.hash, kept.entry)),
        "the last one is the end: {printed}"
    );
    if broker.is_some() && installed("mosquitto_sub") {
        let port = port.to_string();
        let arguments = ["-h", "127.0.0.1", "-p", &port, "-t", "plant/record", "-C", "1", "-W", "10"];
        let out = std::process::Command::new("mosquitto_sub").args(arguments).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), lines[2], "the broker retains the newest");
    }
    // A line that says another thing of an entry is told by place.
    std::fs::write(&heads, text.replace(&kept.hash, &"0".repeat(64))).unwrap();
    let (well, printed) = command(&["record", "verify", "--store", store, "--anchor", file]);
    assert!(
        !well && printed.contains(&format!("entry {}: is not the one that was left elsewhere", kept.entry)),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_took_from_a_lot_is_said_on_its_page_and_in_its_csv() {
    let server = server::start().await;
    let judge = async |n: u32, all: u64| {
        for seed in 0..n {
            assert_eq!(server.post("/classify", jpeg(40, seed)).await.status(), 200);
        }
        server.recorded(all).await;
    };
    let lot = server.store.begin_lot("K-17", "").await.unwrap();
    judge(4, 4).await;
    server.store.add_label(2, Some("salmon"), "Ada", OffsetDateTime::now_utc()).await.unwrap(); // stays
    server.store.end_lot("").await.unwrap();
    let next = server.store.begin_lot("K-18", "").await.unwrap();
    let limit = OffsetDateTime::now_utc();
    judge(2, 6).await;
    let rules = Retention { verdicts: Duration::from_secs(3600), ..Retention::default() };
    server.store.retain(&rules, limit + Duration::from_secs(3600), true, &mut RetentionState::default()).await.unwrap();

    let text =
        async |lot: i64, form: &str| server.ask(&format!("/lots/{lot}/export.{form}")).await.text().await.unwrap();
    let html = text(lot, "html").await;
    assert!(
        html.contains("<b>3 verdicts that were recorded while this lot was open were removed by retention"),
        "{html}"
    );
    assert!(html.contains("<b>1</b>items judged") && html.contains("whole and unchanged"), "{html}");
    let csv = text(lot, "csv").await;
    let rows: Vec<_> = csv::Reader::from_reader(csv.as_bytes()).records().map(Result::unwrap).collect();
    let told: Vec<_> = rows.iter().filter(|row| row[1].starts_with("verdict")).map(|row| (&row[1], &row[3])).collect();
    let gone = "verdict_gone";
    assert_eq!(told, [(gone, "1"), ("verdict", "2"), (gone, "3"), (gone, "4")]);
    assert!(rows.iter().all(|row| row[15].len() == 64), "each with its hash");
    assert!(!text(next, "html").await.contains("removed by retention (before"), "nothing of that one was");
    assert_eq!(server.get(&format!("/lots/{next}")).await["removed"], serde_json::Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lots_page_is_had_however_long_it_takes() {
    let server = start_with(ApiSettings { deadline: Duration::ZERO, ..ApiSettings::default() }).await;
    let lot = server.store.begin_lot("K-17", "Ada").await.unwrap();
    let status = async |path: String| server.ask(&path).await.status();
    assert_eq!(status(format!("/lots/{lot}")).await, 503, "the deadline of everything else");
    assert_eq!(status(format!("/lots/{lot}/export.html")).await, 200);
}

/// Announces a piece on the camera `belt`, and has it taken off.
async fn find_the_piece(server: &Server, piece: &str) {
    let (camera, piece, by) = ("belt".into(), piece.into(), "Ada".into());
    let said = Announcement { camera, piece, class: None, within_s: 60.0, by };
    server.store.challenge(said).await.unwrap();
    let asked = server.store.challenges(None).await.unwrap().pop().unwrap();
    let rejected = server.store.verdicts(Page { limit: 1, ..Page::default() }).await.unwrap().pop();
    let rejected = match rejected {
        Some(rejected) => rejected,
        None => {
            assert_eq!(server.post("/classify", jpeg(64, 0)).await.status(), 200);
            let one = Page { limit: 1, ..Page::default() };
            loop {
                if let Some(found) = server.store.verdicts(one.clone()).await.unwrap().pop() {
                    break found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let decision = Decision { action: Action::Reject, ..rejected.decision.clone() };
    let (time, camera) = (asked.announced, "belt".into());
    let piece = Verdict { lot: None, source: Source::Belt, time, camera, decision, ..rejected };
    server.store.insert(&[piece]).await.unwrap();
    assert_eq!(server.store.decide_challenge(&asked, time, |_| GateResult::NoGate).await.unwrap(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_announced_and_a_corrective_action_closed_by_name() {
    let server = server::start().await;
    post(&server, "/challenges", json!({ "camera": "belt", "piece": "shoe", "within_s": 0 }), 400).await;
    let nowhere = post(&server, "/challenges", json!({ "camera": "bell", "piece": "shoe" }), 400).await;
    assert_eq!(nowhere["detail"], "there is no camera `bell`; there are: belt");
    let unknown = json!({ "camera": "belt", "piece": "shoe", "class": "unicorn" });
    let unknown = post(&server, "/challenges", unknown, 400).await;
    assert_eq!(unknown["detail"], "the student knows no class `unicorn`; it knows: salmon, cod, bass");
    post(&server, "/challenges", json!({ "camera": "belt", "piece": "shoe", "class": "salmon" }), 400).await;
    let planned = json!({ "camera": "belt", "piece": "trout dummy", "within_s": 0.01, "by": "Ada" });
    post(&server, "/challenges", planned, 201).await;
    assert_eq!(server.get("/challenges").await[0]["class"], "cod", "as the plan says");
    let announced = json!({ "camera": "belt", "piece": "shoe", "within_s": 0.01, "by": "Ada" });
    let number = post(&server, "/challenges", announced, 201).await["challenge"].clone();
    assert_eq!(server.get("/challenges").await[0]["found"], serde_json::Value::Null, "not decided yet");
    let asked = &server.store.challenges(None).await.unwrap().pop().unwrap();
    let later = asked.announced + Duration::from_secs(3);
    assert_eq!(server.store.decide_challenge(asked, later, |_| GateResult::NoGate).await.unwrap(), Some(false));
    let action = server.get("/corrective-actions").await[0].clone();
    assert_eq!((&action["challenge"], &action["last_good"]), (&number, &serde_json::Value::Null));
    let path = format!("/corrective-actions/{}/close", action["action"]);
    post(&server, &path, json!({ "done": "cleaned the lens" }), 400).await;
    let refused = post(&server, &path, json!({ "done": "cleaned the lens", "by": "Ada" }), 409).await;
    assert!(refused["detail"].as_str().unwrap().contains("needs a re-test"), "{refused}");
    find_the_piece(&server, "trout dummy").await;
    post(&server, &path, json!({ "done": "cleaned the lens", "by": "Ada" }), 409).await; // another piece proves nothing
    find_the_piece(&server, "shoe").await;
    post(&server, &path, json!({ "done": "cleaned the lens", "by": "Ada" }), 204).await;
    post(&server, &path, json!({ "done": "again", "by": "Ada" }), 409).await;
    assert_eq!(server.get("/corrective-actions").await[0]["done"], "cleaned the lens");
}

/// What is half written outlasts the page's asking anew.
async fn close_the_action(page: &common::browser::Page<'_>, server: &Server) {
    page.click("#waiting .action input");
    page.write("belt cleaned, ");
    tokio::time::sleep(Duration::from_millis(4500)).await;
    page.write("camera set anew");
    page.key("Enter");
    page.until("document.querySelectorAll('#waiting .action').length === 0");
    let actions = server.get("/corrective-actions").await;
    assert_eq!((&actions[0]["done"], &actions[0]["by"]), (&json!("belt cleaned, camera set anew"), &json!("Ada")));
}

/// A loss that is told now withdraws the sign-off, in the list and on the page to print.
async fn withdraw_and_sign_again(page: &common::browser::Page<'_>, server: &Server) {
    let found = server.store.lots(9).await.unwrap();
    let missed = Event::RejectMissed {
        gate: "out".into(),
        camera: "belt".into(),
        track: 4,
        uid: None,
        lot: Some(found[0].lot),
        passed: Some(found[0].opened),
    };
    server.store.append_of(missed, found[0].opened, None).await.unwrap();
    page.until("document.querySelector('#lots li')?.className === 'withdrawn'");
    page.until("document.querySelector('#lots li').innerText.includes('told later')");
    page.seen("record-withdrawn");
    page.click("#lots form input");
    page.write("searched by hand");
    page.click("#lots form button");
    page.until("document.querySelector('#lots li')?.className === 'signed'");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_lots_opens_closes_and_signs_off_and_shows_what_waits() {
    let Some(browser) = Browser::start() else { return };
    let server = server::start().await;
    let page = browser.page(&format!("{}/record", server.url), 1280, 900);
    page.run("window.confirm = () => true");
    page.until("document.getElementById('name').textContent === 'No lot is open'");
    // Nothing is done in nobody's name.
    page.click("#new");
    page.write("K-17");
    page.key("Enter");
    page.until("document.getElementById('banner').textContent.startsWith('Say who you are')");
    assert_eq!(server.store.open_lot(), None);
    page.click("#by");
    page.write("Ada");
    page.click("#opening button");
    page.until("document.getElementById('name').textContent === 'K-17' && document.getElementById('new').value === ''");
    let lot = server.store.open_lot().unwrap();
    for seed in 0..3 {
        assert_eq!(server.post("/classify", jpeg(64, seed)).await.status(), 200);
    }
    page.until("document.querySelector('#lots .counts')?.innerText.includes('3 items')");

    // A challenge test under way, and a corrective action that keeps the lot from being signed off.
    let announced = Announcement {
        camera: "belt".into(),
        piece: "trout dummy".into(),
        class: None,
        within_s: 60.0,
        by: "Ada".into(),
    };
    server.store.challenge(announced).await.unwrap();
    let missed = Event::CorrectiveOpened {
        lot: Some(lot),
        challenge: 1,
        cause: "challenge test 1 (cod) was not found on belt".into(),
        last_good: None,
        lots: vec![lot],
    };
    server.store.append(missed).await.unwrap();
    page.until("document.querySelectorAll('#waiting .action').length === 1");
    page.until("document.querySelectorAll('#waiting .challenge').length === 1");
    page.click("#close");
    page.until("document.querySelector('#lots li')?.className === 'blocked'");
    assert_eq!(server.store.open_lot(), None);
    assert_eq!(page.run("document.querySelectorAll('#lots form').length"), 0);
    page.seen("record");

    // The test's piece is taken off, or the lot could not be signed off.
    let asked = &server.store.challenges(None).await.unwrap()[0];
    let rejected = server.store.verdicts(Page { limit: 1, ..Page::default() }).await.unwrap().remove(0);
    let decision = Decision { action: Action::Reject, ..rejected.decision.clone() };
    let (time, camera) = (asked.announced, "belt".into());
    let piece = Verdict { lot: None, source: Source::Belt, time, camera, decision, ..rejected };
    server.store.insert(&[piece]).await.unwrap();
    assert_eq!(server.store.decide_challenge(asked, time, |_| GateResult::NoGate).await.unwrap(), Some(true));
    page.until("document.querySelectorAll('#waiting .challenge').length === 0");

    // Before the action is closed its mend is proven: the piece of the plan is sent through again.
    assert_eq!(page.run("document.querySelectorAll('#waiting .action form').length"), 0);
    assert!(page.run("document.querySelector('#due li').innerText").as_str().unwrap().contains("trout dummy"));
    page.click("#due li button");
    page.until("document.querySelectorAll('#waiting .challenge').length === 1");
    let ordered = server.store.challenges(None).await.unwrap().pop().unwrap();
    assert_eq!((ordered.piece.as_str(), ordered.by.as_str()), ("trout dummy", "Ada"));
    find_the_piece(&server, "trout dummy").await;
    page.until("document.querySelectorAll('#waiting .action form').length === 1");

    close_the_action(&page, &server).await;
    page.until("document.querySelector('#lots li')?.className === 'closed'");
    page.click("#lots form input");
    page.write("fine");
    page.click("#lots form button");
    page.until("document.querySelector('#lots li')?.className === 'signed'");
    let found = server.store.lots(9).await.unwrap();
    let signed = &found[0].signed_off[0];
    assert_eq!((signed.name.as_str(), signed.remark.as_str()), ("Ada", "fine"));

    withdraw_and_sign_again(&page, &server).await;

    // What is refused is said; both exports are there; a reload shows the same.
    let get = |end: &str| {
        page.run(&format!("fetch(document.querySelector(`#lots a[href$={end}]`).href).then((a) => a.text())"))
    };
    assert!(get("csv").as_str().unwrap().contains("lot_opened"));
    assert!(get("html").as_str().unwrap().contains("K-17"));
    page.reload();
    page.until("document.querySelector('#lots li.signed .counts')?.innerText.includes('3 items')");
    page.run("document.getElementById('new').value = 'x'.repeat(201)");
    page.click("#opening button");
    page.until("document.getElementById('banner').textContent.includes('200 characters')");
    assert_eq!(page.complaints(), Vec::<String>::new());
}
