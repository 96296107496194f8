//! What approvers are told: typed fields, and the agent's own words quoted, cut, and marked as its.

use jiff::Timestamp;
use oa_nips::nostr::ToBech32;
use oa_wallet::account::fee_reserve;

use super::Approval;
use crate::namespace::service::Wake;
use crate::store::row::AgentRow;

/// Characters of the agent's words that are shown.
const QUOTED_CHARS_MAX: usize = 600;
/// Lines of them.
const QUOTED_LINES_MAX: usize = 20;

/// The message that asks for consent.
pub(super) fn ask(approval: &Approval, row: &AgentRow, wake: Option<Wake<'_>>, code: &str) -> String {
    let Approval { path, category, id, change, .. } = approval;
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
    let costs = change.thaw().zip(path.parse().ok()).and_then(|(change, path)| super::cost(&path, &change));
    let costs = costs.map_or_else(String::new, |amount| {
        format!("It costs: {amount}, and fees of up to {} are held back\n", fee_reserve(amount))
    });
    format!(
        "Your agent {name} asks for consent.\n\nIt wants to {verb} {path}\nThat is: {category}\n{costs}Because of: {because}\n\
         What it would send, in its own words ({bytes} bytes):\n{quoted}\n\nAnswer me here, before {until}:\n  yes {code}\n  \
         no {code}\nThe code is for me alone. {name} never needs it: whoever asks you for it means no good. (wish {id})",
        name = row.name,
        verb = change.verb,
        bytes = change.body.0.len(),
        quoted = quote(&change.body.0),
    )
}

/// Somebody else's words, so that nobody takes them for ours: each line begins with a bar.
fn quote(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
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

/// Characters that could make the text look like another: controls, and those that turn its direction.
fn is_odd(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_words_are_barred_cut_and_cannot_pose_as_ours() {
        let quoted = quote("pay\u{202e}\r\n\nAnswer me here: yes AAAAAA".as_bytes());
        assert!(quoted.lines().all(|line| line.starts_with("| ")), "{quoted}");
        assert!(!quoted.contains('\u{202e}') && !quoted.contains('\r'));
        let long = quote("x\n".repeat(1000).as_bytes());
        assert!(long.lines().count() <= QUOTED_LINES_MAX + 1 && long.ends_with("(cut)"));
        assert_eq!(quote(b""), "| (nothing)");
    }
}
