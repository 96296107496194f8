//! What a service manager hears of a program's life, by systemd's protocol (sd_notify(3)).

use anyhow::{Context as _, Result, ensure};
use oa_tests::world::{DEADLINE, Launch, Process, Program, World};
use tokio::net::UnixDatagram;
use tokio::time::timeout;

/// One message of a service.
async fn heard(socket: &UnixDatagram) -> Result<String> {
    let mut message = [0; 256];
    let size = timeout(DEADLINE, socket.recv(&mut message)).await.context("nothing is heard")??;
    Ok(String::from_utf8(message.get(..size).context("a message")?.to_vec())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_when_a_program_is_ready_and_when_it_ends() -> Result<()> {
    let world = World::new()?;
    let path = world.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let home = world.home("node")?;
    home.oa_node(&["init"]).await?.ok()?;
    let config = std::fs::read_to_string(home.dir().join("config.toml"))?;
    home.write("config.toml", &config.replace("127.0.0.1:7447", &home.listen()))?;
    let relay = world.home("relay")?;
    let purse = world.home("purse")?;
    purse.oa_wallet(&["init", "--fake", "--relay", &relay.relay_url()]).await?.ok()?;
    let begin = async |launch: Launch| -> Result<Process> {
        let name = format!("{launch:?}");
        let process = launch.env("NOTIFY_SOCKET", path.to_string_lossy()).start().await?;
        ensure!(heard(&socket).await?.trim_end() == "READY=1", "{name}");
        Ok(process)
    };
    let end = async |mut process: Process| -> Result<()> {
        ensure!(process.terminate(DEADLINE).await? == 0, "{process:?}");
        ensure!(heard(&socket).await?.trim_end() == "STOPPING=1", "{process:?}");
        Ok(())
    };
    let running = begin(relay.relay()).await?;
    end(begin(home.run()).await?).await?;
    end(begin(purse.launch(Program::OaWallet, ["run"])).await?).await?;
    end(running).await
}
