//! Printing: results on stdout, everything else on stderr; with `--json` one object a line.

use std::io::{IsTerminal, Write};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde::Serialize;
use serde_json::Value;

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

    /// An object for people: a line a field, its values in one column.
    pub(crate) fn fields(self, object: &Value) {
        let fields = || object.as_object().into_iter().flatten();
        let width = fields().map(|(key, _)| key.len()).max().unwrap_or_default();
        for (key, value) in fields() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.say(format!("{key:<width$} {value}"));
        }
    }

    /// A QR code for a person's terminal; nothing elsewhere, or for more than a code holds. Black on white whatever the
    /// terminal's colours are: many phones cannot read the inverse.
    pub(crate) fn qr(self, text: &str) {
        if self.is_terminal()
            && let Ok(code) = QrCode::new(text)
        {
            self.say(black_on_white(&code.render::<Dense1x2>().build()));
        }
    }

    /// Whether a person looks at stdout.
    pub(crate) fn is_terminal(self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }
}

fn black_on_white(code: &str) -> String {
    code.lines().map(|line| format!("\x1b[30;107m{line}\x1b[0m\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_a_code_has_its_colours_and_gives_them_back() {
        let code = black_on_white("█ █\n ▄ ");
        assert_eq!(code, "\x1b[30;107m█ █\x1b[0m\n\x1b[30;107m ▄ \x1b[0m\n");
    }
}
