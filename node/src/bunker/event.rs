//! Requests and responses in their events: kind 24133, encrypted between the two, addressed by a `p` tag.

use oa_nips::nostr::{Event, PublicKey, Tag, Timestamp, UnsignedEvent};
use oa_nips::port::{Signer, SignerError};

use super::message::{KIND, Request, RequestError, Response};

/// How far a request's time may be from ours, in seconds. 10 minutes: clocks of phones are wrong, and nobody needs
/// an answer later.
const SKEW_S_MAX: u64 = 600;

/// An event that carries a content between the two ends.
pub(crate) fn carrying(author: PublicKey, to: PublicKey, content: String, at: Timestamp) -> UnsignedEvent {
    UnsignedEvent::new(author, at, KIND, [Tag::public_key(to)], content)
}

/// Why an event is no request for us. None of these is answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Another kind, or addressed to somebody else.
    #[error("not a request to this key")]
    NotForUs,
    /// Id or signature are wrong.
    #[error("forged")]
    Forged,
    /// It is from another time: a relay repeats what it has seen.
    #[error("{0} s old or ahead")]
    Stale(u64),
    /// What is inside is no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It cannot be decrypted, now or ever.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// Reads a request out of an event that came from a relay, which `me` is asked to decrypt.
///
/// # Errors
/// Why it is none. [`RequestError::Wrong`] can be answered, and nothing else.
pub async fn read(event: &Event, me: &dyn Signer, now_s: u64) -> Result<Request, ReadError> {
    let is_ours = event.kind == KIND && event.tags.public_keys().any(|key| *key == me.public_key());
    if !is_ours {
        return Err(ReadError::NotForUs);
    }
    let apart = event.created_at.as_secs().abs_diff(now_s);
    if apart > SKEW_S_MAX {
        return Err(ReadError::Stale(apart));
    }
    event.verify().map_err(|_| ReadError::Forged)?;
    let json = me.nip44_decrypt(&event.pubkey, &event.content).await?;
    Ok(Request::parse(&json)?)
}

/// Makes the event of a response; of one that says so when the response is too long to be encrypted.
///
/// # Errors
/// What the signer said.
pub async fn write(
    response: &Response,
    to: PublicKey,
    me: &dyn Signer,
    at: Timestamp,
) -> Result<Event, SignerError> {
    let content = match me.nip44_encrypt(&to, &response.to_json()).await {
        Err(SignerError::Refused(_)) => {
            let short = Response::error(response.id.clone(), "the answer is too long to be sent");
            me.nip44_encrypt(&to, &short.to_json()).await?
        }
        content => content?,
    };
    me.sign(carrying(me.public_key(), to, content, at)).await
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;
    use crate::bunker::message::{Answer, Call};
    use crate::signer::{Conversations, LocalSigner};

    const NOW_S: u64 = 1_790_000_000;

    fn signer() -> LocalSigner {
        LocalSigner::new(Keys::generate(), Conversations::default())
    }

    async fn request(client: &LocalSigner, to: PublicKey, json: &str, at_s: u64) -> Event {
        let content = client.nip44_encrypt(&to, json).await.unwrap();
        let event = carrying(client.public_key(), to, content, Timestamp::from_secs(at_s));
        client.sign(event).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_is_read_by_whom_it_is_for() {
        let (client, bunker, other) = (signer(), signer(), signer());
        let json = Call::Ping.to_json("1", &bunker.public_key());
        let event = request(&client, bunker.public_key(), &json, NOW_S).await;
        assert_eq!(read(&event, &bunker, NOW_S).await.unwrap().call, Call::Ping);
        assert!(matches!(read(&event, &other, NOW_S).await, Err(ReadError::NotForUs)));
        assert!(matches!(read(&event, &bunker, NOW_S + 601).await, Err(ReadError::Stale(601))));
        assert!(matches!(read(&event, &bunker, NOW_S - 601).await, Err(ReadError::Stale(601))));
        let mut forged = event.clone();
        forged.pubkey = other.public_key();
        assert!(matches!(read(&forged, &bunker, NOW_S).await, Err(ReadError::Forged)));
        let event = request(&client, bunker.public_key(), "no json", NOW_S).await;
        assert!(matches!(read(&event, &bunker, NOW_S).await, Err(ReadError::Request(RequestError::Unlike))));
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_says_so() {
        let (client, bunker) = (signer(), signer());
        let long = Response::result("1", "x".repeat(70_000));
        let event = write(&long, client.public_key(), &bunker, Timestamp::from_secs(NOW_S)).await.unwrap();
        event.verify().unwrap();
        let json = client.nip44_decrypt(&bunker.public_key(), &event.content).await.unwrap();
        let answer = Response::parse(&json).unwrap().answer;
        assert!(matches!(&answer, Answer::Error(reason) if reason.contains("too long")), "{answer:?}");
    }
}
