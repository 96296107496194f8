//! What is refused before a Lightning node is asked, by all backends alike.

use std::time::Duration;

use lightning_invoice::{Bolt11Invoice, Bolt11ParseError, Currency, ParseOrSemanticError};

use super::error::Error;
use super::node::{Network, NodeId};
use super::payment::{
    DESCRIPTION_BYTES_MAX, InvoiceRequest, PaymentHash, RECORD_BYTES_MAX, RECORD_KIND_MIN, Record,
};
use crate::msat::Msat;

/// Longest invoice or offer that is looked at: more than a QR code holds.
pub(crate) const CODE_BYTES_MAX: usize = 8 * 1024;

/// An invoice that can be paid.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The invoice.
    pub invoice: Bolt11Invoice,
    /// What is to be paid, from the invoice or the payer.
    pub amount: Msat,
    /// Its hash.
    pub hash: PaymentHash,
    /// Who is paid.
    pub payee: NodeId,
}

/// Reads an invoice and says what is wrong with paying it at `now` (since the epoch) from a wallet on `ours`.
///
/// # Errors
/// `Malformed`, `WrongNetwork`, `Expired`, `AmountMissing` (also for an amount of zero), `AmountMismatch`.
pub fn bolt11(text: &str, amount: Option<Msat>, ours: Network, now: Duration) -> Result<Checked, Error> {
    let invoice = parse(text)?;
    let theirs = match invoice.currency() {
        Currency::Bitcoin => Network::Mainnet,
        Currency::BitcoinTestnet => Network::Testnet,
        Currency::Signet => Network::Signet,
        Currency::Regtest => Network::Regtest,
        Currency::Simnet => return Err(Error::Malformed("an invoice for simnet".to_owned())),
    };
    if theirs != ours {
        return Err(Error::WrongNetwork { ours, theirs });
    }
    if invoice.would_expire(now) {
        return Err(Error::Expired);
    }
    let amount = match (invoice.amount_milli_satoshis().map(Msat::new), amount) {
        (Some(theirs), Some(given)) if theirs != given => return Err(Error::AmountMismatch { theirs }),
        (Some(theirs), _) => theirs,
        (None, Some(given)) => given,
        (None, None) => return Err(Error::AmountMissing),
    };
    if amount == Msat::ZERO {
        return Err(Error::AmountMissing);
    }
    let hash = PaymentHash::from_bytes(*AsRef::<[u8; 32]>::as_ref(invoice.payment_hash()));
    let payee = invoice.get_payee_pub_key().into();
    Ok(Checked { invoice, amount, hash, payee })
}

fn parse(text: &str) -> Result<Bolt11Invoice, Error> {
    let text = text.trim();
    if text.len() > CODE_BYTES_MAX {
        return Err(Error::Malformed(format!("an invoice of more than {CODE_BYTES_MAX} bytes")));
    }
    let bare = match text.split_at_checked("lightning:".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("lightning:") => rest,
        _ => text,
    };
    bare.parse().map_err(|error| {
        let what = match error {
            ParseOrSemanticError::ParseError(Bolt11ParseError::UnknownCurrency) => {
                "no currency we know".to_owned()
            }
            ParseOrSemanticError::ParseError(error) => error.to_string(),
            ParseOrSemanticError::SemanticError(error) => error.to_string(),
        };
        Error::Malformed(format!("no invoice: {what}"))
    })
}

/// Refuses what an invoice cannot say.
pub(crate) fn request(request: &InvoiceRequest) -> Result<(), Error> {
    if request.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(Error::Malformed(format!("a description of more than {DESCRIPTION_BYTES_MAX} bytes")));
    }
    if request.expiry_s == 0 {
        return Err(Error::Malformed("an invoice that is expired from the beginning".to_owned()));
    }
    match request.amount {
        Some(amount) => amount_asked(amount),
        None => Ok(()),
    }
}

/// Refuses to ask for nothing, or for more than there is.
pub(crate) fn amount_asked(amount: Msat) -> Result<(), Error> {
    if amount == Msat::ZERO {
        return Err(Error::AmountMissing);
    }
    if amount > Msat::SUPPLY {
        return Err(Error::Malformed("more than all bitcoin".to_owned()));
    }
    Ok(())
}

/// Refuses records that would be refused on the way, or by the payee.
pub(crate) fn records(records: &[Record]) -> Result<(), Error> {
    let mut kinds: Vec<_> = records.iter().map(|record| record.kind).collect();
    kinds.sort_unstable();
    if kinds.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(Error::Malformed("two records of one type".to_owned()));
    }
    if kinds.iter().any(|kind| *kind < RECORD_KIND_MIN || kind % 2 == 0) {
        return Err(Error::Malformed(format!("a record's type is odd and at least {RECORD_KIND_MIN}")));
    }
    if records.iter().map(|record| record.value.len()).sum::<usize>() > RECORD_BYTES_MAX {
        return Err(Error::Malformed(format!("records of more than {RECORD_BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From BOLT 11: "Please make a donation of any amount", made in 2017, never expires in practice: one hour.
    const DONATION: &str = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
    /// From BOLT 11: 2,500 micro-bitcoin for a cup of coffee, within one minute.
    const COFFEE: &str = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
    const MADE: Duration = Duration::from_secs(1_496_314_658);
    const ZERO_HASH: &str = "0001020304050607080900010203040506070809000102030405060708090102";

    fn refusal(text: &str, amount: Option<u64>, ours: Network, now: Duration) -> Error {
        bolt11(text, amount.map(Msat::new), ours, now).unwrap_err()
    }

    #[test]
    fn the_examples_of_bolt_11_are_read() {
        let coffee = bolt11(COFFEE, None, Network::Mainnet, MADE).unwrap();
        assert_eq!((coffee.amount, coffee.hash.to_string().as_str()), (Msat::new(250_000_000), ZERO_HASH));
        assert_eq!(
            coffee.payee.to_string(),
            "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
        );
        let upper = format!("LIGHTNING:{}", COFFEE.to_uppercase());
        assert_eq!(
            bolt11(&upper, Some(Msat::new(250_000_000)), Network::Mainnet, MADE).unwrap().hash,
            coffee.hash
        );
        assert_eq!(
            bolt11(DONATION, Some(Msat::new(1)), Network::Mainnet, MADE).unwrap().amount,
            Msat::new(1)
        );
    }

    #[test]
    fn what_cannot_be_paid_is_refused_by_name() {
        let main = Network::Mainnet;
        assert_eq!(refusal(DONATION, None, main, MADE), Error::AmountMissing);
        assert_eq!(refusal(DONATION, Some(0), main, MADE), Error::AmountMissing);
        assert_eq!(
            refusal(COFFEE, Some(1), main, MADE),
            Error::AmountMismatch { theirs: Msat::new(250_000_000) }
        );
        assert_eq!(refusal(COFFEE, None, main, MADE + Duration::from_secs(61)), Error::Expired);
        assert_eq!(
            refusal(COFFEE, None, Network::Regtest, MADE),
            Error::WrongNetwork { ours: Network::Regtest, theirs: main }
        );
        for bad in [
            "",
            "lnbc1",
            "lightning:",
            "hello",
            &COFFEE[..COFFEE.len() - 1],
            &"l".repeat(9_000),
            "lightningé",
        ] {
            assert!(matches!(refusal(bad, None, main, MADE), Error::Malformed(_)), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_asked_or_attached_is_refused() {
        let ask = |amount: Option<u64>, description: usize, expiry_s| {
            request(&InvoiceRequest {
                amount: amount.map(Msat::new),
                description: "x".repeat(description),
                expiry_s,
            })
        };
        assert_eq!(ask(Some(1), 639, 1), Ok(()));
        assert_eq!(ask(None, 0, 1), Ok(()));
        assert_eq!(ask(Some(0), 0, 1), Err(Error::AmountMissing));
        for bad in [ask(Some(u64::MAX), 0, 1), ask(None, 640, 1), ask(None, 0, 0)] {
            assert!(matches!(bad, Err(Error::Malformed(_))), "{bad:?}");
        }
        let record = |kind, bytes| Record { kind, value: vec![0; bytes] };
        assert_eq!(records(&[record(65_537, 400), record(7_629_169, 400)]), Ok(()));
        for bad in [
            vec![record(65_538, 1)],
            vec![record(65_535, 1)],
            vec![record(65_537, 801)],
            vec![record(65_537, 1), record(65_537, 2)],
        ] {
            assert!(matches!(records(&bad), Err(Error::Malformed(_))), "{bad:?}");
        }
    }
}
