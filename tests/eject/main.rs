//! Acting on time through real outputs: an independent PLC (pymodbus), an MQTT broker (mosquitto), a Sparkplug host, and a
//! receiver of webhooks, each of which dies, hangs, comes back or talks nonsense in the middle.
#![allow(clippy::unwrap_used, missing_docs)]

mod alive;
mod bench;
#[path = "../common/mod.rs"]
mod common;
mod encoder;
mod modbus;
mod mqtt;
mod service;
mod shift;
mod sparkplug;
mod webhook;
