//! What this node is and does, for the command line and the page.
//! Figures come from counters that are kept with every change, so asking costs nothing; only what lost its place and is
//! to be written again is looked through.
//! Not here: anything of a patient.

use tessera_consensus::kernel;
use tessera_federation::machine;
use tessera_federation::wire::v1;

use super::core::CoreHandle;
use super::{Member, locked};
use crate::archive::catalogue::{self, Totals};
use crate::archive::ingest::now_ms;
use crate::archive::{aside, copies, flags, missed};
use crate::control::wire::{PeerShown, StatusDone};

/// Studies in reception that are counted.
const RECEIVING_MAX: usize = 100_000;
/// An idle core certifies every few seconds; after so long without it, something is wrong.
const CERTIFICATE_LATE_MS: u64 = 15_000;

impl Member {
    pub fn status(&self) -> anyhow::Result<StatusDone> {
        let engine = &**self.archive.engine();
        let totals = catalogue::totals(engine)?;
        let progress = *self.progress.borrow();
        // In this order: a study leaves reception in the write that brings its command into the outbox, and what is to
        // be written again is noted before its command leaves the outbox and until the next one is there; so that at
        // no moment all are empty before it is certified.
        let receiving = catalogue::receiving(engine, RECEIVING_MAX)?.len() as u64;
        let noted = self.noted_for_later()?;
        let outbox_pending = self.outbox.waiting();
        let outbox_pending = outbox_pending + noted.max(self.noted_for_later()?);
        let (certified_at, freshness_ms) = self.as_of();
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
            outbox_pending,
            studies: totals.studies,
            objects: totals.objects,
            bytes: totals.bytes,
            receiving,
            quarantined: totals.quarantined + totals.variants,
            copies: copies::complete(engine)?,
            peers: self.peers_shown()?,
            entries: self.entries_by_kind()?,
            warnings: self.warnings(&totals, progress.caught_up, freshness_ms, outbox_pending)?,
            volumes: self.volumes_shown()?,
        })
    }

    /// What needs a person's attention, in sentences that say what goes on and what waits.
    fn warnings(
        &self,
        totals: &Totals,
        caught_up: bool,
        age_ms: Option<u64>,
        outbox_pending: u64,
    ) -> anyhow::Result<Vec<String>> {
        let mut warnings = self.clock_sentences();
        let aside = totals.variants + totals.quarantined;
        if aside > 0 {
            warnings.push(format!(
                "{aside} objects are put aside: `tessera quarantine` lists them, and releases or discards them"
            ));
        }
        if let Err(error) = self.archive.pixels().check_room() {
            warnings.push(format!("{error}; the reserve is [archive] free_bytes_min. Reading goes on"));
        }
        warnings.extend(self.archive.damage_sentences()?);
        if let Some(why) = self.seat_lost() {
            warnings.push(format!("this core node has lost its seat ({why}): it neither votes nor signs"));
        }
        let unreadable = self.unreadable_statistics();
        if unreadable > 0 {
            warnings.push(format!("the statistics of {unreadable} records can't be read, and are not in the volumes"));
        }
        warnings.extend(aside::warnings(&**self.archive.engine(), &self.config.dicom)?);
        warnings.extend(self.rejected_sentence()?);
        warnings.extend(missed::warnings(&**self.archive.engine())?);
        warnings.extend(flags::warnings(&**self.archive.engine(), &self.config.dicom, now_ms())?);
        let raft_waits = self.core.get().and_then(CoreHandle::waits_for_room);
        let raft_waits = raft_waits.map(|why| format!("until there is room: {why}"));
        if let Some(why) = raft_waits.or_else(|| locked(&self.ledger_waits).clone()) {
            warnings.push(format!("the ledger does not go on here {why}. Reading goes on"));
        } else if !caught_up {
            warnings.push("not caught up with the federation yet: registrations wait; ingest and reading go on".into());
        } else if let Some(age_ms) = age_ms.filter(|age_ms| *age_ms > CERTIFICATE_LATE_MS) {
            warnings.push(format!(
                "nothing was certified for {} s: the core can't be reached or lacks its majority. New registrations wait \
                 ({outbox_pending} commands are kept here and sent when it is back); ingest and reading go on",
                age_ms / 1000
            ));
        }
        if let Some(why) = &*locked(&self.registration_waits) {
            warnings.push(format!("registrations wait; ingest and reading go on: {why}"));
        }
        warnings.extend(self.refused_sentence());
        warnings.extend(self.suspicion_sentences());
        warnings.extend(self.lost_sentence()?);
        warnings.extend(self.unreadable_sentence()?);
        Ok(warnings)
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
                site_ids: node.join.join.sites.iter().map(|site| site.id.to_string()).collect(),
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
