//! What a holder's session is told, what it asks to be done, and what it may read: the types between
//! [`HolderSession`](super::HolderSession) and whoever drives it. Inputs answer outputs as each output says.
//! Not here: the session, which alone decides what follows from what.

use tessera_consensus::keys::{PublicKey, SigningKey};
use tessera_consensus::{FederationId, Hash, LedgerSize, NodeId, SiteId, UnixMillis};

use super::FrameToRequester;
use super::frame::{Frame, FrameError};
use super::groups::GroupHash;
use super::wire::v1::{Reading, RefusalCode, RetrievalRequest, Seen, SignedReceipt, SignedRequest, StopCode, ToHolder};
use crate::ids::DisclosureId;
use crate::wire::v1::Manifest;

/// What the ledger knows of an active node that asks.
#[derive(Clone, Debug)]
pub struct RequesterRecord {
    pub command_key: PublicKey,
    pub sites: Vec<SiteId>,
}

/// What the holder may read of its own node.
pub trait HolderView {
    /// The record of an *active* node; `None` for all others.
    fn requester(&self, node: &NodeId) -> Option<RequesterRecord>;
    /// The newest certified checkpoint that this node has applied.
    fn certified(&self) -> Option<Seen>;
    /// The root of this node's ledger at a size that it has reached.
    fn root_at(&self, size: LedgerSize) -> Option<Hash>;
    /// Whether trusted time can be told at all (DESIGN section 7).
    fn clock_is_trusted(&self) -> bool;
    /// How old the certified state may be for this request: by purpose, or by standing contract.
    fn freshness_limit_ms(&self, request: &RetrievalRequest) -> u64;
}

/// Who this holder is.
#[derive(Clone, Debug)]
pub struct Identity {
    pub federation: FederationId,
    pub node: NodeId,
    /// The sites that it speaks for.
    pub sites: Vec<SiteId>,
    pub command_key: SigningKey,
}

/// How old the knowledge is on which a decision rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    pub age_ms: u64,
    pub limit_ms: u64,
}

impl Freshness {
    pub const fn is_fresh(&self) -> bool {
        self.age_ms <= self.limit_ms
    }
}

/// Why a decision is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A new session: a first request or a resumption.
    Opening,
    /// Rules or consents that may concern the running transfer changed.
    StateChanged,
    /// The earlier ruling reached its end.
    RulingExpired,
}

/// What a decision rests on. The driver adds the record, the consents and the rules.
#[derive(Clone, Debug)]
pub struct Facts {
    pub request: RetrievalRequest,
    pub stage: Stage,
    pub now: UnixMillis,
    pub certified: Seen,
    pub freshness: Freshness,
}

/// The study and how long the yes holds.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub manifest: Manifest,
    pub salt: [u8; 16],
    /// Where this holder reads objects otherwise than they declare.
    pub readings: Vec<Reading>,
    /// When it must be decided again at the latest, apart from the freshness limit.
    pub until: Option<UnixMillis>,
}

/// The outcome of a decision.
#[derive(Clone, Debug)]
pub enum Ruling {
    Allow(Box<Allowed>),
    Deny { code: RefusalCode, reasons: Vec<String> },
}

/// What must be written down, durably, before the first byte.
#[derive(Clone, Debug)]
pub struct NewDisclosure {
    pub facts: Facts,
    /// The request as signed: the evidence of who asked, and for what.
    pub signed: SignedRequest,
    pub objects: u32,
    pub bytes: u64,
}

/// What the driver tells the session.
#[derive(Debug)]
pub enum HolderInput {
    Received(Frame<ToHolder>),
    /// The peer sent what is no message of the protocol.
    Garbage(FrameError),
    /// The certified state moved; `concerns` says whether rules, consents or records changed that may matter here.
    StateChanged {
        concerns: bool,
    },
    Decided(Ruling),
    /// The disclosure is on disk under this name.
    DisclosureDurable(DisclosureId),
    DisclosureFailed,
    /// This holder's receipt is on disk, on its way to the ledger.
    ReceiptDurable,
    ReceiptFailed,
    /// `None`: damaged or missing.
    HashesRead {
        object: u32,
        hashes: Option<Vec<GroupHash>>,
    },
    /// `None`: damaged or missing.
    GroupRead {
        object: u32,
        group: u32,
        bytes: Option<Vec<u8>>,
    },
    /// A data frame has left for the transport, and its memory is free.
    DataSent,
    Tick,
    /// The stream ended.
    Closed,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both receipts. The holder's is durable and on its way to the ledger; the requester anchors its own.
    Finished {
        requester: Box<SignedReceipt>,
        holder: Box<SignedReceipt>,
    },
    Refused {
        code: RefusalCode,
        reasons: Vec<String>,
    },
    /// The requester gave up and said why.
    Stopped(StopCode),
    /// The stream broke or lay idle; the requester may resume.
    Broken,
    /// The peer broke the protocol.
    Breach(&'static str),
    /// What the peer sent is no message of the protocol.
    Garbage(FrameError),
}

/// What the driver must do, in this order.
#[derive(Debug)]
pub enum HolderOutput {
    Send(FrameToRequester),
    /// A new ruling is awaited: what was handed out and is not yet on the wire waits for it.
    Hold,
    /// The ruling allows it: what was held goes on.
    Resume,
    /// The ruling is against it: what was handed out and is not yet on the wire must not go any more, held or not.
    DiscardUnsent,
    /// Try to apply the ledger up to this checkpoint; a note came from the requester.
    CatchUp {
        seen: Seen,
        note: Option<String>,
    },
    /// Answer with [`HolderInput::Decided`].
    Decide(Box<Facts>),
    /// Answer with [`HolderInput::DisclosureDurable`] only when it is on disk.
    WriteDisclosure(Box<NewDisclosure>),
    /// Answer with [`HolderInput::ReceiptDurable`] only when it is on disk.
    WriteReceipt(Box<SignedReceipt>),
    ReadHashes {
        object: u32,
        hash: Hash,
        size: u64,
    },
    ReadGroup {
        object: u32,
        group: u32,
        hash: Hash,
        size: u64,
    },
    /// The last output. Close the stream once all frames are sent.
    End(Box<Outcome>),
}
