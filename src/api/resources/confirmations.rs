//! `POST /confirmations/{gate}`: the sensor after a gate saw an item leave the belt.

use std::time::Instant;

use axum::{
    extract::{Path, State},
    http::StatusCode,
};

use crate::api::{
    Api,
    error::{ApiError, Problem},
};

/// An item passed the sensor after this gate, now. Post it at once: it is matched to verdicts by its arrival.
#[utoipa::path(post, path = "/confirmations/{gate}", tag = "line",
    params(("gate" = String, Path, description = "the gate's name in the configuration")),
    responses((status = 204), (status = 404, body = Problem, description = "no such gate, or none with a sensor")))]
pub(in crate::api) async fn confirm(State(api): State<Api>, Path(gate): Path<String>) -> Result<StatusCode, ApiError> {
    let at = Instant::now();
    if api.ejector.as_ref().is_some_and(|ejector| ejector.confirm(&gate, at)) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::NotFound(format!("there is no gate `{gate}` with a sensor; see eject.gate.confirm")))
    }
}
