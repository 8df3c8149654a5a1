//! `beltsight labels`: labels in and out.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};

pub use crate::store::labels::formats::{
    FormatError, ImportedLabel, from_csv, from_label_studio, to_csv, to_label_studio,
};

use crate::{
    config::Config,
    rounds::snapshot::{self, SnapshotLimits},
    store::{ItemPage, LabeledItem, MAX_PAGE, Store},
    student::{manifest::Manifest, registry::Registry},
};

/// What to do with labels.
#[derive(Subcommand)]
pub enum Command {
    /// Write a data set for `beltsight train --data FOLDER --unlabeled FOLDER/unlabeled`, or print what people say now.
    Export {
        /// Folder of the data set.
        #[arg(long, required_unless_present = "format", conflicts_with = "format")]
        to: Option<PathBuf>,
        /// Print in this format instead.
        #[arg(long)]
        format: Option<Format>,
        /// Most labeled pictures in the data set, the newest.
        #[arg(long, default_value_t = 100_000)]
        labeled: usize,
        /// Most unlabeled pictures in the data set, the newest.
        #[arg(long, default_value_t = 10_000)]
        unlabeled: usize,
        /// Where Label Studio finds the pictures: the address of the service.
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
    },
    /// Take labels from a file: Label Studio's JSON (`.json`) or CSV. A label that is there already is not added again.
    Import {
        /// The file.
        file: PathBuf,
    },
}

/// Formats of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Label Studio's JSON.
    LabelStudio,
    /// One row a label.
    Csv,
}

/// How an import went.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// Labels that were added.
    pub added: usize,
    /// Labels that were there already.
    pub known: usize,
}

/// Runs the command.
///
/// # Errors
/// In words.
pub async fn run(command: Command, config: &Config) -> Result<()> {
    let folder = &config.store.folder;
    let store = match command {
        Command::Export { .. } => Store::open_to_read(folder).await?,
        Command::Import { .. } => Store::open(folder).await?,
    };
    match command {
        Command::Export { to: Some(folder), labeled, unlabeled, .. } => {
            let done = snapshot::snapshot(&store, &folder, SnapshotLimits { labeled, unlabeled }).await?;
            println!("{} labeled and {} unlabeled pictures, sha256 {}", done.labeled, done.unlabeled, done.sha256);
            println!(
                "left out: {} near-identical, {} unsettled, {} without a picture",
                done.duplicates, done.unsettled, done.missing
            );
        }
        Command::Export { to: None, format, url, .. } => {
            let items = labeled_items(&store).await?;
            match format {
                Some(Format::Csv) => print!("{}", to_csv(&items)?),
                _ => println!("{}", serde_json::to_string_pretty(&to_label_studio(&items, url.trim_end_matches('/')))?),
            }
        }
        Command::Import { file } => {
            let classes = classes(config)?;
            let Imported { added, known } = import(&store, read(&file)?, &classes).await?;
            println!("{added} labels added, {known} were there already");
        }
    }
    store.close().await;
    Ok(())
}

/// The classes that labels may name: the serving model's and those that the configuration adds.
fn classes(config: &Config) -> Result<Vec<String>> {
    let model = &config.model;
    let registry = Registry { root: model.root.clone(), first: model.version.clone() };
    let version = registry.stack()?.pop().context("no version serves")?;
    let mut classes = Manifest::read(&model.root.join(version))?.classes;
    classes.extend(config.labels.classes.clone());
    Ok(classes)
}

fn read(file: &Path) -> Result<Vec<ImportedLabel>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let json = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
    let said = if json { from_label_studio(&text) } else { from_csv(&text) };
    said.with_context(|| file.display().to_string())
}

/// Every item that somebody labeled, oldest first, with what people say now.
///
/// # Errors
/// The store's.
pub async fn labeled_items(store: &Store) -> Result<Vec<LabeledItem>> {
    let mut all = Vec::new();
    let mut page = ItemPage { limit: MAX_PAGE, labeled: Some(true), ..ItemPage::default() };
    loop {
        let items = store.items(&page).await?;
        let Some(last) = items.last() else { break };
        page.before = Some(last.verdict.id);
        all.extend(items);
    }
    all.reverse();
    Ok(all)
}

/// Adds the labels that are not there yet, oldest first. Nothing is added when one names an unknown item or class.
///
/// # Errors
/// In words, naming item and class; or the store's.
pub async fn import(store: &Store, mut said: Vec<ImportedLabel>, classes: &[String]) -> Result<Imported> {
    let mut here: BTreeMap<i64, HashSet<_>> = BTreeMap::new();
    for ImportedLabel { verdict, class, .. } in &said {
        if let Some(class) = class {
            ensure!(
                classes.contains(class),
                "verdict {verdict}: there is no class `{class}`, only {}",
                classes.join(", ")
            );
        }
        if here.contains_key(verdict) {
            continue;
        }
        let found = store.verdict(*verdict).await?;
        ensure!(found.is_some_and(|v| v.frame.is_some()), "there is no verdict {verdict} whose picture was kept");
        let labels = store.history(*verdict).await?;
        here.insert(*verdict, labels.into_iter().map(|l| (l.class, l.by, l.at)).collect());
    }
    said.sort_by_key(|s| s.at);
    let mut done = Imported { added: 0, known: 0 };
    for ImportedLabel { verdict, class, by, at } in said {
        if !here.entry(verdict).or_default().insert((class.clone(), by.clone(), at)) {
            done.known += 1;
            continue;
        }
        store.add_label(verdict, class.as_deref(), &by, at).await?;
        done.added += 1;
    }
    Ok(done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::domain::{Action, Verdict, testing::verdict};

    async fn store(folder: &Path) -> Store {
        let store = Store::open(folder).await.unwrap();
        let kept = Verdict { frame: Some("20261125-0123456789abcdef01234567".into()), ..verdict(Action::Reject) };
        store.insert(&[kept.clone(), kept.clone(), kept, verdict(Action::Accept)]).await.unwrap();
        store
    }

    #[tokio::test]
    async fn labels_travel_in_both_formats_and_arrive_once() {
        let root = tempfile::tempdir().unwrap();
        let one = store(&root.path().join("one")).await;
        let at = |s: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(1_795_000_000_500 + s);
        for (id, class, by, s) in
            [(1, Some("cod"), "anna", 1), (1, None, "ben, the \"new\" one", 2), (2, Some("sea bass"), "anna", 3)]
        {
            one.add_label(id, class, by, at(s)).await.unwrap();
        }
        let items = labeled_items(&one).await.unwrap();
        assert_eq!(items.iter().map(|i| i.labels.len()).collect::<Vec<_>>(), [2, 1]);
        let classes = ["cod".to_owned(), "sea bass".to_owned()];
        let json = to_label_studio(&items, "http://line:8080").to_string();
        let csv = to_csv(&items).unwrap();
        assert!(csv.starts_with("file,class,split_group,verdict,by,at\nitems/1.jpg,cod,"), "{csv}");
        for (name, said) in [("json", from_label_studio(&json).unwrap()), ("csv", from_csv(&csv).unwrap())] {
            let other = store(&root.path().join(name)).await;
            assert_eq!(import(&other, said.clone(), &classes).await.unwrap(), Imported { added: 3, known: 0 });
            assert_eq!(labeled_items(&other).await.unwrap(), items, "{name}");
            assert_eq!(import(&other, said, &classes).await.unwrap(), Imported { added: 0, known: 3 }, "{name}");
        }
    }

    #[test]
    fn what_label_studio_itself_exports_is_read() {
        let json = r#"[{"id": 7, "data": {"image": "http://line:8080/items/2.jpg"}, "annotations": [
            {"id": 9, "completed_by": 3, "created_at": "2026-11-25T10:00:00.123456Z", "was_cancelled": false,
             "lead_time": 4.2, "result": [{"id": "x", "from_name": "class", "to_name": "image", "type": "choices",
             "origin": "manual", "value": {"choices": ["cod"]}}]},
            {"id": 10, "completed_by": {"id": 4, "email": "ben@line"}, "created_at": "2026-11-25T10:01:00Z",
             "was_cancelled": true, "result": []}], "predictions": []}]"#;
        let said = from_label_studio(json).unwrap();
        let short: Vec<_> = said.iter().map(|s| (s.verdict, s.class.as_deref(), s.by.as_str())).collect();
        assert_eq!(short, [(2, Some("cod"), "3"), (2, None, "ben@line")]);
        let two = json.replace(r#"["cod"]"#, r#"["cod", "bass"]"#);
        assert_eq!(from_label_studio(&two).unwrap_err().to_string(), "task 1: an annotation needs exactly one choice");
        let nowhere = json.replace("items/2", "things/2");
        assert!(from_label_studio(&nowhere).unwrap_err().to_string().starts_with("task 1: data.verdict"));
    }

    #[tokio::test]
    async fn one_wrong_row_and_nothing_is_imported() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path()).await;
        let classes = ["cod".to_owned()];
        for (row, words) in [
            ("3,bass,anna,2026-11-25T10:00:00Z", "there is no class `bass`, only cod"),
            ("4,cod,anna,2026-11-25T10:00:00Z", "no verdict 4 whose picture was kept"),
            ("9,cod,anna,2026-11-25T10:00:00Z", "no verdict 9"),
        ] {
            let text = format!("verdict,class,by,at\n1,cod,anna,2026-11-25T10:00:00Z\n{row}\n");
            let refused = import(&store, from_csv(&text).unwrap(), &classes).await.unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        assert!(labeled_items(&store).await.unwrap().is_empty());
        for (text, words) in [
            ("verdict,class,at\n", "line 1: there is no column `by`"),
            ("verdict,class,by,at\nx,cod,anna,2026-11-25T10:00:00Z\n", "line 2: verdict"),
            ("verdict,class,by,at\n1,cod,anna,yesterday\n", "line 2: at"),
            ("verdict,class,by,at\n1,cod,,2026-11-25T10:00:00Z\n", "line 2: `by` is empty"),
        ] {
            let refused = from_csv(text).unwrap_err().to_string();
            assert!(refused.starts_with(words), "{refused}");
        }
    }
}
