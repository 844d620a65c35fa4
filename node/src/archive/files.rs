//! An object as a DICOM file outside the archive and its encryption: for `tessera fetch --to` and for the quarantine.
//!
//! Files are for the node's own user alone, durable when they are told of, and never written over: a file that is there
//! with the same content counts as written, one with other content stays as it is, and is an error.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::ensure;
use tessera_storage::pixels::ObjectHash;

use super::Archive;
use super::catalogue::ObjectRecord;
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;

impl Archive {
    /// Writes a fresh head, and the data set byte for byte. Blocks for the disk.
    pub fn write_file(&self, object: &ObjectRecord, path: &Path) -> anyhow::Result<()> {
        let class = Uid::parse(&object.description.sop_class)?;
        let instance = Uid::parse(&object.description.sop_instance)?;
        let head = file_head(&class, &instance, &Uid::parse(&object.receipt.transfer_syntax)?, None);
        let mut content = head.chain(self.pixels.reader(&ObjectHash::blake3(object.hash))?);
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
