//! What each command of the command line does: calls the running node, and shows its answer to a person.
//! Words and columns are for people; `--json` is for programs, and its field names are kept.
//! Not here: the work itself, which the running node does.

mod quarantine;

use std::path::PathBuf;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{self, Cli, Command, Consent};
use crate::config::Config;
use crate::control::client::call;
use crate::control::wire::{
    ConsentCode, ConsentCodeCall, ConsentDone, ConsentGrantCall, ConsentRevokeCall, ConsentShown, CrosswalkCall,
    CrosswalkDone, FetchCall, FetchDone, HistoryCall, HistoryDone, IdCall, ImportCall, ImportDone, LookupsCall,
    LookupsDone, Progress, StatusDone,
};
use crate::home::Home;
use crate::say::{self, say};
use crate::{demo, founding, node};

pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Init(options) => founding::init(options),
        Command::Ticket(options) => founding::ticket(options),
        Command::Found(options) => founding::found(options),
        Command::Join(options) => founding::join(options),
        Command::Node(options) => node::run(options).await,
        Command::Config(dir) => {
            say::lines(&Config::read(&Home::new(&dir.dir).config())?.to_toml());
            Ok(())
        }
        Command::Demo(options) => demo::run(options).await,
        Command::Phantom(options) => crate::dicom::phantom::run(options),
        Command::Bench(bench) => crate::bench::run(bench).await,
        Command::Status(options) => status(options).await,
        Command::Import(options) => import(options).await,
        Command::Crosswalk(options) => crosswalk(options).await,
        Command::History(options) => history(options).await,
        Command::Lookups(options) => lookups(options).await,
        Command::Fetch(options) => fetch(options).await,
        Command::Consent(options) => consent(options).await,
        Command::Quarantine(options) => quarantine::run(options).await,
    }
}

/// Bytes of a crosswalk that go to the node in one call, to the end of the line.
const CROSSWALK_PART_BYTES: usize = 512 * 1024;

fn socket(dir: &cli::Dir) -> PathBuf {
    Home::new(&dir.dir).socket()
}

fn ignore(_: Progress) {}

/// A bar that follows the node's progress; drawn only where a person looks.
fn bar() -> impl FnMut(Progress) {
    let bar = ProgressBar::new(0);
    let style = "{msg:<12} {bar:32} {pos}/{len} objects  {per_sec}  {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    move |step: Progress| {
        bar.set_length(step.objects_total);
        bar.set_position(step.objects_done);
        bar.set_message(step.stage);
    }
}

fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    Ok(say::json(value)?)
}

async fn status(options: cli::Status) -> anyhow::Result<()> {
    let status: StatusDone = call(&socket(&options.dir), "/status", &(), ignore).await?;
    if options.json {
        return json(&status);
    }
    say!("{} ({}) for {}", status.name, status.role, status.sites.join(", "));
    say!("federation  {} {}", status.federation, status.federation_id);
    say!("ledger      {} entries, {} certified", status.ledger_size, status.certified_size);
    say!("as of       {}", status.certified_at.as_deref().unwrap_or("not certified yet"));
    say!("freshness   {}", status.freshness_ms.map_or("unknown".into(), |ms| format!("{:.1} s", ms as f64 / 1e3)));
    say!("state       {}", status.state_digest);
    say!("archive     {} studies, {} objects, {:.1} MB", status.studies, status.objects, status.bytes as f64 / 1e6);
    say!("copies      {} studies of other sites", status.copies);
    say!("in work     {} studies in reception, {} commands on their way", status.receiving, status.outbox_pending);
    for peer in &status.peers {
        let state = if peer.connected { "connected" } else { "not connected" };
        let sites: Vec<String> =
            peer.sites.iter().zip(&peer.site_ids).map(|(name, id)| format!("{name} ({id})")).collect();
        say!("node        {:<20} {:<9} {:<14} {}", peer.name, peer.role, state, sites.join(", "));
    }
    for volume in &status.volumes {
        say!(
            "volume      {} {:<28} {:>7} examinations, {:>9} objects, {:>10.1} MB",
            volume.month,
            volume.site_name,
            volume.examinations,
            volume.objects,
            volume.bytes as f64 / 1e6
        );
    }
    for warning in &status.warnings {
        say!("attention   {warning}");
    }
    Ok(())
}

async fn import(options: cli::Import) -> anyhow::Result<()> {
    let paths =
        options.paths.iter().map(|path| std::fs::canonicalize(path).with_context(|| path.display().to_string()));
    let request = ImportCall { paths: paths.collect::<anyhow::Result<_>>()? };
    let done: ImportDone = call(&socket(&options.dir), "/import", &request, bar()).await?;
    for (path, why) in &done.refused {
        say::error(&format!("not taken: {}: {why}", path.display()));
    }
    say!(
        "{} objects stored, {} known already, {} variants, {} quarantined, {} files not taken ({:.1} MB looked at)",
        done.stored,
        done.known_already,
        done.variants,
        done.quarantined,
        done.refused.len(),
        done.bytes as f64 / 1e6
    );
    if let Some(why) = &done.no_room {
        anyhow::bail!("{} files were left out: {why}. Import the same paths again then", done.without_room);
    }
    anyhow::ensure!(done.refused.is_empty(), "{} files were not taken; the reasons stand above", done.refused.len());
    Ok(())
}

async fn crosswalk(options: cli::Crosswalk) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.file).with_context(|| options.file.display().to_string())?;
    let (mut all, mut before) = (CrosswalkDone::default(), 0);
    for part in parts(&text) {
        let request = CrosswalkCall { csv: part.to_owned(), remove: options.remove };
        let done: CrosswalkDone = call(&socket(&options.dir), "/crosswalk", &request, ignore).await?;
        for (line, why) in &done.refused {
            say::error(&format!("line {}: {why}", before + line));
        }
        before += part.lines().count() as u64;
        all.add(&done);
    }
    let CrosswalkDone { rows, new, linked_patients, removed, refused } = all;
    match options.remove {
        true => say!("{rows} rows, {removed} taken back, {} not taken back", refused.len()),
        false => {
            say!("{rows} rows, {new} new, {linked_patients} patients linked, {} not taken", refused.len());
        }
    }
    Ok(())
}

/// A text in parts of whole lines, each small enough for one call.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.len().min(CROSSWALK_PART_BYTES);
        let end = rest.as_bytes()[end..].iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| end + at + 1);
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

async fn history(options: cli::History) -> anyhow::Result<()> {
    let request = HistoryCall { id: options.id, user: options.user.or_else(|| own_name().ok()).unwrap_or_default() };
    let done: HistoryDone = call(&socket(&options.dir), "/history", &request, ignore).await?;
    if options.json {
        return json(&done);
    }
    match done.studies.len() {
        0 => say!("{}: none under this number, as of {}", done.patient, done.as_of.as_deref().unwrap_or("never")),
        count => say!("{}: {count} examinations, as of {}", done.patient, done.as_of.as_deref().unwrap_or("never")),
    }
    if done.names_disagree {
        say!("attention: {}", crate::control::wire::NAMES_DISAGREE);
    }
    for study in &done.studies {
        let place = if study.here {
            " (here)"
        } else if study.copy_here {
            " (copy here)"
        } else {
            ""
        };
        say!(
            "{:<10} {:<8} {:<14} {:>5} objects  {}{place}",
            study.study_date,
            study.modalities.join("+"),
            study.body_region,
            study.objects,
            study.site_name
        );
        say!("           {}", study.study_uid);
        if let Some(link) = study.by_link(&study.under) {
            say!("           {link}");
        }
        if study.collides {
            say!("           {}", crate::archive::copies::COLLIDES);
        }
        // Known where images are here; of what is elsewhere the ledger tells neither.
        if study.here || study.copy_here {
            say!("           {}  {}", study.patient_name, study.description);
        }
    }
    done.missing.iter().for_each(|missing| say!("missing: {missing}"));
    Ok(())
}

async fn lookups(options: cli::Lookups) -> anyhow::Result<()> {
    let request = LookupsCall { id: options.id };
    let done: LookupsDone = call(&socket(&options.dir), "/lookups", &request, ignore).await?;
    if options.json {
        return json(&done);
    }
    if request.id.is_some() {
        say!("{}: looked up here {} times", done.patient, done.lookups.len());
    }
    for lookup in &done.lookups {
        let user = if lookup.user.is_empty() { "nobody named" } else { &lookup.user };
        say!("{}  {:<10} by {user}: {} examinations found", lookup.time, lookup.occasion, lookup.studies);
    }
    if done.more {
        say!("older ones are not shown");
    }
    let all = if done.warnings.is_empty() { "all" } else { "NOT all are here; the" };
    say!(
        "{all} {} lookups of this node are as they were written down; the ledger confirms those of {} days",
        done.checked,
        done.days_confirmed
    );
    done.warnings.iter().for_each(|warning| say!("warning: {warning}"));
    Ok(())
}

async fn fetch(options: cli::Fetch) -> anyhow::Result<()> {
    let to = options.to.map(std::path::absolute).transpose()?;
    let cli::Fetch { study, id, purpose, user, from: holder, .. } = options;
    let user = user.map_or_else(own_name, Ok)?;
    let request = FetchCall { study, id, purpose, user, holder, to };
    let done: FetchDone = call(&socket(&options.dir), "/fetch", &request, bar()).await?;
    if options.json {
        return json(&done);
    }
    let seconds = done.elapsed_ms.max(1) as f64 / 1e3;
    say!(
        "{} objects, {:.1} MB in {seconds:.2} s from {}, all verified ({:.1} MB were here already)",
        done.objects,
        done.bytes as f64 / 1e6,
        done.holder,
        done.resumed_bytes as f64 / 1e6
    );
    say!("disclosure {}", done.disclosure);
    Ok(())
}

async fn consent(options: Consent) -> anyhow::Result<()> {
    match options {
        Consent::Code { dir, id, to_site, purpose, days } => {
            let request = ConsentCodeCall { id, to_site, purpose, days };
            let done: ConsentCode = call(&socket(&dir), "/consent/code", &request, ignore).await?;
            say!("{}", done.code);
            say!(
                "It confirms one grant to {} for {}, until {} at the latest. To be used within {} days. Hand it to the \
                 patient only.",
                done.to_site,
                done.purpose,
                done.until,
                done.valid_days
            );
        }
        Consent::Grant { dir, id, to_site, purpose, patient_code, days } => {
            let request = ConsentGrantCall { id, to_site, purpose, patient_code, days };
            told("consent", &call(&socket(&dir), "/consent/grant", &request, ignore).await?);
        }
        Consent::Revoke { dir, consent, id } => {
            let request = ConsentRevokeCall { consent, id, user: own_name().unwrap_or_default() };
            revoked(&call(&socket(&dir), "/consent/revoke", &request, ignore).await?);
        }
        Consent::List { dir, id, json: as_json } => {
            let request = IdCall { id, user: own_name().unwrap_or_default() };
            let shown: Vec<ConsentShown> = call(&socket(&dir), "/consent/list", &request, ignore).await?;
            if as_json {
                return json(&shown);
            }
            for c in shown {
                say!("{}  {} to {} for {}", c.consent, c.decision, c.to_site, c.purposes.join(", "));
                say!(
                    "    recorded by {} on {}, {}, until {}",
                    c.recorded_by,
                    c.evidence,
                    c.state,
                    c.until.unwrap_or("revoked".into())
                );
                if let (Some(recorded), Some(effective)) = (c.recorded_at, c.effective_at_latest) {
                    say!("    refused by every holder from {effective} at the latest (certified {recorded})");
                }
            }
        }
    }
    Ok(())
}

fn told(what: &str, done: &ConsentDone) {
    say!("{what} {}: {}", done.consent, state(done));
}

fn state(done: &ConsentDone) -> String {
    match (done.ledger_index, done.certified) {
        (Some(index), true) => format!("certified as entry {index}"),
        (Some(index), false) => format!("in the ledger as entry {index}, not certified yet: it does not count before"),
        (None, _) => "kept here, waiting for the ledger; `tessera consent list` shows what becomes of it".into(),
    }
}

fn revoked(done: &ConsentDone) {
    if done.denied {
        told("revocation of the denial", done);
        say!("what it forbade may be allowed again, at each hospital that has this entry, once it is certified");
        return;
    }
    say!("consent {}: this hospital sends nothing on it any more", done.consent);
    match &done.denial {
        Some(denial) => say!("denial {denial} of the same, which every hospital obeys: {}", state(done)),
        None if done.undone.is_empty() => told("revocation of", done),
        None => {}
    }
    if let (Some(recorded), Some(effective)) = (&done.recorded_at, &done.effective_at_latest) {
        say!("recorded {recorded}; effective at the latest {effective}, also where a hospital can't be reached");
    }
    done.undone.iter().for_each(|undone| say!("not done: {undone}"));
}

/// The user's name on this machine.
fn own_name() -> anyhow::Result<String> {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name =
        users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.get(2) == Some(&&*uid));
    let name = name.map(|fields| fields[0].to_owned());
    name.context("say in whose name with --user: this machine has no name for you")
}
