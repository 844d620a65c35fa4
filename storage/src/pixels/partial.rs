//! Objects that arrive in groups from another site, and survive a kill between any two of them.
//!
//! ```text
//! partial/<hash>/plan       magic 8 | algorithm 1 | hash 32 | object bytes 8 | salt 32 | group hashes 32 each | check 16
//! partial/<hash>/body       as a pack: room for the headers, then sealed segments at their final places
//! partial/<hash>/progress   8 bytes for each group that has arrived: index 4 | check 4
//! partial/<hash>/ending     empty
//! ```
//! A group is compared with its hash before it is kept, and the group hashes with the object's before the first one.
//! Progress is appended and synced only after the data that it speaks of is synced, so a torn end of it forgets groups
//! and never invents one. A group that is written again has the same content, hence the same ciphertext.
//!
//! Finishing reads everything back against the hash. A large body then becomes a pack by renaming; a small one is
//! stored like any other object. Once an envelope was sealed under the plan's key (the empty file `ending` says so,
//! durably and before), no other is: an end that is begun again copies the object under a new key.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pixels::appender::Receipt;
use crate::pixels::error::StoreError;
use crate::pixels::hash::{
    GROUP_BYTES, GroupHasher, OBJECT_BYTES_MAX, ObjectHash, group_bytes, group_count, group_hash, verify_groups,
};
use crate::pixels::keyfile::write_durably;
use crate::pixels::large::finish_file;
use crate::pixels::pack::{create_directory, sync_directory};
use crate::pixels::record::{HEADER_BYTES, Header, PACK_HEADER_BYTES, ReceiptId, RecordKind};
use crate::pixels::seal::{
    CHECK_BYTES, Keyring, RecordKey, SALT_BYTES, SEGMENT_BYTES, Stream, TAG_BYTES, random_bytes, sealed_bytes,
    segment_count, segment_offset,
};
use crate::pixels::store::{PARTIAL, PixelStore, SMALL_OBJECT_BYTES_MAX};

/// Groups between two syncs: what a kill can cost is 16 MiB of transfer.
const GROUPS_PER_SYNC: usize = 16;
const SEGMENTS_PER_GROUP: u64 = GROUP_BYTES / SEGMENT_BYTES as u64;
const BODY_OFFSET: u64 = (PACK_HEADER_BYTES + HEADER_BYTES) as u64;
const PLAN_MAGIC: [u8; 8] = *b"TSRplan1";
const PLAN_HEAD_BYTES: usize = 8 + 33 + 8 + SALT_BYTES;
const PROGRESS_BYTES: usize = 8;
const BODY: &str = "body";
/// Says that an envelope was sealed.
const ENDING: &str = "ending";

/// A partial object as the directory shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialInfo {
    pub hash: ObjectHash,
    pub object_bytes: u64,
    pub groups_arrived: u64,
    pub groups_total: u64,
}

/// An object that is being received. One handle at a time; groups may be written from several threads.
pub struct Partial {
    store: Arc<PixelStore>,
    plan: Plan,
    key: RecordKey,
    directory: PathBuf,
    body: File,
    progress: File,
    state: Mutex<Arrived>,
}

struct Plan {
    hash: ObjectHash,
    object_bytes: u64,
    salt: [u8; SALT_BYTES],
    groups: Vec<[u8; 32]>,
}

struct Arrived {
    /// By group: written, whether synced or not.
    groups: Vec<bool>,
    /// Written and not yet in the progress file.
    unsynced: Vec<u32>,
    /// Bytes of the progress file.
    progress_bytes: u64,
}

impl Plan {
    fn encode(&self, keys: &Keyring) -> Vec<u8> {
        let mut bytes = [PLAN_MAGIC.as_slice(), &self.hash.to_bytes(), &self.object_bytes.to_le_bytes()].concat();
        bytes.extend(self.salt);
        bytes.extend(self.groups.as_flattened());
        let check = keys.check(&bytes);
        bytes.extend(check);
        bytes
    }

    fn decode(bytes: &[u8], keys: &Keyring) -> Option<Self> {
        let (checked, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if *check != keys.check(checked) || checked.len() < PLAN_HEAD_BYTES || checked[..8] != PLAN_MAGIC {
            return None;
        }
        let (head, groups) = checked.split_at(PLAN_HEAD_BYTES);
        Some(Self {
            hash: ObjectHash::from_bytes(&head[8..41]).ok()?,
            object_bytes: u64::from_le_bytes(head[41..49].try_into().ok()?),
            salt: head[49..].try_into().ok()?,
            groups: groups.as_chunks::<32>().0.to_vec(),
        })
    }

    fn read(directory: &Path, keys: &Keyring) -> Option<Self> {
        Self::decode(&std::fs::read(directory.join("plan")).ok()?, keys)
    }
}

impl PixelStore {
    /// Begins to receive an object, or goes on where an earlier transfer of it stopped. `groups` are the hashes of all
    /// its 1 MiB groups, as a peer claims them; they are checked against `hash` here.
    pub fn partial(
        self: &Arc<Self>,
        hash: &ObjectHash,
        object_bytes: u64,
        groups: &[[u8; 32]],
    ) -> Result<Partial, StoreError> {
        self.check_new(object_bytes, OBJECT_BYTES_MAX, &[])?;
        if !verify_groups(hash, object_bytes, groups) {
            return Err(StoreError::GroupsMismatch { hash: *hash });
        }
        self.take_partial(hash)?;
        let opened = self.or_end(self.open_partial(hash, object_bytes, groups));
        if opened.is_err() {
            self.give_partial_back(hash);
        }
        opened
    }

    /// Partial objects on the disk, for a start that goes on with them. Unreadable ones are left out.
    pub fn partials(&self) -> Result<Vec<PartialInfo>, StoreError> {
        let directory = self.core.directory.join(PARTIAL);
        let failed = |error| StoreError::io("listing partial objects", &directory, &error);
        let mut partials = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(plan) = Plan::read(&path, &self.core.keys) else { continue };
            let progress = std::fs::read(path.join("progress")).unwrap_or_default();
            let arrived = read_progress(&progress, &plan, &self.core.keys).groups;
            partials.push(PartialInfo {
                hash: plan.hash,
                object_bytes: plan.object_bytes,
                groups_arrived: arrived.iter().filter(|arrived| **arrived).count() as u64,
                groups_total: plan.groups.len() as u64,
            });
        }
        partials.sort_by_key(|partial| partial.hash);
        Ok(partials)
    }

    /// Which groups of a partial object have arrived durably; `None` when there is no such partial object.
    pub fn partial_groups(&self, hash: &ObjectHash) -> Option<Vec<bool>> {
        let directory = self.core.directory.join(PARTIAL).join(hash.hex());
        let plan = Plan::read(&directory, &self.core.keys)?;
        let progress = std::fs::read(directory.join("progress")).unwrap_or_default();
        Some(read_progress(&progress, &plan, &self.core.keys).groups)
    }

    /// Gives up a partial object and frees its space. Nothing happens when there is none.
    pub fn abandon_partial(&self, hash: &ObjectHash) -> Result<(), StoreError> {
        self.take_partial(hash)?;
        let removed = remove_partial(&self.core.directory.join(PARTIAL), hash);
        self.give_partial_back(hash);
        self.or_end(removed)
    }

    fn take_partial(&self, hash: &ObjectHash) -> Result<(), StoreError> {
        let mut in_use = self.core.partials_in_use.lock().unwrap_or_else(PoisonError::into_inner);
        if in_use.insert(*hash) { Ok(()) } else { Err(StoreError::PartialInUse { hash: *hash }) }
    }

    fn give_partial_back(&self, hash: &ObjectHash) {
        self.core.partials_in_use.lock().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    fn open_partial(
        self: &Arc<Self>,
        hash: &ObjectHash,
        object_bytes: u64,
        groups: &[[u8; 32]],
    ) -> Result<Partial, StoreError> {
        let directory = self.core.directory.join(PARTIAL).join(hash.hex());
        let same = |plan: &Plan| plan.hash == *hash && plan.object_bytes == object_bytes && plan.groups == groups;
        let plan = match Plan::read(&directory, &self.core.keys).filter(same) {
            // Without its body, which became a pack that its writer could not enter in the index, all begins anew.
            Some(plan) if directory.join(BODY).is_file() => plan,
            _ => self.plan_partial(&directory, hash, object_bytes, groups)?,
        };
        let open = |name: &str| {
            let path = directory.join(name);
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            opened.map_err(|error| StoreError::io("opening a partial object", &path, &error))
        };
        let (body, progress) = (open(BODY)?, open("progress")?);
        sync_directory(&directory)?;
        let written = std::fs::read(directory.join("progress"));
        let written = written.map_err(|error| StoreError::io("reading progress", &directory, &error))?;
        let state = Mutex::new(read_progress(&written, &plan, &self.core.keys));
        let key = self.core.keys.record_key(&plan.salt);
        Ok(Partial { store: Arc::clone(self), plan, key, directory, body, progress, state })
    }

    /// Makes room for a new partial object and writes its plan.
    fn plan_partial(
        &self,
        directory: &Path,
        hash: &ObjectHash,
        object_bytes: u64,
        groups: &[[u8; 32]],
    ) -> Result<Plan, StoreError> {
        remove_partial(&self.core.directory.join(PARTIAL), hash)?;
        let others: u64 = self.partials()?.iter().map(|partial| partial.object_bytes).sum();
        let (needed_bytes, limit_bytes) = (others + object_bytes, self.core.options.partial_bytes_max);
        if needed_bytes > limit_bytes {
            return Err(StoreError::PartialsFull { needed_bytes, limit_bytes });
        }
        let salt = random_bytes::<SALT_BYTES>().ok_or(StoreError::NoRandomness)?;
        let plan = Plan { hash: *hash, object_bytes, salt, groups: groups.to_vec() };
        create_directory(directory)?;
        write_durably(&directory.join("plan"), &plan.encode(&self.core.keys))?;
        Ok(plan)
    }
}

fn remove_partial(partials: &Path, hash: &ObjectHash) -> Result<(), StoreError> {
    let directory = partials.join(hash.hex());
    match std::fs::remove_dir_all(&directory) {
        Ok(()) => sync_directory(partials),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("removing a partial object", &directory, &error)),
    }
}

/// Removes what a kill left of partial objects that were being begun or were just finished: those without plan or body.
pub(crate) fn clear_broken(partials: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("clearing partial objects", partials, &error);
    for entry in std::fs::read_dir(partials).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !path.join("plan").is_file() || !path.join(BODY).is_file() {
            std::fs::remove_dir_all(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn progress_check(keys: &Keyring, hash: &ObjectHash, index: u32) -> [u8; 4] {
    let check = keys.check(&[b"progress".as_slice(), &hash.to_bytes(), &index.to_le_bytes()].concat());
    [check[0], check[1], check[2], check[3]]
}

/// What the progress file says, up to its first unfinished entry.
fn read_progress(bytes: &[u8], plan: &Plan, keys: &Keyring) -> Arrived {
    let mut groups = vec![false; plan.groups.len()];
    let mut progress_bytes = 0;
    for entry in bytes.as_chunks::<PROGRESS_BYTES>().0 {
        let [a, b, c, d, check @ ..] = *entry;
        let index = u32::from_le_bytes([a, b, c, d]);
        let Some(arrived) = groups.get_mut(index as usize) else { break };
        if check != progress_check(keys, &plan.hash, index) {
            break;
        }
        *arrived = true;
        progress_bytes += PROGRESS_BYTES as u64;
    }
    Arrived { groups, unsynced: Vec::new(), progress_bytes }
}

impl Partial {
    pub fn hash(&self) -> ObjectHash {
        self.plan.hash
    }

    pub fn object_bytes(&self) -> u64 {
        self.plan.object_bytes
    }

    /// Indexes of the groups that have not arrived, ascending.
    pub fn missing(&self) -> Vec<u64> {
        let state = self.lock();
        state.groups.iter().enumerate().filter(|(_, arrived)| !**arrived).map(|(index, _)| index as u64).collect()
    }

    pub fn is_complete(&self) -> bool {
        self.lock().groups.iter().all(|arrived| *arrived)
    }

    /// Keeps group `index`, if it is what its hash says. Every 16th call syncs.
    pub fn write_group(&self, index: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let expected = usize::try_from(index).ok().and_then(|index| self.plan.groups.get(index));
        let found = group_hash(index, bytes, self.plan.object_bytes);
        if expected.is_none() || found.as_ref() != expected {
            return Err(StoreError::GroupMismatch { hash: self.plan.hash, index });
        }
        let sealed = self.seal_group(index, bytes);
        let offset = BODY_OFFSET + segment_offset(index * SEGMENTS_PER_GROUP);
        let written = self.body.write_all_at(&sealed, offset);
        written.map_err(|error| StoreError::io("writing a partial object", &self.directory, &error))?;
        let mut state = self.lock();
        if !std::mem::replace(&mut state.groups[index as usize], true) {
            // Below 65,536 groups, by the limit on objects.
            state.unsynced.push(index as u32);
        }
        if state.unsynced.len() >= GROUPS_PER_SYNC { self.sync_progress(&mut state) } else { Ok(()) }
    }

    fn seal_group(&self, index: u64, bytes: &[u8]) -> Vec<u8> {
        let last = segment_count(self.plan.object_bytes) - 1;
        let mut sealed = Vec::with_capacity(bytes.len() + (SEGMENTS_PER_GROUP as usize) * TAG_BYTES);
        let mut pieces = bytes.chunks(SEGMENT_BYTES);
        let first = index * SEGMENTS_PER_GROUP;
        for number in first..=last.min(first + SEGMENTS_PER_GROUP - 1) {
            let mut segment = pieces.next().unwrap_or(&[]).to_vec();
            self.key.seal_segment(Stream::Body, number, number == last, &mut segment);
            sealed.append(&mut segment);
        }
        sealed
    }

    /// Makes the groups that have arrived durable: the data first, then the note that it is there.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.sync_progress(&mut self.lock())
    }

    fn sync_progress(&self, state: &mut Arrived) -> Result<(), StoreError> {
        if state.unsynced.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(state.unsynced.len() * PROGRESS_BYTES);
        for index in &state.unsynced {
            entries.extend(index.to_le_bytes());
            entries.extend(progress_check(&self.store.core.keys, &self.plan.hash, *index));
        }
        self.sync_file(&self.body)?;
        let written = self.progress.write_all_at(&entries, state.progress_bytes);
        written.map_err(|error| StoreError::io("noting progress", &self.directory, &error))?;
        self.sync_file(&self.progress)?;
        state.progress_bytes += entries.len() as u64;
        state.unsynced.clear();
        Ok(())
    }

    fn sync_file(&self, file: &File) -> Result<(), StoreError> {
        self.store.or_end(file.sync_data().map_err(|error| StoreError::sync(&self.directory, &error)))
    }

    /// Verifies the whole object, makes it a stored one and waits until it is durable. On an error the partial object
    /// stays, except that damaged groups are forgotten, to be fetched again.
    pub fn finish(self, envelope: &[u8]) -> Result<Receipt, StoreError> {
        let missing = self.missing().len() as u64;
        if missing > 0 {
            return Err(StoreError::Incomplete { hash: self.plan.hash, missing });
        }
        self.store.check_new(0, OBJECT_BYTES_MAX, envelope)?;
        self.verify()?;
        let receipt = self.keep(envelope)?;
        let removed = remove_partial(&self.store.core.directory.join(PARTIAL), &self.plan.hash);
        self.store.or_end(removed)?;
        Ok(receipt)
    }

    fn keep(&self, envelope: &[u8]) -> Result<Receipt, StoreError> {
        let Plan { hash, object_bytes, .. } = self.plan;
        if let Some(receipt) = self.store.receipt_if_known(hash, object_bytes, envelope)? {
            return Ok(receipt);
        }
        if object_bytes <= SMALL_OBJECT_BYTES_MAX {
            let mut object = Vec::with_capacity(object_bytes as usize);
            for index in 0..group_count(object_bytes) {
                object.extend(self.read_group(index)?);
            }
            return self.store.store_and_wait(&object, envelope);
        }
        let mut header = Header {
            kind: RecordKind::Object,
            envelope_bytes: 0,
            body_bytes: object_bytes,
            receipt: ReceiptId(0),
            salt: self.plan.salt,
            hash,
        };
        if !self.begin_end()? {
            return self.seal_anew(envelope);
        }
        let body = self.directory.join(BODY);
        finish_file(&self.store, &mut header, &self.key, &self.plan.groups, envelope, (&body, &self.body))
    }

    /// Notes durably that an envelope is being sealed under this plan's key. False: one was before, and no other may be,
    /// since two texts under one key and nonce give both away.
    fn begin_end(&self) -> Result<bool, StoreError> {
        let mark = self.directory.join(ENDING);
        if mark.exists() {
            return Ok(false);
        }
        self.store.or_end(write_durably(&mark, &[])).map(|()| true)
    }

    /// Copies the object under a key of its own.
    fn seal_anew(&self, envelope: &[u8]) -> Result<Receipt, StoreError> {
        let mut writer = self.store.begin_large(envelope)?;
        for index in 0..self.plan.groups.len() as u64 {
            writer.write(&self.read_group(index)?)?;
        }
        writer.finish()
    }

    /// Reads everything back. What does not verify is forgotten, so that it is fetched again.
    fn verify(&self) -> Result<(), StoreError> {
        let mut hasher = GroupHasher::new();
        for index in 0..self.plan.groups.len() as u64 {
            match self.read_group(index) {
                Ok(bytes) => hasher.update(&bytes),
                Err(mismatch @ StoreError::GroupMismatch { .. }) => {
                    self.forget_group(index)?;
                    return Err(mismatch);
                }
                Err(error) => return Err(error),
            }
        }
        let (hash, _) = hasher.finish();
        if hash == self.plan.hash { Ok(()) } else { Err(StoreError::GroupsMismatch { hash: self.plan.hash }) }
    }

    fn read_group(&self, index: u64) -> Result<Vec<u8>, StoreError> {
        let mismatch = || StoreError::GroupMismatch { hash: self.plan.hash, index };
        let bytes = group_bytes(index, self.plan.object_bytes).ok_or_else(mismatch)?;
        let mut sealed = vec![0; sealed_bytes(bytes) as usize];
        let first = index * SEGMENTS_PER_GROUP;
        match self.body.read_exact_at(&mut sealed, BODY_OFFSET + segment_offset(first)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(mismatch()),
            Err(error) => return Err(StoreError::io("reading a partial object", &self.directory, &error)),
        }
        let last = segment_count(self.plan.object_bytes) - 1;
        let mut plain = Vec::with_capacity(bytes as usize);
        for (number, piece) in (first..).zip(sealed.chunks_mut(SEGMENT_BYTES + TAG_BYTES)) {
            let opened = self.key.open_segment(Stream::Body, number, number == last, piece);
            plain.extend_from_slice(opened.map_err(|_| mismatch())?);
        }
        Ok(plain)
    }

    /// Rewrites the progress without group `index`.
    fn forget_group(&self, index: u64) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.groups[index as usize] = false;
        let arrived = state.groups.iter().enumerate().filter(|(_, arrived)| **arrived);
        state.unsynced = arrived.map(|(index, _)| index as u32).collect();
        state.progress_bytes = 0;
        let cut = self.progress.set_len(0);
        cut.map_err(|error| StoreError::io("rewriting progress", &self.directory, &error))?;
        self.sync_file(&self.progress)?;
        self.sync_progress(&mut state)
    }

    /// Every method changes the state in one step, so a poisoned lock holds a sound state.
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Partial {
    /// Keeps what has arrived, for whoever goes on with it.
    fn drop(&mut self) {
        // Without this sync up to 16 groups are fetched again. A finished object's files are gone already.
        drop(self.sync());
        self.store.give_partial_back(&self.plan.hash);
    }
}
