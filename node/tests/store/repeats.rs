//! What follows mail lands with it, and not again when the mail comes again.

use oa_nips::nostr::EventId;
use oa_node::agent::mailbox::Refusal;
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
