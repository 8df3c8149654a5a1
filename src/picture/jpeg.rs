//! Where a JPEG file ends, and what stands in it that does not belong to it.
//!
//! Webcams and network cameras send bytes between the segments, before a restart marker or the end of the picture, and
//! behind its end. They carry no pixel, so they are cut out. No marker says where a scan's coded data end: the next one
//! stands behind the strays. So the codes are read here as a decoder reads them (ITU-T T.81, sequential and progressive
//! Huffman), without making pixels of them.
//!
//! A picture that was mixed of two, or cut and filled up, can end with bytes too many as well. So behind coded data strays
//! are at most [`MOST_MIXED`] bytes, or bytes that are all the same and another than the last coded one; and the last
//! coded byte is padded with ones, as the standard asks. Otherwise [`without_strays`] gives nothing, and the decoder's
//! word stands: the picture is refused. So is one that lacks scans.
//!
//! Invariants: nothing panics, whatever the bytes are; the work is bounded by their number and by the pixels that the
//! caller allows; a picture in which nothing is to be cut is not copied.

use std::ops::Range;

/// Behind coded data: so many bytes that are not all the same are strays at most, the widest word of an encoder's queue.
const MOST_MIXED: usize = 16;
/// A picture of more scans is not looked through, for each may cost a walk over all blocks.
const MOST_SCANS: usize = 100;

const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DHT: u8 = 0xc4;
const DRI: u8 = 0xdd;
const APP1: u8 = 0xe1;
const RST0: u8 = 0xd0;
/// Progressive Huffman; 0xc0 and 0xc1 are sequential.
const SOF2: u8 = 0xc2;

/// Where the picture ends that begins with `bytes`: behind its first end marker that no segment's content hides.
pub fn end(bytes: &[u8]) -> Option<usize> {
    let mut at = after_start(bytes)?;
    loop {
        let marker = Marker::next(bytes, at)?;
        at = match marker.code {
            EOI => return Some(marker.end),
            SOI => return None,
            code if stands_alone(code) => marker.end,
            _ => marker.end + segment(bytes, marker.end)?.len() + 2,
        };
    }
}

/// Whether the byte at `at` lies in the content of a segment before the pixels, where anything may stand: one that another
/// marker follows. `None` where more bytes are needed to tell.
pub fn hides(bytes: &[u8], at: usize) -> Option<bool> {
    let Some(mut next) = after_start(bytes) else { return Some(false) };
    while next < at {
        let &[0xff, code, ref rest @ ..] = &bytes[next..] else { return Some(false) };
        next += match (code, rest) {
            (0 | SOI | EOI | SOS, _) => return Some(false),
            (code, _) if code == 0xff || stands_alone(code) => 1 + usize::from(code != 0xff),
            (_, [high, low, ..]) => 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return None,
        };
        if next > at {
            return bytes.get(next).map(|byte| *byte == 0xff);
        }
    }
    Some(false)
}

/// What the camera said of the picture (Exif 2.32, 4.7.2): a TIFF file in the first segment of that name before the pixels.
pub(super) fn exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut at = after_start(bytes)?;
    loop {
        let marker = Marker::next(bytes, at)?;
        if matches!(marker.code, SOI | EOI | SOS) {
            return None;
        }
        if stands_alone(marker.code) {
            at = marker.end;
            continue;
        }
        let content = segment(bytes, marker.end)?;
        match content.strip_prefix(b"Exif\0\0") {
            Some(exif) if marker.code == APP1 => return Some(exif),
            _ => at = marker.end + 2 + content.len(),
        }
    }
}

/// The picture without the bytes that do not belong to it; `None` where there are none, where it is no whole Huffman
/// picture of 8 bits, or has more than `max_pixels`.
pub(super) fn without_strays(bytes: &[u8], max_pixels: u64) -> Option<Vec<u8>> {
    let mut walk = Walk { bytes, at: after_start(bytes)?, max_pixels, ..Walk::default() };
    while walk.step()? {}
    if walk.strays.is_empty() {
        return None;
    }
    let mut clean = Vec::with_capacity(walk.at);
    let mut from = 0;
    for stray in walk.strays {
        clean.extend_from_slice(bytes.get(from..stray.start)?);
        from = stray.end;
    }
    clean.extend_from_slice(bytes.get(from..walk.at)?);
    Some(clean)
}

fn after_start(bytes: &[u8]) -> Option<usize> {
    bytes.starts_with(&[0xff, SOI]).then_some(2)
}

fn stands_alone(code: u8) -> bool {
    code == 0x01 || (RST0..=SOI).contains(&code)
}

/// The content of the segment whose length stands at `at`.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let [high, low, ..] = *bytes.get(at..)? else { return None };
    bytes.get(at + 2..at + usize::from(u16::from_be_bytes([high, low])))
}

/// A marker: its first fill byte, its code, and the byte after it.
struct Marker {
    start: usize,
    code: u8,
    end: usize,
}

impl Marker {
    /// The first one from `at` on, as a decoder looks for it: a stuffed 0xff is none.
    fn next(bytes: &[u8], mut at: usize) -> Option<Self> {
        loop {
            let start = at + memchr::memchr(0xff, bytes.get(at..)?)?;
            at = start + bytes.get(start..)?.iter().position(|byte| *byte != 0xff)?;
            let code = *bytes.get(at)?;
            at += 1;
            if code != 0 {
                return Some(Self { start, code, end: at });
            }
        }
    }
}

/// A Huffman table: per length of code the first code, and how many there are; the symbols in their order.
#[derive(Clone, Default)]
struct Table {
    counts: [u8; 16],
    symbols: Vec<u8>,
}

/// One colour of the picture, in blocks of 8 × 8.
struct Component {
    id: u8,
    /// Blocks of it across and down in a unit of an interleaved scan.
    sampling: [usize; 2],
    /// Blocks that its own pixels fill, across and down.
    own: [usize; 2],
    /// Blocks in a row, those included that only fill up the last unit.
    row: usize,
    /// Which frequencies of each block are not 0, where later scans refine them.
    seen: Vec<u64>,
    /// Which frequencies were sent to their last bit.
    sent: u64,
}

/// What a scan holds of each block.
#[derive(Clone, Copy)]
struct Scan {
    first: usize,
    last: usize,
    refines: bool,
}

/// A walk through a picture from marker to marker.
#[derive(Default)]
struct Walk<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
    max_pixels: u64,
    strays: Vec<Range<usize>>,
    /// For the mean of a block, and for its other frequencies.
    tables: [[Option<Table>; 4]; 2],
    progressive: bool,
    components: Vec<Component>,
    /// Units of an interleaved scan, across and down.
    units: [usize; 2],
    /// Units between two restart markers; 0: there are none.
    restart: usize,
    scans: usize,
}

impl Walk<'_> {
    /// Goes over one segment; false at the picture's end, `None` where it is not as it should be.
    fn step(&mut self) -> Option<bool> {
        let marker = Marker::next(self.bytes, self.at)?;
        if marker.start > self.at {
            self.strays.push(self.at..marker.start);
        }
        self.at = marker.end;
        match marker.code {
            // A picture that was cut behind a scan lacks others.
            EOI => return self.components.iter().all(|component| component.sent == u64::MAX).then_some(false),
            SOI => return None,
            code if stands_alone(code) => return Some(true),
            _ => {}
        }
        let content = segment(self.bytes, self.at)?;
        self.at += 2 + content.len();
        match marker.code {
            DHT => self.define(content)?,
            DRI => self.restart = usize::from(u16::from_be_bytes(content.try_into().ok()?)),
            SOS => self.scan(content)?,
            0xc0..=SOF2 => self.frame(content, marker.code == SOF2)?,
            // Arithmetic or lossless coding, or a picture of pictures.
            0xc3..=0xcf => return None,
            _ => {}
        }
        Some(true)
    }

    fn define(&mut self, mut content: &[u8]) -> Option<()> {
        while let [kind, rest @ ..] = content {
            let counts: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            let many: usize = counts.iter().map(|n| usize::from(*n)).sum();
            let table = Table { counts, symbols: rest.get(16..16 + many)?.to_vec() };
            *self.tables.get_mut(usize::from(kind >> 4))?.get_mut(usize::from(kind & 15))? = Some(table);
            content = rest.get(16 + many..)?;
        }
        Some(())
    }

    fn frame(&mut self, content: &[u8], progressive: bool) -> Option<()> {
        let (&[8, h1, h0, w1, w0, colours], listed) = content.split_first_chunk::<6>()? else { return None };
        let size = [u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0])].map(usize::from);
        let pixels = size[0] * size[1];
        if !self.components.is_empty() {
            return None;
        }
        if pixels == 0 || pixels as u64 > self.max_pixels || listed.len() != 3 * usize::from(colours) || colours > 4 {
            return None;
        }
        let sampling = |listed: &[u8]| [usize::from(listed[1] >> 4), usize::from(listed[1] & 15)];
        let most = [0, 1].map(|side| listed.chunks_exact(3).map(|c| sampling(c)[side]).max().unwrap_or(0));
        if listed.chunks_exact(3).any(|c| sampling(c).iter().any(|s| !(1..=4).contains(s))) {
            return None;
        }
        self.units = [0, 1].map(|side| size[side].div_ceil(8 * most[side]));
        self.progressive = progressive;
        let units = self.units;
        let component = |listed: &[u8]| {
            let sampling = sampling(listed);
            let own = [0, 1].map(|side| (size[side] * sampling[side]).div_ceil(most[side]).div_ceil(8));
            let row = units[0] * sampling[0];
            let seen = if progressive { vec![0; row * units[1] * sampling[1]] } else { vec![] };
            Component { id: listed[0], sampling, own, row, seen, sent: 0 }
        };
        self.components = listed.chunks_exact(3).map(component).collect();
        Some(())
    }

    /// Reads a scan's coded data, up to the marker that follows.
    fn scan(&mut self, content: &[u8]) -> Option<()> {
        self.scans += 1;
        let (colours, rest) = content.split_first()?;
        let listed = rest.get(..2 * usize::from(*colours))?;
        let &[first, last, bits] = rest.get(listed.len()..)? else { return None };
        let scan = Scan { first: first.into(), last: last.into(), refines: self.progressive && bits >> 4 != 0 };
        let scan = if self.progressive { scan } else { Scan { first: 0, last: 63, ..scan } };
        let sound =
            scan.first <= scan.last && scan.last < 64 && (scan.first > 0 || scan.last == 0 || !self.progressive);
        let alone = listed.len() == 2;
        if !sound || listed.is_empty() || (scan.first > 0 && !alone) || self.scans > MOST_SCANS {
            return None;
        }
        let mut colours = Vec::new();
        for listed in listed.chunks_exact(2) {
            let index = self.components.iter().position(|component| component.id == listed[0])?;
            let table = |of: usize, n: u8| self.tables[of].get(usize::from(n)).cloned().flatten();
            colours.push((index, [table(0, listed[1] >> 4), table(1, listed[1] & 15)]));
        }
        let one = &self.components[colours[0].0];
        let units = if alone { one.own } else { self.units };
        let sampling: Vec<[usize; 2]> =
            colours.iter().map(|(index, _)| if alone { [1, 1] } else { self.components[*index].sampling }).collect();
        let mut codes = Codes { bytes: self.bytes, at: self.at, byte: 0, left: 0, run: 0 };
        for unit in 0..units[0] * units[1] {
            if self.restart > 0 && unit > 0 && unit.is_multiple_of(self.restart) {
                self.restart(&mut codes, unit / self.restart - 1)?;
            }
            let [x, y] = [unit % units[0], unit / units[0]];
            for ((index, tables), [across, down]) in colours.iter().zip(&sampling) {
                let component = &mut self.components[*index];
                for block in 0..across * down {
                    if self.progressive {
                        let place = (y * down + block / across) * component.row + x * across + block % across;
                        codes.part(scan, tables, component.seen.get_mut(place)?)?;
                    } else {
                        codes.block(tables)?;
                    }
                }
            }
        }
        codes.behind(Marker::next(self.bytes, codes.at)?.start)?;
        let frequencies = (u64::MAX << scan.first) & (u64::MAX >> (63 - scan.last));
        for (index, _) in &colours {
            let sent = &mut self.components[*index].sent;
            *sent = if self.progressive && bits & 15 != 0 { *sent & !frequencies } else { *sent | frequencies };
        }
        self.at = codes.at;
        Some(())
    }

    /// Goes over the restart marker of this number.
    fn restart(&mut self, codes: &mut Codes<'_>, number: usize) -> Option<()> {
        let marker = Marker::next(self.bytes, codes.at)?;
        if usize::from(marker.code) != usize::from(RST0) + number % 8 {
            return None;
        }
        if marker.start > codes.at {
            codes.behind(marker.start)?;
            self.strays.push(codes.at..marker.start);
        }
        *codes = Codes { at: marker.end, left: 0, run: 0, ..*codes };
        Some(())
    }
}

/// Reads Huffman codes; `None` where a marker or the end comes too early, or no such code is defined.
#[derive(Clone, Copy)]
struct Codes<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
    /// The byte before, of which so many bits are left, its lowest.
    byte: u8,
    left: usize,
    /// Blocks that are still to come without new frequencies.
    run: usize,
}

impl Codes<'_> {
    /// Whether what stands between the coded data and the marker at `end` can be strays; see the module.
    fn behind(&self, end: usize) -> Option<()> {
        let found = self.bytes.get(self.at..end)?;
        let padding = (1u16 << self.left) - 1;
        let padded = u16::from(self.byte) & padding == padding;
        let filled = found.iter().all(|byte| *byte == self.byte);
        let same = found.windows(2).all(|pair| pair[0] == pair[1]);
        (found.is_empty() || (padded && !filled && (same || found.len() <= MOST_MIXED))).then_some(())
    }

    fn fill(&mut self) -> Option<()> {
        self.byte = *self.bytes.get(self.at)?;
        if self.byte == 0xff {
            let fills = self.bytes.get(self.at..)?.iter().take_while(|byte| **byte == 0xff).count();
            self.at += fills;
            if *self.bytes.get(self.at)? != 0 {
                return None;
            }
        }
        self.at += 1;
        self.left = 8;
        Some(())
    }

    fn bit(&mut self) -> Option<usize> {
        if self.left == 0 {
            self.fill()?;
        }
        self.left -= 1;
        Some(usize::from(self.byte >> self.left & 1))
    }

    fn bits(&mut self, count: usize) -> Option<usize> {
        (0..count).try_fold(0, |bits, _| Some(bits << 1 | self.bit()?))
    }

    fn skip(&mut self, mut count: usize) -> Option<()> {
        while count > self.left {
            count -= self.left;
            self.fill()?;
        }
        self.left -= count;
        Some(())
    }

    fn symbol(&mut self, table: Option<&Table>) -> Option<usize> {
        let table = table?;
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in table.counts.map(usize::from) {
            code = code << 1 | self.bit()?;
            if code < first + count {
                return table.symbols.get(index + code.checked_sub(first)?).copied().map(usize::from);
            }
            index += count;
            first = (first + count) << 1;
        }
        None
    }

    /// A block of a sequential scan.
    fn block(&mut self, [mean, others]: &[Option<Table>; 2]) -> Option<()> {
        let size = self.symbol(mean.as_ref())?;
        self.skip(size.min(16))?;
        let mut at = 1;
        while at < 64 {
            let symbol = self.symbol(others.as_ref())?;
            let (zeros, size) = (symbol >> 4, symbol & 15);
            if size == 0 && zeros < 15 {
                return Some(()); // nothing but zeros is left
            }
            at += zeros + 1;
            self.skip(size)?;
        }
        Some(())
    }

    /// What a progressive scan holds of a block, of which `seen` are not 0 so far.
    fn part(&mut self, scan: Scan, [mean, others]: &[Option<Table>; 2], seen: &mut u64) -> Option<()> {
        match scan {
            Scan { first: 0, refines: true, .. } => self.skip(1),
            Scan { first: 0, .. } => {
                let size = self.symbol(mean.as_ref())?;
                self.skip(size.min(16))
            }
            Scan { refines: true, .. } => self.refine(scan, others.as_ref(), seen),
            Scan { .. } => self.frequencies(scan, others.as_ref(), seen),
        }
    }

    /// The first bits of some frequencies.
    fn frequencies(&mut self, scan: Scan, table: Option<&Table>, seen: &mut u64) -> Option<()> {
        if self.run > 0 {
            self.run -= 1;
            return Some(());
        }
        let mut at = scan.first;
        while at <= scan.last {
            let symbol = self.symbol(table)?;
            let (zeros, size) = (symbol >> 4, symbol & 15);
            if size == 0 && zeros < 15 {
                self.run = (1 << zeros) + self.bits(zeros)? - 1;
                return Some(());
            }
            at += zeros;
            if size > 0 {
                *seen |= 1u64.checked_shl(at as u32).unwrap_or(0);
            }
            self.skip(size)?;
            at += 1;
        }
        Some(())
    }

    /// One bit more of some frequencies.
    fn refine(&mut self, scan: Scan, table: Option<&Table>, seen: &mut u64) -> Option<()> {
        let mut at = scan.first;
        if self.run == 0 {
            while at <= scan.last {
                let symbol = self.symbol(table)?;
                let (mut zeros, size) = (symbol >> 4, symbol & 15);
                if size == 0 && zeros < 15 {
                    self.run = (1 << zeros) + self.bits(zeros)?;
                    break;
                }
                self.skip(usize::from(size > 0))?; // its sign
                while at <= scan.last {
                    if *seen >> at & 1 == 1 {
                        self.skip(1)?;
                    } else if zeros == 0 {
                        break;
                    } else {
                        zeros -= 1;
                    }
                    at += 1;
                }
                if size > 0 && at <= scan.last {
                    *seen |= 1 << at;
                }
                at += 1;
            }
        }
        if self.run > 0 {
            let rest = (at..=scan.last).filter(|at| *seen >> at & 1 == 1).count();
            self.skip(rest)?;
            self.run -= 1;
        }
        Some(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::domain::Picture;

    const PIXELS: u64 = 1 << 20;

    /// Something to code in every block, the same for the same seed.
    fn picture(seed: u32) -> Picture {
        let mut picture = Picture::filled(88, 56, [0; 3]);
        for (i, value) in picture.rgb.iter_mut().enumerate() {
            *value = (i as u32 / 3 * (seed + 3) / 5 % 256) as u8 ^ ((i as u32).wrapping_mul(2_654_435_761) >> 27) as u8;
        }
        picture
    }

    /// The same picture, sequential and progressive.
    fn jpegs(seed: u32) -> [Vec<u8>; 2] {
        let picture = picture(seed);
        let coded = [false, true].map(|progressive| {
            let mut compressor = turbojpeg::Compressor::new().unwrap();
            compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2).unwrap();
            compressor.set_progressive(progressive).unwrap();
            let (width, height) = (picture.width as usize, picture.height as usize);
            let format = turbojpeg::PixelFormat::RGB;
            let image = turbojpeg::Image { pixels: &picture.rgb[..], width, pitch: 3 * width, height, format };
            compressor.compress_to_vec(image).unwrap()
        });
        assert!(coded[1].windows(2).filter(|pair| *pair == [0xff, SOS]).count() > 5, "many scans");
        coded
    }

    /// Where markers begin behind the first, and which of them stand behind coded data.
    fn markers(jpeg: &[u8]) -> Vec<(usize, bool)> {
        let (mut at, mut coded, mut found) = (2, false, Vec::new());
        while let Some(marker) = Marker::next(jpeg, at) {
            found.push((marker.start, coded));
            coded = marker.code == SOS || (RST0..=0xd7).contains(&marker.code);
            at = marker.end
                + if stands_alone(marker.code) || marker.code == EOI {
                    0
                } else {
                    segment(jpeg, marker.end).unwrap().len() + 2
                };
        }
        found
    }

    #[test]
    fn strays_before_any_marker_are_cut_out_and_nothing_else() {
        for jpeg in jpegs(1) {
            assert_eq!((end(&jpeg), without_strays(&jpeg, PIXELS)), (Some(jpeg.len()), None));
            for (at, coded) in markers(&jpeg) {
                for strays in [
                    &[0; 70][..],
                    b"0123456789abcdef",
                    &[0xff, 0, 0x12],
                    &[0x80],
                    b"a sentence that no encoder's queue would hold",
                ] {
                    let dirty = [&jpeg[..at], strays, &jpeg[at..]].concat();
                    let clean = without_strays(&dirty, PIXELS);
                    let strayed = !coded || strays.len() <= MOST_MIXED || strays[0] == 0;
                    assert_eq!(clean, strayed.then(|| jpeg.clone()), "{} bytes at {at}", strays.len());
                    assert_eq!(end(&dirty), Some(dirty.len()));
                }
            }
        }
    }

    #[test]
    fn a_cut_picture_that_was_filled_up_is_not_taken_for_one_with_strays() {
        for jpeg in jpegs(5) {
            for at in (jpeg.len() / 2..jpeg.len() - 20).step_by(7) {
                for fill in [0, 0x55, 0x80, 0xfe] {
                    let filled = [&jpeg[..at], &[fill; 4000], &[0xff, EOI]].concat();
                    assert_eq!(
                        without_strays(&filled, PIXELS),
                        None,
                        "cut at {at} of {}, filled with {fill}",
                        jpeg.len()
                    );
                }
            }
        }
    }

    #[test]
    fn a_picture_ends_at_its_own_end_marker() {
        for jpeg in jpegs(2) {
            for behind in [&b"\0\0\0"[..], b"\xff", b"\xff\xd9", b"text", &jpeg] {
                assert_eq!(end(&[&jpeg[..], behind].concat()), Some(jpeg.len()));
            }
            let thumbnail = [&[0xff, SOI, 0xff, 0xe1, 0, 6, 0xff, SOI, 0xff, EOI], &jpeg[2..]].concat();
            assert_eq!(end(&thumbnail), Some(thumbnail.len()));
            assert!((0..jpeg.len()).all(|cut| end(&jpeg[..cut]).is_none()));
        }
        assert_eq!((end(b""), end(b"\xff\xd8\xff"), end(b"GIF89a")), (None, None, None));
    }

    #[test]
    fn more_pixels_than_allowed_are_not_looked_at() {
        let [jpeg, _] = jpegs(3);
        let dirty = [&jpeg[..2], &[0; 3], &jpeg[2..]].concat();
        assert_eq!(without_strays(&dirty, 88 * 56), Some(jpeg));
        assert_eq!(without_strays(&dirty, 88 * 56 - 1), None);
    }

    #[test]
    fn a_picture_of_many_scans_costs_no_time() {
        let [_, jpeg] = jpegs(4);
        let at = jpeg.windows(2).rposition(|pair| pair == [0xff, SOS]).unwrap();
        let mut many = [&jpeg[..2], &[0], &jpeg[2..at]].concat();
        (0..20_000).for_each(|_| many.extend(&jpeg[at..jpeg.len() - 2]));
        many.extend([0xff, EOI]);
        let start = Instant::now();
        assert_eq!(without_strays(&many, PIXELS), None);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Damage of any kind: no panic, bounded time, and what is given is a part of what came.
        #[test]
        fn damage_is_survived(
            seed in 0u32..4,
            progressive in any::<bool>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, prop::collection::vec(any::<u8>(), 0..40)), 1..6),
        ) {
            let mut bytes = jpegs(seed)[usize::from(progressive)].clone();
            for (at, gone, come) in changes {
                let at = at.index(bytes.len());
                let upto = (at + gone).min(bytes.len());
                bytes.splice(at..upto, come);
                if bytes.is_empty() {
                    bytes.push(0xff);
                }
            }
            let start = Instant::now();
            if let Some(clean) = without_strays(&bytes, PIXELS) {
                prop_assert!(clean.len() < bytes.len() && clean.starts_with(&[0xff, SOI]) && clean.ends_with(&[0xff, EOI]));
                let mut rest = bytes.iter();
                prop_assert!(clean.iter().all(|byte| rest.any(|b| b == byte)), "parts of it, in order");
                prop_assert_eq!(without_strays(&clean, PIXELS), None);
            }
            prop_assert!(end(&bytes).is_none_or(|end| end <= bytes.len()));
            prop_assert!(start.elapsed() < Duration::from_secs(1));
        }

        /// Strays before chosen markers: the clean picture comes back, byte for byte.
        #[test]
        fn strays_come_out_wherever_they_stand(
            seed in 0u32..4,
            progressive in any::<bool>(),
            strays in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0u8..=0xfe, 0..=MOST_MIXED - 2)), 1..5),
        ) {
            let jpeg = &jpegs(seed)[usize::from(progressive)];
            let mut places = std::collections::BTreeMap::new();
            let markers = markers(jpeg);
            for (at, mut bytes) in strays {
                bytes.extend([0x12, 0x34]); // so that they are not all the same
                places.insert(markers[at.index(markers.len())].0, bytes);
            }
            let mut dirty = jpeg.clone();
            for (at, bytes) in places.into_iter().rev() {
                dirty.splice(at..at, bytes);
            }
            prop_assert_eq!(without_strays(&dirty, PIXELS), Some(jpeg.clone()));
        }
    }
}
