//! Where the record's head is left, and how often.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::line::eject::output::Mqtt;

/// Where the record's head is left, and how often; absent ones: nowhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnchorSettings {
    /// It is left this often, and when a lot is closed or signed off: what was written since can be cut off unseen.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
    /// A file that gets a line each time; on a file system that another machine keeps.
    pub file: Option<PathBuf>,
    /// A broker that retains the newest on the topic; whoever listens keeps them all.
    pub mqtt: Option<Mqtt>,
    /// A collector of logs.
    pub syslog: Option<Syslog>,
    /// A time-stamp authority.
    pub tsa: Option<TimeStamps>,
}

/// A collector of logs (RFC 5424).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Syslog {
    /// Host and port.
    pub address: String,
    /// Over TCP, a connection for each message, its length before it (RFC 6587); else UDP, where nobody hears of losses.
    #[serde(default)]
    pub tcp: bool,
}

/// A time-stamp authority (RFC 3161).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeStamps {
    /// Where it is asked: `http://…`, for what it answers is signed.
    pub url: String,
    /// The file that its tokens are added to; absent: `anchors.jsonl` in the store's folder. Copy it elsewhere.
    pub tokens: Option<PathBuf>,
}

impl Default for AnchorSettings {
    fn default() -> Self {
        Self { every: Duration::from_secs(3600), file: None, mqtt: None, syslog: None, tsa: None }
    }
}

impl AnchorSettings {
    /// Whether every value lies in its range.
    ///
    /// # Errors
    /// Names the key that does not.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("record.anchor.{why}"));
        if self.every < Duration::from_secs(1) {
            return wrong("every must be at least 1s");
        }
        if let Some(mqtt) = &self.mqtt {
            mqtt.check_retained().map_err(|why| format!("record.anchor.{why}"))?;
        }
        let has_port = |address: &str| address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if self.syslog.as_ref().is_some_and(|syslog| !has_port(&syslog.address)) {
            return wrong("syslog.address must be host:port");
        }
        if self.tsa.as_ref().is_some_and(|tsa| !tsa.url.starts_with("http://")) {
            return wrong("tsa.url must begin with http://");
        }
        Ok(())
    }
}
