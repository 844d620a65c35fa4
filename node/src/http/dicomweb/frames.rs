//! WADO-RS frames and bulk data (PS3.18 sections 10.4.1.1.5 and 10.4.1.1.6): single frames and values, found by ranges, so that
//! an object of gigabytes is never loaded for one of its pictures.
//!
//! Compressed frames go out as they are stored, under the media type of their codec or as octet stream with the
//! transfer syntax named; native ones as little endian octets.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::metadata::syntax_of;
use super::retrieve::{reader, source};
use super::{Pairs, Target, ensure_here};
use crate::archive::Archive;
use crate::archive::catalogue::ObjectRecord;
use crate::dicom::bulk::{self, BulkPath, BulkValue};
use crate::dicom::frames::FrameTable;
use crate::dicom::json_values::{swap_words, word_bytes};
use crate::dicom::source::{Source, in_file};
use crate::dicom::syntax::{ByteOrder, EXPLICIT_LITTLE, TransferSyntax};
use crate::http::error::HttpError;
use crate::http::fetching::Held;
use crate::http::negotiation::{self, Offer, Packing};
use crate::http::stream::{Multipart, Sink, StreamError};
use crate::http::{Service, Shared, blocking};

const OCTETS: &str = "application/octet-stream";
/// Frames of one request.
const LIST_MAX: usize = 10_000;
/// Objects whose frame tables are remembered, and frames of such an object.
const TABLES_MAX: usize = 64;
const TABLE_FRAMES_MAX: usize = 20_000;
/// Bytes of a value that are read at once: a multiple of every word's size.
const VALUE_CHUNK_BYTES: u64 = 256 << 10;

/// Frame tables of the objects asked for last: a viewer asks for one frame at a time.
#[derive(Default)]
pub struct FrameTables(Mutex<VecDeque<([u8; 32], Arc<FrameTable>)>>);

impl FrameTables {
    fn get(&self, hash: &[u8; 32]) -> Option<Arc<FrameTable>> {
        let tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.iter().find(|(known, _)| known == hash).map(|(_, table)| table.clone())
    }

    fn put(&self, hash: [u8; 32], table: Arc<FrameTable>) {
        if table.len() > TABLE_FRAMES_MAX {
            return;
        }
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tables.truncate(TABLES_MAX - 1);
        tables.push_front((hash, table));
    }
}

/// One object and how to read it.
struct Object {
    record: ObjectRecord,
    syntax: TransferSyntax,
}

impl Object {
    fn find(service: &Service, target: &Target, held: &Held) -> Result<Self, HttpError> {
        let found = target.objects(service, held)?.into_iter().next();
        let record = found.ok_or_else(|| HttpError::NotFound("there is no such instance here".into()))?;
        Ok(Self { syntax: syntax_of(&record)?, record })
    }

    fn open(&self, archive: &Archive) -> Result<Box<dyn Source>, HttpError> {
        Ok(in_file(reader(archive, &self.record)?, self.record.size, &self.syntax))
    }

    fn table(&self, service: &Service) -> Result<Arc<FrameTable>, HttpError> {
        if let Some(table) = service.frame_tables.get(&self.record.hash) {
            return Ok(table);
        }
        let table = FrameTable::locate(self.open(&service.archive)?, &self.syntax);
        let table = Arc::new(table.map_err(|error| HttpError::Unprocessable(error.to_string()))?);
        service.frame_tables.put(self.record.hash, table.clone());
        Ok(table)
    }
}

#[derive(serde::Deserialize)]
pub struct FramesPath {
    study: String,
    series: String,
    instance: String,
    frames: String,
}

pub async fn frames(
    State(service): State<Shared>,
    Path(path): Path<FramesPath>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    let target = Target { study: path.study, series: Some(path.series), instance: Some(path.instance) };
    let held = ensure_here(&service, &target, &headers, &pairs).await?;
    let numbers = parse_list(&path.frames)?;
    let shared = service.clone();
    let (object, table) = blocking(move || {
        let object = Object::find(&shared, &target, &held)?;
        let table = object.table(&shared)?;
        Ok((object, table))
    })
    .await?;
    for number in &numbers {
        table.ranges(*number).map_err(|error| HttpError::NotFound(error.to_string()))?;
    }
    send_frames(&service, &headers, object, table, numbers).await
}

fn parse_list(text: &str) -> Result<Vec<usize>, HttpError> {
    let wrong = || HttpError::BadRequest(format!("frames are numbers from 1 on, at most {LIST_MAX}: frames/1,2,3"));
    let numbers: Vec<usize> =
        text.split(',').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    if numbers.len() > LIST_MAX || numbers.contains(&0) { Err(wrong()) } else { Ok(numbers) }
}

async fn send_frames(
    service: &Shared,
    headers: &HeaderMap,
    object: Object,
    table: Arc<FrameTable>,
    numbers: Vec<usize>,
) -> Result<Response, HttpError> {
    // Native frames are served in little endian order whatever the object's.
    let syntax =
        if table.is_encapsulated() { object.record.receipt.transfer_syntax.clone() } else { EXPLICIT_LITTLE.into() };
    let codec = if table.is_encapsulated() { codec_media(&syntax) } else { OCTETS };
    let single = numbers.len() == 1;
    let offers = [
        Offer { media: codec, transfer_syntax: &syntax, default_syntax: None, single },
        Offer { media: OCTETS, transfer_syntax: &syntax, default_syntax: Some(EXPLICIT_LITTLE), single },
    ];
    let packing = negotiation::choose(&negotiation::accepted(headers), &offers).ok_or_else(|| {
        HttpError::NotAcceptable(format!(
            "these frames are stored in transfer syntax {syntax} and given as they are; ask for multipart/related; \
             type=\"{codec}\" or multipart/related; type=\"{OCTETS}\"; transfer-syntax=*"
        ))
    })?;
    let archive = service.archive.clone();
    let (multipart, media) = match packing {
        Packing::Single(media) => (None, media),
        Packing::Multipart(media) => (Some(Multipart::new()), media),
    };
    let part_type = format!("{media}; transfer-syntax={syntax}");
    let content_type = multipart.as_ref().map_or(part_type.clone(), |multipart| multipart.content_type(&media));
    let write = move |sink: &mut Sink| {
        for (place, number) in numbers.iter().enumerate() {
            // A fresh source: frames may be asked for in any order, and sources go forward only.
            let mut opened = object.open(&archive).map_err(source)?;
            let frame = table.read(&mut *opened, *number).map_err(StreamError::source)?;
            if let Some(multipart) = &multipart {
                sink.send(multipart.head(&part_type, Some(frame.len() as u64), place == 0))?;
            }
            sink.send(frame)?;
        }
        multipart.as_ref().map_or(Ok(()), |multipart| sink.send(multipart.end()))
    };
    let body = service.streams.body(write).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// Media types of compressed frames, PS3.18 tables 8.7.3-4 and 8.7.3-5.
fn codec_media(transfer_syntax: &str) -> &'static str {
    match transfer_syntax.strip_prefix("1.2.840.10008.1.2.") {
        Some("5") => "image/dicom-rle",
        Some("4.50" | "4.51" | "4.57" | "4.70") => "image/jpeg",
        Some("4.80" | "4.81") => "image/jls",
        Some("4.90" | "4.91") => "image/jp2",
        Some("4.92" | "4.93") => "image/jpx",
        Some("4.110" | "4.111" | "4.112") => "image/jxl",
        Some("4.201" | "4.202" | "4.203") => "image/jphc",
        Some("4.100" | "4.100.1" | "4.101" | "4.101.1") => "video/mpeg",
        Some(text) if text.starts_with("4.10") => "video/mp4",
        _ => OCTETS,
    }
}

#[derive(serde::Deserialize)]
pub struct BulkDataPath {
    study: String,
    series: String,
    instance: String,
    value: String,
}

pub async fn bulk_data(
    State(service): State<Shared>,
    Path(path): Path<BulkDataPath>,
    headers: HeaderMap,
    pairs: Pairs,
) -> Result<Response, HttpError> {
    let wanted = BulkPath::parse(&path.value).map_err(|error| HttpError::BadRequest(error.to_string()))?;
    let target = Target { study: path.study, series: Some(path.series), instance: Some(path.instance) };
    let held = ensure_here(&service, &target, &headers, &pairs).await?;
    let shared = service.clone();
    let (object, value) = blocking(move || {
        let object = Object::find(&shared, &target, &held)?;
        let found = bulk::find(object.open(&shared.archive)?, &object.syntax, &wanted);
        let found = found.map_err(|error| HttpError::Unprocessable(error.to_string()))?;
        let value = found.ok_or_else(|| HttpError::NotFound("the object has no value under that path".into()))?;
        Ok((object, value))
    })
    .await?;
    // Compressed pixels are frames to whoever asks for bulk data; fragments mean nothing to him.
    let pixels = path.value.eq_ignore_ascii_case("7FE00010") && object.syntax.is_encapsulated();
    if pixels {
        let shared = service.clone();
        let (object, table) = blocking(move || object.table(&shared).map(|table| (object, table))).await?;
        let numbers = (1..=table.len().min(LIST_MAX)).collect();
        return send_frames(&service, &headers, object, table, numbers).await;
    }
    send_value(&service, &headers, object, value).await
}

async fn send_value(
    service: &Shared,
    headers: &HeaderMap,
    object: Object,
    value: BulkValue,
) -> Result<Response, HttpError> {
    let offer = Offer { media: OCTETS, transfer_syntax: EXPLICIT_LITTLE, default_syntax: None, single: true };
    let packing = negotiation::choose(&negotiation::accepted(headers), &[offer])
        .ok_or_else(|| HttpError::NotAcceptable(format!("bulk data is given as {OCTETS}; ask for that")))?;
    let length = value.ranges.iter().map(|range| range.end - range.start).sum();
    let multipart = matches!(packing, Packing::Multipart(_)).then(Multipart::new);
    let content_type = multipart.as_ref().map_or(OCTETS.into(), |multipart| multipart.content_type(OCTETS));
    let archive = service.archive.clone();
    let write = move |sink: &mut Sink| {
        if let Some(multipart) = &multipart {
            sink.send(multipart.head(OCTETS, Some(length), true))?;
        }
        let mut opened = object.open(&archive).map_err(source)?;
        write_value(&mut *opened, &value, sink)?;
        multipart.as_ref().map_or(Ok(()), |multipart| sink.send(multipart.end()))
    };
    let body = service.streams.body(write).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// A value's bytes in little endian order.
fn write_value(opened: &mut dyn Source, value: &BulkValue, sink: &mut Sink) -> Result<(), StreamError> {
    for range in &value.ranges {
        let ahead = range.start.checked_sub(opened.position());
        let ahead = ahead.ok_or_else(|| StreamError::source("ranges out of order"))?;
        opened.skip(ahead).map_err(StreamError::source)?;
        let mut left = range.end - range.start;
        while left > 0 {
            // At most VALUE_CHUNK_BYTES.
            let mut chunk = vec![0; left.min(VALUE_CHUNK_BYTES) as usize];
            opened.read(&mut chunk).map_err(StreamError::source)?;
            if value.order == ByteOrder::Big {
                swap_words(&mut chunk, word_bytes(value.vr));
            }
            left -= chunk.len() as u64;
            sink.send(chunk)?;
        }
    }
    Ok(())
}
