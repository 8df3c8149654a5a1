//! Every route in one table: method, path, who may use it, and the handler that answers.
//!
//! The router, the rule of each request (access, audit log, deadline) and the OpenAPI document are all made from
//! [`TABLE`]. A new route is one handler in `resources/` and one line here.
//!
//! Invariant: a route without a rule can't exist. A line without one does not compile, the router has no other routes,
//! and a request that no line answers is refused. Two lines with one method and path stop the service at its start.

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::MethodRouter,
};
use tower_http::{catch_panic::CatchPanicLayer, decompression::RequestDecompressionLayer};
use utoipa::openapi::OpenApi;

use super::{
    Api,
    error::{self, ApiError},
    http::{
        access::{self, Rule, changes, needs, open},
        login, measure,
    },
    openapi, page,
    resources::{
        audit, challenges, classify, clock, confirmations, frames, health, items, labels, live, lots, models, rounds,
        v2, verdicts,
    },
};
use crate::tokens::Role::{Admin, Labeler, Operator, Viewer};

/// A line of the table.
#[derive(Debug)]
pub struct Route {
    /// In lower case; `get` stands for HEAD too.
    pub method: &'static str,
    /// The router's pattern.
    pub path: &'static str,
    /// What it asks of its caller, and how long it may take.
    pub rule: Rule,
    handler: fn() -> MethodRouter<Api>,
    described: fn() -> OpenApi,
}

/// `method "path" rule => module::handler;` per line, the handler annotated with `#[utoipa::path]`.
macro_rules! table {
    ($($method:ident $path:literal $rule:expr => $($handler:ident)::+;)+) => {
        &[$(Route {
            method: stringify!($method),
            path: $path,
            rule: $rule,
            handler: || axum::routing::$method($($handler)::+),
            described: {
                #[derive(utoipa::OpenApi)]
                #[openapi(paths($($handler)::+))]
                struct Described;
                <Described as utoipa::OpenApi>::openapi
            },
        }),+]
    };
}

/// Every route and method. Only these are open: the pages' own files, which hold no data; logging in and out; and what
/// an orchestrator asks before it has a secret, whether the service lives and is ready. `/metrics` tells how much is
/// produced and how well: it is not open. `/classify` and `/infer` change nothing that lasts; the record has the
/// verdicts of the first.
pub static TABLE: &[Route] = table! {
    get    "/"                                      open()            => page::html;
    get    "/page.css"                              open()            => page::css;
    get    "/page.js"                               open()            => page::js;
    get    "/label"                                 open()            => page::label_html;
    get    "/label.css"                             open()            => page::label_css;
    get    "/label.js"                              open()            => page::label_js;
    get    "/learning"                              open()            => page::learning_html;
    get    "/learning.css"                          open()            => page::learning_css;
    get    "/learning.js"                           open()            => page::learning_js;
    get    "/record"                                open()            => page::record_html;
    get    "/record.css"                            open()            => page::record_css;
    get    "/record.js"                             open()            => page::record_js;

    post   "/login"                                 open()            => login::login;
    post   "/logout"                                open()            => login::logout;
    get    "/whoami"                                needs(Viewer)     => login::whoami;
    get    "/audit"                                 needs(Admin)      => audit::list;

    get    "/healthz"                               open()            => health::healthz;
    get    "/readyz"                                open()            => health::readyz;
    get    "/metrics"                               needs(Viewer)     => health::metrics;
    get    "/openapi.json"                          needs(Viewer)     => openapi::document;

    post   "/classify"                              needs(Labeler)    => classify::classify;
    // Many per minute: counted, not in the audit log.
    post   "/confirmations/{gate}"                  needs(Operator)   => confirmations::confirm;
    get    "/verdicts"                              needs(Viewer)     => verdicts::list;
    get    "/verdicts/stream"                       needs(Viewer)     => verdicts::stream;
    get    "/verdicts/counts"                       needs(Viewer)     => verdicts::counts;
    get    "/verdicts/{verdict}"                    needs(Viewer)     => verdicts::one;
    get    "/frames/{key}"                          needs(Viewer)     => frames::frame;

    get    "/labels"                                needs(Viewer)     => labels::list;
    post   "/labels"                                changes(Labeler)  => labels::add;
    delete "/labels/{id}"                           changes(Labeler)  => labels::withdraw;
    get    "/labels/classes"                        needs(Viewer)     => labels::classes;
    // The queue reserves for its caller what it gives out.
    get    "/labels/queue"                          needs(Labeler)    => labels::queue;
    get    "/labels/agreement"                      needs(Viewer)     => labels::agreement;
    get    "/items"                                 needs(Viewer)     => items::list;
    get    "/items/{picture}"                       needs(Viewer)     => items::picture;

    get    "/lots"                                  needs(Viewer)     => lots::list;
    post   "/lots"                                  changes(Operator) => lots::open;
    post   "/lots/close"                            changes(Operator) => lots::close;
    get    "/lots/{lot}"                            needs(Viewer)     => lots::one;
    post   "/lots/{lot}/sign-off"                   changes(Operator) => lots::sign_off;
    get    "/lots/{lot}/export.csv"                 needs(Viewer)     => lots::csv;
    // It verifies the lot's part of the record first, however long that part is.
    get    "/lots/{lot}/export.html"                needs(Viewer).without_deadline() => lots::html;
    get    "/challenges"                            needs(Viewer)     => challenges::list;
    get    "/challenges/due"                        needs(Viewer)     => challenges::due;
    post   "/challenges"                            changes(Operator) => challenges::announce;
    get    "/corrective-actions"                    needs(Viewer)     => challenges::actions;
    post   "/corrective-actions/{action}/close"     changes(Operator) => challenges::close;

    post   "/clock/confirm"                         changes(Admin)    => clock::confirm;

    // A stream is answered when its head is: it keeps the deadline.
    get    "/cameras"                               needs(Viewer)     => live::cameras;
    get    "/live"                                  needs(Viewer)     => live::stream;
    get    "/live.jpg"                              needs(Viewer)     => live::picture;

    // Loading a student takes as long as it takes.
    get    "/models"                                needs(Viewer)     => models::list;
    post   "/models/rollback"                       changes(Operator).without_deadline() => models::rollback;
    post   "/models/{version}/promote"              changes(Operator).without_deadline() => models::promote;
    get    "/rounds"                                needs(Viewer)     => rounds::list;
    post   "/rounds"                                changes(Operator) => rounds::start;
    post   "/rounds/stop"                           changes(Operator) => rounds::stop;
    post   "/rounds/approve"                        changes(Admin)    => rounds::approve;

    get    "/v2"                                    needs(Viewer)     => v2::server;
    get    "/v2/health/live"                        open()            => v2::live;
    get    "/v2/health/ready"                       open()            => v2::ready;
    get    "/v2/models/{model}"                     needs(Viewer)     => v2::metadata;
    get    "/v2/models/{model}/ready"               needs(Viewer)     => v2::model_ready;
    post   "/v2/models/{model}/infer"               needs(Labeler)    => v2::infer;
    get    "/v2/models/{model}/stats"               needs(Viewer)     => v2::statistics;
    get    "/v2/models/{model}/versions/{version}"       needs(Viewer) => v2::version_metadata;
    get    "/v2/models/{model}/versions/{version}/ready" needs(Viewer) => v2::version_ready;
    post   "/v2/models/{model}/versions/{version}/infer" needs(Labeler) => v2::version_infer;
    post   "/v2/repository/index"                   needs(Viewer)     => models::index;
    post   "/v2/repository/models/{model}/load"     changes(Operator).without_deadline() => models::load;
};

/// The service's router: the routes of [`TABLE`] and no others, behind deadline, door and limits.
pub fn router(api: Api) -> Router {
    let add = |router: Router<Api>, route: &Route| router.route(route.path, (route.handler)());
    let routes = TABLE.iter().fold(Router::new(), add);
    routes
        .fallback(async || ApiError::NotFound("there is nothing at this path; see /openapi.json".into()))
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(DefaultBodyLimit::max(api.0.settings.max_body))
        .layer(RequestDecompressionLayer::new()) // the limit counts what comes out of it
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(from_fn_with_state(api.clone(), access::guard))
        .layer(from_fn_with_state(api.clone(), measure::measure))
        .layer(from_fn(attach_rule))
        .with_state(api)
}

/// The OpenAPI document of all routes.
pub(super) fn description() -> OpenApi {
    openapi::describe(TABLE.iter().map(|route| ((route.described)(), route.rule.least.is_some())))
}

/// Puts the rule of the route into the request, for the door and the deadline; none where no line answers. An answer that
/// the method is not the path's says which are.
async fn attach_rule(mut request: Request, next: Next) -> Response {
    if let Some(rule) = find(&request) {
        request.extensions_mut().insert(rule);
    }
    let path = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(path) = path.filter(|_| response.status() == StatusCode::METHOD_NOT_ALLOWED) {
        let answered = TABLE.iter().filter(|route| route.path == path.as_str());
        let methods =
            answered.map(|route| if route.method == "get" { "GET, HEAD".into() } else { route.method.to_uppercase() });
        if let Ok(methods) = HeaderValue::try_from(methods.collect::<Vec<_>>().join(", ")) {
            response.headers_mut().insert(header::ALLOW, methods);
        }
    }
    response
}

fn find(request: &Request) -> Option<Rule> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let answers = |route: &&Route| route.path == path && route.method.eq_ignore_ascii_case(method.as_str());
    TABLE.iter().find(answers).map(|route| route.rule)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_line_has_the_method_and_path_that_its_handler_describes_and_stands_once() {
        let mut lines = BTreeSet::new();
        for Route { method, path, described, .. } in TABLE {
            let paths = serde_json::to_value(described().paths).unwrap_or_default();
            let said: Vec<String> = paths
                .as_object()
                .into_iter()
                .flatten()
                .flat_map(|(path, item)| {
                    item.as_object().into_iter().flatten().map(move |(m, _)| format!("{m} {path}"))
                })
                .collect();
            assert_eq!(said, [format!("{method} {path}")]);
            assert!(lines.insert((method, path)), "{method} {path} stands twice");
        }
    }

    #[test]
    fn generators_can_read_the_description() {
        let mut schemas = BTreeMap::new();
        for Route { path, described, .. } in TABLE {
            let own = described().components.map(|components| components.schemas).unwrap_or_default();
            for (name, schema) in own {
                let schema = serde_json::to_value(schema).unwrap_or_default();
                let first = schemas.entry(name.clone()).or_insert((path, schema.clone()));
                assert_eq!(first.1, schema, "{name} of {path} is another one than that of {}", first.0);
            }
        }
        let whole = serde_json::to_value(description()).unwrap_or_default();
        let mut ids = BTreeSet::new();
        for (path, methods) in whole["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                let id = operation["operationId"].as_str().unwrap_or_default();
                assert!(!id.is_empty() && ids.insert(id), "{method} {path}: {id:?}");
                for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                    assert!(response["description"].as_str().is_some_and(|said| !said.is_empty()), "{path} {status}");
                    let problem = response["content"].get("application/problem+json").is_some();
                    let told =
                        response["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Problem";
                    assert!(!told && (!problem || status.starts_with(['4', '5'])), "{path} {status}");
                }
            }
        }
        assert_eq!(ids.len(), TABLE.len());
        let text = whole.to_string();
        for told in text.split("\"#/components/schemas/").skip(1) {
            let name = told.split('"').next().unwrap_or_default();
            assert!(whole["components"]["schemas"].get(name).is_some(), "{name} is nowhere");
        }
        assert_eq!(whole["paths"]["/verdicts"]["get"]["security"], serde_json::json!([{"token": []}, {"session": []}]));
        assert!(whole["paths"]["/healthz"]["get"].get("security").is_none());
    }
}
