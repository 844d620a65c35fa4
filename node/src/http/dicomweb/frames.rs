//! WADO-RS frames and bulk data (PS3.18 sections 10.4.1.1.5 and 10.4.1.1.6): single frames and values, found by ranges, so that
//! an object of gigabytes is never loaded for one of its pictures.
//!
//! Compressed frames go out as they are stored, under the media type of their codec or as octet stream with the
//! transfer syntax named; native ones as little endian octets. A video, and pixels whose frames can't be told apart, are
//! bulk data only: their fragments, joined.

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
use crate::dicom::source::{Source, in_file, pieces};
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
/// How often a request may go back in a deflated object, which is inflated from its start each time.
const STEPS_BACK_MAX: usize = 8;

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
    let (shared, found) = (service.clone(), held.clone());
    let (object, table) = blocking(move || {
        let object = Object::find(&shared, &target, &found)?;
        let table = object.table(&shared).map_err(|error| match error {
            HttpError::Unprocessable(why) => {
                HttpError::Unprocessable(format!("{why}; bulkdata/7FE00010 has them joined"))
            }
            other => other,
        })?;
        Ok((object, table))
    })
    .await?;
    let starts: Result<Vec<u64>, _> = numbers.iter().map(|number| table.start(*number)).collect();
    let starts = starts.map_err(|error| HttpError::NotFound(error.to_string()))?;
    let back = starts.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    if object.syntax.is_deflated() && back > STEPS_BACK_MAX {
        return Err(HttpError::BadRequest("the object is deflated; ask for its frames in ascending order".into()));
    }
    send_frames(&service, &headers, held, object, table, numbers).await
}

fn parse_list(text: &str) -> Result<Vec<usize>, HttpError> {
    let wrong = || HttpError::BadRequest(format!("frames are numbers from 1 on, at most {LIST_MAX}: frames/1,2,3"));
    let numbers: Vec<usize> =
        text.split(',').map(|part| part.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    if numbers.len() > LIST_MAX || numbers.contains(&0) { Err(wrong()) } else { Ok(numbers) }
}

/// How pixels are given: as they are stored, under their codec's media type or as octets with the transfer syntax.
fn pixel_packing(headers: &HeaderMap, syntax: &str, codec: &str, single: bool) -> Result<Packed, HttpError> {
    let offers = [
        Offer { media: codec, transfer_syntax: syntax, default_syntax: None, single },
        Offer { media: OCTETS, transfer_syntax: syntax, default_syntax: Some(EXPLICIT_LITTLE), single },
    ];
    let packing = negotiation::choose(&negotiation::accepted(headers), &offers).ok_or_else(|| {
        HttpError::NotAcceptable(format!(
            "these pixels are stored in transfer syntax {syntax} and given as they are; ask for multipart/related; \
             type=\"{codec}\" or multipart/related; type=\"{OCTETS}\"; transfer-syntax=*"
        ))
    })?;
    Ok(Packed::new(packing, |media| format!("{media}; transfer-syntax={syntax}")))
}

/// The packaging of an answer that was chosen.
struct Packed {
    multipart: Option<Multipart>,
    part_type: String,
    content_type: String,
}

impl Packed {
    fn new(packing: Packing, part_type: impl Fn(&str) -> String) -> Self {
        match packing {
            Packing::Single(media) => {
                Self { multipart: None, part_type: String::new(), content_type: part_type(&media) }
            }
            Packing::Multipart(media) => {
                let multipart = Multipart::new();
                let content_type = multipart.content_type(&media);
                Self { multipart: Some(multipart), part_type: part_type(&media), content_type }
            }
        }
    }

    fn begin_part(&self, sink: &mut Sink, bytes: u64, first: bool) -> Result<(), StreamError> {
        let begin = |multipart: &Multipart| sink.send(multipart.head(&self.part_type, Some(bytes), first));
        self.multipart.as_ref().map_or(Ok(()), begin)
    }

    fn end(&self, sink: &mut Sink) -> Result<(), StreamError> {
        self.multipart.as_ref().map_or(Ok(()), |multipart| sink.send(multipart.end()))
    }
}

async fn send_frames(
    service: &Shared,
    headers: &HeaderMap,
    held: Held,
    object: Object,
    table: Arc<FrameTable>,
    numbers: Vec<usize>,
) -> Result<Response, HttpError> {
    // Native frames are served in little endian order whatever the object's.
    let syntax =
        if table.is_encapsulated() { object.record.receipt.transfer_syntax.clone() } else { EXPLICIT_LITTLE.into() };
    let codec = if table.is_encapsulated() { codec_media(&syntax) } else { OCTETS };
    let packed = pixel_packing(headers, &syntax, codec, numbers.len() == 1)?;
    let content_type = packed.content_type.clone();
    let archive = service.archive.clone();
    let write = move |sink: &mut Sink| {
        let mut opened: Option<Box<dyn Source>> = None;
        for (place, number) in numbers.iter().enumerate() {
            // Sources go forward only. Frames may be asked for in any order, and those in the object's own cost one pass.
            let start = table.start(*number)?;
            let ahead = opened.take().filter(|opened| opened.position() <= start);
            let opened = opened.insert(ahead.map_or_else(|| object.open(&archive).map_err(source), Ok)?);
            packed.begin_part(sink, table.bytes(*number)?, place == 0)?;
            table.read(&mut **opened, *number, |piece| sink.send(piece))?;
        }
        packed.end(sink)
    };
    let body = service.body(held, write).await?;
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
    let (shared, found) = (service.clone(), held.clone());
    let (object, value) = blocking(move || {
        let object = Object::find(&shared, &target, &found)?;
        let found = bulk::find(object.open(&shared.archive)?, &object.syntax, &wanted);
        let found = found.map_err(|error| HttpError::Unprocessable(error.to_string()))?;
        let value = found.ok_or_else(|| HttpError::NotFound("the object has no value under that path".into()))?;
        Ok((object, value))
    })
    .await?;
    let pixels = path.value.eq_ignore_ascii_case("7FE00010") && object.syntax.is_encapsulated();
    if !pixels {
        let offer = Offer { media: OCTETS, transfer_syntax: EXPLICIT_LITTLE, default_syntax: None, single: true };
        let packing = negotiation::choose(&negotiation::accepted(&headers), &[offer])
            .ok_or_else(|| HttpError::NotAcceptable(format!("bulk data is given as {OCTETS}; ask for that")))?;
        return send_value(&service, held, object, value, Packed::new(packing, str::to_owned)).await;
    }
    // Compressed pixels are frames to whoever asks for bulk data, fragments mean nothing to him; unless the frames can't be
    // told apart, as in a video.
    let shared = service.clone();
    let (object, table) = blocking(move || match object.table(&shared) {
        Ok(table) => Ok((object, Some(table))),
        Err(HttpError::Unprocessable(_)) => Ok((object, None)),
        Err(other) => Err(other),
    })
    .await?;
    if let Some(table) = table {
        let numbers = (1..=table.len().min(LIST_MAX)).collect();
        return send_frames(&service, &headers, held, object, table, numbers).await;
    }
    let syntax = &object.record.receipt.transfer_syntax;
    // Several images in one part are no image.
    let media = if object.syntax.is_video() { codec_media(syntax) } else { OCTETS };
    let packed = pixel_packing(&headers, syntax, media, true)?;
    send_value(&service, held, object, value, packed).await
}

async fn send_value(
    service: &Shared,
    held: Held,
    object: Object,
    value: BulkValue,
    packed: Packed,
) -> Result<Response, HttpError> {
    let length = value.ranges.iter().map(|range| range.end - range.start).sum();
    let (archive, content_type) = (service.archive.clone(), packed.content_type.clone());
    let write = move |sink: &mut Sink| {
        packed.begin_part(sink, length, true)?;
        let mut opened = object.open(&archive).map_err(source)?;
        write_value(&mut *opened, &value, sink)?;
        packed.end(sink)
    };
    let body = service.body(held, write).await?;
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

/// A value's bytes in little endian order.
fn write_value(opened: &mut dyn Source, value: &BulkValue, sink: &mut Sink) -> Result<(), StreamError> {
    value.ranges.iter().try_for_each(|range| {
        pieces(opened, range.clone(), |mut piece| {
            if value.order == ByteOrder::Big {
                swap_words(&mut piece, word_bytes(value.vr));
            }
            sink.send(piece)
        })
    })
}
