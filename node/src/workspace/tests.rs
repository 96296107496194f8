//! Who is woken by what changes in a folder, and by what not.

use std::time::Instant;

use oa_nips::hex::Hex;
use oa_nips::nostr::Keys;

use super::*;
use crate::agent::manifest::MountSpec;
use crate::namespace::MemoryState;
use crate::namespace::blocks::host::{Access as Changing, Config, Follow, Host};
use crate::namespace::rights::Role;
use crate::namespace::service::{Change, Context, FileService as _, Subject};
use crate::store::memory::MemoryBackend;
use crate::store::write::{AgentChange, NewAgent};
use crate::time::System;

const DEADLINE: Duration = Duration::from_secs(10);
const NOW_MS: u64 = 1_790_000_000_000;
const ALICE: AgentId = AgentId(0);
const BOB: AgentId = AgentId(1);

struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    folder: Arc<Folder>,
    waker: Waker,
    now_ms: u64,
    markers: usize,
}

/// How markers are called, which are of no interest.
const MARKER: &str = "marker-";

fn manifest(name: &str, trigger: bool) -> Manifest {
    let mut manifest = Manifest::new(name, "echo");
    let text =
        format!("path = \"/workspace\"\nfrom = [\"work\"]\naccess = \"read_write\"\ntrigger = {trigger}\n");
    manifest.mounts.push(toml::from_str::<MountSpec>(&text).unwrap());
    manifest
}

impl Rig {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { access: Changing::ReadWrite, follow: Follow::Changes, ..Config::default() };
        let folder = Arc::new(Folder::new(Host::open(dir.path(), config).await.unwrap()));
        let store = Store::new(Arc::new(MemoryBackend::default())).unwrap();
        for (id, name) in [(ALICE, "alice"), (BOB, "bob")] {
            let new = NewAgent {
                id,
                pubkey: Keys::generate().public_key(),
                manifest: manifest(name, id == ALICE),
                session: Hex::ZERO,
                at_ms: NOW_MS,
                profile: Vec::new(),
            };
            store.write(Write::CreateAgent(Box::new(new))).await.unwrap();
        }
        let (time, folders): (Arc<dyn Time>, _) =
            (Arc::new(System), BTreeMap::from([("work".to_owned(), folder.clone())]));
        let workspaces = Workspaces::new(store.clone(), time.clone(), Tenure::alone(time), folders);
        let waker = Waker::new(workspaces.clone(), Box::new(|_| {}));
        workspaces.load().await.unwrap();
        Self { dir, store, folder, waker, now_ms: NOW_MS, markers: 0 }
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join(name), content).unwrap();
    }

    /// The agent changes something, as a tick does.
    async fn change(&self, agent: AgentId, role: Role, path: &str, change: Change) {
        let (row, manifest) =
            (self.store.agent(agent).unwrap().unwrap(), self.store.manifest(agent).unwrap().unwrap());
        let state = MemoryState::default();
        let subject = Some(Subject { row: &row, manifest: &manifest, state: &state });
        let cx = Context { role, caller: row.pubkey, subject, wake: None, now_ms: NOW_MS, key: [0; 32] };
        self.folder.act(&cx, &path.parse().unwrap(), &change).await.unwrap();
    }

    /// Waits until the kernel has told of a change of this path, and tells those who want to know.
    async fn seen(&mut self, path: &str) {
        let (path, began) = (path.parse().unwrap(), Instant::now());
        while !self.folder.changes(0).unwrap().paths.contains(&path) {
            assert!(began.elapsed() < DEADLINE, "{path} is not told");
            tokio::task::yield_now().await;
        }
        self.waker.look(self.now_ms);
        self.now_ms += BETWEEN_MS;
        self.waker.tell(self.now_ms).await.unwrap();
    }

    /// The same for all that has changed: notices come in order, so all before a marker's are there with it.
    async fn settle(&mut self) {
        self.markers += 1;
        let marker = format!("{MARKER}{}", self.markers);
        self.write(&marker, "");
        self.seen(&format!("/{marker}")).await;
    }

    /// What an agent was told in workspace envelopes: paths, how many, whether these are all.
    fn told(&self, agent: AgentId) -> Vec<(Vec<String>, u64, bool)> {
        let inbox = self.store.inbox(agent, 1000).unwrap().into_iter().map(|(_, waiting)| waiting.envelope);
        let told = inbox.filter(|envelope| envelope.kind == Kind::Workspace).map(|envelope| {
            assert!(envelope.heard.is_some(), "it is trusted like a stranger");
            let data = envelope.data.unwrap();
            let all: Vec<String> = serde_json::from_value(data["paths"].clone()).unwrap();
            let paths: Vec<String> = all.iter().filter(|path| !path.contains(MARKER)).cloned().collect();
            let markers = (all.len() - paths.len()) as u64;
            (paths, data["count"].as_u64().unwrap() - markers, data["complete"].as_bool().unwrap())
        });
        let told = told.filter(|(paths, ..)| !paths.is_empty());
        told.collect()
    }
}

#[tokio::test]
async fn a_burst_is_one_envelope_for_those_who_want_it() {
    let mut rig = Rig::new().await;
    rig.write("a.txt", "1");
    rig.write("b.txt", "2");
    rig.write("a.txt", "3");
    rig.settle().await;
    let paths = vec!["/workspace/a.txt".to_owned(), "/workspace/b.txt".to_owned()];
    assert_eq!(rig.told(ALICE), [(paths, 2, true)]);
    assert_eq!(rig.told(BOB), [], "its manifest says nothing of it");
    rig.settle().await;
    assert_eq!(rig.told(ALICE).len(), 1, "nothing has changed since");
    // A manifest that does not want it any more ends it.
    let quiet = AgentChange::Manifest(Box::new(manifest("alice", false)));
    rig.store.write(Write::ChangeAgent(ALICE, quiet)).await.unwrap();
    rig.waker.workspaces.refresh(ALICE);
    rig.write("c.txt", "4");
    rig.settle().await;
    assert_eq!(rig.told(ALICE).len(), 1);
}

#[tokio::test]
async fn many_changes_are_cut_and_counted() {
    let mut rig = Rig::new().await;
    (0..PATHS_MAX + 20).for_each(|n| rig.write(&format!("{n:03}"), "x"));
    rig.seen(&format!("/{:03}", PATHS_MAX + 19)).await;
    let told = rig.told(ALICE);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0.len(), told[0].1, told[0].2), (PATHS_MAX, PATHS_MAX as u64 + 20, false));
}

#[tokio::test]
async fn what_an_agent_changes_itself_does_not_wake_it_but_what_others_make_of_it_does() {
    let mut rig = Rig::new().await;
    let write = |text: &str| Change::Write(text.as_bytes().to_vec());
    rig.change(ALICE, Role::Agent, "/own", write("1")).await;
    rig.change(ALICE, Role::Agent, "/moved", write("1")).await;
    rig.change(ALICE, Role::Agent, "/moved", Change::Rename("/to".parse().unwrap())).await;
    rig.settle().await;
    assert_eq!(rig.told(ALICE), []);
    // Bob's changes of the same folder are another's, and so are an operator's in Alice's tree.
    rig.change(BOB, Role::Agent, "/bobs", write("2")).await;
    rig.change(ALICE, Role::Operator, "/operators", write("2")).await;
    rig.settle().await;
    let both = vec!["/workspace/bobs".to_owned(), "/workspace/operators".to_owned()];
    assert_eq!(rig.told(ALICE), [(both, 2, true)]);
    // Somebody goes over what Alice wrote.
    rig.write("own", "others");
    rig.settle().await;
    assert_eq!(rig.told(ALICE)[1].0, ["/workspace/own"]);
}
