//! The plumber: which inbox an envelope ends in.
//!
//! Rules stand in two places. Operators write `/node/plumbing`, for the mail of all agents; a manifest's `[[plumb]]`
//! is about its agent's own mail, and can only let it in or drop it. The first rule that matches decides; after all of
//! them come defaults that let everything in, so that without rules nothing changes. Each delivery carries the name of
//! its rule.
//!
//! [`route`] is the machine, pure; `Plumber` asks it for mail and for events that subscriptions heard, with the
//! rules that hold now. Nothing goes round: an envelope is handed on once at most, to an agent that did not write it,
//! and where it went only that agent's own rules are asked.

mod item;
mod pipes;
mod rule;
#[cfg(test)]
mod tests;

pub use item::{Item, Source};
pub(crate) use pipes::Plumber;
pub(crate) use rule::check_own;
pub use rule::{Rule, RulesError, Sender, To};

use crate::agent::envelope::Trust;

/// An agent as the machine sees it.
#[derive(Debug, Clone)]
pub struct Resident<T> {
    /// Whoever asks knows it by this.
    pub who: T,
    /// Its name.
    pub name: String,
    /// How far it trusts the sender; nothing where there is none.
    pub trust: Option<Trust>,
    /// Its manifest's rules.
    pub rules: Vec<Rule>,
}

/// Where an envelope goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<T> {
    /// Into the inbox of the agent it was addressed to.
    Inbox,
    /// Into another agent's, by that agent's quotas and trust.
    Agent(T),
    /// Nowhere: a line in the log.
    Nowhere,
}

/// A decision, and the rule that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<T> {
    /// The rule's name.
    pub rule: String,
    /// Where to.
    pub place: Place<T>,
}

/// Decides where an envelope for `first` goes. `find` looks an agent up by the name that a rule gives; a rule that
/// names nobody, or whoever wrote the envelope, is passed over.
///
/// # Errors
/// What `find` said.
pub fn route<T, E>(
    node: &[Rule],
    item: &Item<'_>,
    first: &Resident<T>,
    mut find: impl FnMut(&str) -> Result<Option<Resident<T>>, E>,
) -> Result<Route<T>, E> {
    for rule in node.iter().filter(|rule| rule.matches(item, &first.name, first.trust)) {
        let name = rule.name.clone();
        match &rule.to {
            To::Nowhere => return Ok(Route { rule: name, place: Place::Nowhere }),
            To::Inbox => return Ok(Route { rule: name, place: Place::Inbox }),
            To::Agent(other) if *other == first.name => return Ok(Route { rule: name, place: Place::Inbox }),
            // What is an agent's own is nobody else's.
            To::Agent(_) if !item.source.is_from_outside() => {}
            To::Agent(other) => {
                let Some(second) = find(other)? else { continue };
                let own = own(item, &second).filter(|(_, to)| *to == To::Nowhere);
                return Ok(match own {
                    Some((rule, _)) => Route { rule, place: Place::Nowhere },
                    None => Route { rule: name, place: Place::Agent(second.who) },
                });
            }
        }
    }
    Ok(match own(item, first) {
        Some((rule, To::Nowhere)) => Route { rule, place: Place::Nowhere },
        Some((rule, _)) => Route { rule, place: Place::Inbox },
        None => Route { rule: item.source.default_rule().to_owned(), place: Place::Inbox },
    })
}

/// What the first of an agent's own rules that matches says.
fn own<T>(item: &Item<'_>, agent: &Resident<T>) -> Option<(String, To)> {
    let mut rules = agent.rules.iter().filter(|rule| !matches!(rule.to, To::Agent(_)));
    let rule = rules.find(|rule| rule.matches(item, &agent.name, agent.trust))?;
    Some((rule.name.clone(), rule.to.clone()))
}
