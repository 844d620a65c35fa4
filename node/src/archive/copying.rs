//! What the archive does for working copies: takes their objects in, completes them, gives them up.
//!
//! Bytes lie in the packs by their hash, whoever brought them. So giving up a copy forgets only bytes that nothing else
//! here is made of: no own object, no variant, nothing put aside or not filed yet, no other copy. The check and the
//! forgetting are one step, during which nothing is taken in ([`Archive::keeping`]): what a device is told is stored
//! stays stored (P1).
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
use super::copies::{self, CopyId, CopyRecord, CopyState, Ground, NotAsListed};
use super::ingest::{charset_policy, now_ms};
use super::{Archive, describe, missed};
use crate::dicom::charset::CharsetPolicy;
use crate::dicom::dataset::DataSetError;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::source::{in_file, in_memory};
use crate::dicom::syntax::{DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, TransferSyntax};

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
    /// `character_set`: the holder's setting for the device, by which the text is read as at the holder.
    pub fn copy_whole(
        &self,
        id: &CopyId,
        study: &str,
        listed: &ManifestObject,
        character_set: Option<&str>,
        bytes: &[u8],
    ) -> anyhow::Result<()> {
        let syntax = syntax_of(listed)?;
        let facts = ObjectFacts::read(in_memory(bytes, &syntax), &syntax, &charset_policy(character_set))?;
        let description = describe::from_facts(&facts, "");
        copies::is_as_listed(study, listed, &description)?;
        let receipt = self.copy_receipt(id, listed, character_set)?;
        let done = self.pixels.store_and_wait(bytes, &encode(&receipt))?;
        anyhow::ensure!(Some(*done.hash.digest()) == hash_of(listed), "a checked object has another hash");
        let (hash, size) = (*done.hash.digest(), done.object_bytes);
        self.list_copied(id, ObjectRecord { description, receipt, hash, size, is_damaged: false })?;
        self.pixels.settled(done.id);
        Ok(())
    }

    /// Takes in an object of a copy whose bytes are in the packs. `receipt`: of the record that brought them now; bytes
    /// that are refused are not kept then.
    pub fn copy_stored(
        &self,
        id: &CopyId,
        study: &str,
        listed: &ManifestObject,
        character_set: Option<&str>,
        receipt: Option<ReceiptId>,
    ) -> anyhow::Result<()> {
        let hash = ObjectHash::blake3(hash_of(listed).context("an object that the holder only declares")?);
        let taken = self.list_stored(id, study, listed, &hash, character_set);
        if let Some(receipt) = receipt {
            if taken.is_err()
                && let Err(error) = self.forget_refused(Some(id), &hash)
            {
                // They go with the copy then.
                tracing::warn!(why = format!("{error:#}"), "refused bytes could not be forgotten");
            }
            self.pixels.settled(receipt);
        }
        taken
    }

    fn list_stored(
        &self,
        id: &CopyId,
        study: &str,
        listed: &ManifestObject,
        hash: &ObjectHash,
        character_set: Option<&str>,
    ) -> anyhow::Result<()> {
        let (description, size) = self.read_description(hash, &syntax_of(listed)?, &charset_policy(character_set))?;
        copies::is_as_listed(study, listed, &description)?;
        let receipt = self.copy_receipt(id, listed, character_set)?;
        self.list_copied(id, ObjectRecord { description, receipt, hash: *hash.digest(), size, is_damaged: false })
    }

    /// The envelope of a copy's bytes in the packs: that they are a copy, and how the holder reads their text.
    pub fn copy_receipt(
        &self,
        id: &CopyId,
        listed: &ManifestObject,
        character_set: Option<&str>,
    ) -> anyhow::Result<Receipt> {
        let ObjectContent::Verified { transfer_syntax, .. } = &listed.content else {
            anyhow::bail!("an object that the holder only declares");
        };
        let mut receipt = self.receipt_here(&Uid::parse(transfer_syntax.as_str())?);
        receipt.sop_class = listed.sop_class.as_str().to_owned();
        receipt.sop_instance = listed.sop_instance.as_str().to_owned();
        receipt.fetched_from = Some(id.holder.as_str().to_owned());
        receipt.character_set = character_set.map(str::to_owned);
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

    fn read_description(
        &self,
        hash: &ObjectHash,
        syntax: &TransferSyntax,
        policy: &CharsetPolicy,
    ) -> anyhow::Result<(Description, u64)> {
        let reader = self.pixels.reader(hash)?;
        let size = reader.object_bytes();
        let facts = ObjectFacts::read(in_file(reader, size, syntax), syntax, policy)?;
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
        let listed: BTreeSet<[u8; 32]> = objects.iter().map(|object| object.hash).collect();
        let objects: Vec<_> = objects.into_iter().map(|object| (vec![object.description], object.hash)).collect();
        for some in objects.chunks(FORGOTTEN_AT_ONCE) {
            self.forget_unneeded(Some(id), some)?;
        }
        if let Some(manifest) = copies::manifest(&*self.engine, id)? {
            for hash in copies::hashes(&manifest).into_iter().map(ObjectHash::blake3) {
                // One that another fetch has open stays.
                drop(self.pixels.abandon_partial(&hash));
                // What came and was not as listed. Bytes that can't be read can't be judged, and stay.
                if !listed.contains(hash.digest())
                    && self.pixels.contains(&hash)?
                    && let Err(error) = self.forget_refused(Some(id), &hash)
                {
                    tracing::warn!(why = format!("{error:#}"), "refused bytes could not be forgotten");
                }
            }
        }
        let _writing = self.writing();
        let mut batch = Batch::new();
        copies::delete(&*self.engine, &copy, &mut batch)?;
        self.engine.submit(batch)?;
        Ok(())
    }

    /// Forgets bytes that are not what a manifest or an association says, unless something here is made of them.
    pub(super) fn forget_refused(&self, given_up: Option<&CopyId>, hash: &ObjectHash) -> anyhow::Result<()> {
        self.forget_unneeded(given_up, &[(self.readings(hash)?, *hash.digest())])
    }

    /// What these bytes are, by each way in which a data set may be written: whoever else sent them may have named
    /// another transfer syntax. None, when they are no data set at all.
    fn readings(&self, hash: &ObjectHash) -> anyhow::Result<Vec<Description>> {
        let mut readings = Vec::new();
        for syntax in [IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED] {
            match self.read_description(hash, &TransferSyntax::of(&Uid::parse(syntax)?), &CharsetPolicy::Detect) {
                Ok((description, _)) => readings.push(description),
                Err(error) if is_no_data_set(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(readings)
    }

    /// Forgets bytes unless something else here is made of them. What an object is, is said by its own bytes.
    pub(super) fn forget_unneeded(
        &self,
        given_up: Option<&CopyId>,
        objects: &[(Vec<Description>, [u8; 32])],
    ) -> anyhow::Result<()> {
        let _nothing_arrives = self.keeping.blocking_write();
        let _writing = self.writing();
        let view = &*self.engine;
        let hashes: BTreeSet<[u8; 32]> = objects.iter().map(|(_, hash)| *hash).collect();
        let mut kept = catalogue::put_aside(view, &hashes)?;
        kept.extend(missed::waiting(view, &hashes)?);
        let mut copied: BTreeMap<&str, BTreeSet<[u8; 32]>> = BTreeMap::new();
        let (sender, receiver) = mpsc::channel();
        for (readings, hash) in objects {
            let mut needed = kept.contains(hash);
            for d in readings {
                if !copied.contains_key(d.study.as_str()) {
                    copied.insert(&d.study, self.copied(given_up, &d.study)?);
                }
                let in_copy = copied.get(d.study.as_str()).is_some_and(|copied| copied.contains(hash));
                needed = needed || in_copy || catalogue::is_own(view, &d.sop_instance, hash)?;
            }
            if needed {
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

    /// Files bytes that a crash kept from their copy, or forgets them when no copy lists them as what they are.
    pub(super) fn file_missed_copy(&self, hash: &ObjectHash, character_set: Option<&str>) -> anyhow::Result<()> {
        for description in self.readings(hash)? {
            for copy in copies::of_study(&*self.engine, &description.study)? {
                let Some(manifest) = copies::manifest(&*self.engine, &copy.id)? else { continue };
                let all = manifest.objects.iter().filter(|listed| hash_of(listed) == Some(*hash.digest()));
                for listed in all {
                    match self.list_stored(&copy.id, &description.study, listed, hash, character_set) {
                        Err(error) if error.is::<NotAsListed>() || is_no_data_set(&error) => {}
                        taken => return taken,
                    }
                }
            }
        }
        self.forget_refused(None, hash)
    }
}

fn is_no_data_set(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(DataSetError::is_of_the_bytes)
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
