//! Who was let in to which agent, in the store: one row an agent.

use oa_nips::nostr::PublicKey;
use oa_nips::port::RowWrite;

use super::State;
use super::uri::Secret;
use crate::agent::{AgentId, Lifecycle};
use crate::store::Store;
use crate::store::backend::BackendError;

/// The space of the rows.
const SPACE: &str = "bunker";
/// Agents whose keys are served. 64: every request looks through their rows.
pub(crate) const AGENTS_MAX: usize = 64;

type Result<T> = std::result::Result<T, BackendError>;

/// The state of an agent's connections, and the version of its row.
///
/// # Errors
/// What the store said, or a damaged row.
pub(crate) fn read(store: &Store, agent: AgentId) -> Result<(u64, State)> {
    let row = store.row(SPACE, &key(agent))?;
    row.map_or(Ok((0, State::default())), |row| Ok((row.version, parse(&row.value)?)))
}

/// The write that keeps a state; of one with nobody in it nothing is kept.
pub(crate) fn put(agent: AgentId, version: u64, state: &State) -> RowWrite {
    let is_empty = *state == State::default();
    let value = if is_empty { None } else { serde_json::to_vec(state).ok() };
    RowWrite { space: SPACE.to_owned(), key: key(agent), expect_version: version, value }
}

/// The agents that anybody was invited to, and are there.
///
/// # Errors
/// As [`read`].
pub(crate) fn all(store: &Store) -> Result<Vec<(AgentId, State)>> {
    let mut all = Vec::new();
    for (name, row) in store.rows(SPACE, "", AGENTS_MAX)? {
        let Ok(agent) = name.parse().map(AgentId) else { continue };
        if store.agent(agent)?.is_some_and(|agent| agent.lifecycle != Lifecycle::Terminated) {
            all.push((agent, parse(&row.value)?));
        }
    }
    Ok(all)
}

/// The agent that a client was let in to.
///
/// # Errors
/// As [`read`].
pub(crate) fn whose(store: &Store, client: &PublicKey) -> Result<Option<AgentId>> {
    let found = all(store)?.into_iter().find(|(_, state)| state.clients.contains_key(client));
    Ok(found.map(|(agent, _)| agent))
}

/// The agent that a secret lets in to.
///
/// # Errors
/// As [`read`].
pub(crate) fn invited(store: &Store, secret: &Secret, now_s: u64) -> Result<Option<AgentId>> {
    let found = all(store)?.into_iter().find(|(_, state)| state.is_invited(secret, now_s));
    Ok(found.map(|(agent, _)| agent))
}

/// The writes that forget the connections of agents that are gone.
///
/// # Errors
/// What the store said.
pub(crate) fn leftovers(store: &Store) -> Result<Vec<RowWrite>> {
    let mut gone = Vec::new();
    for (name, row) in store.rows(SPACE, "", usize::MAX)? {
        let agent = name.parse().ok().map(AgentId);
        let row_of = agent.map(|agent| store.agent(agent)).transpose()?.flatten();
        if row_of.is_none_or(|agent| agent.lifecycle == Lifecycle::Terminated) {
            let space = SPACE.to_owned();
            gone.push(RowWrite { space, key: name, expect_version: row.version, value: None });
        }
    }
    Ok(gone)
}

/// Ten digits, so that rows are in the agents' order.
fn key(agent: AgentId) -> String {
    format!("{:010}", agent.0)
}

fn parse(value: &[u8]) -> Result<State> {
    serde_json::from_slice(value).map_err(|error| BackendError::Corrupt {
        path: format!("rows of {SPACE}"),
        detail: error.to_string(),
    })
}
