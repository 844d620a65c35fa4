//! A patient's history as HTML: what is known under a number, as of when, what is missing, and what can be done with
//! each examination. It never says that there is no history: it says "none under this number".
//! Not here: whose history it may be asked for; names of patients stand in no address and no title.

use std::collections::BTreeMap;

use super::html::{count, date, escape, moment, name, size, span};
use super::page::view_link;
use super::table::{Column, table};
use crate::archive::copies::COLLIDES;
use crate::control::wire::{FetchDone, HistoryDone, HistoryStudy, NAMES_DISAGREE};

const COLUMNS: [Column; 9] = [
    ("Date", "nowrap"),
    ("Modality", ""),
    ("Region", ""),
    ("Description", ""),
    ("Hospital", ""),
    ("Images", "number"),
    ("State", ""),
    ("Where", "nowrap"),
    ("", "action"),
];

/// A patient's examinations. `objects_here`: how much of each copied study is here.
pub fn history(history: &HistoryDone, objects_here: &BTreeMap<String, u32>) -> String {
    let as_of = history.as_of.as_deref().map_or("no certified state yet".to_owned(), moment);
    let age = history.freshness_ms.map_or(String::new(), |ms| format!(", {} old", span(ms)));
    let missing: String = history.missing.iter().map(|text| format!("<li>{}</li>", escape(text))).collect();
    let missing = match missing.is_empty() {
        true => String::new(),
        false => format!("<div class=\"notice\"><strong>Not in this list</strong><ul>{missing}</ul></div>"),
    };
    let doubt = match history.names_disagree {
        true => format!("<p class=\"notice\">{}</p>", escape(&capitalized(NAMES_DISAGREE))),
        false => String::new(),
    };
    let found = if history.studies.is_empty() {
        "<p class=\"none\">None under this number.</p><p class=\"quiet\">The same person may have examinations under another \
         number, or ones that are not linked to this number yet.</p>"
            .to_owned()
    } else {
        history_table(&history.studies, objects_here)
    };
    format!(
        "<h3>Examinations under {}</h3><p class=\"quiet\">As of {as_of}{age}, by {} entries of the ledger.</p>{missing}{doubt}{found}",
        escape(&shortened(&history.patient)),
        count(history.ledger_size)
    )
}

/// A masked number without its row of asterisks: `resident:…09`.
fn shortened(masked: &str) -> String {
    match masked.split_once('*') {
        Some((kind, rest)) => format!("{kind}…{}", rest.trim_start_matches('*')),
        None => masked.to_owned(),
    }
}

fn history_table(studies: &[HistoryStudy], objects_here: &BTreeMap<String, u32>) -> String {
    let mut sorted: Vec<&HistoryStudy> = studies.iter().collect();
    sorted.sort_by(|a, b| (&b.study_date, &a.study_uid).cmp(&(&a.study_date, &b.study_uid)));
    let away = sorted.iter().any(|study| !study.here && !study.copy_here);
    let rows = sorted.into_iter().map(|study| history_row(study, objects_here.get(&study.study_uid).copied()));
    let rows = table(&COLUMNS, rows);
    let note = "<p class=\"quiet\">Description and name come with the images: what is elsewhere tells them once it was fetched.</p>";
    format!("{rows}{}", if away { note } else { "" })
}

fn history_row(study: &HistoryStudy, objects_here: Option<u32>) -> Vec<String> {
    let older = objects_here.filter(|objects| study.copy_here && !study.here && *objects < study.objects);
    let (dot, place) = match (study.here, study.copy_here, older) {
        (true, ..) => ("good", "here".to_owned()),
        (false, true, None) => ("good", "copy here".to_owned()),
        (false, true, Some(objects)) => ("warn", format!("older copy here ({objects} of {})", study.objects)),
        (false, false, _) => ("away", "elsewhere".to_owned()),
    };
    let what = format!("{} {}, {}", date(&study.study_date), study.modalities.join(", "), study.site_name);
    let open = || view_link(&study.study_uid, &what);
    let action = match (study.here || study.copy_here, older) {
        _ if study.collides => format!("<span class=\"quiet\">{}</span>", escape(COLLIDES)),
        (true, None) => open(),
        (true, Some(_)) => format!("{} {}", fetch_button(study, &what, true), open()),
        (false, _) => fetch_button(study, &what, false),
    };
    vec![
        escape(&date(&study.study_date)),
        escape(&study.modalities.join(", ")),
        escape(&study.body_region),
        described_here(study),
        hospital(study),
        count(study.objects.into()),
        escape(&state(study)),
        format!("<span class=\"dot {dot}\"></span>{place}"),
        action,
    ]
}

/// Description and name as the images that are here have them: a second look at whether it is this person's.
fn described_here(study: &HistoryStudy) -> String {
    let description = escape(&study.description);
    match name(&study.patient_name) {
        name if name.is_empty() => description,
        name => format!("{description} <span class=\"under\">{}</span>", escape(&name)),
    }
}

/// The holder, and by whose word its record is this person's, where it lies under another number.
fn hospital(study: &HistoryStudy) -> String {
    let site = escape(&study.site_name);
    match study.by_link(&shortened(&study.under)) {
        Some(link) => format!("{site} <span class=\"under\">{}</span>", escape(&link)),
        None => site,
    }
}

fn state(study: &HistoryStudy) -> String {
    let version = if study.revision > 1 { format!(", version {}", study.revision) } else { String::new() };
    format!("{}{version}{}", study.state, if study.certified { "" } else { ", not yet certified" })
}

fn fetch_button(study: &HistoryStudy, what: &str, newer: bool) -> String {
    let word = if newer { "Fetch newer" } else { "Fetch and open" };
    let what = escape(what);
    format!(
        "<button type=\"button\" class=\"fetch\" aria-label=\"{word}: {what}\" data-study=\"{}\" data-holder=\"{}\" \
         data-what=\"{what}\" data-newer=\"{newer}\">{word}</button>",
        escape(&study.study_uid),
        escape(&study.site),
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

/// The sentences of a refusal for the person who asked, one a line, without the codes that programs read.
pub fn reasons(why: &str, reasons: &[String]) -> String {
    let mut text = capitalized(why);
    for reason in reasons {
        text.push_str(&format!("\n{}", capitalized(without_code(reason))));
    }
    text
}

fn without_code(reason: &str) -> &str {
    let is_code = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    match reason.split_once(": ") {
        Some((code, sentence)) if is_code(code) => sentence,
        _ => reason,
    }
}

/// As a sentence of its own.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (&copy, Some(60), &["/viewer?StudyInstanceUIDs=1.2", "copy here"]),
            (&copy, Some(40), &["data-newer=\"true\"", "/viewer?StudyInstanceUIDs=1.2", "older copy here (40 of 60)"]),
        ];
        for (study, objects_here, expected) in table {
            let row = history_row(study, objects_here).concat();
            assert!(expected.iter().all(|part| row.contains(part)), "{row}");
        }
    }

    #[test]
    fn what_was_reached_by_a_link_says_whose() {
        let own = HistoryStudy { site_name: "乙县医院".into(), ..Default::default() };
        let linked =
            HistoryStudy { under: "resident:****21".into(), linked_by: vec!["丙县医院".into()], ..own.clone() };
        let twice = HistoryStudy { linked_by: vec!["A".into(), "<B>".into()], ..linked.clone() };
        assert_eq!(hospital(&own), "乙县医院");
        assert_eq!(
            hospital(&linked),
            "乙县医院 <span class=\"under\">under resident:…21, by a link of 丙县医院</span>"
        );
        assert!(hospital(&twice).contains("by a link of A and of &lt;B&gt;"));
    }

    #[test]
    fn numbers_states_and_refusals_read_well() {
        assert_eq!(["resident:****09", "hospital:A/*****", "x"].map(shortened), ["resident:…09", "hospital:A/…", "x"]);
        let study = HistoryStudy { state: "released".into(), revision: 1, certified: true, ..Default::default() };
        assert_eq!(state(&study), "released");
        assert_eq!(
            state(&HistoryStudy { revision: 2, certified: false, ..study }),
            "released, version 2, not yet certified"
        );
        let told =
            reasons("the rules do not allow it", &["no-basis: Ask the patient.".into(), "Later: ask again.".into()]);
        assert_eq!(told, "The rules do not allow it.\nAsk the patient.\nLater: ask again.");
    }
}
