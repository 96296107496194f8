//! Who owns an agent is who was last made its owner, whatever its manifest once said.

use oa_nips::nostr::Keys;
use oa_node::agent::manifest::Npub;
use oa_node::store::Store;
use oa_node::store::write::{AgentChange, Verdict, Write};

use super::fixture::{Fixture, both};

#[tokio::test]
async fn a_manifest_that_is_written_back_gives_nobody_the_agent_back() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let [first, second, third] = std::array::from_fn(|_| Keys::generate().public_key());
        let write = async |change| {
            assert_eq!(world.write(Write::ChangeAgent(world.agent, change)).await, Verdict::Done);
        };
        let mut old = world.store.manifest(world.agent).unwrap().unwrap();
        old.owner = Some(Npub(first));
        write(AgentChange::Manifest(Box::new(old.clone()))).await;
        assert_eq!(world.row().owner, Some(first));
        write(AgentChange::Owner(Some(second))).await;
        let mut now = world.store.manifest(world.agent).unwrap().unwrap();
        assert_eq!(now.owner, Some(Npub(second)), "who reads it, to write it back, reads the truth");
        write(AgentChange::Owner(None)).await;
        now = world.store.manifest(world.agent).unwrap().unwrap();
        now.hud.public = true;
        write(AgentChange::Manifest(Box::new(now.clone()))).await;
        assert_eq!(world.row().owner, None, "nobody gets it back by a change of something else");
        now.owner = Some(Npub(third));
        write(AgentChange::Manifest(Box::new(now))).await;
        assert_eq!(world.row().owner, Some(third), "a manifest that names somebody new makes him the owner");
    })
    .await;
}
