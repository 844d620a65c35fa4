//! Consents: recording a grant or a denial until the ledger has taken it, and listing what is in force.
//!
//! A code is handed to the patient by the site that holds the images (`codes`); whoever records a grant elsewhere
//! with it proves to that site that the patient confirmed these very terms. What this node wrote is kept until the
//! ledger has certified it: a place that another took is tried again with the next one, and what is rejected
//! otherwise is told, never "recorded".
//! Not here: taking a consent back, which is `revocation`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::Rejection;
use tessera_consensus::{Lane, SiteId, UnixMillis};
use tessera_federation::blind::{Binding, IdentifierKey, Part};
use tessera_federation::confirmation::PatientCode;
use tessera_federation::history::{self, FoundConsent, NextFree, PlaceError};
use tessera_federation::machine::rejections;
use tessera_federation::outbox::{Draft, OutboxError};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, ConsentDetails, ConsentPublic, EvidenceProof};
use tessera_federation::{machine, policy_site, policy_time};
use tessera_policy::{
    ConsentDecision, ConsentId, ConsentTerms, Grantee, Identifier, Purpose, PurposeScope, StudyScope,
};
use tessera_storage::engine::{Batch, Ticket};

use super::again::is_of_a_broken_disk;
use super::lookups::{Asked, Occasion};
use super::registrar::matter_of_consent;
use super::vault::Shelf;
use super::{Member, locked};
use crate::control::wire::{ConsentDone, ConsentGrantCall, ConsentShown, IdCall};
use crate::founding::rng;

pub const DAY_MS: u64 = 86_400_000;
/// The longest that a grant is given for; who wants more says so again after ten years.
const DAYS_MAX: u32 = 3_660;
/// How long a recorded consent or revocation is awaited before the answer says that it is on its way.
const CERTIFICATION_WAIT: Duration = Duration::from_secs(15);
/// How often what became of it is looked at, beside each progress of the ledger.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Consents of this node that wait for the ledger and are looked through.
pub(super) const SENT_MAX: usize = 100_000;

/// What this node wrote, until the ledger has taken it.
#[derive(Serialize, Deserialize)]
pub struct SentConsent {
    pub identifier: Identifier,
    pub details: ConsentDetails,
    pub state: SentState,
    /// The patient took it back before the ledger had it.
    pub revoke: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SentState {
    /// In the outbox.
    Waiting,
    /// Its place was taken by another; it is to be written with the next one.
    Again,
    /// The ledger took it under no place, for the reason of this number.
    Rejected(u16),
}

/// When a grant that is given for so many days ends.
pub fn end_of_grant(from: UnixMillis, days: u32) -> anyhow::Result<UnixMillis> {
    ensure!((1..=DAYS_MAX).contains(&days), "a grant is given for 1 to {DAYS_MAX} days");
    Ok(from.plus_ms(u64::from(days) * DAY_MS))
}

/// A grant of one purpose to one site of the federation.
pub fn granting(member: &Member, to_site: &str, purpose: &str, end: UnixMillis) -> anyhow::Result<ConsentTerms> {
    let grantee: SiteId = to_site.parse()?;
    ensure!(member.knows_site(&grantee)?, "{grantee} is no site of this federation");
    let purpose: Purpose = purpose.parse().map_err(|_| anyhow::anyhow!("{purpose} is no purpose"))?;
    let grantee = Grantee::Site(policy_site(&grantee));
    let purposes = PurposeScope::Only(BTreeSet::from([purpose]));
    Ok(ConsentTerms::new(ConsentDecision::Grant, grantee, StudyScope::All, purposes, Some(policy_time(end)))?)
}

impl Member {
    /// A code that was given in here before answers with its consent: who asks again, because the first answer was lost,
    /// must hear the number under which it is taken back.
    pub async fn grant(self: &Arc<Self>, call: ConsentGrantCall) -> anyhow::Result<ConsentDone> {
        let identifier = Identifier::parse(&call.id)?;
        let terms = granting(self, &call.to_site, &call.purpose, end_of_grant(self.promised_from()?, call.days)?)?;
        let consent = match &call.patient_code {
            None => self.record_consent(identifier, terms, None).await?,
            Some(code) => {
                let _granting = self.granting.lock().await;
                match self.given_in_before(&identifier, &terms, code).await? {
                    Some(consent) => consent,
                    None => self.record_consent(identifier, terms, Some(code)).await?,
                }
            }
        };
        self.await_consent(consent, false).await
    }

    /// The consent of this node that is what is asked for once more: the same grant, which the ledger has or may still
    /// take, with the same code. What differs is recorded anew, for a mistake that confirmed nothing spent nothing; at the
    /// code's holder one counts.
    async fn given_in_before(
        &self,
        identifier: &Identifier,
        terms: &ConsentTerms,
        code: &str,
    ) -> anyhow::Result<Option<ConsentId>> {
        let (site, code) = self.code(code)?;
        let keys = self.keys_of(identifier, true).await?;
        // In this order: a consent leaves what was sent when the ledger has it.
        let sent: Vec<SentConsent> = self.vault.all(&**self.archive.engine(), Shelf::ConsentsSent, SENT_MAX)?;
        let found = history::look_up(&self.replica, &keys)?.consents;
        let taken = found.iter().map(|found| (&found.details, found.revoked.is_some()));
        let waiting = sent.iter().filter(|sent| sent.identifier == *identifier);
        let waiting = waiting.filter(|sent| !matches!(sent.state, SentState::Rejected(_)));
        let waiting = waiting.map(|sent| (&sent.details, sent.revoke));
        let is_same = |before: &ConsentDetails| {
            let same = before.terms.grantee() == terms.grantee() && before.terms.purposes() == terms.purposes();
            // Who asks again for so many days asks for a later end.
            let covers = before.terms.not_after() <= terms.not_after();
            let by_code = code.confirms(&site, &before.consent, &before.terms, &before.proof);
            same && covers && by_code && self.is_own(&before.author)
        };
        let Some((before, revoked)) = taken.chain(waiting).find(|(details, _)| is_same(details)) else {
            return Ok(None);
        };
        ensure!(
            !revoked && !self.is_revoked_here(&before.consent)?,
            "this code was given in before, for consent {}, which was taken back since: for another grant the patient \
             needs another code",
            before.consent
        );
        Ok(Some(before.consent))
    }

    /// Writes a consent under a fresh number; it is durable here when this returns.
    pub async fn record_consent(
        &self,
        identifier: Identifier,
        terms: ConsentTerms,
        code: Option<&str>,
    ) -> anyhow::Result<ConsentId> {
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let consent = ConsentId::from_bytes(id);
        let proof = self.proof(code, &consent, &terms)?;
        let details = ConsentDetails {
            version: v1::VERSION,
            consent,
            terms,
            author: self.config.default_site().id.clone(),
            evidence: proof.class(),
            proof,
            recorded_at: self.recorded_now(),
        };
        details.validate()?;
        let key = self.writing_key(&identifier).await?;
        let sent = SentConsent { identifier, details, state: SentState::Waiting, revoke: false };
        let ticket = {
            let _placing = locked(&self.placing);
            let place = self.consent_place(&key, &sent)?;
            let _writing = self.archive.writing();
            self.write_consent(&key, &sent, place)?
        };
        self.durable(ticket).await?;
        Ok(consent)
    }

    /// A code is written `SITE/CODE`: the site that handed it out is the one that can judge it.
    fn proof(&self, code: Option<&str>, consent: &ConsentId, terms: &ConsentTerms) -> anyhow::Result<EvidenceProof> {
        let Some(code) = code else { return Ok(EvidenceProof::Attestation) };
        let (site, code) = self.code(code)?;
        Ok(code.confirm(&site, consent, terms))
    }

    fn code(&self, text: &str) -> anyhow::Result<(SiteId, PatientCode)> {
        let (site, code) =
            text.split_once('/').context("a patient's code is written SITE/CODE, as it was handed out")?;
        let site: SiteId = site.trim().parse()?;
        ensure!(self.knows_site(&site)?, "{site} is no site of this federation");
        Ok((site, code.parse()?))
    }

    /// What closes does not wait behind registrations; it takes back what another hospital recorded.
    fn lane_of(sent: &SentConsent) -> Lane {
        if sent.details.terms.decision() == ConsentDecision::Deny { Lane::Urgent } else { Lane::Bulk }
    }

    /// The next free place for it. The caller holds [`Member::placing`] until it is taken.
    fn consent_place(&self, key: &IdentifierKey, sent: &SentConsent) -> Result<NextFree, PlaceError> {
        let is_reserved = |tag: &v1::Tag| self.is_reserved(Self::lane_of(sent), tag);
        history::next_free(&self.replica, key, &sent.details.author, v1::CONSENT, &is_reserved)
    }

    /// Puts it there, into the outbox. The caller holds the archive's writing lock as well.
    fn write_consent(&self, key: &IdentifierKey, sent: &SentConsent, free: NextFree) -> anyhow::Result<Ticket> {
        let SentConsent { identifier, details, .. } = sent;
        let (site, consent) = (&details.author, details.consent);
        let presence = free.presence.map(|tag| history::presence(key, v1::CONSENT, site, tag, &mut rng()));
        let public = ConsentPublic { version: v1::VERSION, consent, tag: free.tag, presence };
        let sealed = key.seal_format(Binding::tag(v1::CONSENT, Part::Details, &free.tag), details, &mut rng());
        let draft = Draft {
            lane: Self::lane_of(sent),
            kind: v1::CONSENT,
            public: public.to_bytes(),
            sealed: Some(sealed.to_bytes()),
            matter: matter_of_consent(consent, false),
        };
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::Consents, consent.as_bytes(), identifier);
        self.vault.put(&mut batch, Shelf::ConsentsSent, consent.as_bytes(), sent);
        Ok(self.enqueue_placed(draft, batch)?)
    }

    pub fn sent_consent(&self, consent: &ConsentId) -> anyhow::Result<Option<SentConsent>> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::ConsentsSent, consent.as_bytes())?)
    }

    /// The ledger has settled a consent that this node wrote.
    pub fn consent_settled(&self, consent: ConsentId, outcome: Result<(), Rejection>) -> anyhow::Result<()> {
        let _writing = self.archive.writing();
        // Told before: after a crash the outbox says it again.
        let Some(mut sent) = self.sent_consent(&consent)? else { return Ok(()) };
        let mut batch = Batch::new();
        match outcome {
            Ok(()) => {
                self.vault.delete(&mut batch, Shelf::ConsentsSent, consent.as_bytes());
                let revocation = sent.revoke.then(|| Self::revocation_draft(consent));
                match self.outbox.enqueue(revocation.into_iter().collect(), batch) {
                    // What is kept of it stays, so the next round comes here again.
                    Err(OutboxError::Full { .. }) => self.consents_again.store(true, Ordering::Relaxed),
                    enqueued => drop(enqueued?),
                }
            }
            Err(rejection) => {
                sent.state = match rejection {
                    rejections::TAG_TAKEN | rejections::PRESENCE_TAKEN => SentState::Again,
                    other => SentState::Rejected(other.0),
                };
                self.vault.put(&mut batch, Shelf::ConsentsSent, consent.as_bytes(), &sent);
                self.archive.submit(batch)?;
                self.consents_again.store(true, Ordering::Relaxed);
            }
        }
        self.wake_sender();
        Ok(())
    }

    /// Writes again what lost its place to another record, and revokes what the ledger has and the patient took back
    /// meanwhile. What can't be done yet (a key can't be had, the outbox is full) waits for a later round.
    pub async fn write_consents_again(&self) -> anyhow::Result<()> {
        if !self.consents_again.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let sent: Vec<SentConsent> = self.vault.all(&**self.archive.engine(), Shelf::ConsentsSent, SENT_MAX)?;
        for sent in sent {
            let consent = sent.details.consent;
            let done = match sent.state {
                SentState::Again => self.write_consent_again(&consent, &sent.identifier).await,
                SentState::Waiting if sent.revoke && machine::consent(self.replica.view(), &consent)?.is_some() => {
                    self.consent_settled(consent, Ok(()))
                }
                SentState::Waiting | SentState::Rejected(_) => Ok(()),
            };
            match done {
                Err(error) if is_of_a_broken_disk(&error) => return Err(error),
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "a consent waits to be written again");
                    self.consents_again.store(true, Ordering::Relaxed);
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn write_consent_again(&self, consent: &ConsentId, identifier: &Identifier) -> anyhow::Result<()> {
        let key = self.writing_key(identifier).await?;
        self.write_consent_with(consent, &key)
    }

    /// What is kept of it is read only now that nothing is waited for any more: the patient may have taken the consent
    /// back meanwhile.
    pub(super) fn write_consent_with(&self, consent: &ConsentId, key: &IdentifierKey) -> anyhow::Result<()> {
        let again = || anyhow::Ok(self.sent_consent(consent)?.filter(|sent| sent.state == SentState::Again));
        let _placing = locked(&self.placing);
        let Some(sent) = again()? else { return Ok(()) };
        let place = self.consent_place(key, &sent);
        let _writing = self.archive.writing();
        let Some(mut sent) = again()? else { return Ok(()) };
        match place {
            Ok(place) => {
                sent.state = SentState::Waiting;
                self.write_consent(key, &sent, place).map(drop)
            }
            // No later attempt helps.
            Err(PlaceError::ChainFull { .. }) => {
                sent.state = SentState::Rejected(rejections::NO_PLACE_LEFT.0);
                let mut batch = Batch::new();
                self.vault.put(&mut batch, Shelf::ConsentsSent, consent.as_bytes(), &sent);
                Ok(self.archive.submit(batch)?)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits a while for the certificate; the answer says how far it came. What the ledger rejected is an error.
    pub async fn await_consent(&self, consent: ConsentId, revoked: bool) -> anyhow::Result<ConsentDone> {
        let mut progress = self.progress.subscribe();
        let deadline = tokio::time::Instant::now() + CERTIFICATION_WAIT;
        loop {
            let done = self.consent_done(consent, revoked)?;
            if done.certified || tokio::time::Instant::now() >= deadline {
                return Ok(done);
            }
            let look = deadline.min(tokio::time::Instant::now() + LOOK_EVERY);
            let moved = tokio::time::timeout_at(look, progress.changed()).await.is_ok();
            tracing::trace!(moved, "awaiting a consent");
        }
    }

    /// How far a consent, or its revocation, has come.
    fn consent_done(&self, consent: ConsentId, revoked: bool) -> anyhow::Result<ConsentDone> {
        let record = machine::consent(self.replica.view(), &consent)?;
        let index = record.and_then(|record| if revoked { record.revoked } else { Some(record.index) });
        let rejected = match (index, revoked) {
            (Some(_), _) => None,
            (None, true) => self.rejected_revocation(&consent)?,
            (None, false) => self.sent_consent(&consent)?.and_then(|sent| match sent.state {
                SentState::Rejected(number) => Some(number),
                SentState::Waiting | SentState::Again => None,
            }),
        };
        if let Some(number) = rejected {
            bail!("nothing was recorded, because the ledger rejected it: {}", rejections::sentence(Rejection(number)));
        }
        let mut done = ConsentDone { consent: consent.to_string(), ..ConsentDone::default() };
        if let Some(index) = index {
            done.ledger_index = Some(index.0);
            done.certified = self.is_certified(index);
            (done.recorded_at, done.effective_at_latest) = match revoked {
                true => self.bounds(&consent, index)?,
                false => (None, None),
            };
        }
        Ok(done)
    }

    pub async fn consents(&self, call: IdCall) -> anyhow::Result<Vec<ConsentShown>> {
        let asked = Identifier::parse(&call.id)?;
        let occasion = Asked { occasion: Occasion::Consents, user: &call.user };
        let person = self.person(&asked, occasion).await?;
        let in_ledger: BTreeSet<ConsentId> =
            person.found.consents.iter().map(|consent| consent.details.consent).collect();
        let confirmed = {
            let _codes = locked(&self.codes);
            self.would_confirm(&person.identifiers, &person.found.consents)?.0
        };
        let shown = |consent: &FoundConsent| self.shown(consent, confirmed.contains(&consent.details.consent));
        let mut shown: Vec<ConsentShown> = person.found.consents.iter().map(shown).collect::<anyhow::Result<_>>()?;
        let sent: Vec<SentConsent> = self.vault.all(&**self.archive.engine(), Shelf::ConsentsSent, SENT_MAX)?;
        let theirs = sent
            .iter()
            .filter(|sent| person.identifiers.contains(&sent.identifier) && !in_ledger.contains(&sent.details.consent));
        shown.extend(theirs.map(shown_sent));
        Ok(shown)
    }

    fn shown(&self, consent: &FoundConsent, confirmed: bool) -> anyhow::Result<ConsentShown> {
        let details = &consent.details;
        let state = match (consent.revoked, consent.place.certified) {
            (Some(index), _) if self.is_certified(index) => "revoked".into(),
            (Some(_), _) => "revoked, not certified yet".into(),
            (None, _) if self.is_revoked_here(&details.consent)? => "revoked here, and by the ledger not yet".into(),
            (None, true) if details.terms.is_expired(policy_time(self.recorded_now())) => "ended".into(),
            (None, true) => self.effect(details, confirmed),
            (None, false) => "not certified yet".into(),
        };
        // From when on holders refuse: for a denial by its own entry, for a grant by its revocation's.
        let refusing = match (consent.revoked, details.terms.decision()) {
            (Some(index), ConsentDecision::Grant) => Some(index),
            (None, ConsentDecision::Deny) => Some(consent.place.index),
            _ => None,
        };
        let mut shown = plainly(details, state);
        if let Some(index) = refusing {
            (shown.recorded_at, shown.effective_at_latest) = self.bounds(&details.consent, index)?;
        }
        Ok(shown)
    }

    /// What a certified consent that is not over does, as each holder judges it ([`super::holder`], invariants 2 and 3):
    /// its author's word counts for the author's own images, a code for those of the site that handed it out.
    fn effect(&self, details: &ConsentDetails, confirmed: bool) -> String {
        let ConsentDetails { author, terms, .. } = details;
        if terms.decision() == ConsentDecision::Deny {
            return "in force".into();
        }
        let opens = |site: &SiteId| format!("in force for images of {site}");
        let of_author = (*terms.grantee() != Grantee::Site(policy_site(author))).then(|| opens(author));
        let by_code = match &details.proof {
            EvidenceProof::Code { site, .. } if site == author && of_author.is_some() => None,
            EvidenceProof::Code { site, .. } if confirmed => Some(opens(site)),
            EvidenceProof::Code { site, .. } if self.is_own(site) => Some(format!(
                "opens nothing of {site}: its code was not handed out there for that, was used before, or came too late"
            )),
            EvidenceProof::Code { site, .. } => Some(format!("{site} judges its code when it is asked")),
            _ if of_author.is_none() => Some("opens nothing: who asks for images can't attest it".into()),
            _ => None,
        };
        of_author.into_iter().chain(by_code).collect::<Vec<_>>().join("; ")
    }
}

fn shown_sent(sent: &SentConsent) -> ConsentShown {
    let state = match sent.state {
        SentState::Rejected(number) => {
            format!("not recorded, because the ledger rejected it: {}", rejections::sentence(Rejection(number)))
        }
        SentState::Waiting | SentState::Again if sent.revoke => "revoked before the ledger had it".into(),
        SentState::Waiting | SentState::Again => "kept here, waits for the ledger".into(),
    };
    plainly(&sent.details, state)
}

fn plainly(details: &ConsentDetails, state: String) -> ConsentShown {
    let terms = &details.terms;
    let to_site = match terms.grantee() {
        Grantee::Site(site) => site.to_string(),
        Grantee::AllTreatingSites => "all treating sites".into(),
    };
    let purposes = match terms.purposes() {
        PurposeScope::Any => vec!["any".into()],
        PurposeScope::Only(purposes) => purposes.iter().map(ToString::to_string).collect(),
    };
    ConsentShown {
        consent: details.consent.to_string(),
        decision: terms.decision().to_string(),
        to_site,
        purposes,
        recorded_by: details.author.to_string(),
        evidence: match &details.proof {
            // Only that site can tell whether the code was right and not used before.
            EvidenceProof::Code { site, .. } => format!("{} (a code that {site} judges)", details.evidence),
            _ => details.evidence.to_string(),
        },
        until: terms.not_after().map(|time| super::rfc3339(time.as_u64())),
        state,
        ..ConsentShown::default()
    }
}
