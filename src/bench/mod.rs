//! `beltsight bench`: the figures in the README come from here.
//!
//! Client and service share the machine's cores, as the commands say; every report names the machine.

pub mod belt;
pub mod classify;
pub mod client;
pub mod expert;
pub mod forge;
pub mod frames;
pub mod kills;
pub mod load;
pub mod network_camera;
pub mod photos;
pub mod precision;
pub mod profiles;
pub mod record;
pub mod recovery;
pub mod round;
pub mod service;
pub mod stills;
pub mod story;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::student::manifest::Manifest;

/// Where the figures were measured: processor, cores allowed, date.
pub fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines()
                .find(|l| l.starts_with("model name"))
                .map(|l| l.split(':').nth(1).unwrap_or("").trim().to_string())
        })
        .unwrap_or_else(|| "unknown processor".into());
    let today = time::OffsetDateTime::now_utc().date();
    format!("{processor}, {} cores allowed, {today}", crate::student::engine::cores())
}

/// The value below which a share `q` of the sorted durations lies; zero when there are none.
pub fn quantile(sorted: &[Duration], q: f64) -> Duration {
    let index = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(index.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

/// Resident memory of a process in bytes (`/proc/<pid>/statm`).
///
/// # Errors
/// When the process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = text.split(' ').nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * 4096)
}

/// Time that the host of a virtual machine has kept from its cores while they had work, summed over the cores since it
/// started (`steal` in proc(5)): what is late for that is no program's doing.
///
/// # Errors
/// When `/proc/stat` does not tell.
pub fn stolen() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let ticks: u64 = text.split_whitespace().nth(8).context("/proc/stat has no steal")?.parse()?;
    Ok(Duration::from_millis(ticks * 10)) // Linux shows 100 ticks per second, whatever it counts in
}

/// Copies a model folder to `to`, whose name becomes its version.
///
/// # Errors
/// The system's, or a manifest's.
pub fn copy_model(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    let mut manifest = Manifest::read(to)?;
    manifest.version = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(manifest.write(to)?)
}

/// All JPEG files below a folder, read whole, in the order of their names.
///
/// # Errors
/// When there is none.
pub fn jpegs(folder: &Path) -> Result<Vec<bytes::Bytes>> {
    let mut paths = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "jpg" || e == "jpeg") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    ensure!(!paths.is_empty(), "no JPEG below {}", folder.display());
    paths.iter().map(|p| Ok(fs::read(p)?.into())).collect()
}
