//! What an approver's answer comes to. Pure but for looking at the rows: forged, late, repeated, ambiguous answers
//! and those by another way do nothing, and say so to whoever may know.

use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::PublicKey;

use super::{Stage, Versioned};
use crate::agent::manifest::Category;
use crate::codes;

/// Characters of a code.
const CODE_CHARS: usize = 6;

/// What a message to the node says about an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// `yes CODE` or `no CODE`.
    Code { yes: bool, code: String },
    /// A reaction to one of our messages.
    Reaction { yes: bool, to: oa_nips::nostr::EventId },
    /// Anything else.
    Else,
}

/// Reads an answer.
pub(crate) fn read(mail: &Mail) -> Said {
    match &mail.body {
        Body::Text(text) => {
            let words: Vec<&str> = text.split_whitespace().collect();
            match words.as_slice() {
                [word, code] if is_code(code) => match word.to_ascii_lowercase().as_str() {
                    "yes" => Said::Code { yes: true, code: (*code).to_owned() },
                    "no" => Said::Code { yes: false, code: (*code).to_owned() },
                    _ => Said::Else,
                },
                _ => Said::Else,
            }
        }
        Body::Reaction(sign) => match (sign.trim(), mail.reply_to) {
            ("+" | "👍", Some(to)) => Said::Reaction { yes: true, to },
            ("-" | "👎", Some(to)) => Said::Reaction { yes: false, to },
            _ => Said::Else,
        },
        Body::File(_) | Body::Envelope(_) => Said::Else,
    }
}

fn is_code(word: &str) -> bool {
    word.len() == CODE_CHARS && word.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Whether a text holds a code that waits: it must not reach an agent.
pub(crate) fn is_code_of_a_waiting(text: &str, approvals: &[Versioned]) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_code(word)).any(|word| {
        let digest = codes::digest(word);
        approvals.iter().any(|(_, old)| old.state == Stage::Waiting && old.code == digest)
    })
}

/// What an answer comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The approval as it is from now on.
    Decided(Box<Versioned>),
    /// Nothing changes, for this reason.
    Nothing(&'static str),
}

/// Judges an answer. `may` says whether its author may consent for an approval's agent, now.
pub(crate) fn answer(
    said: &Said,
    mail: &Mail,
    approvals: Vec<Versioned>,
    may: impl Fn(&Versioned) -> bool,
    now_ms: u64,
) -> Answered {
    if mail.protocol != Protocol::Nip17 {
        return Answered::Nothing("consent needs a sealed message (NIP-17): legacy messages cannot give it");
    }
    if mail.auto_hop > 0 {
        return Answered::Nothing("a machine cannot give consent");
    }
    let named = |approval: &Versioned| match said {
        Said::Code { code, .. } => approval.1.code == codes::digest(code),
        Said::Reaction { to, .. } => approval.1.messages.contains(to),
        Said::Else => false,
    };
    let (Said::Code { yes, .. } | Said::Reaction { yes, .. }) = said else {
        return Answered::Nothing("I only understand: yes CODE, no CODE");
    };
    let mut found = approvals.into_iter().filter(|approval| named(approval) && may(approval));
    let (Some((version, approval)), None) = (found.next(), found.next()) else {
        return Answered::Nothing("there is no wish of that code for you to decide");
    };
    match approval.state {
        Stage::Waiting if approval.expires_at_ms <= now_ms => {
            return Answered::Nothing("too late: the wish has expired, and nothing was done");
        }
        Stage::Waiting => {}
        Stage::Expired => return Answered::Nothing("too late: the wish has expired, and nothing was done"),
        Stage::Denied { .. } => return Answered::Nothing("that was denied before"),
        Stage::Granted { .. } | Stage::Doing { .. } | Stage::Done => {
            return Answered::Nothing("that was granted before, and is done once");
        }
    }
    if *yes && approval.category == Category::SpendMoney && matches!(said, Said::Reaction { .. }) {
        return Answered::Nothing("spending needs the code: a reaction is not enough");
    }
    let state = decided(*yes, mail.author);
    Answered::Decided(Box::new((version, super::Approval { state, ..approval })))
}

/// The stage after somebody's word.
pub(crate) fn decided(yes: bool, by: PublicKey) -> Stage {
    if yes { Stage::Granted { by } } else { Stage::Denied { by } }
}
