//! What can be known of the program that closes a file: the kernel says of each descriptor that is closed, not
//! whether it was the last.

use std::path::Path;

/// Who opens or closes: a thread, by its number.
pub(super) type Pid = u32;

/// Whether two threads are of one process. When the first has ended, nobody can tell, and it is said that not.
pub(super) fn is_same(one: Pid, other: Pid) -> bool {
    one == other || Path::new(&format!("/proc/{one}/task/{other}")).exists()
}

/// Whether a process has a descriptor of a file. What cannot be looked into has none.
pub(super) fn has_open(pid: Pid, path: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    // The link is text to the kernel: reading it asks no file system, ours least of all.
    descriptors.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|open| open == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread() -> Pid {
        let link = std::fs::read_link("/proc/thread-self").unwrap();
        link.file_name().unwrap().to_str().unwrap().parse().unwrap()
    }

    #[test]
    fn a_process_is_known_by_its_threads_and_descriptors() {
        let me = std::process::id();
        let here = thread();
        let ended = std::thread::spawn(thread).join().unwrap();
        assert!(is_same(me, me) && is_same(here, me) && is_same(me, here));
        assert!(!is_same(me, 1) && !is_same(ended, me));
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().canonicalize().unwrap();
        assert!(has_open(me, &path) && has_open(here, &path));
        drop(file.into_file());
        assert!(!has_open(me, &path) && !has_open(u32::MAX, &path));
    }
}
