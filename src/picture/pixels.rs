//! Decode, crop and resize: the one pre-processing that serving AND learning use, so that both see the same bits.
//!
//! Invariant: nothing is allocated for a picture before its header's size was checked against [`PixelLimits`].

use std::{cell::RefCell, io::Cursor};

use fast_image_resize::{
    self as fir,
    images::{TypedImage, TypedImageRef},
    pixels::U8x3,
};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage, metadata::Orientation};

use super::jpeg;
use crate::domain::{Optics, Picture, Region};

/// A JPEG of more scans is refused: each may cost a walk over all pixels. Cameras write one, progressive pictures ten or so.
const MOST_SCANS: u32 = 100;
/// What shows through where a picture is transparent: white, as on a page. Colours hidden under it are nobody's look.
const GROUND: u8 = 255;

/// Largest picture that is decoded.
#[derive(Clone, Copy, Debug)]
pub struct PixelLimits {
    /// Largest side in pixels.
    pub max_side: u32,
    /// Largest number of pixels.
    pub max_pixels: u64,
}

impl Default for PixelLimits {
    fn default() -> Self {
        Self { max_side: 16_384, max_pixels: 40_000_000 }
    }
}

/// Why bytes did not become a picture.
#[derive(Debug, thiserror::Error)]
pub enum PixelError {
    /// No bytes.
    #[error("the picture is empty")]
    Empty,
    /// Not JPEG, PNG or WebP.
    #[error("the bytes are no JPEG, PNG or WebP picture")]
    UnknownFormat,
    /// The header claims more than the limits allow.
    #[error("the picture is {width}x{height} pixels; at most {max_side} a side and {max_pixels} in all are accepted")]
    TooLarge {
        /// Claimed width.
        width: u64,
        /// Claimed height.
        height: u64,
        /// The limit on a side.
        max_side: u32,
        /// The limit on the number of pixels.
        max_pixels: u64,
    },
    /// A kind of picture that is not supported, and why.
    #[error("{0}")]
    Unsupported(String),
    /// Cut short, mixed or otherwise broken.
    #[error("the picture is damaged: {0}")]
    Damaged(String),
}

impl PixelError {
    /// Closed set of names for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            PixelError::Empty => "empty",
            PixelError::UnknownFormat => "unknown_format",
            PixelError::TooLarge { .. } => "too_large",
            PixelError::Unsupported(_) => "unsupported",
            PixelError::Damaged(_) => "damaged",
        }
    }
}

/// Decodes JPEG (turbojpeg, which refuses cut and mixed files), PNG or WebP (`image`) into 8-bit RGB.
///
/// The picture stands as its Exif orientation says, so that it is seen as people see it. 16-bit PNGs are scaled to 8 bits,
/// transparent pixels lie on white, gray becomes RGB; CMYK JPEGs are refused with the reason, because without their colour
/// profile the colours would be guesses. Bytes in a JPEG that do not belong to it are passed over, see [`jpeg`].
///
/// # Errors
/// See [`PixelError`].
pub fn decode(bytes: &[u8], limits: PixelLimits) -> Result<Picture, PixelError> {
    decode_counted(bytes, limits).map(|(picture, _)| picture)
}

/// Whether bytes begin as those of a picture that [`decode`] reads.
pub fn is_picture(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8]) || matches!(image::guess_format(bytes), Ok(ImageFormat::Png | ImageFormat::WebP))
}

/// As [`decode`], and how many stray bytes were passed over.
///
/// # Errors
/// See [`PixelError`].
pub fn decode_counted(bytes: &[u8], limits: PixelLimits) -> Result<(Picture, usize), PixelError> {
    match bytes {
        [] => Err(PixelError::Empty),
        [0xff, 0xd8, ..] => decode_jpeg(bytes, limits),
        _ => decode_other(bytes, limits).map(|picture| (picture, 0)),
    }
}

/// A JPEG is used where the decoder has nothing to complain of, at once or when the strays are cut out: any other complaint
/// means that the picture was cut or mixed.
fn decode_jpeg(bytes: &[u8], limits: PixelLimits) -> Result<(Picture, usize), PixelError> {
    let own = jpeg::end(bytes).map_or(bytes, |end| &bytes[..end]);
    match decode_clean(own, limits) {
        Err(PixelError::Damaged(why)) => match jpeg::without_strays(own, limits.max_pixels) {
            Some(clean) => Ok((decode_clean(&clean, limits)?, bytes.len() - clean.len())),
            None => Err(PixelError::Damaged(why)),
        },
        decoded => Ok((decoded?, bytes.len() - own.len())),
    }
}

fn decode_clean(bytes: &[u8], limits: PixelLimits) -> Result<Picture, PixelError> {
    let damaged = |e: turbojpeg::Error| PixelError::Damaged(e.to_string());
    // A new decoder for each picture: one that is used again answers a JPEG without a frame header with the size and
    // colour space of the picture before.
    let mut decoder = turbojpeg::Decompressor::new().map_err(damaged)?;
    decoder.set_scan_limit(MOST_SCANS).map_err(damaged)?;
    let header = decoder.read_header(bytes).map_err(|e| match e {
        // The decoder's word for a header that it did not find.
        turbojpeg::Error::IntegerOverflow(_) => PixelError::Damaged("it has no header that tells its size".into()),
        e => damaged(e),
    })?;
    check(header.width as u64, header.height as u64, limits)?;
    if matches!(header.colorspace, turbojpeg::Colorspace::CMYK | turbojpeg::Colorspace::YCCK) {
        return Err(PixelError::Unsupported("CMYK JPEGs are not accepted: convert the picture to RGB first".into()));
    }
    let mut rgb = vec![0; header.width * header.height * 3];
    let image = turbojpeg::Image {
        pixels: rgb.as_mut_slice(),
        width: header.width,
        pitch: header.width * 3,
        height: header.height,
        format: turbojpeg::PixelFormat::RGB,
    };
    decoder.decompress(bytes, image).map_err(damaged)?;
    let picture = Picture { width: header.width as u32, height: header.height as u32, rgb };
    let orientation = jpeg::exif(bytes).and_then(Orientation::from_exif_chunk);
    Ok(upright(picture, orientation.unwrap_or(Orientation::NoTransforms)))
}

/// The picture as it is to be looked at.
fn upright(picture: Picture, orientation: Orientation) -> Picture {
    if orientation == Orientation::NoTransforms {
        return picture;
    }
    let Picture { width, height, rgb } = picture;
    let mut turned = DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, rgb).unwrap_or_default());
    turned.apply_orientation(orientation);
    let turned = turned.into_rgb8();
    Picture { width: turned.width(), height: turned.height(), rgb: turned.into_raw() }
}

/// The colours of a picture that may be transparent, on [`GROUND`].
fn opaque(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0.map(u32::from);
        let over = |colour| ((colour * alpha + u32::from(GROUND) * (255 - alpha) + 127) / 255) as u8;
        image::Rgb([red, green, blue].map(over))
    })
}

fn decode_other(bytes: &[u8], limits: PixelLimits) -> Result<Picture, PixelError> {
    let damaged = |e: image::ImageError| PixelError::Damaged(e.to_string());
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|_| PixelError::UnknownFormat)?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::WebP)) {
        return Err(PixelError::UnknownFormat);
    }
    let mut allowed = image::Limits::default();
    allowed.max_image_width = None; // checked below, with a reason, before anything is allocated
    allowed.max_image_height = None;
    allowed.max_alloc = Some(limits.max_pixels * 8); // 16-bit RGBA
    reader.limits(allowed);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    check(width.into(), height.into(), limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms); // what can't be read turns nothing
    let picture = opaque(DynamicImage::from_decoder(decoder).map_err(damaged)?);
    Ok(upright(Picture { width, height, rgb: picture.into_raw() }, orientation))
}

fn check(width: u64, height: u64, limits: PixelLimits) -> Result<(), PixelError> {
    let PixelLimits { max_side, max_pixels } = limits;
    if width == 0 || height == 0 {
        return Err(PixelError::Damaged("it has no pixels".into()));
    }
    if width > u64::from(max_side) || height > u64::from(max_side) || width * height > max_pixels {
        return Err(PixelError::TooLarge { width, height, max_side, max_pixels });
    }
    Ok(())
}

/// Crops `region` (the whole picture when `None`) and resizes it to `side × side`, bilinear with an antialiasing
/// support; returns `side * side * 3` bytes, HWC. The aspect ratio is not kept: callers that want it pass a square.
///
/// # Errors
/// [`PixelError::Damaged`] when the region lies outside the picture or is empty.
pub fn fit(picture: &Picture, region: Option<Region>, side: u32) -> Result<Vec<u8>, PixelError> {
    let damaged = |e: &dyn std::fmt::Display| PixelError::Damaged(e.to_string());
    let mut fitted = vec![0; side as usize * side as usize * 3];
    // Typed, for the other call would build the resizer for every kind of pixel: a third of this crate's code.
    let source = TypedImageRef::<U8x3>::from_buffer(picture.width, picture.height, &picture.rgb);
    let source = source.map_err(|e| damaged(&e))?;
    let mut target = TypedImage::<U8x3>::from_buffer(side, side, &mut fitted).map_err(|e| damaged(&e))?;
    let mut options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    if let Some(r) = region {
        options = options.crop(r.x.into(), r.y.into(), r.width.into(), r.height.into());
    }
    thread_local! { static RESIZER: RefCell<fir::Resizer> = RefCell::new(fir::Resizer::new()); }
    RESIZER.with_borrow_mut(|resizer| resizer.resize_typed(&source, &mut target, &options)).map_err(|e| damaged(&e))?;
    Ok(fitted)
}

/// The margin that serving and learning leave around an item, as a share of its longer side.
pub const CROP_MARGIN: f32 = 0.15;

/// The smallest square around `region`, grown by `margin` (a share of its side), moved inside the picture and clipped
/// to it. Keeps a fish's proportions when [`fit`] makes it square.
pub fn square_around(region: Region, margin: f32, width: u32, height: u32) -> Region {
    let side = (region.width.max(region.height) as f32 * (1.0 + margin)).round() as u32;
    let side = side.clamp(1, width.min(height).max(1));
    let (cx, cy) = region.centre();
    let start = |centre: f32, size: u32| ((centre - side as f32 / 2.0).max(0.0) as u32).min(size - side);
    Region { x: start(cx, width), y: start(cy, height), width: side, height: side }
}

/// The item's own picture: the square that serving judges, or the whole picture where that was judged (`None`).
/// `fit(&cut_item(p, r), None, side)` gives what serving gives the network for that item, but for the outermost pixels:
/// there serving's interpolation still sees half a pixel past the square.
pub fn cut_item(picture: &Picture, region: Option<Region>) -> Picture {
    let Some(region) = region else { return picture.clone() };
    let square = square_around(region, CROP_MARGIN, picture.width, picture.height);
    let (row, width) = (picture.width as usize * 3, square.width as usize * 3);
    let rows = (square.y..square.y + square.height).map(|y| y as usize * row + square.x as usize * 3);
    let rgb = rows.flat_map(|start| picture.rgb.iter().skip(start).take(width).copied()).collect();
    Picture { width: square.width, height: square.height, rgb }
}

/// Luma of about so many pixels a side is looked at.
const OPTICS_SAMPLES: u32 = 64;

/// Brightness and sharpness of `side * side * 3` RGB bytes, `side` at least 2.
///
/// With the luma `Y = (77 R + 150 G + 29 B) / 65280` (0 to 1) of a grid of at most 64 × 64 pixels,
/// brightness = mean `Y(x, y)`, and sharpness = mean of `(|Y(x+1, y) − Y(x, y)| + |Y(x, y+1) − Y(x, y)|) / 2` over the
/// brightness (the sum-modulus-difference of Jarvis 1976, made independent of the light). It is taken from the network's
/// input, so that training pictures of any size and a camera's are measured alike; some ten microseconds.
pub fn optics(pixels: &[u8], side: u32) -> Optics {
    let at = |x: u32, y: u32| {
        let at = (y * side + x) as usize * 3;
        let [r, g, b] = [0, 1, 2].map(|c| i32::from(pixels.get(at + c).copied().unwrap_or_default()));
        77 * r + 150 * g + 29 * b
    };
    let step = (side / OPTICS_SAMPLES).max(1) as usize;
    let (mut sum, mut change, mut samples) = (0i64, 0i64, 0i64);
    for y in (0..side.saturating_sub(1)).step_by(step) {
        for x in (0..side.saturating_sub(1)).step_by(step) {
            let here = at(x, y);
            sum += i64::from(here);
            change += i64::from((at(x + 1, y) - here).abs() + (at(x, y + 1) - here).abs());
            samples += 1;
        }
    }
    let mean = sum as f32 / samples.max(1) as f32;
    // In the dark there is nothing to be sharp: one grey level at least, so that noise does not divide by nothing.
    Optics { brightness: mean / 65280.0, sharpness: change as f32 / samples.max(1) as f32 / 2.0 / mean.max(256.0) }
}

/// Encodes as PNG, without loss.
///
/// # Errors
/// [`PixelError::Damaged`] when the encoder refuses.
pub fn encode_png(picture: &Picture) -> Result<Vec<u8>, PixelError> {
    use image::{ExtendedColorType::Rgb8, ImageEncoder, codecs::png};
    let mut bytes = Vec::new();
    png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Fast, png::FilterType::Adaptive)
        .write_image(&picture.rgb, picture.width, picture.height, Rgb8)
        .map_err(|e| PixelError::Damaged(e.to_string()))?;
    Ok(bytes)
}

/// Encodes as JPEG with 4:2:0 chroma; `quality` 1 to 100.
///
/// # Errors
/// [`PixelError::Damaged`] when the encoder refuses.
pub fn encode_jpeg(picture: &Picture, quality: i32) -> Result<Vec<u8>, PixelError> {
    let image = turbojpeg::Image {
        pixels: picture.rgb.as_slice(),
        width: picture.width as usize,
        pitch: picture.width as usize * 3,
        height: picture.height as usize,
        format: turbojpeg::PixelFormat::RGB,
    };
    turbojpeg::compress(image, quality, turbojpeg::Subsamp::Sub2x2)
        .map(|bytes| bytes.to_vec())
        .map_err(|e| PixelError::Damaged(e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Picture {
        let rgb = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [(x * 255 / width) as u8, (y * 255 / height) as u8, 90]))
            .collect();
        Picture { width, height, rgb }
    }

    #[test]
    fn a_cut_or_mixed_jpeg_is_refused() {
        let a = encode_jpeg(&gradient(320, 240), 90).unwrap();
        let mut noise = gradient(320, 240);
        noise.rgb.iter_mut().enumerate().for_each(|(i, v)| *v = v.wrapping_add(((i * 2_654_435_761) >> 7) as u8));
        let b = encode_jpeg(&noise, 90).unwrap();
        assert!(decode(&a, PixelLimits::default()).is_ok());
        for cut in [a.len() / 10, a.len() / 2, a.len() - 3] {
            assert!(matches!(decode(&a[..cut], PixelLimits::default()), Err(PixelError::Damaged(_))), "cut at {cut}");
        }
        let mixed = [&a[..a.len() / 2], &b[b.len() / 2..]].concat();
        assert!(matches!(decode(&mixed, PixelLimits::default()), Err(PixelError::Damaged(_))));
    }

    #[test]
    fn a_jpeg_without_a_frame_header_says_nothing_of_the_one_before() {
        assert!(decode(&encode_jpeg(&gradient(64, 48), 90).unwrap(), PixelLimits::default()).is_ok());
        for bytes in [&[0xff, 0xd8][..], &[0xff, 0xd8, 0xff, 0xd9]] {
            let refused = decode(bytes, PixelLimits::default());
            assert!(matches!(refused, Err(PixelError::Damaged(_))), "{refused:?}");
        }
    }

    /// A JPEG with an Exif segment of this orientation, in this order of bytes.
    fn with_orientation(jpeg: &[u8], orientation: u8, big: bool) -> Vec<u8> {
        let exif: &[u8] = if big {
            &[b'M', b'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0]
        } else {
            &[b'I', b'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, orientation, 0, 0, 0, 0, 0, 0, 0]
        };
        let other = [0xff, 0xe1, 0, 8, b'h', b't', b't', b'p', b':', 0]; // another segment of the same marker
        let head = [&[0xff, 0xe1, 0, 34][..], b"Exif\0\0", exif].concat();
        [&jpeg[..2], &other, &head, &jpeg[2..]].concat()
    }

    #[test]
    fn a_picture_stands_as_its_orientation_says() {
        let (width, height) = (48, 32);
        let jpeg = encode_jpeg(&gradient(width, height), 95).unwrap();
        let plain = decode(&jpeg, PixelLimits::default()).unwrap();
        let pixel =
            |picture: &Picture, x: u32, y: u32| picture.rgb[((y * picture.width + x) * 3) as usize..][..3].to_vec();
        for orientation in 1..=8 {
            let turned =
                decode(&with_orientation(&jpeg, orientation, orientation % 2 == 0), PixelLimits::default()).unwrap();
            let swapped = orientation > 4;
            assert_eq!((turned.width, turned.height), if swapped { (height, width) } else { (width, height) });
            for (x, y) in [(0, 0), (5, 9), (turned.width - 1, 0), (0, turned.height - 1), (20, 30)] {
                let (right, down) = (width - 1, height - 1);
                // Where the standard says that the pixel was stored (Exif 2.32, table 6).
                let (from_x, from_y) = match orientation {
                    1 => (x, y),
                    2 => (right - x, y),
                    3 => (right - x, down - y),
                    4 => (x, down - y),
                    5 => (y, x),
                    6 => (y, down - x),
                    7 => (right - y, down - x),
                    _ => (right - y, x),
                };
                assert_eq!(pixel(&turned, x, y), pixel(&plain, from_x, from_y), "{orientation} at {x}, {y}");
            }
        }
        for nonsense in [0, 9, 255] {
            assert_eq!(decode(&with_orientation(&jpeg, nonsense, true), PixelLimits::default()).unwrap(), plain);
        }
    }

    #[test]
    fn what_is_transparent_lies_on_white() {
        let rgba = [10, 20, 30, 0, 10, 20, 30, 255, 10, 20, 30, 51, 255, 255, 255, 128];
        let mut png = Vec::new();
        let encoder = image::codecs::png::PngEncoder::new(&mut png);
        image::ImageEncoder::write_image(encoder, &rgba, 2, 2, image::ExtendedColorType::Rgba8).unwrap();
        let picture = decode(&png, PixelLimits::default()).unwrap();
        assert_eq!(picture.rgb, [255, 255, 255, 10, 20, 30, 206, 208, 210, 255, 255, 255]);
    }

    #[test]
    fn a_jpeg_of_more_scans_than_anybody_writes_is_refused_at_once() {
        let picture = gradient(512, 512);
        let mut compressor = turbojpeg::Compressor::new().unwrap();
        let image = turbojpeg::Image {
            pixels: picture.rgb.as_slice(),
            width: 512,
            pitch: 512 * 3,
            height: 512,
            format: turbojpeg::PixelFormat::RGB,
        };
        compressor.set_progressive(true).unwrap();
        let jpeg = compressor.compress_to_vec(image).unwrap();
        decode(&jpeg, PixelLimits::default()).unwrap();
        // A scan that refines nothing, again and again, before the end: every block is gone over each time.
        let [ff, d9] = jpeg[jpeg.len() - 2..] else { panic!() };
        assert_eq!((ff, d9), (0xff, 0xd9));
        let last = jpeg.windows(2).rposition(|at| at == [0xff, 0xda]).unwrap();
        let scan = &jpeg[last..jpeg.len() - 2];
        let many = [&jpeg[..jpeg.len() - 2], &scan.repeat(900), &jpeg[jpeg.len() - 2..]].concat();
        let refused = decode(&many, PixelLimits::default());
        assert!(matches!(&refused, Err(PixelError::Damaged(why)) if why.contains("scans")), "{refused:?}");
    }

    #[test]
    fn fit_of_the_whole_at_its_own_size_changes_nothing() {
        let picture = gradient(64, 64);
        assert_eq!(fit(&picture, None, 64).unwrap(), picture.rgb);
    }

    #[test]
    fn an_item_cut_out_and_kept_is_what_serving_saw() {
        let picture = gradient(160, 120);
        let mut picture = picture;
        picture.rgb.iter_mut().enumerate().for_each(|(i, v)| *v ^= ((i * 2_654_435_761) >> 9) as u8 & 63);
        for (x, y, width, height) in [(10, 20, 50, 30), (100, 60, 60, 60), (0, 0, 160, 120), (40, 40, 8, 9)] {
            let region = Region { x, y, width, height };
            let square = square_around(region, CROP_MARGIN, 160, 120);
            let served = fit(&picture, Some(square), 32).unwrap();
            let kept = decode(&encode_png(&cut_item(&picture, Some(region))).unwrap(), PixelLimits::default()).unwrap();
            let again = fit(&kept, None, 32).unwrap();
            // How many pixels of the network's input, counted from the edge, can see past the square's edge.
            let ring = 1.max(32 / square.width as usize);
            let inside = |at: usize| [at / 96, at / 3 % 32].iter().all(|v| (ring..32 - ring).contains(v));
            assert!((0..served.len()).filter(|at| inside(*at)).all(|at| again[at] == served[at]), "{square:?}");
            let most = again.iter().zip(&served).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(most <= 24, "{most} at the edge of {square:?}, where neighbours differ by up to 63");
        }
        assert_eq!(cut_item(&picture, None), picture);
    }

    #[test]
    fn brightness_follows_the_light_and_sharpness_the_focus_alone() {
        let texture = |x: u32, y: u32| 60 + ((x * 7 + y * 13) % 5 * 20) as u8; // 60 to 140
        let mut sharp = Picture::filled(96, 96, [0; 3]);
        for (i, pixel) in sharp.rgb.chunks_exact_mut(3).enumerate() {
            pixel.fill(texture(i as u32 % 96, i as u32 / 96));
        }
        let dim = Picture { rgb: sharp.rgb.iter().map(|v| v / 2).collect(), ..sharp.clone() };
        let small = Picture { width: 24, height: 24, rgb: fit(&sharp, None, 24).unwrap() };
        let blurred = fit(&small, None, 96).unwrap();
        let [plain, dim, blurred] = [&sharp.rgb, &dim.rgb, &blurred].map(|pixels| optics(pixels, 96));
        assert!((plain.brightness - 100.0 / 255.0).abs() < 0.005, "{plain:?}");
        assert!((dim.brightness / plain.brightness - 0.5).abs() < 0.01, "{dim:?}");
        assert!((dim.sharpness / plain.sharpness - 1.0).abs() < 0.05, "{dim:?} {plain:?}");
        assert!((blurred.brightness / plain.brightness - 1.0).abs() < 0.02, "{blurred:?}");
        assert!(blurred.sharpness < 0.3 * plain.sharpness, "{blurred:?} {plain:?}");
        let black = optics(&[0; 12], 2);
        assert_eq!((black.brightness, black.sharpness), (0.0, 0.0));
    }

    #[test]
    fn a_region_outside_is_an_error_not_a_panic() {
        let outside = Region { x: 60, y: 0, width: 10, height: 10 };
        assert!(fit(&gradient(64, 64), Some(outside), 8).is_err());
    }

    #[test]
    fn the_square_stays_inside_the_picture() {
        let square = square_around(Region { x: 90, y: 2, width: 10, height: 30 }, 0.2, 100, 50);
        assert_eq!(square, Region { x: 64, y: 0, width: 36, height: 36 });
    }
}
