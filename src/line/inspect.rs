//! One camera's way from frame to verdict: take the newest frame, find the items in it, ask the worker, decide, act, record.
//!
//! An item may be looked at in several pictures: each look is scored by itself, the first one's deadline and place count,
//! and the mean of the scores that came by then decides.
//!
//! Invariant: every item that `locate` returned gets exactly one verdict, at the latest when its deadline passes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::timeout_at,
};

use crate::{
    domain::{Fault, Frame, Item, Optics, Picture, Raw, Region, Scored, Source, Timings, Truth, Verdict, ms},
    line::{
        area::SearchArea,
        eject::Ejector,
        eject::output::alive::LineAlive,
        geometry::{Direction, Rotation},
        handover::Handover,
        infer::Infer,
        live::{LiveFrame, View},
        locate::{LocateConfig, Locator},
        observe::{cleaned, observe},
        outage::CameraOutage,
        priority,
        record::Recorder,
        verdict::{Origin, assemble, mean},
    },
    metrics::Metrics,
    picture::pixels::{self, PixelLimits},
};

/// How often the line looks whether its camera is lost or it is to end, where no picture comes.
const LOOK: Duration = Duration::from_millis(100);
/// How long an item's box stays on the live picture.
const SHOWN: Duration = Duration::from_secs(4);
/// Time between two live pictures while somebody watches, and while nobody does.
const LIVE_PAUSE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// JPEG quality of live pictures.
const LIVE_QUALITY: i32 = 80;

/// What every camera's line needs of the service.
#[derive(Clone)]
pub struct Line {
    /// The inference worker.
    pub infer: Infer,
    /// Takes the verdicts that move a gate, if there are gates.
    pub ejector: Option<Ejector>,
    /// Takes the verdicts.
    pub recorder: Recorder,
    /// Is told what was searched and answered.
    pub alive: LineAlive,
    /// All metrics.
    pub metrics: Metrics,
    /// From capture to verdict.
    pub deadline: Duration,
    /// How items are found, in this camera's pictures.
    pub locate: LocateConfig,
    /// How this camera looks at the belt.
    pub sight: Sight,
    /// Where waiting for the worker happens, apart from HTTP.
    pub waiting: Handle,
    /// Where live pictures are encoded, apart from the line.
    pub background: Handle,
}

/// How one camera looks at the belt.
#[derive(Clone, Default)]
pub struct Sight {
    /// How its pictures are turned before anything looks at them.
    pub rotation: Rotation,
    /// Which way the belt runs in the turned picture, where that is known.
    pub direction: Option<Direction>,
    /// Which part of the turned picture is searched.
    pub area: SearchArea,
}

/// What the worker will say of one look, or why it was not asked.
type Look = Result<oneshot::Receiver<Scored>, Fault>;

/// The verdicts of the last seconds, and when each was given.
type JudgedItems = Arc<Mutex<Vec<(Instant, Verdict)>>>;

/// Runs until `stop`; meant for a thread of its own.
pub fn run(line: &Line, view: &Arc<View>, frames: &Handover, outage: &CameraOutage, stop: &AtomicBool) {
    let camera = &*view.camera;
    priority::set(priority::BELT);
    let Sight { rotation, direction, mut area } = line.sight.clone();
    let mut locator = Locator::new(line.locate.clone()).before(area.clone(), direction);
    let judged = JudgedItems::default();
    // Where the further looks at an item go, by its track.
    let mut open: BTreeMap<u64, mpsc::Sender<Look>> = BTreeMap::new();
    let mut last_live = None;
    let mut width = line.ejector.as_ref().and_then(|ejector| ejector.width(camera));
    while !stop.load(Ordering::Relaxed) {
        outage.look();
        let Some(frame) = frames.take(LOOK) else {
            if frames.over() {
                thread::sleep(LOOK); // else this would turn round and round
            }
            continue;
        };
        let started = Instant::now();
        let picture = match decode(&frame.raw) {
            Ok((picture, strays)) => {
                cleaned(&line.metrics, Source::Belt, camera, strays);
                picture
            }
            Err(e) => {
                // A later frame shows the item again; where none does for long, that is an outage.
                tracing::warn!("a frame of {camera} is unusable: {e}");
                line.metrics.camera.frames_dropped.with_label_values(&[camera, e.name()]).inc();
                outage.unusable(&e.to_string());
                continue;
            }
        };
        let (frame, picture) = turned(frame, picture, rotation);
        // Gates reckon millimetres from pixels: in pictures of another width they would move at the wrong ones.
        if line.ejector.is_some() {
            let (wanted, wide) = (*width.get_or_insert(picture.width), picture.width);
            if wide != wanted {
                line.metrics.camera.frames_dropped.with_label_values(&[camera, "size"]).inc();
                outage.refused(&format!("its pictures are {wide} pixels wide, not {wanted}"));
                continue;
            }
        }
        let decode_ms = ms(started.elapsed());
        let located = Instant::now();
        let part = area.cut(&picture);
        let items = locator.look(&part.picture, frame.captured);
        outage.searched(frame.captured);
        if let Some(ejector) = &line.ejector {
            ejector.seen(camera, locator.travel(), frame.captured);
        }
        let speed = locator.speed(frame.captured);
        let inspected = InspectedFrame { frame: &frame, picture: &picture, speed, decode_ms, located };
        for item in items {
            let item = Item { region: part.whole(item.region), ..item };
            let track = item.track;
            if item.look == 1 {
                let (looks, taken) = mpsc::channel(line.locate.looks);
                judge(line, &inspected, item, &looks, taken, &judged);
                open.insert(track, looks);
            } else if let Some(looks) = open.get(&track) {
                let (look, _) = ask(line, &inspected, item.region);
                let _ = looks.try_send(look); // the verdict may have been given: its deadline has passed
            }
        }
        let unjudged = locator.take_unjudged();
        line.metrics.line.items_unjudged.with_label_values(&[camera]).inc_by(unjudged);
        outage.passed(unjudged);
        open.retain(|track, _| locator.looks_again(*track)); // the others wait for no further look
        line.metrics.camera.belt_seen.with_label_values(&[camera]).set(speed.map_or(f64::NAN, f64::from));
        let pause = LIVE_PAUSE[usize::from(view.frame.receiver_count() == 0)];
        if last_live.is_none_or(|last: Instant| last.elapsed() >= pause) {
            last_live = Some(started);
            let tracks = locator.tracks().into_iter().map(|(track, region)| (track, part.whole(region))).collect();
            drop(part);
            show(line, view, picture, tracks, &judged);
        }
    }
    outage.end();
}

/// The picture, and how many stray bytes it came with.
fn decode(raw: &Raw) -> Result<(Arc<Picture>, usize), pixels::PixelError> {
    match raw {
        Raw::Rgb(picture) => Ok((picture.clone(), 0)),
        Raw::Jpeg(bytes) => {
            let (picture, strays) = pixels::decode_counted(bytes, PixelLimits::default())?;
            Ok((picture.into(), strays))
        }
    }
}

/// A camera's picture turned as it says, with what its frame says of it; that is what is kept, too.
fn turned(frame: Frame, picture: Arc<Picture>, rotation: Rotation) -> (Frame, Arc<Picture>) {
    if rotation.is_none() {
        return (frame, picture);
    }
    let upright = Arc::new(rotation.turn(&picture));
    let turn = |truth: &Truth| Truth {
        region: rotation.turn_region(truth.region, picture.width, picture.height),
        ..truth.clone()
    };
    let truth = frame.truth.iter().map(turn).collect();
    (Frame { raw: Raw::Rgb(upright.clone()), truth, ..frame }, upright)
}

/// A picture, and what it tells of all its items.
struct InspectedFrame<'a> {
    frame: &'a Frame,
    picture: &'a Picture,
    /// The belt's, in pixels per second, up to the picture before.
    speed: Option<f32>,
    decode_ms: f64,
    /// When the search for items began.
    located: Instant,
}

/// Cuts the region out and hands it to the worker; also says how bright and sharp it is.
fn ask(line: &Line, inspected: &InspectedFrame, region: Region) -> (Look, Option<Optics>) {
    let InspectedFrame { frame, picture, .. } = *inspected;
    let square = pixels::square_around(region, pixels::CROP_MARGIN, picture.width, picture.height);
    let side = line.infer.card().side;
    let fitted = pixels::fit(picture, Some(square), side).map_err(|e| Fault::Decode(e.to_string()));
    let optics = fitted.as_ref().ok().map(|pixels| pixels::optics(pixels, side));
    (fitted.and_then(|pixels| line.infer.submit(pixels, Source::Belt, frame.captured + line.deadline)), optics)
}

/// Looks at an item for the first time, and leaves a task that waits for the answers to all looks or the deadline.
fn judge(
    line: &Line,
    inspected: &InspectedFrame,
    item: Item,
    looks: &mpsc::Sender<Look>,
    mut taken: mpsc::Receiver<Look>,
    judged: &JudgedItems,
) {
    let InspectedFrame { frame, speed, decode_ms, located, .. } = *inspected;
    let deadline = frame.captured + line.deadline;
    let (first, optics) = ask(line, inspected, item.region);
    let _ = looks.try_send(first); // there is room for every look
    let timings = Timings { decode_ms, locate_ms: ms(located.elapsed()), ..Timings::default() };
    let origin = Origin {
        source: Source::Belt,
        camera: frame.camera.clone(),
        track: item.track,
        region: Some(item.region),
        several: item.several,
        partial: item.partial,
        wall: frame.wall,
        truth: truth(&frame.truth, item.region),
        optics,
    };
    let (line, raw, captured, judged) = (line.clone(), frame.raw.clone(), frame.captured, judged.clone());
    line.waiting.clone().spawn(async move {
        let mut looks = Vec::new();
        while let Ok(Some(look)) = timeout_at(deadline.into(), taken.recv()).await {
            looks.push(match look {
                Err(fault) => unscored(fault),
                Ok(answer) => match timeout_at(deadline.into(), answer).await {
                    Ok(Ok(scored)) => scored,
                    Ok(Err(_)) => unscored(Fault::Stopping), // the worker is gone
                    Err(_) => unscored(Fault::Timeout),
                },
            });
        }
        line.metrics.line.looks.observe(looks.len() as f64);
        let scored = mean(looks);
        let timings = Timings { total_ms: ms(captured.elapsed()), ..timings };
        let verdict = line.recorder.in_lot(assemble(origin, &scored, timings));
        if let Some(ejector) = &line.ejector {
            ejector.act(&verdict, captured, speed); // first of all: the gate's moment does not wait
        }
        match &scored.scores {
            Ok(_) => line.alive.answered(),
            Err(Fault::Decode(_)) => {} // the worker was not asked
            Err(fault) => line.alive.failed(&fault.to_string()),
        }
        observe(&line.metrics, &verdict, scored.scores.as_ref().err());
        remember(&judged, &verdict);
        line.recorder.record(verdict, scored.model, Some(raw));
    });
}

fn unscored(fault: Fault) -> Scored {
    Scored { scores: Err(fault), model: None, timings: Timings::default() }
}

/// The species of the simulated item that overlaps the region most.
fn truth(truths: &[Truth], region: Region) -> Option<String> {
    let overlap = |t: &Truth| {
        let span = |a: u32, al: u32, b: u32, bl: u32| (a + al).min(b + bl).saturating_sub(a.max(b));
        span(t.region.x, t.region.width, region.x, region.width)
            * span(t.region.y, t.region.height, region.y, region.height)
    };
    truths.iter().filter(|t| overlap(t) > 0).max_by_key(|t| overlap(t)).map(|t| t.species.clone())
}

fn remember(judged: &JudgedItems, verdict: &Verdict) {
    let mut judged = judged.lock().unwrap_or_else(PoisonError::into_inner);
    judged.retain(|(at, _)| at.elapsed() < SHOWN); // not the wall clock's time, which may be set back
    judged.push((Instant::now(), verdict.clone()));
}

/// Sends the frame with the boxes of its judged items to those who watch; encoded apart from the line.
fn show(line: &Line, view: &Arc<View>, picture: Arc<Picture>, tracks: Vec<(u64, Region)>, judged: &JudgedItems) {
    let judged = judged.lock().unwrap_or_else(PoisonError::into_inner);
    let items = tracks
        .into_iter()
        .filter_map(|(track, region)| judged.iter().find(|(_, v)| v.track == track).map(|(_, v)| (region, v.clone())))
        .collect();
    drop(judged);
    let (view, area) = (view.clone(), line.sight.area.clone());
    line.background.spawn_blocking(move || {
        priority::set(priority::NORMAL); // a thread started from here begins with the belt's
        let mut picture = picture;
        if !area.is_all() {
            area.dim(Arc::make_mut(&mut picture));
        }
        match pixels::encode_jpeg(&picture, LIVE_QUALITY) {
            Ok(jpeg) => {
                let (width, height) = (picture.width, picture.height);
                view.frame.send_replace(Some(LiveFrame { jpeg: jpeg.into(), width, height, items }));
            }
            Err(e) => tracing::warn!("a live picture could not be encoded: {e}"),
        }
    });
}
