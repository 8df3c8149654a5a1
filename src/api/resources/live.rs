//! `GET /cameras`, `/live`, `/live.jpg`: how the cameras are and what they see, for people who watch.
//!
//! Invariant: watching costs the line nothing: only the newest frame is kept, and slow watchers skip.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{Response, header},
    response::sse::{Event, Sse},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use utoipa::ToSchema;

use crate::{
    api::{
        Api,
        error::{ApiError, Problem},
        http::streams::send,
        input::query,
    },
    domain::{Region, Verdict},
    line::live::{CameraState, LiveFrame, View},
};

/// Shortest time between two frames of one stream.
const PAUSE: Duration = Duration::from_millis(100);

/// A belt frame with the boxes that belong to it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Live)]
pub struct BeltFrame {
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

/// A camera and how it is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Camera {
    /// Its name.
    name: String,
    /// `opening` before anything came from it, `up`, `lost`, or `frozen` while it sends the very same picture.
    state: &'static str,
    /// Why it is lost or frozen.
    why: Option<String>,
}

/// The cameras, in the order of the configuration. A lost one does not make the service unready: the others go on, and
/// HTTP too.
#[utoipa::path(get, path = "/cameras", tag = "live", responses((status = 200, body = Vec<Camera>)))]
pub(in crate::api) async fn cameras(State(api): State<Api>) -> Json<Vec<Camera>> {
    let camera = |view: &Arc<View>| {
        let (state, why) = match view.state() {
            CameraState::Opening => ("opening", None),
            CameraState::Up => ("up", None),
            CameraState::Lost(why) => ("lost", Some(why)),
            CameraState::Frozen(why) => ("frozen", Some(why)),
        };
        Camera { name: view.camera.to_string(), state, why }
    };
    Json(api.cameras.iter().map(camera).collect())
}

/// Which camera is meant.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CameraQuery {
    /// The camera's name; absent: the first of the configuration.
    camera: Option<String>,
}

fn chosen(api: &Api, asked: Result<Query<CameraQuery>, QueryRejection>) -> Result<Arc<View>, ApiError> {
    let wanted = query(asked)?;
    let meant = |view: &&Arc<View>| wanted.camera.as_deref().is_none_or(|name| *view.camera == *name);
    api.cameras.iter().find(meant).cloned().ok_or_else(|| match &wanted.camera {
        Some(name) => ApiError::NotFound(format!("there is no camera `{name}`; see /cameras")),
        None => ApiError::NotFound("no camera is configured".into()),
    })
}

/// A camera's belt as server-sent events named `frame`, at most ten a second, always the newest.
#[utoipa::path(get, path = "/live", tag = "live", params(CameraQuery),
    responses((status = 200, body = BeltFrame, content_type = "text/event-stream"), (status = 404, body = Problem),
        (status = 429, body = Problem)))]
pub(in crate::api) async fn stream(
    State(api): State<Api>,
    asked: Result<Query<CameraQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let view = chosen(&api, asked)?;
    let frames = WatchStream::new(view.frame.subscribe()).throttle(PAUSE);
    send(&api, frames.filter_map(|frame| Event::default().event("frame").json_data(live(frame?)).ok()))
}

fn live(frame: LiveFrame) -> BeltFrame {
    let items = frame.items.into_iter().map(|(region, verdict)| LiveItem { region, verdict }).collect();
    BeltFrame { width: frame.width, height: frame.height, jpeg: STANDARD.encode(&frame.jpeg), items }
}

/// A camera's newest belt frame.
#[utoipa::path(get, path = "/live.jpg", tag = "live", params(CameraQuery),
    responses((status = 200, content_type = "image/jpeg", body = Vec<u8>), (status = 404, body = Problem)))]
pub(in crate::api) async fn picture(
    State(api): State<Api>,
    asked: Result<Query<CameraQuery>, QueryRejection>,
) -> Result<Response<Body>, ApiError> {
    let view = chosen(&api, asked)?;
    let frame = view.frame.borrow().as_ref().map(|f| f.jpeg.clone());
    let jpeg = frame.ok_or_else(|| ApiError::NotFound("the camera has not delivered a frame yet".into()))?;
    Response::builder()
        .header(header::CONTENT_TYPE, "image/jpeg")
        .header(header::CACHE_CONTROL, "no-store")
        .body(jpeg.into())
        .map_err(|e| ApiError::Internal(e.to_string()))
}
