use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const MINUTE_MS: u64 = 60 * 1000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// 2026-11-20 09:00:00.250 UTC.
const NOW_MS: u64 = 1_795_165_200_250;

fn ms(time: &str) -> u64 {
    u64::try_from(time.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
}

fn time(ms: u64) -> String {
    Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string()
}

fn set(file: &Value, now_ms: u64) -> Alarm {
    parse(file.to_string().as_bytes(), now_ms).unwrap()
}

fn cron(expr: &str, tz: &str, now_ms: u64) -> Alarm {
    set(&json!({ "text": "x", "cron": expr, "tz": tz }), now_ms)
}

/// The times of a cron line in Prague after a UTC time, as UTC; each is fired when it is due.
fn prague(expr: &str, after: &str, count: usize) -> Vec<String> {
    let mut alarm = cron(expr, "Europe/Prague", ms(after));
    let mut times = vec![time(alarm.due_ms)];
    while times.len() < count {
        let fired = fire(&alarm, alarm.due_ms + 400);
        assert_eq!((fired.due_ms, fired.missed), (alarm.due_ms, 0), "{expr}");
        alarm = fired.next.unwrap();
        times.push(time(alarm.due_ms));
    }
    times
}

#[test]
fn ids_are_short_and_plain() {
    for id in ["a", "0", "-", "wake-up-7", &"x".repeat(64)] {
        let parsed: AlarmId = id.parse().unwrap();
        assert_eq!(parsed.to_string(), id);
        assert_eq!(serde_json::from_value::<AlarmId>(json!(id)).unwrap(), parsed);
    }
    for id in ["", "A", "a b", "a_b", "a/b", "..", "é", "a\0", &"x".repeat(65)] {
        assert_eq!(id.parse::<AlarmId>(), Err(AlarmIdError), "{id:?}");
        assert!(serde_json::from_value::<AlarmId>(json!(id)).is_err());
    }
}

#[test]
fn the_three_rhythms_are_due_when_they_say() {
    let now_s = i64::try_from(NOW_MS / 1000).unwrap();
    let cases = [
        (json!({ "at": now_s + 600 }), Spec::At(now_s + 600), NOW_MS - 250 + 600_000),
        (json!({ "at": now_s - 600 }), Spec::At(now_s - 600), NOW_MS),
        (json!({ "at": -5 }), Spec::At(-5), NOW_MS),
        (
            json!({ "every_s": 60, "from": now_s + 5 }),
            Spec::Every { every_s: 60, from: now_s + 5 },
            NOW_MS - 250 + 5_000,
        ),
        // Sixty seconds from a past beginning: in step with it.
        (
            json!({ "every_s": 60, "from": now_s - 90 }),
            Spec::Every { every_s: 60, from: now_s - 90 },
            NOW_MS - 250 + 30_000,
        ),
        (
            json!({ "every_s": 60, "from": now_s - 60 }),
            Spec::Every { every_s: 60, from: now_s - 60 },
            NOW_MS - 250 + 60_000,
        ),
        (
            json!({ "every_s": 3600 }),
            Spec::Every { every_s: 3600, from: now_s + 3600 },
            NOW_MS - 250 + 3_600_000,
        ),
        (
            json!({ "cron": "30 10 * * *", "tz": "Europe/Prague" }),
            Spec::Cron { expr: "30 10 * * *".to_owned(), tz: "Europe/Prague".to_owned() },
            ms("2026-11-20T09:30:00Z"),
        ),
    ];
    for (mut file, spec, due_ms) in cases {
        file["text"] = json!("hello");
        let alarm = set(&file, NOW_MS);
        assert_eq!(alarm, Alarm { spec, text: "hello".to_owned(), due_ms, origin: None }, "{file}");
    }
}

#[test]
fn every_error_names_the_field() {
    let far = NOW_MS / 1000 + AHEAD_S_MAX + 1;
    let cases = [
        (json!({}), "text: missing"),
        (json!({ "text": "x" }), "at, every_s or cron: missing"),
        (json!({ "text": 5, "at": 1 }), "text: expected a string"),
        (json!({ "text": "x".repeat(4097), "at": 1 }), "text: longer than 4096 bytes"),
        (json!({ "text": "x", "at": "noon" }), "at: expected whole seconds since 1970"),
        (json!({ "text": "x", "at": 1.5 }), "at: expected whole seconds since 1970"),
        (json!({ "text": "x", "at": far }), "at: more than ten years ahead; it is in seconds since 1970"),
        (json!({ "text": "x", "at": NOW_MS }), "at: more than ten years ahead; it is in seconds since 1970"),
        (
            json!({ "text": "x", "at": u64::MAX }),
            "at: more than ten years ahead; it is in seconds since 1970",
        ),
        (json!({ "text": "x", "every_s": 59 }), "every_s: expected 60 seconds to ten years"),
        (json!({ "text": "x", "every_s": u64::MAX }), "every_s: expected 60 seconds to ten years"),
        (json!({ "text": "x", "every_s": -60 }), "every_s: expected whole seconds"),
        (
            json!({ "text": "x", "every_s": 60, "from": far }),
            "from: more than ten years ahead; it is in seconds since 1970",
        ),
        (json!({ "text": "x", "cron": "0 9 * * *" }), "tz: missing"),
        (json!({ "text": "x", "cron": 5, "tz": "UTC" }), "cron: expected a string"),
        (
            json!({ "text": "x", "cron": "0 9 * * *", "tz": "Mars/Olympus" }),
            "tz: expected a time zone such as Europe/Prague",
        ),
        (
            json!({ "text": "x", "cron": "0 9 * * *", "tz": "../../etc/passwd" }),
            "tz: expected a time zone such as Europe/Prague",
        ),
        (json!({ "text": "x", "cron": "0 0 30 2 *", "tz": "UTC" }), "cron: no such time comes"),
        (json!({ "text": "x", "cron": "0 9 * * *".repeat(40), "tz": "UTC" }), "cron: longer than 256 bytes"),
        (json!({ "text": "x", "at": 1, "every_s": 60 }), "every_s: not together with at"),
        (json!({ "text": "x", "at": 1, "cron": "0 9 * * *" }), "cron: not together with at or every_s"),
        (json!({ "text": "x", "at": 1, "form": 60 }), "form: not a field of an alarm"),
        (json!({ "text": "x", "at": 1, "tz": "UTC" }), "tz: not a field of an alarm"),
    ];
    for (file, expected) in cases {
        let error = parse(file.to_string().as_bytes(), NOW_MS).unwrap_err();
        assert_eq!(error.to_string(), expected, "{file}");
    }
    for expr in [
        "",
        "0 9 * *",
        "0 9 * * * *",
        "* 0 9 * * * *",
        "60 * * * *",
        "a b c d e",
        "*/0 * * * *",
        "5-1 9 * * *",
    ] {
        let file = json!({ "text": "x", "cron": expr, "tz": "UTC" });
        let error = parse(file.to_string().as_bytes(), NOW_MS).unwrap_err();
        assert!(error.to_string().starts_with("cron: "), "{expr:?}: {error}");
    }
    for text in ["", "5", "[]", "null", "{\"text\":", "\"at\""] {
        let error = parse(text.as_bytes(), NOW_MS).unwrap_err();
        assert!(matches!(error, AlarmError::NotAnObject(_)), "{text}: {error:?}");
    }
    assert_eq!(parse(&[b' '; FILE_BYTES_MAX + 1], NOW_MS), Err(AlarmError::TooLong));
}

#[test]
fn the_longest_text_fits_however_it_is_escaped() {
    let file = format!(r#"{{"text":"{}","at":1}}"#, r"\u0001".repeat(TEXT_BYTES_MAX));
    assert_eq!(parse(file.as_bytes(), NOW_MS).unwrap().text.len(), TEXT_BYTES_MAX);
}

#[test]
fn a_file_reads_back_as_written_with_its_next_time() {
    let files = [
        json!({ "text": "x", "at": 1_795_165_800 }),
        json!({ "text": "x", "every_s": 7200, "from": 1_795_172_400 }),
        json!({ "text": "x", "cron": "0 9 * * 1-5", "tz": "Europe/Prague" }),
    ];
    for mut file in files {
        let alarm = set(&file, NOW_MS);
        file["due"] = json!(alarm.due_ms / 1000);
        assert_eq!(serde_json::from_slice::<Value>(&alarm.to_json()).unwrap(), file);
        assert_eq!(parse(&alarm.to_json(), NOW_MS).unwrap(), alarm, "what is read may be written");
        let stored =
            serde_json::to_vec(&Alarm { origin: Some(json!({ "peer": "npub" })), ..alarm.clone() }).unwrap();
        assert_eq!(serde_json::from_slice::<Alarm>(&stored).unwrap().spec, alarm.spec);
    }
}

#[test]
fn once_is_once() {
    let alarm = set(&json!({ "text": "x", "at": NOW_MS / 1000 + 60 }), NOW_MS);
    let fired = fire(&alarm, NOW_MS + DAY_MS);
    assert_eq!(fired, Fired { due_ms: alarm.due_ms, missed: 0, next: None });
}

#[test]
fn a_period_goes_on_in_step_and_keeps_its_origin() {
    let mut alarm = set(&json!({ "text": "x", "every_s": 60, "from": NOW_MS / 1000 }), NOW_MS - 250);
    alarm.origin = Some(json!("somebody"));
    let due_ms = alarm.due_ms;
    // (how late it is fired, missed, next)
    for (late_ms, missed, next_ms) in [
        (0, 0, 60_000),
        (59_999, 0, 60_000),
        (60_000, 1, 120_000),
        (60_001, 1, 120_000),
        (3_600_000, 60, 3_660_000),
    ] {
        let fired = fire(&alarm, due_ms + late_ms);
        let next = fired.next.unwrap();
        assert_eq!((fired.missed, next.due_ms - due_ms), (missed, next_ms), "{late_ms} ms late");
        assert_eq!(fired.due_ms, due_ms + missed * 60_000);
        assert_eq!((&next.spec, &next.text, &next.origin), (&alarm.spec, &alarm.text, &alarm.origin));
    }
    // A clock that was put back must not make it fire again at once.
    let early = fire(&alarm, due_ms - DAY_MS);
    assert_eq!((early.due_ms, early.missed, early.next.unwrap().due_ms), (due_ms, 0, due_ms + 60_000));
}

#[test]
fn years_of_sleep_are_one_time_with_a_count() {
    let slept_ms = 5 * 365 * DAY_MS;
    let alarm = set(&json!({ "text": "x", "every_s": 60 }), NOW_MS);
    let fired = fire(&alarm, alarm.due_ms + slept_ms);
    assert_eq!(fired.missed, slept_ms / MINUTE_MS);
    assert_eq!(fired.next.unwrap().due_ms, alarm.due_ms + slept_ms + MINUTE_MS);

    let alarm = cron("* * * * *", "Europe/Prague", NOW_MS);
    let fired = fire(&alarm, alarm.due_ms + slept_ms + 100);
    assert_eq!(fired.missed, CRON_MISSED_MAX, "counted no further");
    assert_eq!(fired.due_ms, alarm.due_ms + slept_ms, "the last time that was due");
    assert_eq!(fired.next.unwrap().due_ms, alarm.due_ms + slept_ms + MINUTE_MS);
}

#[test]
fn missed_times_of_a_cron_line_are_counted() {
    // Weekdays at 9: due on Monday 23 November, looked at on Thursday 3 December.
    let alarm = cron("0 9 * * 1-5", "Europe/Prague", ms("2026-11-20T10:00:00Z"));
    assert_eq!(time(alarm.due_ms), "2026-11-23T08:00:00Z");
    let fired = fire(&alarm, ms("2026-12-03T07:00:00Z"));
    assert_eq!((time(fired.due_ms).as_str(), fired.missed), ("2026-12-02T08:00:00Z", 7));
    assert_eq!(time(fired.next.unwrap().due_ms), "2026-12-03T08:00:00Z");
}

#[test]
fn clocks_that_go_forward_skip_nothing_and_repeat_nothing() {
    // In Prague 2026-03-29 has no time from 2:00 to 3:00; 3:00 is 1:00 UTC.
    let gap = "2026-03-28T12:00:00Z";
    let cases = [
        ("30 2 * * *", gap, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]),
        ("0 9 * * *", gap, ["2026-03-29T07:00:00Z", "2026-03-30T07:00:00Z", "2026-03-31T07:00:00Z"]),
        (
            "*/30 * * * *",
            "2026-03-29T00:20:00Z",
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
        ),
    ];
    for (expr, after, expected) in cases {
        assert_eq!(prague(expr, after, 3), expected, "{expr}");
    }
}

#[test]
fn clocks_that_go_back_fire_once_what_is_fixed_and_evenly_what_repeats() {
    // In Prague 2026-10-25 has 2:00 to 3:00 twice: from 0:00 UTC, and from 1:00 UTC.
    let fold = "2026-10-24T12:00:00Z";
    let cases = [
        ("30 2 * * *", fold, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z", "2026-10-27T01:30:00Z"]),
        ("0 9 * * *", fold, ["2026-10-25T08:00:00Z", "2026-10-26T08:00:00Z", "2026-10-27T08:00:00Z"]),
        (
            "*/30 * * * *",
            "2026-10-25T00:20:00Z",
            ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"],
        ),
    ];
    for (expr, after, expected) in cases {
        assert_eq!(prague(expr, after, 3), expected, "{expr}");
    }
    // Looked at in the second of the two hours, the fixed time is over for the day.
    assert_eq!(prague("30 2 * * *", "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
}

#[test]
fn months_end_where_they_end() {
    let cases = [
        (
            "0 12 31 * *",
            "2026-01-31T12:00:00Z",
            ["2026-03-31T10:00:00Z", "2026-05-31T10:00:00Z", "2026-07-31T10:00:00Z"],
        ),
        (
            "0 12 L * *",
            "2027-01-31T12:00:00Z",
            ["2027-02-28T11:00:00Z", "2027-03-31T10:00:00Z", "2027-04-30T10:00:00Z"],
        ),
        (
            "0 12 29 2 *",
            "2026-01-01T00:00:00Z",
            ["2028-02-29T11:00:00Z", "2032-02-29T11:00:00Z", "2036-02-29T11:00:00Z"],
        ),
        // 2100 is no leap year.
        (
            "0 12 29 2 *",
            "2096-03-01T00:00:00Z",
            ["2104-02-29T11:00:00Z", "2108-02-29T11:00:00Z", "2112-02-29T11:00:00Z"],
        ),
        (
            "0 0 1 1 *",
            "2026-12-31T22:59:59Z",
            ["2026-12-31T23:00:00Z", "2027-12-31T23:00:00Z", "2028-12-31T23:00:00Z"],
        ),
        (
            "@weekly",
            "2026-11-20T00:00:00Z",
            ["2026-11-21T23:00:00Z", "2026-11-28T23:00:00Z", "2026-12-05T23:00:00Z"],
        ),
        (
            "0 9 * * MON",
            "2026-11-20T00:00:00Z",
            ["2026-11-23T08:00:00Z", "2026-11-30T08:00:00Z", "2026-12-07T08:00:00Z"],
        ),
    ];
    for (expr, after, expected) in cases {
        assert_eq!(prague(expr, after, 3), expected, "{expr}");
    }
}

#[test]
fn the_last_time_of_all_is_no_trap() {
    let alarm = Alarm {
        spec: Spec::Every { every_s: 60, from: 0 },
        text: String::new(),
        due_ms: u64::MAX - 5,
        origin: None,
    };
    for now_ms in [0, NOW_MS, u64::MAX - 5, u64::MAX] {
        assert_eq!(fire(&alarm, now_ms).next, None);
    }
    let alarm = cron("* * * * *", "UTC", NOW_MS);
    assert_eq!(fire(&alarm, u64::MAX).next, None);
}

/// Files that are mostly right.
fn file() -> impl Strategy<Value = Value> {
    let now_s = i64::try_from(NOW_MS / 1000).unwrap();
    let field = || prop_oneof!["\\*", "\\*/[1-9]", "[0-9]{1,2}", "[0-5]-[6-9]", "[1-6],[7-9]"];
    let cron = prop::collection::vec(field(), 5).prop_map(|fields| fields.join(" "));
    let tz = prop::sample::select(vec![
        "Europe/Prague",
        "America/New_York",
        "Australia/Lord_Howe",
        "UTC",
        "Asia/Kathmandu",
    ]);
    prop_oneof![
        any::<i32>().prop_map(move |s| json!({ "text": "x", "at": now_s + i64::from(s) })),
        (60u64..1_000_000, any::<i32>())
            .prop_map(move |(n, s)| json!({ "text": "x", "every_s": n, "from": now_s + i64::from(s) })),
        (cron, tz).prop_map(|(cron, tz)| json!({ "text": "x", "cron": cron, "tz": tz })),
    ]
}

proptest! {
    #[test]
    fn next_is_always_after_now(file in file(), late_ms in 0..40 * 365 * DAY_MS, early_ms in 0..DAY_MS) {
        if let Ok(alarm) = parse(file.to_string().as_bytes(), NOW_MS) {
            prop_assert!(alarm.due_ms >= NOW_MS);
            for now_ms in [alarm.due_ms, alarm.due_ms + late_ms, alarm.due_ms.saturating_sub(early_ms)] {
                let fired = fire(&alarm, now_ms);
                prop_assert!(fired.due_ms >= alarm.due_ms);
                prop_assert!(fired.due_ms <= now_ms.max(alarm.due_ms));
                match fired.next {
                    Some(next) => prop_assert!(next.due_ms > now_ms && next.due_ms > fired.due_ms),
                    None => prop_assert!(matches!(alarm.spec, Spec::At(_)), "{} ended", file),
                }
            }
        }
    }

    #[test]
    fn garbage_is_refused_or_fires_but_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        expr in "[0-9*/,LW#?@+a-zA-Z \\-]{0,40}",
        wild in ".{0,40}",
        tz in ".{0,20}",
        now_ms in any::<u64>(),
    ) {
        let _ = parse(&bytes, now_ms);
        for (expr, tz) in [(&expr, "Europe/Prague"), (&wild, "UTC"), (&expr, &tz)] {
            let file = json!({ "text": "x", "cron": expr, "tz": tz }).to_string();
            for now_ms in [now_ms, NOW_MS] {
                if let Ok(alarm) = parse(file.as_bytes(), now_ms) {
                    let _ = fire(&alarm, alarm.due_ms + 1);
                }
            }
        }
    }
}
