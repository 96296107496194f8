//! `/secrets/<name>`: what operators give the node for agents to use; and `/node/secrets`, what may be known of them.

use std::sync::Arc;

use serde_json::json;

use super::kept::lines;
use super::{OneFile, Parts, at};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Context, Effect, FileService, FileType, Span, Stat, dir, file, not_taken,
};
use crate::secrets::Vault;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let vault = Vault::new(parts.store.clone(), parts.keyring.clone());
    mounts.mount(at("/secrets"), Arc::new(Secrets(vault.clone())), "secrets, write only");
    let known = OneFile::value(move |_| {
        let line = |(name, terms): (String, crate::secrets::Terms)| json!({ "name": name, "hosts": terms.hosts, "agents": terms.agents, "set_at": terms.set_at_ms / 1000 });
        Ok(lines(vault.list()?.into_iter().map(line)))
    });
    mounts.mount_file(at("/node/secrets"), FileType::Value, Arc::new(known), "what may be known of secrets");
}

/// Serves secrets: they can be set, removed and listed by name.
#[derive(Debug)]
struct Secrets(Vault);

impl Secrets {
    fn names(&self) -> Result<Vec<Stat>, Error> {
        let names = self.0.list()?.into_iter();
        Ok(names.map(|(name, _)| file(name, FileType::Value, 0)).collect())
    }

    fn find(&self, path: &Path) -> Result<Stat, Error> {
        let name = name(path)?;
        self.names()?.into_iter().find(|stat| stat.name == name).ok_or_else(|| Error::not_found(path))
    }
}

/// The name of a secret from its path.
fn name(path: &Path) -> Result<&str, Error> {
    let mut parts = path.components();
    match (parts.next(), parts.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(Error::not_found(path)),
    }
}

impl FileService for Secrets {
    fn stat<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { if *path == Path::root() { Ok(dir("")) } else { self.find(path) } })
    }

    fn list<'a>(&'a self, _: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            if *path != Path::root() {
                return self.find(path).and_then(|_| Err(Error::not_dir(path)));
            }
            self.names()
        })
    }

    fn read<'a>(&'a self, _: &'a Context<'a>, path: &'a Path, _: Span) -> Answer<'a, Vec<u8>> {
        let refusal = if *path == Path::root() { Error::is_dir(path) } else { Error::denied(path) };
        Box::pin(async move { Err(refusal) })
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            let name = name(path).map_err(|_| not_taken(path, change))?;
            let write = match change {
                Change::Write(content) => self.0.set(name, content, cx.now_ms).await?,
                Change::Remove => self.0.remove(name)?,
                change => return Err(not_taken(path, change)),
            };
            Ok(Effect { writes: vec![write], ..Effect::default() })
        })
    }
}
