//! What NIP-46 says inside its events: requests and responses, for the signer and for who asks it.
//!
//! Parsing takes what the clients in use send (parameters that are JSON instead of text, an empty secret); what is
//! written is what the NIP shows. Nothing here is shown by `Debug` that only the two may know.

use std::fmt;

use oa_nips::nostr::{JsonUtil as _, Kind, PublicKey, Tags, Timestamp, UnsignedEvent};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::uri::Secret;

/// The kind of all events of NIP-46.
pub const KIND: Kind = Kind::NostrConnect;

/// The longest id of a request that is answered, in bytes; clients take some ten to forty.
const ID_BYTES_MAX: usize = 128;
/// The longest text of the other side that is shown to people or written to a log, in characters.
const WORDS_MAX: usize = 200;
/// The longest address that a bunker may ask its owner to open, in characters; cut off it would lead nowhere.
const AUTH_URL_CHARS_MAX: usize = 2048;

/// A request and the id that its answer carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client; unique among its own.
    pub id: String,
    /// What it asks for.
    pub call: Call,
}

/// What a signer can be asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum Call {
    /// To be let in.
    Connect {
        /// The word that proves that the owner invited the client.
        secret: Option<Secret>,
        /// What it would like to be allowed, such as `sign_event:1,nip44_encrypt`.
        permissions: String,
    },
    /// Whose key it signs with.
    GetPublicKey,
    /// To sign an event.
    SignEvent(Box<Template>),
    /// To encrypt or decrypt a text.
    Convert {
        /// By which NIP.
        cipher: Cipher,
        /// Which way.
        way: Way,
        /// Who is at the other end.
        peer: PublicKey,
        /// What.
        text: String,
    },
    /// Whether it is there.
    Ping,
    /// On which relays it would rather be asked.
    SwitchRelays,
    /// To be forgotten.
    Logout,
}

/// Which encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// The legacy one.
    Nip04,
    /// Version 2.
    Nip44,
}

/// In which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From plain to cipher text.
    Encrypt,
    /// Back.
    Decrypt,
}

/// An event to be signed. Its author may be left out: it is the signer's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Who the client believes to be the author.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pubkey: Option<PublicKey>,
    /// Seconds since 1970.
    pub created_at: Timestamp,
    /// The kind.
    #[serde(deserialize_with = "whole_kind")]
    pub kind: Kind,
    /// The tags.
    #[serde(default = "Tags::new")]
    pub tags: Tags,
    /// The content.
    #[serde(default)]
    pub content: String,
}

/// A kind, which the Nostr library would cut to 16 bits: 65,536 is not 0.
fn whole_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    u16::deserialize(deserializer).map(Kind::from)
}

impl Template {
    /// The event of this author.
    pub fn by(self, author: PublicKey) -> UnsignedEvent {
        let Self { pubkey: _, created_at, kind, tags, content } = self;
        UnsignedEvent { id: None, pubkey: author, created_at, kind, tags, content }
    }
}

impl From<&UnsignedEvent> for Template {
    fn from(event: &UnsignedEvent) -> Self {
        let UnsignedEvent { id: _, pubkey, created_at, kind, tags, content } = event.clone();
        Self { pubkey: Some(pubkey), created_at, kind, tags, content }
    }
}

/// Why a text is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no id to answer to.
    #[error("not a request of nip-46")]
    Unlike,
    /// It can be answered: with this.
    #[error("{reason}")]
    Wrong { id: String, reason: String },
}

/// A request as it is written.
#[derive(Serialize, Deserialize)]
struct Written {
    id: String,
    method: String,
    #[serde(default)]
    params: Vec<Value>,
}

impl Call {
    /// The method's name.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::GetPublicKey => "get_public_key",
            Self::SignEvent(_) => "sign_event",
            Self::Convert { cipher: Cipher::Nip04, way: Way::Encrypt, .. } => "nip04_encrypt",
            Self::Convert { cipher: Cipher::Nip04, way: Way::Decrypt, .. } => "nip04_decrypt",
            Self::Convert { cipher: Cipher::Nip44, way: Way::Encrypt, .. } => "nip44_encrypt",
            Self::Convert { cipher: Cipher::Nip44, way: Way::Decrypt, .. } => "nip44_decrypt",
            Self::Ping => "ping",
            Self::SwitchRelays => "switch_relays",
            Self::Logout => "logout",
        }
    }

    /// The request's text, to the signer whose key is `remote`.
    pub fn to_json(&self, id: &str, remote: &PublicKey) -> String {
        let params = match self {
            Self::Connect { secret, permissions } => {
                let secret = secret.as_ref().map_or("", Secret::reveal);
                vec![remote.to_hex(), secret.to_owned(), permissions.clone()]
            }
            Self::SignEvent(template) => vec![serde_json::to_string(template).unwrap_or_default()],
            Self::Convert { peer, text, .. } => vec![peer.to_hex(), text.clone()],
            Self::GetPublicKey | Self::Ping | Self::SwitchRelays | Self::Logout => Vec::new(),
        };
        let params = params.into_iter().map(Value::String).collect();
        let written = Written { id: id.to_owned(), method: self.method().to_owned(), params };
        serde_json::to_string(&written).unwrap_or_default()
    }

    fn parse(method: &str, params: Vec<Value>) -> Result<Self, String> {
        let mut params = params.into_iter().map(|param| match param {
            Value::String(text) => text,
            Value::Null => String::new(),
            other => other.to_string(),
        });
        let mut next = || params.next().unwrap_or_default();
        let (cipher, way) = match method {
            "connect" => {
                let (_remote, secret) = (next(), next());
                return Ok(Self::Connect { secret: Secret::new(&secret), permissions: next() });
            }
            "get_public_key" => return Ok(Self::GetPublicKey),
            "sign_event" => {
                let template = serde_json::from_str(&next());
                return template
                    .map(|template| Self::SignEvent(Box::new(template)))
                    .map_err(|_| "the parameter is no event to be signed".to_owned());
            }
            "ping" => return Ok(Self::Ping),
            "switch_relays" => return Ok(Self::SwitchRelays),
            "logout" => return Ok(Self::Logout),
            "nip04_encrypt" => (Cipher::Nip04, Way::Encrypt),
            "nip04_decrypt" => (Cipher::Nip04, Way::Decrypt),
            "nip44_encrypt" => (Cipher::Nip44, Way::Encrypt),
            "nip44_decrypt" => (Cipher::Nip44, Way::Decrypt),
            other => return Err(format!("unsupported method {}", words(other))),
        };
        let peer =
            PublicKey::from_hex(&next()).map_err(|_| "the first parameter is no public key".to_owned())?;
        Ok(Self::Convert { cipher, way, peer, text: next() })
    }
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// What is wrong, with the id to answer to if there is one.
    pub fn parse(json: &str) -> Result<Self, RequestError> {
        let Written { id, method, params } = serde_json::from_str(json).map_err(|_| RequestError::Unlike)?;
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(RequestError::Unlike);
        }
        match Call::parse(&method, params) {
            Ok(call) => Ok(Self { id, call }),
            Err(reason) => Err(RequestError::Wrong { id, reason }),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SignEvent(template) => write!(f, "sign_event({}, [redacted])", template.kind),
            Self::Convert { peer, .. } => write!(f, "{}({peer}, [redacted])", self.method()),
            _ => f.write_str(self.method()),
        }
    }
}

/// An answer and the id of what it answers.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub id: String,
    /// What it is.
    pub answer: Answer,
}

/// What a signer says.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// What was asked for.
    Result(String),
    /// Why not.
    Error(String),
    /// Its owner has to open this address first; the true answer follows.
    AuthUrl(String),
}

/// A response as it is written.
#[derive(Serialize, Deserialize)]
struct Replied {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Response {
    /// A result.
    pub fn result(id: impl Into<String>, result: impl Into<String>) -> Self {
        Self { id: id.into(), answer: Answer::Result(result.into()) }
    }

    /// A refusal.
    pub fn error(id: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { id: id.into(), answer: Answer::Error(reason.into()) }
    }

    /// The response's text.
    pub fn to_json(&self) -> String {
        let (result, error) = match &self.answer {
            Answer::Result(result) => (Some(result.as_str()), None),
            Answer::Error(reason) => (None, Some(reason)),
            Answer::AuthUrl(url) => (Some("auth_url"), Some(url)),
        };
        let result = result.map(|result| Value::String(result.to_owned()));
        let replied = Replied { id: self.id.clone(), result, error: error.cloned() };
        serde_json::to_string(&replied).unwrap_or_default()
    }

    /// Reads a response; nothing when it is none.
    pub fn parse(json: &str) -> Option<Self> {
        let Replied { id, result, error } = serde_json::from_str(json).ok()?;
        let error = error.filter(|error| !error.is_empty());
        let result = match result {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
        };
        let answer = match (result, error) {
            // Only with an address: else a decrypted text that says "auth_url" would be taken for one.
            (Some(result), Some(url)) if result == "auth_url" => {
                Answer::AuthUrl(one_line(&url, AUTH_URL_CHARS_MAX))
            }
            (_, Some(reason)) => Answer::Error(words(&reason)),
            (Some(result), None) => Answer::Result(result),
            (None, None) => return None,
        };
        Some(Self { id, answer })
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response").field("id", &self.id).field("answer", &self.answer).finish()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Result(_) => f.write_str("[redacted]"),
            Self::Error(reason) => write!(f, "error({reason:?})"),
            Self::AuthUrl(_) => f.write_str("auth_url([redacted])"),
        }
    }
}

/// A stranger's words in one line, short enough to be shown.
fn words(text: &str) -> String {
    one_line(text, WORDS_MAX)
}

fn one_line(text: &str, chars_max: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(chars_max).collect()
}

/// The event that was signed, out of a result.
pub(crate) fn signed(result: &str) -> Option<oa_nips::nostr::Event> {
    oa_nips::nostr::Event::from_json(result).ok()
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventBuilder, Keys};
    use proptest::prelude::*;

    use super::*;

    fn peer() -> PublicKey {
        Keys::parse("0000000000000000000000000000000000000000000000000000000000000003").unwrap().public_key()
    }

    fn calls() -> Vec<Call> {
        let event = EventBuilder::text_note("hi").build(peer());
        let convert =
            |cipher, way| Call::Convert { cipher, way, peer: peer(), text: "\"quoted\"\n".to_owned() };
        vec![
            Call::Connect { secret: Secret::new("word"), permissions: "sign_event:1".to_owned() },
            Call::Connect { secret: None, permissions: String::new() },
            Call::GetPublicKey,
            Call::SignEvent(Box::new((&event).into())),
            convert(Cipher::Nip04, Way::Encrypt),
            convert(Cipher::Nip04, Way::Decrypt),
            convert(Cipher::Nip44, Way::Encrypt),
            convert(Cipher::Nip44, Way::Decrypt),
            Call::Ping,
            Call::SwitchRelays,
            Call::Logout,
        ]
    }

    #[test]
    fn every_call_reads_as_it_was_written() {
        for call in calls() {
            let request = Request::parse(&call.to_json("7", &peer())).unwrap();
            assert_eq!(request, Request { id: "7".to_owned(), call });
        }
    }

    #[test]
    fn what_is_written_is_what_the_nip_shows() {
        let hex = peer().to_hex();
        let connect = Call::Connect { secret: Secret::new("word"), permissions: "nip44_encrypt".to_owned() };
        assert_eq!(
            connect.to_json("a", &peer()),
            format!(r#"{{"id":"a","method":"connect","params":["{hex}","word","nip44_encrypt"]}}"#)
        );
        assert_eq!(Call::Ping.to_json("b", &peer()), r#"{"id":"b","method":"ping","params":[]}"#);
        assert_eq!(Response::result("c", "pong").to_json(), r#"{"id":"c","result":"pong"}"#);
        assert_eq!(Response::error("c", "no").to_json(), r#"{"id":"c","error":"no"}"#);
    }

    #[test]
    fn what_the_clients_in_use_send_is_read() {
        // An event without author and id (nostr-tools), and one as JSON instead of text.
        let bare = r#"{"kind":1,"created_at":1700000000,"content":"x","tags":[["t","a"]]}"#;
        let quoted = serde_json::to_string(bare).unwrap();
        for param in [bare, &quoted] {
            let json = format!(r#"{{"id":"1","method":"sign_event","params":[{param}]}}"#);
            let Call::SignEvent(template) = Request::parse(&json).unwrap().call else { panic!("{json}") };
            let event = template.by(peer());
            assert_eq!((event.pubkey, event.kind, event.content.as_str()), (peer(), Kind::TextNote, "x"));
            assert_eq!(event.tags.len(), 1);
        }
        let json = format!(r#"{{"id":"1","method":"connect","params":["{}",""]}}"#, peer().to_hex());
        let call = Request::parse(&json).unwrap().call;
        assert_eq!(call, Call::Connect { secret: None, permissions: String::new() });
    }

    #[test]
    fn what_is_wrong_is_answered_if_it_can_be() {
        for json in
            ["", "{}", r#"{"method":"ping","params":[]}"#, r#"{"id":"","method":"ping"}"#, r#"{"id":1}"#]
        {
            assert_eq!(Request::parse(json), Err(RequestError::Unlike), "{json}");
        }
        let long = format!(r#"{{"id":"{}","method":"ping"}}"#, "x".repeat(129));
        assert_eq!(Request::parse(&long), Err(RequestError::Unlike));
        for (method, params) in [
            ("create_account", "[]"),
            ("sign_event", "[]"),
            ("sign_event", r#"["{}"]"#),
            ("sign_event", r#"[{"kind":70000,"created_at":1,"content":"","tags":[]}]"#),
            ("nip44_encrypt", r#"["npub1x","text"]"#),
        ] {
            let json = format!(r#"{{"id":"9","method":"{method}","params":{params}}}"#);
            let error = Request::parse(&json).unwrap_err();
            assert!(matches!(&error, RequestError::Wrong { id, .. } if id == "9"), "{json} {error:?}");
        }
    }

    #[test]
    fn responses_are_told_apart() {
        let parse = |json: &str| Response::parse(json).map(|response| response.answer);
        assert_eq!(parse(r#"{"id":"1","result":"auth_url"}"#), Some(Answer::Result("auth_url".to_owned())));
        let url = "https://bunker.example/x";
        let json = format!(r#"{{"id":"1","result":"auth_url","error":"{url}"}}"#);
        assert_eq!(parse(&json), Some(Answer::AuthUrl(url.to_owned())));
        assert_eq!(parse(r#"{"id":"1","result":"x","error":""}"#), Some(Answer::Result("x".to_owned())));
        assert_eq!(
            parse(r#"{"id":"1","result":null,"error":"a\nb"}"#),
            Some(Answer::Error("a b".to_owned()))
        );
        assert_eq!(parse(r#"{"id":"1","result":{"a":1}}"#), Some(Answer::Result(r#"{"a":1}"#.to_owned())));
        for json in ["", "[]", r#"{"id":"1"}"#, r#"{"result":"x"}"#, r#"{"id":"1","result":null}"#] {
            assert_eq!(parse(json), None, "{json}");
        }
        for response in [Response::result("1", "ok"), Response::error("1", "no")] {
            assert_eq!(Response::parse(&response.to_json()), Some(response));
        }
    }

    #[test]
    fn printing_one_shows_no_secret() {
        let shown = format!("{:?}", calls());
        assert!(!shown.contains("word") && !shown.contains("quoted") && !shown.contains("hi"), "{shown}");
        let shown = format!("{:?}", Response::result("1", "plain text"));
        assert!(!shown.contains("plain"), "{shown}");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}", method in "[a-z0-4_]{0,20}", param in ".{0,60}") {
            let _ = (Request::parse(&text).is_ok(), Response::parse(&text));
            let json = serde_json::json!({ "id": "1", "method": method, "params": [param, text] }).to_string();
            let _ = Request::parse(&json);
        }
    }
}
