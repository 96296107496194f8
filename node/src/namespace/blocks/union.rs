//! Several services at one place: what a later one has shadows what earlier ones have, folders are merged.
//!
//! Changes go to the last service that is writable. What only a read-only one has can be read and called there, and
//! not changed: nothing is copied up, which is [`super::Cow`]'s work.

use std::collections::BTreeMap;
use std::sync::Arc;

use oa_nips::files::{Code, FileType};

use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, Effect, FileService, LookUp, Span, Stat, Watch,
};

/// Whether a layer takes changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// It is read, and its call files are called.
    ReadOnly,
    /// It takes changes, if no later one does.
    Writable,
}

/// Services of which later ones shadow earlier ones.
#[derive(Debug, Clone, Default)]
pub struct Union {
    /// The first is at the bottom.
    layers: Vec<(Layer, Arc<dyn FileService>)>,
}

/// Whether a service just does not have a path.
fn is_absent(error: &Error) -> bool {
    matches!(error.code, Code::NotFound | Code::NotDir)
}

impl Union {
    /// The services, from bottom to top.
    pub fn new(layers: impl IntoIterator<Item = (Layer, Arc<dyn FileService>)>) -> Self {
        Self { layers: layers.into_iter().collect() }
    }

    /// The layers from the top, by number.
    fn top_down(&self) -> impl Iterator<Item = (usize, &Arc<dyn FileService>)> {
        self.layers.iter().map(|(_, service)| service).enumerate().rev()
    }

    /// The last that is writable.
    fn writable(&self, path: &Path) -> Result<(usize, &Arc<dyn FileService>), Error> {
        let found = self.layers.iter().enumerate().rev().find(|(_, (layer, _))| *layer == Layer::Writable);
        found.map(|(number, (_, service))| (number, service)).ok_or_else(|| Error::denied(path))
    }

    /// The top-most layer that has a path, and what it is there.
    async fn find(
        &self,
        cx: &Context<'_>,
        path: &Path,
    ) -> Result<(usize, &Arc<dyn FileService>, Stat), Error> {
        for (number, service) in self.top_down() {
            match service.stat(cx, path).await {
                Ok(stat) => return Ok((number, service, stat)),
                // A file in the way hides what lower layers have beneath it, unless a folder hides the file.
                Err(error) if error.code == Code::NotDir => {
                    let folder = Box::pin(self.find(cx, &path.parent())).await?;
                    let is_hidden = folder.2.file_type == FileType::Dir;
                    return Err(if is_hidden { Error::not_found(path) } else { Error::not_dir(path) });
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::not_found(path))
    }

    /// Who does a change: for a call whoever has the file, for anything else the last that is writable, unless
    /// another layer has what is to be changed.
    async fn target(
        &self,
        cx: &Context<'_>,
        path: &Path,
        change: &Change,
    ) -> Result<&Arc<dyn FileService>, Error> {
        let found = self.find(cx, path).await;
        if matches!(change, Change::Call(_)) {
            return found.map(|(_, service, _)| service);
        }
        let (number, service) = self.writable(path)?;
        let refusal = Error::new(Code::PermissionDenied, path, "is in a part that is only read");
        match (change, found) {
            (Change::Mkdir, Ok(_)) => return Err(Error::new(Code::Exists, path, "is there already")),
            (Change::Write(_) | Change::Append(_), Ok((_, _, stat))) if stat.file_type == FileType::Dir => {
                return Err(Error::is_dir(path));
            }
            // What is written there replaces, in effect, what a lower one has.
            (Change::Write(_), Ok((at, ..))) if at < number => {}
            (_, Ok((at, ..))) if at != number => return Err(refusal),
            (Change::Remove | Change::Rename(_), Err(error)) => return Err(error),
            (_, Err(error)) if !is_absent(&error) => return Err(error),
            _ => {}
        }
        match change {
            Change::Remove => self.check_alone(cx, number, path).await?,
            Change::Rename(to) => {
                self.check_alone(cx, number, path).await?;
                self.check_free(cx, number, to).await?;
            }
            _ => self.check_parent(cx, number, path).await?,
        }
        Ok(service)
    }

    /// Refuses what would not be gone when one layer no longer has it.
    async fn check_alone(&self, cx: &Context<'_>, number: usize, path: &Path) -> Result<(), Error> {
        for (other, service) in self.top_down() {
            if other != number && *path != Path::root() && service.stat(cx, path).await.is_ok() {
                let reason = "another part has it too, which is only read";
                return Err(Error::new(Code::PermissionDenied, path, reason));
            }
        }
        Ok(())
    }

    /// Refuses to move to where a layer above would hide it, or where only another layer has the folder.
    async fn check_free(&self, cx: &Context<'_>, number: usize, to: &Path) -> Result<(), Error> {
        match self.find(cx, to).await {
            Ok((at, ..)) if at != number => {
                Err(Error::new(Code::PermissionDenied, to, "is in a part that is only read"))
            }
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => self.check_parent(cx, number, to).await,
            Err(error) => Err(error),
        }
    }

    /// Refuses a new file in a folder that the writable layer does not have, though another has it.
    async fn check_parent(&self, cx: &Context<'_>, number: usize, path: &Path) -> Result<(), Error> {
        let folder = path.parent();
        let (_, service) = self.writable(path)?;
        let is_missing = service.stat(cx, &folder).await.is_err_and(|error| error.code == Code::NotFound);
        match self.find(cx, &folder).await {
            Ok((at, ..)) if is_missing && at != number => {
                Err(Error::new(Code::PermissionDenied, path, "is in a part that is only read"))
            }
            _ => Ok(()),
        }
    }
}

impl FileService for Union {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move { self.find(cx, path).await.map(|(_, _, stat)| stat) })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            let (_, _, stat) = self.find(cx, path).await?;
            if stat.file_type != FileType::Dir {
                return Err(Error::not_dir(path));
            }
            let mut merged = BTreeMap::new();
            for (_, service) in self.top_down() {
                match service.list(cx, path).await {
                    Ok(stats) => stats.into_iter().for_each(|stat| {
                        merged.entry(stat.name.clone()).or_insert(stat);
                    }),
                    // A file there hides what is below it.
                    Err(error) if error.code == Code::NotDir => break,
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(merged.into_values().collect())
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let (_, service, _) = self.find(cx, path).await?;
            service.read(cx, path, span).await
        })
    }

    /// For a call, that of the top-most layer in which it is not transactional: which one has the file is not known
    /// before it is asked.
    fn class(&self, path: &Path, change: &Change) -> Class {
        if matches!(change, Change::Call(_)) {
            let mut classes = self.top_down().map(|(_, service)| service.class(path, change));
            return classes.find(|class| *class != Class::Transactional).unwrap_or(Class::Transactional);
        }
        self.writable(path).map_or(Class::Transactional, |(_, service)| service.class(path, change))
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move { self.target(cx, path, change).await?.change(cx, path, change).await })
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move { self.target(cx, path, change).await?.act(cx, path, change).await })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, LookUp> {
        Box::pin(async move {
            let service = match change {
                Change::Call(_) => self.find(cx, path).await?.1,
                _ => self.writable(path)?.1,
            };
            service.look_up(cx, path, change).await
        })
    }

    /// That of the top-most layer which tells of the path.
    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        let told = self.top_down().find_map(|(_, service)| service.watch(cx, path).ok());
        told.ok_or_else(|| Error::new(Code::Unavailable, path, "cannot be watched"))
    }

    /// That of the top-most layer which has let something go.
    fn start(&self, cx: &Context<'_>, path: &Path) -> u64 {
        self.top_down().map(|(_, service)| service.start(cx, path)).find(|start| *start > 0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::conformance::{self, Driver, LIMITS, Model, path};
    use super::super::{Computed, Fixed, Memory};
    use super::*;

    fn write(content: &str) -> Change {
        Change::Write(content.as_bytes().to_vec())
    }

    fn fixed(files: &[(&str, &str)]) -> Arc<dyn FileService> {
        Arc::new(Fixed::new(files.iter().map(|(at, content)| (path(at), *content))).unwrap())
    }

    fn memory() -> Arc<dyn FileService> {
        Arc::new(Memory::new(LIMITS))
    }

    fn driver(layers: [(Layer, Arc<dyn FileService>); 3]) -> Driver {
        Driver::new(Arc::new(Union::new(layers)))
    }

    fn over_nothing() -> Driver {
        let nothing = || (Layer::ReadOnly, fixed(&[]));
        driver([nothing(), nothing(), (Layer::Writable, memory())])
    }

    #[tokio::test]
    async fn over_nothing_it_is_a_plain_folder() {
        conformance::suite(&mut over_nothing()).await;
    }

    proptest! {
        #[test]
        fn over_nothing_random_operations_end_as_in_the_model(ops in conformance::ops()) {
            conformance::against_model(over_nothing(), Model::default(), &ops);
        }
    }

    #[tokio::test]
    async fn later_layers_shadow_and_folders_merge() {
        let low = fixed(&[("/both", "low"), ("/low", "low"), ("/d/low", ""), ("/x/y/z", ""), ("/w", "")]);
        let high = fixed(&[("/both", "high"), ("/d/high", ""), ("/x", "a file"), ("/w/in", "")]);
        let it = driver([(Layer::ReadOnly, low), (Layer::Writable, memory()), (Layer::ReadOnly, high)]);
        assert_eq!(it.names("/").await.unwrap(), ["both", "d/", "low", "w/", "x"]);
        assert_eq!(it.names("/d").await.unwrap(), ["high", "low"]);
        assert_eq!(it.read("/both").await.unwrap(), b"high");
        assert_eq!(it.read("/low").await.unwrap(), b"low");
        assert_eq!(it.stat("/x/y").await, Err(Code::NotDir), "the file hides the folder");
        assert_eq!(it.list("/x").await, Err(Code::NotDir));
        assert_eq!(it.names("/w").await.unwrap(), ["in"]);
        assert_eq!(it.stat("/w/none").await, Err(Code::NotFound), "the folder hides the file");
    }

    #[tokio::test]
    async fn changes_go_to_the_last_that_is_writable_and_read_only_parts_stay() {
        let (low, high) = (fixed(&[("/f", "low"), ("/d/g", "low")]), fixed(&[("/top", "high")]));
        let layers = [(Layer::ReadOnly, low), (Layer::Writable, memory()), (Layer::ReadOnly, high)];
        let mut it = driver(layers);
        assert_eq!(it.apply("/new", write("new")).await, Ok(vec![]));
        assert_eq!(it.read("/new").await.unwrap(), b"new");
        assert_eq!(it.apply("/f", write("mine")).await, Ok(vec![]), "shadows the lower one");
        assert_eq!(it.read("/f").await.unwrap(), b"mine");
        for (at, change) in [
            ("/top", write("x")),
            ("/d/g", Change::Append(b"x".to_vec())),
            ("/d/new", write("x")),
            ("/d/g", Change::Remove),
            ("/f", Change::Remove),
            ("/f", Change::Rename(path("/moved"))),
            ("/new", Change::Rename(path("/top"))),
            ("/new", Change::Rename(path("/d/new"))),
        ] {
            assert_eq!(it.apply(at, change.clone()).await, Err(Code::PermissionDenied), "{at} {change:?}");
        }
        assert_eq!(it.apply("/d", Change::Mkdir).await, Err(Code::Exists));
        assert_eq!(it.apply("/none", Change::Remove).await, Err(Code::NotFound));
        assert_eq!(it.apply("/new", Change::Remove).await, Ok(vec![]));
        let read_only = Union::new([(Layer::ReadOnly, fixed(&[]))]);
        let refused = Driver::new(Arc::new(read_only)).apply("/a", write("")).await;
        assert_eq!(refused, Err(Code::PermissionDenied));
    }

    #[tokio::test]
    async fn a_call_goes_to_whoever_has_the_file() {
        let echo = |text: &'static str| {
            Computed::new().outside(text, Class::AtMostOnce, move |_, _| {
                Box::pin(async move { Ok(text.as_bytes().to_vec()) })
            })
        };
        let pure = Computed::new().call("pure", |_, body| Ok(Effect::reply(body)));
        let union = Union::new([
            (Layer::ReadOnly, echo("one").build()),
            (Layer::ReadOnly, pure.build()),
            (Layer::Writable, echo("two").build()),
        ]);
        let call = Change::Call(b"hi".to_vec());
        assert_eq!(union.class(&path("/one"), &call), Class::AtMostOnce);
        assert_eq!(union.class(&path("/pure"), &call), Class::Transactional);
        let mut it = Driver::new(Arc::new(union));
        for (name, answer) in [("/one", "one"), ("/two", "two"), ("/pure", "hi")] {
            assert_eq!(it.apply(name, call.clone()).await, Ok(answer.as_bytes().to_vec()));
        }
        assert_eq!(it.apply("/none", call.clone()).await, Err(Code::NotFound));
    }
}
