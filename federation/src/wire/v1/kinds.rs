//! The kinds of the domain's commands. Numbers are frozen and never reused; those below 256 are the kernel's.
//!
//! What the machine does with each stands in [`crate::machine`], one table. A kind that is not in [`KINDS`] is
//! rejected as unknown: a newer version of the machine may know it once the ledger has activated it.

use tessera_consensus::wire::v1::Kind;

/// An examination is registered, or a new version of it.
pub const STUDY: Kind = Kind(256);
/// A correction or a step in an examination's life.
pub const AMENDMENT: Kind = Kind(257);
/// Two identifiers are one person's.
pub const LINK: Kind = Kind(258);
/// A link does not hold any more.
pub const UNLINK: Kind = Kind(259);
/// The patient allowed or forbade something.
pub const CONSENT: Kind = Kind(260);
/// A consent holds no more.
pub const REVOCATION: Kind = Kind(261);
/// Data was shown across sites; written by the holder before the first byte.
pub const DISCLOSURE: Kind = Kind(262);
/// What one side of a disclosure sent or received.
pub const RECEIPT: Kind = Kind(263);
/// Somebody opened the emergency door.
pub const BREAK_GLASS: Kind = Kind(264);
/// Another site's examination was accepted, or not, instead of a new one.
pub const RECOGNITION: Kind = Kind(265);
/// A version of a rule base at one level.
pub const RULE_BASE: Kind = Kind(266);
/// A standing contract between sites.
pub const CONTRACT: Kind = Kind(267);
/// An expert's entry in the roster.
pub const EXPERT: Kind = Kind(268);
/// A step of a consultation.
pub const CONSULTATION: Kind = Kind(269);
/// The head of a site's audit chain.
pub const AUDIT_ANCHOR: Kind = Kind(270);
/// A site says that it took a recall into account.
pub const RECALL_ACKNOWLEDGEMENT: Kind = Kind(271);
/// A record's sealed body is to be erased.
pub const ERASURE: Kind = Kind(272);

/// All kinds of this version with the names for people, in the order of their numbers.
pub const KINDS: [(Kind, &str); 17] = [
    (STUDY, "study"),
    (AMENDMENT, "amendment"),
    (LINK, "link"),
    (UNLINK, "unlink"),
    (CONSENT, "consent"),
    (REVOCATION, "revocation"),
    (DISCLOSURE, "disclosure"),
    (RECEIPT, "receipt"),
    (BREAK_GLASS, "break-glass"),
    (RECOGNITION, "recognition"),
    (RULE_BASE, "rule base"),
    (CONTRACT, "contract"),
    (EXPERT, "expert"),
    (CONSULTATION, "consultation"),
    (AUDIT_ANCHOR, "audit anchor"),
    (RECALL_ACKNOWLEDGEMENT, "recall acknowledgement"),
    (ERASURE, "erasure"),
];

/// The name for people, when this version knows the kind.
pub fn kind_name(kind: Kind) -> Option<&'static str> {
    KINDS.iter().find(|(known, _)| *known == kind).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_consecutive_and_the_domains_own() {
        for (offset, (kind, name)) in KINDS.iter().enumerate() {
            assert_eq!(kind.0 as usize, 256 + offset, "{name}");
            assert!(!kind.is_kernel());
            assert_eq!(kind_name(*kind), Some(*name));
        }
        assert_eq!(kind_name(Kind(273)), None);
    }
}
