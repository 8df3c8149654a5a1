//! What cameras behind a network share: their address, and waits that end.
//!
//! Invariant: user name and password go to the camera and nowhere else, neither into the log nor into the record.

use std::{
    fmt,
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use reqwest::Url;
use serde::Deserialize;

use super::FrameSink;

/// How often a wait looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A camera's URL, `http://user:password@10.0.0.8/video` for instance. Shown without user name, password and query,
/// which may hold a secret too.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Address {
    /// As people may see it.
    pub(super) fn shown(&self) -> String {
        // Without a host anything in it may be the password.
        let Some(mut url) = Url::parse(&self.0).ok().filter(Url::has_host) else { return "(no URL)".into() };
        let _ = (url.set_username(""), url.set_password(None)); // refused only where there is no host
        url.set_query(None);
        url.into()
    }

    /// User name and password.
    #[cfg(feature = "rtsp")]
    pub(super) fn credentials(&self) -> Option<(String, String)> {
        let url = Url::parse(&self.0).ok().filter(|url| !url.username().is_empty())?;
        let plain = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        Some((plain(url.username()), plain(url.password().unwrap_or_default())))
    }

    /// The URL, which must be of this scheme.
    pub(super) fn parse(&self, scheme: &str) -> Result<Url, String> {
        // What is wrong is not quoted: it may be the password.
        let url = Url::parse(&self.0).map_err(|error| format!("url is not a URL: {error}"))?;
        if url.scheme() != scheme || !url.has_host() {
            return Err(format!("url must begin with {scheme}:// and a host"));
        }
        Ok(url)
    }
}

/// Why a camera is no longer watched.
pub(super) enum WatchEnd {
    /// Told to stop.
    Stopped,
    /// It is lost, and why.
    Lost(String),
}

/// Why a wait ended without what was waited for.
pub(super) enum WaitEnd {
    /// The time was over.
    Silent,
    /// Told to stop.
    Stopped,
}

/// Waits for `future` until `limit`, or until told to stop.
pub(super) async fn within<T>(
    sink: &FrameSink<'_>,
    limit: Instant,
    future: impl Future<Output = T>,
) -> Result<T, WaitEnd> {
    let mut future = pin!(future);
    while !sink.stopped() {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(WaitEnd::Silent);
        }
        if let Ok(done) = tokio::time::timeout(left.min(LOOK), future.as_mut()).await {
            return Ok(done);
        }
    }
    Err(WaitEnd::Stopped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        let address = Address("http://ada:geheim@10.0.0.8:81/video?pwd=geheim".into());
        assert_eq!(format!("{address:?}"), "http://10.0.0.8:81/video");
        for broken in ["http://ada:geheim@:0:0/", "ada:geheim@10.0.0.8", "ftp://ada:geheim@10.0.0.8/"] {
            let address = Address(broken.into());
            let why = address.parse("http").err().unwrap_or_default();
            assert!(!why.is_empty() && !why.contains("geheim") && !format!("{address:?}").contains("geheim"), "{why}");
        }
    }
}
