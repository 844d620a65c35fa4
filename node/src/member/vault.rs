//! What a member keeps for itself about patients, sealed on its disk: identifier keys, registrations, patients'
//! codes, the crosswalk. Names of entries are keyed hashes, so neither keys nor values of the table show a number.
//! What rests on one federation's ledger and blinding key (registrations, identifier keys, ...) is kept for each
//! federation apart: in another one it is not there.
//!
//! Values are sealed with XChaCha20-Poly1305 under a key derived from the site key; the entry's name is bound in, so
//! that entries cannot be exchanged for one another.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::RngCore;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tessera_consensus::FederationId;
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
    /// Whether this node still holds its seat in the core.
    Seat = 11,
    /// Tag -> study whose registration under it is on its way to the ledger.
    Sent = 12,
    /// Tag -> a registration of this node that the ledger has and this archive lacks.
    Lost = 13,
    /// How far the ledger was looked through for such.
    Examined = 14,
    /// The federation in which the archive's studies were registered last.
    Federation = 15,
    /// Disclosure -> this node's receipt as the requester, until the ledger has the disclosure.
    Receipts = 16,
    /// Disclosure -> this side's signed receipt, for the record.
    SignedReceipts = 17,
    /// Identifier -> the codes that the patient was handed here, with what each is for and what spent it.
    Codes = 20,
    /// Consent -> that the patient took it back at this site: it opens nothing here, whatever the ledger says.
    RevokedHere = 21,
    /// Consent -> what this node wrote, until the ledger has taken it.
    ConsentsSent = 22,
    /// Consent -> time of the first certificate that this node knows to cover its revocation.
    RevocationTimes = 23,
    /// As an observer: the sums of the statistics, and how far the ledger was counted.
    Statistics = 24,
    /// Number of a lookup -> who looked whom up.
    Lookups = 25,
    /// Where the chain of the lookups stands.
    LookupHead = 26,
    /// Identifier -> number of the newest lookup of it.
    LookupsOf = 27,
    /// Copy of another site's study -> the keys of its patient, for as long as the copy.
    CopyKeys = 30,
    /// Study UID -> why the ledger did not take its registration.
    Rejected = 40,
    /// Identifier pair -> a link that lost its place and is to be written again.
    LinksAgain = 41,
}

impl Shelf {
    /// Whether the entries mean something in one federation only.
    const fn is_of_one_federation(self) -> bool {
        match self {
            Self::Keys | Self::Registrations | Self::Manifests | Self::Links => true,
            Self::Sent | Self::Lost | Self::Examined | Self::Seat | Self::CopyKeys | Self::Receipts => true,
            Self::Rejected | Self::LinksAgain => true,
            Self::RevokedHere | Self::ConsentsSent | Self::RevocationTimes | Self::Statistics => true,
            Self::Codes | Self::Crosswalk | Self::Clock | Self::Budget => false,
            Self::Disclosures | Self::SignedReceipts | Self::Consents | Self::Federation => false,
            Self::Lookups | Self::LookupHead | Self::LookupsOf => false,
        }
    }
}

/// Seals and opens the entries of one node.
pub struct Vault {
    names: Zeroizing<[u8; 32]>,
    sealing: Zeroizing<[u8; 32]>,
    federation: FederationId,
}

impl Vault {
    pub fn new(site_key: &[u8; 32], federation: FederationId) -> Self {
        Self {
            federation,
            names: Zeroizing::new(blake3::derive_key("tessera v1 member table: names", site_key)),
            sealing: Zeroizing::new(blake3::derive_key("tessera v1 member table: values", site_key)),
        }
    }

    fn name(&self, shelf: Shelf, name: &[u8]) -> Vec<u8> {
        let mut key = self.prefix(shelf);
        key.extend_from_slice(blake3::keyed_hash(&self.names, name).as_bytes());
        key
    }

    fn prefix(&self, shelf: Shelf) -> Vec<u8> {
        let mut prefix = vec![shelf as u8];
        if shelf.is_of_one_federation() {
            prefix.extend_from_slice(self.federation.hash().as_bytes());
        }
        prefix
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
        view.scan_prefix(MEMBER, &self.prefix(shelf), limit)?
            .iter()
            .map(|(name, sealed)| self.open(name, sealed))
            .collect()
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

#[cfg(test)]
mod tests {
    use tessera_consensus::Hash;
    use tessera_storage::engine::Engine;
    use tessera_storage::memory::MemoryEngine;

    use super::*;

    #[test]
    fn each_federation_has_its_own_registrations_and_all_share_the_crosswalk() {
        let engine = MemoryEngine::open(&[MEMBER]).expect("an empty engine");
        let vault = |federation: &[u8]| Vault::new(&[7; 32], FederationId::new(Hash::blake3(&[federation])));
        let (alone, alliance) = (vault(b"alone"), vault(b"alliance"));
        let mut batch = Batch::new();
        alone.put(&mut batch, Shelf::Registrations, b"study", &1u8);
        alone.put(&mut batch, Shelf::Crosswalk, b"row", &2u8);
        engine.submit(batch).expect("submitted");
        for (vault, registrations, rows) in [(&alone, vec![1u8], vec![2u8]), (&alliance, vec![], vec![2])] {
            assert_eq!(vault.all::<u8>(&engine, Shelf::Registrations, 10).expect("opened"), registrations);
            assert_eq!(vault.all::<u8>(&engine, Shelf::Crosswalk, 10).expect("opened"), rows);
            let one: Option<u8> = vault.get(&engine, Shelf::Registrations, b"study").expect("opened");
            assert_eq!(one, registrations.first().copied());
        }
    }
}
