//! openraft's storage traits over [`LogStore`], for any runtime.
//!
//! Reads are synchronous against the engine. What must be on the disk before it counts completes through the
//! engine's callbacks: an append by openraft's own callback, a vote by a channel that this task awaits.
//!
//! A write that the disk has no room for is tried again until it has: for openraft an error would be the end of its task
//! for good. Meanwhile this node is to the others what one that was paused is: they go on, under another leader. Where only
//! the ledger has no room it still follows, and gives up the leadership ([`super::cluster`]).

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::time::Duration;

use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{AsyncRuntime, OptionalSend, RaftLogReader};
use tessera_storage::engine::EngineError;

use super::log_store::{LogError, LogStore, Waits};
use super::types::{LogEntry, LogId, TypeConfig, Vote};
use super::wire::APPEND_BYTES_MAX;

impl<Rt: AsyncRuntime> RaftLogReader<TypeConfig<Rt>> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        Ok(self.entries(range)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.vote())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        Ok(self.entries_limited(start, end, APPEND_BYTES_MAX)?)
    }

    /// In pieces, so that a node that has much to apply does not hold all of it in memory.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = super::log_store::bounds(range);
        let to = to.unwrap_or(u64::MAX);
        let store = self.clone();
        let pieces = (from..to, Vec::new().into_iter());
        Box::pin(futures::stream::try_unfold(pieces, move |(rest, mut piece)| {
            let store = store.clone();
            async move {
                if let Some(entry) = piece.next() {
                    return Ok(Some((entry, (rest, piece))));
                }
                let entries = store.entries_limited(rest.start, rest.end, APPEND_BYTES_MAX)?;
                let Some(last) = entries.last() else { return Ok::<_, io::Error>(None) };
                let rest = last.log_id.index + 1..rest.end;
                let mut piece = entries.into_iter();
                Ok(piece.next().map(|entry: LogEntry| (entry, (rest, piece))))
            }
        }))
    }
}

/// Pause before a write is tried again on a disk without room.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

impl LogStore {
    /// Until there is room for `write`.
    pub(super) async fn with_room<Rt: AsyncRuntime, T, E>(
        &self,
        what: Waits,
        full: impl Fn(&E) -> Option<&EngineError>,
        mut write: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut waited = false;
        loop {
            let written = write();
            match written.as_ref().err().and_then(&full) {
                Some(error @ EngineError::DiskFull { .. }) => {
                    if !std::mem::replace(&mut waited, true) {
                        tracing::warn!(%error, "this core node takes no part in Raft until there is room");
                    }
                    self.note_waiting(what, Some(error.to_string()));
                }
                _ => {
                    if waited {
                        self.note_waiting(what, None);
                    }
                    return written;
                }
            }
            Rt::sleep(ROOM_PAUSE).await;
        }
    }

    async fn writes<Rt: AsyncRuntime, T>(&self, write: impl FnMut() -> Result<T, LogError>) -> Result<T, LogError> {
        self.with_room::<Rt, T, LogError>(Waits::Log, LogError::engine, write).await
    }
}

impl<Rt: AsyncRuntime> RaftLogStorage<TypeConfig<Rt>> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig<Rt>>, io::Error> {
        Ok(LogState { last_purged_log_id: self.purged(), last_log_id: self.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let durable = self.writes::<Rt, _>(|| self.submit_vote(*vote)).await?;
        durable.await.map_err(|_| LogError::Closed)?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.writes::<Rt, _>(|| self.write_committed(committed)).await?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.committed())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig<Rt>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let appended = self.writes::<Rt, _>(|| self.append_entries(&entries)).await?;
        self.when_durable(appended, move |result| callback.io_completed(result));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.writes::<Rt, _>(|| self.truncate_to(last_log_id)).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.writes::<Rt, _>(|| self.purge_to(log_id)).await?)
    }
}
