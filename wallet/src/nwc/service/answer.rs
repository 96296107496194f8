//! How results are shown: no preimage before its time, and nothing too large for a relay.

use serde_json::{Value, json};

use crate::msat::Msat;
use crate::nwc::message::{State, Transaction, Transactions};

/// The longest page, in bytes of JSON. NIP-44 adds padding and base64 a third: it stays under the 64 KiB that relays
/// take.
const PAGE_BYTES_MAX: usize = 40 * 1024;

/// A transaction as its owner sees it: the preimage only once it is settled, and fees always, since some clients
/// insist on them.
pub(super) fn shown(mut transaction: Transaction) -> Transaction {
    if transaction.state != State::Settled {
        transaction.preimage = None;
    }
    transaction.fees_paid.get_or_insert(Msat::ZERO);
    transaction
}

/// A page that fits: without metadata where it is too long with it, and shorter where that is not enough.
pub(super) fn page(transactions: Vec<Transaction>) -> Value {
    let mut page = Transactions { transactions: transactions.into_iter().map(shown).collect() };
    if size(&page) > PAGE_BYTES_MAX {
        for transaction in &mut page.transactions {
            transaction.metadata = None;
        }
    }
    while size(&page) > PAGE_BYTES_MAX && page.transactions.pop().is_some() {}
    json!(page)
}

fn size(page: &Transactions) -> usize {
    serde_json::to_string(page).map_or(0, |text| text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Preimage;
    use crate::nwc::message::Direction;

    fn transaction(metadata: usize, description: usize) -> Transaction {
        Transaction {
            direction: Direction::Incoming,
            state: State::Pending,
            invoice: None,
            description: Some("\u{1}".repeat(description)),
            description_hash: None,
            preimage: Some(Preimage([7; 32])),
            payment_hash: Preimage([7; 32]).hash(),
            amount: Msat::new(1),
            fees_paid: None,
            created_at: 0,
            expires_at: None,
            settled_at: None,
            settle_deadline: None,
            metadata: Some(json!("m".repeat(metadata))),
        }
    }

    #[test]
    fn a_preimage_is_shown_when_settled_and_not_before() {
        let pending = transaction(0, 0);
        assert_eq!(shown(pending.clone()).preimage, None);
        let settled = Transaction { state: State::Settled, ..pending };
        assert!(shown(settled).preimage.is_some());
    }

    #[test]
    fn a_page_fits_whatever_is_in_it() {
        let count = |metadata, description| {
            let page = page(vec![transaction(metadata, description); 20]);
            assert!(page.to_string().len() <= PAGE_BYTES_MAX);
            page.pointer("/transactions").and_then(Value::as_array).map_or(0, Vec::len)
        };
        assert_eq!(count(10, 10), 20);
        assert_eq!(count(4000, 10), 20, "metadata goes first");
        assert!((1..20).contains(&count(0, 639)), "then the oldest");
    }
}
