//! `oa devnet`: a relay, a chain and two operators with money, in one terminal; ends with Ctrl-C and leaves nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::json;

use crate::context::{Context, Signals};
use crate::devnet::{Devnet, Folder};
use crate::error::Result;

/// `oa devnet`
#[derive(Debug, Args)]
pub(crate) struct DevnetArgs {
    /// Where the relay listens; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// A new or empty folder for everything, which stays to be looked at; without it, a temporary one
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Runs it until Ctrl-C, SIGTERM, or a part of it ends.
///
/// # Errors
/// What did not start or ended by itself; nothing of it is left then either.
pub(crate) async fn run(context: &Context, args: DevnetArgs) -> Result<()> {
    let began = Instant::now();
    let mut signals = Signals::catch()?;
    let folder = match &args.dir {
        Some(dir) => Folder::named(dir)?,
        None => Folder::temporary()?,
    };
    let mut devnet = Devnet::new(folder);
    let started = tokio::select! {
        biased;
        () = signals.next() => None,
        started = devnet.start(args.listen) => Some(started),
    };
    let done = match started {
        None => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(())) => {
            ready(context, &devnet, began);
            tokio::select! {
                biased;
                () = signals.next() => Ok(()),
                error = devnet.failed() => Err(error),
            }
        }
    };
    context.output.object(&json!({ "event": "stopping" }));
    context.output.note("stopping");
    let stopped = devnet.stop().await;
    done.and(stopped)
}

fn ready(context: &Context, devnet: &Devnet, began: Instant) {
    let (output, operators) = (context.output, devnet.operators());
    let shown = operators.iter().map(|operator| {
        json!({
            "name": operator.name,
            "home": operator.home,
            "node": operator.node(),
            "concierge": operator.concierge(),
            "lightning": operator.lightning,
            "pids": operator.pids(),
        })
    });
    output.object(&json!({
        "event": "ready",
        "relay": devnet.relay(),
        "esplora": devnet.esplora(),
        "operators": shown.collect::<Vec<_>>(),
    }));
    output.say(format!(
        "A devnet is up, in {:.1} s. Its coins are worth nothing.",
        began.elapsed().as_secs_f32()
    ));
    output.say(format!(
        "\n  relay   {}\n  chain   {} (Esplora; a block comes when one is needed)",
        devnet.relay(),
        devnet.esplora()
    ));
    for operator in operators {
        output.say(format!("\n{}", operator.name));
        output.say(format!("  home       {}", operator.home.display()));
        output.say(format!("  node       {}", operator.node()));
        output.say(format!("  concierge  {}", operator.concierge()));
        output.say(format!("  lightning  {}", operator.peer()));
    }
    output.say("\nTry it from another terminal:\n");
    let oa = std::env::args().next().unwrap_or_else(|| "oa".to_owned());
    if let [seller, buyer] = operators {
        let (seller, buyer) = (seller.home.display(), buyer.home.display());
        output.say(format!("  {oa} --home {seller} dm concierge help"));
        output.say(format!("  {oa} --home {seller} wallet balance"));
        output.say(format!("  {oa} --home {buyer} wallet pay $({oa} --home {seller} wallet invoice 500)"));
        output.say(format!("  {oa} --home {buyer} wallet history\n"));
    }
    if devnet.folder().is_kept() {
        output.say("Ctrl-C ends it. The homes stay to be looked at; their coins are gone with the chain.");
    } else {
        output.say("Ctrl-C ends it and leaves nothing behind.");
    }
}
