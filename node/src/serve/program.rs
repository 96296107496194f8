//! `/program` and `/inbox/policy`: two keys of the manifest as files of their own, and `/mounts`, what comes of it.

use std::sync::Arc;

use super::creator::Creator;
use super::ctl::{change_manifest, text};
use super::{OneFile, at};
use crate::agent::manifest::{Dm, Manifest};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, FileType};

pub(super) fn mount(mounts: &mut Mounts, creator: &Arc<Creator>) {
    let read = |cx: &Context<'_>| Ok(cx.subject()?.manifest.program.clone().into_bytes());
    let by = creator.clone();
    let program = OneFile::value(read).taking(move |cx, change| {
        let by = by.clone();
        Box::pin(async move {
            let program = text(change)?.trim().to_owned();
            let manifest = Manifest { program, ..cx.subject()?.manifest.clone() };
            by.check(&manifest).map_err(|reason| Error::invalid("/program", reason))?;
            change_manifest(cx, manifest)
        })
    });
    mounts.mount_file(at("/program"), FileType::Value, Arc::new(program.fixed()), "what it runs");

    let read = |cx: &Context<'_>| {
        let policy = toml::to_string(&cx.subject()?.manifest.dm).unwrap_or_default();
        Ok(policy.into_bytes())
    };
    let by = creator.clone();
    let policy = OneFile::value(read).taking(move |cx, change| {
        let by = by.clone();
        Box::pin(async move {
            let invalid = |reason: String| Error::invalid("/inbox/policy", reason);
            let dm: Dm = toml::from_str(text(change)?).map_err(|error| invalid(error.to_string()))?;
            let manifest = Manifest { dm, ..cx.subject()?.manifest.clone() };
            by.check(&manifest).map_err(invalid)?;
            change_manifest(cx, manifest)
        })
    });
    mounts.mount_file(at("/inbox/policy"), FileType::Value, Arc::new(policy), "who is heard");
}
