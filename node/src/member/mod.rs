//! This node as a member of its federation: the replica, the outbox, identifier keys, and what follows from them.
//!
//! - [`core`]: Raft and certification, on a core node; [`seat`]: whether it may
//! - [`following`]: checkpoints and entries from peers; serving them; [`handing_in`]: the outbox's commands to the core
//! - [`registrar`]: from a quiet study to a certified record; [`earlier_lives`]: what this directory forgot or left;
//!   [`places`]: where its commands on their way go; [`again`]: what is written again
//! - [`history`], [`consent`], [`revocation`], [`crosswalk`], [`links`]: what people ask for; [`people`]: in whose name
//! - [`holder`], [`codes`], [`host`], [`requester`], [`receipts`], [`copies`], [`export`]: images between
//!   sites; [`peers`]: the network
//! - [`lookups`]: who looked whom up here; [`statistics`]: what a regulator counts; [`unreadable`]: who wrote what nobody
//!   can read; [`clock`]: what this node believes of the time
//! - [`vault`]: what is kept about patients, sealed
//!
//! Decisions are made in `policy`, `consensus` and `federation`; here are the tasks that carry them out.

pub mod again;
#[cfg(test)]
mod again_tests;
pub mod audit;
mod batch_ends;
pub mod clock;
pub mod codes;
pub mod consent;
#[cfg(test)]
mod consent_tests;
pub mod copies;
#[cfg(test)]
mod copies_tests;
pub mod core;
pub mod crosswalk;
pub mod earlier_lives;
pub mod export;
pub mod following;
pub mod handing_in;
pub mod history;
#[cfg(test)]
mod history_tests;
pub mod holder;
pub mod host;
pub mod keys;
#[cfg(test)]
mod liars_tests;
pub mod links;
pub mod lookups;
pub mod peers;
pub mod people;
pub mod places;
pub mod receipts;
#[cfg(test)]
mod receipts_tests;
pub mod registrar;
pub mod rejected;
pub mod requester;
pub mod revocation;
#[cfg(test)]
mod safety_tests;
pub mod seat;
pub mod statistics;
pub mod status;
pub mod suspicions;
#[cfg(test)]
mod testing;
pub mod unreadable;
#[cfg(test)]
mod unreadable_tests;
pub mod vault;
pub mod web;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context;
use tessera_consensus::checkpoint::Certificate;
use tessera_consensus::clock::{Arrival, TrustedClock};
use tessera_consensus::follow::Input;
use tessera_consensus::kernel;
use tessera_consensus::keys::PublicKey;
use tessera_consensus::replica::{self, Replica};
use tessera_consensus::wire::v1::{Genesis, Leaf, Role, SignedJoin};
use tessera_consensus::{LedgerIndex, LedgerSize, NodeId, SiteId, UnixMillis};
use tessera_federation::blind::{Budget, BudgetUse, OprfKeys, SealingKey, own_share};
use tessera_federation::machine::{self, Machine};
use tessera_federation::net::Changes;
use tessera_federation::outbox::Outbox;
use tessera_federation::retrieve::Identity;
use tessera_federation::retrieve::wire::v1::Seen;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{AMENDMENT, CONSENT, DomainGenesis, REVOCATION};
use tessera_policy::{Crosswalk, Level, Rules};
use tessera_storage::engine::{Ticket, wait_durable};
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::sync::{Notify, mpsc, watch};

use crate::archive::Archive;
use crate::archive::copies::CopyId;
use crate::archive::ingest::now_ms;
use crate::config::Config;
use crate::home::{Home, Secrets};
use peers::Peers;
use vault::{Shelf, Vault};

/// How far this node's ledger is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub size: u64,
    pub certified_size: u64,
    pub certified_ms: u64,
    /// A certificate that is newer than this process, and than the one that it found here, was applied: the replica
    /// has caught up once.
    pub caught_up: bool,
}

/// See the module's header. Shared by all tasks.
pub struct Member {
    pub config: Config,
    pub home: Home,
    pub secrets: Secrets,
    pub node: NodeId,
    pub role: Role,
    pub domain: DomainGenesis,
    pub archive: Arc<Archive>,
    pub replica: Arc<Replica>,
    pub outbox: Outbox,
    pub vault: Vault,
    pub rules: Rules,
    pub sealing: SealingKey,
    pub oprf: Option<OprfKeys>,
    pub progress: watch::Sender<Progress>,
    /// Running retrievals watch it.
    pub changes: watch::Sender<Changes>,
    crosswalk: Mutex<Crosswalk>,
    budget: Mutex<Budget>,
    clock: Mutex<TrustedClock>,
    reserved: Mutex<places::Reserved>,
    /// Held from the question which places of a chain are free until they are reserved. Whoever needs the archive's
    /// writing lock too takes it after this one: a chain may be long.
    placing: Mutex<()>,
    /// Why the registrar could not register what is quiet; `None` while it can.
    registration_waits: Mutex<Option<String>>,
    /// Why no newer entries are taken.
    ledger_waits: Mutex<Option<String>>,
    /// The study at which the registrar's last round ended.
    registered_last: Mutex<String>,
    /// How far the ledger was looked through for registrations of this node; `None`: not in this life.
    examined: Mutex<Option<LedgerSize>>,
    /// What other members were caught at.
    suspicions: Mutex<suspicions::Suspicions>,
    /// Held while a grant is recorded, so that no code is given in twice.
    granting: tokio::sync::Mutex<()>,
    /// Held while a code is handed out or spent.
    codes: Mutex<()>,
    /// Held while a lookup is written down.
    lookups: Mutex<()>,
    /// Refusals that were made here and are not in the ledger's counts.
    refusals: AtomicU64,
    /// Some consent waits to be written again.
    consents_again: AtomicBool,
    /// Some link waits to be written again.
    links_again: AtomicBool,
    /// Some receipt waits for its disclosure.
    receipts_wait: AtomicBool,
    volumes: Mutex<statistics::Volumes>,
    concerns: Mutex<BTreeMap<CopyId, Arc<copies::Concerns>>>,
    unreadable: Mutex<BTreeMap<LedgerIndex, unreadable::Unreadable>>,
    outgoing: Notify,
    core_refuses: Mutex<handing_in::Refusals>,
    /// Core nodes that said that this node's budget of lookups is used up.
    blind_rests: Mutex<keys::Rests>,
    /// How often commands were handed to a core node.
    handed_in: AtomicUsize,
    peers: OnceLock<Peers>,
    core: OnceLock<core::CoreHandle>,
    seat_lost: OnceLock<String>,
    /// This node and another of the core hold different ledgers.
    divergence: OnceLock<String>,
    follower: OnceLock<mpsc::Sender<Input>>,
    /// Whether what comes in is of the present.
    arrival: Mutex<Arrival>,
    /// The ledger when this process opened it.
    opened_size: LedgerSize,
    /// Time of the certificate that the last life left.
    kept_ms: u64,
}

pub fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms / 1000).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time.and_then(|time| time.format(&format).ok()).unwrap_or_else(|| "later than the year 9999".into())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Opens the ledger of the federation that is installed in `home`.
    pub fn open(
        home: Home,
        config: Config,
        secrets: Secrets,
        own: &SignedJoin,
        genesis: Genesis,
        archive: Arc<Archive>,
    ) -> anyhow::Result<Arc<Self>> {
        let federation = genesis.federation_id();
        let domain = DomainGenesis::from_bytes(&genesis.domain)?;
        let mut tables = replica::TABLES.to_vec();
        tables.push(tessera_consensus::raft::state_machine::RAFT_APPLIED);
        let ledger = home.ledger(federation);
        std::fs::create_dir_all(&ledger)?;
        let engine = RocksEngine::open(&ledger, &tables, EngineOptions::default())
            .map_err(|error| audit::with_way_back(&home, federation, error.is_damage(), error))?;
        let replica = Replica::open(Arc::new(engine), genesis, Arc::new(Machine))
            .map_err(|error| audit::with_way_back(&home, federation, error.is_damage(), error))?;
        let replica = Arc::new(replica);
        anyhow::ensure!(!replica.is_diverged(), following::DIVERGED);
        let node = own.node_id();
        let vault = Vault::new(&secrets.site, federation);
        earlier_lives::register_anew(&archive, &vault, federation)?;
        let entropy = rand::random();
        let outbox = Outbox::open(archive.engine().clone(), federation, node, secrets.command.clone(), entropy)?;
        let sealing = SealingKey::from_seed(&secrets.sealing);
        let oprf = own_share(&domain, &node, &sealing).ok();
        let used: Vec<(NodeId, u64, u64)> = vault.all(&**archive.engine(), Shelf::Budget, kernel::NODES_MAX)?;
        let used = used.into_iter().map(|(node, day, elements)| (node, BudgetUse { day, elements }));
        let progress = Progress { size: replica.size().0, ..Progress::default() };
        let volumes = vault.get(&**archive.engine(), Shelf::Statistics, b"volumes")?.unwrap_or_default();
        Ok(Arc::new(Self {
            rules: rules(&config)?,
            crosswalk: Mutex::new(crosswalk::load(&archive, &vault)?),
            budget: Mutex::new(Budget::load(domain.oprf.budget, used)),
            clock: Mutex::new(clock::kept(&vault, &**archive.engine(), &replica)?),
            kept_ms: replica.certificate().map_or(0, |certificate| certificate.time().0),
            progress: watch::Sender::new(progress),
            role: own.join.role,
            reserved: Mutex::new(places::Reserved::of_waiting(&outbox)?),
            placing: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            registration_waits: Mutex::default(),
            ledger_waits: Mutex::default(),
            registered_last: Mutex::default(),
            examined: Mutex::default(),
            suspicions: Mutex::default(),
            codes: Mutex::default(),
            lookups: Mutex::default(),
            refusals: AtomicU64::new(0),
            consents_again: AtomicBool::new(true),
            links_again: AtomicBool::new(true),
            receipts_wait: AtomicBool::new(true),
            volumes: Mutex::new(volumes),
            concerns: Mutex::default(),
            unreadable: Mutex::default(),
            outgoing: Notify::new(),
            core_refuses: Mutex::default(),
            blind_rests: Mutex::default(),
            handed_in: AtomicUsize::new(0),
            peers: OnceLock::new(),
            core: OnceLock::new(),
            seat_lost: OnceLock::new(),
            divergence: OnceLock::new(),
            follower: OnceLock::new(),
            changes: watch::Sender::new(Changes::default()),
            arrival: Mutex::new(Arrival::new(UnixMillis(now_ms()))),
            opened_size: replica.size(),
            config,
            home,
            secrets,
            node,
            domain,
            archive,
            replica,
            outbox,
            vault,
            sealing,
            oprf,
        }))
    }

    pub fn peers(&self) -> anyhow::Result<&Peers> {
        self.peers.get().context("the node is still starting")
    }

    /// Called when the replica applied something or took a certificate.
    pub fn advanced(&self) {
        let certificate = self.replica.certificate();
        if let Some(certificate) = &certificate {
            locked(&self.clock).certified(certificate.time(), clock::clocks());
        }
        self.progress.send_modify(|progress| {
            progress.size = self.replica.size().0;
            if let Some(certificate) = certificate {
                progress.certified_size = certificate.checkpoint().size.0;
                progress.certified_ms = certificate.time().0;
                let is_news =
                    certificate.time().0 > self.kept_ms && certificate.checkpoint().size <= self.replica.size();
                if is_news && !progress.caught_up {
                    progress.caught_up = locked(&self.arrival).is_shown_by(certificate.time(), clock::clocks());
                }
            }
        });
        self.announce_changes();
    }

    /// Tells running retrievals what moved; rules, consents and records make them decide again.
    pub fn announce_changes(&self) {
        let counts = machine::counts(self.replica.view()).unwrap_or_default();
        let concerns = |kind| matches!(kind, CONSENT | REVOCATION | AMENDMENT);
        let in_ledger: u64 = counts.iter().filter(|(kind, _)| concerns(*kind)).map(|(_, count)| count).sum();
        let rules = in_ledger + self.refusals.load(Ordering::Relaxed);
        self.changes.send_modify(|changes| {
            changes.certified += 1;
            changes.rules = rules;
        });
    }

    /// Who this node is in a retrieval.
    pub fn identity(&self) -> Identity {
        Identity {
            federation: self.replica.federation(),
            node: self.node,
            sites: self.config.site.iter().map(|site| site.id.clone()).collect(),
            command_key: self.secrets.command.clone(),
        }
    }

    /// The newest certified checkpoint that was applied here.
    pub fn seen(&self) -> Option<Seen> {
        let certificate = self.replica.certificate()?;
        let checkpoint = certificate.checkpoint();
        Some(Seen { size: checkpoint.size, root: checkpoint.root, time: certificate.time() })
    }

    /// A peer showed a certificate that may be newer than what is here: the follower looks after it.
    pub fn hear_of(&self, certificate: Certificate) {
        if let Some(follower) = self.follower.get() {
            let note = certificate.signed().to_note();
            let full = follower.try_send(Input::Gossip { from: self.node, note }).is_err();
            tracing::trace!(full, "a certificate for the follower");
        }
    }

    pub fn set_follower(&self, inputs: mpsc::Sender<Input>) {
        let set_before = self.follower.set(inputs).is_err();
        debug_assert!(!set_before, "the follower is set once");
    }

    /// For answers: time of the newest certified state, and its age.
    pub fn as_of(&self) -> (Option<String>, Option<u64>) {
        let time = self.replica.certificate().map(|certificate| rfc3339(certificate.time().0));
        (time, self.trusted().ok().and_then(|(_, age)| age))
    }

    pub fn is_certified(&self, index: LedgerIndex) -> bool {
        self.replica.certificate().is_some_and(|certificate| certificate.checkpoint().size.contains(index))
    }

    /// Core nodes other than this one.
    pub fn core_nodes(&self) -> anyhow::Result<Vec<NodeId>> {
        let seats = kernel::core(self.replica.view())?.seats;
        Ok(seats.into_iter().map(|seat| seat.node).filter(|node| *node != self.node).collect())
    }

    pub fn knows_site(&self, site: &SiteId) -> anyhow::Result<bool> {
        Ok(self.node_of(site)?.is_some())
    }

    /// The active node that speaks for a site.
    pub fn node_of(&self, site: &SiteId) -> anyhow::Result<Option<kernel::NodeRecord>> {
        let nodes = kernel::nodes(self.replica.view())?;
        Ok(nodes.into_iter().find(|node| node.active && node.join.join.sites.iter().any(|known| known.id == *site)))
    }

    pub fn site_name(&self, site: &SiteId) -> anyhow::Result<String> {
        let node = self.node_of(site)?;
        let declared = node.and_then(|node| node.join.join.sites.into_iter().find(|known| known.id == *site));
        Ok(declared.map_or_else(|| site.to_string(), |declared| declared.legal_name))
    }

    /// Sealing keys of the active regulators.
    pub fn regulators(&self) -> anyhow::Result<Vec<PublicKey>> {
        let nodes = kernel::nodes(self.replica.view())?;
        let observers = nodes.into_iter().filter(|node| node.active && node.role == Role::Observer);
        Ok(observers.map(|node| node.join.join.keys.sealing).collect())
    }

    /// Waits until a change of this node's tables survives a power failure.
    pub async fn durable(&self, ticket: Ticket) -> anyhow::Result<()> {
        let engine = self.archive.engine().clone();
        Ok(tokio::task::spawn_blocking(move || wait_durable(&*engine, ticket)).await??)
    }

    /// The ledger's time of an entry.
    pub fn entry_time(&self, index: LedgerIndex) -> anyhow::Result<UnixMillis> {
        let entry = self.replica.entry(index)?.context("an entry that the state names is not in the ledger")?;
        Ok(Leaf::from_bytes(&entry.leaf)?.time)
    }

    /// There is something to send.
    pub fn wake_sender(&self) {
        self.outgoing.notify_one();
    }
}

fn rules(config: &Config) -> anyhow::Result<Rules> {
    let Some(path) = &config.policy.site_rules else { return Ok(Rules::federation_default()?) };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(Rules::parse(&[(Level::Federation, tessera_policy::FEDERATION_DEFAULT), (Level::Site, &text)])?)
}
