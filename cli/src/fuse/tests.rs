//! A tree in memory, mounted for true. Where that cannot be done, each test says that it did not take place.

mod life;
mod random;
mod types;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use oa_nips::files::FileType;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::memory::MemoryTree;
use super::{Config, Mounted, Point, Unmounted};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(20);
/// What the tree is given to answer here.
const SHORT: Duration = Duration::from_millis(500);

/// After this long a mount is cut off: a test that hangs in a request to its own process could not even be killed.
const HANGS: Duration = Duration::from_secs(100);

/// A mount of its own.
struct Scene {
    tree: Arc<MemoryTree>,
    mounted: Option<Mounted>,
    dir: TempDir,
    runtime: Runtime,
    _watchdog: Watchdog,
}

impl Scene {
    /// None where nothing can be mounted.
    fn new() -> Option<Self> {
        Self::with(Config::default())
    }

    /// With little patience.
    fn short() -> Option<Self> {
        Self::with(Config { deadline: SHORT, ..Config::default() })
    }

    fn with(config: Config) -> Option<Self> {
        let runtime = runtime();
        let dir = tempfile::tempdir().unwrap();
        if let Err(reason) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
            eprintln!("NOT TESTED: no FUSE here: /dev/fuse: {reason}");
            return None;
        }
        let tree = Arc::new(MemoryTree::default());
        let point = match runtime.block_on(Point::prepare(dir.path())) {
            Ok(point) => point,
            Err(super::PointError::NoFusermount) => {
                eprintln!("NOT TESTED: no FUSE here: fusermount3 is missing");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let shown: Arc<dyn super::RemoteTree> = Arc::<MemoryTree>::clone(&tree);
        match runtime.block_on(super::mount(shown, point, config)) {
            Ok(mounted) => {
                let _watchdog = Watchdog::new(dir.path());
                Some(Self { tree, mounted: Some(mounted), dir, runtime, _watchdog })
            }
            Err(error) => {
                eprintln!("NOT TESTED: no FUSE here: {}", crate::error::chain(&error));
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unmount(&mut self) -> Unmounted {
        let mounted = self.mounted.take().unwrap();
        self.runtime.block_on(mounted.unmount()).unwrap()
    }
}

impl Drop for Scene {
    /// Before the folder is removed, which would empty the tree.
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let unmounted = self.runtime.block_on(mounted.unmount());
            if !std::thread::panicking() {
                assert_eq!(unmounted.unwrap(), Unmounted::Clean);
            }
        }
    }
}

/// Cuts a mount off unless it is dropped in time.
struct Watchdog {
    _alive: mpsc::Sender<()>,
}

impl Watchdog {
    fn new(path: &Path) -> Self {
        let (alive, dropped) = mpsc::channel::<()>();
        let path = path.to_owned();
        std::thread::spawn(move || {
            if dropped.recv_timeout(HANGS) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a mount hangs, and is cut off");
                // Only `-f` ends what is under way; it needs root, as a container's CI has.
                let _ = std::process::Command::new("umount").arg("-f").arg(path).output();
            }
        });
        Self { _alive: alive }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Whether anything is mounted there.
fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.contains(&format!(" {} ", path.canonicalize().unwrap_or_else(|_| path.to_owned()).display()))
}

fn for_both(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn read_some(file: &mut File) -> std::io::Result<String> {
    let mut bytes = [0; 4096];
    let count = file.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err()?.raw_os_error()
}

/// Until it holds; a test that waits in vain fails.
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
