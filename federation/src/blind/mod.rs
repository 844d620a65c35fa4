//! The blind index (DESIGN section 6): from a patient's identifier and a year to the key by which records are found
//! and read, without anybody holding a list of patients.
//!
//! - [`oprf`]: RFC 9497 in verifiable mode. A site blinds, a core node evaluates, the site checks the proof.
//! - [`key`]: what is derived from the result: tags of the presence chain and of each site's chains, and sealing.
//! - [`envelope`]: sealing to a node's key (HPKE): statistics to regulators, shares of the key to core nodes.
//! - [`budget`]: how many elements a node may have evaluated in a day.
//!
//! Invariants: keys are zeroed when dropped and never printed; randomness comes in; a key is used only after its
//! proof was checked against the federation's public key.

pub mod budget;
pub mod envelope;
pub mod key;
pub mod oprf;

pub use budget::{Budget, BudgetUse, OverBudget};
pub use envelope::{EnvelopeError, SealingKey, open_sealed, seal_to};
pub use key::{Binding, Chain, IdentifierKey, OpenError, Part};
pub use oprf::{BlindError, Blinding, Evaluator, KeyAsk, OprfKeys, YearSeeds, asks, blind, found_oprf, own_share};
