//! How requests and replies lie on a libp2p request-response stream: a length (u32 big-endian), then the bytes of
//! one [`Envelope`]. The length is checked before anything is allocated; what does not read ends the stream.
//! Not here: what the messages mean, and who may ask; lengths are checked before anything is allocated.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response;

use super::wire::{Envelope, PeerReply, PeerRequest};

/// The protocol's name on the wire.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/tessera/follow/1");
/// Memory is taken in such steps, as bytes really arrive.
const STEP_BYTES: usize = 256 * 1024;

/// See the module's header.
#[derive(Clone, Default)]
pub struct Codec;

async fn read<E: Envelope>(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<E> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > E::BYTES_MAX {
        let why = format!("{}: {length} bytes, at most {} are accepted", E::WHAT, E::BYTES_MAX);
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let have = bytes.len();
        bytes.resize(length.min(have + STEP_BYTES), 0);
        io.read_exact(&mut bytes[have..]).await?;
    }
    E::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn write<E: Envelope>(io: &mut (impl AsyncWrite + Unpin + Send), message: E) -> io::Result<()> {
    let bytes = message.to_bytes();
    if bytes.len() > E::BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} of {} bytes", E::WHAT, bytes.len())));
    }
    io.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    io.write_all(&bytes).await
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = PeerRequest;
    type Response = PeerReply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<PeerRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<PeerReply>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: PeerRequest) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, reply: PeerReply) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, reply).await
    }
}
