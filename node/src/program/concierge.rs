//! The concierge: the default agent, useful without any model.
//!
//! It keeps notes, goals and reminders for whoever writes to it, each person apart, and shows its status to its
//! owner. It decides by the words of a message alone:
//!
//! - `command` reads a message, `when` the times in it, `zone` the names of time zones: pure, without a clock;
//! - `person` and `alarm` say what is kept and in which files;
//! - `purse` is about money, for the owner alone;
//! - `wish` is the end of what somebody had to consent to;
//! - `desk` carries a command out on those files; `reply` and `status` hold the wording.
//!
//! The time is the tick's clock and zones come with the program, so a tick that is run again says the same.

mod alarm;
mod command;
mod desk;
mod person;
mod purse;
mod reply;
mod status;
mod trigger;
mod when;
mod wish;
mod words;
mod zone;

use jiff::Timestamp;

use self::desk::Desk;
use self::person::Peer;
use self::trigger::Trigger;
use self::wish::Wish;
use super::{Agent, Fault, Run, Tick};

/// The default agent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Concierge;

impl Agent for Concierge {
    fn on_trigger<'a>(&'a self, tick: &'a mut Tick) -> Run<'a> {
        Box::pin(async move {
            let trigger = tick.ns.read("/trigger").await?;
            let trigger: Trigger = serde_json::from_slice(&trigger)
                .map_err(|error| Fault::Failed(format!("/trigger cannot be read: {error}")))?;
            match answer(tick, &trigger).await? {
                Some(answer) => Ok(tick.ns.write("/reply", answer.as_bytes()).await?),
                None => Ok(()),
            }
        })
    }
}

/// What is said to a trigger; nothing to those that nobody waits on.
async fn answer(tick: &mut Tick, trigger: &Trigger) -> Result<Option<String>, Fault> {
    if trigger.kind == "file" {
        return Ok(Some(reply::file()));
    }
    if trigger.kind == "payment" {
        // Money that nobody waits to hear of is in the history.
        return Ok(trigger.data.as_ref().filter(|_| trigger.is_from_owner()).and_then(purse::told));
    }
    if !matches!(trigger.kind.as_str(), "dm" | "alarm" | "approval") {
        return Ok(None);
    }
    // An alarm that its operator set has no correspondent: nobody would get the answer.
    let Some(npub) = trigger.correspondent() else { return Ok(None) };
    let peer = Peer::new(npub).ok_or_else(|| Fault::Failed("/trigger comes from no npub".to_owned()))?;
    let now = now(tick)?;
    let desk = Desk::open(&mut tick.ns, now, peer).await?;
    if trigger.kind == "approval" {
        let wish = trigger.data.clone().and_then(|data| serde_json::from_value::<Wish>(data).ok());
        return match wish {
            Some(wish) => desk.decided(&wish).await,
            None => Ok(None),
        };
    }
    match &trigger.alarm {
        Some(alarm) => desk.ring(alarm).await.map(Some),
        None => desk.answer(command::parse(&trigger.text), trigger).await.map(Some),
    }
}

fn now(tick: &Tick) -> Result<Timestamp, Fault> {
    let now_ms = i64::try_from(tick.clock.now_ms()).ok();
    let now = now_ms.and_then(|now_ms| Timestamp::from_second(now_ms / 1_000).ok());
    now.ok_or_else(|| Fault::Failed("the tick's clock is beyond the calendar".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::namespace::service::{Change, Context};
    use crate::namespace::{Consent, Error, Path};
    use crate::program::Bench;
    use crate::store::write::Write;
    use oa_nips::files::Code;
    use oa_nips::nostr::PublicKey;
    use serde_json::{Value, json};

    const ANN: &str = "npub180cvv07tjdrrgpa0j7j7tmnyl2yr6yr7l8j4s3evf6u64th6gkwsyjh6w6";
    const BOB: &str = "npub1sg6plzptd64u62a878hep2kev88swjh3tw00gjsfl8f237lmu63q0uf63m";

    /// Friday, 20 November 2026, 16:00 UTC.
    const NOW: u64 = 1_795_190_400;

    const STATUS: &str = r#"{"name":"concierge","lifecycle":"active","ticks":7}"#;

    /// An agent between its ticks.
    struct World {
        bench: Bench,
        /// Seconds since [`NOW`].
        passed: u64,
    }

    impl Default for World {
        fn default() -> Self {
            Self { bench: Bench::new(PublicKey::parse(BOB).unwrap()), passed: 0 }
        }
    }

    impl World {
        async fn tick(&mut self, trigger: Value) -> Result<Option<String>, Fault> {
            let now_ms = (NOW + self.passed) * 1_000;
            self.bench.tick(&Concierge, &trigger, STATUS, now_ms).await.map(|done| done.reply)
        }

        async fn dm(&mut self, from: &str, text: &str) -> String {
            let trust = if from == ANN { "owner" } else { "stranger" };
            let trigger = json!({"id": "1", "kind": "dm", "from": from, "trust": trust, "text": text,
                "protocol": "nip17", "sent_at": NOW, "accepted_at": NOW, "origin": null, "alarm": null});
            self.tick(trigger).await.unwrap().unwrap()
        }

        /// Says something as somebody who is not the owner, and checks what comes back.
        async fn says(&mut self, text: &str, expected: &str) {
            assert_eq!(self.dm(BOB, text).await, expected, "{text}");
        }

        /// Rings an alarm as the node does: one that rings once is gone by then.
        async fn ring(&mut self, id: &str, due: u64, missed: u64) -> String {
            let path = format!("/schedule/{id}.json");
            let file: Value = serde_json::from_slice(&self.bench.files.0[&path]).unwrap();
            if file.get("at").is_some() {
                self.bench.files.0.remove(&path);
            }
            let trigger = json!({"id": "2", "kind": "alarm", "from": null, "trust": "stranger", "text": file["text"],
                "protocol": "nip17", "origin": {"from": BOB, "protocol": "nip17"},
                "alarm": {"id": id, "due": due, "missed": missed, "text": file["text"]}});
            self.tick(trigger).await.unwrap().unwrap()
        }

        fn alarms(&self) -> Vec<(String, Value)> {
            let alarm = |(path, content): (&String, &Vec<u8>)| {
                let id = path.strip_prefix("/schedule/")?.strip_suffix(".json")?;
                Some((id.to_owned(), serde_json::from_slice(content).unwrap()))
            };
            self.bench.files.0.iter().filter_map(alarm).collect()
        }
    }

    #[tokio::test]
    async fn notes_are_kept_listed_shown_and_forgotten_by_numbers_that_do_not_return() {
        let mut world = World::default();
        world.says("notes", "You have no notes. Try: note buy milk").await;
        world.says("note buy milk", "Noted as #1: buy milk").await;
        world.says("Note: call Ann\nabout the boat", "Noted as #2: call Ann about the boat").await;
        world.says("note", "What should I note? For example: note buy milk").await;
        world.says("notes", "Your notes:\n#1 buy milk\n#2 call Ann about the boat").await;
        let shown = "Your note #2 of Fri 20 Nov 2026 at 16:00 (UTC):\ncall Ann\nabout the boat";
        world.says("show 2", shown).await;
        world.says("forget 2", "Forgot note #2: call Ann about the boat").await;
        world.says("forget 2", "You have no note #2. Say \"notes\" to see what you have.").await;
        world.says("note third", "Noted as #3: third").await;
        world.says("notes", "Your notes:\n#1 buy milk\n#3 third").await;
    }

    #[tokio::test]
    async fn goals_are_files_of_their_own() {
        let mut world = World::default();
        world.says("goal learn Rust", "Goal #1 is set: learn Rust").await;
        world.says("goal sail", "Goal #2 is set: sail").await;
        let path = "/goals/sg6plzptd64u62a878hep2kev8-1.json";
        let goal: Value = serde_json::from_slice(&world.bench.files.0[path]).unwrap();
        assert_eq!(goal, json!({"text": "learn Rust", "created_at": NOW, "by": BOB}));
        world.says("goals", "Your goals:\n#1 learn Rust\n#2 sail").await;
        world.says("done 1", "Well done! Goal #1 is reached: learn Rust").await;
        world.says("drop goal 2", "Dropped goal #2: sail").await;
        assert!(!world.bench.files.0.keys().any(|path| path.starts_with("/goals/")));
        world.says("goal rest", "Goal #3 is set: rest").await;
        world.bench.files.0.retain(|path, _| !path.starts_with("/goals/"));
        world.says("goals", "You have no goals. Try: goal learn Rust").await;
    }

    #[tokio::test]
    async fn a_reminder_is_stated_in_full_rings_once_and_is_gone() {
        let mut world = World::default();
        let hint = "\nI take your times as UTC. To set your time zone, say for example: tz Europe/Prague";
        let answer = "OK, I will remind you on Fri 20 Nov 2026 at 16:10 (UTC): stretch. That is #1.";
        world.says("remind me in 10m to stretch", &format!("{answer}{hint}")).await;
        let answer = "OK, I will remind you on Fri 20 Nov 2026 at 17:00 (UTC): is it five? That is #2.";
        world.says("remind me at 5pm is it five?", answer).await;
        let [(id, first), _] = &world.alarms()[..] else { panic!("two alarms") };
        assert_eq!(
            (id.as_str(), first),
            ("sg6plzptd64u62a878hep2kev8-1", &json!({"text": "stretch", "at": NOW + 600}))
        );
        world.passed = 600;
        assert_eq!(world.ring("sg6plzptd64u62a878hep2kev8-1", NOW + 600, 0).await, "Reminder #1: stretch");
        world.says("reminders", "Your reminders:\n#2 on Fri 20 Nov 2026 at 17:00 (UTC): is it five?").await;
        world.passed = 7_200;
        let late = "Reminder #2: is it five?\nThis is late: it was due on Fri 20 Nov 2026 at 17:00 (UTC).";
        assert_eq!(world.ring("sg6plzptd64u62a878hep2kev8-2", NOW + 3_600, 0).await, late);
        world.says("reminders", "You have no reminders. Try: remind me in 10m to stretch").await;
        world.says("cancel 2", "You have no reminder #2. Say \"reminders\" to see what you have.").await;
    }

    #[tokio::test]
    async fn a_repeated_reminder_follows_the_zone_until_it_is_cancelled() {
        let mut world = World::default();
        let zone =
            "Your time zone is now Europe/Prague. It is Fri 20 Nov 2026 at 17:00 (Europe/Prague, UTC+1).";
        world.says("tz prague", zone).await;
        let first = "Mon 23 Nov 2026 at 08:30 (Europe/Prague, UTC+1)";
        let answer =
            format!("OK, I will remind you every weekday at 08:30, first on {first}: plan. That is #1.");
        world.says("remind me every weekday at 8:30 to plan", &answer).await;
        let alarm = json!({"text": "plan", "cron": "30 8 * * 1-5", "tz": "Europe/Prague"});
        assert_eq!(world.alarms(), [("sg6plzptd64u62a878hep2kev8-1".to_owned(), alarm)]);
        world.passed = 3 * 86_400;
        let rings =
            "Reminder #1: plan\nI missed 2 before it.\nIt comes every weekday at 08:30. To stop it: cancel 1";
        assert_eq!(world.ring("sg6plzptd64u62a878hep2kev8-1", NOW + world.passed, 2).await, rings);
        let next = "Tue 24 Nov 2026 at 08:30 (Europe/Prague, UTC+1)";
        world
            .says("reminders", &format!("Your reminders:\n#1 every weekday at 08:30, next on {next}: plan"))
            .await;
        world
            .says(
                "show reminder 1",
                &format!("Your reminder #1, every weekday at 08:30, next on {next}:\nplan"),
            )
            .await;
        world.says("cancel 1", "Cancelled reminder #1: plan").await;
        assert!(world.alarms().is_empty());
        let first = "Mon 23 Nov 2026 at 19:00 (Europe/Prague, UTC+1)";
        let answer = format!("OK, I will remind you every 2 hours, first on {first}: stretch. That is #2.");
        world.says("remind me every 2 hours to stretch", &answer).await;
    }

    #[tokio::test]
    async fn people_are_kept_apart() {
        let mut world = World::default();
        world.says("note mine", "Noted as #1: mine").await;
        assert!(world.dm(BOB, "remind me in 10m to x").await.contains("That is #1."));
        assert_eq!(world.dm(ANN, "notes").await, "You have no notes. Try: note buy milk");
        assert_eq!(world.dm(ANN, "note hers").await, "Noted as #1: hers");
        assert_eq!(
            world.dm(ANN, "cancel 1").await,
            "You have no reminder #1. Say \"reminders\" to see what you have."
        );
        world.says("notes", "Your notes:\n#1 mine").await;
        assert_eq!(world.alarms().len(), 1);
    }

    #[tokio::test]
    async fn the_owner_sees_the_status_and_others_are_told_so() {
        let mut world = World::default();
        assert_eq!(world.dm(ANN, "status").await, "concierge is active\nTicks: 7\nOwner: nobody yet");
        let help = world.dm(ANN, "help").await;
        assert!(help.ends_with("For you as my owner: status, balance, invoice 500, pay lnbc…"), "{help}");
        world.says("status", "Only my owner may see my status. Say \"ping\" to see that I am here.").await;
        assert!(world.dm(BOB, "help").await.ends_with("whoami, ping, help"));
        world.says("ping", "pong").await;
        let whoami = format!(
            "{BOB}\nI do not know you yet, and that is fine.\n\
            We write by NIP-17 (private direct messages).\nYour time zone: UTC"
        );
        world.says("whoami", &whoami).await;
        assert!(world.bench.files.0.is_empty(), "nothing to keep of somebody who only asked");
    }

    #[tokio::test]
    async fn money_is_for_the_owner_alone() {
        let mut world = World::default();
        for text in ["balance", "invoice 500 tea", "pay lnbc1", "Balance?"] {
            world
                .says(text, "Only my owner may use my wallet. Say \"help\" to see what I can do for you.")
                .await;
            assert!(world.dm(ANN, text).await.starts_with("I have no wallet"), "{text}");
        }
        assert_eq!(world.dm(ANN, "pay").await, "What should I pay? For example: pay lnbc…");
        assert_eq!(world.dm(ANN, "invoice").await, "For how much, in sat? For example: invoice 500 tea");
        let paid = json!({"event": "received", "received_msat": 5000});
        let trigger =
            |trust: &str| json!({"kind": "payment", "trust": trust, "origin": {"from": ANN}, "data": paid});
        let told = world.tick(trigger("owner")).await.unwrap();
        assert_eq!(told.as_deref(), Some("Your invoice was paid: 5 sat."));
        assert_eq!(world.tick(trigger("stranger")).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_cannot_be_done_is_said_with_its_reason() {
        let mut world = World::default();
        let cases = [
            (
                "remnid me in 5m to go",
                "I did not understand \"remnid me in 5m to go\". Did you mean: remind me in 10m to stretch\nSay \"help\" to see all I can do.",
            ),
            ("remind me to stretch", "When should I remind you? For example: remind me in 10m to stretch"),
            (
                "remind me at 25:00 to sleep",
                "I can make no time of \"25:00\". For example: remind me in 10m to stretch",
            ),
            (
                "remind me in 7 years to sleep",
                "That is too far away: I remember reminders for 5 years at most.",
            ),
            (
                "remind me every second to breathe",
                "That is too often: a reminder can come once a minute at most.",
            ),
            (
                "remind me today at 9 to x",
                "Fri 20 Nov 2026 at 09:00 (UTC) has passed; it is now Fri 20 Nov 2026 at 16:00 (UTC).",
            ),
            (
                "tz UTC+2",
                "\"UTC+2\" is an offset, which would be wrong after the clocks change. Name a city: tz Europe/Prague",
            ),
            ("tz Europe/Pragu", "I know no time zone \"Europe/Pragu\". Did you mean: tz Europe/Prague"),
            ("delete 3", "Which one? For example: forget 3 (a note), drop 2 (a goal), cancel 2 (a reminder)"),
            ("notes 2", "You have no notes. Try: note buy milk"),
            (
                "claim ABCDEF",
                "That claim code does not work: it is mistyped, used, or older than 10 minutes.",
            ),
        ];
        for (text, expected) in cases {
            world.says(text, expected).await;
        }
        let legacy = json!({"kind": "dm", "from": BOB, "text": "claim ABCDEF", "protocol": "nip04"});
        let told = world.tick(legacy).await.unwrap().unwrap();
        assert!(told.starts_with("A claim must come as a sealed message (NIP-17)."), "{told}");
        let quoted = world.dm(BOB, &"blah ".repeat(2_000)).await;
        assert!(quoted.contains("blah…") && quoted.chars().count() < 300, "{quoted}");
        let long = world.dm(BOB, &format!("note {}", "é".repeat(2_001))).await;
        assert_eq!(
            long,
            "That is too long: it has 2001 characters, and a note can have 2000. Nothing was kept."
        );
        assert!(world.bench.files.0.is_empty());
    }

    #[tokio::test]
    async fn a_full_shelf_refuses_and_its_list_has_pages() {
        let mut world = World::default();
        for number in 1..=person::REMINDERS_MAX {
            let answer = world.dm(BOB, "remind me in 1h to x").await;
            assert!(answer.contains(&format!("That is #{number}.")), "{answer}");
        }
        let full = world.dm(BOB, "remind me in 1h to x").await;
        assert!(full.starts_with("You have 100 reminders, and I keep no more for one person."), "{full}");
        let page = world.dm(BOB, "reminders 5").await;
        assert!(
            page.starts_with("Your reminders, page 5 of 5:\n#81 on ") && page.lines().count() == 21,
            "{page}"
        );
        assert!(world.dm(BOB, "reminders").await.ends_with("\nMore: \"reminders 2\""));
        world.says("reminders 6", "Your reminders have only 5 pages.").await;
        // One that is gone without the concierge makes room again.
        let (id, _) = world.alarms().remove(0);
        world.bench.files.0.remove(&format!("/schedule/{id}.json"));
        assert!(world.dm(BOB, "remind me in 1h to x").await.contains("That is #101."));
    }

    #[tokio::test]
    async fn the_longest_lists_fit_a_message() {
        let mut world = World::default();
        let text = "𝄞".repeat(person::TEXT_CHARS_MAX);
        for _ in 0..reply::PAGE_ITEMS {
            world.dm(BOB, &format!("note {text}")).await;
        }
        assert!(world.dm(BOB, "notes").await.len() < oa_nips::mail::TEXT_BYTES_MAX);
        assert!(world.dm(BOB, "show 1").await.len() < oa_nips::mail::TEXT_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_damaged_file_fails_the_tick_and_stays() {
        let path = format!("/memory/people/{BOB}.json");
        for content in ["", "{}", r#"{"version":9}"#] {
            let mut world = World::default();
            world.bench.files.0.insert(path.clone(), content.as_bytes().to_vec());
            let trigger = json!({"kind": "dm", "from": BOB, "text": "note x"});
            let fault = world.tick(trigger).await.unwrap_err().to_string();
            assert!(fault.starts_with(&format!("{path} cannot be used and is left as it is: ")), "{fault}");
            assert_eq!(world.bench.files.0[&path], content.as_bytes());
        }
        let mut world = World::default();
        world.says("goal x", "Goal #1 is set: x").await;
        for (path, content) in &mut world.bench.files.0 {
            if path.starts_with("/goals/") {
                *content = b"not JSON".to_vec();
            }
        }
        assert!(world.tick(json!({"kind": "dm", "from": BOB, "text": "goals"})).await.is_err());
    }

    /// Somebody has to consent to each change of a goal.
    #[derive(Debug)]
    struct AskAboutGoals;

    impl Consent for AskAboutGoals {
        fn freeze(&self, _: &Context<'_>, path: &Path, _: &Change) -> Option<(Vec<Write>, Error)> {
            let error = || Error::new(Code::ApprovalRequired, path, "needs consent");
            path.as_str().starts_with("/goals/").then(|| (Vec::new(), error()))
        }
    }

    #[tokio::test]
    async fn goals_that_need_consent_wait_for_it_and_nothing_else_does() {
        let asks = "That needs consent. My node asks for it in a message of its own, and I will tell you what comes of it.";
        let mut world = World::default();
        world.says("goal stay", "Goal #1 is set: stay").await;
        let path = world.bench.files.0.keys().find(|path| path.starts_with("/goals/")).unwrap().clone();
        let ends = |number: u64, verb: &str, outcome: &str| {
            let path = path.replace("-1.json", &format!("-{number}.json"));
            json!({"kind": "approval", "trust": "stranger", "origin": {"from": BOB, "protocol": "nip17"},
                "data": {"id": "1f3a09bc", "path": path, "verb": verb, "outcome": outcome}})
        };
        world.bench.consent = Arc::new(AskAboutGoals);
        for text in ["goal learn Rust", "goal learn C", "drop 1"] {
            world.says(text, asks).await;
        }
        world.says("goals", "Your goals:\n#1 stay").await;
        world.says("note x", "Noted as #1: x").await;

        // The node makes the change, and tells of it.
        let item = br#"{"text":"learn Rust","created_at":1,"by":null}"#.to_vec();
        world.bench.files.0.insert(path.replace("-1.json", "-2.json"), item);
        let told = world.tick(ends(2, "write", "done")).await.unwrap();
        assert_eq!(told.as_deref(), Some("Goal #2 is set: learn Rust"));
        world.says("goals", "Your goals:\n#1 stay\n#2 learn Rust").await;
        let told = world.tick(ends(3, "write", "denied")).await.unwrap();
        assert_eq!(told.as_deref(), Some("Goal #3 is not set: consent was refused."));
        let told = world.tick(ends(1, "remove", "expired")).await.unwrap();
        assert_eq!(told.as_deref(), Some("Goal #1 stays: nobody consented in time."));
        world.bench.files.0.remove(&path);
        let told = world.tick(ends(1, "remove", "done")).await.unwrap();
        assert_eq!(told.as_deref(), Some("Goal #1 is off your list."));
        world.says("goals", "Your goals:\n#2 learn Rust").await;

        let mut other = ends(1, "call", "done");
        other["data"]["path"] = json!("/wallet/pay");
        assert_eq!(world.tick(other).await.unwrap(), None);
    }

    #[tokio::test]
    async fn other_triggers_are_answered_only_where_somebody_waits() {
        let mut world = World::default();
        for kind in ["created", "poke", "reaction", "message", "something_new"] {
            let answer =
                world.tick(json!({"kind": kind, "from": BOB, "trust": "owner", "text": "+"})).await.unwrap();
            assert_eq!(answer, None, "{kind}");
        }
        let file =
            world.tick(json!({"kind": "file", "from": BOB, "text": "https://example.org/x"})).await.unwrap();
        assert!(file.is_some_and(|file| file.starts_with("I can only read text")));
        let orphan = json!({"kind": "alarm", "from": null, "alarm": {"id": "backup", "due": NOW, "missed": 0, "text": "x"}});
        assert_eq!(world.tick(orphan).await.unwrap(), None);
        let other = json!({"kind": "alarm", "origin": {"from": BOB}, "alarm": {"id": "backup", "due": NOW, "text": "x"}});
        assert_eq!(world.tick(other).await.unwrap().as_deref(), Some("Reminder: x"));
        for bad in [json!([]), json!({"kind": "dm", "from": "../../x", "text": "hi"})] {
            assert!(world.tick(bad).await.is_err());
        }
    }
}
