//! A network camera that sends H.264 over RTSP, in RTP over the same TCP connection.
//!
//! The moment of capture is the camera's own, up to the least delay seen: see [`CameraClock`].
//!
//! Invariant: a picture is handed on only if nothing it leans on was lost or refused; a camera of which no picture
//! comes for `timeout` is lost and reopened.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use openh264::{decoder::Decoder, formats::YUVSource};
use reqwest::Url;
use retina::{
    client::{Credentials, Demuxed, PlayOptions, Session, SessionOptions, SetupOptions, Transport},
    codec::{CodecItem, FrameFormat},
};
use tokio_stream::StreamExt;

use super::{
    CameraEvent, FrameSink,
    network::{Address, WaitEnd, WatchEnd, within},
};
use crate::domain::{Picture, Raw};

/// By how much the camera's clock and ours may differ, 100 parts in a million being a bad quartz.
const DRIFT: f64 = 1e-4;
/// A picture that seems to be older, in seconds, has a wrong timestamp.
const OLDEST: f64 = 2.0;

pub(super) fn run(address: &Address, timeout: Duration, sink: &FrameSink<'_>) {
    let opened = address.parse("rtsp").and_then(|url| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok((url, runtime.map_err(|error| error.to_string())?))
    });
    let (mut url, runtime) = match opened {
        Ok(opened) => opened,
        Err(why) => return sink.tell(CameraEvent::Lost(why)),
    };
    let credentials = address.credentials();
    let _ = (url.set_username(""), url.set_password(None)); // refused only where there is no host
    sink.keep_open(&address.shown(), |sequence| {
        match runtime.block_on(watch(&url, credentials.as_ref(), timeout, sequence, sink)) {
            WatchEnd::Stopped => None,
            WatchEnd::Lost(why) => Some(why),
        }
    });
    runtime.shutdown_background(); // the system may still be looking a name up
}

async fn watch(
    url: &Url,
    credentials: Option<&(String, String)>,
    timeout: Duration,
    sequence: &mut u64,
    sink: &FrameSink<'_>,
) -> WatchEnd {
    let limit = Instant::now() + timeout;
    let mut items = match within(sink, limit, open(url, credentials)).await {
        Ok(Ok(items)) => items,
        Ok(Err(why)) => return WatchEnd::Lost(why),
        Err(WaitEnd::Silent) => return WatchEnd::Lost(format!("no answer within {timeout:?}")),
        Err(WaitEnd::Stopped) => return WatchEnd::Stopped,
    };
    let mut decoder = match Decoder::new() {
        Ok(decoder) => decoder,
        Err(error) => return WatchEnd::Lost(error.to_string()),
    };
    sink.tell(CameraEvent::Opened);
    let mut clock = CameraClock::default();
    // Whether the decoder holds all that the next picture leans on; a key picture leans on none.
    let (mut begun, mut whole) = (false, false);
    let mut limit = Instant::now() + timeout;
    loop {
        let coded = match within(sink, limit, items.next()).await {
            Ok(Some(Ok(CodecItem::VideoFrame(coded)))) => coded,
            Ok(Some(Ok(_))) => continue,
            Ok(Some(Err(error))) => return WatchEnd::Lost(in_short(&error)),
            Ok(None) => return WatchEnd::Lost("the camera hung up".into()),
            Err(WaitEnd::Silent) => return WatchEnd::Lost(format!("no picture within {timeout:?}")),
            Err(WaitEnd::Stopped) => return WatchEnd::Stopped,
        };
        let captured = clock.captured(coded.timestamp().elapsed_secs(), coded.start_ctx().received());
        whole = coded.is_random_access_point() || (whole && coded.loss() == 0);
        begun |= whole;
        if !begun {
            continue; // it sent before we listened
        }
        *sequence += 1;
        if !whole {
            sink.tell(CameraEvent::BadFrame("packets were lost; the next key picture is waited for".into()));
            continue;
        }
        match decoder.decode(coded.data()) {
            Ok(None) => {}
            Ok(Some(yuv)) => {
                limit = Instant::now() + timeout;
                let (width, height) = yuv.dimensions();
                let mut rgb = vec![0; width * height * 3];
                yuv.write_rgb8(&mut rgb);
                let picture = Picture { width: width as u32, height: height as u32, rgb };
                sink.shot(*sequence, captured, Raw::Rgb(Arc::new(picture)));
            }
            Err(error) => {
                whole = false;
                sink.tell(CameraEvent::BadFrame(format!("a picture can't be decoded: {error}")));
            }
        }
    }
}

async fn open(url: &Url, credentials: Option<&(String, String)>) -> Result<Demuxed, String> {
    // What the library says may quote what was sent.
    let said = |error: retina::Error| match credentials {
        Some(_) if error.status_code() == Some(401) => "the camera refuses this user and password (401)".into(),
        None if error.status_code() == Some(401) => "the camera asks for a user and a password (401)".into(),
        Some((_, password)) if !password.is_empty() => in_short(&error).replace(password, "…"),
        _ => in_short(&error),
    };
    let login = credentials.cloned().map(|(username, password)| Credentials { username, password });
    let mut session = Session::describe(url.clone(), SessionOptions::default().creds(login)).await.map_err(said)?;
    let offered: Vec<&str> = session.streams().iter().map(|stream| stream.encoding_name()).collect();
    let Some(stream) = offered.iter().position(|name| *name == "h264") else {
        return Err(format!("the camera sends {offered:?}; only h264 is understood: change its settings"));
    };
    let options = SetupOptions::default().transport(Transport::default()).frame_format(FrameFormat::SIMPLE);
    session.setup(stream, options).await.map_err(said)?;
    session.play(PlayOptions::default()).await.map_err(said)?.demuxed().map_err(said)
}

/// What went wrong, without the ports and moments that the library puts below it.
fn in_short(error: &retina::Error) -> String {
    let words = error.to_string();
    let first = words.split("\n\n").next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The camera's time as ours. RTP counts when pictures were taken from a moment that nobody tells, so the picture that
/// came fastest, reckoned by that count, is taken to have come at once, and others by so much earlier than they came as
/// they were slower. What also the fastest one needs belongs into a gate's `delay`.
#[derive(Default)]
struct CameraClock {
    /// The moment when the first picture came, the least delay against that in seconds, and when it was reckoned.
    known: Option<(Instant, f64, Instant)>,
}

impl CameraClock {
    /// When a picture was taken whose count says `stamp` seconds, and that came at `arrived`.
    fn captured(&mut self, stamp: f64, arrived: Instant) -> Instant {
        let (first, least, then) = self.known.unwrap_or((arrived, -stamp, arrived));
        let delay = arrived.saturating_duration_since(first).as_secs_f64() - stamp;
        // Clocks drift apart: a least delay of long ago may not be reached any more.
        let least = least + DRIFT * arrived.saturating_duration_since(then).as_secs_f64();
        let more = delay - least;
        let (least, more) = if (0.0..OLDEST).contains(&more) { (least, more) } else { (delay, 0.0) };
        self.known = Some((first, least, arrived));
        arrived.checked_sub(Duration::from_secs_f64(more)).unwrap_or(arrived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_that_was_slow_was_taken_when_its_count_says() {
        let start = Instant::now();
        let mut clock = CameraClock::default();
        // 25 pictures a second; the first comes slowly, every tenth by 80 ms more than the fastest.
        for n in 0..200u32 {
            let taken = f64::from(n) / 25.0;
            let delay = if n == 0 {
                0.05
            } else if n % 10 == 0 {
                0.09
            } else {
                0.01
            };
            let captured = clock.captured(1000.0 + taken, start + Duration::from_secs_f64(taken + delay));
            let off = captured.saturating_duration_since(start).as_secs_f64() - taken;
            assert!(n == 0 || (0.009..0.011).contains(&off), "picture {n}: {off}");
        }
    }

    #[test]
    fn a_clock_that_drifts_or_jumps_is_followed() {
        let start = Instant::now();
        let mut clock = CameraClock::default();
        let mut off = |stamp: f64, arrives: f64| {
            let arrived = start + Duration::from_secs_f64(arrives);
            arrived.saturating_duration_since(clock.captured(stamp, arrived)).as_secs_f64()
        };
        // The camera's clock is slow by 50 parts in a million: after an hour that is 180 ms.
        let worst = (0..3600).map(|n| off(f64::from(n) * (1.0 - 5e-5), f64::from(n))).fold(0.0, f64::max);
        assert!(worst < 0.001, "{worst}");
        for stamp in [9.0, 1e6, -1e6] {
            assert!(off(stamp, 3600.0) < 1e-6, "a count that makes no sense means: just now");
            assert!(off(stamp + 0.04, 3600.04) < 1e-3);
        }
        assert!(off(f64::NAN, 3601.0) < 1e-6);
    }
}
