//! WADO-RS of whole objects (PS3.18 section 10.4.1.1): each a DICOM file with a fresh head and the data set's bytes as they
//! came, one after the other, in constant memory.
//! Not here: frames and metadata, which have their own handlers. Follows PS3.18 section 10.4.

use std::io::Read;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::{Pairs, Target, ensure_here};
use crate::archive::Archive;
use crate::archive::catalogue::ObjectRecord;
use crate::dicom::identifiers::Uid;
use crate::dicom::part10::file_head;
use crate::http::error::HttpError;
use crate::http::negotiation::{self, Offer, Packing};
use crate::http::stream::{Multipart, Sink, StreamError};
use crate::http::{Shared, blocking};
use tessera_storage::pixels::{ObjectHash, ObjectReader, StoreError};

pub const DICOM: &str = "application/dicom";
/// What is read of an object before it is answered for.
const BEGINNING_BYTES: usize = 1 << 20;

pub async fn objects(
    State(service): State<Shared>,
    Path(target): Path<Target>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    let held = ensure_here(&service, &target, &headers, &pairs).await?;
    let (shared, one, found) = (service.clone(), target.instance.is_some(), held.clone());
    let records = blocking(move || target.objects(&shared, &found)).await?;
    let archive = service.archive.clone();
    let records = blocking({
        let archive = archive.clone();
        move || sound(&archive, records)
    })
    .await?;
    match packing(&headers, &records, one)? {
        Packing::Single(media) => {
            let record = records.into_iter().next();
            let record = record.ok_or_else(|| HttpError::NotFound("there is no such instance here".into()))?;
            let length = head(&record)?.len() as u64 + record.size;
            let body = service.body(held, move |sink| write_object(&archive, &record, sink)).await?;
            let headers = [(header::CONTENT_TYPE, media), (header::CONTENT_LENGTH, length.to_string())];
            Ok((headers, body).into_response())
        }
        Packing::Multipart(_) => {
            let multipart = Multipart::new();
            let content_type = multipart.content_type(DICOM);
            let body = service.body(held, move |sink| write_parts(&archive, &records, &multipart, sink)).await?;
            Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
        }
    }
}

/// All objects must be acceptable: part of a study without a word would be a study with a hole.
fn packing(headers: &HeaderMap, records: &[ObjectRecord], one: bool) -> Result<Packing, HttpError> {
    let ranges = negotiation::accepted(headers);
    let mut chosen = None;
    for record in records {
        let transfer_syntax = record.receipt.transfer_syntax.as_str();
        let offer = Offer { media: DICOM, transfer_syntax, default_syntax: None, single: one };
        let packing = negotiation::choose(&ranges, &[offer]).ok_or_else(|| {
            HttpError::NotAcceptable(format!(
                "objects are given as they are stored, this one in transfer syntax {transfer_syntax}; ask for \
                 multipart/related; type=\"application/dicom\"; transfer-syntax=*{}",
                if one { " or application/dicom; transfer-syntax=*" } else { "" }
            ))
        })?;
        chosen.get_or_insert(packing);
    }
    chosen.ok_or_else(|| HttpError::NotFound("there are no objects".into()))
}

/// The same records, unless one is known to be damaged: then its error is the answer, and not an answer that breaks off.
fn sound(archive: &Archive, records: Vec<ObjectRecord>) -> Result<Vec<ObjectRecord>, HttpError> {
    for record in &records {
        if !archive.pixels().contains(&ObjectHash::blake3(record.hash))? {
            reader(archive, record)?;
        }
    }
    // Of one object its beginning is read too: most damage is found before a status is sent.
    if let [record] = records.as_slice() {
        let mut beginning =
            vec![0; usize::try_from(record.size).map_or(BEGINNING_BYTES, |size| size.min(BEGINNING_BYTES))];
        reader(archive, record)?.read_exact(&mut beginning).map_err(|error| unreadable(&error))?;
    }
    Ok(records)
}

/// What a stored object's reader says of damage.
fn unreadable(error: &std::io::Error) -> HttpError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()) {
        Some(error) => error.clone().into(),
        None => HttpError::Internal(error.to_string()),
    }
}

fn head(record: &ObjectRecord) -> Result<Vec<u8>, HttpError> {
    let uid = |text: &str| Uid::parse(text).map_err(|error| HttpError::Internal(error.to_string()));
    let d = &record.description;
    Ok(file_head(&uid(&d.sop_class)?, &uid(&d.sop_instance)?, &uid(&record.receipt.transfer_syntax)?, None))
}

/// The data set of an object as a stream.
pub fn reader(archive: &Archive, record: &ObjectRecord) -> Result<ObjectReader, HttpError> {
    Ok(archive.pixels().reader(&ObjectHash::blake3(record.hash))?)
}

fn write_object(archive: &Archive, record: &ObjectRecord, sink: &mut Sink) -> Result<(), StreamError> {
    sink.send(head(record).map_err(StreamError::source)?)?;
    let mut reader = reader(archive, record).map_err(source)?;
    sink.copy(&mut reader, record.size)
}

fn write_parts(
    archive: &Archive,
    records: &[ObjectRecord],
    multipart: &Multipart,
    sink: &mut Sink,
) -> Result<(), StreamError> {
    for (number, record) in records.iter().enumerate() {
        let length = head(record).map_err(source)?.len() as u64 + record.size;
        let content_type = format!("{DICOM}; transfer-syntax={}", record.receipt.transfer_syntax);
        sink.send(multipart.head(&content_type, Some(length), number == 0))?;
        write_object(archive, record, sink)?;
    }
    sink.send(multipart.end())
}

/// The cause for the log, where the client gets less.
pub fn source(error: HttpError) -> StreamError {
    match error {
        HttpError::Internal(cause) => StreamError::Source(cause),
        other => StreamError::source(other),
    }
}
