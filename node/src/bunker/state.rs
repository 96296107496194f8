//! What a bunker remembers: whom it let in and what for, and which invitations wait. Plain data, for the store.

use std::collections::{BTreeMap, BTreeSet};

use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::PublicKey;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use serde::{Deserialize, Serialize};

use super::uri::Secret;

/// Clients of one key. 64: a person has a handful, and each is a door.
const CLIENTS_MAX: usize = 64;
/// Invitations that wait. 16: each is meant to be used within minutes.
const INVITATIONS_MAX: usize = 16;
/// Kinds that a client may have signed unless told otherwise: notes, reposts, reactions, articles. Nothing that says
/// who the owner is, whom it follows or where it lives, and nothing that other programs take for a command.
const KINDS: [u16; 4] = [1, 6, 7, 30023];

/// Everything that has to survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Who was let in.
    pub clients: BTreeMap<PublicKey, Client>,
    /// Who may come, by the SHA-256 of the secret: who reads this cannot use it.
    pub invitations: BTreeMap<Hash, Invitation>,
}

/// Somebody who was let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// What the owner calls it.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
}

/// A secret that lets one client in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// What the owner will call the client.
    pub name: String,
    /// What it may do.
    pub grant: Grant,
    /// Until when it can be used, in seconds since 1970.
    pub until_s: u64,
}

/// What a client may have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Kinds of event that are signed.
    pub kinds: BTreeSet<u16>,
    /// Whether it may encrypt and decrypt (NIP-44), and so read the owner's messages.
    pub nip44: bool,
    /// The same for legacy messages (NIP-04).
    pub nip04: bool,
}

impl Default for Grant {
    fn default() -> Self {
        Self { kinds: KINDS.into(), nip44: true, nip04: false }
    }
}

/// Why nobody was invited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("{INVITATIONS_MAX} invitations wait already")]
    TooMany,
}

impl State {
    /// Lets whoever knows `secret` in, once. What has run out makes room.
    ///
    /// # Errors
    /// [`InviteError::TooMany`]
    pub fn invite(
        &mut self,
        secret: &Secret,
        name: &str,
        grant: Grant,
        until_s: u64,
        now_s: u64,
    ) -> Result<(), InviteError> {
        self.invitations.retain(|_, invitation| invitation.until_s > now_s);
        if self.invitations.len() >= INVITATIONS_MAX {
            return Err(InviteError::TooMany);
        }
        self.invitations.insert(digest(secret), Invitation { name: name.to_owned(), grant, until_s });
        Ok(())
    }

    /// Shows a client the door; whether it was there.
    pub fn revoke(&mut self, client: &PublicKey) -> bool {
        self.clients.remove(client).is_some()
    }

    /// Lets a client in; whether that changed anything. One that is in stays in: its first answer may have been lost.
    pub(super) fn connect(
        &mut self,
        client: PublicKey,
        secret: Option<&Secret>,
        now_s: u64,
    ) -> Result<bool, String> {
        let digest = secret.map(digest);
        let invitation = digest.and_then(|digest| Some((digest, self.invitations.get(&digest)?)));
        let is_in = self.clients.contains_key(&client);
        let Some((digest, invitation)) = invitation.filter(|(_, invitation)| invitation.until_s > now_s)
        else {
            return if is_in {
                Ok(false)
            } else {
                Err("not invited: the secret is wrong, used or too old".to_owned())
            };
        };
        if !is_in && self.clients.len() >= CLIENTS_MAX {
            return Err(format!("{CLIENTS_MAX} clients are connected already"));
        }
        let Invitation { name, grant, .. } = invitation.clone();
        self.invitations.remove(&digest);
        self.clients.insert(client, Client { name, grant, since_s: now_s });
        Ok(true)
    }
}

fn digest(secret: &Secret) -> Hash {
    Hex(sha256::Hash::hash(secret.reveal().as_bytes()).to_byte_array())
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    const NOW_S: u64 = 1_790_000_000;

    fn secret(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    fn invited(state: &mut State, text: &str) -> Result<(), InviteError> {
        state.invite(&secret(text), "phone", Grant::default(), NOW_S + 600, NOW_S)
    }

    #[test]
    fn a_secret_lets_one_in_once() {
        let (mut state, one, other) =
            (State::default(), Keys::generate().public_key(), Keys::generate().public_key());
        invited(&mut state, "word").unwrap();
        assert_eq!(state.connect(one, Some(&secret("word")), NOW_S), Ok(true));
        assert!(state.connect(other, Some(&secret("word")), NOW_S).is_err());
        assert!(state.connect(other, None, NOW_S).is_err());
        assert_eq!(
            state.connect(one, Some(&secret("word")), NOW_S),
            Ok(false),
            "asked again, it is still in"
        );
        assert_eq!(state.clients.keys().collect::<Vec<_>>(), [&one]);
        assert!(state.invitations.is_empty());
    }

    #[test]
    fn an_invitation_runs_out() {
        let (mut state, one) = (State::default(), Keys::generate().public_key());
        invited(&mut state, "word").unwrap();
        assert!(state.connect(one, Some(&secret("word")), NOW_S + 600).is_err());
        assert_eq!(state.connect(one, Some(&secret("word")), NOW_S + 599), Ok(true));
    }

    #[test]
    fn another_invitation_changes_what_a_client_may_do() {
        let (mut state, one) = (State::default(), Keys::generate().public_key());
        invited(&mut state, "word").unwrap();
        state.connect(one, Some(&secret("word")), NOW_S).unwrap();
        let grant = Grant { kinds: [0].into(), nip44: false, nip04: false };
        state.invite(&secret("other"), "tablet", grant.clone(), NOW_S + 600, NOW_S).unwrap();
        assert_eq!(state.connect(one, Some(&secret("other")), NOW_S), Ok(true));
        assert_eq!(state.clients.get(&one).unwrap().grant, grant);
    }

    #[test]
    fn clients_and_invitations_are_bounded() {
        let mut state = State::default();
        for n in 0..INVITATIONS_MAX {
            invited(&mut state, &format!("word {n}")).unwrap();
        }
        assert_eq!(invited(&mut state, "one more"), Err(InviteError::TooMany));
        let later = NOW_S + 600;
        state.invite(&secret("later"), "phone", Grant::default(), later + 1, later).unwrap();
        assert_eq!(state.invitations.len(), 1, "what ran out makes room");
        let client = Client { name: "phone".to_owned(), grant: Grant::default(), since_s: NOW_S };
        state.clients = (0..CLIENTS_MAX).map(|_| (Keys::generate().public_key(), client.clone())).collect();
        assert!(state.connect(Keys::generate().public_key(), Some(&secret("later")), later).is_err());
        assert_eq!(state.invitations.len(), 1, "an invitation that could not be used is not used up");
    }

    #[test]
    fn what_is_kept_reads_as_it_was_and_holds_no_secret() {
        let mut state = State::default();
        invited(&mut state, "word").unwrap();
        state.connect(Keys::generate().public_key(), Some(&secret("word")), NOW_S).unwrap();
        invited(&mut state, "hush").unwrap();
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert!(!json.contains("hush") && !format!("{state:?}").contains("hush"), "{json}");
    }
}
