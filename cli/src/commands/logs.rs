//! `oa logs`: what an agent did, a line a tick.

use jiff::Timestamp;
use oa_nips::files::reader::News;
use serde_json::Value;

use crate::args::Logs;
use crate::client::Client;
use crate::commands::connect;
use crate::commands::tail::{Whole, missed};
use crate::context::{Context, Signals};
use crate::error::Result;

pub(crate) async fn run(context: &Context, args: Logs) -> Result<()> {
    let client = connect(context).await?;
    let done = logs(context, &client, &args).await;
    client.close().await;
    done
}

async fn logs(context: &Context, client: &Client, args: &Logs) -> Result<()> {
    let (path, key) = if args.refused { ("refused", "n") } else { ("ticks", "seq") };
    let path = format!("/agents/{}/logs/{path}", args.agent);
    let mut log = Log { context, key, next: 0, whole: Whole::default(), rest: Vec::new() };
    if !args.follow {
        log.print(&client.read(&path, 0, 0).await?);
        if log.next == 0 {
            let nothing = if args.refused { "no mail was refused" } else { "it has not ticked yet" };
            context.output.note(nothing);
        }
        return Ok(());
    }
    let mut signals = Signals::catch()?;
    // What was let go before is not missed by who begins now.
    let start = client.stat(&path).await?.start;
    let mut watch = client.watch(&path, start);
    let done = loop {
        tokio::select! {
            () = signals.next() => break Ok(()),
            next = watch.next() => match next {
                Some(Ok(news)) => log.take(news),
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            }
        }
    };
    watch.stop().await;
    done
}

/// Prints each line once, whether the log comes whole again and again or grows.
struct Log<'a> {
    context: &'a Context,
    /// What numbers the lines.
    key: &'static str,
    /// The number after the last one printed.
    next: u64,
    whole: Whole,
    /// A line whose end has not come yet.
    rest: Vec<u8>,
}

impl Log<'_> {
    fn take(&mut self, news: News) {
        missed(self.context.output, news.missed);
        if news.piece.edition.is_some() {
            if let Some(whole) = self.whole.push(news) {
                self.print(&whole);
            }
            return;
        }
        if news.missed > 0 {
            self.rest.clear();
        }
        self.rest.extend(news.piece.bytes);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        self.print(&lines);
    }

    fn print(&mut self, lines: &[u8]) {
        for line in String::from_utf8_lossy(lines).lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
            let number = value.get(self.key).and_then(Value::as_u64);
            let Some(number) = number.filter(|number| *number >= self.next) else { continue };
            if self.next > 0 && number > self.next {
                let count = number - self.next;
                self.context.output.note(format!("({count} lines were too many to be kept for reading)"));
            }
            self.next = number + 1;
            self.context.output.object(&value);
            self.context.output.say(text(&value));
        }
    }
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
