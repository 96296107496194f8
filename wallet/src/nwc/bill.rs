//! What a bolt11 invoice says to whoever is asked to pay it, or has asked for it.

use lightning_invoice::Bolt11Invoice;

use crate::backend::PaymentHash;
use crate::msat::Msat;

/// The longest invoice that is read, in bytes.
const BYTES_MAX: usize = 8 * 1024;

/// An invoice, read and its signature checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// What it is known by.
    pub payment_hash: PaymentHash,
    /// How much, where it says.
    pub amount: Option<Msat>,
    /// In seconds since 1970.
    pub expires_at: u64,
}

/// Why a payment is not even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BillError {
    #[error("not a bolt11 invoice")]
    Syntax,
    #[error("the invoice leaves the amount open, and none was given")]
    AmountMissing,
    #[error("the invoice is for {0}, another amount was given")]
    AmountDiffers(Msat),
    #[error("{0} cannot be paid")]
    Amount(Msat),
}

impl Bill {
    /// Reads an invoice, with `lightning:` before it or not.
    ///
    /// # Errors
    /// [`BillError::Syntax`]
    pub fn read(text: &str) -> Result<Self, BillError> {
        let text = text.trim();
        let bare = match text.split_at_checked("lightning:".len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("lightning:") => rest,
            _ => text,
        };
        if bare.len() > BYTES_MAX {
            return Err(BillError::Syntax);
        }
        let invoice: Bolt11Invoice = bare.parse().map_err(|_| BillError::Syntax)?;
        let expires_at = invoice.expires_at().map_or(u64::MAX, |at| at.as_secs());
        Ok(Self {
            payment_hash: PaymentHash::from_bytes(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash())),
            amount: invoice.amount_milli_satoshis().map(Msat::new),
            expires_at,
        })
    }

    /// What is to be paid: what it names, or what was given where it names nothing.
    ///
    /// # Errors
    /// When there is no amount, two different ones, or one that nobody can have.
    pub fn to_pay(&self, given: Option<Msat>) -> Result<Msat, BillError> {
        let amount = match (self.amount, given) {
            (Some(named), Some(given)) if named != given => return Err(BillError::AmountDiffers(named)),
            (Some(amount), _) | (None, Some(amount)) => amount,
            (None, None) => return Err(BillError::AmountMissing),
        };
        if amount.is_zero() || amount > Msat::SUPPLY { Err(BillError::Amount(amount)) } else { Ok(amount) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_amount_is_named_once() {
        let hash = PaymentHash::from_bytes([1; 32]);
        let bill =
            |amount: Option<u64>| Bill { payment_hash: hash, amount: amount.map(Msat::new), expires_at: 0 };
        let to_pay = |named, given: Option<u64>| bill(named).to_pay(given.map(Msat::new));
        assert_eq!(to_pay(Some(5), None), Ok(Msat::new(5)));
        assert_eq!(to_pay(Some(5), Some(5)), Ok(Msat::new(5)));
        assert_eq!(to_pay(None, Some(1)), Ok(Msat::new(1)));
        assert_eq!(to_pay(None, None), Err(BillError::AmountMissing));
        assert_eq!(to_pay(Some(5), Some(6)), Err(BillError::AmountDiffers(Msat::new(5))));
        for odd in [0, u64::MAX] {
            assert_eq!(to_pay(None, Some(odd)), Err(BillError::Amount(Msat::new(odd))));
        }
    }

    #[test]
    fn what_is_no_invoice_is_refused() {
        for bad in ["", "lightning:", "lnbc", "lno1abc", "é", &"x".repeat(9000)] {
            assert_eq!(Bill::read(bad), Err(BillError::Syntax), "{bad}");
        }
    }
}
