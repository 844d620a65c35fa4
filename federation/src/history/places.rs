//! Places in a patient's chains: where a record goes next, and which places a command takes.
//!
//! A writer takes the lowest places that are free, those of its commands on their way left out; it must give those
//! back as soon as it hears that the ledger did not take them, or it leaves more holes than readers pass over.

use tessera_consensus::SiteId;
use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::Kind;

use super::{Authors, CHAIN_MAX, PLACES_MAX, Walk};
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
        "{site} can't write of this patient this year: it wrote {CHAIN_MAX} records of the kind already, or others took \
         {PLACES_MAX} places of its chain or of the sites that have something, and more are not read"
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
    let (mut free, mut own) = (None, 0);
    for counter in 0..PLACES_MAX {
        let tag = key.tag(chain, counter);
        own += match machine::tag(moment.view(), &tag).map_err(ReplicaError::from)? {
            Some(record) => u64::from(walk.speaks_for(&record.node, site)?),
            None if reserved(&tag) => 1,
            None => {
                free = Some(tag);
                break;
            }
        };
        if own == CHAIN_MAX {
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
pub(super) struct Places {
    pub(super) tags: Vec<Tag>,
    pub(super) presences: Vec<Presence>,
}

pub(super) fn of(kind: Kind, public: &[u8]) -> Result<Places, DecodeError> {
    let one = |tag, presence: Option<Presence>| Places { tags: vec![tag], presences: presence.into_iter().collect() };
    Ok(match kind {
        v1::STUDY => StudyPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::AMENDMENT => AmendmentPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::CONSENT => ConsentPublic::from_bytes(public).map(|public| one(public.tag, public.presence))?,
        v1::LINK => {
            let halves = LinkPublic::from_bytes(public)?.halves;
            let tags = halves.iter().map(|half| half.tag).collect();
            Places { tags, presences: halves.into_iter().filter_map(|half| half.presence).collect() }
        }
        _ => Places::default(),
    })
}

/// The tags and presence tags that a command takes; none where its public part is not well-formed.
pub fn places(kind: Kind, public: &[u8]) -> Vec<Tag> {
    let Places { mut tags, presences } = of(kind, public).unwrap_or_default();
    tags.extend(presences.iter().map(|presence| presence.tag));
    tags
}
