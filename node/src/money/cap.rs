//! Caps of a mount: the most that an agent may spend through it, in a tick and in a day, and from where on it asks.
//!
//! They are what a manifest says (`access = { budgeted = { per_day = "5000 sat" } }`), and hold whatever the agent's
//! program believes. What was used of them is in the node's rows, one for each agent and mount.

use std::fmt;
use std::str::FromStr;

use oa_wallet::budget::{Limits, PerPeriod, Period, Scopes};
use oa_wallet::fx::{Fx, Unknown};
use oa_wallet::msat::{MicroUsd, Msat, ParseError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount in one of the two units that budgets are set in: `500 sat`, `$2.50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// Bitcoin.
    Msat(Msat),
    /// Dollars.
    Usd(MicroUsd),
}

impl Cap {
    /// What it is in bitcoin at `now_ms`.
    ///
    /// # Errors
    /// Where it is dollars and nobody can say.
    fn msat(self, fx: Option<&Fx>, now_ms: u64) -> Result<Msat, NoRate> {
        let usd = match self {
            Self::Msat(msat) => return Ok(msat),
            Self::Usd(usd) => usd,
        };
        let fx = fx.ok_or(NoRate::Unset(self))?;
        let rate = fx.rate(now_ms).map_err(|why| NoRate::Refused { cap: self, why })?;
        rate.to_msat(usd).ok_or(NoRate::TooLarge(self))
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Msat(msat) => msat.fmt(f),
            Self::Usd(usd) => usd.fmt(f),
        }
    }
}

impl FromStr for Cap {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.parse() {
            Ok(msat) => Ok(Self::Msat(msat)),
            Err(ParseError::Unit(_)) => text.parse().map(Self::Usd),
            Err(error) => Err(error),
        }
    }
}

impl Serialize for Cap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The caps of a mount; what is left out is not limited by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    /// The most in one tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_tick: Option<Cap>,
    /// The most from midnight to midnight, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<Cap>,
    /// The most from midnight to midnight, UTC, without anybody's consent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_above: Option<Cap>,
}

/// A cap in dollars while nobody can say what a dollar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRate {
    #[error("the cap of {0} cannot be counted in bitcoin: the operator has set no exchange rate")]
    Unset(Cap),
    #[error("the cap of {cap} cannot be counted in bitcoin: {why}")]
    Refused { cap: Cap, why: Unknown },
    #[error("the cap of {0} is more bitcoin than can be counted")]
    TooLarge(Cap),
}

impl Caps {
    /// Nothing may be spent.
    pub const NOTHING: Self = Self {
        per_tick: Some(Cap::Msat(Msat::ZERO)),
        per_day: Some(Cap::Msat(Msat::ZERO)),
        approval_above: None,
    };

    /// The limits in bitcoin, whatever was consented to.
    ///
    /// # Errors
    /// [`NoRate`]: then nothing is spent.
    pub(super) fn limits(&self, fx: Option<&Fx>, now_ms: u64) -> Result<Limits<Msat>, NoRate> {
        let known = |cap: Option<Cap>| cap.map(|cap| cap.msat(fx, now_ms)).transpose();
        // Counted by the day in any case, so that a cap that is set at noon knows of the morning.
        let amount = known(self.per_day)?.unwrap_or(Msat::SUPPLY);
        Ok(Limits {
            per_tick: known(self.per_tick)?,
            per_period: Some(PerPeriod { amount, period: Period::Daily }),
            approval_above: None,
            scopes: Scopes::All,
        })
    }

    /// What may be spent without consent, in bitcoin; nothing where the threshold cannot be counted in it. It is
    /// counted where there is no threshold too, as in [`Caps::limits`].
    pub(super) fn unasked(&self, fx: Option<&Fx>, now_ms: u64) -> Limits<Msat> {
        let above = self.approval_above.map(|cap| cap.msat(fx, now_ms).unwrap_or(Msat::ZERO));
        Limits::per(above.unwrap_or(Msat::SUPPLY), Period::Daily, Scopes::All)
    }
}

#[cfg(test)]
mod tests {
    use oa_wallet::fx::Rate;

    use super::*;

    #[test]
    fn caps_are_amounts_with_a_unit() {
        assert_eq!("5,000 sat".parse(), Ok(Cap::Msat(Msat::from_sat(5000))));
        assert_eq!("$2.50".parse(), Ok(Cap::Usd(MicroUsd::new(2_500_000))));
        for bad in ["5000", "", "5 eur", "-1 sat", "1.0001 sat"] {
            assert!(bad.parse::<Cap>().is_err(), "{bad}");
        }
        let caps: Caps = toml::from_str("per_day = \"5000 sat\"\napproval_above = \"$1\"").unwrap();
        assert_eq!(toml::from_str::<Caps>(&toml::to_string(&caps).unwrap()), Ok(caps));
        assert!(toml::from_str::<Caps>("per_week = \"1 sat\"").is_err());
    }

    #[test]
    fn dollars_without_a_rate_let_nothing_through() {
        let rate = Fx::Fixed(Rate::from_sats_per_usd(1000).unwrap());
        let caps: Caps = toml::from_str("per_day = \"$1\"\napproval_above = \"$0.50\"").unwrap();
        let limits = caps.limits(Some(&rate), 0).unwrap();
        assert_eq!(limits.per_period.unwrap().amount, Msat::from_sat(1000));
        assert!(caps.limits(None, 0).is_err());
        let unasked = |caps: Caps, fx| caps.unasked(fx, 0).per_period.unwrap().amount;
        assert_eq!(unasked(caps, Some(&rate)), Msat::from_sat(500));
        assert_eq!(unasked(caps, None), Msat::ZERO, "what cannot be compared is asked for");
        assert_eq!(unasked(Caps::default(), None), Msat::SUPPLY);
    }
}
