//! A network camera that sends JPEGs one after another over HTTP (`multipart/x-mixed-replace`), handed on undecoded.
//!
//! The moment of capture is the one that the camera tells in `X-Timestamp`, up to the least delay seen, or else the moment at
//! which a picture's first byte arrives; what comes late after a hiccup is told by the cadence or refused: see
//! [`ArrivalClock`]. What passes in the camera and on the wire always belongs into the camera's `geometry.latency`.
//!
//! The parser is ours because streams of real cameras break the rules that libraries for multipart insist on: dashes
//! and quotes around the boundary, more or fewer than announced or none, no line end behind it, another one than
//! announced, lengths that are absent or wrong, lines that end in LF alone, a status line or text between the pictures.
//!
//! Invariant: a camera holds at most [`MOST`] bytes and some, whatever it sends; one that sends no whole picture for
//! `timeout` is lost and reopened.

use std::{
    str::FromStr,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem::Finder};
use reqwest::{Client, Response, StatusCode, Url, header};

use super::{
    CameraEvent, FrameSink,
    clock::ArrivalClock,
    network::{Address, WaitEnd, WatchEnd, within},
};
use crate::{domain::Raw, picture::jpeg};

/// Bytes of the largest part that is taken for a picture.
const MOST: usize = 16 << 20;
/// Bytes of a part's head.
const MOST_HEAD: usize = 8 << 10;
/// What may stand behind a delimiter that no head follows: two dashes and a line's end.
const LONGEST_END: usize = 4;
/// Bytes of a stream's beginning that are told where no picture is found in it.
const BEGINNING: usize = 60;

pub(super) fn run(address: &Address, timeout: Duration, sink: &FrameSink<'_>) {
    let opened = address.parse("http").and_then(|url| {
        // Heads of cameras: `Content-Type :`, a line without a name, the status line twice.
        let client = Client::builder()
            .no_proxy()
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true);
        let client = client.build().map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok((url, client, runtime.map_err(|error| error.to_string())?))
    });
    let (url, client, runtime) = match opened {
        Ok(opened) => opened,
        Err(why) => return sink.tell(CameraEvent::Lost(why)),
    };
    sink.keep_open(&address.shown(), |sequence| {
        match runtime.block_on(watch(&client, &url, timeout, sequence, sink)) {
            WatchEnd::Stopped => None,
            WatchEnd::Lost(why) => Some(why),
        }
    });
    runtime.shutdown_background(); // the system may still be looking a name up
}

async fn watch(client: &Client, url: &Url, timeout: Duration, sequence: &mut u64, sink: &FrameSink<'_>) -> WatchEnd {
    let limit = Instant::now() + timeout;
    let mut answer = match within(sink, limit, client.get(url.clone()).send()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return WatchEnd::Lost(words(error)),
        Err(WaitEnd::Silent) => return WatchEnd::Lost(format!("no answer within {timeout:?}")),
        Err(WaitEnd::Stopped) => return WatchEnd::Stopped,
    };
    let mut splitter = match boundary(&answer) {
        Ok(boundary) => JpegSplitter::new(&boundary),
        Err(why) => return WatchEnd::Lost(why),
    };
    sink.tell(CameraEvent::Opened);
    let (mut clock, mut late) = (ArrivalClock::new(timeout), false);
    let mut limit = Instant::now() + timeout;
    loop {
        let chunk = match within(sink, limit, answer.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(ended) => {
                if splitter.inside() {
                    sink.tell(CameraEvent::BadFrame("the camera hung up in the middle of a picture".into()));
                    *sequence += 1;
                }
                return WatchEnd::Lost(ended.err().map_or_else(|| "the camera hung up".into(), words));
            }
            Err(WaitEnd::Silent) => {
                return WatchEnd::Lost(format!("no whole picture within {timeout:?}{}", splitter.why()));
            }
            Err(WaitEnd::Stopped) => return WatchEnd::Stopped,
        };
        splitter.push(&chunk, Instant::now());
        while let Some(part) = splitter.next() {
            match part {
                Ok((jpeg, arrived, stamp)) => {
                    limit = Instant::now() + timeout;
                    let captured = clock.captured(arrived, stamp);
                    if captured.is_none() && !late {
                        tracing::warn!(
                            camera = &*sink.name,
                            "pictures come late, and nobody can tell when they were taken: they are dropped"
                        );
                    }
                    late = captured.is_none();
                    match captured {
                        Some(captured) => sink.shot(*sequence, captured, Raw::Jpeg(jpeg)),
                        None => sink.tell(CameraEvent::Late),
                    }
                }
                Err(why) => sink.tell(CameraEvent::BadFrame(why)),
            }
            *sequence += 1;
        }
    }
}

/// An error without the URL, and with its cause.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        words += &format!(": {error}");
        cause = error.source();
    }
    words
}

/// The boundary that the answer announces; empty for none.
fn boundary(answer: &Response) -> Result<String, String> {
    let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if answer.status() == StatusCode::UNAUTHORIZED {
        let offer = text(header::WWW_AUTHENTICATE);
        let offer = offer.split_whitespace().next().unwrap_or("nothing");
        return Err(format!("the camera wants another user name or password; we speak Basic, it offers {offer}"));
    }
    if !answer.status().is_success() {
        return Err(format!("the camera answers {}", answer.status()));
    }
    let kind = text(header::CONTENT_TYPE);
    if !kind.to_ascii_lowercase().starts_with("multipart/") {
        return Err(format!(
            "the camera sends {kind:?} instead of multipart/x-mixed-replace: is this the stream's URL?"
        ));
    }
    Ok(boundary_of(kind).unwrap_or_default())
}

/// The boundary without dashes before it: some cameras count the two dashes of a delimiter in, some do not.
fn boundary_of(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';').filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"))?;
    let boundary = value.trim().trim_matches('"').trim_start_matches('-');
    (!boundary.is_empty()).then(|| boundary.to_string())
}

/// A JPEG, when its first byte came, and when the camera says that it was taken, in seconds.
type JpegPart = (Bytes, Instant, Option<f64>);

/// Where in the stream the next byte lies.
enum StreamPlace {
    /// Between parts.
    Between,
    /// In a part's head, of which so many bytes were read.
    Head { length: Option<usize>, read: usize },
    /// In a part's body, whose first byte came at that moment.
    Body { length: Option<usize>, began: Option<Instant> },
}

/// Cuts a stream of bytes into JPEGs.
struct JpegSplitter {
    /// What the camera announced, without dashes.
    boundary: String,
    /// As the stream has it, from the first part on.
    delimiter: Option<Finder<'static>>,
    buffer: BytesMut,
    place: StreamPlace,
    /// Bytes of the body in which no delimiter begins.
    searched: usize,
    /// When the camera says that the part's picture was taken, in seconds.
    stamp: Option<f64>,
    /// Whether the part says that it is text.
    text: bool,
    /// How the stream began.
    began: Vec<u8>,
    now: Instant,
}

impl JpegSplitter {
    fn new(boundary: &str) -> Self {
        Self {
            boundary: boundary.into(),
            delimiter: None,
            buffer: BytesMut::new(),
            place: StreamPlace::Between,
            searched: 0,
            stamp: None,
            text: false,
            began: Vec::new(),
            now: Instant::now(),
        }
    }

    /// Takes what came at `now`; [`JpegSplitter::next`] is to be called until it has nothing more.
    fn push(&mut self, bytes: &[u8], now: Instant) {
        self.buffer.extend_from_slice(bytes);
        let more = BEGINNING.saturating_sub(self.began.len()).min(bytes.len());
        self.began.extend_from_slice(&bytes[..more]);
        self.now = now;
    }

    /// Why no picture may have come.
    fn why(&self) -> String {
        let began = self.began.escape_ascii();
        match &self.delimiter {
            _ if self.began.is_empty() => ": nothing came".into(),
            None => {
                format!(": the boundary {:?} is not found in what came, which begins with \"{began}\"", self.boundary)
            }
            Some(_) => String::new(),
        }
    }

    /// Whether a picture has begun and not ended.
    fn inside(&self) -> bool {
        matches!(self.place, StreamPlace::Body { began: Some(_), .. })
    }

    /// The next JPEG with the moment of its first byte, or why a part is none; `None` where more bytes are needed.
    fn next(&mut self) -> Option<Result<JpegPart, String>> {
        loop {
            match self.place {
                StreamPlace::Between => self.between()?,
                StreamPlace::Head { length, read } => {
                    if let Some(why) = self.head(length, read)? {
                        return Some(Err(why));
                    }
                }
                StreamPlace::Body { length, began } => {
                    let part = self.body(length, began)?;
                    if part.is_ok() || !self.text {
                        return Some(part);
                    }
                }
            }
        }
    }

    /// Skips to the next delimiter.
    fn between(&mut self) -> Option<()> {
        if self.delimiter.is_none() {
            self.learn()?;
        }
        let delimiter = self.delimiter.as_ref()?;
        let length = delimiter.needle().len();
        let Some(at) = delimiter.find(&self.buffer) else {
            self.buffer.advance(self.buffer.len().saturating_sub(length - 1));
            return None;
        };
        self.buffer.advance(at + length);
        self.place = StreamPlace::Head { length: None, read: 0 };
        Some(())
    }

    /// How the stream writes its delimiter: with dashes, as a line without any, or otherwise than announced: then it is the
    /// line with dashes before the first head.
    fn learn(&mut self) -> Option<()> {
        let boundary = self.boundary.as_bytes();
        let dashed = [b"--", boundary].concat();
        let with_dashes = Finder::new(&dashed).find(&self.buffer).filter(|_| !boundary.is_empty());
        let mut starts = std::iter::once(0).chain(memchr::memchr_iter(b'\n', &self.buffer).map(|at| at + 1));
        let bare = starts.find(|at| {
            let line = &self.buffer[*at..];
            let line = &line[..memchr(b'\n', line).unwrap_or(0)];
            let rest = line.strip_prefix(boundary).filter(|_| !boundary.is_empty());
            rest.is_some_and(|rest| rest.trim_ascii().is_empty() || rest.contains(&b':'))
        });
        let needle = match (with_dashes, bare) {
            (Some(dashes), Some(line)) if line < dashes => [b"\n", boundary].concat(),
            (Some(_), _) => dashed,
            (None, Some(_)) => [b"\n", boundary].concat(),
            (None, None) => {
                // Another one than announced is believed when enough has come that the announced one should be in it.
                let found =
                    (boundary.is_empty() || self.buffer.len() > MOST_HEAD).then(|| self.unannounced()).flatten();
                if found.is_none() && self.buffer.len() > MOST_HEAD {
                    self.buffer.advance(self.buffer.len() - MOST_HEAD);
                }
                found?
            }
        };
        if needle.first() == Some(&b'\n') && bare == Some(0) {
            self.buffer = [&b"\n"[..], &self.buffer].concat()[..].into(); // the first one has no line before it
        }
        self.delimiter = Some(Finder::new(&needle).into_owned());
        Some(())
    }

    /// A line that begins with dashes and is followed by one of a part's head.
    fn unannounced(&self) -> Option<Vec<u8>> {
        let mut lines = self.buffer.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let mut before = lines.next()?.trim_ascii();
        for line in lines {
            if before.len() > 2 && before.starts_with(b"--") && header::<String>(line, "content-type").is_some() {
                return Some(before.strip_suffix(b"--").unwrap_or(before).to_vec());
            }
            before = line.trim_ascii();
        }
        None
    }

    /// Whether a line of a head holds a delimiter.
    fn delimits(&self, line: &[u8]) -> bool {
        self.delimiter.as_ref().is_some_and(|delimiter| {
            let needle = delimiter.needle();
            delimiter.find(line).is_some() || needle.strip_prefix(b"\n").is_some_and(|bare| line.starts_with(bare))
        })
    }

    /// Reads a line of the head; the first is the rest of the delimiter's. What is wrong with the part, if anything.
    fn head(&mut self, length: Option<usize>, read: usize) -> Option<Option<String>> {
        let end = memchr(b'\n', &self.buffer);
        let read_now = read + end.map_or(self.buffer.len(), |end| end + 1);
        if read_now > MOST_HEAD {
            self.place = StreamPlace::Between;
            return Some(Some(format!("a part's head is longer than {MOST_HEAD} bytes")));
        }
        let line = self.buffer.split_to(end? + 1);
        let line = line.trim_ascii();
        let mut wrong = None;
        if read == 0 {
            (self.stamp, self.text) = (None, false);
        }
        self.place = if read == 0 && (line.is_empty() || line == b"--") {
            StreamPlace::Head { length, read: read_now }
        } else if line.is_empty() {
            self.searched = 0;
            StreamPlace::Body { length, began: None }
        } else if self.delimits(line) {
            // Behind a delimiter that ends a part, and is no head yet, comes the next one's.
            wrong = (read > LONGEST_END).then(|| "a part ends in its head".into());
            StreamPlace::Head { length: None, read: 1 }
        } else if read == 0 && !line.contains(&b':') {
            StreamPlace::Between // this was no delimiter
        } else {
            self.stamp = header(line, "x-timestamp").or(self.stamp);
            self.text |= header::<String>(line, "content-type").is_some_and(|kind| kind.starts_with("text/"));
            StreamPlace::Head { length: header(line, "content-length").or(length), read: read_now }
        };
        if let StreamPlace::Body { length: Some(length), .. } = self.place
            && length > MOST
        {
            self.place = StreamPlace::Between;
            wrong = Some(format!("a part of {length} bytes; pictures have at most {MOST}"));
        }
        Some(wrong)
    }

    fn body(&mut self, length: Option<usize>, began: Option<Instant>) -> Option<Result<JpegPart, String>> {
        let began = began.unwrap_or(self.now);
        let held = self.buffer.len();
        let delimiter = self.delimiter.as_ref()?;
        let needle = delimiter.needle().len();
        let (mut from, mut waits) = (self.searched, false);
        let end = loop {
            let Some(at) = delimiter.find(&self.buffer[from..]).map(|at| from + at) else { break None };
            match jpeg::hides(&self.buffer, at) {
                Some(true) => from = at + 1, // it stands in a comment of the picture
                Some(false) => break Some(at),
                None => {
                    waits = true;
                    break None;
                }
            }
        };
        // A length is believed where it leads to the end of a JPEG, so that the picture need not wait for the delimiter,
        // which may come with the next one. Otherwise the delimiter counts.
        let reached = length.filter(|length| *length <= end.unwrap_or(held));
        if let Some(length) = reached
            && let Ok(jpeg) = whole(&self.buffer[..length], b"\r\n\0")
        {
            let jpeg = Bytes::copy_from_slice(jpeg);
            self.buffer.advance(length);
            self.place = StreamPlace::Between;
            return Some(Ok((jpeg, began, self.stamp)));
        }
        let length = length.filter(|_| reached.is_none()); // one that led elsewhere is not tried again
        if let Some(end) = end {
            let part =
                whole(&self.buffer[..end], b"\r\n\0-").map(|jpeg| (Bytes::copy_from_slice(jpeg), began, self.stamp));
            self.buffer.advance(end + needle);
            self.place = StreamPlace::Head { length: None, read: 0 };
            return Some(part);
        }
        if held > MOST {
            self.buffer.clear();
            self.place = StreamPlace::Between;
            return Some(Err(format!("a part of more than {MOST} bytes without an end")));
        }
        self.searched = if waits { from } else { held.saturating_sub(needle - 1).max(from) };
        self.place = StreamPlace::Body { length, began: (held > 0).then_some(began) };
        None
    }
}

/// The value of a line of a head, if it is that of `name`.
fn header<T: FromStr>(line: &[u8], name: &str) -> Option<T> {
    let (found, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    if found.trim_ascii().eq_ignore_ascii_case(name) { value.trim_ascii().parse().ok() } else { None }
}

/// The JPEG in a part, without what it is padded with; why it is none. Other bytes behind it, which the decoder counts, are
/// left.
fn whole<'a>(part: &'a [u8], padding: &[u8]) -> Result<&'a [u8], String> {
    if !part.starts_with(&[0xff, 0xd8]) {
        return Err(format!("a part of {} bytes does not begin as a JPEG", part.len()));
    }
    let end = part.iter().rposition(|byte| !padding.contains(byte)).map_or(0, |last| last + 1);
    if !part[..end].ends_with(&[0xff, 0xd9]) && jpeg::end(part).is_none() {
        return Err(format!("a picture is cut: {} bytes that do not end as a JPEG", part.len()));
    }
    Ok(&part[..end])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What looks like a JPEG from outside.
    fn jpeg(fill: u8, length: usize) -> Vec<u8> {
        [&[0xff, 0xd8][..], &vec![fill; length], &[0xff, 0xd9]].concat()
    }

    /// Everything that comes out of `stream`, pushed in pieces of `piece` bytes.
    fn parts(boundary: &str, stream: &[u8], piece: usize) -> Vec<Result<Vec<u8>, String>> {
        let mut splitter = JpegSplitter::new(
            &boundary_of(&format!("multipart/x-mixed-replace; boundary={boundary}")).unwrap_or_default(),
        );
        let mut found = Vec::new();
        for bytes in stream.chunks(piece) {
            splitter.push(bytes, Instant::now());
            while let Some(part) = splitter.next() {
                found.push(part.map(|(jpeg, ..)| jpeg.to_vec()));
            }
            assert!(splitter.buffer.len() <= MOST + piece);
        }
        found
    }

    #[test]
    fn the_boundary_is_found_in_every_spelling() {
        for (content_type, boundary) in [
            ("multipart/x-mixed-replace;boundary=frame", Some("frame")),
            ("multipart/x-mixed-replace; boundary=\"frame\"", Some("frame")),
            ("multipart/x-mixed-replace; charset=x; Boundary = --frame ", Some("frame")),
            ("multipart/x-mixed-replace; boundary=\"--a=b\"", Some("a=b")),
            ("multipart/x-mixed-replace; boundary=--", None),
            ("multipart/x-mixed-replace", None),
        ] {
            assert_eq!(boundary_of(content_type).as_deref(), boundary, "{content_type}");
        }
    }

    #[test]
    fn pictures_come_out_of_every_dialect_whatever_the_pieces() {
        let (a, b) = (jpeg(1, 300), jpeg(2, 500));
        type Dialect<'a> = (&'a str, &'a dyn Fn(&[u8]) -> Vec<u8>);
        let dialects: [Dialect<'_>; 12] = [
            ("frame", &|j| [format!("--frame\r\nContent-Length: {}\r\n\r\n", j.len()).as_bytes(), j, b"\r\n"].concat()),
            ("--frame", &|j| [b"--frame\nContent-Type: image/jpeg\n\n", j, b"\n"].concat()),
            ("--frame", &|j| [b"\r\n----frame\r\nContent-Type: image/jpeg\r\n\r\n", j, b"\r\n"].concat()),
            ("\"frame\"", &|j| [b"--frame\r\nContent-Type: image/jpeg\r\n\r\n", j].concat()), // no line end behind it
            // Lengths that lie, either way.
            ("frame", &|j| [b"--frame\r\ncontent-length: 7\r\n\r\n", j, b"\r\n"].concat()),
            ("frame", &|j| [b"--frame\r\nCONTENT-LENGTH: 90000\r\n\r\n", j, b"\r\n"].concat()),
            // Dashes behind the delimiter as well, or none at all.
            ("frame", &|j| [b"--frame--\r\nContent-Type: image/jpeg\r\n\r\n", j, b"\r\n"].concat()),
            ("frame", &|j| [b"\r\nframe\r\nContent-Type: image/jpeg\r\n\r\n", j, b"\r\n"].concat()),
            ("--frame", &|j| [b"frame\nContent-Type : image/jpeg\n: nameless\n\n", j, b"\n"].concat()),
            // No line end behind it, text between the pictures, none announced.
            ("frame", &|j| [b"--frameContent-Type: image/jpeg\r\n\r\n", j, b"\r\n"].concat()),
            ("frame", &|j| {
                let text = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbusy\r\n";
                [text, &b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"[..], j, b"\r\n"].concat()
            }),
            ("", &|j| [b"--own\r\nContent-Type: image/jpeg\r\n\r\n", j, b"\r\n"].concat()),
        ];
        for (n, (boundary, part)) in dialects.iter().enumerate() {
            let last = part(&a);
            let begun = &last[..last.windows(2).position(|at| at == [0xff, 0xd8]).unwrap()];
            let again = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n"; // some send their head twice
            let stream = [again, &part(&a)[..], &part(&b), &part(&a), begun].concat();
            for piece in [1, 2, 7, 100, 5000] {
                let found = parts(boundary, &stream, piece);
                let pictures: Vec<&Vec<u8>> = found.iter().map(|part| part.as_ref().unwrap()).collect();
                assert_eq!(pictures, [&a, &b, &a], "dialect {n} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_picture_with_a_length_does_not_wait_for_the_next_one() {
        let picture = jpeg(1, 300);
        let stream = [format!("--f\r\nContent-Length: {}\r\n\r\n", picture.len()).as_bytes(), &picture].concat();
        assert_eq!(parts("f", &stream, 64), [Ok(picture)]);
    }

    #[test]
    fn the_delimiters_text_in_a_picture_is_its_own() {
        let comment = b"of a part:\r\n--f\r\nContent-Type: image/jpeg\r\n\r\n";
        let length = u16::try_from(comment.len() + 2).unwrap().to_be_bytes();
        let picture = [&[0xff, 0xd8, 0xff, 0xfe][..], &length, comment, &[0xff, 0xda, 0, 2, 7, 7, 0xff, 0xd9]].concat();
        for head in [format!("Content-Length: {}\r\n", picture.len()), String::new()] {
            let part = [b"--f\r\n", head.as_bytes(), b"\r\n", &picture, b"\r\n"].concat();
            for piece in [1, 9, 500] {
                let found = parts("f", &[&part[..], &part, b"--f"].concat(), piece);
                assert_eq!(found, [Ok(picture.clone()), Ok(picture.clone())], "{head:?} by {piece}");
            }
        }
    }

    #[test]
    fn another_boundary_than_announced_is_found_and_a_stream_without_any_says_why() {
        let picture = jpeg(1, 6000);
        let part = [b"--other\r\nContent-Type: image/jpeg\r\n\r\n", &picture[..], b"\r\n"].concat();
        let found = parts("frame", &part.repeat(4), 700);
        assert!(found.len() >= 2 && found.iter().all(|part| part.as_ref() == Ok(&picture)), "{}", found.len());
        let mut splitter = JpegSplitter::new("frame");
        assert_eq!(splitter.why(), ": nothing came");
        splitter.push(b"<html>\n", Instant::now());
        assert!(splitter.next().is_none());
        assert!(
            splitter.why().contains("\"frame\" is not found") && splitter.why().contains(r"<html>\n"),
            "{}",
            splitter.why()
        );
    }

    #[test]
    fn bytes_behind_a_picture_s_end_make_it_no_cut_one() {
        let good = [&[0xff, 0xd8][..], &[0xff, 0xe0, 0, 2, 0xff, 0xda, 0, 2, 7, 7, 0xff, 0xd9]].concat();
        for junk in [&b"\xff"[..], b"text", b"\0\0\xff\xff\0x"] {
            let body = [&good[..], junk].concat();
            for length in [format!("Content-Length: {}\r\n", body.len()), String::new()] {
                let part = [b"--f\r\n", length.as_bytes(), b"\r\n", &body, b"\r\n"].concat();
                let stream = [&part[..], &part, b"--f"].concat();
                for piece in [1, 9, 500] {
                    let found = parts("f", &stream, piece);
                    assert_eq!(found, [Ok(body.clone()), Ok(body.clone())], "{length:?} {junk:?} by {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_picture_is_said_and_the_next_ones_are_seen() {
        let good = jpeg(3, 200);
        let part = |head: &str, body: &[u8]| [b"--f\r\n", head.as_bytes(), b"\r\n", body, b"\r\n"].concat();
        let cut = part("Content-Length: 204\r\n", &good[..100]);
        let garbage = part("", b"not a picture");
        let no_body = b"--f\r\nContent-Type: image/jpeg\r\n".to_vec();
        let long_head = part(&"x".repeat(MOST_HEAD), &good);
        let too_long = part(&format!("Content-Length: {}\r\n", MOST + 1), &good);
        for (bad, word) in [
            (cut, "cut"),
            (garbage, "does not begin"),
            (no_body, "in its head"),
            (long_head, "longer than"),
            (too_long, "at most"),
        ] {
            let whole = part("", &good);
            let found = parts("f", &[whole.clone(), bad, whole.clone(), whole, b"--f".to_vec()].concat(), 50);
            assert_eq!(found.len(), 4, "{word}: {found:?}");
            let why = found[1].as_ref().unwrap_err();
            assert!(why.contains(word), "{why}");
            assert!([0, 2, 3].iter().all(|n| found[*n].as_ref() == Ok(&good)), "{word}");
        }
    }

    #[test]
    fn a_part_without_end_is_given_up_at_the_limit() {
        let mut stream = b"--f\r\n\r\n\xff\xd8".to_vec();
        stream.resize(MOST + (1 << 20), 7);
        let good = jpeg(3, 200);
        stream.extend([b"--f\r\n\r\n", &good[..], b"\r\n--f\r\n"].concat());
        let found = parts("f", &stream, 60_000);
        assert!(found[0].as_ref().unwrap_err().contains("without an end"), "{found:?}");
        assert_eq!(found[1..], [Ok(good)]);
    }

    /// Pieces of which streams are made: whole pictures, and everything that is not.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"--f\r\n".to_vec()),
            Just(b"--f--\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(b"\xff\xd8".to_vec()),
            Just(b"\xff\xd9".to_vec()),
            (0usize..1 << 30).prop_map(|n| format!("Content-Length: {n}\r\n").into_bytes()),
            (0usize..40).prop_map(|n| format!("content-length: {n}\r\n\r\n").into_bytes()),
            prop::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Nothing panics, everything handed on begins as a JPEG and holds its end, pieces change nothing, and a camera that gets
        /// well is heard again.
        #[test]
        fn garbage_is_survived(pieces in prop::collection::vec(piece(), 0..40), size in 1usize..200) {
            let good = jpeg(9, 50);
            let mut stream = pieces.concat();
            // Two delimiters end whatever was begun, a segment or a head of the greatest length at worst.
            stream.extend([vec![b'x'; usize::from(u16::MAX) + MOST_HEAD], b"\n--f\r\n\r\n\r\n--f\r\n\r\n".to_vec(), good.clone(), b"\r\n--f".to_vec()].concat());
            let found = parts("f", &stream, size);
            for part in found.iter().flatten() {
                prop_assert!(part.starts_with(&[0xff, 0xd8]));
                prop_assert!(part.ends_with(&[0xff, 0xd9]) || jpeg::end(part).is_some());
            }
            prop_assert_eq!(found.last(), Some(&Ok(good)));
            prop_assert_eq!(parts("f", &stream, stream.len()), found);
        }
    }
}
