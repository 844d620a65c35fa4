//! Single frames of an image, found without loading it: for WADO-RS `frames`.
//!
//! Native pixel data (PS3.5 section 8) is cut by arithmetic, bit-packed frames included, and served in little
//! endian order. Encapsulated pixel data (PS3.5 A.4) is cut by the extended offset table, the basic offset table,
//! one fragment a frame, or the codestreams' first bytes, in this order; when none fits the object is refused
//! rather than cut wrongly, and so is a video. Frames are given in pieces: no frame is held whole.
//!
//! Offsets are in bytes from the start of the (inflated) data set. Attributes are the sender's word: every product
//! is checked against the bytes that are there.

use std::ops::Range;

use dicom_core::header::{Tag, VR};

use super::elements::{self, PIXEL_DATA};
use super::json_values::swap_words;
use super::source::{Source, SourceError, pieces};
use super::syntax::{ByteOrder, TransferSyntax};
use super::walk::{Element, Token, WalkError, Walker};

/// Frames of one object.
pub const FRAMES_MAX: usize = 1 << 20;

/// Fragments of one object; more than frames, since a frame may have several.
pub const FRAGMENTS_MAX: usize = 1 << 21;

/// Tag and length before each fragment, in bytes.
const ITEM_HEADER_BYTES: u64 = 8;

/// Where frames begin in encapsulated pixel data, in bytes of a fragment.
const CODESTREAM_HEAD_BYTES: usize = 12;

/// Why an image can't be cut into frames.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    #[error("the object has no pixel data")]
    NoPixels,
    #[error("the data set is broken")]
    Walk(#[from] WalkError),
    #[error("the object lacks {name}, without which its pixel data can't be cut into frames")]
    MissingAttribute { name: &'static str },
    #[error("the object claims {frames} frames of {frame_bits} bits, more than its pixel data holds")]
    TooShort { frames: usize, frame_bits: u64 },
    #[error("the pixel data is one video of {frames} frames, which are not stored one by one")]
    Video { frames: usize },
    #[error("{fragments} fragments can't be told apart into {frames} frames")]
    Ambiguous { fragments: usize, frames: usize },
    #[error("the object has too many frames or fragments")]
    TooMany,
}

/// Why the bytes of a frame can't be had.
#[derive(Debug, thiserror::Error)]
pub enum FrameReadError {
    #[error("the object has {frames} frames, there is no frame {number}")]
    NoSuchFrame { number: usize, frames: usize },
    #[error("the frame's bytes could not be read")]
    Read(#[from] SourceError),
}

/// How native frames lie in the pixel data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Native {
    offset: u64,
    frame_bits: u64,
    /// Bytes of a word to be reversed; 1 where the order is little endian.
    swap_bytes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    Native(Native),
    /// The fragments of each frame.
    Encapsulated(Vec<Vec<Range<u64>>>),
}

/// All frames of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameTable {
    frames: usize,
    layout: Layout,
}

impl FrameTable {
    /// Walks a data set and locates its frames.
    pub fn locate(source: Box<dyn Source + '_>, syntax: &TransferSyntax) -> Result<Self, FramesError> {
        let mut image = Image::default();
        let mut walker = Walker::new(source, syntax.encoding());
        let mut depth = 0u32;
        while let Some(token) = walker.next()? {
            match token {
                Token::SequenceStart(_) => depth += 1,
                Token::SequenceEnd => depth -= 1,
                Token::Element(element) if depth == 0 => {
                    if elements::is_pixel_data(element.tag) {
                        return image.native(&element, syntax);
                    }
                    image.attribute(&mut walker, &element)?;
                }
                Token::FragmentsStart(element) if depth == 0 && element.tag == PIXEL_DATA => {
                    return image.encapsulated(&mut walker, syntax);
                }
                _ => {}
            }
        }
        Err(FramesError::NoPixels)
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames
    }

    pub fn is_encapsulated(&self) -> bool {
        matches!(self.layout, Layout::Encapsulated(_))
    }

    fn index(&self, number: usize) -> Result<usize, FrameReadError> {
        let index = number.checked_sub(1).filter(|index| *index < self.frames);
        index.ok_or(FrameReadError::NoSuchFrame { number, frames: self.frames })
    }

    fn ranges(&self, index: usize) -> &[Range<u64>] {
        match &self.layout {
            Layout::Native(_) => &[],
            Layout::Encapsulated(frames) => frames.get(index).map(Vec::as_slice).unwrap_or_default(),
        }
    }

    /// Where frame `number` begins in the data set, counted from 1 as DICOM does.
    pub fn start(&self, number: usize) -> Result<u64, FrameReadError> {
        let index = self.index(number)?;
        Ok(match &self.layout {
            Layout::Native(native) => native.range(index).start,
            Layout::Encapsulated(_) => self.ranges(index).first().map_or(0, |range| range.start),
        })
    }

    /// How many bytes are served of frame `number`.
    pub fn bytes(&self, number: usize) -> Result<u64, FrameReadError> {
        let index = self.index(number)?;
        Ok(match &self.layout {
            Layout::Native(native) => native.frame_bits.div_ceil(8),
            Layout::Encapsulated(_) => self.ranges(index).iter().map(|range| range.end - range.start).sum(),
        })
    }

    /// Gives the bytes of frame `number` as they are served, in pieces: fragments joined, or native pixels in little endian
    /// order. The source is left at or before the frame that follows.
    pub fn read<E: From<FrameReadError> + From<SourceError>>(
        &self,
        source: &mut dyn Source,
        number: usize,
        mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let index = self.index(number)?;
        match &self.layout {
            Layout::Native(native) => native.read(source, index, take),
            Layout::Encapsulated(_) => {
                self.ranges(index).iter().try_for_each(|range| pieces(source, range.clone(), &mut take))
            }
        }
    }
}

impl Native {
    /// Bytes that hold the frame, widened to whole words where words are swapped.
    fn range(&self, index: usize) -> Range<u64> {
        // Checked against the pixel data's length when the table was made.
        let first_bit = self.frame_bits * index as u64;
        let word = self.swap_bytes as u64;
        let start = first_bit / 8 / word * word;
        let end = (first_bit + self.frame_bits).div_ceil(8).div_ceil(word) * word;
        self.offset + start..self.offset + end
    }

    fn read<E: From<SourceError>>(
        &self,
        source: &mut dyn Source,
        index: usize,
        mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Range { start, end } = self.range(index);
        let (first_bit, word) = (self.frame_bits * index as u64, self.swap_bytes as u64);
        // The last word may be the next frame's first as well: it is looked at and not taken.
        let own_end = self.offset + (first_bit + self.frame_bits) / 8 / word * word;
        let mut cut = Cut {
            swap_bytes: self.swap_bytes,
            ahead: (first_bit / 8 % word) as usize,
            shift: (first_bit % 8) as u32,
            carried: None,
            left: self.frame_bits.div_ceil(8),
        };
        pieces(source, start..own_end.max(start), |piece| take(cut.piece(piece)))?;
        let mut shared = vec![0; (end - own_end.max(start)) as usize];
        if source.peek(&mut shared)? < shared.len() {
            return Err(SourceError::End.into());
        }
        take(cut.piece(shared))?;
        take(cut.rest())
    }
}

/// What is done to a native frame's bytes on their way out, piece by piece.
struct Cut {
    swap_bytes: usize,
    /// Bytes of the first word that are the frame before's.
    ahead: usize,
    /// Bits of the first byte that are.
    shift: u32,
    /// The last byte so far, whose high bits belong to the next one that is served.
    carried: Option<u8>,
    /// Bytes that are still to be served.
    left: u64,
}

impl Cut {
    fn piece(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        swap_words(&mut bytes, self.swap_bytes);
        bytes.drain(..self.ahead.min(bytes.len()));
        if !bytes.is_empty() {
            self.ahead = 0;
        }
        if self.shift > 0 && !bytes.is_empty() {
            // Bits are packed from the low end and frames follow without a gap (PS3.5 8.1.1).
            if let Some(byte) = self.carried {
                bytes.insert(0, byte);
            }
            self.carried = bytes.last().copied();
            for at in 1..bytes.len() {
                bytes[at - 1] = (u16::from_le_bytes([bytes[at - 1], bytes[at]]) >> self.shift) as u8;
            }
            bytes.pop();
        }
        self.served(bytes)
    }

    fn rest(&mut self) -> Vec<u8> {
        let bytes = self.carried.take().map(|byte| byte >> self.shift).into_iter().collect();
        self.served(bytes)
    }

    fn served(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= bytes.len() as u64;
        bytes
    }
}

/// What the walk gathers on its way to the pixels.
#[derive(Default)]
struct Image {
    rows: Option<u16>,
    columns: Option<u16>,
    samples: Option<u16>,
    bits: Option<u16>,
    frames: Option<usize>,
    subsampled: bool,
    extended_offsets: Vec<u64>,
}

impl Image {
    fn attribute(&mut self, walker: &mut Walker<'_>, element: &Element) -> Result<(), WalkError> {
        let target = match element.tag {
            Tag(0x0028, 0x0010) => &mut self.rows,
            Tag(0x0028, 0x0011) => &mut self.columns,
            Tag(0x0028, 0x0002) => &mut self.samples,
            Tag(0x0028, 0x0100) => &mut self.bits,
            Tag(0x0028, 0x0008) => {
                let text = walker.value_head(16)?;
                let text = std::str::from_utf8(&text).unwrap_or_default();
                self.frames = text.trim_matches([' ', '\0']).parse().ok().filter(|count| *count > 0);
                return Ok(());
            }
            Tag(0x0028, 0x0004) => {
                self.subsampled = walker.value_head(16)?.starts_with(b"YBR_FULL_422");
                return Ok(());
            }
            Tag(0x7FE0, 0x0001) => {
                let table = walker.value(FRAMES_MAX * 8)?;
                self.extended_offsets = table
                    .chunks_exact(8)
                    .filter_map(<[u8]>::first_chunk)
                    .map(|word| u64::from_le_bytes(*word))
                    .collect();
                return Ok(());
            }
            _ => return Ok(()),
        };
        *target = walker.value_head(2)?.first_chunk().map(|bytes| element.order.u16(*bytes));
        Ok(())
    }

    fn native(&self, element: &Element, syntax: &TransferSyntax) -> Result<FrameTable, FramesError> {
        let need = |value: Option<u16>, name| value.map(u64::from).ok_or(FramesError::MissingAttribute { name });
        let bits = match element.tag {
            PIXEL_DATA => need(self.bits, "Bits Allocated")?,
            elements::FLOAT_PIXEL_DATA => 32,
            _ => 64,
        };
        let pixels = need(self.rows, "Rows")? * need(self.columns, "Columns")?;
        // Below 2^64: four factors of 16 bits, and the largest product of the first three is below 2^48.
        let frame_bits = pixels * u64::from(self.samples.unwrap_or(1)) * bits;
        let frame_bits = if self.subsampled { frame_bits / 3 * 2 } else { frame_bits };
        let frames = self.frames.unwrap_or(1);
        if frames > FRAMES_MAX {
            return Err(FramesError::TooMany);
        }
        let held = u64::from(element.length.unwrap_or(0)) * 8;
        let total = frame_bits.checked_mul(frames as u64).filter(|total| *total <= held && frame_bits > 0);
        if total.is_none() {
            return Err(FramesError::TooShort { frames, frame_bits });
        }
        let big = syntax.pixel_order() == ByteOrder::Big;
        let swap_bytes = match (big, bits) {
            (false, _) => 1,
            (true, 1 | 8) if element.vr == VR::OW => 2,
            (true, bits) => usize::try_from(bits / 8).unwrap_or(1).max(1),
        };
        let layout = Layout::Native(Native { offset: element.offset, frame_bits, swap_bytes });
        Ok(FrameTable { frames, layout })
    }

    fn encapsulated(&self, walker: &mut Walker<'_>, syntax: &TransferSyntax) -> Result<FrameTable, FramesError> {
        if let Some(frames) = self.frames.filter(|frames| *frames > 1 && syntax.is_video()) {
            return Err(FramesError::Video { frames });
        }
        let mut basic_offsets = Vec::new();
        let mut fragments = Vec::new();
        let mut first = true;
        while let Some(Token::Fragment { offset, length }) = walker.next()? {
            if first {
                let table = walker.value(FRAMES_MAX * 4)?;
                basic_offsets = table
                    .chunks_exact(4)
                    .filter_map(<[u8]>::first_chunk)
                    .map(|word| u64::from(u32::from_le_bytes(*word)))
                    .collect();
                first = false;
                continue;
            }
            if fragments.len() == FRAGMENTS_MAX {
                return Err(FramesError::TooMany);
            }
            let begins = begins_codestream(&walker.value_head(CODESTREAM_HEAD_BYTES)?);
            fragments.push(Fragment { range: offset..offset + u64::from(length), begins });
        }
        let frames = self.frames.unwrap_or(1);
        if frames > FRAMES_MAX {
            return Err(FramesError::TooMany);
        }
        let grouped = by_offsets(&fragments, &self.extended_offsets, frames)
            .or_else(|| by_offsets(&fragments, &basic_offsets, frames))
            .or_else(|| by_count(&fragments, frames))
            .or_else(|| by_codestreams(&fragments, frames));
        match grouped {
            Some(grouped) => Ok(FrameTable { frames, layout: Layout::Encapsulated(grouped) }),
            None => Err(FramesError::Ambiguous { fragments: fragments.len(), frames }),
        }
    }
}

struct Fragment {
    range: Range<u64>,
    begins: bool,
}

/// Whether these bytes open a JPEG, JPEG-LS, JPEG 2000 or JPEG XL codestream or file.
fn begins_codestream(head: &[u8]) -> bool {
    const STARTS: [&[u8]; 5] =
        [b"\xFF\xD8\xFF", b"\xFF\x4F\xFF\x51", b"\xFF\x0A", b"\0\0\0\x0CjP  ", b"\0\0\0\x0CJXL "];
    STARTS.iter().any(|start| head.starts_with(start))
}

/// By a table of offsets, counted from the first fragment's item header.
fn by_offsets(fragments: &[Fragment], offsets: &[u64], frames: usize) -> Option<Vec<Vec<Range<u64>>>> {
    let base = fragments.first()?.range.start - ITEM_HEADER_BYTES;
    if offsets.len() != frames || frames == 0 {
        return None;
    }
    let index_of = |offset: &u64| {
        let start = base.checked_add(*offset)?.checked_add(ITEM_HEADER_BYTES)?;
        fragments.binary_search_by_key(&start, |fragment| fragment.range.start).ok()
    };
    let starts: Vec<usize> = offsets.iter().map(index_of).collect::<Option<_>>()?;
    let ends = starts.iter().skip(1).copied().chain([fragments.len()]);
    let ascending = starts.first() == Some(&0) && starts.windows(2).all(|pair| pair[0] < pair[1]);
    ascending.then(|| starts.iter().zip(ends).map(|(start, end)| ranges(&fragments[*start..end])).collect())
}

/// One frame takes all fragments, or each frame takes one.
fn by_count(fragments: &[Fragment], frames: usize) -> Option<Vec<Vec<Range<u64>>>> {
    match frames {
        _ if fragments.is_empty() => None,
        1 => Some(vec![ranges(fragments)]),
        _ if frames == fragments.len() => Some(fragments.chunks(1).map(ranges).collect()),
        _ => None,
    }
}

/// A frame begins where a codestream begins.
fn by_codestreams(fragments: &[Fragment], frames: usize) -> Option<Vec<Vec<Range<u64>>>> {
    let mut grouped: Vec<Vec<Range<u64>>> = Vec::new();
    for fragment in fragments {
        if fragment.begins {
            grouped.push(Vec::new());
        }
        grouped.last_mut()?.push(fragment.range.clone());
    }
    (grouped.len() == frames).then_some(grouped)
}

fn ranges(fragments: &[Fragment]) -> Vec<Range<u64>> {
    fragments.iter().map(|fragment| fragment.range.clone()).collect()
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
