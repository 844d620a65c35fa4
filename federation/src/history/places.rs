//! Places in a patient's chains: where a record goes next, and which places a command takes.
//!
//! A writer takes the lowest places that are free, those of its commands on their way left out; it must give those
//! back as soon as it hears that the ledger did not take them, or it leaves more holes than readers pass over.

use tessera_consensus::SiteId;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::Kind;

use super::{Authors, CHAIN_MAX, Walk};
use crate::blind::{Binding, Chain, IdentifierKey, Part};
use crate::machine;
use crate::wire::v1::{self, AmendmentPublic, ConsentPublic, LinkPublic, Presence, StudyPublic, Tag};
use crate::wire::{DecodeError, Format};

/// Where a writer's next record goes.
#[derive(Clone, Debug)]
pub struct NextFree {
    pub tag: Tag,
    /// `None` when the site's presence is in the ledger already.
    pub presence: Option<Tag>,
}

/// Why there is no place for a record.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// Nobody would read what lies behind.
    #[error(
        "{site} can't write of this patient this year: {CHAIN_MAX} places of the kind, or of the sites that have \
         something, are taken, and more are not read"
    )]
    ChainFull { site: SiteId },
}

/// The next free places for a record of `kind` that `site` writes under `key`; `reserved` are places of records
/// that are on their way.
pub fn next_free(
    replica: &Replica,
    key: &IdentifierKey,
    site: &SiteId,
    kind: Kind,
    reserved: &dyn Fn(&Tag) -> bool,
) -> Result<NextFree, PlaceError> {
    let moment = &replica.moment();
    let walk = Walk { moment, key, certified: 0, authors: &Authors::default() };
    let chain = Chain::Site { site, kind };
    let mut free = None;
    for counter in 0..CHAIN_MAX {
        let tag = key.tag(chain, counter);
        if machine::tag(moment.view(), &tag).map_err(ReplicaError::from)?.is_none() && !reserved(&tag) {
            free = Some(tag);
            break;
        }
    }
    let full = || PlaceError::ChainFull { site: site.clone() };
    let tag = free.ok_or_else(full)?;
    let (sites, free) = walk.presences(reserved, &mut Vec::new())?;
    let presence = if sites.contains(site) { None } else { Some(free.ok_or_else(full)?) };
    Ok(NextFree { tag, presence })
}

/// A presence that says that `site` has something under `key`.
pub fn presence(key: &IdentifierKey, kind: Kind, site: &SiteId, tag: Tag, rng: &mut dyn rand::CryptoRng) -> Presence {
    let sealed = key.seal(Binding::tag(kind, Part::PresenceSite, &tag), site.as_str().as_bytes(), rng);
    Presence { tag, site: sealed }
}

/// What a command takes.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) tags: Vec<Tag>,
    pub(super) presences: Vec<Presence>,
}

pub(super) fn of(kind: Kind, public: &[u8]) -> Result<Taken, DecodeError> {
    let one = |tag, presence: Option<Presence>| Taken { tags: vec![tag], presences: presence.into_iter().collect() };
    Ok(match kind {
        v1::STUDY => StudyPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::AMENDMENT => AmendmentPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::CONSENT => ConsentPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::LINK => {
            let halves = LinkPublic::from_bytes(public)?.halves;
            let tags = halves.iter().map(|half| half.tag).collect();
            Taken { tags, presences: halves.into_iter().filter_map(|half| half.presence).collect() }
        }
        _ => Taken::default(),
    })
}

/// The tags and presence tags that a command takes; none where its public part is not well-formed.
pub fn places(kind: Kind, public: &[u8]) -> Vec<Tag> {
    let Taken { mut tags, presences } = of(kind, public).unwrap_or_default();
    tags.extend(presences.iter().map(|presence| presence.tag));
    tags
}
