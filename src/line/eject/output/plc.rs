//! What the configuration says of a PLC.

use std::time::Duration;

use serde::Deserialize;

use super::{SPEED_COUNTS, Target};

/// Longest time that a setting may ask for: moments so far ahead have no place on the clock.
const LONGEST_TIME: Duration = Duration::from_secs(3600);

/// A PLC.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Modbus {
    /// Host name or address, and port, `10.0.0.5:502`; a name is looked up at each connection.
    pub address: String,
    /// Unit identifier.
    #[serde(default = "one")]
    pub unit: u8,
    /// A gate's coil stays raised this long.
    #[serde(with = "humantime_serde")]
    pub pulse: Duration,
    /// The holding register that counts up.
    pub heartbeat: u16,
    /// Time between two heartbeats.
    #[serde(with = "humantime_serde", default = "beat")]
    pub every: Duration,
    /// The input register that holds the belt's speed in mm/s, signed, below 0 while the belt runs backwards; read with each heartbeat.
    pub speed: Option<u16>,
    /// The input register that holds the lot's number, 0 for none; read with each heartbeat.
    pub lot: Option<u16>,
    /// Time between two looks at the sensors after the gates.
    #[serde(with = "humantime_serde", default = "poll")]
    pub poll: Duration,
    /// The coil that stops the line; the PLC or a person lowers it.
    pub stop_line: Option<u16>,
    /// The coil that leads everything aside; the PLC or a person lowers it.
    pub divert: Option<u16>,
}

fn one() -> u8 {
    1
}

fn beat() -> Duration {
    Duration::from_millis(250)
}

fn poll() -> Duration {
    Duration::from_millis(10)
}

impl Modbus {
    /// Refuses a gate that it cannot move, and numbers that make no sense.
    pub(super) fn check(&self, target: &Target) -> Result<(), String> {
        let ways = [target.coil.is_some(), target.register.is_some(), target.command.is_some()];
        if ways.into_iter().filter(|way| *way).count() != 1 {
            return Err("modbus needs either a coil, a register or a command".into());
        }
        let numbered = target.command.map(|command| command.modbus()).transpose()?;
        let taken = |coil: Option<u16>| coil.is_some() && coil == target.coil;
        let beats = |register: Option<u16>| register == Some(self.heartbeat);
        let mut written = numbered.into_iter().flat_map(|(registers, _)| registers).map(Some).chain([target.register]);
        for (other, taken) in
            [("stop_line", taken(self.stop_line)), ("divert", taken(self.divert)), ("heartbeat", written.any(beats))]
        {
            if taken {
                return Err(format!(
                    "its coil or register has another use already: it is the {other} of {}",
                    self.address
                ));
            }
        }
        if self.stop_line.is_some() && self.stop_line == self.divert {
            return Err(format!("modbus {}: stop_line and divert are the same coil", self.address));
        }
        if self.speed.is_some() && self.speed == self.lot {
            return Err(format!("modbus {}: speed and lot are the same register", self.address));
        }
        let port = self.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(format!("modbus: address {:?} is not a host and a port, as in \"10.0.0.5:502\"", self.address));
        }
        let times = [self.pulse, self.every, self.poll];
        if times.iter().any(|time| time.is_zero() || *time > LONGEST_TIME) {
            return Err("modbus: pulse, every and poll must be longer than 0, and at most an hour".into());
        }
        if self.speed.is_some() && self.every >= SPEED_COUNTS {
            return Err("modbus: every must be shorter than 2s where speed is read with each heartbeat".into());
        }
        Ok(())
    }
}
