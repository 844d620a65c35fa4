//! How many elements a node may have evaluated in a day. Pure: the caller persists each [`BudgetUse`] before it
//! answers, and loads them at start.
//!
//! The allowance is that of [`OprfBudget`]: a base for every node, and a share for each study that the node registers,
//! up to a ceiling, so that a hospital that works is not short and one that only asks is soon stopped. Each evaluator counts for
//! itself: who asks all *n* core nodes in turn has *n* budgets, which the documents' figure must include.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tessera_consensus::{NodeId, UnixMillis};

use crate::wire::v1::OprfBudget;

/// One day.
pub const DAY_MS: u64 = 86_400_000;

/// What one node has used of its budget on one day. Persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetUse {
    /// Days since 1970-01-01.
    pub day: u64,
    pub elements: u64,
}

/// The day's budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node's budget of {allowed} elements a day is used up ({used} used); ask again after {resets_at:?}")]
pub struct OverBudget {
    pub allowed: u64,
    pub used: u64,
    pub resets_at: UnixMillis,
}

/// The use of all nodes on the present day.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: OprfBudget,
    used: BTreeMap<NodeId, BudgetUse>,
}

impl Budget {
    /// With what was persisted.
    pub fn load(limits: OprfBudget, used: impl IntoIterator<Item = (NodeId, BudgetUse)>) -> Self {
        Self { limits, used: used.into_iter().collect() }
    }

    /// What a node may have evaluated on a day on which it registers `registrations` studies.
    pub fn allowance(&self, registrations: u64) -> u64 {
        let earned = u64::from(self.limits.elements_per_registration).saturating_mul(registrations);
        let earned = earned.min(self.limits.earned_elements_max.into());
        u64::from(self.limits.elements_per_day).saturating_add(earned)
    }

    /// Charges `elements` to `node`, which must be an active member; the answer is to be persisted before the request
    /// is evaluated. `registrations` counts what the node wrote.
    pub fn charge(
        &mut self,
        now: UnixMillis,
        node: NodeId,
        elements: u64,
        registrations: u64,
    ) -> Result<BudgetUse, OverBudget> {
        let day = now.0 / DAY_MS;
        let allowed = self.allowance(registrations);
        // A clock that was set back must not hand out the same day twice.
        let held = self.used.get(&node).copied().filter(|held| held.day >= day);
        let held = held.unwrap_or(BudgetUse { day, elements: 0 });
        let total = held.elements.saturating_add(elements);
        if total > allowed {
            let resets_at = UnixMillis(held.day.saturating_add(1).saturating_mul(DAY_MS));
            return Err(OverBudget { allowed, used: held.elements, resets_at });
        }
        let charged = BudgetUse { day: held.day, elements: total };
        self.used.insert(node, charged);
        Ok(charged)
    }

    /// Forgets days that are over; keeps the map at the size of the day's askers, who are members.
    pub fn forget_before(&mut self, now: UnixMillis) {
        let day = now.0 / DAY_MS;
        self.used.retain(|_, held| held.day >= day);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_consensus::Hash;

    fn node(byte: u8) -> NodeId {
        NodeId::new(Hash::blake3(&[&[byte]]))
    }

    #[test]
    fn a_budget_is_spent_by_the_day_and_grows_with_the_nodes_own_work() {
        let limits = OprfBudget { elements_per_day: 10, elements_per_registration: 3, earned_elements_max: 6 };
        let mut budget = Budget::load(limits, [(node(9), BudgetUse { day: 5, elements: 10 })]);
        let at = |day: u64, ms: u64| UnixMillis(day * DAY_MS + ms);
        // (now, node, elements, registrations) -> what is used then, or when to ask again
        for (now, who, elements, registrations, expected) in [
            (at(5, 0), 1, 10, 0, Ok(10)),
            (at(5, 1), 1, 1, 0, Err(at(6, 0))),
            (at(5, 2), 1, 3, 1, Ok(13)),
            (at(5, 2), 1, 1, 1, Err(at(6, 0))),
            (at(5, 2), 1, 3, 2, Ok(16)),
            (at(5, 2), 1, 1, 1_000, Err(at(6, 0))),
            (at(5, 3), 2, 4, 0, Ok(4)),
            (at(5, 3), 9, 1, 0, Err(at(6, 0))),
            (at(6, 0), 1, 10, 0, Ok(10)),
            (at(5, 9), 1, 1, 0, Err(at(7, 0))),
            (at(6, 1), 2, 11, 0, Err(at(7, 0))),
        ] {
            let charged = budget.charge(now, node(who), elements, registrations);
            assert_eq!(charged.map(|c| c.elements).map_err(|e| e.resets_at), expected, "{now:?} {who} {elements}");
        }
        budget.forget_before(at(7, 0));
        assert!(budget.used.is_empty());
    }

    #[test]
    fn huge_figures_saturate() {
        let mut budget = Budget::load(OprfBudget::default(), []);
        assert!(budget.charge(UnixMillis(u64::MAX), node(1), u64::MAX, 0).is_err());
        assert!(budget.charge(UnixMillis(u64::MAX), node(1), u64::MAX, u64::MAX).is_err());
    }
}
