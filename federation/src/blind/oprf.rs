//! The oblivious evaluation, RFC 9497 in verifiable mode over ristretto255-SHA512 (crate `voprf`).
//!
//! A site blinds its inputs, a core node evaluates them with the federation's key of the year and proves it, the site
//! checks the proof against the public key of the founding and unblinds. The evaluator learns how many inputs were asked
//! for which year, not which. The input is the identifier's canonical bytes.
//!
//! [`Evaluator`] is shaped for *t* of *n*: answers are collected by evaluator until the threshold is reached. In
//! version 1 the threshold is 1 and each core node holds the whole keys, so any one core node could enumerate.

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
    BLIND_BATCH_MAX, BlindReply, BlindRequest, BlindYear, DomainGenesis, EvaluatedYear, INDEX_YEARS, OprfBudget,
    OprfParameters, OprfShare, OprfSuite, VERSION,
};

/// Frozen: part of how a year's key follows from its seed.
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
    #[error("the federation has no index key of {0}, or has none yet")]
    NoSuchYear(u16),
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
        Zeroizing::new(self.identifier.canonical_bytes())
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
    /// By year, ascending; within a year as they were asked.
    asks: Vec<KeyAsk>,
    clients: Vec<VoprfClient<Ristretto255>>,
}

/// Blinds up to [`BLIND_BATCH_MAX`] asks into one request.
pub fn blind(mut asks: Vec<KeyAsk>, rng: &mut dyn CryptoRng) -> Result<(BlindRequest, Blinding), BlindError> {
    let got = asks.len();
    if got == 0 || got > BLIND_BATCH_MAX {
        return Err(BlindError::Batch { got });
    }
    asks.sort_by_key(|ask| ask.year);
    let (mut clients, mut years) = (Vec::with_capacity(got), Vec::<BlindYear>::new());
    for (position, ask) in asks.iter().enumerate() {
        let mut rng = &mut *rng;
        let blinded = VoprfClient::blind(&ask.input(), &mut rng).map_err(|_| BlindError::Element(position))?;
        let element = blinded.message.serialize().into();
        match years.last_mut().filter(|last| last.year == ask.year) {
            Some(last) => last.elements.push(element),
            None => years.push(BlindYear { year: ask.year, elements: vec![element] }),
        }
        clients.push(blinded.state);
    }
    let request = BlindRequest { version: VERSION, suite: OprfSuite::Ristretto255Sha512, years };
    Ok((request, Blinding { asks, clients }))
}

impl Blinding {
    /// By year, ascending.
    pub fn asks(&self) -> &[KeyAsk] {
        &self.asks
    }

    /// Checks the proofs and unblinds: the keys in the order of [`Self::asks`].
    pub fn finalize(&self, reply: &BlindReply, genesis: &DomainGenesis) -> Result<Vec<IdentifierKey>, BlindError> {
        let years: Vec<&[KeyAsk]> = self.asks.chunk_by(|a, b| a.year == b.year).collect();
        let asked: Vec<usize> = years.iter().map(|asks| asks.len()).collect();
        let got: Vec<usize> = reply.years.iter().map(|year| year.elements.len()).collect();
        if asked != got {
            return Err(BlindError::Count { asked: self.asks.len(), got: got.iter().sum() });
        }
        let (mut keys, mut begin) = (Vec::with_capacity(self.asks.len()), 0);
        for (asks, evaluated) in years.into_iter().zip(&reply.years) {
            let public = genesis.index_key(asks[0].year).ok_or(BlindError::NoSuchYear(asks[0].year))?;
            let clients = &self.clients[begin..begin + asks.len()];
            keys.extend(unblind(asks, clients, evaluated, public, reply.suite, begin)?);
            begin += asks.len();
        }
        Ok(keys)
    }
}

/// The keys of one year; `begin` is the place of the first in the whole message.
fn unblind(
    asks: &[KeyAsk],
    clients: &[VoprfClient<Ristretto255>],
    evaluated: &EvaluatedYear,
    public: &[u8; 32],
    suite: OprfSuite,
    begin: usize,
) -> Result<Vec<IdentifierKey>, BlindError> {
    let public =
        Ristretto255::deserialize_elem(public).map_err(|_| BlindError::Parameters("the index's public key"))?;
    let elements = evaluated.elements.iter().enumerate().map(|(position, bytes)| {
        EvaluationElement::<Ristretto255>::deserialize(bytes).map_err(|_| BlindError::Element(begin + position))
    });
    let elements = elements.collect::<Result<Vec<_>, _>>()?;
    let proof = Proof::deserialize(&evaluated.proof.concat()).map_err(|_| BlindError::Proof)?;
    let inputs: Vec<Zeroizing<Vec<u8>>> = asks.iter().map(KeyAsk::input).collect();
    let inputs: Vec<&[u8]> = inputs.iter().map(|input| input.as_slice()).collect();
    let clients = clients.to_vec();
    let outputs = VoprfClient::batch_finalize(&inputs, &clients, &elements, &proof, public);
    let outputs = outputs.map_err(|_| BlindError::Proof)?;
    outputs
        .zip(asks)
        .enumerate()
        .map(|(position, (output, ask))| {
            let output = Zeroizing::new(output.map_err(|_| BlindError::Element(begin + position))?.into());
            Ok(IdentifierKey::new(suite, ask.year, output))
        })
        .collect()
}

impl fmt::Debug for Blinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blinding of {} asks (secret)", self.asks.len())
    }
}

/// Whoever can answer a blind request with its share of the keys.
pub trait Evaluator: Send + Sync {
    /// No key of a year after `this_year` is used.
    fn evaluate(
        &self,
        request: &BlindRequest,
        this_year: u16,
        rng: &mut dyn CryptoRng,
    ) -> Result<BlindReply, BlindError>;
}

/// The seeds of a founding's index keys, independent of one another, the founding year's first. Zeroed on drop.
#[derive(Clone)]
pub struct YearSeeds(Zeroizing<Vec<u8>>);

impl YearSeeds {
    const BYTES: usize = INDEX_YEARS * 32;

    pub fn draw(rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = Zeroizing::new(vec![0; Self::BYTES]);
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    fn from_bytes(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() == Self::BYTES).then_some(Self(bytes))
    }
}

/// The index keys of all years. Zeroed on drop, never printed.
#[derive(Clone)]
pub struct OprfKeys {
    founding_year: u16,
    keys: Vec<VoprfServer<Ristretto255>>,
}

impl OprfKeys {
    /// Each from 32 bytes of a source of randomness (RFC 9497 `DeriveKeyPair`).
    pub fn from_seeds(founding_year: u16, seeds: &YearSeeds) -> Self {
        let key =
            |seed: &[u8]| VoprfServer::new_from_seed(seed, KEY_INFO).expect("a seed of 32 bytes always gives a key");
        Self { founding_year, keys: seeds.0.chunks(32).map(key).collect() }
    }

    pub fn public(&self) -> Vec<[u8; 32]> {
        self.keys.iter().map(|key| Ristretto255::serialize_elem(key.get_public_key()).into()).collect()
    }

    fn of(&self, year: u16) -> Option<&VoprfServer<Ristretto255>> {
        self.keys.get(usize::from(year.checked_sub(self.founding_year)?))
    }
}

impl Evaluator for OprfKeys {
    fn evaluate(
        &self,
        request: &BlindRequest,
        this_year: u16,
        rng: &mut dyn CryptoRng,
    ) -> Result<BlindReply, BlindError> {
        let got = request.elements();
        if got == 0 || got > BLIND_BATCH_MAX {
            return Err(BlindError::Batch { got });
        }
        let (mut years, mut begin) = (Vec::with_capacity(request.years.len()), 0);
        for BlindYear { year, elements } in &request.years {
            let key = self.of(*year).filter(|_| *year <= this_year).ok_or(BlindError::NoSuchYear(*year))?;
            years.push(evaluate_year(key, elements, begin, rng)?);
            begin += elements.len();
        }
        Ok(BlindReply { version: VERSION, suite: request.suite, years })
    }
}

fn evaluate_year(
    key: &VoprfServer<Ristretto255>,
    elements: &[[u8; 32]],
    begin: usize,
    mut rng: &mut dyn CryptoRng,
) -> Result<EvaluatedYear, BlindError> {
    let blinded = elements.iter().enumerate().map(|(position, bytes)| {
        BlindedElement::<Ristretto255>::deserialize(bytes).map_err(|_| BlindError::Element(begin + position))
    });
    let blinded = blinded.collect::<Result<Vec<_>, _>>()?;
    let evaluated =
        key.batch_blind_evaluate(&mut rng, &blinded).map_err(|_| BlindError::Batch { got: elements.len() })?;
    let proof: [u8; 64] = evaluated.proof.serialize().into();
    let (challenge, response) = proof.split_at(32);
    let half = |bytes: &[u8]| bytes.try_into().expect("half of 64 bytes");
    Ok(EvaluatedYear {
        elements: evaluated.messages.iter().map(|element| element.serialize().into()).collect(),
        proof: [half(challenge), half(response)],
    })
}

impl fmt::Debug for OprfKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("index keys (secret)")
    }
}

/// Founding: the parameters of the index, and the keys sealed to each core node.
pub fn found_oprf(
    founding_year: u16,
    seeds: &YearSeeds,
    budget: OprfBudget,
    core: &[(NodeId, PublicKey)],
    rng: &mut dyn CryptoRng,
) -> Result<(OprfParameters, Vec<OprfShare>), EnvelopeError> {
    let public_keys = OprfKeys::from_seeds(founding_year, seeds).public();
    let parameters = OprfParameters { suite: OprfSuite::Ristretto255Sha512, threshold: 1, public_keys, budget };
    let mut shares = Vec::with_capacity(core.len());
    for (node, sealing) in core {
        let share = seal_to(sealing, Envelope::OprfShare, &node_bytes(node), &seeds.0, rng)?;
        shares.push(OprfShare { node: *node, share });
    }
    shares.sort_by_key(|share| share.node);
    Ok((parameters, shares))
}

/// A core node's own share, checked against the founding's public keys.
pub fn own_share(genesis: &DomainGenesis, node: &NodeId, sealing: &SealingKey) -> Result<OprfKeys, BlindError> {
    let share = genesis.oprf_shares.iter().find(|share| share.node == *node).ok_or(BlindError::NoShare)?;
    let seeds =
        open_sealed(sealing, Envelope::OprfShare, &node_bytes(node), &share.share).map_err(BlindError::Share)?;
    let seeds = YearSeeds::from_bytes(seeds).ok_or(BlindError::Parameters("a share's length"))?;
    let keys = OprfKeys::from_seeds(genesis.founding_year, &seeds);
    if keys.public() != genesis.oprf.public_keys {
        return Err(BlindError::Parameters("the share does not fit the index's public keys"));
    }
    Ok(keys)
}

fn node_bytes(node: &NodeId) -> Vec<u8> {
    let mut bytes = vec![node.hash().algorithm().into()];
    bytes.extend_from_slice(node.hash().as_bytes());
    bytes
}

#[cfg(test)]
#[path = "oprf_tests.rs"]
mod tests;
