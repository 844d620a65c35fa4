//! An examination's life: receiving, complete, released, amended, withdrawn (DESIGN section 8).
//!
//! Originals never change. What changes is the state and the overlay of amendments; both are entries of the
//! ledger, applied in order. [`ReleaseState::next`] is the only way from one state to another.
//!
//! Invariants:
//! 1. Withdrawn is final: what is shown again is registered again.
//! 2. Nobody outside has seen what was not released, so an amendment before release leaves the state as it is.

use crate::numbered::NumberedError;
use serde::{Deserialize, Serialize};

numbered! {
    /// Where an examination stands.
    pub enum ReleaseState ("release state") {
        Receiving = 1 "receiving",
        Complete = 2 "complete",
        Released = 3 "released",
        Amended = 4 "amended",
        Withdrawn = 5 "withdrawn",
    }
}

numbered! {
    /// Why objects were rejected: the document titles of IHE IOCM, by their DICOM code (DCM).
    pub enum RejectionReason ("rejection reason") {
        Quality = 1 "113001",
        PatientSafety = 2 "113037",
        WrongWorklistEntry = 3 "113038",
        RetentionExpired = 4 "113039",
    }
}

impl RejectionReason {
    /// The code's meaning in PS3.16.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Quality => "Rejected for Quality Reasons",
            Self::PatientSafety => "Rejected for Patient Safety Reasons",
            Self::WrongWorklistEntry => "Incorrect Modality Worklist Entry",
            Self::RetentionExpired => "Data Retention Policy Expired",
        }
    }
}

/// A correction or a step in an examination's life, as the holder signs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "u16", try_from = "u16")]
pub enum AmendmentKind {
    /// Name, sex, birth date and the like were wrong.
    Demographics,
    /// The examination belongs to another patient.
    Move,
    /// Some of its objects belong to another examination.
    Split,
    /// It is one with another examination.
    Merge,
    /// Objects must not be used, for the stated reason.
    Reject(RejectionReason),
    /// The holder takes the examination back.
    Withdraw,
    /// The holder releases the examination.
    Release,
}

/// Wire numbers of rejections are this plus the reason's number.
const REJECT_BASE: u16 = 16;

impl AmendmentKind {
    /// The number in signed bytes.
    pub const fn number(self) -> u16 {
        match self {
            Self::Demographics => 1,
            Self::Move => 2,
            Self::Split => 3,
            Self::Merge => 4,
            Self::Withdraw => 5,
            Self::Release => 6,
            Self::Reject(reason) => REJECT_BASE + reason.number(),
        }
    }

    /// The name in commands and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Demographics => "demographics",
            Self::Move => "move",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Withdraw => "withdraw",
            Self::Release => "release",
            Self::Reject(RejectionReason::Quality) => "reject-113001",
            Self::Reject(RejectionReason::PatientSafety) => "reject-113037",
            Self::Reject(RejectionReason::WrongWorklistEntry) => "reject-113038",
            Self::Reject(RejectionReason::RetentionExpired) => "reject-113039",
        }
    }
}

impl From<AmendmentKind> for u16 {
    fn from(kind: AmendmentKind) -> u16 {
        kind.number()
    }
}

impl TryFrom<u16> for AmendmentKind {
    type Error = NumberedError;
    fn try_from(number: u16) -> Result<Self, NumberedError> {
        match number {
            1 => Ok(Self::Demographics),
            2 => Ok(Self::Move),
            3 => Ok(Self::Split),
            4 => Ok(Self::Merge),
            5 => Ok(Self::Withdraw),
            6 => Ok(Self::Release),
            _ => match number.checked_sub(REJECT_BASE).map(RejectionReason::try_from) {
                Some(Ok(reason)) => Ok(Self::Reject(reason)),
                Some(Err(_)) | None => Err(NumberedError::UnknownNumber { what: "amendment kind", number }),
            },
        }
    }
}

impl std::fmt::Display for AmendmentKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to an examination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReleaseEvent {
    /// New or late objects: a new version of the manifest.
    ObjectsArrived,
    /// Completeness is evident: quiet period, MPPS, count, technologist.
    Closed,
    Amended(AmendmentKind),
}

/// An event that the state doesn't allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    #[error("the examination is withdrawn, which is final; register it again to show it again")]
    Withdrawn,
    #[error("the examination is still being received; close it before it is released")]
    NotComplete,
    #[error("the examination is released already")]
    AlreadyReleased,
    #[error("the examination is closed already; late objects make a new version")]
    AlreadyClosed,
}

impl ReleaseState {
    /// The state after an event, or why the event is refused.
    pub const fn next(self, event: ReleaseEvent) -> Result<ReleaseState, TransitionError> {
        use ReleaseEvent as Event;
        use ReleaseState as State;
        match (self, event) {
            (State::Withdrawn, _) => Err(TransitionError::Withdrawn),
            (_, Event::Amended(AmendmentKind::Withdraw)) => Ok(State::Withdrawn),

            (State::Receiving, Event::Closed) => Ok(State::Complete),
            (State::Complete | State::Released | State::Amended, Event::Closed) => Err(TransitionError::AlreadyClosed),

            (State::Receiving, Event::Amended(AmendmentKind::Release)) => Err(TransitionError::NotComplete),
            (State::Complete, Event::Amended(AmendmentKind::Release)) => Ok(State::Released),
            (State::Released | State::Amended, Event::Amended(AmendmentKind::Release)) => {
                Err(TransitionError::AlreadyReleased)
            }

            (State::Receiving | State::Complete, Event::ObjectsArrived | Event::Amended(_)) => Ok(self),
            (State::Released | State::Amended, Event::ObjectsArrived | Event::Amended(_)) => Ok(State::Amended),
        }
    }

    /// Whether other sites may ask for it in the ordinary way.
    pub const fn is_released(self) -> bool {
        matches!(self, Self::Released | Self::Amended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        use AmendmentKind::{Demographics, Move, Reject, Release, Withdraw};
        use ReleaseEvent::{Amended as Amend, Closed, ObjectsArrived};
        use ReleaseState::{Amended, Complete, Receiving, Released, Withdrawn};
        let reject = Reject(RejectionReason::Quality);
        for (state, event, expected) in [
            (Receiving, ObjectsArrived, Ok(Receiving)),
            (Receiving, Closed, Ok(Complete)),
            (Receiving, Amend(Release), Err(TransitionError::NotComplete)),
            (Receiving, Amend(Demographics), Ok(Receiving)),
            (Receiving, Amend(Withdraw), Ok(Withdrawn)),
            (Complete, ObjectsArrived, Ok(Complete)),
            (Complete, Amend(Release), Ok(Released)),
            (Complete, Amend(Move), Ok(Complete)),
            (Complete, Closed, Err(TransitionError::AlreadyClosed)),
            (Released, ObjectsArrived, Ok(Amended)),
            (Released, Amend(reject), Ok(Amended)),
            (Released, Amend(Release), Err(TransitionError::AlreadyReleased)),
            (Released, Closed, Err(TransitionError::AlreadyClosed)),
            (Amended, ObjectsArrived, Ok(Amended)),
            (Amended, Amend(Demographics), Ok(Amended)),
            (Amended, Amend(Release), Err(TransitionError::AlreadyReleased)),
            (Amended, Amend(Withdraw), Ok(Withdrawn)),
            (Withdrawn, ObjectsArrived, Err(TransitionError::Withdrawn)),
            (Withdrawn, Closed, Err(TransitionError::Withdrawn)),
            (Withdrawn, Amend(Release), Err(TransitionError::Withdrawn)),
        ] {
            assert_eq!(state.next(event), expected, "{state} {event:?}");
        }
    }

    #[test]
    fn amendment_numbers_round_trip() {
        let kinds: Vec<AmendmentKind> = (0..=u16::MAX).filter_map(|n| AmendmentKind::try_from(n).ok()).collect();
        assert_eq!(kinds.len(), 6 + RejectionReason::ALL.len());
        for kind in kinds {
            assert_eq!(AmendmentKind::try_from(kind.number()), Ok(kind));
        }
        assert_eq!(AmendmentKind::Reject(RejectionReason::RetentionExpired).number(), 20);
    }
}
