//! `tessera bench ingest`: objects over DICOM from one and from four `storescu`, beside DCMTK's `storescp`.
//!
//! All receivers get the same files from the same senders with the same options, one after the other, each pass into
//! an empty receiver that has taken a few objects before; rounds repeat the whole, so that a machine's noise shows.
//! `storescp` forks for each association, so that four senders are served at once, and writes what it reads (`+B`), the
//! least that it can do. It never calls fsync; this program answers success only when the object is durable. Time is
//! that of the senders: from the start of the first to the end of the last.
//!
//! `storescp` is measured twice: as it is installed, and tuned (`TCP_NODELAY=1` in its environment, PDUs of 128 KiB).
//! As installed, it writes each answer in two pieces, the second of which waits some 40 ms for an acknowledgement that
//! the sender's system delays. Hence its rate, whatever the machine; the tuned one shows what `storescu` can do.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::alone::Alone;
use super::spread::Spread;
use super::study::{self, Study};
use super::{machine, scratch};
use crate::demo::federation::free_ports;

/// Senders of the passes with several.
const SENDERS: usize = 4;
const SEED: u64 = 1;
/// Objects that a receiver takes before it is measured, of another study.
const WARM_UP_OBJECTS: u32 = 8;
const WARM_UP_SEED: u64 = 2;
/// How long `storescp` may take to listen.
const LISTEN_SECONDS_MAX: u64 = 20;

/// Who receives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Storescp,
    StorescpTuned,
    Tessera,
}

impl Receiver {
    const ALL: [Self; 3] = [Self::Storescp, Self::StorescpTuned, Self::Tessera];

    const fn title(self) -> &'static str {
        match self {
            Self::Storescp => "storescp, not durable",
            Self::StorescpTuned => "storescp tuned, not durable",
            Self::Tessera => "tessera, durable",
        }
    }
}

/// What is sent: all of it by one sender, or a share by each of several.
struct Load {
    study: Study,
    warm_up: PathBuf,
    /// One folder for each sender.
    folders: Vec<PathBuf>,
}

/// Objects a second, by receiver and round.
#[derive(Default)]
struct Rates([Vec<f64>; Receiver::ALL.len()]);

impl Rates {
    fn print(&self, bytes_per_object: f64) {
        for (receiver, rates) in Receiver::ALL.iter().zip(&self.0) {
            let rate = Spread::of(rates);
            let megabytes = rate.median * bytes_per_object / 1e6;
            println!("  {:<28} {rate:>7.1} objects/s   {megabytes:>6.1} MB/s", receiver.title());
        }
        let [.., ours] = &self.0;
        for (receiver, theirs) in Receiver::ALL.iter().zip(&self.0).take(Receiver::ALL.len() - 1) {
            let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
            println!(
                "  tessera / {:<18} {:>7.2} times",
                receiver.title().trim_end_matches(", not durable"),
                Spread::of(&ratios)
            );
        }
    }
}

pub async fn run(objects: u32, rounds: u32) -> anyhow::Result<()> {
    ensure!(rounds > 0, "ask for one round or more");
    for program in ["storescu", "storescp"] {
        println!("{program:<11} {}", installed(program).await?);
    }
    println!("options     storescu {}; storescp {}", SENDER.join(" "), PEER.join(" "));
    let root = scratch()?;
    let files = root.path().join("files");
    let mut load = Load {
        study: study::write(&files, SEED, objects, SENDERS)?,
        warm_up: root.path().join("warm-up"),
        folders: vec![files.clone()],
    };
    study::write(&load.warm_up, WARM_UP_SEED, WARM_UP_OBJECTS, 1)?;
    let bytes_per_object = load.study.bytes as f64 / f64::from(objects);
    println!("objects     {objects} CT slices of 512 x 512, 16 bits, {:.0} kB each", bytes_per_object / 1e3);
    println!("rounds      {rounds}; figures are the median and, in brackets, the lowest and the highest");
    let several = (0..SENDERS).map(|folder| files.join(folder.to_string())).collect();
    for (title, folders) in [("one storescu", vec![files.clone()]), ("four storescu at once", several)] {
        load.folders = folders;
        let mut rates = Rates::default();
        for _ in 0..rounds {
            for (receiver, rates) in Receiver::ALL.into_iter().zip(&mut rates.0) {
                let elapsed = pass(receiver, root.path(), &load).await?;
                rates.push(f64::from(objects) / elapsed.as_secs_f64());
            }
        }
        println!("\n{title}   (load {})", machine::load());
        rates.print(bytes_per_object);
    }
    Ok(())
}

/// The first line of what DCMTK's `program` says of its version; what to do when it is not there.
async fn installed(program: &str) -> anyhow::Result<String> {
    match Command::new(program).arg("--version").stdin(Stdio::null()).output().await {
        Ok(found) => Ok(String::from_utf8_lossy(&found.stdout).lines().next().unwrap_or_default().to_owned()),
        Err(error) => bail!(
            "DCMTK's {program} could not be run ({error}). This benchmark measures beside DCMTK: install it with \
             `apt-get install dcmtk` (Debian, Ubuntu) or your system's package of that name, and put it in the PATH"
        ),
    }
}

/// One pass into a fresh receiver, warmed up; the senders' time.
async fn pass(receiver: Receiver, root: &Path, load: &Load) -> anyhow::Result<Duration> {
    let root = root.join("receiver");
    std::fs::create_dir(&root)?;
    let (elapsed, stored) = match receiver {
        Receiver::Tessera => into_tessera(&root, load).await?,
        _ => into_storescp(&root, receiver == Receiver::StorescpTuned, load).await?,
    };
    std::fs::remove_dir_all(&root)?;
    let sent = load.study.files.len() as u64 + u64::from(WARM_UP_OBJECTS);
    ensure!(stored == sent, "{sent} objects were sent and {stored} stored: this is no measurement");
    Ok(elapsed)
}

async fn into_tessera(root: &Path, load: &Load) -> anyhow::Result<(Duration, u64)> {
    let node = Alone::start(root).await?;
    let elapsed = send(node.dicom, load).await?;
    let stored = node.status().await?.objects;
    node.stop().await?;
    Ok((elapsed, stored))
}

async fn into_storescp(root: &Path, tuned: bool, load: &Load) -> anyhow::Result<(Duration, u64)> {
    let address = free_ports(1)?[0];
    let mut receiver = storescp(root, address, tuned).await?;
    let elapsed = send(address, load).await?;
    let stored = std::fs::read_dir(root)?.count() as u64;
    receiver.kill().await?;
    Ok((elapsed, stored))
}

/// Options of every `storescp`.
const PEER: [&str; 5] = ["--fork", "+B", "+xa", "-aet", "TESSERA"];

/// Starts `storescp` and waits until it takes connections.
async fn storescp(directory: &Path, address: SocketAddr, tuned: bool) -> anyhow::Result<Child> {
    let mut command = Command::new("storescp");
    command.args(PEER).env_remove("TCP_NODELAY");
    if tuned {
        command.args(["--max-pdu", "131072"]).env("TCP_NODELAY", "1");
    }
    command.arg("-od").arg(directory).arg(address.port().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut process = command.spawn().context("starting storescp")?;
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        let ended = process.try_wait()?.is_some();
        ensure!(!ended, "storescp ended at once; try it by hand: storescp {} {}", PEER.join(" "), address.port());
        ensure!(begun.elapsed() < Duration::from_secs(LISTEN_SECONDS_MAX), "storescp does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(process)
}

/// The warm-up, then one `storescu` for each folder, all at once; the time until the last of these has ended.
async fn send(to: SocketAddr, load: &Load) -> anyhow::Result<Duration> {
    storescu(to, &load.warm_up).await?;
    let begun = Instant::now();
    try_join_all(load.folders.iter().map(|folder| storescu(to, folder))).await?;
    Ok(begun.elapsed())
}

/// Options of every `storescu`.
const SENDER: [&str; 8] = ["-aet", "BENCH", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs"];

async fn storescu(to: SocketAddr, folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("storescu");
    command.args(SENDER).env_remove("TCP_NODELAY");
    command.arg(to.ip().to_string()).arg(to.port().to_string()).arg(folder);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("starting storescu")?;
    ensure!(output.status.success(), "storescu: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
