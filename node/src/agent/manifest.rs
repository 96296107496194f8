//! The manifest: what an agent's owner says it is and may do, as TOML.

mod http;
mod hud;
mod profile;
mod strangers;
mod ws;

use std::fmt;

use oa_nips::nostr::{PublicKey, RelayUrl};
use oa_nips::template;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::Caps;
use crate::namespace::Path;
use crate::namespace::mount::Access;
use crate::plumber::{Rule, check_own};

pub use http::{Http, Method};
pub use hud::Hud;
pub use profile::{Findable, OwnerWord};
pub use strangers::Strangers;
pub use ws::Ws;

/// Most public keys in an allowlist.
pub const ALLOW_MAX: usize = 1000;

/// Most mounts of its own.
pub const MOUNTS_MAX: usize = 32;
/// Most kinds that an agent may publish.
pub const KINDS_MAX: usize = 100;

/// Most relays that an agent may ask besides the node's.
pub const RELAYS_MAX: usize = 10;

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

/// `[autonomy]`: what the agent may do without asking its owner.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Autonomy {
    /// How free it is.
    pub level: Level,
    /// Under `semi_autonomous`: what needs consent. Whatever else does not.
    pub require_approval: Vec<Category>,
}

/// How free an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Everything that reaches beyond its own files needs consent; answering does not.
    Supervised,
    /// What is listed needs consent.
    SemiAutonomous,
    /// Nothing needs consent but what a mount's budget says.
    #[default]
    Autonomous,
}

/// What a change amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    WriteFile,
    ExecuteCode,
    SendMessage,
    SpendMoney,
    ExternalApi,
    CreateAgent,
    ModifyGoals,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WriteFile => "write_file",
            Self::ExecuteCode => "execute_code",
            Self::SendMessage => "send_message",
            Self::SpendMoney => "spend_money",
            Self::ExternalApi => "external_api",
            Self::CreateAgent => "create_agent",
            Self::ModifyGoals => "modify_goals",
        })
    }
}

impl Autonomy {
    /// Whether a change of this category needs consent.
    pub fn asks(&self, category: Category) -> bool {
        match self.level {
            Level::Supervised => true,
            Level::SemiAutonomous => self.require_approval.contains(&category),
            Level::Autonomous => false,
        }
    }
}

/// `[[mounts]]`: changes what a path of the agent's tree allows, or mounts what operators have put under `/srv`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// Where: a mount of the tree, or a new one at or beneath `/workspace` or `/tools`.
    pub path: String,
    /// What, by its names under `/srv`; of several, later ones shadow earlier ones. Nothing changes the access of
    /// what is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<String>,
    /// What it lets the agent do.
    #[serde(default)]
    pub access: Access,
    /// Whether the agent is woken when others change something in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trigger: bool,
    /// Whether the agent's changes go over it, into its own state, and leave it as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cow: bool,
}

impl MountSpec {
    /// The path; of a manifest that was checked, it is one.
    pub fn at(&self) -> Path {
        self.path.parse().unwrap_or_else(|_| Path::root())
    }

    fn check(&self) -> Result<(), String> {
        let path: Path = self.path.parse().map_err(|error| format!("{:?}: {error}", self.path))?;
        let is_free = path.strip("/workspace").is_some() || path.strip("/tools").is_some();
        if !self.from.is_empty() && (!is_free || path.as_str() == "/tools") {
            return Err(format!(
                "{path}: only /workspace, and what is beneath it or /tools, can be mounted on"
            ));
        }
        if matches!(self.access, Access::Budgeted(_)) && path.as_str() != "/wallet" {
            return Err(format!("{path}: only /wallet has a budget"));
        }
        if self.from.is_empty() && (self.cow || self.trigger) {
            return Err(format!("{path}: cow and trigger need a from"));
        }
        Ok(())
    }
}

/// `[dm]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dm {
    /// Who is heard.
    pub policy: Policy,
    /// Let in besides the owner.
    pub allow: Vec<Npub>,
    /// Leading zero bits that a stranger's wrap or kind 4 event must have (NIP-13); 0 for none.
    pub pow_bits: u8,
    /// Whether messages to more than two people are taken in.
    pub rooms: bool,
}

/// Who is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Only the owner.
    Owner,
    /// The owner and those listed.
    Allowlist,
    /// As allowlist; a stranger gets a code that the owner can let in.
    #[default]
    Pairing,
    /// Anybody.
    Open,
}

/// `[replies]`: a bucket for each correspondent, a smaller one for bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Replies {
    /// Replies at once to one person.
    pub burst: u32,
    /// Refill, a minute.
    pub per_minute: u32,
    /// Replies at once to one bot.
    pub bot_burst: u32,
    /// Refill, an hour.
    pub bot_per_hour: u32,
}

impl Default for Replies {
    fn default() -> Self {
        Self { burst: 100, per_minute: 20, bot_burst: 10, bot_per_hour: 30 }
    }
}

/// `[nostr]`: what the agent may publish by itself, and which relays it may ask besides the node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nostr {
    /// Kinds of events; those in [`template::FORBIDDEN`] never.
    pub kinds: Vec<u16>,
    /// Relays that `/nostr/query` may name.
    pub relays: Vec<RelayUrl>,
}

impl Default for Nostr {
    /// Notes and articles.
    fn default() -> Self {
        Self { kinds: vec![1, 30_023], relays: Vec::new() }
    }
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

    /// The caps of a mount; of several that speak of it, the last holds.
    pub fn caps(&self, path: &str) -> Caps {
        let of = |spec: &MountSpec| match spec.access {
            Access::Budgeted(caps) if spec.path == path => Some(caps),
            _ => None,
        };
        self.mounts.iter().rev().find_map(of).unwrap_or_default()
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

impl Nostr {
    fn check(&self) -> Result<(), ManifestError> {
        if self.kinds.len() > KINDS_MAX {
            return Err(ManifestError::TooManyKinds);
        }
        if self.relays.len() > RELAYS_MAX {
            return Err(ManifestError::TooManyRelays);
        }
        let forbidden = |kind: &u16| template::forbidden(*kind).map(|why| (*kind, why));
        match self.kinds.iter().find_map(forbidden) {
            Some((kind, why)) => Err(ManifestError::KindForbidden { kind, why }),
            None => Ok(()),
        }
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
    fn kinds_that_are_never_published_cannot_be_listed() {
        let of = |nostr: &str| Manifest::parse(&format!("name = \"alice\"\n[nostr]\n{nostr}\n"));
        let manifest = of("kinds = [1, 7]\nrelays = [\"wss://relay.example\"]").unwrap();
        assert_eq!((manifest.nostr.kinds.len(), manifest.nostr.relays.len()), (2, 1));
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        assert_eq!(Manifest::parse("name = \"alice\"").unwrap().nostr.kinds, [1, 30_023]);
        for bad in
            ["kinds = [1, 5]", "kinds = [22242]", "kinds = [65541]", "relays = [\"http://x\"]", "kind = [1]"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
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
