//! Version 1 of what nodes ask of one another over `/tessera/follow/1`: the ledger's entries, taking submissions to
//! the core, blind evaluation. A version byte, then canonical postcard; the order of variants is the wire order.
//!
//! The payloads are the sans-IO protocols' own types; here are only their envelope and its bounds.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tessera_consensus::follow::{self, FollowReply, FollowRequest};
use tessera_consensus::kernel::{Outcome, Refusal};
use tessera_consensus::wire::bounded::at_most;
use tessera_consensus::wire::v1::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX, Submission};
use tessera_consensus::wire::{DecodeError, decode, encode};
use tessera_consensus::{Hash, LedgerIndex};

use crate::wire::Format;
use crate::wire::v1::{BlindAnswer, BlindRequest};

const VERSION: u8 = 1;
/// One encoded request: a full batch of submissions is the largest.
pub const REQUEST_BYTES_MAX: usize = BATCH_BYTES_MAX + 64 * 1024;
/// One encoded reply: a range of entries is the largest.
pub const REPLY_BYTES_MAX: usize = follow::REPLY_BYTES_MAX + 64;

/// What a node asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    Follow(FollowRequest),
    /// Commands for the ledger; a core node takes them, or passes them to the leader.
    Submit(#[serde(deserialize_with = "at_most::<_, _, BATCH_COMMANDS_MAX>")] Vec<Submission>),
    Blind(BlindRequest),
}

/// What became of one submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubmitOutcome {
    /// In the ledger, not yet certified.
    Placed {
        index: LedgerIndex,
        outcome: Outcome,
    },
    Refused(Refusal),
    /// The number was used for another command.
    Conflict {
        applied: Hash,
    },
    /// Not taken, or not known: send it again.
    Later,
}

/// Why a request got no answer of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestRefusal {
    /// Too much waits; ask again later, or another.
    Busy,
    /// This node does not serve such requests: a member is no core node.
    NotServed,
    /// This node has a fault; its log says which.
    Fault,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerReply {
    Follow(FollowReply),
    /// One for each submission, in order.
    Submitted(#[serde(deserialize_with = "at_most::<_, _, BATCH_COMMANDS_MAX>")] Vec<SubmitOutcome>),
    Blind(BlindAnswer),
    Refused(RequestRefusal),
}

/// A message with a name, a limit and rules.
pub(super) trait Envelope: Serialize + DeserializeOwned + Send {
    const WHAT: &'static str;
    const BYTES_MAX: usize;

    fn validate(&self) -> Result<(), DecodeError>;

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&encode(self));
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let what = Self::WHAT;
        let (version, rest) = bytes.split_first().ok_or(DecodeError::Malformed { what })?;
        if *version != VERSION {
            return Err(DecodeError::UnknownVersion { what, got: *version });
        }
        let value: Self = decode(what, rest, Self::BYTES_MAX)?;
        value.validate()?;
        Ok(value)
    }
}

impl PeerRequest {
    /// Reads a request from exactly these bytes, as the codec does.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        Envelope::from_bytes(bytes)
    }

    /// Its bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        Envelope::to_bytes(self)
    }
}

impl PeerReply {
    /// Reads a reply from exactly these bytes, as the codec does.
    pub fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        Envelope::from_bytes(bytes)
    }

    /// Its bytes on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        Envelope::to_bytes(self)
    }
}

impl Envelope for PeerRequest {
    const WHAT: &'static str = "request of a peer";
    const BYTES_MAX: usize = REQUEST_BYTES_MAX;

    fn validate(&self) -> Result<(), DecodeError> {
        match self {
            PeerRequest::Follow(_) => Ok(()),
            PeerRequest::Submit(submissions) => submissions.iter().try_for_each(Submission::validate),
            PeerRequest::Blind(request) => request.validate(),
        }
    }
}

impl Envelope for PeerReply {
    const WHAT: &'static str = "reply of a peer";
    const BYTES_MAX: usize = REPLY_BYTES_MAX;

    fn validate(&self) -> Result<(), DecodeError> {
        let invalid = |why| Err(DecodeError::Invalid { what: Self::WHAT, why });
        match self {
            PeerReply::Follow(FollowReply::Checkpoint { note: Some(note) }) if note.len() > follow::NOTE_BYTES_MAX => {
                invalid("a checkpoint's note of more than 65536 bytes")
            }
            PeerReply::Blind(answer) => answer.validate(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_consensus::LedgerSize;

    #[test]
    fn messages_read_back_and_damaged_ones_are_refused() {
        let request = PeerRequest::Follow(FollowRequest::Entries { from: LedgerSize(7), target: LedgerSize(300) });
        let bytes = request.to_bytes();
        assert_eq!(bytes, [1, 0, 1, 7, 0xac, 0x02], "frozen");
        assert_eq!(PeerRequest::from_bytes(&bytes), Ok(request));
        for length in 0..bytes.len() {
            assert!(PeerRequest::from_bytes(&bytes[..length]).is_err(), "cut to {length}");
        }
        let refused: [&[u8]; 4] = [&[2, 0, 0], &[1, 0, 0, 0], &[1, 9], &[1, 0, 1, 0x87, 0x00, 0xac, 0x02]];
        for bytes in refused {
            assert!(PeerRequest::from_bytes(bytes).is_err(), "{bytes:?}");
        }
        let replies = [
            (PeerReply::Follow(FollowReply::Checkpoint { note: None }), vec![1, 0, 0, 0]),
            (PeerReply::Submitted(vec![SubmitOutcome::Later]), vec![1, 1, 1, 3]),
            (PeerReply::Refused(RequestRefusal::NotServed), vec![1, 3, 1]),
        ];
        for (reply, bytes) in replies {
            assert_eq!(reply.to_bytes(), bytes, "frozen");
            assert_eq!(PeerReply::from_bytes(&bytes), Ok(reply));
        }
        let long = "x".repeat(follow::NOTE_BYTES_MAX + 1);
        let reply = PeerReply::Follow(FollowReply::Checkpoint { note: Some(long) });
        assert!(PeerReply::from_bytes(&reply.to_bytes()).is_err());
    }
}
