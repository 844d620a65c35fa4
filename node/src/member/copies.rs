//! Whether a working copy may be shown now, by what the ledger says of the patient's consents since it was fetched.
//!
//! The holder decided when it was fetched; every opening here is judged again, strictly: a revocation of any consent
//! that lets this hospital see the study, a denial, or the holder's withdrawal of the record closes the copy, even one
//! that is recorded and not certified yet. Then only a new fetch, and so the holder's new decision, opens it. The
//! patient's keys are kept, sealed, for as long as the copy, so this works without a line (P6).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tessera_federation::blind::IdentifierKey;
use tessera_federation::history::{self, FoundConsent, History};
use tessera_federation::wire::v1::OprfSuite;
use tessera_federation::{DisclosureId, policy_site};
use tessera_policy::{ConsentDecision, ConsentId, Grantee, Purpose, Uid};
use tessera_storage::engine::Batch;
use zeroize::Zeroizing;

use super::history::Person;
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
        let purpose: Purpose = call.purpose.parse().map_err(|_| anyhow::anyhow!("{} is no purpose", call.purpose))?;
        let (study, now) = (Uid::parse(&call.study)?, now_ms());
        let expires_ms = self.archive.working_copy_until(now);
        let expires_ms = expires_ms.min(self.granted_until(&person.found, &study, purpose, now).unwrap_or(u64::MAX));
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

    /// When the last of the grants ends that a fetch may rest on; `None`: none of them ends, or there is none.
    fn granted_until(&self, found: &History, study: &Uid, purpose: Purpose, now_ms: u64) -> Option<u64> {
        let grants = found.consents.iter().filter(|consent| {
            let terms = &consent.details.terms;
            let grants = terms.decision() == ConsentDecision::Grant && terms.purposes().covers(purpose);
            grants && consent.revoked.is_none() && self.concerns_us(consent, study)
        });
        let ends: Vec<Option<u64>> =
            grants.map(|consent| consent.details.terms.not_after().map(|time| time.as_u64())).collect();
        let in_force = ends.into_iter().filter(|end| end.is_none_or(|end| now_ms < end));
        in_force.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten()
    }

    /// Why a copy may not be shown now, for a purpose or for any; `None`: it may. Reads the local replica only.
    pub fn copy_closed(&self, copy: &CopyRecord, purpose: Option<Purpose>) -> anyhow::Result<Option<String>> {
        let concerns = self.concerns(copy)?;
        let now = now_ms();
        let mut why = "its time has passed".to_owned();
        let asked = |ground: &&Ground| purpose.is_none_or(|purpose| ground.purpose == purpose);
        for ground in copy.grounds.iter().filter(asked).filter(|ground| now < ground.expires_ms) {
            match self.closes(&concerns, ground) {
                None => return Ok(None),
                Some(closed) => why = closed,
            }
        }
        Ok(Some(why))
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
            // What can't be read is taken as revoked.
            let here = revoked.is_none() && self.is_revoked_here(id).unwrap_or(true);
            if here || revoked.is_some_and(|revoked| revoked >= ground.seen) {
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
        let now = self.trusted().map_or_else(|_| now_ms(), |(now, _)| now.0.max(now_ms()));
        let given_up = self.archive.give_up_old_copies(now)?;
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
