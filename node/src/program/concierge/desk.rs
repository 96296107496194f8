//! One correspondent's turn: the files behind the commands.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use oa_nips::files::Code;
use serde::de::DeserializeOwned;

use super::alarm;
use super::command::{Command, Removal, Shelf};
use super::person::{Item, Peer, Person, TEXT_CHARS_MAX, items_max};
use super::purse;
use super::reply::{self, PAGE_ITEMS};
use super::status;
use super::trigger::{self, Trigger};
use super::when::When;
use super::wish::Wish;
use super::zone;
use crate::namespace::{Error, Namespace};
use crate::program::Fault;

/// A correspondent and the tick that serves them.
#[derive(Debug)]
pub(super) struct Desk<'a> {
    ns: &'a mut Namespace,
    now: Timestamp,
    peer: Peer,
    person: Person,
}

impl<'a> Desk<'a> {
    /// Opens the correspondent's file; a new one begins with an empty person.
    ///
    /// # Errors
    /// [`Fault`] when the file is damaged: it is left as it is.
    pub(super) async fn open(ns: &'a mut Namespace, now: Timestamp, peer: Peer) -> Result<Desk<'a>, Fault> {
        let path = peer.file();
        let person = match ns.read(&path).await {
            Ok(bytes) => Person::from_json(&bytes).map_err(|error| damaged(&path, &error))?,
            Err(error) if error.code == Code::NotFound => Person::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Desk { ns, now, peer, person })
    }

    /// Answers a message, and keeps what it changed.
    pub(super) async fn answer(mut self, command: Command, trigger: &Trigger) -> Result<String, Fault> {
        let before = self.person.clone();
        let answer = self.carry_out(command, trigger).await?;
        self.keep(&before).await?;
        Ok(answer)
    }

    /// Rings an alarm; a reminder that rang for the last time is taken off its list.
    pub(super) async fn ring(mut self, alarm: &trigger::Alarm) -> Result<String, Fault> {
        let before = self.person.clone();
        let number = self.peer.reminder(&alarm.id);
        let again = match number {
            Some(number) => self.alarm(number).await?.filter(|file| file.rhythm() != alarm::Rhythm::Once),
            None => None,
        };
        if let (Some(number), None) = (number, &again) {
            self.person.shelf_mut(Shelf::Reminders).drop(number);
        }
        self.keep(&before).await?;
        let due = zone::at_unix_s(alarm.due, &self.zone());
        Ok(reply::ring(&reply::Ring {
            number,
            text: &alarm.text,
            rhythm: again.map(|file| file.rhythm()).as_ref(),
            due: due.as_ref(),
            late_s: self.now.as_second().saturating_sub(alarm.due),
            missed: alarm.missed,
        }))
    }

    /// Tells what became of a goal that waited for consent, and sets the shelf right. Other wishes are told of
    /// otherwise.
    pub(super) async fn decided(mut self, wish: &Wish) -> Result<Option<String>, Fault> {
        let Some(number) = self.peer.goal(&wish.path) else { return Ok(None) };
        let before = self.person.clone();
        let goal = self.item(Shelf::Goals, number).await?;
        let goals = self.person.shelf_mut(Shelf::Goals);
        match &goal {
            Some(_) => goals.put_back(number),
            None => _ = goals.drop(number),
        }
        self.keep(&before).await?;
        Ok(reply::decided(number, wish, goal.as_ref().map(|goal| goal.text.as_str())))
    }

    async fn carry_out(&mut self, command: Command, trigger: &Trigger) -> Result<String, Fault> {
        let is_owner = trigger.is_from_owner();
        Ok(match command {
            Command::Empty => reply::empty(),
            Command::Help if is_owner => reply::help_owner(),
            Command::Help => reply::help(),
            Command::Hello => reply::hello(),
            Command::Thanks => reply::thanks(),
            Command::Ping => reply::ping(),
            Command::Claim if is_owner => reply::claimed(),
            Command::Claim if trigger.protocol.as_deref() == Some("nip04") => reply::claim_unsealed(),
            Command::Claim => reply::claim_refused(),
            Command::WhoAmI => {
                let trust = trigger.trust.as_deref().unwrap_or_default();
                reply::whoami(self.peer.npub(), trust, trigger.protocol.as_deref(), &self.local())
            }
            Command::Status if !is_owner => reply::not_owner(),
            Command::Status => {
                let content = self.ns.read("/status").await?;
                status::render(&content)
                    .ok_or_else(|| Fault::Failed("/status is no JSON object".to_owned()))?
            }
            Command::Balance | Command::Invoice(_) | Command::Pay(_) if !is_owner => {
                reply::not_owners_wallet()
            }
            Command::Balance => purse::balance(self.ns).await?,
            Command::Invoice(asked) => purse::invoice(self.ns, &asked).await?,
            Command::Pay(asked) => purse::pay(self.ns, &asked).await?,
            Command::Add(shelf, text) => self.add(shelf, text).await?,
            Command::List(shelf, page) => self.list(shelf, page).await?,
            Command::Show(shelf, number) => self.show(shelf, number).await?,
            Command::Remove(shelf, number, removal) => self.remove(shelf, number, removal).await?,
            Command::Remind { when, text } => self.remind(when, text).await?,
            Command::RemindWhen => reply::when(),
            Command::Zone if self.person.zone.is_none() => reply::zone_unset(&self.local()),
            Command::Zone => reply::zone_is(&self.local()),
            Command::SetZone(said) => self.set_zone(&said),
            Command::Incomplete(topic) => reply::incomplete(topic),
            Command::Unknown(near) => reply::unknown(&trigger.text, near),
        })
    }

    async fn add(&mut self, shelf: Shelf, text: String) -> Result<String, Fault> {
        if let Some(refusal) = self.refusal(shelf, &text).await? {
            return Ok(refusal);
        }
        let number = self.person.shelf_mut(shelf).give();
        let answer = reply::added(shelf, number, &text);
        let by = Some(self.peer.npub().to_owned());
        let item = Item { text, created_at: Some(self.now.as_second()), by };
        let is_made = self.write(&self.peer.item(shelf, number), &item).await?;
        Ok(if is_made { answer } else { reply::asks_consent() })
    }

    async fn remind(&mut self, when: When, text: String) -> Result<String, Fault> {
        let now = self.local();
        let alarm = match when.resolve(&now) {
            Ok(alarm) => alarm,
            Err(error) => return Ok(reply::no_alarm(&error, &now)),
        };
        if let Some(refusal) = self.refusal(Shelf::Reminders, &text).await? {
            return Ok(refusal);
        }
        let number = self.person.shelf_mut(Shelf::Reminders).give();
        let file = alarm::File::new(&alarm, text);
        if !self.write(&self.peer.item(Shelf::Reminders, number), &file).await? {
            return Ok(reply::asks_consent());
        }
        let answer = reply::reminding(number, &file.text, &file.rhythm(), &alarm.first);
        let is_first = number == 1 && self.person.zone.is_none();
        Ok(if is_first { format!("{answer}\n{}", reply::ZONE_HINT) } else { answer })
    }

    /// Why a text cannot go on a shelf, if so.
    async fn refusal(&mut self, shelf: Shelf, text: &str) -> Result<Option<String>, Fault> {
        let chars = text.chars().count();
        if chars > TEXT_CHARS_MAX {
            return Ok(Some(reply::too_long(shelf, chars)));
        }
        if self.person.shelf(shelf).kept().len() >= items_max(shelf) {
            // Some may be gone without our doing; only then is the whole shelf looked through.
            self.tidy(shelf).await?;
        }
        let full = self.person.shelf(shelf).kept().len() >= items_max(shelf);
        Ok(full.then(|| reply::full(shelf)))
    }

    async fn list(&mut self, shelf: Shelf, page: usize) -> Result<String, Fault> {
        self.tidy(shelf).await?;
        let kept = self.person.shelf(shelf).kept();
        let pages = kept.len().div_ceil(PAGE_ITEMS);
        let skipped = page.saturating_sub(1).saturating_mul(PAGE_ITEMS);
        let numbers: Vec<u64> = kept.iter().copied().skip(skipped).take(PAGE_ITEMS).collect();
        let mut lines = Vec::new();
        for number in numbers {
            lines.extend(self.line(shelf, number).await?);
        }
        Ok(reply::list(shelf, &lines, page, pages))
    }

    async fn line(&mut self, shelf: Shelf, number: u64) -> Result<Option<String>, Fault> {
        if shelf == Shelf::Reminders {
            let file = self.alarm(number).await?;
            return Ok(file.map(|file| {
                reply::reminder_line(
                    number,
                    &file.text,
                    &file.rhythm(),
                    file.due(self.now, &self.zone()).as_ref(),
                )
            }));
        }
        Ok(self.item(shelf, number).await?.map(|item| reply::line(number, &item.text)))
    }

    async fn show(&mut self, shelf: Shelf, number: u64) -> Result<String, Fault> {
        if !self.has(shelf, number) {
            return Ok(reply::missing(shelf, number));
        }
        let shown = if shelf == Shelf::Reminders {
            let file = self.alarm(number).await?;
            file.map(|file| {
                reply::reminder(number, &file.text, &file.rhythm(), file.due(self.now, &self.zone()).as_ref())
            })
        } else {
            self.item(shelf, number).await?.map(|item| {
                let written = item.created_at.and_then(|at| zone::at_unix_s(at, &self.zone()));
                reply::item(shelf, number, &item.text, written.as_ref())
            })
        };
        Ok(shown.unwrap_or_else(|| reply::missing(shelf, number)))
    }

    async fn remove(&mut self, shelf: Shelf, number: u64, removal: Removal) -> Result<String, Fault> {
        if !self.has(shelf, number) {
            return Ok(reply::missing(shelf, number));
        }
        let text = match shelf {
            Shelf::Reminders => self.alarm(number).await?.map(|file| file.text),
            Shelf::Notes | Shelf::Goals => self.item(shelf, number).await?.map(|item| item.text),
        };
        if text.is_some() && !is_made(self.ns.remove(&self.peer.item(shelf, number)).await)? {
            return Ok(reply::asks_consent());
        }
        self.person.shelf_mut(shelf).drop(number);
        let Some(text) = text else { return Ok(reply::missing(shelf, number)) };
        Ok(reply::removed(shelf, number, removal, &text))
    }

    fn set_zone(&mut self, said: &str) -> String {
        match zone::find(said) {
            Ok(found) => {
                self.person.zone = Some(zone::name(&found).to_owned());
                reply::zone_set(&self.local(), self.person.shelf(Shelf::Reminders).kept().len())
            }
            Err(error) => reply::no_zone(said, &error),
        }
    }

    /// Takes numbers off a shelf whose files somebody else removed, or which rang for the last time.
    async fn tidy(&mut self, shelf: Shelf) -> Result<(), Fault> {
        for number in self.person.shelf(shelf).kept().to_vec() {
            match self.ns.read(&self.peer.item(shelf, number)).await {
                Ok(_) => {}
                Err(error) if error.code == Code::NotFound => {
                    self.person.shelf_mut(shelf).drop(number);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn has(&self, shelf: Shelf, number: u64) -> bool {
        self.person.shelf(shelf).kept().contains(&number)
    }

    async fn item(&mut self, shelf: Shelf, number: u64) -> Result<Option<Item>, Fault> {
        let path = self.peer.item(shelf, number);
        self.read(&path).await
    }

    async fn alarm(&mut self, number: u64) -> Result<Option<alarm::File>, Fault> {
        let path = self.peer.item(Shelf::Reminders, number);
        self.read(&path).await
    }

    async fn read<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Fault> {
        match self.ns.read(path).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| damaged(path, &error)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an item, and says whether that is made or waits for consent.
    async fn write<T: serde::Serialize>(&mut self, path: &str, content: &T) -> Result<bool, Fault> {
        let bytes = serde_json::to_vec(content).map_err(|error| damaged(path, &error))?;
        is_made(self.ns.write(path, &bytes).await)
    }

    /// Writes the person's file if it is no longer what it was.
    async fn keep(&mut self, before: &Person) -> Result<(), Fault> {
        if self.person == *before {
            return Ok(());
        }
        let path = self.peer.file();
        let bytes = self.person.to_json().map_err(|error| damaged(&path, &error))?;
        Ok(self.ns.write(&path, &bytes).await?)
    }

    fn zone(&self) -> TimeZone {
        self.person.zone.as_deref().and_then(zone::named).unwrap_or(TimeZone::UTC)
    }

    /// The time in the correspondent's zone.
    fn local(&self) -> Zoned {
        self.now.to_zoned(self.zone())
    }
}

/// Whether a change is made; not yet, if somebody has to consent to it.
fn is_made(changed: Result<(), Error>) -> Result<bool, Fault> {
    match changed {
        Ok(()) => Ok(true),
        Err(error) if error.code == Code::ApprovalRequired => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn damaged(path: &str, error: &dyn std::error::Error) -> Fault {
    let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
    Fault::Failed(format!("{path} cannot be used and is left as it is: {error}{cause}"))
}
