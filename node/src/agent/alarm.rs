//! The calendar of alarms: what `/schedule/<id>.json` says, when it is due, and when again.
//!
//! Pure: the time is an argument. Whoever keeps alarms calls [`fire`] when one is due, and stores the
//! [`Fired::next`] of it together with the envelope.
//!
//! A file has `text` and one of three rhythms: `{"at": S}` once, `{"every_s": N, "from": S}` each N seconds from S
//! on, `{"cron": "0 9 * * 1-5", "tz": "Europe/Prague"}` by the calendar of a zone. Times are whole seconds since
//! 1970. What is read back has `due` too, the next time; it is ignored when written.

mod cron;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest text of an alarm, in bytes.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Longest alarm file, in bytes: a text of which each byte is escaped, and the rest.
pub const FILE_BYTES_MAX: usize = 6 * TEXT_BYTES_MAX + 1024;

/// Shortest period, in seconds.
pub const EVERY_S_MIN: u64 = 60;

/// How far ahead the first time may be, and how long a period: ten years, in seconds. A time in milliseconds, the
/// usual mistake, is far beyond it.
pub const AHEAD_S_MAX: u64 = 10 * 366 * 24 * 60 * 60;

/// Missed recurrences of a cron line are counted one by one, and no further than this.
pub const CRON_MISSED_MAX: u64 = 1000;

/// Longest id, in characters.
const ID_CHARS_MAX: usize = 64;

/// The name of an alarm: 1-64 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AlarmId(String);

/// A name that an alarm cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an alarm's id has 1-64 characters of a-z, 0-9 and -")]
pub struct AlarmIdError;

impl AlarmId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AlarmId {
    type Err = AlarmIdError;

    fn from_str(text: &str) -> Result<Self, AlarmIdError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let right = (1..=ID_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed);
        if right { Ok(Self(text.to_owned())) } else { Err(AlarmIdError) }
    }
}

impl TryFrom<String> for AlarmId {
    type Error = AlarmIdError;

    fn try_from(text: String) -> Result<Self, AlarmIdError> {
        text.parse()
    }
}

impl From<AlarmId> for String {
    fn from(id: AlarmId) -> Self {
        id.0
    }
}

impl fmt::Display for AlarmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// When an alarm goes off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spec {
    /// Once, at this second.
    At(i64),
    /// At `from` and each `every_s` seconds after it.
    Every { every_s: u64, from: i64 },
    /// When the clocks of `tz` match `expr`: five fields, as in crontab(5). Checked when it was parsed. A time that
    /// the clocks skip comes when they went on, one that they show twice comes once; but what repeats by a step or a
    /// star within an hour goes on evenly.
    Cron { expr: String, tz: String },
}

/// An alarm that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// When it goes off.
    pub spec: Spec,
    /// What it says then.
    pub text: String,
    /// The next time, in milliseconds since 1970.
    pub due_ms: u64,
    /// Who is answered when it goes off; kept, not understood.
    pub origin: Option<Value>,
}

/// What firing an alarm comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    /// The last time that was due, in milliseconds since 1970.
    pub due_ms: u64,
    /// Times before that one that nobody was awake for.
    pub missed: u64,
    /// The alarm from now on, due strictly later than now; nothing when it was the last time.
    pub next: Option<Alarm>,
}

/// Why a file is no alarm. Each message is for whoever wrote it and names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlarmError {
    #[error("an alarm has at most {FILE_BYTES_MAX} bytes")]
    TooLong,
    #[error("not a JSON object: {0}")]
    NotAnObject(String),
    #[error("{0}: missing")]
    Missing(&'static str),
    #[error("{0}: not a field of an alarm")]
    Unknown(String),
    #[error("{field}: {reason}")]
    Wrong { field: &'static str, reason: String },
}

fn wrong(field: &'static str, reason: impl Into<String>) -> AlarmError {
    AlarmError::Wrong { field, reason: reason.into() }
}

/// Reads an alarm file written at `now_ms`, milliseconds since 1970. What should have gone off already is due now.
///
/// # Errors
/// The first field that is wrong.
pub fn parse(json: &[u8], now_ms: u64) -> Result<Alarm, AlarmError> {
    if json.len() > FILE_BYTES_MAX {
        return Err(AlarmError::TooLong);
    }
    let mut file =
        File(serde_json::from_slice(json).map_err(|error| AlarmError::NotAnObject(error.to_string()))?);
    let text = file.text("text")?.ok_or(AlarmError::Missing("text"))?;
    if text.len() > TEXT_BYTES_MAX {
        return Err(wrong("text", format!("longer than {TEXT_BYTES_MAX} bytes")));
    }
    let spec = file.spec(now_ms)?;
    file.end()?;
    let due_ms = first_due_ms(&spec, now_ms)?;
    Ok(Alarm { spec, text, due_ms, origin: None })
}

/// Lets an alarm go off at `now_ms`, milliseconds since 1970. Recurrences that were slept through become this one
/// time, with their count. Takes no longer after years than after a minute.
pub fn fire(alarm: &Alarm, now_ms: u64) -> Fired {
    let (due_ms, missed, next_ms) = match &alarm.spec {
        Spec::At(_) => (alarm.due_ms, 0, None),
        Spec::Every { every_s, .. } => {
            let period_ms = every_s.saturating_mul(1000).max(1);
            let missed = now_ms.saturating_sub(alarm.due_ms) / period_ms;
            // At most now, if now is not before the alarm was due.
            let last_ms = alarm.due_ms.saturating_add(missed.saturating_mul(period_ms));
            (last_ms, missed, last_ms.checked_add(period_ms))
        }
        Spec::Cron { expr, tz } => {
            // Parsed before it was stored; should the zone be gone since, this was the last time.
            cron::Cron::parse(expr, tz)
                .map_or((alarm.due_ms, 0, None), |cron| cron.fire(alarm.due_ms, now_ms))
        }
    };
    let next = next_ms.filter(|next_ms| *next_ms > now_ms).map(|due_ms| Alarm { due_ms, ..alarm.clone() });
    Fired { due_ms, missed, next }
}

impl Alarm {
    /// The alarm as a file, as it was written and with the next time as `due`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut file = Map::new();
        let mut set = |name: &str, value: Value| file.insert(name.to_owned(), value);
        set("text", self.text.as_str().into());
        set("due", (self.due_ms / 1000).into());
        match &self.spec {
            Spec::At(at) => {
                set("at", (*at).into());
            }
            Spec::Every { every_s, from } => {
                set("every_s", (*every_s).into());
                set("from", (*from).into());
            }
            Spec::Cron { expr, tz } => {
                set("cron", expr.as_str().into());
                set("tz", tz.as_str().into());
            }
        }
        Value::Object(file).to_string().into_bytes()
    }
}

/// When a new alarm is due first, in milliseconds since 1970.
fn first_due_ms(spec: &Spec, now_ms: u64) -> Result<u64, AlarmError> {
    // Times before 1970 are as past as 1970.
    let ms = |unix_s: i64| u64::try_from(unix_s).unwrap_or(0).saturating_mul(1000);
    match spec {
        Spec::At(at) => Ok(ms(*at).max(now_ms)),
        Spec::Every { every_s, from } => {
            let now_s = i64::try_from(now_ms.div_ceil(1000)).unwrap_or(i64::MAX);
            let since = u64::try_from(now_s.saturating_sub(*from)).unwrap_or(0);
            // The first multiple that is not past.
            let ahead = since.div_ceil((*every_s).max(1)).saturating_mul(*every_s);
            Ok(ms(from.saturating_add_unsigned(ahead)).max(now_ms))
        }
        Spec::Cron { expr, tz } => {
            let cron = cron::Cron::parse(expr, tz)?;
            cron.next_ms(now_ms).ok_or_else(|| wrong("cron", "no such time comes"))
        }
    }
}

/// The fields of a file that nobody has read yet.
struct File(Map<String, Value>);

impl File {
    fn text(&mut self, field: &'static str) -> Result<Option<String>, AlarmError> {
        match self.0.remove(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(field, "expected a string")),
        }
    }

    /// A time that is not too far ahead.
    fn time(&mut self, field: &'static str, now_ms: u64) -> Result<Option<i64>, AlarmError> {
        let Some(value) = self.0.remove(field) else { return Ok(None) };
        let time = match (value.as_i64(), value.as_u64()) {
            (Some(time), _) => time,
            // Beyond what a signed number holds, and so refused below.
            (None, Some(_)) => i64::MAX,
            (None, None) => return Err(wrong(field, "expected whole seconds since 1970")),
        };
        let latest = i64::try_from((now_ms / 1000).saturating_add(AHEAD_S_MAX)).unwrap_or(i64::MAX);
        if time > latest {
            return Err(wrong(field, "more than ten years ahead; it is in seconds since 1970"));
        }
        Ok(Some(time))
    }

    fn period_s(&mut self) -> Result<Option<u64>, AlarmError> {
        let Some(value) = self.0.remove("every_s") else { return Ok(None) };
        let every_s = value.as_u64().ok_or_else(|| wrong("every_s", "expected whole seconds"))?;
        if !(EVERY_S_MIN..=AHEAD_S_MAX).contains(&every_s) {
            return Err(wrong("every_s", format!("expected {EVERY_S_MIN} seconds to ten years")));
        }
        Ok(Some(every_s))
    }

    /// The rhythm: exactly one of three.
    fn spec(&mut self, now_ms: u64) -> Result<Spec, AlarmError> {
        let at = self.time("at", now_ms)?;
        let every_s = self.period_s()?;
        let expr = self.text("cron")?;
        match (at, every_s, expr) {
            (Some(at), None, None) => Ok(Spec::At(at)),
            (None, Some(every_s), None) => {
                let now_s = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
                // Without a beginning, the first time is one period from now.
                let start = now_s.saturating_add_unsigned(every_s);
                Ok(Spec::Every { every_s, from: self.time("from", now_ms)?.unwrap_or(start) })
            }
            (None, None, Some(expr)) => {
                let tz = self.text("tz")?.ok_or(AlarmError::Missing("tz"))?;
                Ok(Spec::Cron { expr, tz })
            }
            (None, None, None) => Err(AlarmError::Missing("at, every_s or cron")),
            (Some(_), Some(_), _) => Err(wrong("every_s", "not together with at")),
            (_, _, Some(_)) => Err(wrong("cron", "not together with at or every_s")),
        }
    }

    /// Refuses what is left: a misspelt field would be silently without effect.
    fn end(mut self) -> Result<(), AlarmError> {
        self.0.remove("due");
        match self.0.keys().next() {
            Some(field) => Err(AlarmError::Unknown(field.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
