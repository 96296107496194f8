//! Which number stands for which path, as long as the kernel knows the number: it counts what it was told, and says
//! when it forgets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fuser::Errno;
use oa_nips::files::FileType;

/// The number of the mount itself.
pub(super) const ROOT: u64 = 1;
/// Numbers at once, some 200 bytes each. A kernel that is short of memory forgets by itself.
const INODES_MAX: usize = 1 << 18;
/// Longest name, in bytes; as everywhere.
const NAME_BYTES_MAX: usize = 255;

/// The table of a mount.
#[derive(Debug)]
pub(super) struct Inodes(Mutex<Table>);

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inode {
    /// The number.
    pub(super) ino: u64,
    /// What it is.
    pub(super) kind: FileType,
    /// Bytes, as the tree last said.
    pub(super) size: u64,
    /// When the mount first saw this size: the tree tells no times, and programs compare them.
    pub(super) changed: SystemTime,
}

#[derive(Debug)]
struct Table {
    nodes: HashMap<u64, Node>,
    by_path: BTreeMap<Arc<str>, u64>,
    /// Created here and not yet sent: the tree does not know them.
    new: BTreeSet<u64>,
    next: u64,
    max: usize,
    mounted: SystemTime,
}

#[derive(Debug)]
struct Node {
    inode: Inode,
    /// None when it was removed or replaced while somebody has it open.
    path: Option<Arc<str>>,
    /// How often the kernel was told of it.
    lookups: u64,
}

impl Inodes {
    /// A table that knows the root.
    pub(super) fn new() -> Self {
        Self::with_max(INODES_MAX)
    }

    fn with_max(max: usize) -> Self {
        let mounted = SystemTime::now();
        let (nodes, by_path) = (HashMap::new(), BTreeMap::new());
        let mut table = Table { nodes, by_path, new: BTreeSet::new(), next: ROOT, max, mounted };
        table.add(Arc::from("/"), FileType::Dir, 0);
        Self(Mutex::new(table))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a number.
    ///
    /// # Errors
    /// `ESTALE`
    pub(super) fn get(&self, ino: u64) -> Result<Inode, Errno> {
        self.table().nodes.get(&ino).map(|node| node.inode).ok_or(Errno::ESTALE)
    }

    /// Where it is now.
    ///
    /// # Errors
    /// `ESTALE` when it is nowhere any more.
    pub(super) fn path(&self, ino: u64) -> Result<Arc<str>, Errno> {
        self.table().nodes.get(&ino).and_then(|node| node.path.clone()).ok_or(Errno::ESTALE)
    }

    /// What is at a path, if the kernel knows it.
    pub(super) fn kind_at(&self, path: &str) -> Option<FileType> {
        let table = self.table();
        table.nodes.get(table.by_path.get(path)?).map(|node| node.inode.kind)
    }

    /// The path of a name in a folder.
    ///
    /// # Errors
    /// `EINVAL` for what no tree can have, `ENAMETOOLONG`, `ESTALE`
    pub(super) fn child(&self, parent: u64, name: &OsStr) -> Result<String, Errno> {
        let parent = self.path(parent)?;
        let name = name.to_str().filter(|name| is_name(name)).ok_or(Errno::EINVAL)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(join(&parent, name))
    }

    /// The tree has this, and the kernel will be told: counts one look-up.
    ///
    /// # Errors
    /// `ENFILE` when there are too many.
    pub(super) fn enter(&self, path: &str, kind: FileType, size: u64) -> Result<Inode, Errno> {
        let mut table = self.table();
        if let Some(ino) = table.by_path.get(path).copied() {
            if let Ok(inode) = table.note(ino, kind, size) {
                table.count(ino);
                return Ok(inode);
            }
            // A folder where a file was: whoever has the old one open keeps its number.
            table.detach(path);
        }
        table.has_room()?;
        Ok(table.add(Arc::from(path), kind, size))
    }

    /// A file is created here, of which the tree does not know yet: counts one look-up.
    ///
    /// # Errors
    /// `ENFILE` when there are too many.
    pub(super) fn create(&self, path: &str) -> Result<Inode, Errno> {
        let mut table = self.table();
        table.has_room()?;
        table.detach(path);
        let inode = table.add(Arc::from(path), FileType::Value, 0);
        table.new.insert(inode.ino);
        Ok(inode)
    }

    /// Whether the tree does not know it yet.
    pub(super) fn is_new(&self, ino: u64) -> bool {
        self.table().new.contains(&ino)
    }

    /// The file at a path of which the tree does not know yet: counts one look-up.
    pub(super) fn enter_new(&self, path: &str) -> Option<Inode> {
        let mut table = self.table();
        let ino = table.by_path.get(path).copied().filter(|ino| table.new.contains(ino))?;
        table.count(ino);
        table.nodes.get(&ino).map(|node| node.inode)
    }

    /// Names in a folder of which the tree does not know yet.
    pub(super) fn new_in(&self, folder: &str) -> Vec<String> {
        let table = self.table();
        let paths = table.new.iter().filter_map(|ino| table.nodes.get(ino)?.path.as_deref());
        let split = paths.filter_map(|path| path.rsplit_once('/'));
        let folder = if folder == "/" { "" } else { folder };
        split.filter(|(parent, _)| *parent == folder).map(|(_, name)| name.to_owned()).collect()
    }

    /// The tree says anew what it is.
    ///
    /// # Errors
    /// `ESTALE` when a folder became a file, or the reverse.
    pub(super) fn note(&self, ino: u64, kind: FileType, size: u64) -> Result<Inode, Errno> {
        self.table().note(ino, kind, size)
    }

    /// The tree took what was written.
    pub(super) fn sent(&self, ino: u64) {
        let mut table = self.table();
        table.new.remove(&ino);
        table.touch(ino, SystemTime::now());
    }

    /// Somebody wants it to have this time; kept as long as the number.
    pub(super) fn touch(&self, ino: u64, at: SystemTime) {
        self.table().touch(ino, at);
    }

    /// It was removed here.
    pub(super) fn detach(&self, path: &str) {
        self.table().detach(path);
    }

    /// It was moved here, with all beneath; what was at `to` is replaced.
    pub(super) fn moved(&self, from: &str, to: &str) {
        self.table().moved(from, to);
    }

    /// The kernel forgets so many look-ups.
    pub(super) fn forget(&self, ino: u64, lookups: u64) {
        let mut table = self.table();
        let Some(node) = table.nodes.get_mut(&ino).filter(|_| ino != ROOT) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0 {
            table.remove(ino);
        }
    }
}

impl Table {
    fn has_room(&self) -> Result<(), Errno> {
        if self.nodes.len() < self.max { Ok(()) } else { Err(Errno::ENFILE) }
    }

    fn add(&mut self, path: Arc<str>, kind: FileType, size: u64) -> Inode {
        let ino = self.next;
        self.next += 1;
        let inode = Inode { ino, kind, size, changed: self.mounted };
        self.by_path.insert(Arc::clone(&path), ino);
        self.nodes.insert(ino, Node { inode, path: Some(path), lookups: 1 });
        inode
    }

    fn count(&mut self, ino: u64) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.lookups = node.lookups.saturating_add(1);
        }
    }

    fn note(&mut self, ino: u64, kind: FileType, size: u64) -> Result<Inode, Errno> {
        let inode = &mut self.nodes.get_mut(&ino).ok_or(Errno::ESTALE)?.inode;
        if (inode.kind == FileType::Dir) != (kind == FileType::Dir) {
            return Err(Errno::ESTALE);
        }
        if inode.size != size {
            inode.changed = SystemTime::now();
        }
        (inode.kind, inode.size) = (kind, size);
        Ok(*inode)
    }

    fn touch(&mut self, ino: u64, at: SystemTime) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.inode.changed = at;
        }
    }

    fn detach(&mut self, path: &str) {
        if let Some(ino) = self.by_path.remove(path) {
            self.new.remove(&ino);
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.path = None;
            }
        }
    }

    fn moved(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        self.detach(to);
        // '0' follows '/': these are all paths that begin with `from/`.
        let (first, after) = (format!("{from}/"), format!("{from}0"));
        let beneath = (Bound::Included(first.as_str()), Bound::Excluded(after.as_str()));
        let beneath = self.by_path.range::<str, _>(beneath);
        let mut old: Vec<Arc<str>> = beneath.map(|(path, _)| Arc::clone(path)).collect();
        old.push(Arc::from(from));
        for old in old {
            let Some(ino) = self.by_path.remove(&old) else { continue };
            let rest = old.strip_prefix(from).unwrap_or_default();
            let new: Arc<str> = Arc::from(format!("{to}{rest}"));
            self.by_path.insert(Arc::clone(&new), ino);
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.path = Some(new);
            }
        }
    }

    fn remove(&mut self, ino: u64) {
        self.new.remove(&ino);
        if let Some(path) = self.nodes.remove(&ino).and_then(|node| node.path) {
            self.by_path.remove(&path);
        }
    }
}

/// Whether a tree can have a file of this name; a tree that lists another one is not believed.
pub(super) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// The path of a name in a folder.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder == "/" { format!("/{name}") } else { format!("{folder}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inodes: &Inodes, path: &str) -> u64 {
        inodes.enter(path, FileType::Value, 1).unwrap().ino
    }

    fn at(inodes: &Inodes, ino: u64) -> Option<String> {
        inodes.path(ino).ok().map(|path| path.to_string())
    }

    #[test]
    fn a_number_lives_as_long_as_the_kernel_knows_it() {
        let inodes = Inodes::new();
        let ino = file(&inodes, "/a");
        assert_eq!(file(&inodes, "/a"), ino);
        inodes.forget(ino, 1);
        assert_eq!(at(&inodes, ino).as_deref(), Some("/a"));
        inodes.forget(ino, 1);
        assert_eq!(inodes.get(ino), Err(Errno::ESTALE));
        assert_ne!(file(&inodes, "/a"), ino);
        inodes.forget(ROOT, 1000);
        assert_eq!(at(&inodes, ROOT).as_deref(), Some("/"));
        let table = inodes.table();
        assert_eq!((table.nodes.len(), table.by_path.len()), (2, 2));
    }

    #[test]
    fn there_is_a_bound_and_forgetting_makes_room() {
        let inodes = Inodes::with_max(3);
        let first = file(&inodes, "/a");
        file(&inodes, "/b");
        assert_eq!(inodes.enter("/c", FileType::Value, 0), Err(Errno::ENFILE));
        assert_eq!(inodes.create("/c"), Err(Errno::ENFILE));
        assert_eq!(file(&inodes, "/a"), first);
        inodes.forget(first, 2);
        file(&inodes, "/c");
    }

    #[test]
    fn what_is_beneath_a_folder_moves_with_it() {
        let inodes = Inodes::new();
        let paths = ["/a", "/a/x", "/a/x/y", "/a0", "/a-b", "/b"];
        let inos = paths.map(|path| file(&inodes, path));
        inodes.moved("/a", "/b");
        let now = inos.map(|ino| at(&inodes, ino));
        let wanted = [Some("/b"), Some("/b/x"), Some("/b/x/y"), Some("/a0"), Some("/a-b"), None];
        assert_eq!(now, wanted.map(|path| path.map(str::to_owned)));
        inodes.forget(inos[5], 1);
        assert_eq!(file(&inodes, "/b"), inos[0]);
    }

    #[test]
    fn a_removed_file_keeps_its_number_and_a_later_one_gets_another() {
        let inodes = Inodes::new();
        let ino = file(&inodes, "/a");
        inodes.detach("/a");
        assert!(inodes.get(ino).is_ok() && inodes.path(ino).is_err());
        let later = file(&inodes, "/a");
        assert_ne!(later, ino);
        inodes.forget(ino, 1);
        assert_eq!(at(&inodes, later).as_deref(), Some("/a"));
        let folder = inodes.enter("/a", FileType::Dir, 0).unwrap().ino;
        assert_ne!(folder, later);
        assert_eq!(inodes.note(later, FileType::Dir, 0), Err(Errno::ESTALE));
    }

    #[test]
    fn new_files_are_known_here_only_until_they_are_sent() {
        let inodes = Inodes::new();
        let folder = inodes.enter("/d", FileType::Dir, 0).unwrap().ino;
        let ino = inodes.create("/d/new").unwrap().ino;
        inodes.create("/top").unwrap();
        assert_eq!((inodes.new_in("/d"), inodes.new_in("/")), (vec!["new".into()], vec!["top".into()]));
        inodes.moved("/d", "/e");
        assert_eq!(inodes.path(folder).as_deref(), Ok("/e"));
        assert_eq!(inodes.enter_new("/e/new").map(|inode| inode.ino), Some(ino));
        inodes.sent(ino);
        assert!(
            !inodes.is_new(ino) && inodes.enter_new("/e/new").is_none() && inodes.new_in("/e").is_empty()
        );
    }

    #[test]
    fn names_that_no_tree_can_have_are_refused() {
        let inodes = Inodes::new();
        let child = |name: &str| inodes.child(ROOT, OsStr::new(name));
        assert_eq!(child("a").as_deref(), Ok("/a"));
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert_eq!(child(name), Err(Errno::EINVAL), "{name:?}");
        }
        assert_eq!(child(&"x".repeat(256)), Err(Errno::ENAMETOOLONG));
    }
}
