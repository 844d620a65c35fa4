//! The element walker: one pass over the bytes of a data set (PS3.5 section 7), as tokens.
//!
//! It trusts nothing: every length is checked against what encloses it, nesting is bounded, values are read only
//! on request and only up to a bound that the caller names. What is not read is skipped, so a walk costs no
//! memory. It is not a validator: order of elements, value multiplicity and contents are the caller's business.
//!
//! Deviations that real senders commit and that are walked through rather than refused: explicit headers whose
//! VR is no letter pair (as DCMTK: unknown, short length), unknown VR letters, a first element that shows the
//! other VR form than the syntax says, stray delimiters, UN where the dictionary knows the VR, NUL behind the last
//! element.
//!
//! Invariants: (1) a token never ends beyond its parent; (2) at most `DEPTH_MAX` sequences are open; (3) every
//! `SequenceStart`, `ItemStart`, `FragmentsStart` is closed by its end token, or the walk ends in an error.

use dicom_core::header::{Tag, VR};

use super::elements;
use super::source::{Source, SourceError};
use super::syntax::{ByteOrder, Encoding};

/// Open sequences at once; the deepest standard object (structured reports) rarely passes 12.
pub const DEPTH_MAX: usize = 32;

/// NUL behind the last element: what media are filled up to is less. More of it looks like a file of which a crash kept
/// the length and lost the rest. No source is asked to look further ahead than this.
const PADDING_BYTES_MAX: usize = 32 << 10;

const UNDEFINED: u32 = 0xFFFF_FFFF;
const DELIMITER_GROUP: u16 = 0xFFFE;
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

/// A value's header: where it is and how to read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    pub tag: Tag,
    pub vr: VR,
    /// Bytes of the value; `None` where only a delimiter ends it.
    pub length: Option<u32>,
    /// Where the value begins, in bytes from the start of the (inflated) data set.
    pub offset: u64,
    pub order: ByteOrder,
    /// The VR is the dictionary's, not the sender's.
    pub inferred: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A value; read it with [`Walker::value`] before the next token, or it is skipped.
    Element(Element),
    SequenceStart(Element),
    ItemStart,
    ItemEnd,
    SequenceEnd,
    /// Encapsulated pixel data: fragments follow.
    FragmentsStart(Element),
    /// One fragment (the first is the basic offset table); readable like an element.
    Fragment {
        offset: u64,
        length: u32,
    },
    FragmentsEnd,
}

/// Why a walk can't go on. Offsets are in bytes from the start of the (inflated) data set.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    #[error("the data set is cut off at byte {offset}")]
    Truncated { offset: u64 },
    #[error("{tag} at byte {offset} claims {length} bytes, more than its parent holds")]
    LengthBeyondParent { tag: Tag, offset: u64, length: u32 },
    #[error("sequences are nested deeper than {DEPTH_MAX} at byte {offset}")]
    TooDeep { offset: u64 },
    #[error("{tag} at byte {offset} has VR {vr:?}, which can't have an undefined length")]
    UndefinedLength { tag: Tag, vr: VR, offset: u64 },
    #[error("a sequence item was expected at byte {offset}, but {tag} is there")]
    NotAnItem { tag: Tag, offset: u64 },
    #[error("the value of {tag} has {length} bytes; at most {bytes_max} are read")]
    ValueTooLarge { tag: Tag, length: u64, bytes_max: usize },
    #[error("a value has more than {fragments_max} fragments")]
    TooManyFragments { fragments_max: usize },
    #[error("the data set does not inflate")]
    Inflate(#[source] std::io::Error),
    /// The disk's fault, not the data set's.
    #[error("the data set could not be read")]
    Read(#[source] std::io::Error),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    DataSet,
    Sequence,
    Item,
    Fragments,
}

#[derive(Clone, Copy)]
struct Level {
    kind: Kind,
    end: Option<u64>,
    encoding: Encoding,
}

/// The value that the last token stands before.
#[derive(Clone, Copy)]
struct Pending {
    tag: Tag,
    length: u64,
}

pub struct Walker<'a> {
    source: Box<dyn Source + 'a>,
    levels: Vec<Level>,
    pending: Option<Pending>,
    sequences: usize,
    started: bool,
    /// Before this, not all of what follows is NUL.
    sound_to: u64,
}

impl<'a> Walker<'a> {
    pub fn new(source: Box<dyn Source + 'a>, encoding: Encoding) -> Self {
        let end = source.end();
        let levels = vec![Level { kind: Kind::DataSet, end, encoding }];
        Self { source, levels, pending: None, sequences: 0, started: false, sound_to: 0 }
    }

    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// The next token, or `None` at the end of the data set.
    pub fn next(&mut self) -> Result<Option<Token>, WalkError> {
        self.skip_value()?;
        if !self.started {
            self.started = true;
            self.believe_the_bytes()?;
        }
        loop {
            let level = *self.level();
            if level.end.is_some_and(|end| self.position() >= end) {
                return Ok(self.close());
            }
            match level.kind {
                Kind::Sequence | Kind::Fragments => return self.item(level).map(Some),
                Kind::DataSet if self.at_end()? => return Ok(None),
                Kind::DataSet | Kind::Item => {
                    if let Some(token) = self.element(level)? {
                        return Ok(Some(token));
                    }
                }
            }
        }
    }

    /// The value that the last token announced; at most `bytes_max` bytes.
    pub fn value(&mut self, bytes_max: usize) -> Result<Vec<u8>, WalkError> {
        let Some(pending) = self.pending else { return Ok(Vec::new()) };
        match usize::try_from(pending.length) {
            Ok(length) if length <= bytes_max => {
                self.pending = None;
                let mut value = vec![0; length];
                self.read(&mut value)?;
                Ok(value)
            }
            _ => Err(WalkError::ValueTooLarge { tag: pending.tag, length: pending.length, bytes_max }),
        }
    }

    /// The first bytes of the value that the last token announced.
    pub fn value_head(&mut self, bytes_max: usize) -> Result<Vec<u8>, WalkError> {
        let Some(pending) = self.pending else { return Ok(Vec::new()) };
        let length = usize::try_from(pending.length).map_or(bytes_max, |length| length.min(bytes_max));
        let mut value = vec![0; length];
        self.read(&mut value)?;
        self.pending = Some(Pending { length: pending.length - length as u64, ..pending });
        Ok(value)
    }

    fn level(&self) -> &Level {
        // The data set's own level is never closed, so there is always one.
        self.levels.last().unwrap_or_else(|| unreachable!("the data set's level stays open"))
    }

    fn skip_value(&mut self) -> Result<(), WalkError> {
        match self.pending.take() {
            Some(pending) if pending.length > 0 => {
                let offset = self.position();
                self.source.skip(pending.length).map_err(|e| walk_error(e, offset))
            }
            _ => Ok(()),
        }
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), WalkError> {
        let offset = self.position();
        self.source.read(out).map_err(|e| walk_error(e, offset))
    }

    /// Whether the data set ends here: there is nothing more, or nothing but NUL behind at least one element, as some
    /// writers fill a file up. Any other rest is none, however short: a file that is cut off in the header of an element
    /// ends so. Two NULs can't begin a header, since no data set has a group 0000; one can (6000 begins with it, and most
    /// groups in big endian do), so one is padding only where it makes the length even.
    fn at_end(&mut self) -> Result<bool, WalkError> {
        let offset = self.position();
        let mut head = [0xFF; 8];
        let count = self.peek(&mut head)?;
        if count == 0 {
            return Ok(true);
        }
        if offset < self.sound_to.max(1) || head[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let mut rest = Vec::new();
        // Step by step, so that runs of NUL between elements cost no more than their own lengths.
        for bytes in [64, 1024, PADDING_BYTES_MAX + 1] {
            rest.resize(bytes, 0);
            let count = self.peek(&mut rest)?;
            if let Some(next) = rest[..count].iter().position(|byte| *byte != 0) {
                self.sound_to = offset + next as u64;
                return Ok(false);
            }
            if count < bytes {
                return Ok(count > 1 || !offset.is_multiple_of(2));
            }
        }
        Err(WalkError::Truncated { offset })
    }

    fn peek(&mut self, out: &mut [u8]) -> Result<usize, WalkError> {
        let offset = self.position();
        self.source.peek(out).map_err(|e| walk_error(e, offset))
    }

    /// Some writers announce explicit VR and write implicit, or the reverse. The first element tells.
    fn believe_the_bytes(&mut self) -> Result<(), WalkError> {
        let mut head = [0; 8];
        let count = self.peek(&mut head)?;
        let level = &mut self.levels[0];
        let delimiter = tag_of(ByteOrder::Little, &head).0 == DELIMITER_GROUP;
        if count == 8 && !delimiter && level.encoding.order == ByteOrder::Little {
            let letters = VR::from_binary([head[4], head[5]]).is_some();
            let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
            if letters != level.encoding.explicit && (letters || length < 0x1_0000) {
                level.encoding.explicit = letters;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Option<Token> {
        if self.levels.len() == 1 {
            return None;
        }
        let level = self.levels.pop()?;
        match level.kind {
            Kind::DataSet => None,
            Kind::Sequence => {
                self.sequences -= 1;
                Some(Token::SequenceEnd)
            }
            Kind::Item => Some(Token::ItemEnd),
            Kind::Fragments => Some(Token::FragmentsEnd),
        }
    }

    /// A tag and a 32-bit length, as items and delimiters have them in every syntax.
    fn item(&mut self, level: Level) -> Result<Token, WalkError> {
        let offset = self.position();
        let order = level.encoding.order;
        let mut head = [0; 8];
        self.read(&mut head)?;
        let (tag, length) = (tag_of(order, &head), order.u32([head[4], head[5], head[6], head[7]]));
        match tag {
            SEQUENCE_END => {
                // In a sequence of defined length this delimiter is one too many, but harmless.
                Ok(self.close().unwrap_or(Token::SequenceEnd))
            }
            ITEM if level.kind == Kind::Fragments => {
                self.check_length(tag, offset, length)?;
                self.pending = Some(Pending { tag, length: length.into() });
                Ok(Token::Fragment { offset: self.position(), length })
            }
            ITEM => {
                let end = self.end_of(tag, offset, length)?;
                self.levels.push(Level { kind: Kind::Item, end, encoding: level.encoding });
                Ok(Token::ItemStart)
            }
            _ => Err(WalkError::NotAnItem { tag, offset }),
        }
    }

    /// An element, or `None` for a stray delimiter that is passed over.
    fn element(&mut self, level: Level) -> Result<Option<Token>, WalkError> {
        let offset = self.position();
        let encoding = level.encoding;
        let mut head = [0; 8];
        self.read(&mut head)?;
        let tag = tag_of(encoding.order, &head);
        let last_four = [head[4], head[5], head[6], head[7]];
        if tag.0 == DELIMITER_GROUP {
            return self.delimiter(level, tag, offset, encoding.order.u32(last_four));
        }
        let (written, length) = if encoding.explicit {
            self.explicit_header(encoding.order, last_four)?
        } else {
            (None, encoding.order.u32(last_four))
        };
        let vr = match written {
            Some(vr) if vr != VR::UN => vr,
            _ => elements::vr_of(tag),
        };
        let element = Element {
            tag,
            vr,
            length: (length != UNDEFINED).then_some(length),
            offset: self.position(),
            order: encoding.order,
            inferred: written != Some(vr),
        };
        self.start_value(element, written, encoding, length).map(Some)
    }

    fn delimiter(&mut self, level: Level, tag: Tag, offset: u64, length: u32) -> Result<Option<Token>, WalkError> {
        match tag {
            ITEM_END if level.kind == Kind::Item => Ok(self.close()),
            ITEM_END | SEQUENCE_END if length == 0 => Ok(None),
            _ => Err(WalkError::NotAnItem { tag, offset }),
        }
    }

    /// VR and length of an explicit header whose first eight bytes ended in `last_four`.
    fn explicit_header(&mut self, order: ByteOrder, last_four: [u8; 4]) -> Result<(Option<VR>, u32), WalkError> {
        let [first, second, third, fourth] = last_four;
        let vr = VR::from_binary([first, second]);
        let letters = first.is_ascii_uppercase() && second.is_ascii_uppercase();
        let short = order.u16([third, fourth]);
        // VRs to come have the long form (PS3.5 7.1.2); its reserved bytes are zero.
        let long = vr.map_or(letters && short == 0, elements::has_long_length);
        if !long {
            return Ok((vr, short.into()));
        }
        let mut length = [0; 4];
        self.read(&mut length)?;
        Ok((vr, order.u32(length)))
    }

    fn start_value(
        &mut self,
        mut element: Element,
        written: Option<VR>,
        encoding: Encoding,
        length: u32,
    ) -> Result<Token, WalkError> {
        let Element { tag, vr, offset, .. } = element;
        // UN of known VR and unknown VR of undefined length hold implicit little endian (PS3.5 6.2.2).
        let from_unknown = encoding.explicit && written == Some(VR::UN);
        let inner = if from_unknown { Encoding::IMPLICIT_LITTLE } else { encoding };
        if from_unknown && length != UNDEFINED {
            element.order = ByteOrder::Little;
        }
        let undefined = length == UNDEFINED;
        let sequence = match vr {
            VR::SQ => !from_unknown || undefined || self.item_follows(inner.order, length)?,
            VR::UN => undefined,
            _ => false,
        };
        if sequence {
            element.vr = VR::SQ;
            return self.start_sequence(element, inner, length);
        }
        if undefined {
            return match vr {
                VR::OB | VR::OW | VR::UN => {
                    self.levels.push(Level { kind: Kind::Fragments, end: None, encoding });
                    Ok(Token::FragmentsStart(element))
                }
                _ => Err(WalkError::UndefinedLength { tag, vr, offset }),
            };
        }
        if vr == VR::SQ {
            element.vr = VR::UN;
        }
        self.check_length(tag, offset, length)?;
        self.pending = Some(Pending { tag, length: length.into() });
        Ok(Token::Element(element))
    }

    fn start_sequence(&mut self, element: Element, encoding: Encoding, length: u32) -> Result<Token, WalkError> {
        if self.sequences >= DEPTH_MAX {
            return Err(WalkError::TooDeep { offset: element.offset });
        }
        let end = self.end_of(element.tag, element.offset, length)?;
        self.sequences += 1;
        self.levels.push(Level { kind: Kind::Sequence, end, encoding });
        Ok(Token::SequenceStart(element))
    }

    /// Whether what follows reads as a sequence; UN under a sequence's tag may be anything.
    fn item_follows(&mut self, order: ByteOrder, length: u32) -> Result<bool, WalkError> {
        if length < 8 {
            return Ok(length == 0);
        }
        let mut head = [0; 4];
        let count = self.peek(&mut head)?;
        Ok(count == 4 && tag_of(order, &head) == ITEM)
    }

    fn end_of(&self, tag: Tag, offset: u64, length: u32) -> Result<Option<u64>, WalkError> {
        if length == UNDEFINED {
            return Ok(None);
        }
        self.check_length(tag, offset, length)?;
        Ok(Some(self.position() + u64::from(length)))
    }

    /// Invariant 1: nothing ends beyond the nearest enclosing level that has an end.
    fn check_length(&self, tag: Tag, offset: u64, length: u32) -> Result<(), WalkError> {
        let end = self.position() + u64::from(length);
        match self.levels.iter().rev().find_map(|level| level.end.map(|end| (level.kind, end))) {
            Some((Kind::DataSet, parent)) if end > parent => Err(WalkError::Truncated { offset: parent }),
            Some((_, parent)) if end > parent => Err(WalkError::LengthBeyondParent { tag, offset, length }),
            _ => Ok(()),
        }
    }
}

fn tag_of(order: ByteOrder, head: &[u8]) -> Tag {
    Tag(order.u16([head[0], head[1]]), order.u16([head[2], head[3]]))
}

fn walk_error(error: SourceError, offset: u64) -> WalkError {
    match error {
        SourceError::End => WalkError::Truncated { offset },
        SourceError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => WalkError::Truncated { offset },
        SourceError::Io(e) => WalkError::Read(e),
        SourceError::Inflate(e) => WalkError::Inflate(e),
    }
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
