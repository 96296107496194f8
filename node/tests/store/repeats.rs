//! What follows mail lands with it, and not again when the mail comes again.

use oa_nips::nostr::EventId;
use oa_node::agent::mailbox::{FUTURE_S_MAX, Refusal};
use oa_node::store::Store;
use oa_node::store::write::{Answer, Settled, Verdict, Write};

use super::fixture::{AT_MS, Fixture, both};

#[tokio::test]
async fn what_follows_mail_is_done_once() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let mail = world.mail(1);
        let unit = |follows: &[u8]| {
            let settled = Settled {
                agent: world.agent,
                event: (AT_MS / 1000, EventId::from_slice(mail.id.as_bytes()).unwrap()),
                envelope: Some((mail.id, AT_MS)),
                at_ms: AT_MS,
                answer: Answer::Refuse {
                    from: Some(world.sender),
                    reason: Refusal::TooOften,
                    detail: String::new(),
                },
            };
            vec![Write::Settle(Box::new(settled)), Write::Meta("follows", follows.to_vec())]
        };
        let first = world.store.commit(unit(b"once")).await.unwrap();
        assert_eq!(first, [Verdict::Refused(Refusal::TooOften), Verdict::Done]);
        let again = world.store.commit(unit(b"twice")).await.unwrap();
        assert_eq!(again, [Verdict::Duplicate]);
        assert_eq!(world.store.meta("follows").unwrap().unwrap(), b"once");
    })
    .await;
}

#[tokio::test]
async fn nothing_follows_mail_out_of_its_time() {
    both(async |store: Store| {
        let world = Fixture::new(store).await;
        let late_ms = AT_MS + FUTURE_S_MAX * 1000;
        for (n, sent_at_ms, is_timely) in [(1, late_ms + 1, false), (2, late_ms, true)] {
            let mail = world.mail(n);
            let settled = Settled {
                agent: world.agent,
                event: (AT_MS / 1000, EventId::from_slice(mail.id.as_bytes()).unwrap()),
                envelope: Some((mail.id, sent_at_ms)),
                at_ms: AT_MS,
                answer: Answer::Refuse { from: None, reason: Refusal::Code, detail: String::new() },
            };
            let unit = vec![Write::Settle(Box::new(settled)), Write::Meta("follows", vec![1])];
            let verdicts = world.store.commit(unit).await.unwrap();
            let follows = world.store.meta("follows").unwrap();
            if is_timely {
                assert_eq!(verdicts, [Verdict::Refused(Refusal::Code), Verdict::Done]);
                assert_eq!(follows, Some(vec![1]));
            } else {
                assert_eq!(verdicts, [Verdict::Refused(Refusal::Future)]);
                assert_eq!(follows, None);
            }
            // It is logged either way.
            assert_eq!(world.store.refusals(world.agent, 10).unwrap().len(), usize::try_from(n).unwrap());
        }
    })
    .await;
}
