//! Documents that a relay serves over plain HTTP, given to it as bytes: it knows nothing of what they say.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Documents by path. Clones are handles to the same ones, which may change while the relay runs.
#[derive(Debug, Clone, Default)]
pub struct Bundle(Arc<RwLock<BTreeMap<String, Document>>>);

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its media type.
    pub(crate) kind: &'static str,
    pub(crate) bytes: Arc<[u8]>,
}

impl Bundle {
    /// Serves a document of this media type at a path such as `/index.html`, in place of an earlier one. Any page of
    /// elsewhere may fetch it. Whatever follows a `?` in a request says nothing.
    pub fn set(&self, path: impl Into<String>, kind: &'static str, bytes: impl Into<Arc<[u8]>>) {
        let document = Document { kind, bytes: bytes.into() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(path.into(), document);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Document> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }
}
