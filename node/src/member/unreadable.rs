//! Records in the ledger that nobody can read, because their author's node wrote them so: they count for nothing, and
//! who wrote them is told to the operator, once in the log and in `tessera status` for as long as the program runs.
//!
//! Found where patients are looked up. Which patient it was is not kept: the entry's number leads to it for who has
//! the patient's number. Not here: what is unreadable and why, which is federation's (`history`).

use tessera_consensus::{LedgerIndex, NodeId, kernel};
use tessera_federation::history::{AuthorFault, Cause, Problem};

use super::{Member, locked};

/// Entries that are remembered; a member that writes more is known by those.
const REMEMBERED_MAX: usize = 1_000;
/// Entries that a warning names.
const NAMED_MAX: usize = 3;

/// One such record.
pub struct Unreadable {
    author: NodeId,
    fault: AuthorFault,
}

impl Member {
    /// Notes the authors of what can't be read, and says each once.
    pub(super) fn note_unreadable(&self, problems: &[Problem]) {
        let mut known = locked(&self.unreadable);
        for Problem { index, cause, .. } in problems {
            let (Some(index), Cause::Author { author, fault }) = (index, cause) else { continue };
            if known.contains_key(index) || known.len() >= REMEMBERED_MAX {
                continue;
            }
            tracing::warn!(index = index.0, author = author.short(), %fault, "a record that counts for nothing");
            known.insert(*index, Unreadable { author: *author, fault: fault.clone() });
        }
    }

    /// For `tessera status`.
    pub(super) fn unreadable_sentence(&self) -> anyhow::Result<Option<String>> {
        let known = locked(&self.unreadable);
        if known.is_empty() {
            return Ok(None);
        }
        let mut named = Vec::new();
        for (index, record) in known.iter().take(NAMED_MAX) {
            named.push(self.named(*index, record)?);
        }
        let more = if known.len() > named.len() { ", ..." } else { "" };
        Ok(Some(format!(
            "{} records of patients who were asked about say nothing that anybody could read, and count for nothing; \
             ask those who wrote them: {}{more}",
            known.len(),
            named.join("; ")
        )))
    }

    fn named(&self, index: LedgerIndex, record: &Unreadable) -> anyhow::Result<String> {
        let author = kernel::node(self.replica.view(), &record.author)?;
        let sites = author.map(|author| author.join.join.sites).unwrap_or_default();
        let names: Vec<String> = sites.into_iter().map(|site| site.legal_name).collect();
        Ok(format!("entry {} by {} ({})", index.0, names.join(", "), record.fault))
    }
}
