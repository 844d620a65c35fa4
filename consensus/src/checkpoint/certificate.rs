//! When a checkpoint is believed: the core of an epoch, the certificate that its quorum makes, and the evidence that
//! a signer of two histories leaves (DESIGN section 5).
//!
//! A *quorum* of a core of n, of which f = ⌊(n − 1)/3⌋ may lie, is more than (n + f)/2 members. Any two quorums share
//! more than f members, so at least one honest one.
//!
//! Invariants:
//! 1. [`Certificate`] exists only for a checkpoint whose cosignatures by a quorum of its epoch's core were verified.
//! 2. **Dates.** No certificate that lacks an entry is dated after the moment at which that entry was certified, so
//!    far as the clocks of honest signers are right. A certificate's time is the smallest among the times of a
//!    quorum of its cosignatures. Let C be a certificate of an entry, completed at the moment m, and D one of the
//!    same epoch that lacks it, hence of a smaller size. The quorums of C and D share an honest signer h. By its
//!    guard h signed D's size before C's, and not at a later time: t(h, D) ≤ t(h, C) ≤ m. D's time is the smallest
//!    of a quorum that h is in, so it is at most t(h, D).
//! 3. **Which quorum.** The proof holds for any quorum among the valid cosignatures, so the best is taken: that of
//!    the latest times. The certificate's time then is the k-th latest, k the quorum's size. Taking the smallest of
//!    all instead would let one lying or slow clock among n pull every date into the past, and so stop every holder
//!    by the freshness limit; counting fewer than a quorum would break invariant 2.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::note::KeyId;
use super::{Checkpoint, Cosignature, CosignatureError, NoteError, SignedCheckpoint, SignerName};
use crate::ids::{Epoch, FederationId, LedgerSize, NodeId, UnixMillis};
use crate::keys::PublicKey;

/// Members of the largest core.
pub const CORE_MEMBERS_MAX: usize = 7;

/// One signer of a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoreMember {
    pub node: NodeId,
    /// From its join command.
    pub name: SignerName,
    pub checkpoint_key: PublicKey,
}

/// Those who sign for the ledger in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CoreWire", into = "CoreWire")]
pub struct Core {
    epoch: Epoch,
    members: Vec<CoreMember>,
}

/// Why members do not make a core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    #[error("a core has 1 to 7 members, this one {0}")]
    Size(usize),
    #[error("{0:?} is in the core twice")]
    Node(NodeId),
    #[error("{0:?} signs for two members of the core; each needs its own key")]
    Key(PublicKey),
    #[error("two members named {0} have keys of the same key id; one of them needs a new key")]
    KeyId(SignerName),
}

impl Core {
    /// Members in the order given, which is the order of turns (see [`crate::certify`]).
    pub fn new(epoch: Epoch, members: Vec<CoreMember>) -> Result<Self, CoreError> {
        if !(1..=CORE_MEMBERS_MAX).contains(&members.len()) {
            return Err(CoreError::Size(members.len()));
        }
        let (mut nodes, mut keys, mut ids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for member in &members {
            if !nodes.insert(member.node) {
                return Err(CoreError::Node(member.node));
            }
            if !keys.insert(member.checkpoint_key) {
                return Err(CoreError::Key(member.checkpoint_key));
            }
            if !ids.insert((&member.name, KeyId::new(&member.name, &member.checkpoint_key))) {
                return Err(CoreError::KeyId(member.name.clone()));
            }
        }
        Ok(Self { epoch, members })
    }

    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub fn members(&self) -> &[CoreMember] {
        &self.members
    }

    pub fn member(&self, node: &NodeId) -> Option<&CoreMember> {
        self.members.iter().find(|member| member.node == *node)
    }

    /// Liars among the members that certification withstands.
    pub fn tolerated_liars(&self) -> usize {
        (self.members.len() - 1) / 3
    }

    /// Members whose cosignatures make a certificate: the smallest number above (n + f)/2.
    pub fn threshold(&self) -> usize {
        (self.members.len() + self.tolerated_liars()) / 2 + 1
    }

    /// The member that a cosignature claims to come from.
    pub fn signer_of(&self, cosignature: &Cosignature) -> Option<&CoreMember> {
        self.members.iter().find(|member| cosignature.claims(&member.name, &member.checkpoint_key))
    }
}

#[derive(Serialize, Deserialize)]
struct CoreWire {
    epoch: Epoch,
    members: Vec<CoreMember>,
}

impl From<Core> for CoreWire {
    fn from(core: Core) -> Self {
        Self { epoch: core.epoch, members: core.members }
    }
}

impl TryFrom<CoreWire> for Core {
    type Error = CoreError;
    fn try_from(wire: CoreWire) -> Result<Self, CoreError> {
        Self::new(wire.epoch, wire.members)
    }
}

/// A checkpoint that a quorum of its epoch's core signed. Comes from [`SignedCheckpoint::verify`] only; kept and sent
/// as the note of [`Certificate::signed`] and verified again when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    signed: SignedCheckpoint,
    signers: BTreeSet<NodeId>,
    time_seconds: u64,
}

/// Why a signed checkpoint is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the checkpoint is of {got:?}, not of {expected:?}")]
    Federation { expected: FederationId, got: FederationId },
    #[error("the checkpoint is of epoch {}, this core is of epoch {}", got.0, expected.0)]
    Epoch { expected: Epoch, got: Epoch },
    #[error("a cosignature that claims to come from the core is false: {0}")]
    Cosignature(#[from] CosignatureError),
    #[error("{valid} members of the core signed, {needed} are needed")]
    TooFew { valid: usize, needed: usize },
}

impl SignedCheckpoint {
    /// Whether a quorum of `core` signed this. Cosignatures of others (witnesses) are not looked at; a false one that
    /// claims to come from the core condemns the whole note, as C2SP recommends.
    pub fn verify(&self, core: &Core, federation: FederationId) -> Result<Certificate, CertificateError> {
        let checkpoint = self.checkpoint();
        if checkpoint.federation != federation {
            return Err(CertificateError::Federation { expected: federation, got: checkpoint.federation });
        }
        if checkpoint.epoch != core.epoch {
            return Err(CertificateError::Epoch { expected: core.epoch, got: checkpoint.epoch });
        }
        let mut signers = BTreeSet::new();
        let mut counted = Vec::new();
        for cosignature in self.cosignatures() {
            let Some(member) = core.signer_of(cosignature) else { continue };
            cosignature.verify(checkpoint, &member.checkpoint_key)?;
            signers.insert(member.node);
            counted.push(cosignature.clone());
        }
        let times: Vec<u64> = counted.iter().map(Cosignature::time_seconds).collect();
        let too_few = CertificateError::TooFew { valid: signers.len(), needed: core.threshold() };
        let time_seconds = certified_time(times, core.threshold()).ok_or_else(|| too_few.clone())?;
        let signed = SignedCheckpoint::new(*checkpoint, counted).map_err(|_: NoteError| too_few)?;
        Ok(Certificate { signed, signers, time_seconds })
    }
}

/// The smallest of the `threshold` latest times; `None` when there are fewer. See the header, invariants 2 and 3.
pub(super) fn certified_time(mut times: Vec<u64>, threshold: usize) -> Option<u64> {
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.get(threshold - 1).copied()
}

impl Certificate {
    pub const fn checkpoint(&self) -> &Checkpoint {
        self.signed.checkpoint()
    }

    /// The checkpoint with the core's cosignatures, and only these: what is kept and passed on.
    pub const fn signed(&self) -> &SignedCheckpoint {
        &self.signed
    }

    pub const fn signers(&self) -> &BTreeSet<NodeId> {
        &self.signers
    }

    /// The time as of which nothing beyond the checkpoint had been certified.
    pub const fn time(&self) -> UnixMillis {
        UnixMillis::from_seconds(self.time_seconds)
    }
}

/// What convicts a signer before anyone who knows the core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// Two cosignatures of one signer, in one epoch, on different contents of one size.
    DoubleSign { a: SignedCheckpoint, b: SignedCheckpoint, signer: NodeId },
}

/// Why something is no evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    #[error("{0:?} is not in the core of that epoch")]
    NotInCore(NodeId),
    #[error("the checkpoints are of different federations or epochs, or not of this core's epoch {}", .0.0)]
    Epoch(Epoch),
    #[error("the checkpoints are of different sizes, {} and {}", a.0, b.0)]
    Sizes { a: LedgerSize, b: LedgerSize },
    #[error("the checkpoints agree")]
    Agree,
    #[error("a checkpoint does not carry a cosignature of {0:?}")]
    NotSigned(NodeId),
    #[error(transparent)]
    Cosignature(#[from] CosignatureError),
}

impl Evidence {
    pub const fn signer(&self) -> NodeId {
        let Evidence::DoubleSign { signer, .. } = self;
        *signer
    }

    /// Whether it convicts the signer; `core` is that of the epoch in question.
    pub fn verify(&self, core: &Core) -> Result<(), EvidenceError> {
        let Evidence::DoubleSign { a, b, signer } = self;
        let member = core.member(signer).ok_or(EvidenceError::NotInCore(*signer))?;
        let (first, second) = (a.checkpoint(), b.checkpoint());
        if first.federation != second.federation || first.epoch != core.epoch || second.epoch != core.epoch {
            return Err(EvidenceError::Epoch(core.epoch));
        }
        if first.size != second.size {
            return Err(EvidenceError::Sizes { a: first.size, b: second.size });
        }
        if first == second {
            return Err(EvidenceError::Agree);
        }
        for signed in [a, b] {
            let claims = |c: &&Cosignature| c.claims(&member.name, &member.checkpoint_key);
            let cosignature = signed.cosignatures().iter().find(claims).ok_or(EvidenceError::NotSigned(*signer))?;
            cosignature.verify(signed.checkpoint(), &member.checkpoint_key)?;
        }
        Ok(())
    }
}
