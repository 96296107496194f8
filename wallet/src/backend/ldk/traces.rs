//! What LDK had on disk when it was started, searched for the payments that a crash tore in two.
//!
//! LDK keeps a payment in its list beside the channels, not with them. A process that is killed between the two writes
//! leaves a payment in the list that was never sent, pending for ever; or one that was sent and is not in the list. The
//! hash tells them apart: what LDK has begun is in its manager or in a channel's state, byte for byte.

use std::path::Path;

use ldk_node::io::sqlite_store::KV_TABLE_NAME;
use ldk_node::payment::{PaymentDirection, PaymentStatus};
use ldk_node::{Node, NodeError};
use rusqlite::{Connection, OpenFlags};

use super::{convert, start};
use crate::backend::PaymentHash;

/// All but the list of payments, and what is large and knows of none.
const SELECT: &str = "WHERE primary_namespace <> 'payments' \
                      AND NOT (primary_namespace = '' AND key IN ('network_graph', 'scorer', 'node_metrics'))";

/// Bytes of LDK's state at its start.
#[derive(Default)]
pub(super) struct Traces(Vec<Vec<u8>>);

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Channels' secrets are among them.
        f.debug_struct("Traces").field("rows", &self.0.len()).finish_non_exhaustive()
    }
}

impl Traces {
    /// Of the node in a folder that does not run yet; nothing where there is none.
    pub(super) fn read(dir: &Path) -> rusqlite::Result<Self> {
        let db = Connection::open_with_flags(start::database(dir), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let is_new = !db.prepare("SELECT 1 FROM sqlite_master WHERE name = ?1")?.exists([KV_TABLE_NAME])?;
        if is_new {
            return Ok(Self::default());
        }
        let mut statement = db.prepare(&format!("SELECT value FROM {KV_TABLE_NAME} {SELECT}"))?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(Self(rows.collect::<Result<_, _>>()?))
    }

    /// Whether LDK knew anything of a payment.
    pub(super) fn has(&self, hash: &PaymentHash) -> bool {
        let wanted = hash.to_bytes();
        self.0.iter().any(|row| contains(row, &wanted))
    }

    /// Closes what is in the list and was never sent. To be called once, before anything is sent.
    pub(super) fn close(&self, node: &Node) -> Result<(), NodeError> {
        let open = node.list_payments_with_filter(|payment| {
            payment.direction == PaymentDirection::Outbound && payment.status == PaymentStatus::Pending
        });
        for payment in open {
            let id = convert::id(payment.id);
            let is_known =
                self.has(&id) || convert::hash_of(&payment.kind).is_some_and(|hash| self.has(&hash));
            if !is_known {
                tracing::info!(payment = %id, "a payment was written down and never sent");
                // This call is for payments we receive, but what it does to the list is what is needed.
                node.bolt11_payment().fail_for_hash(convert::ldk_hash(id))?;
            }
        }
        Ok(())
    }
}

/// By its first byte: most places are passed over quickly.
fn contains(row: &[u8], wanted: &[u8; 32]) -> bool {
    let [first, ..] = wanted;
    let mut rest = row;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(wanted) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_found_wherever_it_stands() {
        let hash = PaymentHash::from_bytes([7; 32]);
        let traces = |row: Vec<u8>| Traces(vec![vec![1, 2, 3], row]);
        for (before, after) in [(0, 0), (5, 0), (0, 5), (5, 5)] {
            let row = [vec![7; before], vec![8], hash.to_bytes().to_vec(), vec![9; after]].concat();
            assert!(traces(row).has(&hash), "{before} {after}");
        }
        assert!(!traces(vec![7; 31]).has(&hash));
        assert!(!Traces::default().has(&hash));
    }

    #[test]
    fn a_new_node_has_none() {
        let dir = tempfile::tempdir().unwrap();
        Connection::open(start::database(dir.path())).unwrap().execute_batch("VACUUM").unwrap();
        assert_eq!(Traces::read(dir.path()).unwrap().0.len(), 0);
    }
}
