//! The table of rights, carried out: every role, every path, reading, writing and watching, against a node that runs.

#![expect(clippy::unwrap_used, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::files::{Code, OpError, Reply, Verb};
use oa_nips::mail::Protocol;
use oa_nips::nostr::Keys;
use oa_node::agent::manifest::{Level, Manifest, Npub, Policy};
use oa_node::money;
use oa_node::namespace::rights::{self, Right, Role};
use oa_tests::caller::Caller;
use oa_tests::local::{Plot, World};

const SOON: Duration = Duration::from_secs(15);
/// How long a silence must last to count as one.
const SILENCE: Duration = Duration::from_millis(500);

/// What the table itself says when it refuses.
fn is_refusal(error: &OpError) -> bool {
    error.code == Code::PermissionDenied && error.message.ends_with("not allowed")
}

/// Checks one answer against the table. What the table allows may fail for another reason: the file is not there, or
/// takes another verb.
fn check(role: Role, path: &str, verb: Verb, allowed: bool, reply: &Reply) {
    let whose = format!("{} {verb:?} {path}: {reply:?}", role.name());
    match reply {
        Ok(_) => assert!(allowed, "{whose}"),
        Err(error) if allowed => assert!(!is_refusal(error), "{whose}"),
        Err(error) => {
            assert!(matches!(error.code, Code::PermissionDenied | Code::NotFound), "{whose}");
        }
    }
}

/// A path that a pattern covers.
fn example(pattern: &str) -> String {
    pattern.replace('*', "some")
}

struct Cast {
    world: World,
    callers: Vec<(Role, Caller)>,
}

async fn cast() -> Cast {
    let [operator, owner, approver, viewer] = std::array::from_fn(|_| Keys::generate());
    // A wallet that nobody answers for: its files are there, and what they ask for is refused.
    let (wallet, secret) = (Keys::generate().public_key(), Keys::generate().secret_key().clone());
    let uri = money::Uri::new(wallet, vec!["ws://127.0.0.1:9".parse().unwrap()], secret).unwrap();
    let wallet = Some(money::Config { uri, rate: None });
    let plot = Plot { operators: vec![operator.public_key()], wallet, ..Plot::default() };
    let world = World::start(plot).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.owner = Some(Npub(owner.public_key()));
    manifest.dm.policy = Policy::Open;
    manifest.replies.burst = 10_000;
    manifest.roles.approvers = vec![Npub(approver.public_key())];
    manifest.roles.viewers = vec![Npub(viewer.public_key())];
    world.node.ensure_agent(manifest).await.unwrap();
    let mut callers = Vec::new();
    for (role, keys) in
        [(Role::Operator, operator), (Role::Owner, owner), (Role::Approver, approver), (Role::Viewer, viewer)]
    {
        callers.push((role, Caller::new(&world, keys).await.unwrap()));
    }
    Cast { world, callers }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_outside_every_role_may_do_what_the_table_says_and_nothing_else() {
    let Cast { world, mut callers } = cast().await;
    let trees = [("/agents/alice", rights::AGENT), ("", rights::NODE)];
    for (role, caller) in &mut callers {
        for (base, table) in trees {
            for line in table {
                let inner = example(line.pattern);
                let path = match (base, inner.as_str()) {
                    ("", path) => path.to_owned(),
                    (base, "/") => base.to_owned(),
                    (base, path) => format!("{base}{path}"),
                };
                // Naming an agent that does not exist tells nothing about rights.
                for verb in [Verb::List, Verb::Read, Verb::Write, Verb::Append, Verb::Call, Verb::Remove] {
                    let right =
                        if matches!(verb, Verb::List | Verb::Read) { Right::Read } else { Right::Write };
                    let allowed = line.of(*role).has(right);
                    // A word no file takes, so that what is allowed changes nothing.
                    let reply = caller.ask(verb, &path, "\u{1}no such thing").await.unwrap();
                    check(*role, &path, verb, allowed, &reply);
                }
                let watched = caller.try_watch(&path).await.unwrap().map(|()| Vec::new());
                check(*role, &path, Verb::Watch, line.of(*role).has(Right::Watch), &watched);
            }
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hear_nothing_and_others_agents_are_not_there() {
    let Cast { world, mut callers } = cast().await;
    let mut stranger = Caller::new(&world, Keys::generate()).await.unwrap();
    let op = oa_nips::hex::Hex([7; 16]);
    for path in ["/", "/agents", "/agents/alice/status", "/node/status"] {
        let request = oa_nips::files::Request::new(op, Verb::Read, path, Vec::new());
        stranger.send(&request, oa_tests::client::forge::now_s()).await.unwrap();
    }
    let barrier = callers.first_mut().unwrap().1.ask(Verb::Read, "/node/status", "").await.unwrap();
    assert!(barrier.is_ok());
    assert!(stranger.reply(op, SILENCE).await.is_none(), "a stranger was answered");

    let manifest = Manifest::new("bob", "echo");
    world.node.ensure_agent(manifest).await.unwrap();
    for (role, caller) in &mut callers {
        let reply = caller.ask(Verb::Read, "/agents/bob/status", "").await.unwrap();
        match role {
            Role::Operator => assert!(reply.is_ok(), "{reply:?}"),
            _ => assert_eq!(reply.unwrap_err().code, Code::NotFound, "{role:?}"),
        }
        let listed = caller.ask(Verb::List, "/agents", "").await.unwrap().unwrap();
        let sees_bob = String::from_utf8(listed).unwrap().contains("\"bob\"");
        assert_eq!(sees_bob, *role == Role::Operator, "{role:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_tick_the_agent_may_do_what_the_table_says_and_nothing_else() {
    let Cast { world, .. } = cast().await;
    let agent = world.agent("alice").unwrap().pubkey;
    let mut someone = world.client().await.unwrap();
    for line in rights::AGENT {
        let path = example(line.pattern);
        for (verb, right) in [("read", Right::Read), ("write", Right::Write), ("call", Right::Write)] {
            let allowed = line.of(Role::Agent).has(right);
            let asked = format!("do {verb} {path} \u{1}no such thing");
            let said = someone.ask(agent, &asked, Protocol::Nip17, SOON).await.unwrap();
            let said = said.text().unwrap().to_owned();
            let is_refused = said.contains("not allowed") || said.contains("no such file");
            if allowed {
                assert!(!said.contains("not allowed"), "{asked}: {said}");
            } else {
                assert!(said.starts_with("refused") && is_refused, "{asked}: {said}");
            }
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_turn_finds_no_wallet_unless_the_manifest_lets_it() {
    let owner = Keys::generate();
    let (wallet, secret) = (Keys::generate().public_key(), Keys::generate().secret_key().clone());
    let uri = money::Uri::new(wallet, vec!["ws://127.0.0.1:9".parse().unwrap()], secret).unwrap();
    let wallet = Some(money::Config { uri, rate: None });
    let world = World::start(Plot { wallet, ..Plot::default() }).await.unwrap();
    let mut manifest = Manifest::new("alice", "echo");
    manifest.owner = Some(Npub(owner.public_key()));
    manifest.dm.policy = Policy::Open;
    // Even where everything needs consent: nobody is asked about what a stranger wants paid.
    manifest.autonomy.level = Level::Supervised;
    let alice = world.node.ensure_agent(manifest.clone()).await.unwrap();
    manifest.name = "shop".to_owned();
    manifest.strangers.allow = vec!["/wallet/balance".to_owned()];
    let shop = world.node.ensure_agent(manifest).await.unwrap();
    let mut owner = world.client_of(owner).await.unwrap();
    let mut stranger = world.client().await.unwrap();
    for (asked, whom) in [
        ("do read /wallet/balance", alice),
        ("do list /wallet", alice),
        ("do call /wallet/invoice 5", alice),
        ("do call /wallet/pay lnbc1", alice),
        ("do call /wallet/pay lnbc1", shop),
        ("do list /wallet", shop),
    ] {
        let said = stranger.ask(whom, asked, Protocol::Nip17, SOON).await.unwrap();
        let said = said.text().unwrap();
        assert!(said.starts_with("refused: NotFound"), "{asked}: {said}");
    }
    let said = stranger.ask(shop, "do read /wallet/balance", Protocol::Nip17, SOON).await.unwrap();
    assert!(said.text().unwrap().starts_with("did: {"), "{:?}", said.text());
    let said = owner.ask(alice, "do read /wallet/balance", Protocol::Nip17, SOON).await.unwrap();
    assert!(said.text().unwrap().starts_with("did: {"), "{:?}", said.text());
    world.end().await;
}

#[test]
fn the_documentation_prints_the_table() {
    let docs = include_str!("../../../docs/namespace.md");
    for line in rights::to_markdown().lines().filter(|line| !line.is_empty()) {
        assert!(docs.contains(line), "docs/namespace.md lacks: {line}");
    }
}
