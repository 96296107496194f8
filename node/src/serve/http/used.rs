//! What is kept of requests: how many an agent made today, and the answers to the last of them.

use oa_nips::files::Code;
use oa_nips::port::RowWrite;
use serde::{Deserialize, Serialize};

use crate::agent::AgentId;
use crate::namespace::error::Error;
use crate::store::Store;
use crate::store::backend::BackendError;
use crate::store::write::{Verdict, Write};

/// The spaces among the store's rows: counts by agent; answers by agent and number.
const USED: &str = "http.used";
const ANSWERS: &str = "http.answers";
/// Answers of one agent that are kept.
pub(super) const KEPT_MAX: u64 = 100;
/// Largest answer that is kept whole, in bytes of its JSON.
pub(super) const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Times that counting is tried again when somebody else counts at once.
const TRIES: usize = 8;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// What an agent has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    /// Days since 1970, by UTC.
    day: u64,
    /// Requests on that day.
    count: u32,
    /// Requests ever: the number of the next.
    next: u64,
}

/// The requests of agents.
#[derive(Debug, Clone)]
pub(super) struct Requests(pub(super) Store);

impl Requests {
    /// Counts one more request, durably, before it is made: a crash may leave one too many. Answers its number.
    ///
    /// # Errors
    /// `BudgetExceeded` when the day's are used up.
    pub(super) async fn count(&self, agent: AgentId, per_day: u32, now_ms: u64) -> Result<u64, Error> {
        for _ in 0..TRIES {
            let (version, used) = self.used(agent, now_ms)?;
            if used.count >= per_day {
                let reason = format!(
                    "{} of {per_day} requests of today are made; a new day begins at midnight, UTC",
                    used.count
                );
                return Err(Error::new(Code::BudgetExceeded, "/", reason));
            }
            let counted = Used { count: used.count + 1, next: used.next + 1, ..used };
            let value = serde_json::to_vec(&counted).ok();
            let row =
                RowWrite { space: USED.to_owned(), key: agent.to_string(), expect_version: version, value };
            if self.0.write(Write::Row(row)).await.map_err(io)? == Verdict::Done {
                return Ok(used.next);
            }
        }
        Err(Error::new(Code::RateLimited, "/", "too many requests at once"))
    }

    /// How many requests an agent has made today.
    pub(super) fn today(&self, agent: AgentId, now_ms: u64) -> Result<u32, Error> {
        Ok(self.used(agent, now_ms)?.1.count)
    }

    fn used(&self, agent: AgentId, now_ms: u64) -> Result<(u64, Used), Error> {
        let row = self.0.row(USED, &agent.to_string()).map_err(io)?;
        let version = row.as_ref().map_or(0, |row| row.version);
        let used: Used = row.and_then(|row| serde_json::from_slice(&row.value).ok()).unwrap_or_default();
        let day = now_ms / DAY_MS;
        // A clock that went back does not open a day again.
        Ok((version, if day > used.day { Used { day, count: 0, ..used } } else { used }))
    }

    /// Keeps an answer, and lets the oldest go.
    pub(super) async fn keep(&self, agent: AgentId, n: u64, json: Vec<u8>) -> Result<(), Error> {
        let row =
            RowWrite { space: ANSWERS.to_owned(), key: key(agent, n), expect_version: 0, value: Some(json) };
        let mut unit = vec![Write::Row(row)];
        let old = n.checked_sub(KEPT_MAX).map(|n| key(agent, n));
        if let Some(old) = old
            && let Some(row) = self.0.row(ANSWERS, &old).map_err(io)?
        {
            let gone =
                RowWrite { space: ANSWERS.to_owned(), key: old, expect_version: row.version, value: None };
            unit.push(Write::Row(gone));
        }
        self.0.commit(unit).await.map(drop).map_err(io)
    }

    /// The answers that are kept: number and size.
    pub(super) fn kept(&self, agent: AgentId) -> Result<Vec<(u64, u64)>, Error> {
        let prefix = format!("{:08x}/", agent.0);
        let limit = usize::try_from(KEPT_MAX).unwrap_or(usize::MAX);
        let rows = self.0.rows(ANSWERS, &prefix, limit).map_err(io)?;
        let size = |(key, row): (String, oa_nips::port::Row)| {
            let n = u64::from_str_radix(key.strip_prefix(&prefix)?, 16).ok()?;
            Some((n, row.value.len() as u64))
        };
        Ok(rows.into_iter().filter_map(size).collect())
    }

    /// One answer.
    pub(super) fn answer(&self, agent: AgentId, n: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.0.row(ANSWERS, &key(agent, n)).map_err(io)?.map(|row| row.value))
    }
}

/// Sorts as the numbers do.
fn key(agent: AgentId, n: u64) -> String {
    format!("{:08x}/{n:016x}", agent.0)
}

fn io(error: BackendError) -> Error {
    Error::io("/", error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryBackend;

    const ALICE: AgentId = AgentId(1);

    fn requests() -> Requests {
        Requests(Store::new(Arc::new(MemoryBackend::default())).unwrap())
    }

    #[tokio::test]
    async fn a_days_requests_are_counted_and_end() {
        let requests = requests();
        assert_eq!(requests.count(ALICE, 2, 0).await, Ok(0));
        assert_eq!(requests.count(ALICE, 2, DAY_MS - 1).await, Ok(1));
        assert_eq!(requests.count(ALICE, 2, DAY_MS - 1).await.unwrap_err().code, Code::BudgetExceeded);
        assert_eq!(requests.count(AgentId(2), 2, 0).await, Ok(0), "another's are another's");
        assert_eq!(requests.count(ALICE, 2, DAY_MS).await, Ok(2), "a new day");
        assert_eq!(requests.today(ALICE, DAY_MS), Ok(1));
        assert_eq!(requests.today(ALICE, 0), Ok(1), "a clock that went back");
    }

    #[tokio::test]
    async fn requests_at_once_are_each_counted() {
        let requests = requests();
        let all = futures_util::future::join_all((0..4).map(|_| requests.count(ALICE, 100, 0))).await;
        let mut numbers: Vec<u64> = all.into_iter().map(Result::unwrap).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);
        assert_eq!(requests.today(ALICE, 0), Ok(4));
    }

    #[tokio::test]
    async fn the_last_answers_are_kept() {
        let requests = requests();
        for n in 0..KEPT_MAX + 3 {
            requests.keep(ALICE, n, n.to_string().into_bytes()).await.unwrap();
        }
        let kept = requests.kept(ALICE).unwrap();
        assert_eq!(
            (kept.len() as u64, kept.first(), kept.last()),
            (KEPT_MAX, Some(&(3, 1)), Some(&(KEPT_MAX + 2, 3)))
        );
        assert_eq!(requests.answer(ALICE, 2), Ok(None));
        assert_eq!(requests.answer(ALICE, 3), Ok(Some(b"3".to_vec())));
        assert!(requests.kept(AgentId(2)).unwrap().is_empty());
    }
}
