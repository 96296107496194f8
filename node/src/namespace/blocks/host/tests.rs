use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::conformance::{self, Driver, LIMITS, Model, path};
use super::*;

const WRITABLE: Config = Config {
    access: Access::ReadWrite,
    follow: Follow::Nothing,
    file_bytes_max: LIMITS.file_bytes_max,
    entries_max: 1000,
};

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn open(folder: &TempDir, config: Config) -> (Arc<Host>, Driver) {
    let host = Arc::new(Host::open(folder.path(), config).await.unwrap());
    (Arc::clone(&host), Driver::new(host))
}

fn write(content: &str) -> Change {
    Change::Write(content.as_bytes().to_vec())
}

#[tokio::test]
async fn it_is_a_plain_folder() {
    let folder = folder();
    conformance::suite(&mut open(&folder, WRITABLE).await.1).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

proptest! {
    // Each change waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn random_operations_end_as_in_the_model(ops in conformance::ops()) {
        let folder = folder();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_, driver) = runtime.block_on(open(&folder, WRITABLE));
        conformance::against_model(driver, Model::default(), &ops);
    }
}

#[tokio::test]
async fn what_is_only_read_stays_as_it_is() {
    let folder = folder();
    std::fs::write(folder.path().join("f"), "text").unwrap();
    let (_, mut it) = open(&folder, Config { access: Access::ReadOnly, ..WRITABLE }).await;
    assert_eq!(it.read("/f").await.unwrap(), b"text");
    for change in [write("x"), Change::Append(vec![1]), Change::Remove, Change::Rename(path("/g"))] {
        assert_eq!(it.apply("/f", change).await, Err(Code::PermissionDenied));
    }
    assert_eq!(it.apply("/d", Change::Mkdir).await, Err(Code::PermissionDenied));
    assert_eq!(std::fs::read(folder.path().join("f")).unwrap(), b"text");
}

#[tokio::test]
async fn names_that_no_path_can_hold_are_left_out_and_counted() {
    let folder = folder();
    for name in [b"plain".as_slice(), b"\xff\xfe", b"line\nbreak", b".oa~1-1"] {
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "").unwrap();
    }
    let (host, mut it) = open(&folder, WRITABLE).await;
    assert_eq!(it.names("/").await.unwrap(), ["plain"]);
    assert_eq!(host.skipped(), 2);
    assert_eq!(it.read("/.oa~1-1").await, Err(Code::PermissionDenied));
    assert_eq!(it.apply("/plain", Change::Rename(path("/.oa~x"))).await, Err(Code::PermissionDenied));
}

#[tokio::test]
async fn what_a_crash_left_of_a_write_goes_when_it_is_old() {
    let folder = folder();
    let (old, new) = (folder.path().join(".oa~1-1"), folder.path().join(".oa~1-2"));
    for temp in [&old, &new] {
        std::fs::write(temp, "half").unwrap();
    }
    let yesterday = std::time::SystemTime::now() - Duration::from_hours(24);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(yesterday).unwrap();
    let (_, it) = open(&folder, WRITABLE).await;
    assert_eq!(it.names("/").await.unwrap(), [""; 0]);
    assert!(!old.exists());
    assert!(new.exists(), "somebody may still write to it");
}

#[tokio::test]
async fn a_replaced_file_keeps_its_permissions() {
    let folder = folder();
    let script = folder.path().join("run");
    std::fs::write(&script, "old").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o750)).unwrap();
    let (_, mut it) = open(&folder, WRITABLE).await;
    assert_eq!(it.apply("/run", write("new")).await, Ok(vec![]));
    assert_eq!(std::fs::metadata(&script).unwrap().permissions().mode() & 0o777, 0o750);
    assert_eq!(std::fs::read(&script).unwrap(), b"new");
}

#[tokio::test]
async fn large_files_are_read_in_pieces_and_large_folders_are_refused() {
    let folder = folder();
    std::fs::write(folder.path().join("big"), vec![b'x'; LIMITS.file_bytes_max * 3]).unwrap();
    let (_, it) = open(&folder, Config { entries_max: 2, ..WRITABLE }).await;
    assert_eq!(it.read("/big").await, Err(Code::TooLarge), "not cut in silence");
    let piece = it.read_span("/big", 10_000, LIMITS.file_bytes_max).await.unwrap();
    assert_eq!(piece.len(), LIMITS.file_bytes_max * 3 - 10_000);
    for name in ["a", "b"] {
        std::fs::write(folder.path().join(name), "").unwrap();
    }
    assert_eq!(it.names("/").await, Err(Code::TooLarge));
}

#[tokio::test]
async fn a_lost_answer_is_looked_up_by_what_is_there() {
    let folder = folder();
    let (_, mut it) = open(&folder, WRITABLE).await;
    let done = Ok(LookUp::Done(vec![]));
    assert_eq!(it.look_up("/d", Change::Mkdir).await, Ok(LookUp::NotDone));
    assert_eq!(it.apply("/d", Change::Mkdir).await, Ok(vec![]));
    assert_eq!(it.look_up("/d", Change::Mkdir).await, done);
    assert_eq!(it.look_up("/d", Change::Rename(path("/e"))).await, Ok(LookUp::NotDone));
    assert_eq!(it.apply("/d", Change::Rename(path("/e"))).await, Ok(vec![]));
    assert_eq!(it.look_up("/d", Change::Rename(path("/e"))).await, done);
    assert_eq!(it.look_up("/e", Change::Remove).await, Ok(LookUp::NotDone));
    assert_eq!(it.apply("/e", Change::Remove).await, Ok(vec![]));
    assert_eq!(it.look_up("/e", Change::Remove).await, done);
    assert_eq!(it.look_up("/f", Change::Append(vec![])).await, Ok(LookUp::Unknown));
}

#[tokio::test]
async fn what_is_no_folder_is_not_opened() {
    let folder = folder();
    let file = folder.path().join("f");
    std::fs::write(&file, "").unwrap();
    for wrong in [file.clone(), folder.path().join("none")] {
        let refused = Host::open(wrong, WRITABLE).await.unwrap_err();
        assert!(matches!(refused, OpenError::NoFolder { .. }), "{refused}");
    }
    let (_, it) = open(&folder, WRITABLE).await;
    assert_eq!(it.watch("/").map(|_| ()), Err(Code::Unavailable));
}

/// Waits until a condition on what changed since `since` holds.
async fn until(host: &Host, since: u64, mut holds: impl FnMut(&Changed) -> bool) -> Changed {
    let waiting = async {
        let mut watch = host.follower(&Path::root()).unwrap().watch(&Path::root()).unwrap();
        loop {
            let changed = host.changes(since).unwrap();
            if holds(&changed) {
                return changed;
            }
            watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap()
}

#[tokio::test]
async fn changes_by_anybody_are_told() {
    let folder = folder();
    std::fs::create_dir_all(folder.path().join("d/sub")).unwrap();
    symlink("/tmp", folder.path().join("out")).unwrap();
    let (host, mut it) = open(&folder, Config { follow: Follow::Changes, ..WRITABLE }).await;
    let has = |text: &'static str| move |changed: &Changed| changed.paths.contains(&path(text));
    assert_eq!(host.changes(0).unwrap().paths.len(), 0);
    let (deep, other) = (it.watch("/d/sub/f").unwrap(), it.watch("/other").unwrap());
    std::fs::write(folder.path().join("d/sub/f"), "x").unwrap();
    let mut next = until(&host, 0, has("/d/sub/f")).await.next;
    assert!(deep.has_changed().unwrap());
    assert!(!other.has_changed().unwrap());
    // By ourselves: one change of the file, none of what it was written through.
    assert_eq!(it.apply("/mine", write("x")).await, Ok(vec![]));
    let changed = until(&host, next, has("/mine")).await;
    assert!(changed.paths.iter().all(|path| !path.as_str().contains(TEMP_PREFIX)), "{changed:?}");
    next = changed.next;
    // A new folder is followed, and what it got before that is told.
    std::fs::create_dir_all(folder.path().join("new/deeper")).unwrap();
    std::fs::write(folder.path().join("new/deeper/f"), "").unwrap();
    next = until(&host, next, has("/new/deeper/f")).await.next;
    // One that moved is followed under its new name only.
    std::fs::rename(folder.path().join("new"), folder.path().join("moved")).unwrap();
    next = until(&host, next, has("/moved/deeper/f")).await.next;
    std::fs::write(folder.path().join("moved/deeper/g"), "").unwrap();
    let changed = until(&host, next, has("/moved/deeper/g")).await;
    assert!(changed.is_complete);
    assert!(!changed.paths.iter().any(|path| path.as_str().starts_with("/new")), "{changed:?}");
    next = changed.next;
    std::fs::remove_file(folder.path().join("d/sub/f")).unwrap();
    until(&host, next, has("/d/sub/f")).await;
}

#[tokio::test]
async fn what_is_not_followed_is_said() {
    let folder = folder();
    for number in 0..1010 {
        std::fs::create_dir(folder.path().join(format!("{number}"))).unwrap();
    }
    std::fs::create_dir(folder.path().join("0/beneath")).unwrap();
    let config = Config { follow: Follow::Changes, entries_max: 2000, ..WRITABLE };
    let (_, it) = open(&folder, config).await;
    let refused = (0..1010).filter(|number| it.watch(&format!("/{number}/f")).is_err()).count();
    assert_eq!(refused, 11, "the root is one of the thousand");
    assert!(it.watch("/f").is_ok());
}
