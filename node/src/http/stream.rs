//! Bodies that a blocking thread writes while the client reads: constant memory whatever is sent, because the queue
//! between the two is short and the writer waits.
//!
//! A failure in the middle breaks the connection: without length or closing boundary the client sees that the
//! answer is not whole. The number of transfers is bounded; who comes later waits a little, then hears so. A client
//! that takes nothing for [`CLIENT_WAIT`] loses its place, so that no number of idle connections can hold them all.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures::future::ready;
use futures::stream::{self, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::{SendTimeoutError, TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::error::HttpError;
use crate::dicom::frames::FrameReadError;
use crate::dicom::source::SourceError;

/// Transfers at one time; each holds a blocking thread and at most two chunks.
const STREAMS_MAX: usize = 96;
/// Bytes of a chunk; the pixel store reads as much at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that are queued as one: a slow client is not taken for one that takes nothing.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces between writer and client: a chunk.
const QUEUE_PIECES: usize = CHUNK_BYTES / PIECE_BYTES;
/// A client may take so many times [`Streams::client_wait`] for a chunk, or else it only holds a place.
const WAITS_MAX: u32 = 5;
/// How long a request waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(20);
/// How long a client may take nothing of what waits for it.
const CLIENT_WAIT: Duration = Duration::from_secs(60);

pub struct Streams {
    places: Arc<Semaphore>,
    client_wait: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self::new(STREAMS_MAX, CLIENT_WAIT)
    }
}

/// Why a writer ends early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the client went away")]
    Gone,
    #[error("the client took next to nothing for {} s", .0.as_secs())]
    Idle(Duration),
    #[error("the copy was closed while it was sent: {0}")]
    Closed(String),
    #[error("{0}")]
    Source(String),
}

impl StreamError {
    pub fn source(error: impl std::fmt::Display) -> Self {
        Self::Source(error.to_string())
    }
}

impl From<SourceError> for StreamError {
    fn from(error: SourceError) -> Self {
        Self::source(error)
    }
}

impl From<FrameReadError> for StreamError {
    fn from(error: FrameReadError) -> Self {
        Self::source(error)
    }
}

/// Where a writer puts its bytes.
pub struct Sink {
    judge: Box<dyn FnMut() -> Result<(), StreamError> + Send>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
    client_wait: Duration,
}

impl Sink {
    pub fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), StreamError> {
        let mut bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        (self.judge)()?;
        let begun = Instant::now();
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            match self.pieces.try_send(Ok(piece)) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return Err(StreamError::Gone),
                Err(TrySendError::Full(_)) if begun.elapsed() > WAITS_MAX * self.client_wait => {
                    return Err(StreamError::Idle(WAITS_MAX * self.client_wait));
                }
                Err(TrySendError::Full(piece)) => {
                    self.send_when_there_is_room(piece)?;
                    // While it waited the patient may have taken back what it rests on.
                    (self.judge)()?;
                }
            }
        }
        Ok(())
    }

    fn send_when_there_is_room(&self, piece: io::Result<Bytes>) -> Result<(), StreamError> {
        let sending = self.pieces.send_timeout(piece, self.client_wait);
        // Writers run on blocking threads, where waiting so is allowed.
        Handle::current().block_on(sending).map_err(|error| match error {
            SendTimeoutError::Timeout(_) => StreamError::Idle(self.client_wait),
            SendTimeoutError::Closed(_) => StreamError::Gone,
        })
    }

    /// All `length` bytes of a reader, chunk by chunk.
    pub fn copy(&mut self, reader: &mut dyn Read, length: u64) -> Result<(), StreamError> {
        let mut left = length;
        while left > 0 {
            let mut chunk = vec![0; usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES))];
            reader.read_exact(&mut chunk).map_err(StreamError::source)?;
            left -= chunk.len() as u64;
            self.send(chunk)?;
        }
        Ok(())
    }
}

impl Streams {
    fn new(places: usize, client_wait: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), client_wait }
    }

    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        let turn = tokio::time::timeout(TURN_WAIT, self.places.clone().acquire_owned()).await;
        turn.map_err(|_| HttpError::Busy)?.map_err(|closed| HttpError::Internal(closed.to_string()))
    }

    /// A body that `write` writes on a blocking thread; `judge` says before each chunk whether it may still go out.
    pub async fn body(
        &self,
        judge: impl FnMut() -> Result<(), StreamError> + Send + 'static,
        write: impl FnOnce(&mut Sink) -> Result<(), StreamError> + Send + 'static,
    ) -> Result<Body, HttpError> {
        let turn = self.turn().await?;
        let (pieces, receiver) = mpsc::channel(QUEUE_PIECES);
        let (broken, ending) = oneshot::channel();
        let mut sink = Sink { judge: Box::new(judge), pieces, client_wait: self.client_wait };
        tokio::task::spawn_blocking(move || {
            match write(&mut sink) {
                Ok(()) | Err(StreamError::Gone) => {}
                Err(error) => {
                    tracing::warn!(%error, "a transfer was broken off");
                    // The client may be gone as well; then nobody needs to know.
                    drop(broken.send(io::Error::other("broken off")));
                }
            }
            drop(turn);
        });
        // The end is told apart from the pieces: their queue may be full, and the writer waits no longer.
        let ending = stream::once(ending).filter_map(|ending| ready(ending.ok().map(Err)));
        Ok(Body::from_stream(ReceiverStream::new(receiver).chain(ending)))
    }
}

/// The parts of a multipart/related answer (RFC 2387).
pub struct Multipart {
    boundary: String,
}

impl Multipart {
    pub fn new() -> Self {
        // 128 random bits do not occur in what is sent.
        Self { boundary: format!("tessera-{:032x}", rand::random::<u128>()) }
    }

    /// The value of Content-Type for parts of type `kind`.
    pub fn content_type(&self, kind: &str) -> String {
        format!("multipart/related; type=\"{kind}\"; boundary={}", self.boundary)
    }

    /// What stands before a part's bytes.
    pub fn head(&self, content_type: &str, length: Option<u64>, first: bool) -> String {
        let break_before = if first { "" } else { "\r\n" };
        let length = length.map_or(String::new(), |length| format!("Content-Length: {length}\r\n"));
        format!("{break_before}--{}\r\nContent-Type: {content_type}\r\n{length}\r\n", self.boundary)
    }

    pub fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);
    const LITTLE: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_place() {
        let streams = Streams::new(1, LITTLE);
        let endless = |sink: &mut Sink| loop {
            sink.send(vec![0; 16])?;
        };
        let body = streams.body(|| Ok(()), endless).await.expect("a body");
        let place = tokio::time::timeout(DEADLINE, streams.turn()).await.expect("in time");
        drop(place.expect("the place is free again"));
        // And the client, should it come back, sees that the answer is not whole.
        let rest = axum::body::to_bytes(body, 1 << 20).await;
        assert!(rest.is_err(), "{rest:?}");
    }

    #[tokio::test]
    async fn a_slow_client_gets_everything_and_one_that_all_but_stops_loses_its_place() {
        let wait = Duration::from_millis(200);
        let chunk = || vec![7; 4 * QUEUE_PIECES * PIECE_BYTES];
        for (pause, is_whole) in [(wait / 100, true), (wait / 2, false)] {
            let streams = Streams::new(1, wait);
            let body = streams.body(|| Ok(()), move |sink| sink.send(chunk())).await.expect("a body");
            let mut pieces = body.into_data_stream();
            let mut taken = 0;
            while let Some(Ok(piece)) = pieces.next().await {
                taken += piece.len();
                tokio::time::sleep(pause).await;
            }
            assert_eq!(taken == chunk().len(), is_whole, "{taken} bytes at {pause:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_everything() {
        let streams = Streams::new(1, DEADLINE);
        let body = streams.body(|| Ok(()), |sink| (0..100u8).try_for_each(|number| sink.send(vec![number; 10]))).await;
        let bytes = axum::body::to_bytes(body.expect("a body"), 1 << 20).await.expect("all");
        assert_eq!((bytes.len(), bytes[999]), (1000, 99));
    }
}
