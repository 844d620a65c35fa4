//! Retrieval: how an examination goes from its holder to a requester (DESIGN section 7, promises P4, P5 and P8).
//!
//! Two machines without input or output: [`HolderSession`] decides and sends, [`RequesterSession`] asks, checks and
//! keeps. `node` runs them over libp2p streams ([`crate::net`]), simnet over simulated ones. The course of a session:
//!
//! ```text
//! holder                                     requester
//!   Hello{challenge}                    ->
//!                                       <-   Request{signed over the challenge, purpose, checkpoint seen}
//!   (catch up, freshness, decide, disclosure on disk)
//!   Refused{signed, reasons}            ->   or
//!   Offer{manifest, salt, readings}     ->   (check against the ledger's commitment; what is here already?)
//!                                       <-   Want{runs of groups}      as many as the window holds
//!   Hashes, Data, Data, ...             ->   (each group checked before it is written)
//!                                       <-   Done{receipt}
//!   (receipt on disk)
//!   Receipt                             ->   (anchors its own; both receipts come into the ledger)
//! ```
//!
//! The requester pulls, so it skips what it has, resumes at any group, bounds what is in flight, and tells nobody
//! what it holds. The holder may stop at any moment: rules or consents changed, or its knowledge grew too old.

mod desk;
mod fetching;
pub mod frame;
pub mod groups;
mod holder;
mod port;
mod requester;
mod serving;
pub mod wire;

pub use desk::{Busy, Desk};
pub use holder::HolderSession;
pub use port::{
    Allowed, Facts, Freshness, HolderInput, HolderOutput, HolderView, Identity, NewDisclosure, Outcome,
    RequesterRecord, Ruling, Stage,
};
pub use requester::{
    Absent, Awaited, Failure, Have, Intent, ObjectPlace, RequesterInput, RequesterOutput, RequesterSession, Selection,
    Summary,
};

use frame::{Frame, Message};
use tessera_consensus::wire::DecodeError;
use wire::v1::{NOTE_BYTES_MAX, Reading, ToHolder, ToRequester, VERSION, WANTS_MAX};

/// One control frame: a request with its note, or the group hashes of the largest object.
pub const CONTROL_BYTES_MAX: usize = 2 * 1024 * 1024 + 64;
/// One manifest.
pub const MANIFEST_BYTES_MAX: usize = <crate::wire::v1::Manifest as crate::wire::Format>::BYTES_MAX;
/// The frame that carries a manifest, and readings beside it.
pub const OFFER_BYTES_MAX: usize = MANIFEST_BYTES_MAX + 64 * 1024;
/// Groups that a requester has asked for and not yet written, and so its memory: 32 MiB.
pub const WINDOW_GROUPS: u32 = 32;
/// Groups that a holder lets a requester ask for ahead; more is a breach of the protocol.
pub const WANTED_GROUPS_MAX: u32 = 256;
/// Groups that a holder has read or is reading and that are not yet sent, and so its memory: 8 MiB.
pub const READ_AHEAD_GROUPS: usize = 8;
/// How long a holder waits for the request, and a requester for the greeting.
pub const GREETING_TIMEOUT_MS: u64 = 10_000;
/// How long a holder that is behind or stale tries to catch up before it refuses.
pub const CATCH_UP_TIMEOUT_MS: u64 = 8_000;
/// How long a requester waits for the decision: catching up, deciding, the disclosure on disk.
pub const DECISION_TIMEOUT_MS: u64 = 30_000;
/// How long a session may lie without a message before either side ends it.
pub const IDLE_TIMEOUT_MS: u64 = 60_000;
/// Sessions that one peer may hold open at a holder.
pub const SESSIONS_PER_PEER_MAX: usize = 8;
/// Sessions that a holder serves at a time.
pub const SESSIONS_MAX: usize = 256;

/// A frame on its way to the requester.
pub type FrameToRequester = Frame<ToRequester>;
/// A frame on its way to the holder.
pub type FrameToHolder = Frame<ToHolder>;

impl Message for ToRequester {
    const WHAT: &'static str = "message from a holder";

    fn is_offer(&self) -> bool {
        matches!(self, ToRequester::Offer { .. } | ToRequester::OfferWithReadings { .. })
    }

    fn validate(&self) -> Result<(), DecodeError> {
        match self {
            ToRequester::Hello { version, .. } if *version != VERSION => {
                Err(DecodeError::UnknownVersion { what: "retrieval protocol", got: *version })
            }
            ToRequester::Refused(refusal) => refusal.validate(),
            ToRequester::OfferWithReadings { readings, .. } => Reading::validate(readings),
            _ => Ok(()),
        }
    }
}

impl Message for ToHolder {
    const WHAT: &'static str = "message from a requester";

    fn validate(&self) -> Result<(), DecodeError> {
        let invalid = |why| Err(DecodeError::Invalid { what: Self::WHAT, why });
        match self {
            ToHolder::Request { note: Some(note), .. } if note.len() > NOTE_BYTES_MAX => {
                invalid("the checkpoint's note has more than 65536 bytes")
            }
            ToHolder::Request { signed, .. } => signed.validate(),
            ToHolder::Want(wants) if wants.len() > WANTS_MAX => invalid("more than 256 runs in one message"),
            _ => Ok(()),
        }
    }
}
