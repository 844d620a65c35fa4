//! `tessera bench fetch`: a study from the hospital that holds it to another, on loopback.
//!
//! The demo's federation, with everything that a fetch is: crosswalk, the patient's consent confirmed with the
//! holder's code, decision and disclosure before the first byte, every object checked against the manifest and durable.
//! Studies of CT slices and studies of long objects, several of each, all of different patients. The rate as reported
//! is that of the requester's node; end to end is what the caller of the control socket waited. There is no peer to
//! compare with: nothing else does this.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::spread::Spread;
use super::study::{SLICE_BYTES, SLICES_MAX, Study};
use super::{machine, scratch, study};
use crate::control::wire::{
    ConsentCode, ConsentCodeCall, ConsentDone, ConsentGrantCall, CrosswalkCall, CrosswalkDone, FetchCall, FetchDone,
    HistoryCall, HistoryDone, ImportCall, ImportDone,
};
use crate::demo::federation::Federation;

const HOLDER: usize = 0;
const REQUESTER: usize = 1;
const PURPOSE: &str = "treatment";
/// Frames of a long object: about 64 MiB.
const LONG_FRAMES: u32 = 128;
const LONG_BYTES: u64 = LONG_FRAMES as u64 * SLICE_BYTES;

pub async fn run(megabytes: u32, rounds: u32) -> anyhow::Result<()> {
    ensure!(rounds > 0, "ask for one round or more");
    let bytes = u64::from(megabytes) * 1_000_000;
    let most = u64::from(SLICES_MAX) * SLICE_BYTES / 1_000_000;
    let slices = bytes / SLICE_BYTES;
    ensure!((2..=u64::from(SLICES_MAX)).contains(&slices), "ask for 2 to {most} megabytes: one study of CT slices");
    let root = scratch()?;
    let mut federation = Federation::plan(root.path(), None)?;
    federation.found(root.path()).await?;
    let long = (bytes / LONG_BYTES).max(2);
    let result = measure(&mut federation, root.path(), (slices as u32, long as u32), rounds).await;
    federation.stop().await;
    result
}

async fn measure(
    federation: &mut Federation,
    root: &Path,
    (slices, long): (u32, u32),
    rounds: u32,
) -> anyhow::Result<()> {
    println!("nodes       three core hospitals and an observer, processes of this machine, TCP on loopback");
    for shape in ["CT slices", "long objects"] {
        println!("\n{shape}");
        let mut rates = Vec::new();
        for round in 0..rounds {
            let files = root.join("files");
            // No patient twice, so that nothing is there before.
            let seed = 1 + u64::from(round) * 2;
            let study = match shape {
                "CT slices" => study::write(&files, seed, slices, 1)?,
                _ => study::write_long(&files, seed + 1, long, LONG_FRAMES)?,
            };
            register(federation, &study, &files).await?;
            std::fs::remove_dir_all(&files)?;
            consent(federation, &study.patient).await?;
            rates.push(fetch(federation, &study).await?);
        }
        println!("  {:.1} MB/s end to end   (load {})", Spread::of(&rates), machine::load());
    }
    Ok(())
}

/// Imports the study at the holder, and waits until the requester's replica shows it.
async fn register(federation: &mut Federation, study: &Study, files: &Path) -> anyhow::Result<()> {
    for member in [HOLDER, REQUESTER] {
        let call = CrosswalkCall { csv: study.crosswalk.clone(), remove: false };
        let done: CrosswalkDone = federation.call(member, "/crosswalk", &call).await?;
        ensure!(done.refused.is_empty(), "crosswalk rows were refused: {:?}", done.refused);
    }
    let call = ImportCall { paths: vec![std::fs::canonicalize(files)?] };
    let done: ImportDone = federation.call(HOLDER, "/import", &call).await?;
    let (stored, all) = (done.stored, study.files.len());
    ensure!(
        stored == all as u64,
        "{stored} of {all} objects were imported; the first refused: {:?}",
        done.refused.first()
    );
    settle(federation).await
}

/// Waits until everything is registered and certified everywhere.
async fn settle(federation: &mut Federation) -> anyhow::Result<()> {
    let settled = |all: &[crate::control::wire::StatusDone]| {
        let longest = all.iter().map(|status| status.certified_size).max().unwrap_or(0);
        all.iter().all(|s| s.outbox_pending == 0 && s.receiving == 0 && s.certified_size == longest)
    };
    federation.wait("everything is registered and certified", settled).await.map(drop)
}

async fn consent(federation: &mut Federation, patient: &str) -> anyhow::Result<()> {
    let agreed = ConsentCodeCall {
        id: patient.to_owned(),
        to_site: federation.members[REQUESTER].name.to_owned(),
        purpose: PURPOSE.to_owned(),
        days: 1,
    };
    let code: ConsentCode = federation.call(HOLDER, "/consent/code", &agreed).await?;
    let grant = ConsentGrantCall {
        id: patient.to_owned(),
        to_site: federation.members[REQUESTER].name.to_owned(),
        purpose: PURPOSE.to_owned(),
        patient_code: Some(code.code),
        days: 1,
    };
    let _: ConsentDone = federation.call(REQUESTER, "/consent/grant", &grant).await?;
    settle(federation).await
}

/// Fetches the study and prints how long it took; megabytes a second end to end.
async fn fetch(federation: &Federation, study: &Study) -> anyhow::Result<f64> {
    let id = study.patient.clone();
    let history: HistoryDone =
        federation.call(REQUESTER, "/history", &HistoryCall { id: id.clone(), user: String::new() }).await?;
    let found = history.studies.first().context("the requester's history does not show the study")?;
    let call = FetchCall {
        study: found.study_uid.clone(),
        id,
        purpose: PURPOSE.to_owned(),
        user: "bench".to_owned(),
        holder: None,
        to: None,
    };
    let begun = Instant::now();
    let done: FetchDone = federation.call(REQUESTER, "/fetch", &call).await?;
    let waited = begun.elapsed().as_secs_f64();
    ensure!(done.objects == study.files.len() as u64, "{} of {} objects arrived", done.objects, study.files.len());
    let megabytes = done.bytes as f64 / 1e6;
    let reported = done.elapsed_ms.max(1) as f64 / 1e3;
    println!(
        "  {} objects, {megabytes:.1} MB   as reported {:>6.1} MB/s ({reported:.2} s)   end to end {:>6.1} MB/s ({waited:.2} s)",
        done.objects,
        megabytes / reported,
        megabytes / waited
    );
    Ok(megabytes / waited)
}
