//! JPEGs with bytes that do not belong to them, as webcams and network cameras send them, and pictures that look like them.

use std::path::Path;

use beltsight::picture::pixels::{self, PixelError, PixelLimits};

use crate::common::pictures::{jpeg, picture};

/// A picture of 64 × 48 with a restart marker behind every unit of its scan, made with Pillow
/// (`restart_marker_blocks=1`).
const RESTARTS: &str = concat!(
    "ffd8ffe000104a46494600010100000100010000ffdb00430017101114110e171412141a18171b223925221f1f2246323529",
    "39524857555148504e5b66836f5b617c624e50729b737c878b929492586da0ac9f8eaa838f928dffdb004301181a1a221e22",
    "432525438d5e505e8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d8d",
    "8d8d8d8d8d8d8d8dffc00011080030004003012200021101031101ffc4001f00000105010101010101000000000000000001",
    "02030405060708090a0bffc400b5100002010303020403050504040000017d01020300041105122131410613516107227114",
    "328191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a434445464748494a53545556",
    "5758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5",
    "b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9faffc4001f010003",
    "0101010101010101010000000000000102030405060708090a0bffc400b51100020102040403040705040400010277000102",
    "031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35",
    "363738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495",
    "969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9ea",
    "f2f3f4f5f6f7f8f9faffdd00040001ffda000c03010002110311003f00e6163a9162a9523a9d63c0c9aba71e626350ffd0c1",
    "58aa4108ef528527a7029e2303ad6bee744744267fffd1c811ad3d635f43532a7a2fe74f09eff955371edfd7ccf4e133ffd2",
    "cf117a2d3c463b81f9d4a23ef8fc4d4813fc8149b5dbfafb8f76133fffd3cb8e3a93664e3b0a9234c0cd4889819a232f7123",
    "86333fffd4a6131c0eb4f11e3b64d48a981d324d48a98e9d6a5cff00aedff04884cfffd58427afe5522a7e1522a63dcfad3d",
    "53b8fccd64e7a9bc267fffd6554ef8fc4d3c27f9e952aa7ffacd3c2573731e94267fffd78d13e435288fa0a7ac7f28fad4a1",
    "3afe55cea5eeafebccf1a133ffd090277fca9ea98faf7a9427b74a788fb1fa9ae5726704267fffd1b4138e9c7f3a9047edcf",
    "f2a95539e9cff2a72a7b7d0570b919c267ffd2d154ff003eb4f0952ac7c74ebfad4813a579ae5fd7f5fd7e66f099ffd9",
);

fn restarts() -> Vec<u8> {
    (0..RESTARTS.len()).step_by(2).map(|i| u8::from_str_radix(&RESTARTS[i..i + 2], 16).unwrap()).collect()
}

/// The same picture in many scans.
fn progressive() -> Vec<u8> {
    let picture = picture(64, 1);
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(true).unwrap();
    let format = turbojpeg::PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &picture.rgb[..], width: 64, pitch: 192, height: 64, format };
    compressor.compress_to_vec(image).unwrap()
}

/// The places before the markers of this code.
fn before(jpeg: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<usize> {
    (2..jpeg.len() - 1).filter(|at| jpeg[*at] == 0xff && wanted(jpeg[at + 1])).collect()
}

fn with(jpeg: &[u8], at: usize, strays: &[u8]) -> Vec<u8> {
    [&jpeg[..at], strays, &jpeg[at..]].concat()
}

fn decoded(jpeg: &[u8]) -> Result<Vec<u8>, PixelError> {
    pixels::decode(jpeg, PixelLimits::default()).map(|picture| picture.rgb)
}

#[test]
fn stray_bytes_before_a_marker_or_behind_the_end_change_no_pixel() {
    let mut refused = Vec::new();
    for (name, jpeg) in [("plain", jpeg(64, 1)), ("restarts", restarts()), ("progressive", progressive())] {
        let clean = decoded(&jpeg).unwrap();
        let mut places = before(&jpeg, |code| matches!(code, 0xc0 | 0xc2 | 0xd0..=0xd7 | 0xda));
        places.extend([jpeg.len() - 2, jpeg.len()]);
        for at in places {
            for strays in [&[0; 16][..], &[0; 300], b"\x12", b"junk of a queue"] {
                match decoded(&with(&jpeg, at, strays)) {
                    Ok(rgb) => assert!(rgb == clean, "{name}: {} bytes at {at}", strays.len()),
                    Err(why) => {
                        refused.push(format!("{name}: {} bytes at {at} of {}: {why}", strays.len(), jpeg.len()))
                    }
                }
            }
        }
    }
    assert!(refused.is_empty(), "{} are refused, the first: {}", refused.len(), refused[0]);
}

#[test]
fn the_field_s_pictures_with_strays_have_the_pixels_of_the_plain_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/field/in");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return;
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let plain = decoded(&read("00-plain.jpg")).unwrap();
    for name in ["01-extraneous-before-eoi.jpg", "02-extraneous-between-segments.jpg"] {
        match decoded(&read(name)) {
            Ok(rgb) => assert!(rgb == plain, "{name}"),
            Err(why) => panic!("{name}: {why}"),
        }
    }
}

/// What is damaged beside the strays stays refused.
#[test]
fn strays_do_not_save_a_picture_that_is_cut_or_mixed() {
    for jpeg in [jpeg(64, 1), restarts(), progressive()] {
        let end = [0xff, 0xd9];
        let at = jpeg.len() * 3 / 4;
        for filled in [0, 16, 4000] {
            let cut = [&jpeg[..at], &vec![0; filled], &end].concat();
            assert!(decoded(&cut).is_err(), "cut at {at} of {} and filled with {filled}", jpeg.len());
        }
    }
    let jpeg = restarts();
    let restarts = before(&jpeg, |code| matches!(code, 0xd0..=0xd7));
    let lost = [&jpeg[..restarts[3]], &[0; 4], &jpeg[restarts[4]..]].concat();
    assert!(decoded(&lost).is_err(), "a restart marker is missing");
}
