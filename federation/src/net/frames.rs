//! Retrieval frames on an asynchronous byte stream. Memory for a body is taken as its bytes arrive.
//! Each frame's length is checked against its kind's bound before anything is allocated; what does not parse ends the
//! stream and never the node. Not here: what frames mean, which is [`crate::retrieve`]'s.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::retrieve::frame::{DATA_PREFIX_BYTES, Frame, FrameError, HEADER_BYTES, Header, Message};
use crate::retrieve::groups::GROUP_BYTES;

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended or broke.
    #[error("the stream ended: {0}")]
    Ended(#[from] io::Error),
    #[error(transparent)]
    Garbage(#[from] FrameError),
}

/// Reads one frame.
pub async fn read<M: Message>(io: &mut (impl AsyncRead + Unpin)) -> Result<Frame<M>, ReadError> {
    let mut head = [0; HEADER_BYTES];
    io.read_exact(&mut head).await?;
    let header = Header::parse(head)?;
    let mut prefix = [0; DATA_PREFIX_BYTES];
    io.read_exact(&mut prefix[..header.prefix_bytes()]).await?;
    let mut body = Vec::new();
    while body.len() < header.body_bytes() {
        let have = body.len();
        body.resize(header.body_bytes().min(have + GROUP_BYTES), 0);
        io.read_exact(&mut body[have..]).await?;
    }
    Ok(Frame::from_parts(header, prefix, body)?)
}

/// Writes one frame; flushing is the caller's matter.
pub async fn write<M: Message>(io: &mut (impl AsyncWrite + Unpin), frame: Frame<M>) -> io::Result<()> {
    let (head, body) = frame.to_parts();
    io.write_all(&head).await?;
    io.write_all(&body).await
}
