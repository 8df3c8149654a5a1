//! Whether the database's tables, columns, indices, triggers and views are those that [`super::migrations`] makes.
//!
//! Lists and tallies read columns that SQLite computes from the documents; what computes them is text in the database's
//! schema. Who may write the file may also redefine `action` to say `accept` of every verdict, and no entry's hash would
//! tell. So the schema is compared, object by object and byte for byte, with that of a fresh database.
//!
//! Left out: `sqlite_stat…`, what `ANALYZE` leaves, which changes how fast an answer comes, never the answer; and the text of
//! sqlx's own table, which its versions write differently; what stands in it is compared.

use std::collections::BTreeMap;

use sqlx::{
    Row, SqliteConnection,
    migrate::Migrator,
    sqlite::{SqlitePoolOptions, SqliteRow},
};

use super::{MIGRATIONS, migrations};

/// sqlx's table of the migrations that were run.
const OWN: &str = "_sqlx_migrations";

/// What `ANALYZE` makes.
const STATISTICS: [&str; 2] = ["sqlite_stat1", "sqlite_stat4"];

/// Type, table and text of each object, by name.
type Objects = BTreeMap<String, (String, String, String)>;

/// What is unlike a fresh database of the same version, in words; empty where nothing is.
///
/// # Errors
/// SQLite's.
pub(super) async fn differences(connection: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    let found = objects(connection).await?;
    let run: i64 = sqlx::query_scalar("SELECT count(*) FROM _sqlx_migrations").fetch_one(&mut *connection).await?;
    let run = usize::try_from(run).unwrap_or_default().min(MIGRATIONS.len());
    let mut wanted = fresh(run).await?;
    let mut differences = Vec::new();
    for (name, object) in found {
        match wanted.remove(&name) {
            None => differences.push(format!("the {} {name} does not belong to it", object.0)),
            Some(as_made) if as_made != object => differences.push(format!("the {} {name} was redefined", as_made.0)),
            Some(_) => {}
        }
    }
    let ours: Vec<_> = migrations().iter().map(|one| (one.version, one.checksum.to_vec(), true)).collect();
    let there: Vec<(i64, Vec<u8>, bool)> =
        sqlx::query_as("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut *connection)
            .await?;
    if !ours.starts_with(&there) {
        differences.push("the list of migrations says what was not run".into());
    }
    differences.extend(wanted.iter().map(|(name, object)| format!("the {} {name} is gone", object.0)));
    Ok(differences)
}

/// The objects of a fresh database after its first `run` migrations.
async fn fresh(run: usize) -> Result<Objects, sqlx::Error> {
    let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
    let first = migrations().iter().take(run).cloned().collect();
    let failed = |e: sqlx::migrate::MigrateError| sqlx::Error::Migrate(Box::new(e));
    Migrator::with_migrations(first).run(&pool).await.map_err(failed)?;
    objects(&mut *pool.acquire().await?).await
}

async fn objects(connection: &mut SqliteConnection) -> Result<Objects, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT CAST(name AS BLOB), CAST(type AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema",
    )
    .fetch_all(connection)
    .await?;
    let text = |row: &SqliteRow, column: usize| {
        let bytes: Option<Vec<u8>> = row.try_get(column)?;
        Ok::<_, sqlx::Error>(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let mut objects = Objects::new();
    for row in &rows {
        let [name, kind, table, sql] = [text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?];
        if !(kind == "table" && STATISTICS.contains(&name.as_str())) {
            let sql = if name == OWN { String::new() } else { sql };
            objects.insert(name, (kind, table, sql));
        }
    }
    Ok(objects)
}
