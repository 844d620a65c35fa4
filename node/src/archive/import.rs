//! Import of files and directories by an operator on this machine.
//!
//! Each file is taken or refused alone, with its reason; nothing in a directory stops the others. Links are not
//! followed, so a directory can't lead out of itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;

use super::Archive;
use super::catalogue::Standing;
use super::ingest::{Filed, Origin};
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
        let files = tokio::task::spawn_blocking(move || list(&call.paths)).await??;
        let total = files.len() as u64;
        let mut done = ImportDone::default();
        let mut results = futures::stream::iter(files)
            .map(|path| async move {
                let result = self.import_file(&path).await;
                (path, result)
            })
            .buffer_unordered(FILES_AT_ONCE);
        let mut count = 0;
        while let Some((path, result)) = results.next().await {
            count += 1;
            self.tally(&mut done, path, result);
            reporter.step(Progress {
                stage: "importing".into(),
                objects_done: count,
                objects_total: total,
                bytes_done: done.bytes,
                bytes_total: 0,
            });
        }
        Ok(done)
    }

    fn tally(&self, done: &mut ImportDone, path: PathBuf, result: anyhow::Result<Filed>) {
        match result {
            Ok(filed) => {
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

    async fn import_file(self: &Arc<Self>, path: &Path) -> anyhow::Result<Filed> {
        let (archive, owned) = (self.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || open(&owned)).await??;
        let (mut file, part10, bytes) = opened;
        if bytes > WHOLE_BYTES_MAX {
            return tokio::task::spawn_blocking(move || archive.import_large(&mut file, &part10)).await?;
        }
        let data_set = tokio::task::spawn_blocking(move || {
            let mut data_set = Vec::with_capacity(bytes as usize);
            file.read_to_end(&mut data_set).map(|_| data_set)
        });
        let data_set = data_set.await??;
        Ok(self.take(Origin::Import, part10.transfer_syntax, None, data_set.into()).await?)
    }

    fn import_large(&self, file: &mut std::fs::File, part10: &Part10) -> anyhow::Result<Filed> {
        let mut writer = self.pixels().begin_large(&[])?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                read => writer.write(&piece[..read])?,
            }
        }
        Ok(self.finish_large(Origin::Import, &part10.transfer_syntax, None, writer)?)
    }
}

/// The file, positioned at its data set, and that one's length.
fn open(path: &Path) -> anyhow::Result<(std::fs::File, Part10, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (part10, length) = Part10::open(&mut file)?;
    anyhow::ensure!(!part10.is_directory(), "a DICOMDIR, no image; its files are imported by themselves");
    Ok((file, part10, length))
}

/// All files below `paths`, in a stable order.
fn list(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut queue: Vec<PathBuf> = paths.iter().rev().cloned().collect();
    while let Some(path) = queue.pop() {
        let kind = std::fs::symlink_metadata(&path).with_context(|| path.display().to_string())?.file_type();
        if kind.is_file() {
            files.push(path);
        } else if kind.is_dir() {
            let entries = std::fs::read_dir(&path).with_context(|| path.display().to_string())?;
            let mut inside = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
            inside.sort_by(|a, b| b.cmp(a));
            queue.extend(inside);
        }
        anyhow::ensure!(files.len() <= FILES_MAX, "more than {FILES_MAX} files; import them in parts");
    }
    Ok(files)
}
