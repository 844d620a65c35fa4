//! The demo's federation: four directories, four processes of this program, and how to call them.
//! They run as a user's would, told apart only by their directories and ports; all ports are on loopback. They end when
//! this process ends, however it does.
//! Not for the story that is told with them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

use crate::control::client;
use crate::control::wire::StatusDone;
use crate::ending::node_until_we_end;

/// How long a step may take before the demo calls it failed.
pub const STEP_SECONDS_MAX: u64 = 60;
/// How long a node may take to end before it is killed.
const END_MAX: Duration = Duration::from_secs(10);
/// Lines of a node's log that are shown when it ended by itself.
const LOG_LINES_SHOWN: usize = 5;

/// One node of the demo.
pub struct Member {
    pub name: &'static str,
    pub legal_name: &'static str,
    pub issuer: &'static str,
    pub role: &'static str,
    pub dir: PathBuf,
    pub dicom: SocketAddr,
    pub http: SocketAddr,
    core: SocketAddr,
    peer: SocketAddr,
    process: Option<Child>,
}

pub struct Federation {
    pub members: Vec<Member>,
    program: PathBuf,
    viewer: Option<PathBuf>,
}

const PLAN: [(&str, &str, &str, &str); 4] = [
    ("hospital-a", "测试县人民医院 (Hospital A)", "SITEA", "core"),
    ("hospital-b", "测试市中心医院 (Hospital B)", "SITEB", "core"),
    ("hospital-c", "测试镇卫生院 (Hospital C)", "SITEC", "core"),
    ("regulator", "测试省质控中心 (Regulator)", "REGULATOR", "observer"),
];

/// A port that is free now. Held until all are chosen, so that none is given out twice.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

impl Federation {
    /// The plan of the nodes below `root`. Nothing is written or started yet.
    pub fn plan(root: &Path, viewer: Option<PathBuf>) -> anyhow::Result<Self> {
        let ports = free_ports(PLAN.len() * 4)?;
        let members = PLAN.iter().zip(ports.chunks(4)).map(|((name, legal_name, issuer, role), ports)| Member {
            name,
            legal_name,
            issuer,
            role,
            dir: root.join(name),
            dicom: ports[0],
            http: ports[1],
            core: ports[2],
            peer: ports[3],
            process: None,
        });
        Ok(Self { members: members.collect(), program: std::env::current_exe()?, viewer })
    }

    /// Creates the directories, founds the federation, starts the nodes and waits until all of them follow it.
    pub async fn found(&mut self, root: &Path) -> anyhow::Result<()> {
        self.prepare(root).await?;
        for index in 0..self.members.len() {
            self.start(index)?;
        }
        self.wait("all nodes follow the ledger", |all| all.iter().all(|s| s.certified_at.is_some())).await?;
        Ok(())
    }

    async fn prepare(&self, root: &Path) -> anyhow::Result<()> {
        let genesis = root.join("genesis");
        let mut found = vec!["found".into(), "--name".into(), "Demo alliance".into(), "--out".into(), path(&genesis)];
        for member in &self.members {
            self.run(&self.init_arguments(member)).await?;
            let ticket = root.join(format!("{}.ticket", member.name));
            let dir = path(&member.dir);
            self.run(&[
                "ticket".into(),
                "--dir".into(),
                dir,
                "--role".into(),
                member.role.into(),
                "--out".into(),
                path(&ticket),
            ])
            .await?;
            found.push(path(&ticket));
        }
        self.run(&found).await?;
        for member in &self.members {
            self.run(&["join".into(), "--dir".into(), path(&member.dir), path(&genesis)]).await?;
        }
        Ok(())
    }

    fn init_arguments(&self, member: &Member) -> Vec<String> {
        let mut arguments: Vec<String> = vec!["init".into(), "--dir".into(), path(&member.dir)];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--site", member.name.into());
        option("--legal-name", member.legal_name.into());
        option("--issuer", member.issuer.into());
        option("--dicom", member.dicom.to_string());
        option("--http", member.http.to_string());
        option("--peer", format!("/ip4/127.0.0.1/tcp/{}", member.peer.port()));
        option("--quiet-period-ms", "1500".into());
        option("--users-role", "physician".into());
        if member.role == "core" {
            option("--core", member.core.to_string());
        }
        if let Some(viewer) = &self.viewer {
            option("--viewer", path(viewer));
        }
        arguments.push("--accept-unknown-senders".into());
        arguments
    }

    /// Runs a command of this program to its end.
    pub async fn run(&self, arguments: &[String]) -> anyhow::Result<String> {
        let output =
            Command::new(&self.program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await?;
        if !output.status.success() {
            bail!("tessera {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let member = &mut self.members[index];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(member.dir.join("node.log"))?;
        let mut command = node_until_we_end(&self.program, &member.dir);
        command.stdout(log.try_clone()?).stderr(log);
        member.process = Some(command.spawn().context("starting a node")?);
        Ok(())
    }

    /// `kill -9`: no farewell, nothing flushed.
    pub async fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.members[index].process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// Asks all nodes to end, and kills those that do not.
    pub async fn stop(&mut self) {
        let mut processes: Vec<Child> = self.members.iter_mut().filter_map(|member| member.process.take()).collect();
        for process in &processes {
            let id = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            // One that has ended already is as wanted.
            let _ = id.map(|id| kill_process(id, Signal::TERM));
        }
        for process in &mut processes {
            if tokio::time::timeout(END_MAX, process.wait()).await.is_err() {
                // Killed in any case when it is dropped.
                let _ = process.kill().await;
            }
        }
    }

    /// An error if a node has ended that nobody ended.
    fn check_running(&mut self) -> anyhow::Result<()> {
        for member in &mut self.members {
            if let Some(process) = &mut member.process
                && let Some(status) = process.try_wait()?
            {
                let log = std::fs::read_to_string(member.dir.join("node.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n    ");
                bail!("{} ended by itself ({status}). The end of its log:\n    {last}", member.name);
            }
        }
        Ok(())
    }

    /// Calls a node's control socket.
    pub async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        index: usize,
        path: &str,
        argument: &A,
    ) -> anyhow::Result<R> {
        client::call(&self.members[index].dir.join("node.sock"), path, argument, |_| {}).await
    }

    pub async fn status(&self, index: usize) -> anyhow::Result<StatusDone> {
        self.call(index, "/status", &()).await
    }

    /// Waits until `reached` holds for the states of all running nodes.
    pub async fn wait(&mut self, what: &str, reached: impl Fn(&[StatusDone]) -> bool) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            self.check_running()?;
            let mut all = Vec::new();
            for (index, member) in self.members.iter().enumerate() {
                if member.process.is_some()
                    && let Ok(status) = self.status(index).await
                {
                    all.push(status);
                }
            }
            let running = self.members.iter().filter(|member| member.process.is_some()).count();
            if all.len() == running && reached(&all) {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > Duration::from_secs(STEP_SECONDS_MAX) {
                bail!("waited {STEP_SECONDS_MAX} s in vain until {what}; states: {all:#?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn print_addresses(&self) {
        println!("\nPages:");
        for member in &self.members {
            println!("  {:<40} http://{}/", member.legal_name, member.http);
        }
        println!("DICOM (AE title TESSERA):");
        for member in self.members.iter().filter(|member| member.role == "core") {
            println!("  {:<40} {}", member.legal_name, member.dicom);
        }
    }
}

pub fn path(path: &Path) -> String {
    path.display().to_string()
}
