//! Amounts: millisatoshi, which the wallet counts in, and micro-dollars, which budgets of compute count in.
//!
//! Both are whole numbers that never wrap: arithmetic answers nothing where the result does not fit, and text that
//! would lose a digit is refused. What turns one into the other is [`crate::fx`].

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What a budget can count: a whole number of some unit, from zero up.
pub trait Amount:
    Copy + Ord + Default + fmt::Debug + fmt::Display + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// Nothing.
    const ZERO: Self;

    /// The sum, or nothing where it does not fit.
    fn checked_add(self, other: Self) -> Option<Self>;

    /// The difference, or nothing where it would be below zero.
    fn checked_sub(self, other: Self) -> Option<Self>;

    /// The sum, or the largest amount there is.
    fn saturating_add(self, other: Self) -> Self;

    /// The difference, or zero.
    fn saturating_sub(self, other: Self) -> Self;
}

/// Millisatoshi: a thousandth of a satoshi, the unit of Lightning. An integer in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Msat(u64);

/// Millionths of a dollar. An integer in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MicroUsd(u64);

macro_rules! amount {
    ($name:ident) => {
        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// So many of the unit.
            pub const fn new(units: u64) -> Self {
                Self(units)
            }

            /// How many of the unit.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whether it is nothing.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// The sum, or nothing where it does not fit.
            pub fn checked_add(self, other: Self) -> Option<Self> {
                self.0.checked_add(other.0).map(Self)
            }

            /// The difference, or nothing where it would be below zero.
            pub fn checked_sub(self, other: Self) -> Option<Self> {
                self.0.checked_sub(other.0).map(Self)
            }

            /// The sum, or the largest amount there is.
            #[must_use]
            pub fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, or zero.
            #[must_use]
            pub fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl Amount for $name {
            const ZERO: Self = Self::ZERO;

            fn checked_add(self, other: Self) -> Option<Self> {
                Self::checked_add(self, other)
            }

            fn checked_sub(self, other: Self) -> Option<Self> {
                Self::checked_sub(self, other)
            }

            fn saturating_add(self, other: Self) -> Self {
                Self::saturating_add(self, other)
            }

            fn saturating_sub(self, other: Self) -> Self {
                Self::saturating_sub(self, other)
            }
        }
    };
}

amount!(Msat);
amount!(MicroUsd);

/// Millisatoshi in a satoshi.
const MSAT_PER_SAT: u64 = 1000;
/// Digits of a satoshi after its point.
const SAT_DECIMALS: usize = 3;
/// Digits of a dollar after its point.
const USD_DECIMALS: usize = 6;

impl Msat {
    /// All bitcoin there will ever be, 21 million: no honest amount is above it, and no sum of two that are not
    /// overflows.
    pub const SUPPLY: Self = Self(21_000_000 * 100_000_000 * MSAT_PER_SAT);

    /// Whole satoshis; every `u32` fits.
    pub const fn from_sat(sat: u32) -> Self {
        Self(sat as u64 * MSAT_PER_SAT)
    }

    /// Whole satoshis, or nothing where that does not fit.
    pub fn checked_from_sat(sat: u64) -> Option<Self> {
        sat.checked_mul(MSAT_PER_SAT).map(Self)
    }

    /// Whole satoshis, the rest cut: what may be promised of it on the chain.
    pub const fn floor_sat(self) -> u64 {
        self.0 / MSAT_PER_SAT
    }

    /// Whole satoshis, rounded up: what covers it on the chain.
    pub const fn ceil_sat(self) -> u64 {
        self.0.div_ceil(MSAT_PER_SAT)
    }
}

impl fmt::Display for Msat {
    /// Exact, and read back by [`Msat::from_str`]: `1,234 sat`, `0.001 sat`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sat", decimal(self.0, SAT_DECIMALS, 0))
    }
}

impl fmt::Display for MicroUsd {
    /// Exact, and read back by [`MicroUsd::from_str`]: `$1,234.50`, `$0.000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", decimal(self.0, USD_DECIMALS, 2))
    }
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No unit, or one that is not known: a bare number is never guessed at.
    #[error("`{0}` has no unit that is known here: write 500sat, 1000msat or $0.25")]
    Unit(String),
    /// Not digits with an optional point, or commas elsewhere than before each three.
    #[error("`{0}` is not a number")]
    Number(String),
    /// Finer than the unit can hold.
    #[error("`{0}` is finer than can be held")]
    Precision(String),
    /// More than can be held.
    #[error("`{0}` is too large")]
    TooLarge(String),
}

impl FromStr for Msat {
    type Err = ParseError;

    /// Reads `500sat`, `1,234.5 sat`, `1000msat`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let units = [("msats", 0), ("msat", 0), ("sats", SAT_DECIMALS), ("sat", SAT_DECIMALS)];
        let (number, decimals) = units
            .iter()
            .find_map(|(unit, decimals)| Some((text.strip_suffix(unit)?, *decimals)))
            .ok_or_else(|| ParseError::Unit(text.to_owned()))?;
        scaled(number.strip_suffix(' ').unwrap_or(number), decimals, text).map(Self)
    }
}

impl FromStr for MicroUsd {
    type Err = ParseError;

    /// Reads `$0.25`, `$1,234.50`, `0.25usd`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        let number = text.strip_prefix('$').or_else(|| text.strip_suffix("usd"));
        let number = number.ok_or_else(|| ParseError::Unit(text.to_owned()))?;
        scaled(number.strip_suffix(' ').unwrap_or(number), USD_DECIMALS, text).map(Self)
    }
}

/// Writes `units` with a point `decimals` from the right, commas in the whole part, and at least `shown` decimals.
fn decimal(units: u64, decimals: usize, shown: usize) -> String {
    let digits = format!("{units:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let mut text = String::with_capacity(digits.len() + 8);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let kept = fraction.trim_end_matches('0').len().max(shown);
    if let Some(fraction) = fraction.get(..kept).filter(|fraction| !fraction.is_empty()) {
        text.push('.');
        text.push_str(fraction);
    }
    text
}

/// Reads a number with at most `decimals` digits that matter after its point, as so many of the smallest unit.
fn scaled(number: &str, decimals: usize, shown: &str) -> Result<u64, ParseError> {
    let bad = || ParseError::Number(shown.to_owned());
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return Err(bad()),
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let whole = ungrouped(whole).ok_or_else(bad)?;
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(&whole) || !is_digits(fraction) {
        return Err(bad());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > decimals {
        return Err(ParseError::Precision(shown.to_owned()));
    }
    // Digits alone: all that can go wrong is their number.
    format!("{whole}{fraction:0<decimals$}").parse().map_err(|_| ParseError::TooLarge(shown.to_owned()))
}

/// The digits without their commas, or nothing where a comma is not before each group of three.
fn ungrouped(whole: &str) -> Option<String> {
    let mut groups = whole.split(',');
    let first = groups.next()?;
    let grouped = whole.len() > first.len();
    let is_grouped = !grouped || (1..=3).contains(&first.len());
    (is_grouped && groups.all(|group| group.len() == 3)).then(|| whole.replace(',', ""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_shown_exactly() {
        let cases = [
            (0, "0 sat"),
            (1, "0.001 sat"),
            (500, "0.5 sat"),
            (999_000, "999 sat"),
            (1_000_000, "1,000 sat"),
            (1_234_567_890, "1,234,567.89 sat"),
            (u64::MAX, "18,446,744,073,709,551.615 sat"),
        ];
        for (msat, text) in cases {
            assert_eq!(Msat::new(msat).to_string(), text);
        }
        let cases =
            [(0, "$0.00"), (1, "$0.000001"), (1_500_000, "$1.50"), (1_234_567_800_000, "$1,234,567.80")];
        for (micro_usd, text) in cases {
            assert_eq!(MicroUsd::new(micro_usd).to_string(), text);
        }
    }

    #[test]
    fn amounts_are_read_or_refused() {
        let good = [
            ("500sat", 500_000),
            ("500 sats", 500_000),
            ("1000msat", 1000),
            ("1 msats", 1),
            ("0.5sat", 500),
            ("0.001sat", 1),
            ("1.500000sat", 1500),
            ("5.0msat", 5),
            (" 1,234 sat ", 1_234_000),
            ("18446744073709551615msat", u64::MAX),
            ("00012sat", 12_000),
        ];
        for (text, msat) in good {
            assert_eq!(text.parse(), Ok(Msat::new(msat)), "{text}");
        }
        type Make = fn(String) -> ParseError;
        let bad: [(&str, Make); 21] = [
            ("0.0005sat", ParseError::Precision),
            ("0.5msat", ParseError::Precision),
            ("500", ParseError::Unit),
            ("", ParseError::Unit),
            ("5 btc", ParseError::Unit),
            ("5SAT", ParseError::Unit),
            ("sat", ParseError::Number),
            (" msat", ParseError::Number),
            ("-5sat", ParseError::Number),
            ("+5sat", ParseError::Number),
            ("1e3sat", ParseError::Number),
            (".5sat", ParseError::Number),
            ("5.sat", ParseError::Number),
            ("1.2.3sat", ParseError::Number),
            ("1,23sat", ParseError::Number),
            (",123sat", ParseError::Number),
            ("1234,567sat", ParseError::Number),
            ("1.234,567sat", ParseError::Number),
            ("5  sat", ParseError::Number),
            ("٣sat", ParseError::Number),
            ("18446744073709551.616sat", ParseError::TooLarge),
        ];
        for (text, error) in bad {
            assert_eq!(text.parse::<Msat>(), Err(error(text.trim().to_owned())), "{text}");
        }
        assert_eq!("$0.25".parse(), Ok(MicroUsd::new(250_000)));
        assert_eq!("0.25usd".parse(), Ok(MicroUsd::new(250_000)));
        assert_eq!("$0.0000001".parse::<MicroUsd>(), Err(ParseError::Precision("$0.0000001".to_owned())));
        assert_eq!("0.25".parse::<MicroUsd>(), Err(ParseError::Unit("0.25".to_owned())));
    }

    #[test]
    fn nothing_wraps() {
        let (one, most) = (Msat::new(1), Msat::new(u64::MAX));
        assert_eq!(most.checked_add(one), None);
        assert_eq!(Msat::ZERO.checked_sub(one), None);
        assert_eq!(most.saturating_add(one), most);
        assert_eq!(Msat::ZERO.saturating_sub(one), Msat::ZERO);
        assert_eq!(Msat::checked_from_sat(u64::MAX), None);
        assert_eq!((Msat::new(1999).floor_sat(), Msat::new(1001).ceil_sat()), (1, 2));
        assert!(Msat::SUPPLY.checked_add(Msat::SUPPLY).is_some());
    }

    #[test]
    fn json_has_whole_numbers() {
        assert_eq!(serde_json::to_string(&Msat::new(1500)).unwrap(), "1500");
        assert_eq!(serde_json::from_str::<MicroUsd>("7").unwrap(), MicroUsd::new(7));
        for bad in ["1.5", "-1", "\"5\"", "18446744073709551616"] {
            assert!(serde_json::from_str::<Msat>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(units in any::<u64>()) {
            prop_assert_eq!(Msat::new(units).to_string().parse(), Ok(Msat::new(units)));
            prop_assert_eq!(MicroUsd::new(units).to_string().parse(), Ok(MicroUsd::new(units)));
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,20}(sat|msat|usd)?") {
            let _ = text.parse::<Msat>();
            let _ = text.parse::<MicroUsd>();
        }
    }
}
