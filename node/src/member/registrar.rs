//! The registrar: from a quiet study of the archive to a certified record in the ledger, and from a crosswalk row to
//! a link. Begins only when the replica has caught up once, so that a restored node first learns what it had written.
//!
//! A study's registration, its manifest and its command are one write with the closing of the revision. When the
//! ledger rejects a tag because another record took it, the registrar takes the next one; nothing is lost by it.

use std::sync::Arc;

use rand::RngCore;
use serde::{Deserialize, Serialize};
use tessera_consensus::wire::v1::Kind;
use tessera_consensus::wire::{decode, encode};
use tessera_consensus::{Hash, Lane, SiteId, UnixMillis};
use tessera_federation::RecordId;
use tessera_federation::blind::{Binding, IdentifierKey, Part};
use tessera_federation::history::{self, FoundStudy, PlaceError};
use tessera_federation::machine::rejections;
use tessera_federation::outbox::{Draft, Settled};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{
    self, Manifest, ManifestObject, ObjectContent, StudyDetails, StudyPublic, StudySealed, StudyShown, StudyStatistics,
    Tag,
};
use tessera_policy::{BodyRegion, ConsentId, Identifier, Modality, ReleaseState, StudyDate, Uid, VisibilityClass};
use tessera_storage::engine::Batch;

use super::Member;
use super::locked;
use super::vault::Shelf;
use crate::archive::catalogue::{self, LocalPatient, StudyRecord};
use crate::archive::ingest::now_ms;
use crate::founding::rng;

const MATTER_BYTES_MAX: usize = 1024;
/// Months of examinations that statistics know.
const MONTH_MIN: u32 = 189_501;
const MONTH_MAX: u32 = 299_912;
/// Studies that may fail in one round before the rest waits for the next.
const FAILURES_MAX: usize = 64;

/// What this node registered of a study.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registration {
    pub study: String,
    pub site: SiteId,
    pub patient: LocalPatient,
    /// Under which it was registered.
    pub identifier: Identifier,
    pub record: RecordId,
    pub revision: u32,
    pub tag: Tag,
}

/// The manifest of one revision, as the ledger commits to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptManifest {
    #[serde(with = "serde_bytes")]
    pub manifest: Vec<u8>,
    pub salt: [u8; 16],
}

/// What a command of ours was about; comes back when the ledger has settled it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Matter {
    Study {
        study: String,
        tag: Tag,
    },
    Link {
        local: Identifier,
        other: Identifier,
    },
    Other,
    /// A consent that this node recorded, or its revocation.
    Consent {
        consent: ConsentId,
        revoked: bool,
    },
}

pub fn matter_of_consent(consent: ConsentId, revoked: bool) -> Vec<u8> {
    encode(&Matter::Consent { consent, revoked })
}

pub fn matter_of_nothing() -> Vec<u8> {
    encode(&Matter::Other)
}

fn random16() -> [u8; 16] {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn manifest_name(record: RecordId, revision: u32) -> Vec<u8> {
    let mut name = record.as_bytes().to_vec();
    name.extend_from_slice(&revision.to_be_bytes());
    name
}

impl Member {
    pub fn registration(&self, study: &str) -> anyhow::Result<Option<Registration>> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::Registrations, study.as_bytes())?)
    }

    pub fn kept_manifest(&self, record: RecordId, revision: u32) -> anyhow::Result<Option<KeptManifest>> {
        Ok(self.vault.get(&**self.archive.engine(), Shelf::Manifests, &manifest_name(record, revision))?)
    }

    /// One round: closes and registers what has been quiet. A study that can't be registered now (its patient's key
    /// must wait for the core, say) holds up no other: a round that ends early is gone on with by the next. The first
    /// reason is the round's error.
    pub async fn register_quiet(self: &Arc<Self>) -> anyhow::Result<()> {
        let after = locked(&self.registered_last).clone();
        let mut failures = Vec::new();
        for study in self.archive.quiet_studies(now_ms(), self.config.archive.quiet_period_ms, &after)? {
            *locked(&self.registered_last) = study.description.study.clone();
            failures.extend(self.register(study).await.err());
            if failures.len() == FAILURES_MAX {
                break;
            }
        }
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    async fn register(self: &Arc<Self>, mut study: StudyRecord) -> anyhow::Result<()> {
        if study.fetched_from.is_some() {
            return self.close_only(&study.description.study);
        }
        let uid = study.description.study.clone();
        let known = self.registration(&uid)?;
        // The next revision supersedes this one, so it waits until the ledger has settled it.
        if let Some(known) = &known
            && self.is_on_its_way(&known.tag)?
        {
            return Ok(());
        }
        let resolution = self.resolve(&study.description)?;
        resolution.stopped.iter().for_each(|why| tracing::info!(%why, "registered under the hospital's own number"));
        let (local, linked) = (resolution.local.clone(), resolution.linked.clone());
        // So that each of the patient's numbers leads to the one under which it is registered.
        for other in &linked {
            self.link(&local, other).await?;
        }
        let identifier = linked.first().unwrap_or(&local).clone();
        // A record stays under the identifier that it began with; a link leads to it from the others.
        let identifier = known.as_ref().map_or(identifier, |known| known.identifier.clone());
        let keys = self.keys_of(&identifier, true).await?;
        let key = self.key_of_this_year(&keys)?;
        let site: SiteId = study.site.parse()?;
        let before = self.own_record(&keys, &site, &uid)?;
        let mut batch = Batch::new();
        let _placing = locked(&self.placing);
        let is_reserved = |tag: &Tag| self.is_reserved(Lane::Bulk, tag);
        // Before the catalogue is held: others may have made a chain long.
        let free = history::next_free(&self.replica, key, &site, v1::STUDY, &is_reserved);
        let _writing = self.archive.writing();
        // Objects may have arrived meanwhile; then the study is not quiet and comes again.
        let Some(now) = catalogue::study(&**self.archive.engine(), &uid)?.filter(|now| now.objects == study.objects)
        else {
            return Ok(());
        };
        // So may rows of the crosswalk, while the keys were awaited.
        if self.resolve(&study.description)? != resolution {
            return Ok(());
        }
        study = now;
        catalogue::close(&mut study, &mut batch);
        let record = known.as_ref().map(|known| known.record).or(before.as_ref().map(|found| found.details.record));
        let record = record.unwrap_or_else(|| RecordId::from_bytes(random16()));
        let revision = before.as_ref().map_or(0, |found| found.details.revision) + 1;
        let manifest = self.manifest(&study, &site, record, revision)?;
        if let Some(found) = &before
            && self.same_content(&manifest, found)?
        {
            self.know_again(&study, identifier, manifest, found, &mut batch);
            self.archive.submit(batch)?;
            return Ok(());
        }
        let salt = random16();
        let unlinked = linked.is_empty();
        let free = match free {
            Err(full @ PlaceError::ChainFull { .. }) => {
                tracing::warn!(why = %full, "a study is not registered");
                self.note_rejected(&uid, rejections::sentence(rejections::NO_PLACE_LEFT), &mut batch);
                return Ok(self.archive.submit(batch)?);
            }
            free => free?,
        };
        let details = study_details(&study, &manifest, &site, salt, unlinked)?;
        if let Some(found) = &before {
            self.note_shrunk(found, &details, free.tag, &mut batch)?;
        }
        let supersedes = before.map(|found| found.place.tag);
        let draft = self.study_draft(key, &free, &details, supersedes, &study, &manifest)?;
        let patient = study.patient.clone();
        let registration =
            Registration { study: uid.clone(), site, patient, identifier, record, revision, tag: free.tag };
        self.keep_registration(&registration, &manifest, salt, &mut batch);
        self.note_sent(&free.tag, &uid, &mut batch);
        self.enqueue_placed(draft, batch)?;
        Ok(())
    }

    fn keep_registration(&self, registration: &Registration, manifest: &Manifest, salt: [u8; 16], batch: &mut Batch) {
        let Registration { study, record, revision, .. } = registration;
        self.vault.put(batch, Shelf::Registrations, study.as_bytes(), registration);
        let kept = KeptManifest { manifest: manifest.to_bytes(), salt };
        self.vault.put(batch, Shelf::Manifests, &manifest_name(*record, *revision), &kept);
    }

    /// The ledger has these very objects from this node already, though this directory may not know it: it is an
    /// older copy that was put back. Nothing is written anew; from here on the node serves that record.
    fn know_again(
        &self,
        study: &StudyRecord,
        identifier: Identifier,
        mut manifest: Manifest,
        found: &FoundStudy,
        batch: &mut Batch,
    ) {
        manifest.revision = found.details.revision;
        let registration = Registration {
            study: study.description.study.clone(),
            site: found.details.site.clone(),
            patient: study.patient.clone(),
            identifier,
            record: found.details.record,
            revision: found.details.revision,
            tag: found.place.tag,
        };
        self.keep_registration(&registration, &manifest, found.details.salt, batch);
        self.forget_lost(&found.place.tag, batch);
    }

    fn close_only(&self, uid: &str) -> anyhow::Result<()> {
        let _writing = self.archive.writing();
        if let Some(mut study) = catalogue::study(&**self.archive.engine(), uid)? {
            let mut batch = Batch::new();
            catalogue::close(&mut study, &mut batch);
            self.archive.submit(batch)?;
        }
        Ok(())
    }

    /// What the ledger has of this study from this site already, in whatever year: after a restore, the truth.
    fn own_record(&self, keys: &[IdentifierKey], site: &SiteId, uid: &str) -> anyhow::Result<Option<FoundStudy>> {
        let found = history::look_up(&self.replica, keys)?;
        let own = |study: &FoundStudy| {
            study.details.site == *site
                && study.details.shown.as_ref().is_some_and(|shown| shown.study_uid.as_str() == uid)
        };
        Ok(found.studies.into_iter().filter(own).max_by_key(|study| study.details.revision))
    }

    /// The record in the ledger commits to exactly these objects.
    fn same_content(&self, manifest: &Manifest, found: &FoundStudy) -> anyhow::Result<bool> {
        let mut as_then = manifest.clone();
        as_then.revision = found.details.revision;
        Ok(as_then.commitment(&found.details.salt) == found.details.manifest)
    }

    fn manifest(
        &self,
        study: &StudyRecord,
        site: &SiteId,
        record: RecordId,
        revision: u32,
    ) -> anyhow::Result<Manifest> {
        let objects = catalogue::objects_of(&**self.archive.engine(), &study.description.study, None)?;
        let objects = objects.iter().map(|object| {
            Ok(ManifestObject {
                series_uid: Uid::parse(&object.description.series)?,
                sop_class: Uid::parse(&object.description.sop_class)?,
                sop_instance: Uid::parse(&object.description.sop_instance)?,
                content: ObjectContent::Verified {
                    transfer_syntax: Uid::parse(&object.receipt.transfer_syntax)?,
                    bytes: object.size,
                    hash: Hash::from_parts(tessera_consensus::ids::HashAlgorithm::Blake3, object.hash),
                },
            })
        });
        let manifest = Manifest {
            version: v1::VERSION,
            site: site.clone(),
            study_uid: Uid::parse(&study.description.study)?,
            record,
            revision,
            created: UnixMillis(study.last_received_ms),
            objects: objects.collect::<anyhow::Result<_>>()?,
        };
        let manifest = manifest.sorted();
        manifest.validate()?;
        Ok(manifest)
    }

    fn study_draft(
        &self,
        key: &IdentifierKey,
        free: &history::NextFree,
        details: &StudyDetails,
        supersedes: Option<Tag>,
        study: &StudyRecord,
        manifest: &Manifest,
    ) -> anyhow::Result<Draft> {
        let mut rng = rng();
        let presence = free.presence.map(|tag| history::presence(key, v1::STUDY, &details.site, tag, &mut rng));
        let public = StudyPublic { version: v1::VERSION, tag: free.tag, presence, supersedes };
        let sealed = StudySealed {
            version: v1::VERSION,
            for_patient: key.seal_format(Binding::tag(v1::STUDY, Part::Details, &free.tag), details, &mut rng),
            for_regulators: self.statistics(study, manifest, &details.site, &free.tag)?,
        };
        sealed.validate()?;
        Ok(Draft {
            lane: Lane::Bulk,
            kind: v1::STUDY,
            public: public.to_bytes(),
            sealed: Some(sealed.to_bytes()),
            matter: encode(&Matter::Study { study: study.description.study.clone(), tag: free.tag }),
        })
    }

    fn statistics(
        &self,
        study: &StudyRecord,
        manifest: &Manifest,
        site: &SiteId,
        tag: &Tag,
    ) -> anyhow::Result<Vec<v1::HpkeSealed>> {
        let device: String = format!("{} {}", study.description.manufacturer, study.description.device_model);
        let device: String = device.trim().chars().filter(char::is_ascii).take(64).collect();
        let statistics = StudyStatistics {
            version: v1::VERSION,
            site: site.clone(),
            month: month_of(&study.description.study_date),
            modalities: modalities(study),
            objects: manifest.objects.len() as u32,
            bytes: manifest.bytes(),
            grade: None,
            device: (!device.is_empty()).then_some(device),
            marks: Vec::new(),
        };
        statistics.validate()?;
        let binding = Binding::tag(v1::STUDY, Part::Statistics, tag).bytes();
        let envelope = tessera_federation::blind::envelope::Envelope::Statistics;
        let sealed = self.regulators()?.into_iter().take(v1::REGULATORS_MAX).map(|regulator| {
            Ok(tessera_federation::blind::seal_to(&regulator, envelope, &binding, &statistics.to_bytes(), &mut rng())?)
        });
        sealed.collect()
    }

    /// What the ledger rejected because of a race is written again; what it rejected otherwise is noted and told.
    /// May be called again for the same command.
    pub fn settled(&self, settled: &Settled) -> anyhow::Result<()> {
        let Settled { lane, kind, public, matter, index, outcome } = settled;
        self.give_places_back(*lane, *kind, public);
        if let Matter::Consent { consent, revoked } = decode("matter", matter, MATTER_BYTES_MAX)? {
            match revoked {
                true => self.revocation_settled(consent, *outcome)?,
                false => self.consent_settled(consent, *outcome)?,
            }
        }
        let Err(rejection) = *outcome else { return self.taken(&decode("matter", matter, MATTER_BYTES_MAX)?) };
        let sentence = rejections::sentence(rejection);
        tracing::warn!(
            kind = kind_name(*kind),
            index = index.0,
            sentence,
            "the ledger rejected a command of this node"
        );
        let retry = matches!(rejection, rejections::TAG_TAKEN | rejections::PRESENCE_TAKEN | rejections::ENDED_BEFORE);
        match decode::<Matter>("matter", matter, MATTER_BYTES_MAX)? {
            Matter::Study { study, tag } if retry => self.open_again(&study, &tag),
            Matter::Study { study, tag } => {
                let mut batch = Batch::new();
                self.forget_sent(&tag, &mut batch);
                self.note_rejected(&study, sentence, &mut batch);
                Ok(self.archive.submit(batch)?)
            }
            Matter::Link { local, other } if retry => self.link_lost(&local, &other),
            _ => Ok(()),
        }
    }

    /// Puts a study back into reception, so that the next round registers it under another tag. Told a second time,
    /// after a crash, it does nothing: that tag is no longer on its way.
    fn open_again(&self, uid: &str, rejected: &Tag) -> anyhow::Result<()> {
        let _writing = self.archive.writing();
        if !self.is_on_its_way(rejected)? {
            return Ok(());
        }
        if let Some(mut study) = catalogue::study(&**self.archive.engine(), uid)? {
            let mut batch = Batch::new();
            self.forget_sent(rejected, &mut batch);
            catalogue::reopen(&mut study, &mut batch);
            self.archive.submit(batch)?;
        }
        Ok(())
    }
}

/// The month of a study date, as YYYYMM; January 1970 where the date can't be one of an examination (devices write
/// year 1 when they know none).
fn month_of(study_date: &str) -> u32 {
    let month = study_date.get(..6).and_then(|month| month.parse().ok());
    month.filter(|month| (MONTH_MIN..=MONTH_MAX).contains(month)).unwrap_or(197_001)
}

fn kind_name(kind: Kind) -> &'static str {
    v1::kind_name(kind).unwrap_or("kernel")
}

fn modalities(study: &StudyRecord) -> Vec<Modality> {
    let mut modalities: Vec<Modality> = study.modalities.iter().filter_map(|text| Modality::parse(text).ok()).collect();
    modalities.sort();
    modalities.dedup();
    modalities.truncate(16);
    modalities
}

fn study_details(
    study: &StudyRecord,
    manifest: &Manifest,
    site: &SiteId,
    salt: [u8; 16],
    unlinked: bool,
) -> anyhow::Result<StudyDetails> {
    let region = study.body_parts.first().map_or("", String::as_str);
    let shown = StudyShown {
        study_uid: manifest.study_uid.clone(),
        study_date: StudyDate::parse(&study.description.study_date).ok(),
        modalities: modalities(study),
        body_region: BodyRegion::from_dicom(region),
        item: None,
        state: ReleaseState::Released,
        series: manifest.series() as u32,
        objects: manifest.objects.len() as u32,
        status: manifest.status(),
    };
    let details = StudyDetails {
        version: v1::VERSION,
        record: manifest.record,
        revision: manifest.revision,
        site: site.clone(),
        visibility: VisibilityClass::Open,
        unlinked,
        manifest: manifest.commitment(&salt),
        salt,
        shown: Some(shown),
    };
    details.validate()?;
    Ok(details)
}

#[cfg(test)]
#[path = "registrar_tests.rs"]
mod tests;
