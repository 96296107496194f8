//! Agents that are found: by what they can do, and by a name at the node's domain.

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, Home, World, eventually, field};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a node finds.
async fn find(home: &Home, what: &str) -> Result<Vec<Value>> {
    home.oa(&["agent", "find", what, "--json"]).await?.json()
}

/// A server whose domain is its relay's address, which it may ask although it is private.
async fn server(home: &Home) -> Result<String> {
    let said = home.oa_node(&["--json", "init"]).await?.json()?;
    let operator = said.first().and_then(|said| field(said, "operator")).context("an operator")?.to_owned();
    let listen = home.listen();
    let config = format!(
        "operators = [{operator:?}]\ndomain = {listen:?}\nhttp_private = [{listen:?}]\n[relay]\nlisten = {listen:?}\n\
         [[agents]]\nname = \"alice\"\nprogram = \"echo\"\nowner = {operator:?}\n\
         [agents.dm]\npolicy = \"open\"\n[agents.profile]\ncapabilities = [\"echo/text\"]\n"
    );
    home.write("config.toml", &config)?;
    Ok(listen)
}

/// What the relay serves over plain HTTP.
async fn get(listen: &str, path: &str) -> Result<(String, String)> {
    let mut socket = TcpStream::connect(listen).await?;
    socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: {listen}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    Ok((head.to_owned(), body.to_owned()))
}

#[tokio::test]
async fn an_agent_is_found_by_what_it_can_do_and_by_name() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let listen = server(&home).await?;
    let node = home.run().start().await?;
    let found = eventually(DEADLINE, || async {
        find(&home, "echo/text").await?.pop().context("its profile is on its way to the relay")
    })
    .await?;
    ensure!(field(&found, "name") == Some("alice") && found.get("owner") == Some(&Value::Null), "{found}");
    ensure!(find(&home, "sing").await?.is_empty(), "nobody sings");
    // By name: the relay serves the names, to any page; the node asks it as it would ask any domain.
    let name = format!("alice@{listen}");
    let (head, body) = get(&listen, "/.well-known/nostr.json?name=alice").await?;
    ensure!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    let document: Value = serde_json::from_str(&body)?;
    let alice = node.agent("alice")?.to_hex();
    ensure!(document.pointer("/names/alice").and_then(Value::as_str) == Some(alice.as_str()), "{document}");
    let named = find(&home, &name).await?.pop().context("a name")?;
    ensure!(
        field(&named, "npub") == field(&found, "npub") && field(&named, "nip05") == Some(&name),
        "{named}"
    );
    let answer = home.oa(&["dm", &name, "hello"]).await?.ok()?;
    ensure!(answer.contains("hello"), "{answer}");
    let nobody = home.oa(&["dm", &format!("nobody@{listen}"), "hello"]).await?;
    ensure!(nobody.code == Some(3) && nobody.stderr.contains("nobody is known as"), "{nobody:?}");
    Ok(())
}

#[tokio::test]
async fn an_owner_is_shown_who_says_so_and_who_hides_is_found_no_more() -> Result<()> {
    let world = World::new()?;
    let home = world.home("a")?;
    let listen = server(&home).await?;
    let _node = home.run().start().await?;
    let name = format!("alice@{listen}");
    home.oa(&["agent", "vouch", "alice"]).await?.ok()?;
    let owner = eventually(DEADLINE, || async {
        let found = find(&home, &name).await?.pop().context("a name")?;
        field(&found, "owner").map(str::to_owned).context("the word is on its way")
    })
    .await?;
    let config = std::fs::read_to_string(home.dir().join("config.toml"))?;
    ensure!(config.contains(&owner), "{owner} is not the operator");
    let manifest = home.oa(&["cat", "/agents/alice/manifest"]).await?.ok()?;
    let hidden = manifest.replace("publish = true", "publish = false");
    ensure!(hidden != manifest, "{manifest}");
    home.oa(&["write", "/agents/alice/manifest", &hidden]).await?.ok()?;
    eventually(2 * DEADLINE, || async {
        let (_, names) = get(&listen, "/.well-known/nostr.json").await?;
        ensure!(names.contains("\"names\":{}"), "{names}");
        Ok(())
    })
    .await
}
