//! A small federation: one core hospital, three members, an observer; keys from fixed seeds, persons made up.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tessera_consensus::checkpoint::{SignedCheckpoint, cosign};
use tessera_consensus::kernel::Outcome;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::replica::{self, Replica};
use tessera_consensus::wire::v1::{
    Batch, CommandBody, Genesis, JoinCommand, Kind, NodeKeys, Role, SignedJoin, SiteDeclaration, Submission, VERSION,
    sealed_hash,
};
use tessera_consensus::{
    FederationId, Incarnation, Lane, LedgerIndex, NodeId, Sequence, SiteId, Stream, UnixMillis, kernel,
};
use tessera_federation::blind::{IdentifierKey, SealingKey, YearSeeds, found_oprf};
use tessera_federation::machine::Machine;
use tessera_federation::outbox::OUTBOX;
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{DomainGenesis, FRESHNESS_LIMIT_MS, OprfBudget, OprfSuite};
use tessera_storage::engine::Table;
use tessera_storage::memory::MemoryEngine;
use zeroize::Zeroizing;

/// The nodes by their place in the genesis.
pub const CORE: usize = 0;
pub const B: usize = 1;
/// A second node of hospital B.
pub const B2: usize = 2;
pub const C: usize = 3;
pub const OBSERVER: usize = 4;

const SITES: [&[&str]; 5] =
    [&["hospital-a"], &["hospital-b", "clinic-b"], &["hospital-b"], &["hospital-c"], &["regulator"]];
const ROLES: [Role; 5] = [Role::Core, Role::Member, Role::Member, Role::Member, Role::Observer];

pub struct World {
    pub genesis: Genesis,
    commands: Vec<SigningKey>,
    checkpoints: Vec<SigningKey>,
}

pub fn site(name: &str) -> SiteId {
    name.parse().expect("site")
}

/// K of a made-up person.
pub fn person(byte: u8) -> IdentifierKey {
    IdentifierKey::new(OprfSuite::Ristretto255Sha512, 2025, Zeroizing::new([byte; 64]))
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// The tables of a node that has a replica and an outbox in one engine.
pub fn tables() -> Vec<Table> {
    replica::TABLES.into_iter().chain([OUTBOX]).collect()
}

pub fn engine() -> MemoryEngine {
    MemoryEngine::open(&tables()).expect("tables").auto_flush(true)
}

impl World {
    pub fn new() -> Self {
        let (mut joins, mut commands, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new());
        for (number, (sites, role)) in (1u8..).zip(SITES.iter().zip(ROLES)) {
            let seed = |use_number: u8| [number * 8 + use_number; 32];
            let (command, checkpoint) = (SigningKey::from_seed(seed(1)), SigningKey::from_seed(seed(2)));
            let transport = SigningKey::from_seed(seed(3));
            joins.push(join(number, sites, role, &command, &checkpoint, &transport));
            commands.push(command);
            checkpoints.push(checkpoint);
        }
        let domain = domain(&joins[CORE]).to_bytes();
        let created = UnixMillis(1_764_000_000_000);
        Self {
            genesis: Genesis { version: VERSION, name: "Test".into(), created, joins, domain },
            commands,
            checkpoints,
        }
    }

    pub fn federation(&self) -> FederationId {
        self.genesis.federation_id()
    }

    pub fn node(&self, node: usize) -> NodeId {
        self.genesis.joins[node].node_id()
    }

    pub fn command_key(&self, node: usize) -> SigningKey {
        self.commands[node].clone()
    }

    pub fn replica(&self, engine: &MemoryEngine) -> Replica {
        let genesis = Genesis::from_bytes(&self.genesis.to_bytes()).expect("genesis");
        Replica::open(Arc::new(engine.clone()), genesis, Arc::new(Machine)).expect("replica")
    }

    /// The core's certificate for what `replica` holds, taken by it.
    pub fn certify(&self, replica: &Replica) {
        let signed = self.signed_checkpoint(replica);
        let certificate = signed.verify(&replica.core().expect("core"), self.federation()).expect("certificate");
        replica.certified(certificate).expect("takes the certificate");
    }

    pub fn signed_checkpoint(&self, replica: &Replica) -> SignedCheckpoint {
        let checkpoint = replica.checkpoint().expect("checkpoint");
        let name = self.genesis.joins[CORE].join.name.parse().expect("name");
        let seconds = 1_764_000_000 + checkpoint.size.0;
        let signature = cosign(&checkpoint, &name, &self.checkpoints[CORE], seconds);
        SignedCheckpoint::new(checkpoint, vec![signature]).expect("note")
    }

    pub fn batch(&self, replica: &Replica, submissions: Vec<Submission>) -> Batch {
        let time = self.genesis.created.plus_ms(1_000 * replica.size().0);
        Batch { version: VERSION, previous: *self.federation().hash(), time, proposer: self.node(CORE), submissions }
    }

    /// A command of `node` with the next number of its stream.
    pub fn command(
        &self,
        replica: &Replica,
        node: usize,
        kind: Kind,
        public: Vec<u8>,
        sealed: Option<Vec<u8>>,
    ) -> Submission {
        self.later_command(replica, node, 0, kind, public, sealed)
    }

    /// One that has so many others before it in its batch.
    pub fn later_command(
        &self,
        replica: &Replica,
        node: usize,
        before: u64,
        kind: Kind,
        public: Vec<u8>,
        sealed: Option<Vec<u8>>,
    ) -> Submission {
        let stream = Stream { node: self.node(node), incarnation: Incarnation(0), lane: Lane::Bulk };
        let Sequence(next) = kernel::next_sequence(replica.view(), &stream).expect("state");
        let sequence = Sequence(next + before);
        let hash = sealed.as_deref().map(sealed_hash);
        let body = CommandBody { version: VERSION, kind, stream, sequence, public, sealed: hash };
        Submission { command: body.sign(self.federation(), &self.commands[node]), sealed }
    }

    /// Applies one command and says what became of it.
    pub fn apply(
        &self,
        replica: &Replica,
        node: usize,
        kind: Kind,
        public: Vec<u8>,
        sealed: Option<Vec<u8>>,
    ) -> (LedgerIndex, Outcome) {
        let command = self.command(replica, node, kind, public, sealed);
        let batch = self.batch(replica, vec![command]);
        replica.apply_batch(&batch, Default::default()).expect("applies").outcomes[0]
    }
}

fn join(
    number: u8,
    sites: &[&str],
    role: Role,
    command: &SigningKey,
    checkpoint: &SigningKey,
    transport: &SigningKey,
) -> SignedJoin {
    let declare = |name: &&str| SiteDeclaration { id: site(name), legal_name: name.to_uppercase() };
    let join = JoinCommand {
        version: VERSION,
        name: format!("node-{number}"),
        role,
        sites: sites.iter().map(declare).collect(),
        keys: NodeKeys {
            command: command.public(),
            checkpoint: checkpoint.public(),
            transport: transport.public(),
            sealing: SealingKey::from_seed(&[number; 32]).public(),
        },
        peer_addresses: Vec::new(),
        core_address: (role == Role::Core).then(|| "127.0.0.1:1".into()),
        nonce: [number; 16],
    };
    join.sign(command, checkpoint, transport)
}

fn domain(core: &SignedJoin) -> DomainGenesis {
    let shares = [(core.node_id(), core.join.keys.sealing)];
    let (oprf, oprf_shares) =
        found_oprf(2025, &YearSeeds::draw(&mut rng(9)), OprfBudget::default(), &shares, &mut rng(1)).expect("founds");
    let freshness_limit_ms = FRESHNESS_LIMIT_MS;
    DomainGenesis { version: VERSION, oprf, oprf_shares, founding_year: 2025, rule_base: None, freshness_limit_ms }
}
