//! What a round's training begins from: what serves, or nothing.
//!
//! Invariant: a round whose incumbent can't be read back still trains, and its log says why it began from nothing.

use std::{fmt, path::Path};

use crate::{
    network::{self, onnx},
    student::manifest::Manifest,
};

/// After `--from`, stands for the model folder of what serves.
const INCUMBENT: &str = "incumbent";
/// What `beltsight train` is told where the method needs what serves, and it can't be read back.
const FROM_NOTHING: [&str; 3] = ["pseudo-label", "--net", "small"];

/// `words` for the learning program with the folder `incumbent` for `--from incumbent`; without both words where it can't
/// be gone on from, and the reason.
pub fn with_incumbent(words: &[String], incumbent: &Path) -> (Vec<String>, Option<String>) {
    let Some(at) = words.windows(2).position(|pair| pair[0] == "--from" && pair[1] == INCUMBENT) else {
        return (words.to_vec(), None);
    };
    let mut words = words.to_vec();
    match readable(incumbent) {
        Ok(()) => {
            words[at + 1] = incumbent.to_string_lossy().into_owned();
            (words, None)
        }
        Err(why) => {
            words.drain(at..at + 2);
            if words.first().is_some_and(|method| method == "distillation") {
                words = FROM_NOTHING.map(String::from).into();
            }
            (words, Some(why))
        }
    }
}

/// Whether the learning program can read the student in `folder` back; else why not.
fn readable(folder: &Path) -> Result<(), String> {
    let say = |e: &dyn fmt::Display| e.to_string();
    let manifest = Manifest::read(folder).map_err(|e| say(&e))?;
    let name = &manifest.lineage.net;
    let net = network::by_name(name, Some(manifest.input.side as usize))
        .ok_or_else(|| format!("its network `{name}` is none of {}", network::NAMES.join(", ")))?;
    let graph = manifest.onnx(folder, "float32").map_err(|e| say(&e))?;
    let (_, classes) = onnx::read(&net, &graph).map_err(|e| say(&e))?;
    if classes == manifest.classes.len() {
        Ok(())
    } else {
        Err(format!("its graph tells {classes} classes apart, its manifest {}", manifest.classes.len()))
    }
}
