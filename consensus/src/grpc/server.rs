//! The listening side: handshakes, the caller's name, and dispatch to Raft and to `node`'s handlers.
//!
//! Bounds: [`HANDSHAKES_MAX`] handshakes at once, each at most [`HANDSHAKE_TIMEOUT`]; [`CONNECTIONS_MAX`]
//! connections; [`CALLS_MAX`] calls at once on one. Beyond that callers wait or are cut off, the node goes on.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use openraft::AsyncRuntime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status};

use super::proto::core_server::{Core as CoreRpc, CoreServer};
use super::proto::raft_server::{Raft as RaftRpc, RaftServer};
use super::tls::{Allowed, Identity, Peer, TlsError, certificate_key, server_config};
use super::{FRAME_BYTES_MAX, body, frame, proto};
use crate::keys::PublicKey;
use crate::raft::cluster::{Core, submissions_from_bytes};
use crate::raft::inbound::InboundError;
use crate::raft::intake::SubmitResult;
use crate::raft::network::{Method, Transport};
use crate::raft::types::RaftId;
use crate::raft::wire;
use crate::wire::v1::Submission;

/// Handshakes at once.
pub const HANDSHAKES_MAX: usize = 64;
/// One handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at once.
pub const CONNECTIONS_MAX: usize = 1024;
/// Calls at once on one connection.
pub const CALLS_MAX: usize = 64;
/// One call, forwarded submissions included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A silent connection is asked for a sign of life after this long, and closed after as long again.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What strangers do is logged at most once in this long, with how many came meanwhile: a scanner must not fill the disk.
const STRANGERS_SAID_EVERY: Duration = Duration::from_secs(10);

/// Why a handler did not answer, as the caller is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The caller's bytes or their meaning.
    #[error("not acceptable: {0}")]
    Invalid(String),
    /// The caller may not have it.
    #[error("not allowed: {0}")]
    Denied(String),
    /// Too much at once, or over a budget.
    #[error("too much: {0}")]
    Exhausted(String),
    /// Not now.
    #[error("not available: {0}")]
    Unavailable(String),
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let words = error.to_string();
        match error {
            ServiceError::Invalid(_) => Status::invalid_argument(words),
            ServiceError::Denied(_) => Status::permission_denied(words),
            ServiceError::Exhausted(_) => Status::resource_exhausted(words),
            ServiceError::Unavailable(_) => Status::unavailable(words),
        }
    }
}

/// Raft's part of a core node: what [`Core`] answers.
#[tonic::async_trait]
pub trait RaftService: Send + Sync + 'static {
    async fn serve(&self, sender: RaftId, method: Method, body: Vec<u8>) -> Result<Vec<u8>, InboundError>;
}

#[tonic::async_trait]
impl<Rt: AsyncRuntime, T: Transport> RaftService for Core<Rt, T>
where
    Core<Rt, T>: Send + Sync,
{
    async fn serve(&self, sender: RaftId, method: Method, body: Vec<u8>) -> Result<Vec<u8>, InboundError> {
        Core::serve(self, sender, method, &body).await
    }
}

/// What `node` answers. `peer` holds the key of the connection; bodies are opaque here.
#[tonic::async_trait]
pub trait CoreService: Send + Sync + 'static {
    /// Commands of a node that is not of the core; one answer for each, in order.
    async fn submit(&self, peer: Peer, submissions: Vec<Submission>) -> Vec<SubmitResult>;
    async fn cosign(&self, peer: Peer, checkpoint: Vec<u8>) -> Result<Vec<u8>, ServiceError>;
    async fn announce_checkpoint(&self, peer: Peer, checkpoint: Vec<u8>) -> Result<(), ServiceError>;
    async fn status(&self, peer: Peer) -> Result<Vec<u8>, ServiceError>;
    async fn blind_evaluate(&self, peer: Peer, request: Vec<u8>) -> Result<Vec<u8>, ServiceError>;
}

/// The server's parts, for [`serve`].
pub struct Services {
    pub allowed: Allowed,
    pub raft: Arc<dyn RaftService>,
    pub core: Arc<dyn CoreService>,
}

/// Serves on `listener` until `stop` completes.
pub async fn serve(
    listener: TcpListener,
    identity: &Identity,
    services: Services,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let acceptor = TlsAcceptor::from(server_config(identity, services.allowed.clone())?);
    let (sender, receiver) = mpsc::channel(HANDSHAKES_MAX);
    // Ends with this function, however that ends, and frees the port.
    let mut accepting = JoinSet::new();
    accepting.spawn(accept(listener, acceptor, sender));
    let connections = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|connection| (Ok::<_, io::Error>(connection), receiver))
    });
    let handlers = Arc::new(Handlers(services));
    let served = tonic::transport::Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_MAX)
        .max_concurrent_streams(Some(CALLS_MAX as u32))
        .http2_adaptive_window(Some(true))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(
            RaftServer::from_arc(handlers.clone())
                .max_decoding_message_size(FRAME_BYTES_MAX)
                .max_encoding_message_size(FRAME_BYTES_MAX),
        )
        .add_service(
            CoreServer::from_arc(handlers)
                .max_decoding_message_size(FRAME_BYTES_MAX)
                .max_encoding_message_size(FRAME_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(connections, stop)
        .await;
    Ok(served?)
}

/// Why the core's network could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the core's network stopped: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// Takes connections and lets through those whose handshake proves a pinned key.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, connections: mpsc::Sender<Connection>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Arc::new(Strangers::default());
    loop {
        let (Ok(handshake), Ok(place)) = (handshakes.clone().acquire_owned().await, open.clone().acquire_owned().await)
        else {
            return;
        };
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, connections, strangers) = (acceptor.clone(), connections.clone(), strangers.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(acceptor, stream, place)).await {
                // Nobody receives any more only while the server stops.
                Ok(Ok(connection)) => drop(connections.send(connection).await),
                Ok(Err(error)) => strangers.refused(address, &error),
                Err(_) => strangers.refused(address, &"the handshake took too long"),
            }
            drop(handshake);
        });
    }
}

/// Who was refused, for the log.
#[derive(Default)]
struct Strangers(Mutex<Unsaid>);

#[derive(Default)]
struct Unsaid {
    last: Option<Instant>,
    refused: u64,
}

impl Strangers {
    fn refused(&self, address: SocketAddr, why: &dyn Display) {
        let mut unsaid = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsaid.refused += 1;
        if unsaid.last.is_none_or(|last| last.elapsed() >= STRANGERS_SAID_EVERY) {
            tracing::warn!(%address, %why, refused = unsaid.refused, "refused a stranger on the core's network");
            *unsaid = Unsaid { last: Some(Instant::now()), refused: 0 };
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream, place: OwnedSemaphorePermit) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificate = certificates.first().ok_or_else(|| io::Error::other("no certificate"))?;
    let key = certificate_key(certificate).map_err(io::Error::other)?;
    Ok(Connection { stream, key, _place: place })
}

/// A connection whose other side proved `key`.
struct Connection {
    stream: TlsStream<TcpStream>,
    key: PublicKey,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = PublicKey;
    fn connect_info(&self) -> PublicKey {
        self.key
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

struct Handlers(Services);

type Answer = Result<Response<proto::Frame>, Status>;

fn answer(bytes: Vec<u8>) -> Answer {
    Ok(Response::new(frame(bytes)))
}

impl Handlers {
    /// Who calls, by the set as it is now, and what.
    fn open(&self, request: Request<proto::Frame>) -> Result<(Peer, Vec<u8>), Status> {
        let peer = request.extensions().get::<PublicKey>().and_then(|key| self.0.allowed.get(key));
        let peer = peer.ok_or_else(|| Status::unauthenticated("this key is no longer admitted"))?;
        let body = body(request.into_inner()).map_err(|why| refused(&peer, Status::invalid_argument(why)))?;
        Ok((peer, body))
    }

    async fn raft(&self, method: Method, request: Request<proto::Frame>) -> Answer {
        let (peer, body) = self.open(request)?;
        let sender = peer.seat.ok_or_else(|| Status::permission_denied("only core nodes take part in Raft"))?;
        let served = self.0.raft.serve(sender, method, body).await;
        answer(served.map_err(|error| inbound_status(&error))?)
    }
}

/// Says in the log who sent what is not acceptable.
fn refused(peer: &Peer, status: Status) -> Status {
    if status.code() == Code::InvalidArgument {
        tracing::warn!(peer = ?peer.node, why = status.message(), "refused what a core node sent");
    }
    status
}

fn inbound_status(error: &InboundError) -> Status {
    let words = error.to_string();
    match error {
        InboundError::Decode(_) | InboundError::TermJump { .. } | InboundError::OtherMethod => {
            Status::invalid_argument(words)
        }
        InboundError::NotTheSender { .. } => Status::permission_denied(words),
        InboundError::Snapshot(_) => Status::failed_precondition(words),
        InboundError::Waits | InboundError::Stopped(_) => Status::unavailable(words),
    }
}

#[tonic::async_trait]
impl RaftRpc for Handlers {
    async fn append_entries(&self, request: Request<proto::Frame>) -> Answer {
        self.raft(Method::Append, request).await
    }

    async fn vote(&self, request: Request<proto::Frame>) -> Answer {
        self.raft(Method::Vote, request).await
    }

    async fn pre_vote(&self, request: Request<proto::Frame>) -> Answer {
        self.raft(Method::PreVote, request).await
    }

    async fn transfer_leader(&self, request: Request<proto::Frame>) -> Answer {
        self.raft(Method::Transfer, request).await
    }

    async fn install_snapshot(&self, request: Request<proto::Frame>) -> Answer {
        self.raft(Method::Snapshot, request).await
    }
}

#[tonic::async_trait]
impl CoreRpc for Handlers {
    async fn submit(&self, request: Request<proto::Frame>) -> Answer {
        let (peer, body) = self.open(request)?;
        if let Some(sender) = peer.seat {
            let served = self.0.raft.serve(sender, Method::Submit, body).await;
            return answer(served.map_err(|error| inbound_status(&error))?);
        }
        let submissions = submissions_from_bytes(&body)
            .map_err(|error| refused(&peer, Status::invalid_argument(error.to_string())))?;
        answer(wire::to_bytes(&self.0.core.submit(peer, submissions).await))
    }

    async fn cosign(&self, request: Request<proto::Frame>) -> Answer {
        let (peer, body) = self.open(request)?;
        answer(self.0.core.cosign(peer, body).await.map_err(|error| refused(&peer, error.into()))?)
    }

    async fn announce_checkpoint(&self, request: Request<proto::Frame>) -> Answer {
        let (peer, body) = self.open(request)?;
        self.0.core.announce_checkpoint(peer, body).await.map_err(|error| refused(&peer, error.into()))?;
        answer(Vec::new())
    }

    async fn status(&self, request: Request<proto::Frame>) -> Answer {
        let (peer, _) = self.open(request)?;
        answer(self.0.core.status(peer).await?)
    }

    async fn blind_evaluate(&self, request: Request<proto::Frame>) -> Answer {
        let (peer, body) = self.open(request)?;
        answer(self.0.core.blind_evaluate(peer, body).await.map_err(|error| refused(&peer, error.into()))?)
    }
}
