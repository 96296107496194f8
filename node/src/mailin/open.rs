//! Opening an event: verify, decrypt, check, whose is it.

use oa_nips::kind;
use oa_nips::mail::{self, Mail, UnwrapError};
use oa_nips::nostr::{Event, EventId, PublicKey, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};

use crate::agent::AgentId;
use crate::engine::shared::Shared;

/// The event something came in: its `created_at` and id.
pub(super) type EventRef = (u64, EventId);

/// What an event turned out to be.
#[derive(Debug)]
pub(super) enum Opened {
    /// Mail for one of our agents.
    Mail { agent: AgentId, mail: Box<Mail>, event: EventRef, pow_bits: u8 },
    /// A command for the node, queued while it was away.
    Command { caller: PublicKey, rumor: Box<UnsignedEvent>, event: EventRef },
    /// For one of our agents, but nothing it can read.
    Unreadable { agent: AgentId, event: EventRef, reason: String },
    /// For nobody here.
    Foreign(EventRef),
    /// For one of our agents, whose signer is away; not noted as handled, so that a sweep brings it again.
    Later,
    /// Known already, or forged.
    Nothing,
}

impl Opened {
    /// Its place among what was found at once: by the time its author claims, what is no message first.
    pub(super) fn order(&self) -> (u64, Option<EventId>) {
        match self {
            Self::Mail { mail, .. } => {
                let (at_ms, id) = mail.order();
                (at_ms, Some(id))
            }
            _ => (0, None),
        }
    }
}

/// Opens an event.
pub(super) async fn open(shared: &Shared, event: Event, is_verified: bool) -> Opened {
    if shared.store.is_handled(&event.id).unwrap_or(false) {
        return Opened::Nothing;
    }
    if !is_verified && let Err(error) = event.verify() {
        tracing::warn!(id = %event.id, %error, "forged event dropped");
        return Opened::Nothing;
    }
    let found = (event.created_at.as_secs(), event.id);
    let Some(agent) = mail::recipient(&event).and_then(|key| shared.keyring.whose(&key)) else {
        return Opened::Foreign(found);
    };
    let signer = shared.keyring.agent(agent);
    if agent == AgentId::NODE && event.kind == kind::WRAP {
        match command(&event, &*signer).await {
            Ok(Some((caller, rumor))) => {
                return Opened::Command { caller, rumor: Box::new(rumor), event: found };
            }
            // It is mail, or nothing: what opens it next says what.
            Ok(None) | Err(UnwrapError::Open(_) | UnwrapError::Signer(SignerError::Refused(_))) => {}
            Err(UnwrapError::Signer(SignerError::Unavailable(_))) => return Opened::Later,
        }
    }
    match mail::unwrap(&event, &*signer).await {
        Ok(mail) => {
            let pow_bits = leading_zeros(event.id.as_bytes());
            Opened::Mail { agent, mail: Box::new(mail), event: found, pow_bits }
        }
        Err(UnwrapError::Signer(SignerError::Unavailable(reason))) => {
            tracing::warn!(%agent, reason, "signer away, mail is opened later");
            Opened::Later
        }
        Err(error) => Opened::Unreadable { agent, event: found, reason: error.to_string() },
    }
}

/// The command that a wrap holds and who proves to have written it; nothing when it holds something else.
async fn command(
    event: &Event,
    signer: &dyn Signer,
) -> Result<Option<(PublicKey, UnsignedEvent)>, UnwrapError> {
    mail::check_outer(event)?;
    let seal = mail::open_seal(&signer.nip44_decrypt(&event.pubkey, &event.content).await?)?;
    let rumor = signer.nip44_decrypt(&seal.author, &seal.ciphertext).await?;
    let rumor = mail::rumor_of(&seal.author, &rumor)?;
    Ok((rumor.kind == kind::FILES_REQUEST).then_some((seal.author, rumor)))
}

/// Leading zero bits of an id (NIP-13).
fn leading_zeros(id: &[u8; 32]) -> u8 {
    let zeros: u32 = match id.iter().position(|byte| *byte != 0) {
        Some(at) => at as u32 * 8 + id.get(at).map_or(0, |byte| byte.leading_zeros()),
        None => 256,
    };
    u8::try_from(zeros).unwrap_or(u8::MAX)
}
