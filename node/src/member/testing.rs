//! Several members in one process, without a network: what each has in its outbox becomes one batch of all replicas,
//! certified by the core's own keys. Founded by the same functions as the commands use, on real disks.
//! Not here: Raft, following and retrieval, which have worlds of their own.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tessera_consensus::checkpoint::{SignedCheckpoint, cosign};
use tessera_consensus::wire::v1::{Batch, VERSION};
use tessera_consensus::{Lane, NodeId, SiteId, UnixMillis};
use tessera_policy::{ConsentId, Decision, Identifier, Purpose, UserAssertion, UserId};
use tessera_storage::engine::{Batch as EngineBatch, DurableCallback, Engine, EngineError, Pairs, Table, Ticket, View};
use tessera_storage::pixels::SiteKey;
use tessera_storage::rocks::{EngineOptions, RocksEngine};

use super::consent::{DAY_MS, granting};
use super::holder::Question;
use super::lookups::{Asked, Occasion};
use super::registrar::Registration;
use super::{Member, locked};
use crate::archive::catalogue::{Description, ObjectRecord, Receipt};
use crate::archive::ingest::now_ms;
use crate::archive::{self, Archive, catalogue};
use crate::cli;
use crate::config::Config;
use crate::dicom::syntax::EXPLICIT_LITTLE;
use crate::founding;
use crate::home::Home;

/// Who looks up where a test does not care.
pub const NOBODY: Asked<'static> = Asked { occasion: Occasion::History, user: "" };
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;
pub const REGULATOR: usize = 3;
pub const NAMES: [&str; 4] = ["hospital-a", "hospital-b", "hospital-c", "regulator"];
/// Commands taken from an outbox at a time.
const TAKEN_MAX: usize = 128;

pub struct World {
    pub members: Vec<Arc<Member>>,
    disks: [Arc<Disk>; 4],
    folder: tempfile::TempDir,
}

/// What a test does to a member's disk.
#[derive(Default)]
struct Disk {
    /// It takes nothing more.
    is_full: AtomicBool,
    /// Nobody hears any more that something is durable, until it does no longer.
    hangs: Mutex<bool>,
    goes_on: Condvar,
}

/// The real engine on such a disk.
struct TestedEngine {
    engine: RocksEngine,
    disk: Arc<Disk>,
}

impl View for TestedEngine {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.engine.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.engine.scan(table, from, to, limit)
    }

    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError> {
        self.engine.scan_back(table, from, to, limit)
    }
}

impl Engine for TestedEngine {
    fn submit(&self, batch: EngineBatch) -> Result<Ticket, EngineError> {
        if self.disk.is_full.load(Ordering::Relaxed) {
            return Err(EngineError::DiskFull { detail: "a test filled it".into() });
        }
        self.engine.submit(batch)
    }

    fn on_durable(&self, ticket: Ticket, done: DurableCallback) {
        let disk = self.disk.clone();
        let tell = move |result| {
            drop(disk.goes_on.wait_while(locked(&disk.hangs), |hangs| *hangs));
            done(result);
        };
        self.engine.on_durable(ticket, Box::new(tell));
    }

    fn durable(&self) -> Ticket {
        self.engine.durable()
    }

    fn snapshot(&self) -> Box<dyn View> {
        self.engine.snapshot()
    }
}

fn init(dir: &Path, name: &str, peer: &[String]) -> cli::Init {
    let nowhere = "127.0.0.1:0".parse().expect("an address");
    cli::Init {
        dir: cli::Dir { dir: dir.to_owned() },
        site: name.into(),
        legal_name: name.to_uppercase(),
        issuer: None,
        name: None,
        dicom: nowhere,
        ae_title: "TESSERA".into(),
        accept_unknown_senders: true,
        http: nowhere,
        peer: peer.to_vec(),
        core: Some(nowhere),
        viewer: None,
        users_role: Some("physician".into()),
        quiet_period_ms: 1_000,
    }
}

fn try_open(dir: &Path, disk: &Arc<Disk>) -> anyhow::Result<Arc<Member>> {
    let home = Home::new(dir);
    let config = Config::read(&home.config()).expect("a configuration");
    let secrets = home.load_secrets().expect("keys");
    let (own, genesis) = founding::installed(&home).expect("a federation");
    std::fs::create_dir_all(home.database()).expect("a writable folder");
    let engine = RocksEngine::open(&home.database(), &archive::TABLES, EngineOptions::default()).expect("a database");
    let engine: Arc<dyn Engine> = Arc::new(TestedEngine { engine, disk: disk.clone() });
    let key = SiteKey::new(*secrets.site);
    let archive = Archive::open(engine, &home.pixels(), key, config.clone()).expect("an archive");
    let member = Member::open(home, config, secrets, &own, genesis, archive)?;
    member.advanced();
    Ok(member)
}

impl World {
    /// Three core hospitals and a regulator.
    pub async fn found() -> Self {
        Self::found_listening(A, &[]).await
    }

    /// The same, one of which would listen at these addresses once its network is started.
    pub async fn found_listening(listener: usize, peer: &[String]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir = |name: &str| folder.path().join(name);
        let genesis = dir("genesis");
        let mut tickets = Vec::new();
        for name in NAMES {
            let peer = if name == NAMES[listener] { peer } else { &[] };
            founding::init(init(&dir(name), name, peer)).expect("a node");
            let role = if name == NAMES[REGULATOR] { cli::RoleName::Observer } else { cli::RoleName::Core };
            let out = dir(&format!("{name}.ticket"));
            founding::ticket(cli::Ticket { dir: cli::Dir { dir: dir(name) }, role, out: out.clone() })
                .expect("a ticket");
            tickets.push(out);
        }
        let found = cli::Found { name: "Trial".into(), out: genesis.clone(), freshness_limit_ms: 600_000, tickets };
        founding::found(found).expect("a federation");
        for name in NAMES {
            let join = cli::Join { dir: cli::Dir { dir: dir(name) }, genesis: genesis.clone() };
            founding::join(join).expect("it joins");
        }
        let mut world = Self { members: Vec::new(), disks: Default::default(), folder };
        world.members = (0..NAMES.len()).map(|index| world.opens(index).expect("a member")).collect();
        world.commit().await;
        world
    }

    fn opens(&self, index: usize) -> anyhow::Result<Arc<Member>> {
        try_open(&self.folder.path().join(NAMES[index]), &self.disks[index])
    }

    pub fn hangs_disk(&self, index: usize, hangs: bool) {
        *locked(&self.disks[index].hangs) = hangs;
        self.disks[index].goes_on.notify_all();
    }

    pub fn fills_disk(&self, index: usize, is_full: bool) {
        self.disks[index].is_full.store(is_full, Ordering::Relaxed);
    }

    /// Stops a member and opens its directory again, as after a crash.
    pub fn reopen(&mut self, index: usize) {
        let member = self.reopens(index).expect("a member");
        self.members.insert(index, member);
    }

    /// Stops a member for good, and tries to open its directory again.
    pub fn reopens(&mut self, index: usize) -> anyhow::Result<Arc<Member>> {
        let old = self.members.remove(index);
        assert_eq!(Arc::strong_count(&old), 1, "nobody else holds the member");
        drop(old);
        self.opens(index)
    }

    /// One batch with all that waits, applied and certified everywhere; each outbox is told.
    pub async fn commit(&self) {
        self.commit_among(&[A, B, C, REGULATOR]).await;
    }

    /// The same at some of the members only; the others have to follow.
    pub async fn commit_among(&self, present: &[usize]) {
        let members: Vec<&Arc<Member>> = present.iter().map(|index| &self.members[*index]).collect();
        let mut submissions = Vec::new();
        for member in &members {
            let ticket = member.archive.engine().submit(EngineBatch::new()).expect("a ticket");
            member.durable(ticket).await.expect("a working disk");
            for lane in Lane::ALL {
                submissions.extend(member.outbox.pending(lane, TAKEN_MAX).expect("commands"));
            }
        }
        let federation = self.members[A].replica.federation();
        let batch = Batch {
            version: VERSION,
            previous: *federation.hash(),
            time: UnixMillis(now_ms()),
            proposer: self.members[A].node,
            submissions,
        };
        for member in &members {
            member.replica.apply_batch(&batch, EngineBatch::new()).expect("it applies");
        }
        for member in &members {
            self.certify(member);
            loop {
                let settled = member.outbox.settle(&member.replica).expect("settled");
                if settled.is_empty() {
                    break;
                }
                for command in &settled {
                    member.settled(command).expect("settled");
                }
            }
            member.write_again_once().await.expect("a working disk");
        }
    }

    /// What the core's nodes in these places sign for a member's ledger.
    pub fn signed(&self, member: &Member, signers: &[usize]) -> SignedCheckpoint {
        let checkpoint = member.replica.checkpoint().expect("a checkpoint");
        let signatures = signers.iter().map(|signer| {
            let signer = &self.members[*signer];
            let name = signer.config.name.parse().expect("a signer's name");
            cosign(&checkpoint, &name, &signer.secrets.checkpoint, now_ms() / 1000)
        });
        SignedCheckpoint::new(checkpoint, signatures.collect()).expect("a note")
    }

    fn certify(&self, member: &Member) {
        let signed = self.signed(member, &[A, B, C]);
        let core = member.replica.core().expect("a core");
        let certificate = signed.verify(&core, member.replica.federation()).expect("a certificate");
        member.replica.certified(certificate).expect("it is taken");
        member.advanced();
    }

    /// Commits again and again while `work` waits for the ledger.
    pub async fn while_committing<T>(&self, work: impl Future<Output = T>) -> T {
        futures::pin_mut!(work);
        loop {
            if let std::task::Poll::Ready(done) = futures::poll!(&mut work) {
                return done;
            }
            self.commit().await;
            tokio::task::yield_now().await;
        }
    }

    /// A grant to Hospital B for treatment, attested by `recorder`'s staff.
    pub async fn grants(&self, recorder: usize, patient: &Identifier) -> ConsentId {
        self.grants_for(recorder, patient, 30 * DAY_MS, None).await
    }

    /// The same for so long, with a patient's code or without.
    pub async fn grants_for(&self, recorder: usize, patient: &Identifier, ms: u64, code: Option<&str>) -> ConsentId {
        let member = &self.members[recorder];
        let end = UnixMillis(now_ms()).plus_ms(ms);
        let terms = granting(member, "hospital-b", "treatment", end).expect("terms");
        let consent = member.record_consent(patient.clone(), terms, code).await.expect("a consent");
        self.commit().await;
        consent
    }

    /// What `holder` says to Hospital B's physician who asks for a study of `patient`.
    pub async fn asks(&self, holder: usize, patient: &Identifier) -> Decision {
        self.decides(holder, patient).await.expect("a decision")
    }

    /// The same, or why there is no decision: a refusal too.
    pub async fn decides(&self, holder: usize, patient: &Identifier) -> anyhow::Result<Decision> {
        Ok(self.members[holder].decide(&self.question(holder, patient)).await?.decision)
    }

    pub fn question(&self, holder: usize, patient: &Identifier) -> Question {
        let b = &self.members[B];
        let user = UserId::parse("li.wei").expect("a user");
        let user = UserAssertion::new(policy_site(B), user, tessera_policy::Role::Physician, None);
        let site = self.members[holder].config.default_site().id.clone();
        let registration = Registration {
            study: "1.2.3".into(),
            site,
            patient: catalogue::LocalPatient { issuer: "A".into(), patient_id: "1".into() },
            identifier: patient.clone(),
            record: tessera_federation::RecordId::from_bytes([1; 16]),
            revision: 1,
            tag: tessera_federation::wire::v1::Tag::from_parts(
                tessera_federation::wire::v1::TagAlgorithm::KeyedBlake3,
                [1; 32],
            ),
        };
        let requester = b.config.default_site().id.clone();
        Question { user, requester, purpose: Purpose::Treatment, registration }
    }

    pub fn node(&self, index: usize) -> NodeId {
        self.members[index].node
    }
}

pub fn policy_site(index: usize) -> tessera_policy::SiteId {
    tessera_federation::policy_site(&NAMES[index].parse::<SiteId>().expect("a site"))
}

pub fn patient(number: u32) -> Identifier {
    Identifier::parse(&format!("hospital:TRIAL/{number}")).expect("an identifier")
}

/// An object that came long ago, as the catalogue has it.
pub fn quiet_study(archive: &Archive, study: &str, site: &str) {
    let receipt = Receipt {
        version: 1,
        calling_ae: String::new(),
        called_ae: String::new(),
        address: String::new(),
        received_ms: 1,
        sop_class: String::new(),
        sop_instance: String::new(),
        transfer_syntax: EXPLICIT_LITTLE.into(),
        site: site.into(),
        known_sender: true,
        character_set: None,
        fetched_from: None,
    };
    let description = Description {
        sop_class: "1.2.840.10008.5.1.4.1.1.2".into(),
        sop_instance: format!("{study}.1.1"),
        series: format!("{study}.1"),
        study: study.to_owned(),
        issuer: "TRIAL".into(),
        patient_id: "1".into(),
        study_date: "20260131".into(),
        modality: "CT".into(),
        ..Description::default()
    };
    let hash = *blake3::hash(study.as_bytes()).as_bytes();
    let record = ObjectRecord { description, receipt, hash, size: 100, is_damaged: false };
    let mut batch = EngineBatch::new();
    let view = &**archive.engine();
    let standing = catalogue::standing(view, &record).expect("the catalogue");
    let (mut totals, at_ms) = (catalogue::totals(view).expect("totals"), record.receipt.received_ms);
    catalogue::record(view, &record, &standing, at_ms, &mut totals, &mut batch).expect("recorded");
    catalogue::put_totals(&mut batch, &totals);
    archive.submit(batch).expect("submitted");
}
