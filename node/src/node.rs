//! `tessera node`: opens what is on the disk, starts the tasks, serves until Ctrl-C.
//!
//! Order: archive (takes the directory's lock), ledger, core, peers, gateways. An engine or store that failed to write
//! ends the process: what the page cache holds after a failed sync is unknown, so nothing may go on from it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use tessera_consensus::wire::v1::Role;
use tessera_storage::engine::Engine;
use tessera_storage::pixels::SiteKey;
use tessera_storage::rocks::{EngineOptions, RocksEngine};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::archive::sink::ArchiveSink;
use crate::archive::{self, Archive, catalogue};
use crate::cli::Dir;
use crate::config::Config;
use crate::control::server::{route, serve};
use crate::control::wire::{
    ConsentCodeCall, ConsentGrantCall, ConsentRevokeCall, CrosswalkCall, FetchCall, HistoryCall, IdCall, ImportCall,
    QuarantineShown,
};
use crate::dicom::identifiers::AeTitle;
use crate::dicom::scp::{self, ScpConfig};
use crate::founding;
use crate::home::Home;
use crate::member::{self, Member, core, following};

/// How often it is looked whether a write has failed.
const DISK_CHECK: Duration = Duration::from_secs(1);
/// Entries of the quarantine that are shown.
const QUARANTINE_SHOWN_MAX: usize = 1000;

pub async fn run(options: Dir) -> anyhow::Result<()> {
    let home = Home::new(&options.dir);
    let config = Config::read(&home.config())?;
    let secrets = home.load_secrets()?;
    let (own, genesis) = founding::installed(&home)?;
    std::fs::create_dir_all(home.database())?;
    let engine: Arc<dyn Engine> =
        Arc::new(RocksEngine::open(&home.database(), &archive::TABLES, EngineOptions::default())?);
    let archive = {
        let (home, config, key) = (home.clone(), config.clone(), SiteKey::new(*secrets.site));
        tokio::task::spawn_blocking(move || Archive::open(engine, &home.pixels(), key, config)).await??
    };
    let member = Member::open(home.clone(), config.clone(), secrets, &own, genesis, archive.clone())?;
    member.advanced();
    let mut tasks = tokio::task::JoinSet::new();
    if member.role == Role::Core {
        core::start(&member, &mut tasks).await?;
    }
    let (inputs, receiver) = mpsc::channel(following::INPUTS_MAX);
    member.set_follower(inputs.clone());
    member::peers::start(&member, inputs.clone()).await?;
    let (following, sending) = (member.clone(), member.clone());
    tasks.spawn(async move { following::follow(following, inputs, receiver).await.context("following the ledger") });
    tasks.spawn(async move { following::send(sending).await.context("the outbox") });
    tasks.spawn(watch_disks(member.clone()));
    tokio::spawn(following::register(member.clone()));
    if member.role == Role::Observer {
        tokio::spawn(member::statistics::count(member.clone()));
    }
    tokio::spawn(member::copies::give_up(member.clone()));
    let stop = CancellationToken::new();
    let gateway = start_dicom(&config, &archive, stop.clone()).await?;
    serve(&home.socket(), control(member.clone()))?;
    member::web::start(&member).await?;
    tracing::info!(name = config.name, node = member.node.short(), "the node is running");
    let ended = tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        ended = tasks.join_next() => ended.context("no task")?.context("a task of the node panicked")?,
    };
    stop.cancel();
    if let Some(gateway) = gateway {
        gateway.await?;
    }
    ended
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
) -> anyhow::Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(listen) = config.dicom.listen else { return Ok(None) };
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("[dicom] listen {listen}"))?;
    let own = config.site.iter().map(|site| site.ae_title.as_str()).filter(|title| !title.is_empty());
    let titles = own.chain([config.dicom.ae_title.as_str()]).map(AeTitle::parse).collect::<Result<_, _>>()?;
    let scp =
        ScpConfig { associations_max: config.dicom.associations_max, called_ae_titles: titles, ..ScpConfig::default() };
    Ok(Some(tokio::spawn(scp::serve(listener, Arc::new(ArchiveSink(archive.clone())), scp, stop))))
}

/// The control socket's calls.
fn control(member: Arc<Member>) -> Router {
    type M = Arc<Member>;
    Router::new()
        .route("/status", route(|m: M, (): (), _| async move { m.status() }))
        .route("/import", route(|m: M, call: ImportCall, r| async move { m.archive.import(call, r).await }))
        .route("/crosswalk", route(|m: M, call: CrosswalkCall, _| async move { m.extend_crosswalk(call).await }))
        .route("/history", route(|m: M, call: HistoryCall, _| async move { m.history(&call.id).await }))
        .route("/fetch", route(|m: M, call: FetchCall, r| async move { m.fetch_in_turn(call, r).await }))
        .route("/consent/code", route(|m: M, call: ConsentCodeCall, _| async move { m.patient_code(&call).await }))
        .route("/consent/grant", route(|m: M, call: ConsentGrantCall, _| async move { m.grant(call).await }))
        .route("/consent/revoke", route(|m: M, call: ConsentRevokeCall, _| async move { m.revoke(call).await }))
        .route("/consent/list", route(|m: M, call: IdCall, _| async move { m.consents(call).await }))
        .route("/quarantine", route(|m: M, (): (), _| async move { quarantine(&m.archive) }))
        .with_state(member)
}

fn quarantine(archive: &Archive) -> anyhow::Result<Vec<QuarantineShown>> {
    let view = &**archive.engine();
    let aside = catalogue::quarantined(view, QUARANTINE_SHOWN_MAX)?;
    let aside = aside.into_iter().map(|(why, record)| (why.sentence().to_owned(), record));
    let variants = catalogue::variants(view, QUARANTINE_SHOWN_MAX)?;
    let variant = "its SOP Instance UID is here with other content; both are kept".to_owned();
    let variants = variants.into_iter().map(|record| (variant.clone(), record));
    let shown = aside.chain(variants).map(|(why, record)| QuarantineShown {
        received: member::rfc3339(record.receipt.received_ms),
        sender: format!("{} at {}", record.receipt.calling_ae, record.receipt.address),
        sop_instance: record.description.sop_instance,
        study_uid: record.description.study,
        why,
        bytes: record.size,
    });
    Ok(shown.collect())
}
