//! After a service that did not stop in order nobody knows what lies between a camera and its gates, nor which commands were
//! under way: everything is led aside until that stretch of belt has passed.
//!
//! Invariants: what is asked is asked before the first camera opens; where no output can lead everything aside, the line is
//! stopped; where nobody knows how far the belt went, a person ends it.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use super::{Ejector, EjectorGate, GateSpeed, OnLate, SPEED_COUNTS};

/// The stretch of belt is taken to be longer by this share: items have a length, and belts slip.
const MARGIN: f64 = 0.2;

/// A flush that was asked for.
pub struct Flush {
    ejector: Ejector,
    /// What it was asked as.
    led_to: OnLate,
    /// Metres that are still to pass each gate; infinite where nobody knows the belt's speed.
    left: Vec<f64>,
    /// Where the belt was before each gate at the last look, and in which counting, where an encoder counts its way.
    places: Vec<Option<(u32, f64)>>,
    at: Instant,
}

impl Flush {
    /// Asks for it.
    pub fn ask(ejector: Ejector) -> Self {
        let outcomes = &ejector.0.outcomes;
        let able = |action| outcomes.outputs.iter().any(|(_, output, _)| output.can(action));
        let led_to = [OnLate::Divert, OnLate::StopLine].into_iter().find(|way| way.asks().is_some_and(able));
        let led_to = led_to.unwrap_or(OnLate::Alarm);
        let stretch = |gate: &EjectorGate| match gate.speed {
            GateSpeed::Given(_) => (1.0 + MARGIN) * gate.distance.abs() / 1e3,
            GateSpeed::Seen => f64::INFINITY,
        };
        let left: Vec<f64> = ejector.0.gates.iter().map(|(gate, _)| stretch(gate)).collect();
        let why = "flush: the service did not stop in order, and nobody knows what lies before the gates";
        tracing::error!(led_to = led_to.name(), "{why}");
        if let Some(action) = led_to.asks() {
            outcomes.ask(action, why.into());
        }
        if led_to == OnLate::Divert {
            let longest = ejector.0.gates.iter().map(|(gate, _)| passes(gate)).reduce(f64::max);
            let seconds = longest.filter(|seconds| seconds.is_finite() && !followed(&ejector));
            outcomes.requests.send_modify(|requests| requests.flush = Some((requests.divert, seconds, false)));
        }
        Self { places: vec![None; left.len()], ejector, led_to, left, at: Instant::now() }
    }

    /// What it was asked as.
    pub fn led_to(&self) -> OnLate {
        self.led_to
    }

    /// Whether the stretch of belt has passed every gate; to be asked several times a second. Ends the flush then, unless
    /// something else asked for the same meanwhile.
    pub fn over(&mut self) -> bool {
        let passed = self.at.elapsed().as_secs_f64();
        self.at = Instant::now();
        if self.ejector.0.encoded {
            self.count();
            return self.end();
        }
        let measured = self.ejector.0.measured.as_ref().map(|measured| {
            let now = measured.lock().unwrap_or_else(PoisonError::into_inner).now;
            now.filter(|(_, at)| at.elapsed() < SPEED_COUNTS).map_or(0.0, |(speed, _)| speed)
        });
        for ((gate, _), left) in self.ejector.0.gates.iter().zip(&mut self.left) {
            if let GateSpeed::Given(given) = gate.speed {
                *left -= measured.unwrap_or(given.abs()) * passed;
            }
        }
        self.end()
    }

    /// Counts what passed each gate by the encoder. What passes while nobody knows where the belt is does not count, unless
    /// the counting goes on; what runs back has to pass again.
    fn count(&mut self) {
        let motions = self.ejector.0.belt.motions();
        for ((motion, place), left) in motions.into_iter().zip(&mut self.places).zip(&mut self.left) {
            let Ok(motion) = motion else { continue };
            let before = place.replace((motion.counting, motion.position));
            if let Some((_, from)) = before.filter(|(counting, _)| *counting == motion.counting) {
                *left -= motion.position - from;
            }
        }
    }

    /// Ends the flush where the stretch has passed every gate.
    fn end(&self) -> bool {
        let over = self.left.iter().all(|left| *left <= 0.0);
        if over {
            self.ejector.0.outcomes.requests.send_modify(|requests| {
                if let Some((.., over)) = &mut requests.flush {
                    *over = true;
                }
            });
        }
        over
    }

    /// The gates, each with its camera and how long before the crash an item can have been seen whose command was under way.
    pub fn gates(&self) -> impl Iterator<Item = (String, String, Duration)> {
        let gates = self.ejector.0.gates.iter();
        gates.map(|(gate, _)| {
            let seconds = if followed(&self.ejector) { f64::INFINITY } else { passes(gate) };
            (gate.name.clone(), gate.camera.clone(), Duration::from_secs_f64(seconds.min(UNKNOWN)))
        })
    }
}

/// Whether it is measured how the belt runs, which nobody can say beforehand.
fn followed(ejector: &Ejector) -> bool {
    ejector.0.encoded || ejector.0.measured.is_some()
}

/// How long ago an item can have been seen that has not reached its gate, in seconds, where nobody knows the belt's speed.
const UNKNOWN: f64 = 60.0;

/// Seconds from the picture's edge to the gate, with the margin; infinite where nobody knows the belt's speed.
fn passes(gate: &EjectorGate) -> f64 {
    match gate.speed {
        GateSpeed::Given(given) => (1.0 + MARGIN) * gate.distance.abs() / 1e3 / given.abs() + gate.delay.as_secs_f64(),
        GateSpeed::Seen => f64::INFINITY,
    }
}
