//! Several sites as several processes: the demo's whole story, and what must not stand on a foreign disk.
//!
//! The story itself checks every step (refusals as strictly as successes) and fails with the step that went wrong;
//! here it is run as a user runs it, and the directories that it leaves are searched.

use tessera_tests::{Scratch, files_with, tessera};

#[test]
fn the_demo_tells_its_whole_story_and_leaks_nothing_to_other_disks() {
    let scratch = Scratch::new();
    let kept = scratch.path().join("kept");
    let outcome = tessera(&["demo", "--once", "--keep", &kept.display().to_string()]).success();
    for step in ["refused by", "every byte checked", "revision 2", "is back and has", "its state digest equals"] {
        assert!(outcome.stdout.contains(step), "the story lacks {step:?}:\n{}", outcome.stdout);
    }
    // Hospital A's patients: their numbers stand in A's crosswalk file, their names and studies in A's images.
    let crosswalk = std::fs::read_to_string(kept.join("phantom/crosswalk.csv")).expect("the crosswalk");
    let rows: Vec<Vec<&str>> = crosswalk.lines().map(|line| line.split(',').collect()).collect();
    let of_a: Vec<&Vec<&str>> = rows.iter().filter(|row| row[0] == "SITEA").collect();
    assert!(!of_a.is_empty(), "the phantom has no patients at A");
    for row in of_a {
        for other in ["hospital-c", "regulator"] {
            let folder = kept.join(other);
            // The crosswalk file was given to every hospital; what C keeps of it is sealed, and the regulator has none.
            for needle in [row[1], row[3]] {
                let found = files_with(&folder, needle.as_bytes());
                assert!(found.is_empty(), "{needle} of Hospital A stands in clear in {found:?}");
            }
        }
    }
}
