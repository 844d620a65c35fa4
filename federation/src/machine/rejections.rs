//! Why the machine rejects a command: one table of numbers and sentences. The numbers stand in the ledger's outcomes
//! and never change their meaning; those below 256 are the kernel's.
//!
//! Not for what a node refuses before it asks the ledger.

use tessera_consensus::kernel::Rejection;

/// The tag is taken: the writer takes the next one of its chain.
pub const TAG_TAKEN: Rejection = Rejection(256);
/// The presence is taken: another site wrote at the same time; take the next.
pub const PRESENCE_TAKEN: Rejection = Rejection(257);
/// The record that it continues or amends is not there.
pub const NO_SUCH_RECORD: Rejection = Rejection(258);
/// The record, consent or disclosure is another node's, or the node does not speak for the site.
pub const NOT_YOURS: Rejection = Rejection(259);
/// The record was superseded, the link undone or the consent revoked before.
pub const ENDED_BEFORE: Rejection = Rejection(260);
/// The random id is in use.
pub const ID_TAKEN: Rejection = Rejection(261);
/// This side's receipt is there already.
pub const RECEIPT_TAKEN: Rejection = Rejection(262);
/// The examination is withdrawn, which is final: what is shown again is registered again.
pub const WITHDRAWN: Rejection = Rejection(263);

/// Never the machine's: a writer's own note that a record lost its place and that no other is left.
pub const NO_PLACE_LEFT: Rejection = Rejection(u16::MAX);

/// All numbers that the machine gives, and the writer's own, with what they mean in plain words.
const SENTENCES: [(Rejection, &str); 12] = [
    (Rejection::UNKNOWN_KIND, "the kind is not known to the ledger's protocol version"),
    (Rejection::MALFORMED, "the public part is not well-formed, or the sealed body that the kind needs is missing"),
    (Rejection::NOT_ACTIVE, "the kind is not active in this federation yet"),
    (TAG_TAKEN, "the tag is taken; the next one of the chain is to be used"),
    (PRESENCE_TAKEN, "the presence is taken; the next one is to be used"),
    (NO_SUCH_RECORD, "the record that it refers to is not in the ledger"),
    (NOT_YOURS, "what it refers to belongs to another node, or this node does not speak for the site"),
    (ENDED_BEFORE, "what it refers to was superseded, undone or revoked before"),
    (ID_TAKEN, "the random id is in use"),
    (RECEIPT_TAKEN, "this side's receipt is in the ledger already"),
    (WITHDRAWN, "the examination is withdrawn, which is final; register it again to show it again"),
    (NO_PLACE_LEFT, "its place was taken, and no place is left this year that other hospitals would read"),
];

/// In plain words, for logs and people.
pub fn sentence(rejection: Rejection) -> &'static str {
    let known = SENTENCES.iter().find(|(number, _)| *number == rejection);
    known.map_or("a reason that this version does not know", |(_, sentence)| sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_sentence_of_its_own() {
        let numbers: std::collections::BTreeSet<u16> = SENTENCES.iter().map(|(number, _)| number.0).collect();
        let sentences: std::collections::BTreeSet<&str> = SENTENCES.iter().map(|(_, sentence)| *sentence).collect();
        assert_eq!((numbers.len(), sentences.len()), (SENTENCES.len(), SENTENCES.len()));
        assert_eq!(sentence(WITHDRAWN), SENTENCES[10].1);
        assert_eq!(sentence(Rejection(999)), "a reason that this version does not know");
    }
}
