//! Whose accounts there are: what they are called, what they have, and how money goes from one to another.

use oa_nips::hex::Hex;
use oa_wallet::account::{Holder, Ledger, Standing, holders};
use oa_wallet::budget::{Budget, Standing as Used};
use oa_wallet::msat::Msat;
use oa_wallet::store::Draft;
use serde_json::{Value, json};

use super::error::{invalid, said};
use super::item::{self, Item, LISTED_MAX, Place, Transfer, What};
use super::{Caps, Money, TransferAsked};
use crate::agent::AgentId;
use crate::namespace::Error;
use crate::namespace::service::{ChangeKey, LookUp};
use crate::store::backend::BackendError;
use crate::store::write::Write;
use oa_nips::files::Code;

/// How agents' accounts begin: what follows is the agent's number, which never returns.
const AGENT: &str = "agent:";
/// Accounts that are listed.
const ACCOUNTS_MAX: usize = 10_000;

/// The account of an agent.
pub(crate) fn holder(agent: AgentId) -> Holder {
    Holder::new(format!("{AGENT}{agent}")).expect("a word, a colon and digits")
}

/// The agent of an account, if it is one's.
pub(super) fn agent(holder: &Holder) -> Option<AgentId> {
    holder.as_str().strip_prefix(AGENT)?.parse().ok().map(AgentId)
}

impl Money {
    /// What an account is called: its agent's name, or `operator`.
    pub(super) fn name(&self, holder: &Holder) -> String {
        let row = agent(holder).and_then(|id| self.inner.book.store.agent(id).ok().flatten());
        match row {
            Some(row) if !row.name.is_empty() => row.name,
            _ => holder.to_string(),
        }
    }

    /// The account of a name: `operator`, an agent's name, or `agent:<number>` for one that is gone.
    ///
    /// # Errors
    /// When there is none.
    fn named(&self, name: &str) -> Result<Holder, Error> {
        let io = |error: BackendError| Error::io("/wallet", error.to_string());
        let found = match name {
            "operator" => Some(Holder::operator()),
            name => match name.strip_prefix(AGENT).and_then(|number| number.parse().ok()) {
                Some(number) => self
                    .inner
                    .book
                    .store
                    .agent(AgentId(number))
                    .map_err(io)?
                    .filter(|row| row.id != AgentId::NODE)
                    .map(|row| self::holder(row.id)),
                None => self.inner.book.store.agent_named(name).map_err(io)?.map(self::holder),
            },
        };
        let none =
            || said(Code::NotFound, format!("no account is called {name:?}: operator, or an agent's name"));
        found.ok_or_else(none)
    }

    /// What an account has.
    pub(crate) fn standing(&self, holder: &Holder) -> Result<Standing, Error> {
        let rows = self.inner.book.rows();
        Ok(Ledger::new(&mut Draft::new(&rows)).standing(holder)?)
    }

    /// What an account has, as its file shows it.
    pub(crate) fn balance(&self, holder: &Holder) -> Result<Value, Error> {
        let Standing { available, reserved, debt } = self.standing(holder)?;
        let mut shown = json!({ "balance_msat": available, "reserved_msat": reserved, "debt_msat": debt });
        if let (true, Some(shown)) = (self.is_play(), shown.as_object_mut()) {
            shown.insert("play_money".to_owned(), json!(true));
        }
        Ok(shown)
    }

    /// All accounts, with what they have.
    pub(crate) fn accounts(&self) -> Result<Vec<Value>, Error> {
        let rows = self.inner.book.rows();
        let mut all = holders(&rows, None, ACCOUNTS_MAX)?;
        if !all.iter().any(|(holder, _)| *holder == Holder::operator()) {
            all.insert(0, (Holder::operator(), Standing::default()));
        }
        let shown = |(holder, _): &(Holder, Standing)| {
            let mut shown = self.balance(holder)?;
            if let Value::Object(shown) = &mut shown {
                shown.insert("account".to_owned(), json!(holder));
                shown.insert("name".to_owned(), json!(self.name(holder)));
            }
            Ok(shown)
        };
        all.iter().map(shown).collect()
    }

    /// What an account's items are, newest first, each with its number.
    pub(crate) fn history(&self, holder: &Holder) -> Result<Vec<u64>, Error> {
        let items = item::list(&self.inner.book.rows(), holder, LISTED_MAX)?;
        Ok(items.into_iter().map(|(place, _)| place.n).collect())
    }

    /// One item of an account.
    pub(crate) fn item_of(&self, holder: &Holder, n: u64) -> Result<Option<Value>, Error> {
        let place = Place { holder: holder.clone(), n };
        let rows = self.inner.book.rows();
        match item::get(&mut Draft::new(&rows), &place) {
            Ok(item) => {
                let mut shown = item.shown(&place, |holder| self.name(holder));
                if let (What::Payment(payment), Value::Object(shown)) = (&item.what, &mut shown)
                    && self.is_stranded(payment)
                {
                    shown.insert("trouble".to_owned(), json!("ordered over another connection to a wallet"));
                }
                Ok(Some(shown))
            }
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How an agent's caps stand.
    ///
    /// # Errors
    /// Where a cap is in dollars, and no exchange rate is known.
    pub(crate) fn used(&self, holder: &Holder, caps: &Caps) -> Result<(Option<Msat>, Used<Msat>), Error> {
        let limits = caps.limits(self.fx().as_ref(), self.now_ms());
        let limits = limits.map_err(|error| said(Code::Unavailable, error.to_string()))?;
        let per_tick = limits.per_tick;
        Ok((per_tick, Budget::new(limits, self.usage(holder)?).standing(self.now_s())))
    }

    /// Moves money from one account to another, once for each key.
    ///
    /// # Errors
    /// When there is no such account, or not enough in it.
    pub(crate) async fn transfer(&self, asked: &TransferAsked, key: ChangeKey) -> Result<Vec<u8>, Error> {
        let call = Hex(key);
        if let Some(place) = self.of_call(&call)? {
            return self.transferred(&place);
        }
        let (from, to) = (self.named(&asked.from)?, self.named(&asked.to)?);
        let amount = asked.amount_msat;
        if amount.is_zero() || amount > Msat::SUPPLY {
            return Err(invalid(format!("{amount} cannot be transferred")));
        }
        let now_ms = self.now_ms();
        let work = |draft: &mut Draft<'_>, also: &mut Vec<Write>| {
            if let Some(place) = item::of_call(draft, &call)? {
                return Ok(place);
            }
            let _ = Ledger::new(draft).transfer(&call.to_string(), &from, &to, amount, now_ms)?;
            let transfer = Transfer { call, from: from.clone(), to: to.clone(), amount };
            let item = Item::new(now_ms, What::Transfer(transfer));
            let place = item::add(draft, &from, &item)?;
            item::set_call(draft, &call, &place)?;
            let there = item::add(draft, &to, &item)?;
            self.tell(also, &there, &item, "transferred", now_ms)?;
            Ok(place)
        };
        let place = self.inner.book.write(work).await?;
        self.transferred(&place)
    }

    /// What became of a transfer whose reply was lost.
    ///
    /// # Errors
    /// When the rows cannot be read.
    pub(crate) fn look_up_transfer(&self, key: ChangeKey) -> Result<LookUp, Error> {
        match self.of_call(&Hex(key))? {
            Some(place) => self.transferred(&place).map(LookUp::Done),
            None => Ok(LookUp::NotDone),
        }
    }

    fn transferred(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let rows = self.inner.book.rows();
        let What::Transfer(transfer) = item::get(&mut Draft::new(&rows), place)?.what else {
            return Err(Error::io(place.path(), "is no transfer"));
        };
        let told = json!({
            "from": self.name(&transfer.from),
            "to": self.name(&transfer.to),
            "amount_msat": transfer.amount,
        });
        Ok(told.to_string().into_bytes())
    }
}
