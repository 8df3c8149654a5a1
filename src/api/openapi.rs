//! `GET /openapi.json`: the API described by its handlers.

use axum::{Json, extract::State, http::StatusCode};
use utoipa::{
    OpenApi,
    openapi::{
        self, RefOr,
        path::Operation,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{Api, error::Problem, http::access::COOKIE};
use crate::store::QueueOrder; // of a query, whose schemas the handlers do not hand over

/// What the document says about the API as a whole; the routes are added to it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "beltsight",
        description = "Conveyor-belt inspection. Every error is a problem document (RFC 9457). `/v2` speaks the Open \
                       Inference Protocol. Where access tokens are set, send one as `Authorization: Bearer …`, or log in."
    ),
    components(schemas(Problem, QueueOrder))
)]
struct Description;

/// Ways to say who asks: a token with each request, or the cookie that logging in sets.
const SCHEMES: [&str; 2] = ["token", "session"];

/// The document of routes, one described each; those with `true` want to know who asks.
pub(super) fn describe(routes: impl Iterator<Item = (openapi::OpenApi, bool)>) -> openapi::OpenApi {
    let mut whole = Description::openapi();
    for (mut route, guarded) in routes {
        for (path, item) in &mut route.paths.paths {
            let methods = [
                ("get", &mut item.get),
                ("post", &mut item.post),
                ("put", &mut item.put),
                ("delete", &mut item.delete),
            ];
            for (method, operation) in methods {
                if let Some(operation) = operation {
                    complete(operation, method, path, guarded);
                }
            }
        }
        whole.paths.merge(route.paths);
        let schemas = route.components.map(|components| components.schemas).unwrap_or_default();
        whole.components.get_or_insert_default().schemas.extend(schemas);
    }
    let token = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let session = ApiKey::Cookie(ApiKeyValue::new(COOKIE));
    let schemes = [SecurityScheme::Http(token), SecurityScheme::ApiKey(session)];
    let components = whole.components.get_or_insert_default();
    components.security_schemes.extend(SCHEMES.map(String::from).into_iter().zip(schemes.map(RefOr::T)));
    whole
}

/// What the handlers do not say themselves: a name that nothing else has, who is let in, what each status means, and that
/// errors are problem documents.
fn complete(operation: &mut Operation, method: &str, path: &str, guarded: bool) {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    operation.operation_id = Some(std::iter::once(method).chain(words).collect::<Vec<_>>().join("_"));
    if guarded {
        operation.security = Some(SCHEMES.map(|name| SecurityRequirement::new::<_, _, &str>(name, [])).to_vec());
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        let status = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok());
        if response.description.is_empty() {
            response.description = status.and_then(|s| s.canonical_reason()).unwrap_or("An answer").into();
        }
        let error = status.is_some_and(|status| status.is_client_error() || status.is_server_error());
        if let Some(json) = response.content.shift_remove(JSON) {
            let problem = error && serde_json::to_string(&json).is_ok_and(|said| said.contains("schemas/Problem"));
            response.content.insert(if problem { PROBLEM } else { JSON }.into(), json);
        }
    }
}

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, content_type = "application/json")))]
pub(super) async fn document(State(api): State<Api>) -> Json<openapi::OpenApi> {
    Json(api.0.description.clone())
}
