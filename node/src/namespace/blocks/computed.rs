//! A folder whose files are functions: what a file says is asked for when it is read, and what is written to it is
//! handed to a function that says what comes of it.
//!
//! ```
//! use oa_node::namespace::blocks::Computed;
//! use oa_node::namespace::service::Effect;
//!
//! let clock = Computed::new()
//!     .value("now", |cx| Ok(cx.now_ms.to_string().into()))
//!     .call("later", |cx, body| {
//!         let seconds = String::from_utf8_lossy(body).trim().parse::<u64>().unwrap_or(0);
//!         Ok(Effect::reply((cx.now_ms + 1000 * seconds).to_string()))
//!     })
//!     .build();
//! # let _ = clock;
//! ```
//!
//! Functions answer at once, or later where the method's name ends in `_async`; they write
//! `|cx| Box::pin(async move { … })` then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use oa_nips::files::Code;

use super::ring::Ring;
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, Effect, FileService, FileType, LookUp, Span, Stat, Watch, dir, file,
    not_taken,
};

type Read = Box<dyn for<'a> Fn(&'a Context<'a>) -> Answer<'a, Vec<u8>> + Send + Sync>;
type Decide = Box<dyn for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Effect> + Send + Sync>;
type Act = Box<dyn for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, Vec<u8>> + Send + Sync>;
type WatchFor = Box<dyn Fn(&Context<'_>) -> Result<Watch, Error> + Send + Sync>;
type LookFor = Box<dyn for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, LookUp> + Send + Sync>;

/// A folder whose files are functions.
#[derive(Debug, Default)]
pub struct Computed(BTreeMap<String, Entry>);

enum Entry {
    File(File),
    Stream(Arc<Ring>),
    Folder(Arc<dyn FileService>),
}

struct File {
    file_type: FileType,
    read: Option<Read>,
    changes: Changes,
    watch: Option<WatchFor>,
}

/// What is written to a file.
enum Changes {
    Refused,
    Transactional(Decide),
    Outside { class: Class, act: Act, look_up: Option<LookFor> },
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{:?}", file.file_type),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Folder(service) => service.fmt(f),
        }
    }
}

impl Computed {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// The service.
    pub fn build(self) -> Arc<dyn FileService> {
        Arc::new(self)
    }

    /// A value that is only read.
    #[must_use]
    pub fn value<R>(self, name: &str, read: R) -> Self
    where
        R: for<'a> Fn(&'a Context<'a>) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
    {
        self.file(name, FileType::Value, Some(soon(read)), Changes::Refused)
    }

    /// A value that is only read, and takes a while.
    #[must_use]
    pub fn value_async<R>(self, name: &str, read: R) -> Self
    where
        R: for<'a> Fn(&'a Context<'a>) -> Answer<'a, Vec<u8>> + Send + Sync + 'static,
    {
        self.file(name, FileType::Value, Some(Box::new(read)), Changes::Refused)
    }

    /// A value that is read, and replaced by what is written.
    #[must_use]
    pub fn settable<R, W>(self, name: &str, read: R, write: W) -> Self
    where
        R: for<'a> Fn(&'a Context<'a>) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Result<Effect, Error> + Send + Sync + 'static,
    {
        let changes = Changes::Transactional(only("write", name, write));
        self.file(name, FileType::Value, Some(soon(read)), changes)
    }

    /// A file that takes messages.
    #[must_use]
    pub fn append<W>(self, name: &str, append: W) -> Self
    where
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Result<Effect, Error> + Send + Sync + 'static,
    {
        let changes = Changes::Transactional(only("append", name, append));
        self.file(name, FileType::Append, None, changes)
    }

    /// A question and its answer, which may change something.
    #[must_use]
    pub fn call<W>(self, name: &str, call: W) -> Self
    where
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Result<Effect, Error> + Send + Sync + 'static,
    {
        let changes = Changes::Transactional(only("call", name, call));
        self.file(name, FileType::Call, None, changes)
    }

    /// A question whose answer takes a while.
    #[must_use]
    pub fn call_async<W>(self, name: &str, call: W) -> Self
    where
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Answer<'a, Effect> + Send + Sync + 'static,
    {
        let changes = Changes::Transactional(only_async("call", name, call));
        self.file(name, FileType::Call, None, changes)
    }

    /// A question that does something outside, which no transaction takes back. `class` says what may be done about
    /// a lost answer: [`Class::Idempotent`] or [`Class::AtMostOnce`].
    #[must_use]
    pub fn outside<W>(self, name: &str, class: Class, act: W) -> Self
    where
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Answer<'a, Vec<u8>> + Send + Sync + 'static,
    {
        let act = only_async("call", name, act);
        self.file(name, FileType::Call, None, Changes::Outside { class, act, look_up: None })
    }

    /// A question that does something outside, whose lost answer can be looked up.
    #[must_use]
    pub fn queryable<W, L>(self, name: &str, act: W, look_up: L) -> Self
    where
        W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Answer<'a, Vec<u8>> + Send + Sync + 'static,
        L: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Answer<'a, LookUp> + Send + Sync + 'static,
    {
        let (act, look_up) = (only_async("call", name, act), only_async("call", name, look_up));
        let changes = Changes::Outside { class: Class::Queryable, act, look_up: Some(look_up) };
        self.file(name, FileType::Call, None, changes)
    }

    /// A stream, as one ring for every agent and caller.
    #[must_use]
    pub fn stream(self, name: &str, ring: Arc<Ring>) -> Self {
        self.put(name, Entry::Stream(ring))
    }

    /// A folder of its own making.
    #[must_use]
    pub fn folder(self, name: &str, service: Arc<dyn FileService>) -> Self {
        self.put(name, Entry::Folder(service))
    }

    /// A file of any type that takes any verb; the function refuses what is not for it, see
    /// [`not_taken`].
    #[must_use]
    pub fn custom<R, W>(self, name: &str, file_type: FileType, read: R, change: W) -> Self
    where
        R: for<'a> Fn(&'a Context<'a>) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
        W: for<'a> Fn(&'a Context<'a>, &'a Change) -> Result<Effect, Error> + Send + Sync + 'static,
    {
        let change: Decide = Box::new(move |cx, asked| {
            let answer = change(cx, asked);
            Box::pin(std::future::ready(answer))
        });
        self.file(name, file_type, Some(soon(read)), Changes::Transactional(change))
    }

    /// Says who tells of changes of a file; without it the file cannot be watched. To be woken too often does no harm.
    ///
    /// # Panics
    /// When no file of functions was added under this name before: the names are the program's own.
    #[must_use]
    pub fn watched<W>(mut self, name: &str, watch: W) -> Self
    where
        W: Fn(&Context<'_>) -> Result<Watch, Error> + Send + Sync + 'static,
    {
        let file = match self.0.get_mut(name) {
            Some(Entry::File(file)) => Some(file),
            _ => None,
        };
        file.expect("a file that was added before").watch = Some(Box::new(watch));
        self
    }

    fn file(self, name: &str, file_type: FileType, read: Option<Read>, changes: Changes) -> Self {
        self.put(name, Entry::File(File { file_type, read, changes, watch: None }))
    }

    fn put(mut self, name: &str, entry: Entry) -> Self {
        self.0.insert(name.to_owned(), entry);
        self
    }

    fn find<'a>(&'a self, path: &Path) -> Result<Found<'a>, Error> {
        let mut parts = path.components();
        let Some(name) = parts.next() else { return Ok(Found::Root) };
        let entry = self.0.get(name).ok_or_else(|| Error::not_found(path))?;
        let rest = path.as_str().get(1 + name.len()..).unwrap_or_default();
        match entry {
            Entry::Folder(service) if rest.is_empty() => Ok(Found::Beneath(service, Path::root())),
            Entry::Folder(service) => {
                let rest = rest.parse().map_err(|why| Error::invalid_path(path, why))?;
                Ok(Found::Beneath(service, rest))
            }
            _ if !rest.is_empty() => Err(Error::not_dir(path)),
            Entry::File(file) => Ok(Found::File(file)),
            Entry::Stream(ring) => Ok(Found::Stream(ring)),
        }
    }
}

enum Found<'a> {
    Root,
    File(&'a File),
    Stream(&'a Ring),
    Beneath(&'a Arc<dyn FileService>, Path),
}

/// A function that answers at once, as one that may take a while.
fn soon<R>(read: R) -> Read
where
    R: for<'a> Fn(&'a Context<'a>) -> Result<Vec<u8>, Error> + Send + Sync + 'static,
{
    Box::new(move |cx| {
        let answer = read(cx);
        Box::pin(std::future::ready(answer))
    })
}

/// A function of the body of one verb; the others are refused.
fn only<W>(verb: &'static str, name: &str, take: W) -> Decide
where
    W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Result<Effect, Error> + Send + Sync + 'static,
{
    only_async(verb, name, move |cx, body| {
        let answer = take(cx, body);
        Box::pin(std::future::ready(answer))
    })
}

type TakeAsync<T> = Box<dyn for<'a> Fn(&'a Context<'a>, &'a Change) -> Answer<'a, T> + Send + Sync>;

fn only_async<T: Send + 'static, W>(verb: &'static str, name: &str, take: W) -> TakeAsync<T>
where
    W: for<'a> Fn(&'a Context<'a>, &'a [u8]) -> Answer<'a, T> + Send + Sync + 'static,
{
    let name = name.to_owned();
    Box::new(move |cx, change| {
        if change.verb() == verb {
            return take(cx, change.body());
        }
        let refusal = Path::root().join(&name).map(|path| not_taken(&path, change));
        let refusal = refusal.unwrap_or_else(|why| Error::invalid_path(&name, why));
        Box::pin(std::future::ready(Err(refusal)))
    })
}

impl FileService for Computed {
    /// Sizes of files are not known before they are asked, and 0.
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            let name = path.name().unwrap_or_default();
            match self.find(path)? {
                Found::Root => Ok(dir("")),
                Found::File(found) => Ok(file(name, found.file_type, 0)),
                Found::Stream(ring) => Ok(file(name, FileType::Stream, ring.end())),
                Found::Beneath(service, rest) => {
                    let stat = service.stat(cx, &rest).await.map_err(|error| error.at(path))?;
                    Ok(Stat { name: name.to_owned(), ..stat })
                }
            }
        })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            let line = |(name, entry): (&String, &Entry)| match entry {
                Entry::File(found) => file(name, found.file_type, 0),
                Entry::Stream(ring) => file(name, FileType::Stream, ring.end()),
                Entry::Folder(_) => dir(name),
            };
            match self.find(path)? {
                Found::Root => Ok(self.0.iter().map(line).collect()),
                Found::File(_) | Found::Stream(_) => Err(Error::not_dir(path)),
                Found::Beneath(service, rest) => {
                    service.list(cx, &rest).await.map_err(|error| error.at(path))
                }
            }
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            match self.find(path)? {
                Found::Root => Err(Error::is_dir(path)),
                Found::File(File { read: Some(read), .. }) => {
                    let content = read(cx).await?;
                    Ok(if span == Span::ALL { content } else { span.of(&content) })
                }
                Found::File(_) => Err(Error::new(Code::PermissionDenied, path, "is not to be read")),
                Found::Stream(ring) => Ok(ring.read(span).bytes),
                Found::Beneath(service, rest) => {
                    service.read(cx, &rest, span).await.map_err(|error| error.at(path))
                }
            }
        })
    }

    fn class(&self, path: &Path, change: &Change) -> Class {
        match self.find(path) {
            Ok(Found::File(File { changes: Changes::Outside { class, .. }, .. })) => *class,
            Ok(Found::Beneath(service, rest)) => match beneath(path, change) {
                Ok(change) => service.class(&rest, &change),
                Err(_) => Class::Transactional,
            },
            _ => Class::Transactional,
        }
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            match self.find(path)? {
                Found::File(File { changes: Changes::Transactional(decide), .. }) => decide(cx, change).await,
                Found::Beneath(service, rest) => {
                    let change = beneath(path, change)?;
                    service.change(cx, &rest, &change).await.map_err(|error| error.at(path))
                }
                _ => Err(not_taken(path, change)),
            }
        })
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            match self.find(path)? {
                Found::File(File { changes: Changes::Outside { act, .. }, .. }) => act(cx, change).await,
                Found::Beneath(service, rest) => {
                    let change = beneath(path, change)?;
                    service.act(cx, &rest, &change).await.map_err(|error| error.at(path))
                }
                _ => Err(not_taken(path, change)),
            }
        })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, LookUp> {
        Box::pin(async move {
            match self.find(path)? {
                Found::File(File { changes: Changes::Outside { look_up: Some(look_up), .. }, .. }) => {
                    look_up(cx, change).await
                }
                Found::Beneath(service, rest) => {
                    let change = beneath(path, change)?;
                    service.look_up(cx, &rest, &change).await.map_err(|error| error.at(path))
                }
                _ => Ok(LookUp::Unknown),
            }
        })
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        match self.find(path)? {
            Found::File(File { watch: Some(watch), .. }) => watch(cx),
            Found::Stream(ring) => Ok(ring.watch()),
            Found::Beneath(service, rest) => service.watch(cx, &rest).map_err(|error| error.at(path)),
            Found::Root | Found::File(_) => {
                Err(Error::new(oa_nips::files::Code::Unavailable, path, "cannot be watched"))
            }
        }
    }

    fn start(&self, cx: &Context<'_>, path: &Path) -> u64 {
        match self.find(path) {
            Ok(Found::Stream(ring)) => ring.start(),
            Ok(Found::Beneath(service, rest)) => service.start(cx, &rest),
            _ => 0,
        }
    }
}

/// The change as a folder of ours is told it: where something moves to is beneath the same folder.
fn beneath(path: &Path, change: &Change) -> Result<Change, Error> {
    let Change::Rename(to) = change else { return Ok(change.clone()) };
    let folder = path.components().next().unwrap_or_default();
    let rest = to.strip(&format!("/{folder}"));
    let rest = rest.ok_or_else(|| Error::invalid(to, "is not in the same folder"))?;
    let to = format!("/{rest}").parse().map_err(|why| Error::invalid_path(to, why))?;
    Ok(Change::Rename(to))
}

#[cfg(test)]
mod tests;
