//! Archives for tests: one that can be killed and started again; data sets written by hand, the manifest that a holder
//! would have registered of them, and their arrival without a network. All objects are small and in Explicit VR Little Endian.
//! Not for tests of the transfer itself, which are federation's and the black-box tests'.

use std::path::Path;
use std::sync::Arc;

use tessera_consensus::ids::HashAlgorithm;
use tessera_consensus::{Hash, UnixMillis};
use tessera_federation::wire::v1::{self, Manifest, ManifestObject, ObjectContent};
use tessera_federation::{DisclosureId, RecordId};
use tessera_policy::{Purpose, Uid as PolicyUid};
use tessera_storage::MemoryEngine;
use tessera_storage::engine::Engine;
use tessera_storage::pixels::{ObjectHash, SiteKey};

use super::copies::{CopyId, Ground};
use super::ingest::{Origin, now_ms};
use super::{Archive, TABLES, describe};
use crate::config::Config;
use crate::dicom::charset::CharsetPolicy;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::{EXPLICIT_LITTLE, TransferSyntax};
use crate::dicom::testing::DataSetBuilder;

const CONFIG: &str =
    "name = 'a'\n[[site]]\nid = 'county-a'\nlegal_name = '甲县医院'\nissuer = 'CA'\n[dicom]\nae_title = 'TESSERA_A'\n";
pub const HOUR_MS: u64 = 3_600_000;

pub fn config() -> Config {
    toml::from_str(CONFIG).expect("a configuration")
}

pub fn open(engine: Arc<dyn Engine>, folder: &Path) -> Arc<Archive> {
    open_with(engine, folder, config())
}

pub fn open_with(engine: Arc<dyn Engine>, folder: &Path, config: Config) -> Arc<Archive> {
    Archive::open(engine, folder, SiteKey::new([7; 32]), config).expect("an archive")
}

/// A small object; `text` makes its bytes differ from another's of the same names.
pub fn data_set(study: &str, instance: &str, text: &str) -> Vec<u8> {
    let syntax = TransferSyntax::of(&Uid::parse(EXPLICIT_LITTLE).expect("a UID"));
    let mut out = DataSetBuilder::new(syntax.encoding());
    out.text(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2")
        .text(0x0008, 0x0018, "UI", instance.as_bytes())
        .text(0x0008, 0x0020, "DA", b"20260131")
        .text(0x0008, 0x0060, "CS", b"CT")
        .text(0x0008, 0x1030, "LO", text.as_bytes())
        .text(0x0010, 0x0010, "PN", b"Phantom^One")
        .text(0x0010, 0x0020, "LO", b"H-1")
        .text(0x0020, 0x000D, "UI", study.as_bytes())
        .text(0x0020, 0x000E, "UI", format!("{study}.1").as_bytes());
    out.into_bytes()
}

pub fn copy_id(holder: &str, record: u8, revision: u32) -> CopyId {
    CopyId { holder: holder.parse().expect("a site"), record: RecordId::from_bytes([record; 16]), revision }
}

fn listed(data_set: &[u8]) -> (String, ManifestObject) {
    let syntax = TransferSyntax::of(&Uid::parse(EXPLICIT_LITTLE).expect("a UID"));
    let facts = ObjectFacts::of(data_set, &syntax, &CharsetPolicy::Detect).expect("a data set");
    let d = describe::from_facts(&facts, "");
    let uid = |text: &str| PolicyUid::parse(text).expect("a UID");
    let content = ObjectContent::Verified {
        transfer_syntax: uid(EXPLICIT_LITTLE),
        bytes: data_set.len() as u64,
        hash: Hash::from_parts(HashAlgorithm::Blake3, *blake3::hash(data_set).as_bytes()),
    };
    let (series_uid, sop_class, sop_instance) = (uid(&d.series), uid(&d.sop_class), uid(&d.sop_instance));
    (d.study, ManifestObject { series_uid, sop_class, sop_instance, content })
}

/// What the holder registered of these objects of one study, all in Explicit VR Little Endian.
pub fn manifest(id: &CopyId, data_sets: &[Vec<u8>]) -> Manifest {
    let (mut studies, objects): (Vec<String>, Vec<ManifestObject>) =
        data_sets.iter().map(|data_set| listed(data_set)).unzip();
    let manifest = Manifest {
        version: v1::VERSION,
        site: id.holder.clone(),
        study_uid: PolicyUid::parse(&studies.remove(0)).expect("a UID"),
        record: id.record,
        revision: id.revision,
        created: UnixMillis(1_767_225_600_000),
        objects,
    };
    manifest.sorted()
}

/// A ground that lasts an hour.
pub fn ground(purpose: Purpose) -> Ground {
    let now = now_ms();
    let disclosure = DisclosureId::from_bytes([1; 16]);
    Ground { purpose, disclosure, seen: 1, fetched_ms: now, expires_ms: now + HOUR_MS }
}

/// The copy is begun, and these of its objects arrive.
pub fn arrive(archive: &Archive, id: &CopyId, manifest: &Manifest, data_sets: &[Vec<u8>]) -> anyhow::Result<()> {
    archive.begin_copy(id, manifest)?;
    for data_set in data_sets {
        let hash = *blake3::hash(data_set).as_bytes();
        let is = |object: &&ManifestObject| matches!(&object.content, ObjectContent::Verified { hash: listed, .. } if *listed.as_bytes() == hash);
        let listed = manifest.objects.iter().find(is).expect("an object of the manifest");
        archive.copy_whole(id, manifest.study_uid.as_str(), listed, None, data_set)?;
    }
    Ok(())
}

/// The whole copy is here, on a ground that lasts an hour.
pub fn whole(archive: &Archive, id: &CopyId, data_sets: &[Vec<u8>]) {
    arrive(archive, id, &manifest(id, data_sets), data_sets).expect("all arrives");
    archive.complete_copy(id, ground(Purpose::Treatment)).expect("it is complete");
}

/// An archive with its own folder, and a runtime for its doors.
pub struct Bench {
    pub archive: Arc<Archive>,
    pub runtime: tokio::runtime::Runtime,
    pub folder: tempfile::TempDir,
}

/// An empty database.
pub fn engine() -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true))
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { archive: open(engine(), folder.path()), runtime, folder }
    }

    /// An own device sends an object.
    pub fn device_sends(&self, data_set: &[u8]) {
        let syntax = Uid::parse(EXPLICIT_LITTLE).expect("a UID");
        let taken = self.archive.take(Origin::Import, syntax, None, data_set.to_vec().into());
        self.runtime.block_on(taken).expect("it is taken");
    }

    pub fn has(&self, data_set: &[u8]) -> bool {
        let hash = ObjectHash::blake3(*blake3::hash(data_set).as_bytes());
        self.archive.pixels().contains(&hash).expect("the packs")
    }

    pub fn view(&self) -> &dyn Engine {
        &**self.archive.engine()
    }

    /// The node is killed and started with `engine` as its database.
    pub fn restart(self, engine: Arc<dyn Engine>) -> Self {
        let Self { archive, runtime, folder } = self;
        drop(archive);
        Self { archive: open(engine, folder.path()), runtime, folder }
    }
}
