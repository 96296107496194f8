//! From store to store.

use std::sync::Mutex;

use oa_nips::hex::Hex;
use oa_nips::nostr::Keys;

use super::fixture::*;
use crate::agent::mailbox::Peer;
use crate::agent::manifest::Manifest;
use crate::agent::{AgentId, Lifecycle};
use crate::bundle::Bundle;
use crate::bundle::admit::{AdmitError, LOOKING, Mode, Twin};
use crate::keyring::Keyring as _;
use crate::store::Store;
use crate::store::backend::{Backend, BackendError, Change, Pair, Range, Table};
use crate::store::memory::MemoryBackend;
use crate::store::row::{OutId, Outgoing, Stage, Waiting, key};
use crate::store::write::{AgentChange, Answered, Holdings, Verdict, Write};

async fn bytes(bundle: Bundle) -> Vec<u8> {
    bundle.seal(&*keyring().node()).await.unwrap()
}

/// A bundle without what differs from export to export: its time, and the last line with digest and signature.
fn timeless(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap();
    let (body, _) = text.trim_end().rsplit_once('\n').unwrap();
    let (before, rest) = body.split_once("\"exported_at_ms\":").unwrap();
    format!("{before}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// Takes a bundle in, and lets it go on as it was.
async fn restore(store: &Store, bundle: Bundle) {
    let (import, goes_on) = bundle.restored().unwrap();
    assert!(matches!(write(store, Write::Import(Box::new(import))).await, Verdict::Landed(_)));
    assert_eq!((row(store).lifecycle, row(store).reason.as_deref()), (Lifecycle::Stopped, Some(LOOKING)));
    let change = AgentChange::Lifecycle(goes_on.lifecycle, goes_on.reason);
    assert_eq!(write(store, Write::ChangeAgent(ID, change)).await, Verdict::Done);
}

#[tokio::test]
async fn export_import_export_is_equal_but_for_times() {
    let ([memory, sqlite], _dir) = stores();
    for (from, to) in [(&memory, &sqlite), (&sqlite, &self::memory())] {
        if from.agent(ID).unwrap().is_none() {
            fill(from).await;
        }
        let first = bytes(gather(from, AT_MS + 5_000)).await;
        restore(to, Bundle::open(&first).unwrap()).await;
        let second = bytes(gather(to, AT_MS + 9_000)).await;
        assert_eq!(timeless(&first), timeless(&second));
        assert_ne!(first, second, "the time is another");
    }
}

#[tokio::test]
async fn what_is_read_is_what_was_written() {
    let store = memory();
    fill(&store).await;
    let bundle = gather(&store, AT_MS);
    assert_eq!(Bundle::open(&bytes(bundle.clone()).await).unwrap(), bundle);
    let Holdings { files, alarms, peers, seen, inbox, letters, journal, outbox, records } = &bundle.holdings;
    assert_eq!((files.len(), alarms.len(), letters.len(), records.len()), (2, 1, 1, 3));
    assert_eq!(inbox.len(), 2);
    assert!(seen.iter().any(|(id, _)| *id == mail(5).id), "answered");
    assert_eq!(peers.len(), 3);
    let paths: Vec<&str> = journal.iter().map(|(.., row)| row.line.path.as_str()).collect();
    assert_eq!(paths, ["/tools/buried", "/tools/buried", "/tools/waiting", "/tools/waiting"]);
    assert!(outbox.iter().all(|(_, item)| !matches!(item.stage, Stage::Finished(_))));
    assert_eq!(outbox.len(), 6, "of each tick one that is signed and one that is not");
}

#[tokio::test]
async fn codes_stay_where_they_are() {
    let store = memory();
    fill(&store).await;
    assert!(row(&store).claim.is_some());
    assert_eq!(store.peer(ID, &someone(6)).unwrap().unwrap().pairing.as_deref(), Some(CODE));
    let waiting = store.outbox(ID, 1).unwrap().remove(0).1;
    assert!(matches!(waiting.outgoing, Outgoing::Mail { draft, .. } if draft.content.contains(CODE)));
    let text = String::from_utf8(bytes(gather(&store, AT_MS)).await).unwrap();
    assert!(!text.contains(CODE) && !text.contains(&Hex([0xcc; 32]).to_string()), "{text}");
}

#[tokio::test]
async fn what_waited_waits_and_what_was_seen_is_not_taken_again() {
    let (from, to) = (memory(), memory());
    fill(&from).await;
    restore(&to, gather(&from, AT_MS)).await;
    let (old, new) = (row(&from), row(&to));
    assert_eq!((new.inbox_depth, new.inbox_next, new.head), (2, old.inbox_next, old.head));
    assert_eq!(to.peer(ID, &someone(7)).unwrap().unwrap().queued, 2);
    assert_eq!(to.journal(ID, &mail(3).id).unwrap().len(), 2);
    assert!(to.waiting(ID, 3).unwrap().unwrap().journaled);
    let open: Vec<u64> = to.outbox_open(None, 99).unwrap().into_iter().map(|id| id.n).collect();
    assert_eq!(open.len(), 6);
    for n in open {
        let id = OutId { agent: ID, n };
        assert_eq!(to.outgoing(id).unwrap(), from.outgoing(id).unwrap(), "the same bytes");
    }
    for n in 1..=5 {
        assert!(to.is_seen(ID, &mail(n).id).unwrap(), "{n}");
    }
    assert!(to.alarms_due(9).unwrap().iter().any(|due| due.agent == ID && due.id == "tea"));
    assert_eq!(to.agents_that_know(&someone(9)).unwrap(), [ID], "its owner finds it");
}

#[tokio::test]
async fn a_place_that_is_taken_stays_as_it_is() {
    let (from, to) = (memory(), memory());
    fill(&from).await;
    fill(&to).await;
    let import = |bundle: Bundle| Write::Import(Box::new(bundle.restored().unwrap().0));
    let before = gather(&to, AT_MS);
    assert_eq!(write(&to, import(gather(&from, AT_MS))).await, Verdict::NameTaken);
    let mut renamed = gather(&from, AT_MS);
    renamed.about.name = "bob".into();
    renamed.manifest = Manifest::new("bob", "echo").to_toml();
    assert_eq!(write(&to, import(renamed.clone())).await, Verdict::Stale, "the number is taken");
    // Gone, but somebody else's number.
    write(&to, Write::ChangeAgent(ID, AgentChange::Remove)).await;
    let pubkey = Keys::generate().public_key();
    renamed.about.pubkey = pubkey;
    assert_eq!(write(&to, import(renamed)).await, Verdict::Stale);
    assert_eq!(to.files_of(ID), before.holdings.files);
}

trait FilesOf {
    fn files_of(&self, id: AgentId) -> Vec<(String, Vec<u8>)>;
}

impl FilesOf for Store {
    fn files_of(&self, id: AgentId) -> Vec<(String, Vec<u8>)> {
        let read = |path: String| self.file(id, &path).unwrap().map(|content| (path, content));
        self.file_paths(id, "").unwrap().into_iter().filter_map(read).collect()
    }
}

#[tokio::test]
async fn an_agent_comes_back_over_what_it_left_behind() {
    let store = memory();
    fill(&store).await;
    let bundle = gather(&store, AT_MS);
    // After the export it sends what was on its way, takes one more message, and writes.
    let open = store.outbox_open(None, 1).unwrap()[0];
    let item = store.outgoing(open).unwrap().unwrap();
    let sent = crate::store::row::OutRow { stage: Stage::Finished(Vec::new()), ..item };
    write(&store, Write::Out(open, Box::new(sent))).await;
    deliver(&store, 40).await;
    let late = vec![("/memory/late".parse().unwrap(), Some(b"x".to_vec()))];
    write(&store, Write::Files(ID, late, Vec::new())).await;
    let version = row(&store).version;
    write(&store, Write::ChangeAgent(ID, AgentChange::Remove)).await;
    restore(&store, bundle.clone()).await;
    assert_eq!(store.files_of(ID), bundle.holdings.files, "what came later is gone");
    assert!(store.is_seen(ID, &mail(40).id).unwrap(), "but not that it was seen");
    assert!(!store.outbox_open(None, 99).unwrap().contains(&open), "nor that it was sent");
    assert!(row(&store).version > version, "whoever knew the old one knows that this is another");
}

#[tokio::test]
async fn a_clone_has_the_memory_and_nothing_of_the_past() {
    let (from, to) = (memory(), memory());
    fill(&from).await;
    let bundle = gather(&from, AT_MS);
    let pubkey = keyring().agent(AgentId(0)).public_key();
    let owner = someone(1);
    let (id, session, at_ms) = (AgentId(0), Hex([6; 16]), AT_MS + 1);
    let twin = Twin { id, pubkey, name: Some("bob".into()), owner, session, at_ms };
    let import = bundle.clone().cloned(twin).unwrap();
    assert!(matches!(write(&to, Write::Import(Box::new(import))).await, Verdict::Landed(_)));
    let row = to.agent(AgentId(0)).unwrap().unwrap();
    assert_eq!((row.name.as_str(), row.owner, row.session), ("bob", Some(owner), session));
    assert_eq!((row.head.seq, row.inbox_depth, row.lifecycle), (0, 0, Lifecycle::Dormant));
    let manifest = to.manifest(AgentId(0)).unwrap().unwrap();
    assert_eq!((manifest.name.as_str(), manifest.owner.unwrap().0), ("bob", owner));
    assert_eq!(to.files_of(AgentId(0)), bundle.holdings.files);
    assert_eq!(to.alarms(AgentId(0)).unwrap(), bundle.holdings.alarms);
    assert!(!to.is_seen(AgentId(0), &mail(1).id).unwrap());
    assert!(to.outbox_open(None, 9).unwrap().is_empty() && to.dead_letters(AgentId(0)).unwrap().is_empty());
    let peers = to.peers(AgentId(0), 9).unwrap();
    assert!(
        peers.len() == 3
            && peers.iter().all(|(_, peer)| *peer
                == Peer { allowed: false, bucket: None, recent: Vec::new(), ..peer.clone() })
    );
}

#[tokio::test]
async fn an_agent_goes_on_under_its_own_key_only() {
    let store = memory();
    fill(&store).await;
    let bundle = gather(&store, AT_MS);
    let keys = keyring();
    bundle.belongs(&keys, Mode::Restore).unwrap();
    assert!(matches!(bundle.belongs(&keys, Mode::Migrate), Err(AdmitError::NotMigrated(_))));
    let other = crate::keyring::SeedKeyring::new(crate::signer::Seed::generate(), Default::default());
    let error = bundle.belongs(&other, Mode::Restore).unwrap_err().to_string();
    assert!(
        error.contains("agent 3") && error.contains("seed words") && error.contains("--mode clone"),
        "{error}"
    );
    let mut forged = bundle;
    forged.about.number = AgentId(4);
    assert!(matches!(forged.belongs(&keys, Mode::Restore), Err(AdmitError::OtherSeed { .. })));
}

#[tokio::test]
async fn what_was_answered_elsewhere_leaves_the_inbox() {
    let store = memory();
    fill(&store).await;
    let envelopes = [mail(4).id, mail(99).id].into();
    let answered = Answered { agent: ID, envelopes, at_ms: AT_MS };
    assert_eq!(write(&store, Write::Answered(answered)).await, Verdict::Done);
    let waiting: Vec<_> = store.inbox(ID, 9).unwrap().into_iter().map(|(_, w)| w.envelope.id).collect();
    assert!(waiting.contains(&mail(3).id) && !waiting.contains(&mail(4).id));
    assert_eq!(row(&store).inbox_depth, 1);
    assert_eq!(store.peer(ID, &someone(7)).unwrap().unwrap().queued, 1);
    assert!(store.is_seen(ID, &mail(99).id).unwrap());
}

/// Mail that comes in as a table is read.
#[derive(Debug)]
struct Busy {
    inner: MemoryBackend,
    at: Table,
    coming: Mutex<Vec<Change>>,
}

impl Backend for Busy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        self.inner.get(table, key)
    }

    fn scan(&self, table: Table, range: &Range) -> Result<Vec<Pair>, BackendError> {
        if table == self.at {
            self.inner.flush(&std::mem::take(&mut *self.coming.lock().unwrap()))?;
        }
        self.inner.scan(table, range)
    }

    fn flush(&self, changes: &[Change]) -> Result<(), BackendError> {
        self.inner.flush(changes)
    }
}

#[tokio::test]
async fn mail_that_comes_meanwhile_is_neither_seen_nor_waiting() {
    let before = memory();
    fill(&before).await;
    let expected = gather(&before, AT_MS);
    let late = mail(50);
    let mut changed = row(&before);
    let n = changed.inbox_next;
    changed.inbox_next += 1;
    let put = |table, key, value| Change { table, key, value: Some(value) };
    let waiting =
        Waiting { envelope: late.clone(), is_strangers: false, failures: 0, crashes: 0, journaled: false };
    for at in [Table::Seen, Table::Inbox, Table::DeadLetters, Table::Outbox] {
        let inner = MemoryBackend::default();
        for table in Table::ALL {
            let pairs = before.pairs(table, Vec::new(), usize::MAX).unwrap();
            inner
                .flush(&pairs.into_iter().map(|(key, value)| put(table, key, value)).collect::<Vec<_>>())
                .unwrap();
        }
        let coming = vec![
            put(Table::Agents, key::agent(ID), json(&changed)),
            put(Table::Inbox, key::numbered(ID, n), json(&waiting)),
            put(Table::Seen, key::seen(ID, &late.id), (late.sent_at_ms / 1000).to_be_bytes().to_vec()),
        ];
        let busy = Busy { inner, at, coming: Mutex::new(coming) };
        let store = Store::new(std::sync::Arc::new(busy)).unwrap();
        assert!(gather(&store, AT_MS) == expected, "not as it was when {at:?} was read");
        assert!(store.is_seen(ID, &late.id).unwrap(), "it did come");
    }
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}
