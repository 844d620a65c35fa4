//! The node's side of the control socket.
//!
//! The socket is created anew at each start (an old file of a killed node is removed only after the directory's
//! database lock was taken, so a running node never loses its own) and readable by its owner alone.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::wire::{Line, Progress};

/// Lines that wait for a slow reader; a call goes on only as fast as its caller reads.
const LINES_WAITING_MAX: usize = 64;

/// Where a long call tells how far it is. Dropping steps is harmless, so a slow reader never holds up the work.
#[derive(Clone)]
pub struct Reporter(Option<mpsc::Sender<Line>>);

impl Reporter {
    /// For callers who do not want to hear of it.
    pub fn silent() -> Self {
        Self(None)
    }

    pub fn step(&self, progress: Progress) {
        if let Some(sender) = &self.0 {
            let full = sender.try_send(Line::Progress(progress)).is_err();
            tracing::trace!(full, "progress");
        }
    }
}

/// A route that runs `work` and answers in JSON lines.
pub fn route<S, A, R, F, W>(work: W) -> axum::routing::MethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
    A: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
    F: Future<Output = anyhow::Result<R>> + Send + 'static,
    W: Fn(S, A, Reporter) -> F + Clone + Send + Sync + 'static,
{
    post(move |axum::extract::State(state): axum::extract::State<S>, Json(argument): Json<A>| {
        let work = work.clone();
        async move { lines(move |reporter| work(state, argument, reporter)) }
    })
}

fn lines<R, F>(work: impl FnOnce(Reporter) -> F) -> Response
where
    R: Serialize + Send + 'static,
    F: Future<Output = anyhow::Result<R>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES_WAITING_MAX);
    let future = work(Reporter(Some(sender.clone())));
    tokio::spawn(async move {
        let last = match future.await.and_then(|value| Ok(serde_json::to_value(value)?)) {
            Ok(value) => Line::Done(value),
            Err(error) => Line::Error(format!("{error:#}")),
        };
        // A caller who went away has no use for the answer.
        let gone = sender.send(last).await.is_err();
        tracing::trace!(gone, "control call ended");
    });
    let stream = ReceiverStream::new(receiver).map(|line| {
        let mut bytes = serde_json::to_vec(&line).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        Ok::<_, std::io::Error>(bytes)
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

/// Binds the socket and serves until the program ends.
pub fn serve(socket: &Path, router: Router) -> std::io::Result<tokio::task::JoinHandle<std::io::Result<()>>> {
    if socket.exists() {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(tokio::spawn(async move { axum::serve(listener, router).await }))
}
