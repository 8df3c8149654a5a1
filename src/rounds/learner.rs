//! How the learning program `beltsight-learn` is called: it stands beside this program and finds its own libraries.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Why it can't be called.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// This program does not know where it stands.
    #[error("this program's own path is unknown: {0}")]
    Unknown(std::io::Error),
    /// It is not there.
    #[error("{0} is not built: run `deploy/setup --learn`, then `. .vendor/env && cargo build --features learn`")]
    Missing(PathBuf),
}

/// A call of `beltsight-learn`, to which arguments can be added.
///
/// # Errors
/// [`LearnerError`].
pub fn command() -> Result<Command, LearnerError> {
    let this = std::env::current_exe().map_err(LearnerError::Unknown)?;
    let program = this.with_file_name("beltsight-learn");
    if !program.is_file() {
        return Err(LearnerError::Missing(program));
    }
    let mut command = Command::new(&program);
    environment(&mut command, &program);
    Ok(command)
}

/// Sets what libtorch needs: its library folder where `deploy/setup` fetched it, and threads that sleep while they wait.
fn environment(command: &mut Command, program: &Path) {
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        // libtorch's threads otherwise spin while they wait for each other: beside any other work on the same cores
        // training then fell from 210 to 50 pictures/s.
        command.env("OMP_WAIT_POLICY", "passive");
    }
    let vendored = program.ancestors().map(|a| a.join(".vendor/libtorch/lib")).find(|p| p.is_dir());
    if let Some(folder) = vendored {
        let rest = std::env::var("LD_LIBRARY_PATH").unwrap_or_default();
        command.env("LD_LIBRARY_PATH", format!("{}:{rest}", folder.display()));
    }
}
