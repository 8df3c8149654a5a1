//! How a long piece of work shows that it gets on: a file with a number that rises.
//!
//! Invariant: whoever watches compares contents and counts time by itself, so neither clock nor file times can deceive it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

/// File name inside a round's or a run's folder.
pub const FILE: &str = "heartbeat";
/// Time between two beats that are written.
const EVERY: Duration = Duration::from_secs(1);

struct Heart {
    file: PathBuf,
    beats: u64,
    written: Instant,
}

static HEART: Mutex<Option<Heart>> = Mutex::new(None);

/// From now on this process beats in `folder`.
pub fn begin(folder: &Path) {
    let file = folder.join(FILE);
    let before = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    let heart = Heart { file, beats: before.unwrap_or(0), written: Instant::now() - EVERY };
    *HEART.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(heart);
    beat();
}

/// Says that the work got on by a step; nothing in a process that never began. Cheap enough for every picture.
pub fn beat() {
    let mut heart = HEART.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(heart) = heart.as_mut().filter(|heart| heart.written.elapsed() >= EVERY) {
        heart.beats += 1;
        heart.written = Instant::now();
        let _ = fs::write(&heart.file, heart.beats.to_string()); // a full disk ends the work by itself
    }
}

/// Watches the beats in some folders.
#[derive(Debug)]
pub struct Pulse {
    seen: Vec<Option<Vec<u8>>>,
    since: Instant,
}

impl Pulse {
    /// A pulse that was felt just now.
    pub fn new() -> Self {
        Self { seen: Vec::new(), since: Instant::now() }
    }

    /// How long no beat came in any of `folders`.
    pub fn still_for(&mut self, folders: &[PathBuf]) -> Duration {
        let now: Vec<_> = folders.iter().map(|folder| fs::read(folder.join(FILE)).ok()).collect();
        if now != self.seen {
            *self = Self { seen: now, since: Instant::now() };
        }
        self.since.elapsed()
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_on_is_not_still_whatever_its_files_times_say() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_path_buf()];
        let file = folder.path().join(FILE);
        let mut pulse = Pulse::new();
        let mut beat_after = |beats: u64| {
            fs::write(&file, beats.to_string()).unwrap();
            let old = std::time::SystemTime::now() - Duration::from_secs(100_000); // the clock was set forward
            fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
            std::thread::sleep(Duration::from_millis(30));
            pulse.still_for(&folders)
        };
        assert!(beat_after(1) < Duration::from_millis(25));
        assert!(beat_after(2) < Duration::from_millis(25));
        assert!(beat_after(2) >= Duration::from_millis(30), "the same number is no beat");
        assert!(beat_after(3) < Duration::from_millis(25));
    }
}
