//! What can be asked for: one file per resource.

pub(in crate::api) mod audit;
pub(in crate::api) mod challenges;
pub(in crate::api) mod classify;
pub(in crate::api) mod clock;
pub(in crate::api) mod confirmations;
pub(in crate::api) mod frames;
pub(in crate::api) mod health;
pub(in crate::api) mod items;
pub(in crate::api) mod labels;
pub(in crate::api) mod live;
pub(in crate::api) mod lots;
pub(in crate::api) mod models;
pub(in crate::api) mod rounds;
mod tensors;
pub(in crate::api) mod v2;
pub(in crate::api) mod verdicts;

use super::error::ApiError;

/// Runs what reads the disk or waits for long on a thread where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| ApiError::Internal(e.to_string()))?
}
