//! A candidate takes over from the student that serves, is watched, and is taken back.
//!
//! Invariant: at every moment the student that serves is one that the registry names.

use std::{fs, io, path::Path};

use time::OffsetDateTime;
use tokio::task::spawn_blocking;

use super::RoundKeeper;
use crate::{
    files::FolderDraft,
    line::swap::{LoadError, Swapper},
    rounds::{
        RoundEnd, RoundFolder, RoundPlan,
        gate::PromotionGateRuling,
        probation::{Probation, ProbationTerms},
    },
    student::registry::{Registry, RegistryError},
};

/// Why a student could not take over.
#[derive(Debug, thiserror::Error)]
enum TakeOverError {
    #[error(transparent)]
    Files(#[from] io::Error),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("another student serves than the one it was examined beside")]
    Replaced,
}

impl RoundKeeper {
    /// Whether the student serves that the candidate of the round in `folder` was examined beside.
    pub(super) fn incumbent_serves(&self, folder: &RoundFolder) -> bool {
        incumbent(folder).is_some_and(|name| name == self.parts.swapper.infer.card().version)
    }

    /// Somebody changed what serves since the exam, which so proves nothing any more: the candidate sits it again.
    pub(super) fn examine_again(&mut self, folder: RoundFolder) {
        let serving = self.parts.swapper.infer.card().version.clone();
        tracing::info!(round = folder.number, "{serving} serves now: the candidate is examined again");
        match point_to(&folder, &self.parts.registry.root.join(serving)) {
            Ok(()) => self.spawn(folder, 0),
            Err(e) => self.end(&folder, RoundEnd::Failed, format!("it can't be examined again: {e}"), None),
        }
    }

    /// Lets the candidate serve and watches it from then on.
    pub(super) async fn take_over(&mut self, folder: RoundFolder, ruling: PromotionGateRuling, by: &str) {
        let better = ruling.checks.iter().find(|check| check.name == "better");
        let why = better.map_or_else(String::new, |check| check.found.clone());
        let (registry, swapper) = (self.parts.registry.clone(), self.parts.swapper.clone());
        let (of, by, reason) = (folder.clone(), by.to_string(), why.clone());
        let taken = spawn_blocking(move || take_over(&of, &registry, &swapper, &by, &reason));
        match taken.await.unwrap_or_else(|e| Err(TakeOverError::Files(io::Error::other(e)))) {
            Ok(()) => {
                let shadow = ruling.shadow.map_or(0.0, |run| run.apart as f64 / run.items.max(1) as f64);
                let terms = ProbationTerms {
                    began: OffsetDateTime::now_utc(),
                    before: self.belt.share(|item| !item.passed),
                    expected: ruling.disagreement.max(shadow),
                    passed: false,
                };
                self.probation = Some(Probation::begin(&folder, terms, self.parts.settings.probation));
                self.end(&folder, RoundEnd::Promoted, why, Some(ruling));
            }
            Err(TakeOverError::Replaced) => self.examine_again(folder),
            Err(e) => self.end(&folder, RoundEnd::Failed, format!("it could not take over: {e}"), Some(ruling)),
        }
    }

    /// Takes the student under watch back if it does harm, and lets it stay when it has proven itself.
    pub(super) async fn watch_probation(&mut self) {
        let Some(mut probation) = self.probation.take() else { return };
        if self.parts.swapper.infer.card().version != probation.version {
            return; // somebody changed it meanwhile
        }
        if let Err(e) = probation.read_tests(&self.parts.store).await {
            tracing::warn!("challenge tests can't be looked at: {e}"); // the next look may succeed
        }
        if let Some(why) = probation.trouble() {
            tracing::error!("{} is taken back: {why}", probation.version);
            let (registry, swapper) = (self.parts.registry.clone(), self.parts.swapper.clone());
            match spawn_blocking(move || take_back(&registry, &swapper, &why)).await {
                Ok(Ok(())) => self.parts.metrics.rounds.rollbacks.inc(),
                Ok(Err(e)) => tracing::error!("it could not be taken back: {e}"),
                Err(e) => tracing::error!("{e}"),
            }
        } else if probation.over() {
            tracing::info!("{} has passed its probation", probation.version);
            probation.pass();
        } else {
            self.probation = Some(probation);
        }
    }
}

/// The version that served when the candidate of the round in `folder` was examined.
fn incumbent(folder: &RoundFolder) -> Option<String> {
    let plan = folder.read::<RoundPlan>("plan.json")?;
    Some(plan.incumbent.file_name()?.to_string_lossy().into_owned())
}

/// Makes the model folder `serving` the incumbent of the round's plan, and takes the ruling back; it counts as made.
fn point_to(folder: &RoundFolder, serving: &Path) -> io::Result<()> {
    let plan = folder.read::<RoundPlan>("plan.json").ok_or_else(|| io::Error::other("its plan can't be read"))?;
    let tests_before = plan.tests_before + 1;
    folder.write("plan.json", &RoundPlan { incumbent: std::path::absolute(serving)?, tests_before, ..plan })?;
    match fs::remove_file(folder.path.join("ruling.json")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Puts the candidate of the round in `folder` among the models and hands the line over to it.
fn take_over(
    folder: &RoundFolder,
    registry: &Registry,
    swapper: &Swapper,
    by: &str,
    why: &str,
) -> Result<(), TakeOverError> {
    let version = folder.version();
    install(&folder.candidate(), &registry.root, version)?;
    let turn = swapper.turn();
    if incumbent(folder).is_none_or(|name| name != swapper.infer.card().version) {
        return Err(TakeOverError::Replaced);
    }
    swapper.load(version, &turn)?;
    Ok(registry.promote(version, by, why)?)
}

/// Hands the line back to the student that served before.
fn take_back(registry: &Registry, swapper: &Swapper, why: &str) -> Result<(), TakeOverError> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::rounds::RoundSettings;

    #[test]
    fn a_round_that_is_examined_again_has_no_ruling_and_another_incumbent() {
        let store = tempfile::tempdir().unwrap();
        let plan = RoundPlan {
            number: 3,
            version: "round-0003-1a2b3c4d".into(),
            tests_before: 2,
            ..RoundSettings::default().plan(store.path(), Path::new("/models/a")).unwrap()
        };
        let folder = RoundFolder::begin(store.path(), &plan).unwrap();
        assert_eq!((folder.version(), incumbent(&folder).as_deref()), ("round-0003-1a2b3c4d", Some("a")));
        folder.write("ruling.json", &1).unwrap();
        point_to(&folder, Path::new("/models/b")).unwrap();
        assert_eq!(incumbent(&folder).as_deref(), Some("b"));
        assert_eq!(folder.read::<RoundPlan>("plan.json").unwrap().tests_before, 3, "the first ruling was a test too");
        assert!(!folder.path.join("ruling.json").exists());
        point_to(&folder, Path::new("/models/c")).unwrap(); // twice does no harm
        let again = RoundFolder::all(store.path()).unwrap().pop().unwrap();
        assert_eq!((again.version(), incumbent(&again).as_deref()), ("round-0003-1a2b3c4d", Some("c")));
    }
}
