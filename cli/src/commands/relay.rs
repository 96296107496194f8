//! `oa relay`: the relay alone.

use oa_node::home::Home;
use oa_relay::StoreConfig;
use serde_json::json;

use crate::args::Relay;
use crate::context::{Context, Signals};
use crate::error::Result;
use crate::host::start_relay;
use crate::lifecycle;

pub(crate) async fn run(context: &Context, args: Relay) -> Result<()> {
    let output = context.output;
    let mut signals = Signals::catch()?;
    // The lock of a home is held while the relay writes there.
    let (store, _home) = match (args.memory, args.data) {
        (true, _) => (StoreConfig::Memory, None),
        (false, Some(dir)) => {
            let home = Home::open(&dir)?;
            (StoreConfig::Lmdb(dir), Some(home))
        }
        (false, None) => {
            let home = Home::open(&context.home)?;
            (StoreConfig::Lmdb(home.relay()), Some(home))
        }
    };
    let is_memory = matches!(store, StoreConfig::Memory);
    let relay = start_relay(args.listen, store).await?;
    lifecycle::ready(output, &json!({ "event": "ready", "relay": relay.url() }));
    output.say(format!("relay at {}{}", relay.url(), if is_memory { ", in memory" } else { "" }));
    if !args.listen.ip().is_loopback() && oa_relay::Relay::serves_wraps_to_anyone() {
        output.note("note: it gives sealed messages to whoever asks for them");
    }
    signals.next().await;
    lifecycle::stopping(output);
    relay.shutdown().await;
    Ok(())
}
