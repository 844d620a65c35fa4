//! An origin at work: it registers studies through the shipped outbox, sends what waits, and settles what is
//! certified.
//!
//! Its catalogue is a table beside the outbox, written in the same batch as the command, as a gateway's is: so after
//! a crash the origin knows which matters it had taken, and goes on with the next. A study whose place another site
//! took at the same time is registered again at the next free one, before the outbox forgets that it was rejected.
//!
//! Sans-IO but for the engine: the driver carries [`Origin::due`] out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tessera_consensus::kernel::StateRead;
use tessera_consensus::raft::intake::SubmitResult;
use tessera_consensus::replica::Replica;
use tessera_consensus::wire::v1::{Kind, Submission};
use tessera_consensus::wire::{decode, encode};
use tessera_consensus::{Hash, Lane, LedgerIndex, SiteId, UnixMillis};
use tessera_federation::blind::{Binding, IdentifierKey, Part};
use tessera_federation::history::{PlaceError, next_free, presence};
use tessera_federation::machine;
use tessera_federation::outbox::{Draft, Outbox, OutboxError, Settled};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{
    BREAK_GLASS, BreakGlassPublic, STUDY, StudyDetails, StudyPublic, StudySealed, VERSION,
};
use tessera_federation::{BreakGlassId, RecordId};
use tessera_policy::VisibilityClass;
use tessera_storage::engine::{Batch, Engine, Table, View};

use crate::founding::Identity;
use crate::network::Host;
use crate::oracle::Oracle;

/// The origin's own table: matter number -> [`Matter`].
pub const CATALOGUE: Table = "catalogue";
/// Commands in one submission.
const SUBMIT_COMMANDS_MAX: usize = 32;
/// An unanswered submission is sent again after this.
const SUBMIT_PATIENCE_MS: u64 = 3_000;
/// Pause between submissions.
const SUBMIT_PAUSE_MS: u64 = 100;
/// Every so many matters, one is a break-glass notice on the urgent lane.
const URGENT_EVERY: u32 = 6;
const RECORD_BYTES_MAX: usize = 4096;

/// What the catalogue says of one matter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Matter {
    /// Its command is in the outbox, with these public bytes.
    Waiting { public: Vec<u8> },
    /// It took effect in this entry.
    Done { index: LedgerIndex },
}

/// Whether matter `number` registers a study.
pub fn is_study(number: u32) -> bool {
    number % URGENT_EVERY != URGENT_EVERY - 1
}

/// Reads a catalogue as it lies on the disk.
pub fn catalogue(view: &dyn View) -> BTreeMap<u32, Matter> {
    let rows = view.scan(CATALOGUE, &[], None, usize::MAX).expect("the simulated disk is alive");
    let row = |(key, value): (Vec<u8>, Vec<u8>)| {
        let number = u32::from_be_bytes(key.try_into().expect("keys of four bytes"));
        (number, decode("matter", &value, RECORD_BYTES_MAX).expect("written by this origin"))
    };
    rows.into_iter().map(row).collect()
}

fn note(batch: &mut Batch, number: u32, matter: &Matter) {
    batch.put(CATALOGUE, number.to_be_bytes(), encode(matter));
}

/// How much an origin has to do, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub commands: u32,
    pub pause_ms_max: u64,
}

/// See the module's header.
pub struct Origin {
    host: Host,
    site: SiteId,
    engine: Arc<dyn Engine>,
    outbox: Arc<Outbox>,
    replica: Arc<Replica>,
    patients: Arc<Vec<IdentifierKey>>,
    oracle: Oracle,
    rng: ChaCha8Rng,
    workload: Workload,
    matters: BTreeMap<u32, Matter>,
    /// What the outbox told and is not noted yet.
    told: VecDeque<Settled>,
    register_at: UnixMillis,
    submit_at: UnixMillis,
    /// Number of the newest submission, and its commands until it is answered.
    submission: u64,
    under_way: Option<Vec<Submission>>,
}

/// What an origin of one life is made of.
pub struct OriginSetup<'a> {
    pub identity: &'a Identity,
    pub engine: Arc<dyn Engine>,
    pub replica: Arc<Replica>,
    pub patients: Arc<Vec<IdentifierKey>>,
    pub oracle: Oracle,
    pub rng: ChaCha8Rng,
    pub workload: Workload,
}

impl Origin {
    pub fn open(setup: OriginSetup<'_>) -> Result<Self, OutboxError> {
        let OriginSetup { identity, engine, replica, patients, oracle, mut rng, workload } = setup;
        let (federation, key) = (replica.federation(), identity.command.clone());
        let outbox = Arc::new(Outbox::open(engine.clone(), federation, identity.node, key, rng.random())?);
        let matters = catalogue(&*engine);
        Ok(Self {
            host: identity.host,
            site: identity.site.clone(),
            outbox,
            replica,
            patients,
            oracle,
            rng,
            workload,
            matters,
            told: VecDeque::new(),
            register_at: UnixMillis(0),
            submit_at: UnixMillis(0),
            submission: 0,
            under_way: None,
            engine,
        })
    }

    /// To look at from outside.
    pub fn outbox(&self) -> Arc<Outbox> {
        self.outbox.clone()
    }

    pub fn is_done(&self) -> bool {
        self.matters.len() as u32 >= self.workload.commands && self.outbox.waiting() == 0
    }

    /// Registers what is due, and says what to send to the core now.
    pub fn due(&mut self, now: UnixMillis) -> Result<Option<(u64, Vec<Submission>)>, OutboxError> {
        if now >= self.register_at {
            self.register_at = now.plus_ms(self.rng.random_range(20..=self.workload.pause_ms_max));
            let next = self.matters.len() as u32;
            if next < self.workload.commands {
                self.register(next)?;
            }
        }
        if now < self.submit_at {
            return Ok(None);
        }
        for lane in Lane::ALL {
            let pending = self.outbox.pending(lane, SUBMIT_COMMANDS_MAX)?;
            if !pending.is_empty() {
                self.submit_at = now.plus_ms(SUBMIT_PATIENCE_MS);
                self.submission += 1;
                self.under_way = Some(pending.clone());
                return Ok(Some((self.submission, pending)));
            }
        }
        Ok(None)
    }

    /// The core answered submission `number`; late answers to earlier ones are of no interest any more.
    pub fn submitted(&mut self, now: UnixMillis, number: u64, results: &[SubmitResult]) {
        let Some(submissions) = self.under_way.take_if(|_| self.submission == number) else { return };
        for (submission, result) in submissions.iter().zip(results) {
            if let Ok(receipt) = result {
                self.oracle.receipt(self.host, receipt.index, submission.command.hash());
            }
        }
        self.submit_at = now.plus_ms(SUBMIT_PAUSE_MS);
    }

    /// Takes out of the outbox what the newest certificate covers.
    pub fn settle(&mut self) -> Result<(), OutboxError> {
        loop {
            // The outbox forgets what it has told when it is asked again: not before the disk has all of it.
            while let Some(Settled { public, matter, index, outcome, .. }) = self.told.front() {
                let number = u32::from_be_bytes(matter[..].try_into().expect("matters are our own numbers"));
                // Told again after a crash, it may be on its way under another place already.
                let on_its_way =
                    matches!(self.matters.get(&number), Some(Matter::Waiting { public: at }) if at == public);
                match (*outcome, *index) {
                    (Ok(()), index) => self.done(number, index)?,
                    // Its place was taken: the next free one.
                    (Err(_), _) if on_its_way => self.register(number)?,
                    (Err(_), _) => {}
                }
                self.told.pop_front();
            }
            self.told = self.outbox.settle(&self.replica)?.into();
            if self.told.is_empty() {
                return Ok(());
            }
            self.told.iter().for_each(|settled| self.oracle.settled(self.host, settled.index));
        }
    }

    fn done(&mut self, number: u32, index: LedgerIndex) -> Result<(), OutboxError> {
        let (matter, mut batch) = (Matter::Done { index }, Batch::new());
        note(&mut batch, number, &matter);
        self.engine.submit(batch)?;
        self.matters.insert(number, matter);
        Ok(())
    }

    fn register(&mut self, number: u32) -> Result<(), OutboxError> {
        let (lane, kind, public, sealed) = match is_study(number) {
            true => self.study(number)?,
            false => (Lane::Urgent, BREAK_GLASS, self.break_glass(number), None),
        };
        let (matter, mut change) = (Matter::Waiting { public: public.clone() }, Batch::new());
        note(&mut change, number, &matter);
        let draft = Draft { lane, kind, public, sealed, matter: number.to_be_bytes().to_vec() };
        let ticket = self.outbox.enqueue(vec![draft], change)?;
        // Not before the disk took it: a full one refuses.
        self.matters.insert(number, matter);
        let (oracle, host) = (self.oracle.clone(), self.host);
        let acknowledge = move |result: Result<(), _>| {
            if result.is_ok() {
                oracle.acknowledged(host, number);
            }
        };
        self.engine.on_durable(ticket, Box::new(acknowledge));
        Ok(())
    }

    #[allow(clippy::type_complexity)]
    fn study(&mut self, number: u32) -> Result<(Lane, Kind, Vec<u8>, Option<Vec<u8>>), OutboxError> {
        let key = self.patients[number as usize % self.patients.len()].clone();
        let reserved = self.reserved(number);
        let free = next_free(&self.replica, &key, &self.site, STUDY, &|tag| reserved.contains(&tag.to_key()));
        let free = free.map_err(|error| match error {
            PlaceError::Replica(error) => OutboxError::Replica(error),
            PlaceError::ChainFull { .. } => unreachable!("a workload has fewer studies than a chain has places"),
        })?;
        let step = free.presence.map(|tag| presence(&key, STUDY, &self.site, tag, &mut self.rng));
        let details = StudyDetails {
            version: VERSION,
            record: RecordId::from_bytes(self.rng.random()),
            revision: 1,
            site: self.site.clone(),
            visibility: VisibilityClass::ExistenceOnly,
            unlinked: false,
            manifest: Hash::blake3(&[b"manifest of a simulated study", &number.to_be_bytes()]),
            salt: self.rng.random(),
            shown: None,
        };
        let binding = Binding::tag(STUDY, Part::Details, &free.tag);
        let for_patient = key.seal_format(binding, &details, &mut self.rng);
        let sealed = StudySealed { version: VERSION, for_patient, for_regulators: Vec::new() };
        let public = StudyPublic { version: VERSION, tag: free.tag, presence: step, supersedes: None };
        Ok((Lane::Bulk, STUDY, public.to_bytes(), Some(sealed.to_bytes())))
    }

    fn break_glass(&mut self, number: u32) -> Vec<u8> {
        let (site, holder) = (self.site.clone(), self.site.clone());
        let break_glass = BreakGlassId::from_bytes(self.rng.random());
        let at = UnixMillis(u64::from(number));
        BreakGlassPublic { version: VERSION, break_glass, site, holder, at }.to_bytes()
    }

    /// Places of studies that are on their way, but for the one that is written now: if it lost its place to another
    /// record, it may take what came free of it.
    fn reserved(&self, writing: u32) -> BTreeSet<[u8; 33]> {
        let mut places = BTreeSet::new();
        for (number, matter) in self.matters.iter().filter(|(number, _)| **number != writing) {
            let Matter::Waiting { public } = matter else { continue };
            let Some(study) = StudyPublic::from_bytes(public).ok().filter(|_| is_study(*number)) else { continue };
            places.insert(study.tag.to_key());
            places.extend(study.presence.map(|presence| presence.tag.to_key()));
        }
        places
    }
}

/// Entries that the replica's state counts, for the story.
pub fn entry_counts(state: &(impl StateRead + ?Sized)) -> String {
    let counts = machine::counts(state).unwrap_or_default();
    let count = |(kind, count): (Kind, u64)| format!("{count} of kind {}", kind.0);
    counts.into_iter().map(count).collect::<Vec<_>>().join(", ")
}
