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

use crate::agent::Lifecycle;
use crate::agent::envelope::{Envelope, Kind, Trust};
use crate::agent::mailbox::Bucket;
use crate::agent::manifest::Manifest;
use crate::alarms;
use crate::engine::clock::{Clock, Random};
use crate::engine::shared::Shared;
use crate::engine::world;
use crate::namespace::journal::{Nondeterministic, Pin};
use crate::namespace::{CallMade, Done, Files, Namespace, Path, Setting};
use crate::outbox;
use crate::program::{Agent, Fault, Tick};
use crate::serve;
use crate::store::row::{AgentRow, OutRow, Outgoing, Stage};
use crate::store::write::{TickCommit, Write};
use crate::time::millis;

/// How long a program may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// How long an immediate signer may hold up a commit before the outbox signs instead.
const SIGN_DEADLINE: Duration = Duration::from_secs(1);
/// Changed files listed in a record; the rest is counted.
const CALLS_MAX: usize = 64;
/// Messages and events listed in a record; the rest is counted.
const SENT_MAX: usize = 32;

/// Everything a tick starts from.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) row: Arc<AgentRow>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) seq: u64,
    pub(crate) envelope: Arc<Envelope>,
    /// Failures of this envelope so far.
    pub(crate) failures: u32,
    /// Whether an earlier run did something outside.
    pub(crate) journaled: bool,
    pub(crate) trust: Trust,
}

/// What a tick comes to.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) commit: TickCommit,
    /// What lands with it.
    pub(crate) writes: Vec<Write>,
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
    /// No run of it can count any more; what was done outside stays done.
    #[error("nondeterministic: {0}")]
    Nondeterministic(#[from] Nondeterministic),
    /// The tick may not run now, or the store failed: no fault of the program.
    #[error("put off: {0}")]
    PutOff(String),
}

/// A tick that failed, and what it had done outside by then.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) why: NoCommit,
    pub(crate) calls: Vec<CallMade>,
}

/// Runs the program and makes the commit of what it did. `is_behind` says whether the disk may be behind the agent.
pub(crate) async fn run(
    shared: &Shared,
    begun: &Begun,
    program: &dyn Agent,
    is_behind: bool,
) -> Result<Made, Failed> {
    let started = Instant::now();
    let early = |why: NoCommit| Failed { why, calls: Vec::new() };
    let secret = shared.keyring.secret(begun.row.id);
    let random = Random::new(&secret, begun.envelope.id.as_bytes());
    let seed = *random.seed();
    let mut ns = namespace(shared, begun, is_behind).map_err(early)?;
    let begun = &Begun { trust: ns.trust(), ..begun.clone() };
    let files = world::Files { store: shared.decided.clone(), agent: begun.row.id };
    let brought =
        serve::begin_task(&begun.envelope, begun.trust, &files).and_then(|brought| ns.bring(brought));
    brought.map_err(|error| early(NoCommit::PutOff(error.to_string())))?;
    let mut tick = Tick { ns, clock: Clock::new(begun.envelope.accepted_at_ms), random };

    let hooks = AssertUnwindSafe(hooks(program, begun, &mut tick)).catch_unwind();
    let ran = match tokio::time::timeout(DEADLINE, hooks).await {
        Err(_) => Err(NoCommit::Deadline),
        Ok(Err(panic)) => Err(NoCommit::Panic(words(&*panic))),
        Ok(Ok(outcome)) => outcome.map_err(NoCommit::from),
    };
    let now_ms = tick.clock.now_ms();
    let calls = tick.ns.calls().to_vec();
    let failed = |why| Failed { why, calls };
    if let Some(reason) = tick.ns.put_off() {
        return Err(failed(NoCommit::PutOff(reason.to_owned())));
    }
    // A run that is not deterministic is so whatever else went wrong because of it.
    let done = match (tick.ns.finish(), ran) {
        (Err(poison), Ok(())) => return Err(failed(poison.into())),
        (Err(poison @ (Nondeterministic::Otherwise { .. } | Nondeterministic::Program { .. })), Err(_)) => {
            return Err(failed(poison.into()));
        }
        (_, Err(why)) => return Err(failed(why)),
        (Ok(done), Ok(())) => done.map_err(Fault::from),
    };
    let done = match done {
        Ok(done) => done,
        Err(fault) => return Err(failed(fault.into())),
    };
    let duration_ms = millis(started.elapsed());
    Ok(commit(shared, begun, done, now_ms, duration_ms, &seed).await)
}

fn namespace(shared: &Shared, begun: &Begun, is_behind: bool) -> Result<Namespace, NoCommit> {
    let (id, envelope) = (begun.row.id, &begun.envelope);
    let recorded = if begun.journaled {
        let rows = shared.decided.journal(id, &envelope.id).map_err(|e| NoCommit::PutOff(e.to_string()))?;
        rows.into_iter().map(|row| row.line).collect()
    } else {
        Vec::new()
    };
    let durable = world::JournalFile {
        tenure: shared.tenure.clone(),
        store: shared.store.clone(),
        time: shared.time.clone(),
        feeds: shared.feeds.clone(),
        row: begun.row.clone(),
        manifest: begun.manifest.clone(),
        seq: begun.seq,
        envelope: envelope.id,
    };
    let files = world::Files { store: shared.decided.clone(), agent: id };
    let setting = Setting {
        mounts: shared.mounts.of(&begun.manifest),
        row: begun.row.clone(),
        manifest: begun.manifest.clone(),
        envelope: envelope.clone(),
        committed: Arc::new(world::Own::new(files, is_behind)),
        durable: Arc::new(durable),
        consent: shared.consent.clone(),
    };
    let pin = Pin { program: begun.manifest.program.clone(), trust: begun.trust };
    Ok(Namespace::new(setting, pin, recorded)?)
}

async fn hooks(program: &dyn Agent, begun: &Begun, tick: &mut Tick) -> Result<(), Fault> {
    match begun.envelope.kind {
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
    begun: &Begun,
    done: Done,
    now_ms: u64,
    duration_ms: u64,
    seed: &[u8; 32],
) -> Made {
    let (row, envelope) = (&begun.row, &begun.envelope);
    let Done { files, reply: text, out: more, mut writes, calls } = done;
    let state = {
        let written = files.iter().map(|(path, content)| (path.as_str(), content.as_deref()));
        record::state_hash(&row.head.state, written)
    };
    let mut draws = draws(shared, begun, &more);
    let reply = reply(shared, begun, text, now_ms, &draws).await;
    let mut fields = fields(begun, &files, &calls, &reply, duration_ms);
    list_sent(&mut fields, row, &more);
    let agent = Hex(row.pubkey.to_bytes());
    let record = bounded(|fields| Record::new(agent, row.session, &row.head, state, fields, seed), fields);
    let head = record.head();
    let (mut out, mut bucket) = (Vec::new(), None);
    if let Reply::Sent { item, bucket: drawn, .. } = reply {
        out.push(*item);
        draws.remove(&drawn.0);
        bucket = Some(drawn);
    }
    writes.extend(draws.into_iter().map(|(peer, bucket)| Write::Draw(row.id, peer, bucket)));
    let at_ms = shared.time.now_ms();
    let unsigned = |outgoing| OutRow { outgoing, stage: Stage::Unsigned, at_ms };
    out.extend(more.into_iter().map(unsigned));
    let heard = envelope.heard.as_ref().map(|heard| json!({ alarms::HEARD: heard }));
    let origin = envelope.origin.as_ref().and_then(|origin| serde_json::to_value(origin).ok()).or(heard);
    let (files, alarms) = world::split(files, envelope.accepted_at_ms, origin.as_ref());
    let commit = TickCommit {
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
    };
    Made { commit, writes }
}

/// Buckets as the messages of a tick leave them.
type Draws = BTreeMap<PublicKey, Bucket>;

/// What a tick's messages draw, other than its reply: from the same buckets, and before it. `/nostr/dm` has refused
/// what they do not hold.
fn draws(shared: &Shared, begun: &Begun, out: &[Outgoing]) -> Draws {
    let (mut draws, envelope) = (Draws::new(), &begun.envelope);
    for outgoing in out {
        let Outgoing::Mail { draft, .. } = outgoing else { continue };
        let peer = draft.recipient;
        let old =
            draws.get(&peer).copied().or_else(|| shared.decided.peer(begun.row.id, &peer).ok()??.bucket);
        let known = shared.directory.remembered(&peer);
        let is_bot = envelope.auto_hop() > 0 || known.is_some_and(|contact| contact.is_bot);
        let drawn = Bucket::take(old, &begun.manifest.replies, is_bot, envelope.accepted_at_ms).or(old);
        draws.extend(drawn.map(|drawn| (peer, drawn)));
    }
    draws
}

/// Adds what a tick sent besides its reply to the record's list.
fn list_sent(fields: &mut Fields, row: &AgentRow, out: &[Outgoing]) {
    let item = |outgoing: &Outgoing| match outgoing {
        Outgoing::Mail { draft, .. } => {
            json!({ "id": draft.rumor(row.pubkey).id, "to": draft.recipient.to_bech32().unwrap_or_default() })
        }
        Outgoing::Event { event } => json!({ "id": event.id, "kind": event.kind.as_u16() }),
    };
    if let Some(sent) = fields.get_mut("sent").and_then(Value::as_array_mut) {
        sent.extend(out.iter().take(SENT_MAX).map(item));
    }
    if let Some(more) = out.len().checked_sub(SENT_MAX).filter(|more| *more > 0) {
        fields.insert("sent_left_out".to_owned(), json!(more));
    }
}

/// The rules against loops: hops are counted, and each correspondent has a bucket.
async fn reply(shared: &Shared, begun: &Begun, text: Option<String>, now_ms: u64, draws: &Draws) -> Reply {
    let envelope = &begun.envelope;
    let (Some(content), Some(origin)) = (text, &envelope.origin) else { return Reply::None };
    if origin.auto_hop >= AUTO_HOPS_MAX {
        return Reply::Held("hops");
    }
    let known = shared.directory.remembered(&origin.peer);
    let is_bot = origin.auto_hop > 0 || known.is_some_and(|contact| contact.is_bot);
    let bucket = match (draws.get(&origin.peer), shared.decided.peer(begun.row.id, &origin.peer)) {
        (Some(drawn), _) => Some(*drawn),
        (None, Ok(peer)) => peer.unwrap_or_default().bucket,
        (None, Err(_)) => None,
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
async fn sign_now(shared: &Shared, begun: &Begun, outgoing: &Outgoing) -> Stage {
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

fn fields(begun: &Begun, files: &Files, made: &[CallMade], reply: &Reply, duration_ms: u64) -> Fields {
    let envelope = &begun.envelope;
    let from = envelope.sender().and_then(|key| key.to_bech32().ok());
    let file = |(path, content): (&Path, &Option<Vec<u8>>)| json!({ "path": path.as_str(), "bytes": content.as_ref().map(Vec::len) });
    let calls: Vec<Value> =
        made.iter().map(CallMade::to_json).chain(files.iter().map(file)).take(CALLS_MAX).collect();
    let (outcome, sent) = match reply {
        Reply::None => ("done", json!([])),
        Reply::Sent { id, to, .. } => {
            ("replied", json!([{ "id": id, "to": to.to_bech32().unwrap_or_default() }]))
        }
        Reply::Held("hops") => ("held_hops", json!([])),
        Reply::Held(_) => ("held_rate", json!([])),
    };
    let trigger = json!({ "id": envelope.id, "kind": envelope.kind, "from": from, "rule": envelope.rule() });
    let mut fields = Fields::from([
        ("trigger".to_owned(), trigger),
        ("started_at".to_owned(), json!(envelope.accepted_at_ms)),
        ("duration_ms".to_owned(), json!(duration_ms)),
        ("outcome".to_owned(), json!(outcome)),
        ("calls".to_owned(), json!(calls)),
        ("sent".to_owned(), sent),
    ]);
    if let Some(more) = (files.len() + made.len()).checked_sub(CALLS_MAX).filter(|more| *more > 0) {
        fields.insert("calls_left_out".to_owned(), json!(more));
    }
    fields
}

/// Makes the record; one that is too large loses its list of calls, and says so.
fn bounded(make: impl Fn(Fields) -> Record, fields: Fields) -> Record {
    let record = make(fields);
    // Canonical JSON has another order, and the same length.
    if is_small(&record.fields)
        || serde_json::to_vec(&record).is_ok_and(|json| json.len() <= RECORD_BYTES_MAX)
    {
        return record;
    }
    let mut fields = record.fields;
    let left_out = fields.remove("calls").and_then(|calls| calls.as_array().map(Vec::len)).unwrap_or(0);
    fields.insert("calls_left_out".to_owned(), json!(left_out));
    make(fields)
}

/// Whether a record of these fields is certainly not too large, as hardly any is: then its JSON need not be made to tell.
/// Counts every byte of a string as if it were escaped.
fn is_small(fields: &Fields) -> bool {
    let bytes: usize =
        fields.iter().map(|(name, value)| FIELD_BYTES + 3 * ESCAPED * name.len() + most(value)).sum();
    HEADER_BYTES + bytes <= RECORD_BYTES_MAX
}

/// A byte of a string as `\u00xx`.
const ESCAPED: usize = 6;
/// What a record has besides its fields: four hashes, numbers, names.
const HEADER_BYTES: usize = 1024;
/// A field's digest and salt, and what stands between.
const FIELD_BYTES: usize = 128;

/// No less than the bytes of a value's JSON.
fn most(value: &Value) -> usize {
    match value {
        Value::String(text) => ESCAPED * text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| most(item) + 1).sum::<usize>(),
        Value::Object(map) => {
            2 + map.iter().map(|(key, item)| ESCAPED * key.len() + most(item) + 4).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::hex::Hex;
    use oa_nips::record::Head;

    use super::*;

    #[test]
    fn no_record_is_taken_for_small_that_is_not() {
        let text = |byte: &str, times: usize| json!([{ "a": byte.repeat(times) }, null, 1, -5, true]);
        for byte in ["a", "\u{1}", "\"", "\u{fffd}"] {
            for times in (0..6000).step_by(50) {
                let fields =
                    Fields::from([(byte.repeat(times / 100), text(byte, times)), ("b".to_owned(), json!(7))]);
                let record =
                    Record::new(Hex([1; 32]), Hex([2; 16]), &Head::GENESIS, Hex::ZERO, fields, &[7; 32]);
                let length = serde_json::to_vec(&record).unwrap().len();
                assert!(
                    !is_small(&record.fields) || length <= RECORD_BYTES_MAX,
                    "{byte:?} {times}: {length}"
                );
            }
        }
        assert!(is_small(&Fields::from([("outcome".to_owned(), json!("done"))])));
    }

    #[test]
    fn what_is_too_large_loses_its_calls_and_says_so() {
        let calls: Vec<Value> = (0..200)
            .map(|n| json!({ "path": format!("/memory/{n}"), "bytes": n, "x": "x".repeat(90) }))
            .collect();
        let fields =
            Fields::from([("calls".to_owned(), json!(calls)), ("outcome".to_owned(), json!("done"))]);
        let make =
            |fields| Record::new(Hex([1; 32]), Hex([2; 16]), &Head::GENESIS, Hex::ZERO, fields, &[7; 32]);
        let record = bounded(make, fields);
        assert_eq!(record.fields.get("calls"), None);
        assert_eq!(record.fields.get("calls_left_out"), Some(&json!(200)));
        assert!(record.verify(&Head::GENESIS).is_ok());
    }
}
