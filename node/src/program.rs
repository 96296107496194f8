//! Programs: what an agent does with a tick.
//!
//! A program is handed a [`Tick`] and has no power but what is in it: a namespace, a clock that is fixed by the
//! envelope, and randomness that is fixed by it too. Returning `Ok` commits; a [`Fault`] rolls back.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use crate::engine::clock::{Clock, Random};
use crate::namespace::{self, Namespace};

mod bench;
pub mod concierge;
mod echo;

pub use bench::Bench;
pub use concierge::Concierge;
pub use echo::Echo;

/// What a program's hook returns.
pub type Run<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + 'a>>;

/// One run of an agent for one envelope.
#[derive(Debug)]
pub struct Tick {
    /// The files it may touch; writes stay in an overlay until the tick commits.
    pub ns: Namespace,
    /// The time, as the envelope fixes it.
    pub clock: Clock,
    /// Randomness, as the envelope fixes it.
    pub random: Random,
}

/// Why a tick rolls back.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The program gave up: what it says is kept in the dead letter.
    #[error("{0}")]
    Failed(String),
    /// A file operation that the program did not handle.
    #[error(transparent)]
    File(#[from] namespace::Error),
    /// The program broke a rule that is not broken by mistake.
    #[error("security violation: {0}")]
    Violation(String),
}

/// A native program (DESIGN section 6). Hooks that are not overridden do nothing.
pub trait Agent: Debug + Send + Sync {
    /// The first envelope of an agent's life.
    fn on_create<'a>(&'a self, _tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async { Ok(()) })
    }

    /// The first envelope after the agent was dormant; runs before [`Agent::on_trigger`] in the same tick.
    fn on_wake<'a>(&'a self, _tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async { Ok(()) })
    }

    /// Mail, an alarm, or anything else that arrived.
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a>;

    /// The agent is about to become dormant: an envelope of its own.
    fn on_sleep<'a>(&'a self, _tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async { Ok(()) })
    }

    /// An envelope of this agent has become a dead letter.
    fn on_error<'a>(&'a self, _tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async { Ok(()) })
    }
}
