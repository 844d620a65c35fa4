//! A node's web side for tests: an archive with its catalogue in memory and its packs in a temporary folder, data sets
//! written by hand, and a federation that says what a test told it to say.
//! Not for tests of the archive or of the member's side: those have their own.

use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tessera_federation::retrieve::wire::v1::RefusalCode;
use tessera_policy::Purpose;
use tessera_storage::MemoryEngine;
use tower::ServiceExt;

use super::Federated;
use crate::archive::catalogue::StudyRecord;
use crate::archive::copies::CopyRecord;
use crate::archive::ingest::{Origin, now_ms};
use crate::archive::{Archive, TABLES, testing as copied};
use crate::control::wire::{FetchCall, FetchDone, HistoryCall, HistoryDone, HistoryStudy, StatusDone};
use crate::dicom::identifiers::Uid;
use crate::dicom::syntax::TransferSyntax;
use crate::dicom::testing::DataSetBuilder;

const BODY_BYTES_MAX: usize = 16 << 20;

/// What the holder of a study says when its rules are against it.
pub fn no_consent() -> anyhow::Error {
    refused(
        RefusalCode::DENIED,
        "the rules or the patient's consent do not allow it",
        &["no-basis: no consent is in force"],
    )
}

/// What it says when it is cut off from the core.
pub fn cut_off() -> anyhow::Error {
    refused(RefusalCode::STALE, "its knowledge is too old to decide", &[])
}

/// What it says when its disk failed.
pub fn faulty() -> anyhow::Error {
    refused(RefusalCode::HOLDER_FAULT, "it could not record the disclosure", &[])
}

/// What it says of a revision that it no longer has.
pub fn gone() -> anyhow::Error {
    refused(RefusalCode::NOT_HERE, "it no longer has this revision", &[])
}

/// What another site's record says of study 1.2.3.
pub fn record_at(holder: &str, record: u8) -> HistoryStudy {
    HistoryStudy {
        study_uid: "1.2.3".into(),
        site: holder.into(),
        site_name: format!("{holder} 医院"),
        record: copied::copy_id(holder, record, 1).record.to_string(),
        study_date: "20260202".into(),
        ..Default::default()
    }
}

fn refused(code: RefusalCode, why: &str, reasons: &[&str]) -> anyhow::Error {
    let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
    super::HolderRefused { code, by: "乙县医院".into(), why: why.into(), reasons }.into()
}

/// The data sets that arrive, and the archive that takes them.
type Arrival = (Arc<Archive>, Vec<Vec<u8>>);

/// Answers what it was told, and remembers what it was asked.
#[derive(Default)]
pub struct Told {
    pub history: Mutex<HistoryDone>,
    /// No core node can be reached, and no key is kept here.
    pub keyless: Mutex<bool>,
    pub asked: Mutex<Vec<String>>,
    /// The refusal or failure of every fetch; `None`: the objects below arrive, as a copy from county-b.
    pub fetch_error: Mutex<Option<fn() -> anyhow::Error>>,
    pub arrives: Mutex<Option<Arrival>>,
    /// Why no copy may be shown.
    pub closed: Mutex<Option<String>>,
}

impl Federated for Told {
    fn history(&self, call: HistoryCall) -> BoxFuture<'_, anyhow::Result<HistoryDone>> {
        self.asked.lock().expect("a lock").push(call.id);
        let history = self.history.lock().expect("a lock").clone();
        let keyless = *self.keyless.lock().expect("a lock");
        async move { if keyless { Err(anyhow::anyhow!("no core hospital answered")) } else { Ok(history) } }.boxed()
    }

    fn fetch(&self, call: FetchCall) -> BoxFuture<'_, anyhow::Result<FetchDone>> {
        self.asked.lock().expect("a lock").push(format!("{} {} {} {}", call.study, call.id, call.purpose, call.user));
        let error = *self.fetch_error.lock().expect("a lock");
        let arrives = self.arrives.lock().expect("a lock").clone();
        async move {
            if let Some(error) = error {
                return Err(error());
            }
            if let Some((archive, data_sets)) = arrives {
                copied::whole(&archive, &copied::copy_id("county-b", 1, 1), &data_sets);
            }
            Ok(FetchDone { objects: 1, ..Default::default() })
        }
        .boxed()
    }

    fn copy_closed(&self, copy: &CopyRecord, purpose: Option<Purpose>) -> anyhow::Result<Option<String>> {
        copy.closed(purpose, now_ms(), |_| Ok(self.closed.lock().expect("a lock").clone()))
    }

    fn is_known_as(&self, own: &StudyRecord, patient: &str) -> bool {
        patient == format!("hospital:CA/{}", own.patient.patient_id)
    }

    fn status(&self) -> BoxFuture<'_, anyhow::Result<StatusDone>> {
        async { Ok(StatusDone { federation: "county-trial".into(), ..Default::default() }) }.boxed()
    }
}

/// A node's web side.
pub struct Web {
    pub archive: Arc<Archive>,
    pub told: Arc<Told>,
    router: axum::Router,
    _folder: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.collect::<Vec<_>>().join("; ")
    }

    /// Heads and bodies of the parts, by the boundary that the answer names.
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        let kind = self.header("content-type");
        let boundary = kind.split("boundary=").nth(1).expect("a boundary");
        let whole = [b"\r\n".as_slice(), &self.body].concat();
        let mark = format!("\r\n--{boundary}");
        let mut places: Vec<usize> =
            whole.windows(mark.len()).enumerate().filter(|(_, w)| *w == mark.as_bytes()).map(|(at, _)| at).collect();
        let end = places.pop().expect("a closing boundary");
        assert!(whole[end + mark.len()..].starts_with(b"--"), "the last boundary closes");
        let ends = places.iter().skip(1).copied().chain([end]);
        let part = |(start, end): (&usize, usize)| {
            let part = &whole[start + mark.len() + 2..end];
            let at = part.windows(4).position(|w| w == b"\r\n\r\n").expect("a part's head");
            (String::from_utf8_lossy(&part[..at]).into_owned(), part[at + 4..].to_vec())
        };
        places.iter().zip(ends).map(part).collect()
    }
}

impl Web {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let engine = Arc::new(MemoryEngine::open(&TABLES).expect("an engine").auto_flush(true));
        let archive = copied::open(engine, folder.path());
        let told = Arc::new(Told::default());
        let router = super::router(archive.clone(), told.clone(), None);
        Self { archive, told, router, _folder: folder }
    }

    pub async fn store(&self, syntax: &str, data_set: &[u8]) {
        let uid = Uid::parse(syntax).expect("a UID");
        let taken = self.archive.take(Origin::Import, uid, None, Bytes::copy_from_slice(data_set)).await;
        taken.expect("the object is taken");
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header("host", "node.test:8080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).expect("a request")).await
    }

    pub async fn post(&self, path: &str, kind: &str, body: &str) -> Answer {
        let request = Request::post(path).header("content-type", kind).body(Body::from(body.to_owned()));
        self.send(request.expect("a request")).await
    }

    /// The body of an answer, to be read as slowly as a test likes.
    pub async fn open(&self, path: &str) -> axum::body::BodyDataStream {
        let request = Request::get(path).header("host", "node.test:8080");
        let request = request.body(Body::empty()).expect("a request");
        self.router.clone().oneshot(request).await.expect("infallible").into_body().into_data_stream()
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, BODY_BYTES_MAX).await.expect("a whole body");
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// One object of the test's studies.
pub struct Sample<'a> {
    pub syntax: &'a str,
    pub study: &'a str,
    pub series: &'a str,
    pub instance: &'a str,
    pub patient_id: &'a str,
    pub date: &'a str,
    pub modality: &'a str,
    /// Values of (0008,0005) and (0010,0010), and of (0008,1030).
    pub character_set: &'a str,
    pub name: &'a [u8],
    pub description: &'a [u8],
}

impl Default for Sample<'_> {
    fn default() -> Self {
        Self {
            syntax: crate::dicom::syntax::EXPLICIT_LITTLE,
            study: "1.2.3",
            series: "1.2.3.1",
            instance: "1.2.3.1.1",
            patient_id: "H-1",
            date: "20260131",
            modality: "CT",
            character_set: "",
            name: b"Phantom^One",
            description: b"Chest",
        }
    }
}

impl Sample<'_> {
    /// The data set without pixels; the caller adds them.
    pub fn begin(&self) -> DataSetBuilder {
        let syntax = TransferSyntax::of(&Uid::parse(self.syntax).expect("a UID"));
        let mut out = DataSetBuilder::new(syntax.encoding());
        if !self.character_set.is_empty() {
            out.text(0x0008, 0x0005, "CS", self.character_set.as_bytes());
        }
        out.text(0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2")
            .text(0x0008, 0x0018, "UI", self.instance.as_bytes())
            .text(0x0008, 0x0020, "DA", self.date.as_bytes())
            .text(0x0008, 0x0060, "CS", self.modality.as_bytes())
            .text(0x0008, 0x1030, "LO", self.description)
            .text(0x0010, 0x0010, "PN", self.name)
            .text(0x0010, 0x0020, "LO", self.patient_id.as_bytes())
            .text(0x0020, 0x000D, "UI", self.study.as_bytes())
            .text(0x0020, 0x000E, "UI", self.series.as_bytes())
            .text(0x0020, 0x0013, "IS", b"1");
        out
    }

    /// Rows, columns and frames of 16-bit pixels.
    pub fn shape(out: &mut DataSetBuilder, rows: u16, columns: u16, frames: &str) {
        out.number(0x0028, 0x0002, 1)
            .text(0x0028, 0x0008, "IS", frames.as_bytes())
            .number(0x0028, 0x0010, rows)
            .number(0x0028, 0x0011, columns)
            .number(0x0028, 0x0100, 16);
    }
}
