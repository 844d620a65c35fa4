//! Taking a consent back, wherever the patient says so, and from when on every holder refuses.
//!
//! The patient's word counts here first: before anything is sent, it is durable that the consent opens nothing at
//! this site. Then it goes to the ledger. Only a node of the site that recorded a consent can revoke it there; at any
//! other site the same is reached by a *denial* with the same terms under the same number. A denial outranks grants
//! at every holder that finds it and needs no evidence: what is refused wrongly costs a question, what is sent wrongly
//! stays known. The denial is this site's, so this site can take it back when the patient wants it.
//!
//! Effective: nobody counts the holders' confirmations yet, so the bound is the freshness limit. A holder that does
//! not know of the revocation has no certificate dated after the moment of its certification, and sends nothing once
//! its newest certificate is older than the limit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use tessera_consensus::clock::CLOCK_SKEW_MS_MAX;
use tessera_consensus::kernel::{self, Rejection};
use tessera_consensus::{Lane, LedgerIndex};
use tessera_federation::machine::rejections;
use tessera_federation::machine::{self, ConsentRecord};
use tessera_federation::outbox::Draft;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, RevocationPublic};
use tessera_policy::{ConsentDecision, ConsentId, ConsentTerms, Identifier};
use tessera_storage::engine::{Batch, Ticket, wait_durable};

use super::Member;
use super::history::Person;
use super::lookups::{Asked, Occasion};
use super::registrar::matter_of_consent;
use super::vault::{Shelf, VaultError};
use crate::control::wire::{ConsentDone, ConsentRevokeCall};

/// The core's clocks may stand apart from each other, and the holder's from theirs.
const SKEW_MS: u64 = 2 * CLOCK_SKEW_MS_MAX;

/// The patient took this consent back here.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct RevokedHere {
    /// Why the ledger rejected the revocation.
    rejected: Option<u16>,
    /// Entries of the ledger, as far as it was here when the patient first said so.
    size: u64,
}

impl Member {
    pub async fn revoke(self: &Arc<Self>, call: ConsentRevokeCall) -> anyhow::Result<ConsentDone> {
        let consent: ConsentId =
            call.consent.parse().map_err(|_| anyhow::anyhow!("{} is no consent number", call.consent))?;
        match machine::consent(self.replica.view(), &consent)? {
            Some(known) if known.revoked.is_some() => {}
            Some(known) if self.may_revoke(&known)? => {
                self.refuse_here(consent, vec![Self::revocation_draft(consent)]).await?;
            }
            Some(known) => return self.deny_instead(consent, &known, &call).await,
            None => self.revoke_when_taken(consent).await?,
        }
        let mut done = self.await_consent(consent, true).await?;
        let own = self.sent_consent(&consent)?;
        done.denied = own.is_some_and(|own| own.details.terms.decision() == ConsentDecision::Deny);
        Ok(done)
    }

    /// Whether the ledger takes a revocation from this node: the rule of the machine.
    fn may_revoke(&self, known: &ConsentRecord) -> anyhow::Result<bool> {
        let author = kernel::node(self.replica.view(), &known.node)?;
        let sites = author.map(|author| author.join.join.sites).unwrap_or_default();
        Ok(known.node == self.node || sites.iter().any(|site| self.config.site.iter().any(|own| own.id == site.id)))
    }

    pub fn revocation_draft(consent: ConsentId) -> Draft {
        Draft {
            lane: Lane::Urgent,
            kind: v1::REVOCATION,
            public: RevocationPublic { version: v1::VERSION, consent }.to_bytes(),
            sealed: None,
            matter: matter_of_consent(consent, true),
        }
    }

    /// From here on the consent opens nothing at this site, whatever becomes of `drafts`; running transfers are
    /// decided again.
    async fn refuse_here(&self, consent: ConsentId, drafts: Vec<Draft>) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        self.put_revoked(&mut batch, &consent, None)?;
        let ticket = self.outbox.enqueue(drafts, batch)?;
        self.refused(ticket).await
    }

    async fn refused(&self, ticket: Ticket) -> anyhow::Result<()> {
        self.refusals.fetch_add(1, Ordering::Relaxed);
        self.announce_changes();
        self.wake_sender();
        self.durable(ticket).await
    }

    /// The grant is still on its way: its revocation follows it as soon as the ledger has it.
    pub(super) async fn revoke_when_taken(&self, consent: ConsentId) -> anyhow::Result<()> {
        let ticket = {
            let _writing = self.archive.writing();
            let sent = self.sent_consent(&consent)?;
            let mut sent = sent.with_context(|| format!("neither the ledger nor this node has a consent {consent}"))?;
            sent.revoke = true;
            let mut batch = Batch::new();
            self.vault.put(&mut batch, Shelf::ConsentsSent, consent.as_bytes(), &sent);
            self.put_revoked(&mut batch, &consent, None)?;
            self.archive.engine().submit(batch)?
        };
        self.refused(ticket).await
    }

    /// Another site recorded it: refuse here, and write this site's denial.
    async fn deny_instead(
        self: &Arc<Self>,
        consent: ConsentId,
        known: &ConsentRecord,
        call: &ConsentRevokeCall,
    ) -> anyhow::Result<ConsentDone> {
        self.refuse_here(consent, Vec::new()).await?;
        let author = self.author(known)?;
        let undone = |why: String| ConsentDone {
            consent: consent.to_string(),
            undone: vec![why, format!("other hospitals may still act on it: have it revoked at {author} as well")],
            ..ConsentDone::default()
        };
        let Some(id) = &call.id else {
            return Ok(undone(format!(
                "nothing was put into the ledger: {author} recorded it. Name the patient (--id), and this hospital \
                 records a denial that every hospital obeys"
            )));
        };
        let asked = Asked { occasion: Occasion::Revocation, user: &call.user };
        let person = match self.person(&Identifier::parse(id)?, asked).await {
            Ok(person) => person,
            Err(error) => return Ok(undone(format!("nothing was put into the ledger: {error:#}"))),
        };
        let found = person.found.consents.iter().find(|found| found.details.consent == consent);
        let Some((found, identifier)) = found.zip(person.consents_under.get(&consent)) else {
            return Ok(undone("nothing was put into the ledger: that patient has no such consent".into()));
        };
        ensure!(
            found.details.terms.decision() == ConsentDecision::Grant,
            "consent {consent} is a denial; what it forbids is allowed again only at {author}, which recorded it"
        );
        let terms = denial(&found.details.terms)?;
        let denial = match self.own_denial(&person, &terms) {
            Some(denial) => denial,
            None => match self.record_consent(identifier.clone(), terms, None).await {
                Ok(denial) => denial,
                Err(error) => {
                    return Ok(undone(format!(
                        "the denial was not recorded: {error:#}. This hospital refuses from now on, and no other does: \
                         say it again"
                    )));
                }
            },
        };
        let mut done = self.await_consent(denial, false).await?;
        if let Some(index) = done.ledger_index {
            (done.recorded_at, done.effective_at_latest) = self.bounds(&denial, LedgerIndex(index))?;
        }
        done.denial = Some(std::mem::replace(&mut done.consent, consent.to_string()));
        done.undone = vec![format!(
            "the consent itself stays in the ledger, for only {author} can revoke it; the denial outranks it"
        )];
        Ok(done)
    }

    /// This site's denial of the same, if it is in force: who asks twice gets the first answer.
    fn own_denial(&self, person: &Person, denial: &ConsentTerms) -> Option<ConsentId> {
        let same = person.found.consents.iter().find(|found| {
            let own = self.config.site.iter().any(|own| own.id == found.details.author);
            own && found.revoked.is_none() && found.details.terms == *denial
        });
        same.map(|found| found.details.consent)
    }

    /// The names of those who recorded a consent.
    fn author(&self, known: &ConsentRecord) -> anyhow::Result<String> {
        let author = kernel::node(self.replica.view(), &known.node)?;
        let sites = author.map(|author| author.join.join.sites).unwrap_or_default();
        Ok(sites.into_iter().map(|site| site.legal_name).collect::<Vec<_>>().join(", "))
    }

    pub fn is_revoked_here(&self, consent: &ConsentId) -> anyhow::Result<bool> {
        Ok(self.revoked_record(consent)?.is_some())
    }

    pub fn rejected_revocation(&self, consent: &ConsentId) -> anyhow::Result<Option<u16>> {
        Ok(self.revoked_record(consent)?.and_then(|record| record.rejected))
    }

    /// Entries that the ledger had here when the consent was first taken back at this site; `None`: it was not. What
    /// was decided on a longer ledger was decided without that consent, for it opens nothing any more.
    pub fn revoked_here_at(&self, consent: &ConsentId) -> anyhow::Result<Option<u64>> {
        Ok(self.revoked_record(consent)?.map(|record| record.size))
    }

    /// That there is a record is the patient's word, readable or not. One that can't be read (it is damaged, or of a
    /// version that kept no size) counts as made when this process began, so that it closes what was fetched before.
    fn revoked_record(&self, consent: &ConsentId) -> anyhow::Result<Option<RevokedHere>> {
        match self.vault.get(&**self.archive.engine(), Shelf::RevokedHere, consent.as_bytes()) {
            Err(VaultError::Damaged) => Ok(Some(RevokedHere { rejected: None, size: self.opened_size.0 })),
            read => Ok(read?),
        }
    }

    /// Saying it again moves nothing: what was fetched in between rests on another consent.
    fn put_revoked(&self, batch: &mut Batch, consent: &ConsentId, rejected: Option<u16>) -> anyhow::Result<()> {
        let known = self.revoked_record(consent)?;
        let size = known.map_or_else(|| self.replica.size().0, |known| known.size);
        self.vault.put(batch, Shelf::RevokedHere, consent.as_bytes(), &RevokedHere { rejected, size });
        Ok(())
    }

    /// The ledger has settled a revocation of this node.
    pub fn revocation_settled(&self, consent: ConsentId, outcome: Result<(), Rejection>) -> anyhow::Result<()> {
        let index = machine::consent(self.replica.view(), &consent)?.and_then(|record| record.revoked);
        match (outcome, index) {
            // Its first certificate is the newest one now, or nearly so.
            (Ok(()) | Err(rejections::ENDED_BEFORE), Some(index)) => self.bounds(&consent, index).map(drop),
            (Ok(()), None) => bail!("a revocation took effect that the state does not know"),
            (Err(rejection), _) => {
                let mut batch = Batch::new();
                self.put_revoked(&mut batch, &consent, Some(rejection.0))?;
                Ok(self.archive.submit(batch)?)
            }
        }
    }

    /// When the entry at `index`, which takes `consent` back or denies, was recorded, and from when on no holder acts
    /// against it, reachable or not. Nothing before it is certified.
    pub fn bounds(&self, consent: &ConsentId, index: LedgerIndex) -> anyhow::Result<(Option<String>, Option<String>)> {
        let newest = self.replica.certificate().filter(|certificate| certificate.checkpoint().size.contains(index));
        let Some(newest) = newest else { return Ok((None, None)) };
        let kept: Option<u64> = self.vault.get(&**self.archive.engine(), Shelf::RevocationTimes, consent.as_bytes())?;
        let recorded_ms = match kept {
            Some(recorded_ms) => recorded_ms,
            None => {
                let recorded_ms = newest.time().0;
                let mut batch = Batch::new();
                self.vault.put(&mut batch, Shelf::RevocationTimes, consent.as_bytes(), &recorded_ms);
                // What a patient was told must be told again.
                let engine = &**self.archive.engine();
                wait_durable(engine, engine.submit(batch)?)?;
                recorded_ms
            }
        };
        let effective_ms = recorded_ms.saturating_add(self.domain.freshness_limit_ms).saturating_add(SKEW_MS);
        Ok((Some(super::rfc3339(recorded_ms)), Some(super::rfc3339(effective_ms))))
    }
}

/// The denial of exactly what was granted.
fn denial(granted: &ConsentTerms) -> anyhow::Result<ConsentTerms> {
    let (grantee, studies, purposes) = (granted.grantee(), granted.studies(), granted.purposes());
    let (grantee, studies, purposes) = (grantee.clone(), studies.clone(), purposes.clone());
    Ok(ConsentTerms::new(ConsentDecision::Deny, grantee, studies, purposes, granted.not_after())?)
}
