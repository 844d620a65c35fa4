//! The house rules that a machine can check: who may know whom, how large a file may grow, that every file says
//! what it is for and is reached by the build, and that what must be deterministic stays so.
//!
//! Not for taste: what rustfmt and clippy can hold, they hold. Each rule returns all of its violations, with path
//! and line, so that one run names everything that is wrong. Where the rules come from: ARCHITECTURE.md.

mod crates;
mod documents;
mod files;
mod purity;
mod tree;

use tree::Tree;

#[track_caller]
fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn crates_know_only_whom_they_may() {
    none(crates::forbidden_dependencies(&Tree::workspace()));
}

#[test]
fn crates_share_one_set_of_lints_and_versions() {
    none(crates::not_inherited(&Tree::workspace()));
}

#[test]
fn pure_crates_pull_in_no_sockets_and_no_disks() {
    none(crates::forbidden_packages(&Tree::workspace()));
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    none(files::headers(&Tree::workspace()));
}

#[test]
fn no_file_outgrows_its_reader() {
    none(files::sizes(&Tree::workspace()));
}

#[test]
fn names_say_what_a_file_holds() {
    none(files::names(&Tree::workspace()));
}

#[test]
fn nothing_is_left_unfinished() {
    none(files::words(&Tree::workspace()));
}

#[test]
fn no_file_is_dead() {
    none(files::dead(&Tree::workspace()));
}

#[test]
fn the_core_is_deterministic() {
    none(purity::impurities(&Tree::workspace()));
}

#[test]
fn the_map_names_only_what_exists() {
    none(documents::missing_paths(&Tree::workspace()));
}

#[test]
fn the_map_stays_three_pages() {
    none(documents::too_long(&Tree::workspace()));
}
