//! The domain's machine, and what sites say to each other. Sans-IO: no clock, no sockets, no threads; randomness
//! comes in. libp2p stands behind the feature `net`.
//!
//! Start with [`wire::v1`] (what is signed, sealed and sent), then [`blind`] (how a patient's records are found
//! without a list of patients).
//!
//! - [`confirmation`]: the patient's own proof of a consent.
//! - [`machine`]: what commands do to the shared state.
//! - [`history`]: what a key finds in a replica.
//! - [`outbox`]: from a change to the certified command.
//! - [`retrieve`]: how an examination goes from its holder to a requester.
//! - [`ids`]: random identifiers of records, disclosures and the like.
//!
//! Not here: the ledger itself (`tessera_consensus`), medical vocabulary and rules (`tessera_policy`).

pub mod blind;
pub mod confirmation;
pub mod history;
pub mod ids;
pub mod machine;
#[cfg(feature = "net")]
pub mod net;
pub mod outbox;
pub mod retrieve;
pub mod wire;

pub use ids::{
    BreakGlassId, ConsultationId, ContractId, DisclosureId, ExpertId, RecallId, RecognitionId, RecordId, ledger_site,
    policy_site, policy_time,
};
