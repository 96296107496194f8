//! Mail to the node itself: answers to what it asked its approvers. And the codes of such answers in mail to agents,
//! which no agent may see.

use oa_nips::mail::{Draft, Protocol};
use oa_nips::nostr::ToBech32;

use crate::agent::AgentId;
use crate::agent::mailbox::{self, Refusal};
use crate::approvals::{self, Answered, Approval, Said, Stage, Versioned};
use crate::mailin::decide::{Binds, Case, Decided};
use crate::namespace::rights::Role;
use crate::store::backend::BackendError;
use crate::store::row::Outgoing;
use crate::store::write::{Answer, Write};

/// What becomes of a message to the node.
pub(super) fn decide(case: &Case<'_>) -> Result<Decided, BackendError> {
    if case.mail.author == case.row.pubkey {
        return Ok(case.settle(Answer::Own));
    }
    // Somebody who may consent to nothing gets no answer, not even that there is nothing.
    let role = case.shared.roles.anywhere(&case.shared.store, &case.shared.manifests, &case.mail.author)?;
    if role < Role::Approver {
        return Ok(case.refuse(Refusal::NotAllowed));
    }
    let said = approvals::read(case.mail);
    if said == Said::Else && case.mail.auto_hop > 0 {
        return Ok(case.refuse(Refusal::NotAllowed));
    }
    // Whoever consents and has a clock that is wrong would wait for nothing. What is older than the floor may be somebody
    // else's, who sends it again.
    if said != Said::Else && mailbox::timely(case.mail.sent_at_ms, 0, case.now_ms).is_err() {
        let text =
            "Nothing was done: your message is dated in the future. Please set your clock and answer again.";
        let (from, reason) = (case.mail.author, Refusal::Future);
        return Ok(case.settle(Answer::Decline { from, reason, reply: case.reply(text) }));
    }
    let mut theirs = Vec::new();
    for id in case.shared.wishes.named(&said) {
        if let Some(approval) = approvals::one(&case.shared.store, &id)?
            && may(case, &approval)?
        {
            theirs.push(approval);
        }
    }
    let (text, write) = match approvals::answer(&said, case.mail, theirs, |_| true, case.now_ms) {
        Answered::Nothing(reason) => (format!("Nothing was done: {reason}."), None),
        Answered::Decided(approval) => {
            let (_, decided) = &*approval;
            let did = match decided.state {
                Stage::Granted { .. } => granted(case, decided)?,
                _ => "Denied: nothing is done".to_owned(),
            };
            let deed = approvals::deed(decided);
            (format!("{did}. (wish {}: {deed})", decided.id), Some(approvals::put(&approval)))
        }
    };
    let mut settled = case.settle(Answer::Say { reply: case.reply(text) });
    settled.also.extend(write);
    // What is granted must be on disk before the next answer is judged by it.
    settled.binds = Binds::All;
    Ok(settled)
}

/// What follows from a yes: nothing is made while its agent is stopped.
fn granted(case: &Case<'_>, approval: &Approval) -> Result<String, BackendError> {
    let row = case.shared.store.agent(approval.agent)?;
    Ok(match row {
        Some(row) if !row.lifecycle.ticks() => {
            format!(
                "Granted, but {} is {}: it is done, once, if that changes within a day of the asking",
                row.name, row.lifecycle
            )
        }
        _ => "Granted: it is done now, once".to_owned(),
    })
}

/// Whether the author may decide about an approval now.
fn may(case: &Case<'_>, (_, approval): &Versioned) -> Result<bool, BackendError> {
    let shared = case.shared;
    let Some(row) = shared.store.agent(approval.agent)? else { return Ok(false) };
    let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
    Ok(shared.roles.in_agent(&case.mail.author, &row, &manifest) >= Role::Approver)
}

/// Keeps a code that waits from reaching an agent: its sender is told, by the node, that the code is not for it.
pub(super) fn stop_code(case: &Case<'_>) -> Result<Option<Decided>, BackendError> {
    let shared = case.shared;
    if !shared.wishes.holds_code(&approvals::words(&case.mail.body)) {
        return Ok(None);
    }
    let mut settled = case.refuse(Refusal::Code);
    // Nobody else learns that they have guessed one.
    if shared.roles.anywhere(&shared.store, &shared.manifests, &case.mail.author)? < Role::Approver {
        return Ok(Some(settled));
    }
    let name = &case.row.name;
    let node = shared.keyring.node().public_key().to_bech32().unwrap_or_default();
    let text = format!(
        "You sent a code of mine to {name}. {name} did not get it, and nothing was done: codes are for me ({node}) alone. \
         Answer here with yes CODE or no CODE, and be wary if {name} asked you for it."
    );
    let draft = Draft { auto_hop: 1, ..Draft::text(case.mail.author, text, case.now_ms) };
    let mail = Outgoing::Mail { draft, protocol: Protocol::Nip17, relay: case.relay.cloned() };
    settled.also.push(Write::Send(AgentId::NODE, Box::new(mail), case.now_ms));
    Ok(Some(settled))
}
