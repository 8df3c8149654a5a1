//! A count in a PLC's input registers, over Modbus TCP.

use std::{
    io,
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_modbus::{
    Slave,
    client::{Context, Reader, tcp},
};

use super::{PAUSES, pause};
use crate::line::eject::belt::Belt;

/// Longest time between two readings: at a metre per second the belt goes 20 mm.
const LONGEST_POLL: Duration = Duration::from_millis(20);
/// An answer that took longer doesn't say when it was true.
const SLOW: Duration = Duration::from_millis(20);
/// One that took longer is given up, and the connection with it.
const ANSWER: Duration = Duration::from_millis(250);

/// Where a PLC has the count.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountRegister {
    /// Host and port, `10.0.0.5:502`.
    pub address: String,
    /// Unit identifier.
    #[serde(default = "one")]
    pub unit: u8,
    /// The input register that holds the count; of 32 bits the high word, and the next one the low word.
    pub count: u16,
    /// Time between two readings.
    #[serde(with = "humantime_serde", default = "poll")]
    pub poll: Duration,
}

fn one() -> u8 {
    1
}

fn poll() -> Duration {
    Duration::from_millis(10)
}

impl CountRegister {
    /// Refuses what can't be read in time.
    pub(super) fn check(&self, bits: u32) -> Result<(), String> {
        if self.poll < Duration::from_millis(1) || self.poll > LONGEST_POLL {
            return Err("poll must lie between 1ms and 20ms".into());
        }
        if bits == 32 && self.count == u16::MAX {
            return Err("count must leave a register for the low word".into());
        }
        let port = self.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("address: {:?} is not a host and a port", self.address));
        }
        Ok(())
    }
}

/// Reads for ever.
pub(super) async fn run(settings: CountRegister, bits: u32, belt: &Belt) {
    let mut wait = Duration::ZERO;
    loop {
        pause(belt, wait).await;
        let why = match connect(&settings).await {
            Ok(mut context) => {
                tracing::info!("the encoder at {} is connected", settings.address);
                wait = Duration::ZERO;
                read(&settings, bits, belt, &mut context).await
            }
            Err(e) => format!("{} can't be connected: {e}", settings.address),
        };
        if wait.is_zero() {
            tracing::warn!("the encoder is not read: {why}");
        }
        belt.refused("failed", &why);
        wait = (wait * 2).clamp(PAUSES[0], PAUSES[1]);
    }
}

async fn connect(settings: &CountRegister) -> io::Result<Context> {
    let stream = timeout(ANSWER, TcpStream::connect(&settings.address)).await.map_err(io::Error::other)??;
    stream.set_nodelay(true)?;
    Ok(tcp::attach_slave(stream, Slave(settings.unit)))
}

/// Reads until the connection is broken or doubtful; why it is.
async fn read(settings: &CountRegister, bits: u32, belt: &Belt, context: &mut Context) -> String {
    let mut poll = interval(settings.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let words = (bits / 16) as u16;
    loop {
        poll.tick().await;
        let asked = Instant::now();
        let answer = timeout(ANSWER, context.read_input_registers(settings.count, words)).await;
        let took = asked.elapsed();
        match answer {
            Ok(Ok(Ok(read))) if read.len() == usize::from(words) => {
                belt.round_trip(took);
                let raw = read.iter().fold(0, |raw, word| raw << 16 | i64::from(*word));
                if took > SLOW {
                    belt.refused("slow", &format!("the answer took {took:?}"));
                } else {
                    belt.counted(raw, asked + took / 2, took / 2);
                }
            }
            Ok(Ok(Ok(read))) => belt.refused("failed", &format!("the PLC answers {} registers", read.len())),
            Ok(Ok(Err(code))) => belt.refused("failed", &format!("the PLC answers {code}")),
            Ok(Err(e)) => return e.to_string(),
            Err(_) => return "the PLC does not answer".into(),
        }
    }
}
