//! Identifier keys: from the vault, or blindly from a core node.
//!
//! Keys of this node's own patients are kept (sealed), so that it needs no core to register or to look them up again
//! (P6). Others are asked for at each lookup and forgotten: a stranger can't be looked up while cut off from the
//! core, and the answer says so (P7).

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use tessera_consensus::wire::v1::Leaf;
use tessera_consensus::{LedgerSize, NodeId};
use tessera_federation::blind::{Evaluator, IdentifierKey, KeyAsk, asks, blind};
use tessera_federation::wire::v1::{BlindAnswer, BlindRefusal, BlindRequest, OprfSuite, STUDY};
use tessera_policy::Identifier;
use tessera_storage::engine::Batch;
use zeroize::Zeroizing;

use super::Member;
use super::vault::Shelf;
use crate::archive::ingest::now_ms;
use crate::founding::{rng, year_of};

fn vault_name(identifier: &Identifier, year: u16) -> Vec<u8> {
    let mut name = identifier.canonical_bytes();
    name.extend_from_slice(&year.to_be_bytes());
    name
}

impl Member {
    pub fn this_year(&self) -> u16 {
        year_of(now_ms()).max(self.domain.founding_year)
    }

    /// The keys of all years since the founding. `own` patients' keys are kept.
    pub async fn keys_of(&self, identifier: &Identifier, own: bool) -> anyhow::Result<Vec<IdentifierKey>> {
        let mut keys = Vec::new();
        for batch in asks(identifier, self.domain.founding_year, self.this_year()) {
            let mut missing = Vec::new();
            for ask in batch {
                match self.kept_key(&ask)? {
                    Some(key) => keys.push(key),
                    None => missing.push(ask),
                }
            }
            if !missing.is_empty() {
                keys.extend(self.ask_core(missing, own).await?);
            }
        }
        Ok(keys)
    }

    /// The key for records that are written now.
    pub async fn writing_key(&self, identifier: &Identifier) -> anyhow::Result<IdentifierKey> {
        let year = self.this_year();
        let keys = self.keys_of(identifier, true).await?;
        keys.into_iter().find(|key| key.year() == year).context("no key for this year")
    }

    pub fn key_of_this_year<'a>(&self, keys: &'a [IdentifierKey]) -> anyhow::Result<&'a IdentifierKey> {
        let year = self.this_year();
        keys.iter().find(|key| key.year() == year).context("no key for this year")
    }

    fn kept_key(&self, ask: &KeyAsk) -> anyhow::Result<Option<IdentifierKey>> {
        let name = vault_name(&ask.identifier, ask.year);
        let kept: Option<Vec<u8>> = self.vault.get(&**self.archive.engine(), Shelf::Keys, &name)?;
        let Some(kept) = kept.map(Zeroizing::new) else { return Ok(None) };
        let output: [u8; 64] = kept.as_slice().try_into().context("a kept identifier key is damaged")?;
        Ok(Some(IdentifierKey::new(OprfSuite::Ristretto255Sha512, ask.year, Zeroizing::new(output))))
    }

    async fn ask_core(&self, wanted: Vec<KeyAsk>, keep: bool) -> anyhow::Result<Vec<IdentifierKey>> {
        let (request, blinding) = blind(wanted, &mut rng())?;
        let reply = match self.evaluate_anywhere(&request).await? {
            BlindAnswer::Evaluated(reply) => reply,
            BlindAnswer::Refused(BlindRefusal::OverBudget { allowed, resets_at, .. }) => {
                bail!("this hospital's budget of {allowed} lookups a day is used up; it is renewed at {resets_at:?}")
            }
            BlindAnswer::Refused(other) => bail!("the core did not evaluate the lookup: {other:?}"),
        };
        let keys = blinding.finalize(&reply, &self.domain.oprf)?;
        if keep {
            let mut batch = Batch::new();
            for (ask, key) in blinding.asks().iter().zip(&keys) {
                let secret = Zeroizing::new(key.secret_bytes().to_vec());
                self.vault.put(&mut batch, Shelf::Keys, &vault_name(&ask.identifier, ask.year), &*secret);
            }
            self.archive.submit(batch)?;
        }
        Ok(keys)
    }

    /// Asks the own share first, then one core node after another.
    async fn evaluate_anywhere(&self, request: &BlindRequest) -> anyhow::Result<BlindAnswer> {
        if self.oprf.is_some() {
            return self.evaluate_for(self.node, request);
        }
        let mut last = None;
        for core in self.core_nodes()? {
            match self.peers()?.blind_evaluate(core, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or_else(|| "none is known".into(), |error| error.to_string());
        bail!("no core hospital can be reached, so a patient whose key is not kept here can't be looked up now ({why})")
    }

    /// As a core node: evaluates for `asking`, within its budget.
    pub fn evaluate_for(&self, asking: NodeId, request: &BlindRequest) -> anyhow::Result<BlindAnswer> {
        let Some(oprf) = &self.oprf else { return Ok(BlindAnswer::Refused(BlindRefusal::NoShare)) };
        let now = tessera_consensus::UnixMillis(now_ms());
        let registrations = self.registrations_today(asking)?;
        let charged = {
            let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            budget.forget_before(now);
            budget.charge(now, asking, request.elements.len() as u64, registrations)
        };
        match charged {
            Err(over) => {
                let (allowed, used, resets_at) = (over.allowed, over.used, over.resets_at);
                return Ok(BlindAnswer::Refused(BlindRefusal::OverBudget { allowed, used, resets_at }));
            }
            Ok(used) => {
                let mut batch = Batch::new();
                let record = (asking, used.day, used.elements);
                self.vault.put(&mut batch, Shelf::Budget, asking.hash().as_bytes(), &record);
                self.archive.submit(batch)?;
            }
        }
        Ok(match oprf.evaluate(request, &mut rng()) {
            Ok(reply) => BlindAnswer::Evaluated(reply),
            Err(_) => BlindAnswer::Refused(BlindRefusal::Malformed),
        })
    }

    /// Studies that a node registered today (UTC), by the ledger: what its budget grows with.
    fn registrations_today(&self, asking: NodeId) -> anyhow::Result<u64> {
        let today = now_ms() / DAY_MS;
        let mut counted = super::locked(&self.registrations);
        let size = self.replica.size();
        if counted.day != today {
            let from = size.0.saturating_sub(REGISTRATIONS_SCANNED_MAX);
            *counted = Registrations { day: today, scanned: LedgerSize(from), by_node: BTreeMap::new() };
        }
        while counted.scanned < size {
            let entries = self.replica.entries(counted.scanned, size, SCAN_BYTES)?;
            anyhow::ensure!(!entries.is_empty(), "the ledger ends before its size");
            counted.scanned = LedgerSize(counted.scanned.0 + entries.len() as u64);
            for entry in entries {
                let leaf = Leaf::from_bytes(&entry.leaf)?;
                let body = &leaf.command.body;
                if body.kind == STUDY && leaf.time.0 / DAY_MS == today {
                    *counted.by_node.entry(body.stream.node).or_default() += 1;
                }
            }
        }
        Ok(counted.by_node.get(&asking).copied().unwrap_or(0))
    }
}

const DAY_MS: u64 = 86_400_000;
/// Entries that the first question of a day looks back; a province writes fewer in a day.
const REGISTRATIONS_SCANNED_MAX: u64 = 400_000;
/// Bytes of entries read at a time.
const SCAN_BYTES: usize = 1024 * 1024;

/// Today's registrations by node, counted as far as the ledger was looked at.
#[derive(Debug, Default)]
pub struct Registrations {
    day: u64,
    scanned: LedgerSize,
    by_node: BTreeMap<NodeId, u64>,
}
