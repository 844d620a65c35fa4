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

/// How long a node may take to start.
const START_SECONDS_MAX: u64 = 60;

/// A node's directory below `root`, of a node that is not started.
pub async fn init(root: &Path) -> anyhow::Result<PathBuf> {
    let ports = free_ports(2)?;
    create(root, ports[0], ports[1]).await
}

async fn create(root: &Path, dicom: SocketAddr, http: SocketAddr) -> anyhow::Result<PathBuf> {
    let dir = root.join("node");
    let mut init = Command::new(std::env::current_exe()?);
    init.arg("init").arg("--dir").arg(&dir).args(["--site", "bench", "--legal-name", "Bench"]);
    init.args(["--dicom", &dicom.to_string(), "--http", &http.to_string(), "--accept-unknown-senders"]);
    let output = init.stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "tessera init: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(dir)
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
        let mut node = Command::new(std::env::current_exe()?);
        node.arg("node").arg("--dir").arg(&dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = node.kill_on_drop(true).spawn().context("starting a node")?;
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
