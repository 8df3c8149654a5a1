//! `GET /openapi.json`: the API described by its handlers.

use axum::Json;
use utoipa::OpenApi;

use super::{
    error::Problem,
    http::login,
    page,
    resources::{
        audit, challenges, classify, confirmations, frames, health, items, labels, live, lots, models, rounds, v2,
        verdicts,
    },
};

/// Collects what the handlers say about themselves; a test compares it with the router.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "beltsight",
        description = "Conveyor-belt inspection. Every error is a problem document (RFC 9457). `/v2` speaks the Open \
                       Inference Protocol. Where access tokens are set, send one as `Authorization: Bearer …`."
    ),
    paths(
        classify::classify,
        confirmations::confirm,
        verdicts::list,
        verdicts::stream,
        verdicts::counts,
        lots::list,
        lots::open,
        lots::close,
        lots::one,
        lots::sign_off,
        lots::csv,
        lots::html,
        challenges::list,
        challenges::announce,
        challenges::actions,
        challenges::close,
        frames::frame,
        labels::list,
        labels::add,
        labels::withdraw,
        labels::classes,
        labels::queue,
        labels::agreement,
        items::list,
        items::picture,
        live::cameras,
        live::stream,
        live::picture,
        health::healthz,
        health::readyz,
        health::metrics,
        document,
        v2::server,
        v2::live,
        v2::ready,
        v2::metadata,
        v2::model_ready,
        v2::infer,
        models::index,
        models::load,
        models::list,
        models::promote,
        models::rollback,
        rounds::list,
        rounds::start,
        rounds::stop,
        rounds::approve,
        page::html,
        page::css,
        page::js,
        audit::list,
        login::login,
        login::logout,
        login::whoami,
        page::label_html,
        page::label_css,
        page::label_js,
        page::learning_html,
        page::learning_css,
        page::learning_js,
        page::record_html,
        page::record_css,
        page::record_js,
    ),
    components(schemas(Problem))
)]
struct Description;

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, content_type = "application/json")))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
