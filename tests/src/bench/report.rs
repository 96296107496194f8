//! What was measured, told: one JSON object a row as it is known, and a table at the end.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use super::machine::Machine;
use super::spread::Spread;

/// What a value should be (DESIGN section 11).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
}

impl Target {
    /// How much of the target a value reaches; 1 and more meets it.
    fn reached(self, value: f64) -> f64 {
        match self {
            Self::AtMost(target) => target / value,
            Self::AtLeast(target) => value / target,
        }
    }
}

/// One row.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    row: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "number")]
    target: Option<Target>,
    /// How much of the target is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<f64>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

fn number<S: serde::Serializer>(target: &Option<Target>, serializer: S) -> Result<S::Ok, S::Error> {
    match target {
        Some(Target::AtMost(number) | Target::AtLeast(number)) => serializer.serialize_f64(*number),
        None => serializer.serialize_none(),
    }
}

impl Row {
    /// A row that has no target.
    pub(crate) fn new(row: impl Into<String>, value: f64, unit: &'static str) -> Self {
        let (target, reached, p50, p99) = (None, None, None, None);
        Self { row: row.into(), value, unit, target, reached, p50, p99, note: String::new() }
    }

    /// With what it should be.
    pub(crate) fn target(self, target: Target) -> Self {
        Self { target: Some(target), reached: Some(target.reached(self.value)), ..self }
    }

    /// With how the times are spread.
    pub(crate) fn spread(self, spread: &Spread) -> Self {
        Self { p50: Some(spread.percentile_ms(50)), p99: Some(spread.percentile_ms(99)), ..self }
    }

    /// With a remark.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// The row's cells of the table.
    fn cells(&self) -> [String; 6] {
        let target = match self.target {
            Some(Target::AtMost(target)) => format!("≤ {}", short(target)),
            Some(Target::AtLeast(target)) => format!("≥ {}", short(target)),
            None => String::new(),
        };
        let target = match self.reached {
            Some(reached) if reached >= 1.0 => format!("{target} met"),
            Some(reached) => format!("{target} {:.0} %", reached * 100.0),
            None => target,
        };
        let ms = |time: Option<f64>| time.map(short).unwrap_or_default();
        let value = format!("{} {}", short(self.value), self.unit);
        [self.row.clone(), value, target, ms(self.p50), ms(self.p99), self.note.clone()]
    }
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => {
            let digits = format!("{value:.0}");
            let from_end = |at: usize| digits.len() - at;
            let grouped = digits.char_indices().map(|(at, digit)| match from_end(at) % 3 {
                0 if at > 0 => format!(",{digit}"),
                _ => digit.to_string(),
            });
            grouped.collect()
        }
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// All rows.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
    machine: String,
}

impl Report {
    /// Begins with the machine.
    ///
    /// # Errors
    /// When nobody reads.
    pub(crate) fn new(json: bool, machine: &Machine) -> io::Result<Self> {
        if json {
            writeln!(io::stdout().lock(), "{}", json!({ "machine": machine }))?;
        }
        Ok(Self { json, rows: Vec::new(), machine: machine.to_string() })
    }

    /// Tells a row.
    ///
    /// # Errors
    /// When nobody reads.
    pub(crate) fn row(&mut self, row: Row) -> io::Result<()> {
        if self.json {
            writeln!(io::stdout().lock(), "{}", serde_json::to_string(&row).map_err(io::Error::other)?)?;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Says on stderr what takes a while now.
    pub(crate) fn doing(&self, what: &str) {
        // A reader that has gone away is no failure.
        let _ = writeln!(io::stderr().lock(), "oa-bench: {what}");
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When nobody reads.
    pub(crate) fn table(&self) -> io::Result<()> {
        let text = table(&self.machine, &self.rows);
        if self.json { write!(io::stderr().lock(), "{text}") } else { write!(io::stdout().lock(), "{text}") }
    }
}

fn table(machine: &str, rows: &[Row]) -> String {
    let head = ["", "value", "target", "p50 ms", "p99 ms", ""].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|cells| cells.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = format!("{machine}\n\n");
    for cells in lines {
        let [name, value, target, p50, p99, note] = cells;
        let [a, b, c, d, e, _] = widths;
        let line = format!("{name:<a$}  {value:>b$}  {target:<c$}  {p50:>d$}  {p99:>e$}  {note}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_reached_from_either_side() {
        assert_eq!(Target::AtMost(15.0).reached(30.0), 0.5);
        assert_eq!(Target::AtLeast(300.0).reached(600.0), 2.0);
    }

    #[test]
    fn a_table_lines_up_and_says_what_is_met() {
        let rows = [
            Row::new("idle", 7.25, "ms").target(Target::AtMost(15.0)),
            Row::new("ticks", 12_345.6, "/s").target(Target::AtLeast(30_000.0)).note("slow"),
        ];
        let expected = "a machine\n\n          value  target         p50 ms  p99 ms\n\
                        idle    7.25 ms  ≤ 15.0 met\n\
                        ticks  12,346 /s  ≥ 30,000 41 %                  slow\n";
        let tidy = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let text = table("a machine", &rows);
        assert_eq!(tidy(&text), tidy(expected));
        let column = |line: &str, what: &str| line.find(what).map(|at| line[..at].chars().count());
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(column(lines[1], "≤"), column(lines[2], "≥"));
    }

    #[test]
    fn json_has_a_number_for_the_target() {
        let row = Row::new("up", 100.0, "ms").target(Target::AtMost(300.0));
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!(
            (&json["row"], &json["target"], &json["reached"]),
            (&json!("up"), &json!(300.0), &json!(3.0))
        );
    }
}
