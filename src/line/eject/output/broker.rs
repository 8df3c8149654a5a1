//! What the configuration says of a broker.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rumqttc::{LastWill, MqttOptions, QoS, TlsConfiguration, Transport};
use serde::Deserialize;
use serde_json::json;

use super::{
    QUEUE,
    sparkplug::{self, Sparkplug},
    tls::Tls,
};

/// The broker tells that we are gone after one and a half times this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Largest packet that is sent, and largest message that is taken, in bytes.
pub(super) const LARGEST: usize = 16 << 10;
/// Largest packet that is read, to be skipped, in bytes; a larger one ends the connection.
pub(super) const LARGEST_READ: usize = 1 << 20;

/// A broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// Host name or address.
    pub host: String,
    /// Port; absent: 1883, or 8883 with TLS.
    pub port: Option<u16>,
    /// Talk TLS; absent: everybody on the way can read and write along.
    pub tls: Option<Tls>,
    /// What topics begin with.
    pub topic: String,
    /// Client identifier; no two clients of a broker may share one. Absent: one of our own, with the machine's name.
    pub client: Option<String>,
    /// The topic on which somebody tells the belt's speed.
    pub speed: Option<String>,
    /// The topic on which somebody tells the lot on the belt.
    pub lot: Option<String>,
    /// Tell the line's state as a Sparkplug B edge node, instead of on `<topic>/state`.
    pub sparkplug: Option<Sparkplug>,
    /// User name.
    pub user: Option<String>,
    /// File with the user's password.
    pub password_file: Option<PathBuf>,
}

/// A client identifier that nobody else has, of at most 23 characters, which every broker takes.
fn own_client() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
    format!("beltsight-{host}-{:06x}", rand::random::<u32>() >> 8)
}

impl Mqtt {
    /// Refuses topics that can't be published to.
    pub(in crate::line::eject) fn check(&self) -> Result<(), String> {
        if self.topic.is_empty() || self.topic.contains(['+', '#', '\0']) || self.client.as_deref() == Some("") {
            return Err("mqtt: topic must not be empty or hold + or #, client must not be empty".into());
        }
        if self.password_file.is_some() && self.user.is_none() {
            return Err("mqtt: password_file needs a user".into());
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check).map_err(|why| format!("mqtt: {why}"))?;
        self.sparkplug.as_ref().map_or(Ok(()), Sparkplug::check)
    }

    /// Reads password and certificates.
    pub(in crate::line::eject) fn options(&self) -> Result<MqttOptions, String> {
        let port = self.port.unwrap_or(if self.tls.is_some() { 8883 } else { 1883 });
        let client = self.client.clone().unwrap_or_else(own_client);
        let mut options = MqttOptions::new(client, &self.host, port);
        options.set_keep_alive(KEEP_ALIVE).set_max_packet_size(LARGEST_READ, LARGEST).set_inflight(QUEUE as u16);
        if let Some(user) = &self.user {
            let password = match &self.password_file {
                Some(file) => std::fs::read_to_string(file).map_err(|e| format!("mqtt: {}: {e}", file.display()))?,
                None => String::new(),
            };
            options.set_credentials(user, password.trim_end());
        }
        if let Some(tls) = &self.tls {
            let config = tls.config().map_err(|why| format!("mqtt: {why}"))?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(config))));
        }
        Ok(options)
    }

    /// What the broker tells when we are gone.
    pub(super) fn will(&self, birth: u8) -> LastWill {
        match &self.sparkplug {
            Some(node) => LastWill::new(node.topic("NDEATH"), sparkplug::death(birth), QoS::AtLeastOnce, false),
            None => {
                let gone = json!({ "online": false }).to_string();
                LastWill::new(format!("{}/state", self.topic), gone, QoS::AtLeastOnce, true)
            }
        }
    }
}
