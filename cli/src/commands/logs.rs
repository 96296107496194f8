//! `oa logs`: what an agent did, a line a tick.

use std::time::Duration;

use jiff::Timestamp;
use oa_nips::files::Verb;
use serde_json::Value;

use crate::args::Logs;
use crate::client::Client;
use crate::commands::connect;
use crate::context::{Context, Signals};
use crate::error::Result;

/// How often a followed log is asked for.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(context: &Context, args: Logs) -> Result<()> {
    let mut client = connect(context).await?;
    let (path, key) = if args.refused { ("refused", "n") } else { ("ticks", "seq") };
    let path = format!("/agents/{}/logs/{path}", args.agent);
    let mut next = 0;
    let mut signals = Signals::catch()?;
    loop {
        next = print(context, &mut client, &path, key, next).await?;
        if !args.follow {
            break;
        }
        tokio::select! {
            () = signals.next() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
    client.close().await;
    Ok(())
}

/// Prints the lines from number `next` on; answers the number after the last.
async fn print(context: &Context, client: &mut Client, path: &str, key: &str, mut next: u64) -> Result<u64> {
    let lines = client.ask(Verb::Read, path, Vec::new()).await?;
    for line in String::from_utf8_lossy(&lines).lines() {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let Some(number) = value.get(key).and_then(Value::as_u64).filter(|number| *number >= next) else {
            continue;
        };
        if next > 0 && number > next {
            context.output.note(format!("({} lines were too many to be kept for reading)", number - next));
        }
        next = number + 1;
        context.output.object(&value);
        context.output.say(text(&value));
    }
    Ok(next)
}

fn text(line: &Value) -> String {
    let get = |path: &str| line.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |path: &str| line.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    let time = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or_default();
        Timestamp::from_second(seconds).map(|at| at.to_string()).unwrap_or_default()
    };
    if line.get("fields").is_none() {
        return format!("{} {:<12} {} {}", time(number("/at")), get("/reason"), get("/from"), get("/detail"));
    }
    format!(
        "{} #{} {} {} from {} in {} ms",
        time(number("/fields/started_at") / 1000),
        number("/seq"),
        get("/fields/outcome"),
        get("/fields/trigger/kind"),
        get("/fields/trigger/from"),
        number("/fields/duration_ms"),
    )
}
