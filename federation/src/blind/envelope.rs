//! Sealing to a node's sealing key: HPKE base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305
//! (RFC 9180). Used for statistics to regulators and for shares of the index key to core nodes.
//!
//! The caller's context names the use and stands in HPKE's `info`; the associated data bind what the body belongs to.

use std::fmt;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand::CryptoRng;
use tessera_consensus::keys::{KeyAlgorithm, PublicKey};
use zeroize::Zeroizing;

use crate::wire::v1::{HpkeSealed, HpkeSuite};

/// Why something could not be sealed to a node or opened by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("{0:?} is not a sealing key (X25519) that can be sealed to")]
    Recipient(PublicKey),
    #[error("the body is sealed to {sealed_to:?}, this node's sealing key is {own:?}")]
    OtherRecipient { sealed_to: PublicKey, own: PublicKey },
    #[error("the body does not open: it was changed, or belongs elsewhere")]
    NotOurs,
}

/// What a sealing is for. The texts are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A study's statistics for a regulator.
    Statistics,
    /// A share of the index key for a core node.
    OprfShare,
}

impl Envelope {
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Statistics => b"tessera/v1/statistics",
            Self::OprfShare => b"tessera/v1/oprf-share",
        }
    }
}

/// A node's secret sealing key. Zeroed on drop, never printed.
#[derive(Clone)]
pub struct SealingKey {
    secret: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: PublicKey,
}

impl SealingKey {
    /// From 32 bytes of a source of randomness or of the node's key file (RFC 9180 `DeriveKeyPair`).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let (secret, public) = X25519HkdfSha256::derive_keypair(seed);
        let public = PublicKey::from_parts(KeyAlgorithm::X25519, public.to_bytes().into());
        Self { secret, public }
    }

    pub fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sealing key {:?} (secret)", self.public)
    }
}

/// The caller's randomness in the words of the `hpke` crate's version of `rand_core`.
struct Randomness<'a>(&'a mut dyn CryptoRng);

impl hpke::rand_core::TryRng for Randomness<'_> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl hpke::rand_core::TryCryptoRng for Randomness<'_> {}

/// Seals `plaintext` to the node with this sealing key. `bound_to` must be given again to open it.
pub fn seal_to(
    recipient: &PublicKey,
    envelope: Envelope,
    bound_to: &[u8],
    plaintext: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<HpkeSealed, EnvelopeError> {
    let unusable = EnvelopeError::Recipient(*recipient);
    if recipient.algorithm() != KeyAlgorithm::X25519 {
        return Err(unusable);
    }
    let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(recipient.as_bytes()).map_err(|_| unusable)?;
    let (encapsulated, body) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &key,
        envelope.info(),
        &super::key::pad(plaintext),
        bound_to,
        &mut Randomness(rng),
    )
    .map_err(|_| unusable)?;
    let suite = HpkeSuite::X25519HkdfSha256ChaCha20Poly1305;
    Ok(HpkeSealed { suite, recipient: *recipient, encapsulated: encapsulated.to_bytes().into(), body })
}

/// Opens what [`seal_to`] closed.
pub fn open_sealed(
    key: &SealingKey,
    envelope: Envelope,
    bound_to: &[u8],
    sealed: &HpkeSealed,
) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    let HpkeSuite::X25519HkdfSha256ChaCha20Poly1305 = sealed.suite;
    if sealed.recipient != key.public {
        return Err(EnvelopeError::OtherRecipient { sealed_to: sealed.recipient, own: key.public });
    }
    let encapsulated =
        <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.encapsulated).map_err(|_| EnvelopeError::NotOurs)?;
    let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &key.secret,
        &encapsulated,
        envelope.info(),
        &sealed.body,
        bound_to,
    );
    let mut opened = Zeroizing::new(opened.map_err(|_| EnvelopeError::NotOurs)?);
    let length = super::key::unpadded_length(&opened).ok_or(EnvelopeError::NotOurs)?;
    opened.truncate(length);
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn an_envelope_opens_for_its_node_its_use_and_its_place() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (ours, theirs) = (SealingKey::from_seed(&[1; 32]), SealingKey::from_seed(&[2; 32]));
        let sealed = seal_to(&ours.public(), Envelope::Statistics, b"tag", b"body", &mut rng).expect("seals");
        let mut tampered = sealed.clone();
        tampered.body[0] ^= 1;
        let mut foreign = sealed.clone();
        foreign.recipient = theirs.public();
        let other = EnvelopeError::OtherRecipient { sealed_to: ours.public(), own: theirs.public() };
        for (name, key, envelope, bound_to, sealed, expected) in [
            ("right", &ours, Envelope::Statistics, "tag", &sealed, Ok(b"body".to_vec())),
            ("other node", &theirs, Envelope::Statistics, "tag", &sealed, Err(other)),
            ("relabelled", &theirs, Envelope::Statistics, "tag", &foreign, Err(EnvelopeError::NotOurs)),
            ("other use", &ours, Envelope::OprfShare, "tag", &sealed, Err(EnvelopeError::NotOurs)),
            ("other place", &ours, Envelope::Statistics, "gat", &sealed, Err(EnvelopeError::NotOurs)),
            ("tampered", &ours, Envelope::Statistics, "tag", &tampered, Err(EnvelopeError::NotOurs)),
        ] {
            let opened = open_sealed(key, envelope, bound_to.as_bytes(), sealed).map(|body| body.to_vec());
            assert_eq!(opened, expected, "{name}");
        }
    }

    #[test]
    fn keys_that_cannot_be_sealed_to_are_refused() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let low_order = PublicKey::from_parts(KeyAlgorithm::X25519, [0; 32]);
        let signing =
            PublicKey::from_parts(KeyAlgorithm::Ed25519, *SealingKey::from_seed(&[1; 32]).public().as_bytes());
        for key in [low_order, signing] {
            let sealed = seal_to(&key, Envelope::Statistics, b"", b"body", &mut rng);
            assert_eq!(sealed.unwrap_err(), EnvelopeError::Recipient(key));
        }
    }
}
