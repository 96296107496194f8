//! The methods of ours, `oa_…`, for connections of scope `admin`: see "Wallet administration" in docs/protocol.md.

use std::collections::BTreeSet;

use oa_nips::nostr::{EventId, PublicKey, RelayUrl};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::machine::{Call, Machine};
use crate::account::Holder;
use crate::msat::Msat;
use crate::nwc::connection::{Budget, Connection, NAME_CHARS_MAX, Renewal, Scope, Spent};
use crate::nwc::message::{Error, ErrorCode};

/// Makes a connection.
pub const NEW_CONNECTION: &str = "oa_new_connection";
/// Lists them.
pub const LIST_CONNECTIONS: &str = "oa_list_connections";
/// Changes one.
pub const UPDATE_CONNECTION: &str = "oa_update_connection";
/// Ends one.
pub const REVOKE_CONNECTION: &str = "oa_revoke_connection";

/// Connections of one wallet, revoked ones included.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Connections of one answer.
const PAGE_MAX: usize = 50;

/// Parameters of `oa_new_connection`. The client makes its key itself: its secret never travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewConnection {
    /// The client's public key, in hex.
    pub pubkey: PublicKey,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// How much it may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// From then on it is none, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Whose money it sees and spends; without one an account of its own, `nwc:` and the key's first 16 digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Holder>,
}

/// What its URI is made of, beside the client's secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The wallet's key.
    pub wallet: PublicKey,
    /// Where it listens.
    pub relays: Vec<RelayUrl>,
    /// The account it got.
    pub account: Holder,
}

/// Parameters of `oa_update_connection`: what is absent stays, what is null goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateConnection {
    /// Which.
    pub pubkey: Option<PublicKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<BTreeSet<Scope>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub budget: Option<Option<Budget>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub expires_at: Option<Option<u64>>,
}

/// Parameters of `oa_revoke_connection`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeConnection {
    /// Which.
    pub pubkey: PublicKey,
}

/// Parameters of `oa_list_connections`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListConnections {
    /// How many to pass over.
    #[serde(default)]
    pub offset: usize,
}

/// One connection, as its wallet's owner sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    pub pubkey: PublicKey,
    pub name: String,
    pub scopes: BTreeSet<Scope>,
    pub account: Holder,
    pub created_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Spent and reserved in this period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_msat: Option<Msat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<u64>,
}

/// The result of `oa_list_connections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// By key.
    pub connections: Vec<ConnectionInfo>,
    /// How many there are in all.
    pub total: usize,
}

fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Other, message)
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, Error> {
    serde_json::from_value(params).map_err(|error| refused(format!("parameters are not valid: {error}")))
}

fn named(name: &str) -> Result<(), Error> {
    let count = name.chars().count();
    if count == 0 || count > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(refused(format!("a name has 1 to {NAME_CHARS_MAX} characters that can be seen")));
    }
    Ok(())
}

impl Machine {
    /// The methods of ours.
    pub(super) fn admin_methods(&self) -> Vec<String> {
        let own = [NEW_CONNECTION, LIST_CONNECTIONS, UPDATE_CONNECTION, REVOKE_CONNECTION];
        own.into_iter().map(str::to_owned).chain(self.steers.iter().cloned()).collect()
    }

    /// Does a method of ours. Connections change with the answer's row; the rest is asked of the wallet, once.
    pub(super) fn administer(&mut self, id: EventId, method: &str, params: Value, is_new: bool) {
        let result = match method {
            NEW_CONNECTION => read(params).and_then(|new| self.new_connection(new)),
            LIST_CONNECTIONS => read(params).map(|list| self.list_connections(&list)),
            UPDATE_CONNECTION => read(params).and_then(|update| self.update_connection(update)),
            REVOKE_CONNECTION => read(params).and_then(|revoke| self.revoke_connection(&revoke)),
            other if !self.steers.iter().any(|steer| steer == other) => {
                Err(Error::new(ErrorCode::NotImplemented, format!("method {other:?} is not known")))
            }
            // A channel opened twice is two channels.
            _ if !is_new => Err(Error::new(
                ErrorCode::Internal,
                "the wallet was stopped while it did this: see for yourself what came of it",
            )),
            other => return self.begin(id, Call::Steer(other.to_owned(), params)),
        };
        match result {
            Ok(result) => self.succeed(id, result),
            Err(error) => self.fail(id, error),
        }
    }

    /// The same once more changes nothing, so that a request may be repeated after a crash.
    fn new_connection(&mut self, new: NewConnection) -> Result<Value, Error> {
        named(&new.name)?;
        if new.pubkey.xonly().is_err() {
            return Err(refused("pubkey is no key"));
        }
        if new.scopes.is_empty() {
            return Err(refused("a connection needs scopes"));
        }
        let account = new.account.clone().unwrap_or_else(|| own_account(&new.pubkey));
        let mut connection = Connection::new(new.pubkey, new.name, account.clone(), self.now_s());
        connection.scopes = new.scopes;
        connection.budget = new.budget;
        connection.expires_at = new.expires_at;
        if let Some(known) = self.connection(&new.pubkey) {
            let is_same = Connection { created_at: known.created_at, ..connection.clone() }
                == Connection { encryption: None, spent: Spent::default(), ..known.clone() };
            if !is_same {
                return Err(refused("there is a connection of this key already"));
            }
        } else if self.connections.len() >= CONNECTIONS_MAX {
            return Err(refused(format!("there are {CONNECTIONS_MAX} connections already")));
        } else {
            self.know(connection, 0);
            self.keep_connection(&new.pubkey);
        }
        Ok(json!(Connected { wallet: self.wallet, relays: self.relays.clone(), account }))
    }

    fn list_connections(&self, list: &ListConnections) -> Value {
        let (total, now_s) = (self.connections.len(), self.now_s());
        let page = self.connections.values().skip(list.offset).take(PAGE_MAX).map(|known| {
            let connection = &known.connection;
            let budget = connection.budget_info(self.reserved(&connection.client), now_s);
            ConnectionInfo {
                pubkey: connection.client,
                name: connection.name.clone(),
                scopes: connection.scopes.clone(),
                account: connection.account.clone(),
                created_at: connection.created_at,
                budget: connection.budget,
                used_msat: budget.used_budget,
                renews_at: budget.renews_at,
                expires_at: connection.expires_at,
                revoked_at: connection.revoked_at,
            }
        });
        json!(Connections { connections: page.collect(), total })
    }

    fn update_connection(&mut self, update: UpdateConnection) -> Result<Value, Error> {
        let pubkey = update.pubkey.ok_or_else(|| refused("pubkey is missing"))?;
        if let Some(name) = &update.name {
            named(name)?;
        }
        if update.scopes.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(refused("a connection needs scopes; to end it, revoke it"));
        }
        let keeps_admin = update.scopes.as_ref().is_none_or(|scopes| scopes.contains(&Scope::Admin))
            && !matches!(update.expires_at, Some(Some(_)));
        self.not_last_admin(&pubkey, keeps_admin)?;
        let known = self.connections.get_mut(&pubkey);
        let connection = &mut known.ok_or_else(unknown)?.connection;
        if let Some(name) = update.name {
            connection.name = name;
        }
        if let Some(scopes) = update.scopes {
            connection.scopes = scopes;
        }
        if let Some(budget) = update.budget {
            let renewal = |budget: Option<Budget>| budget.map(|budget| budget.renewal);
            // Another period counts from another day; what was spent in the old one is not comparable.
            if renewal(budget) != renewal(connection.budget) {
                connection.spent = Spent::default();
            }
            connection.budget = budget;
        }
        if let Some(expires_at) = update.expires_at {
            connection.expires_at = expires_at;
        }
        self.keep_connection(&pubkey);
        Ok(json!({}))
    }

    /// Payments under way go on; their answers are sent.
    fn revoke_connection(&mut self, revoke: &RevokeConnection) -> Result<Value, Error> {
        self.not_last_admin(&revoke.pubkey, false)?;
        let now_s = self.now_s();
        let known = self.connections.get_mut(&revoke.pubkey).ok_or_else(unknown)?;
        if known.connection.revoked_at.is_none() {
            known.connection.revoked_at = Some(now_s);
            self.keep_connection(&revoke.pubkey);
        }
        Ok(json!({}))
    }

    /// Nobody saws off the branch: without an admin connection the wallet could not be steered any more.
    fn not_last_admin(&self, pubkey: &PublicKey, stays: bool) -> Result<(), Error> {
        let now_s = self.now_s();
        let is_admin = |connection: &Connection| {
            connection.scopes.contains(&Scope::Admin)
                && connection.expires_at.is_none()
                && connection.check(now_s).is_ok()
        };
        let admins = self.connections.values().map(|known| &known.connection).filter(|one| is_admin(one));
        let others = admins.filter(|one| one.client != *pubkey).count();
        if !stays && others == 0 && self.connection(pubkey).is_some_and(is_admin) {
            return Err(refused("this is the last admin connection that does not expire"));
        }
        Ok(())
    }
}

/// The account of a connection that is given none.
fn own_account(client: &PublicKey) -> Holder {
    let name = format!("nwc:{}", client.to_hex().get(..16).unwrap_or_default());
    Holder::new(name).expect("letters, digits and a colon")
}

fn unknown() -> Error {
    Error::new(ErrorCode::NotFound, "there is no connection of that key")
}

/// A budget in words: `5000sat/day`, `1000000msat/month`, `5000sat` for one that never renews.
///
/// # Errors
/// What cannot be read.
pub fn parse_budget(text: &str) -> Result<Budget, BudgetError> {
    let (amount, period) = text.split_once('/').unwrap_or((text, "never"));
    let renewal = match period.trim() {
        "day" | "daily" => Renewal::Daily,
        "week" | "weekly" => Renewal::Weekly,
        "month" | "monthly" => Renewal::Monthly,
        "year" | "yearly" => Renewal::Yearly,
        "never" => Renewal::Never,
        other => return Err(BudgetError::Period(other.to_owned())),
    };
    Ok(Budget { max_msat: amount.parse()?, renewal })
}

/// Why a text is no budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    #[error(transparent)]
    Amount(#[from] crate::msat::ParseError),
    #[error("{0:?} is no period: day, week, month, year or never")]
    Period(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_read() {
        let budget = |max_msat, renewal| Ok(Budget { max_msat: Msat::new(max_msat), renewal });
        assert_eq!(parse_budget("5000sat/day"), budget(5_000_000, Renewal::Daily));
        assert_eq!(parse_budget("7msat / weekly"), budget(7, Renewal::Weekly));
        assert_eq!(parse_budget("1sat"), budget(1000, Renewal::Never));
        assert_eq!(parse_budget("1sat/hour"), Err(BudgetError::Period("hour".to_owned())));
        assert!(parse_budget("1/day").is_err());
    }

    #[test]
    fn what_is_absent_stays_and_what_is_null_goes() {
        let update: UpdateConnection = serde_json::from_str(r#"{"budget":null}"#).unwrap();
        assert_eq!((update.budget, update.expires_at), (Some(None), None));
    }
}
