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
/// Kinds that no connection is ever granted, first and last: the operator protocol's, and what nodes say of agents.
const NEVER: [(u16, u16); 2] = [(25_930, 25_933), (39_200, 39_299)];
/// Kinds of one grant.
const GRANTED_MAX: usize = 64;

/// Whether events of a kind are signed for nobody, whatever a connection was granted.
pub fn is_never_signed(kind: u16) -> bool {
    NEVER.iter().any(|(first, last)| (*first..=*last).contains(&kind))
}

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    #[error("{INVITATIONS_MAX} invitations wait already")]
    TooMany,
    #[error("there is a connection named {0:?} already")]
    Taken(String),
    #[error("events of kind {0} are the node's own, and signed for nobody")]
    Never(u16),
    #[error("over {GRANTED_MAX} kinds")]
    TooManyKinds,
}

impl InviteError {
    /// Whether the name is what is wrong.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Taken(_))
    }
}

impl State {
    /// Lets whoever knows `secret` in, once. What has run out makes room.
    ///
    /// # Errors
    /// [`InviteError`]
    pub fn invite(
        &mut self,
        secret: &Secret,
        name: &str,
        grant: Grant,
        until_s: u64,
        now_s: u64,
    ) -> Result<(), InviteError> {
        if let Some(kind) = grant.kinds.iter().find(|kind| is_never_signed(**kind)) {
            return Err(InviteError::Never(*kind));
        }
        if grant.kinds.len() > GRANTED_MAX {
            return Err(InviteError::TooManyKinds);
        }
        self.invitations.retain(|_, invitation| invitation.until_s > now_s);
        if self.is_taken(name) {
            return Err(InviteError::Taken(name.to_owned()));
        }
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

    fn is_taken(&self, name: &str) -> bool {
        self.clients.values().any(|client| client.name == name)
            || self.invitations.values().any(|invitation| invitation.name == name)
    }

    /// Ends the connection of that name, be it used or an invitation still; whether there was one.
    pub fn end(&mut self, name: &str) -> bool {
        let before = self.clients.len() + self.invitations.len();
        self.clients.retain(|_, client| client.name != name);
        self.invitations.retain(|_, invitation| invitation.name != name);
        self.clients.len() + self.invitations.len() < before
    }

    /// Whether the secret of an invitation that can still be used is this one.
    pub fn is_invited(&self, secret: &Secret, now_s: u64) -> bool {
        self.invitations.get(&digest(secret)).is_some_and(|invitation| invitation.until_s > now_s)
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
        state.invite(&secret(text), text, Grant::default(), NOW_S + 600, NOW_S)
    }

    #[test]
    fn what_is_the_nodes_own_is_granted_to_nobody() {
        let mut state = State::default();
        for kind in [25_930, 25_931, 25_932, 25_933, 39_200, 39_205, 39_230] {
            let grant = Grant { kinds: [1, kind].into(), ..Grant::default() };
            let refused = state.invite(&secret("word"), "phone", grant, NOW_S + 600, NOW_S);
            assert_eq!(refused, Err(InviteError::Never(kind)));
        }
        let grant = Grant { kinds: (100..200).collect(), ..Grant::default() };
        let refused = state.invite(&secret("word"), "phone", grant, NOW_S + 600, NOW_S);
        assert_eq!(refused, Err(InviteError::TooManyKinds));
        assert_eq!(state, State::default());
    }

    #[test]
    fn a_connection_has_its_name_until_it_ends() {
        let (mut state, one) = (State::default(), Keys::generate().public_key());
        invited(&mut state, "phone").unwrap();
        assert_eq!(invited(&mut state, "phone"), Err(InviteError::Taken("phone".to_owned())));
        assert!(
            state.is_invited(&secret("phone"), NOW_S) && !state.is_invited(&secret("phone"), NOW_S + 600)
        );
        state.connect(one, Some(&secret("phone")), NOW_S).unwrap();
        assert!(invited(&mut state, "phone").unwrap_err().is_taken());
        assert!(state.end("phone") && !state.end("phone"));
        assert_eq!(state, State::default());
        // One that nobody used in time is no hindrance.
        invited(&mut state, "phone").unwrap();
        let later = NOW_S + 600;
        state.invite(&secret("other"), "phone", Grant::default(), later + 1, later).unwrap();
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
        state.invite(&secret("later"), "later", Grant::default(), later + 1, later).unwrap();
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
        state.invite(&secret("hush"), "tablet", Grant::default(), NOW_S + 600, NOW_S).unwrap();
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&json).unwrap(), state);
        assert!(!json.contains("hush") && !format!("{state:?}").contains("hush"), "{json}");
    }
}
