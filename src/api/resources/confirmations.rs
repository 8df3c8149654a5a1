//! `POST /confirmations/{gate}`: the sensor after a gate saw an item leave the belt.

use std::time::{Duration, Instant};

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use tokio::time::timeout;

use crate::api::{
    Api,
    error::{ApiError, Problem},
};

/// Says the uid of the item that was confirmed.
const UID: &str = "beltsight-uid";
/// The thread that keeps the time needs microseconds to say it; later nobody waits for it.
const TOLD_WITHIN: Duration = Duration::from_millis(100);

/// An item passed the sensor after this gate, now. Post it at once: it is matched to verdicts by its arrival.
#[utoipa::path(post, path = "/confirmations/{gate}", tag = "line",
    params(("gate" = String, Path, description = "the gate's name in the configuration")),
    responses((status = 204, headers(("Beltsight-Uid" = String,
            description = "The item that this confirms; absent where no verdict asked for one now"))),
        (status = 404, body = Problem, description = "no such gate, or none with a sensor")))]
pub(in crate::api) async fn confirm(
    State(api): State<Api>,
    Path(gate): Path<String>,
) -> Result<(StatusCode, Option<[(&'static str, String); 1]>, ()), ApiError> {
    let at = Instant::now();
    let none = || ApiError::NotFound(format!("there is no gate `{gate}` with a sensor; see eject.gate.confirm"));
    let told = api.ejector.as_ref().and_then(|ejector| ejector.confirm(&gate, at)).ok_or_else(none)?;
    let item = timeout(TOLD_WITHIN, told).await.ok().and_then(Result::ok).flatten();
    Ok((StatusCode::NO_CONTENT, item.map(|uid| [(UID, uid.to_string())]), ()))
}
