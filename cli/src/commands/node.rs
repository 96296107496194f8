//! `oa-node`: init, run, status.

use std::time::Duration;

use oa_nips::files::Verb;
use oa_node::agent::manifest::Npub;
use oa_node::drivers::nostr::SweepConfig;
use oa_node::home::Home;
use serde_json::{Value, json};

use crate::commands::{connect, public_key};
use crate::config::{Config, relay_url, template};
use crate::context::{Context, Signals};
use crate::error::{Error, Kind, Result};
use crate::host::{self, Host, Plan, npub};
use crate::lifecycle;
use crate::purse;

pub(crate) fn init(context: &Context, operator: Option<String>, relays: Vec<String>) -> Result<()> {
    let operator = operator.as_deref().map(public_key).transpose()?;
    for relay in &relays {
        relay_url(relay).map_err(|reason| Error::new(Kind::Usage, format!("--relay: {reason}")))?;
    }
    let home = Home::open(&context.home)?;
    if home.config().exists() {
        let message = format!("{} is there already", home.config().display());
        return Err(Error::new(Kind::Failed, message).hint("edit it, or choose another --home"));
    }
    let seed = host::seed(&home, &context.passphrase)?;
    let operator = match operator {
        Some(operator) => operator,
        None => host::operator_key(&home, &context.passphrase)?,
    };
    std::fs::write(home.config(), template(&[Npub(operator)], &relays))?;
    let node = seed.node().public_key();
    let output = context.output;
    output.object(&json!({
        "event": "initialised",
        "home": home.dir(),
        "node": npub(&node),
        "operator": npub(&operator),
    }));
    output.say(format!("A home for a node is at {}", home.dir().display()));
    output.say(format!("  node      {}", npub(&node)));
    output.say(format!("  operator  {}", npub(&operator)));
    output.say(format!("  config    {}", home.config().display()));
    output.say(format!(
        "  seed      {} (twelve words: back them up, every agent's key comes from them)",
        home.seed().display()
    ));
    if relays.is_empty() {
        output.say(
            "  relay     its own, which only this machine reaches: see `relays` in the config for others",
        );
    }
    let home = context.home.display();
    output.say(format!("\nEdit the config, then: oa-node --home {home} run"));
    Ok(())
}

pub(crate) async fn run(context: &Context, take_lease: bool, until_eof: bool) -> Result<()> {
    let signals = Signals::catch_and(until_eof)?;
    let home = Home::peek(&context.home)?;
    let config = Config::load(&home.config())?;
    let home = Home::open(&context.home)?;
    let parse = |url: &String| relay_url(url).map_err(|reason| Error::new(Kind::Usage, reason));
    let relays = config.relays.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let sweep = SweepConfig {
        interval_negentropy: Duration::from_millis(config.sweep.every_ms.max(50)),
        interval_paging: Duration::from_millis(config.sweep.paging_every_ms.max(50)),
        ..SweepConfig::default()
    };
    let wallet = config.wallet.as_ref().map(|wallet| purse::of_config(home.dir(), wallet)).transpose()?;
    let plan = Plan {
        relay: config.relay.enabled.then_some((config.relay.listen, config.relay.wide)),
        relay_url: config.relay.url.as_ref().map(parse).transpose()?,
        relays,
        operators: config.operators.iter().map(|npub| npub.0).collect(),
        approvers: config.approvers.iter().map(|npub| npub.0).collect(),
        viewers: config.viewers.iter().map(|npub| npub.0).collect(),
        srv: config.srv.clone(),
        agents: config.agents,
        allow_private: config.allow_private,
        http_private: config.http_private,
        wallet,
        sweep,
        dormant_after: Duration::from_secs(config.dormant_after_s),
        journals: config.journals.into(),
        domain: config.domain,
        take_lease,
    };
    let operators = plan.operators.clone();
    let host = Host::start(home, plan, context).await?;
    let agents = host.node.agents().map_err(|error| Error::new(Kind::Failed, error.to_string()))?;
    let output = context.output;
    let named = |(name, key): &(String, _)| json!({ "name": name, "npub": npub(key) });
    let event = json!({
        "event": "ready",
        "relay": host.relay_url,
        "node": npub(&host.node.public_key()),
        "operator": operators.first().map(npub),
        "agents": agents.iter().map(named).collect::<Vec<_>>(),
    });
    lifecycle::ready(output, &event);
    output.say(format!("node {} is up, in reach of", npub(&host.node.public_key())));
    for relay in &host.published {
        output.say(format!("  {relay}"));
    }
    output.say("with");
    for (name, key) in &agents {
        output.say(format!("  {name:<16} {}", npub(key)));
    }
    host.run(output, signals).await
}

pub(crate) async fn status(context: &Context) -> Result<()> {
    let client = connect(context).await?;
    let status = client.ask(Verb::Read, "/node/status", Vec::new()).await?;
    let status: Value = serde_json::from_slice(&status)
        .map_err(|error| Error::new(Kind::Failed, format!("the node's answer is no status: {error}")))?;
    let output = context.output;
    output.object(&status);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut shown = status.clone();
    shown.as_object_mut().map(|fields| fields.remove("relays"));
    output.fields(&shown);
    for relay in status.get("relays").and_then(Value::as_array).into_iter().flatten() {
        let is_up = relay.get("connected").and_then(Value::as_bool).unwrap_or_default();
        let url = relay.get("url").map(text).unwrap_or_default();
        output.say(format!("{:<13} {url} {}", "relay", if is_up { "connected" } else { "away" }));
    }
    client.close().await;
    Ok(())
}
