//! What a dollar costs: set by the operator, or read from a price source of the operator's choice.
//!
//! A source is an HTTP URL that answers a JSON document, and a pointer to a number in it: the price of one bitcoin in US
//! dollars. It is asked while the node holds the lease of its key, at the operator's pace, by the client that agents'
//! requests go through, so private hosts are reached only where the operator has listed them. What was read is on disk
//! before it counts: a jump is seen over a restart. What makes a reading good is [`oa_wallet::fx`]'s.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, HeaderValue, USER_AGENT};
use oa_nips::files::Code;
use oa_nips::nostr::types::url::Url;
use oa_wallet::fx::{self, BadRate, Fx, NotHeld, Rate, Verdict};
use oa_wallet::msat::MicroUsd;
use oa_wallet::store::Draft;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use super::error::said;
use super::{Money, RateAsked, lock};
use crate::agent::site::{self, TargetError};
use crate::drivers::http::{Ask, AskError, Client};
use crate::namespace::Error;

/// Where what is known of the rate is kept.
const SPACE: &str = "money.fx";
const KNOWN: &str = "known";
/// How long a source may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of its answer: documents with a price in a hundred currencies have a few thousand.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How often a source may be asked.
const EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// How old a rate may be allowed to be: a day.
const FRESH_MAX: Duration = Duration::from_secs(86_400);
/// Before what was known is looked for again where it could not be read.
const RECALL_AGAIN: Duration = Duration::from_secs(5);
/// Digits of a dollar after its point that are kept; the rest is cut, which is against the spender.
const USD_DECIMALS: usize = 6;

/// Where the rate comes from.
#[derive(Debug, Clone)]
pub enum Pricing {
    /// The operator set it.
    Fixed(Rate),
    /// It is read.
    Source(Source),
}

/// A price source.
#[derive(Clone)]
pub struct Source {
    url: Url,
    pointer: String,
    every: Duration,
    fresh: Duration,
}

/// Why something is no price source; each variant is one of the things it was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    #[error(transparent)]
    Url(#[from] TargetError),
    #[error("not a JSON pointer (RFC 6901), such as /bitcoin/usd")]
    Pointer,
    #[error("not from {} to {} seconds", EVERY.start().as_secs(), EVERY.end().as_secs())]
    Every,
    #[error("not from twice the time between two readings to {} seconds", FRESH_MAX.as_secs())]
    Fresh,
}

impl Source {
    /// A source that is asked every so often, and whose readings may be spent by for as long as `fresh`.
    ///
    /// # Errors
    /// Says which of them cannot be.
    pub fn new(url: &str, pointer: &str, every: Duration, fresh: Duration) -> Result<Self, BadSource> {
        let url = site::target(url)?;
        let is_escaped = |part: &str| part.starts_with(['0', '1']);
        if !(pointer.is_empty() || pointer.starts_with('/')) || !pointer.split('~').skip(1).all(is_escaped) {
            return Err(BadSource::Pointer);
        }
        if !EVERY.contains(&every) {
            return Err(BadSource::Every);
        }
        if fresh < every * 2 || fresh > FRESH_MAX {
            return Err(BadSource::Fresh);
        }
        Ok(Self { url, pointer: pointer.to_owned(), every, fresh })
    }

    /// Its host, without path and query: they may hold a key.
    fn place(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Asks for the rate once.
    async fn ask(&self, client: &Client) -> Result<Rate, Trouble> {
        let mut headers = HeaderMap::new();
        let agent = concat!("oa/", env!("CARGO_PKG_VERSION"));
        for (name, value) in
            [(USER_AGENT, agent), (ACCEPT, "application/json"), (ACCEPT_ENCODING, "identity")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let ask = Ask {
            method: Method::GET,
            url: self.url.clone(),
            headers,
            body: Bytes::new(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: Instant::now() + ANSWER_WITHIN,
        };
        let answer = client.ask(ask).await?;
        if answer.status != 200 {
            return Err(Trouble::Status(answer.status));
        }
        if answer.truncated {
            return Err(Trouble::TooLarge);
        }
        let document: Value = serde_json::from_slice(&answer.body).map_err(|_| Trouble::NoJson)?;
        let value = document.pointer(&self.pointer).ok_or_else(|| Trouble::NoValue(self.pointer.clone()))?;
        let price = price(value).ok_or_else(|| Trouble::NoPrice(self.pointer.clone()))?;
        Ok(Rate::from_btc_price(price)?)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("place", &self.place()).field("pointer", &self.pointer).finish()
    }
}

/// Why a source did not tell the rate. No message quotes what it said or the whole URL.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("answered with status {0}")]
    Status(u16),
    #[error("its answer is over {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("its answer is no JSON")]
    NoJson,
    #[error("there is nothing at {0:?} in its answer")]
    NoValue(String),
    #[error("what is at {0:?} in its answer is no price in dollars")]
    NoPrice(String),
    #[error(transparent)]
    Rate(#[from] BadRate),
}

/// A price in dollars: a number, or a text with nothing else in it.
fn price(value: &Value) -> Option<MicroUsd> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b',') {
        return None;
    }
    let text = match text.split_once('.') {
        Some((whole, fraction)) if fraction.len() > USD_DECIMALS && !fraction.contains(['.', ',']) => {
            format!("{whole}.{}", fraction.get(..USD_DECIMALS)?)
        }
        _ => text,
    };
    format!("${text}").parse().ok()
}

/// The rate of a node, and what keeps it.
#[derive(Debug)]
pub(super) struct Exchange {
    state: Mutex<State>,
    source: Option<(Source, Arc<Client>)>,
    /// Whose turn it is to change what is known.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    fx: Fx,
    /// Why the source did not tell it, when it was last asked.
    trouble: Option<String>,
}

impl Exchange {
    pub(super) fn new(pricing: &Pricing, client: Arc<Client>) -> Self {
        let (fx, source) = match pricing {
            Pricing::Fixed(rate) => (Fx::Fixed(*rate), None),
            Pricing::Source(source) => {
                let config = fx::Config { fresh: source.fresh, ..fx::Config::default() };
                (Fx::oracle(config), Some((source.clone(), client)))
            }
        };
        let state = Mutex::new(State { fx, trouble: None });
        Self { state, source, turn: tokio::sync::Mutex::default() }
    }

    pub(super) fn fx(&self) -> Fx {
        self.state().fx
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Money {
    /// Follows the price source, if there is one.
    pub(super) async fn follow_rate(&self) {
        let source =
            self.inner.exchange.as_ref().and_then(|exchange| Some((exchange, exchange.source.as_ref()?)));
        let Some((exchange, (source, client))) = source else { return std::future::pending().await };
        while let Err(error) = self.recall_rate(exchange) {
            tracing::error!(%error, "what was known of the exchange rate cannot be read");
            tokio::time::sleep(RECALL_AGAIN).await;
        }
        let mut ticks = tokio::time::interval(source.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // As old as the question: what was on the way may be older, never younger.
            let asked_ms = self.now_ms();
            let trouble = match source.ask(client).await {
                Ok(rate) => {
                    self.read_rate(exchange, rate, asked_ms).await.err().map(|error| error.to_string())
                }
                Err(trouble) => Some(format!("{}: {trouble}", source.place())),
            };
            let mut state = exchange.state();
            if let Some(trouble) = trouble.as_ref().filter(|_| trouble != state.trouble) {
                tracing::warn!(trouble, "the exchange rate could not be read");
            }
            state.trouble = trouble;
        }
    }

    /// What was known before the node ended.
    fn recall_rate(&self, exchange: &Exchange) -> Result<(), Error> {
        let rows = self.inner.book.rows();
        let Some(kept) = Draft::new(&rows).get(SPACE, KNOWN)? else { return Ok(()) };
        if let Fx::Oracle { known, .. } = &mut exchange.state().fx {
            *known = kept;
        }
        Ok(())
    }

    /// Takes what the source said.
    async fn read_rate(&self, exchange: &Exchange, rate: Rate, asked_ms: u64) -> Result<(), Error> {
        let now_ms = self.now_ms();
        let before = exchange.fx().rate(now_ms);
        let verdict = self.learn(exchange, |fx| fx.read(rate, asked_ms, now_ms)).await?;
        if let (Verdict::Held { good, jumped }, Ok(_)) = (verdict, before) {
            tracing::warn!(%good, %jumped, "the exchange rate jumped: nothing is counted in dollars until it is confirmed");
        }
        Ok(())
    }

    /// Takes a rate for right, because the operator says so.
    ///
    /// # Errors
    /// Where none is read, or what is known is another one.
    pub(crate) async fn confirm_rate(&self, asked: &RateAsked) -> Result<(), Error> {
        let exchange = self.inner.exchange.as_ref().filter(|exchange| exchange.source.is_some());
        let exchange = exchange.ok_or_else(|| said(Code::Unavailable, "the node reads no exchange rate"))?;
        let now_ms = self.now_ms();
        let until_ms = asked.for_s.map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1000)));
        let confirmed = self.learn(exchange, |fx| fx.confirm(asked.msat_per_usd, now_ms, until_ms)).await?;
        confirmed.map_err(|NotHeld(rate)| {
            let reason =
                format!("{rate} is neither what the rate jumped to nor the last one that was read: see fx");
            said(Code::Stale, reason)
        })?;
        tracing::warn!(rate = %asked.msat_per_usd, for_s = asked.for_s, "an operator confirmed the exchange rate");
        Ok(())
    }

    /// Changes what is known, on disk before it counts.
    async fn learn<T>(&self, exchange: &Exchange, change: impl FnOnce(&mut Fx) -> T) -> Result<T, Error> {
        let _turn = exchange.turn.lock().await;
        let mut fx = exchange.fx();
        let before = fx;
        let done = change(&mut fx);
        if let Fx::Oracle { known, .. } = fx
            && fx != before
        {
            self.inner.book.write(|draft, _| Ok(draft.put(SPACE, KNOWN, &known)?)).await?;
            exchange.state().fx = fx;
        }
        Ok(done)
    }

    /// The rate by which dollars and bitcoin are compared, if there is to be one.
    pub(crate) fn fx(&self) -> Option<Fx> {
        self.inner.exchange.as_ref().map(Exchange::fx)
    }

    /// The rate for whoever reads it; the operator also sees where it comes from and what is wrong there.
    ///
    /// # Errors
    /// Where the operator wants none.
    pub(crate) fn shown_rate(&self, is_operator: bool) -> Result<Value, Error> {
        let none = || said(Code::Unavailable, "the operator has set no exchange rate");
        let exchange = self.inner.exchange.as_ref().ok_or_else(none)?;
        let (fx, trouble) = {
            let state = exchange.state();
            (state.fx, state.trouble.clone())
        };
        let now_ms = self.now_ms();
        let rate = fx.rate(now_ms);
        let known = match fx {
            Fx::Fixed(rate) => {
                return Ok(json!({ "msat_per_usd": rate.msat_per_usd(), "source": "fixed" }));
            }
            Fx::Oracle { known, .. } => known,
        };
        let age_s = known.good.map(|good| now_ms.abs_diff(good.at_ms) / 1000);
        let mut shown = json!({
            "msat_per_usd": rate.ok(),
            "source": "oracle",
            "age_s": age_s,
            "refused": rate.err().map(|why| why.to_string()),
        });
        if let (true, Value::Object(shown), Some((source, _))) = (is_operator, &mut shown, &exchange.source) {
            shown.insert("place".to_owned(), source.place().into());
            shown.insert("read".to_owned(), json!(known.good.map(|good| good.rate)));
            shown.insert("read_at".to_owned(), json!(known.good.map(|good| good.at_ms / 1000)));
            shown.insert("jumped".to_owned(), json!(known.jumped.map(|jumped| jumped.rate)));
            shown.insert("until".to_owned(), json!(known.until_ms.map(|until_ms| until_ms / 1000)));
            shown.insert("trouble".to_owned(), json!(trouble));
        }
        Ok(shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::http::fixture::{Server, answer, path};

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    fn source(url: &str, pointer: &str) -> Source {
        Source::new(url, pointer, SECONDS(60), fx::FRESH).unwrap()
    }

    #[test]
    fn a_price_is_read_exactly_or_not_at_all() {
        let read = |text: &str| price(&serde_json::from_str(text).unwrap()).map(MicroUsd::get);
        for (text, micro_usd) in [
            ("65000", 65_000_000_000),
            ("65000.12", 65_000_120_000),
            ("0.1", 100_000),
            ("\"65,000.1234569\"", 65_000_123_456),
            ("\"100000\"", 100_000_000_000),
            ("0", 0),
        ] {
            assert_eq!(read(text), Some(micro_usd), "{text}");
        }
        for text in [
            "-1",
            "1e300",
            "null",
            "true",
            "[1]",
            "{}",
            "\"\"",
            "\"1.2.3456789\"",
            "\"$5\"",
            "\"-5\"",
            "\"1.\"",
            "\"6500,0\"",
            "\"NaN\"",
            "99999999999999999999",
            "\"1.234567,8\"",
            "\" 5\"",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_source_is_refused_and_a_key_in_its_url_is_never_shown() {
        let new =
            |url, pointer, every, fresh| Source::new(url, pointer, SECONDS(every), SECONDS(fresh)).map(drop);
        assert_eq!(new("https://a.b/c?key=sk", "", 1, 2), Ok(()));
        assert_eq!(new("a.b", "/x", 60, 300), Err(BadSource::Url(TargetError::Unreadable)));
        for pointer in ["x", "/~", "/a~2b"] {
            assert_eq!(new("https://a.b", pointer, 60, 300), Err(BadSource::Pointer), "{pointer}");
        }
        assert_eq!(new("https://a.b", "/a~1b~0", 3601, 86_400), Err(BadSource::Every));
        for (every, fresh) in [(60, 119), (60, 86_401)] {
            assert_eq!(new("https://a.b", "/x", every, fresh), Err(BadSource::Fresh));
        }
        let shown = format!("{:?}", source("https://a.b/c?key=sk-1", "/x"));
        assert!(shown.contains("a.b") && !shown.contains("sk-1"), "{shown}");
    }

    #[tokio::test]
    async fn a_source_tells_the_rate_or_what_is_wrong_with_it() {
        let server = Server::start("127.0.0.1:0", |request| match path(request) {
            "/good" => answer("200 OK", "", r#"{"bitcoin":{"usd":100000.0}}"#),
            "/moved" => answer("302 Found", "location: /good\r\n", ""),
            "/broken" => answer("500 Oh", "", r#"{"bitcoin":{"usd":100000.0}}"#),
            "/huge" => {
                answer("200 OK", "", format!(r#"{{"bitcoin":{{"usd":1}}}}{}"#, " ".repeat(ANSWER_BYTES_MAX)))
            }
            "/garbage" => answer("200 OK", "", "<html>"),
            "/else" => answer("200 OK", "", r#"{"bitcoin":{"eur":1}}"#),
            "/odd" => answer("200 OK", "", r#"{"bitcoin":{"usd":"much"}}"#),
            "/free" => answer("200 OK", "", r#"{"bitcoin":{"usd":0}}"#),
            _ => None,
        })
        .await;
        let host = format!("127.0.0.1:{}", server.port);
        let (listed, public) = (Client::of_node(std::slice::from_ref(&host)), Client::of_node(&[]));
        let ask = async |client: &Client, path: &str| {
            let asked = source(&format!("http://{host}{path}"), "/bitcoin/usd").ask(client).await;
            asked.map_err(|trouble| trouble.to_string())
        };
        assert_eq!(ask(&listed, "/good").await, Ok(Rate::from_sats_per_usd(1000).unwrap()));
        for (path, words) in [
            ("/moved", "status 302"),
            ("/broken", "status 500"),
            ("/huge", "over 65536 bytes"),
            ("/garbage", "no JSON"),
            ("/else", "nothing at \"/bitcoin/usd\""),
            ("/odd", "no price in dollars"),
            ("/free", "a rate of zero"),
        ] {
            let refused = ask(&listed, path).await.unwrap_err();
            assert!(refused.contains(words), "{path}: {refused}");
        }
        let refused = ask(&public, "/good").await.unwrap_err();
        assert!(refused.contains("the operator has listed"), "{refused}");
        assert_eq!(server.seen().len(), 8, "a private host is not even asked");
    }
}
