//! Connections: who may do what with which account, how much of it, and for how long.

mod period;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use oa_nips::nostr::PublicKey;
use oa_nips::nwc::Encryption;
use serde::{Deserialize, Serialize};

pub use period::Renewal;

use super::message::{BudgetInfo, Method, Topic};
use crate::account::Holder;
use crate::msat::Msat;

/// The longest name of a connection, in characters.
pub const NAME_CHARS_MAX: usize = 64;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Pay invoices.
    Pay,
    /// See the balance.
    Read,
    /// Make invoices.
    Invoice,
    /// List what was paid and received.
    History,
    /// Make, settle and cancel hold invoices.
    Hold,
    /// Pay without an invoice.
    Keysend,
    /// Be told of payments.
    Notifications,
    /// The wallet itself: connections, addresses, channels, backups.
    Admin,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Pay,
        Self::Read,
        Self::Invoice,
        Self::History,
        Self::Hold,
        Self::Keysend,
        Self::Notifications,
        Self::Admin,
    ];

    /// The name, as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pay => "pay",
            Self::Read => "read",
            Self::Invoice => "invoice",
            Self::History => "history",
            Self::Hold => "hold",
            Self::Keysend => "keysend",
            Self::Notifications => "notifications",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: pay, read, invoice, history, hold, keysend, notifications or admin")]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// How much may be spent, fees included, in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The cap.
    pub max_msat: Msat,
    /// When spending begins at zero again.
    pub renewal: Renewal,
}

/// What was spent in the period that began at `since`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// In seconds since 1970.
    pub since: u64,
    /// Amounts and fees of settled payments.
    pub msat: Msat,
}

/// One client of the wallet. Its key is the client's; the wallet never has the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The client's key.
    pub client: PublicKey,
    /// For people.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// How much it may spend; without one, all of its account.
    pub budget: Option<Budget>,
    /// From then on it is none, in seconds since 1970.
    pub expires_at: Option<u64>,
    /// Whose money it sees and spends. Connections with one account see each other's payments.
    pub account: Holder,
    /// In seconds since 1970.
    pub created_at: u64,
    /// When it was ended.
    pub revoked_at: Option<u64>,
    /// What its last request was encrypted with: notifications go out so. Both ways as long as it never asked.
    pub encryption: Option<Encryption>,
    /// Against the budget.
    pub spent: Spent,
}

/// Why a connection is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("this connection was revoked")]
    Revoked,
    #[error("this connection has expired")]
    Expired,
}

impl Connection {
    /// A connection of all scopes but `admin`, without budget or end.
    pub fn new(client: PublicKey, name: impl Into<String>, account: Holder, now_s: u64) -> Self {
        Self {
            client,
            name: name.into(),
            scopes: Scope::ALL.into_iter().filter(|scope| *scope != Scope::Admin).collect(),
            budget: None,
            expires_at: None,
            account,
            created_at: now_s,
            revoked_at: None,
            encryption: None,
            spent: Spent::default(),
        }
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// How.
    pub fn check(&self, now_s: u64) -> Result<(), Ended> {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => Err(Ended::Revoked),
            (None, Some(at)) if at <= now_s => Err(Ended::Expired),
            _ => Ok(()),
        }
    }

    /// Whether it may use a method. What it may do it may also look up.
    pub fn may(&self, method: Method) -> bool {
        let any = |scopes: &[Scope]| scopes.iter().any(|scope| self.scopes.contains(scope));
        match method {
            Method::PayInvoice => any(&[Scope::Pay]),
            Method::PayKeysend => any(&[Scope::Keysend]),
            Method::MakeInvoice => any(&[Scope::Invoice]),
            Method::ListTransactions => any(&[Scope::History]),
            Method::GetBalance => any(&[Scope::Read]),
            Method::GetInfo | Method::GetBudget => true,
            Method::MakeHoldInvoice | Method::SettleHoldInvoice | Method::CancelHoldInvoice => {
                any(&[Scope::Hold])
            }
            Method::LookupInvoice => {
                any(&[Scope::Pay, Scope::Keysend, Scope::Invoice, Scope::Hold, Scope::History])
            }
        }
    }

    /// Whether it is told of a topic.
    pub fn hears(&self, topic: Topic) -> bool {
        let holds = topic != Topic::HoldInvoiceAccepted || self.scopes.contains(&Scope::Hold);
        self.scopes.contains(&Scope::Notifications) && holds
    }

    /// What was spent in the period of `now_s`.
    fn spent_at(&self, budget: &Budget, now_s: u64) -> Msat {
        if self.spent.since == budget.renewal.start(now_s) { self.spent.msat } else { Msat::ZERO }
    }

    /// What the budget leaves when `reserved` is set aside; nothing where there is no budget.
    pub fn left(&self, reserved: Msat, now_s: u64) -> Option<Msat> {
        let budget = self.budget?;
        let used = self.spent_at(&budget, now_s).saturating_add(reserved);
        Some(budget.max_msat.saturating_sub(used))
    }

    /// Counts a settled payment with its fee. Without a budget nothing is counted.
    pub fn spend(&mut self, msat: Msat, now_s: u64) {
        let Some(budget) = self.budget else { return };
        let spent = self.spent_at(&budget, now_s).saturating_add(msat);
        self.spent = Spent { since: budget.renewal.start(now_s), msat: spent };
    }

    /// The answer to `get_budget`.
    pub fn budget_info(&self, reserved: Msat, now_s: u64) -> BudgetInfo {
        let Some(budget) = self.budget else { return BudgetInfo::default() };
        BudgetInfo {
            used_budget: Some(self.spent_at(&budget, now_s).saturating_add(reserved)),
            total_budget: Some(budget.max_msat),
            renews_at: budget.renewal.end(now_s),
            renewal_period: Some(budget.renewal.as_str().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::nostr::Keys;

    use super::*;

    const DAY: u64 = 86_400;

    fn connection() -> Connection {
        Connection::new(Keys::generate().public_key(), "shop", Holder::new("shop").unwrap(), 0)
    }

    #[test]
    fn a_budget_counts_what_is_reserved_and_begins_anew() {
        let mut shop = connection();
        assert_eq!(shop.left(Msat::ZERO, 0), None);
        shop.budget = Some(Budget { max_msat: Msat::new(100), renewal: Renewal::Daily });
        shop.spend(Msat::new(30), DAY + 5);
        assert_eq!(shop.left(Msat::new(20), DAY + 6), Some(Msat::new(50)));
        shop.spend(Msat::new(60), 2 * DAY - 1);
        assert_eq!(shop.left(Msat::new(20), 2 * DAY - 1), Some(Msat::ZERO), "never below zero");
        assert_eq!(
            shop.left(Msat::new(20), 2 * DAY),
            Some(Msat::new(80)),
            "a new day, what is reserved stays"
        );
        shop.spend(Msat::new(1), 2 * DAY);
        let info = shop.budget_info(Msat::new(2), 2 * DAY);
        assert_eq!((info.used_budget, info.renews_at), (Some(Msat::new(3)), Some(3 * DAY)));
    }

    #[test]
    fn it_ends_by_time_or_by_word() {
        let mut shop = connection();
        shop.expires_at = Some(10);
        assert_eq!((shop.check(9), shop.check(10)), (Ok(()), Err(Ended::Expired)));
        shop.revoked_at = Some(5);
        assert_eq!(shop.check(9), Err(Ended::Revoked));
    }

    #[test]
    fn scopes_decide() {
        let mut shop = connection();
        shop.scopes = [Scope::Pay].into();
        let allowed: Vec<_> = Method::ALL.into_iter().filter(|method| shop.may(*method)).collect();
        use Method::*;
        assert_eq!(allowed, [PayInvoice, LookupInvoice, GetInfo, GetBudget]);
        assert!(!shop.hears(Topic::PaymentSent));
        shop.scopes = [Scope::Notifications].into();
        assert!(shop.hears(Topic::PaymentSent) && !shop.hears(Topic::HoldInvoiceAccepted));
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
    }
}
