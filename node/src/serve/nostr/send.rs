//! `/nostr/send`: an agent's envelope to another agent, `{"to": npub, "message": {"type": …}, "reply_to": id}`. The
//! answer has the id that whoever responds names.

use oa_nips::envelope::Envelope as Message;
use oa_nips::kind;
use oa_nips::mail::{Draft, Protocol, TEXT_BYTES_MAX, fits_one_message};
use oa_nips::nostr::EventId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::dm::check_rates;
use super::next_hop;
use crate::agent::manifest::Npub;
use crate::namespace::error::Error;
use crate::namespace::service::{Context, Effect};
use crate::outbox::Directory;
use crate::store::Store;
use crate::store::row::Outgoing;

const PATH: &str = "/nostr/send";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    to: Npub,
    message: Value,
    reply_to: Option<EventId>,
}

pub(super) fn send(
    store: &Store,
    directory: &Directory,
    cx: &Context<'_>,
    request: &[u8],
) -> Result<Effect, Error> {
    let invalid = |reason: String| Error::invalid(PATH, reason);
    let Asked { to: Npub(to), message, reply_to } =
        serde_json::from_slice(request).map_err(|error| invalid(error.to_string()))?;
    let message =
        Message::parse(&message.to_string()).map_err(|error| invalid(format!("message: {error}")))?;
    let row = cx.subject()?.row;
    if to == row.pubkey {
        return Err(invalid("to: an agent does not write to itself".to_owned()));
    }
    let content = message.to_json();
    if !fits_one_message(&content) {
        return Err(Error::too_large(PATH, TEXT_BYTES_MAX));
    }
    let auto_hop = next_hop(PATH, cx.wake)?;
    let before = match cx.wake {
        Some(wake) => check_rates(store, directory, cx, &wake, &to).map_err(|error| error.at(PATH))?,
        None => 0,
    };
    let at_ms = cx.now_ms.saturating_add(before);
    let kind = kind::ENVELOPE.as_u16();
    let draft = Draft { kind, reply_to, auto_hop, ..Draft::text(to, content, at_ms) };
    let reply = json!({ "id": draft.rumor(row.pubkey).id }).to_string().into_bytes();
    let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: None };
    Ok(Effect { reply, out: vec![mail], ..Effect::default() })
}
