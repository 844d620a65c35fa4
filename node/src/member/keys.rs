//! Identifier keys: from the vault, or blindly from a core node.
//!
//! Keys of this node's own patients are kept (sealed), so that it needs no core to register or to look them up again
//! (P6). Others are asked for at each lookup and forgotten: a stranger can't be looked up while cut off from the
//! core, and the answer says so (P7).

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use tessera_consensus::kernel;
use tessera_consensus::wire::v1::Role;
use tessera_consensus::{NodeId, UnixMillis};
use tessera_federation::blind::budget::OverBudget;
use tessera_federation::blind::{BlindError, Evaluator, IdentifierKey, KeyAsk, asks, blind};
use tessera_federation::machine;
use tessera_federation::wire::v1::{BlindAnswer, BlindRefusal, BlindReply, BlindRequest, OprfSuite};
use tessera_policy::Identifier;
use tessera_storage::engine::Batch;
use zeroize::Zeroizing;

use super::vault::Shelf;
use super::{Member, clock, locked, rfc3339};
use crate::founding::{rng, year_of};

/// The longest that a core node is left alone which said that the budget is used up. It is renewed with the day, and
/// grows with each study that this node registers meanwhile, so asking again is worth it before.
const REST_MS_MAX: u64 = 300_000;

/// A core node's word that this node's budget of the day is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    allowed: u64,
    /// As the core node said.
    renewed: UnixMillis,
    /// By [`clock::steady`].
    again_ms: u64,
}

impl Rest {
    fn sentence(&self, now_ms: u64) -> String {
        format!(
            "this hospital's budget of {} lookups a day is used up. It is renewed at {}, and grows with what is \
             registered; the core is asked again in {} s",
            self.allowed,
            rfc3339(self.renewed.0),
            self.again_ms.saturating_sub(now_ms).div_ceil(1_000)
        )
    }
}

/// The core nodes that are left alone for now. Registration looks for work four times a second; without this it would
/// ask them so often until the day turns.
#[derive(Debug, Default)]
pub struct Rests(BTreeMap<NodeId, Rest>);

impl Rests {
    fn of(&self, node: &NodeId, now_ms: u64) -> Option<Rest> {
        self.0.get(node).copied().filter(|rest| now_ms < rest.again_ms)
    }

    /// Until the budget is renewed, which is `renewed_in_ms` from now. No core node can make this one wait longer than
    /// the longest rest, whatever it says of its days.
    fn begin(&mut self, node: NodeId, now_ms: u64, allowed: u64, renewed: UnixMillis, renewed_in_ms: u64) -> Rest {
        let again_ms = now_ms.saturating_add(renewed_in_ms.clamp(1_000, REST_MS_MAX));
        let rest = Rest { allowed, renewed, again_ms };
        self.0.insert(node, rest);
        rest
    }
}

fn vault_name(identifier: &Identifier, year: u16) -> Vec<u8> {
    let mut name = identifier.canonical_bytes();
    name.extend_from_slice(&year.to_be_bytes());
    name
}

impl Member {
    pub fn this_year(&self) -> u16 {
        year_of(self.recorded_now().0).max(self.domain.founding_year)
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
    /// only costs time. One that says that this node's budget is used up is left alone for a while ([`Rests`]).
    async fn ask_core(&self, wanted: Vec<KeyAsk>, keep: bool) -> anyhow::Result<Vec<IdentifierKey>> {
        let (request, blinding) = blind(wanted, &mut rng())?;
        let own = self.oprf.is_some().then_some(self.node);
        let mut last = anyhow::anyhow!("none is known");
        let mut used_up = None;
        for node in own.into_iter().chain(self.core_nodes()?) {
            let now_ms = clock::steady().0;
            let resting = locked(&self.blind_rests).of(&node, now_ms);
            if resting.is_some() {
                used_up = used_up.or(resting);
                continue;
            }
            let answered = match self.peers() {
                _ if node == self.node => self.evaluate_for(node, &request).await,
                Ok(peers) => peers.blind_evaluate(node, request.clone()).await.map_err(|error| {
                    self.no_answer(node, &error);
                    error.into()
                }),
                Err(error) => Err(error),
            };
            if let Ok(BlindAnswer::Refused(BlindRefusal::OverBudget { allowed, resets_at, .. })) = answered {
                let renewed_in_ms = resets_at.since(self.recorded_now());
                let rest = locked(&self.blind_rests).begin(node, now_ms, allowed, resets_at, renewed_in_ms);
                used_up = Some(rest);
                continue;
            }
            let keys = answered.and_then(evaluated).and_then(|reply| {
                let keys = blinding.finalize(&reply, &self.domain);
                Ok(keys.inspect_err(|error| self.suspect(node, &format_args!("a blind evaluation: {error}")))?)
            });
            match keys {
                Ok(keys) => {
                    if keep {
                        self.keep_keys(blinding.asks(), &keys)?;
                    }
                    return Ok(keys);
                }
                Err(error) => last = error.context(self.peer_name(&node)),
            }
        }
        if let Some(rest) = used_up {
            bail!("a patient whose key is not kept here can't be looked up now: {}", rest.sentence(clock::steady().0));
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

    /// As a core node: evaluates for `asking`, within its budget. What it used is durable before it has the answer, or
    /// whoever makes this node fall again and again would have no budget at all.
    pub async fn evaluate_for(&self, asking: NodeId, request: &BlindRequest) -> anyhow::Result<BlindAnswer> {
        let Some(oprf) = &self.oprf else { return Ok(BlindAnswer::Refused(BlindRefusal::NoShare)) };
        // Only who may write records may ask where a patient's records are.
        match kernel::node(self.replica.view(), &asking)? {
            Some(node) if node.active && node.role != Role::Observer => {}
            _ => return Ok(BlindAnswer::Refused(BlindRefusal::Observer)),
        }
        // A wall clock that jumped must neither hand out a new day nor use one up.
        let now = self.surely();
        let registrations = machine::registrations_per_day(self.replica.view(), &asking, now)?;
        let charged = {
            let mut budget = self.budget.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            budget.forget_before(now);
            match budget.charge(now, asking, request.elements() as u64, registrations) {
                Ok(used) => {
                    let mut batch = Batch::new();
                    let record = (asking, used.day, used.elements);
                    self.vault.put(&mut batch, Shelf::Budget, asking.hash().as_bytes(), &record);
                    Ok(self.archive.engine().submit(batch)?)
                }
                Err(over) => Err(over),
            }
        };
        match charged {
            Ok(ticket) => self.durable(ticket).await?,
            Err(OverBudget { allowed, used, resets_at }) => {
                return Ok(BlindAnswer::Refused(BlindRefusal::OverBudget { allowed, used, resets_at }));
            }
        }
        Ok(match oprf.evaluate(request, self.this_year(), &mut rng()) {
            Ok(reply) => BlindAnswer::Evaluated(reply),
            Err(BlindError::NoSuchYear(year)) => BlindAnswer::Refused(BlindRefusal::NoSuchYear { year }),
            Err(_) => BlindAnswer::Refused(BlindRefusal::Malformed),
        })
    }
}

fn evaluated(answer: BlindAnswer) -> anyhow::Result<BlindReply> {
    match answer {
        BlindAnswer::Evaluated(reply) => Ok(reply),
        BlindAnswer::Refused(other) => bail!("the core did not evaluate the lookup: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use tessera_consensus::Hash;
    use tessera_federation::blind::budget::DAY_MS;

    use std::time::Duration;

    use super::*;
    use crate::member::testing::{A, B, World, patient};

    #[test]
    fn a_core_node_is_asked_again_when_the_day_turns_or_after_the_longest_rest() {
        let node = |byte: u8| NodeId::new(Hash::blake3(&[&[byte]]));
        let (now_ms, midnight) = (5_000, UnixMillis(20_000 * DAY_MS));
        for (renewed_in_ms, again_ms) in [
            (7_000, now_ms + 7_000),
            (DAY_MS / 2, now_ms + REST_MS_MAX),
            (0, now_ms + 1_000),
            (u64::MAX, now_ms + REST_MS_MAX),
        ] {
            let mut rests = Rests::default();
            assert_eq!(rests.of(&node(1), now_ms), None);
            let rest = rests.begin(node(1), now_ms, 2_000, midnight, renewed_in_ms);
            assert_eq!((rests.of(&node(1), again_ms - 1), rests.of(&node(1), again_ms)), (Some(rest), None));
            assert_eq!(rests.of(&node(2), now_ms), None, "each counts for itself");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_used_of_a_budget_is_durable_before_the_answer() {
        let mut world = World::found().await;
        let year = world.members[A].this_year();
        let asking = world.members[B].node;
        let (request, _) = blind(asks(&patient(1), year, year).remove(0), &mut rng()).expect("a request");
        world.hangs_disk(A, true);
        {
            let mut answer = Box::pin(world.members[A].evaluate_for(asking, &request));
            let early = tokio::time::timeout(Duration::from_millis(500), answer.as_mut()).await;
            assert!(early.is_err(), "it was answered before the disk had it");
            world.hangs_disk(A, false);
            assert!(matches!(answer.await.expect("an answer"), BlindAnswer::Evaluated(_)));
        }
        world.reopen(A);
        let member = &world.members[A];
        let kept = member.vault.get(&**member.archive.engine(), Shelf::Budget, asking.hash().as_bytes());
        let (of, _, used): (NodeId, u64, u64) = kept.expect("readable").expect("what was used");
        assert_eq!((of, used), (asking, request.elements() as u64), "a fall gives nothing back");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_budget_that_is_used_up_is_told_with_the_time_of_the_next_attempt_and_not_asked_for_meanwhile() {
        let world = World::found().await;
        let member = &world.members[A];
        assert!(member.keys_of(&patient(1), true).await.is_ok());
        let year = member.this_year();
        let asked: Vec<KeyAsk> = (100..164).flat_map(|number| asks(&patient(number), year, year).remove(0)).collect();
        let (request, _) = blind(asked, &mut rng()).expect("a request");
        loop {
            match member.evaluate_for(member.node, &request).await.expect("an answer") {
                BlindAnswer::Evaluated(_) => {}
                BlindAnswer::Refused(refusal) => {
                    assert!(matches!(refusal, BlindRefusal::OverBudget { .. }), "{refusal:?}");
                    break;
                }
            }
        }
        // What is left of the budget after whole batches may still do for a few.
        let mut refused = None;
        for number in 200..264 {
            refused = refused.or(member.keys_of(&patient(number), true).await.err());
        }
        let refused = refused.expect("no budget is left").to_string();
        assert!(refused.contains("budget of 2000 lookups a day is used up"), "{refused}");
        assert!(refused.contains("asked again in"), "{refused}");
        assert!(member.keys_of(&patient(1), true).await.is_ok(), "kept keys need no core");
        let rest = locked(&member.blind_rests).of(&member.node, clock::steady().0).expect("it is left alone");
        assert!(member.keys_of(&patient(300), true).await.is_err());
        let same = locked(&member.blind_rests).of(&member.node, clock::steady().0);
        assert_eq!(same, Some(rest), "it was not asked once more");
    }
}
