//! The DICOM JSON model (PS3.18 annex F) of a data set, for WADO-RS metadata.
//!
//! Always UTF-8: text is decoded by the object's verdict and (0008,0005) says ISO_IR 192, at every level. Pixels
//! and large binary values become `BulkDataURI`s that the caller names; small binary values stand inline, in
//! little endian order whatever the object's (F.2.7). Group lengths and trailing padding are left out.
//!
//! The result is bounded by `METADATA_BYTES_MAX`; the walk ends at the data set's end, so a damaged object gives
//! an error here, or, on request, what could be read before the damage.

use dicom_core::header::{Tag, VR};
use serde_json::{Map, Value};

use super::bulk::BulkPath;
use super::charset::{CharacterSets, CharsetVerdict, TextKind};
use super::dataset::kind_of;
use super::elements::{self, DATA_SET_TRAILING_PADDING, PIXEL_REPRESENTATION, SPECIFIC_CHARACTER_SET};
use super::json_values;
use super::source::Source;
use super::syntax::TransferSyntax;
use super::walk::{Element, Token, WalkError, Walker};

/// Metadata of one object, in bytes of memory: enhanced objects of several thousand frames stay below.
pub const METADATA_BYTES_MAX: usize = 128 << 20;

/// Binary values above this size become bulk data, in bytes.
pub const INLINE_BYTES_MAX: usize = 1 << 10;

/// Text values above this size become bulk data, in bytes.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// What an element, or a group of a name, costs in memory besides its values, in bytes: a map of its own in the map of its
/// data set, with their keys.
const ELEMENT_BYTES: usize = 400;
/// What a short text costs besides the value that it is, in bytes: the smallest piece that is allocated.
const TEXT_BYTES: usize = 32;

/// Why a data set has no JSON form.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("the data set is broken")]
    Walk(#[from] WalkError),
    #[error("the metadata has more than {METADATA_BYTES_MAX} bytes")]
    TooLarge,
}

/// A data set in the JSON model.
pub type JsonDataSet = Map<String, Value>;

/// Converts as much of a data set as is sound; the error says where it ends, if it is not whole. `bulk` gives the URI
/// for a value that is not inlined.
pub fn metadata_so_far(
    source: Box<dyn Source + '_>,
    syntax: &TransferSyntax,
    verdict: &CharsetVerdict,
    bulk: &dyn Fn(&BulkPath) -> String,
) -> (JsonDataSet, Option<JsonError>) {
    let mut builder = Builder::new(verdict, bulk);
    let error = builder.run(&mut Walker::new(source, syntax.encoding())).err();
    (builder.finish(), error)
}

/// A data set or an item while it is being built.
struct Level {
    object: JsonDataSet,
    sets: CharacterSets,
    signed: bool,
}

/// A sequence while it is being built: its tag and its finished items.
struct Sequence {
    tag: Tag,
    items: Vec<Value>,
}

struct Builder<'a> {
    verdict: &'a CharsetVerdict,
    bulk: &'a dyn Fn(&BulkPath) -> String,
    levels: Vec<Level>,
    sequences: Vec<Sequence>,
    path: BulkPath,
    bytes: usize,
    has_text: bool,
}

impl<'a> Builder<'a> {
    fn new(verdict: &'a CharsetVerdict, bulk: &'a dyn Fn(&BulkPath) -> String) -> Self {
        let top = Level { object: Map::new(), sets: verdict.used().clone(), signed: false };
        Self {
            verdict,
            bulk,
            levels: vec![top],
            sequences: Vec::new(),
            path: BulkPath::default(),
            bytes: 0,
            has_text: false,
        }
    }

    fn run(&mut self, walker: &mut Walker<'_>) -> Result<(), JsonError> {
        while let Some(token) = walker.next()? {
            match token {
                Token::SequenceStart(element) => self.sequences.push(Sequence { tag: element.tag, items: Vec::new() }),
                Token::SequenceEnd => self.end_sequence(),
                Token::ItemStart => self.start_item(),
                Token::ItemEnd => self.end_item(),
                Token::FragmentsStart(element) => {
                    let uri = self.uri(element.tag);
                    self.put(element.tag, VR::OB, Some(("BulkDataURI", uri)));
                }
                Token::Fragment { .. } | Token::FragmentsEnd => {}
                Token::Element(element) => self.element(walker, element)?,
            }
            if self.bytes > METADATA_BYTES_MAX {
                return Err(JsonError::TooLarge);
            }
        }
        Ok(())
    }

    /// Closes whatever a broken data set left open, and states the character set.
    fn finish(mut self) -> JsonDataSet {
        while !self.sequences.is_empty() {
            if self.levels.len() > self.sequences.len() {
                self.end_item();
            }
            self.end_sequence();
        }
        let mut top = self.levels.pop().map(|level| level.object).unwrap_or_default();
        if self.has_text {
            top.insert(key(SPECIFIC_CHARACTER_SET), json_values::field(VR::CS, Some(("Value", utf8_term()))));
        }
        top.sort_keys();
        top
    }

    fn top(&mut self) -> &mut Level {
        // The data set's level is taken off in `finish` only.
        self.levels.last_mut().unwrap_or_else(|| unreachable!("the data set's level stays open"))
    }

    fn start_item(&mut self) {
        if let Some(sequence) = self.sequences.last() {
            self.path.push(sequence.tag, sequence.items.len());
        }
        let Level { sets, signed, .. } = self.top();
        let level = Level { object: Map::new(), sets: sets.clone(), signed: *signed };
        self.levels.push(level);
        self.bytes += ELEMENT_BYTES;
    }

    fn end_item(&mut self) {
        self.path.pop();
        if let (Some(level), Some(sequence)) = (self.levels.pop(), self.sequences.last_mut()) {
            sequence.items.push(Value::Object(level.object));
        }
    }

    fn end_sequence(&mut self) {
        if let Some(sequence) = self.sequences.pop() {
            let items = (!sequence.items.is_empty()).then_some(("Value", Value::Array(sequence.items)));
            self.put(sequence.tag, VR::SQ, items);
        }
    }

    fn element(&mut self, walker: &mut Walker<'_>, element: Element) -> Result<(), JsonError> {
        let Element { tag, length, .. } = element;
        let length = length.unwrap_or(0) as usize;
        if tag.element() == 0 || tag == DATA_SET_TRAILING_PADDING {
            return Ok(());
        }
        if self.is_bulk(&element, length) {
            let uri = self.uri(tag);
            self.put(tag, element.vr, Some(("BulkDataURI", uri)));
            return Ok(());
        }
        // Unreadable only beyond the inline bounds, which were just checked.
        let value = walker.value(length)?;
        self.bytes += length + cost_of_values(element.vr, &value);
        match tag {
            SPECIFIC_CHARACTER_SET => {
                if self.levels.len() > 1 {
                    let outer = self.top().sets.clone();
                    self.top().sets = self.verdict.for_item(&outer, &value);
                }
                self.put(tag, VR::CS, Some(("Value", utf8_term())));
                return Ok(());
            }
            PIXEL_REPRESENTATION => self.top().signed = value.first().is_some_and(|byte| *byte == 1) || value == [0, 1],
            _ => {}
        }
        self.value(&element, &value);
        Ok(())
    }

    fn is_bulk(&self, element: &Element, length: usize) -> bool {
        let pixels = self.sequences.is_empty() && elements::is_pixel_data(element.tag);
        let bound = if json_values::is_binary(element.vr) { INLINE_BYTES_MAX } else { TEXT_BYTES_MAX };
        (pixels && length > 0) || length > bound
    }

    fn value(&mut self, element: &Element, value: &[u8]) {
        let Element { tag, order, inferred, .. } = *element;
        let signed = inferred && self.top().signed && elements::is_signed_by_pixel_representation(tag);
        let vr = if signed { VR::SS } else { element.vr };
        let filled = match vr {
            _ if value.is_empty() => None,
            vr if json_values::is_binary(vr) => Some(("InlineBinary", json_values::inline(vr, value, order))),
            vr if json_values::is_number(vr) => json_values::numbers(vr, value, order).map(|list| ("Value", list)),
            VR::AT => Some(("Value", json_values::tags(value, order))),
            vr => {
                let text = self.text(vr, value);
                json_values::texts(vr, &text).map(|list| ("Value", list))
            }
        };
        self.put(tag, vr, filled);
    }

    fn text(&mut self, vr: VR, value: &[u8]) -> String {
        if !elements::is_text(vr) {
            return CharacterSets::one(super::charset::CharacterSet::Latin1).text(value, TextKind::Lines);
        }
        self.has_text |= !value.is_ascii() || value.contains(&0x1B);
        self.top().sets.text(value, kind_of(vr))
    }

    fn uri(&self, tag: Tag) -> Value {
        Value::String((self.bulk)(&self.path.with(tag)))
    }

    fn put(&mut self, tag: Tag, vr: VR, filled: Option<(&str, Value)>) {
        self.bytes += ELEMENT_BYTES;
        // Of repeated elements the first counts, as in the facts.
        self.top().object.entry(key(tag)).or_insert_with(|| json_values::field(vr, filled));
    }
}

/// What the values of an element cost in memory besides their bytes.
fn cost_of_values(vr: VR, value: &[u8]) -> usize {
    let texts = || value.iter().filter(|byte| **byte == b'\\').count() + 1;
    match vr {
        vr if json_values::is_binary(vr) => value.len() / 2,
        vr if json_values::is_number(vr) => value.len() / json_values::word_bytes(vr) * size_of::<Value>(),
        VR::AT => value.len() / 4 * (size_of::<Value>() + TEXT_BYTES),
        VR::PN => texts() * (size_of::<Value>() + ELEMENT_BYTES),
        _ => texts() * (size_of::<Value>() + TEXT_BYTES),
    }
}

fn key(tag: Tag) -> String {
    format!("{:04X}{:04X}", tag.0, tag.1)
}

fn utf8_term() -> Value {
    Value::Array(vec![Value::from("ISO_IR 192")])
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
