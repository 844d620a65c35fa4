//! Identifier keys: from the vault, or blindly from a core node.
//!
//! Keys of this node's own patients are kept (sealed), so that it needs no core to register or to look them up again
//! (P6). Others are asked for at each lookup and forgotten: a stranger can't be looked up while cut off from the
//! core, and the answer says so (P7).

use anyhow::{Context, bail};
use tessera_consensus::NodeId;
use tessera_consensus::kernel;
use tessera_consensus::wire::v1::Role;
use tessera_federation::blind::{Evaluator, IdentifierKey, KeyAsk, asks, blind};
use tessera_federation::machine;
use tessera_federation::wire::v1::{BlindAnswer, BlindRefusal, BlindReply, BlindRequest, OprfSuite};
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
        if self.role == Role::Observer {
            bail!("this is a regulator's node: it counts, and looks no patient up");
        }
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
        let keys = self.keys_of(identifier, true).await?;
        Ok(self.key_of_this_year(&keys)?.clone())
    }

    /// Of one identifier's keys, that for records that are written now.
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

    /// Asks one core node after another, the own share first, until an answer's proof holds: one that lies or refuses
    /// only costs time.
    async fn ask_core(&self, wanted: Vec<KeyAsk>, keep: bool) -> anyhow::Result<Vec<IdentifierKey>> {
        let (request, blinding) = blind(wanted, &mut rng())?;
        let own = self.oprf.is_some().then_some(self.node);
        let mut last = anyhow::anyhow!("none is known");
        for node in own.into_iter().chain(self.core_nodes()?) {
            let answered = match node == self.node {
                true => self.evaluate_for(node, &request),
                false => self.peers()?.blind_evaluate(node, request.clone()).await,
            };
            let keys = answered.and_then(evaluated).and_then(|reply| Ok(blinding.finalize(&reply, &self.domain.oprf)?));
            match keys {
                Ok(keys) if keep => {
                    self.keep_keys(blinding.asks(), &keys)?;
                    return Ok(keys);
                }
                Ok(keys) => return Ok(keys),
                Err(error) => last = error,
            }
        }
        Err(last.context("no core hospital answered, so a patient whose key is not kept here can't be looked up now"))
    }

    fn keep_keys(&self, asks: &[KeyAsk], keys: &[IdentifierKey]) -> anyhow::Result<()> {
        let mut batch = Batch::new();
        for (ask, key) in asks.iter().zip(keys) {
            let secret = Zeroizing::new(key.secret_bytes().to_vec());
            self.vault.put(&mut batch, Shelf::Keys, &vault_name(&ask.identifier, ask.year), &*secret);
        }
        Ok(self.archive.submit(batch)?)
    }

    /// As a core node: evaluates for `asking`, within its budget.
    pub fn evaluate_for(&self, asking: NodeId, request: &BlindRequest) -> anyhow::Result<BlindAnswer> {
        let Some(oprf) = &self.oprf else { return Ok(BlindAnswer::Refused(BlindRefusal::NoShare)) };
        // Only who may write records may ask where a patient's records are.
        match kernel::node(self.replica.view(), &asking)? {
            Some(node) if node.active && node.role != Role::Observer => {}
            _ => return Ok(BlindAnswer::Refused(BlindRefusal::Observer)),
        }
        let now = tessera_consensus::UnixMillis(now_ms());
        let registrations = machine::registrations_per_day(self.replica.view(), &asking, now)?;
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
}

fn evaluated(answer: BlindAnswer) -> anyhow::Result<BlindReply> {
    match answer {
        BlindAnswer::Evaluated(reply) => Ok(reply),
        BlindAnswer::Refused(BlindRefusal::OverBudget { allowed, resets_at, .. }) => {
            bail!("this hospital's budget of {allowed} lookups a day is used up; it is renewed at {resets_at:?}")
        }
        BlindAnswer::Refused(other) => bail!("the core did not evaluate the lookup: {other:?}"),
    }
}
