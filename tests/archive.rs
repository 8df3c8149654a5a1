//! A box's life: read where nothing can be written, archived, restored, opened by a newer program, killed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
};

use beltsight::{
    domain::{Verdict, hash::sha256},
    store::{
        Event, ItemPage, LabelPage, Store, VERSIONS, frame_key, make_earlier, migrate_to, verify, verify_pictures,
    },
};
use common::{
    pictures::jpeg,
    process::{beltsight, fails, succeeds},
    server::{self, Server},
};
use time::OffsetDateTime;

/// User and group without any right of their own.
const NOBODY: u32 = 65_534;

/// Every file below `folder` with its content's hash, by path.
fn contents(folder: &Path) -> Vec<(String, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((path.display().to_string(), sha256(&fs::read(&path).unwrap())));
            }
        }
    }
    found.sort();
    found
}

/// Copies a folder with everything in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Takes from everybody, or gives back, the right to write anything below `folder`.
fn protect(folder: &Path, protected: bool) {
    let mode = |of_folder| if of_folder { 0o755 } else { 0o644 } & if protected { 0o555 } else { 0o777 };
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            protect(&path, protected)
        } else {
            fs::set_permissions(&path, Permissions::from_mode(mode(false))).unwrap()
        }
    }
    fs::set_permissions(folder, Permissions::from_mode(mode(true))).unwrap();
}

/// `beltsight record …` as a user whom the rights of files bind, which they do not bind root.
fn record(arguments: &[&str], store: &Path) -> std::process::Command {
    let mut command = beltsight();
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.arg("record").args(arguments).arg("--store").arg(store);
    command
}

/// Has pictures judged; returns when they are recorded.
async fn judge(server: &Server, n: u32) {
    let before = server.metrics.store.recorded.get();
    for seed in 0..n {
        assert_eq!(server.post("/classify", jpeg(40, seed)).await.status(), 200);
    }
    server.recorded(before + u64::from(n)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_verified_and_exported_where_nothing_can_be_written() {
    let server = server::start().await;
    server.store.begin_lot("K-17", "Ada").await.unwrap();
    judge(&server, 3).await;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    // As a killed service leaves it: much of it stands in the write-ahead log alone.
    let (killed, lost, closed) =
        (folder.path().join("killed"), folder.path().join("lost"), folder.path().join("closed"));
    copy(server.store.folder(), &killed);
    copy(server.store.folder(), &lost);
    fs::remove_file(lost.join("verdicts.sqlite-shm")).unwrap();
    server.store.close().await;
    copy(server.store.folder(), &closed);
    assert!(!closed.join("verdicts.sqlite-wal").exists());
    for of in [&closed, &killed] {
        protect(of, true);
        let before = contents(of);
        let said = succeeds(&mut record(&["verify", "--pictures"], of));
        assert!(said.contains("whole and unchanged") && said.contains("3 verdicts"), "{said}");
        let csv = succeeds(&mut record(&["export", "--lot", "K-17", "--format", "csv"], of));
        assert_eq!(csv.lines().skip(1).filter(|line| line.contains(",verdict,")).count(), 3);
        assert!(
            succeeds(&mut record(&["export", "--lot", "K-17", "--format", "html"], of)).contains("whole and unchanged")
        );
        assert_eq!(contents(of), before, "nothing was written");
        protect(of, false);
    }
    // Without the log's index a part of what was committed can't be read: never is less verified in silence.
    protect(&lost, true);
    for command in [&["verify"][..], &["export", "--lot", "K-17", "--format", "csv"]] {
        let why = fails(&mut record(command, &lost));
        assert!(why.contains("verdicts.sqlite-wal, and their index") && why.contains("copy the folder"), "{why}");
    }
    protect(&lost, false);
    let mut by_its_owner = beltsight(); // who can make it again
    assert!(succeeds(by_its_owner.args(["record", "verify", "--store"]).arg(&lost)).contains("3 verdicts"));
}

/// A configuration that names what the server has, so that commands find it.
fn config(server: &Server, at: &Path) {
    let (store, models) = (server.store.folder().display(), server.models.display());
    let text = format!("[model]\nroot = '{models}'\nversion = 'one'\n[store]\nfolder = '{store}'\n");
    fs::write(at, text).unwrap();
}

/// `beltsight archive …` beside the server.
fn archive(config: &Path, out: &Path, more: &[&str]) -> std::process::Command {
    let mut command = beltsight();
    command.arg("archive").arg("--config").arg(config).arg("--out").arg(out).args(more);
    command
}

/// `beltsight restore …`.
fn restore(archive: &Path, to: &Path) -> std::process::Command {
    let mut command = beltsight();
    command.arg("restore").arg(archive).arg("--to").arg(to);
    command
}

/// A store with pictures, a lot, a label.
async fn fill(server: &Server) {
    server.store.begin_lot("K-17", "Ada").await.unwrap();
    judge(server, 3).await;
    let now = OffsetDateTime::now_utc();
    let taken =
        server.store.verdicts(beltsight::store::Page { limit: 1, ..Default::default() }).await.unwrap().remove(0);
    for n in 0..5u8 {
        let picture = bytes::Bytes::from(vec![n; 20_000]);
        let key = frame_key(&picture, now);
        server.store.put_frame(&key, picture).await.unwrap();
        server.store.insert(&[Verdict { frame: Some(key), ..taken.clone() }]).await.unwrap();
    }
    server.store.add_label(5, Some("salmon"), "Ada", now).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_is_archived_while_it_runs_and_an_empty_machine_goes_on_with_its_record() {
    let server = server::start().await;
    fill(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let (settings, out, new) = (here("beltsight.toml"), here("box.tar.zst"), here("new"));
    config(&server, &settings);
    fs::set_permissions(&settings, Permissions::from_mode(0o600)).unwrap(); // as one that holds passwords
    let said = succeeds(&mut archive(&settings, &out, &["--with", "key"]));
    assert!(said.contains("read back and compared") && said.contains("whole and unchanged"), "{said}");
    assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600, "nobody else reads the key in it");
    judge(&server, 1).await; // after the archive: the restored box knows nothing of it
    let why = fails(&mut archive(&settings, &out, &[]));
    assert!(why.contains("is there already"), "{why}");
    let why = fails(&mut archive(&settings, &server.store.folder().join("box.tar.zst"), &[]));
    assert!(why.contains("lies in a folder that is archived"), "{why}");

    let said = succeeds(&mut restore(&out, &new));
    assert!(said.contains("whole and unchanged") && said.contains("8 verdicts"), "{said}");
    let why = fails(&mut restore(&out, &new));
    assert!(why.contains("is not empty"), "{why}");
    assert_eq!(fs::metadata(new.join("data/record.key")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(contents(&new.join("models")).len(), contents(&server.models).len());
    assert_eq!(fs::read(new.join("beltsight.toml")).unwrap(), fs::read(&settings).unwrap());
    assert_eq!(fs::metadata(new.join("beltsight.toml")).unwrap().mode() & 0o777, 0o600);
    let data = new.join("data");
    let before = verify(&data, None, None).await.unwrap();
    let mark = fs::read(data.join("restored.json")).unwrap();
    for _ in 0..2 {
        let restored = Store::open(&data).await.unwrap();
        let told = restored.events(&["restored"], None).await.unwrap();
        let [entry] = &told[..] else { panic!("{told:?}") };
        let Event::Restored { record, .. } = &entry.event else { panic!("{entry:?}") };
        assert_eq!((record, entry.seq), (&format!("{}:{}", before.entries, before.head), before.entries + 1));
        for id in 1..=8 {
            let (was, is) = (server.store.verdict(id).await.unwrap(), restored.verdict(id).await.unwrap());
            assert_eq!(was, is);
            if let Some(key) = was.and_then(|verdict| verdict.frame) {
                assert_eq!(server.store.frame(&key).await.unwrap(), restored.frame(&key).await.unwrap());
            }
        }
        assert_eq!(restored.verdict(9).await.unwrap(), None);
        let item = ItemPage { limit: 9, verdict: Some(5), ..ItemPage::default() };
        assert_eq!(restored.items(&item).await.unwrap()[0].labels.len(), 1);
        restored.close().await;
        assert!(!data.join("restored.json").exists());
        fs::write(data.join("restored.json"), &mark).unwrap(); // as after a kill right after the entry: not told twice
    }
    assert_eq!(verify(&data, None, None).await.unwrap().findings, []);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "no draft is left: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_an_archive_is_said_and_the_key_can_follow() {
    let server = server::start().await;
    fill(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let (settings, out, new) = (here("beltsight.toml"), here("box.tar.zst"), here("new"));
    config(&server, &settings);
    let said = succeeds(&mut archive(&settings, &out, &["--without", "pictures,models,tokens"]));
    assert!(said.contains("The key that signs the record is not in it"), "{said}");
    fs::create_dir(&new).unwrap(); // an empty folder is as good as none
    let said = succeeds(&mut restore(&out, &new));
    for missing in [
        "The students are not",
        "Access tokens are not",
        "The pictures are not",
        "Before the service starts, put it to",
    ] {
        assert!(said.contains(missing), "{said}");
    }
    let data = new.join("data");
    let why = Store::open(&data).await.err().unwrap().to_string();
    assert!(why.contains("record.key") && why.contains("put it back"), "{why}");
    fs::copy(server.store.folder().join("record.key"), data.join("record.key")).unwrap();
    let restored = Store::open(&data).await.unwrap();
    restored.insert(&[restored.verdict(1).await.unwrap().unwrap()]).await.unwrap();
    restored.close().await;
    assert_eq!(verify(&data, None, None).await.unwrap().findings, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_cut_changed_or_foreign_is_refused_and_leaves_nothing() {
    let server = server::start().await;
    fill(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    let (settings, out, damaged, new) =
        (here("beltsight.toml"), here("box.tar.zst"), here("damaged.tar.zst"), here("new"));
    config(&server, &settings);
    succeeds(&mut archive(&settings, &out, &[]));
    let whole = fs::read(&out).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&damaged, bytes).unwrap();
        let why = fails(&mut restore(&damaged, &new));
        assert!(why.contains("can't be used"), "{what}: {why}");
        assert!(!new.exists() && !folder.path().join(".new.new").exists(), "{what}");
    };
    for cut in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..cut], "cut");
    }
    for place in [10, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        refused(&changed, "a bit turned");
    }
    refused(&[&whole[..], b"more"].concat(), "more behind it");
    // Whoever can write archives can write their lists, too; but not out of the folder.
    let mut files = Vec::new();
    let mut tar = tar::Archive::new(zstd::Decoder::new(&whole[..]).unwrap());
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (name, mut content) = (entry.path().unwrap().to_str().unwrap().to_owned(), Vec::new());
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        files.push((name, content));
    }
    let packed = |files: &[(String, Vec<u8>)]| {
        let mut tar = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1).unwrap());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes()); // as no library would write it
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            tar.append(&header, &content[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    };
    fs::write(&damaged, packed(&files)).unwrap();
    succeeds(&mut restore(&damaged, &here("same")));
    for name in ["../evil", "data/../../evil", "/tmp/evil", "evil", "data", "models/../evil"] {
        let mut foreign = files.clone();
        foreign.insert(1, (name.into(), b"evil".to_vec()));
        refused(&packed(&foreign), name);
    }
    let mut changed = files.clone();
    let picture = changed.iter().position(|(name, _)| name.ends_with(".jpg")).unwrap();
    changed[picture].1[7] ^= 1;
    refused(&packed(&changed), "a changed picture");
    changed = files.clone();
    changed.remove(picture);
    refused(&packed(&changed), "a picture taken out");
    refused(&packed(&files[1..]), "without its head");
    assert!(!here("evil").exists() && !Path::new("/tmp/evil").exists());
}

/// Verdicts of an earlier store: more than one checkpoint, and more than one batch of what is read and written at once.
const VERDICTS: i64 = 2500;

/// Everything is there that version `version` left, the record is whole, and goes on.
async fn all_there(folder: &Path, version: usize, case: &str) {
    let store = Store::open(folder).await.unwrap_or_else(|e| panic!("{case}: {e}"));
    for id in [1, 2, 1024, VERDICTS] {
        let found = store.verdict(id).await.unwrap().unwrap_or_else(|| panic!("{case}: no verdict {id}"));
        assert_eq!((found.track, found.novelty.is_some()), (id as u64, version >= 3), "{case}");
    }
    let labels = store.labels(&LabelPage { limit: 9, ..LabelPage::default() }).await.unwrap();
    let said: Vec<_> = labels.iter().map(|label| (label.verdict, label.class.as_deref(), label.withdrawn)).collect();
    let all = [(11, None, true), (1, Some("cod"), false), (1, Some("salmon"), false)];
    assert_eq!(said, if version >= 2 { &all[..] } else { &[] }, "{case}");
    let pictures = store.items(&ItemPage { limit: 500, ..ItemPage::default() }).await.unwrap().len();
    assert_eq!(pictures, 250 - usize::from(version >= 6), "{case}: one was removed");
    assert_eq!(verify_pictures(folder).unwrap().0, pictures, "{case}");
    let lots: Vec<_> = store.lots(9).await.unwrap().into_iter().map(|lot| (lot.lot, lot.name)).collect();
    assert_eq!(lots, if version >= 3 { vec![(2, "K-17".to_owned())] } else { vec![] }, "{case}");
    assert_eq!(store.deeds(None, 9).await.unwrap().len(), usize::from(version >= 4), "{case}");
    let verdict = store.verdict(1).await.unwrap().unwrap();
    assert_eq!(store.insert(&[verdict]).await.unwrap(), [VERDICTS + 1], "{case}: ids go on");
    store.close().await;
    let found = verify(folder, None, None).await.unwrap();
    assert_eq!((found.findings.as_slice(), found.verdicts), (&[][..], VERDICTS + 1), "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_every_earlier_version_is_opened_whole_with_all_that_was_in_it() {
    for version in 1..=VERSIONS {
        let folder = tempfile::tempdir().unwrap();
        make_earlier(folder.path(), version, VERDICTS).await.unwrap();
        all_there(folder.path(), version, &format!("version {version}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_killed_goes_on_when_the_store_is_opened_next() {
    for version in 1..VERSIONS {
        let killed_after = [version + 1, VERSIONS];
        for killed_after in killed_after.into_iter().take(VERSIONS - version) {
            let folder = tempfile::tempdir().unwrap();
            make_earlier(folder.path(), version, VERDICTS).await.unwrap();
            migrate_to(folder.path(), killed_after).await.unwrap();
            all_there(folder.path(), version, &format!("version {version}, killed after {killed_after}")).await;
        }
    }
}

#[test]
fn kills_during_work_archive_retention_restoring_and_migration_lose_nothing_acknowledged() {
    let kills = common::kills(1).to_string();
    let said = succeeds(beltsight().args(["bench", "kills", "--seed", "7", "--kills", &kills]));
    println!("{said}");
    assert_eq!(said.lines().filter(|line| line.contains(" | 0 | 0 | ")).count(), 5, "{said}");
}
