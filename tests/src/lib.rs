//! The black-box harness: starts the built `tessera` program and other people's DICOM tools as processes, waits for
//! what should happen, kills them without warning, and shows their logs when a test fails.
//!
//! It knows the program only as a user does, by its command line, its ports and its files; it must never depend on
//! the crates. Invariants: every wait has a deadline; every process started is dead when its handle is dropped; ports
//! are on loopback only. What a test started is printed with the log's end if the test panics.

mod browser;
mod chance;
mod clients;
mod device;
mod federation;
mod files;
mod kept;
mod node;
mod port;
mod process;
mod program;
mod samples;
mod scratch;
mod wait;

pub use browser::{Browser, Visit};
pub use chance::Chance;
pub use clients::{
    Answer, cache_folder, curl, dcmtk, page, python, python_program, retrieve, storescu_answers, tests_folder,
};
pub use device::Devices;
pub use federation::{
    A, ALLIANCE, B, C, D, Examination, Federation, Person, Phantom, REGULATOR, join_all, study_entries, ticket,
};
pub use files::{Stored, copy_directory, files_below, files_with, flip, largest, put_back, stored_below, stored_with};
pub use kept::{kept_exactly, registered_once};
pub use node::{Node, Role, SMALL_DISKS, START_DEADLINE, Seat, WORK_DEADLINE, entries_of, warns};
pub use port::free_port;
pub use process::Process;
pub use program::{Outcome, run, tessera, tessera_program, viewer_folder};
pub use samples::{DataSet, RealFile, Sample, data_sets, large_object, real_files, small_objects};
pub use scratch::Scratch;
pub use wait::{PAUSE_MAX, let_pass, poll, wait_until};
