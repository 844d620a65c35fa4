//! The DICOM receiver: C-ECHO and C-STORE as SCP (PS3.4 annex B), many associations at once.
//!
//! It takes every storage SOP class and keeps data sets byte for byte in the syntax in which they come. What becomes
//! of an object is the archive's business, behind [`StoreSink`]; a sender is answered when the archive says that
//! the object is durable, and not before (promise P1).
//!
//! `wire` is the socket, `negotiate` the association, `command` the DIMSE messages, `session` one association from
//! its first to its last byte.
//!
//! Bounds: `associations_max` places, each with at most [`negotiate::OPERATIONS_MAX`] + 1 objects of
//! [`BUFFERED_BYTES_MAX`](super::sink::BUFFERED_BYTES_MAX) in memory (two, for the senders that ask for no window,
//! which is nearly all) and one read buffer. Further peers are told to come back later, by a rejection that names
//! the reason; beyond `REFUSALS_MAX` of those at once connections are dropped.

mod command;
mod negotiate;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::identifiers::AeTitle;
use super::sink::StoreSink;

/// Peers that are being told at the same time that all places are taken.
const REFUSALS_MAX: usize = 64;

/// A pause when the system has no more connections to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the receiver behaves.
#[derive(Debug, Clone)]
pub struct ScpConfig {
    /// Associations at once.
    pub associations_max: usize,
    /// The titles that it answers to; empty means any.
    pub called_ae_titles: Vec<AeTitle>,
    /// How long a connection may take to ask for its association.
    pub request_patience: Duration,
    /// How long a sender may stay silent between two messages.
    pub idle_patience: Duration,
    /// How long a sender may stay silent within a message.
    pub message_patience: Duration,
}

impl Default for ScpConfig {
    fn default() -> Self {
        Self {
            associations_max: 32,
            called_ae_titles: Vec::new(),
            request_patience: Duration::from_secs(30),
            idle_patience: Duration::from_secs(600),
            message_patience: Duration::from_secs(60),
        }
    }
}

/// Serves until `stop`; then refuses new connections, answers what is under way and aborts idle associations.
pub async fn serve(listener: TcpListener, sink: Arc<dyn StoreSink>, config: ScpConfig, stop: CancellationToken) {
    let config = Arc::new(config);
    let places = Arc::new(Semaphore::new(config.associations_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a DICOM connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            let (sink, config, stop) = (sink.clone(), config.clone(), stop.clone());
            tasks.spawn(async move {
                session::run(stream, peer, sink.as_ref(), &config, stop).await;
                drop(place)
            });
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            tasks.spawn(refuse(stream, peer, config.clone(), place));
        } else {
            tracing::warn!(%peer, "a DICOM connection was dropped: too many at once");
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn refuse(stream: TcpStream, peer: SocketAddr, config: Arc<ScpConfig>, _place: OwnedSemaphorePermit) {
    tracing::warn!(%peer, places = config.associations_max, "a DICOM association was refused: all places are taken");
    if let Err(error) = session::refuse(stream, &config).await {
        tracing::debug!(%peer, %error, "the refusal could not be sent");
    }
}
