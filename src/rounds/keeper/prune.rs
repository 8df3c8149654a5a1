//! Clears away what rounds that are over leave behind.
//!
//! Invariant: the files that tell of a round, its plan, ruling, outcome and log, stay; a round that is not over and the
//! newest that is are never touched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::rounds::RoundFolder;

/// Removes pictures, runs and candidates of the rounds in `store` that are over, the oldest first, until at most `keep`
/// have any and all that are over take at most `bytes`.
///
/// # Errors
/// The system's; what could be removed before is.
pub(super) fn prune(store: &Path, keep: usize, bytes: u64) -> io::Result<()> {
    let mut rounds = RoundFolder::all(store)?;
    rounds.retain(|round| round.path.join("outcome.json").is_file());
    let mut taken = 0;
    for (age, round) in rounds.iter().rev().enumerate() {
        let folders = folders(&round.path)?;
        taken += folders.iter().map(|folder| size(folder)).sum::<u64>();
        if age > 0 && (age >= keep || taken > bytes) {
            folders.iter().try_for_each(fs::remove_dir_all)?;
        }
    }
    Ok(())
}

fn folders(round: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(round)?.flatten();
    Ok(entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0, // gone meanwhile
        })
        .sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn old_rounds_keep_what_tells_of_them_and_nothing_else() {
        let store = tempfile::tempdir().unwrap();
        let round = |number: u32, over: bool| {
            let round = RoundFolder::new(store.path(), number);
            fs::create_dir_all(round.path.join("snapshot/labeled")).unwrap();
            fs::write(round.path.join("snapshot/labeled/1.png"), [0; 1000]).unwrap();
            fs::write(round.path.join("plan.json"), "{}").unwrap();
            if over {
                fs::write(round.path.join("outcome.json"), "{}").unwrap();
            }
        };
        let left = || -> Vec<u32> {
            let all = RoundFolder::all(store.path()).unwrap();
            assert!(all.iter().all(|round| round.path.join("plan.json").is_file()));
            all.iter().filter(|round| round.path.join("snapshot").is_dir()).map(|round| round.number).collect()
        };
        (1..=6).for_each(|number| round(number, number != 2));
        prune(store.path(), 4, 1 << 30).unwrap();
        assert_eq!(left(), [2, 3, 4, 5, 6], "the second is not over");
        prune(store.path(), 4, 2500).unwrap();
        assert_eq!(left(), [2, 5, 6]);
        prune(store.path(), 4, 10).unwrap();
        assert_eq!(left(), [2, 6], "the newest stays");
    }
}
