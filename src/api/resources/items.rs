//! `/items`: items whose picture was kept, with what people say about them; each item's own picture.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, Response, StatusCode, header},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        input::{only, page_size, query},
    },
    domain::Action,
    picture::pixels::{self, PixelError, PixelLimits},
    store::{FoundItems, ItemPage, LabeledItem, VerdictName},
};

/// JPEG quality of an item's picture.
const QUALITY: i32 = 92;

/// Which items are wanted.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ItemQuery {
    /// Only older ones than this verdict: pass `next` of the page before.
    before: Option<i64>,
    /// Page size, 1 to 500; 50 if absent.
    limit: Option<u32>,
    /// Only this one: its uid or id.
    #[param(value_type = Option<String>)]
    verdict: Option<VerdictName>,
    /// Only those with this action.
    action: Option<Action>,
    /// Only those of this class: labeled so, or judged so where nobody labeled them.
    class: Option<String>,
    /// Only labeled ones (`true`), or only unlabeled ones (`false`).
    labeled: Option<bool>,
}

/// A page of items, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items {
    /// The page.
    items: Vec<LabeledItem>,
    /// Pass it as `before` to get the next page; absent on the last one. Where few items match, a page may hold fewer than
    /// were asked for, or none, and still not be the last.
    next: Option<i64>,
}

/// Items whose picture was kept, newest first.
#[utoipa::path(get, path = "/items", params(ItemQuery), tag = "labels",
    responses((status = 200, body = Items), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn list(
    State(api): State<Api>,
    asked: Result<Query<ItemQuery>, QueryRejection>,
) -> Result<Json<Items>, ApiError> {
    let ItemQuery { before, limit, verdict, action, class, labeled } = query(asked)?;
    let limit = page_size(limit, 50)?;
    let verdict = only(&api.store, verdict).await?;
    let page = ItemPage { before, limit, verdict, action, class, labeled };
    let FoundItems { items, next } = api.store.find_items(&page).await?;
    Ok(Json(Items { items, next }))
}

/// An item's own picture, the square that the student judged. By its uid it is one picture for ever; an id means another
/// item in another store, so a browser asks again each time.
#[utoipa::path(get, path = "/items/{picture}", tag = "labels",
    params(("picture" = String, Path, description = "`<uid>.jpg` or `<id>.jpg`")),
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>),
        (status = 304, description = "`If-None-Match` names it"), (status = 404, body = Problem),
        (status = 409, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn picture(
    State(api): State<Api>,
    Path(picture): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let none = || ApiError::NotFound(format!("there is no item {picture}"));
    let name: VerdictName = picture.strip_suffix(".jpg").and_then(|name| name.parse().ok()).ok_or_else(none)?;
    let verdict = api.store.verdict_named(name).await?.ok_or_else(none)?;
    let key = verdict.frame.as_ref().ok_or(ApiError::NoPicture(name))?;
    let keep = match name {
        VerdictName::Uid(_) => "private, max-age=86400, immutable", // a uid is used once, and its verdict never changes
        VerdictName::Id(_) => "private, no-cache",
    };
    let tag = format!("\"{}\"", verdict.uid);
    let answer = Response::builder().header(header::CACHE_CONTROL, keep).header(header::ETAG, &tag);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| tags.as_bytes() == tag.as_bytes());
    if known && api.store.has_frame(key).await? {
        let unchanged = answer.status(StatusCode::NOT_MODIFIED).body(Body::empty());
        return unchanged.map_err(|e| ApiError::Internal(e.to_string()));
    }
    let frame = api.store.frame(key).await?.ok_or(ApiError::NoPicture(name))?;
    // Waits for a place instead of refusing: a gallery asks for many at once, and the request has its deadline.
    let permit = api.0.admission.clone().acquire_owned().await.map_err(|e| ApiError::Internal(e.to_string()))?;
    let cut = move || {
        let frame = pixels::decode(&frame, PixelLimits::default())?;
        pixels::encode_jpeg(&pixels::cut_item(&frame, verdict.region), QUALITY)
    };
    let jpeg: Result<Vec<u8>, PixelError> = api.0.decoders.run(Arc::new(permit), cut).await?;
    // Not the client's fault: the stored frame is broken.
    let jpeg = jpeg.map_err(|e| ApiError::Internal(format!("frame {key}: {e}")))?;
    answer.header(header::CONTENT_TYPE, "image/jpeg").body(jpeg.into()).map_err(|e| ApiError::Internal(e.to_string()))
}
