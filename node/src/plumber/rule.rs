//! Rules, as TOML has them, and what each matches.

use std::collections::BTreeMap;
use std::fmt;

use oa_nips::nostr::PublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Spanned;

use super::item::{Item, Source};
use crate::agent::envelope::Trust;
use crate::agent::manifest::{Npub, is_name};

/// Most rules of a node.
const RULES_MAX: usize = 200;
/// Most rules of a manifest.
const OWN_RULES_MAX: usize = 32;
/// Most values of one key.
const VALUES_MAX: usize = 100;
/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 500;
/// Steps that matching one pattern may take: four looks at the longest message, and a millisecond. Owners write patterns,
/// and everybody's mail goes by them.
const GLOB_STEPS_MAX: usize = 1 << 18;
/// Longest table of rules, in bytes.
const TABLE_BYTES_MAX: usize = 64 * 1024;
/// What names of rules do not begin with: those of the defaults do.
const RESERVED: &str = "default";

/// One rule. It matches what fits every key it has; of a key's values one is enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What deliveries name: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// Whose mail: names of agents.
    #[serde(default, rename = "for", skip_serializing_if = "Vec::is_empty")]
    pub whose: Vec<String>,
    /// Where from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Source>,
    /// Kinds of events and rumors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kind: Vec<u16>,
    /// Values of tags, by the tag's one letter.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, Vec<String>>,
    /// Who sent it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sender: Vec<Sender>,
    /// What it says, from end to end: `*` stands for any text, `?` for any character.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where to.
    pub to: To,
}

/// Where a rule sends what it matches: `inbox`, `nowhere`, `agent NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    Inbox,
    Nowhere,
    Agent(String),
}

/// Who sent it: `owner`, `allowed`, `stranger` as the agent it is for knows them, `agent` for any of this node, or a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Owner,
    Allowed,
    Stranger,
    Agent,
    Key(PublicKey),
}

/// Why a text is no table of rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The TOML reader's words, with line and column.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    #[error("line {line}: {reason}")]
    Rule { line: usize, reason: String },
    #[error("over {RULES_MAX} rules")]
    TooMany,
    #[error("over {TABLE_BYTES_MAX} bytes")]
    TooLong,
}

/// Reads and checks the rules of a node, `[[rule]]` each. `is_agent` says whether there is an agent of a name.
///
/// # Errors
/// Names line and key.
pub(super) fn parse(text: &str, is_agent: impl Fn(&str) -> bool) -> Result<Vec<Rule>, RulesError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        #[serde(default)]
        rule: Vec<Spanned<Rule>>,
    }
    if text.len() > TABLE_BYTES_MAX {
        return Err(RulesError::TooLong);
    }
    let Table { rule: rules } = toml::from_str(text)?;
    if rules.len() > RULES_MAX {
        return Err(RulesError::TooMany);
    }
    let mut names = Vec::new();
    for rule in &rules {
        let mut check = || {
            let rule = rule.get_ref();
            rule.check()?;
            for name in rule.whose.iter().chain(rule.to.agent()) {
                if !is_agent(name) {
                    let key = if rule.to.agent().is_some_and(|to| to == name) { "to" } else { "for" };
                    return Err(format!("{key}: there is no agent {name:?}"));
                }
            }
            unique(&mut names, &rule.name)
        };
        check().map_err(|reason| RulesError::Rule { line: line(text, rule.span().start), reason })?;
    }
    Ok(rules.into_iter().map(Spanned::into_inner).collect())
}

/// Checks the rules of a manifest.
///
/// # Errors
/// Names rule and key.
pub(crate) fn check_own(rules: &[Rule]) -> Result<(), String> {
    if rules.len() > OWN_RULES_MAX {
        return Err(format!("over {OWN_RULES_MAX} rules"));
    }
    let mut names = Vec::new();
    for rule in rules {
        let own = || {
            if rule.to.agent().is_some() {
                return Err("to: inbox or nowhere; operators route to other agents".to_owned());
            }
            if !rule.whose.is_empty() {
                return Err("for: the agent's own mail is all there is".to_owned());
            }
            Ok(())
        };
        let checked = rule.check().and_then(|()| own()).and_then(|()| unique(&mut names, &rule.name));
        checked.map_err(|reason| format!("{:?}: {reason}", rule.name))?;
    }
    Ok(())
}

fn unique<'a>(names: &mut Vec<&'a str>, name: &'a str) -> Result<(), String> {
    if names.contains(&name) {
        return Err(format!("name: {name:?} is taken by a rule before it"));
    }
    names.push(name);
    Ok(())
}

/// The number of the line in which a byte is.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl Rule {
    /// Checks what types cannot say.
    fn check(&self) -> Result<(), String> {
        if !is_name(&self.name) || self.name.starts_with(RESERVED) {
            return Err(format!(
                "name: {:?} is not 1 to 63 of a-z, 0-9 and -, or begins with {RESERVED}",
                self.name
            ));
        }
        let counts = [
            ("for", self.whose.len()),
            ("from", self.from.len()),
            ("kind", self.kind.len()),
            ("tags", self.tags.values().map(Vec::len).sum()),
            ("sender", self.sender.len()),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count > VALUES_MAX) {
            return Err(format!("{key}: over {VALUES_MAX} values"));
        }
        let is_letter = |name: &String| name.len() == 1 && name.bytes().all(|c| c.is_ascii_alphabetic());
        if let Some(name) = self.tags.keys().find(|name| !is_letter(name)) {
            return Err(format!("tags: {name:?} is not one letter"));
        }
        if self.text.as_ref().is_some_and(|text| text.len() > PATTERN_BYTES_MAX) {
            return Err(format!("text: over {PATTERN_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    /// Whether it is about an item for an agent of this name that trusts the sender so.
    pub(super) fn matches(&self, item: &Item<'_>, agent: &str, trust: Option<Trust>) -> bool {
        let tag = |(letter, values): (&String, &Vec<String>)| {
            let is_it = |(name, value): &(char, String)| letter.starts_with(*name) && values.contains(value);
            item.tags.iter().any(is_it)
        };
        (self.whose.is_empty() || self.whose.iter().any(|name| name == agent))
            && (self.from.is_empty() || self.from.iter().any(|from| item.source.is(*from)))
            && (self.kind.is_empty() || item.kind.is_some_and(|kind| self.kind.contains(&kind)))
            && (self.sender.is_empty() || self.sender.iter().any(|sender| sender.is(item, trust)))
            && self.tags.iter().all(tag)
            && self.text.as_ref().is_none_or(|pattern| glob(pattern, item.text))
    }
}

impl To {
    fn agent(&self) -> Option<&String> {
        match self {
            Self::Agent(name) => Some(name),
            Self::Inbox | Self::Nowhere => None,
        }
    }
}

impl Sender {
    fn is(&self, item: &Item<'_>, trust: Option<Trust>) -> bool {
        match self {
            Self::Owner => trust == Some(Trust::Owner),
            Self::Allowed => trust == Some(Trust::Allowed),
            Self::Stranger => trust == Some(Trust::Stranger),
            Self::Agent => item.is_agents,
            Self::Key(key) => item.sender == Some(*key),
        }
    }
}

/// Whether a text is as a pattern says. Goes back to the last `*` only, so it takes length × length at most; a pattern that
/// takes longer than [`GLOB_STEPS_MAX`] does not match.
fn glob(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    let mut star = None;
    for _ in 0..GLOB_STEPS_MAX {
        let (mut after, mut rest) = (pattern.clone(), text.clone());
        match (after.next(), rest.next()) {
            (Some('*'), _) => {
                star = Some((after.clone(), text.clone()));
                pattern = after;
            }
            (Some(want), Some(is)) if want == '?' || want == is => (pattern, text) = (after, rest),
            (None, None) => return true,
            _ => {
                // The last star takes one character more, if there is one.
                let Some((behind, mut from)) = star.take() else { return false };
                if from.next().is_none() {
                    return false;
                }
                (pattern, text) = (behind.clone(), from.clone());
                star = Some((behind, from));
            }
        }
    }
    false
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbox => f.write_str("inbox"),
            Self::Nowhere => f.write_str("nowhere"),
            Self::Agent(name) => write!(f, "agent {name}"),
        }
    }
}

impl Serialize for To {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.split_once(' ') {
            Some(("agent", name)) if is_name(name) => Ok(Self::Agent(name.to_owned())),
            None if text == "inbox" => Ok(Self::Inbox),
            None if text == "nowhere" => Ok(Self::Nowhere),
            _ => Err(serde::de::Error::custom(format!("to: {text:?} is none of inbox, nowhere, agent NAME"))),
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Allowed => f.write_str("allowed"),
            Self::Stranger => f.write_str("stranger"),
            Self::Agent => f.write_str("agent"),
            Self::Key(key) => Npub(*key).fmt(f),
        }
    }
}

impl Serialize for Sender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sender {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "owner" => Self::Owner,
            "allowed" => Self::Allowed,
            "stranger" => Self::Stranger,
            "agent" => Self::Agent,
            key => Self::Key(PublicKey::parse(key).map_err(|_| {
                let words = "owner, allowed, stranger, agent, an npub";
                serde::de::Error::custom(format!("sender: {key:?} is none of {words}"))
            })?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn a_pattern_that_would_take_for_ever_does_not_match() {
        let text = "x".repeat(16 * 1024);
        assert!(glob("*x*y*", &(text.clone() + "y")));
        // It matches, were there time: 498 questions at each of 16,384 places.
        let slow = format!("*{}\u{1}", "?".repeat(498));
        assert!(!glob(&slow, &(text + "\u{1}")));
        assert!(glob(&slow, &("x".repeat(500) + "\u{1}")));
    }
}
