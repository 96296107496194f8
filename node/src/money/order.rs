//! What is written to the files of a wallet, read: a payment, an invoice, a transfer. Pure.

use oa_nips::hex::Hash;
use oa_wallet::fx::Rate;
use oa_wallet::msat::Msat;
use oa_wallet::nwc::bill::Bill;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::invalid;
use crate::namespace::Error;

/// The longest text that goes into an invoice, in bytes (BOLT 11).
const DESCRIPTION_BYTES_MAX: usize = 639;
/// How long an invoice can be paid, in seconds: a minute at least, a month at most.
const EXPIRY_S: std::ops::RangeInclusive<u64> = 60..=30 * 24 * 3600;

/// How long an operator may let a rate be spent by, in seconds: a week, after which it is set in the configuration.
const RATE_FOR_S_MAX: u64 = 7 * 24 * 3600;

/// A payment that is asked for: a bolt11 invoice by itself, or followed by an amount, or as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PayAsked {
    pub(crate) invoice: String,
    /// For an invoice that leaves it open.
    #[serde(default)]
    pub(crate) amount_msat: Option<Msat>,
}

impl PayAsked {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let text = text(body)?;
        if text.starts_with('{') {
            return json(text);
        }
        let (invoice, rest) = word(text);
        if invoice.is_empty() {
            return Err(invalid("what is to be paid? A bolt11 invoice: lnbc…"));
        }
        let amount_msat = (!rest.is_empty()).then(|| amount(rest)).transpose()?;
        Ok(Self { invoice: invoice.to_owned(), amount_msat })
    }

    /// What it comes to, without fees.
    ///
    /// # Errors
    /// An invoice that cannot be read, or an amount that is missing or impossible.
    pub(crate) fn bill(&self) -> Result<(Bill, Msat), Error> {
        let bill = Bill::read(&self.invoice)?;
        let amount = bill.to_pay(self.amount_msat)?;
        Ok((bill, amount))
    }
}

/// An invoice that is asked for: an amount, maybe followed by a text for the payer, or JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InvoiceAsked {
    pub(crate) amount_msat: Msat,
    #[serde(default)]
    pub(crate) description: Option<String>,
    #[serde(default)]
    pub(crate) expiry_s: Option<u64>,
}

impl InvoiceAsked {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let text = text(body)?;
        let asked: Self = if text.starts_with('{') {
            json(text)?
        } else {
            let (first, rest) = word(text);
            // "500 sat for tea" as well as "500sat for tea" and "500 for tea".
            let (unit, after) = word(rest);
            let (sum, rest) = match unit {
                "sat" | "sats" | "msat" | "msats" => (format!("{first}{unit}"), after),
                _ => (first.to_owned(), rest),
            };
            let description = Some(rest.to_owned()).filter(|rest| !rest.is_empty());
            Self { amount_msat: amount(&sum)?, description, expiry_s: None }
        };
        if asked.amount_msat.is_zero() || asked.amount_msat > Msat::SUPPLY {
            return Err(invalid(format!("{} cannot be asked for", asked.amount_msat)));
        }
        if asked.description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
            return Err(invalid(format!("description: over {DESCRIPTION_BYTES_MAX} bytes")));
        }
        if asked.expiry_s.is_some_and(|expiry_s| !EXPIRY_S.contains(&expiry_s)) {
            return Err(invalid(format!("expiry_s: not from {} to {}", EXPIRY_S.start(), EXPIRY_S.end())));
        }
        Ok(asked)
    }
}

/// A transfer that is asked for: `FROM TO AMOUNT`, or JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransferAsked {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) amount_msat: Msat,
}

impl TransferAsked {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let text = text(body)?;
        if text.starts_with('{') {
            return json(text);
        }
        let mut words = text.splitn(3, char::is_whitespace).map(str::trim);
        match (words.next(), words.next(), words.next()) {
            (Some(from), Some(to), Some(sum)) if !from.is_empty() && !to.is_empty() => {
                Ok(Self { from: from.to_owned(), to: to.to_owned(), amount_msat: amount(sum)? })
            }
            _ => Err(invalid("a transfer is written FROM TO AMOUNT: operator concierge 1000")),
        }
    }
}

/// How an operator says that a payment ended: `{"payment":HASH,"outcome":"paid"|"failed","fee_msat"?}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SettleAsked {
    /// Its payment hash.
    pub(crate) payment: Hash,
    pub(crate) outcome: Ended,
    /// What it cost; without it, all that was held back.
    #[serde(default)]
    pub(crate) fee_msat: Option<Msat>,
}

/// How a payment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Paid,
    Failed,
}

impl SettleAsked {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        super::stranded::check(json(text(body)?)?)
    }
}

/// The exchange rate that an operator takes for right: millisatoshi for a dollar, or
/// `{"msat_per_usd":…,"for_s"?}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateAsked {
    pub(crate) msat_per_usd: Rate,
    /// For how long it may be spent by without a new reading.
    #[serde(default)]
    pub(crate) for_s: Option<u64>,
}

impl RateAsked {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Error> {
        let text = text(body)?;
        let asked =
            if text.starts_with('{') { json(text)? } else { Self { msat_per_usd: json(text)?, for_s: None } };
        if asked.for_s.is_some_and(|seconds| seconds > RATE_FOR_S_MAX) {
            return Err(invalid(format!("for_s: over {RATE_FOR_S_MAX}")));
        }
        Ok(asked)
    }
}

fn text(body: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(body).map(str::trim).map_err(|_| invalid("what is written is not UTF-8"))
}

/// The first word, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (first, rest.trim())
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|error| invalid(error.to_string()))
}

/// `500`, `500sat`, `1000msat`: a bare number is satoshi.
fn amount(text: &str) -> Result<Msat, Error> {
    let text = text.trim();
    let with_unit = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("{text}sat")
    } else {
        text.to_owned()
    };
    with_unit.parse().map_err(|error: oa_wallet::msat::ParseError| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use oa_nips::files::Code;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_text_and_as_json() {
        let pay = |body: &str| PayAsked::parse(body.as_bytes());
        let asked = PayAsked { invoice: "lnbc1".to_owned(), amount_msat: None };
        assert_eq!(pay(" lnbc1\n").unwrap(), asked);
        assert_eq!(pay(r#"{"invoice":"lnbc1"}"#).unwrap(), asked);
        let with = PayAsked { amount_msat: Some(Msat::new(1500)), ..asked };
        assert_eq!(pay("lnbc1 1500msat").unwrap(), with);
        assert_eq!(pay(r#"{"invoice":"lnbc1","amount_msat":1500}"#).unwrap(), with);
        let invoice = InvoiceAsked::parse(b"500 a cup of tea").unwrap();
        assert_eq!(
            (invoice.amount_msat, invoice.description.as_deref()),
            (Msat::from_sat(500), Some("a cup of tea"))
        );
        let same = InvoiceAsked::parse(b"500 sat a cup of tea").unwrap();
        assert_eq!(same, invoice);
        let transfer = TransferAsked::parse(b"operator concierge 1,000 sat").unwrap();
        assert_eq!((transfer.to.as_str(), transfer.amount_msat), ("concierge", Msat::from_sat(1000)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_a_reason() {
        for bad in [
            "",
            "{}",
            "{",
            "lnbc1 x",
            "\u{1}",
            r#"{"invoice":"l","to":1}"#,
            r#"{"invoice":"l","amount_msat":-1}"#,
        ] {
            match PayAsked::parse(bad.as_bytes()).and_then(|asked| asked.bill().map(drop)) {
                Err(error) => assert_eq!(error.code, Code::InvalidInput, "{bad}"),
                Ok(()) => panic!("{bad} was read"),
            }
        }
        let odd = format!(r#"{{"amount_msat":{}}}"#, u64::MAX);
        for bad in
            ["", "0", "x", "0.0001sat", &odd, r#"{"amount_msat":1,"expiry_s":1}"#, "99999999999999999999"]
        {
            assert_eq!(InvoiceAsked::parse(bad.as_bytes()).unwrap_err().code, Code::InvalidInput, "{bad}");
        }
        assert_eq!(InvoiceAsked::parse(b"1msat").unwrap().amount_msat, Msat::new(1));
        assert!(InvoiceAsked::parse(format!("1 {}", "x".repeat(640)).as_bytes()).is_err());
        for bad in ["", "a b", "a b c", "operator  5", "a b -1"] {
            assert_eq!(TransferAsked::parse(bad.as_bytes()).unwrap_err().code, Code::InvalidInput, "{bad}");
        }
        assert!(PayAsked::parse(&[0xff]).is_err());
        for bad in ["", "0", "-1", "1.5", "x", "{}", r#"{"msat_per_usd":1,"for_s":604801}"#] {
            assert_eq!(RateAsked::parse(bad.as_bytes()).unwrap_err().code, Code::InvalidInput, "{bad}");
        }
        assert_eq!(
            RateAsked::parse(b" 1000000\n").unwrap().msat_per_usd.msat_per_usd(),
            Msat::from_sat(1000)
        );
    }
}
