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
    about = "A federated medical imaging index: every hospital keeps its own images, and finds what the others have of a patient",
    after_help = "Everything at once, on this machine:\n  tessera demo\n\n\
                  A single hospital:\n  tessera init --dir /srv/tessera --site county-a --legal-name 'County Hospital A'\n  \
                  tessera node --dir /srv/tessera\n\n\
                  A federation: each site writes a ticket, one founds it from all tickets, each joins with the genesis \
                  file:\n  tessera ticket --dir /srv/tessera --role core --out county-a.ticket\n  \
                  tessera found --name 'County alliance' --out genesis *.ticket\n  \
                  tessera join --dir /srv/tessera genesis\n\n\
                  Commands find their node by --dir or TESSERA_DIR; most need it to be running.",
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// How a patient is named on the command line.
const PATIENT: &str = "The patient: resident:NUMBER, hospital:ISSUER/NUMBER, passport:COUNTRY/NUMBER, \
                       insurance:REGION/NUMBER, household:, officer:, hk-macau:, taiwan:, foreign-resident:, \
                       birth-certificate:NUMBER";
const PURPOSE: &str = "What for: treatment, recognition, consultation, emergency, quality-review, research, insurance, \
                       patient-access, legal";
const TO_SITE: &str = "The site that may see, by its identifier: in brackets in `tessera status`";

/// The node's directory.
#[derive(Args, Clone)]
pub struct Dir {
    /// The node's directory, as `init` made it
    #[arg(long, short, env = "TESSERA_DIR", default_value = "tessera-node", value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Subcommand)]
pub enum Command {
    /// Create a node: keys, configuration, and a federation of one
    Init(Init),
    /// Run the node until Ctrl-C or SIGTERM
    Node(Node),
    /// Print the configuration in force, defaults included
    Config(Dir),
    /// What the running node does: federation, ledger, freshness, archive
    Status(Status),
    /// Take DICOM files and directories into the archive
    Import(Import),
    /// Say which hospital numbers are whose: extend the crosswalk to resident numbers and other identifiers
    Crosswalk(Crosswalk),
    /// All examinations of a patient, at all sites
    History(History),
    /// Who looked a patient up at this node, and whether that record is whole
    Lookups(Lookups),
    /// Fetch an examination from the site that holds it
    Fetch(Fetch),
    /// Record, revoke and list a patient's consents
    #[command(subcommand)]
    Consent(Consent),
    /// What was put aside: list it, look at it, release it into the archive, discard it
    Quarantine(Quarantine),
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
    /// Where modalities send images; 0.0.0.0:11112 to be reached from other machines
    #[arg(long, default_value = "127.0.0.1:11112", value_name = "ADDRESS:PORT")]
    pub dicom: SocketAddr,
    /// The DICOM AE title under which it is called
    #[arg(long, default_value = "TESSERA")]
    pub ae_title: String,
    /// Index images of devices that are not on the list of senders (for trials)
    #[arg(long)]
    pub accept_unknown_senders: bool,
    /// Where DICOMweb and the pages are served; they have no sign-in, so this machine only unless the configuration
    /// says otherwise
    #[arg(long, default_value = "127.0.0.1:8042", value_name = "ADDRESS:PORT")]
    pub http: SocketAddr,
    /// A libp2p address to listen on for other sites, such as /ip4/0.0.0.0/tcp/4400; none: this node only dials out
    #[arg(long, value_name = "MULTIADDRESS")]
    pub peer: Vec<String>,
    /// Where other core nodes connect; only for a node that is to be in a core
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub core: Option<SocketAddr>,
    /// The directory of the prebuilt OHIF viewer; none: no viewer
    #[arg(long, env = "TESSERA_VIEWER_DIR", value_name = "DIR")]
    pub viewer: Option<PathBuf>,
    /// What this node's users are towards other hospitals: physician, radiologist, technologist, nurse, registrar,
    /// quality-reviewer, researcher, ... Without it they ask as a service, for which the federation's rules open nothing
    #[arg(long, value_name = "ROLE")]
    pub users_role: Option<String>,
    /// A study is complete when nothing arrived for it for so many milliseconds
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    pub quiet_period_ms: u64,
}

#[derive(Args)]
pub struct Node {
    #[command(flatten)]
    pub dir: Dir,
    /// End when this process ends, which must be the one that starts the node
    #[arg(long, value_name = "PID", hide = true)]
    pub until_parent_ends: Option<u32>,
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
#[command(
    after_help = "What is here already is left as it is, so that an import can be repeated. The exit code is 1 when \
                        something was not taken.\n\nExample:\n  tessera import /media/cdrom image.dcm"
)]
pub struct Import {
    #[command(flatten)]
    pub dir: Dir,
    /// DICOM files, and directories of them
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Rows say who a hospital's number is, with name, sex and birth date where known:\n  \
                        SITEA,12345,resident,11010519491231002X\n  \
                        SITEA,12346,passport,CHN/E12345678,Doe^Jane,F,19500101\n\n\
                        Kinds are those of --id elsewhere. Rows can be given again; those that are refused are named \
                        with their line.")]
pub struct Crosswalk {
    #[command(flatten)]
    pub dir: Dir,
    /// A CSV file: issuer, PatientID, kind, value, and optionally name, sex, birth date
    pub file: PathBuf,
    /// Take these rows back; what was linked by them stays linked
    #[arg(long)]
    pub remove: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:\n  tessera history --id resident:11010519491231002X\n  \
                        tessera history --id hospital:COUNTY-A/12345")]
pub struct History {
    #[command(flatten)]
    pub dir: Dir,
    #[arg(long, value_name = "KIND:NUMBER", help = PATIENT)]
    pub id: String,
    /// The user in whose name; kept with the lookup [default: your user name on this machine]
    #[arg(long)]
    pub user: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Lookups {
    #[command(flatten)]
    pub dir: Dir,
    /// Whose: resident:NUMBER, hospital:ISSUER/NUMBER, ...; without it the record is only checked
    #[arg(long)]
    pub id: Option<String>,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
#[command(
    after_help = "The holder decides, and notes the disclosure before it sends. What was fetched is kept for a limited \
                        time; a fetch that was broken off goes on where it stopped.\n\nExample:\n  \
                        tessera fetch 2.25.1234 --id resident:11010519491231002X --to images"
)]
pub struct Fetch {
    #[command(flatten)]
    pub dir: Dir,
    /// The Study Instance UID, as the history shows it
    pub study: String,
    #[arg(long, value_name = "KIND:NUMBER", help = PATIENT)]
    pub id: String,
    #[arg(long, default_value = "treatment", help = PURPOSE)]
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
    /// As JSON, for programs
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
        #[arg(long, value_name = "KIND:NUMBER", help = PATIENT)]
        id: String,
        #[arg(long = "to-site", value_name = "SITE", help = TO_SITE)]
        to_site: String,
        #[arg(long, default_value = "treatment", help = PURPOSE)]
        purpose: String,
        /// Days until the grant ends, from its recording
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3660))]
        days: u32,
    },
    /// Record that the patient allows a site to see the images
    ///
    /// With the code that the patient got from the holder it counts there. What a requester records alone opens nothing.
    Grant {
        #[command(flatten)]
        dir: Dir,
        #[arg(long, value_name = "KIND:NUMBER", help = PATIENT)]
        id: String,
        #[arg(long = "to-site", value_name = "SITE", help = TO_SITE)]
        to_site: String,
        #[arg(long, default_value = "treatment", help = PURPOSE)]
        purpose: String,
        /// The code that the patient got from the holder and confirms with
        #[arg(long, value_name = "CODE")]
        patient_code: Option<String>,
        /// Days until it ends
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3660))]
        days: u32,
    },
    /// Take a consent back by its number: revoked where it was recorded, denied by this hospital elsewhere
    Revoke {
        #[command(flatten)]
        dir: Dir,
        /// The consent's number, as `tessera consent list` shows it
        consent: String,
        /// The patient, as elsewhere; needed when another hospital recorded it
        #[arg(long, value_name = "KIND:NUMBER")]
        id: Option<String>,
    },
    /// All consents of a patient
    List {
        #[command(flatten)]
        dir: Dir,
        #[arg(long, value_name = "KIND:NUMBER", help = PATIENT)]
        id: String,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    long_about = "What was put aside: list it, look at it, release it into the archive, discard it\n\nPut aside are \
                  objects of senders that are not on the list, damaged ones, those whose UID belongs to another study or \
                  patient, and variants (a known SOP Instance UID with other content). Their senders heard success. \
                  They are in no list of studies until somebody releases them. Every decision is kept, with who, when \
                  and why: --decided shows them.",
    after_help = "Examples:\n  tessera quarantine\n  tessera quarantine show 0123456789abcdef --to odd.dcm\n  \
                  tessera quarantine release --all-from CT9 --reason 'CT9 is on the list now'\n  \
                  tessera quarantine discard 0123456789abcdef --reason 'test image of the vendor'"
)]
pub struct Quarantine {
    #[command(flatten)]
    pub list: QuarantineList,
    #[command(subcommand)]
    pub command: Option<QuarantineCommand>,
}

#[derive(Args)]
pub struct QuarantineList {
    #[command(flatten)]
    pub dir: Dir,
    /// How many are shown, the newest
    #[arg(long, default_value_t = 100)]
    pub limit: u32,
    /// Show the decisions instead: who released or discarded what, when and why
    #[arg(long)]
    pub decided: bool,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum QuarantineCommand {
    /// What is put aside, and why; the same as without a command
    List(QuarantineList),
    /// All about one item; of a variant also in what it differs from the object in the archive
    Show {
        #[command(flatten)]
        dir: Dir,
        /// The item's number, as the list shows it
        item: String,
        /// Also write it there as a DICOM file
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Take items into the archive
    ///
    /// An unknown sender's objects are filed as if a known sender had sent them now; the sender need not be on the
    /// list. A variant takes the place of the object with its UID, in a new revision of the study; that object is kept,
    /// and comes back by being imported and released in turn. What is damaged or collides with another patient or
    /// study stays: `show --to` writes it to a file, to be set right and imported.
    Release(Decide),
    /// Take items out of the list; their bytes are given up for good
    Discard(Decide),
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["items", "all_from"])))]
pub struct Decide {
    #[command(flatten)]
    pub dir: Dir,
    /// The items' numbers, as the list shows them
    #[arg(value_name = "ITEM")]
    pub items: Vec<String>,
    /// All items of this calling AE title; they are counted first
    #[arg(long, value_name = "AE")]
    pub all_from: Option<String>,
    /// Why; kept with the decision
    #[arg(long)]
    pub reason: String,
    /// Who decides [default: your user name on this machine]
    #[arg(long)]
    pub user: Option<String>,
    /// Do not ask after the count
    #[arg(long)]
    pub yes: bool,
    /// As JSON, for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct Ticket {
    #[command(flatten)]
    pub dir: Dir,
    /// What the node will be in the federation
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// Where to write it
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Args)]
#[command(after_help = "The core has 1 (a trial), 3 (tolerates a crash, no liar), 4 or 7 nodes.\n\nExample:\n  \
                        tessera found --name 'County alliance' --out genesis a.ticket b.ticket c.ticket regulator.ticket")]
pub struct Found {
    /// The federation's name
    #[arg(long)]
    pub name: String,
    /// Where to write the genesis file
    #[arg(long, short, value_name = "FILE")]
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
    /// The genesis file. The number of its federation is printed, to be compared with what the founder reads out
    pub genesis: PathBuf,
}

#[derive(Args)]
pub struct Phantom {
    /// The directory to write to
    pub out: PathBuf,
    /// The same seed makes the same files
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Sites to make examinations for, by the issuer of their patient numbers
    #[arg(long, default_values_t = ["SITEA".to_owned(), "SITEB".to_owned(), "SITEC".to_owned()])]
    pub issuer: Vec<String>,
    /// Patients, of all sites together
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
    /// End after the story instead of staying until Ctrl-C; the exit code says whether every step came out as told
    #[arg(long)]
    pub once: bool,
    /// Put the nodes' directories there, and keep them; it must be empty or not there [default: a temporary directory]
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// The directory of the prebuilt OHIF viewer
    #[arg(long, env = "TESSERA_VIEWER_DIR", value_name = "DIR")]
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
