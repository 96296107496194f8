//! A machine with a disk and a purse of play money, and clients that write to it.

use std::collections::{BTreeMap, VecDeque};

use oa_nips::nostr::{Event, EventId, Keys, PublicKey, RelayUrl, Timestamp};
use oa_nips::nwc::{self, Encryption};
use oa_nips::port::{Row, RowWrite};
use serde_json::Value;

use crate::account::Holder;
use crate::nwc::connection::Connection;
use crate::nwc::message::{Error, Request, Response};
use crate::nwc::service::admit::Gate;
use crate::nwc::service::limits::Limits;
use crate::nwc::service::machine::{Action, Call, Input, Machine, Reply};
use crate::nwc::service::row;
use crate::nwc::tests::play::PlayPurse;

/// When it all happens, in seconds since 1970.
pub(super) const NOW_S: u64 = 1_800_000_000;

/// What becomes of the machine's next steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The purse is asked at once.
    Running,
    /// Questions to the purse wait in [`Rig::asks`].
    Held,
}

pub(super) struct Rig {
    pub(super) wallet: Keys,
    pub(super) machine: Machine,
    pub(super) purse: PlayPurse,
    pub(super) disk: BTreeMap<(String, String), Row>,
    pub(super) asks: VecDeque<(EventId, Holder, Call)>,
    pub(super) sent: Vec<Event>,
    pub(super) resent: Vec<EventId>,
    pub(super) told: Vec<(PublicKey, Encryption, String)>,
    pub(super) now_ms: u64,
    pub(super) limits: Limits,
    pub(super) mode: Mode,
    /// Writes until the power goes; nothing while it stays.
    pub(super) writes_left: Option<usize>,
    pub(super) is_dead: bool,
    texts: BTreeMap<EventId, String>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(super) fn with_limits(limits: Limits) -> Self {
        let (wallet, now_ms) = (Keys::generate(), NOW_S * 1000);
        let machine = Self::machine(&wallet, &limits, now_ms);
        let purse = PlayPurse::default();
        purse.with(|play| play.now_s = NOW_S);
        Self {
            wallet,
            machine,
            purse,
            disk: BTreeMap::new(),
            asks: VecDeque::new(),
            sent: Vec::new(),
            resent: Vec::new(),
            told: Vec::new(),
            now_ms,
            limits,
            mode: Mode::Running,
            writes_left: None,
            is_dead: false,
            texts: BTreeMap::new(),
        }
    }

    fn machine(wallet: &Keys, limits: &Limits, now_ms: u64) -> Machine {
        let relays = vec![RelayUrl::parse("wss://relay.example").unwrap()];
        let mut machine = Machine::new(wallet.public_key(), relays, limits.clone(), now_ms);
        machine.steers = vec!["oa_address".to_owned(), "oa_open_channel".to_owned()];
        machine
    }

    /// A client with an account of the same name, and so much in it.
    pub(super) fn client(&mut self, name: &str, msat: u64, change: impl FnOnce(&mut Connection)) -> Keys {
        let keys = Keys::generate();
        let mut connection = Connection::new(keys.public_key(), name, Holder::new(name).unwrap(), NOW_S);
        change(&mut connection);
        let account = connection.account.as_str().to_owned();
        self.apply(Input::Connect(Box::new(connection)));
        self.purse.with(|play| play.give(&account, msat));
        keys
    }

    /// Writes first, then acts, as the driver does.
    pub(super) fn apply(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        let (mut rows, mut actions) = (Vec::new(), Vec::new());
        while let Some(input) = inputs.pop_front() {
            let output = self.machine.apply(input, self.now_ms);
            rows.extend(output.rows);
            for action in output.actions {
                if let Action::Seal { request, client, text, .. } = action {
                    self.texts.insert(request, text.clone());
                    let at = Timestamp::from_secs(self.now_ms / 1000);
                    let event = nwc::response(self.wallet.public_key(), client, request, text, at);
                    let event = event.sign_with_keys(&self.wallet).unwrap();
                    inputs.push_back(Input::Sealed(request, Box::new(event)));
                } else {
                    actions.push(action);
                }
            }
        }
        if !self.write(rows) {
            return;
        }
        for action in actions {
            match action {
                Action::Ask { request, account, call } => self.asks.push_back((request, account, call)),
                Action::Publish(event) => self.sent.push(*event),
                Action::Resend(request) => self.resent.push(request),
                Action::Tell { client, encryption, text } => self.told.push((client, encryption, text)),
                Action::Seal { .. } => unreachable!(),
            }
        }
        if self.mode == Mode::Running {
            self.run();
        }
    }

    /// All of a batch or nothing; nothing at all after the power went.
    fn write(&mut self, rows: Vec<RowWrite>) -> bool {
        if self.is_dead {
            return false;
        }
        if !rows.is_empty() {
            if self.writes_left == Some(0) {
                self.is_dead = true;
                return false;
            }
            self.writes_left = self.writes_left.map(|left| left - 1);
        }
        for RowWrite { space, key, expect_version, value } in rows {
            let slot = (space, key);
            let version = self.disk.get(&slot).map_or(0, |row| row.version);
            assert_eq!(version, expect_version, "{slot:?}");
            match value {
                Some(value) => drop(self.disk.insert(slot, Row { version: version + 1, value })),
                None => drop(self.disk.remove(&slot)),
            }
        }
        true
    }

    /// Lets the purse answer everything.
    pub(super) fn run(&mut self) {
        while let Some((request, account, call)) = self.asks.pop_front() {
            let reply = self.answer(&account, call, request);
            let mode = std::mem::replace(&mut self.mode, Mode::Held);
            self.apply(Input::Replied(request, reply));
            self.mode = mode;
        }
    }

    /// What the purse does: it survives the machine.
    pub(super) fn answer(&mut self, account: &Holder, call: Call, request: EventId) -> Reply {
        self.purse.with(|play| match call {
            Call::Info => Reply::Info(Ok(crate::nwc::tests::play::Play::info())),
            Call::Balance => Reply::Balance(Ok(play.balance(account))),
            Call::MakeInvoice(order) => {
                Reply::Made(Ok(play.make(account, order.amount, None, request, order.metadata)))
            }
            Call::MakeHoldInvoice(order) => {
                Reply::Made(Ok(play.make(account, order.amount, Some(order.payment_hash), request, None)))
            }
            Call::Settle(preimage) => Reply::Done(play.settle(account, preimage)),
            Call::Cancel(hash) => Reply::Done(play.cancel(account, hash)),
            Call::LookUp(hash) => Reply::Found(Ok(play.look_up(account, hash))),
            Call::List(query) => Reply::Listed(Ok(play.list(account, &query))),
            Call::Pay(pay) => {
                let invoice = Some(pay.invoice);
                Reply::Made(play.pay(account, pay.payment_hash, pay.amount, pay.max_fee, request, invoice))
            }
            Call::Keysend(pay) => {
                play.preimages.insert(pay.preimage.hash(), pay.preimage);
                Reply::Made(play.pay(account, pay.preimage.hash(), pay.amount, pay.max_fee, request, None))
            }
            Call::Steer(method, _) => {
                play.steered += 1;
                Reply::Steered(Ok(Value::String(method)))
            }
        })
    }

    /// The machine is killed and started again with what is on disk. The purse lives on.
    pub(super) fn restart(&mut self) {
        self.asks.clear();
        self.writes_left = None;
        self.is_dead = false;
        self.machine = Self::machine(&self.wallet, &self.limits, self.now_ms);
        let space = |space: &str| {
            let rows = self.disk.iter().filter(|((found, _), _)| found == space);
            rows.map(|((_, key), row)| (key.clone(), row.clone())).collect::<Vec<_>>()
        };
        let (connections, requests) = (space(row::CONNECTIONS), space(row::REQUESTS));
        self.machine.load(connections, requests).unwrap();
        self.apply(Input::Tick);
    }

    /// Time passes.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        let now_s = self.now_ms / 1000;
        self.purse.with(|play| play.now_s = now_s);
        self.apply(Input::Tick);
    }

    pub(super) fn event(&self, client: &Keys, request: &Request) -> Event {
        self.event_at(client, &request.to_json(), self.now_ms / 1000, None, Encryption::Nip44)
    }

    /// A request whose content is its plaintext: nothing is encrypted here.
    pub(super) fn event_at(
        &self,
        client: &Keys,
        text: &str,
        at: u64,
        expires_at: Option<u64>,
        encryption: Encryption,
    ) -> Event {
        let (at, expires_at) = (Timestamp::from_secs(at), expires_at.map(Timestamp::from_secs));
        let (from, to) = (client.public_key(), self.wallet.public_key());
        nwc::request(from, to, encryption, text.to_owned(), at, expires_at).sign_with_keys(client).unwrap()
    }

    /// Hands an event in as the driver does. What the door said.
    pub(super) fn hand_in(&mut self, event: &Event) -> Gate {
        let header = nwc::Request::read(event).unwrap();
        let gate = self.machine.admit(&header, self.now_ms);
        let text = header.encryption.is_ok().then(|| event.content.clone());
        let refused = match &gate {
            Gate::Open => None,
            Gate::Refuse(error) => Some(error.clone()),
            Gate::Repeat => {
                self.apply(Input::Repeat(header.id));
                return gate;
            }
            Gate::Ignore(_) => return gate,
        };
        self.apply(Input::Request { header, text, refused, entropy: [9; 32] });
        gate
    }

    /// Sends a request and gives its answer.
    pub(super) fn ask(&mut self, client: &Keys, request: &Request) -> Result<Value, Error> {
        let event = self.event(client, request);
        self.hand_in(&event);
        self.answer_to(&event.id).expect("an answer").result
    }

    /// The answer that was sent to a request.
    pub(super) fn answer_to(&self, request: &EventId) -> Option<Response> {
        let is_to = |event: &&Event| nwc::Response::read(event).unwrap().request == *request;
        self.sent.iter().find(is_to).map(|event| Response::parse(&event.content).unwrap())
    }

    /// How often a request was answered.
    pub(super) fn answers_to(&self, request: &EventId) -> usize {
        self.sent.iter().filter(|event| nwc::Response::read(event).unwrap().request == *request).count()
    }

    pub(super) fn connection(&self, client: &Keys) -> &Connection {
        self.machine.connection(&client.public_key()).unwrap()
    }
}
