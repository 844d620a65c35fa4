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

/// What a peer asks. Bytes that are no request come up with the peer's name, which libp2p would not tell of an error.
#[derive(Debug)]
pub enum Asked {
    Request(Box<PeerRequest>),
    Garbage(String),
}

/// Whether it is what a peer sent that is wrong, and not a line that broke.
pub fn is_garbage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

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
        io.read_exact(&mut bytes[have..]).await.map_err(|error| cut_short::<E>(error, have, length))?;
    }
    E::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A message that ends early: the peer's doing, or that of the line. `have` bytes of it are known to have come.
fn cut_short<E: Envelope>(error: io::Error, have: usize, length: usize) -> io::Error {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return error;
    }
    let why = format!("{}: it ended within {have} to {} of its {length} bytes", E::WHAT, length.min(have + STEP_BYTES));
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
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
    type Request = Asked;
    type Response = PeerReply;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Asked>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read(io).await {
            Ok(request) => Ok(Asked::Request(Box::new(request))),
            Err(error) if is_garbage(&error) => Ok(Asked::Garbage(error.to_string())),
            Err(error) => Err(error),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<PeerReply>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, asked: Asked) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match asked {
            Asked::Request(request) => write(io, *request).await,
            Asked::Garbage(why) => Err(io::Error::new(io::ErrorKind::InvalidInput, why)),
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, reply: PeerReply) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, reply).await
    }
}
