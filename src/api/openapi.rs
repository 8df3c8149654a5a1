//! `GET /openapi.json`: the API described by its handlers.

use axum::{Json, extract::State};
use utoipa::OpenApi;

use super::{Api, error::Problem};

/// What the document says about the API as a whole; the routes are added to it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "beltsight",
        description = "Conveyor-belt inspection. Every error is a problem document (RFC 9457). `/v2` speaks the Open \
                       Inference Protocol. Where access tokens are set, send one as `Authorization: Bearer …`."
    ),
    components(schemas(Problem))
)]
struct Description;

/// The document of the routes that are described by `routes`, one each.
pub(super) fn describe(routes: impl Iterator<Item = utoipa::openapi::OpenApi>) -> utoipa::openapi::OpenApi {
    let mut whole = Description::openapi();
    for route in routes {
        whole.paths.merge(route.paths);
        let schemas = route.components.map(|components| components.schemas).unwrap_or_default();
        whole.components.get_or_insert_default().schemas.extend(schemas);
    }
    whole
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, content_type = "application/json")))]
pub(super) async fn document(State(api): State<Api>) -> Json<utoipa::openapi::OpenApi> {
    Json(api.0.description.clone())
}
