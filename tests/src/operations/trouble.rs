//! What is cut and killed while operations are asked for, and when.

use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use super::Config;
use super::stage::Stage;
use crate::hosts::{Cut, Hosts, Side};

/// One trouble.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Cut(Side, Cut),
    /// The relay is killed, and away for so long.
    Relay(Duration),
}

/// When so many per cent of the operations are answered, what happens.
const TROUBLES: [(u64, Trouble); 10] = [
    (8, Trouble::Cut(Side::Client, Cut::Reset)),
    (16, Trouble::Cut(Side::Node, Cut::Reset)),
    (25, Trouble::Cut(Side::Node, Cut::Silence(Duration::from_secs(2)))),
    (35, Trouble::Relay(Duration::from_millis(200))),
    (45, Trouble::Cut(Side::Client, Cut::HalfOpen(Duration::from_secs(1)))),
    (55, Trouble::Cut(Side::Client, Cut::Silence(Duration::from_secs(2)))),
    (65, Trouble::Relay(Duration::from_secs(2))),
    (75, Trouble::Cut(Side::Node, Cut::HalfOpen(Duration::from_secs(1)))),
    (85, Trouble::Cut(Side::Node, Cut::Reset)),
    (92, Trouble::Cut(Side::Client, Cut::Reset)),
];

/// Makes all of it; ends early when nobody asks any more. Answers what was done.
pub(super) async fn make(
    config: &Config,
    hosts: &Hosts,
    stage: &mut Stage,
    mut progress: watch::Receiver<u64>,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for (percent, trouble) in TROUBLES {
        let due = config.operations * percent / 100;
        if progress.wait_for(|count| *count >= due).await.is_err() {
            break;
        }
        let what = match trouble {
            Trouble::Cut(side, cut) => {
                hosts.cut(side, cut).await?;
                format!("{side:?} {cut}").to_lowercase()
            }
            Trouble::Relay(away) => {
                stage.relay.kill().await?;
                tokio::time::sleep(away).await;
                stage.relay.restart().await?;
                format!("relay killed, away for {away:?}")
            }
        };
        say(format!("{} answered: {what}", *progress.borrow()));
        made.push(what);
    }
    Ok(made)
}
