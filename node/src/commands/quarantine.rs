//! `tessera quarantine`: what was put aside, for a person to look at, release or discard.
//! What is meant by a sender's title is counted and confirmed first; each decision names who makes it, and why.
//! Not here: what a decision does, which is the node's affair.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};

use super::{bar, ignore, json, own_name, socket};
use crate::cli::{self, Decide, QuarantineCommand, QuarantineList};
use crate::control::client::call;
use crate::control::wire::{
    DecisionShown, QuarantineDecideCall, QuarantineDecideDone, QuarantineDecisionsCall, QuarantineDecisionsDone,
    QuarantineListCall, QuarantineListDone, QuarantineShowCall, QuarantineShowDone, QuarantineShown,
};
use crate::say::{self, say};

/// Items that one call decides about.
const DECIDED_AT_ONCE: u32 = 10_000;

pub async fn run(options: cli::Quarantine) -> anyhow::Result<()> {
    match options.command.unwrap_or(QuarantineCommand::List(options.list)) {
        QuarantineCommand::List(options) if options.decided => decisions(options).await,
        QuarantineCommand::List(options) => list(options).await,
        QuarantineCommand::Show { dir, item, to, json } => show(dir, item, to, json).await,
        QuarantineCommand::Release(options) => decide(options, true).await,
        QuarantineCommand::Discard(options) => decide(options, false).await,
    }
}

async fn list(options: QuarantineList) -> anyhow::Result<()> {
    let request = QuarantineListCall { limit: options.limit, ..Default::default() };
    let done: QuarantineListDone = call(&socket(&options.dir), "/quarantine/list", &request, ignore).await?;
    if options.json {
        return json(&done);
    }
    let mut by_reason: BTreeMap<&str, Vec<&QuarantineShown>> = BTreeMap::new();
    for item in &done.items {
        by_reason.entry(&item.why).or_default().push(item);
    }
    for (why, items) in by_reason {
        say!("{why}:");
        items.into_iter().for_each(line);
    }
    say!("{} objects put aside{}", done.count, rest(done.count, done.items.len()));
    if done.count > 0 {
        say!("Look at one: tessera quarantine show ITEM. Into the archive: release; out of this list: discard.");
    }
    Ok(())
}

fn rest(count: u64, shown: usize) -> String {
    if count > shown as u64 { format!("; the newest {shown} are shown, --limit shows more") } else { String::new() }
}

fn line(item: &QuarantineShown) {
    say!(
        "  {}  {}  {:<28} {:<4} {:<8}  {:<24} {:>9.2} MB",
        item.item,
        item.received,
        item.sender,
        item.modality,
        item.study_date,
        item.patient,
        item.bytes as f64 / 1e6
    );
}

async fn decisions(options: QuarantineList) -> anyhow::Result<()> {
    let request = QuarantineDecisionsCall { limit: options.limit };
    let done: QuarantineDecisionsDone = call(&socket(&options.dir), "/quarantine/decisions", &request, ignore).await?;
    if options.json {
        return json(&done);
    }
    for DecisionShown { decided, by, reason, became, item } in &done.decisions {
        say!("{decided}  {by}: {became}. Reason: {reason}");
        line(item);
    }
    say!("{} decisions{}", done.count, rest(done.count, done.decisions.len()));
    Ok(())
}

async fn show(dir: cli::Dir, item: String, to: Option<std::path::PathBuf>, as_json: bool) -> anyhow::Result<()> {
    let to = to.map(std::path::absolute).transpose()?;
    let request = QuarantineShowCall { item, to: to.clone() };
    let done: QuarantineShowDone = call(&socket(&dir), "/quarantine/show", &request, ignore).await?;
    if as_json {
        return json(&done);
    }
    let item = &done.item;
    let rows = [
        ("item", item.item.clone()),
        ("put aside", item.why.clone()),
        ("received", format!("{} from {} (called {})", item.received, item.sender, done.called_ae)),
        ("patient", format!("{}  {}", item.patient, item.patient_name)),
        ("study", format!("{} {} {}", item.study_date, item.modality, item.description)),
        ("study UID", item.study_uid.clone()),
        ("series UID", done.series_uid),
        ("SOP instance", item.sop_instance.clone()),
        ("syntax", done.transfer_syntax),
        ("content", format!("{} bytes, {}", item.bytes, done.hash)),
        ("release", done.release),
    ];
    rows.iter().for_each(|(name, value)| say!("{name:<13} {value}"));
    for (what, there, here) in &done.differs {
        say!("{:<13} {what}: in the archive {there:?}, in this item {here:?}", "differs");
    }
    if let Some(to) = to {
        say!("written to    {}", to.display());
    }
    Ok(())
}

async fn decide(options: Decide, release: bool) -> anyhow::Result<()> {
    let by = options.user.map_or_else(own_name, Ok)?;
    let verb = if release { "release" } else { "discard" };
    let socket = socket(&options.dir);
    let mut items = options.items;
    if let Some(title) = options.all_from {
        let request = QuarantineListCall { all_from: Some(title.clone()), items: Vec::new(), limit: DECIDED_AT_ONCE };
        let found: QuarantineListDone = call(&socket, "/quarantine/list", &request, ignore).await?;
        count(&found, &title);
        if found.items.is_empty() {
            return Ok(());
        }
        confirm(verb, found.items.len(), options.yes)?;
        // Those that were counted, and none that came since.
        items = found.items.into_iter().map(|item| item.item).collect();
    }
    let request = QuarantineDecideCall { items, release, by, reason: options.reason };
    let done: QuarantineDecideDone = call(&socket, "/quarantine/decide", &request, bar()).await?;
    if options.json {
        json(&done)?;
    } else {
        told(&done);
    }
    anyhow::ensure!(done.refused.is_empty(), "{} items stay put aside; the reasons stand above", done.refused.len());
    Ok(())
}

/// What the title selects, before anything is done with it.
fn count(found: &QuarantineListDone, title: &str) {
    let studies: BTreeSet<_> = found.items.iter().map(|item| &item.study_uid).collect();
    let patients: BTreeSet<_> = found.items.iter().map(|item| &item.patient).collect();
    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    found.items.iter().for_each(|item| *reasons.entry(&item.why).or_default() += 1);
    say!("{} objects of {title} are put aside", found.count);
    say!("these {}: {} studies of {} patients", found.items.len(), studies.len(), patients.len());
    reasons.iter().for_each(|(why, count)| say!("  {count}: {why}"));
    if found.count > found.items.len() as u64 {
        say!("the newest {} at a time; say it again for the others", found.items.len());
    }
}

fn confirm(verb: &str, count: usize, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    anyhow::ensure!(std::io::stdin().is_terminal(), "nothing was done; say --yes to {verb} these {count} objects");
    print!("{verb} these {count} objects? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    anyhow::ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was done");
    Ok(())
}

fn told(done: &QuarantineDecideDone) {
    let lines = [
        (done.filed, "released into their studies"),
        (done.known_already, "were in the archive already; they left the list"),
        (done.variants, "became variants of objects that are in the archive"),
        (done.replaced, "took the place of the object with their UID, which is kept; their studies get a new revision"),
        (done.discarded, "discarded"),
    ];
    lines.iter().filter(|(count, _)| *count > 0).for_each(|(count, what)| say!("{count} {what}"));
    done.refused.iter().for_each(|(item, why)| say::error(&format!("{item}: {why}")));
}
