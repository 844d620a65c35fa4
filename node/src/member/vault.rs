//! What a member keeps for itself about patients, sealed on its disk: identifier keys, registrations, patients'
//! codes, the crosswalk. Names of entries are keyed hashes, so neither keys nor values of the table show a number.
//!
//! Values are sealed with XChaCha20-Poly1305 under a key derived from the site key; the entry's name is bound in, so
//! that entries cannot be exchanged for one another.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tessera_consensus::wire::{decode, encode};
use tessera_storage::engine::{Batch, EngineError, View};
use zeroize::Zeroizing;

use crate::archive::MEMBER;

const VALUE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Why an entry could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "an entry of the member's table does not open: the site key is not the one that sealed it, or it is damaged"
    )]
    Damaged,
}

/// Kinds of entries; the number is the first byte of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// (identifier, year) -> identifier key.
    Keys = 1,
    /// Study UID -> its registration.
    Registrations = 2,
    /// (record, revision) -> manifest and salt.
    Manifests = 3,
    /// Identifier -> the patient's code.
    Codes = 4,
    /// Number of the row -> crosswalk row.
    Crosswalk = 5,
    /// Identifier pair -> that a link is on its way or there.
    Links = 6,
    /// The trusted clock's floor.
    Clock = 7,
    /// Asking node -> use of its budget.
    Budget = 8,
    /// Disclosure -> what was decided, for the record.
    Disclosures = 9,
    /// Consent -> identifier that it was recorded under, so that it can be revoked by its number.
    Consents = 10,
    /// Federation -> whether this node still holds its seat in the core.
    Seat = 11,
}

/// Seals and opens the entries of one node.
pub struct Vault {
    names: Zeroizing<[u8; 32]>,
    sealing: Zeroizing<[u8; 32]>,
}

impl Vault {
    pub fn new(site_key: &[u8; 32]) -> Self {
        Self {
            names: Zeroizing::new(blake3::derive_key("tessera v1 member table: names", site_key)),
            sealing: Zeroizing::new(blake3::derive_key("tessera v1 member table: values", site_key)),
        }
    }

    fn name(&self, shelf: Shelf, name: &[u8]) -> Vec<u8> {
        let mut key = vec![shelf as u8];
        key.extend_from_slice(blake3::keyed_hash(&self.names, name).as_bytes());
        key
    }

    pub fn put<T: Serialize>(&self, batch: &mut Batch, shelf: Shelf, name: &[u8], value: &T) {
        let name = self.name(shelf, name);
        let mut nonce = [0; 24];
        rand::rng().fill_bytes(&mut nonce);
        let plain = Zeroizing::new(encode(value));
        let cipher = XChaCha20Poly1305::new((&*self.sealing).into());
        let sealed = cipher
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &plain, aad: &name })
            .expect("entries are far below the cipher's limit");
        batch.put(MEMBER, name, [nonce.as_slice(), &sealed].concat());
    }

    pub fn delete(&self, batch: &mut Batch, shelf: Shelf, name: &[u8]) {
        batch.delete(MEMBER, self.name(shelf, name));
    }

    pub fn get<T: Serialize + DeserializeOwned>(
        &self,
        view: &dyn View,
        shelf: Shelf,
        name: &[u8],
    ) -> Result<Option<T>, VaultError> {
        let name = self.name(shelf, name);
        match view.get(MEMBER, &name)? {
            None => Ok(None),
            Some(sealed) => self.open(&name, &sealed).map(Some),
        }
    }

    /// All entries of a shelf, at most `limit`, in no meaningful order.
    pub fn all<T: Serialize + DeserializeOwned>(
        &self,
        view: &dyn View,
        shelf: Shelf,
        limit: usize,
    ) -> Result<Vec<T>, VaultError> {
        view.scan_prefix(MEMBER, &[shelf as u8], limit)?.iter().map(|(name, sealed)| self.open(name, sealed)).collect()
    }

    fn open<T: Serialize + DeserializeOwned>(&self, name: &[u8], sealed: &[u8]) -> Result<T, VaultError> {
        let (nonce, body) = sealed.split_at_checked(24).ok_or(VaultError::Damaged)?;
        let cipher = XChaCha20Poly1305::new((&*self.sealing).into());
        let plain = cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg: body, aad: name })
            .map_err(|_| VaultError::Damaged)?;
        decode("member entry", &Zeroizing::new(plain), VALUE_BYTES_MAX).map_err(|_| VaultError::Damaged)
    }
}
