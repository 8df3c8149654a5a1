//! The audit's answers → the pictures that two students are judged on.
//!
//! Invariant: they were drawn by chance when they were recorded, so no student's doubt chose them; none of them trains.

use std::{collections::BTreeMap, path::Path};

use super::snapshot::{SnapshotError, keep, still};
use crate::{picture::dataset::Sample, store::Store};

/// Stands for the class of a picture about which people disagree or can't tell.
pub(super) const UNSETTLED: &str = "?";

/// Writes the pictures of all answers that are there into `folder/audit`; gives their list, with paths relative to `folder`,
/// and how much each counts, by its file. An answer whose picture is gone judges nobody.
///
/// # Errors
/// [`SnapshotError`].
pub(super) async fn freeze(
    store: &Store,
    folder: &Path,
) -> Result<(Vec<Sample>, BTreeMap<String, f64>), SnapshotError> {
    let (mut samples, mut weights) = (Vec::new(), BTreeMap::new());
    for answer in store.audit_answers().await? {
        let Some(picture) = still(store, &answer.verdict).await? else { continue };
        let file = keep(folder, "audit", answer.verdict.id, &picture)?;
        weights.insert(file.clone(), answer.weight);
        let class = answer.class.unwrap_or_else(|| UNSETTLED.into());
        samples.push(Sample { file, class, group: answer.verdict.group() });
    }
    Ok((samples, weights))
}
