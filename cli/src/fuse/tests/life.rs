//! How a mount begins, what becomes of it when the tree goes away, and how it ends.

use std::process::{Child, Command, Stdio};

use oa_nips::files::Verb;
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::*;
use crate::commands::mount;
use crate::fuse::PointError;
use crate::output::Output;

/// Names the folder that a child process mounts on.
const CHILD: &str = "OA_TEST_FUSE_CHILD";

#[test]
fn a_tree_that_went_away_is_an_error_in_bounded_time() {
    let Some(mut scene) = Scene::short() else { return };
    scene.tree.put("/file", FileType::Value, b"content");
    let mut open = for_both(&scene.path("file")).unwrap();
    open.write_all(b"changed").unwrap();
    scene.tree.silence(Some("/"));
    let started = Instant::now();
    let io = Some(Errno::IO.raw_os_error());
    assert_eq!(errno(std::fs::read_dir(scene.dir.path()).and_then(|mut e| e.next().unwrap())), io);
    assert_eq!(errno(std::fs::read(scene.path("other"))), io);
    assert_eq!(errno(std::fs::create_dir(scene.path("new"))), io);
    assert_eq!(errno(open.sync_all()), io);
    assert!(started.elapsed() < 8 * SHORT, "{:?}", started.elapsed());
    // More than are let through at once: those that wait for their turn have the same time.
    let started = Instant::now();
    std::thread::scope(|scope| {
        let read = |n: i32| errno(std::fs::metadata(scene.path(&format!("file{n}"))));
        let all: Vec<_> = (0..200).map(|n| scope.spawn(move || read(n))).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), io));
    });
    assert!(started.elapsed() < 4 * SHORT, "{:?}", started.elapsed());
    // The mount itself is there.
    assert!(std::fs::metadata(scene.dir.path()).unwrap().is_dir());
    let started = Instant::now();
    let unmounted = scene.unmount();
    assert_eq!(unmounted, Unmounted::Busy { unsent: vec!["/file".into()] });
    assert!(!is_mounted(scene.dir.path()));
    assert!(started.elapsed() < DEADLINE);
    drop(open);
}

#[test]
fn a_tree_that_comes_back_is_shown_again() {
    let Some(scene) = Scene::short() else { return };
    scene.tree.put("/file", FileType::Value, b"content");
    scene.tree.silence(Some("/"));
    let create = || File::create(scene.path("file"));
    assert!(create().is_err());
    scene.tree.silence(None);
    assert_eq!(std::fs::read(scene.path("file")).unwrap(), b"content");
    let mut file = create().unwrap();
    file.write_all(b"kept").unwrap();
    scene.tree.silence(Some("/"));
    assert!(file.sync_all().is_err());
    scene.tree.silence(None);
    file.sync_all().unwrap();
    assert_eq!(scene.tree.content("/file").unwrap(), b"kept");
}

#[test]
fn unmounting_is_clean_and_leaves_the_folder() {
    let Some(mut scene) = Scene::new() else { return };
    scene.tree.put("/file", FileType::Value, b"content");
    scene.tree.delay(Duration::from_millis(1));
    assert_eq!(std::fs::read(scene.path("file")).unwrap(), b"content");
    assert!(is_mounted(scene.dir.path()));
    assert_eq!(scene.unmount(), Unmounted::Clean);
    assert!(!is_mounted(scene.dir.path()));
    assert_eq!(std::fs::read_dir(scene.dir.path()).unwrap().count(), 0);
}

#[test]
fn somebody_else_unmounts() {
    let Some(mut scene) = Scene::new() else { return };
    let tool =
        if scene.runtime.block_on(has("fusermount3")) { ["fusermount3", "-u"] } else { ["umount", "-v"] };
    assert!(Command::new(tool[0]).arg(tool[1]).arg(scene.dir.path()).output().unwrap().status.success());
    let mounted = scene.mounted.as_ref().unwrap();
    scene.runtime.block_on(async { tokio::time::timeout(DEADLINE, mounted.ended()).await }).unwrap();
    // Another mount took the place: it stays.
    let point = scene.runtime.block_on(Point::prepare(scene.dir.path())).unwrap();
    let tree = Arc::new(MemoryTree::default());
    tree.put("/other", FileType::Value, b"other");
    let other = scene.runtime.block_on(crate::fuse::mount(tree, point, Config::default())).unwrap();
    assert_eq!(scene.unmount(), Unmounted::Clean);
    assert_eq!(std::fs::read(scene.path("other")).unwrap(), b"other");
    scene.mounted = Some(other);
}

#[test]
fn a_connection_that_was_cut_off_leaves_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    if !rustix::process::geteuid().is_root() {
        return eprintln!("NOT TESTED: only root cuts off");
    }
    scene.tree.put("/file", FileType::Value, b"content");
    // Busy, so that it is dead and still there.
    let open = File::open(scene.path("file")).unwrap();
    assert!(!Command::new("umount").arg("-f").arg(scene.dir.path()).output().unwrap().status.success());
    assert!(is_mounted(scene.dir.path()));
    let mounted = scene.mounted.as_ref().unwrap();
    scene.runtime.block_on(async { tokio::time::timeout(DEADLINE, mounted.ended()).await }).unwrap();
    scene.unmount();
    assert!(!is_mounted(scene.dir.path()));
    drop(open);
}

async fn has(program: &str) -> bool {
    tokio::process::Command::new(program).arg("-V").output().await.is_ok()
}

#[test]
fn dropping_a_mount_unmounts_it() {
    let Some(mut scene) = Scene::new() else { return };
    scene.tree.put("/file", FileType::Value, b"content");
    let open = File::open(scene.path("file")).unwrap();
    drop(scene.mounted.take());
    assert!(!is_mounted(scene.dir.path()));
    drop(open);
}

#[test]
fn only_an_empty_folder_that_is_not_mounted_is_taken() {
    let Some(scene) = Scene::new() else { return };
    let prepare = |path: &Path| scene.runtime.block_on(Point::prepare(path)).unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(prepare(&dir.path().join("none")), PointError::Missing(_)));
    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(matches!(prepare(&dir.path().join("file")), PointError::NotFolder(_)));
    assert!(matches!(prepare(dir.path()), PointError::NotEmpty(_)));
    assert!(matches!(prepare(scene.dir.path()), PointError::Mounted(_)));
    scene.tree.put("/file", FileType::Value, b"");
    assert!(matches!(prepare(scene.dir.path()), PointError::Mounted(_)));
}

/// Not a test of its own: the command as others start it, to send it signals.
#[test]
fn child_that_mounts() {
    let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let connect = async || {
        let tree = MemoryTree::default();
        tree.put("/file", FileType::Value, b"content");
        Ok(tree)
    };
    let output = Output { json: true };
    runtime().block_on(mount::run(output, mount::Mount { dir }, connect)).unwrap();
}

fn child(scene: &Scene) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fuse::tests::life::child_that_mounts", "--nocapture"])
        .env(CHILD, scene.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("the child's mount", || is_mounted(scene.dir.path()));
    child
}

#[test]
fn a_signal_unmounts() {
    let Some(mut scene) = Scene::new() else { return };
    scene.unmount();
    for (signal, is_busy) in [(Signal::TERM, false), (Signal::INT, true)] {
        let child = child(&scene);
        wait_for("the file", || scene.path("file").exists());
        let mut open = for_both(&scene.path("file")).unwrap();
        open.write_all(b"changed").unwrap();
        let open = is_busy.then_some(open);
        rustix::process::kill_process(Pid::from_child(&child), signal).unwrap();
        let done = child.wait_with_output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && !is_mounted(scene.dir.path()), "{err}");
        let path = scene.dir.path().canonicalize().unwrap();
        assert!(
            out.contains(&format!("{{\"event\":\"ready\",\"mount\":{:?}}}\n", path.display().to_string())),
            "{out}"
        );
        assert!(out.contains("{\"event\":\"stopping\"}\n"), "{out}");
        assert_eq!(
            err.contains("files were still open; they are cut off\nnot saved: /file\n"),
            is_busy,
            "{err}"
        );
        // Whoever has something open learns it.
        assert!(open.is_none_or(|open| open.sync_all().is_err()));
    }
}

#[test]
fn a_mount_whose_process_was_killed_is_mended() {
    let Some(mut scene) = Scene::new() else { return };
    scene.unmount();
    let mut child = child(&scene);
    child.kill().unwrap();
    child.wait().unwrap();
    let stale = Some(Errno::NOTCONN.raw_os_error());
    wait_for("the stale mount", || errno(std::fs::metadata(scene.dir.path())) == stale);
    let point = scene.runtime.block_on(Point::prepare(scene.dir.path())).unwrap();
    assert!(point.was_stale());
    let tree = Arc::<MemoryTree>::clone(&scene.tree);
    scene.mounted = Some(scene.runtime.block_on(crate::fuse::mount(tree, point, Config::default())).unwrap());
    std::fs::write(scene.path("file"), "again").unwrap();
    assert_eq!(scene.tree.asked(Verb::Write), ["again"]);
}
