//! What a browser could be made to do to us by a page of another site.
//!
//! Invariant: a change comes from a program or from our own pages, never from another site's.
//!
//! Without any token only this machine is served (`service` sees to that), without asking. A browser on this machine may
//! then be used against it by any page it shows: so the `Host` must be this machine's (a foreign name that was made to
//! point here, "DNS rebinding", is not), and a change must come from our own pages. With tokens the second still holds,
//! for a browser sends its cookie unasked; the first is not needed, for the cookie stays with the name it was set for.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, header};

/// Whether the `Host` is this machine's own. Every browser sends one; who sends none is not answered.
pub(in crate::api) fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|value| value.to_str().ok()) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Whether no other site's page can have made a browser send this. Browsers say so in `Sec-Fetch-Site` (over HTTPS and
/// to localhost) and in `Origin`; programs send neither.
pub(in crate::api) fn is_same_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_ascii_lowercase);
    let (Some(origin), Some(host)) = (text(origin), headers.get(header::HOST).and_then(text)) else { return false };
    origin.split_once("://").is_some_and(|(_, authority)| authority == host)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_foreign_name_for_this_machine_is_seen() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "127.8.8.8", "[::1]:80", "[::ffff:127.0.0.1]"] {
            assert!(is_local(&headers(&[("host", host)])), "{host}");
        }
        let foreign =
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.9:8080", "[fe80::1]"];
        for host in foreign {
            assert!(!is_local(&headers(&[("host", host)])), "{host}");
        }
        assert!(!is_local(&HeaderMap::new()));
    }

    #[test]
    fn a_request_that_another_site_made_a_browser_send_is_seen() {
        let host = ("host", "box:8080");
        for ours in [
            &[host][..],
            &[host, ("origin", "http://box:8080")],
            &[host, ("origin", "https://BOX:8080")],
            &[host, ("sec-fetch-site", "same-origin"), ("origin", "http://box:8080")],
        ] {
            assert!(is_same_site(&headers(ours)), "{ours:?}");
        }
        for theirs in [
            &[host, ("origin", "http://evil.example")][..],
            &[host, ("origin", "http://box:3000")],
            &[host, ("origin", "null")],
            &[("origin", "http://box:8080")],
            &[host, ("sec-fetch-site", "cross-site"), ("origin", "http://box:8080")],
            &[host, ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_same_site(&headers(theirs)), "{theirs:?}");
        }
    }
}
