//! All that pages, exports and programs can ask of a store, asked.

use std::{collections::HashSet, fmt::Debug, path::Path};

use time::OffsetDateTime;

use crate::{
    domain::{Action, Source},
    export::{self, LotCsv, LotReport},
    store::{
        Ask, ItemPage, LabelPage, Lot, MAX_PAGE, Page, QueueOrder, Store, StoreError, labels::transfer::all_labeled,
        verify_lot,
    },
};

/// Kinds of events that are asked for.
const KINDS: &str = "began started stopped model lot_opened lot_closed camera_lost camera_back camera_began camera_ended \
    passed_unjudged degraded recovered eject_late flush_asked flush_over eject_command encoder_lost encoder_back \
    encoder_reset encoder_apart encoder_agrees belt_reversed belt_forward reject_missed reject_false challenge \
    challenge_result corrective_opened corrective_closed signed_off audit row_held rows_adopted pictures_removed \
    verdicts_removed gap clock_set";

/// The answers to everything, as text; an error is an answer too.
pub(super) async fn answers(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    match Store::open_to_read(folder).await {
        Ok(store) => {
            verdicts(&store, &mut all).await;
            people(&store, &mut all).await;
            record(&store, folder, &mut all).await;
            store.close().await;
        }
        Err(e) => all.push(e.to_string()),
    }
    all
}

fn say<T: Debug>(all: &mut Vec<String>, answer: Result<T, StoreError>) {
    all.push(match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(e) => format!("error: {e}"),
    });
}

async fn verdicts(store: &Store, all: &mut Vec<String>) {
    say(all, store.counts().await);
    say(all, store.newest_verdict().await);
    say(all, store.verdicts_after(0, MAX_PAGE).await);
    say(all, store.find_lots(None, "lot", 50).await);
    let mut pages = vec![Page::default()];
    pages.extend(
        [Action::Accept, Action::Reject, Action::Divert].map(|one| Page { action: Some(one), ..Page::default() }),
    );
    pages.extend([Source::Belt, Source::Http].map(|one| Page { source: Some(one), ..Page::default() }));
    for lot in store.lots(100).await.unwrap_or_default() {
        pages.push(Page { lot: Some(lot.lot), ..Page::default() });
    }
    pages.push(Page { class: Some("trout".into()), ..Page::default() });
    pages.push(Page { camera: Some("belt".into()), ..Page::default() });
    pages.push(Page { lot_name: Some("lot 1".into()), ..Page::default() });
    pages.push(Page { from: Some(OffsetDateTime::UNIX_EPOCH), ..Page::default() });
    for mut page in pages {
        page.limit = MAX_PAGE;
        loop {
            let some = store.verdicts(page.clone()).await;
            let last = some.as_ref().ok().and_then(|some| some.last()).map(|last| last.id);
            say(all, some);
            if last.is_none() || last == page.before {
                break;
            }
            page.before = last;
        }
    }
    for id in (0..1400).step_by(13) {
        say(all, store.verdict(id).await);
    }
}

async fn people(store: &Store, all: &mut Vec<String>) {
    for current in [false, true] {
        let page = LabelPage { limit: MAX_PAGE, current, ..LabelPage::default() };
        say(all, store.labels(&page).await);
        say(all, store.labels(&LabelPage { by: Some("Ada".into()), ..page.clone() }).await);
        say(all, store.labels(&LabelPage { class: Some("cod".into()), ..page.clone() }).await);
        say(all, store.labels(&LabelPage { verdict: Some(42), ..page }).await);
    }
    say(all, store.history(42).await);
    say(all, store.labels_of("Ada").await);
    say(all, store.labeled_items().await);
    say(all, store.current_labels(1, i64::MAX).await);
    say(all, store.agreement().await);
    say(all, all_labeled(store).await);
    let page = ItemPage { limit: MAX_PAGE, ..ItemPage::default() };
    say(all, store.items(&page).await);
    say(all, store.items(&ItemPage { action: Some(Action::Reject), ..page.clone() }).await);
    say(all, store.items(&ItemPage { class: Some("trout".into()), ..page.clone() }).await);
    say(all, store.items(&ItemPage { labeled: Some(false), ..page }).await);
    for order in [QueueOrder::Useful, QueueOrder::Random] {
        let ask = Ask { by: "Cleo".into(), limit: 50, order, second_share: 0.5, busy: HashSet::new() };
        say(all, store.queue(ask).await);
    }
    say(all, store.unlabeled().await);
    say(all, store.deeds(None, MAX_PAGE).await);
}

async fn record(store: &Store, folder: &Path, all: &mut Vec<String>) {
    say(all, store.head().await);
    say(all, store.anchored_head().await);
    say(all, store.newest_event().await);
    say(all, store.newest_lot_end().await);
    let kinds: Vec<&str> = KINDS.split_whitespace().collect();
    say(all, store.lot_events(1, i64::MAX, &kinds).await);
    say(all, store.events(&kinds, None).await);
    say(all, store.challenges(None).await);
    say(all, store.corrective_actions(None).await);
    let lots = store.lots(100).await;
    let found = lots.as_ref().ok().cloned().unwrap_or_default();
    say(all, lots);
    for lot in found {
        say(all, store.lot(lot.lot).await);
        say(all, store.lot_named(&lot.name).await);
        say(all, page(store, folder, lot.clone()).await);
        say(all, csv(store, lot).await);
    }
}

async fn page(store: &Store, folder: &Path, lot: Lot) -> Result<String, StoreError> {
    let items = export::taken_off(store, lot.lot).await?;
    let report = LotReport::read(store, lot).await?;
    let verified = verify_lot(folder, &report.lot).await?;
    let page = export::page(&report, &items, &verified);
    Ok(page.split("<footer>").next().unwrap_or_default().into()) // there it says when it was written
}

async fn csv(store: &Store, lot: Lot) -> Result<String, StoreError> {
    let mut csv = LotCsv::new(store.clone(), lot).await?;
    let mut text = String::new();
    while let Some(piece) = csv.next().await? {
        text += &String::from_utf8_lossy(&piece);
    }
    Ok(text)
}
