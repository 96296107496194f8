//! The door that an agent's requests to hosts go through, whichever file they are asked by: what the manifest's `[http]`
//! allows, and how many it has of today.
//!
//! `/http/request` goes through it, and so does whoever has the node ask a domain whose a name is: that is a request to
//! a host too, with words of the asker's in it.

use std::sync::Arc;

use oa_nips::nostr::types::url::Url;

use super::send::place;
use super::used::Requests;
use crate::agent::manifest::{Http, Manifest, Method, MountSpec};
use crate::namespace::error::Error;
use crate::namespace::mount::Access;
use crate::namespace::service::Context;
use crate::store::Store;
use crate::time::Time;

/// Where requests are counted.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    requests: Requests,
    time: Arc<dyn Time>,
}

impl Door {
    pub(crate) fn new(store: Store, time: Arc<dyn Time>) -> Self {
        Self { requests: Requests(store), time }
    }

    /// Whether a manifest leaves its agent the door at all: its mounts may take `/http` away.
    ///
    /// # Errors
    /// That it does not.
    pub(crate) fn stands(manifest: &Manifest) -> Result<(), String> {
        let covers = |spec: &&MountSpec| spec.from.is_empty() && matches!(spec.path.as_str(), "/" | "/http");
        match manifest.mounts.iter().rev().find(covers) {
            Some(MountSpec { access: Access::ReadOnly | Access::SignOnly | Access::Disabled, .. }) => {
                Err("the manifest's mounts take /http away".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a manifest lets a request go there.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn admit(rules: &Http, method: Method, url: &Url) -> Result<(), String> {
        if !rules.methods.contains(&method) {
            return Err(format!("{method} is not among the methods of the manifest's [http]"));
        }
        if !rules.allow.iter().any(|site| site.covers(url)) {
            return Err(format!("{} is not on the allowlist of the manifest's [http]", place(url)));
        }
        Ok(())
    }

    /// Counts one more request of an agent, durably, before it is made; answers its number.
    ///
    /// # Errors
    /// `BudgetExceeded` when the day's are used up.
    pub(crate) async fn count(&self, cx: &Context<'_>) -> Result<u64, Error> {
        let subject = cx.subject()?;
        let per_day = super::super::children::left(&self.requests.0, cx, subject.manifest.http.per_day)?;
        self.requests.count(subject.row.id, per_day, self.time.now_ms()).await
    }
}
