//! `oa connect`: remember a remote node in this home.

use std::path::Path;

use oa_nips::nostr::{Keys, PublicKey};
use oa_node::agent::manifest::Npub;
use oa_node::home::Home;
use oa_node::signer::KeyFile;
use serde_json::json;

use crate::args::Connect;
use crate::bunker;
use crate::client::Remembered;
use crate::commands::{public_key, stdin};
use crate::config::relay_url;
use crate::context::Context;
use crate::error::{Error, Kind, Result};
use crate::host::{npub, operator_key};

pub(crate) async fn run(context: &Context, args: Connect) -> Result<()> {
    let node = public_key(&args.node)?;
    let relay =
        relay_url(&args.relay).map_err(|reason| Error::new(Kind::Usage, format!("--relay: {reason}")))?;
    let address = args.bunker.as_deref().map(bunker::address).transpose()?;
    let home = Home::prepare(&context.home)?;
    let own =
        Remembered::load(&home.client()).ok().filter(|known| home.db().exists() && known.node.0 != node);
    if let Some(own) = own {
        let message = format!("{} is the home of another node, {}", home.dir().display(), npub(&own.node.0));
        return Err(Error::new(Kind::Failed, message).hint("choose another --home to steer this one from"));
    }
    let me = match (&args.key_file, address) {
        (_, Some(address)) => bunker::connect(&home, address, &context.passphrase, context.output).await?,
        (Some(file), None) => import(&home, file, context)?,
        (None, None) => operator_key(&home, &context.passphrase)?,
    };
    Remembered { relay: relay.clone(), node: Npub(node) }.save(&home.client())?;
    let output = context.output;
    output.object(&json!({ "node": npub(&node), "relay": relay, "operator": npub(&me) }));
    output.say(format!("This home now speaks to {} on {relay}, as", npub(&node)));
    output.say(format!("  {}", npub(&me)));
    output.say("The node listens if that key is among the operators in its config.toml. Try: oa ls /agents");
    Ok(())
}

/// Takes a key over into the home; never over another one.
fn import(home: &Home, file: &Path, context: &Context) -> Result<PublicKey> {
    let source = &context.passphrase;
    let keys = if file.as_os_str() == "-" {
        let text = stdin()?;
        Keys::parse(text.trim())
            .map_err(|_| Error::new(Kind::Usage, "stdin holds neither an nsec nor 64 hex digits"))?
    } else {
        source.key(file)?.keys().clone()
    };
    if home.bunker().exists() {
        let message = format!("{} says that this home's key is in a bunker", home.bunker().display());
        return Err(Error::new(Kind::Failed, message).hint("choose another --home for this node"));
    }
    let path = home.operator_key();
    if path.exists() {
        let kept = source.key(&path)?;
        if kept.keys().public_key() != keys.public_key() {
            let message = format!("{} holds another key", path.display());
            return Err(Error::new(Kind::Failed, message).hint("choose another --home for this node"));
        }
        return Ok(kept.keys().public_key());
    }
    let key = match source.kept()? {
        Some(passphrase) => KeyFile::save_encrypted(&path, keys, &passphrase)?,
        None => KeyFile::save(&path, keys)?,
    };
    Ok(key.keys().public_key())
}
