//! Who may ask for what: one table, and the door that every request goes through.
//!
//! Invariant: what the table does not name is refused. A new route needs a line in [`TABLE`]; without it the route
//! answers 403 whoever asks, and a test names it. What changes something is in the audit log, also when the client went
//! away meanwhile or was not allowed to.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{body, browser, login::COOKIE, serve::Peer};
use crate::{
    api::{
        Api,
        error::ApiError,
        resources::{labels::MAX_NAME, lots::text},
    },
    domain::time::rfc3339_now,
    store::Deed,
    tokens::{
        Refused,
        Role::{self, Admin, Labeler, Operator, Viewer},
        Tokens,
    },
};

/// What a page may do that does not say so itself: be styled.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
/// Most characters of a path in the audit log.
const MAX_PATH: usize = 512;

/// What a route asks of its caller.
#[derive(Debug)]
pub struct Rule {
    /// In lower case; `get` stands for HEAD too.
    pub method: &'static str,
    /// The router's pattern.
    pub route: &'static str,
    /// The least role that is let in; `None`: everybody, without a token.
    pub least: Option<Role>,
    /// Whether it changes something and goes into the audit log.
    pub changes: bool,
}

const fn open(method: &'static str, route: &'static str) -> Rule {
    Rule { method, route, least: None, changes: false }
}

const fn asks(method: &'static str, route: &'static str, least: Role) -> Rule {
    Rule { method, route, least: Some(least), changes: false }
}

const fn changes(method: &'static str, route: &'static str, least: Role) -> Rule {
    Rule { method, route, least: Some(least), changes: true }
}

/// Every route and method. Open are only the pages' own files, which hold no data, and what an orchestrator asks before
/// it has a secret: whether we live and are ready. `/metrics` tells how much is produced and how well: it is not open.
/// `/classify` and `/infer` change nothing that lasts; what they find is in the record of verdicts.
pub const TABLE: &[Rule] = &[
    open("get", "/"),
    open("get", "/page.css"),
    open("get", "/page.js"),
    open("get", "/label"),
    open("get", "/label.css"),
    open("get", "/label.js"),
    open("get", "/learning"),
    open("get", "/learning.css"),
    open("get", "/learning.js"),
    open("get", "/record"),
    open("get", "/record.css"),
    open("get", "/record.js"),
    open("post", "/login"),
    open("post", "/logout"),
    asks("get", "/whoami", Viewer),
    asks("get", "/audit", Admin),
    open("get", "/healthz"),
    open("get", "/readyz"),
    asks("get", "/metrics", Viewer),
    asks("get", "/openapi.json", Viewer),
    asks("post", "/classify", Labeler),
    asks("post", "/confirmations/{gate}", Operator), // many a minute: counted, not in the audit log
    asks("get", "/verdicts", Viewer),
    asks("get", "/verdicts/stream", Viewer),
    asks("get", "/verdicts/counts", Viewer),
    asks("get", "/frames/{key}", Viewer),
    asks("get", "/labels", Viewer),
    changes("post", "/labels", Labeler),
    changes("delete", "/labels/{id}", Labeler),
    asks("get", "/labels/classes", Viewer),
    asks("get", "/labels/queue", Labeler), // what it gives out is held for its asker
    asks("get", "/labels/agreement", Viewer),
    asks("get", "/items", Viewer),
    asks("get", "/items/{picture}", Viewer),
    asks("get", "/lots", Viewer),
    changes("post", "/lots", Operator),
    changes("post", "/lots/close", Operator),
    asks("get", "/lots/{lot}", Viewer),
    changes("post", "/lots/{lot}/sign-off", Operator),
    asks("get", "/lots/{lot}/export.csv", Viewer),
    asks("get", "/lots/{lot}/export.html", Viewer),
    asks("get", "/challenges", Viewer),
    changes("post", "/challenges", Operator),
    asks("get", "/corrective-actions", Viewer),
    changes("post", "/corrective-actions/{action}/close", Operator),
    asks("get", "/cameras", Viewer),
    asks("get", "/live", Viewer),
    asks("get", "/live.jpg", Viewer),
    asks("get", "/models", Viewer),
    changes("post", "/models/rollback", Operator),
    changes("post", "/models/{version}/promote", Operator),
    asks("get", "/rounds", Viewer),
    changes("post", "/rounds", Operator),
    changes("post", "/rounds/stop", Operator),
    changes("post", "/rounds/approve", Admin),
    asks("get", "/v2", Viewer),
    open("get", "/v2/health/live"),
    open("get", "/v2/health/ready"),
    asks("get", "/v2/models/{model}", Viewer),
    asks("get", "/v2/models/{model}/ready", Viewer),
    asks("post", "/v2/models/{model}/infer", Labeler),
    asks("post", "/v2/repository/index", Viewer),
    changes("post", "/v2/repository/models/{model}/load", Operator),
];

/// Who a request comes from; handlers take it as `Extension<Caller>` on every route that is not open.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Caller {
    /// The token's name; `local` when no token is set.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
}

impl Caller {
    /// Whoever sits at this machine while no token is set.
    pub(in crate::api) fn local() -> Self {
        Self { name: "local".into(), role: Admin }
    }

    /// Whether nobody had to say who they are.
    pub(in crate::api) fn is_local(&self) -> bool {
        self.name == "local"
    }

    /// In whose name the caller orders: the token's, whatever else they say being refused; while no token is set, the
    /// name that they give.
    pub(in crate::api) fn signs(&self, said: Option<&str>) -> Result<String, ApiError> {
        let said = said.unwrap_or_default().trim();
        if self.is_local() {
            return text("by", said, MAX_NAME);
        }
        if said.is_empty() || said == self.name {
            return Ok(self.name.clone());
        }
        Err(Denied::OtherName { name: self.name.clone(), said: said.chars().take(MAX_NAME).collect() }.into())
    }
}

/// Why somebody is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    /// No token came along.
    #[error("a token is needed: send `Authorization: Bearer …`, or log in on the page")]
    NoToken,
    /// There is no such token.
    #[error("this token is not known; it may have been revoked")]
    Unknown,
    /// Its time is over.
    #[error("this token has expired")]
    Expired,
    /// The token's role may not do this.
    #[error("this needs the role {needs}; `{name}` is {has}")]
    Role {
        /// Whose token it is.
        name: String,
        /// Its role.
        has: Role,
        /// The least role that may.
        needs: Role,
    },
    /// An order in somebody else's name.
    #[error("orders are given in one's own name: this token is `{name}`, not `{said}`; leave `by` out")]
    OtherName {
        /// Whose token it is.
        name: String,
        /// Whom the order names.
        said: String,
    },
    /// A page of another site asked a browser to change something here.
    #[error("this request comes from a page of another site")]
    CrossSite,
    /// The `Host` is not this machine's.
    #[error("no token is set, so only requests to localhost are answered; make a token for anything else")]
    Host,
    /// A route without a rule.
    #[error("nobody may use this route: it has no rule")]
    NoRule,
}

impl Denied {
    /// The metric's label.
    pub(in crate::api) fn name(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::Unknown => "unknown_token",
            Self::Expired => "expired_token",
            Self::Role { .. } => "role",
            Self::OtherName { .. } => "other_name",
            Self::CrossSite => "cross_site",
            Self::Host => "host",
            Self::NoRule => "no_rule",
        }
    }
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::Unknown,
            Refused::Expired => Self::Expired,
        }
    }
}

/// The door.
pub(in crate::api) async fn guard(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let mut response = match judge(&api.tokens, &request) {
        Ok(None) => next.run(request).await,
        Ok(Some(Pass { caller, rule, token })) => {
            let deed = rule.changes.then(|| deed(&request, &caller.name, caller.role));
            request.extensions_mut().insert(caller);
            match deed {
                None => while_allowed(next.run(request).await, api.tokens.clone(), token),
                Some(deed) => change(api, deed, request, next).await,
            }
        }
        Err(refused) => {
            if let ApiError::Denied(Denied::Role { name, has, .. }) = &refused {
                // Only the holder of a token gets here, so strangers can't fill the log.
                let deed = deed(&request, name, *has);
                let response = refused.into_response();
                audit(&api, Deed { status: response.status().as_u16(), ..deed }).await;
                response
            } else {
                body::throw_away(&api, &mut request).await;
                refused.into_response()
            }
        }
    };
    // No page of another site may show what is ours, no browser may guess that a picture is a program, and no page that
    // shows what people wrote runs any; our own pages say themselves what they need.
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin"));
    response
}

/// Who was let in.
struct Pass {
    caller: Caller,
    rule: &'static Rule,
    /// By which token; `None` while none is set.
    token: Option<String>,
}

/// Who asks and by which rule; `None` where nobody needs to say.
fn judge(tokens: &Tokens, request: &Request) -> Result<Option<Pass>, ApiError> {
    let headers = request.headers();
    let guarded = tokens.guarded();
    if !guarded && !browser::is_local(headers) {
        return Err(Denied::Host.into());
    }
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    if method != Method::GET && !browser::is_same_site(headers) {
        return Err(Denied::CrossSite.into());
    }
    let Some(route) = request.extensions().get::<MatchedPath>() else {
        return Ok(None); // there is nothing there, and that is what is answered
    };
    let mut rules = TABLE.iter().filter(|rule| rule.route == route.as_str()).peekable();
    if rules.peek().is_none() {
        tracing::error!("{} has no line in the access table", route.as_str());
        return Err(Denied::NoRule.into());
    }
    let rule = rules.find(|rule| rule.method.eq_ignore_ascii_case(method.as_str())).ok_or(ApiError::Method)?;
    let Some(needs) = rule.least else { return Ok(None) };
    if !guarded {
        return Ok(Some(Pass { caller: Caller::local(), rule, token: None }));
    }
    let token = credential(headers).ok_or(Denied::NoToken)?;
    let holder = tokens.holder(token, OffsetDateTime::now_utc()).map_err(Denied::from)?;
    if holder.role < needs {
        tracing::warn!("{} ({}) was refused {} {}", holder.name, holder.role, method, route.as_str());
        return Err(Denied::Role { name: holder.name, has: holder.role, needs }.into());
    }
    let caller = Caller { name: holder.name, role: holder.role };
    Ok(Some(Pass { caller, rule, token: Some(token.into()) }))
}

/// Ends an event stream when its token is revoked or expires, at the next event or sign of life: streams last for days.
fn while_allowed(response: Response, tokens: Tokens, token: Option<String>) -> Response {
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "text/event-stream") {
        return response;
    }
    response.map(|body| {
        Body::from_stream(body.into_data_stream().take_while(move |_| match &token {
            Some(token) => tokens.holder(token, OffsetDateTime::now_utc()).is_ok(),
            None => !tokens.guarded(),
        }))
    })
}

/// Runs a change to its end and writes it down, even if the client or its patience is gone by then.
async fn change(api: Api, deed: Deed, request: Request, next: Next) -> Response {
    let done = tokio::spawn(async move {
        let response = next.run(request).await;
        audit(&api, Deed { status: response.status().as_u16(), ..deed }).await;
        response
    });
    done.await.unwrap_or_else(|e| ApiError::Internal(e.to_string()).into_response())
}

fn deed(request: &Request, name: &str, role: Role) -> Deed {
    Deed {
        id: 0,
        time: rfc3339_now(),
        name: name.into(),
        role: role.name().into(),
        address: request.extensions().get::<Peer>().map_or(String::new(), |peer| peer.address.ip().to_string()),
        method: request.method().to_string(),
        path: request.uri().path().chars().take(MAX_PATH).collect(),
        status: 0,
    }
}

/// Writes an entry; if the store can't, the log has it.
async fn audit(api: &Api, deed: Deed) {
    if let Err(e) = api.store.audit(&deed).await {
        api.metrics.audit_lost.inc();
        tracing::error!("not in the audit log, for {e}: {deed:?}");
    }
}

/// The token of the `Authorization` header, or else of the page's cookie.
fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim());
    }
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|value| value.split(';')).find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        (name == COOKIE).then_some(value)
    })
}

/// Reads the tokens again whenever they change, until the service stops.
pub(in crate::api) async fn follow(tokens: Tokens, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await.is_some() {
        let tokens = tokens.clone();
        if let Err(e) = tokio::task::spawn_blocking(move || tokens.refresh()).await {
            tracing::error!("the tokens could not be looked at: {e}");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_of_the_router_has_a_line_in_the_table_and_the_other_way_round() {
        let mut routed = BTreeSet::new();
        for part in include_str!("../mod.rs").split(".route(").skip(1) {
            let mut quoted = part.splitn(3, '"');
            let (route, rest) = (quoted.nth(1).unwrap(), quoted.next().unwrap());
            let handlers = rest.split(".route(").next().unwrap().lines().next().unwrap();
            for method in ["get", "post", "put", "patch", "delete"] {
                let before = |i: usize| handlers[..i].ends_with([' ', '.', '(']);
                if handlers.match_indices(&format!("{method}(")).any(|(i, _)| before(i)) {
                    routed.insert(format!("{method} {route}"));
                }
            }
        }
        assert!(routed.len() >= 25, "the reader of routes sees them: {routed:?}");
        let named: BTreeSet<String> = TABLE.iter().map(|r| format!("{} {}", r.method, r.route)).collect();
        assert_eq!(named.len(), TABLE.len(), "no line stands twice");
        let (missing, stale) = (&routed - &named, &named - &routed);
        assert!(missing.is_empty(), "give these routes a line in TABLE of src/api/http/access.rs: {missing:?}");
        assert!(stale.is_empty(), "these lines of TABLE have no route: {stale:?}");
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_header_counts_before_the_cookie_and_other_schemes_do_not() {
        let cookie = ("cookie", "a=b; beltsight=fromcookie;c");
        assert_eq!(credential(&headers(&[cookie])), Some("fromcookie"));
        assert_eq!(credential(&headers(&[cookie, ("authorization", "bearer fromheader")])), Some("fromheader"));
        assert_eq!(credential(&headers(&[cookie, ("authorization", "Basic abc")])), None);
        assert_eq!(credential(&headers(&[("cookie", "xbeltsight=no")])), None);
    }
}
