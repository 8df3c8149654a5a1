//! Kept pictures: encoded apart from the runtime's threads, each written once for a batch, named in the verdicts.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{QueuedVerdict, losses::RecordLosses};
use crate::{
    domain::{AuditDraw, Raw, Verdict},
    metrics::Metrics,
    picture::pixels,
    store::{Store, frame_key},
};

/// JPEG quality of kept frames that did not arrive as JPEG.
const QUALITY: i32 = 90;

/// The memory that a waiting picture takes, in KiB.
pub(super) fn kib(raw: &Raw) -> u32 {
    let bytes = match raw {
        Raw::Jpeg(jpeg) => jpeg.len(),
        Raw::Rgb(picture) => picture.rgb.len(),
    };
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX) + 1
}

/// Writes the batch's frames, each once, and names them in the verdicts; each with its draw and whom its id is told.
pub(super) async fn keep_frames(
    batch: impl Iterator<Item = QueuedVerdict>,
    store: &Store,
    losses: &RecordLosses,
    metrics: &Metrics,
) -> (Vec<Verdict>, Vec<Option<AuditDraw>>, Vec<oneshot::Sender<i64>>) {
    let mut written = HashSet::new();
    let (mut verdicts, mut draws, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for QueuedVerdict { mut verdict, draw, frame, committed, .. } in batch {
        if let Some((raw, _room)) = frame {
            match keep_frame(raw, &verdict, store, &mut written).await {
                Ok(key) => verdict.frame = Some(key),
                Err(why) => {
                    tracing::warn!("a frame was not kept: {why}");
                    metrics.store.errors.inc();
                    losses.picture(verdict.lot);
                }
            }
        }
        verdicts.push(verdict);
        draws.push(draw);
        told.push(committed);
    }
    (verdicts, draws, told)
}

async fn keep_frame(
    raw: Raw,
    verdict: &Verdict,
    store: &Store,
    written: &mut HashSet<String>,
) -> Result<String, String> {
    let time = verdict.time;
    let encode = move || {
        let jpeg = match raw {
            Raw::Jpeg(jpeg) => jpeg,
            Raw::Rgb(picture) => Bytes::from(pixels::encode_jpeg(&picture, QUALITY).map_err(|e| e.to_string())?),
        };
        Ok::<_, String>((frame_key(&jpeg, time), jpeg))
    };
    let (key, jpeg) = spawn_blocking(encode).await.map_err(|e| e.to_string())??;
    if written.insert(key.clone())
        && let Err(e) = store.put_frame(&key, jpeg).await
    {
        written.remove(&key);
        return Err(e.to_string());
    }
    Ok(key)
}
