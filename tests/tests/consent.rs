//! Consent, as owner, agent and others meet it: right person, right change, once, by the right way.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::files::Verb;
use oa_nips::mail::{Mail, Protocol};
use oa_nips::nostr::{EventBuilder, Keys, Kind, PublicKey, Tag};
use oa_node::agent::manifest::{Category, Level, Manifest, Npub, Policy};
use oa_tests::caller::Caller;
use oa_tests::client::{Client, forge};
use oa_tests::local::{Plot, World};
use oa_tests::world::eventually;

const SOON: Duration = Duration::from_secs(15);
/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(700);

struct Cast {
    world: World,
    owner: Client,
    owner_keys: Keys,
    agent: PublicKey,
    node: PublicKey,
}

async fn cast() -> Cast {
    let owner_keys = Keys::generate();
    let world = World::start(Plot::default()).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.owner = Some(Npub(owner_keys.public_key()));
    manifest.dm.policy = Policy::Open;
    manifest.autonomy.level = Level::SemiAutonomous;
    manifest.autonomy.require_approval = vec![Category::ModifyGoals];
    let agent = world.node.ensure_agent(manifest).await.unwrap();
    let owner = world.client_of(owner_keys.clone()).await.unwrap();
    let node = world.node.public_key();
    Cast { world, owner, owner_keys, agent, node }
}

impl Cast {
    /// Has the agent wish for a goal; answers the node's message, and the code in it.
    async fn wish(&mut self, goal: &str) -> (Mail, String) {
        let asked = format!(r#"do write /goals/{goal}.json {{"text":"{goal}"}}"#);
        self.owner.dm(self.agent, &asked, Protocol::Nip17, SOON).await.unwrap();
        let (mut from_agent, mut from_node) = (None, None);
        while from_agent.is_none() || from_node.is_none() {
            let mail = self.owner.next(SOON).await.unwrap();
            if mail.author == self.node {
                from_node = Some(mail);
            } else if mail.text().unwrap().starts_with("refused: ApprovalRequired") {
                from_agent = Some(mail);
            }
        }
        let refused = from_agent.unwrap();
        let asking = from_node.unwrap();
        let text = asking.text().unwrap().to_owned();
        assert!(text.contains(&format!("/goals/{goal}.json")) && text.contains("modify_goals"), "{text}");
        let code = text.lines().find_map(|line| line.trim().strip_prefix("yes ")).unwrap().to_owned();
        assert!(!refused.text().unwrap().contains(&code), "the agent knows the code");
        (asking, code)
    }

    fn has(&self, goal: &str) -> bool {
        let row = self.world.agent("alice").unwrap();
        self.world.store.file(row.id, &format!("/goals/{goal}.json")).unwrap().is_some()
    }

    /// The next message of the node's.
    async fn node_says(&mut self) -> Mail {
        loop {
            let mail = self.owner.next(SOON).await.unwrap();
            if mail.author == self.node {
                return mail;
            }
        }
    }

    /// Says something to the node; answers what it says.
    async fn say(&mut self, text: &str, protocol: Protocol) -> String {
        let said = self.owner.ask(self.node, text, protocol, SOON).await.unwrap();
        said.text().unwrap().to_owned()
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let ask = || async {
        anyhow::ensure!(is_so(), "not yet");
        Ok(())
    };
    eventually(SOON, ask).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_yes_does_it_once() {
    let mut cast = cast().await;
    let (_, code) = cast.wish("first").await;
    assert!(!cast.has("first"));
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Granted"), "{said}");
    until(|| cast.has("first")).await;
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.contains("Nothing was done") && said.contains("before"), "{said}");

    let (_, code) = cast.wish("second").await;
    let said = cast.say(&format!("no {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Denied"), "{said}");
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.contains("Nothing was done"), "{said}");
    assert!(!cast.has("second"));
    cast.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_and_no_other_way_does_anything() {
    let mut cast = cast().await;
    let (_, code) = cast.wish("mine").await;
    let yes = format!("yes {code}");
    // Somebody who overheard the code: no answer, nothing done.
    let mut thief = cast.world.client().await.unwrap();
    let sent = thief.dm(cast.node, &yes, Protocol::Nip17, SOON).await.unwrap();
    assert!(thief.answer(sent, SILENCE).await.is_err());
    // The legacy protocol cannot give consent.
    let said = cast.say(&yes, Protocol::Nip04).await;
    assert!(said.contains("Nothing was done"), "{said}");
    // The code typed to the agent does not reach it; the node says so.
    let runs = cast.world.plot.runs.load(std::sync::atomic::Ordering::Relaxed);
    cast.owner.dm(cast.agent, &yes, Protocol::Nip17, SOON).await.unwrap();
    let warning = cast.node_says().await;
    assert!(warning.text().unwrap().contains("did not get it"), "{warning:?}");
    assert_eq!(cast.world.plot.runs.load(std::sync::atomic::Ordering::Relaxed), runs);
    let said = cast.say("yes AAAAAA", Protocol::Nip17).await;
    assert!(said.contains("Nothing was done"), "{said}");
    assert!(!cast.has("mine"));
    // What the agent can read of it has no code.
    let listed = cast.owner.ask(cast.agent, "do list /approvals", Protocol::Nip17, SOON).await.unwrap();
    let names = listed.text().unwrap().trim_start_matches("did: ").to_owned();
    let id = names.split(' ').find(|name| name.ends_with(".json")).unwrap();
    let read = format!("do read /approvals/{id}");
    let shown = cast.owner.ask(cast.agent, &read, Protocol::Nip17, SOON).await.unwrap();
    assert!(shown.text().unwrap().contains("modify_goals"), "{shown:?}");
    assert!(!shown.text().unwrap().to_uppercase().contains(&code), "{shown:?}");
    let ctl = format!("do call /approvals/ctl approve {}", id.trim_end_matches(".json"));
    let refused = cast.owner.ask(cast.agent, &ctl, Protocol::Nip17, SOON).await.unwrap();
    assert!(refused.text().unwrap().starts_with("refused"), "{refused:?}");
    // After all that the right answer still works.
    assert!(cast.say(&yes, Protocol::Nip17).await.starts_with("Granted"));
    until(|| cast.has("mine")).await;
    cast.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reaction_or_a_call_of_the_owner_does_it_too() {
    let mut cast = cast().await;
    let (asking, _) = cast.wish("thumbs").await;
    let rumor = EventBuilder::new(Kind::Reaction, "👍")
        .tags([Tag::event(asking.id), Tag::public_key(cast.node)])
        .build(cast.owner_keys.public_key());
    let wrap = forge::wrap_rumor(&cast.owner_keys, &cast.node, &rumor).unwrap();
    cast.owner.put(&wrap, SOON).await.unwrap();
    until(|| cast.has("thumbs")).await;
    // The node says what it did.
    assert!(cast.node_says().await.text().unwrap().starts_with("Granted"));

    cast.wish("called").await;
    let mut caller = Caller::new(&cast.world, cast.owner_keys.clone()).await.unwrap();
    let listed = caller.ask(Verb::List, "/approvals", "").await.unwrap().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed).unwrap();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().filter_map(|s| s.get("name")?.as_str()).collect();
    let mut granted = 0;
    for id in names.iter().filter_map(|name| name.strip_suffix(".json")) {
        let reply = caller.ask(Verb::Call, "/approvals/ctl", &format!("approve {id}")).await.unwrap();
        granted += u32::from(reply.is_ok());
    }
    assert_eq!(granted, 1, "only the one that waits");
    until(|| cast.has("called")).await;
    cast.world.end().await;
}
