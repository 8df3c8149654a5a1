//! A contact sheet for people: what training shows of one picture and what an examination does to it.
//!
//! Invariant: the pictures come from the functions that training and examination call, so a wrong view is seen here.

use anyhow::Context;
use base64::Engine as _;
use beltsight::{
    domain::Picture,
    picture::{
        corrupt::{CORRUPTIONS, corrupt},
        pixels,
    },
};

use crate::{
    pictures::augment::{OPERATIONS, StrongAugmentation, WeakAugmentation, strong_view, weak_view},
    random::generator,
};

/// A `<section>` that needs nothing from outside: `picture` (`side * side * 3` bytes, HWC), weak and strong views, every
/// operation at magnitudes 0, ½ and 1, every corruption at strengths 1 to 5.
///
/// # Errors
/// When a picture can't be encoded.
pub fn section(picture: &[u8], side: usize, seed: u64) -> anyhow::Result<String> {
    let weak = WeakAugmentation::for_side(side);
    let show = |name: &str, pictures: Vec<Vec<u8>>| -> anyhow::Result<String> {
        let cells = pictures.iter().map(|p| cell(p, side)).collect::<anyhow::Result<String>>()?;
        Ok(format!("<tr><th>{name}</th>{cells}</tr>"))
    };
    let stronger = |options, row| -> Vec<Vec<u8>> {
        (0..4).map(|i| strong_view(picture, side, weak, &options, &mut generator(seed, row, i))).collect()
    };
    let mut views = show("picture", vec![picture.to_vec()])?;
    views += &show("weak", (0..4).map(|i| weak_view(picture, side, weak, &mut generator(seed, 0, i))).collect())?;
    views += &show("FixMatch", stronger(StrongAugmentation::FIXMATCH, 1))?;
    views += &show("Noisy Student", stronger(StrongAugmentation::NOISY_STUDENT, 2))?;

    let mut operations = [String::new(), String::new()];
    for (i, operation) in OPERATIONS.into_iter().enumerate() {
        let changed = [0.0, 0.5, 1.0].map(|magnitude| operation.apply(picture, side, magnitude, false));
        operations[i * 2 / OPERATIONS.len()] += &show(operation.name(), changed.into())?;
    }
    let mut corruptions = String::new();
    for corruption in CORRUPTIONS {
        // One generator for the five: the same spot, specks or direction grows stronger.
        let corrupted =
            (1..=5).map(|n| corrupt(picture, side, corruption, n, &mut generator(seed, 3, corruption as u64)));
        corruptions += &show(corruption.name(), corrupted.collect::<Result<_, _>>()?)?;
    }
    let table = |rows: &str| format!("<div class=\"scroll\"><table class=\"sheet\">{rows}</table></div>");
    Ok(format!(
        "<section><style>.sheet td {{ padding: 2px; }} .sheet img {{ display: block; width: 96px; border-radius: 4px; }} \
         .sheet th {{ text-align: left; min-width: 7rem; }} h3 {{ font-size: .95rem; margin: 1rem 0 .3rem; }}</style>\
         <h2>Views of one picture</h2><h3>In training</h3>{}<h3>Operations of strong views: magnitude 0, ½, 1</h3>\
         <div class=\"pair\">{}{}</div><h3>Corruptions, for examination only: strength 1 to 5</h3>{}</section>",
        table(&views),
        table(&operations[0]),
        table(&operations[1]),
        table(&corruptions),
    ))
}

fn cell(rgb: &[u8], side: usize) -> anyhow::Result<String> {
    let picture = Picture { width: side as u32, height: side as u32, rgb: rgb.to_vec() };
    let jpeg = pixels::encode_jpeg(&picture, 90).context("a view can't be encoded")?;
    let data = base64::engine::general_purpose::STANDARD.encode(jpeg);
    Ok(format!("<td><img alt=\"\" src=\"data:image/jpeg;base64,{data}\"></td>"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_sheet_shows_every_view_and_loads_nothing() {
        let picture: Vec<u8> = (0..32 * 32 * 3).map(|i| (i / 13) as u8).collect();
        let section = section(&picture, 32, 1).unwrap();
        let sources = section.matches("src=").count();
        assert_eq!(sources, 1 + 3 * 4 + 14 * 3 + 7 * 5);
        assert_eq!(section.matches("src=\"data:image/jpeg;base64,").count(), sources);
        assert!(!section.contains("http"));
    }
}
