//! Two nodes given one seed: one ticks, the other waits and says why; and goes on when the first has left.

use std::sync::atomic::Ordering;
use std::time::Duration;

use oa_nips::mail::Protocol;
use oa_node::agent::manifest::{Manifest, Policy};
use oa_node::lease;
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;

const SOON: Duration = Duration::from_secs(20);

/// A tenth of the usual times.
fn plot() -> Plot {
    let lease = lease::Config {
        term: Duration::from_secs(9),
        renew_every: Duration::from_secs(3),
        skew: Duration::from_secs(1),
        claim_within: Duration::from_secs(1),
        settle: Duration::from_millis(1500),
        ..lease::Config::default()
    };
    Plot { lease: Some(lease), ..Plot::default() }
}

fn alice() -> Manifest {
    let mut manifest = Manifest::new("alice", "echo");
    manifest.dm.policy = Policy::Open;
    manifest
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_key_one_ticks_and_the_other_says_why_not() {
    let first = World::start(plot()).await.unwrap();
    assert_eq!(first.node.held(SOON).await, None, "a new key is nobody else's");
    let agent = first.node.ensure_agent(alice()).await.unwrap();
    let second = first.rival(plot()).await.unwrap();
    assert_eq!(second.node.ensure_agent(alice()).await.unwrap(), agent, "the same seed gives the same key");

    let why = second.node.held(Duration::from_secs(2)).await.expect("the second must wait");
    assert!(why.contains("another node"), "{why}");
    let mut someone = first.client().await.unwrap();
    for n in 0..5 {
        let said = someone.ask(agent, &format!("hello {n}"), Protocol::Nip17, SOON).await.unwrap();
        assert_eq!(said.text(), Some(format!("You said: hello {n}").as_str()));
    }
    assert_eq!(first.plot.runs.load(Ordering::Relaxed), 5);
    assert_eq!(second.plot.runs.load(Ordering::Relaxed), 0, "who waits does not tick");
    let open = || second.store.outbox_open(None, 100).unwrap().len();
    assert!(open() > 0, "who waits sends nothing, not even profiles");

    first.stop().await;
    assert_eq!(second.node.held(SOON).await, None, "a lease that was left can be taken");
    let said = someone.ask(agent, "who is there", Protocol::Nip17, SOON).await.unwrap();
    assert_eq!(said.text(), Some("You said: who is there"));
    assert!(second.plot.runs.load(Ordering::Relaxed) > 0);
    eventually(SOON, || async {
        anyhow::ensure!(open() == 0, "{} items are not sent", open());
        Ok(())
    })
    .await
    .unwrap();
    second.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_at_once() {
    let first = World::start(plot()).await.unwrap();
    let agent = first.node.ensure_agent(alice()).await.unwrap();
    let mut someone = first.client().await.unwrap();
    someone.ask(agent, "before", Protocol::Nip17, SOON).await.unwrap();
    let again = first.stop().await.again().await.unwrap();
    assert_eq!(again.node.held(Duration::from_secs(1)).await, None);
    someone.ask(agent, "after", Protocol::Nip17, SOON).await.unwrap();
    again.end().await;
}
