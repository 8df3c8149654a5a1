//! A start after a stop that was not in order: tells the record which commands may have been under way, and when the
//! flush is over.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Action, Source},
    line::{eject::flush::Flush, record::Recorder},
    store::{Event, Page, Store, StoreError},
};

/// How often it is looked how far the belt went.
const LOOK: Duration = Duration::from_millis(20);
/// Most verdicts that are looked through for commands under way.
const MOST: u32 = 500;

/// Runs until the flush is over, or `stop`. `down_since` is the last sign of the service before.
pub async fn follow(
    store: Store,
    recorder: Recorder,
    mut flush: Flush,
    down_since: Option<OffsetDateTime>,
    stop: CancellationToken,
) {
    let gates: Vec<_> = flush.gates().collect();
    for (gate, camera, before) in gates {
        let under_way = match down_since {
            Some(down) => under_way(&store, &camera, down - before).await.unwrap_or_else(|e| {
                tracing::error!("which commands were under way can't be read: {e}");
                Vec::new()
            }),
            None => Vec::new(),
        };
        tracing::warn!(gate, camera, ?under_way, "verdicts whose commands may have been under way");
        recorder.event(Event::FlushAsked { gate, camera, under_way, led_to: flush.led_to().name().into() });
    }
    while !flush.over() {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tracing::info!("the flush is over");
    recorder.event(Event::FlushOver);
}

/// The newest verdicts that asked for a gate of `camera` about items seen since then, oldest first.
async fn under_way(store: &Store, camera: &str, since: OffsetDateTime) -> Result<Vec<i64>, StoreError> {
    let mut newest = store.verdicts(Page { limit: MOST, source: Some(Source::Belt), ..Page::default() }).await?;
    newest.retain(|v| v.camera == camera && v.decision.action != Action::Accept && v.time >= since);
    Ok(newest.iter().rev().map(|verdict| verdict.id).collect())
}
