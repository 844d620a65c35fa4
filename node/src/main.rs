//! The `tessera` program: gateways, sign-in, jobs, console and configuration around the crates that decide.
//! Here lies only the entry; what a command does lies in its own module.
//! Not for decisions: those belong to policy, consensus and federation, where the simulator can run them.

#![allow(dead_code)]

mod archive;
mod cli;
mod config;
mod control;
mod demo;
mod dicom;
mod home;
mod http;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            cli::Command::Demo(options) => demo::run(options).await,
            cli::Command::Phantom(options) => dicom::phantom::run(options),
            _ => Ok(()),
        }
    })
}
