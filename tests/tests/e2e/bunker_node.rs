//! The node as a bunker: other people's programs have things signed with an agent's key, as far as its owner lets them.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use oa_nips::nostr::{EventBuilder, Keys, Kind, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer as _, SignerError};
use oa_node::bunker::uri::BunkerUri;
use oa_node::drivers::bunker::dial;
use oa_node::signer::bunker::{Bunker, Patience};
use oa_node::time::System;
use oa_tests::bunker::{nostr_tools, signed_as};
use oa_tests::world::{DEADLINE, Done, Home, World, field};
use serde_json::Value;

/// `oa bunker new` with these arguments; answers the address.
async fn invite(home: &Home, args: &[&str]) -> Result<String> {
    let all = [&["--json", "bunker", "new"], args].concat();
    let made = home.oa(&all).await?;
    ensure!(made.code == Some(0), "{made:?}");
    let made = made.json()?;
    Ok(made.first().and_then(|made| field(made, "uri")).context("an address")?.to_owned())
}

/// A program of ours that was let in.
async fn let_in(uri: &str) -> Result<Bunker> {
    let BunkerUri { remote, secret } = uri.parse()?;
    let link = dial(Patience::default(), remote, Keys::generate(), Arc::new(System));
    Ok(link.connect(secret, "").await?)
}

fn event(author: PublicKey, kind: u16) -> UnsignedEvent {
    EventBuilder::new(Kind::from(kind), "as the agent").build(author)
}

fn failed(done: &Done, code: i32, sentence: &str) -> Result<()> {
    ensure!(done.code == Some(code), "{code} is wanted: {done:?}");
    ensure!(done.stderr.contains(sentence), "{sentence:?} is wanted: {done:?}");
    Ok(())
}

fn said_no<T: std::fmt::Debug>(outcome: Result<T, SignerError>, why: &str) -> Result<()> {
    let error = outcome.err().context("it was done")?.to_string();
    ensure!(error.contains(why), "{why:?} is wanted: {error}");
    Ok(())
}

async fn listed(home: &Home) -> Result<Vec<Value>> {
    home.oa(&["bunker", "list", "--json"]).await?.json()
}

#[tokio::test]
async fn nostr_tools_signs_as_an_agent() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let up = home.up().start().await?;
    let agent = up.agent("concierge")?;
    let uri = invite(&home, &["phone", "--kinds", "1,30023", "--encrypt"]).await?;
    let client = nostr_tools(&["client", &uri])?.spawn()?;
    let output = tokio::time::timeout(3 * DEADLINE, client.wait_with_output()).await??;
    signed_as(&output, &agent)?;
    ensure!(listed(&home).await?.is_empty(), "who logged out is gone");
    Ok(())
}

#[tokio::test]
async fn a_connection_does_what_it_was_made_for_until_it_is_revoked() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let mut up = home.up().start().await?;
    home.oa(&["agent", "new", "bob", "--program", "echo"]).await?.ok()?;
    failed(&home.oa(&["bunker", "new", "x"]).await?, 2, "--agent")?;
    let uri = invite(&home, &["blog", "--agent", "bob", "--kinds", "30023,0"]).await?;
    failed(&home.oa(&["bunker", "new", "blog", "--agent", "bob"]).await?, 1, "already")?;
    for kind in ["25930", "39205"] {
        let done = home.oa(&["bunker", "new", "x", "--agent", "bob", "--kinds", kind]).await?;
        failed(&done, 2, "signed for nobody")?;
    }
    let blog = let_in(&uri).await?;
    let bob = blog.public_key();
    ensure!(bob != up.agent("concierge")?, "it is bob's");
    // An agent may never sign its profile by itself; this connection was told that it may.
    for kind in [30023, 0] {
        blog.sign(event(bob, kind)).await?.verify()?;
    }
    for kind in [1, 4, 5, 13, 22242, 24133, 25930, 39205] {
        said_no(blog.sign(event(bob, kind)).await, &format!("not allowed: events of kind {kind}"))?;
    }
    said_no(blog.nip44_encrypt(&bob, "x").await, "not allowed: nip-44")?;
    // Somebody else's invitation is no way to have both.
    let other = invite(&home, &["phone", "--agent", "concierge"]).await?;
    let BunkerUri { secret, .. } = other.parse()?;
    said_no(blog.link().connect(secret, "").await, "connected as another agent")?;
    let list = listed(&home).await?;
    let states: Vec<_> =
        list.iter().map(|one| (field(one, "agent"), field(one, "name"), field(one, "state"))).collect();
    let expected =
        [(Some("bob"), Some("blog"), Some("connected")), (Some("concierge"), Some("phone"), Some("invited"))];
    ensure!(states == expected, "{list:?}");
    let secret = other.parse::<BunkerUri>()?.secret.context("a secret")?;
    ensure!(!format!("{list:?}").contains(secret.reveal()), "{list:?}");
    // It outlives the node.
    ensure!(up.terminate(DEADLINE).await? == 0);
    up.restart().await?;
    oa_tests::world::eventually(DEADLINE, || async { Ok(blog.sign(event(bob, 30023)).await?) }).await?;
    home.oa(&["bunker", "revoke", "blog", "--agent", "bob"]).await?.ok()?;
    said_no(blog.sign(event(bob, 30023)).await, "not connected")?;
    failed(&home.oa(&["bunker", "revoke", "blog", "--agent", "bob"]).await?, 3, "blog")?;
    // With the agent its connections go.
    let phone = let_in(&other).await?;
    phone.sign(event(phone.public_key(), 1)).await?;
    home.oa(&["agent", "rm", "concierge"]).await?.ok()?;
    said_no(phone.sign(event(phone.public_key(), 1)).await, "not connected")
}
