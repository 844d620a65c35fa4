//! The receipts of both sides of a retrieval, on their way into the ledger (DESIGN section 7).
//!
//! The holder's goes into the outbox behind its disclosure, before the requester gets it. The requester's is kept here
//! until the ledger has the disclosure that it answers: the holder's command may be slower than the images, or wait
//! behind a cut line, and a receipt that came before its disclosure would be rejected for good. Each is durable when
//! its function returns, and the ledger takes one for each side, however often it is sent.
//!
//! What a crash can lose: a holder that ends before the acknowledgement reached it has nothing to write a receipt of;
//! a requester that ends before its last object is durable fetches again, under a disclosure of its own.

use std::sync::atomic::Ordering;

use tessera_consensus::Lane;
use tessera_federation::machine;
use tessera_federation::outbox::{Draft, OutboxError};
use tessera_federation::retrieve::wire::v1::{Party, SignedReceipt};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, ReceiptPublic, ReceiptSide};
use tessera_storage::engine::{Batch, EngineError, wait_durable};

use super::Member;
use super::registrar::matter_of_nothing;
use super::vault::Shelf;

/// Receipts that wait for their disclosure and are looked through.
const WAITING_MAX: usize = 10_000;

fn public(signed: &SignedReceipt) -> ReceiptPublic {
    let receipt = &signed.receipt;
    ReceiptPublic {
        version: v1::VERSION,
        disclosure: receipt.disclosure,
        side: match receipt.by {
            Party::Holder => ReceiptSide::Holder,
            Party::Requester => ReceiptSide::Requester,
        },
        receipt: signed.commitment(),
    }
}

fn draft(receipt: &ReceiptPublic) -> Draft {
    Draft { lane: Lane::Bulk, kind: v1::RECEIPT, public: receipt.to_bytes(), sealed: None, matter: matter_of_nothing() }
}

impl Member {
    /// The ledger has its hash only: what was handed over stays with the two sides.
    fn keep_signed(&self, batch: &mut Batch, receipt: &SignedReceipt) {
        self.vault.put(batch, Shelf::SignedReceipts, receipt.receipt.disclosure.as_bytes(), receipt);
    }

    /// As the holder: the disclosure went through the same outbox before. Blocks for the disk.
    pub fn anchor_as_holder(&self, receipt: &SignedReceipt) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        self.keep_signed(&mut batch, receipt);
        let ticket = self.outbox.enqueue(vec![draft(&public(receipt))], batch)?;
        wait_durable(&**self.archive.engine(), ticket)?;
        self.wake_sender();
        Ok(())
    }

    /// As the requester: [`Self::anchor_kept_receipts`] sends it when its time has come.
    pub async fn keep_receipt(&self, receipt: &SignedReceipt) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        self.keep_signed(&mut batch, receipt);
        let disclosure = receipt.receipt.disclosure;
        self.vault.put(&mut batch, Shelf::Receipts, disclosure.as_bytes(), &public(receipt));
        let ticket = self.archive.engine().submit(batch)?;
        self.receipts_wait.store(true, Ordering::Release);
        self.wake_sender();
        self.durable(ticket).await
    }

    /// Puts those kept receipts into the outbox whose disclosure is in the ledger; while it or the disk is full they wait. One task
    /// calls it.
    pub fn anchor_kept_receipts(&self) -> anyhow::Result<()> {
        if !self.receipts_wait.swap(false, Ordering::Acquire) {
            return Ok(());
        }
        let kept: Vec<ReceiptPublic> = self.vault.all(&**self.archive.engine(), Shelf::Receipts, WAITING_MAX)?;
        for receipt in kept {
            if machine::disclosure(self.replica.view(), &receipt.disclosure)?.is_none() {
                self.receipts_wait.store(true, Ordering::Relaxed);
                continue;
            }
            let mut batch = Batch::new();
            self.vault.delete(&mut batch, Shelf::Receipts, receipt.disclosure.as_bytes());
            match self.outbox.enqueue(vec![draft(&receipt)], batch) {
                Err(OutboxError::Full { .. } | OutboxError::Engine(EngineError::DiskFull { .. })) => {
                    self.receipts_wait.store(true, Ordering::Relaxed);
                    break;
                }
                enqueued => drop(enqueued?),
            }
            self.wake_sender();
        }
        Ok(())
    }
}
