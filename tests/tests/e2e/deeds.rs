//! What an agent of [`oa_tests::local`] does because it is told to.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here is a failed test")]

use std::time::Duration;

use oa_nips::mail::Protocol;
use oa_nips::nostr::PublicKey;
use oa_tests::client::Client;

const SOON: Duration = Duration::from_secs(15);

/// Has the agent do something; answers what came of it.
pub(crate) async fn has_done(client: &mut Client, agent: PublicKey, what: &str) -> String {
    let said = client.ask(agent, &format!("do {what}"), Protocol::Nip17, SOON).await.unwrap();
    said.text().unwrap().to_owned()
}

/// The same, of something that is expected to work.
pub(crate) async fn did(client: &mut Client, agent: PublicKey, what: &str) -> String {
    let said = has_done(client, agent, what).await;
    said.strip_prefix("did: ").unwrap_or_else(|| panic!("{what}: {said}")).to_owned()
}
