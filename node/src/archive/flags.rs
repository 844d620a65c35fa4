//! Senders whose text does not fit the character set that they declare: noted by device, so that the operator hears
//! which one to set right (`character_set` under `[[dicom.sender]]`), once and not for each image.
//!
//! Not here: the judgement, which is `dicom::charset`'s, and the note on the object itself, which its description keeps.
//! What an operator imported or another site sent has no device here to set right, and is not noted.

use serde::{Deserialize, Serialize};
use tessera_storage::engine::{Batch, View};

use super::catalogue::{self, CATALOGUE, CatalogueError, ObjectRecord};
use crate::config::DicomConfig;

/// Lines that are shown.
const SHOWN_MAX: usize = 20;
/// Declarations of one device that are told apart: what it declares is the sender's text, which may change for ever.
const NOTES_PER_SENDER_MAX: usize = 16;
/// Lines of all devices.
const FLAGS_MAX: usize = 1000;
/// Stands for the declarations of a device beyond those.
const OTHERS: &str = "and in other ways";
/// A device that sent nothing wrong for so long was repaired, or is gone.
const FLAG_SHOWN_MS: u64 = 7 * 86_400_000;

/// One device and one way in which its declaration is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    pub calling_ae: String,
    /// What was declared and what it was read as, in words.
    pub note: String,
    pub objects: u64,
    pub last_received_ms: u64,
}

/// Notes a new object's sender if the object's text belied its declaration and no setting of the operator's decided.
pub fn note(view: &dyn View, arriving: &ObjectRecord, batch: &mut Batch) -> Result<(), CatalogueError> {
    let (mut note, receipt) = (arriving.description.character_set_note.as_str(), &arriving.receipt);
    if note.is_empty() || receipt.character_set.is_some() || receipt.calling_ae.is_empty() {
        return Ok(());
    }
    let name = |note: &str| catalogue::key(b'f', &[receipt.calling_ae.as_bytes(), note.as_bytes()]);
    if view.get(CATALOGUE, &name(note))?.is_none() {
        if view.scan_prefix(CATALOGUE, &name(""), NOTES_PER_SENDER_MAX)?.len() == NOTES_PER_SENDER_MAX {
            note = OTHERS;
        } else if view.scan_prefix(CATALOGUE, b"f", FLAGS_MAX)?.len() == FLAGS_MAX {
            return Ok(());
        }
    }
    let key = name(note);
    let known: Option<Flag> = catalogue::read(view, &key)?;
    let known = known.unwrap_or_else(|| Flag {
        calling_ae: receipt.calling_ae.clone(),
        note: note.to_owned(),
        objects: 0,
        last_received_ms: 0,
    });
    let last_received_ms = known.last_received_ms.max(receipt.received_ms);
    catalogue::store(batch, key, &Flag { objects: known.objects + 1, last_received_ms, ..known });
    Ok(())
}

/// What the operator should look at, in words; what a setting has answered since is left out.
pub fn warnings(view: &dyn View, dicom: &DicomConfig, now_ms: u64) -> Result<Vec<String>, CatalogueError> {
    // Each device may have one line more than are told apart.
    let flags: Vec<Flag> = catalogue::read_all(view, b"f", 2 * FLAGS_MAX)?;
    let answered =
        |flag: &Flag| dicom.sender.iter().any(|s| s.ae_title == flag.calling_ae && s.character_set.is_some());
    let current = flags
        .into_iter()
        .filter(|flag| !answered(flag) && now_ms.saturating_sub(flag.last_received_ms) < FLAG_SHOWN_MS);
    let sentence = |flag: Flag| {
        format!(
            "{} objects from {} belie their character set ({}): check how names and descriptions read, and set \
             character_set for it under [[dicom.sender]]",
            flag.objects, flag.calling_ae, flag.note
        )
    };
    Ok(current.take(SHOWN_MAX).map(sentence).collect())
}

#[cfg(test)]
mod tests {
    use tessera_storage::MemoryEngine;
    use tessera_storage::engine::Engine;

    use super::super::TABLES;
    use super::super::catalogue::{Description, Receipt};
    use super::*;
    use crate::config::SenderConfig;

    const WRONG: &str = "declared \"ISO_IR 100\", is GB18030";

    fn record(calling_ae: &str, note: &str, setting: Option<&str>) -> ObjectRecord {
        let receipt = Receipt {
            version: 1,
            calling_ae: calling_ae.into(),
            called_ae: String::new(),
            address: String::new(),
            received_ms: 1_000,
            sop_class: String::new(),
            sop_instance: String::new(),
            transfer_syntax: String::new(),
            site: String::new(),
            known_sender: true,
            character_set: setting.map(str::to_owned),
            fetched_from: None,
        };
        let description = Description { character_set_note: note.into(), ..Default::default() };
        ObjectRecord { description, receipt, hash: [0; 32], size: 0, is_damaged: false }
    }

    #[test]
    fn a_device_that_declares_ever_new_things_has_a_few_lines() {
        let engine = MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true);
        for number in 0..2_000 {
            let mut batch = Batch::new();
            let arrival = record("CT1", &format!("declared \"{number}\", is GB18030"), None);
            note(&engine, &arrival, &mut batch).expect("a readable table");
            engine.submit(batch).expect("a working engine");
        }
        let told = warnings(&engine, &DicomConfig::default(), 2_000).expect("a readable table");
        assert_eq!(told.len(), NOTES_PER_SENDER_MAX + 1, "{told:?}");
        let others = format!("{} objects from CT1", 2_000 - NOTES_PER_SENDER_MAX);
        assert!(told.iter().any(|line| line.starts_with(&others) && line.contains(OTHERS)), "{told:?}");
    }

    #[test]
    fn a_sender_is_named_once_until_a_setting_answers() {
        let engine = MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true);
        let arrivals = [
            record("CT1", WRONG, None),
            record("CT1", WRONG, None),
            record("MR1", "", None),
            record("US1", WRONG, Some("GBK")),
            record("", WRONG, None),
        ];
        for arrival in &arrivals {
            let mut batch = Batch::new();
            note(&engine, arrival, &mut batch).expect("a readable table");
            engine.submit(batch).expect("a working engine");
        }
        let set = SenderConfig {
            ae_title: "CT1".into(),
            address: "127.0.0.1".parse().expect("an address"),
            character_set: Some("GB18030".into()),
        };
        let told = |dicom: &DicomConfig, now_ms: u64| warnings(&engine, dicom, now_ms).expect("a readable table");
        let now = told(&DicomConfig::default(), 2_000);
        assert_eq!(now.len(), 1, "{now:?}");
        assert!(now[0].starts_with("2 objects from CT1") && now[0].contains(WRONG), "{now:?}");
        assert!(told(&DicomConfig { sender: vec![set], ..Default::default() }, 2_000).is_empty());
        assert!(told(&DicomConfig::default(), 2_000 + FLAG_SHOWN_MS).is_empty());
    }
}
