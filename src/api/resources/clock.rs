//! `POST /clock/confirm`: an admin says that the clock is right, where no time server's client says so.

use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::{
    Api, Caller,
    error::{ApiError, Problem},
    http::body,
    input::text,
};

/// Longest name, in characters.
const NAME: usize = 200;

/// Who looked at the clock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClockConfirmation {
    /// Who.
    by: String,
}

/// Confirms that the clock is right: age may decide what is removed until the clock is set or the service ends. It stands in
/// the record.
#[utoipa::path(post, path = "/clock/confirm", tag = "record", request_body = ClockConfirmation,
    responses((status = 204), (status = 400, body = Problem), (status = 503, body = Problem)))]
pub(in crate::api) async fn confirm(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let said: ClockConfirmation = body::json(&api, request).await?;
    api.store.confirm_clock(&api.clock, &caller.attribute(&text("by", &said.by, NAME)?)).await?;
    Ok(StatusCode::NO_CONTENT)
}
