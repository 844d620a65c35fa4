//! Everything that this node says over HTTP: DICOMweb, the console's pages, and the viewer's files.
//!
//! What is here answers from the local archive; what concerns other sites is asked through [`Federated`], which the
//! member's side of the node implements. Nothing here decides who may see what of another site.
//!
//! Invariants: every answer has a bound in bytes or is a stream with a bounded queue; calls that block for the
//! disk run on blocking threads; no patient number is logged; a page of another origin can make a browser do nothing
//! here but open a page.

mod console;
mod dicomweb;
mod error;
mod fetching;
mod guard;
mod negotiation;
mod origin;
mod server;
mod stream;
#[cfg(test)]
mod testing;
mod viewer;
mod whose;

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use tessera_federation::retrieve::wire::v1::RefusalCode;
use tessera_policy::Purpose;

use crate::archive::Archive;
use crate::archive::catalogue::StudyRecord;
use crate::archive::copies::CopyRecord;
use crate::control::wire::{FetchCall, FetchDone, HistoryCall, HistoryDone, StatusDone};

pub use server::{Limits, serve};

/// What the pages and DICOMweb ask of this node as a member of the federation.
pub trait Federated: Send + Sync + 'static {
    /// A patient's examinations at all sites, by the local replica.
    fn history(&self, call: HistoryCall) -> BoxFuture<'_, anyhow::Result<HistoryDone>>;
    /// Brings a study of another site into this archive. The holder's answer against it is [`HolderRefused`]; every
    /// other error is a failure of ours, of the holder's node or of the line.
    fn fetch(&self, call: FetchCall) -> BoxFuture<'_, anyhow::Result<FetchDone>>;
    /// Why a copy may not be shown now, for a purpose or for any; `None`: it may. By the local replica; blocks for the disk.
    fn copy_closed(&self, copy: &CopyRecord, purpose: Option<Purpose>) -> anyhow::Result<Option<String>>;
    /// Whether a study of this archive is a patient's by the numbers that are known here; no other node is asked and no
    /// records are looked up. Blocks for the disk.
    fn is_known_as(&self, own: &StudyRecord, patient: &str) -> bool;
    /// What this node is and does.
    fn status(&self) -> BoxFuture<'_, anyhow::Result<StatusDone>>;
}

/// The holder of a study refused it, now or for good, or was rightly not asked.
#[derive(Debug, thiserror::Error)]
#[error("refused by {by}: {}", [std::slice::from_ref(.why), .reasons].concat().join("; "))]
pub struct HolderRefused {
    pub code: RefusalCode,
    /// The legal name of the site that refused.
    pub by: String,
    /// What kind of refusal it is.
    pub why: String,
    /// In that site's own words, which may begin with a code and a colon.
    pub reasons: Vec<String>,
}

/// What the handlers share.
struct Service {
    archive: Arc<Archive>,
    federated: Arc<dyn Federated>,
    streams: stream::Streams,
    fetching: fetching::Fetching,
    answers: whose::Answers,
    frame_tables: dicomweb::FrameTables,
}

type Shared = Arc<Service>;

/// The whole web side of a node. `viewer` is the directory of the prebuilt OHIF viewer.
pub fn router(archive: Arc<Archive>, federated: Arc<dyn Federated>, viewer: Option<PathBuf>) -> axum::Router {
    let title = archive.config().default_site().legal_name.clone();
    let hosts = guard::Hosts::of(&archive.config().http);
    let service = Arc::new(Service {
        archive,
        federated,
        streams: stream::Streams::default(),
        fetching: fetching::Fetching::default(),
        answers: whose::Answers::default(),
        frame_tables: dicomweb::FrameTables::default(),
    });
    let own = console::routes().nest("/dicom-web", dicomweb::routes()).with_state(service);
    own.merge(viewer::Viewer::open(viewer.as_deref(), &title).routes())
        .layer(axum::middleware::from_fn_with_state(hosts, guard::same_origin))
}

/// A client that waits for an answer. Work that may take long asks whether it still does.
struct Client(Weak<()>);

impl Client {
    fn is_there(&self) -> Result<(), error::HttpError> {
        if self.0.strong_count() > 0 { Ok(()) } else { Err(error::HttpError::ClientLeft) }
    }
}

/// As [`blocking`], for work that ends when the client leaves: its request is dropped then, and this with it.
async fn blocking_for_client<T: Send + 'static>(
    work: impl FnOnce(&Client) -> Result<T, error::HttpError> + Send + 'static,
) -> Result<T, error::HttpError> {
    let waiting = Arc::new(());
    let client = Client(Arc::downgrade(&waiting));
    let done = blocking(move || work(&client)).await;
    drop(waiting);
    done
}

/// Runs a call that blocks for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, error::HttpError> + Send + 'static,
) -> Result<T, error::HttpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(error::HttpError::Internal(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

    #[tokio::test]
    async fn work_hears_that_its_client_left() {
        let (ended, hears) = std::sync::mpsc::channel();
        let work = move |client: &Client| {
            while client.is_there().is_ok() {
                std::thread::yield_now();
            }
            ended.send(()).map_err(|error| error::HttpError::Internal(error.to_string()))
        };
        let mut answer = Box::pin(blocking_for_client(work));
        assert!(futures::poll!(answer.as_mut()).is_pending());
        drop(answer);
        let heard = tokio::task::spawn_blocking(move || hears.recv_timeout(DEADLINE)).await.expect("a thread");
        heard.expect("the work ended");
    }
}
