//! The oblivious evaluation, RFC 9497 in verifiable mode over ristretto255-SHA512 (crate `voprf`).
//!
//! A site blinds its inputs, a core node evaluates them with the federation's key and proves it, the site checks the
//! proof against the public key of the founding and unblinds. The evaluator learns how many inputs were asked, not
//! which. The input is the identifier's canonical bytes followed by the year (two bytes, big-endian).
//!
//! [`Evaluator`] is shaped for *t* of *n*: answers are collected by evaluator until the threshold is reached. In
//! version 1 the threshold is 1 and each core node holds the whole key, so any one core node could enumerate.

use std::fmt;

use rand::CryptoRng;
use tessera_consensus::NodeId;
use tessera_consensus::keys::PublicKey;
use tessera_policy::Identifier;
use voprf::{BlindedElement, EvaluationElement, Group, Proof, Ristretto255, VoprfClient, VoprfServer};
use zeroize::Zeroizing;

use super::envelope::{Envelope, EnvelopeError, SealingKey, open_sealed, seal_to};
use super::key::IdentifierKey;
use crate::wire::v1::{
    BLIND_BATCH_MAX, BlindReply, BlindRequest, DomainGenesis, OprfBudget, OprfParameters, OprfShare, OprfSuite, VERSION,
};

/// Frozen: part of how the key follows from its seed.
const KEY_INFO: &[u8] = b"tessera/v1/index";

/// Why a blind evaluation failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlindError {
    #[error("{got} inputs, 1 to {BLIND_BATCH_MAX} fit one request: ask in several")]
    Batch { got: usize },
    #[error("element {0} of the message is not valid")]
    Element(usize),
    #[error("{got} elements came back for {asked}")]
    Count { asked: usize, got: usize },
    #[error("the proof does not belong to the federation's key: the evaluator is broken or lies")]
    Proof,
    #[error("the federation's parameters are not valid: {0}")]
    Parameters(&'static str),
    #[error("this node has no share of the index key; only core nodes do")]
    NoShare,
    #[error("the share of the index key cannot be opened: {0}")]
    Share(EnvelopeError),
}

/// One key that is asked for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyAsk {
    pub identifier: Identifier,
    pub year: u16,
}

impl KeyAsk {
    fn input(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(self.identifier.canonical_bytes());
        bytes.extend_from_slice(&self.year.to_be_bytes());
        bytes
    }
}

impl fmt::Debug for KeyAsk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {}", self.identifier, self.year)
    }
}

/// The asks for one identifier over all years from the founding to `this_year`, newest first, in batches that fit one
/// request each.
pub fn asks(identifier: &Identifier, founding_year: u16, this_year: u16) -> Vec<Vec<KeyAsk>> {
    let years: Vec<u16> = (founding_year..=this_year).rev().collect();
    let ask = |year: &u16| KeyAsk { identifier: identifier.clone(), year: *year };
    years.chunks(BLIND_BATCH_MAX).map(|chunk| chunk.iter().map(ask).collect()).collect()
}

/// What the asking side must keep until the answer comes. Secret; lost without harm, for the ask can be made anew.
pub struct Blinding {
    asks: Vec<KeyAsk>,
    clients: Vec<VoprfClient<Ristretto255>>,
}

/// Blinds up to [`BLIND_BATCH_MAX`] asks into one request.
pub fn blind(asks: Vec<KeyAsk>, rng: &mut dyn CryptoRng) -> Result<(BlindRequest, Blinding), BlindError> {
    let got = asks.len();
    if got == 0 || got > BLIND_BATCH_MAX {
        return Err(BlindError::Batch { got });
    }
    let (mut clients, mut elements) = (Vec::with_capacity(got), Vec::with_capacity(got));
    for (position, ask) in asks.iter().enumerate() {
        let mut rng = &mut *rng;
        let blinded = VoprfClient::blind(&ask.input(), &mut rng).map_err(|_| BlindError::Element(position))?;
        elements.push(blinded.message.serialize().into());
        clients.push(blinded.state);
    }
    let request = BlindRequest { version: VERSION, suite: OprfSuite::Ristretto255Sha512, elements };
    Ok((request, Blinding { asks, clients }))
}

impl Blinding {
    pub fn asks(&self) -> &[KeyAsk] {
        &self.asks
    }

    /// Checks the proof and unblinds: the keys in the order of the asks.
    pub fn finalize(&self, reply: &BlindReply, parameters: &OprfParameters) -> Result<Vec<IdentifierKey>, BlindError> {
        if reply.elements.len() != self.asks.len() {
            return Err(BlindError::Count { asked: self.asks.len(), got: reply.elements.len() });
        }
        let public_key = Ristretto255::deserialize_elem(&parameters.public_key)
            .map_err(|_| BlindError::Parameters("the index's public key"))?;
        let evaluated = reply.elements.iter().enumerate().map(|(position, bytes)| {
            EvaluationElement::<Ristretto255>::deserialize(bytes).map_err(|_| BlindError::Element(position))
        });
        let evaluated = evaluated.collect::<Result<Vec<_>, _>>()?;
        let proof = Proof::deserialize(&reply.proof.concat()).map_err(|_| BlindError::Proof)?;
        let inputs: Vec<Zeroizing<Vec<u8>>> = self.asks.iter().map(KeyAsk::input).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(|input| input.as_slice()).collect();
        let outputs = VoprfClient::batch_finalize(&inputs, &self.clients, &evaluated, &proof, public_key)
            .map_err(|_| BlindError::Proof)?;
        outputs
            .zip(&self.asks)
            .enumerate()
            .map(|(position, (output, ask))| {
                let output = Zeroizing::new(output.map_err(|_| BlindError::Element(position))?.into());
                Ok(IdentifierKey::new(reply.suite, ask.year, output))
            })
            .collect()
    }
}

impl fmt::Debug for Blinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blinding of {} asks (secret)", self.asks.len())
    }
}

/// Whoever can answer a blind request with its share of the key.
pub trait Evaluator: Send + Sync {
    fn evaluate(&self, request: &BlindRequest, rng: &mut dyn CryptoRng) -> Result<BlindReply, BlindError>;
}

/// The index key. Zeroed on drop, never printed.
#[derive(Clone)]
pub struct OprfKey(VoprfServer<Ristretto255>);

impl OprfKey {
    /// From 32 bytes of a source of randomness (RFC 9497 `DeriveKeyPair`). The seed is what is sealed as a share.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(VoprfServer::new_from_seed(seed, KEY_INFO).expect("a seed of 32 bytes always gives a key"))
    }

    pub fn public(&self) -> [u8; 32] {
        Ristretto255::serialize_elem(self.0.get_public_key()).into()
    }
}

impl Evaluator for OprfKey {
    fn evaluate(&self, request: &BlindRequest, rng: &mut dyn CryptoRng) -> Result<BlindReply, BlindError> {
        let got = request.elements.len();
        if got == 0 || got > BLIND_BATCH_MAX {
            return Err(BlindError::Batch { got });
        }
        let elements = request.elements.iter().enumerate().map(|(position, bytes)| {
            BlindedElement::<Ristretto255>::deserialize(bytes).map_err(|_| BlindError::Element(position))
        });
        let elements = elements.collect::<Result<Vec<_>, _>>()?;
        let mut rng = rng;
        let evaluated = self.0.batch_blind_evaluate(&mut rng, &elements).map_err(|_| BlindError::Batch { got })?;
        let proof: [u8; 64] = evaluated.proof.serialize().into();
        let (challenge, response) = proof.split_at(32);
        let half = |bytes: &[u8]| bytes.try_into().expect("half of 64 bytes");
        Ok(BlindReply {
            version: VERSION,
            suite: request.suite,
            elements: evaluated.messages.iter().map(|element| element.serialize().into()).collect(),
            proof: [half(challenge), half(response)],
        })
    }
}

impl fmt::Debug for OprfKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("index key (secret)")
    }
}

/// Founding: the parameters of the index, and the key sealed to each core node.
pub fn found_oprf(
    seed: &Zeroizing<[u8; 32]>,
    budget: OprfBudget,
    core: &[(NodeId, PublicKey)],
    rng: &mut dyn CryptoRng,
) -> Result<(OprfParameters, Vec<OprfShare>), EnvelopeError> {
    let public_key = OprfKey::from_seed(seed).public();
    let parameters = OprfParameters { suite: OprfSuite::Ristretto255Sha512, threshold: 1, public_key, budget };
    let mut shares = Vec::with_capacity(core.len());
    for (node, sealing) in core {
        let share = seal_to(sealing, Envelope::OprfShare, &node_bytes(node), seed.as_slice(), rng)?;
        shares.push(OprfShare { node: *node, share });
    }
    shares.sort_by_key(|share| share.node);
    Ok((parameters, shares))
}

/// A core node's own share, checked against the founding's public key.
pub fn own_share(genesis: &DomainGenesis, node: &NodeId, sealing: &SealingKey) -> Result<OprfKey, BlindError> {
    let share = genesis.oprf_shares.iter().find(|share| share.node == *node).ok_or(BlindError::NoShare)?;
    let seed = open_sealed(sealing, Envelope::OprfShare, &node_bytes(node), &share.share).map_err(BlindError::Share)?;
    let seed: &[u8; 32] = seed.as_slice().try_into().map_err(|_| BlindError::Parameters("a share's length"))?;
    let key = OprfKey::from_seed(seed);
    if key.public() != genesis.oprf.public_key {
        return Err(BlindError::Parameters("the share does not fit the index's public key"));
    }
    Ok(key)
}

fn node_bytes(node: &NodeId) -> Vec<u8> {
    let mut bytes = vec![node.hash().algorithm().into()];
    bytes.extend_from_slice(node.hash().as_bytes());
    bytes
}

#[cfg(test)]
#[path = "oprf_tests.rs"]
mod tests;
