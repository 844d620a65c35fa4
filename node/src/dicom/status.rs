//! The one table from what became of an object to what its sender is told, by protocol.
//!
//! DIMSE statuses are those of the storage service class (PS3.4 table B.2-1) and of DIMSE itself (PS3.7 annex C).
//! What was kept aside (quarantined, variants) is success to the sender: it holds nothing that we don't, and a
//! failure would jam its queue for good. HTTP statuses are those of STOW-RS (PS3.18 table 10.5.3-1) for an object
//! alone.

/// Outcomes without their details, as rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Stored,
    Quarantined,
    Variant,
    OutOfResources,
    NotUnderstood,
    Mismatch,
    NotAuthorised,
    UnknownOperation,
    Failed,
}

struct Row {
    outcome: Outcome,
    dimse: u16,
    http: u16,
}

const TABLE: [Row; 10] = [
    Row { outcome: Outcome::Success, dimse: 0x0000, http: 200 },
    Row { outcome: Outcome::Stored, dimse: 0x0000, http: 200 },
    Row { outcome: Outcome::Quarantined, dimse: 0x0000, http: 202 },
    Row { outcome: Outcome::Variant, dimse: 0x0000, http: 202 },
    Row { outcome: Outcome::OutOfResources, dimse: 0xA700, http: 507 },
    Row { outcome: Outcome::NotUnderstood, dimse: 0xC000, http: 400 },
    Row { outcome: Outcome::Mismatch, dimse: 0xA900, http: 409 },
    Row { outcome: Outcome::NotAuthorised, dimse: 0x0124, http: 403 },
    Row { outcome: Outcome::UnknownOperation, dimse: 0x0211, http: 501 },
    Row { outcome: Outcome::Failed, dimse: 0x0110, http: 500 },
];

impl Outcome {
    fn row(self) -> &'static Row {
        // A test holds that every outcome has its row.
        TABLE.iter().find(|row| row.outcome == self).unwrap_or(&TABLE[TABLE.len() - 1])
    }

    pub fn dimse(self) -> u16 {
        self.row().dimse
    }

    pub fn http(self) -> u16 {
        self.row().http
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_one_row() {
        use Outcome::*;
        let all = [
            Success,
            Stored,
            Quarantined,
            Variant,
            OutOfResources,
            NotUnderstood,
            Mismatch,
            NotAuthorised,
            UnknownOperation,
            Failed,
        ];
        for outcome in all {
            assert_eq!(TABLE.iter().filter(|row| row.outcome == outcome).count(), 1, "{outcome:?}");
            let success = matches!(outcome, Success | Stored | Quarantined | Variant);
            assert_eq!(outcome.dimse() == 0, success, "{outcome:?}");
            assert_eq!(outcome.http() < 300, success, "{outcome:?}");
        }
        assert_eq!(all.len(), TABLE.len());
    }
}
