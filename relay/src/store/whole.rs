//! Whether an LMDB file has all its pages. LMDB maps the file and believes it: to open one that was cut short (a copy
//! that ran out of disk) ends the whole process with SIGBUS, which no error type can tell.
//!
//! A file may rightly be shorter than its last page number says, where the pages at the end are free. So a short
//! file is walked from its roots, which is exact; one of full length, the usual case, costs two reads.
//! The layout is that of `mdb.c` 0.9.70, data version 1, on 64-bit little-endian machines.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

const MAGIC: u32 = 0xbeef_c0de;
const NO_PAGE: u64 = u64::MAX;
const HEADER_BYTES: usize = 16;
/// `MDB_meta` behind the page header: the two core trees' roots, the last page, the transaction.
const META_BYTES: usize = 152;
const META_MAGIC: usize = 16;
const META_PAGE_BYTES: usize = 40;
const META_FREE_ROOT: usize = 80;
const META_MAIN_ROOT: usize = 128;
const META_LAST_PAGE: usize = 136;
const META_TRANSACTION: usize = 144;
/// `MDB_page`
const PAGE_FLAGS: usize = 10;
const PAGE_LOWER: usize = 12;
const OVERFLOW_COUNT: usize = 12;
const IS_BRANCH: u16 = 0x01;
const IS_LEAF: u16 = 0x02;
/// `MDB_node`
const NODE_FLAGS: usize = 4;
const NODE_KEY_BYTES: usize = 6;
const NODE_KEY: usize = 8;
const IS_OVERFLOW: u16 = 0x01;
const IS_TREE: u16 = 0x02;
/// `MDB_db`, the value of a node that is a tree.
const TREE_ROOT: usize = 40;

/// Whether every page in use lies within the file. A file that is empty or no LMDB file counts as whole: LMDB itself
/// takes the one for new and refuses the other.
pub(super) fn is_whole(path: &Path) -> io::Result<bool> {
    if !cfg!(all(target_endian = "little", target_pointer_width = "64")) {
        return Ok(true);
    }
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let Some(first) = meta(&mut file, 0)? else { return Ok(true) };
    if u32_at(&first, META_MAGIC) != Some(MAGIC) {
        return Ok(true);
    }
    let page_bytes = u64::from(u32_at(&first, META_PAGE_BYTES).unwrap_or_default());
    if !(512..=65_536).contains(&page_bytes) || file_bytes < 2 * page_bytes {
        return Ok(false);
    }
    let Some(second) = meta(&mut file, page_bytes)? else { return Ok(false) };
    let newest =
        if u64_at(&first, META_TRANSACTION) >= u64_at(&second, META_TRANSACTION) { first } else { second };
    let pages = file_bytes / page_bytes;
    if u64_at(&newest, META_LAST_PAGE).is_some_and(|last| last < pages) {
        return Ok(true);
    }
    let roots = [META_FREE_ROOT, META_MAIN_ROOT].map(|at| u64_at(&newest, at).unwrap_or(NO_PAGE));
    Walk { file, page_bytes, pages }.from(roots.to_vec())
}

/// The meta page at `offset`; `None` if the file ends before it does.
fn meta(file: &mut File, offset: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; META_BYTES];
    file.seek(SeekFrom::Start(offset))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// A walk over all pages that are reachable from the roots.
struct Walk {
    file: File,
    page_bytes: u64,
    /// Whole pages in the file.
    pages: u64,
}

impl Walk {
    fn from(mut self, mut left: Vec<u64>) -> io::Result<bool> {
        let mut seen = HashSet::new();
        while let Some(number) = left.pop() {
            if number == NO_PAGE || !seen.insert(number) {
                continue;
            }
            if number >= self.pages {
                return Ok(false);
            }
            let page = self.read(number)?;
            if !self.follow(&page, &mut left)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self, number: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; usize::try_from(self.page_bytes).unwrap_or_default()];
        self.file.seek(SeekFrom::Start(number.saturating_mul(self.page_bytes)))?;
        self.file.read_exact(&mut page)?;
        Ok(page)
    }

    /// Adds the pages this one refers to; false if it makes no sense or a long value runs past the end.
    fn follow(&mut self, page: &[u8], left: &mut Vec<u64>) -> io::Result<bool> {
        let flags = u16_at(page, PAGE_FLAGS).unwrap_or_default();
        let lower = usize::from(u16_at(page, PAGE_LOWER).unwrap_or_default());
        if flags & (IS_BRANCH | IS_LEAF) == 0 || lower < HEADER_BYTES || lower > page.len() {
            return Ok(false);
        }
        for at in (HEADER_BYTES..lower).step_by(2) {
            let Some(node) = u16_at(page, at).and_then(|offset| page.get(usize::from(offset)..)) else {
                return Ok(false);
            };
            let reference =
                if flags & IS_BRANCH != 0 { Some(Reference::child(node)) } else { Reference::value(node) };
            match reference {
                None => {}
                Some(Reference::Page(Some(number))) => left.push(number),
                Some(Reference::Overflow(Some(number))) if number < self.pages => {
                    let count = u32_at(&self.read(number)?, OVERFLOW_COUNT).unwrap_or_default();
                    if number.saturating_add(u64::from(count)) > self.pages {
                        return Ok(false);
                    }
                }
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// What a node refers to; `None` inside if the page ends before it does.
enum Reference {
    /// Another page of a tree.
    Page(Option<u64>),
    /// The first of the pages of a long value.
    Overflow(Option<u64>),
}

impl Reference {
    fn child(node: &[u8]) -> Reference {
        let part = |at| u16_at(node, at).map(u64::from);
        let number = || Some(part(0)? | part(2)? << 16 | part(NODE_FLAGS)? << 32);
        Reference::Page(number())
    }

    fn value(node: &[u8]) -> Option<Reference> {
        let flags = u16_at(node, NODE_FLAGS)?;
        let value = NODE_KEY + usize::from(u16_at(node, NODE_KEY_BYTES)?);
        if flags & IS_OVERFLOW != 0 {
            Some(Reference::Overflow(u64_at(node, value)))
        } else if flags & IS_TREE != 0 {
            Some(Reference::Page(u64_at(node, value + TREE_ROOT)))
        } else {
            None
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use nostr_database::NostrDatabase;
    use nostr_lmdb::NostrLMDB;
    use oa_nips::nostr::{EventBuilder, Filter, Keys};

    use super::*;

    const EVENTS: usize = 60;

    /// Stores events, every fifth of them too long for one page, and closes the store.
    async fn fill(home: &Path) {
        let (store, keys) = (NostrLMDB::open(home).expect("opens"), Keys::generate());
        for index in 0..EVENTS {
            let text = index.to_string().repeat(if index % 5 == 0 { 6_000 } else { 100 });
            let event = EventBuilder::text_note(text).sign_with_keys(&keys).expect("signs");
            store.save_event(&event).await.expect("saves");
        }
    }

    fn cut(path: &Path, bytes: u64) {
        OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(bytes)).expect("cuts");
    }

    #[tokio::test]
    async fn a_file_cut_anywhere_is_found_out_or_can_be_read() {
        let home = tempfile::tempdir().expect("a directory");
        fill(home.path()).await;
        let full = home.path().join("data.mdb");
        assert!(is_whole(&full).expect("reads"));
        let pages = fs::metadata(&full).expect("exists").len() / 4096;
        let mut found = 0;
        for keep in 0..pages {
            let copy = tempfile::tempdir().expect("a directory");
            let data = copy.path().join("data.mdb");
            fs::copy(&full, &data).expect("copies");
            cut(&data, keep * 4096 + 100 * u64::from(keep > 0));
            if is_whole(&data).expect("reads") {
                // A page too many believed in would end this process.
                let events =
                    NostrLMDB::open(copy.path()).expect("opens").query(Filter::new()).await.expect("reads");
                assert_eq!(events.len(), if keep == 0 { 0 } else { EVENTS }, "{keep} of {pages} pages");
            } else {
                found += 1;
            }
        }
        assert!(found > pages / 2, "{found} of {pages}");
    }

    #[test]
    fn what_is_no_lmdb_file_is_left_to_lmdb() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("data.mdb");
        for bytes in [&[][..], &[7; 100], &[7; 9_000]] {
            fs::write(&path, bytes).expect("writes");
            assert!(is_whole(&path).expect("reads"));
        }
    }
}
