//! Random operations on a mount and on a plain folder come to the same: results, errors, and what is there then.

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};

use super::*;

/// Few names, so that operations meet.
const NAMES: [&str; 8] = ["a", "b", "d", "e", "d/a", "d/b", "d/e", "d/e/a"];

type Name = &'static str;

#[derive(Debug, Clone)]
enum Op {
    Write(Name, Vec<u8>),
    CreateNew(Name),
    Append(Name, Vec<u8>),
    Truncate(Name, u64),
    Read(Name),
    Rename(Name, Name),
    Mkdir(Name),
    Rmdir(Name),
    Remove(Name),
    List(Name),
    Stat(Name),
    /// Several steps on one handle.
    Open(Name, bool, Vec<Step>),
}

#[derive(Debug, Clone)]
enum Step {
    Put(u64, Vec<u8>),
    Get(u64, usize),
    Push(Vec<u8>),
    Cut(u64),
    Sync,
    Size,
    Rename(Name),
}

fn name() -> impl Strategy<Value = Name> {
    prop::sample::select(&NAMES[..])
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![4 => 0..40_usize, 1 => 4_000..9_000_usize];
    (size, any::<u8>()).prop_map(|(size, seed)| (0..size).map(|n| seed.wrapping_add(n as u8)).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..60_u64, bytes()).prop_map(|(offset, bytes)| Step::Put(offset, bytes)),
        3 => (0..60_u64, 0..9000_usize).prop_map(|(offset, count)| Step::Get(offset, count)),
        2 => bytes().prop_map(Step::Push),
        1 => (0..80_u64).prop_map(Step::Cut),
        1 => Just(Step::Sync),
        1 => Just(Step::Size),
        1 => name().prop_map(Step::Rename),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (name(), bytes()).prop_map(|(name, bytes)| Op::Write(name, bytes)),
        1 => name().prop_map(Op::CreateNew),
        2 => (name(), bytes()).prop_map(|(name, bytes)| Op::Append(name, bytes)),
        2 => (name(), 0..80_u64).prop_map(|(name, len)| Op::Truncate(name, len)),
        2 => name().prop_map(Op::Read),
        3 => (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        3 => name().prop_map(Op::Mkdir),
        1 => name().prop_map(Op::Rmdir),
        2 => name().prop_map(Op::Remove),
        1 => name().prop_map(Op::List),
        2 => name().prop_map(Op::Stat),
        3 => (name(), any::<bool>(), prop::collection::vec(step(), 1..6))
            .prop_map(|(name, create, steps)| Op::Open(name, create, steps)),
    ]
}

/// What came of it, for comparison: text, or the error's number.
type Came = Result<String, Option<i32>>;

fn hex(bytes: &[u8]) -> String {
    format!("{} bytes {bytes:x?}", bytes.len())
}

fn size(meta: &std::fs::Metadata) -> String {
    if meta.is_dir() { "folder".to_owned() } else { format!("{} bytes", meta.len()) }
}

fn apply(root: &Path, op: &Op) -> Came {
    let at = |name: &str| root.join(name);
    let done = |()| String::new();
    let result = match op {
        Op::Write(name, bytes) => std::fs::write(at(name), bytes).map(done),
        Op::CreateNew(name) => {
            OpenOptions::new().write(true).create_new(true).open(at(name)).map(|_| String::new())
        }
        Op::Append(name, bytes) => {
            let file = OpenOptions::new().append(true).create(true).open(at(name));
            file.and_then(|mut file| file.write_all(bytes)).map(done)
        }
        Op::Truncate(name, len) => {
            OpenOptions::new().write(true).open(at(name)).and_then(|file| file.set_len(*len)).map(done)
        }
        Op::Read(name) => std::fs::read(at(name)).map(|bytes| hex(&bytes)),
        Op::Rename(from, to) => std::fs::rename(at(from), at(to)).map(done),
        Op::Mkdir(name) => std::fs::create_dir(at(name)).map(done),
        Op::Rmdir(name) => std::fs::remove_dir(at(name)).map(done),
        Op::Remove(name) => std::fs::remove_file(at(name)).map(done),
        Op::List(name) => list(&at(name)),
        Op::Stat(name) => std::fs::metadata(at(name)).map(|meta| size(&meta)),
        Op::Open(name, create, steps) => {
            let file = OpenOptions::new().read(true).write(true).create(*create).open(at(name));
            file.map(|file| {
                steps.iter().map(|step| format!("{:?}\n", take(root, name, &file, step))).collect()
            })
        }
    };
    result.map_err(|error| error.raw_os_error())
}

fn take(root: &Path, name: &str, file: &File, step: &Step) -> Came {
    let mut file = file;
    let done = |()| String::new();
    let result = match step {
        Step::Put(offset, bytes) => file.write_all_at(bytes, *offset).map(done),
        Step::Get(offset, count) => {
            let mut bytes = vec![0; *count];
            file.read_at(&mut bytes, *offset).map(|count| hex(&bytes[..count]))
        }
        Step::Push(bytes) => file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(bytes)).map(done),
        Step::Cut(len) => file.set_len(*len).map(done),
        Step::Sync => file.sync_all().map(done),
        Step::Size => file.metadata().map(|meta| size(&meta)),
        Step::Rename(to) => std::fs::rename(root.join(name), root.join(to)).map(done),
    };
    result.map_err(|error| error.raw_os_error())
}

fn list(path: &Path) -> std::io::Result<String> {
    let entries = std::fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
    let line = |entry: &std::fs::DirEntry| Ok((entry.file_name(), size(&entry.metadata()?)));
    let lines = entries.iter().map(line).collect::<std::io::Result<BTreeMap<_, _>>>()?;
    Ok(format!("{lines:?}"))
}

/// All that is there.
fn all(root: &Path) -> Vec<(Name, Came)> {
    let come = |name| {
        let path = root.join(name);
        let came = if path.is_dir() { list(&path) } else { std::fs::read(&path).map(|bytes| hex(&bytes)) };
        (name, came.map_err(|error| error.raw_os_error()))
    };
    NAMES.into_iter().map(come).collect()
}

#[test]
fn random_operations_come_to_the_same_as_in_a_plain_folder() {
    let Some(scene) = Scene::new() else { return };
    let plain = tempfile::tempdir().unwrap();
    let runs = Runs { failure_persistence: None, ..Runs::with_cases(cases()) };
    let case = std::cell::Cell::new(0);
    let compare = |ops: Vec<Op>| {
        case.set(case.get() + 1);
        let folder = format!("case-{}", case.get());
        let (ours, plain) = (scene.path(&folder), plain.path().join(&folder));
        std::fs::create_dir(&ours).unwrap();
        std::fs::create_dir(&plain).unwrap();
        for op in &ops {
            prop_assert_eq!(apply(&ours, op), apply(&plain, op), "{:?}", op);
            // What the tree has, past all caches.
            for name in NAMES {
                let has = scene.tree.content(&format!("/{folder}/{name}"));
                let path = plain.join(name);
                prop_assert_eq!(has.is_some(), path.exists(), "{} after {:?}", name, op);
                if path.is_file() {
                    prop_assert_eq!(has, std::fs::read(&path).ok(), "{} after {:?}", name, op);
                }
            }
        }
        prop_assert_eq!(all(&ours), all(&plain));
        Ok(())
    };
    // Prints the seed and the shortest list of operations that differs.
    TestRunner::new(runs).run(&prop::collection::vec(op(), 1..60), compare).unwrap();
}

/// `PROPTEST_CASES`, or enough for a few seconds.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(150)
}
