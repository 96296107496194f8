//! What is kept of each payment, invoice and transfer: one item, in the history of the account it is about.
//!
//! An item is also the state of what it is about: a payment's says how far it came and holds its request until it is
//! over. Items are numbered from 1 in each account, and listed newest first.

use oa_nips::hex::Hash;
use oa_wallet::account::Holder;
use oa_wallet::budget::GrantId;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::client::Prepared;
use oa_wallet::store::{Draft, Rows, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::agent::envelope::{Envelope, Heard, Origin};
use crate::namespace::Error;
use oa_nips::files::Code;

/// Items, by account and number.
const ITEMS: &str = "money.items";
/// The number of an account's next item.
const NEXT: &str = "money.next";
/// Which item a call made, by the key of the call.
const CALLS: &str = "money.calls";
/// Which item an invoice is, by payment hash.
const INVOICES: &str = "money.invoices";
/// Invoices that wait for their payment, by payment hash.
pub(super) const WAITING: &str = "money.waiting";
/// Items that a history lists.
pub(super) const LISTED_MAX: usize = 500;

/// Where an item is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) holder: Holder,
    pub(super) n: u64,
}

impl Place {
    /// Its file, in the tree of whose account it is.
    pub(super) fn path(&self) -> String {
        format!("/wallet/history/{}.json", self.n)
    }

    fn key(&self) -> String {
        format!("{}/{:016x}", self.holder, !self.n)
    }
}

/// Something that happened to an account, or is happening.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Item {
    /// When it began, and when it last changed, in milliseconds since 1970.
    pub(super) at_ms: u64,
    pub(super) changed_ms: u64,
    pub(super) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum What {
    Payment(Box<Payment>),
    Invoice(Box<Invoice>),
    Transfer(Transfer),
    Deposit(Deposit),
}

/// Money that goes out for an invoice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Payment {
    /// Names the call that asked for it.
    pub(super) call: Hash,
    pub(super) payment_hash: Hash,
    pub(super) invoice: String,
    /// What is to arrive; and what was held back on top.
    pub(super) amount: Msat,
    pub(super) fee_reserve: Msat,
    /// What it draws on, where it is under caps.
    pub(super) grant: Option<GrantId>,
    /// And of what may be spent without consent, where nobody consented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unasked: Option<GrantId>,
    /// Who waited for it when it was asked for.
    pub(super) origin: Option<Origin>,
    /// The event in whose tick it was asked for, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heard: Option<Heard>,
    /// Whose invoice it is, where that is an account of this node.
    pub(super) to: Option<Holder>,
    /// Whether whoever asked was told that it is pending: then an envelope tells of its end.
    pub(super) is_awaited: bool,
    pub(super) stage: PayStage,
}

/// How far a payment is, named by what it waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PayStage {
    /// Waits to be handed to the wallet.
    Reserved,
    /// Waits for its end: this request may have gone out.
    Sent(Box<Prepared>),
    /// Waits for nothing: it was made. Without a preimage it was made inside the node, or an operator
    /// says so.
    Settled { preimage: Option<Hash>, fee: Msat, is_fee_known: bool },
    /// Waits for nothing: it was not made, and will not be.
    Failed { code: Code, reason: String },
}

impl PayStage {
    /// Whether it may still be made.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Reserved | Self::Sent(_))
    }
}

/// An invoice that somebody may pay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Invoice {
    pub(super) call: Hash,
    pub(super) payment_hash: Hash,
    pub(super) invoice: String,
    pub(super) amount: Msat,
    pub(super) description: Option<String>,
    /// In milliseconds since 1970.
    pub(super) expires_ms: u64,
    pub(super) origin: Option<Origin>,
    /// As in a [`Payment`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) heard: Option<Heard>,
    pub(super) stage: InvoiceStage,
}

/// Whether an invoice was paid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InvoiceStage {
    Open,
    /// By whom, where that is an account of this node.
    Paid {
        amount: Msat,
        by: Option<Holder>,
    },
    Expired,
}

/// Money that went from one account to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) call: Hash,
    pub(super) from: Holder,
    pub(super) to: Holder,
    pub(super) amount: Msat,
}

/// What the wallet has more, or less, without anything of this node having moved it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Deposit {
    pub(super) amount: Msat,
    pub(super) is_less: bool,
}

/// An invoice that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) place: Place,
    pub(super) made_ms: u64,
    pub(super) expires_ms: u64,
}

impl Item {
    /// An envelope that tells its agent of it: answered, and trusted, like the one in whose tick it was asked for.
    pub(super) fn caused(&self, envelope: Envelope) -> Envelope {
        let (origin, heard) = match &self.what {
            What::Payment(payment) => (payment.origin.clone(), payment.heard.clone()),
            What::Invoice(invoice) => (invoice.origin.clone(), invoice.heard.clone()),
            What::Transfer(_) | What::Deposit(_) => (None, None),
        };
        Envelope { origin, heard, ..envelope }
    }

    /// Something new.
    pub(super) fn new(at_ms: u64, what: What) -> Self {
        Self { at_ms, changed_ms: at_ms, what }
    }

    /// As the file shows it. `name` says what accounts are called.
    pub(super) fn shown(&self, place: &Place, name: impl Fn(&Holder) -> String) -> Value {
        let mut json = Map::new();
        let mut set = |field: &str, value: Value| {
            if !value.is_null() {
                json.insert(field.to_owned(), value);
            }
        };
        set("path", json!(place.path()));
        set("at", json!(self.at_ms / 1000));
        set("changed_at", json!(self.changed_ms / 1000));
        match &self.what {
            What::Payment(payment) => {
                set("type", json!("payment"));
                set("payment_hash", json!(payment.payment_hash));
                set("amount_msat", json!(payment.amount));
                set("invoice", json!(payment.invoice));
                set("to", json!(payment.to.as_ref().map(&name)));
                match &payment.stage {
                    PayStage::Reserved | PayStage::Sent(_) => {
                        set("state", json!("pending"));
                        set("reserved_msat", json!(payment.amount.saturating_add(payment.fee_reserve)));
                    }
                    PayStage::Settled { preimage, fee, is_fee_known } => {
                        set("state", json!("settled"));
                        set("preimage", json!(preimage));
                        set("fee_msat", json!(fee));
                        set("fee_known", if *is_fee_known { Value::Null } else { json!(false) });
                    }
                    PayStage::Failed { code, reason } => {
                        set("state", json!("failed"));
                        set("error", json!(code));
                        set("reason", json!(reason));
                    }
                }
            }
            What::Invoice(invoice) => {
                set("type", json!("invoice"));
                set("payment_hash", json!(invoice.payment_hash));
                set("amount_msat", json!(invoice.amount));
                set("invoice", json!(invoice.invoice));
                set("description", json!(invoice.description));
                set("expires_at", json!(invoice.expires_ms / 1000));
                match &invoice.stage {
                    InvoiceStage::Open => set("state", json!("open")),
                    InvoiceStage::Expired => set("state", json!("expired")),
                    InvoiceStage::Paid { amount, by } => {
                        set("state", json!("paid"));
                        set("received_msat", json!(amount));
                        set("from", json!(by.as_ref().map(&name)));
                    }
                }
            }
            What::Transfer(transfer) => {
                set("type", json!("transfer"));
                set("amount_msat", json!(transfer.amount));
                set("from", json!(name(&transfer.from)));
                set("to", json!(name(&transfer.to)));
            }
            What::Deposit(deposit) => {
                set("type", json!(if deposit.is_less { "withdrawal" } else { "deposit" }));
                set("amount_msat", json!(deposit.amount));
            }
        }
        Value::Object(json)
    }
}

/// Adds an item to an account.
pub(super) fn add(draft: &mut Draft<'_>, holder: &Holder, item: &Item) -> Result<Place, Error> {
    let n: u64 = draft.get(NEXT, holder.as_str())?.unwrap_or(1);
    draft.put(NEXT, holder.as_str(), &(n + 1))?;
    let place = Place { holder: holder.clone(), n };
    draft.put(ITEMS, &place.key(), item)?;
    Ok(place)
}

/// Writes what became of an item.
pub(super) fn put(draft: &mut Draft<'_>, place: &Place, item: &Item) -> Result<(), StoreError> {
    draft.put(ITEMS, &place.key(), item)
}

/// An item, with what a draft has changed of it.
pub(super) fn get(draft: &mut Draft<'_>, place: &Place) -> Result<Item, Error> {
    draft.get(ITEMS, &place.key())?.ok_or_else(|| Error::not_found(place.path()))
}

/// The item that a call made.
pub(super) fn of_call(draft: &mut Draft<'_>, call: &Hash) -> Result<Option<Place>, StoreError> {
    draft.get(CALLS, &call.to_string())
}

/// Remembers which item a call made.
pub(super) fn set_call(draft: &mut Draft<'_>, call: &Hash, place: &Place) -> Result<(), StoreError> {
    draft.put(CALLS, &call.to_string(), place)
}

/// The item that an invoice of this node is.
pub(super) fn of_invoice(draft: &mut Draft<'_>, hash: &Hash) -> Result<Option<Place>, StoreError> {
    draft.get(INVOICES, &hash.to_string())
}

/// Remembers which item an invoice is, and that it waits.
pub(super) fn set_invoice(draft: &mut Draft<'_>, hash: &Hash, waiting: &Waiting) -> Result<(), StoreError> {
    draft.put(INVOICES, &hash.to_string(), &waiting.place)?;
    draft.put(WAITING, &hash.to_string(), waiting)
}

/// An invoice waits no more.
pub(super) fn over(draft: &mut Draft<'_>, hash: &Hash) -> Result<(), StoreError> {
    draft.remove(WAITING, &hash.to_string())
}

/// The newest items of an account.
pub(super) fn list(rows: &dyn Rows, holder: &Holder, limit: usize) -> Result<Vec<(Place, Item)>, Error> {
    let of_holder = format!("{holder}/");
    let mut items = Vec::new();
    for (key, row) in rows.scan(ITEMS, &of_holder, limit)? {
        let Some(digits) = key.strip_prefix(&of_holder) else { break };
        let n = u64::from_str_radix(digits, 16).map_err(|_| damaged(&key))?;
        let item = serde_json::from_slice(&row.value).map_err(|_| damaged(&key))?;
        items.push((Place { holder: holder.clone(), n: !n }, item));
    }
    Ok(items)
}

/// Invoices that wait, by payment hash.
pub(super) fn waiting(rows: &dyn Rows, limit: usize) -> Result<Vec<(Hash, Waiting)>, Error> {
    let read = |(key, row): (String, oa_nips::port::Row)| {
        let hash = key.parse().map_err(|_| damaged(&key))?;
        Ok((hash, serde_json::from_slice(&row.value).map_err(|_| damaged(&key))?))
    };
    rows.scan(WAITING, "", limit)?.into_iter().map(read).collect()
}

fn damaged(key: &str) -> Error {
    Error::io("/wallet", format!("row {key} is damaged"))
}
