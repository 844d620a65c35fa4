//! The domain's part of a federation's founding: parameters of the blind index, the founding year, the first rule
//! base, the freshness limit. It travels inside [`tessera_consensus::wire::v1::Genesis`], whose hash covers it.
//! Not for the membership, which founds the ledger itself.

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, NodeId};

use super::blind::OprfSuite;
use super::check_version;
use super::sealing::HpkeSealed;
use crate::wire::{DecodeError, Format};

/// Default of [`DomainGenesis::freshness_limit_ms`].
pub const FRESHNESS_LIMIT_MS: u64 = 600_000;
/// Shares of the key: one for each core node at most.
const SHARES_MAX: usize = 16;
/// Years for which a founding makes keys of the index, from its own year on.
pub const INDEX_YEARS: usize = 32;
/// Bytes of a rule base's name.
const NAME_BYTES_MAX: usize = 128;

/// How many elements a node may have evaluated in a day, so that nobody tests identities in bulk (P7). Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OprfBudget {
    /// What every node has.
    pub elements_per_day: u32,
    /// What each study that the node registers in a day adds.
    pub elements_per_registration: u32,
    /// What registrations add in a day at most: nobody can tell a real study from an empty one.
    pub earned_elements_max: u32,
}

impl Default for OprfBudget {
    fn default() -> Self {
        Self { elements_per_day: 2_000, elements_per_registration: 3, earned_elements_max: 6_000 }
    }
}

/// The blind index's function and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OprfParameters {
    pub suite: OprfSuite,
    /// Answers that a key needs. Version 1 knows 1: each core node holds the whole key.
    pub threshold: u8,
    /// What proofs are checked against: the key of the founding year, and those of the years after it. They are
    /// independent of one another, so that a year's can be destroyed when its records have expired.
    pub public_keys: Vec<[u8; 32]>,
    pub budget: OprfBudget,
}

/// A core node's shares of the keys, 32 bytes a year in the order of [`OprfParameters::public_keys`], sealed to its
/// sealing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OprfShare {
    pub node: NodeId,
    pub share: HpkeSealed,
}

/// The rule base that is in force at the founding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleBaseReference {
    /// At most 128 bytes, for people.
    pub name: String,
    pub hash: Hash,
}

/// The domain's founding parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainGenesis {
    pub version: u8,
    pub oprf: OprfParameters,
    /// Sorted by node, none twice.
    pub oprf_shares: Vec<OprfShare>,
    /// The first year for which there are identifier keys; a whole history asks from here.
    pub founding_year: u16,
    pub rule_base: Option<RuleBaseReference>,
    /// How old the newest certified checkpoint may be for an ordinary decision.
    pub freshness_limit_ms: u64,
}

impl DomainGenesis {
    /// The public key of the index for a year.
    pub fn index_key(&self, year: u16) -> Option<&[u8; 32]> {
        self.oprf.public_keys.get(usize::from(year.checked_sub(self.founding_year)?))
    }
}

impl Format for DomainGenesis {
    const WHAT: &'static str = "domain genesis";
    const BYTES_MAX: usize = 64 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.oprf.threshold != 1 {
            return Self::invalid("a threshold above 1 needs a newer version of this program");
        }
        if self.oprf.public_keys.len() != INDEX_YEARS {
            return Self::invalid("a founding makes the index keys of 32 years");
        }
        if self.oprf_shares.is_empty() || self.oprf_shares.len() > SHARES_MAX {
            return Self::invalid("1 to 16 shares of the index key");
        }
        if !self.oprf_shares.is_sorted_by(|a, b| a.node < b.node) {
            return Self::invalid("shares are sorted by node, none twice");
        }
        self.oprf_shares.iter().try_for_each(|share| share.share.validate())?;
        if !(2000..=9999).contains(&self.founding_year) {
            return Self::invalid("the founding year has four digits, from 2000");
        }
        if self.freshness_limit_ms == 0 {
            return Self::invalid("the freshness limit is above zero");
        }
        match &self.rule_base {
            Some(rules) if rules.name.len() > NAME_BYTES_MAX => {
                Self::invalid("a rule base's name has at most 128 bytes")
            }
            _ => Ok(()),
        }
    }
}
