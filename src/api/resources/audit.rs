//! `GET /audit`: who changed what.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        input::{page_size, query},
    },
    store::Deed,
};

/// Which entries are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Only older ones than this id: pass `next` of the page before.
    before: Option<i64>,
    /// Page size, 1 to 500; 100 if absent.
    limit: Option<u32>,
}

/// A page of the audit log, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Audit {
    /// The page.
    entries: Vec<Deed>,
    /// Pass it as `before` to get the next page; absent on the last one.
    next: Option<i64>,
}

/// Every change that was asked for over HTTP, done or refused, newest first.
#[utoipa::path(get, path = "/audit", params(AuditQuery), tag = "access",
    responses((status = 200, body = Audit), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Audit>, ApiError> {
    let AuditQuery { before, limit } = query(asked)?;
    let limit = page_size(limit, 100)?;
    let entries = api.store.deeds(before, limit).await?;
    let next = entries.last().filter(|_| entries.len() == limit as usize).map(|deed| deed.id);
    Ok(Json(Audit { entries, next }))
}
