//! `/node/plumbing`: the rules of the plumber, as operators write them. What is written replaces them all, once every
//! line of it is understood.

use std::sync::Arc;

use super::ctl::text;
use super::mail::io;
use super::{OneFile, Parts, at};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Effect, FileType};
use crate::plumber::Plumber;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (read, written) = (parts.store.clone(), parts.store.clone());
    let file = OneFile::value(move |_| Plumber::table(&read).map_err(io)).taking(move |_, change| {
        let store = written.clone();
        Box::pin(async move {
            let write = Plumber::set(&store, text(change)?);
            let write = write.map_err(|error| Error::invalid("/node/plumbing", error.to_string()))?;
            Ok(Effect::write(write, Vec::new()))
        })
    });
    mounts.mount_file(at("/node/plumbing"), FileType::Value, Arc::new(file), "rules of the plumber");
}
