//! A federation under test: several nodes on loopback, founded as the README says, by exchanging tickets.
//!
//! Every node has a directory, ports and a process of its own. Tests kill them, put old directories back, and wait
//! for what all of them agree on. Not for a single node: that is `node`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::node::{Node, Role, Seat, WORK_DEADLINE, entries_of, warns};
use crate::{Scratch, dcmtk, files_below, poll, tessera};

/// Three core hospitals, one that follows, and a regulator: what most tests need.
pub const ALLIANCE: [Seat; 5] = [
    Seat::new("hospital-a", "SITEA", Role::Core),
    Seat::new("hospital-b", "SITEB", Role::Core),
    Seat::new("hospital-c", "SITEC", Role::Core),
    Seat::new("hospital-d", "SITED", Role::Member),
    Seat::new("regulator", "REGULATOR", Role::Observer),
];

/// Places in [`ALLIANCE`], and in any federation whose first seats are those.
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;
pub const D: usize = 3;
pub const REGULATOR: usize = 4;

pub struct Federation {
    /// In the order of the seats. Dropped before the scratch folder, which holds their directories.
    pub nodes: Vec<Node>,
    pub scratch: Scratch,
}

impl Federation {
    /// Makes the nodes, founds their federation, starts them, and waits until all of them follow it.
    #[track_caller]
    pub fn found(seats: &[Seat], options: &[&str]) -> Federation {
        let scratch = Scratch::new();
        let nodes = seats.iter().map(|seat| Node::init(&scratch, *seat)).collect();
        Federation::of(scratch, nodes, options)
    }

    /// The same with nodes that are there already, and not running.
    #[track_caller]
    pub fn of(scratch: Scratch, nodes: Vec<Node>, options: &[&str]) -> Federation {
        let mut federation = Federation { nodes, scratch };
        join_all(&federation.scratch.path().join("genesis"), &federation.nodes, options);
        for node in &mut federation.nodes {
            node.start();
        }
        federation.settle();
        federation
    }

    /// Waits until all running nodes have registered what they hold and know the same certified ledger.
    /// Returns their states, in the order of the seats.
    #[track_caller]
    pub fn settle(&self) -> Vec<Value> {
        let mut last = Vec::new();
        let settled = poll(WORK_DEADLINE, || {
            let running = self.nodes.iter().filter(|node| node.is_running());
            last = running.map(Node::status).collect();
            let all: Option<Vec<Value>> = last.iter().cloned().collect();
            all.filter(|all| agree(all))
        });
        settled.unwrap_or_else(|| panic!("the federation did not come to rest: {last:#?}"))
    }

    /// `tessera phantom` in the scratch folder: a folder of examinations for each issuer.
    #[track_caller]
    pub fn phantom(&self, options: &[&str]) -> Phantom {
        let hospitals = self.nodes.iter().filter(|node| node.seat.role != Role::Observer);
        let issuers: Vec<&str> = hospitals.map(|node| node.seat.issuer).collect();
        Phantom::generate(self.scratch.path(), &issuers, options)
    }

    /// The patient confirms with the holder's code that `requester` may see the images, for treatment.
    #[track_caller]
    pub fn allow(&self, holder: usize, requester: usize, id: &str) {
        let node = &self.nodes[requester];
        let agreed = ["consent", "code", "--id", id, "--to-site", node.seat.name];
        let code = self.nodes[holder].run(&agreed).success().stdout;
        let code = code.lines().next().expect("a code");
        let grant = ["consent", "grant", "--id", id, "--to-site", node.seat.name, "--patient-code", code];
        node.run(&grant).success().says("certified");
    }
}

fn agree(all: &[Value]) -> bool {
    all.iter().all(|status| {
        let at_rest = status["receiving"] == 0 && status["outbox_pending"] == 0 && !warns(status, "not caught up");
        let certified = !status["certified_at"].is_null() && status["certified_size"] == status["ledger_size"];
        at_rest && certified && status["ledger_size"] == all[0]["ledger_size"]
    })
}

/// Founds a federation of these nodes and makes each of them join it. They must not be running.
#[track_caller]
pub fn join_all(genesis: &Path, nodes: &[Node], options: &[&str]) {
    let genesis = genesis.display().to_string();
    let tickets: Vec<String> = nodes.iter().map(|node| ticket(node).display().to_string()).collect();
    let mut found = vec!["found", "--name", "Test alliance", "--out", &genesis];
    found.extend(options);
    found.extend(tickets.iter().map(String::as_str));
    tessera(&found).success();
    for node in nodes {
        node.run(&["join", &genesis]).success();
    }
}

/// Writes the node's ticket beside its directory.
#[track_caller]
pub fn ticket(node: &Node) -> PathBuf {
    let path = node.directory.with_extension("ticket");
    node.run(&["ticket", "--role", node.seat.role.word(), "--out", &path.display().to_string()]).success();
    path
}

/// How many study records the ledger has, superseded revisions included; fails unless all nodes say the same.
#[track_caller]
pub fn study_entries(states: &[Value]) -> u64 {
    let counts: Vec<u64> = states.iter().map(|status| entries_of(status, "study")).collect();
    assert!(counts.iter().all(|count| *count == counts[0]), "study entries differ from node to node: {counts:?}");
    counts[0]
}

/// Generated examinations on the disk.
pub struct Phantom {
    pub folder: PathBuf,
}

/// A row of the phantom's crosswalk: one person's number at one hospital.
#[derive(Clone, Debug)]
pub struct Person {
    pub issuer: String,
    pub patient_id: String,
    /// The value alone, and with its kind as the command line wants it.
    pub number: String,
    pub identifier: String,
    /// `Family^Given=表意`, as it stands in the images in the hospital's own characters.
    pub name: String,
}

/// One generated examination.
#[derive(Clone, Debug)]
pub struct Examination {
    pub study: String,
    /// At its hospital.
    pub patient_id: String,
    pub files: Vec<PathBuf>,
}

impl Examination {
    #[track_caller]
    fn of(files: Vec<PathBuf>) -> Examination {
        let file = files[0].display().to_string();
        let value = |tag: &str| {
            let dump = dcmtk("dcmdump", &["+P", tag, &file]).success().stdout;
            let value = dump.split(['[', ']']).nth(1).map(|value| value.trim().to_owned());
            value.unwrap_or_else(|| panic!("no {tag} in {file}"))
        };
        Examination { study: value("0020,000d"), patient_id: value("0010,0020"), files }
    }

    /// The patient as the command line names one, by the number of the hospital with this issuer.
    pub fn patient(&self, issuer: &str) -> String {
        format!("hospital:{issuer}/{}", self.patient_id)
    }
}

impl Phantom {
    #[track_caller]
    pub fn generate(below: &Path, issuers: &[&str], options: &[&str]) -> Phantom {
        let folder = below.join("phantom");
        let mut arguments = vec!["phantom".to_owned(), folder.display().to_string()];
        issuers.iter().for_each(|issuer| arguments.extend(["--issuer".to_owned(), (*issuer).to_owned()]));
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        tessera(&arguments).success();
        Phantom { folder }
    }

    /// The examinations in a hospital's folder, by issuer; also those in `late` and `outage`.
    #[track_caller]
    pub fn examinations(&self, name: &str) -> Vec<Examination> {
        let mut files: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
        let folder = self.of(name);
        for file in files_below(&folder) {
            let below = file.strip_prefix(&folder).expect("below the folder");
            files.entry(folder.join(below.iter().next().expect("a name"))).or_default().push(file);
        }
        files.into_values().map(Examination::of).collect()
    }

    /// The folder of a hospital's examinations, by issuer; also `late` and `outage`.
    pub fn of(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A person who was examined at every hospital, as the command line names a patient.
    pub fn shared_patient(&self) -> String {
        let text = std::fs::read_to_string(self.folder.join("shared_patient")).expect("the phantom names one");
        text.trim().to_owned()
    }

    pub fn crosswalk(&self) -> PathBuf {
        self.folder.join("crosswalk.csv")
    }

    pub fn persons(&self) -> Vec<Person> {
        let text = std::fs::read_to_string(self.crosswalk()).expect("the phantom's crosswalk");
        let row = |line: &str| {
            let fields: Vec<&str> = line.split(',').collect();
            Person {
                issuer: fields[0].to_owned(),
                patient_id: fields[1].to_owned(),
                number: fields[3].to_owned(),
                identifier: format!("{}:{}", fields[2], fields[3]),
                name: fields[4].to_owned(),
            }
        };
        text.lines().skip(1).map(row).collect()
    }
}
