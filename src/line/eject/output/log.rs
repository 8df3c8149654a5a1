//! Writes commands into the service's log: for trying out and for belts whose gates nobody has wired yet.

use std::time::Instant;

use tokio::sync::mpsc;

use super::{EjectorCommand, Outlet};

/// Runs until the commands' sender is gone.
pub(super) async fn run(mut outlet: Outlet, mut commands: mpsc::Receiver<EjectorCommand>) {
    let watcher = outlet.clone();
    while watcher.broke(serve(&mut outlet, &mut commands)).await {}
}

async fn serve(outlet: &mut Outlet, commands: &mut mpsc::Receiver<EjectorCommand>) {
    outlet.connected(true);
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(command) = command else { return };
                let late = Instant::now().saturating_duration_since(command.due);
                tracing::info!(
                    id = command.id, gate = &*command.subject.gate, camera = command.subject.camera,
                    track = command.subject.track, uid = %command.subject.uid, late_us = late.as_micros() as u64, "eject"
                );
                outlet.report(command.id, Ok(()));
            }
            changed = outlet.requests.changed() => {
                if changed.is_err() {
                    return;
                }
                let requests = outlet.requests.borrow_and_update().clone();
                tracing::warn!(stops = requests.stop, diverts = requests.divert, "asked of the line: {}", requests.why);
            }
        }
    }
}
