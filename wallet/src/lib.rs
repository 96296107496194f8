//! Money for agents: amounts, budgets, accounts, and a Lightning wallet that is spoken to by NWC (NIP-47).
//!
//! - [`msat`]: [`msat::Msat`] and [`msat::MicroUsd`], which never wrap; [`fx`] changes one into the other
//! - [`budget`]: caps at the mount: reserve, spend, reconcile
//! - [`account`]: who has what, in a double-entry ledger
//! - [`backend`]: what holds the coins: a Lightning node (feature `ldk`), or play money
//! - [`nwc`]: both sides of Nostr Wallet Connect; [`purse`]: accounts over a backend, for its service
//! - `regtest`, `devnet` (feature `ldk`): a chain of one's own, and two nodes on it that can pay each other
//! - [`store`]: the rows that a ledger reads, and a database for them where there is none
//!
//! Nothing is spent but under a grant: the budget is asked, the ledger is asked, both land in one transaction with
//! the intent, and only then does anybody speak to a wallet.
//!
//! ```
//! use oa_wallet::account::{Asset, Holder, Ledger, NewPayment, Outcome, Reservation};
//! use oa_wallet::msat::Msat;
//! use oa_wallet::store::{Draft, MemoryStore, Store};
//!
//! let (store, alice) = (MemoryStore::default(), Holder::new("alice")?);
//! let mut draft = Draft::new(&store);
//! let mut ledger = Ledger::new(&mut draft);
//! let _ = ledger.opening("opening", Asset::Lightning, "5,000 sat".parse()?, 1)?;
//! let _ = ledger.allot("a beginning", &alice, "2,000 sat".parse()?, 1)?;
//!
//! let (payment, amount) = ("07".repeat(32).parse()?, Msat::from_sat(1000));
//! let new = NewPayment { payment, holder: &alice, amount, request: "tick 7, call 1", at_ms: 2 };
//! assert!(matches!(ledger.reserve(&new)?, Reservation::New(_)));
//! assert_eq!(ledger.standing(&alice)?.reserved.to_string(), "1,010 sat");
//!
//! ledger.settled(&payment, Outcome { amount, fee: Msat::from_sat(2), preimage: None }, 3)?;
//! assert_eq!(ledger.standing(&alice)?.available.to_string(), "998 sat");
//! store.commit(&[draft.into_writes()])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod account;
pub mod backend;
pub mod budget;
#[cfg(feature = "ldk")]
pub mod devnet;
pub mod fx;
pub mod msat;
pub mod nwc;
pub mod purse;
#[cfg(feature = "ldk")]
pub mod regtest;
pub mod store;
