//! Import of files and directories by an operator on this machine.
//!
//! Each file is taken or refused alone, with its reason; nothing in a directory stops the others, and a directory that
//! can't be read is refused like a file. Links are not followed, so a directory can't lead out of itself. Only a disk
//! without room ends an import: the next file would not fit either.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures::StreamExt;

use super::Archive;
use super::catalogue::Standing;
use super::ingest::{Filed, IngestError, Origin};
use crate::control::server::Reporter;
use crate::control::wire::{ImportCall, ImportDone, Progress};
use crate::dicom::part10::Part10;

/// Files that are read and written at once.
const FILES_AT_ONCE: usize = 16;
/// Objects up to this size are taken whole; larger ones in pieces of [`PIECE_BYTES`].
const WHOLE_BYTES_MAX: u64 = 8 << 20;
const PIECE_BYTES: usize = 1 << 20;
/// Refusals that are listed; the rest is counted in the log.
const REFUSALS_MAX: usize = 10_000;
/// Files of one import.
const FILES_MAX: usize = 10_000_000;

impl Archive {
    pub async fn import(self: &Arc<Self>, call: ImportCall, reporter: Reporter) -> anyhow::Result<ImportDone> {
        let (files, unread) = tokio::task::spawn_blocking(move || list(&call.paths)).await??;
        let total = files.len() as u64;
        let mut done = ImportDone::default();
        for (path, why) in unread {
            self.tally(&mut done, path, Err(why));
        }
        let no_room = OnceLock::new();
        let mut results = futures::stream::iter(files)
            .map(|path| async {
                let result = match no_room.get() {
                    None => Some(self.import_file(&path).await),
                    Some(_) => None,
                };
                (path, result)
            })
            .buffer_unordered(FILES_AT_ONCE);
        let mut count = 0;
        while let Some((path, result)) = results.next().await {
            count += 1;
            match result {
                Some(Err(error)) if is_for_want_of_room(&error) => {
                    no_room.get_or_init(|| error.to_string());
                    done.without_room += 1;
                }
                Some(result) => self.tally(&mut done, path, result),
                None => done.without_room += 1,
            }
            reporter.step(Progress {
                stage: "importing".into(),
                objects_done: count,
                objects_total: total,
                bytes_done: done.bytes,
                bytes_total: 0,
            });
        }
        drop(results);
        done.no_room = no_room.into_inner();
        Ok(done)
    }

    fn tally(&self, done: &mut ImportDone, path: PathBuf, result: anyhow::Result<Option<Filed>>) {
        match result {
            Ok(None) => {}
            Ok(Some(filed)) => {
                done.bytes += filed.bytes;
                match filed.standing {
                    Standing::New => done.stored += 1,
                    Standing::Known => done.known_already += 1,
                    Standing::Variant => done.variants += 1,
                    Standing::Quarantined(_) => done.quarantined += 1,
                }
            }
            Err(error) if done.refused.len() < REFUSALS_MAX => done.refused.push((path, format!("{error:#}"))),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a file was not imported"),
        }
    }

    /// `None`: a DICOMDIR, which is no image; the files that it lists are imported by themselves.
    async fn import_file(self: &Arc<Self>, path: &Path) -> anyhow::Result<Option<Filed>> {
        let (archive, owned) = (self.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || open(&owned)).await??;
        let (mut file, part10, bytes) = opened;
        if part10.is_directory() {
            return Ok(None);
        }
        if bytes > WHOLE_BYTES_MAX {
            return tokio::task::spawn_blocking(move || archive.import_large(&mut file, &part10).map(Some)).await?;
        }
        let data_set = tokio::task::spawn_blocking(move || {
            let mut data_set = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut data_set).map(|_| data_set)
        });
        let data_set = data_set.await??;
        Ok(Some(self.take(Origin::Import, part10.transfer_syntax, None, data_set.into()).await?))
    }

    fn import_large(&self, file: &mut std::fs::File, part10: &Part10) -> anyhow::Result<Filed> {
        let mut writer = self.pixels().begin_large(&[]).map_err(IngestError::from)?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => writer.write(&piece[..read]).map_err(IngestError::from)?,
            }
        }
        Ok(self.finish_large(Origin::Import, &part10.transfer_syntax, None, writer)?)
    }
}

fn is_for_want_of_room(error: &anyhow::Error) -> bool {
    error.downcast_ref::<IngestError>().is_some_and(IngestError::is_for_want_of_room)
}

/// The file, positioned at its data set, and that one's length.
fn open(path: &Path) -> anyhow::Result<(std::fs::File, Part10, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (part10, length) = Part10::open(&mut file)?;
    Ok((file, part10, length))
}

type Unread = Vec<(PathBuf, anyhow::Error)>;

/// All files below `paths`, in a stable order, and what could not be looked into.
fn list(paths: &[PathBuf]) -> anyhow::Result<(Vec<PathBuf>, Unread)> {
    let (mut files, mut unread) = (Vec::new(), Vec::new());
    let mut queue: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = queue.pop() {
        match std::fs::symlink_metadata(&path).map(|metadata| metadata.file_type()) {
            Ok(kind) if kind.is_file() => files.push(path),
            Ok(kind) if kind.is_dir() => match entries(&path) {
                Ok(inside) => queue.extend(inside),
                Err(error) => unread.push((path, error.into())),
            },
            Ok(_) => {}
            Err(error) => unread.push((path, error.into())),
        }
        anyhow::ensure!(files.len() <= FILES_MAX, "more than {FILES_MAX} files; import them in parts");
    }
    Ok((files, unread))
}

/// What a directory has, last first.
fn entries(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?;
    let mut inside = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    inside.sort_by(|a, b| b.cmp(a));
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_read_stops_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["a", "c"] {
            std::fs::create_dir(path(name)).expect("a folder");
            std::fs::write(path(name).join("1.dcm"), "").expect("a file");
        }
        // Not there, and so unreadable to whoever runs this, the superuser included.
        let (files, unread) = list(&[path("a"), path("b"), path("c")]).expect("a list");
        assert_eq!(files, [path("a").join("1.dcm"), path("c").join("1.dcm")]);
        assert_eq!(unread.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), [path("b")]);
    }
}
