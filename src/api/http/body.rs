//! Admission and the reading of request bodies.
//!
//! Invariant: nothing of a body is kept without a permit, and never more of it than the limit.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Multipart, Request, multipart::MultipartError},
    http::header,
};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_stream::StreamExt;

use crate::{
    api::{Api, error::ApiError},
    picture::pixels::{self, PixelError},
};

/// Most bytes of an order, a label and the like.
const MAX_JSON: usize = 1 << 20;
/// How long a refused request's body is waited for.
const DRAIN: Duration = Duration::from_millis(30);

/// A place among the requests in progress; if there is none, the body is thrown away.
pub(in crate::api) async fn admit(api: &Api, request: &mut Request) -> Result<Arc<OwnedSemaphorePermit>, ApiError> {
    if let Ok(permit) = api.0.admission.clone().try_acquire_owned() {
        return Ok(Arc::new(permit));
    }
    throw_away(api, request).await;
    Err(ApiError::Busy)
}

/// Reads the body of a request that is refused, and keeps nothing of it: a server that answers and closes while its
/// client still sends resets the connection, and some clients then lose the answer. A body that takes longer than
/// [`DRAIN`] is left, and its connection is closed.
pub(in crate::api) async fn throw_away(api: &Api, request: &mut Request) {
    if check_length(request, api.0.settings.max_body).is_ok() {
        let mut body = std::mem::take(request.body_mut()).into_data_stream();
        let _ = timeout(DRAIN, async { while let Some(Ok(_)) = body.next().await {} }).await;
    }
}

/// The whole body. A `Content-Length` above the limit is refused before a byte is read.
pub(in crate::api) async fn whole(api: &Api, request: Request) -> Result<Bytes, ApiError> {
    within(api, request, api.0.settings.max_body).await
}

/// The whole body, of at most `limit` bytes, by the deadline: not every route has it from `measure`.
async fn within(api: &Api, request: Request, limit: usize) -> Result<Bytes, ApiError> {
    check_length(&request, limit)?;
    let read = timeout(api.0.settings.deadline, to_bytes(request.into_body(), limit));
    read.await.map_err(|_| ApiError::Deadline)?.map_err(|e| {
        if limited(&e) {
            ApiError::BodyTooLarge { limit }
        } else {
            ApiError::Malformed(format!("the body broke off: {e}"))
        }
    })
}

/// The body as JSON; read without a permit, so it must be small.
pub(in crate::api) async fn json<T: serde::de::DeserializeOwned>(api: &Api, request: Request) -> Result<T, ApiError> {
    let bytes = within(api, request, MAX_JSON.min(api.0.settings.max_body)).await?;
    serde_json::from_slice(&bytes).map_err(|e| ApiError::Malformed(format!("the body is not what is wanted: {e}")))
}

/// A picture: the body itself, or the one file of a `multipart/form-data` body.
pub(in crate::api) async fn picture(api: &Api, request: Request) -> Result<Bytes, ApiError> {
    const FORM: &str = "multipart/form-data";
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.get(..FORM.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(FORM)) {
        return whole(api, request).await;
    }
    let limit = api.0.settings.max_body;
    check_length(&request, limit)?;
    let refuse = |e: MultipartError| {
        // The limit is hidden in the chain of causes; the status is axum's own reading of it.
        if e.status().as_u16() == 413 { ApiError::BodyTooLarge { limit } } else { ApiError::Malformed(e.body_text()) }
    };
    let mut parts = Multipart::from_request(request, &()).await.map_err(|e| ApiError::Malformed(e.body_text()))?;
    let mut picture = None;
    while let Some(part) = parts.next_field().await.map_err(refuse)? {
        // Some clients give a file no name; then its kind tells it, or its first bytes.
        let told = part.file_name().is_some()
            || part.content_type().is_some_and(|kind| kind.starts_with("image/") || kind.ends_with("/octet-stream"));
        let bytes = part.bytes().await.map_err(refuse)?;
        if !told && !pixels::is_picture(&bytes) {
            continue;
        }
        // Judging one of them would let the others pass for judged.
        if picture.replace(bytes).is_some() {
            return Err(ApiError::Malformed("the form holds more than one file: send each picture by itself".into()));
        }
    }
    picture.ok_or_else(|| PixelError::Empty.into())
}

fn check_length(request: &Request, limit: usize) -> Result<(), ApiError> {
    let claimed = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    match claimed {
        Some(length) if length > limit as u64 => Err(ApiError::BodyTooLarge { limit }),
        _ => Ok(()),
    }
}

/// Whether the limit is among the causes of `e`.
fn limited(e: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(e);
    while let Some(error) = cause {
        if error.to_string().contains("length limit exceeded") {
            return true;
        }
        cause = error.source();
    }
    false
}
