//! One tick: load, run, commit. The program works on an overlay, with no transaction open while it does.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use oa_nips::hex::Hex;
use oa_nips::mail::{AUTO_HOPS_MAX, Draft, Protocol};
use oa_nips::nostr::{EventId, PublicKey, ToBech32};
use oa_nips::record::{self, Fields, RECORD_BYTES_MAX, Record};
use serde_json::{Value, json};

use crate::agent::envelope::{Kind, Trust};
use crate::agent::mailbox::Bucket;
use crate::agent::manifest::Manifest;
use crate::agent::{Lifecycle, alarm};
use crate::engine::clock::{Clock, Random};
use crate::engine::shared::Shared;
use crate::engine::world;
use crate::namespace::{Changes, Namespace};
use crate::outbox;
use crate::program::{Agent, Fault, Tick};
use crate::store::row::{AgentRow, OutRow, Outgoing, Stage, Waiting};
use crate::store::write::{AlarmChange, TickCommit};
use crate::time::millis;

/// How long a program may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long an immediate signer may hold up a commit before the outbox signs instead.
const SIGN_DEADLINE: Duration = Duration::from_secs(1);
/// Changed files listed in a record; the rest is counted.
const CALLS_MAX: usize = 64;

/// Everything a tick starts from.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    pub(crate) row: &'a AgentRow,
    pub(crate) manifest: &'a Manifest,
    pub(crate) seq: u64,
    pub(crate) waiting: &'a Waiting,
    pub(crate) trust: Trust,
}

/// Why there is nothing to commit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCommit {
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("took over {} s", DEADLINE.as_secs())]
    Deadline,
    #[error("the program panicked: {0}")]
    Panic(String),
}

/// Runs the program and makes the commit of what it did.
pub(crate) async fn run(
    shared: &Shared,
    begun: &Begun<'_>,
    program: &dyn Agent,
) -> Result<TickCommit, NoCommit> {
    let started = Instant::now();
    let envelope = &begun.waiting.envelope;
    let secret = shared.keyring.secret(begun.row.id);
    let random = Random::new(&secret, envelope.id.as_bytes());
    let seed = *random.seed();
    let values = world::values(begun.row, begun.manifest, envelope, begun.trust, &shared.relay_names);
    let files = Arc::new(world::Files { store: shared.store.clone(), agent: begun.row.id });
    let alarms = Arc::new(world::Alarms { now_ms: envelope.accepted_at_ms });
    let ns = Namespace::new(values, files, alarms);
    let mut tick = Tick { ns, clock: Clock::new(envelope.accepted_at_ms), random };

    let hooks = AssertUnwindSafe(hooks(program, begun, &mut tick)).catch_unwind();
    match tokio::time::timeout(DEADLINE, hooks).await {
        Err(_) => return Err(NoCommit::Deadline),
        Ok(Err(panic)) => return Err(NoCommit::Panic(words(&*panic))),
        Ok(Ok(outcome)) => outcome?,
    }
    let now_ms = tick.clock.now_ms();
    let changes = tick.ns.into_changes().map_err(Fault::from)?;
    let duration_ms = millis(started.elapsed());
    Ok(commit(shared, begun, changes, now_ms, duration_ms, &seed).await)
}

async fn hooks(program: &dyn Agent, begun: &Begun<'_>, tick: &mut Tick) -> Result<(), Fault> {
    match begun.waiting.envelope.kind {
        Kind::Created => return program.on_create(tick).await,
        Kind::Sleep => return program.on_sleep(tick).await,
        Kind::Error => return program.on_error(tick).await,
        _ => {}
    }
    if begun.row.lifecycle == Lifecycle::Dormant {
        program.on_wake(tick).await?;
    }
    program.on_trigger(tick).await
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

/// A reply that goes out, or why it does not.
enum Reply {
    None,
    Sent { item: Box<OutRow>, id: Option<EventId>, to: PublicKey, bucket: (PublicKey, Bucket) },
    Held(&'static str),
}

async fn commit(
    shared: &Shared,
    begun: &Begun<'_>,
    changes: Changes,
    now_ms: u64,
    duration_ms: u64,
    seed: &[u8; 32],
) -> TickCommit {
    let (row, envelope) = (begun.row, &begun.waiting.envelope);
    let state = {
        let written = changes.files.iter().map(|(path, content)| (path.as_str(), content.as_deref()));
        record::state_hash(&row.head.state, written)
    };
    let reply = reply(shared, begun, changes.reply, now_ms).await;
    let fields = fields(begun, &changes.files, &reply, duration_ms);
    let agent = Hex(row.pubkey.to_bytes());
    let record = bounded(|fields| Record::new(agent, row.session, &row.head, state, fields, seed), fields);
    let head = record.head();
    let (mut out, mut bucket) = (Vec::new(), None);
    if let Reply::Sent { item, bucket: drawn, .. } = reply {
        out.push(*item);
        bucket = Some(drawn);
    }
    let origin = envelope.origin.as_ref().and_then(|origin| serde_json::to_value(origin).ok());
    let (mut files, mut alarms) = (Vec::new(), Vec::new());
    for (path, content) in changes.files {
        match world::alarm_id(path.as_str()) {
            Some(id) => {
                // Checked when it was written, at the same time.
                let set = content.and_then(|json| alarm::parse(&json, envelope.accepted_at_ms).ok());
                let alarm = set.map(|alarm| alarm::Alarm { origin: origin.clone(), ..alarm });
                alarms.push(AlarmChange { id: id.to_owned(), alarm });
            }
            None => files.push((path, content)),
        }
    }
    TickCommit {
        agent: row.id,
        expect_version: row.version,
        lease_epoch: row.lease_epoch,
        seq: begun.seq,
        files,
        alarms,
        out,
        bucket,
        rows: Vec::new(),
        lifecycle: if envelope.kind == Kind::Sleep { Lifecycle::Dormant } else { Lifecycle::Active },
        record: Box::new(record),
        head,
    }
}

/// The rules against loops: hops are counted, and each correspondent has a bucket.
async fn reply(shared: &Shared, begun: &Begun<'_>, text: Option<String>, now_ms: u64) -> Reply {
    let envelope = &begun.waiting.envelope;
    let (Some(content), Some(origin)) = (text, &envelope.origin) else { return Reply::None };
    if origin.auto_hop >= AUTO_HOPS_MAX {
        return Reply::Held("hops");
    }
    let known = shared.directory.remembered(&origin.peer);
    let is_bot = origin.auto_hop > 0 || known.is_some_and(|contact| contact.is_bot);
    let bucket = match shared.store.peer(begun.row.id, &origin.peer) {
        Ok(peer) => peer.unwrap_or_default().bucket,
        Err(_) => None,
    };
    let Some(bucket) = Bucket::take(bucket, &begun.manifest.replies, is_bot, envelope.accepted_at_ms) else {
        return Reply::Held("rate");
    };
    let mut draft = Draft::text(origin.peer, content, now_ms);
    draft.reply_to = envelope.sender().and(origin.mail);
    draft.auto_hop = origin.auto_hop + 1;
    let rumor = draft.rumor(begun.row.pubkey).id;
    let outgoing = Outgoing::Mail { draft, protocol: origin.protocol, relay: origin.relay.clone() };
    let stage = sign_now(shared, begun, &outgoing).await;
    // A legacy message is known by its event, which has no id before it is signed.
    let id = match (origin.protocol, &stage) {
        (Protocol::Nip17, _) => rumor,
        (Protocol::Nip04, Stage::Signed(parcels)) => parcels.first().map(|parcel| parcel.event.id),
        (Protocol::Nip04, _) => None,
    };
    // The message has the tick's time; the day it is tried for begins now.
    let item = Box::new(OutRow { outgoing, stage, at_ms: shared.time.now_ms() });
    Reply::Sent { item, id, to: origin.peer, bucket: (origin.peer, bucket) }
}

/// Signs with the commit where the key is at hand, which saves a flush; else the outbox does it.
async fn sign_now(shared: &Shared, begun: &Begun<'_>, outgoing: &Outgoing) -> Stage {
    let signer = shared.keyring.agent(begun.row.id);
    if !signer.is_immediate() {
        return Stage::Unsigned;
    }
    let signing = outbox::sign(outgoing, &*signer, shared.time.now_ms() / 1000);
    match tokio::time::timeout(SIGN_DEADLINE, signing).await {
        Ok(Ok(parcels)) => Stage::Signed(parcels),
        Ok(Err(_)) | Err(_) => Stage::Unsigned,
    }
}

fn fields(
    begun: &Begun<'_>,
    files: &BTreeMap<crate::namespace::Path, Option<Vec<u8>>>,
    reply: &Reply,
    duration_ms: u64,
) -> Fields {
    let envelope = &begun.waiting.envelope;
    let from = envelope.sender().and_then(|key| key.to_bech32().ok());
    let call = |(path, content): (&crate::namespace::Path, &Option<Vec<u8>>)| json!({ "path": path.as_str(), "bytes": content.as_ref().map(Vec::len) });
    let calls: Vec<Value> = files.iter().take(CALLS_MAX).map(call).collect();
    let (outcome, sent) = match reply {
        Reply::None => ("done", json!([])),
        Reply::Sent { id, to, .. } => {
            ("replied", json!([{ "id": id, "to": to.to_bech32().unwrap_or_default() }]))
        }
        Reply::Held("hops") => ("held_hops", json!([])),
        Reply::Held(_) => ("held_rate", json!([])),
    };
    let mut fields = Fields::from([
        ("trigger".to_owned(), json!({ "id": envelope.id, "kind": envelope.kind, "from": from })),
        ("started_at".to_owned(), json!(envelope.accepted_at_ms)),
        ("duration_ms".to_owned(), json!(duration_ms)),
        ("outcome".to_owned(), json!(outcome)),
        ("calls".to_owned(), json!(calls)),
        ("sent".to_owned(), sent),
    ]);
    if let Some(more) = files.len().checked_sub(CALLS_MAX).filter(|more| *more > 0) {
        fields.insert("calls_left_out".to_owned(), json!(more));
    }
    fields
}

/// Makes the record; one that is too large loses its list of calls, and says so.
fn bounded(make: impl Fn(Fields) -> Record, mut fields: Fields) -> Record {
    let record = make(fields.clone());
    // Canonical JSON has another order, and the same length.
    if serde_json::to_vec(&record).is_ok_and(|json| json.len() <= RECORD_BYTES_MAX) {
        return record;
    }
    let left_out = fields.remove("calls").and_then(|calls| calls.as_array().map(Vec::len)).unwrap_or(0);
    fields.insert("calls_left_out".to_owned(), json!(left_out));
    make(fields)
}
