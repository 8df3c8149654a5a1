//! The line as an edge node of Sparkplug B (Eclipse Sparkplug 3.0.0): payloads as bytes, no connection.
//!
//! Commands stay JSON at QoS 1: Sparkplug sends data at QoS 0, which nobody acknowledges.

use prost::Message;
use serde::Deserialize;
use time::OffsetDateTime;

use super::LineRequests;

/// Where the line stands among the edge nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sparkplug {
    /// Group ID.
    pub group: String,
    /// Edge node ID.
    pub node: String,
}

/// The metric by which a host asks for the birth certificate again.
const REBIRTH: &str = "Node Control/Rebirth";
/// Data types (section 6.4.16).
const INT64: u32 = 4;
const UINT64: u32 = 8;
const BOOLEAN: u32 = 11;
const STRING: u32 = 12;

/// Section 6.4.5, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
}

/// Section 6.4.6, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(oneof = "Value", tags = "11, 14, 15")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

impl Sparkplug {
    /// `spBv1.0/<group>/<kind>/<node>`; kinds are `NBIRTH`, `NDATA`, `NDEATH` and `NCMD`.
    pub(super) fn topic(&self, kind: &str) -> String {
        format!("spBv1.0/{}/{kind}/{}", self.group, self.node)
    }

    /// Refuses what can't stand in a topic.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |name: &String| name.is_empty() || name.contains(['/', '+', '#', '\0']);
        if wrong(&self.group) || wrong(&self.node) {
            return Err("mqtt: sparkplug's group and node must not be empty or hold /, + or #".into());
        }
        Ok(())
    }
}

/// The birth certificate: every metric, in message 0 of a session that `bd_seq` numbers.
pub(super) fn birth(bd_seq: u8, requests: &LineRequests, why_not: Option<String>) -> Vec<u8> {
    let mut metrics =
        vec![metric("bdSeq", INT64, Value::Long(bd_seq.into())), metric(REBIRTH, BOOLEAN, Value::Boolean(false))];
    metrics.extend(state(requests, why_not));
    payload(metrics, Some(0))
}

/// The line's state again, in message `seq` of its session.
pub(super) fn data(seq: u8, requests: &LineRequests, why_not: Option<String>) -> Vec<u8> {
    payload(state(requests, why_not), Some(seq.into()))
}

/// The death certificate of the session that `bd_seq` numbers; the broker sends it.
pub(super) fn death(bd_seq: u8) -> Vec<u8> {
    payload(vec![metric("bdSeq", INT64, Value::Long(bd_seq.into()))], None)
}

/// Whether a host's command asks for the birth certificate again.
pub(super) fn asks_rebirth(command: &[u8]) -> bool {
    let Ok(payload) = Payload::decode(command) else { return false };
    let asks = |m: &Metric| m.name.as_deref() == Some(REBIRTH) && m.value == Some(Value::Boolean(true));
    payload.metrics.iter().any(asks)
}

/// What was asked of the line, and why it is not alive, if it isn't.
fn state(requests: &LineRequests, why_not: Option<String>) -> Vec<Metric> {
    vec![
        metric("line/stops", UINT64, Value::Long(requests.stop)),
        metric("line/diverts", UINT64, Value::Long(requests.divert)),
        metric("line/why", STRING, Value::Text(requests.why.clone())),
        metric("line/alive", BOOLEAN, Value::Boolean(why_not.is_none())),
        metric("line/alive_why_not", STRING, Value::Text(why_not.unwrap_or_default())),
    ]
}

fn metric(name: &str, datatype: u32, value: Value) -> Metric {
    Metric { name: Some(name.into()), timestamp: Some(now()), datatype: Some(datatype), value: Some(value) }
}

fn payload(metrics: Vec<Metric>, seq: Option<u64>) -> Vec<u8> {
    Payload { timestamp: Some(now()), metrics, seq }.encode_to_vec()
}

/// Milliseconds since 1970.
fn now() -> u64 {
    (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_command_of_a_host_breaks_us(mut command in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..60) {
            let _ = asks_rebirth(&command);
            // Also what nearly is one.
            let mut birth = birth(1, &LineRequests::default(), None);
            let at = at.min(birth.len());
            birth.splice(at..at, command.drain(..));
            let _ = asks_rebirth(&birth);
        }
    }
}
