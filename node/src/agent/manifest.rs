//! The manifest: what an agent's owner says it is and may do, as TOML.

mod autonomy;
mod dm;
mod http;
mod hud;
mod mounts;
mod nostr;
mod profile;
mod strangers;
mod ws;

use std::fmt;

use oa_nips::nostr::PublicKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::Caps;
use crate::namespace::mount::Access;
use crate::plumber::{Rule, check_own};

pub use autonomy::{Autonomy, Category, Level};
pub use dm::{Dm, Policy, Replies};
pub use http::{Http, Method};
pub use hud::Hud;
pub use mounts::MountSpec;
pub use nostr::{KINDS_MAX, Nostr, RELAYS_MAX};
pub use profile::{Findable, OwnerWord};
pub use strangers::Strangers;
pub use ws::Ws;

/// Most public keys in an allowlist.
pub const ALLOW_MAX: usize = 1000;
/// Most mounts of its own.
pub const MOUNTS_MAX: usize = 32;
/// Most people with a role.
pub const ROLES_MAX: usize = 100;
/// Most sites that requests may go to.
pub const SITES_MAX: usize = 200;

/// An agent's manifest. Every table has defaults; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// How operators and `oa` call it: `[a-z0-9][a-z0-9-]{0,62}`.
    pub name: String,
    /// Which program it runs: `concierge`, `echo`, or one that whoever embeds the node has added.
    #[serde(default = "default_program")]
    pub program: String,
    /// Shown in its profile.
    #[serde(default)]
    pub about: String,
    /// Whom it obeys from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Npub>,
    /// The agent that made it; nobody writes this by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Npub>,
    /// Who may see and consent besides its owner.
    #[serde(default)]
    pub roles: Roles,
    /// What it may do without asking.
    #[serde(default)]
    pub autonomy: Autonomy,
    /// What its tree has besides, or lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// Where its requests may go.
    #[serde(default)]
    pub http: Http,
    /// Where its websockets may go.
    #[serde(default)]
    pub ws: Ws,
    /// What turns of others than its owner may use.
    #[serde(default)]
    pub strangers: Strangers,
    /// Who may write to it.
    #[serde(default)]
    pub dm: Dm,
    /// How much it may answer.
    #[serde(default)]
    pub replies: Replies,
    /// What it may say in public, and where it may look.
    #[serde(default)]
    pub nostr: Nostr,
    /// What onlookers see.
    #[serde(default)]
    pub hud: Hud,
    /// How it can be found.
    #[serde(default)]
    pub profile: Findable,
    /// What becomes of its tick records.
    #[serde(default)]
    pub records: Publishing,
    /// What becomes of mail that finds the inbox full.
    #[serde(default)]
    pub overflow: Overflow,
    /// What it lets in and drops of its own mail, after the rules of operators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plumb: Vec<Rule>,
}

fn default_program() -> String {
    "concierge".to_owned()
}

/// `[roles]`: people beside the owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Roles {
    /// Answer for what needs consent, like the owner.
    pub approvers: Vec<Npub>,
    /// See status, metrics and the heads-up display.
    pub viewers: Vec<Npub>,
}

/// Whether and how tick records leave the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publishing {
    /// Encrypted to the owner, in batches.
    #[default]
    Batch,
    /// Encrypted to the owner, within seconds where agents are few: the publisher looks at 256 of them every five.
    Live,
    /// Kept here only.
    Off,
}

/// What becomes of allowed mail that finds the inbox full; a stranger's is always refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Kept as a dead letter.
    #[default]
    DeadLetter,
    /// Refused and logged.
    RejectNew,
    /// The oldest waiting makes room.
    DropOldest,
}

/// A public key written as npub (or hex).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Npub(pub PublicKey);

impl fmt::Display for Npub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use oa_nips::nostr::ToBech32;
        f.write_str(&self.0.to_bech32().unwrap_or_default())
    }
}

impl Serialize for Npub {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Npub {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        PublicKey::parse(&text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is neither an npub nor 64 hex digits")))
    }
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The TOML reader's words, with line and column.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    #[error("name: {0:?} is not 1 to 63 of a-z, 0-9 and -, beginning with a letter or digit")]
    Name(String),
    #[error("mounts: {0}")]
    Mount(String),
    #[error("http.allow, ws.allow: over {SITES_MAX} sites")]
    TooManySites,
    #[error("strangers.allow: {0}")]
    Strangers(String),
    #[error("hud.fields: {0}")]
    Hud(String),
    #[error("profile: {0}")]
    Profile(String),
    #[error("plumb: {0}")]
    Plumb(String),
    #[error("roles: over {ROLES_MAX} people")]
    TooManyRoles,
    #[error("dm.allow: over {ALLOW_MAX} keys")]
    AllowTooLong,
    #[error("about: over 1,000 characters")]
    AboutTooLong,
    #[error("nostr.kinds: {kind} is never published by an agent: {why}")]
    KindForbidden { kind: u16, why: &'static str },
    #[error("nostr.kinds: over {KINDS_MAX} kinds")]
    TooManyKinds,
    #[error("nostr.relays: over {RELAYS_MAX} relays")]
    TooManyRelays,
}

impl Manifest {
    /// A manifest with every default.
    pub fn new(name: impl Into<String>, program: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            about: String::new(),
            owner: None,
            parent: None,
            roles: Roles::default(),
            mounts: Vec::new(),
            autonomy: Autonomy::default(),
            http: Http::default(),
            ws: Ws::default(),
            strangers: Strangers::default(),
            dm: Dm::default(),
            replies: Replies::default(),
            nostr: Nostr::default(),
            hud: Hud::default(),
            profile: Findable::default(),
            records: Publishing::default(),
            overflow: Overflow::default(),
            plumb: Vec::new(),
        }
    }

    /// Reads a manifest that was checked when it was written, by whatever the rules were then.
    ///
    /// # Errors
    /// When it is no manifest at all.
    pub fn read(text: &str) -> Result<Self, ManifestError> {
        Ok(toml::from_str(text)?)
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// Names the key, and for syntax the line and column.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let manifest = Self::read(text)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The caps of a mount; of several that speak of it, the last holds. A child spends nothing until its owner has written
    /// caps for it: else a parent could have as many times its own as it makes children.
    pub fn caps(&self, path: &str) -> Caps {
        let of = |spec: &MountSpec| match spec.access {
            Access::Budgeted(caps) if spec.path == path => Some(caps),
            _ => None,
        };
        let none = if self.parent.is_some() { Caps::NOTHING } else { Caps::default() };
        self.mounts.iter().rev().find_map(of).unwrap_or(none)
    }

    /// Checks what types cannot say.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), ManifestError> {
        if !is_name(&self.name) {
            return Err(ManifestError::Name(self.name.clone()));
        }
        if self.roles.approvers.len() + self.roles.viewers.len() > ROLES_MAX {
            return Err(ManifestError::TooManyRoles);
        }
        if self.mounts.len() > MOUNTS_MAX {
            return Err(ManifestError::Mount(format!("over {MOUNTS_MAX} of them")));
        }
        for mount in &self.mounts {
            mount.check().map_err(ManifestError::Mount)?;
        }
        if self.http.allow.len() > SITES_MAX || self.ws.allow.len() > SITES_MAX {
            return Err(ManifestError::TooManySites);
        }
        self.strangers.check().map_err(ManifestError::Strangers)?;
        self.hud.check().map_err(ManifestError::Hud)?;
        self.profile.check().map_err(ManifestError::Profile)?;
        check_own(&self.plumb).map_err(ManifestError::Plumb)?;
        if self.dm.allow.len() > ALLOW_MAX {
            return Err(ManifestError::AllowTooLong);
        }
        if self.about.chars().count() > 1000 {
            return Err(ManifestError::AboutTooLong);
        }
        self.nostr.check()
    }

    /// The manifest as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

/// Whether a string may name an agent.
pub fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(good) && !name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fill_what_is_left_out_and_survive_a_round_trip() {
        let manifest = Manifest::parse("name = \"alice\"").unwrap();
        assert_eq!(manifest.dm.policy, Policy::Pairing);
        assert_eq!(manifest.replies.burst, 100);
        assert_eq!((manifest.http.allow.len(), manifest.http.per_day), (0, 1000));
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
    }

    #[test]
    fn errors_name_line_and_key() {
        let wrong =
            Manifest::parse("name = \"alice\"\n[dm]\npolicy = \"everybody\"\n").unwrap_err().to_string();
        assert!(wrong.contains("line 3") && wrong.contains("policy"), "{wrong}");
        let unknown = Manifest::parse("name = \"alice\"\ncolour = 1\n").unwrap_err().to_string();
        assert!(unknown.contains("line 2") && unknown.contains("colour"), "{unknown}");
        let star = Manifest::parse("name = \"alice\"\n[http]\nallow = [\"*\"]\n").unwrap_err().to_string();
        assert!(star.contains("line 3") && star.contains("star"), "{star}");
        let private = Manifest::parse("name = \"alice\"\n[http]\nallow_private = true\n");
        assert!(private.is_err(), "private addresses are not the owner's to open");
        for bad in ["", "Alice", "-a", "a b", "../x"] {
            assert!(matches!(Manifest::new(bad, "echo").check(), Err(ManifestError::Name(_))), "{bad}");
        }
    }
}
