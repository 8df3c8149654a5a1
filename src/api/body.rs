//! Admission and the reading of request bodies.
//!
//! Invariant: nothing of a body is read without a permit, and never more of it than the limit.

use std::sync::Arc;

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Multipart, Request, multipart::MultipartError},
    http::header,
};
use tokio::sync::OwnedSemaphorePermit;

use super::{Api, error::ApiError};
use crate::pixels::PixelError;

/// A place among the requests in progress.
pub(super) fn admit(api: &Api) -> Result<Arc<OwnedSemaphorePermit>, ApiError> {
    api.0.admission.clone().try_acquire_owned().map(Arc::new).map_err(|_| ApiError::Busy)
}

/// The whole body. A `Content-Length` above the limit is refused before a byte is read.
pub(super) async fn whole(api: &Api, request: Request) -> Result<Bytes, ApiError> {
    let limit = api.0.settings.max_body;
    check_length(&request, limit)?;
    to_bytes(request.into_body(), limit).await.map_err(|e| {
        if limited(&e) {
            ApiError::BodyTooLarge { limit }
        } else {
            ApiError::Malformed(format!("the body broke off: {e}"))
        }
    })
}

/// A picture: the body itself, or the first file of a `multipart/form-data` body.
pub(super) async fn picture(api: &Api, request: Request) -> Result<Bytes, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("multipart/form-data") {
        return whole(api, request).await;
    }
    let limit = api.0.settings.max_body;
    check_length(&request, limit)?;
    let refuse = |e: MultipartError| {
        // The limit is hidden in the chain of causes; the status is axum's own reading of it.
        if e.status().as_u16() == 413 { ApiError::BodyTooLarge { limit } } else { ApiError::Malformed(e.body_text()) }
    };
    let mut parts = Multipart::from_request(request, &()).await.map_err(|e| ApiError::Malformed(e.body_text()))?;
    while let Some(part) = parts.next_field().await.map_err(refuse)? {
        if part.file_name().is_some() {
            return part.bytes().await.map_err(refuse);
        }
    }
    Err(PixelError::Empty.into())
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
