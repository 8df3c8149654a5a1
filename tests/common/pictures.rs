//! Pictures to send, whole and odd.

use std::io::Cursor;

use beltsight::{domain::Picture, picture::pixels::encode_jpeg};
use image::{DynamicImage, ImageFormat};

/// A striped picture; `seed` changes it.
pub fn picture(side: u32, seed: u32) -> Picture {
    let mut picture = Picture::filled(side, side, [0; 3]);
    for (i, value) in picture.rgb.iter_mut().enumerate() {
        *value = ((i as u32 / 7 + seed * 37) * (seed + 3) % 256) as u8;
    }
    picture
}

/// A JPEG of [`picture`].
pub fn jpeg(side: u32, seed: u32) -> Vec<u8> {
    encode_jpeg(&picture(side, seed), 90).unwrap()
}

/// The bytes of a file in this format.
pub fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG file of these chunks, with its end.
pub fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunks.concat(), png_chunk(b"IEND", &[])].concat()
}

/// One chunk, with its checksum.
pub fn png_chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
    let mut checked = flate2::Crc::new();
    checked.update(&[kind, data].concat());
    [&(data.len() as u32).to_be_bytes()[..], kind, data, &checked.sum().to_be_bytes()].concat()
}

/// The chunk that says how large a picture of 8-bit RGB is.
pub fn png_header(width: u32, height: u32) -> Vec<u8> {
    png_chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat())
}
