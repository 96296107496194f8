//! The node as a bunker for its owner (NIP-46): other programs have events signed by a key that stays here.
//!
//! - [`Service`]: who may have what done, as a machine; what it lets through is a [`Task`] for a signer
//! - `state`: the clients and invitations that it remembers
//! - `desk` serves what comes to a node, out of the rows that `book` keeps, as often as `rate` lets it
//! - [`message`], [`event`], [`uri`]: NIP-46 on the wire, also for the client in [`crate::signer::bunker`]
//!
//! A client gets in with the secret of an invitation, once. From then on it may do what the invitation granted, and
//! nothing that is not named there: a kind that nobody thought of is refused.

pub(crate) mod book;
pub(crate) mod desk;
pub mod event;
pub mod message;
mod rate;
mod state;
pub mod uri;

use oa_nips::nostr::{JsonUtil as _, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};

use self::message::{Call, Cipher, Request, Response, Way};

pub use self::state::{Client, Grant, Invitation, InviteError, State, is_never_signed};

/// Decides about requests. One for each key that is served.
#[derive(Debug)]
pub struct Service {
    state: State,
    serves: PublicKey,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    /// Whether [`Service::state`] is another now: it has to be on disk before the answer goes out.
    pub is_changed: bool,
    /// What is to be done.
    pub task: Task,
}

/// What remains to be done for an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    id: String,
    deed: Deed,
}

#[derive(PartialEq, Eq)]
enum Deed {
    Say(String),
    Refuse(String),
    Sign(Box<UnsignedEvent>),
    Convert { cipher: Cipher, way: Way, peer: PublicKey, text: String },
}

impl std::fmt::Debug for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Say(_) => f.write_str("say([redacted])"),
            Self::Refuse(reason) => write!(f, "refuse({reason:?})"),
            Self::Sign(event) => write!(f, "sign({}, [redacted])", event.kind),
            Self::Convert { cipher, way, peer, .. } => write!(f, "{way:?}({cipher:?}, {peer}, [redacted])"),
        }
    }
}

impl Service {
    /// The service of the key `serves`, as it was left.
    pub fn new(state: State, serves: PublicKey) -> Self {
        Self { state, serves }
    }

    /// What is to be kept.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// For invitations and for revoking clients; whoever changes it keeps it.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    /// Judges a request of `client`, whose event was verified.
    pub fn hear(&mut self, client: PublicKey, request: Request, now_s: u64) -> Heard {
        let Request { id, call } = request;
        let (is_changed, deed) = match self.judge(client, call, now_s) {
            Ok(judged) => judged,
            Err(reason) => (false, Deed::Refuse(reason)),
        };
        Heard { is_changed, task: Task { id, deed } }
    }

    fn judge(&mut self, client: PublicKey, call: Call, now_s: u64) -> Result<(bool, Deed), String> {
        let say = |text: &str| Deed::Say(text.to_owned());
        if let Call::Connect { secret, .. } = &call {
            let is_changed = self.state.connect(client, secret.as_ref(), now_s)?;
            return Ok((is_changed, say("ack")));
        }
        let Some(known) = self.state.clients.get(&client) else {
            return Err("not connected".to_owned());
        };
        let deed = match call {
            Call::GetPublicKey => say(&self.serves.to_hex()),
            Call::Ping => say("pong"),
            // Wherever the client is, it has found us.
            Call::SwitchRelays => say("null"),
            Call::Logout => {
                self.state.revoke(&client);
                return Ok((true, say("ack")));
            }
            Call::SignEvent(template) => {
                if template.pubkey.is_some_and(|author| author != self.serves) {
                    return Err("this signer has another key than the event's author".to_owned());
                }
                let kind = template.kind.as_u16();
                if is_never_signed(kind) || !known.grant.kinds.contains(&kind) {
                    return Err(format!("not allowed: events of kind {}", template.kind));
                }
                Deed::Sign(Box::new(template.by(self.serves)))
            }
            Call::Convert { cipher, way, peer, text } => {
                let (is_granted, name) = match cipher {
                    Cipher::Nip04 => (known.grant.nip04, "nip-04"),
                    Cipher::Nip44 => (known.grant.nip44, "nip-44"),
                };
                if !is_granted {
                    return Err(format!("not allowed: {name}"));
                }
                Deed::Convert { cipher, way, peer, text }
            }
            Call::Connect { .. } => return Err("connected already".to_owned()),
        };
        Ok((false, deed))
    }
}

impl Task {
    /// What it is, in a word for a log.
    pub(crate) fn what(&self) -> &'static str {
        match &self.deed {
            Deed::Say(_) => "answer",
            Deed::Refuse(_) => "refuse",
            Deed::Sign(_) => "sign",
            Deed::Convert { way: Way::Encrypt, .. } => "encrypt",
            Deed::Convert { way: Way::Decrypt, .. } => "decrypt",
        }
    }

    /// Does it with the key that is served, and says how it went.
    pub async fn perform(self, signer: &dyn Signer) -> Response {
        let Self { id, deed } = self;
        match deed.perform(signer).await {
            Ok(result) => Response::result(id, result),
            Err(reason) => Response::error(id, reason),
        }
    }
}

impl Deed {
    async fn perform(self, signer: &dyn Signer) -> Result<String, String> {
        let (cipher, way, peer, text) = match self {
            Self::Say(text) => return Ok(text),
            Self::Refuse(reason) => return Err(reason),
            Self::Sign(event) => return signer.sign(*event).await.map(|event| event.as_json()).map_err(said),
            Self::Convert { cipher, way, peer, text } => (cipher, way, peer, text),
        };
        let converted = match (cipher, way) {
            (Cipher::Nip04, Way::Encrypt) => signer.nip04_encrypt(&peer, &text).await,
            (Cipher::Nip04, Way::Decrypt) => signer.nip04_decrypt(&peer, &text).await,
            (Cipher::Nip44, Way::Encrypt) => signer.nip44_encrypt(&peer, &text).await,
            (Cipher::Nip44, Way::Decrypt) => signer.nip44_decrypt(&peer, &text).await,
        };
        converted.map_err(said)
    }
}

fn said(error: SignerError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{Event, EventBuilder, Keys, Kind};

    use super::*;
    use crate::bunker::message::Answer;
    use crate::bunker::uri::Secret;
    use crate::signer::{Conversations, LocalSigner};

    const NOW_S: u64 = 1_790_000_000;

    struct Desk {
        service: Service,
        signer: LocalSigner,
        client: PublicKey,
    }

    impl Desk {
        /// With a client that was let in.
        fn with(grant: Grant) -> Self {
            let signer = LocalSigner::new(Keys::generate(), Conversations::default());
            let mut service = Service::new(State::default(), signer.public_key());
            let secret = Secret::new("word").unwrap();
            service.state_mut().invite(&secret, "phone", grant, NOW_S + 600, NOW_S).unwrap();
            let mut desk = Self { service, signer, client: Keys::generate().public_key() };
            assert_eq!(desk.hear(connect(Some("word"))), (true, Deed::Say("ack".to_owned())));
            desk
        }

        fn hear(&mut self, call: Call) -> (bool, Deed) {
            let Heard { is_changed, task } =
                self.service.hear(self.client, Request { id: "1".to_owned(), call }, NOW_S);
            assert_eq!(task.id, "1");
            (is_changed, task.deed)
        }

        fn refusal(&mut self, call: Call) -> String {
            match self.hear(call) {
                (false, Deed::Refuse(reason)) => reason,
                other => panic!("not refused: {other:?}"),
            }
        }

        async fn answer(&mut self, call: Call) -> Answer {
            let heard = self.service.hear(self.client, Request { id: "1".to_owned(), call }, NOW_S);
            heard.task.perform(&self.signer).await.answer
        }
    }

    fn connect(secret: Option<&str>) -> Call {
        Call::Connect { secret: secret.and_then(Secret::new), permissions: String::new() }
    }

    fn sign(author: PublicKey, kind: u16) -> Call {
        let event = EventBuilder::new(Kind::from(kind), "hi").build(author);
        Call::SignEvent(Box::new((&event).into()))
    }

    fn convert(cipher: Cipher, way: Way, peer: PublicKey, text: &str) -> Call {
        Call::Convert { cipher, way, peer, text: text.to_owned() }
    }

    #[test]
    fn who_is_not_let_in_gets_nothing() {
        let mut desk = Desk::with(Grant::default());
        desk.client = Keys::generate().public_key();
        let serves = desk.signer.public_key();
        let calls = [
            Call::GetPublicKey,
            Call::Ping,
            Call::Logout,
            Call::SwitchRelays,
            sign(serves, 1),
            convert(Cipher::Nip44, Way::Decrypt, serves, "x"),
        ];
        for call in calls {
            assert_eq!(desk.refusal(call), "not connected");
        }
        for secret in [None, Some("wrong"), Some("word")] {
            desk.refusal(connect(secret));
        }
        assert_eq!(desk.service.state().clients.len(), 1);
    }

    #[test]
    fn only_kinds_that_were_granted_are_signed() {
        let mut desk = Desk::with(Grant::default());
        let serves = desk.signer.public_key();
        for kind in [1, 6, 7, 30023] {
            assert!(matches!(desk.hear(sign(serves, kind)), (false, Deed::Sign(_))), "{kind}");
        }
        for kind in [0, 2, 3, 4, 5, 13, 14, 1059, 10002, 10050, 13194, 22242, 23194, 24133, 25930, 27235] {
            assert_eq!(desk.refusal(sign(serves, kind)), format!("not allowed: events of kind {kind}"));
        }
        let grant = Grant { kinds: [0, 3, 10002].into(), ..Grant::default() };
        let mut desk = Desk::with(grant);
        let serves = desk.signer.public_key();
        for kind in [0, 3, 10002] {
            assert!(matches!(desk.hear(sign(serves, kind)), (false, Deed::Sign(_))), "{kind}");
        }
        desk.refusal(sign(serves, 1));
    }

    #[test]
    fn what_is_the_nodes_own_is_not_signed_even_where_a_row_grants_it() {
        let mut desk = Desk::with(Grant::default());
        let client = desk.client;
        let known = desk.service.state_mut().clients.get_mut(&client).unwrap();
        known.grant.kinds.extend([25_930, 39_205]);
        let serves = desk.signer.public_key();
        for kind in [25_930, 39_205] {
            assert_eq!(desk.refusal(sign(serves, kind)), format!("not allowed: events of kind {kind}"));
        }
    }

    #[test]
    fn an_event_of_somebody_else_is_not_signed() {
        let mut desk = Desk::with(Grant::default());
        desk.refusal(sign(Keys::generate().public_key(), 1));
    }

    #[test]
    fn ciphers_that_were_not_granted_are_refused() {
        let mut desk = Desk::with(Grant::default());
        let peer = Keys::generate().public_key();
        assert_eq!(desk.refusal(convert(Cipher::Nip04, Way::Decrypt, peer, "x")), "not allowed: nip-04");
        let mut desk = Desk::with(Grant { nip44: false, nip04: true, ..Grant::default() });
        assert_eq!(desk.refusal(convert(Cipher::Nip44, Way::Decrypt, peer, "x")), "not allowed: nip-44");
        assert!(matches!(
            desk.hear(convert(Cipher::Nip04, Way::Decrypt, peer, "x")),
            (false, Deed::Convert { .. })
        ));
    }

    #[test]
    fn who_logs_out_is_gone() {
        let mut desk = Desk::with(Grant::default());
        assert_eq!(desk.hear(Call::Logout), (true, Deed::Say("ack".to_owned())));
        assert!(desk.service.state().clients.is_empty());
        assert_eq!(desk.refusal(Call::Ping), "not connected");
        desk.refusal(connect(Some("word")));
    }

    #[tokio::test]
    async fn what_is_let_through_is_done() {
        let mut desk = Desk::with(Grant::default());
        let (serves, peer) = (desk.signer.public_key(), Keys::generate());
        assert_eq!(desk.answer(Call::Ping).await, Answer::Result("pong".to_owned()));
        assert_eq!(desk.answer(Call::SwitchRelays).await, Answer::Result("null".to_owned()));
        assert_eq!(desk.answer(Call::GetPublicKey).await, Answer::Result(serves.to_hex()));
        let Answer::Result(json) = desk.answer(sign(serves, 1)).await else { panic!("not signed") };
        let event = Event::from_json(json).unwrap();
        event.verify().unwrap();
        assert_eq!((event.pubkey, event.content.as_str()), (serves, "hi"));
        let call = convert(Cipher::Nip44, Way::Encrypt, peer.public_key(), "secret");
        let Answer::Result(cipher) = desk.answer(call).await else { panic!("not encrypted") };
        let call = convert(Cipher::Nip44, Way::Decrypt, peer.public_key(), &cipher);
        assert_eq!(desk.answer(call).await, Answer::Result("secret".to_owned()));
        let call = convert(Cipher::Nip44, Way::Decrypt, peer.public_key(), "garbage");
        assert!(matches!(desk.answer(call).await, Answer::Error(_)));
    }
}
