//! Encryption at rest: AES-256-GCM in segments of 64 KiB, under a key of each record's own.
//!
//! From the site key and the record's random 32-byte salt, BLAKE3's key derivation makes the record key. Under it,
//! each segment of each stream of the record (body, group hashes, envelope) has the nonce
//! `stream | last flag | 0 0 | segment number`, after STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015): segments can't
//! be reordered, dropped or cut at the end unnoticed, and any one can be read alone. A nonce repeats under a key
//! only for the same plaintext (a group of a partial object that is written again after a crash; its content is
//! fixed by its hash; its envelope is not, and is sealed once, see `partial`).
//!
//! Headers are in clear, since recovery must walk over them, and are authenticated by a BLAKE3 keyed hash.
//!
//! Not here: where the site key comes from and how it is kept.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Plaintext bytes of a segment.
pub(crate) const SEGMENT_BYTES: usize = 64 * 1024;
/// Bytes that sealing adds to each segment.
pub(crate) const TAG_BYTES: usize = 16;
pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const CHECK_BYTES: usize = 16;
/// Algorithm identifier of this module's scheme, as headers hold it.
pub(crate) const CIPHER_AES_256_GCM_SEGMENTS: u8 = 1;

const KEY_BYTES: usize = 32;
const RECORD_KEY_CONTEXT: &str = "tessera storage 2025-11 pixel record key v1";
const HEADER_KEY_CONTEXT: &str = "tessera storage 2025-11 pixel header check key v1";
const SEGMENT_AAD: &[u8] = b"tessera pixel segment v1";

/// The key under which a site's pixels are encrypted. Wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct SiteKey(Zeroizing<[u8; KEY_BYTES]>);

impl SiteKey {
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(key))
    }

    /// A new random key, or `None` when the system has no randomness to give.
    pub fn generate() -> Option<Self> {
        random_bytes().map(Self::new)
    }

    /// The key itself, for those who keep it.
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SiteKey(redacted)")
    }
}

/// Random bytes from the system's generator.
pub(crate) fn random_bytes<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// The parts of a record that are sealed separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stream {
    Body = 1,
    Groups = 2,
    Envelope = 3,
    KeyCheck = 4,
}

/// A sealed segment did not open: it was changed, or belongs to another place or key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

/// What is derived from the site key once per store.
pub(crate) struct Keyring {
    site: SiteKey,
    header_key: Zeroizing<[u8; KEY_BYTES]>,
}

impl Keyring {
    pub(crate) fn new(site: SiteKey) -> Self {
        let header_key = Zeroizing::new(blake3::derive_key(HEADER_KEY_CONTEXT, site.expose()));
        Self { site, header_key }
    }

    pub(crate) fn record_key(&self, salt: &[u8; SALT_BYTES]) -> RecordKey {
        let mut material = Zeroizing::new([0; KEY_BYTES + SALT_BYTES]);
        material[..KEY_BYTES].copy_from_slice(self.site.expose());
        material[KEY_BYTES..].copy_from_slice(salt);
        let key = Zeroizing::new(blake3::derive_key(RECORD_KEY_CONTEXT, material.as_slice()));
        let unbound = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("a 32-byte key fits AES-256");
        RecordKey(LessSafeKey::new(unbound))
    }

    /// Authenticates bytes that stay in clear.
    pub(crate) fn check(&self, bytes: &[u8]) -> [u8; CHECK_BYTES] {
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(&blake3::keyed_hash(&self.header_key, bytes).as_bytes()[..CHECK_BYTES]);
        check
    }
}

/// The key of one record.
pub(crate) struct RecordKey(LessSafeKey);

impl RecordKey {
    /// Encrypts `segment` where it lies and appends the tag.
    pub(crate) fn seal_segment(&self, stream: Stream, number: u64, last: bool, segment: &mut Vec<u8>) {
        assert!(segment.len() <= SEGMENT_BYTES, "a segment holds at most {SEGMENT_BYTES} bytes");
        let sealed = self.0.seal_in_place_append_tag(nonce(stream, number, last), Aad::from(SEGMENT_AAD), segment);
        sealed.expect("AES-GCM seals any segment of this size");
    }

    /// Decrypts `sealed` where it lies and returns the plaintext.
    pub(crate) fn open_segment<'a>(
        &self,
        stream: Stream,
        number: u64,
        last: bool,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], NotAuthentic> {
        let opened = self.0.open_in_place(nonce(stream, number, last), Aad::from(SEGMENT_AAD), sealed);
        opened.map_err(|_| NotAuthentic)
    }

    /// Appends `plain`, sealed as a whole stream, to `out`.
    pub(crate) fn seal_stream(&self, stream: Stream, plain: &[u8], out: &mut Vec<u8>) {
        let segments = segment_count(plain.len() as u64);
        let mut pieces = plain.chunks(SEGMENT_BYTES);
        for number in 0..segments {
            let piece = pieces.next().unwrap_or(&[]);
            let start = out.len();
            out.extend_from_slice(piece);
            let nonce = nonce(stream, number, number + 1 == segments);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(SEGMENT_AAD), &mut out[start..]);
            out.extend_from_slice(tag.expect("AES-GCM seals any segment of this size").as_ref());
        }
    }

    /// Opens a whole stream of `plain_bytes`.
    pub(crate) fn open_stream(
        &self,
        stream: Stream,
        plain_bytes: u64,
        mut sealed: Vec<u8>,
    ) -> Result<Vec<u8>, NotAuthentic> {
        if sealed.len() as u64 != sealed_bytes(plain_bytes) {
            return Err(NotAuthentic);
        }
        let segments = segment_count(plain_bytes);
        let mut plain = Vec::with_capacity(plain_bytes as usize);
        for (number, piece) in sealed.chunks_mut(SEGMENT_BYTES + TAG_BYTES).enumerate() {
            let number = number as u64;
            plain.extend_from_slice(self.open_segment(stream, number, number + 1 == segments, piece)?);
        }
        Ok(plain)
    }
}

/// Segments of a stream of `plain_bytes`; an empty stream has one, so that its emptiness is authenticated.
pub(crate) fn segment_count(plain_bytes: u64) -> u64 {
    plain_bytes.div_ceil(SEGMENT_BYTES as u64).max(1)
}

/// Bytes of a sealed stream of `plain_bytes`.
pub(crate) fn sealed_bytes(plain_bytes: u64) -> u64 {
    plain_bytes + segment_count(plain_bytes) * TAG_BYTES as u64
}

/// Where segment `number` of a sealed stream begins.
pub(crate) fn segment_offset(number: u64) -> u64 {
    number * (SEGMENT_BYTES + TAG_BYTES) as u64
}

fn nonce(stream: Stream, number: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[0] = stream as u8;
    bytes[1] = u8::from(last);
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring() -> Keyring {
        Keyring::new(SiteKey::new([7; 32]))
    }

    #[test]
    fn streams_of_every_shape_come_back_and_tell_changes() {
        let key = keyring().record_key(&[1; SALT_BYTES]);
        for bytes in [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES] {
            let plain: Vec<u8> = (0..bytes).map(|position| position as u8).collect();
            let mut sealed = Vec::new();
            key.seal_stream(Stream::Body, &plain, &mut sealed);
            assert_eq!(sealed.len() as u64, sealed_bytes(bytes as u64));
            let open = |stream, sealed| key.open_stream(stream, bytes as u64, sealed);
            assert_eq!(open(Stream::Body, sealed.clone()), Ok(plain), "{bytes}");
            assert_eq!(open(Stream::Envelope, sealed.clone()), Err(NotAuthentic), "{bytes}");
            let mut flipped = sealed.clone();
            flipped[bytes / 2] ^= 1;
            assert_eq!(open(Stream::Body, flipped), Err(NotAuthentic), "{bytes}");
            sealed.pop();
            assert_eq!(open(Stream::Body, sealed), Err(NotAuthentic), "{bytes}");
        }
    }

    #[test]
    fn segments_cannot_be_swapped_or_dropped_at_the_end() {
        let key = keyring().record_key(&[1; SALT_BYTES]);
        let mut sealed = Vec::new();
        key.seal_stream(Stream::Body, &[0; 3 * SEGMENT_BYTES], &mut sealed);
        let sealed_segment = SEGMENT_BYTES + TAG_BYTES;
        let mut swapped = sealed.clone();
        swapped[..2 * sealed_segment].rotate_left(sealed_segment);
        assert_eq!(key.open_stream(Stream::Body, 3 * SEGMENT_BYTES as u64, swapped), Err(NotAuthentic));
        sealed.truncate(2 * sealed_segment);
        assert_eq!(key.open_stream(Stream::Body, 2 * SEGMENT_BYTES as u64, sealed), Err(NotAuthentic));
    }

    #[test]
    fn keys_differ_by_salt_and_by_site() {
        let mut sealed = Vec::new();
        keyring().record_key(&[1; SALT_BYTES]).seal_stream(Stream::Body, b"plain", &mut sealed);
        for other in
            [keyring().record_key(&[2; SALT_BYTES]), Keyring::new(SiteKey::new([8; 32])).record_key(&[1; SALT_BYTES])]
        {
            assert_eq!(other.open_stream(Stream::Body, 5, sealed.clone()), Err(NotAuthentic));
        }
    }

    /// Frozen: what version 1 sealed must open for ever.
    #[test]
    fn golden_segments_of_version_1() {
        let mut sealed = Vec::new();
        keyring().record_key(&[1; SALT_BYTES]).seal_stream(Stream::Envelope, b"plain", &mut sealed);
        assert_eq!(hex::encode(sealed), "0a4dddabc825fc994a0eab36c9f7bdd8201369ca56");
        assert_eq!(hex::encode(keyring().check(b"clear")), "cf549edcf201e5ef50cec9560970146f");
    }

    #[test]
    fn a_site_key_is_not_printed() {
        assert_eq!(format!("{:?}", SiteKey::new([7; 32])), "SiteKey(redacted)");
    }
}
