//! This node as a holder: what the rules say to a request for its own examinations, and the disclosure written first.
//!
//! The decision rests on the catalogue's own facts and on the consents under all of the patient's numbers that this
//! node knows. A consent's evidence is what *this* node could verify: a patient's confirmation only with the code
//! that this site handed out (DESIGN section 7).

use std::collections::BTreeSet;

use tessera_consensus::SiteId;
use tessera_federation::history::FoundConsent;
use tessera_federation::{policy_site, policy_time};
use tessera_policy::{
    Action, Circumstances, Decision, DurationMs, EvidenceClass, Freshness, Identifier, KnownConsent, Modality, Purpose,
    ReleaseState, Request, Resource, Standing, StudyFacts, Uid, UserAssertion, VisibilityClass,
};

use super::Member;
use super::registrar::Registration;
use crate::archive::catalogue;

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

    /// Every consent that concerns the patient, judged by this node.
    async fn known_consents(&self, identifiers: &[Identifier]) -> anyhow::Result<Vec<KnownConsent>> {
        let mut known = Vec::new();
        let mut seen = BTreeSet::new();
        for identifier in identifiers {
            let person = self.person(identifier, true).await?;
            // What can't be read could be a denial.
            anyhow::ensure!(
                person.missing.is_empty(),
                "the patient's consents could not all be read: {:?}",
                person.missing
            );
            for consent in &person.found.consents {
                if seen.insert(consent.details.consent) {
                    known.push(self.judged(consent, identifiers)?);
                }
            }
        }
        Ok(known)
    }

    fn judged(&self, consent: &FoundConsent, identifiers: &[Identifier]) -> anyhow::Result<KnownConsent> {
        let details = &consent.details;
        let here = self.config.site.iter().map(|site| &site.id);
        let own = here.clone().any(|site| *site == details.author);
        let code = self.good_code(identifiers, details.recorded_at)?;
        let confirmed = code.is_some_and(|code| {
            here.clone().any(|site| code.confirms(site, &details.consent, &details.terms, &details.proof))
        });
        let evidence = match (confirmed, own) {
            (true, _) => Some(EvidenceClass::PatientConfirmation),
            // A class that the author claims without proof counts for what the author's own staff can attest.
            (false, true) => Some(details.evidence.min(EvidenceClass::SignedForm)),
            (false, false) => None,
        };
        let standing = |index| if self.is_certified(index) { Standing::Certified } else { Standing::Recorded };
        let revocation = consent.revoked.map(standing);
        let revocation = revocation.or_else(|| self.is_revoked_here(&details.consent).then_some(Standing::Recorded));
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
    pub async fn decide(&self, question: &Question) -> anyhow::Result<Decision> {
        let Registration { study, site, .. } = &question.registration;
        let record = catalogue::study(&**self.archive.engine(), study)?;
        let modalities = record.map(|record| record.modalities).unwrap_or_default();
        let identifiers = self.own_identifiers(&question.registration)?;
        let consents = self.known_consents(&identifiers).await?;
        let (now, age) = match self.trusted() {
            Ok((now, age)) => (now, age),
            Err(_) => (tessera_consensus::UnixMillis(crate::archive::ingest::now_ms()), None),
        };
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
        Ok(self.rules.decide(&request))
    }
}
