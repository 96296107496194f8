//! What an approver's answer comes to. Pure but for looking at the rows: forged, late, repeated, ambiguous answers
//! and those by another way do nothing, and say so to whoever may know.

use oa_nips::mail::{Body, Mail, Protocol};
use oa_nips::nostr::PublicKey;
use serde_json::Value;

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

/// All that a message says: a code in any of it would be read.
pub(crate) fn words(body: &Body) -> String {
    match body {
        Body::Text(words) | Body::Reaction(words) | Body::File(words) => words.clone(),
        Body::Envelope(envelope) => {
            let mut all = String::new();
            add_words(&serde_json::to_value(envelope).unwrap_or_default(), &mut all);
            all
        }
    }
}

fn add_words(value: &Value, all: &mut String) {
    match value {
        Value::String(words) => all.extend([words, "\n"]),
        Value::Array(values) => values.iter().for_each(|value| add_words(value, all)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            all.extend([name, "\n"]);
            add_words(value, all);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
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

#[cfg(test)]
mod tests {
    use oa_nips::nostr::{EventId, Keys};

    use super::super::Approval;
    use super::super::fixture::{self, ASKED_MS};
    use super::*;

    const NOW: u64 = ASKED_MS + 1000;

    fn wish(category: Category, state: Stage) -> Versioned {
        (1, Approval { category, state, ..fixture::wish() })
    }

    fn mail(body: Body, reply_to: Option<EventId>) -> Mail {
        let author = Keys::generate().public_key();
        let (id, protocol) = (EventId::from_byte_array([9; 32]), Protocol::Nip17);
        Mail { id, protocol, author, recipients: Vec::new(), sent_at_ms: NOW, auto_hop: 0, reply_to, body }
    }

    fn text(text: &str) -> Mail {
        mail(Body::Text(text.to_owned()), None)
    }

    fn decide(mail: &Mail, wishes: Vec<Versioned>, may: bool, now_ms: u64) -> Result<Stage, &'static str> {
        match answer(&read(mail), mail, wishes, |_| may, now_ms) {
            Answered::Decided(approval) => Ok(approval.1.state),
            Answered::Nothing(reason) => Err(reason),
        }
    }

    #[test]
    fn yes_and_no_with_the_code_decide() {
        let waiting = || vec![wish(Category::SpendMoney, Stage::Waiting)];
        assert!(matches!(decide(&text("yes abcdef"), waiting(), true, NOW), Ok(Stage::Granted { .. })));
        assert!(matches!(decide(&text(" NO  ABCDEF\n"), waiting(), true, NOW), Ok(Stage::Denied { .. })));
    }

    #[test]
    fn whatever_else_is_said_does_nothing_and_says_so() {
        let waiting = || vec![wish(Category::ModifyGoals, Stage::Waiting)];
        for words in ["yes", "yes AAAAAA", "yes ABCDEF now", "ABCDEF", "ok ABCDEF", "yes ABC DEF", ""] {
            assert!(decide(&text(words), waiting(), true, NOW).is_err(), "{words}");
        }
        assert!(decide(&text("yes ABCDEF"), waiting(), false, NOW).unwrap_err().contains("for you"));
        assert!(decide(&text("yes ABCDEF"), waiting(), true, NOW + 2000).unwrap_err().contains("too late"));
        let legacy = Mail { protocol: Protocol::Nip04, ..text("yes ABCDEF") };
        assert!(decide(&legacy, waiting(), true, NOW).unwrap_err().contains("NIP-17"));
        let machine = Mail { auto_hop: 1, ..text("yes ABCDEF") };
        assert!(decide(&machine, waiting(), true, NOW).is_err());
        let twins = [waiting(), waiting()].concat();
        assert!(decide(&text("yes ABCDEF"), twins, true, NOW).is_err(), "two wishes of one code");
    }

    #[test]
    fn what_is_decided_stays_so() {
        let by = Keys::generate().public_key();
        for state in
            [Stage::Granted { by }, Stage::Doing { by }, Stage::Done, Stage::Denied { by }, Stage::Expired]
        {
            let wishes = vec![wish(Category::ModifyGoals, state.clone())];
            assert!(decide(&text("yes ABCDEF"), wishes, true, NOW).is_err(), "{state:?}");
        }
    }

    #[test]
    fn a_reaction_to_the_very_message_decides_but_never_spends() {
        let to = Some(EventId::from_byte_array([5; 32]));
        let react = |sign: &str, to| mail(Body::Reaction(sign.to_owned()), to);
        let goals = || vec![wish(Category::ModifyGoals, Stage::Waiting)];
        let money = || vec![wish(Category::SpendMoney, Stage::Waiting)];
        assert!(matches!(decide(&react("👍", to), goals(), true, NOW), Ok(Stage::Granted { .. })));
        assert!(matches!(decide(&react("-", to), goals(), true, NOW), Ok(Stage::Denied { .. })));
        assert!(decide(&react("❤️", to), goals(), true, NOW).is_err());
        assert!(decide(&react("+", Some(EventId::from_byte_array([6; 32]))), goals(), true, NOW).is_err());
        assert!(decide(&react("+", to), money(), true, NOW).unwrap_err().contains("code"));
        assert!(matches!(decide(&react("👎", to), money(), true, NOW), Ok(Stage::Denied { .. })));
    }

    #[test]
    fn a_code_is_looked_for_in_whatever_is_said() {
        let data = serde_json::json!({ "deep": [{ "yes ABC\nDEF": 1 }] });
        let envelope = oa_nips::envelope::Envelope::Custom { name: "words".to_owned(), data };
        for body in [
            Body::Text("yes ABC\nDEF".to_owned()),
            Body::Reaction("ABC\nDEF".to_owned()),
            Body::File("https://example.com/ABC\nDEF".to_owned()),
            Body::Envelope(envelope),
        ] {
            assert!(words(&body).contains("ABC\nDEF"), "{body:?}");
        }
    }
}
