//! The `tessera` program: gateways, sign-in, jobs, console and configuration around the crates that decide.
//! Here lies only the entry; what a command does lies in its own module.
//! Not for decisions: those belong to policy, consensus and federation, where the simulator can run them.

#![allow(dead_code)]

mod archive;
mod bench;
mod cli;
mod commands;
mod config;
mod control;
mod demo;
mod dicom;
mod founding;
mod home;
mod http;
mod member;
mod node;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("TESSERA_LOG")
        .unwrap_or_else(|_| "info,openraft=warn,libp2p=warn,libp2p_gossipsub=error".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tessera: the runtime could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tessera: {error:#}");
            ExitCode::FAILURE
        }
    }
}
