//! What a regulator counts: the statistics that hospitals seal to its node with each record, summed by site and month.
//!
//! Only on an observer. Certified entries are counted once, in order; a newer version takes the place of the older
//! one, and an examination that its holder took back is no longer counted. The sums and how far they reach are kept
//! together, so that a restart goes on from there. Nothing here names or finds a patient.
//! What does not open, or speaks of a site for which its writer does not speak, is counted as unreadable and shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tessera_consensus::wire::v1::{CommandBody, Leaf, Role};
use tessera_consensus::{LedgerIndex, LedgerSize, SiteId, kernel};
use tessera_federation::blind::envelope::Envelope;
use tessera_federation::blind::{Binding, Part, open_sealed};
use tessera_federation::machine;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, AmendmentPublic, StudyPublic, StudySealed, StudyStatistics, Tag};
use tessera_storage::engine::Batch;

use super::vault::Shelf;
use super::{Member, locked};
use crate::control::wire::VolumeShown;

/// Bytes of entries read at a time.
const SCAN_BYTES: usize = 1024 * 1024;
/// Entries after which the sums are written down; what was counted since is counted again after a restart.
const KEPT_EVERY: u64 = 10_000;
/// Rows that are shown, the newest months first.
const SHOWN_MAX: usize = 2_400;

/// One site's month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub examinations: u64,
    pub objects: u64,
    pub bytes: u64,
}

/// All sums, and the entries that they rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    counted: LedgerSize,
    kept: LedgerSize,
    /// By month (`yyyymm`) and site.
    sums: BTreeMap<(u32, SiteId), Volume>,
    unreadable: u64,
}

impl Volumes {
    fn add(&mut self, statistics: &StudyStatistics) {
        let sum = self.sums.entry((statistics.month, statistics.site.clone())).or_default();
        sum.examinations = sum.examinations.saturating_add(1);
        sum.objects = sum.objects.saturating_add(statistics.objects.into());
        sum.bytes = sum.bytes.saturating_add(statistics.bytes);
    }

    fn take_away(&mut self, statistics: &StudyStatistics) {
        let place = (statistics.month, statistics.site.clone());
        let Some(sum) = self.sums.get_mut(&place) else { return };
        sum.examinations = sum.examinations.saturating_sub(1);
        sum.objects = sum.objects.saturating_sub(statistics.objects.into());
        sum.bytes = sum.bytes.saturating_sub(statistics.bytes);
        if sum.examinations == 0 {
            self.sums.remove(&place);
        }
    }
}

/// Counts what is certified, for as long as the program runs.
pub async fn count(member: Arc<Member>) {
    let mut progress = member.progress.subscribe();
    loop {
        let counting = member.clone();
        match tokio::task::spawn_blocking(move || counting.count_certified()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = format!("{error:#}"), "the statistics could not be counted"),
            Err(error) => tracing::error!(%error, "counting the statistics ended"),
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

impl Member {
    /// Counts up to the newest certificate. Blocks for the disk.
    pub fn count_certified(&self) -> anyhow::Result<()> {
        if self.role != Role::Observer {
            return Ok(());
        }
        let Some(certificate) = self.replica.certificate() else { return Ok(()) };
        let until = certificate.checkpoint().size.min(self.replica.size());
        loop {
            let mut volumes = locked(&self.volumes);
            if volumes.counted >= until {
                return Ok(());
            }
            let from = volumes.counted;
            let entries = self.replica.entries(from, until, SCAN_BYTES)?;
            anyhow::ensure!(!entries.is_empty(), "the ledger ends before its size");
            for (index, entry) in (from.0..).zip(&entries) {
                let body = Leaf::from_bytes(&entry.leaf)?.command.body;
                self.count_entry(&mut volumes, LedgerIndex(index), &body, entry.sealed.as_deref())?;
            }
            volumes.counted = LedgerSize(from.0 + entries.len() as u64);
            if volumes.counted.0 - volumes.kept.0 >= KEPT_EVERY {
                volumes.kept = volumes.counted;
                let mut batch = Batch::new();
                self.vault.put(&mut batch, Shelf::Statistics, b"volumes", &*volumes);
                self.archive.submit(batch)?;
            }
        }
    }

    fn count_entry(
        &self,
        volumes: &mut Volumes,
        index: LedgerIndex,
        body: &CommandBody,
        sealed: Option<&[u8]>,
    ) -> anyhow::Result<()> {
        // A command that was rejected did not take its tag.
        let applied = |tag: &Tag| Ok::<_, anyhow::Error>(self.taken_by(tag)? == Some(index));
        match body.kind {
            v1::STUDY => {
                let Ok(public) = StudyPublic::from_bytes(&body.public) else { return Ok(()) };
                if !applied(&public.tag)? {
                    return Ok(());
                }
                match self.statistics_of(body, &public.tag, sealed)? {
                    Some(statistics) => volumes.add(&statistics),
                    None => volumes.unreadable += 1,
                }
                self.uncount(volumes, public.supersedes.as_ref())
            }
            v1::AMENDMENT => {
                let Ok(public) = AmendmentPublic::from_bytes(&body.public) else { return Ok(()) };
                match public.kind == v1::WITHDRAW && applied(&public.tag)? {
                    true => self.uncount(volumes, Some(&public.of)),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn taken_by(&self, tag: &Tag) -> anyhow::Result<Option<LedgerIndex>> {
        Ok(machine::tag(self.replica.view(), tag)?.map(|record| record.index))
    }

    /// Takes away what the record under `tag` had added.
    fn uncount(&self, volumes: &mut Volumes, tag: Option<&Tag>) -> anyhow::Result<()> {
        let Some(tag) = tag else { return Ok(()) };
        let Some(index) = self.taken_by(tag)? else { return Ok(()) };
        let Some(entry) = self.replica.entry(index)? else { return Ok(()) };
        let body = Leaf::from_bytes(&entry.leaf)?.command.body;
        match self.statistics_of(&body, tag, entry.sealed.as_deref())? {
            Some(statistics) => volumes.take_away(&statistics),
            None => volumes.unreadable = volumes.unreadable.saturating_sub(1),
        }
        Ok(())
    }

    /// The statistics that a record seals to this node. `None`: there are none, or they can't be believed.
    fn statistics_of(
        &self,
        body: &CommandBody,
        tag: &Tag,
        sealed: Option<&[u8]>,
    ) -> anyhow::Result<Option<StudyStatistics>> {
        let own = self.sealing.public();
        let Some(sealed) = sealed.and_then(|sealed| StudySealed::from_bytes(sealed).ok()) else { return Ok(None) };
        let Some(sealed) = sealed.for_regulators.iter().find(|sealed| sealed.recipient == own) else {
            return Ok(None);
        };
        let binding = Binding::tag(v1::STUDY, Part::Statistics, tag).bytes();
        let opened = open_sealed(&self.sealing, Envelope::Statistics, &binding, sealed).ok();
        let statistics = opened.and_then(|opened| StudyStatistics::from_bytes(&opened).ok());
        let writer = kernel::node(self.replica.view(), &body.stream.node)?;
        let speaks_for = |site: &SiteId| {
            writer.as_ref().is_some_and(|writer| writer.join.join.sites.iter().any(|declared| declared.id == *site))
        };
        Ok(statistics.filter(|statistics| speaks_for(&statistics.site)))
    }

    /// For the command line and the page; empty on every node but an observer.
    pub fn volumes_shown(&self) -> anyhow::Result<Vec<VolumeShown>> {
        let volumes = locked(&self.volumes).clone();
        let shown = volumes.sums.iter().rev().take(SHOWN_MAX).map(|((month, site), sum)| {
            Ok(VolumeShown {
                month: format!("{:04}-{:02}", month / 100, month % 100),
                site: site.to_string(),
                site_name: self.site_name(site)?,
                examinations: sum.examinations,
                objects: sum.objects,
                bytes: sum.bytes,
            })
        });
        shown.collect()
    }

    /// Records whose statistics this observer could not read.
    pub fn unreadable_statistics(&self) -> u64 {
        locked(&self.volumes).unreadable
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B, REGULATOR, World, patient};
    use super::*;
    use crate::founding::rng;
    use tessera_consensus::Lane;
    use tessera_federation::blind::{Chain, IdentifierKey, seal_to};
    use tessera_federation::outbox::Draft;

    struct Examination {
        /// Whose node writes it.
        writer: usize,
        counter: u64,
        supersedes: Option<u64>,
        /// In whose name the statistics are.
        site: &'static str,
        month: u32,
        objects: u32,
    }

    fn tag(key: &IdentifierKey, writer: &Member, counter: u64) -> Tag {
        key.tag(Chain::Site { site: &writer.config.default_site().id, kind: v1::STUDY }, counter)
    }

    async fn register(world: &World, examination: Examination) {
        let Examination { writer, counter, supersedes, site, month, objects } = examination;
        let writer = &world.members[writer];
        let key = writer.writing_key(&patient(1)).await.expect("a key");
        let tag = |counter| tag(&key, writer, counter);
        let statistics = StudyStatistics {
            version: v1::VERSION,
            site: site.parse().expect("a site"),
            month,
            modalities: Vec::new(),
            objects,
            bytes: u64::from(objects) * 1_000,
            grade: None,
            device: None,
            marks: Vec::new(),
        };
        let regulator = world.members[REGULATOR].sealing.public();
        let binding = Binding::tag(v1::STUDY, Part::Statistics, &tag(counter)).bytes();
        let bytes = statistics.to_bytes();
        let sealed = seal_to(&regulator, Envelope::Statistics, &binding, &bytes, &mut rng()).expect("sealed");
        let body = StudySealed {
            version: v1::VERSION,
            for_patient: key.seal(Binding::tag(v1::STUDY, Part::Details, &tag(counter)), b"details", &mut rng()),
            for_regulators: vec![sealed],
        };
        let supersedes = supersedes.map(tag);
        let public = StudyPublic { version: v1::VERSION, tag: tag(counter), presence: None, supersedes };
        let draft = Draft {
            lane: Lane::Bulk,
            kind: v1::STUDY,
            public: public.to_bytes(),
            sealed: Some(body.to_bytes()),
            matter: super::super::registrar::matter_of_nothing(),
        };
        writer.outbox.enqueue(vec![draft], Batch::new()).expect("it waits");
        world.commit().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn each_examination_counts_once_in_its_newest_version() {
        let world = World::found().await;
        let of_a = |counter, supersedes, month, objects| Examination {
            writer: A,
            counter,
            supersedes,
            site: "hospital-a",
            month,
            objects,
        };
        register(&world, of_a(0, None, 202_503, 10)).await;
        register(&world, of_a(1, Some(0), 202_503, 12)).await;
        register(&world, of_a(2, None, 202_503, 5)).await;
        register(&world, of_a(3, None, 202_504, 7)).await;
        // Its tag is taken: rejected, and not counted.
        register(&world, of_a(3, None, 202_504, 900)).await;
        let forged =
            Examination { writer: B, counter: 0, supersedes: None, site: "hospital-a", month: 202_503, objects: 99 };
        register(&world, forged).await;
        let regulator = &world.members[REGULATOR];
        regulator.count_certified().expect("counted");
        regulator.count_certified().expect("counted again");
        let shown = regulator.volumes_shown().expect("volumes");
        let rows: Vec<(&str, &str, u64, u64, u64)> = shown
            .iter()
            .map(|row| (row.month.as_str(), row.site.as_str(), row.examinations, row.objects, row.bytes))
            .collect();
        assert_eq!(rows, [("2025-04", "hospital-a", 1, 7, 7_000), ("2025-03", "hospital-a", 2, 17, 17_000)]);
        assert_eq!(regulator.unreadable_statistics(), 1, "B speaks in A's name");
        let hospital = &world.members[A];
        hospital.count_certified().expect("nothing to do");
        assert!(hospital.volumes_shown().expect("volumes").is_empty(), "hospitals do not see each other's volumes");
    }
}
