//! The codes that this site hands to its patients, and what they confirm.
//!
//! The patient is told for whom, what for and how long when the code is handed out; the code confirms that and
//! nothing beyond, once (`federation`, `confirmation`). Several codes may be good at a time, under any of the
//! patient's numbers. Invariant: that a code is spent is durable before a decision rests on it.
//! Not here: how a grant is recorded with a code elsewhere, which is `consent`.

use std::collections::BTreeSet;

use anyhow::ensure;
use rand::RngCore;
use tessera_federation::confirmation::{Candidate, HandedOut, PatientCode};
use tessera_federation::history::FoundConsent;
use tessera_federation::wire::v1::EvidenceProof;
use tessera_policy::{ConsentId, Identifier};
use tessera_storage::engine::{Batch, wait_durable};

use super::consent::{DAY_MS, end_of_grant, granting};
use super::vault::Shelf;
use super::{Member, locked};
use crate::control::wire::{ConsentCode, ConsentCodeCall};

/// Days within which a patient's code must be used where the configuration says nothing.
const CODE_DAYS: u32 = 7;
/// Codes of one patient that are kept; more than anybody needs, and it bounds what a decision tries.
const CODES_MAX: usize = 64;

impl Member {
    /// A fresh code for a patient of this site, for what the patient agrees to.
    pub async fn patient_code(&self, call: &ConsentCodeCall) -> anyhow::Result<ConsentCode> {
        let identifier = Identifier::parse(&call.id)?;
        let valid_days = self.config.policy.patient_code_days.unwrap_or(CODE_DAYS);
        let use_until = self.promised_from()?.plus_ms(u64::from(valid_days) * DAY_MS);
        // Who uses the code on its last day gets the days that the patient agreed to.
        let end = end_of_grant(use_until, call.days)?;
        let terms = granting(self, &call.to_site, &call.purpose, end)?;
        ensure!(!self.is_own(&call.to_site.parse()?), "{} is this hospital itself: it needs no consent", call.to_site);
        let mut bytes = [0; 10];
        rand::rng().fill_bytes(&mut bytes);
        let code = PatientCode::from_bytes(bytes);
        let site = self.config.default_site().id.clone();
        let ticket = {
            let _codes = locked(&self.codes);
            let mut kept = self.handed_out(&identifier)?;
            // What is over stays so: a clock that is wrong must delete no code that is good.
            let surely = self.surely();
            kept.retain(|code| !code.is_over(surely));
            ensure!(kept.len() < CODES_MAX, "this patient has {CODES_MAX} codes that still count; wait until one ends");
            kept.push(HandedOut::new(&code, site.clone(), terms, use_until));
            let mut batch = Batch::new();
            self.vault.put(&mut batch, Shelf::Codes, &identifier.canonical_bytes(), &kept);
            self.archive.engine().submit(batch)?
        };
        self.durable(ticket).await?;
        Ok(ConsentCode {
            code: format!("{site}/{}", code.reveal()),
            valid_days,
            to_site: call.to_site.clone(),
            purpose: call.purpose.clone(),
            until: super::rfc3339(end.0),
        })
    }

    pub(super) fn handed_out(&self, identifier: &Identifier) -> anyhow::Result<Vec<HandedOut>> {
        let kept = self.vault.get(&**self.archive.engine(), Shelf::Codes, &identifier.canonical_bytes())?;
        Ok(kept.unwrap_or_default())
    }

    /// Those of `found` that the patient confirmed with a code handed out here under any of `identifiers`. Blocks for
    /// the disk when a code is spent by it.
    pub fn confirmed_consents(
        &self,
        identifiers: &[Identifier],
        found: &[FoundConsent],
    ) -> anyhow::Result<BTreeSet<ConsentId>> {
        let _codes = locked(&self.codes);
        let (confirmed, spent) = self.would_confirm(identifiers, found)?;
        if !spent.is_empty() {
            let engine = &**self.archive.engine();
            wait_durable(engine, engine.submit(spent)?)?;
        }
        Ok(confirmed)
    }

    /// The same for who only looks, and which codes a decision would spend on it.
    pub(super) fn would_confirm(
        &self,
        identifiers: &[Identifier],
        found: &[FoundConsent],
    ) -> anyhow::Result<(BTreeSet<ConsentId>, Batch)> {
        let mut certified = Vec::new();
        for consent in found {
            let coded = matches!(consent.details.proof, EvidenceProof::Code { .. });
            if coded && self.is_certified(consent.place.index) {
                let index = consent.place.index;
                certified.push(Candidate { index, at: self.entry_time(index)?, details: &consent.details });
            }
        }
        let mut confirmed = BTreeSet::new();
        let mut batch = Batch::new();
        for identifier in identifiers {
            let mut codes = self.handed_out(identifier)?;
            let spent = |codes: &[HandedOut]| codes.iter().filter(|code| code.spent().is_some()).count();
            let before = spent(&codes);
            confirmed.extend(codes.iter_mut().filter_map(|code| code.confirmed(&certified)));
            if spent(&codes) != before {
                self.vault.put(&mut batch, Shelf::Codes, &identifier.canonical_bytes(), &codes);
            }
        }
        Ok((confirmed, batch))
    }
}
