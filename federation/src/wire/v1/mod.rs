//! Version 1 of the federation's formats.
//!
//! A command's *public* part is in clear in every replica: tags, random identifiers, the parties of a disclosure;
//! never a name, a number of a patient or a study UID. Its *sealed* body lies beside the log and is read only by
//! those whom it was sealed to. The machine reads public parts alone, because sealed bodies can be erased.
//!
//! Vocabulary that the machine does not act upon stands in public parts as a bare number: a node of an older
//! version keeps a number that it does not know, so that old and new machines stay in step. In sealed parts, which
//! no machine reads, the vocabulary of `tessera_policy` stands itself.

mod amendment;
mod blind;
mod consent;
mod disclosure;
mod genesis;
mod governance;
mod kinds;
mod link;
mod manifest;
mod sealing;
mod study;

pub use amendment::{
    AMENDMENT_OBJECTS_MAX, AmendmentChange, AmendmentDetails, AmendmentPublic, RejectedObjects, WITHDRAW,
};
pub use blind::{
    BLIND_BATCH_MAX, BlindAnswer, BlindRefusal, BlindReply, BlindRequest, BlindYear, EvaluatedYear, OprfSuite,
};
pub use consent::{ConsentDetails, ConsentPublic, EvidenceProof, RevocationPublic};
pub use disclosure::{
    BreakGlassDetails, BreakGlassPublic, DisclosureBasis, DisclosureDetails, DisclosurePublic,
    RecallAcknowledgementPublic, ReceiptPublic, ReceiptSide, RecognitionDetails, RecognitionPublic,
};
pub use genesis::{
    DomainGenesis, FRESHNESS_LIMIT_MS, INDEX_YEARS, OprfBudget, OprfParameters, OprfShare, RuleBaseReference,
};
pub use governance::{
    AuditAnchorPublic, ConsultationPublic, ContractPublic, ErasurePublic, ExpertPublic, RuleBasePublic,
};
pub use kinds::{
    AMENDMENT, AUDIT_ANCHOR, BREAK_GLASS, CONSENT, CONSULTATION, CONTRACT, DISCLOSURE, ERASURE, EXPERT, KINDS, LINK,
    RECALL_ACKNOWLEDGEMENT, RECEIPT, RECOGNITION, REVOCATION, RULE_BASE, STUDY, UNLINK, kind_name,
};
pub use link::{LinkDetails, LinkHalf, LinkPublic, LinkSealed, UnlinkPublic};
pub use manifest::{MANIFEST_OBJECTS_MAX, Manifest, ManifestObject, ObjectContent, ObjectStatus};
pub use sealing::{
    HPKE_SEALED_BYTES_MAX, HpkeSealed, HpkeSuite, SEALED_BODY_BYTES_MAX, SealAlgorithm, Sealed, Tag, TagAlgorithm,
};
pub use study::{Presence, REGULATORS_MAX, StudyDetails, StudyPublic, StudySealed, StudyShown, StudyStatistics};

use super::DecodeError;

/// The version that stands first in every encoding of this module.
pub const VERSION: u8 = 1;

fn check_version(what: &'static str, got: u8) -> Result<(), DecodeError> {
    if got == VERSION { Ok(()) } else { Err(DecodeError::UnknownVersion { what, got }) }
}

/// An enumeration of algorithms with frozen numbers; one that this version does not know is refused on reading.
macro_rules! algorithms {
    ($(#[$meta:meta])* pub enum $name:ident ($what:literal) { $($(#[$vmeta:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "u8", into = "u8")]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl From<$name> for u8 {
            fn from(value: $name) -> u8 {
                match value { $($name::$variant => $number,)+ }
            }
        }

        impl TryFrom<u8> for $name {
            type Error = $crate::wire::v1::UnknownNumber;
            fn try_from(number: u8) -> Result<Self, Self::Error> {
                match number {
                    $($number => Ok($name::$variant),)+
                    _ => Err($crate::wire::v1::UnknownNumber { what: $what, number }),
                }
            }
        }
    };
}
use algorithms;

/// A number that this version of the formats does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {number} is not known to this version; upgrade the node")]
pub struct UnknownNumber {
    pub what: &'static str,
    pub number: u8,
}
