//! A federation as it is founded: nodes with their keys, the genesis, and some generated patients' identifier keys.
//!
//! Everything follows from the seed. The keys are real (Ed25519, X25519, RFC 9497 with a locally held key); the
//! patients are numbers of sample hospitals and nothing more.

use std::sync::Arc;

use rand::{CryptoRng, Rng};
use rand_chacha::ChaCha8Rng;
use tessera_consensus::checkpoint::SignerName;
use tessera_consensus::keys::SigningKey;
use tessera_consensus::wire::v1::{Genesis, JoinCommand, NodeKeys, Role, SignedJoin, SiteDeclaration, VERSION};
use tessera_consensus::{NodeId, SiteId, UnixMillis};
use tessera_federation::blind::oprf::Evaluator;
use tessera_federation::blind::{IdentifierKey, KeyAsk, OprfKeys, SealingKey, YearSeeds, blind, found_oprf};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{DomainGenesis, OprfBudget};
use tessera_policy::{Identifier, Issuer};

use crate::network::Host;
use crate::plan::{Size, stream};

/// The wall clock at simulated time zero.
pub const EPOCH: UnixMillis = UnixMillis(1_750_000_000_000);
const YEAR: u16 = 2025;
/// Persons who visit all the sites.
const PATIENTS: u16 = 8;
const FRESHNESS_LIMIT_MS: u64 = 600_000;

/// A node as its operator knows it.
#[derive(Clone)]
pub struct Identity {
    pub host: Host,
    pub node: NodeId,
    pub site: SiteId,
    pub role: Role,
    pub signer: SignerName,
    pub command: SigningKey,
    pub checkpoint: SigningKey,
    join: SignedJoin,
}

/// See the module's header.
pub struct Founding {
    pub identities: Vec<Identity>,
    pub genesis: Genesis,
    pub patients: Arc<Vec<IdentifierKey>>,
}

impl Founding {
    /// Core hospitals and members.
    pub fn new(seed: u64, size: Size) -> Self {
        let mut rng = stream(seed, "founding");
        let mut sealing = Vec::new();
        let identities: Vec<Identity> = size
            .hosts()
            .map(|host| {
                let (identity, key) = identity(host, size.is_core(host), &mut rng);
                sealing.push((identity.node, key.public()));
                identity
            })
            .collect();
        let seeds = YearSeeds::draw(&mut rng);
        let core = &sealing[..usize::from(size.core)];
        let (oprf, oprf_shares) =
            found_oprf(YEAR, &seeds, OprfBudget::default(), core, &mut rng).expect("X25519 keys can be sealed to");
        let domain = DomainGenesis {
            version: tessera_federation::wire::v1::VERSION,
            oprf,
            oprf_shares,
            founding_year: YEAR,
            rule_base: None,
            freshness_limit_ms: FRESHNESS_LIMIT_MS,
        };
        let joins = identities.iter().map(|identity| identity.join.clone()).collect();
        let genesis = Genesis {
            version: VERSION,
            name: "Simulated federation".into(),
            created: UnixMillis(EPOCH.0 - 1_000),
            joins,
            domain: domain.to_bytes(),
        };
        let patients = Arc::new(patients(&OprfKeys::from_seeds(YEAR, &seeds), &domain, &mut rng));
        Self { identities, genesis, patients }
    }

    pub fn identity(&self, host: Host) -> &Identity {
        &self.identities[usize::from(host.0) - 1]
    }

    pub fn host_of(&self, node: &NodeId) -> Option<Host> {
        self.identities.iter().find(|identity| identity.node == *node).map(|identity| identity.host)
    }
}

fn seed_bytes(rng: &mut dyn CryptoRng) -> [u8; 32] {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn identity(host: Host, is_core: bool, rng: &mut ChaCha8Rng) -> (Identity, SealingKey) {
    let role = if is_core { Role::Core } else { Role::Member };
    let name = format!("hospital-{}", host.0);
    let site: SiteId = name.parse().expect("a site's name");
    let mut signing = || SigningKey::from_seed(seed_bytes(rng));
    let (command, checkpoint, transport) = (signing(), signing(), signing());
    let sealing = SealingKey::from_seed(&seed_bytes(rng));
    let join = JoinCommand {
        version: VERSION,
        name: name.clone(),
        role,
        sites: vec![SiteDeclaration { id: site.clone(), legal_name: format!("Simulated hospital {}", host.0) }],
        keys: NodeKeys {
            command: command.public(),
            checkpoint: checkpoint.public(),
            transport: transport.public(),
            sealing: sealing.public(),
        },
        peer_addresses: Vec::new(),
        core_address: (role == Role::Core).then(|| format!("{name}:7443")),
        nonce: rng.random(),
    };
    let join = join.sign(&command, &checkpoint, &transport);
    let signer = SignerName::try_from(name).expect("a signer's name");
    let identity = Identity { host, node: join.node_id(), site, role, signer, command, checkpoint, join };
    (identity, sealing)
}

fn patients(keys: &OprfKeys, genesis: &DomainGenesis, rng: &mut ChaCha8Rng) -> Vec<IdentifierKey> {
    let issuer = Issuer::parse("SIMULATED").expect("an issuer");
    let ask = |number: u16| {
        let identifier = Identifier::hospital(issuer.clone(), &format!("SAMPLE{number:04}")).expect("a number");
        KeyAsk { identifier, year: YEAR }
    };
    let (request, blinding) = blind((0..PATIENTS).map(ask).collect(), rng).expect("a small batch");
    let reply = keys.evaluate(&request, YEAR, rng).expect("a request of our own");
    blinding.finalize(&reply, genesis).expect("a reply of our own")
}
