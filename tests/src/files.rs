//! Directories as a test looks at them: every file below, copies as an administrator makes them, and searches for
//! bytes that must not stand there.
//!
//! A search of files sees bytes as they lie there, also those that a database has given up, and looks into no
//! compression; a search of databases has the engine read every row, and sees no more than that. Who wants to be sure
//! does both. Not for what the bytes mean.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rocksdb::{DB, IteratorMode, Options};

use crate::program::run;

/// All files below a folder, in the order of their paths.
#[track_caller]
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("a readable entry").path();
        // Sockets are neither.
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every file below `folder` that contains `needle`.
#[track_caller]
pub fn files_with(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let contains = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        bytes.windows(needle.len()).any(|window| window == needle)
    };
    files_below(folder).into_iter().filter(contains).collect()
}

/// A key or a value of a database, as the engine reads it.
pub struct Stored {
    /// The database's folder and its table.
    pub place: String,
    pub bytes: Vec<u8>,
}

/// Every key and value of the databases below `folder`, what is only in their logs included. Their nodes have ended.
#[track_caller]
pub fn stored_below(folder: &Path) -> Vec<Stored> {
    let mut stored = Vec::new();
    // Each has a file of this name, which says what is valid.
    for file in files_below(folder).iter().filter(|file| file.ends_with("CURRENT")) {
        stored.extend(stored_in(file.parent().expect("a file lies in a folder")));
    }
    stored
}

#[track_caller]
fn stored_in(database: &Path) -> Vec<Stored> {
    let mut options = Options::default();
    // As the nodes open it. Without this RocksDB wants to correct its list of logs, which a reader must not.
    options.set_track_and_verify_wals_in_manifest(true);
    let tables = DB::list_cf(&options, database).unwrap_or_else(|e| panic!("{}: {e}", database.display()));
    let engine = DB::open_cf_for_read_only(&options, database, &tables, false)
        .unwrap_or_else(|e| panic!("{}: {e}", database.display()));
    let mut stored = Vec::new();
    for table in &tables {
        let place = format!("{} {table}", database.display());
        let family = engine.cf_handle(table).expect("it was opened by this name");
        for row in engine.iterator_cf(family, IteratorMode::Start) {
            let (key, value) = row.unwrap_or_else(|e| panic!("{place}: {e}"));
            stored.extend([key, value].map(|bytes| Stored { place: place.clone(), bytes: bytes.into_vec() }));
        }
    }
    stored
}

/// The places among these that contain `needle`.
pub fn stored_with<'a>(stored: &'a [Stored], needle: &[u8]) -> BTreeSet<&'a str> {
    let contains = |stored: &&Stored| stored.bytes.windows(needle.len()).any(|window| window == needle);
    stored.iter().filter(contains).map(|stored| stored.place.as_str()).collect()
}

/// Changes one bit, as rot does.
#[track_caller]
pub fn flip(file: &Path, offset: u64) {
    let mut bytes = std::fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    assert!((offset as usize) < bytes.len(), "{} has {} bytes", file.display(), bytes.len());
    bytes[offset as usize] ^= 0x10;
    std::fs::write(file, bytes).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

/// The largest file below `folder` whose name ends so; the last one of several.
#[track_caller]
pub fn largest(folder: &Path, ending: &str) -> (PathBuf, u64) {
    let ends = |path: &PathBuf| path.to_string_lossy().ends_with(ending);
    let sized = files_below(folder).into_iter().filter(ends).map(|path| {
        let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        (path, bytes)
    });
    sized.max_by_key(|(_, bytes)| *bytes).unwrap_or_else(|| panic!("no *{ending} below {}", folder.display()))
}

/// A copy of a directory with everything in it (`cp -a`), as a backup would be.
#[track_caller]
pub fn copy_directory(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run(command).success();
}

/// Puts an older copy in a directory's place; what was there is gone.
#[track_caller]
pub fn put_back(copy: &Path, directory: &Path) {
    std::fs::remove_dir_all(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    copy_directory(copy, directory);
}

#[cfg(test)]
mod tests {
    use rocksdb::{DBCompressionType, WriteOptions};

    use super::*;
    use crate::Scratch;

    #[test]
    fn finds_in_a_database_what_compression_hides_in_its_files() {
        const NEEDLE: &str = "Ceshi^Huanzhe^Yisheng";
        let scratch = Scratch::new();
        let (node, folder) = (scratch.path().join("node"), scratch.folder("node/db"));
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_compression_type(DBCompressionType::Lz4);
        let engine = DB::open(&options, &folder).expect("a database");
        // Both parts stand before the whole, which compression then tells by pointing at them.
        let value = ["Ceshi^Huan|".repeat(64), "zhe^Yisheng|".repeat(64), NEEDLE.to_owned(), "|".repeat(64)].concat();
        let mut without_log = WriteOptions::default();
        without_log.disable_wal(true);
        engine.put_opt("flushed", value, &without_log).expect("written");
        engine.flush().expect("flushed");
        engine.put("in the log", "M123").expect("written");
        drop(engine);
        assert!(files_with(&node, NEEDLE.as_bytes()).is_empty(), "the table is not compressed");
        let stored = stored_below(&node);
        let place = format!("{} default", folder.display());
        for needle in [NEEDLE, "flushed", "in the log", "M123"] {
            assert_eq!(stored_with(&stored, needle.as_bytes()), BTreeSet::from([place.as_str()]), "{needle}");
        }
        assert!(stored_with(&stored, b"M124").is_empty());
        assert_eq!(stored.len(), 4);
    }

    #[test]
    fn finds_bytes_in_nested_files_and_puts_copies_back() {
        let scratch = Scratch::new();
        let folder = scratch.folder("node/inner");
        std::fs::write(folder.join("a"), b"xx\xb2\xe2\xca\xd4yy").expect("written");
        std::fs::write(folder.join("b"), b"x").expect("written");
        let node = scratch.path().join("node");
        assert_eq!(files_with(&node, b"\xb2\xe2\xca\xd4"), [folder.join("a")]);
        assert!(files_with(&node, b"longer than any of the files").is_empty());
        let copy = scratch.path().join("copy");
        copy_directory(&node, &copy);
        std::fs::write(folder.join("c"), b"later").expect("written");
        put_back(&copy, &node);
        assert_eq!(files_below(&node), [folder.join("a"), folder.join("b")]);
    }
}
