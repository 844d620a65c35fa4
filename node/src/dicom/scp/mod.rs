//! The DICOM receiver: C-ECHO and C-STORE as SCP (PS3.4 annex B), many associations at once.
//!
//! It takes every storage SOP class and keeps data sets byte for byte in the syntax in which they come. What becomes
//! of an object is the archive's business, behind [`StoreSink`]; a sender is answered when the archive says that
//! the object is durable, and not before (promise P1).
//!
//! `wire` is the socket, `negotiate` the association, `command` the DIMSE messages, `session` one association from
//! its first to its last byte.
//!
//! Bounds: `associations_max` associations, `associations_per_address_max` of one remote address, each with at most
//! [`negotiate::OPERATIONS_MAX`] + 1 objects of [`BUFFERED_BYTES_MAX`](super::sink::BUFFERED_BYTES_MAX) in memory (two,
//! for the senders that ask for no window, which is nearly all) and one read buffer. A peer that asks for one more is
//! told to come back later. Connections that have not asked for an association hold none of those places: they have
//! `WAITING_MAX` of their own, [`ScpConfig::request_patience`] for the whole request, and are dropped beyond that.

mod command;
#[cfg(test)]
mod crowd_tests;
mod negotiate;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::identifiers::AeTitle;
use super::sink::StoreSink;
use crate::connections::{ACCEPT_PAUSE, Places, TurnedAway};

/// Connections that have not asked for an association yet: in all, and of one remote address. A device asks within
/// milliseconds, so that these are many.
const WAITING_MAX: usize = 128;
const WAITING_PER_ADDRESS_MAX: usize = 32;

/// How the receiver behaves.
#[derive(Debug, Clone)]
pub struct ScpConfig {
    /// Associations at once, in all and of one remote address.
    pub associations_max: usize,
    pub associations_per_address_max: usize,
    /// The titles that it answers to; empty means any.
    pub called_ae_titles: Vec<AeTitle>,
    /// How long a connection may take to ask for its association, to the last byte of the request: the ARTIM timer of
    /// PS3.8 section 9.1.5.
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
            associations_per_address_max: 16,
            called_ae_titles: Vec::new(),
            request_patience: Duration::from_secs(30),
            idle_patience: Duration::from_secs(600),
            message_patience: Duration::from_secs(60),
        }
    }
}

/// What all sessions share.
struct Receiver {
    sink: Arc<dyn StoreSink>,
    config: ScpConfig,
    places: Arc<Places>,
    turned_away: TurnedAway,
    stop: CancellationToken,
}

/// Serves until `stop`; then refuses new connections, answers what is under way and aborts idle associations.
pub async fn serve(listener: TcpListener, sink: Arc<dyn StoreSink>, config: ScpConfig, stop: CancellationToken) {
    let places = Places::new(config.associations_max, config.associations_per_address_max);
    let waiting = Places::new(WAITING_MAX, WAITING_PER_ADDRESS_MAX);
    let receiver = Arc::new(Receiver { sink, config, places, turned_away: TurnedAway::from("DICOM"), stop });
    let mut tasks = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = receiver.stop.cancelled() => break,
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
        match waiting.take(peer.ip()) {
            Ok(place) => drop(tasks.spawn(session::run(stream, peer, receiver.clone(), place))),
            // Without its request it can't be told why.
            Err(full) => receiver.turned_away.tell(peer, &full),
        }
    }
    while tasks.join_next().await.is_some() {}
}
