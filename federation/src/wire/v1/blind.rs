//! Messages of the blind evaluation (RFC 9497, verifiable mode): what a site asks of a core node and what it gets.
//! Elements and scalars are the suite's own encodings; whether they are valid is found out in [`crate::blind`].
//! Not for the evaluation itself: these are the bytes that travel.

use serde::{Deserialize, Serialize};
use tessera_consensus::UnixMillis;

use super::{algorithms, check_version};
use crate::wire::{DecodeError, Format};

/// Elements of one request: a person's identifiers times the years that are asked for.
pub const BLIND_BATCH_MAX: usize = 64;
/// Bytes of a message without its elements and proofs.
const OVERHEAD_BYTES_MAX: usize = 8 + 4 * BLIND_BATCH_MAX;

algorithms! {
    /// The function that turns identifiers into keys.
    pub enum OprfSuite ("OPRF suite") {
        /// ristretto255-SHA512, verifiable mode, RFC 9497.
        Ristretto255Sha512 = 1,
    }
}

/// Blinded inputs for the key of one year. To the evaluator they are random; the year is not hidden, so that nobody gets
/// the keys of years to come, and so that each year's asking is counted in its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindYear {
    pub year: u16,
    pub elements: Vec<[u8; 32]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindRequest {
    pub version: u8,
    pub suite: OprfSuite,
    /// Ascending, none twice; 1 to 64 elements in all.
    pub years: Vec<BlindYear>,
}

impl BlindRequest {
    pub fn elements(&self) -> usize {
        self.years.iter().map(|year| year.elements.len()).sum()
    }
}

impl Format for BlindRequest {
    const WHAT: &'static str = "blind request";
    const BYTES_MAX: usize = OVERHEAD_BYTES_MAX + BLIND_BATCH_MAX * 32;

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        if !self.years.is_sorted_by(|a, b| a.year < b.year) || self.years.iter().any(|year| year.elements.is_empty()) {
            return Self::invalid("years ascend, none twice and none without an element");
        }
        match self.elements() {
            1..=BLIND_BATCH_MAX => Ok(()),
            _ => Self::invalid("a request has 1 to 64 elements"),
        }
    }
}

/// Evaluated elements in the order of the request, with one proof for all that the year's key made them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvaluatedYear {
    pub elements: Vec<[u8; 32]>,
    /// The two scalars of the proof.
    pub proof: [[u8; 32]; 2],
}

/// One part for each year of the request, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlindReply {
    pub version: u8,
    pub suite: OprfSuite,
    pub years: Vec<EvaluatedYear>,
}

impl Format for BlindReply {
    const WHAT: &'static str = "blind reply";
    const BYTES_MAX: usize = OVERHEAD_BYTES_MAX + BLIND_BATCH_MAX * (32 + 64);

    fn validate(&self) -> Result<(), DecodeError> {
        check_version(Self::WHAT, self.version)?;
        match self.years.iter().map(|year| year.elements.len()).sum() {
            1..=BLIND_BATCH_MAX => Ok(()),
            _ => Self::invalid("a reply has 1 to 64 elements"),
        }
    }
}

/// Why an evaluator did not answer the question. The order of variants is the wire order: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlindRefusal {
    /// The asking node has used up its budget of the day.
    OverBudget { allowed: u64, used: u64, resets_at: UnixMillis },
    /// The request is not of this suite, or an element of it is invalid.
    Malformed,
    /// This node has no share of the key.
    NoShare,
    /// The asking node is an observer: a regulator counts, and looks nobody up.
    Observer,
    /// A year that has not begun, or for which the federation has no key.
    NoSuchYear { year: u16 },
}

/// What an evaluator answers. The order of variants is the wire order: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlindAnswer {
    Evaluated(BlindReply),
    Refused(BlindRefusal),
}

impl Format for BlindAnswer {
    const WHAT: &'static str = "blind answer";
    const BYTES_MAX: usize = 1 + BlindReply::BYTES_MAX;

    fn validate(&self) -> Result<(), DecodeError> {
        match self {
            Self::Evaluated(reply) => reply.validate(),
            Self::Refused(_) => Ok(()),
        }
    }
}
