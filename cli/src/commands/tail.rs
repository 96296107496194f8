//! `oa tail`: the end of a file, and what comes after it.

use oa_nips::files::reader::News;
use oa_nips::files::{FileType, MESSAGE_BYTES_MAX};

use crate::args::Tail;
use crate::client::Client;
use crate::commands::connect;
use crate::context::{Context, Signals};
use crate::error::Result;
use crate::output::Output;

/// Bytes before the end of a log in which its last lines are looked for.
const BACK_BYTES: u64 = 256 * 1024;

pub(crate) async fn run(context: &Context, args: Tail) -> Result<()> {
    let client = connect(context).await?;
    let done = tail(context, &client, &args).await;
    client.close().await;
    done
}

async fn tail(context: &Context, client: &Client, args: &Tail) -> Result<()> {
    let stat = client.stat(&args.path).await?;
    let from = match stat.file_type {
        FileType::Stream => stat.size.saturating_sub(BACK_BYTES).max(stat.start),
        _ => 0,
    };
    let content = client.read(&args.path, from, 0).await?;
    context.output.bytes(last_lines(&content, args.lines))?;
    if args.once {
        return Ok(());
    }
    let mut signals = Signals::catch()?;
    let mut watch = client.watch(&args.path, from + content.len() as u64);
    let mut printer = Printer { output: context.output, whole: Whole::default(), printed: content };
    let done = loop {
        tokio::select! {
            () = signals.next() => break Ok(()),
            next = watch.next() => match next {
                Some(news) => {
                    if let Err(error) = news.and_then(|news| printer.print(news)) {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            }
        }
    };
    watch.stop().await;
    done
}

/// The last lines of a text.
fn last_lines(content: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = content.strip_suffix(b"\n").unwrap_or(content);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let start = ends.nth(lines - 1).map_or(0, |(at, _)| at + 1);
    content.get(start..).unwrap_or_default()
}

/// Prints what comes.
struct Printer {
    output: Output,
    whole: Whole,
    /// Of a value, what was printed last.
    printed: Vec<u8>,
}

impl Printer {
    fn print(&mut self, news: News) -> Result<()> {
        missed(self.output, news.missed);
        if news.piece.edition.is_none() {
            return self.output.bytes(&news.piece.bytes);
        }
        let Some(whole) = self.whole.push(news) else { return Ok(()) };
        // A value that only grew is printed from where it grew.
        let new = whole.strip_prefix(self.printed.as_slice()).unwrap_or(&whole);
        self.output.bytes(new)?;
        self.printed = whole;
        Ok(())
    }
}

/// Says that bytes were let go before they could be read.
pub(super) fn missed(output: Output, bytes: u64) {
    if bytes > 0 {
        output.note(format!("({bytes} bytes were missed: they came faster than they could be read)"));
    }
}

/// Puts a value together from its pieces.
#[derive(Debug, Default)]
pub(super) struct Whole {
    edition: Option<u64>,
    bytes: Vec<u8>,
}

impl Whole {
    /// Takes a piece; answers the value once it is whole.
    pub(super) fn push(&mut self, news: News) -> Option<Vec<u8>> {
        let piece = news.piece;
        if piece.offset == 0 || piece.edition != self.edition {
            (self.edition, self.bytes) = (piece.edition, Vec::new());
        }
        // What is not the next piece belongs to a value whose beginning was lost; a whole one follows.
        if piece.offset != self.bytes.len() as u64 || piece.length > MESSAGE_BYTES_MAX as u64 {
            return None;
        }
        self.bytes.extend(piece.bytes);
        (self.bytes.len() as u64 == piece.length).then(|| std::mem::take(&mut self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use oa_nips::files::watch::Piece;

    use super::*;

    #[test]
    fn the_last_lines_are_those_before_the_end() {
        for (content, lines, last) in [
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 10, "a\nb\n"),
            ("\n\n\n", 2, "\n\n"),
            ("a\n", 0, ""),
            ("", 3, ""),
        ] {
            assert_eq!(last_lines(content.as_bytes(), lines), last.as_bytes(), "{lines} of {content:?}");
        }
    }

    #[test]
    fn values_are_put_together_and_torn_ones_are_not() {
        let news = |offset, text: &str, length, edition| News {
            piece: Piece { offset, bytes: text.as_bytes().to_vec(), length, edition: Some(edition) },
            missed: 0,
        };
        let mut whole = Whole::default();
        assert_eq!(whole.push(news(0, "ab", 4, 1)), None);
        assert_eq!(whole.push(news(2, "cd", 4, 1)), Some(b"abcd".to_vec()));
        assert_eq!(whole.push(news(0, "", 0, 2)), Some(Vec::new()));
        assert_eq!(whole.push(news(0, "ab", 4, 3)), None);
        assert_eq!(whole.push(news(2, "xy", 4, 4)), None, "of another content");
        assert_eq!(whole.push(news(0, "wxyz", 4, 4)), Some(b"wxyz".to_vec()));
    }
}
