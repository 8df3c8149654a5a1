//! `GET /live`, `/live.jpg`: the newest belt frame, for people who watch.
//!
//! Invariant: watching costs the line nothing: only the newest frame is kept, and slow watchers skip.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{Response, header},
    response::sse::{Event, Sse},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use utoipa::ToSchema;

use super::{
    Api,
    error::{ApiError, Problem},
    streams::send,
};
use crate::{
    domain::{Region, Verdict},
    line::live::LiveFrame,
};

/// Shortest time between two frames of one stream.
const PAUSE: Duration = Duration::from_millis(100);

/// A belt frame with the boxes that belong to it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    /// Pixels across.
    width: u32,
    /// Pixels down.
    height: u32,
    /// The frame as JPEG, base64: in the same event as its boxes, so that they always fit.
    jpeg: String,
    /// Items in the frame.
    items: Vec<LiveItem>,
}

/// An item in a belt frame.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveItem {
    /// Where it is in this frame.
    region: Region,
    /// What was decided about it.
    verdict: Verdict,
}

/// The belt as server-sent events named `frame`, at most ten a second, always the newest.
#[utoipa::path(get, path = "/live", tag = "live",
    responses((status = 200, body = Live, content_type = "text/event-stream"), (status = 429, body = Problem)))]
pub(super) async fn stream(
    State(api): State<Api>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let frames = WatchStream::new(api.live.clone()).throttle(PAUSE);
    send(&api, frames.filter_map(|frame| Event::default().event("frame").json_data(live(frame?)).ok()))
}

fn live(frame: LiveFrame) -> Live {
    let items = frame.items.into_iter().map(|(region, verdict)| LiveItem { region, verdict }).collect();
    Live { width: frame.width, height: frame.height, jpeg: STANDARD.encode(&frame.jpeg), items }
}

/// The newest belt frame.
#[utoipa::path(get, path = "/live.jpg", tag = "live",
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>), (status = 404, body = Problem)))]
pub(super) async fn picture(State(api): State<Api>) -> Result<Response<Body>, ApiError> {
    let frame = api.live.borrow().as_ref().map(|f| f.jpeg.clone());
    let jpeg = frame.ok_or_else(|| ApiError::NotFound("no camera has delivered a frame yet".into()))?;
    Response::builder()
        .header(header::CONTENT_TYPE, "image/jpeg")
        .header(header::CACHE_CONTROL, "no-store")
        .body(jpeg.into())
        .map_err(|e| ApiError::Internal(e.to_string()))
}
