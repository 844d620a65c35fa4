//! Pack files: their names, creation, and the handles through which records are read.
//!
//! A file's name is durable before anything in it counts: creation syncs the file and its directory. Not here: who
//! writes into packs (`appender`, `large`) and what records say.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::pixels::error::StoreError;
use crate::pixels::record::{PackKind, encode_pack_header};
use crate::pixels::seal::Keyring;

/// Pack files that are kept open for reading. Far below the usual limit of 1,024 descriptors.
const HANDLES_MAX: usize = 128;

/// The directory of packs, below the store's own.
pub(crate) const PACKS: &str = "packs";

/// The directory of packs.
pub(crate) struct Packs {
    directory: PathBuf,
    handles: Mutex<Handles>,
}

#[derive(Default)]
struct Handles {
    files: BTreeMap<u64, (u64, Arc<File>)>,
    /// Counts uses, to close the one unused for longest.
    clock: u64,
}

impl Packs {
    pub(crate) fn open(store: &Path) -> Result<Self, StoreError> {
        let directory = store.join(PACKS);
        create_directory(&directory)?;
        Ok(Self { directory, handles: Mutex::default() })
    }

    pub(crate) fn path(&self, pack: u64) -> PathBuf {
        self.directory.join(format!("{pack:010}.pack"))
    }

    /// Numbers of the packs that exist, ascending. Files with other names are not ours to judge.
    pub(crate) fn list(&self) -> Result<Vec<u64>, StoreError> {
        let failed = |error: io::Error| StoreError::io("listing packs", &self.directory, &error);
        let mut packs = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".pack"));
            packs.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// Creates an appended pack with its header; its name and header are durable when this returns.
    pub(crate) fn create(&self, pack: u64, keys: &Keyring) -> Result<File, StoreError> {
        let path = self.path(pack);
        let failed = |error: io::Error| StoreError::io("creating a pack", &path, &error);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
        if let Err(error) = file.write_all_at(&encode_pack_header(PackKind::Appended, keys), 0) {
            // A file without its header would be read as a damaged pack; a leftover of a full disk is removed.
            drop(std::fs::remove_file(&path));
            return Err(failed(error));
        }
        file.sync_all().map_err(|error| StoreError::sync(&path, &error))?;
        sync_directory(&self.directory)?;
        Ok(file)
    }

    /// Gives the complete and synced file at `from` its place among the packs, durably.
    pub(crate) fn adopt(&self, from: &Path, pack: u64) -> Result<(), StoreError> {
        std::fs::rename(from, self.path(pack)).map_err(|error| StoreError::io("renaming a pack", from, &error))?;
        sync_directory(&self.directory)
    }

    pub(crate) fn open_for_append(&self, pack: u64) -> Result<File, StoreError> {
        let path = self.path(pack);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        opened.map_err(|error| StoreError::io("opening a pack", &path, &error))
    }

    /// A handle for reading; `None` when there is no such pack.
    pub(crate) fn handle(&self, pack: u64) -> Result<Option<Arc<File>>, StoreError> {
        self.open_once(pack).map_err(|error| StoreError::io("opening a pack", &self.path(pack), &error))
    }

    /// As `handle`; `None` also when the file system has lost its way to the pack. For those who look for what is left,
    /// never for those who remove what nobody needs.
    pub(crate) fn readable(&self, pack: u64) -> Result<Option<Arc<File>>, StoreError> {
        match self.open_once(pack) {
            Err(error) if is_unreadable(&error) => Ok(None),
            Err(error) => Err(StoreError::io("opening a pack", &self.path(pack), &error)),
            Ok(file) => Ok(file),
        }
    }

    fn open_once(&self, pack: u64) -> io::Result<Option<Arc<File>>> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.clock += 1;
        let now = handles.clock;
        if let Some((used, file)) = handles.files.get_mut(&pack) {
            *used = now;
            return Ok(Some(Arc::clone(file)));
        }
        let file = match open_for_reading(&self.path(pack)) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if handles.files.len() >= HANDLES_MAX {
            let oldest = handles.files.iter().min_by_key(|(_, (used, _))| *used).map(|(pack, _)| *pack);
            oldest.and_then(|pack| handles.files.remove(&pack));
        }
        handles.files.insert(pack, (now, Arc::clone(&file)));
        Ok(Some(file))
    }

    /// Bytes of a pack's file; zero when there is none.
    pub(crate) fn file_bytes(&self, pack: u64) -> Result<u64, StoreError> {
        let path = self.path(pack);
        match std::fs::metadata(&path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(StoreError::io("looking at a pack", &path, &error)),
        }
    }

    /// Removes a pack durably. Readers that hold its file read on.
    pub(crate) fn remove(&self, pack: u64) -> Result<(), StoreError> {
        let path = self.path(pack);
        std::fs::remove_file(&path).map_err(|error| StoreError::io("removing a pack", &path, &error))?;
        // Only then: a reader in between would open it once more, and hold its space.
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).files.remove(&pack);
        sync_directory(&self.directory)
    }
}

/// Whether the disk or its file system has lost what lies there: the same in effect as a flipped bit. Other failures say
/// nothing of the bytes.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::BADMSG, Errno::UCLEAN];
    error.raw_os_error().is_some_and(|number| lost.contains(&Errno::from_raw_os_error(number)))
}

/// Fills `out` from a pack. Packs are read in this way only.
pub(crate) fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    failing::read(file, offset..offset + out.len() as u64)?;
    file.read_exact_at(out, offset)
}

fn open_for_reading(path: &Path) -> io::Result<File> {
    #[cfg(test)]
    failing::open(path)?;
    File::open(path)
}

/// Disks that fail, as this thread sees them.
#[cfg(test)]
pub(crate) mod failing {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io;
    use std::ops::Range;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    struct Lost {
        inode: u64,
        bytes: Range<u64>,
        error: i32,
    }

    thread_local! {
        static LOST: RefCell<Vec<Lost>> = const { RefCell::new(Vec::new()) };
    }

    /// From now on reading any of these bytes of a file gives `error`.
    pub(crate) fn lose(path: &Path, bytes: Range<u64>, error: i32) {
        let inode = std::fs::metadata(path).expect("the file is there").ino();
        LOST.with_borrow_mut(|lost| lost.push(Lost { inode, bytes, error }));
    }

    /// The disk is well again.
    pub(crate) fn find_again() {
        LOST.with_borrow_mut(Vec::clear);
    }

    fn check(inode: u64, is_hit: impl Fn(&Range<u64>) -> bool) -> io::Result<()> {
        LOST.with_borrow(|lost| match lost.iter().find(|lost| lost.inode == inode && is_hit(&lost.bytes)) {
            Some(lost) => Err(io::Error::from_raw_os_error(lost.error)),
            None => Ok(()),
        })
    }

    pub(super) fn read(file: &File, bytes: Range<u64>) -> io::Result<()> {
        check(file.metadata()?.ino(), |lost| lost.start < bytes.end && bytes.start < lost.end)
    }

    /// A file that has lost all of its bytes can't be opened either.
    pub(super) fn open(path: &Path) -> io::Result<()> {
        std::fs::metadata(path).map_or(Ok(()), |metadata| check(metadata.ino(), |lost| *lost == (0..u64::MAX)))
    }
}

/// Creates a directory and makes its name durable.
pub(crate) fn create_directory(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(|error| StoreError::io("creating a directory", path, &error))?;
    path.parent().map_or(Ok(()), sync_directory)
}

#[cfg(test)]
thread_local! {
    /// Directories that this thread has synced: what a disk would have to be cut off to show.
    pub(crate) static SYNCED: std::cell::RefCell<Vec<PathBuf>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    // The parent of a relative name.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    #[cfg(test)]
    SYNCED.with_borrow_mut(|synced| synced.push(path.to_owned()));
    let directory = File::open(path).map_err(|error| StoreError::io("opening a directory", path, &error))?;
    directory.sync_all().map_err(|error| StoreError::sync(path, &error))
}

/// Bytes that are free for us on the disk under `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, StoreError> {
    let found = rustix::fs::statvfs(path).map_err(|error| StoreError::io("statvfs", path, &error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
