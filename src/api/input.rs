//! What clients may write into a request: bounds that several resources share, refused with a message that says them.

use axum::extract::{Query, rejection::QueryRejection};

use super::error::ApiError;
use crate::store::{MAX_PAGE, Store, StoreError, VerdictName};

/// Longest name of a person, in characters.
pub(super) const MAX_NAME: usize = 64;

/// The query of a request.
///
/// # Errors
/// [`ApiError::Malformed`].
pub(super) fn query<T>(read: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    read.map(|Query(query)| query).map_err(|e| ApiError::Malformed(e.body_text()))
}

/// Text that people typed, without blanks around it: neither empty nor longer than `longest` characters.
///
/// # Errors
/// [`ApiError::Malformed`], which names the text `what`.
pub(super) fn text(what: &str, value: &str, longest: usize) -> Result<String, ApiError> {
    let value = value.trim();
    if value.is_empty() || value.chars().count() > longest {
        return Err(ApiError::Malformed(format!("`{what}` must have 1 to {longest} characters")));
    }
    Ok(value.to_owned())
}

/// The size of a page: `limit`, or `default` if absent; 1 to [`MAX_PAGE`].
///
/// # Errors
/// [`ApiError::Malformed`].
pub(super) fn page_size(limit: Option<u32>, default: u32) -> Result<u32, ApiError> {
    let limit = limit.unwrap_or(default);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::Malformed(format!("`limit` must be 1 to {MAX_PAGE}, not {limit}")));
    }
    Ok(limit)
}

/// The id of the one verdict that a list is narrowed to; 0, which no verdict has, for a uid that none has.
///
/// # Errors
/// [`StoreError::Database`].
pub(super) async fn only(store: &Store, verdict: Option<VerdictName>) -> Result<Option<i64>, StoreError> {
    let Some(name) = verdict else { return Ok(None) };
    Ok(Some(store.verdict_id(name).await?.unwrap_or(0)))
}
