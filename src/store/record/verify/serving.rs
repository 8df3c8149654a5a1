//! Whether what lies in the models' folder is what the record says is to serve.

use std::path::{Path, PathBuf};

use super::{Finding, connect, finding};
use crate::{
    store::{StoreError, serving::ServingRow},
    student::{
        registry::{self, Registry},
        to_serve::ToServe,
    },
};

/// Compares the registry, the manifest of the version that is to serve and its files with the record's newest row about
/// them: what was compared, in words, and what is wrong. `models`: the models' folder; absent: where the row says it is,
/// and where nothing is, as beside a copy of the store, nothing is compared.
///
/// # Errors
/// Only when there is nothing to verify: no readable database.
pub async fn verify_serving(folder: &Path, models: Option<&Path>) -> Result<(String, Vec<Finding>), StoreError> {
    let refuse = |e: sqlx::Error| StoreError::Open { path: folder.into(), why: e.to_string() };
    let pool = connect(folder).await?;
    let row = ServingRow::newest(&pool).await.unwrap_or_default();
    pool.close().await;
    let Some(row) = row else {
        return Ok(("what is to serve: the record does not say".into(), Vec::new()));
    };
    let root = models.map_or_else(|| PathBuf::from(&row.root), Path::to_path_buf);
    if models.is_none() && !root.is_dir() {
        return Ok((format!("what is to serve: not compared, {} is not here; name it", root.display()), Vec::new()));
    }
    let registry = Registry { root: root.clone(), first: row.version.clone() };
    let findings = tokio::task::spawn_blocking(move || unlike(&registry, &row)).await;
    let findings = findings.map_err(|e| refuse(sqlx::Error::Io(std::io::Error::other(e))))?;
    Ok((format!("what is to serve: compared with {}", root.display()), findings))
}

fn unlike(registry: &Registry, row: &ServingRow) -> Vec<Finding> {
    let now = match ToServe::read(registry) {
        Ok(now) => now,
        Err(e) => return vec![finding(0, e.to_string())],
    };
    if row.continued_by(&now) && now.history.len() as i64 > row.changes {
        let more = now.history.len() as i64 - row.changes;
        let what = format!("{more} changes of what is to serve are in no entry; a service that starts tells of them");
        return vec![finding(0, what)];
    }
    let files = || registry::verify(&registry.root.join(&row.version)).err().map(|e| e.to_string());
    row.unlike(&now).or_else(files).map(|what| finding(0, what)).into_iter().collect()
}
