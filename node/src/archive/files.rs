//! An object as a DICOM file outside the archive and its encryption: for `tessera fetch --to` and for the quarantine.
//!
//! Files are for the node's own user alone, durable when they are told of, and never written over: a file that is there
//! with the same content counts as written, one with other content stays as it is, and is an error.
//!
//! A file has its name only when it is whole: until then it is `.<name>.part` beside it, which a node that was killed
//! leaves, and the next export of the same file replaces.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use tessera_storage::pixels::{ObjectHash, StoreError};

use super::Archive;
use super::catalogue::ObjectRecord;
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;

impl Archive {
    /// Writes a fresh head, and the data set byte for byte. Its name is durable when the caller has synced the directory.
    /// Blocks for the disk.
    pub fn write_file(&self, object: &ObjectRecord, path: &Path) -> anyhow::Result<()> {
        let class = Uid::parse(&object.description.sop_class)?;
        let instance = Uid::parse(&object.description.sop_instance)?;
        let head = file_head(&class, &instance, &Uid::parse(&object.receipt.transfer_syntax)?, None);
        let content = || Ok::<_, StoreError>(head.chain(self.pixels.reader(&ObjectHash::blake3(object.hash))?));
        let is_new = std::fs::symlink_metadata(path).is_err() && write_new(&mut content()?, path)?;
        ensure!(
            is_new || is_the_same_file(path, content()?)?,
            "it is there already with other content, and was left as it is; choose another directory"
        );
        Ok(())
    }
}

fn is_the_same_file(path: &Path, content: impl Read) -> io::Result<bool> {
    let is_file = std::fs::symlink_metadata(path)?.is_file();
    Ok(is_file && is_same(BufReader::new(File::open(path)?), BufReader::new(content))?)
}

/// False when something else has the name, which then keeps it.
fn write_new(content: &mut dyn Read, path: &Path) -> anyhow::Result<bool> {
    let mut name = OsString::from(".");
    name.push(path.file_name().context("this names no file")?);
    name.push(".part");
    let part = path.with_file_name(name);
    let file = new_part(&part)?;
    let is_new = copy_durably(content, &file).and_then(|()| put_in_place(&part, path));
    if !matches!(is_new, Ok(true)) {
        drop(std::fs::remove_file(&part));
    }
    Ok(is_new?)
}

/// A part that an earlier export left is of no use; one that another export is writing is left alone.
fn new_part(part: &Path) -> anyhow::Result<File> {
    match File::open(part) {
        Ok(left) => {
            let lock = flock(&left, FlockOperation::NonBlockingLockExclusive);
            ensure!(lock != Err(Errno::WOULDBLOCK), "another export is writing it; try again when that has ended");
            std::fs::remove_file(part)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)?;
    // Some network file systems have no locks; two exports of one file at one time are rare.
    let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
    Ok(file)
}

/// Gives the whole file its name, unless something has it.
fn put_in_place(part: &Path, path: &Path) -> io::Result<bool> {
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => take_name_first(part, path),
        Err(error) => Err(error.into()),
    }
}

/// NFS and some others can't say "unless" when they rename, and hard links are what USB sticks and SMB can't make. A kill
/// between the two lines leaves an empty file.
fn take_name_first(part: &Path, path: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            let renamed = std::fs::rename(part, path);
            if renamed.is_err() {
                drop(std::fs::remove_file(path));
            }
            renamed.map(|()| true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn copy_durably(content: &mut dyn Read, file: &File) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    io::copy(content, &mut out)?;
    out.flush()?;
    file.sync_all()
}

fn is_same(a: impl BufRead, b: impl BufRead) -> io::Result<bool> {
    let (mut a, mut b) = (a.bytes(), b.bytes());
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (None, None) => return Ok(true),
            (a, b) if a != b => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Content that looks, while it is read, at what a kill at that moment would leave.
    struct Watched<'a> {
        path: &'a Path,
        pieces: u8,
    }

    impl Read for Watched<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            assert!(!self.path.exists(), "half a file has the name of a whole one");
            out.fill(self.pieces);
            match self.pieces.checked_sub(1) {
                Some(left) => self.pieces = left,
                None => return Ok(0),
            }
            Ok(out.len())
        }
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, part) = (folder.path().join("1.2.3.dcm"), folder.path().join(".1.2.3.dcm.part"));
        // What a killed node left, readable for everybody.
        std::fs::write(&part, "half of it").expect("a file");
        assert!(write_new(&mut Watched { path: &path, pieces: 3 }, &path).expect("written"));
        let metadata = std::fs::metadata(&path).expect("a file");
        assert_eq!((metadata.permissions().mode() & 0o777, part.exists()), (0o600, false));
        let whole = std::fs::read(&path).expect("a file");
        assert!(whole.starts_with(&[3]) && whole.ends_with(&[1]));
        // Somebody else takes the name while it is written.
        assert!(!write_new(&mut &b"other content"[..], &path).expect("nothing fails"));
        assert_eq!((std::fs::read(&path).expect("a file"), part.exists()), (whole, false));
    }

    #[test]
    fn nothing_is_written_over_where_a_rename_would() {
        let folder = tempfile::tempdir().expect("a folder");
        let [path, part] = ["1.2.3.dcm", ".1.2.3.dcm.part"].map(|name| folder.path().join(name));
        assert!(take_name_first(&part, &path).is_err() && !path.exists(), "no empty file is left");
        for (content, is_new) in [("first", true), ("second", false)] {
            std::fs::write(&part, content).expect("a file");
            assert_eq!(take_name_first(&part, &path).expect("nothing fails"), is_new);
            assert_eq!(std::fs::read(&path).expect("a file"), b"first");
        }
    }

    #[test]
    fn what_another_export_is_writing_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("1.2.3.dcm");
        let _writing = new_part(&folder.path().join(".1.2.3.dcm.part")).expect("a part");
        let refused = write_new(&mut &b"content"[..], &path).expect_err("two at a time");
        assert!(refused.to_string().contains("another export"), "{refused}");
        assert!(folder.path().join(".1.2.3.dcm.part").exists() && !path.exists());
    }
}
