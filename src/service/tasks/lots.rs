//! Lots that the PLC opens and closes: what an output tells becomes lots of the record.
//!
//! Only a change of what is told counts, also over broken connections and restarts of this service: the record says
//! what was acted on last. So what is told again opens no second lot, and one that a person closed stays closed.
//! A new name opens a lot and closes whichever is open. An empty one closes the lot that the same output opened; one
//! that a person opened stays.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    line::eject::LotOnBelt,
    metrics::Metrics,
    store::{Store, StoreError},
};

/// Pause before a lot that could not be recorded is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest name, in characters; as in the API.
const NAME: usize = 200;

/// Keeps the record's lots as they are told, until `stop`. A lot that can't be recorded is tried again until it is, or
/// until another is told.
pub async fn follow(
    store: Store,
    mut told: watch::Receiver<Option<LotOnBelt>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let (mut last, mut again) = (None, false);
    told.mark_changed(); // what was told before we looked counts too
    loop {
        let wait = async {
            if again {
                tokio::time::timeout(AGAIN, told.changed()).await.unwrap_or(Ok(()))
            } else {
                told.changed().await
            }
        };
        match stop.run_until_cancelled(wait).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
        let Some(now) = told.borrow_and_update().clone() else { continue };
        again = false;
        if now.name.chars().count() > NAME {
            tracing::error!("{} tells a lot whose name is longer than {NAME} characters; the lot stays", now.by);
            continue;
        }
        if let Err(e) = open_or_close(&store, &now, &mut last).await {
            metrics.store.errors.inc();
            tracing::error!("the lot {:?} is not recorded yet: {e}", now.name);
            again = true;
        }
    }
}

/// Does what `now` asks for; `last` is what was acted on last, `None` after a start.
async fn open_or_close(store: &Store, now: &LotOnBelt, last: &mut Option<String>) -> Result<(), StoreError> {
    let before = match last.clone() {
        Some(last) => last,
        None => {
            let lots = store.lots(usize::MAX).await?;
            let ours = lots.into_iter().find(|lot| lot.opened_by == now.by);
            ours.filter(|lot| lot.closed_by != now.by).map(|lot| lot.name).unwrap_or_default()
        }
    };
    if before != now.name {
        if !now.name.is_empty() {
            let lot = store.begin_lot(&now.name, now.by).await?;
            tracing::info!(lot, name = now.name, by = now.by, "a lot is opened");
        } else if let Some(open) = store.open_lot()
            && store.lot(open).await?.is_some_and(|lot| lot.opened_by == now.by)
        {
            store.end_lot(now.by).await?;
            tracing::info!(lot = open, by = now.by, "a lot is closed");
        }
    }
    *last = Some(now.name.clone());
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Name, who opened it, who closed it, of every lot, oldest first.
    async fn lots(store: &Store) -> Vec<String> {
        let lots = store.lots(100).await.unwrap();
        let words = |lot: &crate::store::Lot| {
            let end = if lot.closed.is_some() { format!("closed by {}", lot.closed_by) } else { "open".into() };
            format!("{} by {}, {end}", lot.name, lot.opened_by)
        };
        lots.iter().rev().map(words).collect()
    }

    #[tokio::test]
    async fn only_changes_count_and_what_people_do_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let told = |name: &str| LotOnBelt { name: name.into(), by: "modbus" };
        let mut last = None;
        // A lot that a person opened stays open while the PLC says none.
        store.begin_lot("by hand", "Ada").await.unwrap();
        open_or_close(&store, &told(""), &mut last).await.unwrap();
        assert_eq!(lots(&store).await, ["by hand by Ada, open"]);
        // LotOnBelt twice, and told again after a restart: one lot.
        for _ in 0..2 {
            open_or_close(&store, &told("17"), &mut last).await.unwrap();
        }
        open_or_close(&store, &told("17"), &mut None).await.unwrap();
        assert_eq!(lots(&store).await, ["by hand by Ada, closed by modbus", "17 by modbus, open"]);
        // A person closes it: it is not opened again, not even after a restart.
        store.end_lot("Ada").await.unwrap();
        open_or_close(&store, &told("17"), &mut last).await.unwrap();
        open_or_close(&store, &told("17"), &mut None).await.unwrap();
        assert_eq!(store.open_lot(), None);
        // The next one, none, and the same one once more: a lot of its own.
        for name in ["18", "", "", "18"] {
            open_or_close(&store, &told(name), &mut last).await.unwrap();
        }
        open_or_close(&store, &told("18"), &mut None).await.unwrap();
        let all = lots(&store).await;
        assert_eq!(all[2..], ["18 by modbus, closed by modbus", "18 by modbus, open"]);
        // What changed while the service was away counts at its start.
        open_or_close(&store, &told(""), &mut None).await.unwrap();
        open_or_close(&store, &told("19"), &mut None).await.unwrap();
        let all = lots(&store).await;
        assert_eq!(all[3..], ["18 by modbus, closed by modbus", "19 by modbus, open"]);
    }

    #[tokio::test]
    async fn an_endless_name_changes_nothing_and_the_next_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let (tell, told) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(follow(store.clone(), told, Metrics::new().unwrap(), stop.clone()));
        for name in ["K-17".into(), "x".repeat(201), "K-18".to_owned()] {
            tell.send_replace(Some(LotOnBelt { name, by: "mqtt" }));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        stop.cancel();
        task.await.unwrap();
        assert_eq!(lots(&store).await, ["K-17 by mqtt, closed by mqtt", "K-18 by mqtt, open"]);
    }
}
