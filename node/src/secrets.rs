//! Secrets that agents use and never see: tokens for hosts, kept by the node.
//!
//! An operator writes one under `/secrets/<name>`; a request says `{secret:<name>}` where it belongs ([`fill`]), and the
//! node puts it there if the secret is for that agent and that host. Whatever comes back is rid of it ([`redact`]).
//!
//! At rest a secret is encrypted to the node's own key (NIP-44), together with its name and the hosts it may go to, so
//! that no row can be made to stand for another. What a listing shows stands beside it in clear.

pub(crate) mod fill;
pub(crate) mod redact;

use std::fmt;
use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::nostr::types::url::Url;
use oa_nips::port::{RowWrite, SignerError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::agent::site::Site;
use crate::keyring::Keyring;
use crate::namespace::Error;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::Write;

/// The space of secrets among the store's rows.
const SPACE: &str = "secrets";
/// Secrets of one node: each is opened for each request.
pub(crate) const SECRETS_MAX: usize = 256;
/// Shortest and longest value, in bytes. A shorter one would be found in any text, and could not be kept out of it.
pub(crate) const VALUE_BYTES_MIN: usize = 8;
pub(crate) const VALUE_BYTES_MAX: usize = 8192;
/// Most sites, and most agents, of one secret.
const LISTED_MAX: usize = 100;
/// Longest name.
const NAME_BYTES_MAX: usize = 63;

/// A secret in use.
#[derive(Clone)]
pub(crate) struct Secret {
    pub(crate) name: String,
    value: Zeroizing<String>,
    hosts: Vec<Site>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .field("value", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Secret {
    /// The value, for whoever sends it.
    pub(crate) fn reveal(&self) -> &str {
        &self.value
    }

    /// Whether it may go there.
    pub(crate) fn covers(&self, url: &Url) -> bool {
        self.hosts.iter().any(|site| site.covers(url))
    }

    /// A secret that nobody wrote.
    #[cfg(test)]
    pub(crate) fn made(name: &str, value: &str, hosts: &[&str]) -> Self {
        let hosts = hosts.iter().map(|host| Site::parse(host).unwrap()).collect();
        Self { name: name.to_owned(), value: Zeroizing::new(value.to_owned()), hosts }
    }
}

/// What may be known of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Where it may go; nowhere as long as nothing is listed.
    pub(crate) hosts: Vec<Site>,
    /// The agents that may use it; nothing for all.
    pub(crate) agents: Option<Vec<String>>,
    /// Milliseconds since 1970.
    pub(crate) set_at_ms: u64,
}

/// A secret at rest.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    terms: Terms,
    /// [`Sealed`], encrypted.
    sealed: String,
}

/// What is encrypted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    name: String,
    value: String,
    hosts: Vec<Site>,
    agents: Option<Vec<String>>,
}

impl Drop for Sealed {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

/// What is written to `/secrets/<name>`: this, or the mere value. What is left out stays as it was.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    hosts: Option<Vec<Site>>,
    #[serde(default)]
    agents: Option<Vec<String>>,
}

impl Drop for Written {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value);
    }
}

impl Written {
    fn parse(name: &str, content: &[u8]) -> Result<Self, Error> {
        let invalid = |reason: String| Error::invalid(name, reason);
        let text = std::str::from_utf8(content).map_err(|_| invalid("a secret is UTF-8".to_owned()))?.trim();
        if !text.starts_with('{') {
            return Ok(Self { value: Some(text.to_owned()), hosts: None, agents: None });
        }
        // The reader's words quote what it does not like, which may be the value.
        serde_json::from_str(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            invalid(format!(
                r#"{place}: not {{"value": "...", "hosts": ["api.example.com"], "agents": ["alice"]}}"#
            ))
        })
    }

    fn check(&self, name: &str) -> Result<(), Error> {
        let is_long = self.hosts.as_ref().is_some_and(|hosts| hosts.len() > LISTED_MAX)
            || self.agents.as_ref().is_some_and(|agents| agents.len() > LISTED_MAX);
        if is_long {
            return Err(Error::invalid(name, format!("over {LISTED_MAX} hosts or agents")));
        }
        match &self.value {
            Some(value) if value.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) => {
                Err(Error::invalid(name, "a secret is text, without control characters"))
            }
            Some(value) if !(VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(&value.len()) => {
                let reason = format!("a secret has {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes");
                Err(Error::invalid(name, reason))
            }
            _ => Ok(()),
        }
    }
}

/// The node's secrets.
#[derive(Debug, Clone)]
pub(crate) struct Vault {
    store: Store,
    keyring: Arc<dyn Keyring>,
}

impl Vault {
    /// The secrets of a store, under the node's key.
    pub(crate) fn new(store: Store, keyring: Arc<dyn Keyring>) -> Self {
        Self { store, keyring }
    }

    /// The names there are, sorted, and what may be known of each.
    pub(crate) fn list(&self) -> Result<Vec<(String, Terms)>, Error> {
        Ok(self.rows()?.into_iter().map(|(name, row)| (name, row.terms)).collect())
    }

    /// The write that sets a secret, or a part of it.
    pub(crate) async fn set(&self, name: &str, content: &[u8], now_ms: u64) -> Result<Write, Error> {
        if !is_name(name) {
            return Err(Error::invalid(name, "a secret's name is 1 to 63 of a-z, 0-9 and -"));
        }
        let mut written = Written::parse(name, content)?;
        written.check(name)?;
        let old = self.store.row(SPACE, name).map_err(|error| io(name, &error))?;
        let version = old.as_ref().map_or(0, |row| row.version);
        if old.is_none() && self.rows()?.len() >= SECRETS_MAX {
            return Err(Error::new(
                Code::RateLimited,
                name,
                format!("there are {SECRETS_MAX} secrets already"),
            ));
        }
        let mut was = match old {
            Some(row) => self.open(name, &row.value).await?,
            None => None,
        };
        let was = was.as_mut();
        let (value, hosts, agents) = was.map_or((None, None, None), |was| {
            (Some(std::mem::take(&mut was.value)), Some(std::mem::take(&mut was.hosts)), was.agents.take())
        });
        let value = written.value.take().or(value);
        let value =
            value.ok_or_else(|| Error::invalid(name, "there is no such secret yet: a value is needed"))?;
        let hosts = written.hosts.take().or(hosts).unwrap_or_default();
        let agents = written.agents.take().or(agents);
        let terms = Terms { hosts: hosts.clone(), agents: agents.clone(), set_at_ms: now_ms };
        let sealed = self.seal(name, &Sealed { name: name.to_owned(), value, hosts, agents }).await?;
        let value = serde_json::to_vec(&Row { terms, sealed }).ok();
        Ok(Write::Row(RowWrite {
            space: SPACE.to_owned(),
            key: name.to_owned(),
            expect_version: version,
            value,
        }))
    }

    /// The write that removes a secret; it holds from the next request on.
    pub(crate) fn remove(&self, name: &str) -> Result<Write, Error> {
        let row = self.store.row(SPACE, name).map_err(|error| io(name, &error))?;
        let row = row.ok_or_else(|| Error::not_found(name))?;
        let (space, key) = (SPACE.to_owned(), name.to_owned());
        Ok(Write::Row(RowWrite { space, key, expect_version: row.version, value: None }))
    }

    /// The secrets that an agent may use. One that cannot be opened is left out, and the log says so.
    pub(crate) async fn of_agent(&self, agent: &str) -> Result<Vec<Secret>, Error> {
        let mut secrets = Vec::new();
        for (name, row) in self.store.rows(SPACE, "", SECRETS_MAX).map_err(|error| io("/secrets", &error))? {
            let Some(mut sealed) = self.open(&name, &row.value).await? else { continue };
            if sealed.agents.as_ref().is_none_or(|agents| agents.iter().any(|one| one == agent)) {
                let value = Zeroizing::new(std::mem::take(&mut sealed.value));
                secrets.push(Secret { name, value, hosts: std::mem::take(&mut sealed.hosts) });
            }
        }
        Ok(secrets)
    }

    fn rows(&self) -> Result<Vec<(String, Row)>, Error> {
        let rows = self.store.rows(SPACE, "", SECRETS_MAX).map_err(|error| io("/secrets", &error))?;
        Ok(rows
            .into_iter()
            .filter_map(|(name, row)| Some((name, serde_json::from_slice(&row.value).ok()?)))
            .collect())
    }

    async fn seal(&self, name: &str, sealed: &Sealed) -> Result<String, Error> {
        let node = self.keyring.node();
        let plain =
            Zeroizing::new(serde_json::to_string(sealed).map_err(|_| Error::io(name, "cannot be written"))?);
        let cipher = node.nip44_encrypt(&node.public_key(), &plain).await;
        cipher.map_err(|error| unavailable(name, &error))
    }

    /// A row's secret; nothing if it is not this node's, or another's under this name.
    async fn open(&self, name: &str, row: &[u8]) -> Result<Option<Sealed>, Error> {
        let Ok(row) = serde_json::from_slice::<Row>(row) else { return Ok(None) };
        let node = self.keyring.node();
        let plain = match node.nip44_decrypt(&node.public_key(), &row.sealed).await {
            Ok(plain) => Zeroizing::new(plain),
            Err(error @ SignerError::Unavailable(_)) => return Err(unavailable(name, &error)),
            Err(SignerError::Refused(_)) => {
                tracing::warn!(name, "a secret cannot be opened with the node's key");
                return Ok(None);
            }
        };
        let sealed = serde_json::from_str::<Sealed>(&plain).ok().filter(|sealed| sealed.name == name);
        if sealed.is_none() {
            tracing::warn!(name, "a secret is not what its row says");
        }
        Ok(sealed)
    }
}

/// Whether a text may name a secret.
pub(crate) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(good)
}

fn io(name: &str, error: &BackendError) -> Error {
    Error::io(name, error.to_string())
}

fn unavailable(name: &str, error: &SignerError) -> Error {
    Error::new(Code::Unavailable, name, error.to_string())
}

#[cfg(test)]
mod tests;
