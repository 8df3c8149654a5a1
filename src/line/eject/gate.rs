//! Where the gates are and when an item reaches one. Pure.
//!
//! Invariant: a due time comes from the moment of CAPTURE, never from the moment of the verdict, so that slow thinking
//! makes a command late but never wrong.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Deserializer, de::Error};

use super::{
    OnLate, Sensor,
    encoder::EncoderSettings,
    window::{GateWindow, Neighbours},
};
use crate::{
    domain::{Action, Region},
    line::{
        eject::output,
        geometry::{Direction, Geometry, Lens, quantity},
    },
};

/// Longest way from capture to a gate that is believed; more is a wrong geometry or a standing belt.
const LONGEST: f64 = 600.0;
/// Longest time that a setting may ask for: moments so far ahead have no place on the clock.
const LONGEST_SETTING: Duration = Duration::from_secs(24 * 3600);
/// Longest stretch of belt before and behind an item for which a gate may be open, in mm.
const LONGEST_DWELL: f64 = 10_000.0;
/// Fastest belt that is believed, in m/s.
const FASTEST: f64 = 100.0;

/// Acting on verdicts: the gates, and the outputs that move them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EjectSettings {
    /// Commands that may wait for their moment or their acknowledgement; one more is late at once.
    #[serde(default = "queue")]
    pub queue: usize,
    /// What counts the belt's way; absent: the gates go by time.
    pub encoder: Option<EncoderSettings>,
    /// The gates along the belt.
    pub gate: Vec<EjectorGate>,
    /// What moves the gates; every output gets every command.
    pub output: Vec<OutputPolicy>,
}

fn queue() -> usize {
    256
}

/// A gate beside the belt.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EjectorGate {
    /// Name in topics, messages and the log.
    pub name: String,
    /// The camera whose items it takes.
    pub camera: String,
    /// `reject`, `divert` or both.
    pub actions: Vec<Action>,
    /// The belt's speed at the gate.
    pub speed: GateSpeed,
    /// A measured or seen speed above this, in m/s, is none, `"2.5m/s"`. Absent: twice `speed`, where that is a number.
    #[serde(deserialize_with = "metres_per_second", default)]
    pub max_speed: Option<f64>,
    /// What a pixel is on the belt, `"2.1mm/px"`; 0: as the camera's geometry says, see [`EjectorGate::seen_by`].
    #[serde(deserialize_with = "millimetres_per_pixel", default)]
    pub scale: f64,
    /// Width in pixels of the pictures for which `scale` holds; others are refused. Absent: the camera's, or the first
    /// picture's.
    pub width: Option<u32>,
    /// What the camera's lens bends.
    #[serde(skip)]
    pub lens: Option<Lens>,
    /// From the picture's left edge to the gate, `"900mm"`, towards larger x; below 0 for a gate left of the picture.
    #[serde(deserialize_with = "millimetres")]
    pub distance: f64,
    /// From the command to the moment when the gate has moved.
    #[serde(with = "humantime_serde", default)]
    pub delay: Duration,
    /// Least time from the gate's being shut to its next opening; where the other side shuts it, from command to command.
    #[serde(with = "humantime_serde", default)]
    pub pause: Duration,
    /// The gate is open from so many mm before an item's front until as many behind its end, `"10mm"`. Absent: from the item's
    /// middle on, for as long as it always is.
    #[serde(deserialize_with = "some_millimetres", default)]
    pub dwell: Option<f64>,
    /// What becomes of good items near one to be ejected.
    #[serde(default)]
    pub neighbours: Neighbours,
    /// The sensor after the gate, if there is one.
    pub confirm: Option<Sensor>,
    /// What the outputs set.
    #[serde(flatten)]
    pub target: output::Target,
}

/// Where the belt's speed at a gate comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateSpeed {
    /// It is `"1.25m/s"`, or what an encoder says; below 0 where items move towards smaller x, which an encoder can't tell:
    /// it counts up while items come to the gate, and down while the belt runs backwards.
    Given(f64),
    /// `"seen"`: it is taken from the gate's camera's own pictures.
    Seen,
}

impl<'de> Deserialize<'de> for GateSpeed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "seen" { Ok(GateSpeed::Seen) } else { quantity(&text, "m/s").map(GateSpeed::Given) }
    }
}

/// An output and what being late means to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct OutputPolicy {
    /// What it is called in metrics, log and record; see [`EjectSettings::names`].
    pub name: Option<String>,
    /// A command that is not acknowledged this long after its due time is late.
    pub tolerance: Duration,
    /// What a late or failed command leads to.
    pub on_late: OnLate,
    /// Where commands go.
    pub output: output::OutputSettings,
}

// Not `#[serde(flatten)]`, which would let unknown keys by.
impl TryFrom<toml::Table> for OutputPolicy {
    type Error = toml::de::Error;

    fn try_from(mut table: toml::Table) -> Result<Self, Self::Error> {
        let mut taken =
            |key: &str| table.remove(key).ok_or_else(|| toml::de::Error::custom(format!("{key} is missing")));
        let (tolerance, on_late) = (taken("tolerance")?, taken("on_late")?);
        Ok(Self {
            name: table.remove("name").map(toml::Value::try_into).transpose()?,
            tolerance: humantime_serde::deserialize(tolerance)?,
            on_late: on_late.try_into()?,
            output: table.try_into()?,
        })
    }
}

impl EjectorGate {
    /// The speed in m/s above which a reading is none.
    pub fn max_speed(&self) -> f64 {
        self.max_speed.unwrap_or(match self.speed {
            GateSpeed::Given(given) => 2.0 * given.abs(),
            GateSpeed::Seen => FASTEST,
        })
    }

    /// The way in metres from an item to the gate along the belt, where the belt's direction is given; below 0 for an item
    /// that has passed it. `None` when it is so long that the geometry must be wrong.
    pub fn ahead(&self, region: Region) -> Option<f64> {
        let GateSpeed::Given(given) = self.speed else { return None };
        let ahead = self.way(region) * given.signum() / 1e3;
        (ahead.abs() <= LONGEST * given.abs()).then_some(ahead)
    }

    /// From an item's centre to the gate in metres, towards larger x; `None` when it is so long that the geometry must be wrong.
    pub fn way_seen(&self, region: Region) -> Option<f64> {
        Some(self.way(region) / 1e3).filter(|way| way.abs() <= LONGEST * FASTEST)
    }

    /// From an item's centre to the gate in mm, towards larger x.
    fn way(&self, region: Region) -> f64 {
        let (x, y) = region.centre();
        let along = self.lens.map_or(x.into(), |lens| lens.along(x.into(), y.into()));
        self.distance - along * self.scale
    }

    /// Metres of belt from the middle of an item to where the gate opens for it; 0 without `dwell`.
    pub fn lead(&self, region: Region) -> f64 {
        let Some(dwell) = self.dwell else { return 0.0 };
        let straight = |x: u32| self.lens.map_or(x.into(), |lens| lens.along(x.into(), region.centre().1.into()));
        let length = (straight(region.x + region.width) - straight(region.x)) * self.scale;
        (length / 2.0 + dwell) / 1e3
    }

    /// How it opens for an item: at least for `least`. `speed` is the belt's in m/s, where nothing tells it later.
    pub fn window(&self, region: Option<Region>, least: Duration, speed: f64, beside: bool) -> GateWindow {
        let length = region.map_or(0.0, |region| 2.0 * self.lead(region));
        GateWindow { least, length, speed, pause: self.pause, beside }
    }

    /// What the camera sees of the belt's speed, in pixels per second over the whole picture, in m/s.
    pub fn metres(&self, pixels: f64) -> f64 {
        pixels * self.lens.map_or(1.0, |lens| lens.stretch()) * self.scale / 1e3
    }

    /// Takes from the camera's geometry what the gate does not say itself. Where the belt runs to the left there, a gate's
    /// speed needs no sign.
    ///
    /// # Errors
    /// Names the key that geometry and gate say differently.
    pub fn seen_by(&mut self, geometry: &Geometry) -> Result<(), String> {
        match geometry.scale {
            Some(scale) if self.scale == 0.0 => self.scale = scale,
            Some(scale) if self.scale != scale => {
                return Err(format!("scale is {}mm/px, and the camera's geometry.scale {scale}mm/px", self.scale));
            }
            _ => {}
        }
        if self.scale == 0.0 {
            return Err("scale is missing; it stands here, or as geometry.scale in the camera".into());
        }
        match (self.width, geometry.width) {
            (Some(own), Some(width)) if own != width => {
                return Err(format!("width is {own}, and the camera's geometry.width {width}"));
            }
            (own, width) => self.width = own.or(width),
        }
        self.lens = geometry.lens();
        match (self.speed, geometry.direction) {
            (GateSpeed::Given(given), Some(Direction::Right)) if given < 0.0 => {
                return Err(format!("speed is {given}m/s, and the camera's geometry.direction right"));
            }
            (GateSpeed::Given(given), Some(Direction::Left)) => self.speed = GateSpeed::Given(-given.abs()),
            _ => {}
        }
        Ok(())
    }

    /// Refuses a gate that an item can reach before its verdict comes and the gate has moved, at a given speed.
    ///
    /// # Errors
    /// Names the gate, its camera and the key.
    pub fn check_reach(&self, deadline: Duration) -> Result<(), String> {
        let GateSpeed::Given(given) = self.speed else { return Ok(()) };
        let (way, needed) = (self.distance * given.signum(), given.abs() * 1e3 * (deadline + self.delay).as_secs_f64());
        if way < needed {
            let Self { name, camera, .. } = self;
            return Err(format!(
                "eject.gate {name} of camera {camera}: distance is {way:.0} mm, but the belt runs {needed:.0} mm within \
                 line.deadline and delay: the gate would move after the item"
            ));
        }
        Ok(())
    }

    /// Refuses times and speeds that no clock holds and no belt has.
    fn check_numbers(&self) -> Result<(), String> {
        let times =
            [Some(self.delay), self.confirm.map(|sensor| sensor.after), self.confirm.map(|sensor| sensor.window)];
        if times.into_iter().flatten().any(|time| time > LONGEST_SETTING) || self.pause > LONGEST_SETTING {
            return Err("delay, pause, after and window must be at most a day".into());
        }
        if self.dwell.is_some_and(|dwell| !(0.0..=LONGEST_DWELL).contains(&dwell)) {
            return Err(format!("dwell must lie between 0mm and {LONGEST_DWELL}mm"));
        }
        let given = match self.speed {
            GateSpeed::Given(given) => given.abs(),
            GateSpeed::Seen => 0.0,
        };
        if given > FASTEST || self.max_speed.is_some_and(|max| max <= 0.0 || max < given || max > FASTEST) {
            return Err(format!("max_speed must be above 0 and no less than speed, and both at most {FASTEST} m/s"));
        }
        Ok(())
    }

    /// When the command must leave so that the gate has moved when the item's centre arrives; `speed` in m/s. `None`
    /// when there is no such moment: the belt stands, runs away from the gate, or a number is not finite.
    pub fn due(&self, captured: Instant, region: Region, speed: f64) -> Option<Instant> {
        let travel = self.way(region) / (speed * 1e3); // both signed
        let runs = match self.speed {
            GateSpeed::Given(given) => speed * given > 0.0,
            GateSpeed::Seen => speed != 0.0,
        };
        if !runs || !speed.is_finite() || !(-LONGEST..=LONGEST).contains(&travel) {
            return None;
        }
        let after = travel - self.delay.as_secs_f64();
        let shift = Duration::from_secs_f64(after.abs());
        if after < 0.0 { captured.checked_sub(shift) } else { captured.checked_add(shift) }
    }
}

impl EjectSettings {
    /// What the outputs are called in metrics, log and record: as `name` says, else by their kind, the second of a kind
    /// `mqtt-2`.
    pub fn names(&self) -> Vec<Arc<str>> {
        let kind = |index: usize| self.output[index].output.kind();
        let named = |(index, policy): (usize, &OutputPolicy)| match &policy.name {
            Some(name) => name.as_str().into(),
            None => match (0..=index).filter(|before| kind(*before) == kind(index)).count() {
                1 => kind(index).into(),
                place => format!("{}-{place}", kind(index)).into(),
            },
        };
        self.output.iter().enumerate().map(named).collect()
    }

    /// Refuses two gates that one coil or register would move, or one sensor confirm, and what [`Self::check_window`] does.
    fn check_alone(&self, gate: &EjectorGate) -> Result<(), String> {
        let sensor = |gate: &EjectorGate| gate.confirm.and_then(|sensor| sensor.input);
        let written = |gate: &EjectorGate| gate.target.command.and_then(|command| command.registers);
        let done = |gate: &EjectorGate| gate.target.command.and_then(|command| command.done);
        for other in self.gate.iter().filter(|other| other.name != gate.name) {
            for (key, ours, theirs) in [
                ("coil", gate.target.coil, other.target.coil),
                ("register", gate.target.register, other.target.register),
                ("command.registers", written(gate), written(other)),
                ("command.done", done(gate), done(other)),
                ("confirm.input", sensor(gate), sensor(other)),
            ] {
                if let (Some(ours), true) = (ours, ours == theirs) {
                    let [a, b] = [gate, other].map(|gate| format!("{} of camera {}", gate.name, gate.camera));
                    return Err(format!("eject.gate: {key} {ours} is that of two gates, {a} and {b}"));
                }
            }
        }
        self.check_window(gate).map_err(|why| format!("eject.gate {}: {why}", gate.name))
    }

    /// How long a gate is open at least, where one of the outputs shuts it.
    pub(super) fn least_open(&self, gate: &EjectorGate) -> Duration {
        let pulse = |policy: &OutputPolicy| match &policy.output {
            output::OutputSettings::Modbus(plc) if gate.target.coil.is_some() => Some(plc.pulse),
            _ => None,
        };
        self.output.iter().filter_map(pulse).max().unwrap_or_default()
    }

    /// Refuses a gate that is to be open for a time that we don't determine.
    fn check_window(&self, gate: &EjectorGate) -> Result<(), String> {
        let (set, both) = (gate.dwell.is_some() || !gate.pause.is_zero(), gate.neighbours == Neighbours::Both);
        if gate.target.command.is_some() && (set || both) {
            return Err("pause, dwell and neighbours are the PLC's own where it carries out commands by itself".into());
        }
        if gate.target.register.is_some() && gate.dwell.is_some() {
            return Err("dwell needs a coil: what a register moves, the PLC moves back".into());
        }
        if both && gate.dwell.is_none() && self.least_open(gate).is_zero() {
            return Err("neighbours = \"both\" needs a gate that stays open: a coil, or dwell".into());
        }
        Ok(())
    }

    /// Refuses a gate whose item's place no count can tell.
    fn check_encoded(&self, gate: &EjectorGate) -> Result<(), String> {
        let Some(encoder) = &self.encoder else {
            return match gate.target.command {
                Some(_) => Err("command needs [eject.encoder], which tells the PLC where".into()),
                None => Ok(()),
            };
        };
        if gate.speed == GateSpeed::Seen {
            return Err(
                "with [eject.encoder] speed must be a number: it tells the direction and the highest speed".into()
            );
        }
        if gate.distance.abs() / 1e3 / encoder.counting.metres.abs() >= f64::from(1u32 << (encoder.counting.bits - 2)) {
            return Err(
                "distance is more than a quarter of the encoder's range: it needs more bits or a larger scale".into()
            );
        }
        Ok(())
    }

    /// Refuses what could let a wrong item pass in silence. `cameras` are the names of all cameras.
    ///
    /// # Errors
    /// What is wrong, naming the key.
    pub fn check(&self, cameras: &[&str]) -> Result<(), String> {
        if self.queue == 0 || self.output.is_empty() {
            return Err("eject.queue must be at least 1 and [[eject.output]] name an output".into());
        }
        if let Some(encoder) = &self.encoder {
            encoder.check().map_err(|why| format!("eject.encoder: {why}"))?;
            if self.output.iter().any(|policy| policy.output.measures_speed()) {
                return Err("eject: with [eject.encoder] no output may measure the speed".into());
            }
        }
        for gate in &self.gate {
            let name = &gate.name;
            if !cameras.contains(&gate.camera.as_str()) {
                return Err(format!("eject.gate {name}: there is no camera {}", gate.camera));
            }
            if gate.speed == GateSpeed::Given(0.0) || gate.scale <= 0.0 {
                return Err(format!("eject.gate {name}: speed must not be 0 and scale must be above 0"));
            }
            gate.check_numbers().map_err(|why| format!("eject.gate {name}: {why}"))?;
            let modbus = self.output.iter().any(|policy| policy.output.kind() == "modbus");
            if gate.confirm.is_some_and(|sensor| sensor.input.is_some() && !modbus) {
                return Err(format!("eject.gate {name}: confirm.input needs an output of the kind modbus"));
            }
            if gate.actions.contains(&Action::Accept) {
                return Err(format!("eject.gate {name}: accepted items stay on the belt"));
            }
            if self.gate.iter().any(|g| g.camera == gate.camera && g.width != gate.width) {
                return Err(format!("eject.gate {name}: width differs from that of the camera's other gate"));
            }
            if self.gate.iter().filter(|g| g.name == *name).count() > 1 {
                return Err(format!("two gates are named {name}"));
            }
            self.check_alone(gate)?;
            self.check_encoded(gate).map_err(|why| format!("eject.gate {name}: {why}"))?;
            let on_missed = gate.confirm.and_then(|sensor| sensor.on_missed?.asks());
            if on_missed.is_some_and(|action| !self.output.iter().any(|policy| policy.output.can(action))) {
                return Err(format!("eject.gate {name}: no output can do what confirm.on_missed asks"));
            }
            if gate.confirm.is_some_and(|sensor| sensor.in_a_row == 0) {
                return Err(format!("eject.gate {name}: confirm.in_a_row must be at least 1"));
            }
            for policy in &self.output {
                policy.output.check(&gate.target).map_err(|why| format!("eject.gate {name}: {why}"))?;
            }
        }
        for camera in cameras {
            for action in [Action::Reject, Action::Divert] {
                let gates = self.gate.iter().filter(|g| g.camera == *camera && g.actions.contains(&action)).count();
                if gates != 1 {
                    return Err(format!("eject: camera {camera} has {gates} gates for {}, not one", action.name()));
                }
            }
        }
        if self.output.iter().filter(|policy| policy.output.tells_lot()).count() > 1 {
            return Err("eject: two outputs tell the lot".into());
        }
        let encoders = self.output.iter().filter(|policy| policy.output.measures_speed()).count();
        if encoders > 1 && cameras.len() > 1 {
            return Err(
                "eject: one belt speed counts for all gates, so only one output may measure it; lines with an \
                 encoder each need a process each"
                    .into(),
            );
        }
        let names = self.names();
        for (policy, name) in self.output.iter().zip(&names) {
            if name.is_empty() || names.iter().filter(|other| *other == name).count() > 1 {
                return Err(format!(
                    "eject.output: {name:?} is no name, or that of two outputs; name must tell them apart"
                ));
            }
            if policy.tolerance > LONGEST_SETTING {
                return Err(format!("eject.output {name}: tolerance must be at most a day"));
            }
            let able =
                policy.on_late.asks().is_none_or(|action| self.output.iter().any(|other| other.output.can(action)));
            if !able {
                return Err(format!("eject: no output can {}, as on_late asks", policy.on_late.name()));
            }
        }
        Ok(())
    }
}

fn metres_per_second<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    quantity(&String::deserialize(deserializer)?, "m/s").map(Some)
}

fn millimetres_per_pixel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let scale: f64 = quantity(&String::deserialize(deserializer)?, "mm/px")?;
    // 0 stands for a gate that says none.
    if scale > 0.0 { Ok(scale) } else { Err(Error::custom(format!("{scale}mm/px: scale must be above 0"))) }
}

fn some_millimetres<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    millimetres(deserializer).map(Some)
}

fn millimetres<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    quantity(&String::deserialize(deserializer)?, "mm")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// One gate that takes rejects and diverts of the camera `belt`, and the log as output.
    pub(in crate::line) const TEXT: &str = "
        [[gate]]
        name = 'out'
        camera = 'belt'
        actions = ['reject', 'divert']
        speed = '1.25m/s'
        scale = '2.0mm/px'
        distance = '1500mm'
        delay = '20ms'
        coil = 0
        [[output]]
        kind = 'log'
        tolerance = '8ms'
        on_late = 'alarm'";

    fn gate() -> EjectorGate {
        toml::from_str::<EjectSettings>(TEXT).unwrap().gate.remove(0)
    }

    fn at(x: u32) -> Region {
        Region { x: x - 50, y: 10, width: 100, height: 20 }
    }

    #[test]
    fn due_is_capture_plus_way_over_speed_minus_delay() {
        let captured = Instant::now();
        // 1,500 mm - 250 px * 2 mm = 1,000 mm at 1.25 m/s are 800 ms, less 20 ms.
        let due = gate().due(captured, at(250), 1.25).unwrap();
        assert_eq!((due - captured).as_micros(), 780_000);
        // Twice as fast: half the way's time.
        assert_eq!((gate().due(captured, at(250), 2.5).unwrap() - captured).as_micros(), 380_000);
        // A gate left of the picture, items moving left: -500 mm - 500 mm at -1.25 m/s.
        let left = EjectorGate { speed: GateSpeed::Given(-1.25), distance: -500.0, ..gate() };
        assert_eq!((left.due(captured, at(250), -1.25).unwrap() - captured).as_micros(), 780_000);
        // An item that already passed was due before it was seen.
        let near = EjectorGate { distance: 100.0, ..gate() };
        assert!(near.due(captured, at(250), 1.25).unwrap() < captured);
    }

    #[test]
    fn a_seen_belt_may_run_either_way_and_stand() {
        let seen = EjectorGate { speed: GateSpeed::Seen, ..gate() };
        let captured = Instant::now();
        assert_eq!((seen.due(captured, at(250), 1.25).unwrap() - captured).as_micros(), 780_000);
        assert!(seen.due(captured, at(250), -1.25).unwrap() < captured, "it runs away from the gate");
        for speed in [0.0, -0.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert_eq!(seen.due(captured, at(250), speed), None, "{speed}");
        }
    }

    #[test]
    fn a_standing_or_unknown_belt_gives_no_moment() {
        for speed in [0.0, -0.0, f64::NAN, f64::INFINITY, -1.25, 1e-9] {
            assert_eq!(gate().due(Instant::now(), at(250), speed), None, "{speed}");
        }
    }

    #[test]
    fn settings_that_would_let_items_pass_in_silence_are_refused() {
        let check = |text: &str| toml::from_str::<EjectSettings>(text).map_err(|e| e.to_string())?.check(&["belt"]);
        assert_eq!(check(TEXT), Ok(()));
        for (wrong, right, why) in [
            ("['reject']", "['reject', 'divert']", "0 gates for divert"),
            ("['accept']", "['reject', 'divert']", "stay on the belt"),
            ("'other'", "'belt'", "no camera"),
            ("'0m/s'", "'1.25m/s'", "speed"),
            ("'1.25'", "'1.25m/s'", "m/s"),
            ("'sene'", "'1.25m/s'", "m/s"),
            ("'nanmm'", "'1500mm'", "mm"),
            ("'stop_line'", "'alarm'", "no output can stop_line"),
            ("'1m/s'\nmax_speed = '0.9m/s'", "'1.25m/s'", "max_speed"),
            ("'1m/s'\nmax_speed = '-2m/s'", "'1.25m/s'", "max_speed"),
            ("'1e9m/s'", "'1.25m/s'", "100 m/s"),
            ("'99years'", "'20ms'", "at most a day"),
            ("'99years'", "'8ms'", "at most a day"),
            ("name = ''\non_late", "on_late", "name"),
            ("name = 7\non_late", "on_late", "string"),
            ("kid", "kind", "kind"),
            ("distnace", "distance", "distance"),
            ("delay = '20ms'\nspede", "delay", "spede"),
            ("kind = 'log'\ncolour", "kind", "colour"),
        ] {
            let said = check(&TEXT.replace(right, wrong)).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
        assert!(toml::from_str::<EjectSettings>(TEXT).unwrap().check(&["belt", "second"]).is_err());
    }

    #[test]
    fn outputs_are_called_by_kind_and_place_or_as_they_are_named_and_no_two_the_same() {
        let log = |more: &str| format!("[[output]]\nkind = 'log'\ntolerance = '8ms'\non_late = 'alarm'\n{more}\n");
        let webhook = "[[output]]\nkind = 'webhook'\nurl = 'http://gate/'\nsecret_file = ''
            tolerance = '8ms'\non_late = 'alarm'\n";
        let with = |more: [&str; 3]| -> EjectSettings {
            toml::from_str(&format!("{TEXT}\n{}{}{webhook}{}", log(more[0]), log(more[1]), log(more[2]))).unwrap()
        };
        let names = |settings: &EjectSettings| settings.names().iter().map(|n| n.to_string()).collect::<Vec<_>>();
        let settings = with(["", "name = 'trial'", ""]);
        assert_eq!(names(&settings), ["log", "log-2", "trial", "webhook", "log-4"]);
        assert_eq!(settings.check(&["belt"]), Ok(()));
        let why = with(["", "", "name = 'log-2'"]).check(&["belt"]).unwrap_err();
        assert!(why.contains("log-2"), "{why}");
    }

    #[test]
    fn a_gate_takes_from_its_cameras_geometry_what_it_does_not_say_itself() {
        let gate = |text: &str| toml::from_str::<EjectSettings>(text).unwrap().gate.remove(0);
        let seen_by = |text: &str, geometry: &str| {
            let mut gate = gate(text);
            gate.seen_by(&toml::from_str(geometry).unwrap()).map(|()| gate)
        };
        let bare = TEXT.replace("scale = '2.0mm/px'\n", "");
        let all = "scale = '2.5mm/px'\nwidth = 640\nheight = 360\ndirection = 'left'\nlens = { k1 = 0.1 }";
        let filled = seen_by(&bare, all).unwrap();
        assert_eq!((filled.scale, filled.width, filled.speed), (2.5, Some(640), GateSpeed::Given(-1.25)));
        // From the middle, which the lens leaves, to the left edge it is longer than it looks.
        let straight = EjectorGate { lens: None, ..filled.clone() };
        let middle = Region { x: 300, y: 170, width: 40, height: 20 };
        assert!(
            (straight.way(middle) - filled.way(middle) - 2.5 * 320.0 * 0.076).abs() < 1.0,
            "{}",
            filled.way(middle)
        );
        assert!(filled.metres(100.0) > straight.metres(100.0));
        // Old files say it all in the gate, also beside a geometry that says the same.
        assert_eq!(seen_by(TEXT, "").unwrap().scale, 2.0);
        assert_eq!(seen_by(TEXT, "scale = '2mm/px'\nwidth = 640").unwrap().width, Some(640));
        let back = TEXT.replace("'1.25m/s'", "'-1.25m/s'");
        assert_eq!(seen_by(&back, "direction = 'left'").unwrap().speed, GateSpeed::Given(-1.25));
        for (text, geometry, why) in [
            (TEXT, "scale = '2.1mm/px'", "geometry.scale"),
            (&bare, "", "scale is missing"),
            (&bare, "width = 640", "scale is missing"),
            (&TEXT.replace("'20ms'", "'20ms'\nwidth = 320"), "width = 640", "geometry.width"),
            (&back, "direction = 'right'", "geometry.direction"),
        ] {
            let said = seen_by(text, geometry).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert!(toml::from_str::<EjectSettings>(&TEXT.replace("2.0mm", "0mm")).is_err());
    }

    #[test]
    fn a_speed_that_no_setting_allows_is_twice_the_belts_own() {
        assert_eq!(gate().max_speed(), 2.5);
        let gate = EjectorGate { max_speed: Some(4.0), speed: GateSpeed::Given(-2.0), distance: -500.0, ..gate() };
        assert_eq!(gate.max_speed(), 4.0);
        assert_eq!(gate.ahead(at(250)), Some(1.0), "it comes towards smaller x");
        assert_eq!(EjectorGate { distance: 700.0, ..gate.clone() }.ahead(at(250)), Some(-0.2), "it has passed");
        assert_eq!(EjectorGate { distance: -1e9, ..gate }.ahead(at(250)), None, "nobody builds that");
    }

    #[test]
    fn gates_that_share_a_coil_or_move_after_the_item_are_refused_by_key_and_camera() {
        let mut settings: EjectSettings = toml::from_str(TEXT).unwrap();
        settings.gate.push(EjectorGate { name: "second".into(), camera: "second".into(), ..gate() });
        let why = settings.check(&["belt", "second"]).unwrap_err();
        assert_eq!(why, "eject.gate: coil 0 is that of two gates, out of camera belt and second of camera second");
        let plc = |more: &str| {
            let plc = "[[output]]\nkind = 'modbus'\naddress = 'plc-7.local:502'\npulse = '30ms'\nheartbeat = 100
                tolerance = '8ms'\non_late = 'alarm'\n";
            let text = format!("{TEXT}\n{plc}{more}");
            toml::from_str::<EjectSettings>(&text).unwrap().check(&["belt"])
        };
        assert_eq!(plc("stop_line = 3\ndivert = 4"), Ok(()));
        assert!(plc("stop_line = 3\ndivert = 3").unwrap_err().contains("stop_line and divert are the same coil"));
        assert!(plc("stop_line = 0").unwrap_err().contains("it is the stop_line of plc-7.local:502"));
        assert!(plc("speed = 5\nlot = 5").unwrap_err().contains("speed and lot"));
        // 1.25 m/s for 70 ms are 87.5 mm.
        let near = |distance, given| EjectorGate { distance, speed: GateSpeed::Given(given), ..gate() };
        let reach = |distance, given| near(distance, given).check_reach(Duration::from_millis(50));
        assert_eq!((reach(88.0, 1.25), reach(-88.0, -1.25)), (Ok(()), Ok(())));
        let why = reach(87.0, 1.25).unwrap_err();
        assert!(why.contains("gate out of camera belt: distance is 87 mm") && why.contains("deadline"), "{why}");
        assert!(reach(500.0, -1.25).is_err(), "it lies behind");
    }

    #[test]
    fn an_encoder_needs_a_direction_and_room_in_its_counts_and_no_second_measure() {
        let encoder = "[encoder]\nkind = 'modbus'\naddress = 'plc:502'\ncount = 40\nbits = 16\nscale = '0.2mm'\n";
        let check = |text: &str| toml::from_str::<EjectSettings>(text).map_err(|e| e.to_string())?.check(&["belt"]);
        let right = format!("{encoder}{TEXT}");
        assert_eq!(check(&right), Ok(()));
        let plc = "kind = 'modbus'\naddress = '127.0.0.1:1'\npulse = '30ms'\nheartbeat = 100";
        let commanded =
            right.replace("coil = 0", "command = { registers = 200, done = 30 }").replace("kind = 'log'", plc);
        assert_eq!(check(&commanded), Ok(()));
        for (wrong, why) in [
            (right.replace("'1.25m/s'", "'seen'"), "direction"),
            (right.replace("'0.2mm'", "'0.01mm'"), "quarter"),
            (right.replace("bits = 16", "bits = 8"), "encoder: bits"),
            (right.replace("coil = 0", "command = {}"), "log can't carry out"),
            (commanded.replace(encoder, ""), "needs [eject.encoder]"),
            (commanded.replace(", done = 30", ""), "done"),
            (commanded.replace("registers = 200", "registers = 98"), "another use"),
            (commanded.replace("heartbeat = 100", "heartbeat = 100\nspeed = 5"), "no output may measure"),
            (commanded.replace("done = 30 }", "done = 30 }\nregister = 7"), "either"),
        ] {
            let said = check(&wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn two_lines_have_a_gate_each_and_one_encoder_at_most() {
        let encoder = "[[output]]\nkind = 'mqtt'\nhost = 'broker'\nport = 1883\ntopic = 'line'\nspeed = 'encoder'
            tolerance = '20ms'\non_late = 'alarm'\n";
        let lines = |encoders: usize| {
            let mut settings: EjectSettings = toml::from_str(&format!("{TEXT}\n{}", encoder.repeat(encoders))).unwrap();
            let target = output::Target { coil: Some(1), ..gate().target };
            settings.gate.push(EjectorGate { name: "second".into(), camera: "second".into(), target, ..gate() });
            settings.check(&["belt", "second"])
        };
        assert_eq!((lines(0), lines(1)), (Ok(()), Ok(())));
        assert!(lines(2).unwrap_err().contains("encoder"));
    }
}
