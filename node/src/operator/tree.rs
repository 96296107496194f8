//! The operator's tree: what each path answers.
//!
//! | path | verbs | what |
//! |---|---|---|
//! | `/agents`, `/agents/<name>` | list, stat | the agents, and what each has |
//! | `/agents/new` | call | a manifest in TOML → `{"name","npub"}` |
//! | `/agents/<name>/status` | read | as JSON |
//! | `/agents/<name>/manifest` | read, write | as TOML; the name stays |
//! | `/agents/<name>/inbox/new` | append | `{"text"}`: a message from the operator, answered by direct message |
//! | `/agents/<name>/ctl` | call | `tick hibernate stop resume remove claim`, `allow NPUB`, `deny NPUB` |
//! | `/agents/<name>/logs/ticks`, `logs/refused` | read | JSON lines, the newest last |
//! | `/agents/<name>/deadletter/list`, `/outbox/list` | read | JSON lines |
//! | `/agents/<name>/memory`, `goals`, `schedule` | list, read | the agent's own files |
//! | `/node/status`, `/node/version` | read | the node |

use oa_nips::files::{Code, FileType, OpError, Reply, Request, Stat, Verb};
use oa_nips::nostr::{PublicKey, ToBech32};
use serde::Serialize;
use serde_json::{Value, json};

use crate::agent::manifest::{Manifest, Npub};
use crate::engine::world;
use crate::namespace::{Committed, Path};
use crate::operator::admin::{Admin, created};
use crate::store::row::AgentRow;
use crate::store::write::Write;

/// Lines of a log that are answered: the newest.
const LINES: usize = 1000;
/// Names listed at once.
const NAMES: usize = 100_000;

/// Keeps the reply of a mutating operation in the same transaction.
pub(super) type Keep<'a> = &'a (dyn Fn(&Reply) -> Write + Send + Sync);

/// Answers what changes nothing.
pub(super) async fn read(admin: &Admin, request: &Request) -> Reply {
    let path = parse(&request.path)?;
    let file = Place::find(admin, &path)?;
    match request.verb {
        Verb::List => match file.list(admin)? {
            Some(entries) => Ok(to_json(&entries)),
            None => Err(OpError::new(Code::NotDir, format!("{path} is no folder"))),
        },
        Verb::Stat => {
            let name = path.components().last().unwrap_or("/").to_owned();
            let file_type = file.file_type();
            let size = if file_type == FileType::Value {
                file.content(admin)?.map_or(0, |c| c.len() as u64)
            } else {
                0
            };
            Ok(to_json(&Stat { name, file_type, size }))
        }
        Verb::Read => {
            let content = file.content(admin)?.ok_or_else(|| match file.file_type() {
                FileType::Dir => OpError::new(Code::IsDir, format!("{path} is a folder")),
                _ => OpError::new(Code::PermissionDenied, format!("{path} is not to be read")),
            })?;
            let from = usize::try_from(request.offset).unwrap_or(usize::MAX).min(content.len());
            let count = if request.count == 0 {
                usize::MAX
            } else {
                usize::try_from(request.count).unwrap_or(usize::MAX)
            };
            Ok(content.into_iter().skip(from).take(count).collect())
        }
        verb => Err(unavailable(verb, &path)),
    }
}

/// Does what changes something, together with `keep`.
pub(super) async fn change(admin: &Admin, caller: &PublicKey, request: &Request, keep: Keep<'_>) -> Reply {
    let path = parse(&request.path)?;
    let text = || {
        String::from_utf8(request.body.clone())
            .map_err(|_| OpError::new(Code::InvalidInput, format!("what is sent to {path} is not UTF-8")))
    };
    match (request.verb, Place::find(admin, &path)?) {
        (Verb::Call, Place::New) => {
            let invalid = |error: crate::agent::manifest::ManifestError| {
                OpError::new(Code::InvalidInput, format!("manifest: {error}"))
            };
            let mut manifest = Manifest::parse(&text()?).map_err(invalid)?;
            // Who creates an agent owns it, unless the manifest says who does.
            manifest.owner.get_or_insert(Npub(*caller));
            let name = manifest.name.clone();
            let (_, pubkey) =
                admin.create(manifest, |pubkey| Some(keep(&Ok(created(&name, &pubkey))))).await?;
            Ok(created(&name, &pubkey))
        }
        (Verb::Call, Place::Ctl(row)) => admin.ctl(&row, &text()?, keep).await,
        (Verb::Append, Place::InboxNew(row)) => admin.put_in_inbox(&row, caller, request, keep).await,
        (Verb::Write, Place::Manifest(row)) => {
            let manifest = Manifest::parse(&text()?)
                .map_err(|error| OpError::new(Code::InvalidInput, format!("manifest: {error}")))?;
            admin.set_manifest(&row, manifest, keep).await
        }
        (verb, _) => Err(unavailable(verb, &path)),
    }
}

fn unavailable(verb: Verb, path: &Path) -> OpError {
    let verb = serde_json::to_string(&verb).unwrap_or_default();
    OpError::new(Code::Unavailable, format!("{path} does not take {}", verb.trim_matches('"')))
}

fn parse(path: &str) -> Result<Path, OpError> {
    path.parse().map_err(|error| OpError::new(Code::InvalidPath, format!("{path:?} is not a path: {error}")))
}

/// What a path names.
enum Place {
    Root,
    Agents,
    New,
    Agent,
    AgentFolder(&'static [(&'static str, FileType)]),
    Ctl(Box<AgentRow>),
    InboxNew(Box<AgentRow>),
    Manifest(Box<AgentRow>),
    Value(Box<AgentRow>, fn(&Admin, &AgentRow) -> Result<Vec<u8>, OpError>),
    State(Box<AgentRow>, Path),
    Node,
    NodeStatus,
    NodeVersion,
}

const AGENT: [(&str, FileType); 10] = [
    ("ctl", FileType::Call),
    ("deadletter", FileType::Dir),
    ("goals", FileType::Dir),
    ("inbox", FileType::Dir),
    ("logs", FileType::Dir),
    ("manifest", FileType::Value),
    ("memory", FileType::Dir),
    ("outbox", FileType::Dir),
    ("schedule", FileType::Dir),
    ("status", FileType::Value),
];
const LOGS: [(&str, FileType); 2] = [("refused", FileType::Value), ("ticks", FileType::Value)];
const INBOX: [(&str, FileType); 1] = [("new", FileType::Append)];
const LISTED: [(&str, FileType); 1] = [("list", FileType::Value)];

impl Place {
    fn find(admin: &Admin, path: &Path) -> Result<Self, OpError> {
        let parts: Vec<&str> = path.components().collect();
        let value = |name: &str, read| Ok(Self::Value(Box::new(admin.named(name)?), read));
        match parts.as_slice() {
            [] => Ok(Self::Root),
            ["agents"] => Ok(Self::Agents),
            ["agents", "new"] => Ok(Self::New),
            ["agents", name] => admin.named(name).map(|_| Self::Agent),
            ["agents", name, "ctl"] => Ok(Self::Ctl(Box::new(admin.named(name)?))),
            ["agents", name, "status"] => value(name, status),
            ["agents", name, "manifest"] => Ok(Self::Manifest(Box::new(admin.named(name)?))),
            ["agents", name, "inbox"] => admin.named(name).map(|_| Self::AgentFolder(&INBOX)),
            ["agents", name, "inbox", "new"] => Ok(Self::InboxNew(Box::new(admin.named(name)?))),
            ["agents", name, "logs"] => admin.named(name).map(|_| Self::AgentFolder(&LOGS)),
            ["agents", name, "logs", "ticks"] => value(name, ticks),
            ["agents", name, "logs", "refused"] => value(name, refused),
            ["agents", name, "deadletter" | "outbox"] => {
                admin.named(name).map(|_| Self::AgentFolder(&LISTED))
            }
            ["agents", name, "deadletter", "list"] => value(name, dead_letters),
            ["agents", name, "outbox", "list"] => value(name, outbox),
            ["agents", name, "memory" | "goals" | "schedule", ..] => {
                let row = admin.named(name)?;
                let inner = path.as_str().splitn(4, '/').nth(3).unwrap_or_default();
                Ok(Self::State(Box::new(row), parse(&format!("/{inner}"))?))
            }
            ["node"] => Ok(Self::Node),
            ["node", "status"] => Ok(Self::NodeStatus),
            ["node", "version"] => Ok(Self::NodeVersion),
            _ => Err(OpError::new(Code::NotFound, format!("there is no {path}"))),
        }
    }

    fn file_type(&self) -> FileType {
        match self {
            Self::Root | Self::Agents | Self::Agent | Self::AgentFolder(_) | Self::Node => FileType::Dir,
            Self::New | Self::Ctl(_) => FileType::Call,
            Self::State(_, path) if path.components().count() == 1 => FileType::Dir,
            Self::InboxNew(_) => FileType::Append,
            Self::State(..) | Self::Value(..) | Self::Manifest(_) | Self::NodeStatus | Self::NodeVersion => {
                FileType::Value
            }
        }
    }

    fn list(&self, admin: &Admin) -> Result<Option<Vec<Stat>>, OpError> {
        let entry = |(name, file_type): &(&str, FileType)| Stat {
            name: (*name).to_owned(),
            file_type: *file_type,
            size: 0,
        };
        Ok(Some(match self {
            Self::Root => [("agents", FileType::Dir), ("node", FileType::Dir)].iter().map(entry).collect(),
            Self::Agents => {
                let names = admin.shared.store.names(NAMES)?;
                let agents =
                    names.into_iter().map(|(name, _)| Stat { name, file_type: FileType::Dir, size: 0 });
                agents.chain([entry(&("new", FileType::Call))]).collect()
            }
            Self::Agent => AGENT.iter().map(entry).collect(),
            Self::AgentFolder(entries) => entries.iter().map(entry).collect(),
            Self::Node => {
                [("status", FileType::Value), ("version", FileType::Value)].iter().map(entry).collect()
            }
            Self::State(row, path) => return state_list(admin, row, path),
            _ => return Ok(None),
        }))
    }

    fn content(&self, admin: &Admin) -> Result<Option<Vec<u8>>, OpError> {
        match self {
            Self::Value(row, read) => read(admin, row).map(Some),
            Self::Manifest(row) => manifest(admin, row).map(Some),
            Self::State(row, path) => {
                let files = world::Files { store: admin.shared.store.clone(), agent: row.id };
                let content = files.read(path).map_err(|reason| OpError::new(Code::Io, reason))?;
                match content {
                    None if path.components().count() > 1 => {
                        Err(OpError::new(Code::NotFound, format!("{} has no {path}", row.name)))
                    }
                    content => Ok(content),
                }
            }
            Self::NodeStatus => Ok(Some(node_status(admin)?)),
            Self::NodeVersion => Ok(Some(env!("CARGO_PKG_VERSION").as_bytes().to_vec())),
            _ => Ok(None),
        }
    }
}

fn state_list(admin: &Admin, row: &AgentRow, path: &Path) -> Result<Option<Vec<Stat>>, OpError> {
    let files = world::Files { store: admin.shared.store.clone(), agent: row.id };
    let prefix = path.beneath();
    let paths = files.paths(&prefix).map_err(|reason| OpError::new(Code::Io, reason))?;
    if paths.is_empty() && path.components().count() > 1 {
        return Ok(None);
    }
    let mut entries: Vec<Stat> = Vec::new();
    for full in paths {
        let rest = full.strip_prefix(&prefix).unwrap_or_default();
        let (name, file_type) =
            rest.split_once('/').map_or((rest, FileType::Value), |(name, _)| (name, FileType::Dir));
        if entries.last().is_none_or(|last| last.name != name) {
            entries.push(Stat { name: name.to_owned(), file_type, size: 0 });
        }
    }
    Ok(Some(entries))
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn lines(values: impl IntoIterator<Item = Value>) -> Vec<u8> {
    values.into_iter().flat_map(|value| format!("{value}\n").into_bytes()).collect()
}

fn status(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    let shared = &admin.shared;
    let manifest = shared.manifests.get(&shared.store, row.id, row.version)?;
    Ok(to_json(&world::status(row, &manifest, &shared.relay_names, shared.time.now_ms())))
}

fn manifest(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    Ok(admin
        .shared
        .store
        .manifest(row.id)?
        .map(|manifest| manifest.to_toml().into_bytes())
        .unwrap_or_default())
}

fn ticks(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    let from = row.head.seq.saturating_sub(LINES as u64);
    let records = admin.shared.store.records(row.id, from, LINES)?;
    Ok(lines(records.into_iter().map(|record| json!({ "seq": record.header.seq, "fields": record.fields }))))
}

fn refused(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    let mut refused = admin.shared.store.refusals(row.id, LINES)?;
    refused.reverse();
    Ok(lines(refused.into_iter().map(|(n, refused)| {
        let from = refused.from.and_then(|key| key.to_bech32().ok());
        json!({ "n": n, "at": refused.at_ms / 1000, "from": from, "reason": refused.reason, "detail": refused.detail })
    })))
}

fn dead_letters(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    let letters = admin.shared.store.dead_letters(row.id)?;
    Ok(lines(letters.into_iter().map(|(n, letter)| {
        let from = letter.envelope.sender().and_then(|key| key.to_bech32().ok());
        let (kind, text) = (letter.envelope.kind, letter.envelope.text);
        json!({ "n": n, "at": letter.at_ms / 1000, "reason": letter.reason, "kind": kind, "from": from, "text": text })
    })))
}

fn outbox(admin: &Admin, row: &AgentRow) -> Result<Vec<u8>, OpError> {
    use crate::store::row::{Outgoing, Stage};
    let mut items = admin.shared.store.outbox(row.id, LINES)?;
    items.reverse();
    Ok(lines(items.into_iter().map(|(n, item)| {
        let (what, to) = match &item.outgoing {
            Outgoing::Mail { draft, .. } => ("mail".to_owned(), draft.recipient.to_bech32().ok()),
            Outgoing::Event { event } => (format!("event of kind {}", event.kind.as_u16()), None),
        };
        let (stage, relays) = match &item.stage {
            Stage::Unsigned => ("unsigned", json!([])),
            Stage::Signed(parcels) | Stage::Finished(parcels) => {
                let targets: Vec<_> = parcels.iter().flat_map(|parcel| &parcel.targets).collect();
                (if matches!(item.stage, Stage::Finished(_)) { "finished" } else { "signed" }, json!(targets))
            }
        };
        json!({ "n": n, "at": item.at_ms / 1000, "what": what, "to": to, "stage": stage, "sent": item.is_sent(), "relays": relays })
    })))
}

fn node_status(admin: &Admin) -> Result<Vec<u8>, OpError> {
    let relays: Vec<Value> = admin
        .pool
        .status()
        .into_iter()
        .map(|relay| {
            json!({
                "url": relay.url,
                "connected": relay.connected,
                "since": relay.since_s,
                "subscriptions": relay.subscriptions,
                "unlistened": relay.unlistened,
                "error": relay.last_error,
            })
        })
        .collect();
    let node = admin.shared.keyring.node().public_key().to_bech32().unwrap_or_default();
    Ok(to_json(&json!({
        "npub": node,
        "version": env!("CARGO_PKG_VERSION"),
        "agents": admin.shared.store.names(NAMES)?.len(),
        "floor": admin.shared.store.floor_s()?,
        "relays": relays,
    })))
}
