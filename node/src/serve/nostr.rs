//! `/nostr/{relays,publish,query,subscriptions,dm,send}`: what an agent says and hears in public, and whom it writes to.

mod dm;
mod query;
mod send;
mod subscriptions;

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::mail::AUTO_HOPS_MAX;
use oa_nips::nostr::Timestamp;
use oa_nips::template::Template;
use serde_json::json;

use super::creator::Creator;
use super::{Parts, at};
use crate::namespace::blocks::Computed;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Class, Context, Effect, Wake};
use crate::store::row::Outgoing;

pub(super) use dm::check_rates;

/// Events that one tick may publish.
const PUBLISHED_MAX: usize = 16;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, creator: &Arc<Creator>) {
    let relays: Vec<String> = creator.place.relays.iter().map(ToString::to_string).collect();
    let asked = query::Asked { subscribe: parts.subscribe.clone(), own: parts.own.clone() };
    let (store, directory) = (parts.store.clone(), parts.directory.clone());
    let folder = Computed::new()
        .value("relays", move |_| Ok(json!(relays).to_string().into_bytes()))
        .call("publish", publish)
        .call("send", move |cx, request| send::send(&store, &directory, cx, request))
        .outside("query", Class::Idempotent, move |cx, request| {
            let asked = asked.clone();
            Box::pin(async move { asked.query(cx, request).await })
        });
    mounts.mount(at("/nostr"), folder.build(), "relays");
    mounts.mount(at("/nostr/subscriptions"), Arc::new(subscriptions::Folder::default()), "subscriptions");
    mounts.mount(at("/nostr/dm"), dm::folder(parts), "direct messages");
}

/// The hop that what a tick sends by itself counts, or a refusal when it would be one too many. What nobody's message
/// or event began counts none.
pub(super) fn next_hop(path: &str, wake: Option<Wake<'_>>) -> Result<u8, Error> {
    let hop = wake.map_or(0, |wake| wake.envelope.auto_hop());
    if hop >= AUTO_HOPS_MAX {
        let reason = format!("{AUTO_HOPS_MAX} automatic messages led here already");
        return Err(Error::new(Code::RateLimited, path, reason));
    }
    Ok(hop + 1)
}

fn publish(cx: &Context<'_>, request: &[u8]) -> Result<Effect, Error> {
    let path = "/nostr/publish";
    let subject = cx.subject()?;
    let template = Template::parse(request).map_err(|error| Error::invalid(path, error.to_string()))?;
    template.check(&subject.manifest.nostr.kinds).map_err(|error| Error::invalid(path, error.to_string()))?;
    let sent = cx.wake.map_or(&[][..], |wake| wake.sent);
    let published = sent.iter().filter(|outgoing| matches!(outgoing, Outgoing::Event { .. })).count();
    if published >= PUBLISHED_MAX {
        let reason = format!("{PUBLISHED_MAX} events are published in this tick already");
        return Err(Error::new(Code::RateLimited, path, reason));
    }
    let next = next_hop(path, cx.wake)?;
    // A person's message may well lead to a post; what an event or a machine began is told apart.
    let is_automatic = next > 1 || cx.wake.is_some_and(|wake| wake.envelope.heard.is_some());
    let at = Timestamp::from_secs(cx.now_ms / 1000);
    let event = template.event(subject.row.pubkey, at, if is_automatic { next } else { 0 });
    let reply = json!({ "id": event.id }).to_string();
    Ok(Effect { out: vec![Outgoing::Event { event }], reply: reply.into_bytes(), ..Effect::default() })
}

#[cfg(test)]
mod tests;
