//! The demo's story, step by step. Each step does what a person would do and says what came of it.
//!
//! A step that does not come out as told fails the whole demo: refusals are checked as strictly as successes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use super::federation::{Federation, path};
use crate::control::wire::{
    ConsentCode, ConsentCodeCall, ConsentDone, ConsentGrantCall, ConsentRevokeCall, CrosswalkCall, CrosswalkDone,
    FetchCall, FetchDone, HistoryCall, HistoryDone, HistoryStudy, ImportCall, ImportDone, StatusDone,
};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const REGULATOR: usize = 3;

/// Prints a step's number and title.
struct Steps(u32);

impl Steps {
    fn title(&mut self, text: &str) {
        self.0 += 1;
        println!("\n{:>2}. {text}", self.0);
    }
}

fn say(text: impl AsRef<str>) {
    println!("    {}", text.as_ref());
}

/// Tells the whole story; the first thing that is not as it should be ends it with an error.
pub async fn tell(federation: &mut Federation, root: &Path, data: Option<&Path>) -> anyhow::Result<()> {
    let mut steps = Steps(0);
    steps.title("Three hospitals agree on a ledger; a regulator follows it");
    introduce(federation).await?;
    steps.title("Modalities send examinations over DICOM");
    let phantom = send_examinations(federation, root, data).await?;
    steps.title("Hospital numbers become identifiers: the crosswalk");
    crosswalk(federation, &phantom).await?;
    steps.title("Hospital B asks for a patient's history, and sees Hospital A's examinations");
    let (patient, study) = history(federation, &phantom).await?;
    steps.title("B asks A for the images: refused, nobody allowed it");
    refused(federation, &patient, &study).await?;
    steps.title("A grant that B records alone opens nothing");
    lone_grant(federation, &patient, &study).await?;
    steps.title("The patient confirms with the code that Hospital A gave; B records the grant");
    let (consent, code) = grant(federation, &patient).await?;
    steps.title("B fetches the images, and checks every one against the ledger");
    fetch(federation, &patient, &study, &root.join("fetched")).await?;
    steps.title("The patient revokes; the used code opens nothing any more");
    revoke(federation, &patient, &study, &consent, &code).await?;
    steps.title("The patient confirms again, and then takes it back at Hospital A, which did not record it");
    deny(federation, &patient, &study).await?;
    steps.title("A late series makes a new revision; a resend changes nothing");
    late_series(federation, &patient, &study, &phantom).await?;
    steps.title("Hospital C is killed; the others go on");
    outage(federation, &patient, &study, &phantom).await?;
    steps.title("What the regulator sees: volumes, never who");
    regulator(federation, &patient).await
}

async fn introduce(federation: &Federation) -> anyhow::Result<()> {
    let status = federation.status(A).await?;
    say(format!("federation {} ({})", status.federation, status.federation_id));
    for (index, member) in federation.members.iter().enumerate() {
        let status = federation.status(index).await?;
        say(format!(
            "{:<28} {:<9} certified at {}",
            member.legal_name,
            status.role,
            status.certified_at.unwrap_or_default()
        ));
    }
    Ok(())
}

/// What `tessera phantom` wrote: a directory for each issuer, a late series, and the crosswalk.
struct Phantom {
    late: PathBuf,
    outage: PathBuf,
    crosswalk: String,
    /// The person who was examined at A and B.
    shared_patient: String,
}

async fn send_examinations(federation: &mut Federation, root: &Path, data: Option<&Path>) -> anyhow::Result<Phantom> {
    let directory = root.join("phantom");
    federation.run(&["phantom".into(), path(&directory)]).await?;
    let crosswalk = std::fs::read_to_string(directory.join("crosswalk.csv"))?;
    let shared_patient = std::fs::read_to_string(directory.join("shared_patient"))?.trim().to_owned();
    let phantom = Phantom { late: directory.join("late"), outage: directory.join("outage"), crosswalk, shared_patient };
    for index in [A, B, C] {
        send(federation, index, &directory.join(federation.members[index].issuer)).await?;
    }
    if let Some(data) = data {
        import(federation, A, data).await?;
    }
    settle(federation).await?;
    Ok(phantom)
}

/// By `storescu`; `false` where DCMTK is not installed.
async fn storescu(federation: &Federation, index: usize, directory: &Path) -> anyhow::Result<bool> {
    let member = &federation.members[index];
    let (host, port) = (member.dicom.ip().to_string(), member.dicom.port().to_string());
    let storescu = Command::new("storescu")
        .args(["-aet", "DEMO", "-aec", "TESSERA", "+sd", "+r", "-R", "-xs"])
        .args([&host, &port])
        .arg(directory)
        .kill_on_drop(true)
        .output()
        .await;
    match storescu {
        Ok(output) if output.status.success() => Ok(true),
        Ok(output) => bail!("storescu: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            say("DCMTK's storescu is not installed; importing the files instead");
            Ok(false)
        }
    }
}

/// Sends a directory over DICOM, or imports it.
async fn send(federation: &Federation, index: usize, directory: &Path) -> anyhow::Result<()> {
    let member = &federation.members[index];
    let before = federation.status(index).await?;
    let begun = Instant::now();
    if !storescu(federation, index, directory).await? {
        return import(federation, index, directory).await;
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let after = federation.status(index).await?;
    let (objects, bytes) = (after.objects - before.objects, after.bytes - before.bytes);
    ensure!(objects > 0, "{} stored nothing of what was sent", member.name);
    say(format!(
        "{:<28} {objects} objects, {:.1} MB in {elapsed:.1} s: {:.0} objects/s, each durable before its success",
        member.legal_name,
        bytes as f64 / 1e6,
        objects as f64 / elapsed
    ));
    Ok(())
}

async fn import(federation: &Federation, index: usize, directory: &Path) -> anyhow::Result<()> {
    let call = ImportCall { paths: vec![std::fs::canonicalize(directory)?] };
    let done: ImportDone = federation.call(index, "/import", &call).await?;
    let refused = done.refused.len();
    say(format!("imported {} objects ({:.1} MB), {refused} files refused", done.stored, done.bytes as f64 / 1e6));
    Ok(())
}

/// Waits until all studies are closed, registered and certified everywhere.
async fn settle(federation: &mut Federation) -> anyhow::Result<()> {
    let settled = |all: &[StatusDone]| {
        let longest = all.iter().map(|s| s.certified_size).max().unwrap_or(0);
        all.iter().all(|s| s.outbox_pending == 0 && s.receiving == 0 && s.certified_size == longest)
    };
    let waited = federation.wait("everything is registered and certified", settled).await?;
    let status = federation.status(A).await?;
    say(format!(
        "registered and certified everywhere after {:.1} s; the ledger has {} entries",
        waited.as_secs_f64(),
        status.certified_size
    ));
    Ok(())
}

async fn crosswalk(federation: &mut Federation, phantom: &Phantom) -> anyhow::Result<()> {
    for index in [A, B, C] {
        let call = CrosswalkCall { csv: phantom.crosswalk.clone(), remove: false };
        let done: CrosswalkDone = federation.call(index, "/crosswalk", &call).await?;
        ensure!(done.refused.is_empty(), "crosswalk rows were refused: {:?}", done.refused);
        say(format!(
            "{:<28} {} rows, {} patients linked",
            federation.members[index].legal_name, done.new, done.linked_patients
        ));
    }
    settle(federation).await
}

fn lookup(patient: &str) -> HistoryCall {
    HistoryCall { id: patient.to_owned(), user: "demo".into() }
}

async fn ask_history(federation: &Federation, index: usize, patient: &str) -> anyhow::Result<HistoryDone> {
    federation.call(index, "/history", &lookup(patient)).await
}

fn show(history: &HistoryDone) {
    for study in &history.studies {
        say(format!(
            "  {} {:<8} {:<10} {:>4} objects  rev {}  {}{}",
            study.study_date,
            study.modalities.join("+"),
            study.body_region,
            study.objects,
            study.revision,
            study.site_name,
            if study.here { "  (here)" } else { "" }
        ));
    }
    history.missing.iter().for_each(|missing| say(format!("  missing: {missing}")));
}

async fn history(federation: &Federation, phantom: &Phantom) -> anyhow::Result<(String, HistoryStudy)> {
    let patient = phantom.shared_patient.clone();
    let begun = Instant::now();
    let history = ask_history(federation, B, &patient).await?;
    let elapsed = begun.elapsed();
    say(format!(
        "{}: {} examinations, from the local replica, as of {} ({} ms old), answered in {:.1} ms",
        history.patient,
        history.studies.len(),
        history.as_of.clone().unwrap_or_default(),
        history.freshness_ms.unwrap_or(0),
        elapsed.as_secs_f64() * 1e3
    ));
    show(&history);
    let elsewhere = history.studies.iter().filter(|study| study.site == "hospital-a").max_by_key(|study| study.objects);
    let study = elsewhere.context("B's history shows nothing of Hospital A")?.clone();
    ensure!(history.studies.iter().any(|study| study.here), "B's history does not show its own examination");
    Ok((patient, study))
}

async fn try_fetch(
    federation: &Federation,
    patient: &str,
    study: &HistoryStudy,
    to: Option<&Path>,
) -> anyhow::Result<FetchDone> {
    let call = FetchCall {
        study: study.study_uid.clone(),
        id: patient.to_owned(),
        purpose: "treatment".into(),
        user: "demo-clinician".into(),
        holder: None,
        to: to.map(Path::to_owned),
    };
    federation.call(B, "/fetch", &call).await
}

async fn must_refuse(federation: &Federation, patient: &str, study: &HistoryStudy) -> anyhow::Result<()> {
    match try_fetch(federation, patient, study, None).await {
        Ok(_) => bail!("the fetch was allowed, though nothing allows it"),
        Err(error) => {
            let text = format!("{error:#}");
            ensure!(text.contains("refused"), "the fetch failed for another reason: {text}");
            say(text);
            Ok(())
        }
    }
}

async fn refused(federation: &Federation, patient: &str, study: &HistoryStudy) -> anyhow::Result<()> {
    must_refuse(federation, patient, study).await
}

fn grant_call(patient: &str, patient_code: Option<String>) -> ConsentGrantCall {
    ConsentGrantCall {
        id: patient.to_owned(),
        to_site: "hospital-b".into(),
        purpose: "treatment".into(),
        patient_code,
        days: 30,
    }
}

async fn lone_grant(federation: &mut Federation, patient: &str, study: &HistoryStudy) -> anyhow::Result<()> {
    let done: ConsentDone = federation.call(B, "/consent/grant", &grant_call(patient, None)).await?;
    say(format!("B recorded {} without the patient's own proof", done.consent));
    settle(federation).await?;
    must_refuse(federation, patient, study).await
}

async fn grant(federation: &mut Federation, patient: &str) -> anyhow::Result<(String, String)> {
    let agreed =
        ConsentCodeCall { id: patient.to_owned(), to_site: "hospital-b".into(), purpose: "treatment".into(), days: 30 };
    let code: ConsentCode = federation.call(A, "/consent/code", &agreed).await?;
    say(format!(
        "A gave the patient the code {}, for one grant to {} for {}, to be used within {} days",
        code.code, code.to_site, code.purpose, code.valid_days
    ));
    let call = grant_call(patient, Some(code.code.clone()));
    let done: ConsentDone = federation.call(B, "/consent/grant", &call).await?;
    say(format!("B recorded consent {}", done.consent));
    settle(federation).await?;
    Ok((done.consent, code.code))
}

async fn fetch(federation: &Federation, patient: &str, study: &HistoryStudy, to: &Path) -> anyhow::Result<()> {
    let done = try_fetch(federation, patient, study, Some(to)).await?;
    ensure!(done.objects == u64::from(study.objects), "{} of {} objects arrived", done.objects, study.objects);
    ensure!(done.files.len() as u64 == done.objects, "{} files for {} objects", done.files.len(), done.objects);
    let seconds = done.elapsed_ms.max(1) as f64 / 1e3;
    say(format!(
        "{} objects, {:.1} MB in {seconds:.2} s: {:.0} MB/s, every byte checked against the manifest that the ledger commits to",
        done.objects,
        done.bytes as f64 / 1e6,
        done.bytes as f64 / 1e6 / seconds
    ));
    say(format!("disclosure {} was written down by A before the first byte", done.disclosure));
    ensure!(copy_is_open(federation, patient, study).await?, "the copy that was just fetched can't be opened at B");
    Ok(())
}

/// Whether B shows the copy that it fetched.
async fn copy_is_open(federation: &Federation, patient: &str, study: &HistoryStudy) -> anyhow::Result<bool> {
    let history = ask_history(federation, B, patient).await?;
    Ok(history.studies.iter().any(|shown| shown.record == study.record && shown.copy_here))
}

async fn revoke(
    federation: &mut Federation,
    patient: &str,
    study: &HistoryStudy,
    consent: &str,
    code: &str,
) -> anyhow::Result<()> {
    let call = ConsentRevokeCall { consent: consent.to_owned(), id: None, user: String::new() };
    let begun = Instant::now();
    let done: ConsentDone = federation.call(B, "/consent/revoke", &call).await?;
    ensure!(done.certified, "the revocation was not certified in time");
    tell_bounds(&done, begun)?;
    settle(federation).await?;
    must_refuse(federation, patient, study).await?;
    say(format!(
        "effective at Hospital A, which holds the images, {:.1} s after it was said",
        begun.elapsed().as_secs_f64()
    ));
    let used = grant_call(patient, Some(code.to_owned()));
    let again: anyhow::Result<ConsentDone> = federation.call(B, "/consent/grant", &used).await;
    let refused = again.err().context("Hospital B took the same code twice")?;
    ensure!(format!("{refused:#}").contains("given in before"), "refused otherwise: {refused:#}");
    say(format!("B does not take the same code again: {refused:#}"));
    // Nor does it help to give it in elsewhere: the holder knows which consent spent it.
    let elsewhere: ConsentDone = federation.call(C, "/consent/grant", &used).await?;
    say(format!("C records {} with it", elsewhere.consent));
    settle(federation).await?;
    must_refuse(federation, patient, study).await?;
    ensure!(!copy_is_open(federation, patient, study).await?, "B still opens the copy that it fetched before");
    say("the copy that B fetched before is closed");
    Ok(())
}

fn tell_bounds(done: &ConsentDone, begun: Instant) -> anyhow::Result<()> {
    let (recorded, effective) =
        done.recorded_at.as_ref().zip(done.effective_at_latest.as_ref()).context("no times were told")?;
    say(format!("recorded (certified) after {:.1} s, at {recorded}", begun.elapsed().as_secs_f64()));
    say(format!("effective at the latest {effective}, when even a hospital without a line has stopped by itself"));
    Ok(())
}

async fn deny(federation: &mut Federation, patient: &str, study: &HistoryStudy) -> anyhow::Result<()> {
    let (consent, _) = grant(federation, patient).await?;
    let done = try_fetch(federation, patient, study, None).await?;
    say(format!("B may fetch again: {} objects verified", done.objects));
    let call = ConsentRevokeCall { consent, id: Some(patient.to_owned()), user: String::new() };
    let begun = Instant::now();
    let done: ConsentDone = federation.call(A, "/consent/revoke", &call).await?;
    let denial = done.denial.as_ref().context("Hospital A recorded no denial")?;
    ensure!(done.certified, "the denial was not certified in time");
    say(format!("A refuses from this moment, and recorded the denial {denial}"));
    tell_bounds(&done, begun)?;
    done.undone.iter().for_each(|undone| say(format!("not done: {undone}")));
    must_refuse(federation, patient, study).await?;
    settle(federation).await
}

async fn late_series(
    federation: &mut Federation,
    patient: &str,
    study: &HistoryStudy,
    phantom: &Phantom,
) -> anyhow::Result<()> {
    send(federation, A, &phantom.late).await?;
    settle(federation).await?;
    let history = ask_history(federation, B, patient).await?;
    let newer =
        history.studies.iter().find(|found| found.record == study.record).context("the study left the history")?;
    ensure!(newer.revision > study.revision, "the late series made no new revision");
    ensure!(newer.objects > study.objects, "the late series is not counted");
    say(format!("B now sees revision {} with {} objects", newer.revision, newer.objects));
    let before = federation.status(A).await?;
    if !storescu(federation, A, &phantom.late).await? {
        import(federation, A, &phantom.late).await?;
    }
    settle(federation).await?;
    let after = federation.status(A).await?;
    let counted = |status: &StatusDone| (status.objects, status.bytes, status.quarantined, status.certified_size);
    ensure!(counted(&before) == counted(&after), "the resend changed something: {before:?}, then {after:?}");
    say("the modality sends the same series again: success to it, and nothing changed");
    Ok(())
}

async fn outage(
    federation: &mut Federation,
    patient: &str,
    study: &HistoryStudy,
    phantom: &Phantom,
) -> anyhow::Result<()> {
    let before = federation.status(C).await?;
    federation.kill(C).await?;
    say("kill -9 of hospital-c");
    send(federation, A, &phantom.outage).await?;
    settle(federation).await?;
    let history = ask_history(federation, B, patient).await?;
    ensure!(history.studies.iter().any(|shown| shown.record == study.record), "B does not find A's examination");
    let as_of = history.as_of.unwrap_or_default();
    say(format!("B still finds {} examinations, as of {as_of}; A still answers:", history.studies.len()));
    must_refuse(federation, patient, study).await?;
    federation.start(C)?;
    let begun = Instant::now();
    settle(federation).await?;
    let after = federation.status(C).await?;
    ensure!(after.certified_size > before.certified_size, "hospital-c did not catch up");
    let missed = after.certified_size - before.certified_size;
    say(format!(
        "hospital-c is back and has the {missed} entries that it missed, {:.1} s after its start",
        begun.elapsed().as_secs_f64()
    ));
    ensure!(after.studies == before.studies, "hospital-c lost studies");
    Ok(())
}

async fn regulator(federation: &Federation, patient: &str) -> anyhow::Result<()> {
    let status = federation.status(REGULATOR).await?;
    say(format!(
        "{} entries, certified at {}, state {}",
        status.certified_size,
        status.certified_at.clone().unwrap_or_default(),
        status.state_digest
    ));
    for (kind, count) in &status.entries {
        say(format!("  {count:>5}  {kind}"));
    }
    for volume in &status.volumes {
        say(format!(
            "  {} {:<28} {:>4} examinations, {:>6} objects, {:>8.1} MB",
            volume.month,
            volume.site_name,
            volume.examinations,
            volume.objects,
            volume.bytes as f64 / 1e6
        ));
    }
    let counted: u64 = status.volumes.iter().map(|volume| volume.objects).sum();
    let mut held = 0;
    for index in [A, B, C] {
        held += federation.status(index).await?.objects;
    }
    say(format!("{counted} objects by the statistics sealed to it; B also holds the copies that it fetched"));
    ensure!(counted > 0 && counted <= held, "the regulator counts {counted} objects, the hospitals hold {held}");
    let person = federation.call::<_, HistoryDone>(REGULATOR, "/history", &lookup(patient)).await;
    ensure!(
        person.is_err_and(|error| error.to_string().contains("looks no patient up")),
        "the regulator looked one up"
    );
    say("asked for a patient, its node refuses: it has no right to the keys");
    let own = federation.status(A).await?;
    ensure!(own.certified_size == status.certified_size, "the regulator is behind");
    ensure!(
        status.entries.iter().any(|(kind, count)| kind == "disclosure" && *count > 0),
        "the regulator sees no disclosure"
    );
    ensure!(own.state_digest == status.state_digest, "the regulator's state differs from Hospital A's");
    say("its state digest equals Hospital A's");
    Ok(())
}
