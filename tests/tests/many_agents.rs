//! Two hundred agents on one node: one websocket to each relay, and each answers by its own name.

use anyhow::{Context as _, Result, ensure};
use oa_nips::mail::Protocol::{Nip04, Nip17};
use oa_nips::nostr::nips::nip01::Metadata;
use oa_nips::nostr::{Filter, JsonUtil as _, Kind};
use oa_tests::split::{Plan, Split};
use oa_tests::world::{DEADLINE, World, eventually, field};

const AGENTS: usize = 200;

fn name(n: usize) -> String {
    format!("agent-{n:03}")
}

fn plan() -> Plan {
    Plan { agents: (0..AGENTS).map(|n| (name(n), "echo")).collect(), ..Plan::default() }
}

#[tokio::test]
async fn two_hundred_agents_share_one_socket_and_answer_by_name() -> Result<()> {
    let world = World::new()?;
    let split = Split::start(&world, plan()).await?;
    let mut alice = split.client().await?;
    let mut asked = Vec::new();
    for n in 0..AGENTS {
        let protocol = if n.is_multiple_of(2) { Nip17 } else { Nip04 };
        let agent = split.agent(&name(n))?;
        let id = alice.dm(agent, &format!("are you {}?", name(n)), protocol, DEADLINE).await?;
        asked.push((agent, id));
    }
    for (n, (agent, id)) in asked.into_iter().enumerate() {
        let reply = alice.answer(id, 2 * DEADLINE).await.with_context(|| name(n))?;
        ensure!(reply.author == agent, "another one answers for {}", name(n));
        ensure!(reply.text() == Some(&format!("You said: are you {}?", name(n))), "{reply:?}");
    }
    ensure!(
        (split.proxy.connections(), split.proxy.open()) == (1, 1),
        "{} sockets",
        split.proxy.connections()
    );
    Ok(())
}

#[tokio::test]
async fn each_is_shown_by_its_name_and_where_it_takes_mail() -> Result<()> {
    let world = World::new()?;
    let split = Split::start(&world, plan()).await?;
    let alice = split.client().await?;
    let (alice, split) = (&alice, &split);
    for n in [0, 1, 99, AGENTS - 1] {
        let agent = split.agent(&name(n))?;
        eventually(2 * DEADLINE, || async move {
            let filter = Filter::new().author(agent).kinds([Kind::Metadata, Kind::InboxRelays]);
            let events = alice.fetch(&filter, DEADLINE).await?;
            let of = |kind| events.iter().find(|event| event.kind == kind).context("not published");
            let profile = Metadata::from_json(&of(Kind::Metadata)?.content)?;
            ensure!(profile.name == Some(name(n)), "{profile:?}");
            ensure!(profile.custom.get("bot") == Some(&true.into()), "{profile:?}");
            let relays = oa_nips::profile::read_dm_relays(of(Kind::InboxRelays)?);
            ensure!(
                relays.iter().any(|url| url.as_str().trim_end_matches('/') == split.proxy.url()),
                "{relays:?}"
            );
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn they_are_all_there_after_a_restart() -> Result<()> {
    let world = World::new()?;
    let mut split = Split::start(&world, plan()).await?;
    let before = split.node.ready().clone();
    split.node.kill().await?;
    let mut alice = split.client().await?;
    let (first, last) = (split.agent(&name(0))?, split.agent(&name(AGENTS - 1))?);
    let asked =
        [alice.dm(first, "one", Nip17, DEADLINE).await?, alice.dm(last, "two", Nip04, DEADLINE).await?];
    split.node.restart().await?;
    ensure!(split.node.ready() == &before, "the same names and keys");
    for id in asked {
        alice.answer(id, DEADLINE).await?;
    }
    ensure!(split.proxy.open() == 1);
    let status = split.home.oa_node(&["status", "--json"]).await?.json()?;
    let status = status.first().context("a status")?;
    ensure!(status.get("agents") == Some(&AGENTS.into()), "{status}");
    ensure!(field(status, "npub") == field(&before, "node"), "{status}");
    Ok(())
}
