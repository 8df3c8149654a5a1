//! Forgeries by SQL: values, rows, the schema.

use std::path::Path;

use rand::{Rng, RngExt};
use sqlx::{
    AssertSqlSafe, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};

use super::{one, run};
use crate::store::{DATABASE, StoreError, record::signer::hex};

/// What a forger might add.
const ADDED: [&str; 7] = [
    "CREATE VIEW lots AS SELECT 1",
    "CREATE TABLE verdicts_hidden AS SELECT * FROM verdicts",
    "CREATE TRIGGER later AFTER INSERT ON verdicts BEGIN UPDATE head SET time = time; END",
    "CREATE INDEX record_quick ON record (kind) WHERE seq < 100",
    "ANALYZE; UPDATE sqlite_stat1 SET stat = '1 1'",
    "PRAGMA user_version = 77",
    "PRAGMA application_id = 77",
];

/// The database without its triggers, checks and foreign keys.
pub(super) async fn open(folder: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(folder.join(DATABASE))
        .foreign_keys(false)
        .synchronous(SqliteSynchronous::Off)
        .pragma("ignore_check_constraints", "ON")
        .pragma("writable_schema", "ON");
    let mut connection = SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql("CREATE TEMP TABLE dropped AS SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
        .execute(&mut connection)
        .await?;
    for (name, _) in dropped(&mut connection).await? {
        run(&mut connection, format!("DROP TRIGGER {name}")).await;
    }
    Ok(connection)
}

/// Makes the triggers again, so that nothing tells of the forger but what was forged.
pub(super) async fn close(mut connection: SqliteConnection) -> Result<(), StoreError> {
    for (_, sql) in dropped(&mut connection).await.unwrap_or_default() {
        run(&mut connection, sql).await;
    }
    let _ = connection.close().await; // of a schema that SQLite can't read any more
    Ok(())
}

async fn dropped(connection: &mut SqliteConnection) -> Result<Vec<(String, String)>, sqlx::Error> {
    sqlx::query_as("SELECT name, sql FROM temp.dropped ORDER BY name").fetch_all(connection).await
}

/// A table and how its rows are told apart.
struct Table {
    name: String,
    key: String,
    columns: Vec<String>,
}

async fn tables(connection: &mut SqliteConnection) -> Result<Vec<Table>, sqlx::Error> {
    let names: Vec<(String, bool)> = sqlx::query_as(
        "SELECT s.name, (SELECT wr FROM pragma_table_list AS l WHERE l.schema = 'main' AND l.name = s.name)
         FROM sqlite_schema AS s WHERE type = 'table' ORDER BY s.name",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut tables = Vec::new();
    for (name, without_rowid) in names {
        let columns: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, pk FROM pragma_table_xinfo(?) WHERE hidden = 0 ORDER BY cid")
                .bind(&name)
                .fetch_all(&mut *connection)
                .await?;
        let first = columns.iter().find(|(_, pk)| *pk == 1).map(|(column, _)| column.clone());
        let key = first.filter(|_| without_rowid).unwrap_or_else(|| "rowid".into());
        tables.push(Table { name, key, columns: columns.into_iter().map(|(column, _)| column).collect() });
    }
    Ok(tables)
}

/// The key of a random row, as SQL.
async fn some_row(
    connection: &mut SqliteConnection,
    random: &mut impl Rng,
    table: &Table,
) -> Result<Option<String>, sqlx::Error> {
    let Table { name, key, .. } = table;
    let rows: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {name}"))).fetch_one(&mut *connection).await?;
    if rows == 0 {
        return Ok(None);
    }
    let at = random.random_range(0..rows);
    let query = format!("SELECT quote({key}) FROM {name} ORDER BY {key} LIMIT 1 OFFSET {at}");
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_optional(connection).await
}

/// Changes one value: the columns of all tables in turn, each in several ways.
pub(super) async fn value(
    connection: &mut SqliteConnection,
    random: &mut impl Rng,
    turn: usize,
) -> Result<Option<String>, sqlx::Error> {
    let tables = tables(connection).await?;
    let pairs: Vec<(&Table, &String)> =
        tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column))).collect();
    let (table, column) = pairs[turn % pairs.len()];
    let Some(row) = some_row(connection, random, table).await? else { return Ok(None) };
    let Table { name, key, .. } = table;
    let read =
        format!("SELECT typeof({column}), coalesce(CAST({column} AS BLOB), x'') FROM {name} WHERE {key} = {row}");
    let (kind, bytes): (String, Vec<u8>) = sqlx::query_as(AssertSqlSafe(read)).fetch_one(&mut *connection).await?;
    let other = some_row(connection, random, table).await?.unwrap_or_default();
    let other = format!("(SELECT {column} FROM {name} WHERE {key} = {other})");
    let text = |bytes: &[u8], kind: &str| format!("CAST(x'{}' AS {kind})", hex(bytes));
    let flipped = {
        let mut bytes = bytes.clone();
        if let Some(at) = (!bytes.is_empty()).then(|| random.random_range(0..bytes.len())) {
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        text(&bytes, &kind)
    };
    let ways = [
        if kind == "integer" { format!("{column} + 1") } else { flipped },
        "NULL".into(),
        "0".into(),
        other,
        text(&bytes, if kind == "blob" { "TEXT" } else { "BLOB" }),
        "''".into(),
        format!("CAST({column} || ' ' AS {kind})"),
        "-1".into(),
    ];
    let value = one(random, &ways).cloned().unwrap_or_default();
    let sql = format!("UPDATE {name} SET {column} = {value} WHERE {key} = {row} AND {column} IS NOT {value}");
    let changed = run(connection, sql).await;
    Ok((changed > 0).then(|| format!("{name}.{column} of row {row:.40} was {kind}, is {value:.80}")))
}

/// Removes, doubles or swaps rows: all tables in turn.
pub(super) async fn row(
    connection: &mut SqliteConnection,
    random: &mut impl Rng,
    turn: usize,
) -> Result<Option<String>, sqlx::Error> {
    let tables = tables(connection).await?;
    let table = &tables[turn % tables.len()];
    let (Some(a), Some(b)) = (some_row(connection, random, table).await?, some_row(connection, random, table).await?)
    else {
        return Ok(None);
    };
    let Table { name, key, columns } = table;
    let rest: Vec<&str> = columns.iter().map(String::as_str).filter(|column| column != key).collect();
    let rest = if rest.len() > 1 && key == "rowid" && rest[0] != "name" { &rest[1..] } else { &rest[..] };
    let list = rest.join(", ");
    let (what, sql) = match random.random_range(0..4) {
        0 => ("removed", format!("DELETE FROM {name} WHERE {key} = {a}")),
        1 => ("removed with all after it", format!("DELETE FROM {name} WHERE {key} >= {a}")),
        2 => ("doubled", format!("INSERT INTO {name} ({list}) SELECT {list} FROM {name} WHERE {key} = {a}")),
        _ if a == b => return Ok(None),
        _ => (
            "swapped",
            format!(
                "CREATE TEMP TABLE both AS SELECT {key} AS k, {list} FROM {name} WHERE {key} IN ({a}, {b});
                 UPDATE {name} SET ({list}) = (SELECT {list} FROM temp.both WHERE k <> {name}.{key})
                 WHERE {key} IN ({a}, {b})"
            ),
        ),
    };
    let before = state(connection, table).await;
    run(connection, sql).await;
    let changed = state(connection, table).await != before;
    Ok(changed.then(|| format!("row {a:.40} of {name} {what} ({b:.40})")))
}

/// All rows of a table, to see whether any changed.
async fn state(connection: &mut SqliteConnection, table: &Table) -> Option<Vec<String>> {
    let quoted: Vec<String> = table.columns.iter().map(|column| format!("quote({column})")).collect();
    let query = format!("SELECT {} FROM {}", quoted.join(" || ',' || "), table.name);
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(connection).await.ok()
}

/// Drops, redefines or adds an object of the schema: all in turn.
pub(super) async fn schema(
    connection: &mut SqliteConnection,
    random: &mut impl Rng,
    turn: usize,
) -> Result<Option<String>, sqlx::Error> {
    let objects: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL
         UNION ALL SELECT 'trigger', name, sql FROM temp.dropped ORDER BY 2",
    )
    .fetch_all(&mut *connection)
    .await?;
    let (kind, name, sql) = &objects[turn % objects.len()];
    let way = random.random_range(0..4);
    if way == 0 {
        let added = one(random, &ADDED).copied().unwrap_or_default();
        run(connection, added.into()).await;
        return Ok(Some(added.into()));
    }
    if way == 1 && !name.starts_with("sqlite_") {
        let sql = match &**kind {
            "trigger" => format!("DELETE FROM temp.dropped WHERE name = '{name}'"),
            _ => format!("DROP {kind} {name}"),
        };
        let before = count(connection).await;
        run(connection, sql).await;
        return Ok((count(connection).await != before).then(|| format!("{kind} {name} dropped")));
    }
    let redefined = redefine(sql, random);
    let quoted = redefined.replace('\'', "''");
    let sql = match &**kind {
        "trigger" => format!("UPDATE temp.dropped SET sql = '{quoted}' WHERE name = '{name}'"),
        _ => format!("UPDATE sqlite_schema SET sql = '{quoted}' WHERE name = '{name}'"),
    };
    let changed = redefined != objects[turn % objects.len()].2 && run(connection, sql).await > 0;
    Ok(changed.then(|| format!("{kind} {name} redefined: {redefined:.200}")))
}

async fn count(connection: &mut SqliteConnection) -> i64 {
    let all = "SELECT (SELECT count(*) FROM sqlite_schema) + (SELECT count(*) FROM temp.dropped)";
    sqlx::query_scalar(all).fetch_one(connection).await.unwrap_or(-1)
}

/// Reads another field, another constant, or one letter else.
fn redefine(sql: &str, random: &mut impl Rng) -> String {
    let fields = ["$.action", "$.reason", "$.lot", "$.kind", "$.source", "$.class", "$.frame", "$.time"];
    let used: Vec<&str> = fields.into_iter().filter(|field| sql.contains(field)).collect();
    match (random.random_range(0..3), one(random, &used), one(random, &fields)) {
        (0, Some(field), Some(other)) => sql.replace(field, other),
        (1, Some(field), _) => sql.replace(&format!("json_extract(body, '{field}')"), "'accept'"),
        _ => {
            let mut letters: Vec<char> = sql.chars().collect();
            let at = random.random_range(0..letters.len());
            letters[at] = if letters[at] == ' ' { '_' } else { ' ' };
            letters.into_iter().collect()
        }
    }
}
