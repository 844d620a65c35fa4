//! What requester and holder say to each other: one module per version of the formats, frozen once released.
//!
//! Signed parts are canonical postcard ([`tessera_consensus::wire`]) and stand behind a tag that names their kind,
//! so that a receipt can never be read as a refusal. Frames ([`crate::retrieve::frame`]) carry them on a stream.
//! Golden bytes in `federation/tests/golden` hold the formats still.

pub mod v1;
