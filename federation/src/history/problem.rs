//! What could not be told of a patient's records, and whose doing that is.
//!
//! The difference decides whether a holder may go on: a denial that was not read opens what the patient closed, while
//! a record that nobody can read is no denial, or any member could close any patient by writing rubbish. Two causes:
//! 1. [`Cause::Unread`]: something lies there that *this* replica did not read. Others may read it, and it may be a
//!    denial. A holder refuses.
//! 2. [`Cause::Author`]: the author's node signed exactly these bytes, the body is the one that it committed to, and
//!    they are no record. Then no replica reads anything there. Places in a patient's chains can be computed only with
//!    the patient's key, or copied from a command on its way, so this is no accident of a stranger's; and no honest
//!    node writes it, for it writes what it can read itself. That covers formats and words that this version does not
//!    know: newer ones are written only after the ledger's protocol version was raised, and a node that does not know
//!    that version applies nothing of it. Whatever an honest site says stands in the places that it went on to. Such
//!    a record counts for nothing, and its author is named.
//!
//! Not here: what a holder or a page does about it.

use tessera_consensus::replica::{Moment, ReplicaError};
use tessera_consensus::wire::v1::{Leaf, sealed_hash};
use tessera_consensus::{LedgerIndex, NodeId, SiteId, kernel};

use crate::blind::OpenError;

/// What could not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In whose chain; `None`: in the chain that names the sites.
    pub site: Option<SiteId>,
    pub index: Option<LedgerIndex>,
    pub cause: Cause,
}

impl Problem {
    /// Whether others may read there what was not read here.
    pub const fn may_hide_something(&self) -> bool {
        matches!(self.cause, Cause::Unread(_))
    }
}

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("{0}")]
    Unread(Unread),
    #[error("{fault}; node {} wrote it so, and it counts for nothing", .author.short())]
    Author { author: NodeId, fault: AuthorFault },
}

/// Why something was not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    #[error("its content was erased, or never came to this node")]
    BodyMissing,
    #[error("this node's copy of it is damaged")]
    Damaged,
    #[error("it amends a record that could not be read here")]
    Amended,
    /// `most`: who took most of its places.
    #[error(
        "there are more records of one kind than are read; {}",
        .most.as_ref().map_or_else(String::new, |node| format!("node {} wrote most of them", node.short()))
    )]
    ChainTooLong { most: Option<NodeId> },
}

/// What an author wrote that is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorFault {
    #[error("it is in the name of {0}, for which its author does not speak")]
    ForeignSite(SiteId),
    #[error("a command of another kind took the place")]
    OtherKind,
    #[error("{0}")]
    Unreadable(OpenError),
    #[error("the site that it announces has no valid name")]
    NoSite,
    #[error("its sealed {0} is not the public one")]
    Contradiction(&'static str),
    #[error("it amends a record that it does not belong to")]
    AmendsAnother,
}

/// Puts a fault down to the author of an entry, once it is proved that the author committed to what lies here; without
/// that proof this replica's copy is damaged.
pub(super) fn blame(moment: &Moment, index: LedgerIndex, fault: AuthorFault) -> Result<Cause, ReplicaError> {
    let missing = ReplicaError::Corrupt { what: "an entry that the state names" };
    let entry = moment.entry(index)?.ok_or(missing)?;
    let command = Leaf::from_bytes(&entry.leaf)?.command;
    let author = command.body.stream.node;
    let record = kernel::node(moment.view(), &author)?;
    let signed = record.is_some_and(|node| command.verify(moment.federation(), &node.join.join.keys.command).is_ok());
    // Without its body nothing but its public part was looked at, which the signature covers.
    let committed = entry.sealed.as_deref().is_none_or(|body| command.body.sealed == Some(sealed_hash(body)));
    Ok(if signed && committed { Cause::Author { author, fault } } else { Cause::Unread(Unread::Damaged) })
}
