//! `GET /frames/{key}`: a kept frame.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Response, header},
};

use crate::api::{
    Api,
    error::{ApiError, Problem},
};

/// The frame that a verdict's `frame` names.
#[utoipa::path(get, path = "/frames/{key}", params(("key" = String, Path, description = "A verdict's `frame`")),
    tag = "verdicts", responses((status = 200, content_type = "image/jpeg", body = Vec<u8>),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn frame(State(api): State<Api>, Path(key): Path<String>) -> Result<Response<Body>, ApiError> {
    let jpeg =
        api.store.frame(&key).await?.ok_or_else(|| ApiError::NotFound("there is no frame of that key".into()))?;
    Response::builder()
        .header(header::CONTENT_TYPE, "image/jpeg")
        .header(header::CACHE_CONTROL, "private, max-age=31536000, immutable") // the key is the content's hash
        .body(jpeg.into())
        .map_err(|e| ApiError::Internal(e.to_string()))
}
