//! A host folder against whoever shares the machine: nothing leads out of it, and nothing in it blocks.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path as HostPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oa_nips::files::Code;
use oa_nips::nostr::Keys;
use oa_node::namespace::blocks::Host;
use oa_node::namespace::blocks::host::{Access, Config};
use oa_node::namespace::path::{Path, PathError};
use oa_node::namespace::rights::Role;
use oa_node::namespace::service::{Change, Context, FileService as _, Span};
use rustix::fs::{CWD, FileType, Mode, RenameFlags};
use tempfile::TempDir;

/// A folder that is served, and one beside it that nobody may reach.
struct World {
    _folder: TempDir,
    inside: std::path::PathBuf,
    outside: std::path::PathBuf,
    host: Host,
}

const SECRET: &[u8] = b"a secret of the host";

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("f"), SECRET).unwrap();
        let host = open(&inside).await;
        Self { _folder: folder, inside, outside, host }
    }

    /// What is outside, by name and content.
    fn outside(&self) -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let entries = fs::read_dir(&self.outside).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }

    fn is_untouched(&self) -> bool {
        self.outside() == [("f".into(), SECRET.to_vec())]
    }
}

async fn open(folder: &HostPath) -> Host {
    let config = Config { access: Access::ReadWrite, ..Config::default() };
    Host::open(folder, config).await.unwrap()
}

fn cx() -> Context<'static> {
    let caller = Keys::parse(&format!("{:064x}", 7)).unwrap().public_key();
    Context { role: Role::Agent, caller, subject: None, wake: None, now_ms: 0, key: [0; 32] }
}

fn path(text: &str) -> Path {
    text.parse().unwrap()
}

async fn read(host: &Host, at: &str) -> Result<Vec<u8>, Code> {
    // What blocks fails here.
    let (cx, at) = (cx(), path(at));
    let reading = tokio::time::timeout(Duration::from_secs(10), host.read(&cx, &at, Span::ALL));
    reading.await.expect("an answer").map_err(|error| error.code)
}

async fn act(host: &Host, at: &str, change: Change) -> Result<(), Code> {
    let (cx, at) = (cx(), path(at));
    let acting = tokio::time::timeout(Duration::from_secs(10), host.act(&cx, &at, &change));
    acting.await.expect("an answer").map(|_| ()).map_err(|error| error.code)
}

async fn names(host: &Host, at: &str) -> Result<Vec<String>, Code> {
    let listed = host.list(&cx(), &path(at)).await.map_err(|error| error.code)?;
    Ok(listed.into_iter().map(|stat| stat.name).collect())
}

/// Every way to touch a path.
async fn every_verb(host: &Host, at: &str) -> Vec<(&'static str, Result<(), Code>)> {
    vec![
        ("stat", host.stat(&cx(), &path(at)).await.map(|_| ()).map_err(|error| error.code)),
        ("read", read(host, at).await.map(|_| ())),
        ("list", names(host, at).await.map(|_| ())),
        ("write", act(host, at, Change::Write(b"owned".to_vec())).await),
        ("append", act(host, at, Change::Append(b"owned".to_vec())).await),
        ("remove", act(host, at, Change::Remove).await),
        ("rename", act(host, at, Change::Rename(path("/moved"))).await),
        ("rename to", act(host, "/plain", Change::Rename(path(at))).await),
    ]
}

#[test]
fn what_is_no_path_never_reaches_a_folder() {
    let long = format!("/{}", "x".repeat(5000));
    let deep = format!("/{}", "x/".repeat(2500));
    for (text, why) in [
        ("/..", PathError::Dots),
        ("/a/../../etc/passwd", PathError::Dots),
        ("/./a", PathError::Dots),
        ("../a", PathError::Relative),
        ("etc/passwd", PathError::Relative),
        ("", PathError::Relative),
        ("//etc/passwd", PathError::Empty),
        ("/a//b", PathError::Empty),
        ("/a\0b", PathError::Control),
        ("/a\nb", PathError::Control),
        (&long, PathError::TooLong),
        (&deep, PathError::TooLong),
    ] {
        assert_eq!(text.parse::<Path>(), Err(why), "{text:.40}");
    }
}

#[tokio::test]
async fn links_lead_nowhere() {
    let world = World::new().await;
    let (inside, host) = (&world.inside, &world.host);
    fs::write(inside.join("plain"), "plain").unwrap();
    symlink(world.outside.join("f"), inside.join("file")).unwrap();
    symlink("../outside/f", inside.join("relative")).unwrap();
    symlink(&world.outside, inside.join("folder")).unwrap();
    symlink("plain", inside.join("within")).unwrap();
    symlink("/proc/self/root", inside.join("magic")).unwrap();
    symlink("loop", inside.join("loop")).unwrap();
    symlink("nothing", inside.join("dangling")).unwrap();
    assert_eq!(names(host, "/").await.unwrap(), ["plain"]);
    for link in ["/file", "/relative", "/folder", "/within", "/magic", "/loop", "/dangling"] {
        for (verb, done) in every_verb(host, link).await {
            assert_eq!(done, Err(Code::PermissionDenied), "{verb} {link}");
        }
        let made = act(host, link, Change::Mkdir).await;
        assert_eq!(made, Err(Code::Exists), "{link}");
    }
    for beneath in ["/folder/f", "/magic/etc/passwd", "/within/x", "/folder/new"] {
        for (verb, done) in every_verb(host, beneath).await {
            assert_eq!(done, Err(Code::PermissionDenied), "{verb} {beneath}");
        }
        assert_eq!(act(host, beneath, Change::Mkdir).await, Err(Code::PermissionDenied), "{beneath}");
    }
    assert!(world.is_untouched());
    assert_eq!(read(host, "/plain").await.unwrap(), b"plain");
    let links = fs::read_dir(inside).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_symlink());
    assert_eq!(links.count(), 7, "and no link was replaced");
}

/// Swaps two names all the time until it is stopped.
struct Swapping {
    is_over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Swapping {
    fn start(one: std::path::PathBuf, other: std::path::PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let swap = move || {
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        };
        Self { is_over, thread: std::thread::spawn(swap) }
    }

    fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Rounds against a thread that swaps; enough to lose the race a hundred times where opening is by name.
const ROUNDS: usize = 2000;

#[tokio::test]
async fn a_link_put_in_place_of_a_folder_meanwhile_leads_nowhere() {
    let world = World::new().await;
    let folder = world.inside.join("d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("f"), "inside").unwrap();
    symlink(&world.outside, world.inside.join("link")).unwrap();
    let swapping = Swapping::start(folder, world.inside.join("link"));
    let (mut good, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        match read(&world.host, "/d/f").await {
            Ok(content) => {
                assert_eq!(content, b"inside", "round {round}");
                good += 1;
            }
            Err(code) => {
                assert_eq!(code, Code::PermissionDenied, "round {round}");
                refused += 1;
            }
        }
        let listed = names(&world.host, "/d").await;
        assert!(matches!(listed, Ok(_) | Err(Code::PermissionDenied)), "{listed:?}");
        if round % 20 == 0 {
            let written = act(&world.host, "/d/w", Change::Write(b"owned".to_vec())).await;
            assert!(matches!(written, Ok(()) | Err(Code::PermissionDenied)), "{written:?}");
            let moved = act(&world.host, "/d/w", Change::Rename(path("/w"))).await;
            assert!(matches!(moved, Ok(()) | Err(Code::PermissionDenied | Code::NotFound)), "{moved:?}");
        }
    }
    let swaps = swapping.stop();
    assert!(world.is_untouched(), "{:?}", world.outside());
    assert!(good > 0 && refused > 0, "{good} read, {refused} refused, {swaps} swaps: nothing was raced");
}

#[tokio::test]
async fn a_link_put_in_place_of_a_file_meanwhile_leads_nowhere() {
    let world = World::new().await;
    let file = world.inside.join("f");
    fs::write(&file, "inside").unwrap();
    symlink(world.outside.join("f"), world.inside.join("link")).unwrap();
    let swapping = Swapping::start(file, world.inside.join("link"));
    let (mut good, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        match read(&world.host, "/f").await {
            Ok(content) => {
                assert!(content.starts_with(b"inside"), "round {round}");
                good += 1;
            }
            Err(code) => {
                assert_eq!(code, Code::PermissionDenied, "round {round}");
                refused += 1;
            }
        }
        if round % 20 == 0 {
            let added = act(&world.host, "/f", Change::Append(b"+".to_vec())).await;
            assert!(matches!(added, Ok(()) | Err(Code::PermissionDenied)), "{added:?}");
        }
    }
    let swaps = swapping.stop();
    assert!(world.is_untouched(), "{:?}", world.outside());
    assert!(good > 0 && refused > 0, "{good} read, {refused} refused, {swaps} swaps: nothing was raced");
}

#[tokio::test]
async fn pipes_sockets_and_devices_are_refused_without_waiting() {
    let world = World::new().await;
    let inside = &world.inside;
    fs::write(inside.join("plain"), "plain").unwrap();
    rustix::fs::mknodat(CWD, inside.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let _listening = UnixListener::bind(inside.join("socket")).unwrap();
    assert_eq!(names(&world.host, "/").await.unwrap(), ["plain"]);
    for special in ["/pipe", "/socket"] {
        for (verb, done) in every_verb(&world.host, special).await {
            let expected = if verb == "list" { Code::NotDir } else { Code::PermissionDenied };
            assert_eq!(done, Err(expected), "{verb} {special}");
        }
    }
    // With somebody at its other end a pipe could be written to.
    let reader = fs::File::options().read(true).write(true).open(inside.join("pipe")).unwrap();
    let written = act(&world.host, "/pipe", Change::Append(b"x".to_vec())).await;
    assert_eq!(written, Err(Code::PermissionDenied));
    drop(reader);
    let devices = Host::open("/dev", Config::default()).await.unwrap();
    for device in ["/null", "/zero", "/tty"] {
        assert_eq!(read(&devices, device).await, Err(Code::PermissionDenied), "{device}");
    }
    assert!(!names(&devices, "/").await.unwrap().contains(&"null".to_owned()));
}

#[tokio::test]
async fn look_alikes_are_plain_names() {
    let world = World::new().await;
    // Full-width dots and slash, a division slash, and the same letter composed and not.
    for name in ["．．", "．", "∕etc∕passwd", "／etc", "..\u{200b}", "%2e%2e", "..\\outside", "é", "e\u{301}"]
    {
        let at = format!("/{name}");
        act(&world.host, &at, Change::Write(name.as_bytes().to_vec())).await.unwrap();
        assert_eq!(fs::read(world.inside.join(name)).unwrap(), name.as_bytes(), "{name}");
    }
    act(&world.host, "/．．", Change::Remove).await.unwrap();
    act(&world.host, "/．．", Change::Mkdir).await.unwrap();
    assert_eq!(read(&world.host, "/．．/outside/f").await, Err(Code::NotFound));
    assert!(world.is_untouched());
}

#[tokio::test]
async fn the_folder_that_was_opened_stays_the_one_that_is_served() {
    let world = World::new().await;
    fs::write(world.inside.join("f"), "inside").unwrap();
    fs::rename(&world.inside, world.inside.with_file_name("moved")).unwrap();
    symlink(&world.outside, &world.inside).unwrap();
    assert_eq!(read(&world.host, "/f").await.unwrap(), b"inside");
}
