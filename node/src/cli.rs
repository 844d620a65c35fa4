//! The command line: what a person types, and nothing of what it does.
//!
//! Commands that need the running node talk to its control socket; `init`, `ticket`, `found`, `join`, `config`,
//! `phantom`, `demo` and `bench` do not.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
#[command(
    name = "tessera",
    version,
    about = "A federated medical imaging index: every hospital keeps its own images, and finds all of a patient's",
    after_help = "A single hospital starts with:  tessera init --dir /srv/tessera --site county-a --legal-name \
                  'County Hospital A'\n                                tessera node --dir /srv/tessera\n\
                  Everything at once, on this machine:  tessera demo",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// The node's directory.
#[derive(Args, Clone)]
pub struct Dir {
    /// The node's directory
    #[arg(long, short, env = "TESSERA_DIR", default_value = "tessera-node", value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Subcommand)]
pub enum Command {
    /// Create a node: keys, configuration, and a federation of one
    Init(Init),
    /// Run the node until Ctrl-C
    Node(Dir),
    /// Print the configuration in force, defaults included
    Config(Dir),
    /// What the running node does: federation, ledger, freshness, archive
    Status(Status),
    /// Take DICOM files and directories into the archive
    Import(Import),
    /// Extend the crosswalk from hospital numbers to identifiers
    Crosswalk(Crosswalk),
    /// All examinations of a patient, at all sites
    History(History),
    /// Fetch an examination from the site that holds it
    Fetch(Fetch),
    /// Record, revoke and list a patient's consents
    #[command(subcommand)]
    Consent(Consent),
    /// What was put aside: unknown senders, variants, collisions
    Quarantine(Dir),
    /// Write this node's ticket, with which a founder takes it into a federation
    Ticket(Ticket),
    /// Found a federation from its nodes' tickets
    Found(Found),
    /// Take part in the federation that a genesis file describes
    Join(Join),
    /// Generate realistic examinations of generated patients
    Phantom(Phantom),
    /// Three hospitals and a regulator on this machine, and the whole story
    Demo(Demo),
    /// Measure, side by side with a peer where there is one
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Takes part in agreeing (Raft voter)
    Core,
    /// A hospital that follows
    Member,
    /// Follows, and cannot write
    Observer,
}

#[derive(Args)]
pub struct Init {
    #[command(flatten)]
    pub dir: Dir,
    /// The site's identifier: 2 to 32 of a-z, 0-9, -
    #[arg(long)]
    pub site: String,
    /// The site's name as clinicians read it
    #[arg(long)]
    pub legal_name: String,
    /// The issuer of the site's own patient numbers [default: the site in capitals]
    #[arg(long)]
    pub issuer: Option<String>,
    /// The node's name in the federation [default: the site]
    #[arg(long)]
    pub name: Option<String>,
    /// Where modalities send images
    #[arg(long, default_value = "127.0.0.1:11112")]
    pub dicom: SocketAddr,
    #[arg(long, default_value = "TESSERA")]
    pub ae_title: String,
    /// Index images of devices that are not on the list of senders (for trials)
    #[arg(long)]
    pub accept_unknown_senders: bool,
    /// Where DICOMweb and the pages are served
    #[arg(long, default_value = "127.0.0.1:8042")]
    pub http: SocketAddr,
    /// A libp2p address to listen on, such as /ip4/0.0.0.0/tcp/4400; none: this node only dials out
    #[arg(long)]
    pub peer: Vec<String>,
    /// Where other core nodes connect; only for a node that is to be in a core
    #[arg(long)]
    pub core: Option<SocketAddr>,
    /// The directory of the prebuilt OHIF viewer
    #[arg(long, env = "TESSERA_VIEWER_DIR")]
    pub viewer: Option<PathBuf>,
    /// What this node's users are towards other hospitals: physician, radiologist, nurse, ... Without it they ask as
    /// a service, for which the federation's rules open nothing
    #[arg(long)]
    pub users_role: Option<String>,
    /// A study is complete when nothing arrived for it for so long
    #[arg(long, default_value_t = 30_000)]
    pub quiet_period_ms: u64,
}

#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    pub dir: Dir,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    pub dir: Dir,
    /// Files and directories
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

#[derive(Args)]
pub struct Crosswalk {
    #[command(flatten)]
    pub dir: Dir,
    /// A CSV file with the columns issuer, patient_id, kind, value
    pub file: PathBuf,
    /// Take these rows back; what was linked by them stays linked
    #[arg(long)]
    pub remove: bool,
}

#[derive(Args)]
pub struct History {
    #[command(flatten)]
    pub dir: Dir,
    /// Whose: resident:NUMBER, hospital:ISSUER/NUMBER, passport:..., ...
    #[arg(long)]
    pub id: String,
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Fetch {
    #[command(flatten)]
    pub dir: Dir,
    /// The Study Instance UID, as the history shows it
    pub study: String,
    /// Whose study it is
    #[arg(long)]
    pub id: String,
    /// Why: treatment, recognition, consultation, ...
    #[arg(long, default_value = "treatment")]
    pub purpose: String,
    /// The user in whose name it is fetched [default: your user name on this machine]
    #[arg(long)]
    pub user: Option<String>,
    /// The site to fetch it from, where several hold it
    #[arg(long, value_name = "SITE")]
    pub from: Option<String>,
    /// Write the images there as DICOM files
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum Consent {
    /// Make a code with which the patient confirms a consent at another hospital (at the site that holds the images)
    ///
    /// The code stands for what the patient agrees to now: one grant for that site and purpose, for at most that long.
    Code {
        #[command(flatten)]
        dir: Dir,
        #[arg(long)]
        id: String,
        /// The site that may see
        #[arg(long = "to-site")]
        to_site: String,
        #[arg(long, default_value = "treatment")]
        purpose: String,
        /// Days until the grant ends, from its recording
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Record a grant
    Grant {
        #[command(flatten)]
        dir: Dir,
        #[arg(long)]
        id: String,
        /// The site that may see
        #[arg(long = "to-site")]
        to_site: String,
        #[arg(long, default_value = "treatment")]
        purpose: String,
        /// The code that the patient got from the holder and confirms with
        #[arg(long)]
        patient_code: Option<String>,
        /// Days until it ends
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Take a consent back by its number: revoked where it was recorded, denied by this hospital elsewhere
    Revoke {
        #[command(flatten)]
        dir: Dir,
        consent: String,
        /// Whose it is; needed when another hospital recorded it
        #[arg(long)]
        id: Option<String>,
    },
    /// All consents of a patient
    List {
        #[command(flatten)]
        dir: Dir,
        #[arg(long)]
        id: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub struct Ticket {
    #[command(flatten)]
    pub dir: Dir,
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// Where to write it
    #[arg(long, short)]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct Found {
    /// The federation's name
    #[arg(long)]
    pub name: String,
    /// Where to write the genesis file
    #[arg(long, short)]
    pub out: PathBuf,
    /// How old the newest certified checkpoint may be for a disclosure, in milliseconds
    #[arg(long, default_value_t = 600_000)]
    pub freshness_limit_ms: u64,
    /// The nodes' tickets; those with the role core form the core, in this order
    #[arg(required = true)]
    pub tickets: Vec<PathBuf>,
}

#[derive(Args)]
pub struct Join {
    #[command(flatten)]
    pub dir: Dir,
    /// The genesis file, compared by its hash with what the founder reads out
    pub genesis: PathBuf,
}

#[derive(Args)]
pub struct Phantom {
    /// Where to write
    pub out: PathBuf,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Sites to make examinations for, by issuer
    #[arg(long, default_values_t = ["SITEA".to_owned(), "SITEB".to_owned(), "SITEC".to_owned()])]
    pub issuer: Vec<String>,
    #[arg(long, default_value_t = 6)]
    pub patients: u32,
    /// Slices of each CT series
    #[arg(long, default_value_t = 40)]
    pub slices: u32,
}

#[derive(Args)]
pub struct Demo {
    /// Also take the DICOM files of this directory
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// End after the story instead of staying until Ctrl-C
    #[arg(long)]
    pub once: bool,
    /// Keep the nodes' directories there
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    #[arg(long, env = "TESSERA_VIEWER_DIR")]
    pub viewer: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Bench {
    /// Objects a second from one and four storescu, beside DCMTK's storescp
    Ingest {
        /// CT slices of one pass
        #[arg(long, default_value_t = 400)]
        objects: u32,
        /// How often everything is repeated
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
    /// A known patient's history from a replica of many records
    Query {
        /// Study records in the ledger
        #[arg(long, default_value_t = 1_000_000)]
        records: u64,
    },
    /// Fetch between two nodes on loopback
    Fetch {
        /// Size of each study that is fetched
        #[arg(long, default_value_t = 500)]
        megabytes: u32,
        /// How many studies are fetched of each shape
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
}
