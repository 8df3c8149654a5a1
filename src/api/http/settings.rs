//! Where the HTTP API listens.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::serve::Tls;

/// Where the HTTP API listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address and port; port 0 takes a free one, and the log says which.
    pub listen: SocketAddr,
    /// File of the access tokens; absent: `tokens.toml` in the store's folder.
    pub tokens: Option<PathBuf>,
    /// Most connections at once.
    pub max_connections: usize,
    /// How long a client may be silent: before and in a handshake, before and in a request's head, and while an answer
    /// is sent.
    #[serde(with = "humantime_serde")]
    pub client_timeout: Duration,
    /// Certificate and key of HTTPS; absent: plain HTTP.
    pub tls: Option<Tls>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tokens: None,
            max_connections: 1024,
            client_timeout: Duration::from_secs(20),
            tls: None,
        }
    }
}

impl ServerSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        if self.max_connections == 0 {
            return Err("server.max_connections must be at least 1".into());
        }
        if self.client_timeout.is_zero() || self.client_timeout > Duration::from_secs(3600) {
            return Err("server.client_timeout must be longer than 0 and at most an hour".into());
        }
        Ok(())
    }
}
