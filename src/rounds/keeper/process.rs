//! A round's process: `beltsight round`, on spare cores, with capped memory, watched from outside.

use std::{
    fs, io,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use tokio::process::Child;

use crate::{
    files::heartbeat::Pulse,
    rounds::{AGAIN, RoundFolder, RoundSettings, run},
};

/// Times a round's process may die or stand still before the round is given up.
const FAILURES: u32 = 5;

/// The process of a round.
pub(super) struct RoundProcess {
    child: Child,
    pub(super) began: Instant,
    /// Processes of the round that died or stood still before; one that was told to rest did neither.
    pub(super) failures: u32,
    pulse: Pulse,
}

/// How a round's process does.
pub(super) enum ProcessState {
    /// It runs.
    Runs,
    /// It has done all it had to do.
    Done,
    /// It ended or was ended for this reason, and another one may go on.
    Interrupted(String),
    /// The round is over for this reason.
    Failed(String),
}

impl RoundProcess {
    /// Starts or goes on with the round in `folder`, of which `failures` processes failed before.
    pub(super) fn spawn(folder: &RoundFolder, settings: &RoundSettings, failures: u32) -> io::Result<Self> {
        let log = fs::File::options().create(true).append(true).open(folder.path.join("round.log"))?;
        let mut own = Command::new("taskset");
        own.arg("--cpu-list").arg(run::cpus(settings.spare_cores)?);
        own.arg(std::env::current_exe()?).arg("round").arg(&folder.path);
        let mut command = run::capped(&own, settings.memory);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        Ok(Self { child, began: Instant::now(), failures, pulse: Pulse::new() })
    }

    /// Ends it; the round can go on in another one.
    pub(super) async fn kill(&mut self) {
        let _ = self.child.kill().await; // it may have ended by itself this moment
    }

    /// Whether it still runs, or how it ended.
    pub(super) fn state(&mut self, folder: &RoundFolder) -> ProcessState {
        match self.child.try_wait() {
            Ok(None) => ProcessState::Runs,
            Ok(Some(status)) if status.success() => ProcessState::Done,
            Ok(Some(status)) if self.may_go_on(status) => {
                ProcessState::Interrupted(format!("its process ended with {status}"))
            }
            Ok(Some(status)) => {
                let log = fs::read_to_string(folder.path.join("round.log")).unwrap_or_default();
                // The learning program's own words, then those of the process that ran it.
                let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
                let last = lines[lines.len().saturating_sub(2)..].join("; ");
                ProcessState::Failed(format!("its process ended with {status}: {last}"))
            }
            Err(e) => ProcessState::Failed(format!("its process is lost: {e}")),
        }
    }

    /// Killed, or ended by itself to be run again.
    fn may_go_on(&self, status: ExitStatus) -> bool {
        status.code().is_none_or(|code| code == i32::from(AGAIN)) && self.failures + 1 < FAILURES
    }

    /// Ends it if it runs for too long or stands still.
    pub(super) async fn end_if_overdue(&mut self, folder: &RoundFolder, settings: &RoundSettings) -> ProcessState {
        if self.began.elapsed() > settings.timeout {
            self.kill().await;
            return ProcessState::Failed(format!("it took longer than {:?}", settings.timeout));
        }
        let folders = [folder.path.clone(), folder.teacher(), folder.path.join(folder.version())];
        if self.pulse.still_for(&folders) <= settings.stall {
            return ProcessState::Runs;
        }
        // A program that finds no memory for a thread of its own may wait for that thread for ever.
        self.kill().await;
        let why = format!("nothing happened for {:?}", settings.stall);
        if self.failures + 1 < FAILURES { ProcessState::Interrupted(why) } else { ProcessState::Failed(why) }
    }
}
