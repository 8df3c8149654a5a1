//! Who may ask for what: the rule of a route, and the door that every request goes through.
//!
//! Invariant: a request without a [`Rule`] is refused. What changes something is in the audit log, also when the client
//! went away meanwhile or was not allowed to; what only reads never is.

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

use super::{body, browser, serve::Peer};
use crate::{
    api::{
        Api,
        denied::Denied,
        error::ApiError,
        input::{MAX_NAME, text},
    },
    domain::time::rfc3339_now,
    store::Deed,
    tokens::{Holder, Role, Tokens},
};

/// The name of the cookie in which a browser keeps its token.
pub(in crate::api) const COOKIE: &str = "beltsight";
/// What a page may do that does not say so itself: be styled.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
/// Most characters of a path in the audit log.
const MAX_PATH: usize = 512;

/// What a route asks of its caller, and how long it may take; `routes` puts it into every request that a route answers.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The least role that is let in; `None`: everybody, without a token.
    pub least: Option<Role>,
    /// Whether it changes something and goes into the audit log.
    pub changes: bool,
    /// Whether the answer is due within `api.deadline`.
    pub has_deadline: bool,
}

impl Rule {
    /// The same rule for what takes as long as it takes.
    pub(in crate::api) const fn without_deadline(self) -> Self {
        Self { has_deadline: false, ..self }
    }
}

/// Everybody is let in, without a token.
pub(in crate::api) const fn open() -> Rule {
    Rule { least: None, changes: false, has_deadline: true }
}

/// This role and those above it are let in; nothing that lasts is changed.
pub(in crate::api) const fn needs(least: Role) -> Rule {
    Rule { least: Some(least), changes: false, has_deadline: true }
}

/// This role and those above it are let in; what they do goes into the audit log.
pub(in crate::api) const fn changes(least: Role) -> Rule {
    Rule { least: Some(least), changes: true, has_deadline: true }
}

/// Who a request comes from; handlers take it as `Extension<Caller>` on every route that is not open.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Caller {
    /// The token's name; `local` when no token is set.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
    /// Whether nobody had to say who they are. The name does not tell: a token may have been named `local`, too.
    #[serde(skip)]
    local: bool,
}

impl Caller {
    /// Whoever sits at this machine while no token is set.
    pub(in crate::api) fn local() -> Self {
        Self { name: "local".into(), role: Role::Admin, local: true }
    }

    /// Whoever holds a token.
    pub(in crate::api) fn holder(holder: Holder) -> Self {
        Self { name: holder.name, role: holder.role, local: false }
    }

    /// The name under which the record has what the caller did: the one they give, with the token's beside it where it
    /// differs.
    pub(in crate::api) fn attribute(&self, said: &str) -> String {
        let said = said.trim();
        match (self.local, said) {
            (true, _) => said.into(),
            (false, "") => self.name.clone(),
            (false, said) if said == self.name => said.into(),
            (false, said) => format!("{said} (token {})", self.name),
        }
    }

    /// The name in which the caller orders: the token's, and any other is refused; while no token is set, the name that
    /// they give.
    pub(in crate::api) fn sign(&self, said: Option<&str>) -> Result<String, ApiError> {
        let said = said.unwrap_or_default().trim();
        if self.local {
            return text("by", said, MAX_NAME);
        }
        if said.is_empty() || said == self.name {
            return Ok(self.name.clone());
        }
        Err(Denied::OtherName { name: self.name.clone(), said: said.chars().take(MAX_NAME).collect() }.into())
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
            let changes = request.extensions().get::<Rule>().is_some_and(|rule| rule.changes);
            if let (true, ApiError::Denied(Denied::Role { name, has, .. })) = (changes, &refused) {
                // Only the holder of a token gets here, so strangers can't fill the log; nor can an open page that reads
                // again and again what its holder may not read: that is counted.
                let deed = deed(&request, name, *has);
                let response = refused.into_response();
                let deed = Deed { status: response.status().as_u16(), ..deed };
                // It is written down even if the client is gone by then.
                let _ = tokio::spawn(async move { audit(&api, deed).await }).await;
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
    rule: Rule,
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
    let rule = *request.extensions().get::<Rule>().ok_or(ApiError::Method)?;
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
    Ok(Some(Pass { caller: Caller::holder(holder), rule, token: Some(token.into()) }))
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
        api.metrics.http.audit_lost.inc();
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
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_named_local_signs_as_nobody_else() {
        let holder = || Holder { name: "local".into(), role: Role::Operator };
        assert_eq!(Caller::holder(holder()).sign(None).unwrap(), "local");
        assert!(Caller::holder(holder()).sign(Some("Ada")).is_err());
        assert_eq!(Caller::holder(holder()).attribute("Ada"), "Ada (token local)");
        assert_eq!(Caller::local().sign(Some("Ada")).unwrap(), "Ada");
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
