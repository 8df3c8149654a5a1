//! Leaves the record's head elsewhere: now and then, and when a lot is closed or signed off.
//!
//! Invariant: nothing waits for it. Each place has a task of its own, which always tries the newest head, so that nothing
//! piles up where one does not answer.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    store::{AnchorSettings, AnchorTarget, AnchoredHead, Store, StoreError},
};

/// How often it is looked whether a lot was closed.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest and longest pause before the next attempt.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// How long the last head may take at a stop.
const LAST: Duration = Duration::from_secs(5);

/// The places, and the head that each is to have.
pub struct Anchors {
    targets: Vec<Arc<AnchorTarget>>,
    head: watch::Sender<Option<AnchoredHead>>,
    every: Duration,
    metrics: Metrics,
}

impl Anchors {
    /// Starts a task for each place that is set.
    pub fn start(settings: &AnchorSettings, store: &Store, metrics: Metrics) -> Self {
        let targets = AnchorTarget::all(settings, store.folder()).into_iter().map(Arc::new).collect();
        let anchors = Self { targets, head: watch::Sender::new(None), every: settings.every, metrics };
        for target in &anchors.targets {
            tokio::spawn(deliver(target.clone(), anchors.head.subscribe(), anchors.metrics.clone()));
        }
        anchors
    }

    /// Runs until `stop`; gives itself back for the last head.
    pub async fn keep(self, store: Store, stop: CancellationToken) -> Self {
        if self.targets.is_empty() {
            return self;
        }
        let (mut due, mut lot_end, mut failed) = (Instant::now(), 0, false);
        loop {
            match self.look(&store, &mut due, &mut lot_end).await {
                Ok(()) => failed = false,
                Err(e) if !failed => {
                    tracing::error!("the record's head can't be read, so it is left nowhere: {e}");
                    failed = true;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return self,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Hands the head on where it is due.
    async fn look(&self, store: &Store, due: &mut Instant, lot_end: &mut i64) -> Result<(), StoreError> {
        let newest = store.newest_lot_end().await?;
        if newest <= *lot_end && Instant::now() < *due {
            return Ok(());
        }
        let head = store.anchored_head().await?;
        self.head.send_if_modified(|last| {
            let other = last.as_ref() != Some(&head);
            *last = Some(head);
            other
        });
        (*due, *lot_end) = (Instant::now() + self.every, newest);
        Ok(())
    }

    /// Leaves the last head everywhere, side by side, for five seconds at most.
    pub async fn last(self, store: &Store) {
        if self.targets.is_empty() {
            return;
        }
        let head = match store.anchored_head().await {
            Ok(head) => head,
            Err(e) => return tracing::error!("the last head can't be read: {e}"),
        };
        drop(self.head); // ends the tasks
        let mut tasks = tokio::task::JoinSet::new();
        for target in self.targets {
            let (head, metrics) = (head.clone(), self.metrics.clone());
            tasks.spawn(async move { attempt(&target, &head, &metrics).await });
        }
        if tokio::time::timeout(LAST, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::error!("the record's last head, entry {}, was not taken everywhere", head.entry);
        }
    }
}

/// Leaves every head there that comes, the newest first of all; ends with the sender.
async fn deliver(target: Arc<AnchorTarget>, mut heads: watch::Receiver<Option<AnchoredHead>>, metrics: Metrics) {
    while heads.changed().await.is_ok() {
        let mut pause = PAUSES[0];
        loop {
            let Some(head) = heads.borrow_and_update().clone() else { break };
            if attempt(&target, &head, &metrics).await {
                break;
            }
            tokio::select! {
                changed = heads.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSES[1]);
        }
    }
}

/// Whether it is there; a failure is said once, until one succeeds.
async fn attempt(target: &AnchorTarget, head: &AnchoredHead, metrics: &Metrics) -> bool {
    let name = target.name();
    let down = metrics.store.anchor_down.with_label_values(&[name]);
    let left = target.leave(head).await;
    let outcome = if left.is_ok() { "written" } else { "failed" };
    metrics.store.anchors.with_label_values(&[name, outcome]).inc();
    match &left {
        Ok(()) if down.get() > 0 => tracing::info!("the record's head is left again ({name}): entry {}", head.entry),
        Ok(()) => {}
        Err(why) if down.get() == 0 => tracing::error!("the record's head can't be left elsewhere ({name}): {why}"),
        Err(_) => {}
    }
    down.set(i64::from(left.is_err()));
    left.is_ok()
}
