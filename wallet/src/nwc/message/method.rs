//! The methods of NIP-47, by name.

use std::fmt;

/// A method that both sides here speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    PayInvoice,
    PayKeysend,
    MakeInvoice,
    LookupInvoice,
    ListTransactions,
    GetBalance,
    GetInfo,
    GetBudget,
    MakeHoldInvoice,
    SettleHoldInvoice,
    CancelHoldInvoice,
}

impl Method {
    /// All.
    pub const ALL: [Self; 11] = [
        Self::PayInvoice,
        Self::PayKeysend,
        Self::MakeInvoice,
        Self::LookupInvoice,
        Self::ListTransactions,
        Self::GetBalance,
        Self::GetInfo,
        Self::GetBudget,
        Self::MakeHoldInvoice,
        Self::SettleHoldInvoice,
        Self::CancelHoldInvoice,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PayInvoice => "pay_invoice",
            Self::PayKeysend => "pay_keysend",
            Self::MakeInvoice => "make_invoice",
            Self::LookupInvoice => "lookup_invoice",
            Self::ListTransactions => "list_transactions",
            Self::GetBalance => "get_balance",
            Self::GetInfo => "get_info",
            Self::GetBudget => "get_budget",
            Self::MakeHoldInvoice => "make_hold_invoice",
            Self::SettleHoldInvoice => "settle_hold_invoice",
            Self::CancelHoldInvoice => "cancel_hold_invoice",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.as_str() == name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
