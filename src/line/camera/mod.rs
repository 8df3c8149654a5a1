//! Cameras: one file per source, all handing over [`Frame`]s through the same [`FrameSink`].
//!
//! A new kind of camera touches three files: its own beside this one, which opens the camera and hands frames over
//! (with [`FrameSink::keep_open`] it is reopened with backoff); this one, where it gets a variant of [`CameraSource`],
//! its arms in the functions on it and one in [`run`], which the compiler asks for; and `deploy/beltsight.toml`, which
//! says its keys. Only one that needs a library of its own also names it, behind a feature, in `Cargo.toml`. Everything
//! behind the hand-over knows frames, not kinds of cameras.
//!
//! Invariant: a camera never waits for anything below it, never ends by itself (a lost one is reopened), and each runs
//! on a blocking thread of its own.

use std::{
    cell::RefCell,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use serde::{Deserialize, de::DeserializeOwned};
use time::OffsetDateTime;

use self::still::{PictureChange, StillWatch};
pub use self::{network::Address, simulated_encoder::SimulatedEncoder};
use super::{area::AreaSettings, geometry::Geometry, handover::Handover, locate::LocateConfig};
use crate::{
    belt::{Belt, BeltConfig},
    domain::{Frame, Raw},
    store::PlannedChallenge,
};

mod clock;
mod folder;
#[cfg(feature = "gige")]
mod gige;
mod mjpeg;
mod network;
#[cfg(feature = "rtsp")]
mod rtsp;
mod simulated;
mod simulated_encoder;
mod still;
#[cfg(feature = "usb")]
mod usb;

/// First and longest pause before a lost camera is opened again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Longest time between two challenge tests that may be planned.
const LONGEST_EVERY: Duration = Duration::from_secs(366 * 86_400);

/// One camera. In TOML the keys of its [`CameraSource`] stand beside those that every camera has.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct CameraConfig {
    /// Its name in metrics and records.
    pub name: String,
    /// How it looks at the belt.
    pub geometry: Geometry,
    /// Which part of its pictures is searched.
    pub area: AreaSettings,
    /// Keys of `[locate]` that are others for this camera.
    pub locate: toml::Table,
    /// Known wrong pieces that are to be sent through; none: as `[challenge]` says.
    pub challenge: Vec<PlannedChallenge>,
    /// Where its pictures come from.
    pub source: CameraSource,
}

/// Where pictures come from. In TOML `source = "simulated" | "folder" | "usb" | "gige" | "mjpeg" | "rtsp"` chooses the kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum CameraSource {
    /// The simulated belt, in real time.
    Simulated {
        /// What it sees.
        #[serde(default)]
        belt: BeltConfig,
        /// Its encoder, if it serves one.
        encoder: Option<Box<SimulatedEncoder>>,
    },
    /// The pictures of a folder in the order of their names, over and over.
    Folder {
        /// Holds JPEG, PNG or WebP files.
        path: PathBuf,
        /// Pictures per second.
        frame_rate: f64,
    },
    /// A V4L2 camera.
    Usb {
        /// A path (`/dev/video0`, or better `/dev/v4l/by-id/…`, which holds the serial number), or a part of the
        /// camera's model name or bus address, which find it again when its number changed.
        device: String,
        /// What the camera is to send.
        format: PixelFormat,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// Pictures per second.
        frame_rate: u32,
        /// A camera that sends nothing for this long is reopened; 10 ms to 60 s.
        #[serde(with = "humantime_serde", default = "one_second")]
        timeout: Duration,
        /// A camera that sends the very same picture for longer than this is frozen: as good as lost. Zero: never.
        #[serde(with = "humantime_serde", default = "ten_seconds")]
        frozen_after: Duration,
    },
    /// A GenICam camera: GigE Vision or USB3 Vision.
    Gige {
        /// Its address, or its name, `vendor-model-serial` or `vendor-serial`, as `arv-tool-0.8` lists it.
        device: String,
        /// Pixels of the sensor across; a colour camera that sends a Bayer pattern gives pictures of half of it.
        width: u32,
        /// Pixels of the sensor down; as above.
        height: u32,
        /// Pictures per second.
        frame_rate: f64,
        /// A camera that sends no whole picture for this long is reopened; 10 ms to 60 s.
        #[serde(with = "humantime_serde", default = "one_second")]
        timeout: Duration,
        /// A camera that sends the very same picture for longer than this is frozen: as good as lost. Zero: never.
        #[serde(with = "humantime_serde", default = "ten_seconds")]
        frozen_after: Duration,
    },
    /// A network camera that sends JPEGs over HTTP (`multipart/x-mixed-replace`).
    Mjpeg {
        /// The stream, `http://user:password@host/path`; user and password (HTTP Basic) only where it asks for them.
        url: Address,
        /// A camera that sends no whole picture for this long is reopened; 10 ms to 60 s.
        #[serde(with = "humantime_serde", default = "two_seconds")]
        timeout: Duration,
        /// A camera that sends the very same picture for longer than this is frozen: as good as lost. Zero: never.
        #[serde(with = "humantime_serde", default = "ten_seconds")]
        frozen_after: Duration,
    },
    /// A network camera that sends H.264 over RTSP.
    Rtsp {
        /// The stream, `rtsp://user:password@host/path`; user and password only where it asks for them.
        url: Address,
        /// A camera of which no picture comes for this long is reopened; longer than from one key picture to the
        /// next, which is where a stream can be begun; 10 ms to 60 s.
        #[serde(with = "humantime_serde", default = "five_seconds")]
        timeout: Duration,
        /// A camera that sends the very same picture for longer than this is frozen: as good as lost. Zero: never.
        /// Longer than from one key picture to the next: in between, an encoder that saves bits may call noise nothing.
        #[serde(with = "humantime_serde", default = "ten_seconds")]
        frozen_after: Duration,
    },
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn two_seconds() -> Duration {
    Duration::from_secs(2)
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// Pixel formats taken from V4L2 cameras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum PixelFormat {
    /// Motion JPEG: every picture a JPEG file, handed on undecoded.
    #[serde(rename = "MJPG")]
    Mjpg,
    /// YUV 4:2:2, BT.601 limited range.
    #[serde(rename = "YUYV")]
    Yuyv,
}

/// What happens to a camera, for metrics and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CameraEvent {
    /// It was opened and is about to send.
    Opened,
    /// A frame was handed over.
    Frame,
    /// An older frame was dropped for a newer one.
    Dropped,
    /// A frame was refused; the camera goes on.
    BadFrame(String),
    /// A frame came late, and nobody can tell when it was taken; it was dropped.
    Late,
    /// So many frames never left the driver, by its own count.
    Skipped(u32),
    /// The camera cannot be opened or stopped sending; it is tried again.
    Lost(String),
    /// The camera has sent the very same picture for longer than this, and goes on with it. Frames are handed over
    /// again, each as a [`CameraEvent::Frame`], from the first other picture on.
    Frozen(Duration),
    /// A frame of a frozen camera was dropped.
    Still,
}

// Not `#[serde(flatten)]`, which would let unknown keys by.
impl TryFrom<toml::Table> for CameraConfig {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let name: String = taken(&mut table, "name")?.ok_or("name is missing")?;
        let named = |why: String| format!("camera {name}: {why}");
        let geometry = taken(&mut table, "geometry").map_err(named)?.unwrap_or_default();
        let area = AreaSettings {
            region: taken(&mut table, "region").map_err(named)?,
            mask: taken(&mut table, "mask").map_err(named)?,
            masks: taken(&mut table, "masks").map_err(named)?.unwrap_or_default(),
        };
        let locate: toml::Table = taken(&mut table, "locate").map_err(named)?.unwrap_or_default();
        LocateConfig::default().with(&locate).map_err(named)?;
        let challenge: Vec<PlannedChallenge> = taken(&mut table, "challenge").map_err(named)?.unwrap_or_default();
        let source = source(table).map_err(named)?;
        Ok(Self { name, geometry, area, locate, challenge, source })
    }
}

/// The source that `source` chooses, with its keys. Not `#[serde(tag)]`, which forgets the key of a wrong value.
fn source(mut table: toml::Table) -> Result<CameraSource, String> {
    let kind = table.remove("source").ok_or("source is missing")?;
    let kind = kind.as_str().unwrap_or_default().to_string();
    toml::Table::from_iter([(kind, table.into())]).try_into().map_err(|error: toml::de::Error| {
        let why = error.to_string();
        // The reader knows the keys of this source alone.
        let common = "`name`, `geometry`, `region`, `mask`, `masks`, `locate`, `challenge`";
        match why.split_once('\n') {
            Some((first, "")) if first.contains("unknown field") => format!("{first}, or {common}"),
            _ => why,
        }
    })
}

/// Removes a key from the table and returns its value.
fn taken<T: DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<Option<T>, String> {
    let read = |value: toml::Value| value.try_into().map_err(|error: toml::de::Error| format!("{key}: {error}"));
    table.remove(key).map(read).transpose()
}

impl CameraConfig {
    /// The camera's name in metrics and records.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Pictures per second, where the configuration says it.
    pub fn frame_rate(&self) -> Option<f64> {
        match &self.source {
            CameraSource::Simulated { belt, .. } => Some(belt.frame_rate),
            CameraSource::Folder { frame_rate, .. } | CameraSource::Gige { frame_rate, .. } => Some(*frame_rate),
            CameraSource::Usb { frame_rate, .. } => Some((*frame_rate).into()),
            CameraSource::Mjpeg { .. } | CameraSource::Rtsp { .. } => None,
        }
    }

    /// A camera of which nothing usable comes for this long does not see its belt. The simulated belt and a folder have no
    /// timeout: there it is a second, or three pictures.
    pub fn stalled_after(&self) -> Duration {
        match &self.source {
            CameraSource::Simulated { belt: BeltConfig { frame_rate, .. }, .. }
            | CameraSource::Folder { frame_rate, .. } => {
                Duration::try_from_secs_f64(3.0 / frame_rate).unwrap_or_default().max(Duration::from_secs(1))
            }
            CameraSource::Usb { timeout, .. }
            | CameraSource::Gige { timeout, .. }
            | CameraSource::Mjpeg { timeout, .. }
            | CameraSource::Rtsp { timeout, .. } => bearable(*timeout),
        }
    }

    /// How long a camera may send the very same picture. The simulated belt and a folder show what they are told to:
    /// a standing belt and a single picture are not faults.
    fn frozen_after(&self) -> Duration {
        match &self.source {
            CameraSource::Simulated { .. } | CameraSource::Folder { .. } => Duration::ZERO,
            CameraSource::Usb { frozen_after, .. }
            | CameraSource::Gige { frozen_after, .. }
            | CameraSource::Mjpeg { frozen_after, .. }
            | CameraSource::Rtsp { frozen_after, .. } => *frozen_after,
        }
    }

    /// How items are found in its pictures, where `locate` says it for all cameras.
    ///
    /// # Errors
    /// Names camera and key of a value that is none, or out of its range.
    pub fn located(&self, locate: &LocateConfig) -> Result<LocateConfig, String> {
        let named = |why| format!("camera {}: {why}", self.name);
        let own = locate.with(&self.locate).map_err(named)?;
        own.check().map_err(named)?;
        Ok(own)
    }

    /// Refuses what can never be opened, or never be right. `deadline` is that of the line.
    ///
    /// # Errors
    /// What is wrong, naming the camera.
    pub fn check(&self, deadline: Duration) -> Result<(), String> {
        let latency = self.geometry.latency;
        let checked = match &self.source {
            CameraSource::Mjpeg { url, .. } => url.parse("http").map(drop),
            CameraSource::Rtsp { url, .. } => url.parse("rtsp").map(drop),
            CameraSource::Gige { frame_rate, .. } if *frame_rate <= 0.0 || !frame_rate.is_finite() => {
                Err(format!("frame_rate {frame_rate} is not a number of pictures per second"))
            }
            CameraSource::Simulated { belt, encoder } => {
                let drawn = Belt::new(belt.clone()).map(drop).map_err(|why| {
                    let BeltConfig { speed, items_per_minute, .. } = belt;
                    format!("{why} (speed = {speed}, items_per_minute = {items_per_minute})")
                });
                drawn.and_then(|()| encoder.as_ref().map_or(Ok(()), |encoder| encoder.check(&self.geometry)))
            }
            CameraSource::Folder { frame_rate, .. } if !(*frame_rate > 0.0 && *frame_rate <= 1000.0) => {
                Err(format!("frame_rate is {frame_rate}; it must be above 0, at most 1000"))
            }
            CameraSource::Folder { .. } | CameraSource::Usb { .. } | CameraSource::Gige { .. } => Ok(()),
        };
        let in_time = || match latency < deadline {
            true => Ok(()),
            false => Err(format!(
                "geometry.latency is {latency:?}, and line.deadline ({deadline:?}) counts from the exposure: raise it, or \
                 every item comes too late"
            )),
        };
        let checked = checked.and_then(|()| self.geometry.check()).and_then(|()| self.area.check());
        let checked = checked.and_then(|()| in_time()).and_then(|()| self.check_challenges());
        checked.map_err(|why| format!("camera {}: {why}", self.name))
    }
}

impl CameraConfig {
    /// Refuses planned pieces that can't be told apart, and times that can't be kept.
    fn check_challenges(&self) -> Result<(), String> {
        for planned in &self.challenge {
            let PlannedChallenge { piece, every, .. } = planned;
            if piece.trim().is_empty() || piece.trim() != piece || piece.chars().count() > 500 {
                return Err("challenge.piece must have 1 to 500 characters, and no space at its ends".into());
            }
            if every.is_zero() || *every > LONGEST_EVERY {
                return Err(format!("challenge {piece}: every must be longer than 0 and at most a year"));
            }
            if self.challenge.iter().filter(|other| other.piece == *piece).count() > 1 {
                return Err(format!("challenge: two pieces are called {piece}"));
            }
        }
        Ok(())
    }
}

/// Runs the camera until `stop` is set, then closes the hand-over. Blocks: give it a thread. `event` is called on this
/// thread and must be quick.
pub fn run(config: &CameraConfig, handover: &Handover, stop: &AtomicBool, event: &dyn Fn(CameraEvent)) {
    let still = RefCell::new(StillWatch::new(config.frozen_after()));
    let latency = config.geometry.latency;
    let sink = FrameSink { name: config.name().into(), handover, stop, event, still, latency };
    match &config.source {
        CameraSource::Simulated { belt, encoder } => {
            simulated::run(belt, encoder.as_deref().zip(config.geometry.scale), &sink)
        }
        CameraSource::Folder { path, frame_rate } => folder::run(path, *frame_rate, &sink),
        #[cfg(feature = "usb")]
        CameraSource::Usb { device, format, width, height, frame_rate, timeout, .. } => {
            let (format, timeout) = (*format, bearable(*timeout));
            let (width, height, frame_rate) = (*width, *height, *frame_rate);
            usb::run(device, usb::StreamRequest { format, width, height, frame_rate, timeout }, &sink);
        }
        #[cfg(not(feature = "usb"))]
        CameraSource::Usb { .. } => sink.tell(CameraEvent::Lost("this program was built without V4L2 cameras".into())),
        #[cfg(feature = "gige")]
        CameraSource::Gige { device, width, height, frame_rate, timeout, .. } => {
            let (width, height, frame_rate, timeout) = (*width, *height, *frame_rate, bearable(*timeout));
            gige::run(device, gige::StreamRequest { width, height, frame_rate, timeout }, &sink);
        }
        #[cfg(not(feature = "gige"))]
        CameraSource::Gige { .. } => {
            sink.tell(CameraEvent::Lost("this program was built without GenICam cameras".into()))
        }
        CameraSource::Mjpeg { url, timeout, .. } => mjpeg::run(url, bearable(*timeout), &sink),
        #[cfg(feature = "rtsp")]
        CameraSource::Rtsp { url, timeout, .. } => rtsp::run(url, bearable(*timeout), &sink),
        #[cfg(not(feature = "rtsp"))]
        CameraSource::Rtsp { .. } => sink.tell(CameraEvent::Lost("this program was built without RTSP cameras".into())),
    }
    handover.close();
}

/// A timeout within what is taken.
fn bearable(timeout: Duration) -> Duration {
    timeout.clamp(Duration::from_millis(10), Duration::from_secs(60))
}

/// The moment `age` ago; now, when there is no age or it makes no sense.
#[cfg(any(feature = "usb", feature = "gige"))]
fn ago(age: Option<Duration>) -> Instant {
    let now = Instant::now();
    age.filter(|age| age.as_secs() < 10).and_then(|age| now.checked_sub(age)).unwrap_or(now)
}

/// Where a source's frames and events go.
struct FrameSink<'a> {
    name: std::sync::Arc<str>,
    handover: &'a Handover,
    stop: &'a AtomicBool,
    event: &'a dyn Fn(CameraEvent),
    still: RefCell<StillWatch>,
    /// By so much a picture is older than its source says.
    latency: Duration,
}

impl FrameSink<'_> {
    fn tell(&self, event: CameraEvent) {
        (self.event)(event);
    }

    /// Hands over a picture taken at `captured` of what nobody knows the truth about.
    fn shot(&self, sequence: u64, captured: Instant, raw: Raw) {
        let wall = OffsetDateTime::now_utc() - captured.elapsed();
        self.put(Frame { camera: self.name.clone(), sequence, captured, wall, raw, truth: [].into() });
    }

    fn put(&self, mut frame: Frame) {
        if let Some(exposed) = frame.captured.checked_sub(self.latency) {
            (frame.captured, frame.wall) = (exposed, frame.wall - self.latency);
        }
        let mut still = self.still.borrow_mut();
        match still.look(&frame.raw, Instant::now()) {
            PictureChange::News => {
                self.tell(CameraEvent::Frame);
                if self.handover.put(frame) {
                    self.tell(CameraEvent::Dropped);
                }
            }
            PictureChange::Frozen => {
                self.tell(CameraEvent::Frozen(still.after()));
                self.tell(CameraEvent::Still);
            }
            PictureChange::Still => self.tell(CameraEvent::Still),
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Opens a camera again and again, with growing pauses: `watch` opens it, hands frames over and counts them until
    /// the camera fails; it says why, or `None` when told to stop.
    fn keep_open(&self, shown: &str, mut watch: impl FnMut(&mut u64) -> Option<String>) {
        let (mut pause, mut sequence) = (PAUSES.0, 0);
        while !self.stopped() {
            let before = sequence;
            let Some(why) = watch(&mut sequence) else { return };
            if sequence > before {
                pause = PAUSES.0;
            }
            self.still.borrow_mut().lost();
            self.tell(CameraEvent::Lost(format!("{shown}: {why}")));
            self.sleep_until(Instant::now() + pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Sleeps until `moment`, or less when told to stop.
    fn sleep_until(&self, moment: Instant) {
        while !self.stopped() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::domain::Picture;

    #[test]
    fn a_misspelt_key_is_refused() {
        let good = "source = 'usb'\nname = 'a'\ndevice = '/dev/video0'\nformat = 'MJPG'\nwidth = 640\nheight = 360\nframe_rate = 30\ntimeout = '500ms'";
        let CameraSource::Usb { timeout, .. } = read(good).unwrap().source else { panic!("not usb") };
        assert_eq!(timeout, Duration::from_millis(500));
        for (wrong, why) in [
            (good.replace("width", "widht"), "widht"),
            (good.replace("640", "'wide'"), "width"),
            (good.replace("'500ms'", "500"), "timeout"),
            (good.replace("'usb'", "'ubs'"), "ubs"),
            ("source = 'simulated'\nname = 'a'\nbelt = { sped = 3 }".into(), "sped"),
            (good.replace("width", "\"\""), "unknown field"),
            (good.replace("'usb'", "7"), "simulated"),
            (good.replace("'MJPG'", "'mjpg'"), "format"),
            (format!("{good}\ngeometry = {{ scal = '2mm/px' }}"), "scal"),
            (format!("{good}\ngeometry = {{ rotation = 45 }}"), "rotation"),
            (format!("{good}\ngeometry = {{ latency = '35' }}"), "latency"),
            (format!("{good}\ngeometry = {{ lens = {{ k1 = 'x' }} }}"), "k1"),
            (format!("{good}\ngeometry = {{ scale = '2mm' }}"), "scale"),
            (format!("{good}\nlocate = {{ treshold = 0.2 }}"), "treshold"),
            (format!("{good}\nlocate = {{ threshold = '0.2' }}"), "threshold"),
            (format!("{good}\nregion = [0, 0, 1]"), "region"),
            (format!("{good}\nmasks = [0, 0, 1, 1]"), "masks"),
            (format!("{good}\nmask = 1"), "mask"),
        ] {
            let said = read(&wrong).unwrap_err();
            println!("{said}");
            assert!(said.contains(why) && said.contains("camera a"), "{said}");
            assert_eq!(said.contains("`masks`"), ["widht", "unknown field"].contains(&why), "{said}");
        }
        assert!(read(&good.replace("name", "nmae")).unwrap_err().contains("name is missing"));
        assert!(read(&good.replace("name = 'a'", "name = 7")).unwrap_err().contains("name"));
    }

    fn read(text: &str) -> Result<CameraConfig, String> {
        toml::from_str(text).map_err(|error| error.message().to_string())
    }

    #[test]
    fn a_camera_has_its_own_search_where_it_says_so() {
        let all = LocateConfig { threshold: 0.2, looks: 3, ..LocateConfig::default() };
        let camera = |more: &str| read(&format!("name = 'a'\nsource = 'simulated'\n{more}")).unwrap();
        assert_eq!(camera("").located(&all), Ok(all.clone()));
        let own = camera("locate = { threshold = 0.3, min_area = 0.01 }").located(&all);
        assert_eq!(own, Ok(LocateConfig { threshold: 0.3, min_area: 0.01, ..all.clone() }));
        let why = camera("locate = { looks = 9 }").located(&all).unwrap_err();
        assert!(why.contains("camera a") && why.contains("locate.looks"), "{why}");
    }

    #[test]
    fn a_camera_whose_latency_eats_the_deadline_is_refused() {
        let camera = read("name = 'a'\nsource = 'simulated'\ngeometry = { latency = '60ms' }").unwrap();
        let why = camera.check(Duration::from_millis(50)).unwrap_err();
        assert!(why.contains("camera a") && why.contains("geometry.latency") && why.contains("line.deadline"), "{why}");
        assert_eq!(camera.check(Duration::from_millis(100)), Ok(()));
    }

    #[test]
    fn a_picture_is_older_by_its_cameras_latency() {
        let camera = |latency: &str| {
            let text = format!("name = 'a'\nsource = 'simulated'\ngeometry = {{ latency = '{latency}' }}");
            watch(&read(&text).unwrap(), Duration::from_millis(500)).0
        };
        let youngest = |frames: Vec<Frame>| frames.iter().map(|frame| frame.captured.elapsed()).min().unwrap();
        assert!(youngest(camera("0s")) < Duration::from_millis(450));
        let frames = camera("30s");
        assert!(frames.iter().all(|frame| OffsetDateTime::now_utc() - frame.wall >= Duration::from_secs(30)));
        assert!(youngest(frames) >= Duration::from_secs(30));
    }

    fn camera(name: &str, source: CameraSource) -> CameraConfig {
        let (geometry, area, locate) = Default::default();
        CameraConfig { name: name.into(), geometry, area, locate, challenge: Vec::new(), source }
    }

    /// Runs a camera for a while, taking everything; the frames and the events.
    fn watch(config: &CameraConfig, during: Duration) -> (Vec<Frame>, Vec<CameraEvent>) {
        let (handover, stop, events) = (Handover::default(), AtomicBool::new(false), Mutex::new(Vec::new()));
        let mut frames = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| run(config, &handover, &stop, &|event| events.lock().unwrap().push(event)));
            let end = Instant::now() + during;
            while Instant::now() < end {
                frames.extend(handover.take(Duration::from_millis(20)));
            }
            stop.store(true, Ordering::Relaxed);
        });
        (frames, events.into_inner().unwrap())
    }

    #[test]
    fn the_simulated_camera_keeps_the_time_of_its_belt() {
        let belt = BeltConfig { frame_rate: 10.0, empty_share: 0.0, ..BeltConfig::default() };
        let config = camera("belt", CameraSource::Simulated { belt: belt.clone(), encoder: None });
        let (frames, events) = watch(&config, Duration::from_secs(2));
        assert_eq!(events[0], CameraEvent::Opened);
        assert!(frames.len() >= 5, "{}", frames.len());
        let mut drawn = Belt::new(belt).unwrap();
        for frame in &frames {
            let (picture, truths) = drawn.frame(frame.sequence);
            let Raw::Rgb(got) = &frame.raw else { panic!("not pixels") };
            assert!(**got == picture && *frame.truth == *truths, "frame {}", frame.sequence);
            let late = frame.captured - frames[0].captured;
            let due = Duration::from_secs_f64((frame.sequence - frames[0].sequence) as f64 / 10.0);
            assert!(late.abs_diff(due) < Duration::from_millis(1), "{late:?} instead of {due:?}");
        }
    }

    #[test]
    fn a_folder_plays_in_order_and_over_again() {
        let folder = tempfile::tempdir().unwrap();
        for (name, shade) in [("b.jpg", 90), ("a.jpg", 30), ("notes.txt", 0)] {
            let jpeg = crate::picture::pixels::encode_jpeg(&Picture::filled(16, 16, [shade; 3]), 90).unwrap();
            std::fs::write(folder.path().join(name), jpeg).unwrap();
        }
        let config = camera("folder", CameraSource::Folder { path: folder.path().into(), frame_rate: 25.0 });
        let (frames, _) = watch(&config, Duration::from_millis(700));
        assert!(frames.len() >= 4, "{}", frames.len());
        for frame in frames {
            let Raw::Jpeg(bytes) = &frame.raw else { panic!("a JPEG is handed on undecoded") };
            let shade = crate::picture::pixels::decode(bytes, Default::default()).unwrap().at(8, 8)[0];
            assert_eq!(shade, [30, 90][frame.sequence as usize % 2], "frame {}", frame.sequence);
        }
    }

    #[test]
    fn a_camera_that_is_not_there_is_said_and_stops_when_told() {
        let config = camera("f", CameraSource::Folder { path: "/no/such/folder".into(), frame_rate: 5.0 });
        let (frames, events) = watch(&config, Duration::from_millis(150));
        assert!(frames.is_empty());
        assert!(matches!(&events[0], CameraEvent::Lost(why) if why.contains("/no/such/folder")), "{events:?}");
    }
}
