//! A host folder that tells what others have changed in it: what an agent changed itself is known by what it left.
//!
//! Who wrote a file cannot be seen in it. But what a change leaves has a number, a time and a size, and whoever changes
//! it after that leaves others. So each change that an agent makes is noted with what it left there.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::agent::AgentId;
use crate::namespace::blocks::host::{Changed, Host, Identity};
use crate::namespace::error::Error;
use crate::namespace::path::Path;
use crate::namespace::rights::Role;
use crate::namespace::service::{Answer, Change, Class, Context, FileService, LookUp, Span, Stat, Watch};

/// Changes of agents that are remembered; beyond that all are forgotten, and may wake who made them.
const NOTED_MAX: usize = 10_000;

/// A folder of the host under `/srv`.
#[derive(Debug)]
pub struct Folder {
    host: Host,
    own: Mutex<HashMap<(AgentId, Path), Own>>,
}

/// What an agent left at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Own {
    /// It is being changed.
    Doing,
    /// This, or nothing.
    Left(Option<Identity>),
}

impl Folder {
    /// A folder that is served as it is.
    pub fn new(host: Host) -> Self {
        Self { host, own: Mutex::default() }
    }

    /// What has changed since a number; nothing where nobody follows the folder.
    pub(super) fn changes(&self, since: u64) -> Option<Changed> {
        self.host.changes(since).ok()
    }

    /// Whether its changes are followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.changes(0).is_some()
    }

    /// Whether what is at a path now is what an agent left there.
    pub(super) async fn is_own(&self, agent: AgentId, path: &Path) -> bool {
        let noted = self.own().get(&(agent, path.clone())).copied();
        match noted {
            None => false,
            Some(Own::Doing) => true,
            Some(Own::Left(left)) => self.host.identity(path).await.is_ok_and(|now| now == left),
        }
    }

    fn own(&self) -> MutexGuard<'_, HashMap<(AgentId, Path), Own>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, agent: AgentId, path: &Path, own: Own) {
        let mut all = self.own();
        if all.len() >= NOTED_MAX {
            all.clear();
        }
        all.insert((agent, path.clone()), own);
    }
}

impl FileService for Folder {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        self.host.stat(cx, path)
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        self.host.list(cx, path)
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        self.host.read(cx, path, span)
    }

    fn class(&self, path: &Path, change: &Change) -> Class {
        self.host.class(path, change)
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let agent = cx.subject.filter(|_| cx.role == Role::Agent).map(|subject| subject.row.id);
            let Some(agent) = agent else { return self.host.act(cx, path, change).await };
            let places: Vec<&Path> = match change {
                Change::Rename(to) => vec![path, to],
                _ => vec![path],
            };
            places.iter().for_each(|place| self.note(agent, place, Own::Doing));
            let done = self.host.act(cx, path, change).await;
            for place in places {
                // What cannot be looked at is taken for another's change.
                match self.host.identity(place).await {
                    Ok(left) => self.note(agent, place, Own::Left(left)),
                    Err(_) => drop(self.own().remove(&(agent, place.clone()))),
                }
            }
            done
        })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, LookUp> {
        self.host.look_up(cx, path, change)
    }

    fn watch(&self, cx: &Context<'_>, path: &Path) -> Result<Watch, Error> {
        self.host.watch(cx, path)
    }
}
