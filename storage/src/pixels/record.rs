//! What a pack holds: a pack header, then records, each of which explains itself.
//!
//! ```text
//! pack    magic 8 | version 1 | kind 1 | zero 6 | check 16                                           = 32 bytes
//! record  magic 8 | version 1 | kind 1 | hash algorithm 1 | cipher 1 | envelope bytes 4 | body bytes 8
//!         | receipt 8 | salt 32 | hash 32 | check 16                                                 = 112 bytes
//!         sealed body | sealed group hashes (only with more than one group) | sealed envelope
//! ```
//! Numbers are little-endian; lengths are of plaintext, and the sealed lengths follow from them. A receipt or a
//! tombstone has an envelope only. `check` authenticates the bytes before it under the site key, so a header that
//! passes was written by this store, and its lengths can be trusted.
//!
//! Version 1 is frozen: what is written once must be readable for decades. A new layout is a new version.

use crate::pixels::hash::{ObjectHash, group_count};
use crate::pixels::seal::{CHECK_BYTES, CIPHER_AES_256_GCM_SEGMENTS, Keyring, SALT_BYTES, sealed_bytes};

pub(crate) const PACK_HEADER_BYTES: usize = 32;
pub(crate) const HEADER_BYTES: usize = 112;
pub(crate) const RECORD_MAGIC: [u8; 8] = *b"TSRrecd1";
const PACK_MAGIC: [u8; 8] = *b"TSRpack1";
const VERSION: u8 = 1;
const CHECKED_BYTES: usize = HEADER_BYTES - CHECK_BYTES;

/// How a pack came to be, which tells what a scan may conclude from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PackKind {
    /// Records were appended in groups; only the newest such pack can have an unsynced end.
    Appended = 1,
    /// One large object, complete and synced before the file got its name.
    Single = 2,
}

/// What a record states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordKind {
    /// An object with the envelope of its first receipt.
    Object = 1,
    /// A further receipt of an object that is stored already: an envelope only.
    Receipt = 2,
    /// The object was given up; records of its hash with a smaller receipt number are dead.
    Tombstone = 3,
}

/// Number of a record in the order of the store, unique and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptId(pub(crate) u64);

impl ReceiptId {
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub(crate) pack: u64,
    pub(crate) offset: u64,
}

impl Place {
    /// Number of the pack, as in its file name.
    pub fn pack(&self) -> u64 {
        self.pack
    }

    /// Offset of the record in the pack's file, bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// A record's header, parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: RecordKind,
    pub(crate) envelope_bytes: u32,
    pub(crate) body_bytes: u64,
    pub(crate) receipt: ReceiptId,
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) hash: ObjectHash,
}

/// Why bytes are not a header of this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    NotARecord,
    Unauthentic,
    /// Authentic, so written by a newer version of this program.
    Newer,
}

impl Header {
    pub(crate) fn encode(&self, keys: &Keyring) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&RECORD_MAGIC);
        bytes[8..12].copy_from_slice(&[
            VERSION,
            self.kind as u8,
            self.hash.algorithm() as u8,
            CIPHER_AES_256_GCM_SEGMENTS,
        ]);
        bytes[12..16].copy_from_slice(&self.envelope_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.receipt.0.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.salt);
        bytes[64..96].copy_from_slice(self.hash.digest());
        let check = keys.check(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], keys: &Keyring) -> Result<Self, HeaderFault> {
        if bytes[..8] != RECORD_MAGIC {
            return Err(HeaderFault::NotARecord);
        }
        if bytes[CHECKED_BYTES..] != keys.check(&bytes[..CHECKED_BYTES]) {
            return Err(HeaderFault::Unauthentic);
        }
        if bytes[8] != VERSION || bytes[11] != CIPHER_AES_256_GCM_SEGMENTS {
            return Err(HeaderFault::Newer);
        }
        let kind = match bytes[9] {
            1 => RecordKind::Object,
            2 => RecordKind::Receipt,
            3 => RecordKind::Tombstone,
            _ => return Err(HeaderFault::Newer),
        };
        Ok(Self {
            kind,
            envelope_bytes: u32::from_le_bytes(array(&bytes[12..16])),
            body_bytes: u64::from_le_bytes(array(&bytes[16..24])),
            receipt: ReceiptId(u64::from_le_bytes(array(&bytes[24..32]))),
            salt: array(&bytes[32..64]),
            hash: ObjectHash::from_parts(bytes[10], array(&bytes[64..96])).map_err(|_| HeaderFault::Newer)?,
        })
    }

    /// Plaintext bytes of the group hashes: none when the only group is the root.
    pub(crate) fn groups_bytes(&self) -> u64 {
        let count = group_count(self.body_bytes);
        if self.kind == RecordKind::Object && count > 1 { count * 32 } else { 0 }
    }

    pub(crate) fn sealed_body_bytes(&self) -> u64 {
        if self.kind == RecordKind::Object { sealed_bytes(self.body_bytes) } else { 0 }
    }

    pub(crate) fn sealed_groups_bytes(&self) -> u64 {
        if self.groups_bytes() == 0 { 0 } else { sealed_bytes(self.groups_bytes()) }
    }

    pub(crate) fn sealed_envelope_bytes(&self) -> u64 {
        sealed_bytes(u64::from(self.envelope_bytes))
    }

    /// Offsets from the record's beginning.
    pub(crate) fn groups_offset(&self) -> u64 {
        HEADER_BYTES as u64 + self.sealed_body_bytes()
    }

    pub(crate) fn envelope_offset(&self) -> u64 {
        self.groups_offset() + self.sealed_groups_bytes()
    }

    /// Bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.envelope_offset() + self.sealed_envelope_bytes()
    }
}

pub(crate) fn encode_pack_header(kind: PackKind, keys: &Keyring) -> [u8; PACK_HEADER_BYTES] {
    let mut bytes = [0; PACK_HEADER_BYTES];
    bytes[..8].copy_from_slice(&PACK_MAGIC);
    bytes[8] = VERSION;
    bytes[9] = kind as u8;
    let check = keys.check(&bytes[..16]);
    bytes[16..].copy_from_slice(&check);
    bytes
}

/// The kind of a pack, or `None` when its header is damaged or from a newer version.
pub(crate) fn decode_pack_header(bytes: &[u8; PACK_HEADER_BYTES], keys: &Keyring) -> Option<PackKind> {
    let authentic = bytes[16..] == keys.check(&bytes[..16]);
    match (&bytes[..8] == PACK_MAGIC.as_slice(), authentic, bytes[8], bytes[9]) {
        (true, true, VERSION, 1) => Some(PackKind::Appended),
        (true, true, VERSION, 2) => Some(PackKind::Single),
        _ => None,
    }
}

/// A slice whose length is given by constants as an array.
fn array<const N: usize>(slice: &[u8]) -> [u8; N] {
    slice.try_into().expect("the slice was cut to this length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::seal::SiteKey;

    fn keyring() -> Keyring {
        Keyring::new(SiteKey::new([7; 32]))
    }

    fn header() -> Header {
        Header {
            kind: RecordKind::Object,
            envelope_bytes: 300,
            body_bytes: 5 << 20,
            receipt: ReceiptId(42),
            salt: [9; SALT_BYTES],
            hash: ObjectHash::of(b"object"),
        }
    }

    /// Frozen: this is how version 1 looks on every disk.
    #[test]
    fn golden_header_of_version_1() {
        let golden = "5453527265636431010101012c01000000005000000000002a00000000000000\
                      0909090909090909090909090909090909090909090909090909090909090909\
                      cb5335a6e2b17f868a138bcc188425d6433d6c2549969455ce3615fac1fb1ede\
                      d34c530aa5f12fe690da5e6212aecfde";
        assert_eq!(hex::encode(header().encode(&keyring())), golden);
        assert_eq!(
            hex::encode(encode_pack_header(PackKind::Appended, &keyring())),
            "5453527061636b3101010000000000006a367e3bae4d5846dc7d703c8db491ca"
        );
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let keys = keyring();
        let bytes = header().encode(&keys);
        assert_eq!(Header::decode(&bytes, &keys), Ok(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&flipped, &keys).is_err(), "bit {bit}");
        }
        let pack = encode_pack_header(PackKind::Single, &keys);
        assert_eq!(decode_pack_header(&pack, &keys), Some(PackKind::Single));
        for bit in 0..PACK_HEADER_BYTES * 8 {
            let mut flipped = pack;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_pack_header(&flipped, &keys), None, "bit {bit}");
        }
    }

    #[test]
    fn lengths_follow_from_the_header() {
        let object = header();
        assert_eq!(object.groups_bytes(), 5 * 32);
        assert_eq!(object.record_bytes(), 112 + (5 << 20) + 80 * 16 + 160 + 16 + 300 + 16);
        let receipt = Header { kind: RecordKind::Receipt, ..object };
        assert_eq!(receipt.record_bytes(), 112 + 300 + 16);
    }
}
