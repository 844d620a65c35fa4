//! Bodies that a blocking thread writes while the client reads: constant memory whatever is sent, because the queue
//! between the two is short and the writer waits.
//!
//! A failure in the middle breaks the connection: without length or closing boundary the client sees that the
//! answer is not whole. The number of transfers is bounded; who comes later waits a little, then hears so.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::error::HttpError;

/// Transfers at one time; each holds a blocking thread and at most `QUEUE_CHUNKS + 1` chunks.
const STREAMS_MAX: usize = 96;
/// Chunks between writer and client.
const QUEUE_CHUNKS: usize = 3;
/// Bytes of a chunk; the pixel store reads as much at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How long a request waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(20);

pub struct Streams(Arc<Semaphore>);

impl Default for Streams {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(STREAMS_MAX)))
    }
}

/// Why a writer ends early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the client went away")]
    Gone,
    #[error("{0}")]
    Source(String),
}

impl StreamError {
    pub fn source(error: impl std::fmt::Display) -> Self {
        Self::Source(error.to_string())
    }
}

/// Where a writer puts its bytes.
pub struct Sink {
    chunks: mpsc::Sender<io::Result<Bytes>>,
}

impl Sink {
    pub fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), StreamError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(());
        }
        self.chunks.blocking_send(Ok(bytes)).map_err(|_| StreamError::Gone)
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
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        let turn = tokio::time::timeout(TURN_WAIT, self.0.clone().acquire_owned()).await;
        turn.map_err(|_| HttpError::Busy)?.map_err(|closed| HttpError::Internal(closed.to_string()))
    }

    /// A body that `write` writes on a blocking thread.
    pub async fn body(
        &self,
        write: impl FnOnce(&mut Sink) -> Result<(), StreamError> + Send + 'static,
    ) -> Result<Body, HttpError> {
        let turn = self.turn().await?;
        let (chunks, receiver) = mpsc::channel(QUEUE_CHUNKS);
        tokio::task::spawn_blocking(move || {
            let mut sink = Sink { chunks };
            if let Err(StreamError::Source(cause)) = write(&mut sink) {
                tracing::error!(cause, "a transfer was broken off");
                // The client may be gone as well; then nobody needs to know.
                drop(sink.chunks.blocking_send(Err(io::Error::other("broken off"))));
            }
            drop(turn);
        });
        Ok(Body::from_stream(ReceiverStream::new(receiver)))
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
