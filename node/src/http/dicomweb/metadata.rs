//! WADO-RS metadata: the JSON of every object of a study, series or instance, one after the other.
//!
//! Of a damaged object comes what is sound, as it is read elsewhere too: a viewer shows the rest of the study.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tessera_storage::pixels::ObjectHash;

use super::retrieve::{reader, source};
use super::{Pairs, Target, ensure_here, must_take_json, root};
use crate::archive::Archive;
use crate::archive::catalogue::ObjectRecord;
use crate::archive::ingest::charset_policy;
use crate::dicom::bulk::BulkPath;
use crate::dicom::facts::ObjectFacts;
use crate::dicom::identifiers::Uid;
use crate::dicom::json::{JsonDataSet, metadata_so_far};
use crate::dicom::source::{Source, in_file, in_memory};
use crate::dicom::syntax::TransferSyntax;
use crate::http::error::HttpError;
use crate::http::stream::{Sink, StreamError};
use crate::http::{Shared, blocking};

/// Objects up to this size are read once into memory and walked twice there, in bytes.
const READ_WHOLE_BYTES_MAX: u64 = 4 << 20;

pub async fn metadata(
    State(service): State<Shared>,
    Path(target): Path<Target>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    must_take_json(&headers)?;
    let held = ensure_here(&service, &target, &headers, &pairs).await?;
    let (shared, found) = (service.clone(), held.clone());
    let records = blocking(move || target.objects(&shared, &found)).await?;
    let (archive, root) = (service.archive.clone(), root(&headers));
    let body = service.body(held, move |sink| write(&archive, &records, &root, sink)).await?;
    Ok(([(header::CONTENT_TYPE, "application/dicom+json")], body).into_response())
}

fn write(archive: &Archive, records: &[ObjectRecord], root: &str, sink: &mut Sink) -> Result<(), StreamError> {
    for (number, record) in records.iter().enumerate() {
        let mut text = if number == 0 { b"[".to_vec() } else { b",\n".to_vec() };
        let data_set = of_object(archive, record, root).map_err(source)?;
        serde_json::to_writer(&mut text, &data_set).map_err(StreamError::source)?;
        sink.send(text)?;
    }
    sink.send("]")
}

/// The transfer syntax of a stored object.
pub fn syntax_of(record: &ObjectRecord) -> Result<TransferSyntax, HttpError> {
    let uid = Uid::parse(&record.receipt.transfer_syntax).map_err(|error| HttpError::Internal(error.to_string()))?;
    Ok(TransferSyntax::of(&uid))
}

fn of_object(archive: &Archive, record: &ObjectRecord, root: &str) -> Result<JsonDataSet, HttpError> {
    let syntax = syntax_of(record)?;
    let whole = match record.size <= READ_WHOLE_BYTES_MAX {
        true => Some(archive.pixels().read(&ObjectHash::blake3(record.hash))?),
        false => None,
    };
    let open = || -> Result<Box<dyn Source + '_>, HttpError> {
        match &whole {
            Some(bytes) => Ok(in_memory(bytes, &syntax)),
            None => Ok(in_file(reader(archive, record)?, record.size, &syntax)),
        }
    };
    let policy = charset_policy(record.receipt.character_set.as_deref());
    let facts = ObjectFacts::read(open()?, &syntax, &policy).map_err(|error| HttpError::Internal(error.to_string()))?;
    let d = &record.description;
    let bulk = |path: &BulkPath| {
        format!("{root}/studies/{}/series/{}/instances/{}/bulkdata/{path}", d.study, d.series, d.sop_instance)
    };
    let (mut data_set, damage) = metadata_so_far(open()?, &syntax, &facts.charset, &bulk);
    if let Some(error) = damage {
        tracing::warn!(%error, "the metadata of an object is not whole");
    }
    // What frames will come in, for viewers that ask before they fetch (PS3.18 table 8.7.3).
    let stored = json!({"vr": "UI", "Value": [record.receipt.transfer_syntax]});
    data_set.entry("00083002").or_insert(stored);
    Ok(data_set)
}
