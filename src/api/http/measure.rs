//! What every request goes through: the deadline of its rule, and the HTTP metrics in one place.
//!
//! Invariant: the route label is the pattern, never the path, so that its values are a closed set.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::access::Rule;
use crate::api::{
    Api,
    error::{AccessDenied, ApiError, BadInput, NoRoom},
};

/// Most bytes of a request's head. The connection's buffer alone lets a larger one through where it comes in one piece.
const MOST_HEAD: usize = 64 << 10;

/// Bytes of a request's first line and headers, about.
fn head(request: &Request) -> usize {
    let uri = request.uri().path().len() + request.uri().query().map_or(0, str::len);
    let lines = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    uri + lines.sum::<usize>()
}

pub(in crate::api) async fn measure(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("other", MatchedPath::as_str);
    let response = if head(&request) > MOST_HEAD {
        ApiError::HeadTooLarge { limit: MOST_HEAD }.into_response()
    } else if request.extensions().get::<Rule>().is_some_and(|rule| !rule.has_deadline) {
        next.run(request).await
    } else {
        match tokio::time::timeout(api.0.settings.deadline, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::Deadline.into_response(),
        }
    };
    let metrics = &api.metrics;
    metrics.http.requests.with_label_values(&[route, response.status().as_str()]).inc();
    metrics.http.seconds.with_label_values(&[route]).observe(started.elapsed().as_secs_f64());
    if let Some(BadInput(kind)) = response.extensions().get() {
        metrics.http.bad_input.with_label_values(&[kind]).inc();
    }
    if let Some(AccessDenied(reason)) = response.extensions().get() {
        metrics.http.access_refused.with_label_values(&[reason]).inc();
    }
    if response.extensions().get::<NoRoom>().is_some() {
        metrics.http.refused.with_label_values(&[route]).inc();
    }
    response
}
