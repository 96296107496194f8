//! Many agents at once, written straight into a store: as they are when each has been created and put to sleep.

use anyhow::{Result, ensure};
use oa_nips::hex::Hex;
use oa_nips::nostr::PublicKey;
use oa_nips::record::{Head, Record, state_hash};
use oa_node::agent::envelope::{Envelope, Kind};
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::agent::{AgentId, Lifecycle};
use oa_node::signer::Seed;
use oa_node::store::Store;
use oa_node::store::write::{NewAgent, Poke, TickCommit, Verdict, Write};

/// Agents created in one unit.
const UNIT_AGENTS: u32 = 200;
/// Envelopes added in one unit.
const UNIT_POKES: u32 = 2_000;

/// The manifest of the agents measured: anybody may write, and everything is answered.
pub(crate) fn manifest(name: &str, program: &str) -> Manifest {
    let mut manifest = Manifest::new(name, program);
    manifest.dm.policy = Policy::Open;
    (manifest.replies.burst, manifest.replies.per_minute) = (u32::MAX, u32::MAX);
    manifest
}

/// Creates `count` agents that run `program`, each with one tick behind it and asleep; answers their addresses.
///
/// # Errors
/// What the store said.
pub(crate) async fn create_asleep(
    store: &Store,
    seed: &Seed,
    count: u32,
    program: &str,
) -> Result<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for first in (0..count).step_by(UNIT_AGENTS as usize) {
        let mut unit = Vec::new();
        for n in first..count.min(first + UNIT_AGENTS) {
            let pubkey = seed.agent(n)?.public_key();
            keys.push(pubkey);
            unit.extend(asleep(AgentId(n), pubkey, program));
        }
        let verdicts = store.commit(unit).await?;
        ensure!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Landed(_))), "{verdicts:?}");
    }
    Ok(keys)
}

/// Creation, and the tick for its envelope, which leaves the agent dormant.
fn asleep(id: AgentId, pubkey: PublicKey, program: &str) -> [Write; 2] {
    let (session, at_ms) = (Hex([7; 16]), crate::client::forge::now_ms());
    let manifest = manifest(&format!("agent-{id}"), program);
    let new = NewAgent { id, pubkey, manifest, session, at_ms, profile: Vec::new() };
    let state = state_hash(&Head::GENESIS.state, []);
    let agent = Hex(pubkey.to_bytes());
    let fields = [("outcome".to_owned(), "done".into())].into();
    let record = Record::new(agent, session, &Head::GENESIS, state, fields, &[7; 32]);
    let head = record.verify(&Head::GENESIS).unwrap_or(Head::GENESIS);
    let commit = TickCommit {
        agent: id,
        expect_version: 1,
        lease_epoch: 0,
        seq: 0,
        files: Vec::new(),
        alarms: Vec::new(),
        out: Vec::new(),
        bucket: None,
        rows: Vec::new(),
        lifecycle: Lifecycle::Dormant,
        record: Box::new(record),
        head,
    };
    [Write::CreateAgent(Box::new(new)), Write::Commit(Box::new(commit))]
}

/// Puts `each` envelopes into the inbox of the first `agents`, in turn.
///
/// # Errors
/// What the store said.
pub(crate) async fn poke(store: &Store, agents: u32, each: u32) -> Result<()> {
    let mut unit = Vec::new();
    for n in 0..each {
        for agent in 0..agents {
            let now_ms = crate::client::forge::now_ms();
            let envelope = Envelope::from_node(Kind::Poke, &format!("bench:{agent}:{n}"), now_ms);
            unit.push(Write::Poke(Box::new(Poke { agent: AgentId(agent), envelope })));
            let is_last = n + 1 == each && agent + 1 == agents;
            if unit.len() >= UNIT_POKES as usize || is_last {
                let verdicts = store.commit(std::mem::take(&mut unit)).await?;
                ensure!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Queued(_))), "{verdicts:?}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oa_node::store::memory::MemoryBackend;

    use super::*;

    #[tokio::test]
    async fn agents_sleep_with_a_chain_that_goes_on_and_wake_for_what_is_in_the_inbox() {
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        let keys = create_asleep(&store, &Seed::generate(), 3, "echo").await.unwrap();
        poke(&store, 2, 5).await.unwrap();
        assert_eq!(keys.len(), 3);
        let row = store.agent(AgentId(2)).unwrap().unwrap();
        assert_eq!((row.lifecycle, row.inbox_depth, row.head.seq), (Lifecycle::Dormant, 0, 1));
        assert_eq!(store.inbox(AgentId(1), 100).unwrap().len(), 5);
        assert_eq!(store.agents_with_mail().unwrap(), [AgentId(0), AgentId(1)]);
        store.close().await;
    }
}
