//! `/nostr/query`: stored events, asked of relays.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use oa_nips::files::Code;
use oa_nips::filter::{self, LIMIT_MAX};
use oa_nips::nostr::{Event, EventId, RelayUrl};
use oa_nips::port::Subscribe;
use serde_json::{Map, Value};

use crate::namespace::error::Error;
use crate::namespace::service::Context;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Relays of the manifest that one query may name.
const NAMED_MAX: usize = 3;
/// Until what has come is answered. A call is answered within ten seconds.
const DEADLINE: Duration = Duration::from_secs(8);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What stands in an error.
const PATH: &str = "/nostr/query";

/// Who is asked.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) subscribe: Arc<dyn Subscribe>,
    /// The node's own relays, where no others are named.
    pub(super) own: Arc<[RelayUrl]>,
}

impl Asked {
    /// Asks, and answers the events as a JSON array, the newest first. `relays` beside the filter names up to three of
    /// those that the manifest lists.
    pub(super) async fn query(&self, cx: &Context<'_>, request: &[u8]) -> Result<Vec<u8>, Error> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(Error::too_large(PATH, REQUEST_BYTES_MAX));
        }
        let mut object: Map<String, Value> = serde_json::from_slice(request)
            .map_err(|error| Error::invalid(PATH, format!("takes a filter: {error}")))?;
        let relays = match object.remove("relays") {
            Some(named) => named_relays(&named, &cx.subject()?.manifest.nostr.relays)?,
            None => self.own.to_vec(),
        };
        let filter = filter::read(object).map_err(|error| Error::invalid(PATH, error.to_string()))?;
        let limit = filter.limit.unwrap_or(usize::MAX).min(usize::try_from(LIMIT_MAX).unwrap_or(usize::MAX));
        let filter = filter.limit(limit);
        let asked = relays.iter().map(|relay| self.subscribe.fetch(relay, filter.clone(), DEADLINE));
        let answers = join_all(asked).await;
        if answers.iter().all(Result::is_err) {
            let reasons: Vec<String> =
                answers.iter().filter_map(|answer| answer.as_ref().err()).map(ToString::to_string).collect();
            return Err(Error::new(
                Code::Unavailable,
                PATH,
                format!("no relay answered: {}", reasons.join("; ")),
            ));
        }
        let mut events: BTreeMap<EventId, Event> = BTreeMap::new();
        for event in answers.into_iter().flatten().flatten() {
            // The node's connections may see more than is the agent's business.
            if filter::admits(&filter, &event) {
                events.insert(event.id, event);
            }
        }
        answer(events.into_values().collect(), limit)
    }
}

fn answer(mut events: Vec<Event>, limit: usize) -> Result<Vec<u8>, Error> {
    events.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(a.id.cmp(&b.id)));
    events.truncate(limit);
    let json = serde_json::to_vec(&events).map_err(|error| Error::io(PATH, error.to_string()))?;
    if json.len() > ANSWER_BYTES_MAX {
        let reason = format!(
            "{} events of {} bytes, at most {ANSWER_BYTES_MAX}: set a lower limit",
            events.len(),
            json.len()
        );
        return Err(Error::new(Code::TooLarge, PATH, reason));
    }
    Ok(json)
}

fn named_relays(named: &Value, listed: &[RelayUrl]) -> Result<Vec<RelayUrl>, Error> {
    let shape = || Error::invalid(PATH, format!("relays: 1 to {NAMED_MAX} addresses of relays"));
    let named = named.as_array().filter(|named| (1..=NAMED_MAX).contains(&named.len())).ok_or_else(shape)?;
    let mut relays = BTreeSet::new();
    for relay in named {
        let relay = relay.as_str().and_then(|relay| RelayUrl::parse(relay).ok()).ok_or_else(shape)?;
        if !listed.contains(&relay) {
            let reason = format!("{relay} is not among nostr.relays of the manifest");
            return Err(Error::new(Code::PermissionDenied, PATH, reason));
        }
        relays.insert(relay);
    }
    Ok(relays.into_iter().collect())
}
