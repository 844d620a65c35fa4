//! Registrations that the ledger rejected for another reason than a lost race. Trying again would not help, so the
//! study stays out of the federation's index until a person has looked: noted durably, told by `tessera status`, and
//! forgotten when a later revision of the study is taken.
//! Not here: what is tried again, which is the registrar's.

use serde::{Deserialize, Serialize};
use tessera_storage::engine::Batch;

use super::Member;
use super::registrar::Matter;
use super::vault::Shelf;

/// Studies that are counted.
const COUNTED_MAX: usize = 1000;
/// Studies that are named.
const NAMED: usize = 3;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Rejected {
    study: String,
    why: String,
}

impl Member {
    pub(super) fn note_rejected(&self, study: &str, why: &str, batch: &mut Batch) {
        let rejected = Rejected { study: study.to_owned(), why: why.to_owned() };
        self.vault.put(batch, Shelf::Rejected, study.as_bytes(), &rejected);
    }

    /// The ledger has taken a command.
    pub(super) fn taken(&self, matter: &Matter) -> anyhow::Result<()> {
        let Matter::Study { study, .. } = matter else { return Ok(()) };
        let known: Option<Rejected> = self.vault.get(&**self.archive.engine(), Shelf::Rejected, study.as_bytes())?;
        if known.is_some() {
            let mut batch = Batch::new();
            self.vault.delete(&mut batch, Shelf::Rejected, study.as_bytes());
            self.archive.submit(batch)?;
        }
        Ok(())
    }

    pub(super) fn rejected_sentence(&self) -> anyhow::Result<Option<String>> {
        let rejected: Vec<Rejected> = self.vault.all(&**self.archive.engine(), Shelf::Rejected, COUNTED_MAX)?;
        let named = rejected.iter().take(NAMED).map(|one| format!("{}: {}", one.study, one.why));
        let named = named.collect::<Vec<_>>().join("; ");
        let sentence = format!(
            "the ledger rejected the registration of {} studies, which other hospitals can't find ({named}); each is \
             registered anew when a further image of it arrives",
            rejected.len()
        );
        Ok(Some(sentence).filter(|_| !rejected.is_empty()))
    }
}
