//! The door: what is opened, what is refused, what is passed over. Checked before anything is decrypted.

use oa_nips::nwc::{self, Encryption};

use super::limits::Turn;
use super::machine::{Action, Job, Machine};
use super::row::{RequestRow, Stage};
use crate::backend::Preimage;
use crate::nwc::connection::Scope;
use crate::nwc::message::{Error, ErrorCode, Method, Request, Response};

/// What becomes of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gate {
    /// It is opened and worked on.
    Open,
    /// It is opened to see what it asks, and that is refused.
    Refuse(Error),
    /// It has its answer, which goes out again.
    Repeat,
    /// Nothing is done, for this reason.
    Ignore(&'static str),
}

impl Machine {
    /// Whether a request is worth the verification of its signature: nothing is done for what is late or under way.
    /// Costs no token, since anybody may have written it.
    pub(super) fn look(&self, header: &nwc::Request, now_ms: u64) -> Gate {
        let (now_s, at) = (now_ms / 1000, header.at.as_secs());
        if header.wallet != self.wallet {
            return Gate::Ignore("for another wallet");
        }
        if header.expires_at.is_some_and(|at| at.as_secs() < now_s) {
            return Gate::Ignore("expired");
        }
        if at.saturating_add(self.limits.age_max_s) < now_s {
            return Gate::Ignore("too old");
        }
        if at > now_s.saturating_add(self.limits.ahead_max_s) {
            return Gate::Ignore("dated ahead");
        }
        if self.jobs.contains_key(&header.id) {
            return Gate::Ignore("under way");
        }
        let is_heard = match self.connections.get(&header.client) {
            Some(known) => known.bucket.has(now_ms) || known.refusals.has(now_ms),
            None => self.strangers.has(now_ms),
        };
        if is_heard { Gate::Open } else { Gate::Ignore("too many requests") }
    }

    /// Judges a request by its outside, whose signature is verified. Costs a token of the connection's bucket.
    pub(super) fn admit(&mut self, header: &nwc::Request, now_ms: u64) -> Gate {
        self.now_ms = now_ms;
        let now_s = self.now_s();
        if let ignored @ Gate::Ignore(_) = self.look(header, now_ms) {
            return ignored;
        }
        let Some(known) = self.connections.get_mut(&header.client) else {
            if !self.strangers.take(now_ms) {
                return Gate::Ignore("a stranger");
            }
            return Gate::Refuse(Error::new(ErrorCode::Unauthorized, "this key has no wallet here"));
        };
        let has_token = known.bucket.take(now_ms);
        if self.done.knows(&header.id) {
            return if has_token { Gate::Repeat } else { Gate::Ignore("repeated too often") };
        }
        let refusal = if let Err(ended) = known.connection.check(now_s) {
            Error::new(ErrorCode::Unauthorized, ended.to_string())
        } else if !has_token {
            Error::new(ErrorCode::RateLimited, "too many requests: try again in a few seconds")
        } else if let Err(word) = &header.encryption {
            Error::new(ErrorCode::UnsupportedEncryption, format!("{word:?} is not nip44_v2 or nip04"))
        } else {
            return Gate::Open;
        };
        if known.refusals.take(now_ms) { Gate::Refuse(refusal) } else { Gate::Ignore("refused too often") }
    }

    /// A request was opened, or could not be.
    pub(super) fn requested(
        &mut self,
        header: &nwc::Request,
        text: Option<String>,
        refused: Option<Error>,
        entropy: [u8; 32],
    ) {
        if self.jobs.contains_key(&header.id) || self.done.knows(&header.id) {
            return;
        }
        let parsed = text.as_deref().map(Request::parse);
        if let Some(error) = refused {
            let method = match &parsed {
                Some(Ok(request)) => request.method().to_owned(),
                Some(Err(error)) => error.response().result_type.unwrap_or_default(),
                None => String::new(),
            };
            return self.refuse(header, &Response::error(&method, error));
        }
        let request = match parsed {
            Some(Ok(request)) => request,
            Some(Err(error)) => return self.refuse(header, &error.response()),
            None => {
                let error = Error::new(ErrorCode::Other, "the content cannot be decrypted as its tag says");
                return self.refuse(header, &Response::error("", error));
            }
        };
        if let Err(error) = self.allowed(header, &request) {
            return self.refuse(header, &Response::error(request.method(), error));
        }
        self.notice_encryption(header);
        self.take(header, request, entropy);
    }

    /// Whether the connection's scopes cover a request.
    fn allowed(&self, header: &nwc::Request, request: &Request) -> Result<(), Error> {
        let Some(connection) = self.connection(&header.client) else {
            return Err(Error::new(ErrorCode::Unauthorized, "this key has no wallet here"));
        };
        let may = match request {
            Request::Admin(..) => connection.scopes.contains(&Scope::Admin),
            other => Method::parse(other.method()).is_some_and(|method| connection.may(method)),
        };
        if may {
            return Ok(());
        }
        let message = format!("this connection may not {}", request.method());
        Err(Error::new(ErrorCode::Restricted, message))
    }

    fn refuse(&mut self, header: &nwc::Request, response: &Response) {
        let encryption = *header.encryption.as_ref().unwrap_or(&Encryption::Nip44);
        let (request, client, text) = (header.id, header.client, response.to_json());
        self.out.actions.push(Action::Seal { request, client, encryption, text });
    }

    /// Notifications go out as the client's requests come in.
    fn notice_encryption(&mut self, header: &nwc::Request) {
        let Some(known) = self.connections.get_mut(&header.client) else { return };
        let used = header.encryption.as_ref().ok().copied();
        if used.is_some() && known.connection.encryption != used {
            known.connection.encryption = used;
            self.keep_connection(&header.client);
        }
    }

    /// Puts a request to work, in line, or off.
    fn take(&mut self, header: &nwc::Request, request: Request, entropy: [u8; 32]) {
        let id = header.id;
        let preimage = match &request {
            Request::PayKeysend(order) => Some(order.preimage.unwrap_or(Preimage(entropy))),
            _ => None,
        };
        let row = RequestRow {
            client: header.client,
            at: header.at.as_secs(),
            expires_at: header.expires_at.map(|at| at.as_secs()),
            encryption: *header.encryption.as_ref().unwrap_or(&Encryption::Nip44),
            body: request.to_json(),
            preimage,
            stage: Stage::Received,
        };
        let turn = self.turns.offer(header.client, id);
        if turn == Turn::Full {
            let error = Error::new(ErrorCode::RateLimited, "busy: try again in a few seconds");
            return self.refuse(header, &Response::error(request.method(), error));
        }
        let job = Job::new(row, 0, request);
        let is_kept = job.is_kept();
        self.jobs.insert(id, job);
        if turn == Turn::Wait {
            if is_kept {
                self.keep(id, Stage::Received);
            }
        } else if let Some(job) = self.jobs.get_mut(&id) {
            job.has_turn = true;
            self.start(id);
        }
    }
}
