//! The command line's side of the control socket.
//!
//! One connection a call. Answers are read line by line and bounded: the node is our own, but a damaged socket
//! must not fill the memory.

use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::wire::{Line, Progress};

/// One line of an answer (a long history is the largest).
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Calls `path` of the node whose control socket is `socket`; `progress` sees each step.
pub async fn call<A: Serialize, R: DeserializeOwned>(
    socket: &Path,
    path: &str,
    argument: &A,
    mut progress: impl FnMut(Progress),
) -> anyhow::Result<R> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("no node is running on {}: start it with `tessera node --dir ...`", socket.display())
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = hyper::Request::post(path)
        .header("host", "node")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(argument)?)))?;
    let response = sender.send_request(request).await.context("the node did not answer")?;
    let status = response.status();
    let mut body = response.into_body();
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken = "the node ended before it had answered; what was asked may be done, and may be asked again";
        if let Some(data) = frame.context(broken)?.data_ref() {
            buffer.extend_from_slice(data);
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            match serde_json::from_slice(&line).context("the node's answer is not one that this program knows")? {
                Line::Progress(step) => progress(step),
                Line::Done(value) => return Ok(serde_json::from_value(value)?),
                Line::Error(message) => bail!(message),
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            bail!("the node's answer is too long");
        }
    }
    driver.abort();
    bail!("the node ended its answer early (HTTP {status}); see its log")
}
