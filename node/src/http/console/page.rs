//! The console's HTML. Every value goes through [`escape`]; the words are chosen so that nothing is promised that is not
//! known: a history is "none under this number", as of a time, with what is missing.
//! Not here: where the values come from. Names of patients do not stand in addresses or titles.

use std::collections::BTreeMap;

use super::html::{count, date, escape, name, size, span, time};
use crate::archive::catalogue::{Phase, StudyRecord};
use crate::control::wire::{FetchDone, HistoryDone, HistoryStudy, PeerShown, StatusDone, VolumeShown};

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
        .replace("{{live}}", &live(status, latest))
        .replace("{{issuer}}", &escape(issuer))
        .replace("{{site}}", &escape(site))
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
    let node = match status {
        Ok(status) => node(status),
        Err(error) => problem("This node can't say how it stands", error),
    };
    format!("{node}{}", latest_table(latest))
}

pub fn problem(title: &str, text: &str) -> String {
    format!("<div class=\"notice bad\"><strong>{}</strong><p>{}</p></div>", escape(title), escape(text))
}

fn node(status: &StatusDone) -> String {
    let warnings: String =
        status.warnings.iter().take(WARNINGS_MAX).map(|warning| format!("<li>{}</li>", escape(warning))).collect();
    let warnings = match warnings.is_empty() {
        true => String::new(),
        false => format!("<div class=\"notice\"><strong>Needs attention</strong><ul>{warnings}</ul></div>"),
    };
    format!(
        "{warnings}<section class=\"tiles\">{}{}{}{}</section>{}{}",
        archive(status),
        ledger(status),
        outbox(status),
        federation(status),
        volumes(status),
        peers(status)
    )
}

fn tile(title: &str, figure: &str, facts: &[(&str, String)], state: &str) -> String {
    let facts: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(value))).collect();
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
    let as_of = status.certified_at.as_deref().map_or("never".to_owned(), time);
    let (age, state) = match status.freshness_ms {
        None => ("not known".to_owned(), "bad"),
        Some(ms) if ms > STALE_MS => (format!("{} old", span(ms)), "bad"),
        Some(ms) => (format!("{} old", span(ms)), "good"),
    };
    let behind = status.ledger_size.saturating_sub(status.certified_size);
    let facts =
        [("certified", count(status.certified_size)), ("pending", count(behind)), ("as of", as_of), ("age", age)];
    tile("Ledger entries", &count(status.ledger_size), &facts, state)
}

fn outbox(status: &StatusDone) -> String {
    let state = if status.quarantined > 0 { "warn" } else { "good" };
    let leader = status.leader.clone().unwrap_or_else(|| "none known".to_owned());
    let facts = [("quarantined", count(status.quarantined)), ("core's leader", leader)];
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
    let facts = [
        ("federation", status.federation.clone()),
        ("this node", format!("{} ({})", status.name, status.role)),
        ("state digest", digest.chars().take(12).collect()),
    ];
    tile("Other nodes connected", &figure, &facts, state)
}

/// What a regulator counts.
fn volumes(status: &StatusDone) -> String {
    if status.role != OBSERVER {
        return String::new();
    }
    let row = |volume: &VolumeShown| {
        format!(
            "<tr><td class=\"nowrap\">{}</td><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td class=\"number\">{}</td></tr>",
            escape(&volume.month),
            escape(&volume.site_name),
            count(volume.examinations),
            count(volume.objects),
            size(volume.bytes)
        )
    };
    let rows: String = status.volumes.iter().take(VOLUMES_MAX).map(row).collect();
    format!(
        "<section><h2>Examinations by month and site</h2><p class=\"quiet\">From the statistics that the hospitals seal \
         to this office; they name no patient.</p><div class=\"scroll\"><table><thead><tr><th>Month</th><th>Site</th>\
         <th class=\"number\">Examinations</th><th class=\"number\">Images</th><th class=\"number\">Volume</th></tr>\
         </thead><tbody>{rows}</tbody></table></div></section>"
    )
}

fn peers(status: &StatusDone) -> String {
    if status.peers.is_empty() {
        return String::new();
    }
    let rows: String = status.peers.iter().take(PEERS_MAX).map(|other| peer(other, &status.name)).collect();
    let more = status.peers.len().saturating_sub(PEERS_MAX);
    let more = if more == 0 { String::new() } else { format!("<p class=\"quiet\">and {more} more</p>") };
    format!(
        "<section><h2>Nodes of the federation</h2><div class=\"scroll\"><table><thead><tr><th>Node</th><th>Sites</th>\
         <th>Role</th><th>Connection</th></tr></thead><tbody>{rows}</tbody></table></div>{more}</section>"
    )
}

fn peer(peer: &PeerShown, own_name: &str) -> String {
    let (state, word) = match peer.connected {
        _ if peer.name == own_name => ("good", "this node"),
        true => ("good", "connected"),
        false => ("bad", "not connected"),
    };
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td><span class=\"dot {state}\"></span>{word}</td></tr>",
        escape(&peer.name),
        escape(&peer.sites.join(", ")),
        escape(&peer.role)
    )
}

fn latest_table(latest: &[StudyRecord]) -> String {
    if latest.is_empty() {
        return "<section><h2>Newest examinations here</h2><p class=\"quiet\">This archive is empty. Send images to it over \
                DICOM, or run <code>tessera import PATH</code>.</p></section>"
            .into();
    }
    let rows: String = latest.iter().map(latest_row).collect();
    format!(
        "<section><h2>Newest examinations here</h2><div class=\"scroll\"><table><thead><tr><th>Date</th><th>Patient</th>\
         <th>Number</th><th>Modality</th><th>Description</th><th class=\"number\">Images</th><th>State</th><th></th></tr>\
         </thead><tbody>{rows}</tbody></table></div></section>"
    )
}

fn latest_row(study: &StudyRecord) -> String {
    let d = &study.description;
    let state = match (study.phase, &study.fetched_from) {
        (_, Some(site)) => format!("copy from {site}"),
        (Phase::Receiving { revision: 0 }, None) => "arriving".to_owned(),
        (Phase::Receiving { revision }, None) => format!("more arriving (was version {revision})"),
        (Phase::Complete { revision }, None) => format!("complete, version {revision}"),
    };
    format!(
        "<tr><td class=\"nowrap\">{}</td><td>{}</td><td class=\"quiet\">{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td>\
         <td class=\"quiet\">{}</td><td class=\"action\">{}</td></tr>",
        escape(&date(&d.study_date)),
        escape(&name(&d.patient_name)),
        escape(&d.patient_id),
        escape(&study.modalities.iter().cloned().collect::<Vec<_>>().join(", ")),
        described(&d.study_description, &d.character_set_note),
        count(study.objects.into()),
        escape(&state),
        view_link(&d.study)
    )
}

/// Description and name as the images that are here have them: a second look at whether it is this person's.
fn described_here(study: &HistoryStudy) -> String {
    let name = escape(&name(&study.patient_name));
    format!("{} <span class=\"under\">{name}</span>", escape(&study.description))
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

fn view_link(study: &str) -> String {
    // UIDs are digits and dots, checked where they came in; escaped all the same.
    format!("<a class=\"button\" href=\"/viewer?StudyInstanceUIDs={}\">Open</a>", escape(study))
}

/// A patient's examinations. `objects_here`: how much of each copied study is here.
pub fn history(history: &HistoryDone, objects_here: &BTreeMap<String, u32>) -> String {
    let as_of = history.as_of.as_deref().map_or("no certified state yet".to_owned(), time);
    let age = history.freshness_ms.map_or(String::new(), |ms| format!(", {} old", span(ms)));
    let basis = format!("As of {as_of}{age}, by {} entries of the ledger.", count(history.ledger_size));
    let missing: String = history.missing.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
    let missing = match missing.is_empty() {
        true => String::new(),
        false => format!("<div class=\"notice\"><strong>Not in this list</strong><ul>{missing}</ul></div>"),
    };
    let found = if history.studies.is_empty() {
        "<p class=\"none\">None under this number.</p><p class=\"quiet\">The same person may have examinations under another \
         number, or ones that are not linked to this number yet.</p>"
            .to_owned()
    } else {
        history_table(&history.studies, objects_here)
    };
    format!(
        "<h3>Examinations under {}</h3><p class=\"quiet\">{}</p>{missing}{found}",
        escape(&history.patient),
        escape(&basis)
    )
}

fn history_table(studies: &[HistoryStudy], objects_here: &BTreeMap<String, u32>) -> String {
    let mut sorted: Vec<&HistoryStudy> = studies.iter().collect();
    sorted.sort_by(|a, b| (&b.study_date, &a.study_uid).cmp(&(&a.study_date, &b.study_uid)));
    let rows: String =
        sorted.into_iter().map(|study| history_row(study, objects_here.get(&study.study_uid).copied())).collect();
    format!(
        "<div class=\"scroll\"><table><thead><tr><th>Date</th><th>Modality</th><th>Region</th><th>Description</th><th>Hospital</th>\
         <th class=\"number\">Images</th><th>State</th><th>Where</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

fn history_row(study: &HistoryStudy, objects_here: Option<u32>) -> String {
    let older = objects_here.filter(|objects| study.copy_here && !study.here && *objects < study.objects);
    let (dot, place) = match (study.here, study.copy_here, older) {
        (true, ..) => ("good", "here".to_owned()),
        (false, true, None) => ("good", "copy here".to_owned()),
        (false, true, Some(objects)) => ("warn", format!("older copy here ({objects} of {})", study.objects)),
        (false, false, _) => ("away", "elsewhere".to_owned()),
    };
    let action = match (study.here || study.copy_here, older) {
        (true, None) => view_link(&study.study_uid),
        (true, Some(_)) => format!("{} {}", fetch_button(study, true), view_link(&study.study_uid)),
        (false, _) => fetch_button(study, false),
    };
    let certified = if study.certified { "" } else { ", not yet certified" };
    format!(
        "<tr><td class=\"nowrap\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"number\">{}</td><td>{}</td>\
         <td class=\"nowrap\"><span class=\"dot {dot}\"></span>{place}</td><td class=\"action\">{action}</td></tr>",
        escape(&date(&study.study_date)),
        escape(&study.modalities.join(", ")),
        escape(&study.body_region),
        described_here(study),
        escape(&study.site_name),
        count(study.objects.into()),
        escape(&format!("{}, version {}{certified}", study.state, study.revision))
    )
}

fn fetch_button(study: &HistoryStudy, newer: bool) -> String {
    let what = format!("{} {}, {}", date(&study.study_date), study.modalities.join(", "), study.site_name);
    format!(
        "<button type=\"button\" class=\"fetch\" data-study=\"{}\" data-holder=\"{}\" data-what=\"{}\" data-newer=\"{newer}\">{}</button>",
        escape(&study.study_uid),
        escape(&study.site),
        escape(&what),
        if newer { "Fetch newer" } else { "Fetch and open" }
    )
}

/// One line about a fetch that worked.
pub fn fetched(done: &FetchDone) -> String {
    let seconds = done.elapsed_ms as f64 / 1000.0;
    let mut text = format!("{} images, {} in {seconds:.1} s", count(done.objects), size(done.bytes));
    if done.resumed_bytes > 0 {
        text.push_str(&format!(", of which {} were here from an earlier attempt", size(done.resumed_bytes)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn an_empty_history_is_never_no_history() {
        let page = history(
            &HistoryDone { missing: vec!["county B was not asked".into()], ..Default::default() },
            &BTreeMap::new(),
        );
        assert!(page.contains("None under this number.") && page.contains("county B was not asked"));
        assert!(page.contains("no certified state yet") && !page.to_lowercase().contains("no history"));
    }

    #[test]
    fn what_is_elsewhere_is_fetched_first() {
        let away = HistoryStudy { study_uid: "1.2".into(), site: "county-b".into(), ..Default::default() };
        let copy = HistoryStudy { copy_here: true, objects: 60, ..away.clone() };
        let table: [(&HistoryStudy, Option<u32>, &[&str]); 3] = [
            (&away, None, &["data-study=\"1.2\"", "data-holder=\"county-b\"", "data-newer=\"false\"", "elsewhere"]),
            (&copy, Some(60), &["/viewer?StudyInstanceUIDs=1.2", "copy here<"]),
            (&copy, Some(40), &["data-newer=\"true\"", "/viewer?StudyInstanceUIDs=1.2", "older copy here (40 of 60)"]),
        ];
        for (study, objects_here, expected) in table {
            let row = history_row(study, objects_here);
            assert!(expected.iter().all(|part| row.contains(part)), "{row}");
        }
    }
}
