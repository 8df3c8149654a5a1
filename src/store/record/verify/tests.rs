//! Every forgery is found, and nothing else is.
#![allow(clippy::unwrap_used)]

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sqlx::SqliteConnection;

use super::{
    parts::{signed_head, verify_parts},
    *,
};
use crate::{
    domain::{Action, testing::verdict},
    store::{
        Deed, Event, SECRET, Store,
        forger::{edit, forge, run},
        record::{
            chain::{CHECKPOINT, link},
            rows::HeldTable,
            signer::hex,
        },
    },
};

/// A closed store of 1,100 verdicts and some events: one checkpoint.
async fn filled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    for batch in 0..11 {
        let mut verdicts = vec![verdict(Action::Accept); 100];
        for (i, verdict) in verdicts.iter_mut().enumerate() {
            verdict.track = batch * 100 + i as u64; // no two alike, so that swapping changes something
        }
        store.insert(&verdicts).await.unwrap();
        let gap = Event::Gap { lot: None, verdicts: batch, pictures: 0, events: 0, from: None, to: None };
        store.append(gap).await.unwrap();
    }
    let now = time::OffsetDateTime::UNIX_EPOCH;
    for (id, class) in [(1, Some("cod")), (2, None), (1, Some("bass"))] {
        store.add_label(id, class, "Ada", now).await.unwrap();
    }
    store.withdraw_label(3, "Ada", now).await.unwrap();
    for status in [200, 403] {
        let [time, name, role, address, method, path] =
            ["2026", "eve", "viewer", "::1", "POST", "/lots"].map(String::from);
        store.audit(&Deed { id: 0, time, name, role, address, method, path, status }).await.unwrap();
    }
    store.close().await;
    folder
}

/// Flips one bit of one column of one row.
async fn flip(connection: &mut SqliteConnection, random: &mut impl Rng) -> (String, u64) {
    let columns = [
        ("record", "seq"),
        ("record", "verdict"),
        ("record", "body"),
        ("record", "hash"),
        ("verdicts", "id"),
        ("verdicts", "body"),
        ("checkpoints", "seq"),
        ("checkpoints", "hash"),
        ("checkpoints", "time"),
        ("checkpoints", "signature"),
        ("labels", "id"),
        ("labels", "verdict"),
        ("labels", "class"),
        ("labels", "labeler"),
        ("labels", "at"),
        ("labels", "withdraws"),
        ("audit", "id"),
        ("audit", "time"),
        ("audit", "name"),
        ("audit", "role"),
        ("audit", "address"),
        ("audit", "method"),
        ("audit", "path"),
        ("audit", "status"),
        ("head", "seq"),
        ("head", "hash"),
        ("head", "time"),
        ("head", "signature"),
    ];
    let (table, column) = columns[random.random_range(0..columns.len())];
    let rows: i64 =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE {column} IS NOT NULL")))
            .fetch_one(&mut *connection)
            .await
            .unwrap();
    let at = random.random_range(0..rows);
    let (row, kind, bytes): (i64, String, Vec<u8>) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT rowid, typeof({column}), CAST({column} AS BLOB) FROM {table} WHERE {column} IS NOT NULL
         ORDER BY rowid LIMIT 1 OFFSET {at}"
    )))
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let value = if kind == "integer" {
        let number: i64 = String::from_utf8(bytes).unwrap().parse().unwrap();
        (number ^ (1 << random.random_range(0..40))).to_string()
    } else {
        let mut bytes = bytes;
        let byte = random.random_range(0..bytes.len());
        bytes[byte] ^= 1 << random.random_range(0..8);
        format!("CAST(x'{}' AS {kind})", hex(&bytes))
    };
    let done = run(connection, format!("UPDATE {table} SET {column} = {value} WHERE rowid = {row}")).await;
    (format!("{table}.{column} of row {row} := {value:.80}"), done)
}

/// One forgery of a random kind: what, and how many rows it changed.
async fn mutate(connection: &mut SqliteConnection, random: &mut ChaCha8Rng, kind: usize) -> (String, u64) {
    let newest: i64 = sqlx::query_scalar("SELECT max(seq) FROM record").fetch_one(&mut *connection).await.unwrap();
    let mut entry = || random.random_range(1..=newest);
    let (a, b) = (entry(), entry());
    let (lower, upper) = (1.max(newest - a % 50), newest);
    let swap = |table: &str, column: &str| {
        format!(
            "UPDATE {table} SET {column} = (SELECT t.{column} FROM {table} t WHERE t.rowid = {a} + {b} - {table}.rowid)
             WHERE rowid IN ({a}, {b})"
        )
    };
    let tail: Vec<u8> = sqlx::query_scalar("SELECT hash FROM head").fetch_one(&mut *connection).await.unwrap();
    let tail: [u8; 32] = tail.try_into().unwrap();
    // A forger knows how hashes are made: only the signature is out of reach.
    let body = br#"{"kind":"gap","time":"2026-11-25T00:00:00Z","verdicts":0}"#;
    let hash = link(&tail, newest + 1, None, body);
    let append = format!(
        "INSERT INTO record (seq, body, hash) VALUES ({}, CAST(x'{}' AS TEXT), x'{}')",
        newest + 1,
        hex(body),
        hex(&hash)
    );
    let sql = match kind {
        0..=11 => return flip(connection, random).await,
        12 => format!("DELETE FROM record WHERE seq = {a}"),
        13 => format!("DELETE FROM verdicts WHERE id = {a}"),
        14 => format!(
            "DELETE FROM verdicts WHERE id IN (SELECT verdict FROM record WHERE seq >= {lower});
             DELETE FROM record WHERE seq >= {lower}"
        ),
        15 => format!(
            // … and the head set to the one signature that is at hand, the checkpoint's.
            "DELETE FROM verdicts WHERE id IN (SELECT verdict FROM record WHERE seq > {CHECKPOINT});
             DELETE FROM record WHERE seq > {CHECKPOINT};
             UPDATE head SET (seq, hash, time, signature) = (SELECT seq, hash, time, signature FROM checkpoints)"
        ),
        16 => swap("record", "hash") + ";" + &swap("record", "body") + ";" + &swap("record", "verdict"),
        17 => swap("verdicts", "body"),
        18 => append,
        19 => format!("{append}; UPDATE head SET seq = {}, hash = x'{}'", newest + 1, hex(&hash)),
        20 => format!("INSERT INTO verdicts (body) SELECT body FROM verdicts WHERE id = {a}"),
        21 => format!("INSERT INTO checkpoints SELECT {}, hash, time, signature FROM checkpoints", upper + 5000),
        22 => "DELETE FROM checkpoints".into(),
        _ => "DELETE FROM head".into(),
    };
    let swaps_nothing = matches!(kind, 16 | 17) && a == b;
    let done = if swaps_nothing { 0 } else { run(connection, sql.clone()).await };
    (sql, done)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flipped_byte_and_every_removed_swapped_or_appended_entry_is_found() {
    let whole = filled().await;
    let found = verify(whole.path(), None, None).await.unwrap();
    assert_eq!(found.findings, [], "a whole record");
    assert_eq!((found.entries, found.verdicts, found.checkpoints), (1120, 1100, 1));

    let forged = tempfile::tempdir().unwrap();
    std::fs::copy(whole.path().join(PUBLIC), forged.path().join(PUBLIC)).unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut changed = 0;
    for n in 0.. {
        let file = forged.path().join("verdicts.sqlite");
        std::fs::copy(whole.path().join("verdicts.sqlite"), &file).unwrap();
        let mut forger = forge(forged.path()).await;
        let (what, rows) = mutate(&mut forger.connection, &mut random, n % 24).await;
        forger.close().await;
        let found = verify(forged.path(), None, None).await.unwrap();
        assert_eq!(found.findings.is_empty(), rows == 0, "{n}: {what}: {found}");
        changed += usize::from(rows > 0);
        if changed == 320 {
            return;
        }
    }
}

#[tokio::test]
async fn what_computes_the_columns_that_are_read_is_held_as_the_entries_are() {
    let whole = filled().await;
    let redefined = |table: &str, column: &str, value: &str| {
        format!("ALTER TABLE {table} DROP COLUMN {column}; ALTER TABLE {table} ADD COLUMN {column} TEXT AS ({value})")
    };
    let in_schema = |edit: &str| format!("PRAGMA writable_schema = ON; {edit}; PRAGMA writable_schema = RESET");
    for (sql, what) in [
        (redefined("verdicts", "action", "'accept'"), "the table verdicts was redefined"),
        (redefined("record", "kind", "'audit'"), "the table record was redefined"),
        (
            in_schema("UPDATE sqlite_schema SET sql = replace(sql, 'n.id > l.id', 'n.id < l.id')"),
            "the view current_labels was redefined",
        ),
        (
            "CREATE TRIGGER quiet AFTER INSERT ON record BEGIN SELECT 1; END".into(),
            "the trigger quiet does not belong to it",
        ),
        ("CREATE TABLE more (a)".into(), "the table more does not belong to it"),
        ("DROP VIEW standing_labels".into(), "the view standing_labels is gone"),
        ("DELETE FROM _sqlx_migrations WHERE version > 5".into(), "the table frames_gone does not belong to it"),
        ("UPDATE record SET verdict = 0 WHERE seq = 1".into(), "holds a verdict whose id no verdict has"),
    ] {
        let forged = tempfile::tempdir().unwrap();
        for file in [PUBLIC, SECRET, "verdicts.sqlite"] {
            std::fs::copy(whole.path().join(file), forged.path().join(file)).unwrap();
        }
        edit(forged.path(), sql).await;
        let found = verify(forged.path(), None, None).await.unwrap();
        assert!(found.findings.iter().any(|finding| finding.what.ends_with(what)), "{what}: {found}");
        let opened = Store::open(forged.path()).await;
        assert_eq!(opened.is_err(), !what.starts_with("holds"), "{what}");
    }
}

#[tokio::test]
async fn what_people_said_and_did_is_held_as_the_entries_are() {
    let whole = filled().await;
    for (sql, what) in [
        ("DELETE FROM labels WHERE id = 2", "row 2 of labels is gone"),
        ("DELETE FROM labels WHERE id = 4", "row 4 of labels is gone"),
        (
            "INSERT INTO labels (verdict, class, labeler, at) VALUES (9, 'cod', 'Ada', '2026')",
            "row 5 of labels is in no entry",
        ),
        ("UPDATE labels SET class = 'salmon' WHERE id = 1", "row 1 of labels was changed"),
        ("UPDATE labels SET class = x'00' WHERE id = 1", "row 1 of labels was changed"),
        ("UPDATE audit SET name = 'adam'", "row 2 of audit was changed"),
        ("DELETE FROM audit", "row 1 of audit is gone"),
        (
            "INSERT INTO frames_gone VALUES ('20261125-0123456789abcdef01234567', 9)",
            "row 20261125-0123456789abcdef01234567 of frames_gone is in no entry",
        ),
    ] {
        let forged = tempfile::tempdir().unwrap();
        for file in [PUBLIC, SECRET, "verdicts.sqlite"] {
            std::fs::copy(whole.path().join(file), forged.path().join(file)).unwrap();
        }
        assert!(edit(forged.path(), sql).await > 0, "{sql}");
        let found = verify(forged.path(), None, None).await.unwrap();
        assert!(found.findings.iter().any(|finding| finding.what == what), "{what}: {found}");
    }
}

#[tokio::test]
async fn an_index_that_leads_elsewhere_than_its_table_is_found() {
    let whole = filled().await;
    assert!(edit(whole.path(), "ANALYZE").await < 100);
    assert_eq!(
        verify(whole.path(), None, None).await.unwrap().findings,
        [],
        "what the planner counts changes no answer"
    );
    let mut forger = forge(whole.path()).await;
    // An index of the same text over other values, as a forger of pages would leave it.
    let made = forger.schema.iter().find(|sql| sql.contains("verdicts_by_action")).unwrap().clone();
    run(&mut forger.connection, made.replace("(action, id)", "(source, id)")).await;
    run(
        &mut forger.connection,
        format!(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = '{made}' WHERE name = 'verdicts_by_action';
             PRAGMA writable_schema = OFF"
        ),
    )
    .await;
    forger.close().await;
    let found = verify(whole.path(), None, None).await.unwrap();
    assert!(found.findings.iter().any(|finding| finding.what.contains("verdicts_by_action")), "{found}");
}

#[tokio::test]
async fn a_lot_is_verified_between_the_checkpoints_around_it_however_long_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    store.insert(&vec![verdict(Action::Accept); 3000]).await.unwrap();
    let number = store.begin_lot("A", "").await.unwrap(); // entry 3,002
    let of_it = crate::domain::Verdict { lot: Some(number), ..verdict(Action::Reject) };
    store.insert(&vec![of_it.clone(); 5]).await.unwrap();
    store.end_lot("").await.unwrap();
    store.insert(&vec![verdict(Action::Accept); 60]).await.unwrap();
    let late = store.insert(&[of_it]).await.unwrap()[0]; // entry 3,069
    store.insert(&vec![verdict(Action::Accept); 3000]).await.unwrap();
    store.sign_off(number, "Bo", "").await.unwrap(); // entry 6,070
    store.insert(&vec![verdict(Action::Accept); 2000]).await.unwrap();
    let lot = store.lot(number).await.unwrap().unwrap();
    store.close().await;
    let found = verify_lot(folder.path(), &lot).await.unwrap();
    assert_eq!(found.findings, []);
    // From the checkpoint before the lot to the one after it, and those around the sign-off.
    assert_eq!(found.parts, [(2048, 3072), (5120, 6144)]);

    edit(folder.path(), "UPDATE verdicts SET body = replace(body, 'accept', 'reject') WHERE id IN (9, 4000)").await;
    assert_eq!(verify_lot(folder.path(), &lot).await.unwrap().findings, [], "that is not of the lot");
    assert_eq!(verify(folder.path(), None, None).await.unwrap().findings.len(), 2);
    edit(folder.path(), format!("UPDATE verdicts SET body = replace(body, 'reject', 'accept') WHERE id = {late}"))
        .await;
    let found = verify_lot(folder.path(), &lot).await.unwrap().findings;
    assert_eq!(found, [finding(3069, format!("verdict {late} was changed"))]);
    edit(folder.path(), "UPDATE record SET body = replace(CAST(body AS TEXT), 'Bo', 'Di') WHERE seq = 6070").await;
    assert_eq!(verify_lot(folder.path(), &lot).await.unwrap().findings.len(), 2, "who signed it off");
    edit(folder.path(), "DELETE FROM checkpoints WHERE seq = 2048").await;
    let found = verify_lot(folder.path(), &lot).await.unwrap().findings;
    assert!(found.contains(&finding(2048, "its checkpoint is missing or wrong")), "{found:?}");
    edit(folder.path(), format!("UPDATE record SET seq = -1 WHERE seq = {}", lot.closed_at.unwrap())).await;
    let moved = Lot { closed_at: None, ..lot.clone() };
    let found = verify_lot(folder.path(), &moved).await.unwrap().findings;
    assert_eq!(found[0], finding(-1, "stands before the record"));
    edit(folder.path(), "DELETE FROM head").await;
    assert_eq!(
        verify_lot(folder.path(), &lot).await.unwrap().findings[1],
        finding(0, "the head is not signed by this key")
    );
}

#[tokio::test]
async fn what_retention_removes_meanwhile_is_no_finding_but_one_more_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let (second, now) = (std::time::Duration::from_secs(1), time::OffsetDateTime::now_utc());
    let of = |time| crate::domain::Verdict { time, ..verdict(Action::Accept) };
    store.insert(&vec![of(now - second * 9); 3000]).await.unwrap();
    store.insert(&vec![of(now); 100]).await.unwrap();
    let pool = connect(folder.path()).await.unwrap();
    let key = public_key(&folder.path().join(PUBLIC)).unwrap();
    // Here a verification has read the head, and that nothing was removed.
    let head = signed_head(&pool, &key).await.unwrap().unwrap();
    let found = async || verify_parts(&pool, &key, &[(1, head.seq)], head, 0).await.unwrap().findings;
    let rules = crate::store::Retention { verdicts: second * 5, ..Default::default() };
    assert_eq!(
        store.retain(&rules, now, true, &mut crate::store::RetentionState::default()).await.unwrap().verdicts,
        3000
    );
    store.insert(&vec![of(now); 100]).await.unwrap();
    assert_eq!(found().await, []);
    edit(folder.path(), "DELETE FROM verdicts WHERE id = 3050").await;
    assert_eq!(found().await, [finding(3051, "verdict 3050 is gone")]);
    // What retention says is believed only where it is whole.
    let more =
        "UPDATE record SET body = replace(CAST(body AS TEXT), '3000', '9000') WHERE seq > 3102 AND verdict IS NULL";
    assert_eq!(edit(folder.path(), more).await, 1);
    assert_eq!(found().await, [finding(3103, "its hash does not fit it and the entry before")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_being_written_is_whole_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let writer = tokio::spawn(async move {
        for _ in 0..60 {
            store.insert(&vec![verdict(Action::Reject); 64]).await.unwrap();
        }
    });
    let mut lengths = Vec::new();
    while !writer.is_finished() || lengths.len() < 2 {
        let found = verify(folder.path(), None, None).await.unwrap();
        assert_eq!(found.findings, []);
        lengths.push(found.entries);
    }
    writer.await.unwrap();
    assert!(lengths.first() < lengths.last(), "{lengths:?}");
}

#[tokio::test]
async fn a_record_signed_with_another_key_is_found_by_the_key_kept_elsewhere() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for each in [&folder, &other] {
        Store::open(each.path()).await.unwrap().close().await;
    }
    let found = verify(folder.path(), Some(&other.path().join(PUBLIC)), None).await.unwrap();
    assert_eq!(found.findings, [finding(1, "the head is not signed by this key")]);
    assert!(verify(folder.path(), Some(Path::new("/no/such/key")), None).await.is_err());
}

#[tokio::test]
async fn a_store_put_back_to_an_earlier_state_is_found_by_an_entry_kept_elsewhere() {
    let (folder, earlier) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Store::open(folder.path()).await.unwrap().close().await;
    for file in [PUBLIC, "verdicts.sqlite"] {
        std::fs::copy(folder.path().join(file), earlier.path().join(file)).unwrap();
    }
    let store = Store::open(folder.path()).await.unwrap();
    store.insert(&[verdict(Action::Reject)]).await.unwrap();
    let (entry, hash) = store.head().await.unwrap();
    store.close().await;
    let kept: KeptEntry = format!("{entry}:{hash}").parse().unwrap();
    assert_eq!(verify(folder.path(), None, Some(&kept)).await.unwrap().findings, []);
    assert_eq!(verify(earlier.path(), None, None).await.unwrap().findings, [], "by itself it is whole");
    let found = verify(earlier.path(), None, Some(&kept)).await.unwrap();
    assert_eq!(found.findings, [finding(2, "is not the one that was kept elsewhere")]);
}

#[tokio::test]
async fn a_changed_picture_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let now = time::OffsetDateTime::now_utc();
    for n in 0..3u8 {
        let jpeg = bytes::Bytes::from(vec![n; 50]);
        store.put_frame(&crate::store::frame_key(&jpeg, now), jpeg).await.unwrap();
    }
    assert_eq!(verify_pictures(folder.path()).unwrap(), (3, vec![]));
    let day = std::fs::read_dir(folder.path().join("frames")).unwrap().next().unwrap().unwrap().path();
    let picture = std::fs::read_dir(day).unwrap().next().unwrap().unwrap().path();
    std::fs::write(picture, "another").unwrap();
    assert_eq!(verify_pictures(folder.path()).unwrap().1.len(), 1);
}

#[tokio::test]
async fn what_no_entry_holds_and_a_value_under_another_kind_are_found() {
    let folder = filled().await;
    assert_eq!(found(folder.path()).await, "");
    // Each is undone again: what was found must be found for this alone.
    for (forgery, back, told) in [
        ("UPDATE labels SET verdict = CAST(x'33' || CAST(verdict AS TEXT) AS BLOB) WHERE id = 1", "", "labels"),
        ("UPDATE labels SET withdraws = x'00' WHERE id = 2", "", "labels"),
        ("UPDATE record SET verdict = '' WHERE seq = 7", "", "another kind"),
        ("UPDATE record SET verdict = x'07' WHERE seq = 1100", "", "another kind"),
        ("UPDATE head SET one = 0", "UPDATE head SET one = 1", "the head does not stand where it belongs"),
        ("UPDATE head SET one = 2", "UPDATE head SET one = 1", "the head does not stand where it belongs"),
        (
            "UPDATE sqlite_sequence SET seq = 9223372036854775806 WHERE name = 'verdicts'",
            "UPDATE sqlite_sequence SET seq = 1100 WHERE name = 'verdicts'",
            "the next of verdicts",
        ),
        (
            "UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'audit'",
            "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'audit'",
            "the next of audit",
        ),
        (
            "INSERT INTO tallies VALUES (0, 'accept', 'whale', 'evil@0', 't', 0)",
            "DELETE FROM tallies WHERE class = 'whale'",
            "count nothing",
        ),
        (
            "INSERT INTO tallies VALUES (9, 'reject', NULL, 'm', 't', 7); INSERT INTO tallies VALUES (9, 'reject', NULL, 'm', 't', -7)",
            "DELETE FROM tallies WHERE lot = 9",
            "count nothing",
        ),
        ("INSERT INTO lots_removed VALUES (9, 0)", "DELETE FROM lots_removed", "count nothing"),
        ("INSERT INTO spans VALUES (9223372036854775807, 0, 1)", "DELETE FROM spans WHERE block > 9", "can't be"),
        (
            "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 3",
            "",
            "the list of migrations says what was not run",
        ),
    ] {
        let copy = if back.is_empty() { Some(copied(folder.path())) } else { None };
        let at = copy.as_ref().map_or(folder.path(), |copy| copy.path());
        assert!(edit(at, forgery).await > 0, "{forgery}");
        let found_now = found(at).await;
        assert!(found_now.contains(told), "{forgery}: {found_now:?}");
        if !back.is_empty() {
            edit(at, back).await;
            assert_eq!(found(at).await, "", "{back}");
        }
    }
}

#[tokio::test]
async fn a_lots_page_vouches_for_no_forged_count() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    let lot = store.begin_lot("A", "Ada").await.unwrap();
    let of_it = |action| crate::domain::Verdict { lot: Some(lot), ..verdict(action) };
    store.insert(&[of_it(Action::Accept), of_it(Action::Reject)]).await.unwrap();
    let told = store.lot(lot).await.unwrap().unwrap();
    assert_eq!(verify_lot(folder.path(), &told).await.unwrap().findings, [], "also while it is open");
    store.close().await;
    let forged = "UPDATE tallies SET action = 'accept', class = 'x' WHERE action = 'reject'";
    assert_eq!(edit(folder.path(), forged).await, 1);
    let findings = verify_lot(folder.path(), &told).await.unwrap().findings;
    assert!(findings.len() == 1 && findings[0].what.contains("counted otherwise"), "{findings:?}");
}

#[tokio::test]
async fn a_trigger_under_a_name_of_sqlites_own_is_found_and_keeps_the_store_shut() {
    let folder = filled().await;
    let database = folder.path().join("verdicts.sqlite");
    let sql = "PRAGMA writable_schema = ON;
        INSERT INTO sqlite_schema VALUES ('trigger', 'sqlite_stat_a', 'audit', 0,
            'CREATE TRIGGER sqlite_stat_a BEFORE INSERT ON audit BEGIN SELECT RAISE(IGNORE); END')";
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    assert!(found(folder.path()).await.contains("the trigger sqlite_stat_a does not belong to it"));
    let Err(why) = Store::open(folder.path()).await else { panic!("it was opened") };
    assert!(why.to_string().contains("sqlite_stat_a"), "{why}");
}

#[tokio::test]
async fn a_record_is_not_begun_anew_over_verdicts_beside_its_key() {
    let folder = filled().await;
    let gone = "DELETE FROM record; DELETE FROM head; DELETE FROM checkpoints; DELETE FROM audit; DELETE FROM labels;
        DELETE FROM tallies; DELETE FROM counts; DELETE FROM label_counts";
    assert!(edit(folder.path(), gone).await > 0);
    let Err(why) = Store::open(folder.path()).await else { panic!("it was opened") };
    assert!(why.to_string().contains("no record: somebody took it away"), "{why}");
    // A store that was begun and broke off before its first verdict goes on.
    let new = tempfile::tempdir().unwrap();
    Store::open(new.path()).await.unwrap().close().await;
    edit(new.path(), "DELETE FROM record; DELETE FROM head").await;
    Store::open(new.path()).await.unwrap().close().await;
}

#[tokio::test]
async fn a_start_that_breaks_off_before_or_after_the_record_is_begun_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let draft = folder.path().join(".record.key.new");
    std::fs::write(&draft, "half a ke").unwrap(); // before: nothing was signed by it
    let store = Store::open(folder.path()).await.unwrap();
    store.insert(&[verdict(Action::Accept)]).await.unwrap();
    store.close().await;
    assert!(!draft.exists());
    std::fs::rename(folder.path().join(SECRET), &draft).unwrap(); // after: the key had no name yet
    std::fs::remove_file(folder.path().join(PUBLIC)).unwrap();
    Store::open(folder.path()).await.unwrap().close().await;
    assert!(folder.path().join(SECRET).exists() && !draft.exists());
    assert_eq!(found(folder.path()).await, "");
    // A strange draft is no key.
    std::fs::remove_file(folder.path().join(SECRET)).unwrap();
    std::fs::write(&draft, "0".repeat(64)).unwrap();
    assert!(Store::open(folder.path()).await.is_err());
}

#[tokio::test]
async fn ids_that_are_used_up_are_an_error_and_no_panic() {
    let folder = filled().await;
    edit(folder.path(), "UPDATE sqlite_sequence SET seq = 9223372036854775806 WHERE name = 'verdicts'").await;
    let store = Store::open(folder.path()).await.unwrap();
    let Err(why) = store.insert(&vec![verdict(Action::Accept); 2]).await else { panic!("they were written") };
    assert!(why.to_string().contains("no id comes after"), "{why}");
    store.close().await;
}

#[tokio::test]
async fn what_the_keys_holder_adds_to_what_is_written_once_is_found() {
    let folder = filled().await;
    let store = Store::open(folder.path()).await.unwrap();
    let again = Event::RowHeld { table: "labels".into(), row: "1".into(), sha256: "0".repeat(64) };
    store.append(again).await.unwrap();
    let missed: Event = serde_json::from_value(serde_json::json!({
        "kind": "challenge_result", "challenge": 7, "lot": null, "camera": "belt", "found": false, "items": 0
    }))
    .unwrap();
    store.append(missed.clone()).await.unwrap();
    store.append(missed).await.unwrap();
    store.close().await;
    let found = found(folder.path()).await;
    assert!(found.contains("row 1 of labels is held a second time"), "{found}");
    assert!(found.contains("challenge test 7 is decided twice"), "{found}");
}

#[tokio::test]
async fn a_rows_entry_is_found_by_the_row_and_not_among_the_newest_events() {
    let folder = filled().await;
    let store = Store::open(folder.path()).await.unwrap();
    let query = rows::query(HeldTable::Audit);
    let steps: Vec<(i64, i64, i64, String)> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {query}")))
            .bind("audit")
            .fetch_all(&store.database)
            .await
            .unwrap();
    let steps: Vec<String> = steps.into_iter().map(|step| step.3).collect();
    assert!(steps.iter().any(|step| step.contains("record_rows")), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("record_events_by_kind")), "{steps:?}");
    store.close().await;
}

#[tokio::test]
async fn what_a_forged_index_hides_for_a_while_is_never_found() {
    let folder = filled().await;
    let rewrite = async |sql: &str| {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("verdicts.sqlite"));
        let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
    };
    let set = |end: &str| {
        format!(
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'verdict IS NULL{}',
             'verdict IS NULL{end}') WHERE name = 'record_events_by_kind'; PRAGMA writable_schema = RESET",
            if end.is_empty() { " AND kind <> ''gap''" } else { "" }
        )
    };
    rewrite(&set(" AND kind <> ''gap''")).await;
    rewrite("REINDEX record_events_by_kind").await;
    rewrite(&set("")).await;
    let store = Store::open(folder.path()).await.unwrap();
    assert_eq!(store.events(&["gap"], None).await.unwrap(), []);
    assert_ne!(found(folder.path()).await, "", "while it lasts it is found");
    store.close().await;
    rewrite("REINDEX").await;
    assert_eq!(found(folder.path()).await, "");
}

/// What verifying finds, in one line; empty for nothing.
async fn found(folder: &Path) -> String {
    let findings = verify(folder, None, None).await.unwrap().findings;
    findings.into_iter().map(|finding| finding.what).collect::<Vec<_>>().join("; ")
}

/// A copy of a closed store.
fn copied(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["verdicts.sqlite", PUBLIC, SECRET] {
        std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
    }
    copy
}
