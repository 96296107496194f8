//! `/peers/find` and `/node/find`: agents by what they can do, or by name.

use std::sync::Arc;

use oa_nips::files::Code;

use super::{Parts, at};
use crate::discovery::{Finder, Reach};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, FileService, FileType, Span, Stat, file, not_taken,
};

/// The call file, which asks relays and domains: asking again does no harm.
#[derive(Debug)]
struct Find {
    finder: Arc<Finder>,
    path: &'static str,
}

/// Mounts it at a path of an agent's tree or the node's.
pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, path: &'static str) {
    let find = Find { finder: parts.finder.clone(), path };
    mounts.mount_file(at(path), FileType::Call, Arc::new(find), "who can be found");
}

fn here(path: &Path) -> Result<(), Error> {
    if *path == Path::root() { Ok(()) } else { Err(Error::not_found(path)) }
}

impl FileService for Find {
    fn stat<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { here(path).map(|()| file("", FileType::Call, 0)) })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            here(path)?;
            Err(Error::not_dir(path))
        })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            here(path)?;
            Err(Error::new(Code::PermissionDenied, path, "is not to be read"))
        })
    }

    fn class(&self, _: &Path, _: &Change) -> Class {
        Class::Idempotent
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            here(path)?;
            let Change::Call(request) = change else { return Err(not_taken(path, change)) };
            self.finder.find(self.path, request, Reach::of(cx)).await
        })
    }
}
