//! An encoder that counts the belt's way, read many times a second on a connection and a thread of its own.
//!
//! Invariants: a reading is true at a known moment, or is none; what is read is never waited for, by nobody; a connection
//! whose answer did not come is closed, and the next one is made with growing pauses.

use std::{io, sync::Arc, thread::JoinHandle, time::Duration};

use serde::{Deserialize, de::Error};
use tokio_util::sync::CancellationToken;

use super::belt::{Belt, Counting, GateOnBelt};
use crate::{
    line::{eject::output::Mqtt, priority, vital},
    metrics::Metrics,
};

pub(super) mod compare;
pub(super) mod count;
mod modbus;
mod mqtt;

pub use modbus::CountRegister;

/// Shortest and longest pause before the next attempt to connect.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(500)];
/// How often silence is looked for where nothing comes.
const LOOK: Duration = Duration::from_millis(50);
/// Longest way in metres that a count may stand for, and shortest.
const SCALES: [f64; 2] = [1e-7, 0.1];
/// A belt that is measured runs no faster, in m/s.
const FASTEST: f64 = 10.0;

/// An encoder. In TOML `kind = "modbus" | "mqtt"` chooses how it is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct EncoderSettings {
    /// How it counts: 16 or 32 bits, and what a count is on the belt, `"0.1mm"`, below 0 where counts fall while the belt
    /// runs forwards.
    pub(super) counting: Counting,
    /// Where its count is read.
    pub source: CountSource,
}

/// Where an encoder's count is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CountSource {
    /// Input registers of a PLC over Modbus TCP.
    Modbus(CountRegister),
    /// A topic of an MQTT broker; each message is the count, or JSON `{"count": 7, "at": 12.345}` with the moment in seconds
    /// of the sender's clock.
    Mqtt(Box<Mqtt>),
}

// Not `#[serde(flatten)]`, which would let unknown keys by.
impl TryFrom<toml::Table> for EncoderSettings {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let bits = table.remove("bits").map_or(Ok(32), toml::Value::try_into)?;
        let scale: String = table.remove("scale").ok_or_else(|| Error::custom("scale is missing"))?.try_into()?;
        let mm = scale.strip_suffix("mm").and_then(|number| number.trim().parse::<f64>().ok());
        let mm = mm.ok_or_else(|| Error::custom(format!("scale: {scale:?} is not a number of mm")))?;
        Ok(Self { counting: Counting { bits, metres: mm / 1e3 }, source: table.try_into()? })
    }
}

impl EncoderSettings {
    /// Refuses what can't be an encoder.
    ///
    /// # Errors
    /// What is wrong, naming the key.
    pub fn check(&self) -> Result<(), String> {
        let Counting { bits, metres } = self.counting;
        if bits != 16 && bits != 32 {
            return Err("bits must be 16 or 32".into());
        }
        if !(SCALES[0]..=SCALES[1]).contains(&metres.abs()) {
            return Err("scale must lie between 0.0001mm and 100mm, either way".into());
        }
        match &self.source {
            CountSource::Modbus(register) => register.check(bits),
            CountSource::Mqtt(mqtt) if mqtt.speed.is_some() || mqtt.lot.is_some() || mqtt.sparkplug.is_some() => {
                Err("speed, lot and sparkplug belong to an output".into())
            }
            CountSource::Mqtt(mqtt) => mqtt.check(),
        }
    }

    /// Starts the thread that reads it, until `stop`.
    ///
    /// # Errors
    /// A password or certificate that can't be read; the system's.
    pub(super) fn start(self, belt: Arc<Belt>, stop: CancellationToken) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bits = self.counting.bits;
        let topic = match self.source {
            CountSource::Modbus(register) => {
                let reading = async move { modbus::run(register, bits, &belt).await };
                return read(runtime, reading, stop);
            }
            CountSource::Mqtt(mqtt) => mqtt,
        };
        let options = topic.options().map_err(io::Error::other)?;
        read(runtime, async move { mqtt::run(topic.topic, options, &belt).await }, stop)
    }
}

/// An encoder that is read by itself, for measuring.
pub struct EncoderWatch {
    belt: Arc<Belt>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl EncoderWatch {
    /// Begins to read it.
    ///
    /// # Errors
    /// A password or certificate that can't be read; the system's.
    pub fn start(settings: EncoderSettings) -> io::Result<Self> {
        let gate = GateOnBelt { camera: "".into(), metres_per_pixel: 1.0, towards: 1.0, max_speed: FASTEST };
        let metrics = Metrics::new().map_err(io::Error::other)?;
        let belt = Belt::new(vec![gate], Some(settings.counting), &metrics, Arc::new(|_| {}), || {});
        let (belt, stop) = (Arc::new(belt), CancellationToken::new());
        let thread = settings.start(belt.clone(), stop.clone())?;
        Ok(Self { belt, stop, thread: Some(thread) })
    }

    /// Where the belt was, in metres, and in which counting: places of two have nothing to do with each other. It is known
    /// for ten seconds.
    ///
    /// # Errors
    /// Why nobody knows.
    pub fn place(&self, at: std::time::Instant) -> Result<(u32, f64), String> {
        self.belt.place(0, at)
    }
}

impl Drop for EncoderWatch {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn read(
    runtime: tokio::runtime::Runtime,
    reading: impl Future<Output = ()> + Send + 'static,
    stop: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    vital::thread("encoder".into(), move || {
        priority::real_time();
        runtime.block_on(stop.run_until_cancelled(reading));
        runtime.shutdown_background();
    })
}

/// Waits, and looks meanwhile whether the encoder is silent.
async fn pause(belt: &Belt, pause: Duration) {
    let until = tokio::time::Instant::now() + pause;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep_until(until.min(tokio::time::Instant::now() + LOOK)).await;
        belt.look();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_no_encoder_has_are_refused_by_key() {
        let right = "kind = 'modbus'\naddress = 'plc:502'\ncount = 40\nscale = '-0.1mm'";
        let check = |text: &str| {
            let settings: EncoderSettings = toml::from_str(text).map_err(|e| e.to_string())?;
            settings.check()
        };
        assert_eq!(check(right), Ok(()));
        let mqtt = "kind = 'mqtt'\nhost = 'broker'\ntopic = 'belt/count'\nscale = '0.1mm'\nbits = 16";
        assert_eq!(check(mqtt), Ok(()));
        for (text, wrong, why) in [
            (right, right.replace("-0.1mm", "0mm"), "scale"),
            (right, right.replace("-0.1mm", "0.1"), "mm"),
            (right, right.replace("scale = '-0.1mm'", ""), "scale is missing"),
            (right, format!("{right}\nbits = 24"), "bits"),
            (right, format!("{right}\npoll = '25ms'"), "poll"),
            (right, format!("{right}\npoll = '0ms'"), "poll"),
            (right, right.replace("40", "65535"), "count"),
            (right, right.replace("plc:502", "plc"), "address"),
            (right, format!("{right}\nspeed = 3"), "speed"),
            (mqtt, format!("{mqtt}\nspeed = 'belt/speed'"), "output"),
            (mqtt, mqtt.replace("belt/count", "belt/#"), "topic"),
        ] {
            let said = check(&wrong).unwrap_err();
            assert!(said.contains(why) && wrong != text, "{wrong}: {said}");
        }
    }
}
