//! The shipped code of a whole federation on one thread, with simulated time, network and disks.
//!
//! Core nodes and members run Raft, certification, following, outbox, blind index and the domain's machine as they
//! are, while power fails, lines break, processes stop and clocks go wrong; then everything must have happened once, in
//! one order, certified, everywhere. A seed replays exactly: same seed, same hash over all events.
//!
//! Start with [`world`] (a run), then [`plan`] (what a seed decides), [`scenario`] (what a person wrote), [`driver`] (how
//! the sans-IO parts are carried out) and [`oracle`] (what is checked). [`runtime`], [`disk`], [`clock`] and [`network`] are the simulated machine,
//! [`node`] puts one together, [`origin`] is the workload, [`founding`] the federation, [`journal`] the event log, and
//! [`shrink`] makes a failing plan small enough to read.
//!
//! Not here: decisions. What cannot run in here is in the wrong place.

pub mod clock;
pub mod disk;
pub mod driver;
pub mod founding;
pub mod journal;
pub mod network;
pub mod node;
pub mod oracle;
pub mod origin;
pub mod plan;
pub mod runtime;
pub mod scenario;
pub mod shrink;
pub mod world;
