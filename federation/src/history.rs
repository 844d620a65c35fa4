//! What an identifier key finds in a replica: a patient's records at all sites, from local data alone.
//!
//! The presence chain names the sites that have something under the key; then each site's own chains are walked.
//! The cost is what the patient has, not what the federation has. Nothing is left out silently: a record that does
//! not open, or a chain that is longer than the bound, is a [`Problem`] that the page shows.
//!
//! Who holds an identifier key can write anything under it. So a record counts for a site only when the node that
//! signed it speaks for that site, and an amendment only when it names the study that it was signed for; whatever
//! else lies in a chain is a problem with the name of its writer, and changes nothing ([`problem`](Problem)). Bounds
//! count what a site's own nodes put into its own chain: what others put there is passed over, so that nobody closes
//! somebody else's chain, as long as they have not filled [`PLACES_MAX`] places of it; whoever took most is named then.
//!
//! Chains may have holes for a short while, because a writer that lost a race takes the number again: up to
//! [`HOLES_MAX`] free numbers are passed over before a chain is taken to end.

mod places;
mod problem;

pub use places::{NextFree, PlaceError, next_free, places, presence};
pub use problem::{AuthorFault, Cause, Problem, Unread};

use std::cell::RefCell;
use std::collections::BTreeMap;

use tessera_consensus::replica::{Moment, Replica, ReplicaError};
use tessera_consensus::wire::v1::{CommandBody, Kind, Leaf};
use tessera_consensus::{LedgerIndex, NodeId, SiteId, kernel};
use tessera_policy::{Identifier, ReleaseEvent, ReleaseState};

use crate::blind::{Binding, Chain, IdentifierKey, OpenError, Part};
use crate::ids::RecordId;
use crate::machine::{self, TagRecord};
use crate::wire::v1::{
    self, AmendmentDetails, AmendmentPublic, ConsentDetails, ConsentPublic, LinkDetails, LinkPublic, LinkSealed,
    Sealed, StudyDetails, StudySealed, Tag,
};
use crate::wire::{DecodeError, Format};

/// Free numbers in a row that are passed over.
pub const HOLES_MAX: u64 = 4;
/// Records of a site in one chain of its own; a person has hundreds at most.
pub const CHAIN_MAX: u64 = 4096;
/// Places of one chain that are looked at, whoever took them: a lookup ends, though it may take seconds then.
pub const PLACES_MAX: u64 = 65_536;
/// Faults of one author in one chain that are told one by one; the rest would say the same.
pub const FAULTS_TOLD_MAX: usize = 8;
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
    /// The holder took the examination back.
    pub withdrawn: Option<LedgerIndex>,
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
        let mut newest: BTreeMap<(&SiteId, RecordId), &FoundStudy> = BTreeMap::new();
        for study in self.studies.iter().filter(|study| study.ended.is_none() && study.withdrawn.is_none()) {
            let place = (&study.details.site, study.details.record);
            let newer = newest.get(&place).is_none_or(|known| known.details.revision < study.details.revision);
            if newer {
                newest.insert(place, study);
            }
        }
        let mut current: Vec<&FoundStudy> = newest.into_values().collect();
        current.sort_by_key(|study| study.place.index);
        current
    }

    /// The amendments of a study record in the order of the ledger, those of its earlier revisions included.
    pub fn amendments_of(&self, study: &FoundStudy) -> Vec<&FoundAmendment> {
        let of = |amendment: &&FoundAmendment| {
            amendment.details.record == study.details.record && amendment.details.site == study.details.site
        };
        let mut amendments: Vec<&FoundAmendment> = self.amendments.iter().filter(of).collect();
        amendments.sort_by_key(|amendment| amendment.place.index);
        amendments
    }

    /// Where an open record stands now: its own state, and what was amended since. `None` when the record doesn't
    /// show its state.
    pub fn state_of(&self, study: &FoundStudy) -> Option<ReleaseState> {
        let registered = study.details.shown.as_ref()?.state;
        if study.withdrawn.is_some() {
            return Some(ReleaseState::Withdrawn);
        }
        let later = self.amendments_of(study).into_iter().filter(|amendment| amendment.place.index > study.place.index);
        let state = later.fold(registered, |state, amendment| {
            // What the state does not allow changes nothing: releasing twice is no error of the reader's.
            state.next(ReleaseEvent::Amended(amendment.details.change.kind())).unwrap_or(state)
        });
        Some(state)
    }

    /// The person's other identifiers, by links that hold. Each needs keys of its own.
    pub fn linked(&self) -> Vec<&Identifier> {
        let mut linked: Vec<&Identifier> =
            self.links.iter().filter(|link| link.ended.is_none()).map(|link| &link.details.other).collect();
        linked.sort();
        linked.dedup();
        linked
    }

    /// Keeps the amendments that name a study record of theirs; the others are problems. The machine lets a node
    /// amend its own study records only.
    fn match_amendments(&mut self, moment: &Moment) -> Result<(), ReplicaError> {
        let amendments = std::mem::take(&mut self.amendments);
        for amendment in amendments {
            let FoundAmendment { place, of, details } = &amendment;
            let theirs = |study: &FoundStudy| {
                study.place.tag == *of && study.details.record == details.record && study.details.site == details.site
            };
            if self.studies.iter().any(theirs) {
                self.amendments.push(amendment);
                continue;
            }
            let amended = machine::tag(moment.view(), of)?.map(|record| record.index);
            let unread = |problem: &Problem| problem.index == amended && problem.may_hide_something();
            let cause = match amended.is_some() && self.problems.iter().any(unread) {
                true => Cause::Unread(Unread::Amended),
                false => problem::blame(moment, place.index, AuthorFault::AmendsAnother)?,
            };
            self.problems.push(Problem { site: Some(details.site.clone()), index: Some(place.index), cause });
        }
        Ok(())
    }

    fn take(&mut self, other: History) {
        self.studies.extend(other.studies);
        self.amendments.extend(other.amendments);
        self.links.extend(other.links);
        self.consents.extend(other.consents);
        self.problems.extend(other.problems);
    }
}

/// Walks all chains of all `keys` (one identifier's years, and those of linked identifiers), at one moment of the
/// ledger: a record that moves meanwhile from one chain to another would be missing, or its author blamed.
pub fn look_up(replica: &Replica, keys: &[IdentifierKey]) -> Result<History, ReplicaError> {
    let (moment, mut history, authors) = (&replica.moment(), History::default(), Authors::default());
    let certified = moment.certificate().map_or(0, |certificate| certificate.checkpoint().size.0);
    for key in keys {
        history.take(Walk { moment, key, certified, authors: &authors }.all()?);
    }
    history.match_amendments(moment)?;
    Ok(history)
}

/// Who took the places of one chain.
#[derive(Default)]
struct Takers(BTreeMap<NodeId, Taken>);

#[derive(Default)]
struct Taken {
    places: u64,
    told: usize,
}

impl Takers {
    fn note(&mut self, author: NodeId) {
        self.0.entry(author).or_default().places += 1;
    }

    fn tell(&mut self, problems: &mut Vec<Problem>, problem: Problem) {
        if let Cause::Author { author, .. } = &problem.cause {
            if self.is_told(author) {
                return;
            }
            self.0.entry(*author).or_default().told += 1;
        }
        problems.push(problem);
    }

    /// Whether as much as is told of an author's faults is told.
    fn is_told(&self, author: &NodeId) -> bool {
        self.0.get(author).is_some_and(|taken| taken.told >= FAULTS_TOLD_MAX)
    }

    /// That a chain is longer than is read.
    fn too_many(&self) -> Cause {
        let most = self.0.iter().max_by_key(|(_, taken)| taken.places).map(|(author, _)| *author);
        Cause::Unread(Unread::ChainTooLong { most })
    }
}

/// The sites for which the nodes met so far speak: few nodes sign all of a patient's records.
type Authors = RefCell<BTreeMap<NodeId, Vec<SiteId>>>;

struct Walk<'a> {
    moment: &'a Moment,
    key: &'a IdentifierKey,
    certified: u64,
    authors: &'a Authors,
}

/// Why one record could not be shown.
enum Unreadable {
    Replica(ReplicaError),
    Here(Unread),
    Written(AuthorFault),
}

impl From<ReplicaError> for Unreadable {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(error)
    }
}

impl From<OpenError> for Unreadable {
    fn from(error: OpenError) -> Self {
        Self::Written(AuthorFault::Unreadable(error))
    }
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        OpenError::from(error).into()
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

    /// The sites of the presence chain, and the chain's first free tag, if it has one that is read.
    fn presences(
        &self,
        reserved: &dyn Fn(&Tag) -> bool,
        problems: &mut Vec<Problem>,
    ) -> Result<(Vec<SiteId>, Option<Tag>), ReplicaError> {
        let (mut sites, mut free, mut holes, mut takers) = (Vec::new(), None, 0, Takers::default());
        for counter in 0..PLACES_MAX {
            let tag = self.key.tag(Chain::Presence, counter);
            let Some(index) = machine::presence(self.moment.view(), &tag)? else {
                if !reserved(&tag) {
                    free = free.or(Some(tag));
                }
                holes += 1;
                if holes > HOLES_MAX && free.is_some() {
                    break;
                }
                continue;
            };
            holes = 0;
            let (body, _) = self.entry(index)?;
            takers.note(body.stream.node);
            match self.presence_site(&body, &tag) {
                Ok(site) if !sites.contains(&site) => sites.push(site),
                Ok(_) => {}
                Err(why) => takers.tell(problems, self.problem(None, index, why)?),
            }
        }
        if holes <= HOLES_MAX {
            // A site that comes later could be anywhere behind, with a denial: what was not read may not be passed over.
            problems.push(Problem { site: None, index: None, cause: takers.too_many() });
        }
        Ok((sites, free))
    }

    fn presence_site(&self, body: &CommandBody, tag: &Tag) -> Result<SiteId, Unreadable> {
        let presence = places::of(body.kind, &body.public)?.presences.into_iter().find(|presence| presence.tag == *tag);
        // The state has the presence from this very entry.
        let presence = presence.ok_or(Unreadable::Here(Unread::Damaged))?;
        let site = self.key.open(Binding::tag(body.kind, Part::PresenceSite, tag), &presence.site)?;
        let site = String::from_utf8_lossy(&site).into_owned();
        let site = SiteId::try_from(site).map_err(|_| Unreadable::Written(AuthorFault::NoSite))?;
        self.check_author(body, &site)?;
        Ok(site)
    }

    /// That the node which signed the entry speaks for the site in whose name it wrote.
    fn check_author(&self, body: &CommandBody, site: &SiteId) -> Result<(), Unreadable> {
        match self.speaks_for(&body.stream.node, site)? {
            true => Ok(()),
            false => Err(Unreadable::Written(AuthorFault::ForeignSite(site.clone()))),
        }
    }

    fn speaks_for(&self, author: &NodeId, site: &SiteId) -> Result<bool, ReplicaError> {
        if let Some(sites) = self.authors.borrow().get(author) {
            return Ok(sites.contains(site));
        }
        let declared = kernel::node(self.moment.view(), author)?.map(|node| node.join.join.sites).unwrap_or_default();
        let sites: Vec<SiteId> = declared.into_iter().map(|declared| declared.id).collect();
        let speaks = sites.contains(site);
        self.authors.borrow_mut().insert(*author, sites);
        Ok(speaks)
    }

    fn chain(&self, site: &SiteId, kind: Kind, history: &mut History) -> Result<(), ReplicaError> {
        let (mut holes, mut own, mut takers) = (0, 0, Takers::default());
        for counter in 0..PLACES_MAX {
            let tag = self.key.tag(Chain::Site { site, kind }, counter);
            let Some(record) = machine::tag(self.moment.view(), &tag)? else {
                holes += 1;
                if holes > HOLES_MAX {
                    return Ok(());
                }
                continue;
            };
            holes = 0;
            takers.note(record.node);
            let is_own = self.speaks_for(&record.node, site)?;
            own += u64::from(is_own);
            if own > CHAIN_MAX {
                break;
            }
            // The state is certified; what is told already needs no other proof.
            if !is_own && takers.is_told(&record.node) {
                continue;
            }
            if let Err(why) = self.record(site, kind, tag, &record, history) {
                takers.tell(&mut history.problems, self.problem(Some(site), record.index, why)?);
            }
        }
        history.problems.push(Problem { site: Some(site.clone()), index: None, cause: takers.too_many() });
        Ok(())
    }

    fn problem(&self, site: Option<&SiteId>, index: LedgerIndex, why: Unreadable) -> Result<Problem, ReplicaError> {
        let cause = match why {
            Unreadable::Replica(error) => return Err(error),
            Unreadable::Here(unread) => Cause::Unread(unread),
            Unreadable::Written(fault) => problem::blame(self.moment, index, fault)?,
        };
        Ok(Problem { site: site.cloned(), index: Some(index), cause })
    }

    fn record(
        &self,
        site: &SiteId,
        kind: Kind,
        tag: Tag,
        known: &TagRecord,
        history: &mut History,
    ) -> Result<(), Unreadable> {
        let place = Place { index: known.index, tag, certified: known.index.0 < self.certified };
        let (body, sealed) = self.entry(place.index)?;
        self.check_author(&body, site)?;
        if body.kind != kind {
            return Err(Unreadable::Written(AuthorFault::OtherKind));
        }
        // The machine takes no record without a body.
        let sealed = sealed.ok_or(Unreadable::Here(Unread::BodyMissing))?;
        let binding = Binding::tag(kind, Part::Details, &place.tag);
        let (ended, withdrawn) = (known.ended, known.withdrawn);
        match kind {
            v1::STUDY => {
                let details: StudyDetails =
                    self.key.open_format(binding, &StudySealed::from_bytes(&sealed)?.for_patient)?;
                agrees("site", details.site == *site)?;
                history.studies.push(FoundStudy { place, details, ended, withdrawn });
            }
            v1::AMENDMENT => {
                let details: AmendmentDetails = self.key.open_format(binding, &Sealed::from_bytes(&sealed)?)?;
                let public = AmendmentPublic::from_bytes(&body.public)?;
                agrees("site", details.site == *site)?;
                agrees("kind", details.change.kind().number() == public.kind)?;
                history.amendments.push(FoundAmendment { place, of: public.of, details });
            }
            v1::LINK => {
                let public = LinkPublic::from_bytes(&body.public)?;
                let half = public.halves.iter().position(|half| half.tag == place.tag);
                let half = half.ok_or(Unreadable::Here(Unread::Damaged))?;
                let details: LinkDetails =
                    self.key.open_format(binding, &LinkSealed::from_bytes(&sealed)?.halves[half])?;
                agrees("site", details.site == *site)?;
                history.links.push(FoundLink { place, details, ended });
            }
            _ => {
                let details: ConsentDetails = self.key.open_format(binding, &Sealed::from_bytes(&sealed)?)?;
                let id = ConsentPublic::from_bytes(&body.public)?.consent;
                agrees("author", details.author == *site)?;
                // A revocation names the public id; under another one the consent could not be revoked.
                agrees("id", details.consent == id)?;
                let known = machine::consent(self.moment.view(), &id).map_err(ReplicaError::from)?;
                let revoked = known.and_then(|known| known.revoked);
                history.consents.push(FoundConsent { place, details, revoked });
            }
        }
        Ok(())
    }

    fn entry(&self, index: LedgerIndex) -> Result<(CommandBody, Option<Vec<u8>>), ReplicaError> {
        let entry = self.moment.entry(index)?.ok_or(ReplicaError::Corrupt { what: "an entry that the state names" })?;
        Ok((Leaf::from_bytes(&entry.leaf)?.command.body, entry.sealed))
    }
}

/// What is sealed must say the same as what is public and as the chain that it lies in.
fn agrees(what: &'static str, agrees: bool) -> Result<(), Unreadable> {
    if agrees { Ok(()) } else { Err(Unreadable::Written(AuthorFault::Contradiction(what))) }
}
