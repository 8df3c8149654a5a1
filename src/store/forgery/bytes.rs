//! Forgeries by bytes: pages of the database by their kind, its header, its write-ahead log.
//!
//! Formats: <https://www.sqlite.org/fileformat2.html>.

use std::{fs, io, path::Path};

use rand::{Rng, RngExt};

use super::one;
use crate::store::DATABASE;

/// Bytes of the file's header.
const HEADER: usize = 100;
/// Bytes of the log's header and of a frame's.
const LOG: (usize, usize) = (32, 24);

fn page_size(file: &[u8]) -> usize {
    match file.get(16..18).map(|two| u16::from_be_bytes([two[0], two[1]])) {
        Some(1) => 65_536,
        Some(size) if size >= 512 => usize::from(size),
        _ => 4096,
    }
}

/// What a page is, by its first byte.
fn kind(file: &[u8], number: usize, size: usize) -> &'static str {
    match file[number * size + if number == 0 { HEADER } else { 0 }] {
        13 => "table page",
        10 => "index page",
        2 | 5 => "inner page",
        _ => "overflow or free page",
    }
}

/// Changes one to four bytes of a page of this kind.
pub(super) fn page(folder: &Path, random: &mut impl Rng, way: &str) -> io::Result<Option<String>> {
    let path = folder.join(DATABASE);
    let mut file = fs::read(&path)?;
    let size = page_size(&file);
    let pages: Vec<usize> = (0..file.len() / size).filter(|number| kind(&file, *number, size) == way).collect();
    let Some(&number) = one(random, &pages) else { return Ok(None) };
    let from = number * size + if number == 0 { HEADER } else { 0 };
    let what = change(&mut file[from..(number + 1) * size], random);
    fs::write(&path, file)?;
    Ok(Some(format!("{way} {}: {what}", number + 1)))
}

/// Changes a byte of the database's header.
pub(super) fn header(folder: &Path, random: &mut impl Rng) -> io::Result<Option<String>> {
    let path = folder.join(DATABASE);
    let mut file = fs::read(&path)?;
    let at = random.random_range(0..HEADER.min(file.len()));
    file[at] ^= 1 << random.random_range(0..8);
    fs::write(&path, file)?;
    Ok(Some(format!("byte {at} of the header")))
}

/// Changes something of the write-ahead log; `summed`: with the sums of all frames made anew. Now and then it cuts it.
pub(super) fn log(folder: &Path, random: &mut impl Rng, summed: bool) -> io::Result<Option<String>> {
    let path = folder.join(format!("{DATABASE}-wal"));
    let Ok(mut log) = fs::read(&path) else { return Ok(None) };
    let size = log.get(8..12).map_or(4096, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]) as usize);
    let frames = log.len().saturating_sub(LOG.0) / (size + LOG.1);
    if frames == 0 {
        return Ok(None);
    }
    let frame = random.random_range(0..frames);
    let start = LOG.0 + frame * (size + LOG.1);
    if !summed && random.random_range(0..4) == 0 {
        log.truncate(start);
        fs::write(&path, log)?;
        return Ok(Some(format!("the log cut after {frame} of {frames} frames")));
    }
    let what = if summed {
        let what = change(&mut log[start + LOG.1..start + LOG.1 + size], random);
        sum(&mut log, size, frames);
        what
    } else {
        change(&mut log[start..start + LOG.1 + size], random)
    };
    fs::write(&path, log)?;
    Ok(Some(format!("frame {frame} of {frames} of the log: {what}")))
}

/// Changes one to four bytes, most of them where something stands.
fn change(bytes: &mut [u8], random: &mut impl Rng) -> String {
    let full: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut what = Vec::new();
    for _ in 0..random.random_range(1..=4) {
        let anywhere = full.is_empty() || random.random_range(0..8) == 0;
        let at = if anywhere { random.random_range(0..bytes.len()) } else { full[random.random_range(0..full.len())] };
        let before = bytes[at];
        while bytes[at] == before {
            bytes[at] =
                if random.random_bool(0.5) { before ^ (1 << random.random_range(0..8)) } else { random.random() };
        }
        what.push(format!("byte {at} {before} to {}", bytes[at]));
    }
    what.join(", ")
}

/// Makes the sums of all frames anew.
fn sum(log: &mut [u8], size: usize, frames: usize) {
    let big = log[3] & 1 == 1;
    let number = |four: &[u8]| {
        let four = [four[0], four[1], four[2], four[3]];
        if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
    };
    let add = |sums: &mut [u32; 2], bytes: &[u8]| {
        for two in bytes.chunks_exact(8) {
            sums[0] = sums[0].wrapping_add(number(&two[..4])).wrapping_add(sums[1]);
            sums[1] = sums[1].wrapping_add(number(&two[4..])).wrapping_add(sums[0]);
        }
    };
    let mut sums = [0; 2];
    add(&mut sums, &log[..24]);
    for frame in 0..frames {
        let start = LOG.0 + frame * (size + LOG.1);
        add(&mut sums, &log[start..start + 8]);
        add(&mut sums, &log[start + LOG.1..start + LOG.1 + size]);
        log[start + 16..start + 20].copy_from_slice(&sums[0].to_be_bytes());
        log[start + 20..start + 24].copy_from_slice(&sums[1].to_be_bytes());
    }
}
