//! `/memory/export`: all files of an agent's state as one JSON document.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oa_nips::files::Code;
use serde_json::{Value, json};

use super::state::MARKER;
use super::{OneFile, at};
use crate::namespace::error::Error;
use crate::namespace::mount::Mounts;
use crate::namespace::path::Path;
use crate::namespace::service::{FileType, State};

/// Bytes of the document: what one message of the operator protocol holds.
pub(crate) const BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) fn mount(mounts: &mut Mounts) {
    let export = OneFile::value(|cx| export(cx.subject()?.state, BYTES_MAX)).fixed();
    mounts.mount_file(at("/memory/export"), FileType::Value, Arc::new(export), "all of the state");
}

/// `{path: text}`, and `{path: {"base64": …}}` for what is no text.
fn export(state: &dyn State, bytes_max: usize) -> Result<Vec<u8>, Error> {
    let too_large = || {
        let reason =
            format!("the state has over {bytes_max} bytes: copy it file by file, or export the agent");
        Error::new(Code::TooLarge, "/memory/export", reason)
    };
    let (mut files, mut bytes) = (BTreeMap::new(), 0_usize);
    // Alarms are files only under their own folder.
    let paths = state.paths("/")?.into_iter().chain(state.paths("/schedule/")?);
    for text in paths {
        let path: Path = text.parse().map_err(|reason| Error::invalid_path(&text, reason))?;
        if path.name() == Some(MARKER) {
            continue;
        }
        let Some(content) = state.read(&path)? else { continue };
        let shown = match String::from_utf8(content) {
            Ok(text) => Value::from(text),
            Err(error) => json!({ "base64": STANDARD.encode(error.as_bytes()) }),
        };
        // Escapes make more of a text than it has bytes.
        bytes += text.len() + shown.to_string().len() + 4;
        if bytes > bytes_max {
            return Err(too_large());
        }
        files.insert(text, shown);
    }
    serde_json::to_vec(&files).map_err(|error| Error::io("/memory/export", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::MemoryState;

    fn state(files: &[(&str, &[u8])]) -> MemoryState {
        MemoryState(files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect())
    }

    #[test]
    fn text_is_text_and_bytes_are_base64() {
        let state = state(&[
            ("/memory/a", b"one\n\"two\""),
            ("/goals/.dir", b""),
            ("/memory/b", b"\xff\x00"),
            ("/schedule/tea.json", b"{}"),
        ]);
        let all: Value = serde_json::from_slice(&export(&state, BYTES_MAX).unwrap()).unwrap();
        let expected = json!({
            "/memory/a": "one\n\"two\"",
            "/memory/b": { "base64": "/wA=" },
            "/schedule/tea.json": "{}",
        });
        assert_eq!(all, expected);
    }

    #[test]
    fn what_is_too_large_says_what_to_do_and_what_just_fits_is_whole() {
        let state = state(&[("/memory/a", &[b'\n'; 100])]);
        let whole = export(&state, 300).unwrap();
        let least = (0..300).find(|max| export(&state, *max).is_ok()).unwrap();
        assert!((whole.len() - 4..whole.len() + 4).contains(&least), "{least} for {}", whole.len());
        let error = export(&state, 100).unwrap_err();
        assert!(error.code == Code::TooLarge && error.reason.contains("file by file"), "{error}");
    }
}
