//! `[strangers]`: what turns that somebody else than the owner began may use besides what all may.

use serde::{Deserialize, Serialize};

use crate::namespace::Path;

/// Paths that can be named.
const PATHS_MAX: usize = 32;

/// `[strangers]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Strangers {
    /// Files and folders of the tree, such as `/wallet/invoice` for an agent that is to be paid by its customers.
    pub allow: Vec<String>,
}

impl Strangers {
    /// Whether a path is among them, or beneath one.
    pub fn may_use(&self, path: &str) -> bool {
        let is_beneath = |allowed: &String| {
            path.strip_prefix(allowed.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.allow.iter().any(is_beneath)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.allow.len() > PATHS_MAX {
            return Err(format!("over {PATHS_MAX} paths"));
        }
        for path in &self.allow {
            let parsed: Path = path.parse().map_err(|error| format!("{path:?}: {error}"))?;
            if parsed == Path::root() || parsed.as_str() != path {
                return Err(format!("{path:?}: name what is allowed, as /wallet/invoice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_allow_what_is_beneath_them_on_whole_components() {
        let strangers = Strangers { allow: vec!["/wallet/invoice".to_owned(), "/wallet/history".to_owned()] };
        assert!(strangers.may_use("/wallet/invoice") && strangers.may_use("/wallet/history/1.json"));
        for other in ["/wallet", "/wallet/pay", "/wallet/invoices", "/"] {
            assert!(!strangers.may_use(other), "{other}");
        }
        assert_eq!(strangers.check(), Ok(()));
        for bad in ["/", "wallet", "/wallet/", "/../x", ""] {
            assert!(Strangers { allow: vec![bad.to_owned()] }.check().is_err(), "{bad}");
        }
    }
}
