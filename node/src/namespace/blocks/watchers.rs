//! Who waits for a change of which path: a channel for each path that somebody watches, and none for the rest.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use crate::namespace::path::Path;
use crate::namespace::service::Watch;

/// Wakes the watchers of a path with every change of it or of anything beneath it.
#[derive(Debug, Default)]
pub struct Watchers(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// Counts changes of any path, so that a path's number grows also across watchers that went and came back.
    changes: u64,
    paths: HashMap<Path, watch::Sender<u64>>,
}

impl Watchers {
    /// A watch on a path, which need not exist. Costs nothing any more once it is dropped and the path changed again.
    pub fn watch(&self, path: &Path) -> Watch {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = watched.changes;
        watched.paths.entry(path.clone()).or_insert_with(|| watch::Sender::new(changes)).subscribe()
    }

    /// Wakes whom a change of `path` concerns.
    pub fn changed(&self, path: &Path) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.changes += 1;
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|_| !watched.paths.is_empty()) {
            watched.wake(&path);
            at = (path != Path::root()).then(|| path.parent());
        }
    }

    /// Wakes everybody: nobody knows what changed.
    pub fn all_changed(&self) {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.changes += 1;
        let changes = watched.changes;
        watched.paths.retain(|_, sender| sender.send(changes).is_ok());
    }
}

impl Watched {
    fn wake(&mut self, path: &Path) {
        // Sending fails when the last watcher is gone.
        let is_gone = self.paths.get(path).is_some_and(|sender| sender.send(self.changes).is_err());
        if is_gone {
            self.paths.remove(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn a_change_wakes_the_path_and_the_folders_above_it_and_nobody_else() {
        let watchers = Watchers::default();
        let watch = |text| watchers.watch(&path(text));
        let (root, folder, file) = (watch("/"), watch("/a"), watch("/a/b"));
        let (sibling, lookalike) = (watch("/a/c"), watch("/a/bc"));
        watchers.changed(&path("/a/b"));
        assert!([&root, &folder, &file].iter().all(|watch| watch.has_changed().unwrap()));
        assert!([&sibling, &lookalike].iter().all(|watch| !watch.has_changed().unwrap()));
        watchers.all_changed();
        assert!(sibling.has_changed().unwrap());
    }

    #[test]
    fn numbers_grow_across_watchers_and_gone_ones_are_forgotten() {
        let watchers = Watchers::default();
        let first = watchers.watch(&path("/a"));
        watchers.changed(&path("/a"));
        let seen = *first.borrow();
        drop(first);
        watchers.changed(&path("/a"));
        assert!(watchers.0.lock().unwrap().paths.is_empty());
        assert!(*watchers.watch(&path("/a")).borrow() > seen);
    }
}
