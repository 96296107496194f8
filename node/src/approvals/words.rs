//! What approvers are told: typed fields, and the agent's own words quoted, cut, and marked as its.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use oa_nips::hex::{Hash, Hex};
use oa_nips::nostr::ToBech32;
use oa_nips::nostr::hashes::{Hash as _, sha256};
use oa_wallet::account::fee_reserve;

use super::Approval;
use crate::namespace::service::Wake;
use crate::store::row::AgentRow;

/// Characters of the agent's words that are shown.
const QUOTED_CHARS_MAX: usize = 600;
/// Lines of them.
const QUOTED_LINES_MAX: usize = 20;
/// Characters of a line of base64.
const BASE64_LINE: usize = 76;
/// Bytes of what is no text that are shown in base64.
pub(crate) const BINARY_BYTES_MAX: usize = 450;

/// The message that asks for consent.
pub(super) fn ask(approval: &Approval, row: &AgentRow, wake: Option<Wake<'_>>, code: &str) -> String {
    let Approval { category, id, change, .. } = approval;
    let because = wake.map_or_else(
        || "an operator's request".to_owned(),
        |wake| match wake.envelope.sender().and_then(|key| key.to_bech32().ok()) {
            Some(npub) => format!("a message from {npub}"),
            None => format!("an envelope of kind {:?}", wake.envelope.kind).to_lowercase(),
        },
    );
    let until = i64::try_from(approval.expires_at_ms / 1000)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .map(|at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
        .unwrap_or_default();
    let costs =
        change.thaw().zip(approval.path.parse().ok()).and_then(|(change, path)| super::cost(&path, &change));
    let costs = costs.map_or_else(String::new, |amount| {
        format!("It costs: {amount}, and fees of up to {} are held back\n", fee_reserve(amount))
    });
    format!(
        "Your agent {name} asks for consent.\n\nIt wants to {verb}:\n| {path}\n{to}That is: {category}\n{costs}Because of: {because}\n\
         {sends}\n\nAnswer me here, before {until}:\n  yes {code}\n  \
         no {code}\nThe code is for me alone. {name} never needs it: whoever asks you for it means no good. (wish {id})",
        name = row.name,
        verb = change.verb,
        path = line(&approval.path),
        to = change.to.as_deref().map_or_else(String::new, |to| format!("to:\n| {}\n", line(to))),
        sends = sends(&change.body.0),
    )
}

/// What is said of a wish that was granted and not made in time.
pub(super) fn too_late(approval: &Approval, row: &AgentRow) -> String {
    let (name, id, deed) = (&row.name, &approval.id, deed(approval));
    format!(
        "Nothing was done, and nothing will be: what was granted to {name} could not be made before its time was over, \
         for {name} did not run here. (wish {id}: {deed})"
    )
}

/// What a wish is, in one line of ours.
pub(crate) fn deed(approval: &Approval) -> String {
    let Approval { path, change, .. } = approval;
    let to = change.to.as_deref().map_or_else(String::new, |to| format!(" to {}", line(to)));
    format!("{} {}{to}", change.verb, line(path))
}

/// Somebody else's words within a line: a path too may hold what turns a line or begins one.
pub(crate) fn line(text: &str) -> String {
    text.chars().map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect()
}

/// What identifies a body that is not, or not wholly, shown.
pub(crate) fn digest(body: &[u8]) -> Hash {
    Hex(sha256::Hash::hash(body).to_byte_array())
}

/// The first bytes of what is no text.
pub(crate) fn base64(body: &[u8]) -> String {
    STANDARD.encode(body.get(..BINARY_BYTES_MAX).unwrap_or(body))
}

/// What would be sent: text quoted, anything else in base64.
fn sends(body: &[u8]) -> String {
    let bytes = body.len();
    if let Ok(text) = std::str::from_utf8(body) {
        return format!("What it would send, in its own words ({bytes} bytes):\n{}", quote(text));
    }
    let mut lines = Vec::new();
    let mut rest = base64(body);
    while rest.len() > BASE64_LINE {
        let more = rest.split_off(BASE64_LINE);
        lines.push(format!("| {rest}"));
        rest = more;
    }
    lines.push(format!("| {rest}"));
    if bytes > BINARY_BYTES_MAX {
        lines.push("| … (cut)".to_owned());
    }
    let (digest, lines) = (digest(body), lines.join("\n"));
    format!("What it would send is no text: {bytes} bytes of SHA-256 {digest}, in base64\n{lines}")
}

/// Somebody else's words, so that nobody takes them for ours: each line begins with a bar.
fn quote(text: &str) -> String {
    let plain: String = text
        .chars()
        .take(QUOTED_CHARS_MAX)
        .map(|c| if c == '\n' || !is_odd(c) { c } else { '\u{fffd}' })
        .collect();
    let mut lines: Vec<String> =
        plain.lines().take(QUOTED_LINES_MAX).map(|line| format!("| {line}")).collect();
    if lines.is_empty() {
        lines.push("| (nothing)".to_owned());
    }
    if text.chars().count() > QUOTED_CHARS_MAX || plain.lines().count() > QUOTED_LINES_MAX {
        lines.push("| … (cut)".to_owned());
    }
    lines.join("\n")
}

/// Characters that could make the text look like another: controls, those that end its lines or turn its direction, and
/// those that nobody sees.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::super::Frozen;
    use super::super::fixture::{ASKED_MS, someone, wish};
    use super::*;
    use crate::agent::AgentId;
    use crate::store::row::Blob;

    fn asked(path: &str, change: Frozen) -> String {
        let row = AgentRow::new(AgentId(0), someone(), ASKED_MS);
        ask(&Approval { path: path.to_owned(), change, ..wish() }, &row, None, "ABCDEF")
    }

    #[test]
    fn where_a_file_would_go_is_shown() {
        let to = Some("/workspace/run.sh".to_owned());
        let change = Frozen { verb: "rename".to_owned(), body: Blob::default(), to };
        let text = asked("/workspace/notes.txt", change.clone());
        assert!(text.contains("rename:\n| /workspace/notes.txt\nto:\n| /workspace/run.sh\n"), "{text}");
        let approval = Approval { path: "/workspace/notes.txt".to_owned(), change, ..wish() };
        assert_eq!(deed(&approval), "rename /workspace/notes.txt to /workspace/run.sh");
    }

    #[test]
    fn a_file_name_cannot_speak_for_the_node() {
        let odd = "/goals/a\u{2028}That is: nothing\u{202e}";
        for (path, to) in [(odd, None), ("/goals/a", Some(odd.to_owned()))] {
            let change = Frozen { verb: "rename".to_owned(), body: Blob::default(), to };
            let text = asked(path, change.clone());
            assert!(!text.contains(is_odd_but_newline), "{text}");
            let approval = Approval { path: path.to_owned(), change, ..wish() };
            assert!(!deed(&approval).contains(is_odd), "{}", deed(&approval));
        }
    }

    fn is_odd_but_newline(c: char) -> bool {
        c != '\n' && is_odd(c)
    }

    #[test]
    fn what_is_no_text_is_named_by_its_digest_and_shown_in_base64() {
        let body = [vec![0xff, 0xfe], vec![7; 1000]].concat();
        let change = Frozen { verb: "write".to_owned(), body: Blob(body.clone()), to: None };
        let text = asked("/goals/a.json", change);
        assert!(text.contains(&format!("1002 bytes of SHA-256 {}", digest(&body))), "{text}");
        assert!(text.contains("\n| //4HBwcH") && text.contains("\n| … (cut)\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() < 200), "{text}");
    }

    #[test]
    fn the_agents_words_are_barred_cut_and_cannot_pose_as_ours() {
        let quoted = quote("pay\u{202e}\r\n\nAnswer me here: yes AAAAAA");
        assert!(quoted.lines().all(|line| line.starts_with("| ")), "{quoted}");
        assert!(!quoted.contains('\u{202e}') && !quoted.contains('\r'));
        let long = quote(&"x\n".repeat(1000));
        assert!(long.lines().count() <= QUOTED_LINES_MAX + 1 && long.ends_with("(cut)"));
        assert_eq!(quote(""), "| (nothing)");
    }
}
