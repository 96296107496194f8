//! The terminal a person sits at: what is typed there unseen, and what is shown there once.
//!
//! While something is typed unseen the terminal hands over every key and shows none, ctrl-C included: that ends the
//! typing here, so that the terminal is itself again before the program ends. [`Unseen`] puts it back however the
//! typing ends.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use oa_node::signer::Passphrase;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};

/// The longest line that is typed, in bytes; more is not taken.
const LINE_BYTES_MAX: usize = 1024;

/// Another screen, clean, and back to the one before, on which nothing of the other is left to scroll to.
const OTHER_SCREEN: &str = "\x1b[?1049h\x1b[2J\x1b[H";
const FIRST_SCREEN: &str = "\x1b[2J\x1b[H\x1b[?1049l";

/// A person's terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    tty: File,
}

impl Terminal {
    /// The terminal of this process, whatever stdin and stdout are; nothing where there is none.
    pub(crate) fn open() -> Option<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { tty })
    }

    /// A passphrase, which is not shown while it is typed.
    ///
    /// # Errors
    /// When it is empty, or the person gave up.
    pub(crate) fn hidden(&mut self, question: &str) -> Result<Passphrase> {
        let line = self.typed(question)?;
        Passphrase::new(&line).ok_or_else(|| Error::new(Kind::Usage, "no passphrase was typed"))
    }

    /// A line, which is not shown while it is typed.
    ///
    /// # Errors
    /// When the person gave up.
    pub(crate) fn typed(&mut self, question: &str) -> Result<Zeroizing<String>> {
        let _unseen = Unseen::new(&self.tty)?;
        (&self.tty).write_all(question.as_bytes())?;
        let mut line = Line::default();
        let end = loop {
            let mut byte = [0];
            match (&self.tty).read(&mut byte) {
                Ok(0) => break End::GivenUp,
                Ok(_) => {
                    let [byte] = byte;
                    if let Some(end) = line.push(byte) {
                        break end;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        };
        (&self.tty).write_all(b"\n")?;
        match end {
            End::Entered => line.text(),
            End::GivenUp => Err(Error::new(Kind::Failed, "interrupted")),
        }
    }

    /// Whether a person says yes to a question, by that word.
    ///
    /// # Errors
    /// What the terminal said.
    pub(crate) fn confirms(&mut self, question: &str) -> Result<bool> {
        (&self.tty).write_all(format!("{question} Type yes: ").as_bytes())?;
        Ok(self.line()?.trim() == "yes")
    }

    /// Shows a text on a screen of its own until enter is pressed; then nothing of it is left.
    ///
    /// # Errors
    /// What the terminal said.
    pub(crate) fn show_once(&mut self, text: &str) -> Result<()> {
        // Until the screen is the old one again no key may end the program.
        let _unseen = Unseen::new(&self.tty)?;
        let shown = (&self.tty).write_all(format!("{OTHER_SCREEN}{text}").as_bytes());
        let mut byte = [0];
        // Enter, ctrl-C or ctrl-D; the terminal closed is as good.
        while shown.is_ok() && matches!((&self.tty).read(&mut byte), Ok(n) if n > 0) {
            if matches!(byte, [b'\n' | b'\r' | CTRL_C | CTRL_D]) {
                break;
            }
        }
        (&self.tty).write_all(FIRST_SCREEN.as_bytes())?;
        Ok(shown?)
    }

    /// A line as the terminal hands it over, shown while it is typed.
    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while bytes.len() < LINE_BYTES_MAX && (&self.tty).read(&mut byte)? > 0 {
            if byte == *b"\n" {
                break;
            }
            bytes.extend(byte);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Keys are neither shown nor acted upon until this is dropped.
struct Unseen<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Unseen<'a> {
    fn new(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut unseen = before.clone();
        unseen
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        let codes = &mut unseen.special_codes;
        (codes[SpecialCodeIndex::VMIN], codes[SpecialCodeIndex::VTIME]) = (1, 0);
        // What was typed before the question was not meant as its answer.
        tcsetattr(tty, OptionalActions::Flush, &unseen)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that went away needs nothing put back.
        let _ = tcsetattr(self.tty, OptionalActions::Now, &self.before);
    }
}

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_H: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const CTRL_BACKSLASH: u8 = 0x1c;
const DELETE: u8 = 0x7f;

/// What is typed, byte by byte.
struct Line(Zeroizing<Vec<u8>>);

/// How a line ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Entered,
    GivenUp,
}

impl Default for Line {
    fn default() -> Self {
        // Its room is all it ever has: no copies are left behind as it grows.
        Self(Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX)))
    }
}

impl Line {
    /// Takes a key; how the line ended, once it did.
    fn push(&mut self, byte: u8) -> Option<End> {
        match byte {
            b'\n' | b'\r' => return Some(End::Entered),
            CTRL_C | CTRL_BACKSLASH => return Some(End::GivenUp),
            CTRL_D => return Some(if self.0.is_empty() { End::GivenUp } else { End::Entered }),
            CTRL_U => self.0.clear(),
            DELETE | CTRL_H => {
                // A whole character: its last byte, and those before that continue it.
                while self.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte if byte.is_ascii_control() => {}
            byte if self.0.len() < LINE_BYTES_MAX => self.0.push(byte),
            _ => {}
        }
        None
    }

    fn text(self) -> Result<Zeroizing<String>> {
        let text = std::str::from_utf8(&self.0).map(|text| Zeroizing::new(text.to_owned()));
        text.map_err(|_| Error::new(Kind::Usage, "what was typed is no UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// The person's side of a terminal: what it shows so far, and where to type.
    struct Person {
        master: File,
        shown: mpsc::Receiver<Vec<u8>>,
        seen: String,
    }

    fn pair() -> (Terminal, File, Person) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let tty = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let master = File::from(master);
        let (sender, shown) = mpsc::channel();
        let mut reader = master.try_clone().unwrap();
        // Ends with the terminal, whose last handle closes at the end of the test.
        std::thread::spawn(move || {
            let mut bytes = [0; 512];
            while let Ok(n) = reader.read(&mut bytes) {
                if n == 0 || sender.send(bytes[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        (Terminal { tty: tty.try_clone().unwrap() }, tty, Person { master, shown, seen: String::new() })
    }

    impl Person {
        fn sees(&mut self, text: &str) {
            let until = Instant::now() + DEADLINE;
            while !self.seen.contains(text) {
                let left = until.saturating_duration_since(Instant::now());
                let bytes =
                    self.shown.recv_timeout(left).unwrap_or_else(|_| panic!("{text:?} in {:?}", self.seen));
                self.seen.push_str(&String::from_utf8_lossy(&bytes));
            }
        }

        fn types(&mut self, text: &str) {
            self.master.write_all(text.as_bytes()).unwrap();
        }
    }

    fn modes(tty: &File) -> LocalModes {
        tcgetattr(tty).unwrap().local_modes
    }

    /// What a prompt makes of what is typed, the terminal before and after, and what the person saw.
    fn prompt(typed: &str) -> (Result<Passphrase>, String) {
        let (mut terminal, tty, mut person) = pair();
        let before = modes(&tty);
        assert!(before.contains(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
        let asking = std::thread::spawn(move || terminal.hidden("Passphrase: "));
        person.sees("Passphrase: ");
        assert!(!modes(&tty).intersects(LocalModes::ECHO | LocalModes::ISIG | LocalModes::ICANON));
        person.types(typed);
        let answer = asking.join().unwrap();
        assert_eq!(modes(&tty), before, "the terminal is as it was");
        person.sees("\n");
        (answer, person.seen)
    }

    #[test]
    fn what_is_typed_is_taken_and_not_shown() {
        let (answer, seen) = prompt("correct horse\n");
        assert_eq!(answer.unwrap(), Passphrase::new("correct horse").unwrap());
        assert!(!seen.contains("horse"), "{seen:?}");
    }

    #[test]
    fn ctrl_c_gives_up_and_leaves_the_terminal_as_it_was() {
        let (answer, seen) = prompt("correct\x03");
        assert_eq!(answer.unwrap_err().message, "interrupted");
        assert!(!seen.contains("correct"), "{seen:?}");
    }

    #[test]
    fn an_empty_line_is_no_passphrase() {
        assert_eq!(prompt("\n").0.unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn a_text_is_shown_on_a_screen_of_its_own() {
        let (mut terminal, tty, mut person) = pair();
        let before = modes(&tty);
        let asking = std::thread::spawn(move || {
            assert!(terminal.confirms("Show them?").unwrap());
            terminal.show_once("leader monkey parrot").unwrap();
        });
        person.sees("Type yes: ");
        assert!(!person.seen.contains("leader"), "not before it is confirmed");
        person.types("yes\n");
        person.sees("leader monkey parrot");
        person.types("x\x03");
        asking.join().unwrap();
        person.sees(FIRST_SCREEN);
        let (first, then) = (person.seen.find(OTHER_SCREEN), person.seen.find("leader"));
        assert!(first.is_some() && first < then, "{:?}", person.seen);
        assert_eq!(modes(&tty), before);
    }

    #[test]
    fn anything_but_yes_is_no() {
        for typed in ["no\n", "\n", "y\n", "YES\n"] {
            let (mut terminal, _tty, mut person) = pair();
            let asking = std::thread::spawn(move || terminal.confirms("Sure?").unwrap());
            person.sees("Type yes: ");
            person.types(typed);
            assert!(!asking.join().unwrap(), "{typed:?}");
        }
    }

    #[test]
    fn a_line_is_edited_as_terminals_do() {
        let typed = |bytes: &[u8]| {
            let mut line = Line::default();
            let end = bytes.iter().find_map(|byte| line.push(*byte));
            (line.0.to_vec(), end)
        };
        assert_eq!(typed(b"horsf\x7fe\r"), (b"horse".to_vec(), Some(End::Entered)));
        assert_eq!(typed("kůň\x7f\x7f\n".as_bytes()), (b"k".to_vec(), Some(End::Entered)));
        assert_eq!(typed(b"\x7f\x08x\x15y\n"), (b"y".to_vec(), Some(End::Entered)));
        assert_eq!(typed(b"\x04"), (Vec::new(), Some(End::GivenUp)));
        assert_eq!(typed(b"x\x04"), (b"x".to_vec(), Some(End::Entered)));
        assert_eq!(typed(b"x\x1c"), (b"x".to_vec(), Some(End::GivenUp)));
        let long = typed(&[b'x'; 3 * LINE_BYTES_MAX]);
        assert_eq!((long.0.len(), long.1), (LINE_BYTES_MAX, None));
    }
}
