//! `GET /`: the live page; `GET /label`: the labeling page; `GET /learning`: rounds and students; `GET /record`: lots.
//! Three files each, without framework or foreign host, compiled in.

use axum::{
    http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    response::IntoResponse,
};

/// Nothing but ourselves, and the pictures inside events.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; frame-ancestors 'self'; base-uri 'none'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)], text)
}

/// The live page.
#[utoipa::path(get, path = "/", tag = "page", responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("page.html"))
}

/// Its style.
#[utoipa::path(get, path = "/page.css", tag = "page", responses((status = 200, body = String, content_type = "text/css")))]
pub(super) async fn css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("page.css"))
}

/// Its program.
#[utoipa::path(get, path = "/page.js", tag = "page",
    responses((status = 200, body = String, content_type = "text/javascript")))]
pub(super) async fn js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("page.js"))
}

/// The labeling page.
#[utoipa::path(get, path = "/label", tag = "page",
    responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn label_html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("label.html"))
}

/// Its style, on top of the live page's.
#[utoipa::path(get, path = "/label.css", tag = "page",
    responses((status = 200, body = String, content_type = "text/css")))]
pub(super) async fn label_css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("label.css"))
}

/// Its program.
#[utoipa::path(get, path = "/label.js", tag = "page",
    responses((status = 200, body = String, content_type = "text/javascript")))]
pub(super) async fn label_js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("label.js"))
}

/// The page of rounds and students.
#[utoipa::path(get, path = "/learning", tag = "page",
    responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn learning_html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("learning.html"))
}

/// Its style, on top of the live page's.
#[utoipa::path(get, path = "/learning.css", tag = "page",
    responses((status = 200, body = String, content_type = "text/css")))]
pub(super) async fn learning_css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("learning.css"))
}

/// Its program.
#[utoipa::path(get, path = "/learning.js", tag = "page",
    responses((status = 200, body = String, content_type = "text/javascript")))]
pub(super) async fn learning_js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("learning.js"))
}

/// The page of lots.
#[utoipa::path(get, path = "/record", tag = "page",
    responses((status = 200, body = String, content_type = "text/html")))]
pub(super) async fn record_html() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("record.html"))
}

/// Its style, on top of the live page's.
#[utoipa::path(get, path = "/record.css", tag = "page",
    responses((status = 200, body = String, content_type = "text/css")))]
pub(super) async fn record_css() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("record.css"))
}

/// Its program.
#[utoipa::path(get, path = "/record.js", tag = "page",
    responses((status = 200, body = String, content_type = "text/javascript")))]
pub(super) async fn record_js() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("record.js"))
}
