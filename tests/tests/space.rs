//! Disks without room: what is said, what goes on, and that space comes back.
//!
//! A nearly full disk of the archive is made by configuring a reserve that no disk has; that of a ledger is a small file
//! system in memory. What a disk that is really full does to the packs is tested in `storage`.

use std::path::Path;
use std::time::Duration;

use tessera_tests::{
    A, ALLIANCE, B, C, Federation, Node, Phantom, Role, SMALL_DISKS, Scratch, Seat, WORK_DEADLINE, dcmtk, entries_of,
    files_below, let_pass, python, wait_until, warns,
};

const HOSPITAL: Seat = Seat::new("hospital-a", "SITEA", Role::Core);

/// A node whose configuration has this line changed.
fn node_with(scratch: &Scratch, from: &str, to: &str) -> Node {
    let node = Node::init(scratch, HOSPITAL);
    let file = node.directory.join("tessera.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    let line = text.lines().find(|line| line.starts_with(from)).unwrap_or_else(|| panic!("no {from} in {text}"));
    std::fs::write(&file, text.replace(line, to)).expect("written");
    node
}

#[test]
fn a_disk_without_room_refuses_new_images_and_says_so_everywhere() {
    let scratch = Scratch::new();
    let mut node = node_with(&scratch, "free_bytes_min", "free_bytes_min = 4000000000000000");
    node.start();
    let phantom = Phantom::generate(scratch.path(), &["SITEA"], &["--patients", "2", "--slices", "30"]);
    let folder = phantom.of("SITEA").display().to_string();
    let port = node.dicom.to_string();
    let send = ["-v", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs", "127.0.0.1", &port, &folder];
    let outcome = dcmtk("storescu", &send);
    assert_ne!(outcome.code, Some(0), "refused objects stay with their sender");
    outcome.says("Refused: OutOfResources");

    let files = files_below(&phantom.of("SITEA")).len();
    let imported = node.run(&["import", &folder]).exits_with(1);
    let imported = imported.says("0 objects stored").says(&format!("{files} files were left out"));
    let imported = imported.says("the disk is nearly full").says("4000000000 MB are kept in reserve");
    assert_eq!(imported.stderr.matches("nearly full").count(), 1, "once is enough:\n{}", imported.stderr);
    node.run(&["status"]).success().says("the disk is nearly full").says("[archive] free_bytes_min");
    assert!(warns(&node.status().expect("it answers"), "nearly full"));
}

/// The folder of a node's ledger.
const LEDGER: &str = SMALL_DISKS[0];
/// A ledger's database keeps 256 MiB free.
const LEDGER_MIB: u32 = 600;
const FILLER_MIB: usize = 400;
/// Longer than a core certifies nothing, and than anything is tried again.
const FULL_FOR: Duration = Duration::from_secs(12);

#[test]
fn a_member_whose_ledger_has_no_room_goes_on_reading_and_follows_again_when_it_has() {
    let member = Seat::new("hospital-d", "SITED", Role::Member);
    let mut federation = Federation::found(&[HOSPITAL, member], &[]);
    let phantom = federation.phantom(&["--patients", "3", "--slices", "2"]);
    federation.nodes[1].send(&[phantom.of("SITED")]);
    federation.settle();
    federation.nodes[1].kill();
    federation.nodes[1].ledger_on_small_disks(LEDGER_MIB);
    federation.nodes[1].start();
    federation.settle();

    federation.nodes[1].fill_small_disk(LEDGER, FILLER_MIB);
    let before = federation.nodes[1].status().expect("it answers");
    federation.nodes[0].send(&[phantom.of("SITEA")]);
    wait_until("the member to find no room", WORK_DEADLINE, || {
        federation.nodes[1].status().filter(|status| warns(status, "does not go on here until there is room"))
    });
    let here = &phantom.examinations("SITED")[0];
    assert_eq!(federation.nodes[1].instances(&here.study).len(), here.files.len(), "its own images can't be read");
    let registered = |status: &serde_json::Value| status["outbox_pending"] == 0 && status["receiving"] == 0;
    let ahead = federation.nodes[0].await_status("the core to go on", registered);
    let behind = federation.nodes[1].status().expect("it answers");
    assert!(behind["certified_size"].as_u64() < ahead["certified_size"].as_u64(), "{behind:#}, after {before:#}");

    federation.nodes[1].empty_small_disk(LEDGER);
    let states = federation.settle();
    assert_eq!(states[1]["certified_size"], states[0]["certified_size"]);
    assert_eq!(states[1]["state_digest"], states[0]["state_digest"], "what was refused left its trace");
}

#[test]
fn a_hospital_of_its_own_whose_disk_is_full_to_the_last_byte_goes_on_when_there_is_room() {
    let scratch = Scratch::new();
    let phantom = Phantom::generate(scratch.path(), &["SITEA"], &["--patients", "2", "--slices", "2"]);
    let (first, then) = (&phantom.examinations("SITEA")[0], &phantom.examinations("SITEA")[1]);
    let mut node = Node::init(&scratch, HOSPITAL);
    node.ledger_on_small_disks(LEDGER_MIB);
    node.start();
    let is_registered = |studies: u64| {
        move |status: &serde_json::Value| status["outbox_pending"] == 0 && entries_of(status, "study") == studies
    };
    node.send(&first.files);
    node.await_status("its first study", is_registered(1));

    SMALL_DISKS.iter().for_each(|disk| node.fill_small_disk(disk, LEDGER_MIB as usize));
    node.send(&then.files);
    // Neither its log nor the signing guard finds room; so nothing is certified, and nothing is said to be.
    let waits = |status: &serde_json::Value| warns(status, "the ledger does not go on here until");
    let full = node.await_status("it to find no room", waits);
    let_pass(FULL_FOR);
    let later = node.await_status("it to wait", waits);
    assert_eq!(later["certified_at"], full["certified_at"]);
    assert_eq!(node.instances(&first.study).len(), first.files.len(), "its own images can't be read");
    assert_eq!(node.instances(&then.study).len(), then.files.len(), "nor what came meanwhile");

    SMALL_DISKS.iter().for_each(|disk| node.empty_small_disk(disk));
    let status = node.await_status("it to go on", is_registered(2));
    assert!(!waits(&status), "{status:#}");
    node.kill();
}

#[test]
fn a_leader_whose_ledger_has_no_room_leads_no_more() {
    let scratch = Scratch::new();
    let mut nodes = [A, B, C].map(|seat| Node::init(&scratch, ALLIANCE[seat]));
    // From their first start on: a core node that finds itself on another disk has lost its seat.
    nodes.iter_mut().for_each(|node| node.ledger_on_small_disks(LEDGER_MIB));
    let mut federation = Federation::of(scratch, nodes.into(), &[]);
    let phantom = federation.phantom(&["--patients", "3", "--slices", "2"]);
    let states = federation.settle();
    let leads = |node: &Node| states[0]["leader"] == node.seat.name;
    let leader = federation.nodes.iter().position(leads).expect("somebody leads");
    let other = (leader + 1) % federation.nodes.len();
    // Its log has room, so nothing but its own will makes it give way.
    federation.nodes[leader].fill_small_disk(LEDGER, FILLER_MIB);
    let site = federation.nodes[other].seat.issuer;
    federation.nodes[other].send(&[phantom.of(site)]);
    let studies = phantom.examinations(site).len() as u64;
    let registered =
        |status: &serde_json::Value| status["outbox_pending"] == 0 && entries_of(status, "study") == studies;
    federation.nodes[other].await_status("the core to go on under another leader", registered);
    let behind = federation.nodes[leader].status().expect("it answers");
    assert!(warns(&behind, "does not go on here until there is room"), "{behind:#}");
    federation.nodes[leader].empty_small_disk(LEDGER);
    assert_eq!(tessera_tests::study_entries(&federation.settle()), studies);
}

fn pack_bytes(node: &Node) -> u64 {
    let packs: &Path = &node.directory.join("archive/pixels/packs");
    files_below(packs).iter().map(|pack| std::fs::metadata(pack).map_or(0, |pack| pack.len())).sum()
}

#[test]
fn what_was_discarded_gives_its_space_back_and_harms_nothing_else() {
    let scratch = Scratch::new();
    let mut node = node_with(&scratch, "compaction_interval_ms", "compaction_interval_ms = 200");
    node.start();
    let kept = scratch.path().join("large.dcm").display().to_string();
    let options = ["--seed", "1", "--frames", "8", "--patient", "L-1", "--issuer", "SITEA", &kept];
    let made = python("make_large.py", &options).success().json_lines();
    let study = made[0]["study"].as_str().expect("a study").to_owned();
    node.run(&["import", &kept]).success().says("1 objects stored");
    // The same names with other content: a variant, which somebody discards.
    let variant = scratch.path().join("variant.dcm").display().to_string();
    std::fs::copy(&kept, &variant).expect("copied");
    dcmtk("dcmodify", &["-nb", "-i", "(0008,103e)=A variant", &variant]).success();
    node.run(&["import", &variant]).success().says("1 variants");
    let (size, before) = (std::fs::metadata(&variant).expect("a file").len(), pack_bytes(&node));
    assert!(before >= 2 * size, "{before} bytes in packs");
    let item = node.ask(&["quarantine"])["items"][0]["item"].as_str().expect("an item").to_owned();
    node.run(&["quarantine", "discard", &item, "--reason", "sent twice by mistake"]).success();
    wait_until("its space to come back", WORK_DEADLINE, || (pack_bytes(&node) < before - size / 2).then_some(()));
    assert_eq!(node.instances(&study).len(), 1);
    // What is left is whole, also after a start.
    node.kill();
    node.start();
    node.run(&["import", &kept]).success().says("1 known already");
    node.run(&["import", &variant]).success().says("1 variants");
}
