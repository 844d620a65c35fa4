//! This member behind the web side of the node: history, fetch and status for pages and DICOMweb.
//! Not here: pages and formats, which are `http`'s, and decisions, which are the holder's.
//! Refusals pass through in the holder's own words.

use std::sync::Arc;

use anyhow::Context;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_policy::{Identifier, Purpose};

use super::Member;
use crate::archive::catalogue::StudyRecord;
use crate::archive::copies::CopyRecord;
use crate::control::server::Reporter;
use crate::control::wire::{FetchCall, FetchDone, HistoryCall, HistoryDone, StatusDone};
use crate::http::{Federated, Limits, router, serve};

struct Web(Arc<Member>);

impl Federated for Web {
    fn history(&self, call: HistoryCall) -> BoxFuture<'_, anyhow::Result<HistoryDone>> {
        async move { self.0.history(&call).await }.boxed()
    }

    fn fetch(&self, call: FetchCall) -> BoxFuture<'_, anyhow::Result<FetchDone>> {
        async move { self.0.fetch(call, Reporter::silent()).await }.boxed()
    }

    fn copy_closed(&self, copy: &CopyRecord, purpose: Option<Purpose>) -> anyhow::Result<Option<String>> {
        self.0.copy_closed(copy, purpose)
    }

    fn is_known_as(&self, own: &StudyRecord, patient: &str) -> bool {
        // What is no number is nobody's.
        Identifier::parse(patient).is_ok_and(|patient| self.0.is_of(&[patient], own))
    }

    fn status(&self) -> BoxFuture<'_, anyhow::Result<StatusDone>> {
        async move { self.0.status() }.boxed()
    }
}

/// Serves pages, DICOMweb and viewer, where the configuration says so.
pub async fn start(member: &Arc<Member>) -> anyhow::Result<()> {
    let Some(listen) = member.config.http.listen else { return Ok(()) };
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("[http] listen {listen}"))?;
    let viewer = member.config.http.viewer.clone();
    let routes = router(member.archive.clone(), Arc::new(Web(member.clone())), viewer);
    tokio::spawn(serve(listener, routes, Limits::default()));
    Ok(())
}
