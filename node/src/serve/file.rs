//! A single file at a mount of its own: what it answers and takes is given by functions.

use std::fmt;
use std::sync::Arc;

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, Watch, file, not_taken,
};

type Read = dyn Fn(&Context<'_>) -> Result<Vec<u8>, Error> + Send + Sync;
type Take = dyn for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Effect> + Send + Sync;
type Look = dyn Fn(&Context<'_>) -> Option<Watch> + Send + Sync;

/// One file.
#[derive(Clone)]
pub(crate) struct OneFile {
    file_type: FileType,
    is_fixed: bool,
    read: Option<Arc<Read>>,
    take: Option<Arc<Take>>,
    watch: Option<Arc<Look>>,
}

impl fmt::Debug for OneFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OneFile").field("file_type", &self.file_type).finish_non_exhaustive()
    }
}

impl OneFile {
    /// A value that is read.
    pub(crate) fn value(
        read: impl Fn(&Context<'_>) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
    ) -> Self {
        let read: Option<Arc<Read>> = Some(Arc::new(read));
        Self { file_type: FileType::Value, is_fixed: false, read, take: None, watch: None }
    }

    /// A call file.
    pub(crate) fn call(
        take: impl for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Effect> + Send + Sync + 'static,
    ) -> Self {
        Self {
            file_type: FileType::Call,
            is_fixed: false,
            read: None,
            take: Some(Arc::new(take)),
            watch: None,
        }
    }

    /// A file whose messages are taken one by one.
    pub(crate) fn append(
        take: impl for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Effect> + Send + Sync + 'static,
    ) -> Self {
        Self { file_type: FileType::Append, ..Self::call(take) }
    }

    /// Also takes what is written to it.
    pub(crate) fn taking(
        mut self,
        take: impl for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Effect> + Send + Sync + 'static,
    ) -> Self {
        self.take = Some(Arc::new(take));
        self
    }

    /// Also tells of changes.
    pub(crate) fn watched(
        mut self,
        watch: impl Fn(&Context<'_>) -> Option<Watch> + Send + Sync + 'static,
    ) -> Self {
        self.watch = Some(Arc::new(watch));
        self
    }

    /// Answers the same in every run of a tick.
    pub(crate) fn fixed(mut self) -> Self {
        self.is_fixed = true;
        self
    }

    fn content(&self, cx: &Context<'_>, path: &Path) -> Result<Vec<u8>, Error> {
        self.here(path)?;
        match &self.read {
            Some(read) => read(cx),
            None => Err(Error::new(oa_nips::files::Code::PermissionDenied, path, "is not to be read")),
        }
    }

    fn here(&self, path: &Path) -> Result<(), Error> {
        if *path == Path::root() { Ok(()) } else { Err(Error::not_found(path)) }
    }
}

impl FileService for OneFile {
    fn is_fixed(&self) -> bool {
        self.is_fixed
    }

    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            self.here(path)?;
            let size =
                self.read.as_ref().map_or(Ok(0), |read| read(cx).map(|content| content.len() as u64))?;
            Ok(file("", self.file_type, size))
        })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            self.here(path)?;
            Err(Error::not_dir(path))
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { self.content(cx, path).map(|content| span.of(&content)) })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            self.here(path)?;
            let is_its = match self.file_type {
                FileType::Value => matches!(change, Change::Write(_)),
                FileType::Append => matches!(change, Change::Append(_)),
                FileType::Call => matches!(change, Change::Call(_)),
                FileType::Dir | FileType::Stream => false,
            };
            match &self.take {
                Some(take) if is_its => take(cx, change).await,
                _ => Err(not_taken(path, change)),
            }
        })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        let watch = self.watch.as_ref().and_then(|watch| watch(cx));
        watch.ok_or_else(|| Error::new(oa_nips::files::Code::Unavailable, path, "cannot be watched"))
    }
}
