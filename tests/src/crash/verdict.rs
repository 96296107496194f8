//! Whether a run held what it must: one reply each, in order, an unbroken chain, nothing given up. Pure.

use std::collections::{BTreeMap, BTreeSet};

use oa_nips::mail::Protocol;
use oa_nips::nostr::EventId;
use oa_nips::record::{ChainError, Head, Record};
use serde_json::Value;

/// A message that a sender's relay has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// What a reply names: the rumor's id, for kind 4 the event's.
    pub id: EventId,
    /// Who sent it.
    pub sender: usize,
    /// The how-many-eth of that sender, from 1.
    pub n: u64,
    /// How it travelled.
    pub protocol: Protocol,
}

/// A reply as it is stored at the relay in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The wrap or kind 4 event.
    pub event: EventId,
    /// The rumor; for kind 4 the event again.
    pub id: EventId,
    /// To whom it came.
    pub sender: usize,
    /// What it answers.
    pub to: Option<EventId>,
    /// How it travelled.
    pub protocol: Protocol,
    /// What it says.
    pub text: String,
}

/// What a node's database holds in the end.
#[derive(Debug, Clone, Default)]
pub struct Aftermath {
    /// Every tick record, by sequence.
    pub records: Vec<Record>,
    /// Where the agent's row says the chain stands.
    pub head: Option<Head>,
    /// Why letters are dead.
    pub dead_letters: Vec<String>,
    /// Why mail was refused.
    pub refusals: Vec<String>,
    /// Envelopes in the inbox.
    pub waiting: usize,
    /// Replies that no relay is known to have.
    pub unsent: usize,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("message {n} of sender {sender} ({}) has no reply", protocol.as_str())]
    Unanswered { sender: usize, n: u64, protocol: Protocol },
    #[error("message {n} of sender {sender} has {count} replies")]
    Repeated { sender: usize, n: u64, count: usize },
    #[error("the reply to message {n} of sender {sender} was sealed {count} times")]
    Resealed { sender: usize, n: u64, count: usize },
    #[error(
        "message {n} of sender {sender} was answered {got:?}, it should be note #{due}: out of order, or not done once"
    )]
    Disordered { sender: usize, n: u64, due: u64, got: String },
    #[error("message {n} of sender {sender} came by {}, its reply does not", protocol.as_str())]
    OtherProtocol { sender: usize, n: u64, protocol: Protocol },
    #[error("sender {sender} got a reply to nothing it said: {text:?}")]
    Unasked { sender: usize, text: String },
    #[error("message {n} of sender {sender} has {count} tick records")]
    Recorded { sender: usize, n: u64, count: usize },
    #[error("the record chain is broken: {0}")]
    Chain(ChainError),
    #[error("the agent's head is not where its records end")]
    Head,
    #[error("a dead letter: {0}")]
    DeadLetter(String),
    #[error("mail was refused: {0}")]
    Refused(String),
    #[error("{0} envelopes still wait")]
    Waiting(usize),
    #[error("{0} replies are still unsent")]
    Unsent(usize),
}

/// The text of a sender's `n`-th message.
pub fn text(n: u64) -> String {
    format!("note number {n}")
}

/// What the concierge says to it when it takes it down as that sender's `k`-th note.
pub fn answer(k: u64, n: u64) -> String {
    format!("Noted as #{k}: number {n}")
}

/// Compares what was said with what was answered. Each sender's messages are in the order they were written.
pub fn replies(sent: &[Sent], replies: &[Reply]) -> Vec<Violation> {
    let whose: BTreeMap<EventId, usize> = sent.iter().map(|sent| (sent.id, sent.sender)).collect();
    let mut by_message: BTreeMap<EventId, Vec<&Reply>> = BTreeMap::new();
    let mut found = Vec::new();
    for reply in replies {
        match reply.to.filter(|to| whose.get(to) == Some(&reply.sender)) {
            Some(to) => by_message.entry(to).or_default().push(reply),
            None => found.push(Violation::Unasked { sender: reply.sender, text: reply.text.clone() }),
        }
    }
    // The note that each sender's next answer is about: one that is lost shifts the others, which is not their fault.
    let mut due: BTreeMap<usize, u64> = BTreeMap::new();
    for message in sent {
        let answers = by_message.get(&message.id).map(Vec::as_slice).unwrap_or_default();
        one_reply(message, answers, due.entry(message.sender).or_insert(1), &mut found);
    }
    found
}

fn one_reply(message: &Sent, answers: &[&Reply], due: &mut u64, found: &mut Vec<Violation>) {
    let Sent { sender, n, protocol, .. } = *message;
    let Some(first) = answers.first() else {
        found.push(Violation::Unanswered { sender, n, protocol });
        return;
    };
    let distinct =
        |id: fn(&Reply) -> EventId| answers.iter().map(|reply| id(reply)).collect::<BTreeSet<_>>().len();
    let (replies, events) = (distinct(|reply| reply.id), distinct(|reply| reply.event));
    if replies > 1 {
        found.push(Violation::Repeated { sender, n, count: replies });
    } else if events > 1 {
        found.push(Violation::Resealed { sender, n, count: events });
    }
    if let Some(other) = answers.iter().find(|reply| reply.text != answer(*due, n)) {
        found.push(Violation::Disordered { sender, n, due: *due, got: other.text.clone() });
        *due = noted(&other.text).unwrap_or(*due);
    }
    *due += 1;
    if first.protocol != protocol {
        found.push(Violation::OtherProtocol { sender, n, protocol });
    }
}

/// The number of the note that an answer is about.
fn noted(answer: &str) -> Option<u64> {
    answer.strip_prefix("Noted as #")?.split_once(':')?.0.parse().ok()
}

/// Looks through what the node kept.
pub fn aftermath(sent: &[Sent], left: &Aftermath) -> Vec<Violation> {
    let mut found = Vec::new();
    match left.records.iter().try_fold(Head::GENESIS, |head, record| record.verify(&head)) {
        Ok(head) if left.head == Some(head) => {}
        Ok(_) => found.push(Violation::Head),
        Err(error) => found.push(Violation::Chain(error)),
    }
    let mut triggers: BTreeMap<&str, usize> = BTreeMap::new();
    for record in &left.records {
        let trigger =
            record.fields.get("trigger").and_then(|trigger| trigger.get("id")).and_then(Value::as_str);
        *triggers.entry(trigger.unwrap_or_default()).or_default() += 1;
    }
    for Sent { id, sender, n, .. } in sent {
        let count = triggers.get(id.to_hex().as_str()).copied().unwrap_or_default();
        if count != 1 {
            found.push(Violation::Recorded { sender: *sender, n: *n, count });
        }
    }
    found.extend(left.dead_letters.iter().cloned().map(Violation::DeadLetter));
    found.extend(left.refusals.iter().cloned().map(Violation::Refused));
    found.extend((left.waiting > 0).then_some(Violation::Waiting(left.waiting)));
    found.extend((left.unsent > 0).then_some(Violation::Unsent(left.unsent)));
    found
}

#[cfg(test)]
mod tests {
    use oa_nips::hex::Hex;
    use oa_nips::record::Fields;
    use serde_json::json;

    use super::*;

    fn id(byte: u8) -> EventId {
        EventId::from_byte_array([byte; 32])
    }

    fn sent(byte: u8, n: u64) -> Sent {
        Sent { id: id(byte), sender: 0, n, protocol: Protocol::Nip17 }
    }

    fn reply(byte: u8, to: &Sent) -> Reply {
        let (event, id) = (id(byte), id(byte + 100));
        Reply {
            event,
            id,
            sender: to.sender,
            to: Some(to.id),
            protocol: to.protocol,
            text: answer(to.n, to.n),
        }
    }

    fn chain(triggers: &[&Sent]) -> Aftermath {
        let mut head = Head::GENESIS;
        let mut records = Vec::new();
        for message in triggers {
            let fields = Fields::from([("trigger".to_owned(), json!({ "id": message.id.to_hex() }))]);
            let record = Record::new(Hex([1; 32]), Hex([2; 16]), &head, head.state, fields, &[3; 32]);
            head = record.verify(&head).unwrap();
            records.push(record);
        }
        Aftermath { records, head: Some(head), ..Aftermath::default() }
    }

    #[test]
    fn one_reply_each_in_order_is_as_it_must_be() {
        let all = [sent(1, 1), sent(2, 2)];
        assert_eq!(replies(&all, &[reply(12, &all[1]), reply(11, &all[0])]), []);
    }

    #[test]
    fn a_lost_reply_and_a_second_one_are_found() {
        let all = [sent(1, 1), sent(2, 2)];
        let (one, again) = (reply(11, &all[0]), reply(13, &all[0]));
        let found = replies(&all, &[one.clone(), again.clone()]);
        let lost = Violation::Unanswered { sender: 0, n: 2, protocol: Protocol::Nip17 };
        assert_eq!(found, [Violation::Repeated { sender: 0, n: 1, count: 2 }, lost]);
        let resealed = Reply { id: one.id, ..again };
        let found = replies(&all[..1], &[one, resealed]);
        assert_eq!(found, [Violation::Resealed { sender: 0, n: 1, count: 2 }]);
    }

    #[test]
    fn a_reply_out_of_order_is_found() {
        let all = [sent(1, 1), sent(2, 2)];
        let swapped = [
            Reply { text: "Noted as #2: number 1".to_owned(), ..reply(11, &all[0]) },
            Reply { text: "Noted as #1: number 2".to_owned(), ..reply(12, &all[1]) },
        ];
        let found = replies(&all, &swapped);
        assert!(matches!(
            &found[..],
            [Violation::Disordered { n: 1, .. }, Violation::Disordered { n: 2, .. }]
        ));
    }

    #[test]
    fn a_note_that_is_lost_or_taken_twice_is_told_once() {
        let all = [sent(1, 1), sent(2, 2), sent(3, 3)];
        let as_note = |k, byte, to: &Sent| Reply { text: answer(k, to.n), ..reply(byte, to) };
        let lost = replies(&all, &[as_note(1, 12, &all[1]), as_note(2, 13, &all[2])]);
        assert_eq!(lost, [Violation::Unanswered { sender: 0, n: 1, protocol: Protocol::Nip17 }]);
        let twice = replies(&all, &[reply(11, &all[0]), as_note(3, 12, &all[1]), as_note(4, 13, &all[2])]);
        assert_eq!(twice, [Violation::Disordered { sender: 0, n: 2, due: 2, got: answer(3, 2) }]);
    }

    #[test]
    fn a_reply_to_nothing_or_to_somebody_else_is_found() {
        let all = [sent(1, 1)];
        let astray = Reply { sender: 1, ..reply(11, &all[0]) };
        let vague = Reply { to: None, ..reply(12, &all[0]) };
        let other = Reply { protocol: Protocol::Nip04, ..reply(13, &all[0]) };
        let found = replies(&all, &[astray, vague, other]);
        assert!(matches!(
            &found[..],
            [
                Violation::Unasked { sender: 1, .. },
                Violation::Unasked { sender: 0, .. },
                Violation::OtherProtocol { .. }
            ]
        ));
    }

    #[test]
    fn a_chain_without_gaps_and_one_record_each_is_as_it_must_be() {
        let all = [sent(1, 1), sent(2, 2)];
        assert_eq!(aftermath(&all, &chain(&[&all[0], &all[1]])), []);
        let twice = aftermath(&all, &chain(&[&all[0], &all[0], &all[1]]));
        assert_eq!(twice, [Violation::Recorded { sender: 0, n: 1, count: 2 }]);
        let mut broken = chain(&[&all[0], &all[1]]);
        broken.records.remove(0);
        let found = aftermath(&all[1..], &broken);
        assert_eq!(found, [Violation::Chain(ChainError::Sequence { expected: 0, got: 1 })]);
        let ahead = Aftermath { head: Some(Head::GENESIS), ..chain(&[&all[0]]) };
        assert_eq!(aftermath(&all[..1], &ahead), [Violation::Head]);
    }

    #[test]
    fn what_is_left_over_is_found() {
        let left = Aftermath {
            dead_letters: vec!["took over 30 s".to_owned()],
            refusals: vec!["the inbox is full".to_owned()],
            waiting: 2,
            unsent: 1,
            ..chain(&[])
        };
        let found = aftermath(&[], &left);
        assert!(matches!(
            found[..],
            [Violation::DeadLetter(_), Violation::Refused(_), Violation::Waiting(2), Violation::Unsent(1)]
        ));
    }
}
