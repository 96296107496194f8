//! `/agents/new`: creates an agent from a manifest, and says whose key it has.
//!
//! A call takes the manifest. A line of JSON before it, [`Order`], says that the agent's key is not one of the node's
//! seed.

use std::sync::Arc;

use oa_nips::files::Code;
use oa_nips::nostr::{PublicKey, ToBech32};
use oa_nips::port::SignerError;
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroize as _;

use super::creator::Creator;
use super::ctl::text;
use super::{OneFile, Parts, at};
use crate::agent::manifest::{Manifest, Npub};
use crate::bunker::uri::BunkerUri;
use crate::elsewhere::{self, AGENTS_MAX, Reach};
use crate::keyring::Adopted;
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::service::{Context, Effect, FileType};
use crate::operator::Roles;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::Write;

/// The file.
const NEW: &str = "/agents/new";

/// The line before a manifest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    /// The address of the bunker that has the agent's key, `bunker://…`; its secret is used and not kept.
    #[serde(default)]
    bunker: String,
    /// Whether the node makes a key for it that is not of the seed, so that the agent can move.
    #[serde(default)]
    key: Option<Kind>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Own,
}

impl Drop for Order {
    fn drop(&mut self) {
        self.bunker.zeroize();
    }
}

/// Creates agents.
#[derive(Debug)]
struct Maker {
    store: Store,
    creator: Arc<Creator>,
    roles: Roles,
    reach: Reach,
}

pub(super) fn mount(mounts: &mut Mounts, parts: &Parts, creator: &Arc<Creator>) {
    let maker = Arc::new(Maker {
        store: parts.store.clone(),
        creator: creator.clone(),
        roles: parts.roles.clone(),
        reach: parts.reach.clone(),
    });
    let new = OneFile::call(move |cx, change| {
        let maker = maker.clone();
        Box::pin(async move { maker.make(cx, text(change)?).await })
    });
    mounts.mount_file(at(NEW), FileType::Call, Arc::new(new), "creates an agent");
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::invalid(NEW, reason.into())
}

fn io(error: BackendError) -> Error {
    Error::io(NEW, error.to_string())
}

impl Maker {
    async fn make(&self, cx: &Context<'_>, text: &str) -> Result<Effect, Error> {
        let (order, text) = if text.starts_with('{') {
            let (order, text) = text.split_once('\n').unwrap_or((text, ""));
            // Its own words could quote the secret.
            let order: Order = serde_json::from_str(order).map_err(|_| {
                invalid(r#"takes a line {"bunker": "bunker://…"} or {"key": "own"}, and a manifest after it"#)
            })?;
            (Some(order), text)
        } else {
            (None, text)
        };
        let mut manifest = Manifest::parse(text).map_err(|error| invalid(format!("manifest: {error}")))?;
        if manifest.parent.is_some() {
            return Err(invalid("manifest: parent: only /children/new of an agent makes it a parent"));
        }
        // Who creates an agent owns it, unless the manifest says who does.
        manifest.owner.get_or_insert(Npub(cx.caller));
        self.creator.check(&manifest).map_err(invalid)?;
        let name = manifest.name.clone();
        let (pubkey, writes) = match order {
            Some(order) => self.with_key(cx, manifest, &order).await?,
            None => {
                let (_, pubkey, write) = self.creator.create(manifest, cx.now_ms);
                (pubkey, vec![write])
            }
        };
        let reply = json!({ "name": name, "npub": pubkey.to_bech32().unwrap_or_default() });
        Ok(Effect { writes, reply: reply.to_string().into_bytes(), ..Effect::default() })
    }

    async fn with_key(
        &self,
        cx: &Context<'_>,
        manifest: Manifest,
        order: &Order,
    ) -> Result<(PublicKey, Vec<Write>), Error> {
        let refused = |code, reason: String| Err(Error::new(code, NEW, reason));
        // Before a secret is used up, or a key made, in vain.
        if self.store.agent_named(&manifest.name).map_err(io)?.is_some() {
            return refused(Code::Exists, format!("there is an agent named {} already", manifest.name));
        }
        if elsewhere::all(&self.store).map_err(io)?.len() >= AGENTS_MAX {
            return refused(Code::RateLimited, format!("{AGENTS_MAX} agents have such keys already"));
        }
        let adopted = match order.key {
            Some(Kind::Own) if order.bunker.is_empty() => {
                self.reach.make().map_err(|reason| Error::new(Code::Unavailable, NEW, reason))?
            }
            Some(Kind::Own) => return Err(invalid("a key is either the agent's own or a bunker's")),
            None => self.in_bunker(&order.bunker).await?,
        };
        let key = adopted.signer().public_key();
        if self.reach.keyring.whose(&key).is_some() {
            return refused(Code::Exists, "an agent of this node has that key already".to_owned());
        }
        if self.roles.operators.contains(&key) || key == cx.caller {
            return refused(
                Code::PermissionDenied,
                "that is a person's key: an agent needs one of its own".to_owned(),
            );
        }
        let id = self.creator.number();
        let kept = elsewhere::put(&self.store, id, &adopted).map_err(io)?;
        self.reach.adopt(id, adopted);
        Ok((key, vec![self.creator.create_as(id, key, manifest, cx.now_ms), kept]))
    }

    async fn in_bunker(&self, address: &str) -> Result<Adopted, Error> {
        let uri: BunkerUri = address.parse().map_err(|error| invalid(format!("bunker: {error}")))?;
        self.reach.connect(uri).await.map_err(|error| {
            let code = match error {
                SignerError::Refused(_) => Code::PermissionDenied,
                SignerError::Unavailable(_) => Code::Unavailable,
            };
            Error::new(code, NEW, error.to_string())
        })
    }
}
