//! `oa devnet`: two operators with money, in one command, who pay each other; and nothing of it is left, however it
//! ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use oa_tests::world::{DEADLINE, Done, Home, Launch, Process, Program, World, eventually, field};
use rustix::process::Signal;
use serde_json::Value;

/// Shows a figure to whoever runs this with `--nocapture`.
fn figure(text: &str) {
    // Nobody else is waiting for it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A devnet, and what has to be gone after it.
struct Devnet {
    world: World,
    process: Process,
    /// Where its folder is made.
    temporary: PathBuf,
    operators: Vec<Home>,
    pids: Vec<u64>,
    ports: Vec<String>,
}

fn launch(world: &World, args: &[&str]) -> Result<(Launch, PathBuf)> {
    let (home, temporary) = (world.home("unused")?, world.path().join("tmp"));
    std::fs::create_dir_all(&temporary)?;
    let place = temporary.to_str().context("a path")?;
    let launch = home.launch(Program::Oa, [&["devnet"], args].concat()).env("TMPDIR", place);
    Ok((launch, temporary))
}

impl Devnet {
    async fn start(args: &[&str]) -> Result<Self> {
        let world = World::new()?;
        let (launch, temporary) = launch(&world, args)?;
        let began = Instant::now();
        let process = launch.start().await?;
        figure(&format!("ready after {:?}", began.elapsed()));
        let (mut operators, mut pids) = (Vec::new(), Vec::new());
        for operator in process.ready().get("operators").and_then(Value::as_array).context("operators")? {
            operators.push(Home::at(field(operator, "home").context("a home")?)?);
            let of = operator.get("pids").and_then(Value::as_array).context("processes")?;
            pids.extend(of.iter().filter_map(Value::as_u64));
        }
        let address = |name: &str| -> Result<String> {
            let url = field(process.ready(), name).with_context(|| format!("{name} in the ready line"))?;
            Ok(url.rsplit('/').next().unwrap_or_default().to_owned())
        };
        let ports = vec![address("relay")?, address("esplora")?];
        ensure!(pids.len() == 4 && pids.iter().all(is_running), "two wallets and two nodes: {pids:?}");
        Ok(Self { world, process, temporary, operators, pids, ports })
    }

    fn pair(&self) -> Result<(&Home, &Home)> {
        match self.operators.as_slice() {
            [seller, buyer] => Ok((seller, buyer)),
            others => bail!("{others:?}"),
        }
    }

    /// No process, no port, no file.
    async fn is_gone(&self) -> Result<()> {
        self.is_quiet().await?;
        let left: Vec<_> = std::fs::read_dir(&self.temporary)?.collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    }

    async fn is_quiet(&self) -> Result<()> {
        eventually(DEADLINE, || async {
            let left: Vec<_> = self.pids.iter().filter(|pid| is_running(pid)).collect();
            ensure!(left.is_empty(), "processes {left:?} are left");
            Ok(())
        })
        .await?;
        for port in &self.ports {
            ensure!(std::net::TcpStream::connect(port).is_err(), "somebody listens on {port}");
        }
        Ok(())
    }
}

fn is_running(pid: &u64) -> bool {
    // One that has ended and that nobody has waited for yet runs no more.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().and_then(|rest| rest.chars().next()).is_some_and(|state| state != 'Z')
}

fn first(done: Done) -> Result<Value> {
    ensure!(done.code == Some(0), "{done:?}");
    done.json()?.into_iter().next().with_context(|| format!("{done:?}"))
}

async fn wallet(home: &Home, args: &[&str]) -> Result<Value> {
    first(home.oa(&[&["wallet"], args, &["--json"]].concat()).await?)
}

/// Pays an invoice of the other; answers how long the command took.
async fn pays(payer: &Home, payee: &Home, sat: u64) -> Result<Duration> {
    let asked = wallet(payee, &["invoice", &sat.to_string()]).await?;
    let began = Instant::now();
    let paid = wallet(payer, &["pay", field(&asked, "invoice").context("an invoice")?]).await?;
    ensure!(field(&paid, "payment_hash") == field(&asked, "payment_hash"), "{paid}");
    ensure!(paid.get("amount_msat").and_then(Value::as_u64) == Some(sat * 1_000), "{paid}");
    Ok(began.elapsed())
}

#[tokio::test]
async fn two_operators_pay_each_other_and_ctrl_c_leaves_nothing() -> Result<()> {
    let mut devnet = Devnet::start(&[]).await?;
    let (seller, buyer) = devnet.pair()?;
    let names = devnet.process.ready().pointer("/operators/0/name").and_then(Value::as_str);
    ensure!(names == Some("seller"), "{}", devnet.process.ready());
    let before = wallet(seller, &["balance"]).await?;
    for (payer, payee, sat) in [(buyer, seller, 500), (seller, buyer, 200), (buyer, seller, 1)] {
        figure(&format!("paid after {:?}", pays(payer, payee, sat).await?));
    }
    let has = |of: &Value| of.get("balance_msat").and_then(Value::as_u64).context("a balance");
    eventually(DEADLINE, || async {
        let after = wallet(seller, &["balance"]).await?;
        ensure!(has(&after)? == has(&before)? + 301_000, "{before}, then {after}");
        Ok(())
    })
    .await?;
    let history = buyer.oa(&["wallet", "history", "--json"]).await?.json()?;
    ensure!(history.len() == 3, "{history:?}");
    for home in [seller, buyer] {
        let help = home.oa(&["dm", "concierge", "help"]).await?.ok()?;
        ensure!(help.contains("remind"), "{help}");
    }
    devnet.process.signal(Signal::INT)?;
    ensure!(devnet.process.wait(DEADLINE).await?.code() == Some(0), "{}", devnet.process.stderr()?);
    devnet.is_gone().await
}

#[tokio::test]
async fn sigterm_ends_it_too_and_a_named_folder_stays_to_be_looked_at() -> Result<()> {
    let place = World::new()?;
    let dir = place.path().join("kept");
    let kept = dir.to_str().context("a path")?;
    let mut devnet = Devnet::start(&["--dir", kept]).await?;
    let (seller, _) = devnet.pair()?;
    ensure!(seller.dir().starts_with(dir.canonicalize()?), "{seller:?}");
    ensure!(devnet.process.terminate(DEADLINE).await? == 0, "{}", devnet.process.stderr()?);
    devnet.is_gone().await?;
    ensure!(dir.join("seller/wallet/wallet.toml").exists(), "it stays");
    let again = devnet.world.home("unused")?.oa(&["devnet", "--dir", kept]).await?;
    ensure!(again.code == Some(2) && again.stderr.contains("is not empty"), "{again:?}");
    Ok(())
}

#[tokio::test]
async fn whatever_ends_it_early_leaves_nothing() -> Result<()> {
    // Given up while it starts.
    let world = World::new()?;
    let (launch, temporary) = launch(&world, &[])?;
    let mut process = launch.spawn()?;
    eventually(DEADLINE, || async {
        ensure!(has_wallets(&temporary)?, "no wallet yet");
        Ok(())
    })
    .await?;
    process.signal(Signal::INT)?;
    ensure!(process.wait(DEADLINE).await?.code() == Some(0), "{}", process.stderr()?);
    ensure!(std::fs::read_dir(&temporary)?.next().is_none(), "its folder is left");
    // A part of it dies.
    let mut devnet = Devnet::start(&[]).await?;
    let wallet = devnet.pids.first().copied().context("a wallet")?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(wallet)?).context("a process id")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    ensure!(devnet.process.wait(DEADLINE).await?.code() == Some(1), "a failure");
    ensure!(devnet.process.stderr()?.contains("seller-wallet has ended"), "{}", devnet.process.stderr()?);
    devnet.is_gone().await
}

fn has_wallets(temporary: &Path) -> Result<bool> {
    let folders = std::fs::read_dir(temporary)?.filter_map(Result::ok);
    let logs = folders.map(|folder| folder.path().join("buyer-wallet.log"));
    Ok(logs.into_iter().any(|log| log.exists()))
}

#[tokio::test]
async fn killed_it_takes_its_processes_along() -> Result<()> {
    let mut devnet = Devnet::start(&[]).await?;
    devnet.process.kill().await?;
    devnet.is_quiet().await
}
