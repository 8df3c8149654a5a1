//! A candidate takes over from the student that serves, and is taken back. Blocks on the disk.
//!
//! Invariant: at every moment the student that serves is one that the registry names.

use std::{fs, io, path::Path};

use crate::{
    files::FolderDraft,
    line::swap::{LoadError, Swapper},
    rounds::RoundFolder,
    student::registry::{Registry, RegistryError},
};

/// Why a student could not take over.
#[derive(Debug, thiserror::Error)]
pub(super) enum TakeOverError {
    #[error(transparent)]
    Files(#[from] io::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Puts the candidate of the round in `folder` among the models and hands the line over to it.
pub(super) fn take_over(
    folder: &RoundFolder,
    registry: &Registry,
    swapper: &Swapper,
    by: &str,
    why: &str,
) -> Result<(), TakeOverError> {
    let version = folder.version();
    install(&folder.candidate(), &registry.root, &version)?;
    let turn = swapper.turn();
    swapper.load(&version, &turn)?;
    Ok(registry.promote(&version, by, why)?)
}

/// Hands the line back to the student that served before.
pub(super) fn take_back(registry: &Registry, swapper: &Swapper, why: &str) -> Result<(), TakeOverError> {
    let turn = swapper.turn();
    let version = registry.rollback("probation", why)?;
    swapper.load(&version, &turn)?;
    Ok(())
}

/// Copies a model folder to `root/version`; it appears there whole or not at all.
fn install(from: &Path, root: &Path, version: &str) -> io::Result<()> {
    let draft = FolderDraft::begin(&root.join(version))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), draft.path().join(entry.file_name()))?;
    }
    draft.replace() // what is there is left of a take-over that broke off before the registry named it
}
