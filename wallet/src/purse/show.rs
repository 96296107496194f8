//! How invoices and payments look to their holder, and to nobody else.

use crate::account::{Holder, Invoice, InvoiceState, Ledger, Payment as Row, PaymentState};
use crate::backend::{PaymentHash, Preimage};
use crate::msat::Msat;
use crate::nwc::message::{Direction, ListQuery, State, Transaction};
use crate::nwc::purse::PurseError;
use crate::store::Draft;
use crate::store::draft::decode;

use super::Inner;
use super::note::{BY_TIME, InvoiceNote, Mark, PaymentNote, Stage, of_holder};

/// Rows of a holder's list that one query goes through at most.
const SCAN_MAX: usize = 10_000;
/// Rows of one read.
const PAGE: usize = 256;

impl Inner {
    /// What the account has of that hash: its payment, else its invoice. A payment that is not over is looked up.
    pub(super) async fn look_up(
        &self,
        account: &Holder,
        hash: PaymentHash,
    ) -> Result<Option<Transaction>, PurseError> {
        let row = self.row(hash).await?.filter(|row| row.holder == *account);
        let Some(mut row) = row else { return self.incoming(account, hash).await };
        if row.state.is_open() {
            self.resolve(hash).await?;
            let Some(now) = self.row(hash).await?.filter(|now| now.holder == *account) else {
                return self.incoming(account, hash).await;
            };
            row = now;
        }
        self.outgoing(row.request.clone(), row).await.map(Some)
    }

    /// A payment as its holder sees it.
    pub(super) async fn outgoing(&self, request: String, row: Row) -> Result<Transaction, PurseError> {
        let note = self.book.write(move |draft| Ok(PaymentNote::get(draft, &request)?)).await?;
        note.map(|note| payment(note, Some(&row))).ok_or(PurseError::NotFound)
    }

    /// The account's invoice of that hash.
    pub(super) async fn incoming(
        &self,
        account: &Holder,
        hash: PaymentHash,
    ) -> Result<Option<Transaction>, PurseError> {
        let (account, now_s) = (account.clone(), self.now_s());
        let found = self
            .book
            .write(move |draft| {
                invoice_of(draft, hash, now_s).map(|found| found.filter(|(of, _)| *of == account))
            })
            .await?;
        let Some((_, mut transaction)) = found else { return Ok(None) };
        // Money that is held goes back at a height that only the backend knows.
        if let (State::Accepted, Some(deadline)) = (transaction.state, transaction.settle_deadline)
            && self.backend.info().await.is_ok_and(|info| info.block_height >= deadline)
        {
            transaction.state = State::Expired;
        }
        Ok(Some(transaction))
    }

    /// The account's invoices and payments, newest first.
    pub(super) async fn list(
        &self,
        account: &Holder,
        query: ListQuery,
    ) -> Result<Vec<Transaction>, PurseError> {
        let (account, now_s) = (account.clone(), self.now_s());
        self.book.read(move |store| page(store, &account, &query, now_s)).await
    }
}

fn page(
    store: &dyn crate::store::Store,
    account: &Holder,
    query: &ListQuery,
    now_s: u64,
) -> Result<Vec<Transaction>, PurseError> {
    let (prefix, mut scanned) = (of_holder(account), 0);
    let whole =
        |number: Option<u64>, or: usize| number.map_or(or, |number| usize::try_from(number).unwrap_or(or));
    let (mut skip, limit) = (whole(query.offset, 0), whole(query.limit, usize::MAX));
    let (mut from, mut listed) = (prefix.clone(), Vec::new());
    let mut draft = Draft::new(store);
    loop {
        let rows = store.scan(BY_TIME, &from, PAGE)?;
        let is_last = rows.len() < PAGE;
        for (key, row) in &rows {
            if !key.starts_with(&prefix) || listed.len() >= limit || scanned >= SCAN_MAX {
                return Ok(listed);
            }
            scanned += 1;
            let found = match decode(BY_TIME, key, &row.value)? {
                Mark::Invoice(hash) => {
                    invoice_of(&mut draft, PaymentHash(hash), now_s)?.map(|(_, transaction)| transaction)
                }
                Mark::Payment(request) => payment_of(&mut draft, &request)?,
            };
            let Some(transaction) = found.filter(|found| admits(query, found)) else { continue };
            match skip.checked_sub(1) {
                Some(rest) => skip = rest,
                None => listed.push(transaction),
            }
        }
        match rows.last() {
            Some((last, _)) if !is_last => from = format!("{last}\0"),
            _ => return Ok(listed),
        }
    }
}

fn admits(query: &ListQuery, found: &Transaction) -> bool {
    query.from.is_none_or(|from| found.created_at >= from)
        && query.until.is_none_or(|until| found.created_at <= until)
        && query.direction.is_none_or(|direction| found.direction == direction)
        && (query.unpaid.unwrap_or(false) || found.state == State::Settled)
}

fn payment_of(draft: &mut Draft<'_>, request: &str) -> Result<Option<Transaction>, PurseError> {
    let Some(note) = PaymentNote::get(draft, request)? else { return Ok(None) };
    let row = Ledger::new(draft).payment(&note.hash)?.filter(|row| row.request == request);
    Ok(Some(payment(note, row.as_ref())))
}

/// Without a row of its own an attempt has failed, and another followed it.
fn payment(note: PaymentNote, row: Option<&Row>) -> Transaction {
    let mut transaction = Transaction {
        direction: Direction::Outgoing,
        state: State::Failed,
        invoice: note.bolt11,
        description: note.description,
        description_hash: None,
        preimage: None,
        payment_hash: PaymentHash(note.hash),
        amount: note.amount,
        fees_paid: None,
        created_at: note.began_ms / 1000,
        expires_at: None,
        settled_at: None,
        settle_deadline: None,
        metadata: note.metadata,
    };
    match row.map(|row| (&row.state, row.changed_ms)) {
        Some((PaymentState::Settled { amount, fee, preimage }, at_ms)) => {
            transaction.state = State::Settled;
            transaction.amount = *amount;
            transaction.fees_paid = Some(*fee);
            transaction.preimage = preimage.map(|hash| Preimage(hash.0));
            transaction.settled_at = Some(at_ms / 1000);
        }
        Some((PaymentState::Failed { .. }, _)) | None => {}
        Some(_) => transaction.state = State::Pending,
    }
    transaction
}

/// An invoice, and whose it is.
fn invoice_of(
    draft: &mut Draft<'_>,
    hash: PaymentHash,
    now_s: u64,
) -> Result<Option<(Holder, Transaction)>, PurseError> {
    let Some(note) = InvoiceNote::get(draft, hash)? else { return Ok(None) };
    let ledgers = Ledger::new(draft).invoice(&hash.0)?;
    let (holder, expires_at) = (note.holder.clone(), note.expires_ms.map(|at| at / 1000));
    let (state, paid, deadline) = stands(&note, ledgers.as_ref(), expires_at, now_s);
    let transaction = Transaction {
        direction: Direction::Incoming,
        state,
        preimage: note.preimage().filter(|_| state == State::Settled),
        invoice: note.bolt11,
        description: note.description,
        description_hash: None,
        payment_hash: hash,
        amount: paid.map_or(note.amount, |(amount, _)| amount),
        fees_paid: None,
        created_at: note.made_ms / 1000,
        expires_at,
        settled_at: paid.map(|(_, at_ms)| at_ms / 1000),
        settle_deadline: deadline,
        metadata: note.metadata,
    };
    Ok(Some((holder, transaction)))
}

/// How far an invoice is, what was paid and when, and until which height it is held.
fn stands(
    note: &InvoiceNote,
    ledgers: Option<&Invoice>,
    expires_at: Option<u64>,
    now_s: u64,
) -> (State, Option<(Msat, u64)>, Option<u32>) {
    match (ledgers.map(|invoice| invoice.state), note.stage) {
        (Some(InvoiceState::Paid { amount, at_ms }), _) => (State::Settled, Some((amount, at_ms)), None),
        // Unasked: it came, or there would be no note.
        (None, _) => (State::Settled, Some((note.amount, note.made_ms)), None),
        (Some(InvoiceState::Open), Stage::Held { deadline, .. }) => (State::Accepted, None, deadline),
        (Some(InvoiceState::Open), Stage::Cancelled) => (State::Failed, None, None),
        (Some(InvoiceState::Open), Stage::Claimed) => (State::Pending, None, None),
        (Some(InvoiceState::Open), Stage::Open) => {
            let is_over = expires_at.is_some_and(|at| at <= now_s);
            (if is_over { State::Expired } else { State::Pending }, None, None)
        }
    }
}
