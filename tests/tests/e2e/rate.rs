//! The exchange rate of a node: read from a price source that this test is, over restarts, refused where it is not known
//! well enough, and confirmed by the operator.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use oa_tests::wallet::{first, number, text};
use oa_tests::world::{DEADLINE, Done, Home, Process, World, eventually, field};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What the source answers: a body, or nothing ever.
type Said = Arc<Mutex<Option<String>>>;

/// A connection to a wallet that nobody answers for: the rate needs none.
const NWC: &str = "nostr+walletconnect://b889ff5b1513b641e2a139f661a661364979c5beee91842f8f0ef42ab558e9d4?relay=ws://127.0.0.1:9&\
    secret=71a8c14c1407c113601079c4302dab36460f0ccd0ad506f1f2dc73b5100e4f3c";

/// A price source that says what it is told to.
async fn source() -> Result<(u16, Said)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let said = Said::default();
    let says = said.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let says = says.clone();
            tokio::spawn(async move {
                let mut chunk = [0; 4096];
                let Ok(1..) = stream.read(&mut chunk).await else { return };
                let answer = says.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match answer {
                    Some(body) => {
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    }
                    // Until the other side hangs up.
                    None => while let Ok(1..) = stream.read(&mut chunk).await {},
                }
            });
        }
    });
    Ok((port, said))
}

fn says(said: &Said, price: &str) {
    let body = format!(r#"{{"bitcoin":{{"usd":{price}}}}}"#);
    *said.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
}

fn says_raw(said: &Said, body: Option<String>) {
    *said.lock().unwrap_or_else(PoisonError::into_inner) = body;
}

/// A node with such a source, and an agent whose cap is in dollars.
struct Desk {
    home: Home,
    node: Process,
    _world: World,
}

impl Desk {
    async fn start(port: u16, listed: &str, fresh_s: u64) -> Result<Self> {
        let world = World::new()?;
        let home = world.home("n")?;
        let operator = text(&first(home.oa_node(&["init", "--json"]).await?)?, "operator")?;
        home.write(
            "config.toml",
            &format!(
                "operators = [{operator:?}]\nhttp_private = [{listed}]\n[relay]\nlisten = {:?}\n\
                 [wallet]\nnwc_file = \"node.nwc\"\n[wallet.rate]\nurl = \"http://127.0.0.1:{port}/v1?key=sk-4242\"\n\
                 pointer = \"/bitcoin/usd\"\nevery_s = 1\nfresh_s = {fresh_s}\n\
                 [[agents]]\nname = \"alice\"\nprogram = \"concierge\"\n[[agents.mounts]]\npath = \"/wallet\"\n\
                 access = {{ budgeted = {{ per_day = \"$5\" }} }}\n",
                home.listen()
            ),
        )?;
        home.write("node.nwc", NWC)?;
        std::fs::set_permissions(home.dir().join("node.nwc"), std::fs::Permissions::from_mode(0o600))?;
        let node = home.run().start().await?;
        Ok(Self { home, node, _world: world })
    }

    async fn fx(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.home.oa(&["cat", "/wallet/fx"]).await?.ok()?)?)
    }

    async fn budget(&self) -> Result<Done> {
        self.home.oa(&["cat", "/agents/alice/wallet/budget"]).await
    }

    /// Waits until it is told so.
    async fn until(&self, within: Duration, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(within, || async {
            let fx = self.fx().await?;
            ensure!(is_it(&fx), "{fx}");
            Ok(fx)
        })
        .await
    }

    /// Waits until it is refused with these words, and the cap in dollars with the same.
    async fn refused(&self, words: &str) -> Result<Value> {
        let fx =
            self.until(DEADLINE, |fx| field(fx, "refused").is_some_and(|why| why.contains(words))).await?;
        ensure!(fx.get("msat_per_usd") == Some(&Value::Null), "{fx}");
        let done = self.budget().await?;
        ensure!(done.code != Some(0) && done.stderr.contains(words), "{done:?}");
        Ok(fx)
    }

    async fn trouble(&self, words: &str) -> Result<()> {
        self.until(2 * DEADLINE, |fx| field(fx, "trouble").is_some_and(|why| why.contains(words))).await?;
        Ok(())
    }

    async fn confirm(&self, body: &str) -> Result<Done> {
        self.home.oa(&["call", "/wallet/rate", body]).await
    }
}

fn is_rate(fx: &Value, msat_per_usd: u64) -> bool {
    fx.get("msat_per_usd").and_then(Value::as_u64) == Some(msat_per_usd)
        && fx.get("refused") == Some(&Value::Null)
}

#[tokio::test]
async fn a_rate_is_read_and_a_jump_waits_for_the_operator_over_a_restart() -> Result<()> {
    let (port, said) = source().await?;
    says(&said, "100000");
    let mut desk = Desk::start(port, &format!("\"127.0.0.1:{port}\""), 300).await?;
    let fx = desk.until(DEADLINE, |fx| is_rate(fx, 1_000_000)).await?;
    ensure!(
        number(&fx, "age_s")? < 60 && field(&fx, "place") == Some(&format!("http://127.0.0.1:{port}")),
        "{fx}"
    );
    let shown: Value = serde_json::from_str(&desk.budget().await?.ok()?)?;
    ensure!(number(&shown, "per_day_msat")? == 5_000_000, "{shown}");
    // What the agent's file shows names no host of the operator's.
    let agents = desk.home.oa(&["cat", "/agents/alice/wallet/fx"]).await?.ok()?;
    ensure!(agents.contains("1000000") && !agents.contains("127.0.0.1"), "{agents}");
    says(&said, "\"110,000.50\"");
    desk.until(DEADLINE, |fx| is_rate(fx, 909_087)).await?;

    // It jumps while the node is down.
    desk.node.terminate(DEADLINE).await?;
    says(&said, "50000");
    desk.node.restart().await?;
    let fx = desk.refused("jumped from 909.087 sat for $1.00 to 2,000 sat for $1.00").await?;
    ensure!((number(&fx, "read")?, number(&fx, "jumped")?) == (909_087, 2_000_000), "{fx}");
    for other in ["909087", "1999999", "0", "two"] {
        let done = desk.confirm(other).await?;
        ensure!(done.code != Some(0) && done.stderr.contains("/wallet/rate"), "{other}: {done:?}");
    }
    desk.refused("jumped").await?;
    let confirmed: Value = serde_json::from_str(&desk.confirm("2000000").await?.ok()?)?;
    ensure!(is_rate(&confirmed, 2_000_000), "{confirmed}");
    desk.node.kill().await?;
    desk.node.restart().await?;
    desk.until(DEADLINE, |fx| is_rate(fx, 2_000_000)).await?;
    let shown: Value = serde_json::from_str(&desk.budget().await?.ok()?)?;
    ensure!(number(&shown, "per_day_msat")? == 10_000_000, "{shown}");
    Ok(())
}

#[tokio::test]
async fn a_source_that_fails_is_told_of_and_its_last_word_grows_old() -> Result<()> {
    let (port, said) = source().await?;
    says(&said, "100000");
    let mut desk = Desk::start(port, &format!("\"127.0.0.1:{port}\""), 3).await?;
    desk.until(DEADLINE, |fx| is_rate(fx, 1_000_000)).await?;
    says_raw(&said, Some("<html>".to_owned()));
    desk.trouble("no JSON").await?;
    desk.refused("s old").await?;
    says_raw(&said, Some(format!("{{\"bitcoin\":{{\"usd\":1}},\"x\":\"{}\"}}", "x".repeat(1 << 20))));
    desk.trouble("over 65536 bytes").await?;
    says_raw(&said, None);
    desk.trouble("no answer in time").await?;
    let fx = desk.refused("s old").await?;
    ensure!(number(&fx, "read")? == 1_000_000 && number(&fx, "age_s")? > 3, "{fx}");

    // The operator knows that it is right all the same.
    let done = desk.confirm("1000001").await?;
    ensure!(done.code != Some(0) && done.stderr.contains("nor the last one"), "{done:?}");
    let confirmed: Value =
        serde_json::from_str(&desk.confirm(r#"{"msat_per_usd":1000000,"for_s":3600}"#).await?.ok()?)?;
    ensure!(is_rate(&confirmed, 1_000_000) && number(&confirmed, "until")? > 0, "{confirmed}");
    let fx = desk.until(DEADLINE, |fx| number(fx, "age_s").is_ok_and(|age_s| age_s > 3)).await?;
    ensure!(is_rate(&fx, 1_000_000), "{fx}");
    says(&said, "100001");
    desk.until(2 * DEADLINE, |fx| is_rate(fx, 999_991) && fx.get("until") == Some(&Value::Null)).await?;
    desk.node.terminate(DEADLINE).await?;
    let told = desk.node.stderr()? + &desk.node.stdout()?;
    ensure!(!told.contains("sk-4242"), "the key in the source's url is told: {told}");
    Ok(())
}

#[tokio::test]
async fn a_source_in_a_private_network_is_asked_only_where_it_is_listed() -> Result<()> {
    let (port, said) = source().await?;
    says(&said, "100000");
    let desk = Desk::start(port, "", 300).await?;
    desk.trouble("only for hosts that the operator has listed").await?;
    desk.refused("not known yet").await?;
    Ok(())
}
