//! Printing: results on stdout, everything else on stderr; with `--json` one object a line.

use std::io::{IsTerminal, Write};

use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// One JSON object a line.
    pub(crate) json: bool,
}

impl Output {
    /// A result for people; nothing with `--json`. A reader that has gone away is no failure.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
        }
    }

    /// A result for programs; nothing without `--json`.
    pub(crate) fn object(self, value: &impl Serialize) {
        if self.json {
            let text = serde_json::to_string(value).unwrap_or_default();
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// A file's bytes, as they are, also with `--json`.
    pub(crate) fn bytes(self, bytes: &[u8]) -> std::result::Result<(), crate::error::Error> {
        let mut out = std::io::stdout().lock();
        Ok(out.write_all(bytes).and_then(|()| out.flush())?)
    }

    /// Something beside the result.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    /// Whether a person looks at stdout.
    pub(crate) fn is_terminal(self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }
}
