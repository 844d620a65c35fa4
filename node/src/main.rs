//! The `tessera` program: gateways, sign-in, jobs, console and configuration around the crates that decide.
//! Here lies only the entry; what a command does lies in its own module.
//! Not for decisions: those belong to policy, consensus and federation, where the simulator can run them.

mod dicom;

fn main() {}
