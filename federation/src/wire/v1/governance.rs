//! What the alliance agrees on besides patients: rule bases, contracts, experts, consultations, audit anchors,
//! erasures. Their formats are fixed here so that they have a place in the ledger; most of their behaviour comes
//! later, and until then the machine's table says which of them it keeps and which it rejects.

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, SiteId, UnixMillis};

use super::check_version;
use super::sealing::Tag;
use crate::ids::{ConsultationId, ContractId, ExpertId};
use crate::wire::{DecodeError, Format};

/// Parties of one contract.
const PARTIES_MAX: usize = 64;
/// Ranked specialty keywords of one expert (R-E2).
const KEYWORDS_MAX: usize = 3;

/// A version of the rules of one level. The rules themselves lie beside the log, in clear, named by their hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleBasePublic {
    pub version: u8,
    /// Number of the level: national, provincial, federation, site.
    pub level: u16,
    /// The site, at the level of sites.
    pub site: Option<SiteId>,
    /// Counts the versions of this level from 1.
    pub number: u32,
    /// Number of the format that the body is written in.
    pub format: u16,
}

impl Format for RuleBasePublic {
    const WHAT: &'static str = "rule base";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

/// A standing contract: what its parties may go on with while they are cut off from the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractPublic {
    pub version: u8,
    pub contract: ContractId,
    /// Sorted, none twice, 2 to 64.
    pub parties: Vec<SiteId>,
    pub not_before: UnixMillis,
    pub not_after: UnixMillis,
    /// How old the newest certified checkpoint may be between the parties.
    pub freshness_limit_ms: u64,
}

impl Format for ContractPublic {
    const WHAT: &'static str = "contract";
    const BYTES_MAX: usize = 4 * 1024;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if !(2..=PARTIES_MAX).contains(&self.parties.len()) || !self.parties.is_sorted_by(|a, b| a < b) {
            return Self::invalid("a contract has 2 to 64 parties, sorted and none twice");
        }
        if self.not_before > self.not_after {
            return Self::invalid("the contract ends before it begins");
        }
        Ok(())
    }
}

/// An expert's entry in the roster. Name and title lie in the body beside the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpertPublic {
    pub version: u8,
    pub expert: ExpertId,
    pub site: SiteId,
    /// Numbers from the federation's catalogue, most fitting first.
    pub keywords: Vec<u16>,
    pub active: bool,
}

impl Format for ExpertPublic {
    const WHAT: &'static str = "expert";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.keywords.len() > KEYWORDS_MAX { Self::invalid("an expert has at most 3 keywords") } else { Ok(()) }
    }
}

/// A step of a consultation: routing data and hashes only. The case itself travels sealed from node to node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsultationPublic {
    pub version: u8,
    pub consultation: ConsultationId,
    /// Number of the step.
    pub step: u16,
    pub requester: SiteId,
    pub provider: Option<SiteId>,
    pub deadline: Option<UnixMillis>,
    /// Hash of the documents that the step speaks of.
    pub documents: Option<Hash>,
}

impl Format for ConsultationPublic {
    const WHAT: &'static str = "consultation";
    const BYTES_MAX: usize = 512;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}

/// The head of a site's local audit chain at the end of a period (`from` inclusive, `until` exclusive).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchorPublic {
    pub version: u8,
    pub site: SiteId,
    pub from: UnixMillis,
    pub until: UnixMillis,
    /// Records of the period.
    pub records: u64,
    pub head: Hash,
}

impl Format for AuditAnchorPublic {
    const WHAT: &'static str = "audit anchor";
    const BYTES_MAX: usize = 256;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if self.from >= self.until { Self::invalid("the period is empty") } else { Ok(()) }
    }
}

/// The record with this tag has reached its end: its sealed body is erased everywhere, its leaf and its tag stay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasurePublic {
    pub version: u8,
    pub tag: Tag,
    /// Number of the reason.
    pub reason: u16,
}

impl Format for ErasurePublic {
    const WHAT: &'static str = "erasure";
    const BYTES_MAX: usize = 128;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)
    }
}
