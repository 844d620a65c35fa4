//! DICOM as this node speaks it: data sets kept byte for byte, read without trust, served in modern forms.
//!
//! `walk` goes over the bytes, `dataset` takes the facts from them, `charset` reads their text; `json`, `bulk` and
//! `frames` serve what DICOMweb asks for; `part10` reads and heads files; `scp` receives over DIMSE and hands to a
//! `sink`; `status` says what senders are told; `phantom` generates examinations. Nothing here knows the catalogue,
//! the ledger or the store: the archive implements the traits that it is called through.
//!
//! Invariants: a data set's bytes are never changed; no byte of a sender panics; whatever a sender can make long is
//! bounded by a named constant.

pub mod bulk;
pub mod charset;
pub mod dataset;
pub mod elements;
pub mod facts;
pub mod frames;
pub mod identifiers;
pub mod json;
pub mod json_values;
pub mod part10;
pub mod phantom;
pub mod scp;
pub mod sink;
pub mod source;
pub mod status;
pub mod syntax;
#[cfg(test)]
pub mod testing;
pub mod walk;
