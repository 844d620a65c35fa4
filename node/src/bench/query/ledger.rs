//! The records that `bench query` fills a replica with: who has which, under which tags, signed by one node.
//! Deterministic but for the node's own keys. Each record has the size of a real one: sealed details, and a presence
//! with the first of a patient at a site; statistics for regulators are absent, as in a federation without any.
//! Not for measuring.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tessera_consensus::kernel::Outcome;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::wire::v1::{self as kernel, BATCH_COMMANDS_MAX, Batch, CommandBody, Submission, sealed_hash};
use tessera_consensus::{FederationId, Hash, Incarnation, Lane, NodeId, Sequence, SiteId, Stream, UnixMillis};
use tessera_federation::RecordId;
use tessera_federation::blind::{Binding, Chain, IdentifierKey, Part};
use tessera_federation::history;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{self, ObjectStatus, OprfSuite, StudyDetails, StudyPublic, StudySealed, StudyShown};
use tessera_policy::{BodyRegion, Modality, ReleaseState, StudyDate, Uid, VisibilityClass};
use zeroize::Zeroizing;

use crate::archive::ingest::now_ms;

/// Patients whose history is measured, and the records of each.
pub const MEASURED_PATIENTS: usize = 50;
pub const MEASURED_RECORDS: usize = 20;
pub const SITES: usize = 5;
/// Records of each of the other patients, all at one site.
const OTHER_RECORDS: u64 = 4;
const YEAR: u16 = 2025;
const SEED: u64 = 1;

/// What is to be built.
pub struct Plan {
    records: u64,
    federation: FederationId,
    stream: Stream,
    command: SigningKey,
    sites: Vec<SiteId>,
    /// Keys of the measured patients.
    pub keys: Vec<IdentifierKey>,
}

/// Whose a record is, and which of theirs.
struct Place<'a> {
    key: IdentifierKey,
    site: &'a SiteId,
    /// In the site's chain.
    counter: u64,
    /// In the presence chain, for the first record at a site.
    presence: Option<u64>,
}

/// The name of a site, numbered from 1.
pub fn site(number: usize) -> String {
    format!("site-{number}")
}

pub fn is_applied(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Applied)
}

/// A key of nobody.
fn key(random: &mut ChaCha20Rng) -> IdentifierKey {
    let mut output = Zeroizing::new([0; 64]);
    random.fill_bytes(output.as_mut_slice());
    IdentifierKey::new(OprfSuite::Ristretto255Sha512, YEAR, output)
}

impl Plan {
    pub fn new(records: u64, federation: FederationId, node: NodeId, command: SigningKey) -> anyhow::Result<Self> {
        let mut random = ChaCha20Rng::seed_from_u64(SEED);
        let keys = (0..MEASURED_PATIENTS).map(|_| key(&mut random)).collect();
        let sites = (1..=SITES).map(|number| site(number).parse()).collect::<Result<_, _>>()?;
        let stream = Stream { node, incarnation: Incarnation(0), lane: Lane::Bulk };
        Ok(Self { records, federation, stream, command, sites, keys })
    }

    /// All batches, in order.
    pub fn batches(&self) -> impl Iterator<Item = anyhow::Result<Batch>> {
        let mut random = ChaCha20Rng::seed_from_u64(SEED + 1);
        let mut other = key(&mut random);
        let mut others = 0;
        let mut previous = *self.federation.hash();
        let begins = (0..self.records).step_by(BATCH_COMMANDS_MAX);
        begins.map(move |begin| {
            let end = self.records.min(begin + BATCH_COMMANDS_MAX as u64);
            let submissions = (begin..end).map(|number| {
                let place = self.measured(number).unwrap_or_else(|| {
                    if others % OTHER_RECORDS == 0 {
                        other = key(&mut random);
                    }
                    let (patient, counter) = (others / OTHER_RECORDS, others % OTHER_RECORDS);
                    others += 1;
                    let site = &self.sites[patient as usize % SITES];
                    Place { key: other.clone(), site, counter, presence: (counter == 0).then_some(0) }
                });
                self.submission(number, &place, &mut random)
            });
            let submissions = submissions.collect::<anyhow::Result<_>>()?;
            let (time, proposer) = (UnixMillis(now_ms()), self.stream.node);
            let batch = Batch { version: kernel::VERSION, previous, time, proposer, submissions };
            previous = batch.hash();
            Ok(batch)
        })
    }

    /// Measured patients' records stand at equal distances over the whole ledger.
    fn measured(&self, number: u64) -> Option<Place<'_>> {
        let count = (MEASURED_PATIENTS * MEASURED_RECORDS) as u64;
        let distance = self.records / count;
        if !number.is_multiple_of(distance) || number / distance >= count {
            return None;
        }
        let turn = (number / distance) as usize;
        let (patient, record) = (turn % MEASURED_PATIENTS, turn / MEASURED_PATIENTS);
        let (site, counter) = (&self.sites[record % SITES], (record / SITES) as u64);
        let presence = (counter == 0).then_some(record as u64);
        Some(Place { key: self.keys[patient].clone(), site, counter, presence })
    }

    fn submission(&self, number: u64, place: &Place<'_>, random: &mut ChaCha20Rng) -> anyhow::Result<Submission> {
        let Place { key, site, counter, presence } = place;
        let tag = key.tag(Chain::Site { site, kind: v1::STUDY }, *counter);
        let presence = presence.map(|step| key.tag(Chain::Presence, step));
        let presence = presence.map(|tag| history::presence(key, v1::STUDY, site, tag, random));
        let public = StudyPublic { version: v1::VERSION, tag, presence, supersedes: None };
        let details = details(number, site, random)?;
        let for_patient = key.seal_format(Binding::tag(v1::STUDY, Part::Details, &tag), &details, random);
        let sealed = StudySealed { version: v1::VERSION, for_patient, for_regulators: Vec::new() }.to_bytes();
        let body = CommandBody {
            version: kernel::VERSION,
            kind: v1::STUDY,
            stream: self.stream,
            sequence: Sequence(number),
            public: public.to_bytes(),
            sealed: Some(sealed_hash(&sealed)),
        };
        Ok(Submission { command: body.sign(self.federation, &self.command), sealed: Some(sealed) })
    }
}

fn details(number: u64, site: &SiteId, random: &mut ChaCha20Rng) -> anyhow::Result<StudyDetails> {
    let (mut record, mut salt) = ([0; 16], [0; 16]);
    random.fill_bytes(&mut record);
    random.fill_bytes(&mut salt);
    let shown = StudyShown {
        study_uid: Uid::parse(&format!("2.25.{}", u128::from_be_bytes(record)))?,
        study_date: StudyDate::parse("20250102").ok(),
        modalities: vec![Modality::parse("CT")?],
        body_region: BodyRegion::from_dicom("CHEST"),
        item: None,
        state: ReleaseState::Released,
        series: 3,
        objects: 300,
        status: ObjectStatus::Verified,
    };
    let details = StudyDetails {
        version: v1::VERSION,
        record: RecordId::from_bytes(record),
        revision: 1,
        site: site.clone(),
        visibility: VisibilityClass::Open,
        unlinked: false,
        manifest: Hash::blake3(&[b"bench manifest", &number.to_be_bytes()]),
        salt,
        shown: Some(shown),
    };
    details.validate()?;
    Ok(details)
}
