//! This node as a holder: what the rules say to a request for its own examinations, and the disclosure written first.
//!
//! The decision rests on the catalogue's own facts and on the consents under the patient's numbers. Invariants:
//! 1. Only numbers count that this site itself knows for the patient: the registration's, the own crosswalk's, and
//!    those that this site linked. Any member can write a link; one that counted would lend a stranger's consent.
//! 2. A consent's evidence is what *this* node could verify: a patient's confirmation only with a code that this site
//!    handed out, for what the patient agreed to, and for one consent (DESIGN section 7).
//! 3. A denial counts whoever recorded it and with whatever evidence: what is refused wrongly costs a question, what
//!    is sent wrongly stays known.
//! 4. What this replica has not read could be a denial, and is refused like one. What its author wrote so that nobody
//!    can read it is none (`federation`, `history`): a member cannot close a patient by writing rubbish, only by a
//!    denial, which says who wrote it.

use std::collections::{BTreeSet, VecDeque};

use tessera_consensus::{SiteId, UnixMillis};
use tessera_federation::history::{self, FoundConsent};
use tessera_federation::{policy_site, policy_time};
use tessera_policy::{
    Action, Circumstances, Decision, DurationMs, EvidenceClass, Freshness, Identifier, KnownConsent, Modality, Purpose,
    ReleaseState, Request, Resource, Standing, StudyFacts, Uid, UserAssertion, VisibilityClass,
};

use super::Member;
use super::history::IDENTIFIERS_MAX;
use super::registrar::Registration;
use crate::archive::catalogue;

/// The rules' answer, and until when it can stand at the latest.
pub struct Decided {
    pub decision: Decision,
    /// When the first of the patient's consents ends: then it is decided again.
    pub until: Option<UnixMillis>,
}

/// Who asks for what.
pub struct Question {
    pub user: UserAssertion,
    pub requester: SiteId,
    pub purpose: Purpose,
    pub registration: Registration,
}

impl Member {
    /// All numbers that this node knows of the patient of a registration.
    fn own_identifiers(&self, registration: &Registration) -> anyhow::Result<Vec<Identifier>> {
        let mut identifiers = vec![registration.identifier.clone()];
        if let Some(study) = catalogue::study(&**self.archive.engine(), &registration.study)? {
            let resolution = self.resolve(&study.description)?;
            identifiers.push(resolution.local);
            identifiers.extend(resolution.linked);
        }
        identifiers.sort();
        identifiers.dedup();
        Ok(identifiers)
    }

    pub(super) fn is_own(&self, site: &SiteId) -> bool {
        self.config.site.iter().any(|own| own.id == *site)
    }

    /// Every consent that concerns the patient, and the numbers under which they were looked for.
    async fn own_consents(&self, own: Vec<Identifier>) -> anyhow::Result<(Vec<Identifier>, Vec<FoundConsent>)> {
        let mut identifiers: BTreeSet<Identifier> = own.iter().cloned().collect();
        let mut queue = VecDeque::from(own);
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some(identifier) = queue.pop_front() {
            let keys = self.keys_of(&identifier, true).await?;
            let history = history::look_up(&self.replica, &keys)?;
            self.note_unreadable(&history.problems);
            // Invariant 4.
            let unread = history.problems.iter().find(|problem| problem.may_hide_something());
            anyhow::ensure!(unread.is_none(), "the patient's consents could not all be read: {unread:?}");
            let linked_here =
                history.links.iter().filter(|link| link.ended.is_none() && self.is_own(&link.details.site));
            for link in linked_here {
                if identifiers.len() < IDENTIFIERS_MAX && identifiers.insert(link.details.other.clone()) {
                    queue.push_back(link.details.other.clone());
                }
            }
            found.extend(history.consents.into_iter().filter(|consent| seen.insert(consent.details.consent)));
        }
        Ok((identifiers.into_iter().collect(), found))
    }

    /// Every consent that concerns the patient, judged by this node.
    pub(super) async fn known_consents(&self, own: Vec<Identifier>) -> anyhow::Result<Vec<KnownConsent>> {
        let (identifiers, found) = self.own_consents(own).await?;
        let confirmed = self.confirmed_consents(&identifiers, &found)?;
        found.iter().map(|consent| self.judged(consent, confirmed.contains(&consent.details.consent))).collect()
    }

    fn judged(&self, consent: &FoundConsent, confirmed: bool) -> anyhow::Result<KnownConsent> {
        let details = &consent.details;
        let evidence = match (confirmed, self.is_own(&details.author)) {
            (true, _) => Some(EvidenceClass::PatientConfirmation),
            // A class that the author claims without proof counts for what the author's own staff can attest.
            (false, true) => Some(details.evidence.min(EvidenceClass::SignedForm)),
            (false, false) => None,
        };
        let standing = |index| if self.is_certified(index) { Standing::Certified } else { Standing::Recorded };
        let revocation = match consent.revoked.map(standing) {
            None if self.is_revoked_here(&details.consent)? => Some(Standing::Recorded),
            revocation => revocation,
        };
        Ok(KnownConsent {
            id: details.consent,
            author: policy_site(&details.author),
            evidence,
            terms: details.terms.clone(),
            standing: standing(consent.place.index),
            revocation,
        })
    }

    /// The rules' answer. Refusing is the default: an error is a refusal too, for the caller.
    pub async fn decide(&self, question: &Question) -> anyhow::Result<Decided> {
        anyhow::ensure!(!self.replica.is_diverged(), "this node's ledger is not the federation's");
        let Registration { study, site, .. } = &question.registration;
        let record = catalogue::study(&**self.archive.engine(), study)?;
        let modalities = record.map(|record| record.modalities).unwrap_or_default();
        let identifiers = self.own_identifiers(&question.registration)?;
        let consents = self.known_consents(identifiers).await?;
        let (now, age) = match self.trusted() {
            Ok((now, age)) => (now, age),
            Err(_) => (UnixMillis(crate::archive::ingest::now_ms()), None),
        };
        let ends = consents.iter().filter_map(|consent| consent.terms.not_after());
        let until = ends.map(|end| UnixMillis(end.as_u64())).filter(|end| *end >= now).min();
        let request = Request {
            principal: question.user.clone(),
            requester: policy_site(&question.requester),
            action: Action::Fetch,
            resource: Resource::Study(StudyFacts {
                study: Uid::parse(study)?,
                holder: policy_site(site),
                modalities: modalities.iter().filter_map(|text| Modality::parse(text).ok()).collect(),
                visibility: VisibilityClass::Open,
                state: ReleaseState::Released,
                marks: BTreeSet::new(),
                rejected: None,
            }),
            circumstances: Circumstances {
                purpose: question.purpose,
                ground: None,
                consents,
                contract_purposes: BTreeSet::new(),
                break_glass: None,
                freshness: Freshness {
                    age: age.map(DurationMs::new),
                    limit: DurationMs::new(self.domain.freshness_limit_ms),
                },
                now: policy_time(now),
            },
        };
        Ok(Decided { decision: self.rules.decide(&request), until })
    }
}
