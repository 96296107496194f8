//! `oa agent`: create, list, show, remove, let in.

use std::io::{BufRead as _, IsTerminal as _};

use oa_nips::files::{FileType, Stat, Verb};
use oa_node::agent::manifest::{self, Manifest};
use oa_node::bundle::admit::Mode;
use serde_json::{Value, json};

use crate::args::{Agent, AgentImport, AgentNew, ImportMode, KeyKind, Policy};
use crate::bunker;
use crate::client::Client;
use crate::commands::{bundle, connect, find, public_key, stdin};
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::output::Output;

pub(crate) async fn run(context: &Context, args: Agent) -> Result<()> {
    // A manifest that is wrong should not need a node to be told so.
    let body = match &args {
        Agent::New(new) => new_body(new)?,
        _ => Vec::new(),
    };
    let args = match args {
        Agent::Export { name, out, migrate } => {
            return bundle::export(context, &name, migrate, out.as_deref()).await;
        }
        Agent::Import(AgentImport { file, mode, name, owner }) => {
            let mode = match mode {
                ImportMode::Restore => Mode::Restore,
                ImportMode::Clone => Mode::Clone,
                ImportMode::Migrate => Mode::Migrate,
            };
            return bundle::import(context, &file, mode, name, owner).await;
        }
        args => args,
    };
    let client = connect(context).await?;
    let output = context.output;
    match args {
        Agent::New(_) => {
            let created = object(&client.ask(Verb::Call, "/agents/new", body).await?)?;
            output.object(&created);
            output.say(format!("{} is {}", field(&created, "name"), field(&created, "npub")));
        }
        Agent::List => list(context, &client).await?,
        Agent::Show { name } => {
            let status =
                object(&client.ask(Verb::Read, &format!("/agents/{name}/status"), Vec::new()).await?)?;
            output.object(&status);
            output.fields(&status);
        }
        Agent::Find { what } => find::find(context, &client, &what).await?,
        Agent::Vouch { name } => find::vouch(context, &client, &name).await?,
        Agent::Rm { name, yes } => {
            if !yes {
                ask_whether_to_remove(context.output, &name)?;
            }
            ctl(context, &client, &name, "remove").await?;
        }
        Agent::Allow { name, npub, not } => {
            public_key(&npub)?;
            let verb = if not { "deny" } else { "allow" };
            ctl(context, &client, &name, &format!("{verb} {npub}")).await?;
        }
        // Done before.
        Agent::Export { .. } | Agent::Import(_) => {}
        Agent::Ctl { name, word } => ctl(context, &client, &name, &word).await?,
    }
    client.close().await;
    Ok(())
}

/// Asks a person; whoever is none, such as a script, has decided.
fn ask_whether_to_remove(output: Output, name: &str) -> Result<()> {
    let stdin = std::io::stdin();
    if !output.is_terminal() || !stdin.is_terminal() {
        return Ok(());
    }
    output.note(format!(
        "Remove {name} and all that it remembers, for ever? (`oa agent export {name}` keeps it) [y/N]"
    ));
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Error::new(Kind::Failed, "nothing was removed"))
}

async fn ctl(context: &Context, client: &Client, name: &str, word: &str) -> Result<()> {
    let path = format!("/agents/{name}/ctl");
    let said = object(&client.ask(Verb::Call, &path, word.as_bytes().to_vec()).await?)?;
    context.output.object(&said);
    match said.get("code").and_then(Value::as_str) {
        Some(code) => context.output.say(format!("send {name} \"claim {code}\" within 10 minutes to own it")),
        None if word == "remove" => context.output.say(format!("{name} is removed for good")),
        None => context.output.say(format!("{name}: {word}, done")),
    }
    Ok(())
}

async fn list(context: &Context, client: &Client) -> Result<()> {
    let entries = client.ask(Verb::List, "/agents", Vec::new()).await?;
    let entries: Vec<Stat> = serde_json::from_slice(&entries).map_err(|error| no_json(&error))?;
    // Beside them are files: new, import.
    for Stat { name, .. } in entries.into_iter().filter(|entry| entry.file_type == FileType::Dir) {
        let status = object(&client.ask(Verb::Read, &format!("/agents/{name}/status"), Vec::new()).await?)?;
        context.output.object(&json!({
            "name": name,
            "npub": status.get("npub"),
            "lifecycle": status.get("lifecycle"),
            "program": status.get("program"),
            "ticks": status.get("ticks"),
        }));
        context.output.say(format!(
            "{name:<16} {:<11} {:<10} {}",
            field(&status, "lifecycle"),
            field(&status, "program"),
            field(&status, "npub")
        ));
    }
    Ok(())
}

/// What `/agents/new` is asked: a manifest, and before it where the agent's key is, if the node does not make it.
fn new_body(new: &AgentNew) -> Result<Vec<u8>> {
    let manifest = manifest_of(new)?.to_toml();
    let Some(bunker) = &new.bunker else {
        return Ok(match new.key {
            KeyKind::Seed => manifest.into_bytes(),
            KeyKind::Own => format!("{}\n{manifest}", json!({ "key": "own" })).into_bytes(),
        });
    };
    if bunker == "-" && new.file.as_ref().is_some_and(|file| file.as_os_str() == "-") {
        return Err(Error::new(Kind::Usage, "stdin holds either the manifest or the bunker's address"));
    }
    let address = bunker::address(bunker)?.reveal();
    Ok(format!("{}\n{manifest}", json!({ "bunker": address.as_str() })).into_bytes())
}

fn manifest_of(new: &AgentNew) -> Result<Manifest> {
    let mut manifest = match &new.file {
        None => Manifest::new(&new.name, "concierge"),
        Some(path) => {
            let text = if path.as_os_str() == "-" {
                stdin()?
            } else {
                let failed = |error| Error::new(Kind::Usage, format!("{}: {error}", path.display()));
                std::fs::read_to_string(path).map_err(failed)?
            };
            Manifest::parse(&text)
                .map_err(|error| Error::new(Kind::Usage, format!("{}: {error}", path.display())))?
        }
    };
    manifest.name.clone_from(&new.name);
    if let Some(program) = &new.program {
        manifest.program.clone_from(program);
    }
    if let Some(policy) = new.dm {
        manifest.dm.policy = match policy {
            Policy::Owner => manifest::Policy::Owner,
            Policy::Allowlist => manifest::Policy::Allowlist,
            Policy::Pairing => manifest::Policy::Pairing,
            Policy::Open => manifest::Policy::Open,
        };
    }
    manifest.check().map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    Ok(manifest)
}

fn object(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| no_json(&error))
}

fn no_json(error: &serde_json::Error) -> Error {
    Error::new(Kind::Failed, format!("the node's answer is not what it should be: {error}"))
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}
