//! The black-box harness: starts the built `tessera` program and other people's DICOM tools as processes, waits for
//! what should happen, kills them without warning, and shows their logs when a test fails.
//!
//! It knows the program only as a user does, by its command line, its ports and its files; it must never depend on
//! the crates. Invariants: every wait has a deadline; every process started is dead when its handle is dropped; ports
//! are on loopback only. What a test started is printed with the log's end if the test panics.

mod clients;
mod federation;
mod files;
mod node;
mod port;
mod process;
mod program;
mod scratch;
mod wait;

pub use clients::{cache_folder, dcmtk, page, python, python_program, tests_folder};
pub use federation::{
    A, ALLIANCE, B, C, D, Examination, Federation, Person, Phantom, REGULATOR, join_all, study_entries, ticket,
};
pub use files::{copy_directory, files_below, files_with, put_back};
pub use node::{Node, Role, START_DEADLINE, Seat, WORK_DEADLINE, entries_of, warns};
pub use port::free_port;
pub use process::Process;
pub use program::{Outcome, run, tessera, tessera_program, viewer_folder};
pub use scratch::Scratch;
pub use wait::{PAUSE_MAX, poll, wait_until};
