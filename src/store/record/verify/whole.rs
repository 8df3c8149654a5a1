//! The whole record: its totals against each other and the signed head, then every entry.

use ed25519_dalek::VerifyingKey;
use sqlx::{
    Row, SqliteConnection,
    sqlite::{SqlitePool, SqliteRow},
};

use super::{
    Finding, TOLD, Verification,
    counts::ToldCounts,
    finding,
    parts::{Head, SignedMark, verify_parts},
    rows::verify_rows,
};
use crate::store::{
    record::{chain::CHECKPOINT, signer::hex},
    schema,
    tallies::{Counted, removed_by_lot},
};

/// What the tables hold; −1 where a number can't be read.
struct Totals {
    entries: i64,
    first: i64,
    last: i64,
    /// Entries that hold a verdict.
    held: i64,
    /// Documents of verdicts.
    verdicts: i64,
    checkpoints: i64,
    heads: i64,
    head: Option<SignedMark>,
}

/// What retention says that it removed: verdicts up to an id, and how many.
struct Removal {
    to: i64,
    verdicts: i64,
}

pub(super) async fn verify_whole(pool: &SqlitePool, key: &VerifyingKey) -> Result<Verification, sqlx::Error> {
    let mut findings = Vec::new();
    // One state, even beside a writer.
    let mut state = pool.begin().await?;
    let totals = Totals::read(&mut state, &mut findings).await?;
    let told = ToldCounts::read(&mut state, totals.head.as_ref().map_or(totals.last, |mark| mark.seq)).await;
    state.rollback().await?;
    let (head, signed) = match &totals.head {
        Some(mark) => (Head { seq: mark.seq, hash: mark.hash }, mark.time.clone()),
        None => (Head { seq: totals.last, hash: [0; 32] }, String::new()),
    };
    // Read before its entries are verified, and believed only if they are whole.
    let removal = Removal::read(pool, head.seq).await.unwrap_or_else(|e| {
        findings.push(finding(0, format!("events can't be read: {e}")));
        Removal { to: 0, verdicts: 0 }
    });
    totals.compare(key, head.seq, &removal, &mut findings);

    // The last place is looked at too when it lies beyond the head, so that what was appended is told by place.
    let parts = [(1, head.seq.max(totals.last))];
    let (found, pages) = tokio::join!(verify_parts(pool, key, &parts, head, removal.to), verify_pages(pool));
    let found = found?;
    findings.extend(found.findings);
    findings.extend(schema_findings(pool).await?);
    findings.extend(pages?);
    let own = verify_own_rows(pool).await;
    findings.extend(own.unwrap_or_else(|e| vec![finding(0, format!("what no entry holds can't be read: {e}"))]));
    findings.extend(verify_rows(pool).await?);
    if findings.is_empty() && found.removed != removal.verdicts {
        let what = format!("{} verdicts are gone, but retention removed {}", found.removed, removal.verdicts);
        findings.push(finding(0, what));
    }
    if findings.is_empty() {
        findings.extend(count_findings(pool, told, head.seq, &found.counted).await?);
    }
    findings.sort();
    findings.truncate(TOLD);
    Ok(Verification {
        entries: totals.entries,
        verdicts: totals.held,
        removed: removal.verdicts,
        checkpoints: totals.checkpoints,
        head: hex(&head.hash),
        signed,
        public_key: hex(key.as_bytes()),
        findings,
    })
}

/// What the tables of counts say that `there`, the verdicts up to `head`, do not.
async fn count_findings(
    pool: &SqlitePool,
    told: Result<Option<ToldCounts>, sqlx::Error>,
    head: i64,
    there: &Counted,
) -> Result<Vec<Finding>, sqlx::Error> {
    let told = match told {
        Ok(Some(told)) => told,
        Ok(None) => return Ok(Vec::new()),
        Err(e) => return Ok(vec![finding(0, format!("the counts can't be read: {e}"))]),
    };
    let mut state = pool.begin().await?;
    let mut since = removed_by_lot(&mut state, i64::MAX).await?;
    for (lot, n) in removed_by_lot(&mut state, head).await? {
        *since.entry(lot).or_default() -= n;
    }
    state.rollback().await?;
    since.retain(|_, n| *n != 0);
    Ok(told.compare(there, &since))
}

/// What is unlike a fresh database: there a column or a view may say what no entry holds.
pub(super) async fn schema_findings(pool: &SqlitePool) -> Result<Vec<Finding>, sqlx::Error> {
    let differences = schema::differences(&mut *pool.acquire().await?).await?;
    Ok(differences.into_iter().map(|what| finding(0, format!("in the database {what}"))).collect())
}

/// What SQLite finds in its own pages: an index that leads elsewhere than its table hides rows from a list.
async fn verify_pages(pool: &SqlitePool) -> Result<Vec<Finding>, sqlx::Error> {
    let told: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(20)").fetch_all(pool).await?;
    Ok(told
        .into_iter()
        .filter(|line| line != "ok")
        .map(|what| finding(0, format!("in the database: {what}")))
        .collect())
}

/// What the program alone reads, and no entry holds: the head's own key, and which ids come next. An id that a removed row had
/// would name two; one beyond all reach would be the last.
async fn verify_own_rows(pool: &SqlitePool) -> Result<Vec<Finding>, sqlx::Error> {
    let head: bool =
        sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM head WHERE one IS NOT 1)").fetch_one(pool).await?;
    let mut findings = Vec::new();
    if !head {
        findings.push(finding(0, "the head does not stand where it belongs"));
    }
    // One row of the record's first entry says whether it began with the store: else ids may have been given before.
    let with_store: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM record WHERE seq = 1 AND verdict IS NULL AND json_extract(body, '$.rows'))",
    )
    .fetch_one(pool)
    .await?;
    let given = "SELECT coalesce(CAST(name AS TEXT), ''), count(*), CAST(max(seq) AS INTEGER), CAST(CASE name
            WHEN 'verdicts' THEN (SELECT verdict FROM record WHERE verdict IS NOT NULL ORDER BY seq DESC LIMIT 1)
            WHEN 'labels' THEN (SELECT max(id) FROM labels)
            WHEN 'audit' THEN (SELECT max(id) FROM audit)
            ELSE max(seq) END AS INTEGER)
         FROM sqlite_sequence GROUP BY name";
    let mut verdicts = 0;
    let rows: Vec<(String, i64, Option<i64>, Option<i64>)> = sqlx::query_as(given).fetch_all(pool).await?;
    for (table, rows, next, last) in rows {
        let (next, last) = (next.unwrap_or(0), last.unwrap_or(0));
        let exact = with_store || table != "verdicts";
        if rows != 1 || next < last || exact && next != last {
            findings.push(finding(0, format!("the next of {table} would get an id after {next}, not after {last}")));
        }
        verdicts += i64::from(table == "verdicts");
    }
    let any: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM record WHERE verdict IS NOT NULL)").fetch_one(pool).await?;
    if any && verdicts == 0 {
        findings.push(finding(0, "the next verdict would get an id that one has had"));
    }
    let twice: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT max(seq), CAST(json_extract(body, '$.challenge') AS INTEGER) FROM record
         WHERE verdict IS NULL AND kind = 'challenge_result' GROUP BY 2 HAVING count(*) > 1 LIMIT 20",
    )
    .fetch_all(pool)
    .await?;
    findings.extend(twice.iter().map(|(seq, test)| finding(*seq, format!("challenge test {test} is decided twice"))));
    Ok(findings)
}

impl Totals {
    async fn read(connection: &mut SqliteConnection, findings: &mut Vec<Finding>) -> Result<Self, sqlx::Error> {
        let state: SqliteRow = sqlx::query(
            "SELECT (SELECT count(*) FROM record), (SELECT min(seq) FROM record), (SELECT max(seq) FROM record),
                    (SELECT count(*) FROM record WHERE verdict IS NOT NULL), (SELECT count(*) FROM verdicts),
                    (SELECT count(*) FROM checkpoints), (SELECT count(*) FROM head),
                    (SELECT seq FROM head), (SELECT hash FROM head), (SELECT time FROM head),
                    (SELECT signature FROM head)",
        )
        .fetch_one(connection)
        .await?;
        let mut number = |column: usize| {
            state.try_get::<Option<i64>, _>(column).ok().flatten().unwrap_or_else(|| {
                findings.push(finding(0, format!("a number of the record can't be read (column {column})")));
                -1
            })
        };
        let [entries, first, last, held, verdicts, checkpoints, heads] = [0, 1, 2, 3, 4, 5, 6].map(&mut number);
        let head = SignedMark::read(&state, 7);
        Ok(Self { entries, first, last, held, verdicts, checkpoints, heads, head })
    }

    /// Finds what does not fit together, for a head at `seq`.
    fn compare(&self, key: &VerifyingKey, seq: i64, removal: &Removal, findings: &mut Vec<Finding>) {
        let Self { entries, first, last, held, verdicts, checkpoints, heads, head } = self;
        if *heads != 1 {
            findings.push(finding(0, "the signed head is gone"));
        }
        if !head.as_ref().is_some_and(|mark| mark.signed("head", key)) {
            findings.push(finding(seq, "the head is not signed by this key"));
        }
        if (*first, *last, *entries) != (1, seq, seq) {
            let what = format!("{entries} entries from {first} to {last}, but the signed head is entry {seq}");
            findings.push(finding(0, what));
        }
        let removed = removal.verdicts;
        if *held != verdicts + removed {
            let what =
                format!("{verdicts} verdicts and {removed} removed by retention, but {held} entries that hold one");
            findings.push(finding(0, what));
        }
        if *checkpoints != seq / CHECKPOINT {
            findings.push(finding(0, format!("{checkpoints} checkpoints instead of {}", seq / CHECKPOINT)));
        }
    }
}

impl Removal {
    async fn read(pool: &SqlitePool, head: i64) -> Result<Self, sqlx::Error> {
        let told = sqlx::query_as(
            "SELECT coalesce(max(json_extract(body, '$.to')), 0), coalesce(sum(json_extract(body, '$.verdicts')), 0)
             FROM record WHERE verdict IS NULL AND kind = 'verdicts_removed' AND seq <= ?",
        );
        let (to, verdicts) = told.bind(head).fetch_one(pool).await?;
        Ok(Self { to, verdicts })
    }
}
