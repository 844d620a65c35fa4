//! Identifiers that stand in public parts: 16 bytes, random to who does not write the record. Also the bridge
//! between the two spellings of a site: the ledger's and the rules' own, which accept the same texts.
//!
//! Not here: what identifies a patient (`tessera_policy::Identifier`).

use serde::{Deserialize, Serialize};
use tessera_consensus::{Hash, NodeId, SiteId, UnixMillis};

/// Why a text is not a random identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {what} has 32 hexadecimal digits")]
pub struct RandomIdError {
    what: &'static str,
}

macro_rules! random_ids {
    ($($(#[$meta:meta])* $name:ident $what:literal;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// From 16 random bytes, which the caller draws.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($what, " {}"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = RandomIdError;
            fn from_str(text: &str) -> Result<Self, RandomIdError> {
                parse_hexadecimal(text).map(Self).ok_or(RandomIdError { what: $what })
            }
        }
    )+};
}

random_ids! {
    /// An examination's record, the same over all its revisions.
    RecordId "record";
    /// One act of showing data across sites.
    DisclosureId "disclosure";
    /// One emergency access.
    BreakGlassId "break-glass notice";
    /// One decision to accept another site's examination, or not.
    RecognitionId "recognition";
    /// One recall of what had been disclosed.
    RecallId "recall";
    ContractId "contract";
    ExpertId "expert";
    ConsultationId "consultation";
}

impl DisclosureId {
    /// The id that `holder` gives with a random nonce. Whoever learns it before the ledger has it can't claim it.
    pub fn of(holder: &NodeId, nonce: &[u8; 16]) -> Self {
        let hash = holder.hash();
        let id = Hash::blake3(&[b"tessera/v1/disclosure-id\0", &[hash.algorithm().into()], hash.as_bytes(), nonce]);
        let (short, _) = id.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        Self(*short)
    }
}

fn parse_hexadecimal(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// A site in the words of the rules.
pub fn policy_site(site: &SiteId) -> tessera_policy::SiteId {
    tessera_policy::SiteId::parse(site.as_str()).expect("the ledger and the rules accept the same sites")
}

/// A site in the words of the ledger.
pub fn ledger_site(site: &tessera_policy::SiteId) -> SiteId {
    site.as_str().parse().expect("the ledger and the rules accept the same sites")
}

/// A moment in the words of the rules.
pub fn policy_time(time: UnixMillis) -> tessera_policy::UnixMillis {
    tessera_policy::UnixMillis::new(time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn random_identifiers_read_what_they_print() {
        let id = RecordId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "00", "0x000000000000000000000000000000", "+1000000000000000000000000000000"] {
            assert!(text.parse::<RecordId>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn sites_are_the_same_in_the_ledger_and_in_the_rules(text in "[a-z0-9A-Z_-]{0,34}") {
            let ledger = text.parse::<SiteId>();
            let rules = tessera_policy::SiteId::parse(&text);
            prop_assert_eq!(ledger.is_ok(), rules.is_ok());
            if let (Ok(ledger), Ok(rules)) = (ledger, rules) {
                prop_assert_eq!(policy_site(&ledger), rules.clone());
                prop_assert_eq!(ledger_site(&rules), ledger);
            }
        }
    }
}
