//! What this node is and does, for the command line and the page.
//! Figures come from counters that are kept with every change, so asking costs nothing.
//! Not here: anything of a patient.

use tessera_consensus::kernel;
use tessera_federation::machine;
use tessera_federation::wire::v1;

use super::Member;
use crate::archive::catalogue;
use crate::control::wire::{PeerShown, StatusDone};

/// Studies in reception that are counted.
const RECEIVING_MAX: usize = 100_000;

impl Member {
    pub fn status(&self) -> anyhow::Result<StatusDone> {
        let engine = &**self.archive.engine();
        let totals = catalogue::totals(engine)?;
        let progress = *self.progress.borrow();
        let (certified_at, freshness_ms) = self.as_of();
        let mut warnings = Vec::new();
        if let Err(error) = self.trusted() {
            warnings.push(error.to_string());
        }
        if totals.variants + totals.quarantined > 0 {
            warnings.push(format!(
                "{} objects are put aside: see `tessera quarantine`",
                totals.variants + totals.quarantined
            ));
        }
        if let Some(why) = self.seat_lost() {
            warnings.push(format!("this core node has lost its seat ({why}): it neither votes nor signs"));
        }
        if !progress.caught_up {
            warnings.push("not caught up with the federation yet: registration waits".into());
        }
        Ok(StatusDone {
            name: self.config.name.clone(),
            node: self.node.to_string(),
            role: format!("{:?}", self.role).to_lowercase(),
            sites: self.config.site.iter().map(|site| site.legal_name.clone()).collect(),
            federation: self.replica.genesis().name.clone(),
            federation_id: self.replica.federation().to_string(),
            ledger_size: self.replica.size().0,
            certified_size: progress.certified_size,
            certified_at,
            freshness_ms,
            state_digest: self.replica.checkpoint()?.digest.to_string(),
            leader: self.core.get().and_then(|core| core.leader(self)),
            outbox_pending: self.outbox.waiting(),
            studies: totals.studies,
            objects: totals.objects,
            bytes: totals.bytes,
            receiving: catalogue::receiving(engine, RECEIVING_MAX)?.len() as u64,
            quarantined: totals.quarantined + totals.variants,
            copies: 0,
            peers: self.peers_shown()?,
            entries: self.entries_by_kind()?,
            warnings,
        })
    }

    fn peers_shown(&self) -> anyhow::Result<Vec<PeerShown>> {
        let connected = self.peers().map(|peers| peers.connected()).unwrap_or_default();
        let nodes = kernel::nodes(self.replica.view())?;
        let shown = nodes.into_iter().filter(|node| node.active).map(|node| {
            let id = node.join.node_id();
            PeerShown {
                node: id.short(),
                name: node.join.join.name.clone(),
                sites: node.join.join.sites.iter().map(|site| site.legal_name.clone()).collect(),
                role: format!("{:?}", node.role).to_lowercase(),
                connected: id == self.node || connected.contains(&id),
            }
        });
        Ok(shown.collect())
    }

    fn entries_by_kind(&self) -> anyhow::Result<Vec<(String, u64)>> {
        let counts = machine::counts(self.replica.view())?;
        Ok(counts
            .into_iter()
            .map(|(kind, count)| (v1::kind_name(kind).unwrap_or("kernel").to_owned(), count))
            .collect())
    }
}
