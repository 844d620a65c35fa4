//! The identifier key and what it gives: tags by which records are found, and the sealing of their bodies.
//!
//! From the evaluated OPRF output two keys are derived (BLAKE3 `derive_key`): one for tags, one for sealing. A tag is
//! keyed BLAKE3 over a framed place: number *n* of the presence chain, or number *n* of one site's chain of one kind.
//! A body is sealed with XChaCha20-Poly1305 under a random nonce; the associated data bind the command's kind, the
//! part and the tag (or random id) that it belongs to, so that a body put elsewhere does not open. Plaintexts are
//! padded to a multiple of [`PADDING_BYTES`], because lengths tell.

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use rand::CryptoRng;
use tessera_consensus::SiteId;
use tessera_consensus::wire::v1::Kind;
use zeroize::Zeroizing;

use crate::wire::v1::{OprfSuite, SealAlgorithm, Sealed, Tag, TagAlgorithm};
use crate::wire::{DecodeError, Format};

/// Plaintexts are padded to a multiple of this.
const PADDING_BYTES: usize = 128;
/// BLAKE3 `derive_key` contexts: frozen, each for one use.
const TAG_CONTEXT: &str = "tessera v1 identifier key: tags";
const SEALING_CONTEXT: &str = "tessera v1 identifier key: sealing";

/// Where in the index a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain<'a> {
    /// One step for each site that has something under the key.
    Presence,
    /// The records of one kind that one site wrote under the key.
    Site { site: &'a SiteId, kind: Kind },
}

/// Which part of a command a sealed body is. The numbers are frozen: they stand in associated data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The details for those who hold the identifier key.
    Details = 1,
    /// The site's name in a presence.
    PresenceSite = 2,
    /// The statistics for a regulator.
    Statistics = 3,
}

/// What a sealed body belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    kind: Kind,
    part: Part,
    name: BindingName<'a>,
}

#[derive(Clone, Copy, Debug)]
enum BindingName<'a> {
    Tag(&'a Tag),
    Id(&'a [u8; 16]),
}

impl<'a> Binding<'a> {
    /// A body that belongs to a tag.
    pub const fn tag(kind: Kind, part: Part, tag: &'a Tag) -> Self {
        Self { kind, part, name: BindingName::Tag(tag) }
    }

    /// The details of a command that carries a random id and no tag.
    pub const fn id(kind: Kind, id: &'a [u8; 16]) -> Self {
        Self { kind, part: Part::Details, name: BindingName::Id(id) }
    }

    /// The associated data.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"tessera/v1/body\0".to_vec();
        bytes.extend_from_slice(&self.kind.0.to_be_bytes());
        bytes.push(self.part as u8);
        match self.name {
            BindingName::Tag(tag) => {
                bytes.push(1);
                bytes.extend_from_slice(&tag.to_key());
            }
            BindingName::Id(id) => {
                bytes.push(2);
                bytes.extend_from_slice(id);
            }
        }
        bytes
    }
}

/// Why a sealed body could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the body does not open with this key: it was changed, or belongs to another record or key")]
    NotOurs,
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// K: the key of one identifier for one year.
#[derive(Clone)]
pub struct IdentifierKey {
    suite: OprfSuite,
    year: u16,
    output: Zeroizing<[u8; 64]>,
    tags: Zeroizing<[u8; 32]>,
    sealing: Zeroizing<[u8; 32]>,
}

impl IdentifierKey {
    /// From the output of the OPRF, or from where [`Self::secret_bytes`] was kept.
    pub fn new(suite: OprfSuite, year: u16, output: Zeroizing<[u8; 64]>) -> Self {
        let derive = |context| Zeroizing::new(blake3::derive_key(context, output.as_slice()));
        let (tags, sealing) = (derive(TAG_CONTEXT), derive(SEALING_CONTEXT));
        Self { suite, year, output, tags, sealing }
    }

    pub fn suite(&self) -> OprfSuite {
        self.suite
    }

    pub fn year(&self) -> u16 {
        self.year
    }

    /// For the node's own cache, sealed on its disk.
    pub fn secret_bytes(&self) -> &Zeroizing<[u8; 64]> {
        &self.output
    }

    /// The tag of number `counter` in `chain`.
    pub fn tag(&self, chain: Chain<'_>, counter: u64) -> Tag {
        let mut hasher = blake3::Hasher::new_keyed(&self.tags);
        match chain {
            Chain::Presence => {
                hasher.update(&[1]);
            }
            Chain::Site { site, kind } => {
                // A site's name has at most 32 bytes; its length frames it.
                hasher.update(&[2, site.as_str().len() as u8]).update(site.as_str().as_bytes());
                hasher.update(&kind.0.to_be_bytes());
            }
        }
        hasher.update(&counter.to_be_bytes());
        Tag::from_parts(TagAlgorithm::KeyedBlake3, *hasher.finalize().as_bytes())
    }

    /// Seals `plaintext` so that it opens only with this key and for this binding.
    pub fn seal(&self, binding: Binding<'_>, plaintext: &[u8], rng: &mut dyn CryptoRng) -> Sealed {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let padded = pad(plaintext);
        let payload = Payload { msg: &padded, aad: &binding.bytes() };
        let cipher = XChaCha20Poly1305::new((&*self.sealing).into());
        let body = cipher.encrypt(XNonce::from_slice(&nonce), payload).expect("bodies are far below 256 GiB");
        Sealed { algorithm: SealAlgorithm::XChaCha20Poly1305, nonce, body }
    }

    /// Seals a format's bytes.
    pub fn seal_format(&self, binding: Binding<'_>, value: &impl Format, rng: &mut dyn CryptoRng) -> Sealed {
        self.seal(binding, &Zeroizing::new(value.to_bytes()), rng)
    }

    /// Opens what [`Self::seal`] closed.
    pub fn open(&self, binding: Binding<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let SealAlgorithm::XChaCha20Poly1305 = sealed.algorithm;
        let payload = Payload { msg: &sealed.body, aad: &binding.bytes() };
        let cipher = XChaCha20Poly1305::new((&*self.sealing).into());
        let opened = cipher.decrypt(XNonce::from_slice(&sealed.nonce), payload).map_err(|_| OpenError::NotOurs)?;
        let mut opened = Zeroizing::new(opened);
        let length = unpadded_length(&opened).ok_or(DecodeError::Malformed { what: "padding of a sealed body" })?;
        opened.truncate(length);
        Ok(opened)
    }

    /// Opens and reads a format.
    pub fn open_format<T: Format>(&self, binding: Binding<'_>, sealed: &Sealed) -> Result<T, OpenError> {
        Ok(T::from_bytes(&self.open(binding, sealed)?)?)
    }
}

impl fmt::Debug for IdentifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identifier key of {} (secret)", self.year)
    }
}

/// ISO/IEC 7816-4: a byte 0x80, then zeros.
pub(super) fn pad(plaintext: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = (plaintext.len() + 1).next_multiple_of(PADDING_BYTES);
    let mut padded = Zeroizing::new(Vec::with_capacity(length));
    padded.extend_from_slice(plaintext);
    padded.push(0x80);
    padded.resize(length, 0);
    padded
}

pub(super) fn unpadded_length(padded: &[u8]) -> Option<usize> {
    let last = padded.iter().rposition(|byte| *byte != 0)?;
    (padded[last] == 0x80).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::{CONSENT, STUDY};
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn key(byte: u8) -> IdentifierKey {
        IdentifierKey::new(OprfSuite::Ristretto255Sha512, 2025, Zeroizing::new([byte; 64]))
    }

    fn site(name: &str) -> SiteId {
        name.parse().expect("site")
    }

    #[test]
    fn tags_differ_by_key_chain_and_counter() {
        let (a, ab) = (site("hospital-a"), site("hospital-ab"));
        let chains = [
            Chain::Presence,
            Chain::Site { site: &a, kind: STUDY },
            Chain::Site { site: &a, kind: CONSENT },
            Chain::Site { site: &ab, kind: STUDY },
        ];
        let mut tags = std::collections::BTreeSet::new();
        for key in [key(1), key(2)] {
            for chain in chains {
                (0..3).for_each(|counter| assert!(tags.insert(key.tag(chain, counter)), "{chain:?} {counter}"));
            }
        }
        assert_eq!(tags.len(), 24);
    }

    #[test]
    fn a_body_opens_only_with_its_key_its_kind_its_part_and_its_tag() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (tag, other) = (key(1).tag(Chain::Presence, 0), key(1).tag(Chain::Presence, 1));
        let sealed = key(1).seal(Binding::tag(STUDY, Part::Details, &tag), b"body", &mut rng);
        let mut tampered = sealed.clone();
        tampered.body[3] ^= 1;
        let id = [0; 16];
        for (key, binding, sealed, opens) in [
            (key(1), Binding::tag(STUDY, Part::Details, &tag), &sealed, true),
            (key(2), Binding::tag(STUDY, Part::Details, &tag), &sealed, false),
            (key(1), Binding::tag(CONSENT, Part::Details, &tag), &sealed, false),
            (key(1), Binding::tag(STUDY, Part::PresenceSite, &tag), &sealed, false),
            (key(1), Binding::tag(STUDY, Part::Details, &other), &sealed, false),
            (key(1), Binding::id(STUDY, &id), &sealed, false),
            (key(1), Binding::tag(STUDY, Part::Details, &tag), &tampered, false),
        ] {
            let opened = key.open(binding, sealed).map(|body| body.to_vec());
            assert_eq!(opened, if opens { Ok(b"body".to_vec()) } else { Err(OpenError::NotOurs) }, "{binding:?}");
        }
    }

    #[test]
    fn lengths_are_hidden_in_steps_and_come_back() {
        for (length, padded) in [(0, 128), (1, 128), (127, 128), (128, 256), (200, 256), (255, 256), (256, 384)] {
            let bytes = vec![0x80; length];
            assert_eq!(pad(&bytes).len(), padded, "{length}");
            assert_eq!(unpadded_length(&pad(&bytes)), Some(length));
        }
        assert_eq!(unpadded_length(&[0; 8]), None);
        assert_eq!(unpadded_length(&[]), None);
    }

    #[test]
    fn a_key_does_not_print() {
        assert_eq!(format!("{:?}", key(0xAB)), "identifier key of 2025 (secret)");
    }
}
