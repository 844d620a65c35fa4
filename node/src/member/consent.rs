//! Consents: the patient's code, recording a grant, revoking it, listing what is in force.
//!
//! A code is handed to the patient by the site that holds the images; whoever records a grant elsewhere with it
//! proves to that site that the patient confirmed these very terms. A revocation goes on the urgent lane and counts
//! here at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tessera_consensus::{Lane, SiteId, UnixMillis};
use tessera_federation::blind::{Binding, Part};
use tessera_federation::confirmation::PatientCode;
use tessera_federation::history::{self, FoundConsent};
use tessera_federation::outbox::Draft;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, ConsentDetails, ConsentPublic, EvidenceProof, RevocationPublic};
use tessera_federation::{machine, policy_site, policy_time};
use tessera_policy::{
    ConsentDecision, ConsentId, ConsentTerms, Grantee, Identifier, Purpose, PurposeScope, StudyScope,
};
use tessera_storage::engine::Batch;

use super::Member;
use super::registrar::matter_of_nothing;
use super::vault::Shelf;
use crate::archive::ingest::now_ms;
use crate::control::wire::{ConsentCode, ConsentDone, ConsentGrantCall, ConsentRevokeCall, ConsentShown, IdCall};
use crate::founding::rng;

/// Days for which a patient's code stays good where the configuration says nothing.
const CODE_DAYS: u32 = 7;
const DAY_MS: u64 = 86_400_000;
/// How long a recorded consent or revocation is awaited before the answer says that it is on its way.
const CERTIFICATION_WAIT: Duration = Duration::from_secs(15);

#[derive(Serialize, Deserialize)]
struct KeptCode {
    code: [u8; 10],
    not_after_ms: u64,
}

impl Member {
    /// A fresh code for a patient of this site. An older one ends.
    pub fn patient_code(&self, call: &IdCall) -> anyhow::Result<ConsentCode> {
        let identifier = Identifier::parse(&call.id)?;
        let valid_days = self.config.policy.patient_code_days.unwrap_or(CODE_DAYS);
        let mut code = [0; 10];
        rand::rng().fill_bytes(&mut code);
        let kept = KeptCode { code, not_after_ms: now_ms() + u64::from(valid_days) * DAY_MS };
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Codes, &identifier.canonical_bytes(), &kept);
        self.archive.submit(batch)?;
        let site = &self.config.default_site().id;
        Ok(ConsentCode { code: format!("{site}/{}", PatientCode::from_bytes(code).reveal()), valid_days })
    }

    /// The code that a patient with any of these numbers was handed here, if it is still good.
    pub fn good_code(
        &self,
        identifiers: &[Identifier],
        recorded_at: UnixMillis,
    ) -> anyhow::Result<Option<PatientCode>> {
        for identifier in identifiers {
            let kept: Option<KeptCode> =
                self.vault.get(&**self.archive.engine(), Shelf::Codes, &identifier.canonical_bytes())?;
            if let Some(kept) = kept.filter(|kept| recorded_at.0 <= kept.not_after_ms) {
                return Ok(Some(PatientCode::from_bytes(kept.code)));
            }
        }
        Ok(None)
    }

    pub async fn grant(self: &Arc<Self>, call: ConsentGrantCall) -> anyhow::Result<ConsentDone> {
        let identifier = Identifier::parse(&call.id)?;
        let grantee: SiteId = call.to_site.parse()?;
        ensure!(self.knows_site(&grantee)?, "{grantee} is no site of this federation");
        let purpose: Purpose = call.purpose.parse().map_err(|_| anyhow::anyhow!("{} is no purpose", call.purpose))?;
        let now = UnixMillis(now_ms());
        let terms = ConsentTerms::new(
            ConsentDecision::Grant,
            Grantee::Site(policy_site(&grantee)),
            StudyScope::All,
            PurposeScope::Only(BTreeSet::from([purpose])),
            Some(policy_time(now.plus_ms(u64::from(call.days) * DAY_MS))),
        )?;
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let consent = ConsentId::from_bytes(id);
        let proof = self.proof(call.patient_code.as_deref(), &consent, &terms)?;
        let site = self.config.default_site().id.clone();
        let details = ConsentDetails {
            version: v1::VERSION,
            consent,
            terms,
            author: site.clone(),
            evidence: proof.class(),
            proof,
            recorded_at: now,
        };
        details.validate()?;
        self.record_consent(&identifier, &site, details).await?;
        self.await_consent(consent, false).await
    }

    /// A code is written `SITE/CODE`: the site that handed it out is the one that can judge it.
    fn proof(&self, code: Option<&str>, consent: &ConsentId, terms: &ConsentTerms) -> anyhow::Result<EvidenceProof> {
        let Some(code) = code else { return Ok(EvidenceProof::Attestation) };
        let (site, code) =
            code.split_once('/').context("a patient's code is written SITE/CODE, as it was handed out")?;
        let site: SiteId = site.trim().parse()?;
        ensure!(self.knows_site(&site)?, "{site} is no site of this federation");
        Ok(code.parse::<PatientCode>()?.confirm(&site, consent, terms))
    }

    async fn record_consent(
        self: &Arc<Self>,
        identifier: &Identifier,
        site: &SiteId,
        details: ConsentDetails,
    ) -> anyhow::Result<()> {
        let key = self.writing_key(identifier).await?;
        let _writing = self.archive.writing();
        let free = history::next_free(&self.replica, &key, site, v1::CONSENT, &|tag| self.is_reserved(tag))?;
        let presence = free.presence.map(|tag| history::presence(&key, v1::CONSENT, site, tag, &mut rng()));
        let public = ConsentPublic { version: v1::VERSION, consent: details.consent, tag: free.tag, presence };
        let sealed = key.seal_format(Binding::tag(v1::CONSENT, Part::Details, &free.tag), &details, &mut rng());
        let draft = Draft {
            lane: Lane::Bulk,
            kind: v1::CONSENT,
            public: public.to_bytes(),
            sealed: Some(sealed.to_bytes()),
            matter: matter_of_nothing(),
        };
        self.reserve(&free);
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Consents, details.consent.as_bytes(), identifier);
        self.outbox.enqueue(vec![draft], batch)?;
        self.wake_sender();
        Ok(())
    }

    pub async fn revoke(self: &Arc<Self>, call: ConsentRevokeCall) -> anyhow::Result<ConsentDone> {
        let consent: ConsentId =
            call.consent.parse().map_err(|_| anyhow::anyhow!("{} is no consent number", call.consent))?;
        let known = machine::consent(self.replica.view(), &consent)?;
        let known = known.with_context(|| format!("the ledger has no consent {consent}"))?;
        ensure!(known.revoked.is_none(), "consent {consent} was revoked before");
        let public = RevocationPublic { version: v1::VERSION, consent };
        let draft = Draft {
            lane: Lane::Urgent,
            kind: v1::REVOCATION,
            public: public.to_bytes(),
            sealed: None,
            matter: matter_of_nothing(),
        };
        self.revoked_here(consent);
        self.outbox.enqueue(vec![draft], Batch::new())?;
        self.wake_sender();
        self.await_consent(consent, true).await
    }

    /// Waits a while for the certificate; the answer says how far it came.
    async fn await_consent(&self, consent: ConsentId, revoked: bool) -> anyhow::Result<ConsentDone> {
        let mut progress = self.progress.subscribe();
        let deadline = tokio::time::Instant::now() + CERTIFICATION_WAIT;
        loop {
            let record = machine::consent(self.replica.view(), &consent)?;
            let index = record.and_then(|record| if revoked { record.revoked } else { Some(record.index) });
            let certified = index.is_some_and(|index| self.is_certified(index));
            let done = ConsentDone {
                consent: consent.to_string(),
                ledger_index: index.map(|index| index.0),
                certified,
                effective: None,
            };
            if certified || tokio::time::timeout_at(deadline, progress.changed()).await.is_err() {
                return Ok(done);
            }
        }
    }

    pub async fn consents(&self, call: IdCall) -> anyhow::Result<Vec<ConsentShown>> {
        let person = self.person(&Identifier::parse(&call.id)?, false).await?;
        Ok(person.found.consents.iter().map(|consent| self.shown(consent)).collect())
    }

    fn shown(&self, consent: &FoundConsent) -> ConsentShown {
        let terms = &consent.details.terms;
        let to_site = match terms.grantee() {
            Grantee::Site(site) => site.to_string(),
            Grantee::AllTreatingSites => "all treating sites".into(),
        };
        let purposes = match terms.purposes() {
            PurposeScope::Any => vec!["any".into()],
            PurposeScope::Only(purposes) => purposes.iter().map(ToString::to_string).collect(),
        };
        let state = match (consent.revoked, consent.place.certified) {
            (Some(index), _) if self.is_certified(index) => "revoked",
            (Some(_), _) => "revoked, not certified yet",
            (None, true) => "in force",
            (None, false) => "not certified yet",
        };
        ConsentShown {
            consent: consent.details.consent.to_string(),
            decision: terms.decision().to_string(),
            to_site,
            purposes,
            recorded_by: consent.details.author.to_string(),
            evidence: consent.details.evidence.to_string(),
            until: terms.not_after().map(|time| super::rfc3339(time.as_u64())),
            state: state.into(),
        }
    }
}
