//! What happens to one received object: durable first, then filed, then answered.
//!
//! Order: the data set and its receipt go to the packs (one group-committed sync); when they are durable, the
//! catalogue is changed without waiting for its own sync, and the sender hears success. After a crash the packs hand
//! over every record whose filing may have been lost (`Archive::open`), so an answered object is always found
//! again (P1): [`super::missed`]. What is not a data set is refused before anything is kept.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tessera_consensus::wire::encode;
use tessera_storage::engine::Batch;
use tessera_storage::pixels::{Receipt as PackReceipt, ReceiptId, StoreError};

use super::catalogue::{self, ObjectRecord, Receipt, Standing};
use super::{Archive, ArchiveError, describe, flags};
use crate::config::SenderConfig;
use crate::dicom::charset::{CharacterSets, CharsetPolicy};
use crate::dicom::dataset::DataSetError;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::TransferSyntax;

/// Version of the receipts in the packs.
const RECEIPT_VERSION: u8 = 1;

/// Where an object comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A DICOM association.
    Association { calling_ae: String, called_ae: String, address: std::net::IpAddr },
    /// An operator on this machine.
    Import,
}

/// Why an object was not taken. Nothing was kept.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    NotUnderstood(#[from] DataSetError),
    // A DICOM sender sees the first 64 characters.
    #[error("the announced {what} is not the data set's: {announced}, {data_set}")]
    Mismatch { what: &'static str, announced: String, data_set: String },
    #[error("the sender is not on this node's list, and {bytes_max} bytes are aside")]
    UnlistedFull { bytes_max: u64 },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl IngestError {
    /// The disk is at its watermark or full: it is so for every object, and may be otherwise later.
    pub fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Archive(error) if error.is_full())
    }

    /// It will be refused whenever it comes: the bytes themselves are the reason.
    pub(super) fn is_of_the_bytes(&self) -> bool {
        match self {
            Self::NotUnderstood(error) => error.is_of_the_bytes(),
            Self::Mismatch { .. } => true,
            Self::UnlistedFull { .. } | Self::Archive(_) => false,
        }
    }
}

impl From<StoreError> for IngestError {
    fn from(error: StoreError) -> Self {
        IngestError::Archive(error.into())
    }
}

/// What became of an object that was kept.
#[derive(Clone, Debug)]
pub struct Filed {
    pub standing: Standing,
    /// It is kept as it came, cut off or broken, whatever else is said of it.
    pub is_damaged: bool,
    pub bytes: u64,
}

pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64)
}

impl Archive {
    /// Takes a data set that is in memory. `announced` is what the association said it would be.
    pub async fn take(
        self: &Arc<Self>,
        origin: Origin,
        transfer_syntax: Uid,
        announced: Option<(Uid, Uid)>,
        data_set: bytes::Bytes,
    ) -> Result<Filed, IngestError> {
        let _keeping = self.keeping.read().await;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let archive = self.clone();
        let begun =
            tokio::task::spawn_blocking(move || archive.begin(origin, &transfer_syntax, announced, &data_set, sender));
        let (record, bytes) = begun.await.map_err(|error| died(&error.to_string()))??;
        let receipt: PackReceipt = receiver.await.map_err(|_| died("the writer ended"))??;
        let standing = self.file(&record, receipt.id)?;
        Ok(Filed { standing, is_damaged: record.is_damaged, bytes })
    }

    /// Reads, checks, hashes, seals and queues: the part that costs processor time.
    fn begin(
        &self,
        origin: Origin,
        transfer_syntax: &Uid,
        announced: Option<(Uid, Uid)>,
        data_set: &[u8],
        done: tokio::sync::oneshot::Sender<Result<PackReceipt, StoreError>>,
    ) -> Result<(ObjectRecord, u64), IngestError> {
        let syntax = TransferSyntax::of(transfer_syntax);
        let mut receipt = self.receipt(origin, transfer_syntax);
        let facts = ObjectFacts::of(data_set, &syntax, &charset_policy(receipt.character_set.as_deref()))?;
        check_announced(announced, &facts)?;
        receipt.sop_class = facts.sop_class.as_str().to_owned();
        receipt.sop_instance = facts.sop_instance.as_str().to_owned();
        let description = describe::from_facts(&facts, self.issuer_of(&receipt.site));
        // The receiver only goes away when the association did; the object is filed by the next start then.
        let done = Box::new(move |result| drop(done.send(result)));
        let hash = self.pixels.store(data_set, &encode(&receipt), done)?;
        let size = data_set.len() as u64;
        let is_damaged = describe::is_damaged(&facts);
        Ok((ObjectRecord { description, receipt, hash: *hash.digest(), size, is_damaged }, size))
    }

    /// Ends an object that came in pieces: its facts are read back from the store once it is durable. One that is
    /// refused for its own bytes is told to the sender, and forgotten. Blocks for the disk.
    pub fn finish_large(
        &self,
        origin: Origin,
        transfer_syntax: &Uid,
        announced: Option<(Uid, Uid)>,
        mut writer: tessera_storage::pixels::LargeWriter,
    ) -> Result<Filed, IngestError> {
        let keeping = self.keeping.blocking_read();
        let mut receipt = self.receipt(origin, transfer_syntax);
        // Kept with the bytes, so that a start after a crash refuses what would have been refused here.
        if let Some((class, instance)) = &announced {
            (receipt.sop_class, receipt.sop_instance) = (class.as_str().to_owned(), instance.as_str().to_owned());
        }
        writer.set_envelope(&encode(&receipt))?;
        let done = writer.finish()?;
        let syntax = TransferSyntax::of(transfer_syntax);
        let source = crate::dicom::source::in_file(self.pixels.reader(&done.hash)?, done.object_bytes, &syntax);
        let facts = ObjectFacts::read(source, &syntax, &charset_policy(receipt.character_set.as_deref()));
        let checked = facts.map_err(IngestError::from).and_then(|facts| {
            check_announced(announced, &facts)?;
            Ok(facts)
        });
        let facts = match checked {
            Ok(facts) => facts,
            Err(error) => {
                drop(keeping);
                self.refuse(&error, &done);
                return Err(error);
            }
        };
        let description = describe::from_facts(&facts, self.issuer_of(&receipt.site));
        let (hash, size) = (*done.hash.digest(), done.object_bytes);
        let record = ObjectRecord { description, receipt, hash, size, is_damaged: describe::is_damaged(&facts) };
        let standing = self.file(&record, done.id)?;
        Ok(Filed { standing, is_damaged: record.is_damaged, bytes: done.object_bytes })
    }

    /// Gives up bytes that were kept only to be looked at. Nothing else would: what is in no list can't be discarded,
    /// and any stranger may send it. The caller holds [`Archive::keeping`] no more.
    fn refuse(&self, error: &IngestError, done: &PackReceipt) {
        if error.is_of_the_bytes()
            && let Err(error) = self.forget_refused(None, &done.hash)
        {
            // Not settled, so that the next start hands it over, refuses it and tries again.
            return tracing::warn!(why = format!("{error:#}"), "a refused object could not be forgotten yet");
        }
        self.pixels.settled(done.id);
    }

    /// The receipt of what this node itself brings in.
    pub(super) fn receipt_here(&self, transfer_syntax: &Uid) -> Receipt {
        Receipt {
            version: RECEIPT_VERSION,
            calling_ae: String::new(),
            called_ae: String::new(),
            address: String::new(),
            received_ms: now_ms(),
            sop_class: String::new(),
            sop_instance: String::new(),
            transfer_syntax: transfer_syntax.as_str().to_owned(),
            site: self.config.default_site().id.as_str().to_owned(),
            known_sender: true,
            character_set: None,
            fetched_from: None,
        }
    }

    fn receipt(&self, origin: Origin, transfer_syntax: &Uid) -> Receipt {
        let mut receipt = self.receipt_here(transfer_syntax);
        match origin {
            Origin::Import => {}
            Origin::Association { calling_ae, called_ae, address } => {
                receipt.known_sender = self.admits(&calling_ae, address);
                let listed = self.listed(&calling_ae, address);
                receipt.character_set = listed.and_then(|sender| sender.character_set.clone());
                receipt.site = self.config.site_for(&called_ae).id.as_str().to_owned();
                receipt.address = address.to_string();
                (receipt.calling_ae, receipt.called_ae) = (calling_ae, called_ae);
            }
        }
        receipt
    }

    pub(super) fn listed(&self, calling_ae: &str, address: std::net::IpAddr) -> Option<&SenderConfig> {
        self.config.dicom.sender.iter().find(|sender| sender.ae_title == calling_ae && sender.address == address)
    }

    fn admits(&self, calling_ae: &str, address: std::net::IpAddr) -> bool {
        self.config.dicom.accept_unknown_senders || self.listed(calling_ae, address).is_some()
    }

    /// Whether what comes from there is indexed.
    pub(super) fn is_listed(&self, origin: &Origin) -> bool {
        match origin {
            Origin::Import => true,
            Origin::Association { calling_ae, address, .. } => self.admits(calling_ae, *address),
        }
    }

    pub(super) fn issuer_of(&self, site: &str) -> &str {
        let site = self.config.site.iter().find(|known| known.id.as_str() == site);
        &site.unwrap_or_else(|| self.config.default_site()).issuer
    }

    /// Files a durable object in the catalogue, and tells the packs that it is filed.
    pub fn file(&self, record: &ObjectRecord, receipt: ReceiptId) -> Result<Standing, ArchiveError> {
        let standing = self.file_with(record, Batch::new())?;
        self.pixels.settled(receipt);
        Ok(standing)
    }

    /// As `file`, in one write with `batch`; the packs are not told.
    pub(super) fn file_with(&self, record: &ObjectRecord, mut batch: Batch) -> Result<Standing, ArchiveError> {
        let _writing = self.writing();
        let standing = catalogue::standing(&*self.engine, record)?;
        let mut totals = catalogue::totals(&*self.engine)?;
        let at_ms = record.receipt.received_ms;
        catalogue::record(&*self.engine, record, &standing, at_ms, &mut totals, &mut batch)?;
        catalogue::put_totals(&mut batch, &totals);
        if standing == Standing::New {
            flags::note(&*self.engine, record, &mut batch)?;
        }
        self.engine.submit(batch)?;
        Ok(standing)
    }
}

fn died(why: &str) -> IngestError {
    StoreError::Dead { cause: why.to_owned() }.into()
}

/// The data set is what the association said it would be.
pub(super) fn check_announced(announced: Option<(Uid, Uid)>, facts: &ObjectFacts) -> Result<(), IngestError> {
    let Some((class, instance)) = announced else { return Ok(()) };
    check("SOP Class UID", &class, &facts.sop_class)?;
    check("SOP Instance UID", &instance, &facts.sop_instance)
}

/// What a receipt says that was announced; nothing for an import.
pub(super) fn announced_in(receipt: &Receipt) -> Option<(Uid, Uid)> {
    Uid::parse(&receipt.sop_class).ok().zip(Uid::parse(&receipt.sop_instance).ok())
}

fn check(what: &'static str, announced: &Uid, data_set: &Uid) -> Result<(), IngestError> {
    if announced == data_set {
        return Ok(());
    }
    let (announced, data_set) = (announced.as_str().to_owned(), data_set.as_str().to_owned());
    Err(IngestError::Mismatch { what, announced, data_set })
}

/// The operator's setting for a sender, as the configuration's `validate` let it pass.
pub fn charset_policy(setting: Option<&str>) -> CharsetPolicy {
    match setting.and_then(|text| CharacterSets::parse(text).ok()) {
        Some(sets) => CharsetPolicy::Always(sets),
        None => CharsetPolicy::Detect,
    }
}
