//! `tessera bench ingest`: objects over DICOM from one and from four `storescu`, beside DCMTK's `storescp`.
//!
//! Both receive the same files from the same senders with the same options, one after the other, each pass into an
//! empty receiver. `storescp` forks for each association, so that four senders are served at once, and writes what it
//! reads (`+B`), the least that it can do. It does not wait for the disk; this program answers success only when the
//! object is durable. Time is that of the senders: from the start of the first to the end of the last.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::alone::Alone;
use super::{scratch, study};
use crate::demo::federation::free_ports;

/// Senders of the pass with several.
const SENDERS: usize = 4;
const SEED: u64 = 1;
/// How long `storescp` may take to listen.
const LISTEN_SECONDS_MAX: u64 = 20;

/// One pass into one receiver.
struct Pass {
    objects: u64,
    bytes: u64,
    elapsed: Duration,
}

impl Pass {
    fn rate(&self) -> f64 {
        self.objects as f64 / self.elapsed.as_secs_f64()
    }

    fn print(&self, receiver: &str) {
        let megabytes = self.bytes as f64 / 1e6 / self.elapsed.as_secs_f64();
        let seconds = self.elapsed.as_secs_f64();
        println!("  {receiver:<28} {:>7.1} objects/s  {megabytes:>7.1} MB/s  ({seconds:.1} s)", self.rate());
    }
}

pub async fn run(objects: u32) -> anyhow::Result<()> {
    for program in ["storescu", "storescp"] {
        installed(program).await?;
    }
    let root = scratch()?;
    let files = root.path().join("files");
    let study = study::write(&files, SEED, objects, SENDERS)?;
    println!(
        "objects     {objects} CT slices of 512 x 512, 16 bits, {:.0} kB each",
        study.bytes as f64 / 1e3 / f64::from(objects)
    );
    let folders: Vec<PathBuf> = (0..SENDERS).map(|folder| files.join(folder.to_string())).collect();
    for (title, senders) in [("one storescu", vec![files.clone()]), ("four storescu at once", folders)] {
        println!("\n{title}");
        let theirs = into_storescp(&root.path().join("storescp"), &senders, &study).await?;
        theirs.print("DCMTK storescp, not durable");
        let ours = into_tessera(&root.path().join("tessera"), &senders, &study).await?;
        ours.print("tessera, durable");
        println!("  tessera / storescp           {:>7.2} times", ours.rate() / theirs.rate());
    }
    Ok(())
}

/// Fails with what to do when DCMTK's `program` is not there.
async fn installed(program: &str) -> anyhow::Result<()> {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    match found {
        Ok(_) => Ok(()),
        Err(error) => bail!(
            "DCMTK's {program} could not be run ({error}). This benchmark measures beside DCMTK: install it with \
             `apt-get install dcmtk` (Debian, Ubuntu) or your system's package of that name, and put it in the PATH"
        ),
    }
}

async fn into_tessera(root: &Path, senders: &[PathBuf], study: &study::Study) -> anyhow::Result<Pass> {
    std::fs::create_dir(root)?;
    let node = Alone::start(root).await?;
    let elapsed = send(node.dicom, senders).await?;
    let objects = node.status().await?.objects;
    node.stop().await?;
    std::fs::remove_dir_all(root)?;
    pass(objects, study, elapsed)
}

async fn into_storescp(root: &Path, senders: &[PathBuf], study: &study::Study) -> anyhow::Result<Pass> {
    std::fs::create_dir(root)?;
    let address = free_ports(1)?[0];
    let mut receiver = storescp(root, address).await?;
    let elapsed = send(address, senders).await?;
    let objects = std::fs::read_dir(root)?.count() as u64;
    receiver.kill().await?;
    std::fs::remove_dir_all(root)?;
    pass(objects, study, elapsed)
}

fn pass(objects: u64, study: &study::Study, elapsed: Duration) -> anyhow::Result<Pass> {
    let sent = study.files.len() as u64;
    ensure!(objects == sent, "{sent} objects were sent and {objects} stored: this is no measurement");
    Ok(Pass { objects, bytes: study.bytes, elapsed })
}

/// Starts `storescp` and waits until it takes connections.
async fn storescp(directory: &Path, address: SocketAddr) -> anyhow::Result<Child> {
    let mut command = Command::new("storescp");
    command.args(["--fork", "+B", "+xa", "-aet", "TESSERA", "-od"]).arg(directory).arg(address.port().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut process = command.spawn().context("starting storescp")?;
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        let ended = process.try_wait()?.is_some();
        ensure!(!ended, "storescp ended at once; try it by hand: storescp --fork +B +xa {}", address.port());
        ensure!(begun.elapsed() < Duration::from_secs(LISTEN_SECONDS_MAX), "storescp does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(process)
}

/// One `storescu` for each of `senders`, all at once; the time until the last has ended.
async fn send(to: SocketAddr, senders: &[PathBuf]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    try_join_all(senders.iter().map(|folder| storescu(to, folder))).await?;
    Ok(begun.elapsed())
}

async fn storescu(to: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("storescu");
    command.args(["-aet", "BENCH", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs"]);
    command.arg(to.ip().to_string()).arg(to.port().to_string()).arg(folder);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("starting storescu")?;
    ensure!(output.status.success(), "storescu: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
