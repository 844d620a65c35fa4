//! `tessera node`: opens what is on the disk, starts the tasks, serves until it is asked to end.
//!
//! Order: archive (takes the directory's lock), ledger, core, peers, gateways. An engine or store that failed to write
//! ends the process: what the page cache holds after a failed sync is unknown, so nothing may go on from it.
//!
//! At the end associations are answered for what they sent whole and then aborted; everything else is dropped where it
//! stands, since all of it survives a crash.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tessera_consensus::wire::v1::Role;
use tessera_storage::engine::Engine;
use tessera_storage::pixels::SiteKey;
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::archive::sink::ArchiveSink;
use crate::archive::{self, Archive, scrubbing};
use crate::cli;
use crate::config::Config;
use crate::connections;
use crate::control::server::{route, serve};
use crate::control::wire::{
    ConsentCodeCall, ConsentGrantCall, ConsentRevokeCall, CrosswalkCall, FetchCall, HistoryCall, IdCall, ImportCall,
    LookupsCall, QuarantineDecideCall, QuarantineDecisionsCall, QuarantineListCall, QuarantineShowCall,
};
use crate::dicom::identifiers::AeTitle;
use crate::dicom::scp::{self, ScpConfig};
use crate::ending::{self, Ending};
use crate::founding;
use crate::home::Home;
use crate::member::{self, Member, again, core, following};

/// How often it is looked whether a write has failed.
const DISK_CHECK: Duration = Duration::from_secs(1);
/// How long associations may take to end when the node does: an object that is with the disk is answered by then.
const ASSOCIATIONS_END_MAX: Duration = Duration::from_secs(5);

pub async fn run(options: cli::Node) -> anyhow::Result<()> {
    if let Some(parent) = options.until_parent_ends {
        ending::end_with(parent)?;
    }
    connections::allow_open_files();
    let mut ending = Ending::listen()?;
    let mut running = tokio::select! {
        running = start(Home::new(&options.dir.dir)) => running?,
        signal = ending.asked() => {
            tracing::info!(signal, "the node ends before it has started");
            return Ok(());
        }
    };
    let ended = tokio::select! {
        signal = ending.asked() => {
            tracing::info!(signal, "the node ends");
            Ok(())
        }
        ended = running.tasks.join_next() => ended.context("no task")?.context("a task of the node panicked")?,
    };
    running.end().await;
    ended
}

/// What a running node is made of, as far as its end is concerned.
struct Running {
    member: Arc<Member>,
    tasks: JoinSet<anyhow::Result<()>>,
    gateway: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Running {
    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.member.keep_floor() {
            tracing::warn!(error = format!("{error:#}"), "the clock's floor could not be kept");
        }
        let Some(gateway) = self.gateway else { return };
        match tokio::time::timeout(ASSOCIATIONS_END_MAX, gateway).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the DICOM gateway did not end well"),
            Err(_) => tracing::warn!("an association did not end in {ASSOCIATIONS_END_MAX:?}; it is cut off"),
        }
    }
}

async fn start(home: Home) -> anyhow::Result<Running> {
    home.check_finished()?;
    let config = Config::read(&home.config())?;
    let secrets = home.load_secrets()?;
    let (own, genesis) = founding::installed(&home)?;
    std::fs::create_dir_all(home.database())?;
    let archive = {
        let (home, config, key) = (home.clone(), config.clone(), SiteKey::new(*secrets.site));
        tokio::task::spawn_blocking(move || {
            let engine: Arc<dyn Engine> =
                Arc::new(RocksEngine::open(&home.database(), &archive::TABLES, EngineOptions::default())?);
            Archive::open(engine, &home.pixels(), key, config)
        })
        .await??
    };
    let member = Member::open(home.clone(), config.clone(), secrets, &own, genesis, archive.clone())?;
    member.advanced();
    let mut tasks = JoinSet::new();
    if member.role == Role::Core {
        core::start(&member, &mut tasks).await?;
    }
    let (inputs, receiver) = mpsc::channel(following::INPUTS_MAX);
    member.set_follower(inputs.clone());
    member::peers::start(&member, inputs.clone()).await?;
    let (following, sending) = (member.clone(), member.clone());
    tasks.spawn(async move { following::follow(following, inputs, receiver).await.context("following the ledger") });
    tasks.spawn(async move { following::send(sending).await.context("the outbox") });
    let writing_again = member.clone();
    tasks.spawn(async move { again::write_again(writing_again).await.context("what is written again") });
    tasks.spawn(watch_disks(member.clone()));
    tokio::spawn(following::register(member.clone()));
    if member.role == Role::Observer {
        tokio::spawn(member::statistics::count(member.clone()));
    }
    tokio::spawn(member::copies::give_up(member.clone()));
    tokio::spawn(member::lookups::anchor(member.clone()));
    tokio::spawn(scrubbing::scrub(archive.clone()));
    tokio::spawn(scrubbing::name_damages(archive.clone()));
    tasks.spawn(member::audit::audit(member.clone()));
    tokio::spawn(member::clock::keep(member.clone()));
    let stop = CancellationToken::new();
    tokio::spawn(archive::space::give_back(archive.clone(), stop.clone()));
    let gateway = start_dicom(&config, &archive, stop.clone()).await?;
    serve(&home.socket(), control(member.clone()))?;
    member::web::start(&member).await?;
    tracing::info!(name = config.name, node = member.node.short(), "the node is running");
    Ok(Running { member, tasks, gateway, stop })
}

/// Ends with the first error of the archive's or the ledger's disk.
async fn watch_disks(member: Arc<Member>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(DISK_CHECK).await;
        member.archive.check_alive().context("the archive's disk")?;
        member.replica.engine().get(tessera_consensus::replica::TABLES[0], b"").context("the ledger's disk")?;
    }
}

async fn start_dicom(
    config: &Config,
    archive: &Arc<Archive>,
    stop: CancellationToken,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(listen) = config.dicom.listen else { return Ok(None) };
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("[dicom] listen {listen}"))?;
    let own = config.site.iter().map(|site| site.ae_title.as_str()).filter(|title| !title.is_empty());
    let titles = own.chain([config.dicom.ae_title.as_str()]).map(AeTitle::parse).collect::<Result<_, _>>()?;
    let scp = ScpConfig {
        associations_max: config.dicom.associations_max,
        associations_per_address_max: config.dicom.associations_per_address_max,
        called_ae_titles: titles,
        ..ScpConfig::default()
    };
    Ok(Some(tokio::spawn(scp::serve(listener, Arc::new(ArchiveSink(archive.clone())), scp, stop))))
}

/// The control socket's calls.
fn control(member: Arc<Member>) -> Router {
    type M = Arc<Member>;
    Router::new()
        .route("/status", route(|m: M, (): (), _| async move { m.status() }))
        .route("/import", route(|m: M, call: ImportCall, r| async move { m.archive.import(call, r).await }))
        .route("/crosswalk", route(|m: M, call: CrosswalkCall, _| async move { m.extend_crosswalk(call).await }))
        .route("/history", route(|m: M, call: HistoryCall, _| async move { m.history(&call).await }))
        .route("/lookups", route(|m: M, call: LookupsCall, _| async move { m.lookups(call).await }))
        .route("/fetch", route(|m: M, call: FetchCall, r| async move { m.fetch_in_turn(call, r).await }))
        .route("/consent/code", route(|m: M, call: ConsentCodeCall, _| async move { m.patient_code(&call).await }))
        .route("/consent/grant", route(|m: M, call: ConsentGrantCall, _| async move { m.grant(call).await }))
        .route("/consent/revoke", route(|m: M, call: ConsentRevokeCall, _| async move { m.revoke(call).await }))
        .route("/consent/list", route(|m: M, call: IdCall, _| async move { m.consents(call).await }))
        .route(
            "/quarantine/list",
            route(|m: M, call: QuarantineListCall, _| async move { m.archive.aside(call).await }),
        )
        .route("/quarantine/show", route(|m: M, call: QuarantineShowCall, _| async move { m.archive.look(call).await }))
        .route(
            "/quarantine/decide",
            route(|m: M, call: QuarantineDecideCall, r| async move { m.archive.decide_on(call, r).await }),
        )
        .route(
            "/quarantine/decisions",
            route(|m: M, call: QuarantineDecisionsCall, _| async move { m.archive.decided(call).await }),
        )
        .with_state(member)
}
