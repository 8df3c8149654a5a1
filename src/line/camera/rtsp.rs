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
    clock::CameraClock,
    network::{Address, WaitEnd, WatchEnd, within},
};
use crate::domain::{Picture, Raw};

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
    let mut clock = CameraClock::new(timeout);
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
