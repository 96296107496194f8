//! `/srv`: what operators have put there for manifests to mount; and the mount tables that come of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::at;
use super::powers::show;
use crate::agent::manifest::{Manifest, MountSpec};
use crate::namespace::blocks::union::Layer;
use crate::namespace::blocks::{Cow, Host, Union};
use crate::namespace::mount::{Access, Mount, Mounts};
use crate::namespace::path::Path;
use crate::namespace::service::{FileService, FileType};
use crate::workspace::Folder;

/// Where the changed files of copy-on-write mounts are in the agent's state: nothing is mounted there.
const COW: &str = "/cow";

/// Something that manifests may mount.
#[derive(Debug, Clone)]
pub struct Srv {
    /// What serves it.
    pub service: Arc<dyn FileService>,
    /// The agents that may mount it; nothing for all.
    pub agents: Option<Vec<String>>,
    /// What it is, for people.
    pub what: String,
    /// The folder of the host that it is, which may tell of changes.
    pub folder: Option<Arc<Folder>>,
}

impl Srv {
    /// A folder of the host, for these agents or for all.
    pub fn folder(host: Host, agents: Option<Vec<String>>, what: String) -> Self {
        let folder = Arc::new(Folder::new(host));
        Self { service: folder.clone(), agents, what, folder: Some(folder) }
    }

    /// Whether it tells of changes.
    fn tells(&self) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.is_followed())
    }
}

/// The mount tables of agents.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Of those whose manifest says nothing.
    pub(crate) every: Arc<Mounts>,
    pub(crate) srv: BTreeMap<String, Srv>,
}

impl Mounted {
    /// The tables over the tree that every agent has, which begins to show itself as `/mounts`.
    pub(crate) fn new(mut every: Mounts, srv: BTreeMap<String, Srv>) -> Self {
        show(&mut every);
        Self { every: Arc::new(every), srv }
    }

    /// The mount table under a manifest. What cannot be mounted any more is left out, and the log says so.
    pub(crate) fn of(&self, manifest: &Manifest) -> Arc<Mounts> {
        if manifest.mounts.is_empty() {
            return self.every.clone();
        }
        let mut mounts = (*self.every).clone();
        for spec in &manifest.mounts {
            if let Err(reason) = self.mount(&mut mounts, manifest, spec) {
                tracing::warn!(agent = manifest.name, path = spec.path, reason, "not mounted");
            }
        }
        show(&mut mounts);
        Arc::new(mounts)
    }

    /// Checks that everything a manifest mounts is there for it.
    ///
    /// # Errors
    /// A sentence that names the mount.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), String> {
        let mut mounts = (*self.every).clone();
        let mut specs = manifest.mounts.iter();
        specs.try_for_each(|spec| self.mount(&mut mounts, manifest, spec))
    }

    fn mount(&self, mounts: &mut Mounts, manifest: &Manifest, spec: &MountSpec) -> Result<(), String> {
        let at = spec.at();
        if spec.from.is_empty() {
            return mounts.restrict(&at, spec.access).map_err(|error| format!("mounts: {error}"));
        }
        let mut layers = Vec::new();
        for name in &spec.from {
            layers.push((layer(spec.access), self.service(manifest, name)?));
        }
        let mut service = match (layers.pop(), layers.is_empty()) {
            (Some((_, only)), true) => only,
            (last, _) => Arc::new(Union::new(layers.into_iter().chain(last))) as Arc<dyn FileService>,
        };
        if spec.cow {
            let upper =
                format!("{COW}{at}").parse::<Path>().map_err(|error| format!("mounts: {at}: {error}"))?;
            service = Arc::new(Cow::new(service, upper));
        }
        if spec.trigger && !spec.from.iter().any(|name| self.srv.get(name).is_some_and(Srv::tells)) {
            return Err(format!("mounts: {at}: nothing tells of changes in {}", spec.from.join(", ")));
        }
        let what = format!("{}{}", if spec.cow { "copy on write over " } else { "" }, spec.from.join(", "));
        mounts.put(Mount { at, access: spec.access, service, is: FileType::Dir, what });
        Ok(())
    }

    fn service(&self, manifest: &Manifest, name: &str) -> Result<Arc<dyn FileService>, String> {
        let is_for = |srv: &&Srv| srv.agents.as_ref().is_none_or(|agents| agents.contains(&manifest.name));
        let srv = self.srv.get(name).filter(is_for);
        srv.map(|srv| srv.service.clone())
            .ok_or_else(|| format!("mounts: /srv has no {name:?} for {}", manifest.name))
    }
}

fn layer(access: Access) -> Layer {
    if access == Access::ReadWrite { Layer::Writable } else { Layer::ReadOnly }
}

/// The names under `/srv`, as JSON lines in one file for each.
pub(super) fn mount(mounts: &mut Mounts, srv: &BTreeMap<String, Srv>) {
    let files = srv.iter().filter_map(|(name, srv)| {
        let path: Path = format!("/{name}").parse().ok()?;
        Some((path, json!({ "what": srv.what, "agents": srv.agents }).to_string()))
    });
    if let Ok(fixed) = crate::namespace::blocks::Fixed::new(files) {
        mounts.mount(at("/srv"), Arc::new(fixed), "what can be mounted");
    }
}
