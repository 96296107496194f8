//! `oa up`: relay, node and concierge in one go, and how to reach them.

use std::time::{Duration, Instant};

use oa_nips::nostr::nips::nip19::{Nip19Profile, ToBech32};
use oa_nips::nostr::{PublicKey, RelayUrl};
use oa_node::agent::manifest::{Manifest, Npub, Policy};
use oa_node::drivers::nostr::SweepConfig;
use oa_node::home::Home;
use oa_node::node::JournalLimits;
use serde_json::json;

use crate::args::Up;
use crate::commands::public_key;
use crate::config::relay_url;
use crate::context::{Context, Signals};
use crate::error::{Error, Kind, Result};
use crate::host::{self, Host, Plan, npub};
use crate::lifecycle;
use crate::purse;

/// The agent that is there from the start.
const CONCIERGE: &str = "concierge";

pub(crate) async fn run(context: &Context, args: Up) -> Result<()> {
    let started = Instant::now();
    let signals = Signals::catch()?;
    let owner = args.owner.as_deref().map(public_key).transpose()?;
    let relays = args.relay.iter().map(|url| relay_url(url)).collect::<std::result::Result<_, _>>();
    let relays = relays.map_err(|reason| Error::new(Kind::Usage, format!("--relay: {reason}")))?;
    let home = Home::open(&context.home)?;
    let operator = host::operator_key(&home, &context.passphrase)?;
    let mut concierge = Manifest::new(CONCIERGE, CONCIERGE);
    "Notes, goals and reminders by direct message. Say help.".clone_into(&mut concierge.about);
    concierge.dm.policy = Policy::Open;
    concierge.owner = owner.map(Npub);
    let wallet = purse::of_home(home.dir(), args.wallet_file.as_deref())?;
    let has_wallet = wallet.is_some();
    let plan = Plan {
        relay: Some((args.listen, false)),
        relay_url: None,
        relays,
        operators: vec![operator],
        approvers: Vec::new(),
        viewers: Vec::new(),
        srv: std::collections::BTreeMap::new(),
        agents: vec![concierge],
        allow_private: Vec::new(),
        http_private: Vec::new(),
        wallet,
        sweep: SweepConfig {
            interval_negentropy: Duration::from_millis(args.sweep_ms.max(50)),
            ..SweepConfig::default()
        },
        dormant_after: Duration::from_secs(300),
        journals: JournalLimits::default(),
        domain: None,
        take_lease: args.take_lease,
    };
    let host = Host::start(home, plan, context).await?;
    if let Some(owner) = owner {
        host.node.set_owner(CONCIERGE, owner).await?;
    }
    let claim = host.node.open_claim(CONCIERGE).await?;
    let agents = host.node.agents().map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
    let output = context.output;
    let event = json!({
        "event": "ready",
        "relay": host.relay_url,
        "node": npub(&host.node.public_key()),
        "operator": npub(&operator),
        "agents": agents.iter().map(|(name, key)| json!({ "name": name, "npub": npub(key) })).collect::<Vec<_>>(),
        "claim": claim,
    });
    lifecycle::ready(output, &event);
    if let Some(hint) = purse::hint(&context.home).filter(|_| !has_wallet) {
        output.note(hint);
    }
    if !args.listen.ip().is_loopback() {
        output.note(
            "note: other machines can reach this relay, and it gives sealed messages to whoever asks: they cannot \
             be read, but it shows who gets mail and when. Put a relay that checks (NIP-42) in front of it.",
        );
    }
    if !output.json {
        greet(context, &host, &agents, claim.as_deref(), started);
    }
    host.run(output, signals).await
}

fn greet(
    context: &Context,
    host: &Host,
    agents: &[(String, PublicKey)],
    claim: Option<&str>,
    started: Instant,
) {
    let output = context.output;
    let Some((_, key)) = agents.iter().find(|(name, _)| name == CONCIERGE) else { return };
    let profile = Nip19Profile::new(*key, host.published.clone()).to_bech32().unwrap_or_default();
    output.say(format!(
        "oa is up, in {} ms. Its concierge takes direct messages from any Nostr client:",
        started.elapsed().as_millis()
    ));
    output.say(format!("\n  npub      {}", npub(key)));
    output.say(format!("  nprofile  {profile}"));
    let relays: Vec<&str> = host.published.iter().map(RelayUrl::as_str).collect();
    output.say(format!("  relay     {}", relays.join(" ")));
    if let Some(code) = claim {
        output.say(format!("  claim     send it \"claim {code}\" within 10 minutes to become its owner"));
    }
    output.say("\nTry it from another terminal:\n");
    let home = if std::env::home_dir().is_some_and(|home| home.join(".oa") == context.home) {
        String::new()
    } else {
        format!(" --home {}", context.home.display())
    };
    output.say(format!("  {}{home} dm {CONCIERGE} help\n", program()));
    if host.is_reachable {
        output.qr(&format!("nostr:{profile}"));
    } else {
        output.say(
            "Only this machine reaches it. For a phone: --relay wss://… with a relay you both can reach.",
        );
    }
    output.say("Ctrl-C ends it; nothing is lost.");
}

/// How this program was called, so that the line to paste works also where it is not installed.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "oa".to_owned())
}
