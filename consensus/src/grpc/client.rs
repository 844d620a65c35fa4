//! The dialling side: one connection to each core node, opened when needed, reused, and opened again after a loss
//! with growing pauses. Raft's [`Transport`] in `node`, and the members' way to the core.
//!
//! Not here: retries of calls. Who calls knows whether a call may be repeated.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use openraft::base::BoxFuture;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

use super::proto::core_client::CoreClient;
use super::proto::raft_client::RaftClient;
use super::reach::Reach;
use super::server::{HANDSHAKE_TIMEOUT, KEEPALIVE};
use super::tls::{Allowed, Identity, TlsError, client_config};
use super::{Call, FRAME_BYTES_MAX, body, frame};
use crate::ids::NodeId;
use crate::raft::network::{Method, Transport, TransportError};
use crate::raft::types::{CoreNode, RaftId};

/// Pause after the first failed dial; it doubles with each further one.
const REDIAL_MIN: Duration = Duration::from_millis(100);
/// The server works on a call for so much longer than the caller waits.
const SERVER_GRACE: Duration = Duration::from_secs(1);
/// Longest pause between dials.
const REDIAL_MAX: Duration = Duration::from_secs(5);

/// Calls core nodes. Clones share the connections.
#[derive(Clone)]
pub struct GrpcTransport {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    allowed: Allowed,
    channels: Mutex<BTreeMap<(NodeId, String), Channel>>,
    reach: Reach,
}

impl GrpcTransport {
    /// `allowed` says which key each node has; it is asked at every handshake.
    pub fn new(identity: Identity, allowed: Allowed) -> Self {
        Self { shared: Arc::new(Shared { identity, allowed, channels: Mutex::default(), reach: Reach::default() }) }
    }

    /// One call and its answer.
    pub async fn request(
        &self,
        peer: &CoreNode,
        call: Call,
        bytes: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let outcome = self.attempt(peer, call, bytes, timeout).await;
        self.shared.reach.note(peer, &outcome);
        outcome
    }

    async fn attempt(
        &self,
        peer: &CoreNode,
        call: Call,
        bytes: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        let unreachable = |reason: String| TransportError::Unreachable { peer: peer.name.clone(), reason };
        let channel = self.channel(peer).map_err(unreachable)?;
        let mut request = Request::new(frame(bytes));
        // The server gives up a little later than this side, so that here one clock decides.
        request.set_timeout(timeout + SERVER_GRACE);
        let answered = tokio::time::timeout(timeout, dispatch(channel, call, request)).await;
        let timed_out = TransportError::Timeout { peer: peer.name.clone(), after: timeout };
        let answered = answered.map_err(|_| timed_out.clone())?;
        let answer = answered.map_err(|status| match status.code() {
            Code::DeadlineExceeded => timed_out,
            // Cancelled: the connection broke under the call, as it does when the other side refuses this key.
            Code::Unavailable | Code::Unknown | Code::Cancelled => unreachable(reason(&status)),
            _ => TransportError::Refused { peer: peer.name.clone(), reason: status.message().into() },
        })?;
        body(answer.into_inner()).map_err(unreachable)
    }

    fn channel(&self, peer: &CoreNode) -> Result<Channel, String> {
        let mut channels = self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (peer.node, peer.address.clone());
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        // A node that moved has one address at a time.
        channels.retain(|(node, _), _| *node != peer.node);
        let channel = self.dial(peer).map_err(|error| error.to_string())?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }

    fn dial(&self, peer: &CoreNode) -> Result<Channel, DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", peer.address))?
            .connect_timeout(HANDSHAKE_TIMEOUT)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let config = client_config(&self.shared.identity, self.shared.allowed.clone(), peer.node)?;
        let dialler = Dialler { address: peer.address.clone().into(), tls: config.into(), pauses: Arc::default() };
        Ok(endpoint.connect_with_connector_lazy(dialler))
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("its address is not one: {0}")]
    Address(#[from] tonic::transport::Error),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The innermost reason, which is the one that helps: tonic wraps it in "transport error".
fn reason(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    let mut words = status.message().to_owned();
    while let Some(source) = error.source() {
        words = source.to_string();
        error = source;
    }
    words
}

async fn dispatch(
    channel: Channel,
    call: Call,
    request: Request<super::proto::Frame>,
) -> Result<tonic::Response<super::proto::Frame>, Status> {
    let limit = FRAME_BYTES_MAX;
    let mut raft = RaftClient::new(channel.clone()).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let mut core = CoreClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit);
    match call {
        Call::Raft(Method::Append) => raft.append_entries(request).await,
        Call::Raft(Method::Vote) => raft.vote(request).await,
        Call::Raft(Method::PreVote) => raft.pre_vote(request).await,
        Call::Raft(Method::Transfer) => raft.transfer_leader(request).await,
        Call::Raft(Method::Snapshot) => raft.install_snapshot(request).await,
        Call::Raft(Method::Submit) => core.submit(request).await,
        Call::Cosign => core.cosign(request).await,
        Call::AnnounceCheckpoint => core.announce_checkpoint(request).await,
        Call::Status => core.status(request).await,
        Call::BlindEvaluate => core.blind_evaluate(request).await,
    }
}

impl Transport for GrpcTransport {
    fn call(
        &self,
        _: RaftId,
        peer: &CoreNode,
        method: Method,
        bytes: Vec<u8>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let (this, peer) = (self.clone(), peer.clone());
        Box::pin(async move { this.request(&peer, Call::Raft(method), bytes, timeout).await })
    }
}

/// Opens the connection to one node, not more often than its pauses allow.
#[derive(Clone)]
struct Dialler {
    address: Arc<str>,
    tls: TlsConnector,
    pauses: Arc<Mutex<Pauses>>,
}

#[derive(Default)]
struct Pauses {
    failures: u32,
    not_before: Option<Instant>,
}

impl Pauses {
    fn remaining(&self) -> Option<Duration> {
        self.not_before.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn failed(&mut self) {
        let pause = REDIAL_MIN.saturating_mul(1 << self.failures.min(10)).min(REDIAL_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause);
    }
}

impl Dialler {
    async fn dial(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let pauses = || self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = pauses().remaining() {
            return Err(io::Error::other(format!("{} did not answer; next attempt in {left:?}", self.address)));
        }
        let connected = async {
            let stream = TcpStream::connect(&*self.address).await?;
            stream.set_nodelay(true)?;
            // The name says nothing: the key does.
            let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([127, 0, 0, 1])));
            self.tls.connect(name, stream).await
        };
        let connected = connected.await;
        match &connected {
            Ok(_) => *pauses() = Pauses::default(),
            Err(_) => pauses().failed(),
        }
        connected.map(TokioIo::new)
    }
}

impl tower::Service<Uri> for Dialler {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}
