//! A copy as DICOM files in a directory, for `tessera fetch --to`: images of a patient outside the archive's encryption.
//!
//! A file that is there with other content ends the export.
//! Not here: how one file is written, which is the archive's; what may be fetched, which the holder decided.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::archive::Archive;
use crate::archive::copies::{self, CopyId};
use crate::dicom::identifiers::Uid;

/// Writes a copy's objects as DICOM files, one for each SOP instance. Blocks for the disk.
pub fn export(archive: &Archive, copy: &CopyId, directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let named = || directory.display().to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(named)?;
    let mut files = Vec::new();
    for object in copies::objects(&**archive.engine(), copy, None)? {
        // A UID has digits and dots only, so it names a file in this directory.
        let path = directory.join(format!("{}.dcm", Uid::parse(&object.description.sop_instance)?.as_str()));
        archive.write_file(&object, &path).with_context(|| path.display().to_string())?;
        files.push(path);
    }
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(named)?;
    Ok(files)
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
