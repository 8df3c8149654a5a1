//! Where the belt is: as an encoder counts it, or, where there is none, as the gates' cameras see it go. Shared by the threads
//! that read and see, that order, and that keep the time.
//!
//! Invariants: nobody waits here for more than another's few lines; a position that nobody can vouch for is none (the
//! encoder is silent or was reset, or camera and encoder say different things); whatever makes it none is told once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    encoder::{
        compare::Comparison,
        count::{CountStep, Counter},
    },
    track::{BeltTrack, Motion},
};
use crate::{metrics::Metrics, store::Event};

/// A command is timed by an encoder's reading that is at most this old, and by a camera's picture that is at most that old.
pub(super) const FRESH: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// What says nothing for this long is lost: what waits by it is late.
const LOST: Duration = Duration::from_secs(2);
/// A belt that went back so many metres runs backwards.
const BACK: f64 = 0.01;
/// Pixels by which a camera's way may be wrong.
const PIXELS: f64 = 2.0;

/// A gate, as far as the belt's way to it goes.
#[derive(Clone, Debug)]
pub(super) struct GateOnBelt {
    /// Its camera.
    pub camera: Arc<str>,
    /// Metres in a pixel.
    pub metres_per_pixel: f64,
    /// Below 0 where the items move towards smaller x; 0 where only the camera tells it.
    pub towards: f64,
    /// Highest speed in m/s that is believed.
    pub max_speed: f64,
}

/// How the encoder counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counting {
    /// 16 or 32.
    pub bits: u32,
    /// Metres in a count, below 0 where counts fall while the belt runs forwards.
    pub metres: f64,
}

/// See the module.
pub(super) struct Belt {
    gates: Vec<GateOnBelt>,
    state: Mutex<BeltState>,
    metrics: Metrics,
    tell: Arc<dyn Fn(Event) + Send + Sync>,
    /// Lets the timekeeper look.
    wake: Box<dyn Fn() + Send + Sync>,
}

struct BeltState {
    encoder: Option<CountedBelt>,
    cameras: Vec<SeenBelt>,
}

/// The belt as the encoder counts it.
struct CountedBelt {
    metres: f64,
    counter: Counter,
    track: BeltTrack,
    /// When it was heard last; the start, before that.
    heard: Instant,
    silent: bool,
    lost: bool,
    /// Why nothing is heard.
    why: String,
    backwards: bool,
    /// The farthest place, in the direction in which the belt runs; and where it was when it turned back.
    farthest: f64,
    turned: f64,
}

/// The belt as one camera sees it, in metres towards larger x.
struct SeenBelt {
    camera: Arc<str>,
    metres_per_pixel: f64,
    towards: f64,
    max_speed: f64,
    track: BeltTrack,
    comparison: Comparison,
}

impl Belt {
    /// A belt of which nothing is known yet. `wake` is called when there is something new, and must not wait.
    pub fn new(
        gates: Vec<GateOnBelt>,
        counting: Option<Counting>,
        metrics: &Metrics,
        tell: Arc<dyn Fn(Event) + Send + Sync>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let mut cameras: Vec<SeenBelt> = Vec::new();
        for gate in &gates {
            if cameras.iter().all(|seen| seen.camera != gate.camera) {
                let GateOnBelt { camera, metres_per_pixel, towards, max_speed } = gate.clone();
                let track = BeltTrack::new(FRESH[1]);
                let comparison = Comparison::default();
                cameras.push(SeenBelt { camera, metres_per_pixel, towards, max_speed, track, comparison });
            }
        }
        let fastest = gates.iter().map(|gate| gate.max_speed).fold(0.0, f64::max);
        let encoder = counting.map(|Counting { bits, metres }| {
            metrics.encoder.down.set(1);
            cameras.iter().for_each(|seen| metrics.encoder.apart.with_label_values(&[&*seen.camera]).set(0));
            CountedBelt {
                metres,
                counter: Counter::new(bits, fastest / metres.abs()),
                track: BeltTrack::new(FRESH[0]),
                heard: Instant::now(),
                silent: false,
                lost: false,
                why: "no answer yet".into(),
                backwards: false,
                farthest: 0.0,
                turned: 0.0,
            }
        });
        let state = Mutex::new(BeltState { encoder, cameras });
        Self { gates, state, metrics: metrics.clone(), tell, wake: Box::new(wake) }
    }

    /// The encoder was at `raw` at `at`, give or take `doubt`.
    pub fn counted(&self, raw: i64, at: Instant, doubt: Duration) {
        let mut state = self.state();
        let Some(belt) = &mut state.encoder else { return };
        let Some((step, events)) = belt.counted(raw, at, doubt) else {
            drop(state);
            return self.refused("stale", &format!("a count of {raw} is none, or came after a newer one"));
        };
        let (motion, metrics) = (belt.track.motion(), &self.metrics.encoder);
        drop(state);
        match step {
            CountStep::On { wrapped } => metrics.wraps.inc_by(wrapped.into()),
            CountStep::Jump { .. } => metrics.resets.inc(),
            CountStep::First => {}
        }
        metrics.readings.with_label_values(&["read"]).inc();
        metrics.down.set(0);
        if let Some(motion) = motion {
            metrics.position.set(motion.position);
            self.metrics.eject.belt_speed.set(motion.speed);
        }
        self.say(events);
        (self.wake)();
    }

    /// The encoder's answer took so long.
    pub fn round_trip(&self, took: Duration) {
        self.metrics.encoder.round_trip.observe(took.as_secs_f64());
    }

    /// A reading was none: `outcome` is `slow`, `stale` or `failed`.
    pub fn refused(&self, outcome: &str, why: &str) {
        self.metrics.encoder.readings.with_label_values(&[outcome]).inc();
        if let Some(belt) = &mut self.state().encoder {
            belt.why = why.into();
        }
        self.look();
    }

    /// Notices that the encoder is silent. Call it many times per second while no reading comes.
    pub fn look(&self) {
        let mut state = self.state();
        let Some(belt) = &mut state.encoder else { return };
        let silent = belt.heard.elapsed();
        let begins = silent > FRESH[0] && !std::mem::replace(&mut belt.silent, silent > FRESH[0]);
        let lost = silent > LOST && !std::mem::replace(&mut belt.lost, silent > LOST);
        if lost {
            belt.counter.forget();
            belt.track.restart();
        }
        let why = belt.why.clone();
        drop(state);
        if begins {
            self.metrics.encoder.silences.inc();
            tracing::warn!("the encoder is silent for more than {:?}: {why}", FRESH[0]);
        }
        if lost {
            self.metrics.encoder.down.set(1);
            self.say(vec![Event::EncoderLost { why }]);
            (self.wake)();
        }
    }

    /// `camera`'s picture, taken at `at`, showed that the belt has gone `pixels` since the first one, towards larger x;
    /// `None` for one that did not tell it.
    pub fn seen(&self, camera: &str, pixels: Option<f64>, at: Instant) {
        let mut state = self.state();
        let BeltState { encoder, cameras } = &mut *state;
        let Some(seen) = cameras.iter_mut().find(|seen| &*seen.camera == camera) else { return };
        let metres = pixels.map(|pixels| pixels * seen.metres_per_pixel);
        if let Some(metres) = metres {
            seen.track.went_to(metres, at);
            if seen.track.motion().is_some_and(|motion| motion.speed.abs() > seen.max_speed) {
                seen.track.restart(); // no belt does that: the pictures deceive
                seen.track.went_to(metres, at);
            }
        }
        let Some(belt) = encoder else {
            drop(state);
            return (self.wake)();
        };
        let floor = PIXELS * seen.metres_per_pixel + PIXELS * belt.metres.abs();
        let towards = metres.map(|metres| metres * seen.towards.signum());
        let changed = seen.comparison.look(at, towards, belt.track.place(at), floor);
        let (seen_mm, counted_mm) = seen.comparison.ways();
        drop(state);
        let Some(apart) = changed else { return };
        self.metrics.encoder.apart.with_label_values(&[camera]).set(apart.into());
        let camera = camera.to_owned();
        let [seen_mm, counted_mm] = [seen_mm, counted_mm].map(|metres| (metres * 1e4).round() / 10.0);
        self.say(vec![match apart {
            true => Event::EncoderApart { camera, seen_mm, counted_mm },
            false => Event::EncoderAgrees { camera },
        }]);
        (self.wake)();
    }

    /// Where the belt was at `at`, for a gate; counted forwards by the encoder, towards larger x by the camera.
    ///
    /// # Errors
    /// Why nobody knows.
    pub fn place(&self, gate: usize, at: Instant) -> Result<(u32, f64), String> {
        let (gate, state) = (&self.gates[gate], self.state());
        let seen = state.camera(gate);
        match &state.encoder {
            Some(belt) => belt.trusted(seen)?.place(at).ok_or_else(|| belt.unknown()),
            None => seen.and_then(|seen| seen.track.place(at)).ok_or_else(|| UNSEEN.into()),
        }
    }

    /// How the belt runs now, for each gate, as [`Belt::place`] counts it.
    pub fn motions(&self) -> Vec<Result<Motion, String>> {
        let state = self.state();
        let of = |gate: &GateOnBelt| {
            let seen = state.camera(gate);
            match &state.encoder {
                Some(belt) => belt.trusted(seen)?.motion().ok_or_else(|| belt.unknown()),
                None => {
                    let motion = seen.and_then(|seen| seen.track.motion());
                    motion.filter(|motion| motion.at.elapsed() < LOST).ok_or_else(|| UNSEEN.into())
                }
            }
        };
        self.gates.iter().map(of).collect()
    }

    /// What the encoder shows when the belt is at a place, counted as in [`Belt::place`]; `None` for one so far from where
    /// the belt is that its counts would stand for another place, too.
    pub fn raw(&self, metres: f64) -> Option<u32> {
        let state = self.state();
        let belt = state.encoder.as_ref()?;
        let ahead = metres - belt.track.motion()?.position;
        belt.counter.reaches(ahead / belt.metres).then(|| belt.counter.raw((metres / belt.metres).round() as i64))
    }

    fn say(&self, events: Vec<Event>) {
        for event in events {
            match &event {
                Event::EncoderLost { why } => tracing::error!("the encoder is lost: {why}"),
                Event::EncoderReset { from, to } => {
                    tracing::error!(
                        "the encoder was reset: from {from} to {to}; what waits by the old counting is late"
                    );
                }
                Event::EncoderApart { camera, seen_mm, counted_mm } => tracing::error!(
                    camera,
                    "the belt went {seen_mm} mm as the camera sees it and {counted_mm} mm as the encoder counts: no gate moves by either"
                ),
                Event::BeltReversed => {
                    self.metrics.encoder.reverses.inc();
                    tracing::warn!("the belt runs backwards: what waits for it is held");
                }
                other => tracing::info!("{other:?}"),
            }
            (self.tell)(event);
        }
    }

    fn state(&self) -> MutexGuard<'_, BeltState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a camera's gates have no position.
const UNSEEN: &str = "the camera does not tell how far the belt went";

impl BeltState {
    fn camera(&self, gate: &GateOnBelt) -> Option<&SeenBelt> {
        self.cameras.iter().find(|seen| seen.camera == gate.camera)
    }
}

impl CountedBelt {
    /// Takes in a reading; `None` for one that makes no sense.
    fn counted(&mut self, raw: i64, at: Instant, doubt: Duration) -> Option<(CountStep, Vec<Event>)> {
        let (count, step) = self.counter.read(raw, at, doubt)?;
        let mut events = Vec::new();
        (self.heard, self.silent) = (at, false);
        if std::mem::take(&mut self.lost) {
            events.push(Event::EncoderBack);
        }
        let position = count as f64 * self.metres;
        if let CountStep::Jump { by } = step {
            let to = self.counter.raw(count);
            events.push(Event::EncoderReset { from: self.counter.raw(count - by), to });
            self.track.restart();
        }
        if !matches!(step, CountStep::On { .. }) {
            (self.farthest, self.turned) = (position, position);
        }
        self.track.went_to(position, at);
        let farther = if self.backwards { f64::min } else { f64::max };
        self.farthest = farther(self.farthest, position);
        if (position - self.farthest).abs() > BACK {
            self.backwards = !self.backwards;
            events.push(match self.backwards {
                true => Event::BeltReversed,
                false => Event::BeltForward { back_mm: ((self.turned - self.farthest) * 1e4).round() / 10.0 },
            });
            (self.turned, self.farthest) = (self.farthest, position);
        }
        Some((step, events))
    }

    /// The track, where the camera says the same.
    fn trusted(&self, seen: Option<&SeenBelt>) -> Result<&BeltTrack, String> {
        match seen {
            Some(seen) if seen.comparison.apart() => Err("camera and encoder tell different ways of the belt".into()),
            _ => Ok(&self.track),
        }
    }

    fn unknown(&self) -> String {
        let why = if self.lost { self.why.as_str() } else { "it was reset, or silent for a moment" };
        format!("the encoder tells no position: {why}")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A belt with one gate behind a camera of 1 mm per pixel, and what it tells; tenths of a millimetre in 16 bits.
    fn belt(counting: bool) -> (Belt, Metrics, Arc<Mutex<Vec<Event>>>) {
        let gate = GateOnBelt { camera: "belt".into(), metres_per_pixel: 1e-3, towards: -1.0, max_speed: 2.0 };
        let (metrics, told) = (Metrics::new().unwrap(), Arc::<Mutex<Vec<Event>>>::default());
        let kept = told.clone();
        let counting = counting.then_some(Counting { bits: 16, metres: 1e-4 });
        let tell = Arc::new(move |event| kept.lock().unwrap().push(event));
        (Belt::new(vec![gate], counting, &metrics, tell, || {}), metrics, told)
    }

    #[test]
    fn wraps_resets_and_turns_are_counted_and_told_and_a_reset_ends_a_counting() {
        let (belt, metrics, told) = belt(true);
        let start = Instant::now();
        let mut at = start;
        let mut read = |raw: i64| {
            at += 10 * MS;
            belt.counted(raw, at, MS);
            at
        };
        assert!(belt.place(0, start).is_err() && belt.motions()[0].is_err());
        for n in 0..50 {
            read((65_000 + 50 * n) % 65_536); // 0.5 m/s
        }
        let (counting, metres) = belt.place(0, start + 495 * MS).unwrap();
        assert!(counting == 0 && (metres - 6.7425).abs() < 1e-9, "{metres}");
        assert!((belt.motions()[0].as_ref().unwrap().speed - 0.5).abs() < 1e-9);
        assert_eq!(belt.raw(metres), Some(67_425 - 65_536));
        assert_eq!(belt.raw(metres + 3.3), None, "half way round");
        (0..10).map(|n| 1914 - 50 * n).chain((0..10).map(|n| 1464 + 50 * n)).for_each(|raw| _ = read(raw));
        read(32_000);
        let at = read(32_050);
        assert_eq!((belt.motions()[0].as_ref().unwrap().counting, belt.place(0, start + 300 * MS).is_err()), (1, true));
        assert!((belt.place(0, at).unwrap().1 - 3.205).abs() < 1e-9);
        let told = told.lock().unwrap().clone();
        let want =
            [Event::BeltReversed, Event::BeltForward { back_mm: 45.0 }, Event::EncoderReset { from: 1914, to: 32_000 }];
        assert_eq!(told, want);
        let counts = &metrics.encoder;
        assert_eq!((counts.wraps.get(), counts.resets.get(), counts.reverses.get()), (1, 1, 1));
        belt.counted(70_000, at + 10 * MS, MS);
        assert_eq!(counts.readings.with_label_values(&["stale"]).get(), 1);
    }

    #[test]
    fn an_encoder_that_says_nothing_is_silent_then_lost_and_comes_back_with_a_new_counting() {
        let (belt, metrics, told) = belt(true);
        assert_eq!(metrics.encoder.down.get(), 1);
        let long_ago = Instant::now().checked_sub(300 * MS).unwrap();
        belt.counted(10, long_ago - 10 * MS, MS);
        belt.counted(20, long_ago, MS);
        assert_eq!(metrics.encoder.down.get(), 0);
        belt.refused("failed", "no route");
        assert_eq!((metrics.encoder.silences.get(), told.lock().unwrap().len()), (1, 0));
        belt.state().encoder.as_mut().unwrap().heard = Instant::now().checked_sub(LOST + MS).unwrap();
        belt.look();
        belt.look();
        assert_eq!(metrics.encoder.down.get(), 1);
        assert!(belt.motions()[0].as_ref().is_err_and(|why| why.contains("no route")));
        belt.counted(20, Instant::now(), MS);
        std::thread::sleep(2 * MS);
        belt.counted(20, Instant::now(), MS);
        assert_eq!(belt.motions()[0].as_ref().unwrap().counting, 1);
        assert_eq!(*told.lock().unwrap(), [Event::EncoderLost { why: "no route".into() }, Event::EncoderBack]);
    }

    #[test]
    fn a_camera_that_sees_another_way_than_the_encoder_counts_ends_all_positions_until_they_agree() {
        let (belt, metrics, told) = belt(true);
        let (start, mut pixels, mut count) = (Instant::now(), 0.0, 0.0);
        let mut run = |ms: std::ops::Range<u32>, share: f64| {
            for n in ms {
                count += 5.0 * share; // half a metre a second
                pixels -= 0.5;
                if n % 10 == 0 {
                    belt.counted(count as i64, start + MS * n, MS);
                }
                if n % 40 == 5 {
                    belt.seen("belt", Some(pixels), start + MS * n);
                }
            }
            belt.motions()[0].is_ok()
        };
        assert!(run(1..2000, 1.0));
        assert!(!run(2000..3200, 0.5), "{told:?}");
        assert_eq!(metrics.encoder.apart.with_label_values(&["belt"]).get(), 1);
        assert!(run(3200..5000, 1.0));
        let told = told.lock().unwrap();
        assert!(
            matches!(&told[..], [Event::EncoderApart { camera, .. }, Event::EncoderAgrees { .. }] if camera == "belt"),
            "{told:?}"
        );
    }

    #[test]
    fn without_an_encoder_the_camera_tells_where_the_belt_is() {
        let (belt, _, told) = belt(false);
        let start = Instant::now();
        for n in 0..10u32 {
            belt.seen("belt", Some(f64::from(n) * -10.0), start + 40 * MS * n);
        }
        belt.seen("belt", None, start + 400 * MS);
        assert!((belt.place(0, start + 100 * MS).unwrap().1 + 0.025).abs() < 1e-9);
        assert!((belt.motions()[0].as_ref().unwrap().speed + 0.25).abs() < 1e-9);
        belt.seen("belt", Some(5000.0), start + 440 * MS);
        assert!(belt.motions()[0].is_err(), "no belt runs so fast");
        assert!(told.lock().unwrap().is_empty());
    }
}
