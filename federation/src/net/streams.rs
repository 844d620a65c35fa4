//! Retrieval streams between members: opening, and an accept loop that never waits.
//!
//! libp2p-stream drops an inbound stream when the loop that accepts them lags, which the opener sees only as a
//! stream that ends. So whoever accepts greets with one byte, and whoever opens tries again until it is greeted.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::{Control, IncomingStreams};
use tessera_consensus::NodeId;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::directory::Directory;
use super::handle::{NetError, NetEvent};

/// The protocol's name on the wire.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/tessera/retrieve/1");
/// What the accepting side says first.
const GREETING: u8 = 1;
/// How long opening, and then the greeting, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a stream that was not greeted is opened again, and the pause before, times the attempt.
const ATTEMPTS_MAX: u32 = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// A stream to or from a member, by whichever connection there is.
pub struct PeerStream {
    node: NodeId,
    stream: libp2p::Stream,
}

impl PeerStream {
    /// The member at the other end, as its transport key proved.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The bytes, for tests and for other protocols than retrieval.
    pub fn into_inner(self) -> libp2p::Stream {
        self.stream
    }
}

/// Hands inbound streams to the node; those that it has no room for are closed.
pub async fn accept(mut incoming: IncomingStreams, directory: Arc<Directory>, events: mpsc::WeakSender<NetEvent>) {
    while let Some((peer, stream)) = incoming.next().await {
        let Some(events) = events.upgrade() else { break };
        let Some(node) = directory.node(&peer) else { continue };
        let Ok(room) = events.try_reserve_owned() else {
            tracing::debug!(?node, "no room for another stream");
            continue;
        };
        tokio::spawn(async move {
            let mut stream = stream;
            let greeting = async {
                stream.write_all(&[GREETING]).await?;
                stream.flush().await
            };
            match timeout(STEP_TIMEOUT, greeting).await {
                Ok(Ok(())) => drop(room.send(NetEvent::Stream(PeerStream { node, stream }))),
                _ => tracing::debug!(?node, "a stream broke before it was greeted"),
            }
        });
    }
}

/// Opens a stream and waits until the other side has taken it.
pub async fn open(mut control: Control, node: NodeId, peer: PeerId) -> Result<PeerStream, NetError> {
    let mut why = String::new();
    for attempt in 1..=ATTEMPTS_MAX {
        match timeout(STEP_TIMEOUT, open_once(&mut control, peer)).await {
            Ok(Ok(stream)) => return Ok(PeerStream { node, stream }),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => return Err(NetError::Silent(STEP_TIMEOUT.as_secs())),
        }
        tokio::time::sleep(PAUSE * attempt).await;
    }
    Err(NetError::Stream(why))
}

async fn open_once(control: &mut Control, peer: PeerId) -> io::Result<libp2p::Stream> {
    let mut stream = control.open_stream(peer, PROTOCOL).await.map_err(io::Error::other)?;
    let mut greeting = [0];
    stream.read_exact(&mut greeting).await?;
    if greeting != [GREETING] {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an unknown greeting; one node needs an upgrade"));
    }
    Ok(stream)
}
