//! What the archive does for working copies: takes their objects in, completes them, gives them up.
//!
//! Bytes lie in the packs by their hash, whoever brought them. So giving up a copy forgets only bytes that nothing else
//! here is made of: no own object, no variant, nothing put aside, no other copy. The check and the forgetting are one
//! step, during which nothing is taken in ([`Archive::keeping`]): what a device is told is stored stays stored (P1).
//!
//! A crash: what the packs hand over with the receipt of a copy goes to the copy whose manifest lists it, never to the
//! own studies; what no copy lists is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use anyhow::Context;
use tessera_consensus::wire::encode;
use tessera_federation::wire::v1::{Manifest, ManifestObject, ObjectContent};
use tessera_storage::engine::{Batch, wait_durable};
use tessera_storage::pixels::{ObjectHash, ReceiptId, StoreError};

use super::catalogue::{self, CatalogueError, Description, ObjectRecord, Receipt};
use super::copies::{self, CopyId, CopyRecord, CopyState, Ground};
use super::ingest::now_ms;
use super::{Archive, describe};
use crate::dicom::charset::CharsetPolicy;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::source::{in_file, in_memory};
use crate::dicom::syntax::TransferSyntax;

/// Objects that are given up in one step; ingest waits meanwhile.
const FORGOTTEN_AT_ONCE: usize = 64;
const HOUR_MS: u64 = 3_600_000;

impl Archive {
    /// When what is fetched at a time ends.
    pub fn working_copy_until(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add(u64::from(self.config.policy.working_copy_hours) * HOUR_MS)
    }

    /// Notes a copy before the first of its objects comes, durably; one that is known is gone on with.
    /// The study's turn is the caller's. Blocks for the disk.
    pub fn begin_copy(&self, id: &CopyId, manifest: &Manifest) -> anyhow::Result<()> {
        let known = copies::manifest(&*self.engine, id)?;
        if known.as_ref().is_some_and(|known| known != manifest) {
            self.give_up_copy(id)?;
        }
        let now = now_ms();
        let until = self.working_copy_until(now);
        let ticket = {
            let _writing = self.writing();
            let mut batch = Batch::new();
            match copies::copy(&*self.engine, id)? {
                Some(copy) => copies::put(&mut batch, &CopyRecord { given_up_ms: until, ..copy }),
                None => copies::begin(&mut batch, id, manifest, now, until),
            }
            self.engine.submit(batch)?
        };
        Ok(wait_durable(&*self.engine, ticket)?)
    }

    /// Takes in an object of a copy that came whole. Bytes that are not what the manifest says are not kept.
    pub fn copy_whole(&self, id: &CopyId, study: &str, listed: &ManifestObject, bytes: &[u8]) -> anyhow::Result<()> {
        let syntax = syntax_of(listed)?;
        let facts = ObjectFacts::read(in_memory(bytes, &syntax), &syntax, &CharsetPolicy::Detect)?;
        let description = describe::from_facts(&facts, "");
        copies::is_as_listed(study, listed, &description)?;
        let receipt = self.copy_receipt(id, listed)?;
        let done = self.pixels.store_and_wait(bytes, &encode(&receipt))?;
        anyhow::ensure!(Some(*done.hash.digest()) == hash_of(listed), "a checked object has another hash");
        let (hash, size) = (*done.hash.digest(), done.object_bytes);
        self.list_copied(id, ObjectRecord { description, receipt, hash, size, is_damaged: false })?;
        self.pixels.settled(done.id);
        Ok(())
    }

    /// Takes in an object of a copy whose bytes are in the packs. `receipt`: of the record that brought them now.
    pub fn copy_stored(
        &self,
        id: &CopyId,
        study: &str,
        listed: &ManifestObject,
        receipt: Option<ReceiptId>,
    ) -> anyhow::Result<()> {
        let hash = ObjectHash::blake3(hash_of(listed).context("an object that the holder only declares")?);
        let (description, size) = self.read_description(&hash, &syntax_of(listed)?)?;
        let as_listed = copies::is_as_listed(study, listed, &description);
        if as_listed.is_ok() {
            let receipt = self.copy_receipt(id, listed)?;
            self.list_copied(id, ObjectRecord { description, receipt, hash: *hash.digest(), size, is_damaged: false })?;
        } else if receipt.is_some() {
            self.forget_unneeded(Some(id), &[(description, *hash.digest())])?;
        }
        if let Some(receipt) = receipt {
            self.pixels.settled(receipt);
        }
        Ok(as_listed?)
    }

    /// The envelope of a copy's bytes in the packs: that they are a copy.
    pub fn copy_receipt(&self, id: &CopyId, listed: &ManifestObject) -> anyhow::Result<Receipt> {
        let ObjectContent::Verified { transfer_syntax, .. } = &listed.content else {
            anyhow::bail!("an object that the holder only declares");
        };
        let mut receipt = self.receipt_here(&Uid::parse(transfer_syntax.as_str())?);
        receipt.sop_class = listed.sop_class.as_str().to_owned();
        receipt.sop_instance = listed.sop_instance.as_str().to_owned();
        receipt.fetched_from = Some(id.holder.as_str().to_owned());
        Ok(receipt)
    }

    fn list_copied(&self, id: &CopyId, record: ObjectRecord) -> anyhow::Result<()> {
        let _writing = self.writing();
        anyhow::ensure!(copies::copy(&*self.engine, id)?.is_some(), "the copy was given up meanwhile; fetch it again");
        let mut batch = Batch::new();
        copies::put_object(&mut batch, id, &record);
        self.engine.submit(batch)?;
        Ok(())
    }

    fn read_description(&self, hash: &ObjectHash, syntax: &TransferSyntax) -> anyhow::Result<(Description, u64)> {
        let reader = self.pixels.reader(hash)?;
        let size = reader.object_bytes();
        let facts = ObjectFacts::read(in_file(reader, size, syntax), syntax, &CharsetPolicy::Detect)?;
        Ok((describe::from_facts(&facts, ""), size))
    }

    /// All objects are here: from now on the copy is shown, on this ground. Earlier revisions of it end.
    pub fn complete_copy(&self, id: &CopyId, ground: Ground) -> anyhow::Result<CopyRecord> {
        let _writing = self.writing();
        let view = &*self.engine;
        let mut copy = copies::copy(view, id)?.context("the copy was given up meanwhile; fetch it again")?;
        let listed = copies::manifest(view, id)?.map_or(0, |manifest| manifest.objects.len());
        let objects = copies::objects(view, id, None)?;
        anyhow::ensure!(objects.len() == listed, "{} of {listed} objects are here; fetch it again", objects.len());
        copy.study = copies::described(id, &copy.study, &objects);
        copy.state = CopyState::Complete;
        copy.grounds.retain(|known| known.purpose != ground.purpose);
        copy.grounds.push(ground);
        let mut batch = Batch::new();
        copies::put(&mut batch, &copy);
        let same = |other: &CopyRecord| other.id.holder == id.holder && other.id.record == id.record;
        for mut older in copies::of_study(view, &copy.study.description.study)? {
            if same(&older) && older.id.revision < id.revision {
                older.grounds.clear();
                older.given_up_ms = 0;
                copies::put(&mut batch, &older);
            }
        }
        self.engine.submit(batch)?;
        Ok(copy)
    }

    /// Gives up the copies whose time has passed, but those that a running fetch has. Returns which.
    /// Blocks for the disk.
    pub fn give_up_old_copies(&self, now_ms: u64) -> anyhow::Result<Vec<CopyId>> {
        let mut given_up = Vec::new();
        for copy in copies::all(&*self.engine)?.into_iter().filter(|copy| copy.is_over(now_ms)) {
            let turn = self.turns.of(&copy.study.description.study);
            let Ok(_turn) = turn.try_lock() else { continue };
            // It may have been fetched again before the turn was ours.
            if copies::copy(&*self.engine, &copy.id)?.is_some_and(|copy| copy.is_over(now_ms)) {
                self.give_up_copy(&copy.id)?;
                given_up.push(copy.id);
            }
        }
        Ok(given_up)
    }

    /// Ends a copy: out of the catalogue, and its bytes out of the packs where nothing else is made of them.
    /// The study's turn is the caller's.
    fn give_up_copy(&self, id: &CopyId) -> anyhow::Result<()> {
        let Some(mut copy) = copies::copy(&*self.engine, id)? else { return Ok(()) };
        // From here on nobody is shown it; a crash leaves a partial copy, which is given up later.
        (copy.state, copy.given_up_ms) = (CopyState::Partial, 0);
        copy.grounds.clear();
        let mut batch = Batch::new();
        copies::put(&mut batch, &copy);
        self.engine.submit(batch)?;
        let objects = copies::objects(&*self.engine, id, None)?;
        let objects: Vec<_> = objects.into_iter().map(|object| (object.description, object.hash)).collect();
        for some in objects.chunks(FORGOTTEN_AT_ONCE) {
            self.forget_unneeded(Some(id), some)?;
        }
        if let Some(manifest) = copies::manifest(&*self.engine, id)? {
            for hash in copies::hashes(&manifest) {
                // One that another fetch has open stays.
                drop(self.pixels.abandon_partial(&ObjectHash::blake3(hash)));
            }
        }
        let _writing = self.writing();
        let mut batch = Batch::new();
        copies::delete(&*self.engine, &copy, &mut batch)?;
        self.engine.submit(batch)?;
        Ok(())
    }

    /// Forgets bytes unless something else here is made of them. What an object is, is said by its own bytes.
    fn forget_unneeded(&self, given_up: Option<&CopyId>, objects: &[(Description, [u8; 32])]) -> anyhow::Result<()> {
        let _nothing_arrives = self.keeping.blocking_write();
        let _writing = self.writing();
        let view = &*self.engine;
        let hashes: BTreeSet<[u8; 32]> = objects.iter().map(|(_, hash)| *hash).collect();
        let aside = catalogue::put_aside(view, &hashes)?;
        let mut copied: BTreeMap<&str, BTreeSet<[u8; 32]>> = BTreeMap::new();
        let (sender, receiver) = mpsc::channel();
        for (d, hash) in objects {
            if !copied.contains_key(d.study.as_str()) {
                copied.insert(&d.study, self.copied(given_up, &d.study)?);
            }
            let in_copy = copied.get(d.study.as_str()).is_some_and(|copied| copied.contains(hash));
            if in_copy || aside.contains(hash) || catalogue::is_own(view, &d.sop_instance, hash)? {
                continue;
            }
            let sender = sender.clone();
            let done = Box::new(move |result| drop(sender.send(result)));
            match self.pixels.forget(&ObjectHash::blake3(*hash), &[], done) {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        drop(sender);
        // Until the tombstones are durable nothing arrives, so that no receipt is older than one of them.
        receiver.into_iter().try_for_each(|forgotten| forgotten.map(|receipt| self.pixels.settled(receipt.id)))?;
        Ok(())
    }

    /// What the copies of a study, but one, are made of.
    fn copied(&self, but: Option<&CopyId>, study: &str) -> Result<BTreeSet<[u8; 32]>, CatalogueError> {
        let mut all = BTreeSet::new();
        for copy in copies::of_study(&*self.engine, study)?.into_iter().filter(|copy| but != Some(&copy.id)) {
            all.extend(copies::manifest(&*self.engine, &copy.id)?.iter().flat_map(copies::hashes));
        }
        Ok(all)
    }

    /// Files bytes that a crash kept from their copy, or forgets them when no copy lists them.
    pub(super) fn file_missed_copy(&self, hash: &ObjectHash, receipt: &Receipt) -> anyhow::Result<()> {
        let syntax = TransferSyntax::of(&Uid::parse(&receipt.transfer_syntax)?);
        let (description, _) = self.read_description(hash, &syntax)?;
        for copy in copies::of_study(&*self.engine, &description.study)? {
            let Some(manifest) = copies::manifest(&*self.engine, &copy.id)? else { continue };
            let listed = manifest.objects.iter().find(|listed| hash_of(listed) == Some(*hash.digest()));
            if let Some(listed) = listed {
                return self.copy_stored(&copy.id, &description.study, listed, None);
            }
        }
        self.forget_unneeded(None, &[(description, *hash.digest())])
    }
}

fn syntax_of(listed: &ManifestObject) -> anyhow::Result<TransferSyntax> {
    match &listed.content {
        ObjectContent::Verified { transfer_syntax, .. } => {
            Ok(TransferSyntax::of(&Uid::parse(transfer_syntax.as_str())?))
        }
        ObjectContent::Declared => anyhow::bail!("an object that the holder only declares"),
    }
}

fn hash_of(listed: &ManifestObject) -> Option<[u8; 32]> {
    match &listed.content {
        ObjectContent::Verified { hash, .. } => Some(*hash.as_bytes()),
        ObjectContent::Declared => None,
    }
}
