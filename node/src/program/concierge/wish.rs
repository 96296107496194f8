//! What became of a change that somebody had to consent to: the data of a trigger of kind `approval`.

use oa_nips::files::Verb;
use serde::Deserialize;

/// The end of a wish; fields the concierge does not need are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Wish {
    /// What was to be changed.
    pub(super) path: String,
    /// How.
    pub(super) verb: Verb,
    /// `done`, `denied`, `expired` or `failed`.
    outcome: String,
}

impl Wish {
    pub(super) fn is_done(&self) -> bool {
        self.outcome == "done"
    }

    /// Why it was not done, in words.
    pub(super) fn why_not(&self) -> &'static str {
        match self.outcome.as_str() {
            "denied" => "consent was refused",
            "expired" => "nobody consented in time",
            _ => "there was consent, and then it failed",
        }
    }
}
