//! A node alone, as a single hospital starts it: `tessera init`, then `tessera node`, on free ports of loopback.
//! It is killed when dropped.
//! Not for federations: those are the demo's.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::control::client;
use crate::control::wire::StatusDone;
use crate::demo::federation::free_ports;
use crate::ending::node_until_we_end;

/// How long a node may take to start.
const START_SECONDS_MAX: u64 = 60;

/// Runs one command of this program in `directory` to its end. Words are parted by single spaces.
pub async fn tessera(directory: &Path, command: &str) -> anyhow::Result<()> {
    let mut program = Command::new(std::env::current_exe()?);
    let output = program.args(command.split(' ')).current_dir(directory).stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "tessera {command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

async fn create(root: &Path, dicom: SocketAddr, http: SocketAddr) -> anyhow::Result<PathBuf> {
    let init = "init --dir node --site bench --legal-name Bench --accept-unknown-senders";
    tessera(root, &format!("{init} --dicom {dicom} --http {http}")).await?;
    Ok(root.join("node"))
}

pub struct Alone {
    pub dicom: SocketAddr,
    dir: PathBuf,
    process: Child,
}

impl Alone {
    /// Creates a node below `root`, starts it and waits until it answers.
    pub async fn start(root: &Path) -> anyhow::Result<Self> {
        let ports = free_ports(2)?;
        let dir = create(root, ports[0], ports[1]).await?;
        let log = File::create(dir.join("node.log"))?;
        let mut node = node_until_we_end(&std::env::current_exe()?, &dir);
        let process = node.stdout(log.try_clone()?).stderr(log).spawn().context("starting a node")?;
        let mut alone = Self { dicom: ports[0], dir, process };
        alone.wait().await?;
        Ok(alone)
    }

    async fn wait(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.status().await.is_err() {
            let ended = self.process.try_wait()?.is_some();
            if ended || begun.elapsed() > Duration::from_secs(START_SECONDS_MAX) {
                bail!("the node did not start; its log:\n{}", std::fs::read_to_string(self.dir.join("node.log"))?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    pub async fn status(&self) -> anyhow::Result<StatusDone> {
        client::call(&self.dir.join("node.sock"), "/status", &(), |_| {}).await
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }
}
