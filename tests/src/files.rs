//! Directories as a test looks at them: every file below, copies as an administrator makes them, and searches for
//! bytes that must not stand there.
//!
//! A search sees bytes as they lie in the files; it looks into no compression. Not for what the bytes mean.

use std::path::{Path, PathBuf};
use std::process::Command;

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
    use super::*;
    use crate::Scratch;

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
