//! The files `KEY` and `LOCK` of a store: whether the site key is the right one, and whether nobody else is here.
//!
//! `KEY` is made once, with the store: magic 8, salt 32, and a known text sealed under the record key of that salt.
//! It holds no key. Without it a wrong site key would look like a store full of damage.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::pixels::error::StoreError;
use crate::pixels::pack::sync_directory;
use crate::pixels::seal::{Keyring, SALT_BYTES, Stream, random_bytes};

const MAGIC: [u8; 8] = *b"TSRkey_1";
const KNOWN_TEXT: &[u8] = b"tessera pixel store key check";

/// Takes the store for this process; it is free again when the file is closed, also by a kill.
pub(crate) fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join("LOCK");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|error| StoreError::io("opening the lock file", &path, &error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { directory: directory.display().to_string() }),
        Err(error) => Err(StoreError::io("locking the store", &path, &error.into())),
    }
}

/// Checks the site key against the store, or makes a new store's check. `is_new` when there are no packs.
pub(crate) fn check(directory: &Path, keys: &Keyring, is_new: bool) -> Result<(), StoreError> {
    let path = directory.join("KEY");
    match std::fs::read(&path) {
        Ok(bytes) => check_bytes(directory, keys, &bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_new => create(directory, keys),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(StoreError::KeyFileMissing { directory: directory.display().to_string() })
        }
        Err(error) => Err(StoreError::io("reading the key check", &path, &error)),
    }
}

fn check_bytes(directory: &Path, keys: &Keyring, bytes: &[u8]) -> Result<(), StoreError> {
    let directory = || directory.display().to_string();
    let missing = || StoreError::KeyFileMissing { directory: directory() };
    let rest = bytes.strip_prefix(&MAGIC).ok_or_else(missing)?;
    let (salt, sealed) = rest.split_first_chunk::<SALT_BYTES>().ok_or_else(missing)?;
    let opened = keys.record_key(salt).open_stream(Stream::KeyCheck, KNOWN_TEXT.len() as u64, sealed.to_vec());
    match opened {
        Ok(text) if text == KNOWN_TEXT => Ok(()),
        _ => Err(StoreError::WrongKey { directory: directory() }),
    }
}

fn create(directory: &Path, keys: &Keyring) -> Result<(), StoreError> {
    let salt = random_bytes::<SALT_BYTES>().ok_or(StoreError::NoRandomness)?;
    let mut bytes = [MAGIC.as_slice(), &salt].concat();
    keys.record_key(&salt).seal_stream(Stream::KeyCheck, KNOWN_TEXT, &mut bytes);
    write_durably(&directory.join("KEY"), &bytes)
}

/// Writes a whole file so that after a crash it is there as written, or not at all.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |error| StoreError::io("writing a file", path, &error);
    let draft = path.with_extension("new");
    let mut file = File::create(&draft).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(|error| StoreError::sync(path, &error))?;
    std::fs::rename(&draft, path).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_directory)
}
