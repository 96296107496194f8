//! `/peers/<npub>.json`: whom an agent knows, and how far it trusts them. Never the code that would let them in.

use oa_nips::nostr::{PublicKey, ToBech32};
use serde_json::json;

use super::mail::io;
use super::{Parts, at};
use crate::agent::mailbox;
use crate::namespace::blocks::Rows;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{FileType, Subject, file};

/// Correspondents listed.
const LISTED: usize = 10_000;

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    let (listed, store, directory) = (parts.store.clone(), parts.store.clone(), parts.directory.clone());
    let peers = Rows::new(
        move |cx| {
            let peers = listed.peers(cx.subject()?.row.id, LISTED).map_err(io)?;
            let name = |(key, _): (PublicKey, _)| key.to_bech32().ok().map(|npub| format!("{npub}.json"));
            Ok(peers.into_iter().filter_map(name).map(|name| file(name, FileType::Value, 0)).collect())
        },
        move |cx, name| {
            let Subject { row, manifest, .. } = cx.subject()?;
            let npub = name.strip_suffix(".json").filter(|npub| npub.starts_with("npub1"));
            let Some(key) = npub.and_then(|npub| PublicKey::parse(npub).ok()) else { return Ok(None) };
            let Some(peer) = store.peer(row.id, &key).map_err(io)? else { return Ok(None) };
            let seen = |at_ms: u64| (at_ms > 0).then_some(at_ms / 1000);
            let shown = json!({
                "trust": mailbox::trust(manifest, row.owner.as_ref(), &peer, &key),
                "first_seen": seen(peer.first_seen_ms),
                "last_seen": seen(peer.last_seen_ms),
                "waiting": peer.queued,
                "allowed": peer.allowed,
                "bot": directory.remembered(&key).map(|contact| contact.is_bot),
            });
            Ok(Some(shown.to_string().into_bytes()))
        },
    );
    mounts.mount(at("/peers"), peers.build(), "whom it knows");
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;
    use oa_nips::nostr::ToBech32;
    use serde_json::json;

    use super::super::fixture::{Fixture, NOW_MS, someone};
    use crate::agent::envelope::Trust;
    use crate::store::write::{AgentChange, Write};

    #[tokio::test]
    async fn a_correspondent_is_shown_without_the_code_that_lets_them_in() {
        let mut fixture = Fixture::stored().await;
        let (friend, npub) = (someone(), |key: oa_nips::nostr::PublicKey| key.to_bech32().unwrap());
        fixture.mail(friend, "hi", Trust::Stranger).await;
        fixture.write(Write::ChangeAgent(fixture.row.id, AgentChange::Allow(friend, true))).await;
        assert_eq!(fixture.names("/peers").await, ["find".to_owned(), format!("{}.json", npub(friend))]);
        let shown = fixture.json(&format!("/peers/{}.json", npub(friend))).await;
        let expected = json!({
            "trust": "allowed", "first_seen": NOW_MS / 1000, "last_seen": NOW_MS / 1000, "waiting": 1,
            "allowed": true, "bot": null,
        });
        assert_eq!(shown, expected);
        for none in [format!("/peers/{}.json", npub(someone())), format!("/peers/{}.json", friend.to_hex())] {
            assert_eq!(fixture.read(&none).await, Err(Code::NotFound));
        }
    }
}
