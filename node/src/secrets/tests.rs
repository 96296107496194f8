use oa_nips::nostr::Keys;

use super::*;
use crate::agent::AgentId;
use crate::agent::site::target;
use crate::keyring::{Addresses, SeedKeyring};
use crate::signer::Seed;
use crate::store::backend::{Backend, Range, Table};
use crate::store::memory::MemoryBackend;

const VALUE: &str = "sk-live-4242424242";

struct Home {
    vault: Vault,
    backend: Arc<MemoryBackend>,
}

impl Home {
    fn new() -> Self {
        let backend = Arc::new(MemoryBackend::default());
        let store = Store::new(backend.clone()).unwrap();
        let keyring = Arc::new(SeedKeyring::new(Seed::generate(), Arc::new(Addresses::default())));
        Self { vault: Vault::new(store, keyring), backend }
    }

    async fn set(&self, name: &str, content: &str) -> Result<(), Error> {
        let write = self.vault.set(name, content.as_bytes(), 1000).await?;
        self.vault.store.write(write).await.unwrap();
        Ok(())
    }

    async fn of(&self, agent: &str) -> Vec<Secret> {
        self.vault.of_agent(agent).await.unwrap()
    }
}

fn covers(secret: &Secret, url: &str) -> bool {
    secret.covers(&target(url).unwrap())
}

#[tokio::test]
async fn a_secret_is_for_the_hosts_and_agents_it_lists() {
    let home = Home::new();
    let json = format!(r#"{{"value":"{VALUE}","hosts":["api.example.com"],"agents":["alice"]}}"#);
    home.set("openai", &json).await.unwrap();
    let secrets = home.of("alice").await;
    assert_eq!(secrets[0].reveal(), VALUE);
    assert!(covers(&secrets[0], "https://api.example.com/x"));
    assert!(!covers(&secrets[0], "https://evil.org/"));
    assert!(home.of("bob").await.is_empty());
}

#[tokio::test]
async fn a_mere_value_goes_nowhere_until_it_has_hosts() {
    let home = Home::new();
    home.set("plain", &format!("{VALUE}\n")).await.unwrap();
    assert!(!covers(&home.of("alice").await[0], "https://api.example.com/"));
    home.set("plain", r#"{"hosts":["api.example.com"]}"#).await.unwrap();
    let secret = home.of("alice").await.remove(0);
    assert!(covers(&secret, "https://api.example.com/") && secret.reveal() == VALUE);
    home.set("plain", "another-value").await.unwrap();
    let secret = home.of("alice").await.remove(0);
    assert!(covers(&secret, "https://api.example.com/") && secret.reveal() == "another-value", "hosts stay");
}

#[tokio::test]
async fn what_is_removed_is_gone_at_once() {
    let home = Home::new();
    home.set("a", VALUE).await.unwrap();
    let remove = home.vault.remove("a").unwrap();
    home.vault.store.write(remove).await.unwrap();
    assert!(home.of("alice").await.is_empty() && home.vault.list().unwrap().is_empty());
    assert_eq!(home.vault.remove("a").unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn nothing_of_a_value_is_at_rest_in_a_listing_or_in_an_error() {
    let home = Home::new();
    home.set("a", &format!(r#"{{"value":"{VALUE}","hosts":["api.example.com"]}}"#)).await.unwrap();
    for table in Table::ALL {
        for (key, value) in home.backend.scan(table, &Range::prefix([])).unwrap() {
            let row = String::from_utf8_lossy(&[key, value].concat()).into_owned();
            assert!(!row.contains("4242"), "{}: {row}", table.name());
        }
    }
    let listed = format!("{:?} {:?}", home.vault.list().unwrap(), home.of("alice").await);
    assert!(listed.contains("api.example.com") && !listed.contains("4242"), "{listed}");
    for wrong in [
        r#"{"value":"sk-live-4242424242","host":[]}"#,
        r#"{"value":sk-live-4242424242}"#,
        r#"{"hosts":["4242424242/"]}"#,
    ] {
        let error = home.set("a", wrong).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidInput);
        assert!(!error.to_string().contains("4242"), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_refused() {
    let home = Home::new();
    for name in ["", "A", "a_b", "a/b", "ä", &"x".repeat(64)] {
        assert_eq!(home.set(name, VALUE).await.unwrap_err().code, Code::InvalidInput, "{name}");
    }
    let long = "x".repeat(VALUE_BYTES_MAX + 1);
    for value in ["", "short", "\u{1}control", &long, r#"{"hosts":["a.example"]}"#] {
        assert_eq!(home.set("a", value).await.unwrap_err().code, Code::InvalidInput);
    }
}

#[tokio::test]
async fn a_row_is_good_for_its_own_name_and_node_only() {
    let home = Home::new();
    home.set("a", &format!(r#"{{"value":"{VALUE}","hosts":["a.example"]}}"#)).await.unwrap();
    let row = home.vault.store.row(SPACE, "a").unwrap().unwrap();
    let copy =
        RowWrite { space: SPACE.to_owned(), key: "b".to_owned(), expect_version: 0, value: Some(row.value) };
    home.vault.store.write(Write::Row(copy)).await.unwrap();
    assert_eq!(home.of("alice").await.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["a"]);
    let seed = Seed::generate();
    let other = Arc::new(SeedKeyring::new(seed, Arc::new(Addresses::default())));
    assert_ne!(other.node().public_key(), home.vault.keyring.agent(AgentId::NODE).public_key());
    assert_ne!(other.node().public_key(), Keys::generate().public_key());
    assert!(Vault::new(home.vault.store.clone(), other).of_agent("alice").await.unwrap().is_empty());
}
