//! The console's first page: how this node and its federation stand, and the newest examinations of its archive. A
//! regulator's node has neither archive nor search; its page counts.
//! Not here: where the values come from, and a patient's history. Every value goes through [`escape`].

use super::html::{count, date, escape, moment, name, size, span};
use super::table::{Column, table};
use crate::archive::catalogue::{Phase, StudyRecord};
use crate::control::wire::{PeerShown, StatusDone, VolumeShown};

/// Peers that are listed; a federation may have a thousand.
const PEERS_MAX: usize = 60;
/// Rows of a regulator's volumes that are listed; `tessera status --json` has more.
const VOLUMES_MAX: usize = 240;
/// Warnings that are listed.
const WARNINGS_MAX: usize = 20;
/// A replica older than this is marked, in milliseconds: the core certifies every few seconds.
const STALE_MS: u64 = 60_000;

/// The role of a regulator's node, which looks nobody up.
const OBSERVER: &str = "observer";
const CORE: &str = "core";

/// What for an examination may be fetched: the value for the rules, and the words for people.
const PURPOSES: [(&str, &str); 6] = [
    ("treatment", "Treatment of this patient"),
    ("recognition", "Recognition instead of repeating it (互认)"),
    ("consultation", "Consultation"),
    ("emergency", "Emergency"),
    ("quality-review", "Quality review"),
    ("research", "Research"),
];

/// The whole page.
pub fn first(site: &str, issuer: &str, status: &Result<StatusDone, String>, latest: &[StudyRecord]) -> String {
    let purposes: String = PURPOSES
        .iter()
        .map(|(value, words)| format!("<option value=\"{}\">{}</option>", escape(value), escape(words)))
        .collect();
    let looks_up = !status.as_ref().is_ok_and(|status| status.role == OBSERVER);
    search_parts(include_str!("console.html"), looks_up)
        .replace("{{purposes}}", &purposes)
        .replace("{{issuer}}", &escape(issuer))
        .replace("{{site}}", &escape(site))
        // Last, for it has what others wrote: that may look like one of our marks.
        .replace("{{live}}", &live(status, latest))
}

/// The page with its parts for searching and fetching, or without them.
fn search_parts(html: &str, wanted: bool) -> String {
    let mut page = String::new();
    for (number, part) in html.split("{{search}}").enumerate() {
        let (search, rest) = part.split_once("{{/search}}").filter(|_| number > 0).unwrap_or(("", part));
        page.push_str(if wanted { search } else { "" });
        page.push_str(rest);
    }
    page
}

/// The part that is renewed while the page is open.
pub fn live(status: &Result<StatusDone, String>, latest: &[StudyRecord]) -> String {
    match status {
        Ok(status) if status.role == OBSERVER => node(status),
        Ok(status) => format!("{}{}", node(status), latest_table(latest)),
        Err(error) => {
            format!("{}{}", problem("This node can't say how it stands", error), latest_table(latest))
        }
    }
}

pub fn problem(title: &str, text: &str) -> String {
    format!("<div class=\"notice bad\"><strong>{}</strong><p>{}</p></div>", escape(title), escape(text))
}

fn section(title: &str, note: &str, content: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"quiet\">{note}</p>") };
    format!("<section><h2>{title}</h2>{note}{content}</section>")
}

fn node(status: &StatusDone) -> String {
    let warnings: String =
        status.warnings.iter().take(WARNINGS_MAX).map(|warning| format!("<li>{}</li>", escape(warning))).collect();
    let warnings = match warnings.is_empty() {
        true => String::new(),
        false => format!("<div class=\"notice\"><strong>Needs attention</strong><ul>{warnings}</ul></div>"),
    };
    let (own, counted) = match status.role == OBSERVER {
        true => (String::new(), volumes(status)),
        false => (archive(status), String::new()),
    };
    format!(
        "{warnings}<section class=\"tiles\">{own}{}{}{}</section>{counted}{}",
        ledger(status),
        outbox(status),
        federation(status),
        peers(status)
    )
}

/// `facts`: names, and values that are escaped.
fn tile(title: &str, figure: &str, facts: &[(&str, String)], state: &str) -> String {
    let facts: String = facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>")).collect();
    format!(
        "<article class=\"tile {state}\"><h2>{title}</h2><p class=\"figure\">{}</p><dl>{facts}</dl></article>",
        escape(figure)
    )
}

fn archive(status: &StatusDone) -> String {
    let mut facts = vec![
        ("images", count(status.objects)),
        ("volume", size(status.bytes)),
        ("arriving now", count(status.receiving)),
    ];
    if status.copies > 0 {
        facts.push(("copies from others", count(status.copies)));
    }
    tile("Examinations here", &count(status.studies), &facts, "")
}

fn ledger(status: &StatusDone) -> String {
    let as_of = status.certified_at.as_deref().map_or("never".to_owned(), moment);
    let (age, state) = match status.freshness_ms {
        None => ("not known".to_owned(), "bad"),
        Some(ms) => (span(ms), if ms > STALE_MS { "bad" } else { "good" }),
    };
    let behind = status.ledger_size.saturating_sub(status.certified_size);
    let facts =
        [("certified", count(status.certified_size)), ("pending", count(behind)), ("as of", as_of), ("age", age)];
    tile("Ledger entries", &count(status.ledger_size), &facts, state)
}

fn outbox(status: &StatusDone) -> String {
    let state = if status.quarantined > 0 { "warn" } else { "good" };
    let mut facts = vec![("quarantined objects", count(status.quarantined))];
    // Only the core knows who leads it.
    match &status.leader {
        Some(leader) => facts.push(("core's leader", escape(leader))),
        None if status.role == CORE => facts.push(("core's leader", "none known".to_owned())),
        None => {}
    }
    tile("Waiting for the ledger", &count(status.outbox_pending), &facts, state)
}

fn federation(status: &StatusDone) -> String {
    let others = || status.peers.iter().filter(|peer| peer.name != status.name);
    let (connected, total) = (others().filter(|peer| peer.connected).count(), others().count());
    let state = match (connected, total) {
        (connected, total) if connected == total => "good",
        (0, _) => "bad",
        _ => "warn",
    };
    // Behind the name of the algorithm; its beginning is enough to compare two screens.
    let digest = status.state_digest.rsplit(':').next().unwrap_or_default();
    let figure = if total == 0 { "alone".to_owned() } else { format!("{connected} of {total}") };
    let digest: String = digest.chars().take(12).collect();
    let facts = [
        ("federation", escape(&status.federation)),
        ("this node", escape(&format!("{} ({})", status.name, status.role))),
        ("state digest", escape(&digest)),
    ];
    tile("Other nodes connected", &figure, &facts, state)
}

/// What a regulator counts.
fn volumes(status: &StatusDone) -> String {
    const COLUMNS: [Column; 5] =
        [("Month", "nowrap"), ("Site", ""), ("Examinations", "number"), ("Images", "number"), ("Volume", "number")];
    let row = |volume: &VolumeShown| {
        let figures = [count(volume.examinations), count(volume.objects), size(volume.bytes)];
        [escape(&volume.month), escape(&volume.site_name)].into_iter().chain(figures).collect()
    };
    let note = "From the statistics that the hospitals seal to this office; they name no patient.";
    let content = match status.volumes.is_empty() {
        true => "<p class=\"none\">None registered yet.</p>".to_owned(),
        false => table(&COLUMNS, status.volumes.iter().take(VOLUMES_MAX).map(row)),
    };
    section("Examinations by month and site", note, &content)
}

fn peers(status: &StatusDone) -> String {
    const COLUMNS: [Column; 4] = [("Node", "nowrap"), ("Sites", ""), ("Role", ""), ("Connection", "nowrap")];
    if status.peers.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<&PeerShown> = status.peers.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = table(&COLUMNS, sorted.into_iter().take(PEERS_MAX).map(|other| peer(other, &status.name)));
    let more = status.peers.len().saturating_sub(PEERS_MAX);
    let more = if more == 0 { String::new() } else { format!("<p class=\"quiet\">and {more} more</p>") };
    section("Nodes of the federation", "", &format!("{rows}{more}"))
}

fn peer(peer: &PeerShown, own_name: &str) -> Vec<String> {
    let (state, word) = match peer.connected {
        _ if peer.name == own_name => ("good", "this node"),
        true => ("good", "connected"),
        false => ("bad", "not connected"),
    };
    let connection = format!("<span class=\"dot {state}\"></span>{word}");
    vec![escape(&peer.name), escape(&peer.sites.join(", ")), escape(&peer.role), connection]
}

fn latest_table(latest: &[StudyRecord]) -> String {
    const COLUMNS: [Column; 8] = [
        ("Date", "nowrap"),
        ("Patient", ""),
        ("Number", "quiet"),
        ("Modality", ""),
        ("Description", ""),
        ("Images", "number"),
        ("State", "quiet"),
        ("", "action"),
    ];
    let content = match latest.is_empty() {
        true => "<p class=\"quiet\">This archive is empty. Send images to it over DICOM, or run <code>tessera import PATH</code>.\
                 </p>"
            .to_owned(),
        false => table(&COLUMNS, latest.iter().map(latest_row)),
    };
    section("Newest examinations here", "", &content)
}

fn latest_row(study: &StudyRecord) -> Vec<String> {
    let d = &study.description;
    let state = match (study.phase, &study.fetched_from) {
        (_, Some(site)) => format!("copy from {site}"),
        (Phase::Receiving { revision: 0 }, None) => "arriving".to_owned(),
        (Phase::Receiving { revision }, None) => format!("more arriving (was version {revision})"),
        (Phase::Complete { revision: 0 | 1 }, None) => "complete".to_owned(),
        (Phase::Complete { revision }, None) => format!("complete, version {revision}"),
    };
    let modalities = study.modalities.iter().cloned().collect::<Vec<_>>().join(", ");
    let patient = name(&d.patient_name);
    let open = view_link(&d.study, &format!("{} {modalities}, {patient}", date(&d.study_date)));
    vec![
        escape(&date(&d.study_date)),
        escape(&patient),
        escape(&d.patient_id),
        escape(&modalities),
        described(&d.study_description, &d.character_set_note),
        count(study.objects.into()),
        escape(&state),
        open,
    ]
}

/// A description, and a mark where it was not read as its sender declared it.
fn described(text: &str, character_set_note: &str) -> String {
    let text = escape(text);
    if character_set_note.is_empty() {
        return text;
    }
    let note = escape(character_set_note);
    format!("{text} <span class=\"flag\" title=\"Character set: {note}\">characters: {note}</span>")
}

/// `what`: which study it is, for those who hear the page.
pub fn view_link(study: &str, what: &str) -> String {
    // UIDs are digits and dots, checked where they came in; escaped all the same.
    let (study, what) = (escape(study), escape(what));
    format!("<a class=\"button\" href=\"/viewer?StudyInstanceUIDs={study}\" aria-label=\"Open: {what}\">Open</a>")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::history::history;
    use super::*;
    use crate::control::wire::{HistoryDone, HistoryStudy};

    #[test]
    fn what_others_wrote_stays_text() {
        let hostile = "<img src=x onerror=alert(1)>\"'".to_owned();
        let study = HistoryStudy {
            study_uid: hostile.clone(),
            site_name: hostile.clone(),
            state: hostile.clone(),
            ..Default::default()
        };
        let done = HistoryDone {
            patient: hostile.clone(),
            studies: vec![study],
            missing: vec![hostile.clone()],
            ..Default::default()
        };
        let peer = PeerShown { name: hostile.clone(), sites: vec![hostile.clone()], ..Default::default() };
        let status = StatusDone {
            federation: hostile.clone(),
            peers: vec![peer],
            warnings: vec![hostile.clone()],
            ..Default::default()
        };
        let pages = [
            history(&done, &BTreeMap::new()),
            live(&Ok(status), &[]),
            live(&Err(hostile.clone()), &[]),
            first(&hostile, &hostile, &Err(hostile.clone()), &[]),
        ];
        for page in pages {
            assert!(!page.contains("<img") && page.contains("&lt;img"), "{page}");
        }
    }

    #[test]
    fn a_regulators_page_counts_and_does_not_search() {
        let volume = VolumeShown {
            month: "2025-03".into(),
            site_name: "乙县医院".into(),
            examinations: 7,
            ..Default::default()
        };
        for (role, searches) in [("observer", false), ("core", true), ("member", true)] {
            let status = StatusDone { role: role.into(), volumes: vec![volume.clone()], ..Default::default() };
            let page = first("site", "issuer", &Ok(status), &[]);
            assert!(!page.contains("{{"), "{role}");
            for part in ["history-form", "fetch-dialog", "<select id=\"purpose\">"] {
                assert_eq!(page.contains(part), searches, "{role} {part}");
            }
            assert!(page.contains("<div id=\"live\">") && page.contains("<footer>"), "{role}");
            assert_eq!(page.contains("2025-03") && page.contains("乙县医院"), !searches, "{role}");
        }
    }
}
