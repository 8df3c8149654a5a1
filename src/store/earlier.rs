//! Stores as earlier versions of the program left them, for tests and for `beltsight bench kills`.
//!
//! What stands here was written as that version wrote it and never changes: no code of today's writer is used.

use std::path::Path;

use sha2::{Digest, Sha256};
use sqlx::{
    Connection, SqliteConnection, SqliteTransaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use super::{
    DATABASE, FRAMES, MIGRATIONS, StoreError, migrations,
    record::{
        chain::{link, seed},
        signer::{Mark, Signer},
    },
};
use crate::domain::hash::sha256;

/// How many versions of the store there are, today's included.
pub const VERSIONS: usize = MIGRATIONS.len();
/// The first version whose verdicts were entries of a record.
const CHAINED: usize = 3;
/// … that wrote down who changed what.
const AUDITED: usize = 4;
/// … that knew of pictures which were removed.
const FORGETFUL: usize = 6;
/// … whose other rows were held by entries.
const HELD: usize = 7;
/// The time of everything.
const TIME: &str = "2026-11-25T08:00:00Z";

/// Makes the store that version `version` (1 is the first) left in the empty folder `folder`: `verdicts` verdicts, every
/// tenth with a picture; labels, a record with a lot, an audit log and a removed picture where it had such.
///
/// # Errors
/// The system's and SQLite's.
pub async fn make_earlier(folder: &Path, version: usize, verdicts: i64) -> Result<(), StoreError> {
    let refuse = |why: std::io::Error| StoreError::Open { path: folder.into(), why: why.to_string() };
    let day = folder.join(FRAMES).join("20261125");
    std::fs::create_dir_all(&day).map_err(refuse)?;
    let mut connection = connect(folder).await?;
    migrate(&mut connection, version).await?;
    let mut transaction = connection.begin().await?;
    let mut bodies = Vec::new();
    for id in 1..=verdicts {
        let picture = (id % 10 == 1).then(|| format!("picture {id}"));
        let name = picture.map(|picture| {
            let name = sha256(picture.as_bytes())[..24].to_owned();
            std::fs::write(day.join(format!("{name}.jpg")), picture).map(|()| name)
        });
        let body = verdict(id, name.transpose().map_err(refuse)?, version >= CHAINED);
        sqlx::query("INSERT INTO verdicts (body) VALUES (?)").bind(&body).execute(&mut *transaction).await?;
        bodies.push((Some(id), Sha256::digest(body).to_vec()));
    }
    if version > 1 {
        let labels = "INSERT INTO labels (verdict, class, labeler, at, withdraws) VALUES
            (1, 'salmon', 'Ada', '2026-11-25T08:00:01Z', NULL), (1, 'cod', 'Ada', '2026-11-25T08:00:02Z', NULL),
            (11, NULL, 'Ben', '2026-11-25T08:00:03Z', NULL), (11, NULL, 'Ben', '2026-11-25T08:00:04Z', 3)";
        sqlx::query(labels).execute(&mut *transaction).await?;
    }
    if version >= AUDITED {
        let deed = "INSERT INTO audit (time, name, role, address, method, path, status)
            VALUES ('2026-11-25T08:00:05Z', 'ada', 'operator', '127.0.0.1:9', 'POST', '/lots', 201)";
        sqlx::query(deed).execute(&mut *transaction).await?;
    }
    if version >= CHAINED {
        write_record(&mut transaction, folder, version, bodies).await?;
    }
    transaction.commit().await?;
    connection.close().await?;
    Ok(())
}

/// Runs the migrations up to `version` alone, as a program did that was killed before the next one.
///
/// # Errors
/// SQLite's.
pub async fn migrate_to(folder: &Path, version: usize) -> Result<(), StoreError> {
    let mut connection = connect(folder).await?;
    migrate(&mut connection, version).await?;
    connection.close().await?;
    Ok(())
}

async fn connect(folder: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(DATABASE))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    Ok(SqliteConnection::connect_with(&options).await?)
}

async fn migrate(connection: &mut SqliteConnection, version: usize) -> Result<(), StoreError> {
    let failed = |e: sqlx::migrate::MigrateError| sqlx::Error::Migrate(Box::new(e));
    let first = migrations().iter().take(version).cloned().collect();
    Ok(Migrator::with_migrations(first).run_direct(None, connection, false).await.map_err(failed)?)
}

/// A verdict's document: of the first version, or with what the record brought.
fn verdict(id: i64, picture: Option<String>, of_lot: bool) -> String {
    let action = if id % 3 == 0 { "reject" } else { "accept" };
    let reason = if id % 3 == 0 { "wrong_class" } else { "accepted" };
    let frame = picture.map_or("null".into(), |name| format!("\"20261125-{name}\""));
    let more = if of_lot { r#","thresholds":"0123456789ab","lot":2,"novelty":0.25"# } else { "" };
    format!(
        r#"{{"id":0,"time":"{TIME}","source":"belt","camera":"belt","track":{id},"region":null,"action":"{action}","reason":"{reason}","class":"salmon","accept_probability":0.5,"scores":[{{"class":"salmon","probability":0.5}}],"model":"belt-small@0123456789ab","fault":null,"timings":{{"decode_ms":1.5,"locate_ms":0.125,"queue_ms":0.25,"infer_ms":7.0,"total_ms":8.75}},"frame":{frame},"truth":null{more}}}"#
    )
}

/// Begins a record with a lot that holds all verdicts, and with a removed picture and held rows where there were such.
async fn write_record(
    transaction: &mut SqliteTransaction<'_>,
    folder: &Path,
    version: usize,
    verdicts: Vec<(Option<i64>, Vec<u8>)>,
) -> Result<(), StoreError> {
    let event =
        |kind: &str, more: &str| (None::<i64>, format!(r#"{{"time":"{TIME}","kind":"{kind}"{more}}}"#).into_bytes());
    let mut bodies = vec![
        event("began", if version >= HELD { r#","rows":true"# } else { "" }),
        event("lot_opened", r#","name":"K-17","by":"Ada""#),
    ];
    bodies.extend(verdicts);
    bodies.push(event("lot_closed", r#","lot":2,"by":"Ada""#));
    if version >= FORGETFUL {
        let gone = "INSERT INTO frames_gone (key, upto) SELECT frame, id FROM verdicts WHERE id = 21 RETURNING key";
        let key: Option<String> = sqlx::query_scalar(gone).fetch_optional(&mut **transaction).await?;
        let file = key.and_then(|key| Some(format!("20261125/{}.jpg", key.strip_prefix("20261125-")?)));
        let _ = file.map(|file| std::fs::remove_file(folder.join(FRAMES).join(file)));
        bodies.push(event("pictures_removed", r#","pictures":1"#));
    }
    if version >= HELD {
        for (table, rows) in [
            ("labels", "SELECT CAST(id AS TEXT), json_array(id, verdict, class, labeler, at, withdraws) FROM labels"),
            (
                "audit",
                "SELECT CAST(id AS TEXT), json_array(id, time, name, role, address, method, path, status) FROM audit",
            ),
            ("frames_gone", "SELECT key, json_array(key, upto) FROM frames_gone"),
        ] {
            let rows: Vec<(String, String)> = sqlx::query_as(rows).fetch_all(&mut **transaction).await?;
            bodies.extend(rows.into_iter().map(|(row, text)| {
                let hash = sha256(text.as_bytes());
                event("row_held", &format!(r#","table":"{table}","row":"{row}","sha256":"{hash}""#))
            }));
        }
    }
    let signer = Signer::make(folder)?;
    let (mut hash, mut seq) = (seed(), 0);
    for (verdict, body) in &bodies {
        seq += 1;
        hash = link(&hash, seq, *verdict, body);
        let insert = match verdict {
            Some(_) => "INSERT INTO record (seq, verdict, body, hash) VALUES (?, ?, ?, ?)",
            None => "INSERT INTO record (seq, verdict, body, hash) VALUES (?, ?, CAST(? AS TEXT), ?)",
        };
        let row = sqlx::query(insert).bind(seq).bind(*verdict).bind(&body[..]).bind(&hash[..]);
        row.execute(&mut **transaction).await?;
        if seq % 1024 == 0 {
            sign(transaction, &signer, "checkpoint", seq, &hash).await?;
        }
    }
    sign(transaction, &signer, "head", seq, &hash).await?;
    Ok(Signer::keep(folder)?)
}

async fn sign(
    transaction: &mut SqliteTransaction<'_>,
    signer: &Signer,
    kind: &'static str,
    seq: i64,
    hash: &[u8; 32],
) -> Result<(), StoreError> {
    let signature = signer.sign(&Mark { kind, seq, hash, time: TIME });
    let insert = match kind {
        "head" => "INSERT INTO head (one, seq, hash, time, signature) VALUES (1, ?, ?, ?, ?)",
        _ => "INSERT INTO checkpoints (seq, hash, time, signature) VALUES (?, ?, ?, ?)",
    };
    sqlx::query(insert).bind(seq).bind(&hash[..]).bind(TIME).bind(&signature[..]).execute(&mut **transaction).await?;
    Ok(())
}
