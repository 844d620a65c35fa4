//! `tessera bench query`: a known patient's history from a replica of many records.
//!
//! The replica is the shipped one on its disk engine, filled in this process with commands that one node signs and
//! the machine checks as in service: signatures, tags, digest, Merkle tree, each batch durable. Most records belong to
//! random patients; fifty measured patients have twenty each at five sites, strewn over the whole ledger. The node
//! hosts the five sites, as one does for township centres. Before the lookups the engine is opened anew, so that the
//! first round over the patients reads what no cache of ours holds (the system's may). Identifier keys are at hand:
//! asking for one is another matter and is not measured here.

mod ledger;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use tessera_consensus::raft::state_machine::RAFT_APPLIED;
use tessera_consensus::replica::{self, Replica};
use tessera_consensus::wire::v1::Genesis;
use tessera_federation::history;
use tessera_federation::machine::Machine;
use tessera_storage::engine::{Engine, wait_durable};
use tessera_storage::rocks::{EngineOptions, RocksEngine};

use self::ledger::{MEASURED_PATIENTS, MEASURED_RECORDS, Plan, SITES, site};
use super::alone::tessera;
use super::{machine, scratch};
use crate::config::{Config, SiteConfig};
use crate::founding;
use crate::home::{Home, replace};

const LOOKUPS: usize = 1000;
/// Batches that are signed ahead of the one that is applied.
const BATCHES_AHEAD: usize = 2;

pub async fn run(records: u64) -> anyhow::Result<()> {
    let least = (MEASURED_PATIENTS * MEASURED_RECORDS) as u64;
    ensure!(records >= least, "ask for {least} records or more: so many are the measured patients' own");
    let root = scratch()?;
    let home = found(root.path()).await?;
    tokio::task::spawn_blocking(move || measure(&home, records)).await?
}

/// The directory of a node that hosts all sites and is a federation of its own. It is not started.
async fn found(root: &Path) -> anyhow::Result<PathBuf> {
    let dir = root.join("node");
    tessera(root, &format!("init --dir node --site {} --legal-name Bench --core 127.0.0.1:0", site(1))).await?;
    let home = Home::new(&dir);
    let mut config = Config::read(&home.config())?;
    for number in 2..=SITES {
        let (id, issuer) = (site(number).parse()?, site(number).to_uppercase());
        let (legal_name, ae_title) = (format!("Bench {number}"), issuer.clone());
        config.site.push(SiteConfig { id, legal_name, issuer, ae_title });
    }
    replace(&home.config(), config.to_toml().as_bytes(), 0o644)?;
    for command in [
        "ticket --dir node --role core --out ticket",
        "found --name Bench --out genesis ticket",
        "join --dir node genesis",
    ] {
        tessera(root, command).await?;
    }
    Ok(dir)
}

fn measure(node: &Path, records: u64) -> anyhow::Result<()> {
    let home = Home::new(node);
    let (own, genesis) = founding::installed(&home)?;
    let federation = genesis.federation_id();
    let plan = Plan::new(records, federation, own.node_id(), home.load_secrets()?.command)?;
    let directory = home.ledger(federation);
    std::fs::create_dir_all(&directory)?;
    println!("records     {records} study records, {MEASURED_PATIENTS} measured patients with {MEASURED_RECORDS} each");
    let keys = plan.keys.clone();
    build(&open(&directory, &genesis)?, plan, records)?;
    println!(
        "on disk     {:.0} MB, {:.0} bytes a record",
        size(&directory)? as f64 / 1e6,
        size(&directory)? as f64 / records as f64
    );
    let replica = open(&directory, &genesis)?;
    let mut times = Vec::with_capacity(LOOKUPS);
    for key in keys.iter().cycle().take(LOOKUPS) {
        let begun = Instant::now();
        let found = history::look_up(&replica, std::slice::from_ref(key))?;
        times.push(begun.elapsed());
        let complete = found.current().len() == MEASURED_RECORDS && found.problems.is_empty();
        ensure!(complete, "{} of {MEASURED_RECORDS} records found; {:?}", found.current().len(), found.problems);
    }
    println!("load        {} (after building)", machine::load());
    println!("\nhistory of {MEASURED_RECORDS} records at five sites");
    print("first round, caches cold", times[..MEASURED_PATIENTS].to_vec());
    print("all lookups", times);
    Ok(())
}

fn open(directory: &Path, genesis: &Genesis) -> anyhow::Result<Replica> {
    let mut tables = replica::TABLES.to_vec();
    tables.push(RAFT_APPLIED);
    let engine: Arc<dyn Engine> = Arc::new(RocksEngine::open(directory, &tables, EngineOptions::default())?);
    Ok(Replica::open(engine, genesis.clone(), Arc::new(Machine))?)
}

/// Applies all batches; the next ones are signed meanwhile.
fn build(replica: &Replica, plan: Plan, records: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (sender, batches) = std::sync::mpsc::sync_channel(BATCHES_AHEAD);
    let signer = std::thread::spawn(move || {
        for batch in plan.batches() {
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    });
    for batch in batches {
        let applied = replica.apply_batch(&batch?, Default::default())?;
        wait_durable(&**replica.engine(), applied.ticket)?;
        let refused = applied.outcomes.iter().find(|(_, outcome)| !ledger::is_applied(outcome));
        ensure!(refused.is_none(), "the machine did not take a record: {refused:?}");
    }
    signer.join().map_err(|_| anyhow::anyhow!("the signing thread panicked"))?;
    ensure!(replica.size().0 == records, "the ledger has {} entries", replica.size().0);
    let seconds = begun.elapsed().as_secs_f64();
    println!("built       {:.0} records/s, signed, checked and durable ({seconds:.0} s)", records as f64 / seconds);
    Ok(())
}

/// Bytes of the files below `directory`.
fn size(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let mut open: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => open.push(entry.path()),
                false => bytes += entry.metadata()?.len(),
            }
        }
    }
    Ok(bytes)
}

fn print(title: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("  {title:<28} p50 {:.2} ms   p99 {:.2} ms   ({} lookups)", at(50), at(99), times.len());
}
