//! Consent, as owner, agent and others meet it: right person, right change, once, by the right way.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here is a failed test")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use oa_nips::files::Verb;
use oa_nips::mail::{Draft, Mail, Protocol};
use oa_nips::nostr::{EventBuilder, Keys, Kind, PublicKey, Tag};
use oa_nips::port::RowWrite;
use oa_node::agent::AgentId;
use oa_node::agent::mailbox::{FUTURE_S_MAX, Refusal};
use oa_node::agent::manifest::{Category, Level, Manifest, Npub, Policy};
use oa_node::store::write::Write;
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
    cast_with(|_| ()).await
}

async fn cast_with(change: impl FnOnce(&mut Manifest)) -> Cast {
    let owner_keys = Keys::generate();
    let world = World::start(Plot::default()).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.owner = Some(Npub(owner_keys.public_key()));
    manifest.dm.policy = Policy::Open;
    manifest.autonomy.level = Level::SemiAutonomous;
    manifest.autonomy.require_approval = vec![Category::ModifyGoals];
    change(&mut manifest);
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

    /// What the records have of a goal's file, oldest first: the error's code, or what was consented to.
    fn recorded(&self, goal: &str) -> Vec<String> {
        let row = self.world.agent("alice").unwrap();
        let records = self.world.store.records(row.id, 0, 1000).unwrap();
        let calls = records.iter().flat_map(|record| record.fields["calls"].as_array().unwrap());
        let of_goal = calls.filter(|call| call["path"] == format!("/goals/{goal}.json"));
        let said = |call: &serde_json::Value| {
            assert_eq!(call["request"].as_str().unwrap().len(), 64, "{call}");
            let said = call.get("error").or(call.get("approval")).unwrap();
            said.as_str().unwrap().to_owned()
        };
        of_goal.map(said).collect()
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
    // The records have the wish, and what was made of it.
    until(|| cast.recorded("first").len() == 2).await;
    let (id, ..) = approval(&cast);
    assert_eq!(cast.recorded("first"), ["approval_required".to_owned(), id]);
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.contains("Nothing was done") && said.contains("before"), "{said}");

    let (_, code) = cast.wish("second").await;
    let said = cast.say(&format!("no {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Denied"), "{said}");
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.contains("Nothing was done"), "{said}");
    assert!(!cast.has("second"));
    assert_eq!(cast.recorded("second"), ["approval_required"]);
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
    let runs = cast.world.plot.runs.load(Ordering::Relaxed);
    cast.owner.dm(cast.agent, &yes, Protocol::Nip17, SOON).await.unwrap();
    let warning = cast.node_says().await;
    assert!(warning.text().unwrap().contains("did not get it"), "{warning:?}");
    assert_eq!(cast.world.plot.runs.load(Ordering::Relaxed), runs);
    // However it is written, and by whatever way.
    let spaced = format!("it is {}-{}", &code[..3], code[3..].to_lowercase());
    cast.owner.dm(cast.agent, &spaced, Protocol::Nip17, SOON).await.unwrap();
    assert!(cast.node_says().await.text().unwrap().contains("did not get it"));
    let mut caller = Caller::new(&cast.world, cast.owner_keys.clone()).await.unwrap();
    let new = serde_json::json!({ "text": spaced }).to_string();
    let refused = caller.ask(Verb::Append, "/agents/alice/inbox/new", &new).await.unwrap().unwrap_err();
    assert!(refused.to_string().contains("code"), "{refused}");
    assert_eq!(cast.world.plot.runs.load(Ordering::Relaxed), runs);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_out_of_its_time_is_refused_and_does_nothing() {
    let mut cast = cast().await;
    let (_, code) = cast.wish("ahead").await;
    let ahead_ms = (forge::now_s() + FUTURE_S_MAX + 60) * 1000;
    let draft = Draft::text(cast.node, format!("yes {code}"), ahead_ms);
    let rumor = draft.rumor(cast.owner_keys.public_key());
    let wrap = forge::wrap_rumor(&cast.owner_keys, &cast.node, &rumor).unwrap();
    cast.owner.put(&wrap, SOON).await.unwrap();
    let store = cast.world.store.clone();
    until(|| store.refusals(AgentId::NODE, 9).unwrap().iter().any(|(_, r)| r.reason == Refusal::Future))
        .await;
    let told = cast.node_says().await;
    assert!(told.text().unwrap().contains("dated in the future"), "{told:?}");
    // It was not taken for an answer, neither then nor when the next one is dealt with.
    let said = cast.say("yes AAAAAA", Protocol::Nip17).await;
    assert!(said.contains("Nothing was done"), "{said}");
    assert!(!cast.has("ahead"));
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Granted"), "{said}");
    until(|| cast.has("ahead")).await;
    cast.world.end().await;
}

/// The one approval there is: its row's key and version, and what is in it.
fn approval(cast: &Cast) -> (String, u64, serde_json::Value) {
    let (key, row) = cast.world.store.rows("approvals", "", 9).unwrap().pop().unwrap();
    (key, row.version, serde_json::from_slice(&row.value).unwrap())
}

async fn ctl(caller: &mut Caller, command: &str) {
    caller.ask(Verb::Call, "/agents/alice/ctl", command).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_granted_is_not_made_once_the_agent_is_stopped() {
    let mut cast = cast().await;
    let (_, code) = cast.wish("held").await;
    let mut caller = Caller::new(&cast.world, cast.owner_keys.clone()).await.unwrap();
    // The grant comes while a tick has the agent's turn, and the stop while the grant waits for it.
    let runs = cast.world.plot.runs.load(Ordering::Relaxed);
    cast.owner.dm(cast.agent, "hold", Protocol::Nip17, SOON).await.unwrap();
    until(|| cast.world.plot.runs.load(Ordering::Relaxed) > runs).await;
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Granted"), "{said}");
    ctl(&mut caller, "stop").await;
    cast.world.plot.gate.add_permits(1);
    assert!(cast.owner.next(SILENCE).await.is_err());
    assert!(!cast.has("held"), "it was made after the stop");
    // It waits with the agent.
    ctl(&mut caller, "resume").await;
    until(|| cast.has("held")).await;
    cast.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_granted_expires_and_the_owner_is_told() {
    let mut cast = cast().await;
    let (_, code) = cast.wish("late").await;
    let mut caller = Caller::new(&cast.world, cast.owner_keys.clone()).await.unwrap();
    ctl(&mut caller, "stop").await;
    let said = cast.say(&format!("yes {code}"), Protocol::Nip17).await;
    assert!(said.starts_with("Granted, but alice is stopped"), "{said}");
    // A day goes by.
    let (key, expect_version, mut late) = approval(&cast);
    late["expires_at_ms"] = late["asked_at_ms"].clone();
    let value = Some(late.to_string().into_bytes());
    let row = RowWrite { space: "approvals".to_owned(), key, expect_version, value };
    cast.world.store.write(Write::Row(row)).await.unwrap();
    let told = cast.node_says().await;
    let told = told.text().unwrap();
    assert!(told.starts_with("Nothing was done") && told.contains("/goals/late.json"), "{told}");
    assert_eq!(approval(&cast).2["state"], "expired");
    // The agent finds the news when it goes on, and nothing is made then.
    let runs = cast.world.plot.runs.load(Ordering::Relaxed);
    ctl(&mut caller, "resume").await;
    until(|| cast.world.plot.runs.load(Ordering::Relaxed) > runs).await;
    assert!(!cast.has("late"));
    cast.world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_who_comes_too_late_is_told_so_and_a_stranger_is_not() {
    let approver_keys = Keys::generate();
    let mut cast =
        cast_with(|manifest| manifest.roles.approvers = vec![Npub(approver_keys.public_key())]).await;
    let mut approver = cast.world.client_of(approver_keys.clone()).await.unwrap();
    let mut stranger = cast.world.client().await.unwrap();
    // Each was asked, with the same code.
    let (_, code) = cast.wish("shared").await;
    let asked = approver.next(SOON).await.unwrap();
    assert!(asked.author == cast.node && asked.text().unwrap().contains(&code), "{asked:?}");
    let yes = format!("yes {code}");
    // Dated ahead: both are told, each once.
    let ahead_ms = (forge::now_s() + FUTURE_S_MAX + 60) * 1000;
    for keys in [&approver_keys, &Keys::generate()] {
        let rumor = Draft::text(cast.node, yes.clone(), ahead_ms).rumor(keys.public_key());
        let wrap = forge::wrap_rumor(keys, &cast.node, &rumor).unwrap();
        approver.put(&wrap, SOON).await.unwrap();
    }
    let told = approver.next(SOON).await.unwrap();
    assert!(told.text().unwrap().contains("dated in the future"), "{told:?}");
    // Superseded by the owner's word, and then done.
    assert!(cast.say(&format!("no {code}"), Protocol::Nip17).await.starts_with("Denied"));
    let said = approver.ask(cast.node, &yes, Protocol::Nip17, SOON).await.unwrap();
    assert!(said.text().unwrap().contains("denied before"), "{said:?}");
    let (_, code) = cast.wish("done").await;
    assert!(approver.next(SOON).await.unwrap().text().unwrap().contains(&code));
    assert!(cast.say(&format!("yes {code}"), Protocol::Nip17).await.starts_with("Granted"));
    until(|| cast.has("done")).await;
    let yes = format!("yes {code}");
    let said = approver.ask(cast.node, &yes, Protocol::Nip17, SOON).await.unwrap();
    assert!(said.text().unwrap().contains("granted before"), "{said:?}");
    let mut caller = Caller::new(&cast.world, approver_keys).await.unwrap();
    let (id, ..) = cast.world.store.rows("approvals", "", 9).unwrap().pop().unwrap();
    for verb in ["approve", "deny"] {
        let refused = caller.ask(Verb::Call, "/approvals/ctl", &format!("{verb} {id}")).await.unwrap();
        let refused = refused.unwrap_err();
        assert!(refused.message.contains("already"), "{refused}");
    }
    let sent = stranger.dm(cast.node, &yes, Protocol::Nip17, SOON).await.unwrap();
    assert!(stranger.answer(sent, SILENCE).await.is_err());
    // Over before anybody said anything.
    let (_, code) = cast.wish("over").await;
    assert!(approver.next(SOON).await.unwrap().text().unwrap().contains(&code));
    let is_over = |row: &oa_nips::port::Row| String::from_utf8_lossy(&row.value).contains("/goals/over.json");
    let rows = cast.world.store.rows("approvals", "", 9).unwrap();
    let (key, row) = rows.into_iter().find(|(_, row)| is_over(row)).unwrap();
    let mut over: serde_json::Value = serde_json::from_slice(&row.value).unwrap();
    over["expires_at_ms"] = over["asked_at_ms"].clone();
    let value = Some(over.to_string().into_bytes());
    let space = "approvals".to_owned();
    cast.world
        .store
        .write(Write::Row(RowWrite { space, key, expect_version: row.version, value }))
        .await
        .unwrap();
    let said = approver.ask(cast.node, &format!("yes {code}"), Protocol::Nip17, SOON).await.unwrap();
    assert!(said.text().unwrap().contains("too late"), "{said:?}");
    assert!(!cast.has("over") && !cast.has("shared"));
    cast.world.end().await;
}
