//! `tessera init`, `ticket`, `found`, `join`: how a node comes to be, and how nodes become a federation.
//!
//! A ticket is the node's signed join command; the founder puts the tickets into a genesis; every node takes the
//! genesis by hand and compares its hash. `init` founds a federation of one, so that a single hospital has a working
//! archive with a ledger at once. When it joins another federation later, the archive stays and everything is
//! registered anew from the catalogue; the ledger of one stays on the disk, untouched.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use rand::{RngCore, SeedableRng};
use tessera_consensus::UnixMillis;
use tessera_consensus::wire::v1::{Genesis, JoinCommand, NodeKeys, Role, SignedJoin, SiteDeclaration, VERSION};
use tessera_federation::blind::{SealingKey, YearSeeds, found_oprf};
use tessera_federation::wire::Format;
use tessera_federation::wire::v1::{DomainGenesis, OprfBudget};

use crate::archive::ingest::now_ms;
use crate::cli;
use crate::config::{
    ArchiveConfig, Config, CoreConfig, DicomConfig, HttpConfig, PeerConfig, PeopleConfig, PolicyConfig, SiteConfig,
};
use crate::home::{Home, Secrets, hand_out, replace, write_new};
use crate::say::say;

/// A source of randomness for founding and sealing, seeded by the operating system.
pub fn rng() -> rand_chacha::ChaCha20Rng {
    rand_chacha::ChaCha20Rng::from_os_rng()
}

pub fn init(options: cli::Init) -> anyhow::Result<()> {
    let home = Home::new(&options.dir.dir);
    let config = configuration(&options)?;
    config.validate()?;
    let (secrets, making) = home.create()?;
    write_new(&home.config(), config.to_toml().as_bytes(), 0o644)?;
    let ticket = ticket_of(&config, &secrets, Role::Core)?;
    let genesis = genesis(format!("{} alone", config.name), vec![ticket.clone()], 600_000)?;
    install(&home, &ticket, &genesis)?;
    making.finish()?;
    say!("Created node {} ({:?}) in {}", config.name, ticket.node_id(), options.dir.dir.display());
    say!("Start it:           tessera node --dir {}", options.dir.dir.display());
    say!("Send images to:     {} (AE title {})", options.dicom, options.ae_title);
    say!("Look at them:       http://{}/", options.http);
    say!("List your devices in {} under [[dicom.sender]].", home.config().display());
    Ok(())
}

fn configuration(options: &cli::Init) -> anyhow::Result<Config> {
    let site = SiteConfig {
        id: options.site.parse().context("--site")?,
        legal_name: options.legal_name.clone(),
        issuer: options.issuer.clone().unwrap_or_else(|| options.site.to_uppercase()),
        ae_title: String::new(),
    };
    Ok(Config {
        name: options.name.clone().unwrap_or_else(|| options.site.clone()),
        site: vec![site],
        dicom: DicomConfig {
            listen: Some(options.dicom),
            ae_title: options.ae_title.clone(),
            accept_unknown_senders: options.accept_unknown_senders,
            ..Default::default()
        },
        http: HttpConfig { listen: Some(options.http), viewer: options.viewer.clone(), ..Default::default() },
        peer: PeerConfig { listen: options.peer.clone(), announce: Vec::new() },
        core: CoreConfig { listen: options.core, announce: None },
        archive: ArchiveConfig { quiet_period_ms: options.quiet_period_ms, ..Default::default() },
        policy: PolicyConfig::default(),
        people: PeopleConfig { role: options.users_role.clone() },
    })
}

/// A fresh join command for this configuration.
fn ticket_of(config: &Config, secrets: &Secrets, role: Role) -> anyhow::Result<SignedJoin> {
    let mut nonce = [0; 16];
    rng().fill_bytes(&mut nonce);
    let peers = if config.peer.announce.is_empty() { &config.peer.listen } else { &config.peer.announce };
    let core = config.core.announce.clone().or(config.core.listen.map(|address| address.to_string()));
    let join = JoinCommand {
        version: VERSION,
        name: config.name.clone(),
        role,
        sites: config
            .site
            .iter()
            .map(|site| SiteDeclaration { id: site.id.clone(), legal_name: site.legal_name.clone() })
            .collect(),
        keys: NodeKeys {
            command: secrets.command.public(),
            checkpoint: secrets.checkpoint.public(),
            transport: secrets.transport.public(),
            sealing: SealingKey::from_seed(&secrets.sealing).public(),
        },
        peer_addresses: peers.clone(),
        core_address: (role == Role::Core).then(|| core.unwrap_or_else(|| "127.0.0.1:0".into())),
        nonce,
    };
    let signed = join.sign(&secrets.command, &secrets.checkpoint, &secrets.transport);
    signed.verify()?;
    Ok(signed)
}

pub fn ticket(options: cli::Ticket) -> anyhow::Result<()> {
    let home = Home::new(&options.dir.dir);
    home.check_finished()?;
    let config = Config::read(&home.config())?;
    let role = match options.role {
        cli::RoleName::Core => Role::Core,
        cli::RoleName::Member => Role::Member,
        cli::RoleName::Observer => Role::Observer,
    };
    ensure!(
        role != Role::Core || config.core.listen.is_some(),
        "a core node needs [core] listen in {}: the address where the other core nodes connect",
        home.config().display()
    );
    let ticket = ticket_of(&config, &home.load_secrets()?, role)?;
    // A ticket may be made again, and is of no use to others before it is in a genesis.
    hand_out(&options.out, &ticket.to_bytes(), true)?;
    say!("Ticket of {:?} as {role:?} in {}", ticket.node_id(), options.out.display());
    Ok(())
}

pub fn found(options: cli::Found) -> anyhow::Result<()> {
    let mut tickets = Vec::new();
    for path in &options.tickets {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        tickets.push(SignedJoin::from_bytes(&bytes).with_context(|| format!("{}: no ticket", path.display()))?);
    }
    let genesis = genesis(options.name, tickets, options.freshness_limit_ms)?;
    // Another one in its place would be another federation, with nodes in both.
    hand_out(&options.out, &genesis.to_bytes(), false)?;
    say!("Federation {}", genesis.federation_id());
    print_members(&genesis);
    say!("Hand {} to every node's operator; each compares this number after `tessera join`.", options.out.display());
    Ok(())
}

fn genesis(name: String, joins: Vec<SignedJoin>, freshness_limit_ms: u64) -> anyhow::Result<Genesis> {
    one_node_a_site(&joins)?;
    let core = joins.iter().filter(|signed| signed.join.role == Role::Core);
    let core: Vec<_> = core.map(|signed| (signed.node_id(), signed.join.keys.sealing)).collect();
    let mut rng = rng();
    let now = now_ms();
    let (founding_year, seeds) = (year_of(now), YearSeeds::draw(&mut rng));
    let (oprf, oprf_shares) = found_oprf(founding_year, &seeds, OprfBudget::default(), &core, &mut rng)?;
    let domain = DomainGenesis {
        version: tessera_federation::wire::v1::VERSION,
        oprf,
        oprf_shares,
        founding_year,
        rule_base: None,
        freshness_limit_ms,
    };
    domain.validate()?;
    let genesis = Genesis { version: VERSION, name, created: UnixMillis(now), joins, domain: domain.to_bytes() };
    genesis.verify()?;
    Ok(genesis)
}

/// A node speaks for the sites that its ticket names, so nobody's ticket may name another's. Several nodes of one site wait
/// for membership that the ledger governs.
fn one_node_a_site(joins: &[SignedJoin]) -> anyhow::Result<()> {
    let mut spoken_for = BTreeMap::new();
    for SignedJoin { join, .. } in joins {
        for site in &join.sites {
            if let Some(other) = spoken_for.insert(&site.id, &join.name) {
                bail!(
                    "the tickets of {other} and of {} both name the site {}: a node of a site could read and revoke in its \
                     name. Ask both operators, and found with the right one",
                    join.name,
                    site.id
                );
            }
        }
    }
    Ok(())
}

/// Nodes, roles and sites of a federation, for people to compare with what they know.
fn print_members(genesis: &Genesis) {
    for SignedJoin { join, .. } in &genesis.joins {
        let role = format!("{:?}", join.role).to_lowercase();
        let sites: Vec<String> = join.sites.iter().map(|site| format!("{} ({})", site.id, site.legal_name)).collect();
        say!("  {:<8} {:<16} speaks for {}", role, join.name, sites.join(", "));
    }
}

/// The year of a time, for identifier keys (UTC).
pub fn year_of(ms: u64) -> u16 {
    let seconds = i64::try_from(ms / 1000).unwrap_or(0);
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or(1970, |time| u16::try_from(time.year()).unwrap_or(1970))
}

pub fn join(options: cli::Join) -> anyhow::Result<()> {
    let home = Home::new(&options.dir.dir);
    let secrets = home.load_secrets()?;
    let bytes = std::fs::read(&options.genesis).with_context(|| options.genesis.display().to_string())?;
    let genesis = Genesis::from_bytes(&bytes).with_context(|| format!("{}: no genesis", options.genesis.display()))?;
    let own = genesis.joins.iter().find(|signed| signed.join.keys.command == secrets.command.public());
    let own = own.context("this node is not in the genesis: give its ticket to the founder")?;
    install(&home, own, &genesis)?;
    say!("Joined {} as {:?}", genesis.name, own.join.role);
    say!("Federation {}", genesis.federation_id());
    print_members(&genesis);
    say!("Compare this number with the founder's, and these names with those you know, before you start the node.");
    Ok(())
}

fn install(home: &Home, own: &SignedJoin, genesis: &Genesis) -> anyhow::Result<()> {
    replace(&home.join_command(), &own.to_bytes(), 0o600)?;
    replace(&home.genesis(), &genesis.to_bytes(), 0o600)?;
    Ok(())
}

/// The node's own join command and its federation.
pub fn installed(home: &Home) -> anyhow::Result<(SignedJoin, Genesis)> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let own = SignedJoin::from_bytes(&read(&home.join_command())?)?;
    let genesis = Genesis::from_bytes(&read(&home.genesis())?)?;
    // Two files: a crash may have come between them.
    ensure!(
        genesis.joins.iter().any(|signed| signed.node_id() == own.node_id()),
        "this node is not in the federation that lies in {}: joining it was not finished. Run `tessera join` again",
        home.genesis().display()
    );
    Ok((own, genesis))
}
