//! The `tessera` program: gateways, sign-in, jobs, console and configuration around the crates that decide.
//! Here lies only the entry; what a command does lies in its own module.
//! Not for decisions: those belong to policy, consensus and federation, where the simulator can run them.

mod archive;
mod bench;
mod cli;
mod commands;
mod config;
mod connections;
mod control;
mod demo;
mod dicom;
mod ending;
mod founding;
mod home;
mod http;
mod member;
mod node;
mod say;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

/// openraft warns at every call to a node that is away, several times a second for as long as it is; the core's network
/// says once that it is lost, and once that it is back.
const LOG_FILTER_DEFAULT: &str = "info,openraft=error,libp2p=warn,libp2p_gossipsub=error";

/// How long what still blocks for the disk may hold up the end. A crash in the midst of it would lose nothing either.
const END_MAX: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("TESSERA_LOG").unwrap_or_else(|_| LOG_FILTER_DEFAULT.into());
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
    let ended = runtime.block_on(commands::run(cli));
    runtime.shutdown_timeout(END_MAX);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::error(&format!("tessera: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
