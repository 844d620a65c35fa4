//! Whether a working copy may be shown now, by what the ledger says of the patient's consents since it was fetched.
//!
//! The holder decided when it was fetched; every opening here is judged again, strictly: a revocation of any consent
//! that lets this hospital see the study, a denial, or the holder's withdrawal of the record closes the copy, even one
//! that is recorded and not certified yet; so does what the patient took back at this very site, whatever the ledger
//! says of it, for copies that were fetched before. Then only a new fetch, and so the holder's new decision, opens it.
//! The patient's keys are kept, sealed, for as long as the copy, so this works without a line (P6).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tessera_consensus::SiteId;
use tessera_federation::blind::IdentifierKey;
use tessera_federation::history::{self, FoundConsent, History};
use tessera_federation::wire::v1::{EvidenceProof, OprfSuite};
use tessera_federation::{DisclosureId, policy_site};
use tessera_policy::{ConsentDecision, ConsentId, Grantee, Purpose, Uid};
use tessera_storage::engine::Batch;
use zeroize::Zeroizing;

use super::history::Person;
use super::requester::purpose;
use super::vault::Shelf;
use super::{Member, locked};
use crate::archive::copies::{CopyId, CopyRecord, Ground};
use crate::archive::ingest::now_ms;
use crate::control::wire::FetchCall;

/// How often copies whose time has passed are given up.
const GIVE_UP_EVERY: Duration = Duration::from_secs(60);
/// Copies whose consents are remembered from one opening to the next; beyond it all are looked up again.
const REMEMBERED_MAX: usize = 10_000;

/// A patient's key of one year, as it is kept with a copy.
#[derive(Serialize, Deserialize)]
struct KeptKey {
    year: u16,
    #[serde(with = "serde_bytes")]
    secret: Vec<u8>,
}

/// What is fetched, and when.
pub(super) struct Fetched<'a> {
    pub holder: &'a SiteId,
    pub study: &'a Uid,
    pub purpose: Purpose,
    pub at_ms: u64,
}

/// A consent that concerns a copy.
struct Concern {
    id: ConsentId,
    denies: bool,
    /// Entry of the consent and of its revocation.
    recorded: u64,
    revoked: Option<u64>,
}

/// What the ledger says of a copy's patient, as of so many consents, revocations and amendments.
pub struct Concerns {
    rules: u64,
    newest_year: u16,
    consents: Vec<Concern>,
    withdrawn: bool,
}

impl Member {
    /// All of a copy is here: it is shown from now on, for this purpose, until its time passes.
    pub(super) async fn open_copy(
        self: &Arc<Self>,
        copy: &CopyId,
        person: &Person,
        call: &FetchCall,
        disclosure: DisclosureId,
        seen: u64,
    ) -> anyhow::Result<()> {
        let purpose = purpose(call)?;
        let (study, now) = (Uid::parse(&call.study)?, self.recorded_now().0);
        let fetched = Fetched { holder: &copy.holder, study: &study, purpose, at_ms: now };
        let granted_until = self.granted_until(&person.found, &fetched)?;
        let expires_ms = self.archive.working_copy_until(now).min(granted_until.unwrap_or(u64::MAX));
        let ground = Ground { purpose, disclosure, seen, fetched_ms: now, expires_ms };
        let secret = |key: &IdentifierKey| KeptKey { year: key.year(), secret: key.secret_bytes().to_vec() };
        let keys: Vec<KeptKey> = person.keys.iter().map(secret).collect();
        let mut batch = Batch::new();
        self.vault.put(&mut batch, Shelf::CopyKeys, &copy.bytes(), &keys);
        self.archive.submit(batch)?;
        locked(&self.concerns).remove(copy);
        let (archive, id) = (self.archive.clone(), copy.clone());
        tokio::task::spawn_blocking(move || archive.complete_copy(&id, ground)).await??;
        Ok(())
    }

    fn concerns_us(&self, consent: &FoundConsent, study: &Uid) -> bool {
        let terms = &consent.details.terms;
        let ours = match terms.grantee() {
            Grantee::AllTreatingSites => true,
            Grantee::Site(site) => self.config.site.iter().any(|own| policy_site(&own.id) == *site),
        };
        ours && terms.studies().covers(study)
    }

    /// The grants, in force by the ledger, that a fetch may rest on: those whose evidence the holder can count, which
    /// are the patient's confirmation by its code and what its own site recorded (DESIGN section 7).
    fn grants<'a>(&self, found: &'a History, fetched: &Fetched<'_>) -> anyhow::Result<Vec<&'a FoundConsent>> {
        let holder = self.node_of(fetched.holder)?.map(|node| node.join.join.sites).unwrap_or_default();
        let is_holders = |site: &SiteId| holder.iter().any(|declared| declared.id == *site);
        let counts = |consent: &FoundConsent| match &consent.details.proof {
            EvidenceProof::Code { site, .. } if is_holders(site) => true,
            _ => is_holders(&consent.details.author),
        };
        let grants = found.consents.iter().filter(|consent| {
            let terms = &consent.details.terms;
            let grants = terms.decision() == ConsentDecision::Grant && terms.purposes().covers(fetched.purpose);
            let lasts = terms.not_after().is_none_or(|end| fetched.at_ms < end.as_u64());
            grants && lasts && counts(consent) && consent.revoked.is_none() && self.concerns_us(consent, fetched.study)
        });
        Ok(grants.collect())
    }

    /// When the first of the grants ends that a fetch may rest on; `None`: none of them ends, or there is none. Which of
    /// them the holder counted is not known here (a code may be wrong or used), and an end too early costs a question.
    fn granted_until(&self, found: &History, fetched: &Fetched<'_>) -> anyhow::Result<Option<u64>> {
        let mut ends = Vec::new();
        for consent in self.grants(found, fetched)? {
            if !self.is_revoked_here(&consent.details.consent)? {
                ends.extend(consent.details.terms.not_after().map(|time| time.as_u64()));
            }
        }
        Ok(ends.into_iter().min())
    }

    /// Whether all that a fetch may rest on was taken back by the patient at this very site: then nobody is asked,
    /// because the holder may not know of it. Names one such consent.
    pub(super) fn taken_back_here(&self, found: &History, fetched: &Fetched<'_>) -> anyhow::Result<Option<ConsentId>> {
        let mut taken_back = None;
        for consent in self.grants(found, fetched)? {
            if !self.is_revoked_here(&consent.details.consent)? {
                return Ok(None);
            }
            taken_back = Some(consent.details.consent);
        }
        Ok(taken_back)
    }

    /// Why a copy may not be shown now, for a purpose or for any; `None`: it may. Reads the local replica only.
    pub fn copy_closed(&self, copy: &CopyRecord, purpose: Option<Purpose>) -> anyhow::Result<Option<String>> {
        copy.closed(purpose, now_ms().max(self.surely().0), |ground| Ok(self.closes(&*self.concerns(copy)?, ground)))
    }

    fn closes(&self, concerns: &Concerns, ground: &Ground) -> Option<String> {
        if concerns.withdrawn {
            return Some("the holder has withdrawn the examination".into());
        }
        if concerns.newest_year < self.this_year() {
            return Some("a new year has begun, whose consents can't be read with what is kept here".into());
        }
        concerns.consents.iter().find_map(|consent| {
            let Concern { id, denies, recorded, revoked } = consent;
            // An entry that was not yet among those seen has an index of at least their number; what was said here
            // when the ledger had as many entries may have been said after the fetch.
            let taken_back = match revoked {
                Some(revoked) => *revoked >= ground.seen,
                // Where the disk can't say, it is taken as revoked.
                None => self.revoked_here_at(id).map_or(true, |at| at.is_some_and(|at| at >= ground.seen)),
            };
            if taken_back {
                return Some(format!("consent {id} was revoked after it was fetched"));
            }
            (*denies && *recorded >= ground.seen).then(|| format!("the patient has denied it since, by consent {id}"))
        })
    }

    fn concerns(&self, copy: &CopyRecord) -> anyhow::Result<Arc<Concerns>> {
        let rules = self.changes.borrow().rules;
        let known = locked(&self.concerns).get(&copy.id).cloned();
        if let Some(known) = known.filter(|known| known.rules == rules) {
            return Ok(known);
        }
        let looked_up = Arc::new(self.look_up_concerns(copy, rules)?);
        let mut remembered = locked(&self.concerns);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(copy.id.clone(), looked_up.clone());
        Ok(looked_up)
    }

    fn look_up_concerns(&self, copy: &CopyRecord, rules: u64) -> anyhow::Result<Concerns> {
        let kept: Option<Vec<KeptKey>> = self.vault.get(&**self.archive.engine(), Shelf::CopyKeys, &copy.id.bytes())?;
        let kept = kept.context("the patient's keys are not kept with this copy; fetch it again")?;
        let mut keys = Vec::with_capacity(kept.len());
        for KeptKey { year, secret } in kept {
            let secret = Zeroizing::new(secret);
            let secret: [u8; 64] = secret.as_slice().try_into().context("a kept identifier key is damaged")?;
            keys.push(IdentifierKey::new(OprfSuite::Ristretto255Sha512, year, Zeroizing::new(secret)));
        }
        let newest_year = keys.iter().map(IdentifierKey::year).max().unwrap_or(0);
        let found = history::look_up(&self.replica, &keys)?;
        // It could be a denial.
        let unread = found.problems.iter().find(|problem| problem.may_hide_something());
        ensure!(unread.is_none(), "the patient's consents could not all be read: {unread:?}");
        let study = Uid::parse(&copy.study.description.study)?;
        let consents = found.consents.iter().filter(|consent| self.concerns_us(consent, &study));
        let consents = consents.map(|consent| Concern {
            id: consent.details.consent,
            denies: consent.details.terms.decision() == ConsentDecision::Deny,
            recorded: consent.place.index.0,
            revoked: consent.revoked.map(|index| index.0),
        });
        let withdrawn = found.studies.iter().any(|study| {
            let same = study.details.record == copy.id.record && study.details.site == copy.id.holder;
            same && study.withdrawn.is_some()
        });
        Ok(Concerns { rules, newest_year, consents: consents.collect(), withdrawn })
    }

    fn give_up_old_copies(&self) -> anyhow::Result<()> {
        // Not by the wall clock, which may have jumped: a copy that is past its time is closed meanwhile.
        let given_up = self.archive.give_up_old_copies(self.surely().0)?;
        let mut batch = Batch::new();
        for copy in &given_up {
            self.vault.delete(&mut batch, Shelf::CopyKeys, &copy.bytes());
            locked(&self.concerns).remove(copy);
        }
        if !given_up.is_empty() {
            self.archive.submit(batch)?;
            tracing::info!(copies = given_up.len(), "working copies whose time has passed were given up");
        }
        Ok(())
    }
}

/// Gives up copies whose time has passed, for as long as the program runs.
pub async fn give_up(member: Arc<Member>) {
    let mut tick = tokio::time::interval(GIVE_UP_EVERY);
    loop {
        tick.tick().await;
        let member = member.clone();
        match tokio::task::spawn_blocking(move || member.give_up_old_copies()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "old copies could not be given up"),
            Err(error) => tracing::error!(%error, "giving up old copies ended"),
        }
    }
}
