//! Who may do what: one table, which the node asks, the documentation prints and a test walks through.
//!
//! A path's rights are those of the longest pattern that matches it; `*` stands for one component, and a pattern
//! covers everything beneath it. What no pattern covers nobody may touch. Mounts can take rights away from the agent
//! itself (see [`super::mount`]); nothing gives more than the table.

use super::path::Path;

/// In which capacity somebody asks. Operator, owner, approver and viewer are each told by key; the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Nobody in particular: gets no answer.
    Stranger,
    /// Sees how an agent does.
    Viewer,
    /// Answers for what needs consent.
    Approver,
    /// Whom the agent obeys.
    Owner,
    /// Who runs the node.
    Operator,
    /// The agent itself, in a tick.
    Agent,
}

impl Role {
    /// Every role, as the table's columns have them.
    pub const ALL: [Self; 6] =
        [Self::Agent, Self::Owner, Self::Operator, Self::Approver, Self::Viewer, Self::Stranger];

    /// As documentation calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Owner => "owner",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Viewer => "viewer",
            Self::Stranger => "stranger",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// stat, list, read, and the answer of a call
    Read,
    /// write, append, call, mkdir, remove, rename
    Write,
    /// watch
    Watch,
}

/// A set of rights, written `rwt`: read, write, watch ("tail"). A dash stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(&'static str);

impl Rights {
    /// Whether the right is in the set.
    pub fn has(self, right: Right) -> bool {
        self.0.contains(match right {
            Right::Read => 'r',
            Right::Write => 'w',
            Right::Watch => 't',
        })
    }

    /// Whether there is any.
    pub fn any(self) -> bool {
        self.0 != "-"
    }
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// What it covers.
    pub pattern: &'static str,
    /// What is there.
    pub what: &'static str,
    /// Agent, owner, operator, approver, viewer. Strangers have nothing anywhere.
    rights: [&'static str; 5],
}

impl Line {
    /// The rights of a role.
    pub fn of(&self, role: Role) -> Rights {
        let [agent, owner, operator, approver, viewer] = self.rights;
        Rights(match role {
            Role::Agent => agent,
            Role::Owner => owner,
            Role::Operator => operator,
            Role::Approver => approver,
            Role::Viewer => viewer,
            Role::Stranger => "-",
        })
    }

    /// How many components match, if all of the pattern's do.
    fn covers(&self, path: &Path) -> Option<usize> {
        let mut parts = path.components();
        let pattern = self.pattern.split('/').filter(|part| !part.is_empty());
        let mut count = 0;
        for wanted in pattern {
            let part = parts.next()?;
            if wanted != "*" && wanted != part {
                return None;
            }
            // A literal wins over a star of the same length.
            count += if wanted == "*" { 2 } else { 3 };
        }
        Some(count)
    }
}

const fn line(pattern: &'static str, rights: [&'static str; 5], what: &'static str) -> Line {
    Line { pattern, what, rights }
}

/// An agent's tree: `/` for itself, `/agents/<name>` for everybody else.
pub const AGENT: &[Line] = &[
    line("/", ["r", "r", "r", "r", "r"], "the tree itself: lists what its reader may touch"),
    line("/trigger", ["r", "-", "-", "-", "-"], "what woke this tick"),
    line("/reply", ["rw", "-", "-", "-", "-"], "answers whom the trigger came from"),
    line("/status", ["r", "rt", "rt", "rt", "rt"], "lifecycle, queue, lease"),
    line("/ctl", ["rw", "rw", "rw", "-", "-"], "tick hibernate stop resume and the like"),
    line("/manifest", ["r", "rwt", "rwt", "-", "-"], "what the agent is, in TOML"),
    line("/program", ["r", "rw", "rw", "-", "-"], "what it runs"),
    line("/mounts", ["r", "r", "r", "-", "-"], "the mount table"),
    line("/inbox", ["r", "r", "r", "-", "-"], "what waits"),
    line("/inbox/new", ["-", "w", "w", "-", "-"], "a message to the agent"),
    line("/inbox/policy", ["r", "rw", "rw", "-", "-"], "who is heard"),
    line("/outbox", ["r", "rt", "rt", "-", "-"], "what goes out, and how far it came"),
    line("/deadletter", ["r", "r", "r", "-", "-"], "what was given up"),
    line("/deadletter/ctl", ["-", "rw", "rw", "-", "-"], "replays or drops it"),
    line("/goals", ["rw", "rwt", "rwt", "-", "-"], "goals, one a file"),
    line("/schedule", ["rw", "rwt", "rwt", "-", "-"], "alarms, one a file"),
    line("/memory", ["rw", "rwt", "rwt", "-", "-"], "the agent's state"),
    line("/memory/export", ["r", "r", "r", "-", "-"], "all of it in one file"),
    line("/peers", ["r", "r", "r", "-", "-"], "who it knows, and how far it trusts them"),
    line("/peers/find", ["rw", "rw", "rw", "-", "-"], "finds agents by what they can do, or by name"),
    line("/approvals", ["r", "r", "r", "r", "-"], "what waits for consent, without the code"),
    line("/approvals/ctl", ["-", "rw", "rw", "rw", "-"], "approve ID, deny ID"),
    line("/task", ["r", "r", "r", "-", "-"], "work that was delegated to it"),
    line("/task/status", ["rw", "rt", "rt", "-", "-"], "how far it is"),
    line("/task/result.json", ["rw", "r", "r", "-", "-"], "what came of it"),
    line("/children", ["rw", "rw", "rw", "-", "-"], "agents that it made"),
    line("/identity", ["r", "r", "r", "r", "r"], "who it is"),
    line("/identity/sign", ["rw", "-", "-", "-", "-"], "signs what can never be an event"),
    line("/identity/verify", ["rw", "rw", "rw", "-", "-"], "checks such a signature"),
    line("/identity/encrypt", ["rw", "-", "-", "-", "-"], "encrypts to somebody (NIP-44)"),
    line("/identity/decrypt", ["rw", "-", "-", "-", "-"], "decrypts, but no mail and nothing of a protocol"),
    line("/nostr", ["r", "r", "r", "-", "-"], "relays, subscriptions"),
    line("/nostr/publish", ["rw", "rw", "rw", "-", "-"], "publishes an event of an allowed kind"),
    line("/nostr/query", ["rw", "rw", "rw", "-", "-"], "asks relays"),
    line("/nostr/dm", ["rw", "rw", "rw", "-", "-"], "direct messages, by the name of who gets them"),
    line("/nostr/send", ["rw", "rw", "rw", "-", "-"], "an envelope to another agent"),
    line("/nostr/subscriptions", ["rw", "rw", "rw", "-", "-"], "filters whose events wake the agent"),
    line("/http", ["r", "r", "r", "-", "-"], "requests to hosts on the allowlist"),
    line("/http/request", ["rw", "-", "-", "-", "-"], "one request"),
    line("/wallet", ["r", "r", "r", "-", "-"], "its account: balance, caps, history"),
    line("/wallet/pay", ["rw", "rw", "rw", "-", "-"], "pays an invoice"),
    line("/wallet/invoice", ["rw", "rw", "rw", "-", "-"], "makes one that pays into the account"),
    line("/ws", ["r", "r", "r", "-", "-"], "websockets to hosts on the allowlist, and how they do"),
    line("/ws/open", ["rw", "-", "-", "-", "-"], "has one kept open, whose messages wake the agent"),
    line("/ws/send", ["rw", "-", "-", "-", "-"], "sends one message"),
    line("/ws/close", ["rw", "rw", "rw", "-", "-"], "closes one"),
    line("/tools", ["rw", "r", "r", "-", "-"], "call files that operators mount"),
    line("/workspace", ["rw", "rw", "rw", "-", "-"], "a folder of the host"),
    line("/tmp", ["rw", "-", "-", "-", "-"], "scratch for one tick"),
    line("/hud", ["r", "rt", "rt", "rt", "rt"], "what an onlooker sees, redacted"),
    line("/hud/settings", ["r", "rw", "rw", "-", "-"], "what is shown"),
    line("/metrics", ["r", "rt", "rt", "rt", "rt"], "ticks a minute, the queue"),
    line("/logs", ["r", "rt", "rt", "-", "-"], "what it did"),
    line("/export", ["-", "rw", "rw", "-", "-"], "a bundle of the whole agent, without its key"),
    line("/bunker", ["-", "r", "r", "-", "-"], "who else signs with its key (NIP-46)"),
    line("/bunker/*", ["-", "rw", "rw", "-", "-"], "new invites, removing a connection ends it"),
];

/// What a node has besides.
pub const NODE: &[Line] = &[
    line("/", ["-", "r", "r", "r", "r"], "the tree itself"),
    line("/agents", ["-", "r", "r", "r", "r"], "the agents one may see"),
    line("/agents/new", ["-", "-", "rw", "-", "-"], "creates one from a manifest"),
    line("/agents/import", ["-", "-", "rw", "-", "-"], "takes one in from a bundle"),
    line("/approvals", ["-", "r", "r", "r", "-"], "what waits for consent, of all agents one may see"),
    line("/approvals/ctl", ["-", "rw", "rw", "rw", "-"], "approve ID, deny ID"),
    line("/node", ["-", "r", "r", "r", "r"], "the node"),
    line("/node/status", ["-", "rt", "rt", "rt", "rt"], "agents, relays, lease"),
    line("/node/relays", ["-", "-", "rt", "-", "-"], "the relays, in full"),
    line("/node/config", ["-", "-", "r", "-", "-"], "how it was started, without secrets"),
    line("/node/find", ["-", "-", "rw", "-", "-"], "finds agents by what they can do, or by name"),
    line("/node/log", ["-", "-", "rt", "-", "-"], "what happens on it"),
    line("/node/plumbing", ["-", "-", "rw", "-", "-"], "the rules of the plumber"),
    line("/node/secrets", ["-", "-", "r", "-", "-"], "where secrets may go, and when they were set"),
    line("/secrets", ["-", "-", "r", "-", "-"], "the names of the secrets there are"),
    line("/secrets/*", ["-", "-", "w", "-", "-"], "a secret, which nobody reads"),
    line("/wallet", ["-", "-", "r", "-", "-"], "the operator's account, and what all accounts have"),
    line("/wallet/pay", ["-", "-", "rw", "-", "-"], "pays an invoice from it"),
    line("/wallet/invoice", ["-", "-", "rw", "-", "-"], "makes one that pays into it"),
    line("/wallet/transfer", ["-", "-", "rw", "-", "-"], "from one account to another: FROM TO AMOUNT"),
    line("/wallet/settle", ["-", "-", "rw", "-", "-"], "says how a payment ended that was left behind"),
    line("/wallet/rate", ["-", "-", "rw", "-", "-"], "takes a rate that jumped or is old for right"),
    line("/srv", ["-", "-", "r", "-", "-"], "folders and services that manifests may mount"),
];

/// What a role may do to a path of an agent's tree.
pub fn in_agent(role: Role, path: &Path) -> Rights {
    look_up(AGENT, role, path)
}

/// What a role may do to a path of the node's tree; those under `/agents/<name>` are [`in_agent`]'s.
pub fn in_node(role: Role, path: &Path) -> Rights {
    look_up(NODE, role, path)
}

fn look_up(table: &[Line], role: Role, path: &Path) -> Rights {
    let best = table
        .iter()
        .filter_map(|line| line.covers(path).map(|length| (length, line)))
        // The root covers only itself.
        .filter(|(length, _)| *length > 0 || *path == Path::root())
        .max_by_key(|(length, _)| *length);
    best.map_or(Rights("-"), |(_, line)| line.of(role))
}

/// The table as documentation shows it.
pub fn to_markdown() -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (title, table) in [("An agent's tree", AGENT), ("The node's tree", NODE)] {
        let _ = writeln!(text, "### {title}\n");
        let _ = writeln!(text, "| path | agent | owner | operator | approver | viewer | stranger | what |");
        let _ = writeln!(text, "|---|---|---|---|---|---|---|---|");
        for line in table {
            let _ = write!(text, "| `{}` |", line.pattern);
            for role in Role::ALL {
                let rights = line.of(role);
                let _ = write!(text, " {} |", if rights.any() { rights.0 } else { "–" });
            }
            let _ = writeln!(text, " {} |", line.what);
        }
        let _ = writeln!(text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_pattern_decides_on_whole_components() {
        assert!(in_agent(Role::Agent, &path("/memory/notes/1")).has(Right::Write));
        assert!(!in_agent(Role::Agent, &path("/memory/export")).has(Right::Write));
        assert!(!in_agent(Role::Agent, &path("/memoryX")).any());
        assert!(!in_agent(Role::Operator, &path("/etc/passwd")).any());
        assert!(in_node(Role::Operator, &path("/secrets/openai")).has(Right::Write));
        assert!(!in_node(Role::Operator, &path("/secrets/openai")).has(Right::Read));
        assert!(in_node(Role::Operator, &path("/secrets")).has(Right::Read));
        assert!(!in_node(Role::Operator, &path("/nothing")).any());
    }

    #[test]
    fn strangers_have_nothing_and_greater_roles_no_less() {
        for table in [AGENT, NODE] {
            for line in table {
                assert!(!line.of(Role::Stranger).any());
                for right in [Right::Read, Right::Write, Right::Watch] {
                    let chain = [Role::Viewer, Role::Approver, Role::Owner, Role::Operator];
                    for two in chain.windows(2) {
                        let [lesser, greater] = two else { continue };
                        let holds = !line.of(*lesser).has(right) || line.of(*greater).has(right);
                        assert!(holds, "{}: {} may, {} may not", line.pattern, lesser.name(), greater.name());
                    }
                }
            }
        }
    }
}
