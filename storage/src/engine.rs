//! The key-value engine as the rest of Tessera sees it: named tables of ordered byte keys.
//!
//! What an engine promises, and what `conformance` checks of every one:
//!
//! 1. A batch is applied whole or not at all, and is visible to every read that starts after `submit` returned.
//! 2. Tickets are handed out in the order in which batches were applied.
//! 3. After a crash the engine holds the batches of a *prefix* of that order: every durable batch, then possibly
//!    some that were submitted after it, never one without those before it.
//! 4. `submit` never waits for the disk's sync. Who may not go on before the disk has it asks `on_durable`.
//! 5. After a failed sync the engine is dead: every later call answers [`EngineError::Dead`].
//!
//! Not here: transactions, locks, codecs. Writers of one key are coordinated above, by having one writer.

use std::sync::mpsc;

use thiserror::Error;

/// Name of a table (a RocksDB column family). The list of tables is given when the engine is opened.
pub type Table = &'static str;

/// Key-value pairs as a scan returns them.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Called once when a ticket is durable, or when the engine has died before that.
pub type DurableCallback = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// Largest batch that an engine takes, in bytes of keys and values. Bounds the memory of a write and the time
/// for which it delays those behind it; a snapshot is installed in several batches.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why an engine could not do what was asked. Cloned to every waiting caller, hence text instead of sources.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EngineError {
    #[error("no table named `{table}`: it is missing from the list that the engine was opened with")]
    UnknownTable { table: String },
    #[error("table list names `{table}` twice")]
    DuplicateTable { table: String },
    #[error("batch of {bytes} bytes exceeds the limit of {bytes_max}: split it")]
    BatchTooLarge { bytes: usize, bytes_max: usize },
    #[error("{ticket:?} was never handed out by this engine")]
    UnknownTicket { ticket: Ticket },
    #[error("the disk under the database is full: free space or enlarge it, then try again ({detail})")]
    DiskFull { detail: String },
    #[error(
        "the database in {directory} is in use by another process: stop that process (is a node already running \
         on this directory?), then try again"
    )]
    Locked { directory: String },
    #[error("the database is damaged: restore the directory from a backup or rejoin with an empty one ({detail})")]
    Corrupt { detail: String },
    #[error(
        "the database in {directory} lacks writes that had been on the disk ({found} of {synced} are left): its \
         write-ahead log is damaged, or part of the directory is an older copy. Restore the directory from a backup. To \
         go on with what is left, as with an older copy that was put back, remove the file {directory}/SYNCED"
    )]
    LostWrites { directory: String, found: u64, synced: u64 },
    #[error("reading or writing the database failed: check the disk and the directory's permissions ({detail})")]
    Io { detail: String },
    #[error("the database stopped after a failed write and must be opened again by a new process ({cause})")]
    Dead { cause: String },
}

impl EngineError {
    /// Whether what lies on the disk is not what was written; no other attempt at it will help.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::LostWrites { .. })
    }
}

/// One change of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Put {
        table: Table,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        table: Table,
        key: Vec<u8>,
    },
    /// Deletes every key with `from <= key < to`; nothing when `from >= to`.
    DeleteRange {
        table: Table,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

impl Operation {
    pub fn table(&self) -> Table {
        match self {
            Operation::Put { table, .. } | Operation::Delete { table, .. } | Operation::DeleteRange { table, .. } => {
                table
            }
        }
    }

    fn bytes_len(&self) -> usize {
        match self {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key, .. } => key.len(),
            Operation::DeleteRange { from, to, .. } => from.len() + to.len(),
        }
    }
}

/// Changes that are applied together and in this order: a later one on the same key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    operations: Vec<Operation>,
    bytes: usize,
}

impl Batch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.push(Operation::Put { table, key: key.into(), value: value.into() })
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) -> &mut Self {
        self.push(Operation::Delete { table, key: key.into() })
    }

    /// Deletes `from <= key < to`. Cheap to write and costly to read over until compaction: for ranges that are
    /// gone for good, not for queues.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> &mut Self {
        self.push(Operation::DeleteRange { table, from: from.into(), to: to.into() })
    }

    /// Appends the changes of `other` behind those that are here.
    pub fn extend(&mut self, other: Batch) -> &mut Self {
        self.bytes += other.bytes;
        self.operations.extend(other.operations);
        self
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Bytes of keys and values.
    pub fn bytes_len(&self) -> usize {
        self.bytes
    }

    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    fn push(&mut self, operation: Operation) -> &mut Self {
        self.bytes += operation.bytes_len();
        self.operations.push(operation);
        self
    }

    pub(crate) fn check_size(&self) -> Result<(), EngineError> {
        if self.bytes > BATCH_BYTES_MAX {
            return Err(EngineError::BatchTooLarge { bytes: self.bytes, bytes_max: BATCH_BYTES_MAX });
        }
        Ok(())
    }
}

/// Place of a batch in the order of submission. Only an engine makes one; the number counts from one since open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// Before the first batch: durable from the start.
    pub const ZERO: Ticket = Ticket(0);

    pub(crate) fn next(self) -> Ticket {
        Ticket(self.0 + 1)
    }

    /// The count, for logs and metrics.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// Read access: the engine itself (each call sees the newest state) or a snapshot (all calls see one state).
pub trait View: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// At most `limit` pairs with `from <= key < to`, ascending; `to` = `None` is the end of the table.
    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError>;

    /// The same range from its end: at most `limit` pairs with `from <= key < to`, descending.
    fn scan_back(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Pairs, EngineError>;

    /// At most `limit` pairs whose key starts with `prefix`, ascending.
    fn scan_prefix(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Pairs, EngineError> {
        self.scan(table, prefix, prefix_end(prefix).as_deref(), limit)
    }
}

/// A key-value engine. The header of this module states what implementations promise.
pub trait Engine: View + 'static {
    /// Applies `batch` atomically and visibly at once; it is durable only when the ticket completes.
    /// Never blocks on the disk's sync. On an error nothing of the batch was applied.
    fn submit(&self, batch: Batch) -> Result<Ticket, EngineError>;

    /// Calls `done` once everything up to `ticket` is durable, or with the error after which the engine is dead.
    /// Callbacks run in ticket order, one at a time, off the submitter's path: they must be short and must not
    /// wait for another ticket.
    fn on_durable(&self, ticket: Ticket, done: DurableCallback);

    /// The newest durable ticket.
    fn durable(&self) -> Ticket;

    /// A consistent view of the state as it is now. Holding it for long keeps old data on the disk.
    fn snapshot(&self) -> Box<dyn View>;
}

/// Blocks the calling thread until `ticket` is durable. For plain threads: never on an async executor, and with
/// a [`crate::MemoryEngine`] only when another thread flushes it or it flushes by itself.
pub fn wait_durable(engine: &dyn Engine, ticket: Ticket) -> Result<(), EngineError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    engine.on_durable(ticket, Box::new(move |result| drop(sender.send(result))));
    let gone = |_| EngineError::Dead { cause: "closed before the batch was durable".to_owned() };
    receiver.recv().map_err(gone)?
}

/// The smallest key greater than every key that starts with `prefix`; `None` when there is no such key (the
/// prefix is empty or all `0xFF`), which `scan` takes as the end of the table.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Checks the list of tables once for every engine.
pub(crate) fn check_tables(tables: &[Table]) -> Result<(), EngineError> {
    let mut sorted = tables.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(EngineError::DuplicateTable { table: pair[0].to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_first_key_behind_the_prefix() {
        let table: &[(&[u8], Option<&[u8]>)] =
            &[(b"", None), (b"a", Some(b"b")), (b"a\xFF", Some(b"b")), (b"\xFF\xFF", None), (b"a\x00", Some(b"a\x01"))];
        for (prefix, expected) in table {
            assert_eq!(prefix_end(prefix).as_deref(), *expected, "{prefix:?}");
        }
    }

    #[test]
    fn batch_counts_its_bytes_across_extend() {
        let mut first = Batch::new();
        first.put("t", *b"key", *b"value").delete("t", *b"k");
        let mut second = Batch::new();
        second.delete_range("t", *b"a", *b"bc");
        first.extend(second);
        assert_eq!((first.len(), first.bytes_len()), (3, 3 + 5 + 1 + 1 + 2));
    }
}
