//! What an identifier key finds in a replica: a patient's records at all sites, from local data alone.
//!
//! The presence chain names the sites that have something under the key; then each site's own chains are walked.
//! The cost is what the patient has, not what the federation has. Nothing is left out silently: a record that does
//! not open, or a chain that is longer than the bound, is a [`Problem`] that the page shows.
//!
//! Chains may have holes for a short while, because a writer that lost a race takes the number again: up to
//! [`HOLES_MAX`] free numbers are passed over before a chain is taken to end.

use std::collections::BTreeMap;

use tessera_consensus::replica::{Replica, ReplicaError};
use tessera_consensus::wire::v1::{CommandBody, Kind, Leaf};
use tessera_consensus::{LedgerIndex, SiteId};

use crate::blind::{Binding, Chain, IdentifierKey, OpenError, Part};
use crate::ids::RecordId;
use crate::machine;
use crate::wire::v1::{
    self, AmendmentDetails, AmendmentPublic, ConsentDetails, ConsentPublic, LinkDetails, LinkPublic, LinkSealed,
    Presence, Sealed, StudyDetails, StudyPublic, StudySealed, Tag,
};
use crate::wire::{DecodeError, Format};

/// Free numbers of a chain that are passed over.
pub const HOLES_MAX: u64 = 4;
/// Records of one chain; a person has hundreds at most, and a bound keeps a hostile writer from holding up a lookup.
pub const CHAIN_MAX: u64 = 4096;
/// The chains of a site under one key.
const CHAINS: [Kind; 4] = [v1::STUDY, v1::AMENDMENT, v1::LINK, v1::CONSENT];

/// A record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub index: LedgerIndex,
    pub tag: Tag,
    /// Covered by the newest certificate of this replica.
    pub certified: bool,
}

/// A study record, in its newest revision only when `ended` is `None`.
#[derive(Clone, Debug)]
pub struct FoundStudy {
    pub place: Place,
    pub details: StudyDetails,
    /// A newer revision took its place.
    pub ended: Option<LedgerIndex>,
}

#[derive(Clone, Debug)]
pub struct FoundAmendment {
    pub place: Place,
    pub of: Tag,
    pub details: AmendmentDetails,
}

#[derive(Clone, Debug)]
pub struct FoundLink {
    pub place: Place,
    pub details: LinkDetails,
    /// The link was undone: a state, for what was disclosed stays known.
    pub ended: Option<LedgerIndex>,
}

#[derive(Clone, Debug)]
pub struct FoundConsent {
    pub place: Place,
    pub details: ConsentDetails,
    pub revoked: Option<LedgerIndex>,
}

/// What could not be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub site: Option<SiteId>,
    pub index: Option<LedgerIndex>,
    pub why: String,
}

/// Everything under the given keys.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub studies: Vec<FoundStudy>,
    pub amendments: Vec<FoundAmendment>,
    pub links: Vec<FoundLink>,
    pub consents: Vec<FoundConsent>,
    pub problems: Vec<Problem>,
}

impl History {
    /// The newest revision of each record that was not withdrawn, oldest entry first.
    pub fn current(&self) -> Vec<&FoundStudy> {
        let mut newest: BTreeMap<(SiteId, RecordId), &FoundStudy> = BTreeMap::new();
        for study in self.studies.iter().filter(|study| study.ended.is_none()) {
            let place = (study.details.site.clone(), study.details.record);
            let newer = newest.get(&place).is_none_or(|known| known.details.revision < study.details.revision);
            if newer {
                newest.insert(place, study);
            }
        }
        let mut current: Vec<&FoundStudy> =
            newest.into_values().filter(|study| !self.is_withdrawn(study.details.record)).collect();
        current.sort_by_key(|study| study.place.index);
        current
    }

    fn is_withdrawn(&self, record: RecordId) -> bool {
        let withdraw = |amendment: &FoundAmendment| amendment.details.change == v1::AmendmentChange::Withdraw;
        self.amendments.iter().any(|amendment| amendment.details.record == record && withdraw(amendment))
    }

    fn take(&mut self, other: History) {
        self.studies.extend(other.studies);
        self.amendments.extend(other.amendments);
        self.links.extend(other.links);
        self.consents.extend(other.consents);
        self.problems.extend(other.problems);
    }
}

/// Walks all chains of all `keys` (one identifier's years, and those of linked identifiers).
pub fn look_up(replica: &Replica, keys: &[IdentifierKey]) -> Result<History, ReplicaError> {
    let mut history = History::default();
    for key in keys {
        let walk = Walk { replica, key, certified: replica.certificate().map_or(0, |c| c.checkpoint().size.0) };
        history.take(walk.all()?);
    }
    Ok(history)
}

/// Where a writer's next record goes.
#[derive(Clone, Debug)]
pub struct NextFree {
    pub tag: Tag,
    /// `None` when the site's presence is in the ledger already.
    pub presence: Option<Tag>,
}

/// The next free places for a record of `kind` that `site` writes under `key`; `reserved` are places of records
/// that are on their way.
pub fn next_free(
    replica: &Replica,
    key: &IdentifierKey,
    site: &SiteId,
    kind: Kind,
    reserved: &dyn Fn(&Tag) -> bool,
) -> Result<NextFree, ReplicaError> {
    let walk = Walk { replica, key, certified: 0 };
    let chain = Chain::Site { site, kind };
    let mut counter = 0;
    let tag = loop {
        let tag = key.tag(chain, counter);
        if machine::tag(replica.view(), &tag)?.is_none() && !reserved(&tag) {
            break tag;
        }
        counter += 1;
    };
    let (sites, free) = walk.presences(reserved, &mut Vec::new())?;
    let presence = (!sites.contains(site)).then_some(free);
    Ok(NextFree { tag, presence })
}

/// A presence that says that `site` has something under `key`.
pub fn presence(key: &IdentifierKey, kind: Kind, site: &SiteId, tag: Tag, rng: &mut dyn rand::CryptoRng) -> Presence {
    let sealed = key.seal(Binding::tag(kind, Part::PresenceSite, &tag), site.as_str().as_bytes(), rng);
    Presence { tag, site: sealed }
}

struct Walk<'a> {
    replica: &'a Replica,
    key: &'a IdentifierKey,
    certified: u64,
}

/// Why one record could not be shown.
enum Unreadable {
    Replica(ReplicaError),
    Why(String),
}

impl From<ReplicaError> for Unreadable {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(error)
    }
}

impl From<OpenError> for Unreadable {
    fn from(error: OpenError) -> Self {
        Self::Why(error.to_string())
    }
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        Self::Why(error.to_string())
    }
}

impl Walk<'_> {
    fn all(&self) -> Result<History, ReplicaError> {
        let mut history = History::default();
        let (sites, _) = self.presences(&|_| false, &mut history.problems)?;
        for site in sites {
            for kind in CHAINS {
                self.chain(&site, kind, &mut history)?;
            }
        }
        Ok(history)
    }

    /// The sites of the presence chain, and the chain's first free tag.
    fn presences(
        &self,
        reserved: &dyn Fn(&Tag) -> bool,
        problems: &mut Vec<Problem>,
    ) -> Result<(Vec<SiteId>, Tag), ReplicaError> {
        let (mut sites, mut free, mut holes) = (Vec::new(), None, 0);
        for counter in 0..CHAIN_MAX {
            let tag = self.key.tag(Chain::Presence, counter);
            let Some(index) = machine::presence(self.replica.view(), &tag)? else {
                if !reserved(&tag) {
                    free = free.or(Some(tag));
                }
                holes += 1;
                if holes > HOLES_MAX && free.is_some() {
                    break;
                }
                continue;
            };
            match self.presence_site(index, &tag) {
                Ok(site) if !sites.contains(&site) => sites.push(site),
                Ok(_) => {}
                Err(Unreadable::Replica(error)) => return Err(error),
                Err(Unreadable::Why(why)) => problems.push(Problem { site: None, index: Some(index), why }),
            }
        }
        let free = free.unwrap_or_else(|| self.key.tag(Chain::Presence, CHAIN_MAX));
        Ok((sites, free))
    }

    fn presence_site(&self, index: LedgerIndex, tag: &Tag) -> Result<SiteId, Unreadable> {
        let (body, _) = self.entry(index)?;
        let presences: Vec<Presence> = match body.kind {
            v1::STUDY => StudyPublic::from_bytes(&body.public)?.presence.into_iter().collect(),
            v1::AMENDMENT => AmendmentPublic::from_bytes(&body.public)?.presence.into_iter().collect(),
            v1::CONSENT => ConsentPublic::from_bytes(&body.public)?.presence.into_iter().collect(),
            v1::LINK => {
                LinkPublic::from_bytes(&body.public)?.halves.into_iter().filter_map(|half| half.presence).collect()
            }
            _ => Vec::new(),
        };
        let presence = presences.into_iter().find(|presence| presence.tag == *tag);
        let presence = presence.ok_or_else(|| Unreadable::Why("the presence is not in its entry".into()))?;
        let site = self.key.open(Binding::tag(body.kind, Part::PresenceSite, tag), &presence.site)?;
        let site = String::from_utf8_lossy(&site).into_owned();
        SiteId::try_from(site).map_err(|error| Unreadable::Why(error.to_string()))
    }

    fn chain(&self, site: &SiteId, kind: Kind, history: &mut History) -> Result<(), ReplicaError> {
        let mut holes = 0;
        for counter in 0..CHAIN_MAX {
            let tag = self.key.tag(Chain::Site { site, kind }, counter);
            let Some(record) = machine::tag(self.replica.view(), &tag)? else {
                holes += 1;
                if holes > HOLES_MAX {
                    return Ok(());
                }
                continue;
            };
            let place = Place { index: record.index, tag, certified: record.index.0 < self.certified };
            match self.record(kind, place, record.ended, history) {
                Ok(()) => {}
                Err(Unreadable::Replica(error)) => return Err(error),
                Err(Unreadable::Why(why)) => {
                    history.problems.push(Problem { site: Some(site.clone()), index: Some(record.index), why });
                }
            }
        }
        let why = format!("more than {CHAIN_MAX} records of one kind; the rest is not shown");
        history.problems.push(Problem { site: Some(site.clone()), index: None, why });
        Ok(())
    }

    fn record(
        &self,
        kind: Kind,
        place: Place,
        ended: Option<LedgerIndex>,
        history: &mut History,
    ) -> Result<(), Unreadable> {
        let (body, sealed) = self.entry(place.index)?;
        let sealed = sealed.ok_or_else(|| Unreadable::Why("its content was erased".into()))?;
        let binding = Binding::tag(kind, Part::Details, &place.tag);
        match kind {
            v1::STUDY => {
                let details = self.key.open_format(binding, &StudySealed::from_bytes(&sealed)?.for_patient)?;
                history.studies.push(FoundStudy { place, details, ended });
            }
            v1::AMENDMENT => {
                let details = self.key.open_format(binding, &Sealed::from_bytes(&sealed)?)?;
                let of = AmendmentPublic::from_bytes(&body.public)?.of;
                history.amendments.push(FoundAmendment { place, of, details });
            }
            v1::LINK => {
                let public = LinkPublic::from_bytes(&body.public)?;
                let half = public.halves.iter().position(|half| half.tag == place.tag);
                let half = half.ok_or_else(|| Unreadable::Why("the link's half is not in its entry".into()))?;
                let details = self.key.open_format(binding, &LinkSealed::from_bytes(&sealed)?.halves[half])?;
                history.links.push(FoundLink { place, details, ended });
            }
            _ => {
                let details: ConsentDetails = self.key.open_format(binding, &Sealed::from_bytes(&sealed)?)?;
                let id = ConsentPublic::from_bytes(&body.public)?.consent;
                let known = machine::consent(self.replica.view(), &id).map_err(ReplicaError::from)?;
                let revoked = known.and_then(|known| known.revoked);
                history.consents.push(FoundConsent { place, details, revoked });
            }
        }
        Ok(())
    }

    fn entry(&self, index: LedgerIndex) -> Result<(CommandBody, Option<Vec<u8>>), Unreadable> {
        let entry =
            self.replica.entry(index)?.ok_or(ReplicaError::Corrupt { what: "an entry that the state names" })?;
        Ok((Leaf::from_bytes(&entry.leaf)?.command.body, entry.sealed))
    }
}
