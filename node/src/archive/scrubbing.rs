//! Looking after what lies on the disk: all packs and the archive's database are read again, slowly, round after round,
//! so that rot is found while there are copies; what is damaged is named for the people who can heal it.
//!
//! Damage is found here, at a start and by readers, and kept by the pixel store. An object that is damaged is neither
//! shown nor sent; the same bytes, sent again, heal it. Not here: repair.
//!
//! Bounded: [`PACE_BYTES_PER_S`], one record at a time; [`NAMED_MAX`] places are named, the others counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tessera_storage::pixels::{Damage, ObjectHash, ScrubCursor, ScrubReport};

use super::catalogue::{self, ObjectRecord};
use super::{Archive, TABLES, copies, locked};

/// What looking after the disk may take of its bandwidth.
pub const PACE_BYTES_PER_S: u64 = 8 * 1024 * 1024;
/// Pause after a whole round.
const REST: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether a reader has met damage that has no name yet.
const NAMING: Duration = Duration::from_secs(5);
/// Bytes between two notes of how far the round is.
const CURSOR_KEPT_BYTES: u64 = 256 * 1024 * 1024;
/// Rows of the database that are read at a time.
const PAGE: usize = 1024;
/// Damaged places that are named, and of which the names are looked for.
const NAMED_MAX: usize = 20;
/// Damaged places that are looked at before a round.
const LOOKED_AT_AGAIN_MAX: usize = 1000;

/// What is known of the disk's condition. In memory: the store keeps the damages themselves.
#[derive(Default)]
pub struct Condition {
    names: Mutex<BTreeMap<ObjectHash, Vec<String>>>,
    /// The archive's database can't be read everywhere.
    database: Mutex<Option<String>>,
}

/// How long `bytes` take at the pace.
pub fn pace(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / PACE_BYTES_PER_S)
}

/// Scrubs for ever.
pub async fn scrub(archive: Arc<Archive>) {
    let mut from = cursor(&archive);
    loop {
        let looked_again = look_again(&archive).await;
        if let Err(error) = looked_again.and(round(&archive, from).await) {
            tracing::error!(error = format!("{error:#}"), "the packs can't be read again for a check");
        }
        read_database(&archive).await;
        // A round that began in the middle is no whole one.
        if from == ScrubCursor::default() {
            tokio::time::sleep(REST).await;
        }
        from = ScrubCursor::default();
    }
}

fn cursor(archive: &Archive) -> ScrubCursor {
    archive.pixels().scrub_cursor().unwrap_or_default()
}

/// A disk that could not be read may be well again, and a pack restored: what was damaged need not wait for a whole round.
async fn look_again(archive: &Arc<Archive>) -> anyhow::Result<()> {
    for damage in archive.pixels().damages(LOOKED_AT_AGAIN_MAX)? {
        step(archive, ScrubCursor::at(damage.place)).await?;
    }
    Ok(())
}

async fn round(archive: &Arc<Archive>, from: ScrubCursor) -> anyhow::Result<()> {
    let (mut next, mut since_kept) = (Some(from), 0);
    while let Some(at) = next {
        let report = step(archive, at).await?;
        since_kept += report.bytes_read;
        if since_kept >= CURSOR_KEPT_BYTES || report.next.is_none() {
            since_kept = 0;
            archive.pixels().keep_scrub_cursor(report.next.unwrap_or_default())?;
        }
        next = report.next;
    }
    Ok(())
}

/// Looks at one record, and takes the time for it.
async fn step(archive: &Arc<Archive>, at: ScrubCursor) -> anyhow::Result<ScrubReport> {
    let scrubbing = archive.clone();
    let report = tokio::task::spawn_blocking(move || scrubbing.pixels().scrub_next(at)).await??;
    if let Some(damage) = &report.damage {
        tracing::error!(%damage, "damage on this node's disk");
    }
    if let Some(error) = &report.failure {
        tracing::error!(%error, "a pack can't be read again for a check; the others are");
    }
    tokio::time::sleep(pace(report.bytes_read)).await;
    Ok(report)
}

/// Every block of the database is read, and so compared with its checksum.
async fn read_database(archive: &Arc<Archive>) {
    for table in TABLES {
        let mut from = Vec::new();
        loop {
            let (reading, begin) = (archive.clone(), from.clone());
            let read = tokio::task::spawn_blocking(move || reading.engine().scan(table, &begin, None, PAGE)).await;
            let page = match read {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return archive.condition().database_damaged(table, &error.to_string()),
                Err(error) => return tracing::error!(%error, table, "the database's check ended early"),
            };
            let bytes: usize = page.iter().map(|(key, value)| key.len() + value.len()).sum();
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [last.as_slice(), b"\0"].concat(),
                _ => break,
            }
            tokio::time::sleep(pace(bytes as u64)).await;
        }
    }
}

/// Finds the names of damaged objects, for ever.
pub async fn name_damages(archive: Arc<Archive>) {
    loop {
        let naming = archive.clone();
        let named = tokio::task::spawn_blocking(move || naming.find_names()).await;
        if let Ok(Err(error)) = named {
            tracing::error!(error = format!("{error:#}"), "damaged objects can't be named");
        }
        tokio::time::sleep(NAMING).await;
    }
}

impl Condition {
    fn database_damaged(&self, table: &str, error: &str) {
        tracing::error!(table, error, "the archive's database is damaged");
        *locked(&self.database) = Some(format!("table {table}: {error}"));
    }
}

impl Archive {
    /// Looks for the objects that are made of damaged bytes, once for each.
    fn find_names(&self) -> anyhow::Result<()> {
        let damaged = self.pixels().damages(NAMED_MAX)?.into_iter().filter_map(|damage| damage.hash);
        let damaged: BTreeSet<ObjectHash> = damaged.collect();
        let unnamed: BTreeSet<[u8; 32]> = {
            let mut names = locked(&self.condition().names);
            names.retain(|hash, _| damaged.contains(hash));
            damaged.iter().filter(|hash| !names.contains_key(hash)).map(|hash| *hash.digest()).collect()
        };
        if unnamed.is_empty() {
            return Ok(());
        }
        let mut found: BTreeMap<ObjectHash, Vec<String>> =
            unnamed.iter().map(|hash| (ObjectHash::blake3(*hash), Vec::new())).collect();
        let view = &**self.engine();
        let mut add = |object: &ObjectRecord, whose: &str| {
            let d = &object.description;
            let name = format!("object {} of study {}{whose}", d.sop_instance, d.study);
            found.entry(ObjectHash::blake3(object.hash)).or_default().push(name);
        };
        catalogue::objects_of_hashes(view, &unnamed, |object| add(object, ""))?;
        for copy in copies::all(view)? {
            let whose = format!(" (a copy from {})", copy.id.holder);
            let objects = copies::objects(view, &copy.id, None)?;
            objects.iter().filter(|object| unnamed.contains(&object.hash)).for_each(|object| add(object, &whose));
        }
        for (hash, names) in &found {
            tracing::error!(%hash, names = names.join(", "), "an object is damaged on this node's disk");
        }
        locked(&self.condition().names).extend(found);
        Ok(())
    }

    /// What people have to know of the disk's condition, in sentences that say what helps.
    pub fn damage_sentences(&self) -> anyhow::Result<Vec<String>> {
        let damages = self.pixels().damages(NAMED_MAX + 1)?;
        let names = locked(&self.condition().names);
        let mut sentences: Vec<String> =
            damages.iter().take(NAMED_MAX).map(|damage| sentence(damage, &names)).collect();
        if damages.len() > NAMED_MAX {
            sentences.push("more places of this node's disk are damaged than are named here".into());
        }
        if let Some(what) = &*locked(&self.condition().database) {
            sentences.push(format!(
                "the archive's database is damaged ({what}): what lies there can't be read. Stop the node and restore its \
                 directory from a backup"
            ));
        }
        Ok(sentences)
    }
}

fn sentence(damage: &Damage, names: &BTreeMap<ObjectHash, Vec<String>>) -> String {
    let named = damage.hash.and_then(|hash| names.get(&hash)).filter(|names| !names.is_empty());
    let what = named.map_or_else(|| "something that no study lists".to_owned(), |names| names.join(", "));
    format!(
        "this node's disk is damaged: {what} can't be read ({damage}); it is neither shown nor sent. Have it sent again by \
         its device or PACS, or import its file, which heals it; or restore the pack from a backup"
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn the_pace_is_that_of_the_bytes() {
        assert_eq!(pace(PACE_BYTES_PER_S), Duration::from_secs(1));
        assert_eq!(pace(0), Duration::ZERO);
    }

    #[test]
    fn what_is_damaged_is_named_by_its_study_and_instance() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine = Arc::new(tessera_storage::MemoryEngine::open(&TABLES).expect("tables").auto_flush(true));
        let archive = testing::open(engine, folder.path());
        let id = testing::copy_id("county-b", 1, 1);
        let data_sets = [testing::data_set("1.2.3", "1.2.3.4", "one"), testing::data_set("1.2.3", "1.2.3.5", "two")];
        testing::whole(&archive, &id, &data_sets);
        let pack = folder.path().join("packs/0000000001.pack");
        let mut bytes = std::fs::read(&pack).expect("a pack");
        // In the first record's body, behind the heads of pack and record.
        bytes[200] ^= 1;
        std::fs::write(&pack, bytes).expect("written");
        assert_eq!(archive.damage_sentences().expect("sentences"), [""; 0]);
        let mut next = Some(ScrubCursor::default());
        while let Some(at) = next {
            next = archive.pixels().scrub_next(at).expect("a step").next;
        }
        archive.find_names().expect("names");
        let sentences = archive.damage_sentences().expect("sentences");
        let [sentence] = sentences.as_slice() else { panic!("{sentences:?}") };
        assert!(sentence.contains("object 1.2.3.4 of study 1.2.3 (a copy from county-b) can't be read"), "{sentence}");
        assert!(sentence.contains("pack 1 at byte 32: the body can't be read"), "{sentence}");
        assert!(sentence.contains("sent again"), "{sentence}");
    }

    #[tokio::test]
    async fn a_pack_that_can_not_be_worked_with_ends_no_round() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = testing::open(testing::engine(), folder.path());
        testing::whole(&archive, &testing::copy_id("county-b", 1, 1), &[testing::data_set("1.2.3", "1.2.3.4", "one")]);
        let packs = folder.path().join("packs");
        let mut bytes = std::fs::read(packs.join("0000000001.pack")).expect("a pack");
        bytes[200] ^= 1;
        std::fs::write(packs.join("0000000001.pack"), bytes).expect("written");
        std::os::unix::fs::symlink("0000000000.pack", packs.join("0000000000.pack")).expect("a link to itself");
        round(&archive, ScrubCursor::default()).await.expect("a whole round");
        assert_eq!(archive.pixels().damages(10).expect("damages").len(), 1, "the pack behind it was read");
    }
}
