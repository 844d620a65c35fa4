//! The core's network: gRPC over mutually authenticated TLS 1.3 (feature `grpc`).
//!
//! [`tls`] decides who may connect: exactly the holders of pinned keys. [`server`] names the caller to the handlers
//! and hands Raft's calls to [`crate::raft::cluster`]. [`client`] is Raft's transport and the members' way to the
//! core. Nothing here understands what it carries; sizes and times are bounded here. [`watermark`] is the file that
//! a real core node keeps beside its log.

pub mod client;
mod reach;
pub mod server;
pub mod tls;
pub mod watermark;

/// Generated from `proto/tessera/core/v1/core.proto`.
#[allow(clippy::all, clippy::too_many_lines, missing_docs)]
pub mod proto {
    tonic::include_proto!("tessera.core.v1");
}

use crate::raft::network::Method;

/// Version of the encoding that frames carry.
pub const FRAME_VERSION: u32 = 1;
/// One frame with its own few bytes.
pub const FRAME_BYTES_MAX: usize = crate::raft::wire::MESSAGE_BYTES_MAX + 64;

/// A call of the core's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Raft(Method),
    Cosign,
    AnnounceCheckpoint,
    Status,
    BlindEvaluate,
}

fn frame(body: Vec<u8>) -> proto::Frame {
    proto::Frame { version: FRAME_VERSION, body }
}

fn body(frame: proto::Frame) -> Result<Vec<u8>, String> {
    if frame.version != FRAME_VERSION {
        return Err(format!("frame version {} is not known to this node; upgrade it", frame.version));
    }
    Ok(frame.body)
}
