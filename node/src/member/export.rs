//! A copy as DICOM files in a directory, for `tessera fetch --to`: images of a patient outside the archive's encryption.
//!
//! Files are for the node's own user alone, durable when they are told of, and never written over: a file that is there
//! with the same content counts as written, one with other content ends the export, and stays.
//! Not here: what may be fetched, which the holder decided.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tessera_storage::pixels::ObjectHash;

use crate::archive::Archive;
use crate::archive::catalogue::ObjectRecord;
use crate::archive::copies::{self, CopyId};
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;

/// Writes a copy's objects as DICOM files, one for each SOP instance. Blocks for the disk.
pub fn export(archive: &Archive, copy: &CopyId, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let named = || directory.display().to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
    let mut files = Vec::new();
    for object in copies::objects(&**archive.engine(), copy, None)? {
        // A UID has digits and dots only, so it names a file in this directory.
        let path = directory.join(format!("{}.dcm", Uid::parse(&object.description.sop_instance)?.as_str()));
        write(archive, &object, &path).with_context(|| path.display().to_string())?;
        files.push(path);
    }
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(named)?;
    Ok(files)
}

fn write(archive: &Archive, object: &ObjectRecord, path: &Path) -> anyhow::Result<()> {
    let (class, instance) = (Uid::parse(&object.description.sop_class)?, Uid::parse(&object.description.sop_instance)?);
    let head = file_head(&class, &instance, &Uid::parse(&object.receipt.transfer_syntax)?, None);
    let mut content = head.chain(archive.pixels().reader(&ObjectHash::blake3(object.hash))?);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            let written = copy_durably(&mut content, file);
            if written.is_err() {
                // Half a file would look like one with other content the next time.
                drop(std::fs::remove_file(path));
            }
            Ok(written?)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_file = std::fs::symlink_metadata(path)?.is_file();
            ensure!(
                is_file && is_same(BufReader::new(File::open(path)?), BufReader::new(content))?,
                "it is there already with other content, and was left as it is; choose another directory"
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn copy_durably(content: &mut dyn Read, file: File) -> io::Result<()> {
    let mut file = BufWriter::new(file);
    io::copy(content, &mut file)?;
    file.flush()?;
    file.get_ref().sync_all()
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
    use std::sync::Arc;

    use tessera_storage::MemoryEngine;

    use super::*;
    use crate::archive::{TABLES, testing};

    #[test]
    fn files_are_private_and_nothing_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = Arc::new(MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true));
        let archive = testing::open(engine, folder.path());
        let copy = testing::copy_id("county-b", 1, 1);
        let sent = [testing::data_set("1.2.3", "1.2.3.1.1", "of b"), testing::data_set("1.2.3", "1.2.3.1.2", "of b")];
        testing::whole(&archive, &copy, &sent);
        let to = folder.path().join("to");
        let files = export(&archive, &copy, &to).expect("exported");
        assert_eq!(files, [to.join("1.2.3.1.1.dcm"), to.join("1.2.3.1.2.dcm")]);
        for (file, sent) in files.iter().zip(&sent) {
            assert!(std::fs::read(file).expect("a file").ends_with(sent));
            assert_eq!(std::fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(export(&archive, &copy, &to).expect("the same again"), files);
        std::fs::write(&files[0], "a note of somebody's").expect("a file");
        let refused = format!("{:#}", export(&archive, &copy, &to).expect_err("other content"));
        assert!(refused.contains("1.2.3.1.1.dcm") && refused.contains("other content"), "{refused}");
        assert_eq!(std::fs::read(&files[0]).expect("a file"), b"a note of somebody's");
    }
}
