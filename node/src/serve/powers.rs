//! `/mounts`: what an agent may do where, by what is mounted, the table of rights and its autonomy together. Owner and
//! operator read there what a promotion or demotion came to; the agent, what it need not try.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::{OneFile, at};
use crate::agent::manifest::{Category, Manifest};
use crate::approvals::category;
use crate::money::Caps;
use crate::namespace::mount::{Access, Mounts};
use crate::namespace::path::Path;
use crate::namespace::rights::{AGENT, Right, Role, in_agent};
use crate::namespace::service::{Change, FileType};

/// A body by which `/peers/find` asks a domain, which is what may need consent there.
const BY_NAME: &[u8] = br#"{"name":"somebody@example.com"}"#;

/// Where an agent's account is.
const WALLET: &str = "/wallet";

/// A line of `/mounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Power {
    access: Access,
    /// The category for which consent is asked, where it would be by some manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    asks: Option<Category>,
    /// `r` and `w`, of which the agent in a tick has both, one or none.
    may: &'static str,
    path: String,
    what: String,
}

/// Mounts the mount table itself.
pub(super) fn show(mounts: &mut Mounts) {
    // It has itself in it, too.
    put(mounts, Vec::new());
    let powers = powers(mounts);
    put(mounts, powers);
}

fn put(mounts: &mut Mounts, powers: Vec<Power>) {
    let file = OneFile::value(move |cx| Ok(under(&powers, cx.subject()?.manifest)));
    mounts.mount_file(at("/mounts"), FileType::Value, Arc::new(file), "this table");
}

/// All that is mounted, and what the table of rights tells apart beneath it.
fn powers(mounts: &Mounts) -> Vec<Power> {
    let mut places: BTreeMap<Path, &str> = BTreeMap::new();
    for line in AGENT.iter().filter(|line| line.pattern != "/" && !line.pattern.contains('*')) {
        places.insert(at(line.pattern), line.what);
    }
    for mount in mounts.iter() {
        places.insert(mount.at.clone(), &mount.what);
    }
    places.into_iter().filter_map(|(path, what)| power(mounts, &path, what)).collect()
}

/// Nothing where nothing is mounted.
fn power(mounts: &Mounts, path: &Path, what: &str) -> Option<Power> {
    let (path_of, what) = (path.to_string(), what.to_owned());
    let Ok(found) = mounts.find(path) else {
        let mount = mounts.iter().find(|mount| mount.at == *path)?;
        return Some(Power { access: mount.access, asks: None, may: "", path: path_of, what });
    };
    let rights = in_agent(Role::Agent, path);
    let changes = [Change::Write(Vec::new()), Change::Call(BY_NAME.to_vec())];
    let writes = rights.has(Right::Write) && changes.iter().any(|change| found.allow(path, change).is_ok());
    let may = match (rights.has(Right::Read), writes) {
        (true, true) => "rw",
        (true, false) => "r",
        (false, true) => "w",
        (false, false) => "",
    };
    let asks = changes.iter().find_map(|change| category(path, change)).filter(|_| writes);
    Some(Power { access: found.mount.access, asks, may, path: path_of, what })
}

/// The table under an agent's manifest, as JSON lines.
fn under(powers: &[Power], manifest: &Manifest) -> Vec<u8> {
    let line = |power: &Power| {
        let asks = power.asks.filter(|category| manifest.autonomy.asks(*category));
        // A child has caps that no mount says.
        let access = match (power.access, manifest.caps(WALLET)) {
            (Access::ReadWrite, caps) if caps != Caps::default() && is_of_wallet(power) => {
                Access::Budgeted(caps)
            }
            (access, _) => access,
        };
        let json = serde_json::to_string(&Power { access, asks, ..power.clone() });
        json.map(|json| json + "\n").unwrap_or_default()
    };
    powers.iter().flat_map(|power| line(power).into_bytes()).collect()
}

fn is_of_wallet(power: &Power) -> bool {
    power.path == WALLET || power.path.strip_prefix(WALLET).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::Fixture;
    use super::*;
    use crate::agent::manifest::{Autonomy, Level, Npub};
    use crate::namespace::blocks::Fixed;

    /// What `/mounts` says of a path.
    async fn said(fixture: &Fixture, path: &str) -> Value {
        let text = String::from_utf8(fixture.tick().read("/mounts").await.unwrap()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let said: Vec<_> = lines.filter(|line| line["path"] == path).collect();
        assert!(said.len() <= 1, "{path} is there {} times", said.len());
        said.into_iter().next().unwrap_or_default()
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let mut mounts = (*fixture.mounts).clone();
        show(&mut mounts);
        fixture.mounts = Arc::new(mounts);
        fixture
    }

    #[tokio::test]
    async fn it_says_what_the_agent_may_do_and_not_what_others_may() {
        let fixture = fixture();
        for (path, may) in [
            ("/trigger", "r"),
            ("/reply", "rw"),
            ("/inbox/new", ""),
            ("/memory", "rw"),
            ("/memory/export", "r"),
            ("/http", "r"),
            ("/http/request", "rw"),
            ("/identity/sign", "rw"),
            ("/mounts", "r"),
        ] {
            assert_eq!(said(&fixture, path).await["may"], may, "{path}");
        }
        // What is not mounted is not there, although there are rights to it.
        assert_eq!(said(&fixture, "/workspace").await, Value::Null);
        assert_eq!(said(&fixture, "/tools").await, Value::Null);
    }

    #[tokio::test]
    async fn it_is_what_the_namespace_lets_through() {
        let mut fixture = fixture();
        let mut mounts = (*fixture.mounts).clone();
        mounts.restrict(&at("/nostr"), Access::ReadOnly).unwrap();
        mounts.restrict(&at("/identity"), Access::SignOnly).unwrap();
        mounts.restrict(&at("/http"), Access::Disabled).unwrap();
        show(&mut mounts);
        fixture.mounts = Arc::new(mounts);
        for (path, access, may) in [
            ("/nostr/publish", "read_only", "r"),
            ("/identity/sign", "sign_only", "rw"),
            ("/identity/decrypt", "sign_only", "r"),
            ("/http", "disabled", ""),
        ] {
            let said = said(&fixture, path).await;
            assert_eq!((&said["access"], &said["may"]), (&json!(access), &json!(may)), "{path}");
            let tried = fixture.tick().call(path, b"{}").await;
            assert_eq!(
                tried.is_err_and(|error| error.reason.contains("mounted")),
                access != "disabled" && may == "r"
            );
        }
        // Beneath what is disabled nothing is told of.
        assert_eq!(said(&fixture, "/http/request").await, Value::Null);
    }

    #[tokio::test]
    async fn a_child_is_shown_to_have_nothing_to_spend() {
        let mut fixture = fixture();
        let mut mounts = (*fixture.mounts).clone();
        mounts.mount(
            at("/wallet"),
            Arc::new(Fixed::new([(at("/balance"), String::new())]).unwrap()),
            "money",
        );
        show(&mut mounts);
        fixture.mounts = Arc::new(mounts);
        assert_eq!(said(&fixture, "/wallet/pay").await["access"], "read_write");
        fixture.manifest.parent = Some(Npub(super::super::fixture::someone()));
        let nothing = json!({ "budgeted": { "per_tick": "0 sat", "per_day": "0 sat" } });
        assert_eq!(said(&fixture, "/wallet/pay").await["access"], nothing);
        assert_eq!(said(&fixture, "/memory").await["access"], "read_write");
    }

    #[tokio::test]
    async fn a_demotion_shows_where_consent_is_asked_and_a_promotion_takes_it_away() {
        let mut fixture = fixture();
        let asked = |path| (path, Value::Null);
        for (level, wanted) in [
            (Level::Autonomous, ["/nostr/publish", "/http/request", "/goals", "/children"].map(asked)),
            (
                Level::Supervised,
                [
                    ("/nostr/publish", json!("send_message")),
                    ("/http/request", json!("external_api")),
                    ("/goals", json!("modify_goals")),
                    ("/children", json!("create_agent")),
                ],
            ),
            (
                Level::SemiAutonomous,
                [
                    ("/nostr/publish", json!("send_message")),
                    asked("/http/request"),
                    asked("/goals"),
                    asked("/children"),
                ],
            ),
        ] {
            fixture.manifest.autonomy = Autonomy { level, require_approval: vec![Category::SendMessage] };
            for (path, asks) in wanted {
                assert_eq!(said(&fixture, path).await["asks"], asks, "{level:?} {path}");
            }
            // Its own files and its answers never do, nor what it may only read.
            for path in ["/memory", "/reply", "/http"] {
                assert_eq!(said(&fixture, path).await["asks"], Value::Null, "{level:?} {path}");
            }
        }
        fixture.manifest.autonomy.level = Level::Supervised;
        assert_eq!(said(&fixture, "/peers/find").await["asks"], "external_api");
    }
}
