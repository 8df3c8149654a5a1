//! `/lots`: lots of the record: open, close, count, review, export.
//!
//! Invariant: an answer that a lot was opened, closed or reviewed is given only after the record has it.

use axum::{
    Extension, Json,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State, rejection::QueryRejection},
    http::{Response, StatusCode, header},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use crate::{
    api::{
        Api, Caller,
        error::{ApiError, Problem},
        http::body,
        input::{page_size, query, text},
    },
    export::{LotCsv, LotReport, opening, page, taken_off},
    store::{Lot, MAX_PAGE, StoreError, verify_lot},
};

/// Longest name, in characters.
const NAME: usize = 200;
/// One page at a time: each verifies its lot's part of the record, and the belt comes first.
static PAGES: Semaphore = Semaphore::const_new(1);

/// A lot to be opened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLot {
    /// What people call it, 1 to 200 characters.
    name: String,
    /// Who opens it.
    #[serde(default)]
    by: String,
}

/// Who closes a lot.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Closing)]
pub struct LotClosing {
    /// Who closes it.
    #[serde(default)]
    by: String,
}

/// A review.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Review {
    /// Who reviewed the lot.
    name: String,
    /// What they say about it.
    #[serde(default)]
    remark: String,
}

/// The number of a lot.
#[derive(Debug, Serialize, ToSchema)]
pub struct LotNumber {
    /// Its number.
    lot: i64,
}

/// Opens a lot; the open one before it is closed in the same step. Refused while the open one has this name.
#[utoipa::path(post, path = "/lots", tag = "record", request_body = NewLot,
    responses((status = 201, body = LotNumber), (status = 400, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn open(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<(StatusCode, Json<LotNumber>), ApiError> {
    let new: NewLot = body::json(&api, request).await?;
    let name = text("name", &new.name, NAME)?;
    if let Some(lot) = api.store.open_lot()
        && api.store.lot(lot).await?.is_some_and(|open| open.name == name)
    {
        return Err(StoreError::Refused(format!("lot {name} is open already, under the number {lot}")).into());
    }
    let lot = api.store.begin_lot(&name, &caller.attribute(&new.by)).await?;
    Ok((StatusCode::CREATED, Json(LotNumber { lot })))
}

/// Closes the open lot.
#[utoipa::path(post, path = "/lots/close", tag = "record", request_body = LotClosing,
    responses((status = 200, body = LotNumber), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn close(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<LotNumber>, ApiError> {
    let bytes = body::whole(&api, request).await?;
    let closing: LotClosing = if bytes.is_empty() {
        LotClosing::default()
    } else {
        serde_json::from_slice(&bytes).map_err(|e| ApiError::Malformed(e.to_string()))?
    };
    let lot = api.store.end_lot(&caller.attribute(&closing.by)).await?;
    let lot = lot.ok_or_else(|| ApiError::NotFound("no lot is open".into()))?;
    Ok(Json(LotNumber { lot }))
}

/// Which lots are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LotQuery {
    /// Only those with a lower number: pass that of the last lot of the page before.
    before: Option<i64>,
    /// Page size, 1 to 500; 500 if absent. A page with fewer lots is the last.
    limit: Option<u32>,
    /// Only those whose name contains this, whatever its case.
    name: Option<String>,
}

/// Lots, newest first.
#[utoipa::path(get, path = "/lots", params(LotQuery), tag = "record",
    responses((status = 200, body = Vec<Lot>), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<LotQuery>, QueryRejection>,
) -> Result<Json<Vec<Lot>>, ApiError> {
    let LotQuery { before, limit, name } = query(asked)?;
    let limit = page_size(limit, MAX_PAGE)? as usize;
    Ok(Json(api.store.find_lots(before, name.as_deref().unwrap_or_default(), limit).await?))
}

/// What the record says about a lot.
#[utoipa::path(get, path = "/lots/{lot}", tag = "record", params(("lot" = i64, Path, description = "Its number")),
    responses((status = 200, body = LotReport), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn one(State(api): State<Api>, Path(lot): Path<String>) -> Result<Json<LotReport>, ApiError> {
    let lot = find(&api, &lot).await?;
    Ok(Json(LotReport::read(&api.store, lot).await?))
}

/// Reviews a closed lot: name and time go into the record. Refused while a corrective action of it is open.
#[utoipa::path(post, path = "/lots/{lot}/sign-off", tag = "record", request_body = Review,
    params(("lot" = i64, Path, description = "Its number")),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn sign_off(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(lot): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let review: Review = body::json(&api, request).await?;
    let lot = find(&api, &lot).await?;
    api.store.sign_off(lot.lot, &caller.attribute(&text("name", &review.name, NAME)?), review.remark.trim()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All entries of a lot.
#[utoipa::path(get, path = "/lots/{lot}/export.csv", tag = "record",
    params(("lot" = i64, Path, description = "Its number")),
    responses((status = 200, content_type = "text/csv", body = String), (status = 404, body = Problem),
        (status = 503, body = Problem)))]
pub(in crate::api) async fn csv(State(api): State<Api>, Path(lot): Path<String>) -> Result<Response<Body>, ApiError> {
    let lot = find(&api, &lot).await?;
    let file = format!("attachment; filename=\"lot-{}.csv\"", lot.lot);
    let mut csv = LotCsv::new(api.store.clone(), lot).await?;
    let (pieces, body) = mpsc::channel(2);
    tokio::spawn(async move {
        loop {
            let piece = match csv.next().await {
                Ok(Some(piece)) => Ok(Bytes::from(piece)),
                Ok(None) => return,
                Err(e) => Err(broken_off(&e)),
            };
            if pieces.send(piece).await.is_err() {
                return; // the client is gone
            }
        }
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "text/csv; charset=utf-8")
        .header(header::CONTENT_DISPOSITION, file)
        .body(Body::from_stream(ReceiverStream::new(body)))
        .map_err(|e| ApiError::Internal(e.to_string()))
}

/// A lot as a page to print; the part of the record that holds the lot is verified for it.
#[utoipa::path(get, path = "/lots/{lot}/export.html", tag = "record",
    params(("lot" = i64, Path, description = "Its number")),
    responses((status = 200, content_type = "text/html", body = String), (status = 404, body = Problem),
        (status = 429, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn html(State(api): State<Api>, Path(lot): Path<String>) -> Result<Response<Body>, ApiError> {
    let lot = find(&api, &lot).await?;
    let alone = PAGES.try_acquire().map_err(|_| ApiError::Busy)?;
    let (pieces, body) = mpsc::channel(2);
    tokio::spawn(async move {
        let _alone = alone;
        let begun = opening(&lot);
        let length = begun.len();
        // Whoever waits sees that it comes: verifying a shift takes seconds.
        if pieces.send(Ok(Bytes::from(begun))).await.is_err() {
            return;
        }
        let rest = match whole_page(&api, lot).await {
            Ok(page) => Ok(Bytes::from(page).slice(length..)),
            Err(e) => Err(broken_off(&e)),
        };
        let _ = pieces.send(rest).await; // an error only where the client is gone
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "text/html; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from_stream(ReceiverStream::new(body)))
        .map_err(|e| ApiError::Internal(e.to_string()))
}

async fn whole_page(api: &Api, lot: Lot) -> Result<String, StoreError> {
    let items = taken_off(&api.store, lot.lot).await?;
    let report = LotReport::read(&api.store, lot).await?;
    let verified = verify_lot(api.store.folder(), &report.lot).await?; // last, so that it covers what was read
    Ok(page(&report, &items, &verified))
}

/// So that the client sees that an export is not whole.
fn broken_off(e: &StoreError) -> std::io::Error {
    tracing::error!("an export broke off: {e}");
    std::io::Error::other(e.to_string())
}

async fn find(api: &Api, lot: &str) -> Result<Lot, ApiError> {
    let none = || ApiError::NotFound(format!("there is no lot {lot}; see /lots"));
    let number = lot.parse().map_err(|_| none())?;
    api.store.lot(number).await?.ok_or_else(none)
}
