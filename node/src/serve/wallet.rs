//! `/wallet/{balance,fx,budget,pay,invoice,history/}`: an agent's account. `/wallet` in the node's tree is the
//! operator's, with `accounts`, `transfer`, `settle` and `rate` besides.
//!
//! What moves money is journaled and can be looked up: the call's key names the payment, so that a tick that runs again
//! pays once. A turn that somebody else than the owner began finds no wallet, unless the manifest says otherwise
//! (`[strangers]`).

use std::sync::Arc;

use oa_wallet::account::Holder;
use oa_wallet::budget::Consent;
use serde_json::{Value, json};

use super::{Parts, at};
use crate::agent::envelope::Trust;
use crate::money::{
    InvoiceAsked, Money, PayAsked, Payer, RateAsked, SettleAsked, TransferAsked, Under, holder,
};
use crate::namespace::blocks::{Computed, Rows};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{
    Answer, Change, Class, Context, Effect, FileService, FileType, LookUp, Span, Stat, file, not_taken,
};

/// Where it is mounted.
const WALLET: &str = "/wallet";

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts) {
    if let Some(money) = &parts.money {
        let folder = common(money).value("budget", budget(money.clone())).build();
        mounts.mount(at(WALLET), Arc::new(Wallet { folder }), "money");
    }
}

/// The operator's.
pub(super) fn mount_node(mounts: &mut Mounts, parts: &Parts) {
    let Some(money) = &parts.money else { return };
    let (shown, listed, moved, known) = (money.clone(), money.clone(), money.clone(), money.clone());
    let (settled, ended, confirmed) = (money.clone(), money.clone(), money.clone());
    let folder = common(money)
        .value_async("balance", move |cx| {
            let money = shown.clone();
            Box::pin(async move {
                money.refresh().await;
                let mut shown = money.balance(&who(cx))?;
                if let Value::Object(shown) = &mut shown {
                    shown.insert("wallet".to_owned(), money.wallet());
                    shown.insert("stranded".to_owned(), money.stranded()?.into());
                }
                Ok(shown.to_string().into_bytes())
            })
        })
        .value("accounts", move |_| {
            Ok(listed.accounts()?.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect())
        })
        .queryable(
            "transfer",
            move |cx, body| {
                let money = moved.clone();
                Box::pin(async move { money.transfer(&TransferAsked::parse(body)?, cx.key).await })
            },
            move |cx, _| {
                let found = known.look_up_transfer(cx.key);
                Box::pin(std::future::ready(found))
            },
        )
        .queryable(
            "settle",
            move |_, body| {
                let money = settled.clone();
                Box::pin(async move { money.settle(&SettleAsked::parse(body)?).await })
            },
            move |_, body| {
                let found = SettleAsked::parse(body).and_then(|asked| ended.look_up_settling(&asked));
                Box::pin(std::future::ready(found))
            },
        )
        // What was confirmed is the rate, and can be confirmed again.
        .outside("rate", Class::Idempotent, move |_, body| {
            let money = confirmed.clone();
            Box::pin(async move {
                money.confirm_rate(&RateAsked::parse(body)?).await?;
                Ok(money.shown_rate(true)?.to_string().into_bytes())
            })
        });
    mounts.mount(at(WALLET), Arc::new(Wallet { folder: folder.build() }), "money");
}

/// The files that every account has.
fn common(money: &Money) -> Computed {
    let (shown, rated) = (money.clone(), money.clone());
    let (payer, paid, asker, asked) = (money.clone(), money.clone(), money.clone(), money.clone());
    Computed::new()
        .value("balance", move |cx| Ok(shown.balance(&who(cx))?.to_string().into_bytes()))
        .value("fx", move |cx| Ok(rated.shown_rate(cx.subject.is_none())?.to_string().into_bytes()))
        .queryable(
            "pay",
            move |cx, body| {
                let money = payer.clone();
                Box::pin(async move { money.pay(&payer_of(cx), &PayAsked::parse(body)?, cx.key).await })
            },
            move |cx, _| {
                let money = paid.clone();
                Box::pin(async move { money.look_up_payment(cx.key).await })
            },
        )
        .queryable(
            "invoice",
            move |cx, body| {
                let money = asker.clone();
                Box::pin(async move {
                    let woken_by = cx.wake.map(|wake| wake.envelope);
                    money.invoice(&who(cx), woken_by, &InvoiceAsked::parse(body)?, cx.key).await
                })
            },
            move |cx, _| {
                let found = asked.look_up_invoice(cx.key);
                Box::pin(std::future::ready(found))
            },
        )
        .folder("history", history(money))
}

/// Whose account it is.
fn who(cx: &Context<'_>) -> Holder {
    cx.subject.map_or_else(Holder::operator, |subject| holder(subject.row.id))
}

/// Who pays: the agent under the caps of its mount in a tick, its owner and operators under none.
fn payer_of(cx: &Context<'_>) -> Payer {
    let caps = cx.subject.map(|subject| subject.manifest.caps(WALLET)).unwrap_or_default();
    let under = cx.wake.map(|wake| {
        let tick = wake.envelope.id.as_bytes().first_chunk().copied().unwrap_or_default();
        let consent = if wake.is_consented { Consent::Given } else { Consent::Missing };
        Under { caps, tick: u64::from_be_bytes(tick), consent }
    });
    let origin = cx.wake.and_then(|wake| wake.envelope.origin.clone());
    let heard = cx.wake.and_then(|wake| wake.envelope.heard.clone());
    Payer { holder: who(cx), under, origin, heard }
}

fn budget(money: Money) -> impl for<'a> Fn(&'a Context<'a>) -> Result<Vec<u8>, Error> + Send + Sync {
    move |cx| {
        let caps = cx.subject()?.manifest.caps(WALLET);
        let (per_tick, used) = money.used(&who(cx), &caps)?;
        let limit = caps.per_day.and(used.limit);
        let unasked = money.unasked(&who(cx), &caps).map(|(spent, _)| spent);
        let shown = json!({
            "per_tick_msat": per_tick,
            "per_day_msat": limit,
            "approval_above": caps.approval_above,
            "unasked_today_msat": unasked,
            "spent_today_msat": used.spent,
            "reserved_msat": used.reserved,
            "remaining_today_msat": limit.and(used.remaining),
            "renews_at": used.renews_at_s,
        });
        Ok(shown.to_string().into_bytes())
    }
}

fn history(money: &Money) -> Arc<dyn FileService> {
    let (listed, read) = (money.clone(), money.clone());
    let list = move |cx: &Context<'_>| {
        let items = listed.history(&who(cx))?.into_iter();
        Ok(items.map(|n| file(format!("{n}.json"), FileType::Value, 0)).collect())
    };
    let read = move |cx: &Context<'_>, name: &str| {
        let digits = name.strip_suffix(".json").unwrap_or_default();
        // 007.json is not 7.json.
        let n = digits.parse::<u64>().ok().filter(|n| n.to_string() == digits);
        let item = n.map(|n| read.item_of(&who(cx), n)).transpose()?.flatten();
        Ok(item.map(|item| item.to_string().into_bytes()))
    };
    Rows::new(list, read).build()
}

/// Serves the folder to whom it is for.
#[derive(Debug)]
struct Wallet {
    folder: Arc<dyn FileService>,
}

/// Whether this turn finds a path of the wallet, by its whole path: one of somebody else than the owner only where the
/// manifest lets it.
pub(crate) fn may_use(cx: &Context<'_>, whole: &str) -> bool {
    let Some(wake) = cx.wake else { return true };
    match wake.trust {
        Trust::Owner | Trust::Node => true,
        Trust::Allowed | Trust::Stranger => {
            cx.subject.is_some_and(|subject| subject.manifest.strangers.may_use(whole))
        }
    }
}

fn admit(cx: &Context<'_>, path: &Path) -> Result<(), Error> {
    let whole = format!("{WALLET}{}", if path.as_str() == "/" { "" } else { path.as_str() });
    if may_use(cx, &whole) { Ok(()) } else { Err(Error::not_found(path)) }
}

impl FileService for Wallet {
    fn stat<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Stat> {
        Box::pin(async move {
            admit(cx, path)?;
            self.folder.stat(cx, path).await
        })
    }

    fn list<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path) -> Answer<'a, Vec<Stat>> {
        Box::pin(async move {
            admit(cx, path)?;
            self.folder.list(cx, path).await
        })
    }

    fn read<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, span: Span) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            admit(cx, path)?;
            self.folder.read(cx, path, span).await
        })
    }

    /// What cannot be read is refused without an intent: nothing will be done.
    fn class(&self, path: &Path, change: &Change) -> Class {
        match readable(path, change) {
            Ok(()) => self.folder.class(path, change),
            Err(_) => Class::Transactional,
        }
    }

    fn change<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Effect> {
        Box::pin(async move {
            admit(cx, path)?;
            readable(path, change)?;
            Err(not_taken(path, change))
        })
    }

    fn act<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            admit(cx, path)?;
            self.folder.act(cx, path, change).await
        })
    }

    fn look_up<'a>(&'a self, cx: &'a Context<'a>, path: &'a Path, change: &'a Change) -> Answer<'a, LookUp> {
        self.folder.look_up(cx, path, change)
    }
}

/// Whether what is written can be meant for its file.
fn readable(path: &Path, change: &Change) -> Result<(), Error> {
    let Change::Call(body) = change else { return Ok(()) };
    match path.as_str() {
        "/pay" => PayAsked::parse(body)?.bill().map(drop),
        "/invoice" => InvoiceAsked::parse(body).map(drop),
        "/transfer" => TransferAsked::parse(body).map(drop),
        "/settle" => SettleAsked::parse(body).map(drop),
        "/rate" => RateAsked::parse(body).map(drop),
        _ => Ok(()),
    }
}
