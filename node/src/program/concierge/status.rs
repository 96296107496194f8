//! The agent's `/status` for its owner's eyes. Fields that are missing or of another shape are left out.

use serde_json::Value;

/// Relays that are shown by name.
const RELAYS_SHOWN: usize = 10;

/// Renders the content of `/status`; `None` when it is no JSON object.
pub(super) fn render(content: &[u8]) -> Option<String> {
    let status: Value = serde_json::from_slice(content).ok()?;
    let status = status.as_object()?;
    let text = |name: &str| status.get(name).and_then(Value::as_str);
    let number = |name: &str| status.get(name).and_then(Value::as_u64);
    let mut lines = Vec::new();
    let program = text("program").map_or_else(String::new, |program| format!(", running {program}"));
    let state = text("lifecycle").unwrap_or("here");
    lines.push(match text("name") {
        Some(name) => format!("{name} is {state}{program}"),
        None => format!("I am {state}{program}"),
    });
    lines.extend(text("npub").map(str::to_owned));
    lines.extend(status.get("queue").and_then(queue));
    lines.extend(number("uptime_s").map(|up| format!("Up for {}", duration(up))));
    lines.extend(number("age_s").map(|age| format!("Created {} ago", duration(age))));
    lines.extend(number("ticks").map(|ticks| format!("Ticks: {ticks}")));
    lines.push(format!("Owner: {}", text("owner").unwrap_or("nobody yet")));
    lines.extend(status.get("relays").and_then(Value::as_array).map(|relays| self::relays(relays)));
    Some(lines.join("\n"))
}

fn queue(queue: &Value) -> Option<String> {
    let depth = queue.get("depth")?.as_u64()?;
    let oldest = queue.get("oldest_s").and_then(Value::as_u64).filter(|_| depth > 0);
    Some(match oldest {
        Some(oldest) => format!("Waiting: {depth}, the oldest for {}", duration(oldest)),
        None => format!("Waiting: {depth}"),
    })
}

/// Relays come as addresses, or as objects with an address and a state.
fn relays(relays: &[Value]) -> String {
    let one = |relay: &Value| -> Option<String> {
        if let Some(url) = relay.as_str() {
            return Some(url.to_owned());
        }
        let url = relay.get("url")?.as_str()?;
        let state = ["state", "status"].iter().find_map(|name| relay.get(*name)?.as_str());
        Some(state.map_or_else(|| url.to_owned(), |state| format!("{url} ({state})")))
    };
    let mut names: Vec<String> = relays.iter().filter_map(one).take(RELAYS_SHOWN).collect();
    if names.is_empty() {
        return "Relays: none".to_owned();
    }
    if relays.len() > RELAYS_SHOWN {
        names.push(format!("{} more", relays.len() - RELAYS_SHOWN));
    }
    format!("Relays: {}", names.join(", "))
}

/// A length of time in its two largest units.
fn duration(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, minutes) => format!("{minutes} min {rest} s"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_rendered_line_by_line() {
        let status = r#"{"name":"concierge","npub":"npub1x","lifecycle":"active","program":"concierge",
            "queue":{"depth":3,"oldest_s":75},"uptime_s":11520,"age_s":180000,"ticks":1234,"owner":"npub1o",
            "relays":["ws://127.0.0.1:7447",{"url":"wss://relay.example","state":"down"}],"new_field":[1]}"#;
        let expected = "concierge is active, running concierge\nnpub1x\nWaiting: 3, the oldest for 1 min 15 s\n\
            Up for 3 h 12 min\nCreated 2 d 2 h ago\nTicks: 1234\nOwner: npub1o\nRelays: ws://127.0.0.1:7447, wss://relay.example (down)";
        assert_eq!(render(status.as_bytes()).as_deref(), Some(expected));
    }

    #[test]
    fn missing_fields_are_left_out() {
        assert_eq!(render(b"{}").as_deref(), Some("I am here\nOwner: nobody yet"));
        let odd = br#"{"name":7,"queue":"full","relays":[],"uptime_s":-1,"owner":null,"lifecycle":"active"}"#;
        assert_eq!(render(odd).as_deref(), Some("I am active\nOwner: nobody yet\nRelays: none"));
        assert_eq!(
            render(br#"{"queue":{"depth":0,"oldest_s":9}}"#).as_deref(),
            Some("I am here\nWaiting: 0\nOwner: nobody yet")
        );
        for bad in [&b""[..], b"[]", b"\xff", b"null"] {
            assert_eq!(render(bad), None);
        }
    }
}
