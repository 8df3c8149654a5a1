//! `POST /login`, `/logout`, `GET /whoami`: a token for a browser.
//!
//! Invariant: no script can read the token. A browser's event streams and pictures can send no `Authorization` header,
//! so the token travels as a cookie: `HttpOnly` (no script reads it), `SameSite=Strict` (no other site's page makes the
//! browser send it), `Secure` over TLS. It is the token itself and no session: what is revoked is out at once, and a
//! restart logs nobody out. Cookies do not know ports: another service on this host could see it.

use axum::{
    Extension, Json,
    body::to_bytes,
    extract::{Request, State},
    http::{HeaderName, header},
};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    access::{COOKIE, Caller},
    serve::Peer,
};
use crate::api::{
    Api,
    denied::Denied,
    error::{ApiError, Problem},
};

/// How long a browser stays logged in, in seconds: a shift.
const SHIFT: u32 = 12 * 3600;
/// Most bytes of a login: this is read from everybody.
const MAX_BODY: usize = 4096;

/// What a browser logs in with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The token.
    token: String,
}

type WithCookie = ([(HeaderName, String); 2], Json<Caller>);

/// Takes a token and keeps it as the browser's cookie.
#[utoipa::path(post, path = "/login", tag = "access", request_body = Login,
    responses((status = 200, body = Caller), (status = 400, body = Problem), (status = 401, body = Problem)))]
pub(in crate::api) async fn login(State(api): State<Api>, request: Request) -> Result<WithCookie, ApiError> {
    let secure = request.extensions().get::<Peer>().is_some_and(|peer| peer.tls);
    let body = to_bytes(request.into_body(), MAX_BODY).await;
    let body = body.map_err(|_| ApiError::BodyTooLarge { limit: MAX_BODY })?;
    let wanted: Login =
        serde_json::from_slice(&body).map_err(|_| ApiError::Malformed("a login is {\"token\": \"…\"}".into()))?; // the token must not be told
    if !api.tokens.guarded() {
        return Ok((cookie("", 0, secure), Json(Caller::local())));
    }
    let holder = api.tokens.holder(wanted.token.trim(), OffsetDateTime::now_utc()).map_err(Denied::from)?;
    tracing::info!("{} ({}) logged in", holder.name, holder.role);
    Ok((cookie(wanted.token.trim(), SHIFT, secure), Json(Caller::holder(holder))))
}

/// Makes the browser forget its token.
#[utoipa::path(post, path = "/logout", tag = "access", responses((status = 200)))]
pub(in crate::api) async fn logout() -> [(HeaderName, String); 2] {
    cookie("", 0, false)
}

/// Whose token this is, and what it may do.
#[utoipa::path(get, path = "/whoami", tag = "access",
    responses((status = 200, body = Caller), (status = 401, body = Problem)))]
pub(in crate::api) async fn whoami(Extension(caller): Extension<Caller>) -> Json<Caller> {
    Json(caller)
}

fn cookie(value: &str, seconds: u32, secure: bool) -> [(HeaderName, String); 2] {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    [(header::SET_COOKIE, cookie), (header::CACHE_CONTROL, "no-store".into())]
}
