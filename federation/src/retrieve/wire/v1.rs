//! Version 1 of the retrieval messages (DESIGN section 7): request, refusal, offer, wants, receipts.
//!
//! The holder speaks first and names a challenge; the request signs it together with both parties, so that a
//! request counts in one session at one holder and nowhere else. Objects are named by their place in the manifest,
//! whose hash the ledger commits to; the requester pulls, so the holder never learns what the other side has.
//!
//! Invariants: what is signed carries the federation and the format version; every list and text has a bound that
//! [`SignedRequest::validate`] and its kin check before anything else looks at the value.

use std::fmt;

use serde::{Deserialize, Serialize};
use tessera_consensus::keys::{Context, KeyError, PublicKey, Signature, SigningKey};
use tessera_consensus::wire::bounded::at_most;
use tessera_consensus::wire::{DecodeError, encode};
use tessera_consensus::{FederationId, Hash, LedgerSize, NodeId, SiteId, UnixMillis};
use tessera_policy::{ConsentId, Purpose, Uid, UserAssertion};

use crate::ids::{ContractId, DisclosureId, RecordId};

/// The version that stands first in every signed encoding of this module.
pub const VERSION: u8 = 1;
/// Consents that one request may name.
pub const CONSENTS_MAX: usize = 64;
/// The reason that break-glass asks for, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;
/// An encounter, order or consultation as the requester's site numbers it, in bytes.
pub const ENCOUNTER_BYTES_MAX: usize = 64;
/// Reasons of one refusal, and the bytes of each.
pub const REFUSAL_REASONS_MAX: usize = 16;
/// The certified checkpoint's note that may come with a request.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Readings of one offer; a study comes from one device or two, and what is beyond is read by its bytes.
pub const READINGS_MAX: usize = 256;
/// Bytes of a reading's character sets.
pub const CHARACTER_SET_BYTES_MAX: usize = 128;
/// Runs of groups in one [`ToHolder::Want`].
pub const WANTS_MAX: usize = 256;

/// A retrieval's random name, the same through all its resumptions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RetrievalId([u8; 16]);

/// Random bytes with which a holder opens a session. A request that signs them was made for this session.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge([u8; 32]);

macro_rules! random_name {
    ($name:ident, $length:literal) => {
        impl $name {
            /// From random bytes, which the caller draws.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}
random_name!(RetrievalId, 16);
random_name!(Challenge, 32);

/// The certified checkpoint whose state a node has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub size: LedgerSize,
    pub root: Hash,
    pub time: UnixMillis,
}

/// How a break-glass request was confirmed at the requester's site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Confirmation {
    /// The user's own second factor.
    SecondFactor,
    /// Another person.
    SecondPerson(UserAssertion),
}

/// The door beside the rules: named person (the request's user), reason, confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlass {
    pub reason: String,
    pub confirmation: Confirmation,
}

/// On what the requester rests its request. The holder judges; this is where it should look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Basis {
    #[serde(deserialize_with = "at_most::<_, _, CONSENTS_MAX>")]
    pub consents: Vec<ConsentId>,
    /// A standing contract in the ledger.
    pub contract: Option<ContractId>,
    /// Encounter, order or consultation, as the requester's site numbers it.
    pub encounter: Option<String>,
}

/// Which examination, in which version: `commitment` is the ledger's H(salt ‖ manifest).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyRef {
    pub site: SiteId,
    pub record: RecordId,
    pub revision: u32,
    pub study_uid: Uid,
    pub commitment: Hash,
}

/// May this user of this site see this examination for this purpose?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrievalRequest {
    pub version: u8,
    pub id: RetrievalId,
    pub federation: FederationId,
    pub challenge: Challenge,
    pub requester: NodeId,
    pub requester_site: SiteId,
    pub holder: NodeId,
    pub user: UserAssertion,
    pub study: StudyRef,
    pub purpose: Purpose,
    pub basis: Basis,
    pub break_glass: Option<BreakGlass>,
    /// By the requester's clock; for the record, not for any decision.
    pub created: UnixMillis,
    /// What the requester has applied: the holder must not decide on an older state.
    pub seen: Seen,
}

/// A request with the requester's command key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRequest {
    pub request: RetrievalRequest,
    pub signature: Signature,
}

fn tagged<T: Serialize>(tag: &[u8], value: &T) -> Vec<u8> {
    let mut bytes = tag.to_vec();
    bytes.extend_from_slice(&encode(value));
    bytes
}

const TAG_REQUEST: &[u8] = b"retrieval\0";
const TAG_REFUSAL: &[u8] = b"refusal\0";
const TAG_RECEIPT: &[u8] = b"receipt\0";

fn invalid<T>(what: &'static str, why: &'static str) -> Result<T, DecodeError> {
    Err(DecodeError::Invalid { what, why })
}

fn check_version(what: &'static str, got: u8) -> Result<(), DecodeError> {
    if got == VERSION { Ok(()) } else { Err(DecodeError::UnknownVersion { what, got }) }
}

impl RetrievalRequest {
    pub fn sign(self, key: &SigningKey) -> SignedRequest {
        let signature = key.sign(&Context::Request(self.federation), &tagged(TAG_REQUEST, &self));
        SignedRequest { request: self, signature }
    }
}

impl SignedRequest {
    /// The bounds of its lists and texts.
    pub fn validate(&self) -> Result<(), DecodeError> {
        let request = &self.request;
        let what = "retrieval request";
        check_version(what, request.version)?;
        if request.basis.consents.len() > CONSENTS_MAX {
            return invalid(what, "it names more than 64 consents");
        }
        if request.basis.encounter.as_ref().is_some_and(|text| text.len() > ENCOUNTER_BYTES_MAX) {
            return invalid(what, "the encounter has more than 64 bytes");
        }
        match &request.break_glass {
            Some(glass) if glass.reason.trim().is_empty() => invalid(what, "break-glass needs a reason in words"),
            Some(glass) if glass.reason.len() > REASON_BYTES_MAX => {
                invalid(what, "the reason has more than 1024 bytes")
            }
            _ => Ok(()),
        }
    }

    pub fn verify(&self, key: &PublicKey) -> Result<(), KeyError> {
        let context = Context::Request(self.request.federation);
        key.verify(&context, &tagged(TAG_REQUEST, &self.request), &self.signature)
    }
}

/// Why a holder refuses or stops. Numbers are added, never changed; an unknown one is still a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalCode(pub u16);

impl RefusalCode {
    pub const NOT_A_MEMBER: Self = Self(1);
    pub const BAD_SIGNATURE: Self = Self(2);
    pub const OTHER_SESSION: Self = Self(3);
    pub const WRONG_PARTY: Self = Self(4);
    pub const BEHIND: Self = Self(5);
    pub const OTHER_HISTORY: Self = Self(6);
    pub const STALE: Self = Self(7);
    pub const CLOCK: Self = Self(8);
    pub const DENIED: Self = Self(9);
    pub const NOT_HERE: Self = Self(10);
    pub const BUSY: Self = Self(11);
    pub const HOLDER_FAULT: Self = Self(12);
    pub const MALFORMED: Self = Self(13);

    /// What happened and what may help, for people.
    pub const fn advice(self) -> &'static str {
        match self.0 {
            1 => "the requesting node is no active member of the federation",
            2 => "the request was not signed by the requesting node's command key",
            3 => "the request was made for another session; ask again",
            4 => "the request speaks for a node or site that did not send it",
            5 => "the holder has not yet reached the ledger that the requester has seen; ask again shortly",
            6 => "holder and requester have seen different ledgers; tell the operators of both",
            7 => {
                "the holder is cut off from the core and its knowledge is too old to decide; ask again when it is back"
            }
            8 => "the holder's clock cannot be trusted until it hears from the core",
            9 => "the rules or the patient's consent do not allow it",
            10 => "the holder has no such examination in this version",
            11 => "the holder serves as many retrievals as it can; ask again shortly",
            12 => "the holder could not record the disclosure; its operator must look",
            13 => "the holder could not read the request; one of the two nodes needs an upgrade",
            _ => "refused for a reason that this version does not know; upgrade this node",
        }
    }

    /// In how many seconds asking the same again may succeed without anyone's doing; `None`: not by itself. The
    /// holder has already waited ([`super::super::CATCH_UP_TIMEOUT_MS`]) for what it lacked, so nobody need ask
    /// sooner.
    pub const fn passes_in_s(self) -> Option<u32> {
        match self.0 {
            3 => Some(1),
            11 => Some(5),
            // A follower that is behind is so by seconds.
            5 => Some(10),
            // Until a line is mended.
            7 | 8 => Some(60),
            _ => None,
        }
    }
}

/// The holder's no, before or during a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub version: u8,
    pub federation: FederationId,
    pub holder: NodeId,
    pub requester: NodeId,
    pub challenge: Challenge,
    /// Absent when no readable request came.
    pub retrieval: Option<RetrievalId>,
    pub code: RefusalCode,
    #[serde(deserialize_with = "at_most::<_, _, REFUSAL_REASONS_MAX>")]
    pub reasons: Vec<String>,
    pub time: UnixMillis,
    /// The holder's certified state on which it refused.
    pub seen: Option<Seen>,
}

/// A refusal with the holder's command key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRefusal {
    pub refusal: Refusal,
    pub signature: Signature,
}

impl Refusal {
    pub fn sign(self, key: &SigningKey) -> SignedRefusal {
        let signature = key.sign(&Context::Receipt(self.federation), &tagged(TAG_REFUSAL, &self));
        SignedRefusal { refusal: self, signature }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.advice())?;
        if !self.reasons.is_empty() {
            write!(f, ": {}", self.reasons.join("; "))?;
        }
        Ok(())
    }
}

impl SignedRefusal {
    pub fn validate(&self) -> Result<(), DecodeError> {
        check_version("refusal", self.refusal.version)?;
        let reasons = &self.refusal.reasons;
        if reasons.len() > REFUSAL_REASONS_MAX || reasons.iter().any(|r| r.len() > REASON_BYTES_MAX) {
            return invalid("refusal", "it has more than 16 reasons, or one of more than 1024 bytes");
        }
        Ok(())
    }

    pub fn verify(&self, key: &PublicKey) -> Result<(), KeyError> {
        let context = Context::Receipt(self.refusal.federation);
        key.verify(&context, &tagged(TAG_REFUSAL, &self.refusal), &self.signature)
    }
}

/// Which party made a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Party {
    Requester,
    Holder,
}

/// One party's word on what was handed over. Both are anchored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub version: u8,
    pub federation: FederationId,
    pub retrieval: RetrievalId,
    pub disclosure: DisclosureId,
    pub by: Party,
    pub requester: NodeId,
    pub holder: NodeId,
    pub commitment: Hash,
    /// Objects of the manifest that the requester says it now holds, verified and durable.
    pub objects: u32,
    /// [`transcript`] of those objects.
    pub transcript: Hash,
    /// Bytes of object data that travelled in this session, as this party counted them.
    pub bytes: u64,
    /// Whether the requester holds all that it wanted.
    pub complete: bool,
    pub time: UnixMillis,
}

/// The hash over objects' hashes, in the order of the manifest.
pub fn transcript(objects: impl Iterator<Item = Hash>) -> Hash {
    let mut bytes = b"tessera/v1/transcript\0".to_vec();
    objects.for_each(|hash| bytes.extend_from_slice(&encode(&hash)));
    Hash::blake3(&[&bytes])
}

/// A receipt with its party's command key's signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedReceipt {
    pub receipt: Receipt,
    pub signature: Signature,
}

impl Receipt {
    pub fn sign(self, key: &SigningKey) -> SignedReceipt {
        let signature = key.sign(&Context::Receipt(self.federation), &tagged(TAG_RECEIPT, &self));
        SignedReceipt { receipt: self, signature }
    }
}

impl SignedReceipt {
    /// What the ledger says of it. The retrieval's random id, which only the two parties know, hides the rest.
    pub fn commitment(&self) -> Hash {
        Hash::blake3(&[b"tessera/v1/receipt-commitment\0", &encode(self)])
    }

    pub fn verify(&self, key: &PublicKey) -> Result<(), KeyError> {
        check_version("receipt", self.receipt.version).map_err(|_| KeyError::BadSignature)?;
        let context = Context::Receipt(self.receipt.federation);
        key.verify(&context, &tagged(TAG_RECEIPT, &self.receipt), &self.signature)
    }
}

/// In which character set the holder reads the text of some neighbouring objects of the manifest, although they may
/// declare another: its operator has set this for the device that sent them. A hint for whoever shows a name: it is
/// not signed, stands in no manifest, and changes no byte (P8). A reader that does not know the set goes by the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Place of the first object.
    pub first: u32,
    pub count: u32,
    /// Defined terms of Specific Character Set (0008,0005), separated by backslashes: `GBK`.
    pub character_set: String,
}

impl Reading {
    pub fn covers(&self, object: u32) -> bool {
        object.checked_sub(self.first).is_some_and(|place| place < self.count)
    }

    /// The bounds of an offer's readings.
    pub fn validate(readings: &[Self]) -> Result<(), DecodeError> {
        let long = |reading: &Self| reading.character_set.len() > CHARACTER_SET_BYTES_MAX;
        if readings.len() > READINGS_MAX || readings.iter().any(long) {
            return invalid("offer", "it has more than 256 readings, or one of more than 128 bytes");
        }
        Ok(())
    }
}

/// A run of groups of one object, by its place in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    pub object: u32,
    /// Send the object's group hashes first.
    pub hashes: bool,
    pub first: u32,
    pub count: u32,
}

/// Why the holder cannot send an object that its manifest lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnavailableCode(pub u16);

impl UnavailableCode {
    /// Declared on another archive's word and not yet read from there.
    pub const NOT_PINNED: Self = Self(1);
    /// Damaged or lost at the holder.
    pub const DAMAGED: Self = Self(2);
    /// Larger than objects that are transferred may be.
    pub const TOO_LARGE: Self = Self(3);

    pub const fn advice(self) -> &'static str {
        match self.0 {
            1 => "declared by an archive behind the holder and not yet read from it",
            2 => "damaged or lost at the holder; its operator must look",
            3 => "larger than this version transfers",
            _ => "not available for a reason that this version does not know",
        }
    }
}

/// Why a requester gives up a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopCode(pub u16);

impl StopCode {
    pub const NO_LONGER_WANTED: Self = Self(1);
    pub const WRONG_BYTES: Self = Self(2);
    pub const OUT_OF_SPACE: Self = Self(3);
}

/// What a holder says. The order of variants is the wire order: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToRequester {
    /// First of all.
    Hello {
        version: u8,
        challenge: Challenge,
    },
    Refused(Box<SignedRefusal>),
    /// The disclosure is on disk; here is the manifest that the ledger commits to.
    Offer {
        disclosure: DisclosureId,
        #[serde(with = "serde_bytes")]
        manifest: Vec<u8>,
        salt: [u8; 16],
    },
    /// The BLAKE3 chaining values of an object's groups, 32 bytes each.
    Hashes {
        object: u32,
        #[serde(with = "serde_bytes")]
        hashes: Vec<u8>,
    },
    Unavailable {
        object: u32,
        code: UnavailableCode,
    },
    /// The holder's receipt, in answer to the requester's.
    Receipt(Box<SignedReceipt>),
    /// In place of [`Self::Offer`] where the holder reads some objects otherwise than they declare.
    OfferWithReadings {
        disclosure: DisclosureId,
        #[serde(with = "serde_bytes")]
        manifest: Vec<u8>,
        salt: [u8; 16],
        readings: Vec<Reading>,
    },
}

/// What a requester says. The order of variants is the wire order: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHolder {
    Request {
        signed: Box<SignedRequest>,
        /// The certified checkpoint of `seen` as a C2SP note, from which a holder that is behind learns of it.
        note: Option<String>,
    },
    Want(#[serde(deserialize_with = "at_most::<_, _, WANTS_MAX>")] Vec<Want>),
    Done(Box<SignedReceipt>),
    Stop {
        code: StopCode,
    },
}
