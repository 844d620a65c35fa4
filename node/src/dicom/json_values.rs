//! Single values in the DICOM JSON model (PS3.18 F.2): numbers, names, tags, text, binary.
//!
//! A DS or IS that is no number stays text, as F.2.3 allows: nothing that a sender wrote is lost or made up. So do
//! 64-bit integers that a JavaScript number can't hold.

use data_encoding::BASE64;
use dicom_core::header::VR;
use serde_json::{Map, Number, Value};

use super::charset::name_groups;
use super::elements;
use super::syntax::ByteOrder;

/// Integers up to 2^53 are exact in every JSON reader.
const SAFE_INTEGER_MAX: u64 = 1 << 53;

/// `{"vr": .., "<key>": ..}`.
pub fn field(vr: VR, filled: Option<(&str, Value)>) -> Value {
    let mut field = Map::new();
    field.insert("vr".into(), Value::from(vr.to_string()));
    if let Some((key, value)) = filled {
        field.insert(key.into(), value);
    }
    Value::Object(field)
}

pub fn is_binary(vr: VR) -> bool {
    matches!(vr, VR::OB | VR::OD | VR::OF | VR::OL | VR::OV | VR::OW | VR::UN)
}

pub fn is_number(vr: VR) -> bool {
    matches!(vr, VR::FL | VR::FD | VR::SL | VR::SS | VR::SV | VR::UL | VR::US | VR::UV)
}

/// Bytes of one number or word of a VR.
pub fn word_bytes(vr: VR) -> usize {
    match vr {
        VR::SS | VR::US | VR::OW => 2,
        VR::FL | VR::SL | VR::UL | VR::OF | VR::OL => 4,
        VR::FD | VR::SV | VR::UV | VR::OD | VR::OV => 8,
        _ => 1,
    }
}

/// Reverses the bytes of each word.
pub fn swap_words(bytes: &mut [u8], word_bytes: usize) {
    for word in bytes.chunks_exact_mut(word_bytes.max(1)) {
        word.reverse();
    }
}

/// Base64 of the value in little endian order.
pub fn inline(vr: VR, value: &[u8], order: ByteOrder) -> Value {
    if order == ByteOrder::Little {
        return Value::from(BASE64.encode(value));
    }
    let mut value = value.to_vec();
    swap_words(&mut value, word_bytes(vr));
    Value::from(BASE64.encode(&value))
}

/// All whole numbers of a binary value; `None` when there is not even one.
pub fn numbers(vr: VR, value: &[u8], order: ByteOrder) -> Option<Value> {
    let list: Vec<Value> = value.chunks_exact(word_bytes(vr)).map(|word| number(vr, word, order)).collect();
    (!list.is_empty()).then_some(Value::Array(list))
}

fn number(vr: VR, word: &[u8], order: ByteOrder) -> Value {
    let mut little = [0; 8];
    let word_bytes = word.len().min(8);
    little[..word_bytes].copy_from_slice(&word[..word_bytes]);
    if order == ByteOrder::Big {
        little[..word_bytes].reverse();
    }
    let wide = u64::from_le_bytes(little);
    // The casts take the low bytes, which are the word.
    match vr {
        VR::US => Value::from(wide as u16),
        VR::SS => Value::from(wide as u16 as i16),
        VR::UL => Value::from(wide as u32),
        VR::SL => Value::from(wide as u32 as i32),
        VR::FL => float(f32::from_bits(wide as u32).to_string(), f64::from(f32::from_bits(wide as u32))),
        VR::FD => float(f64::from_bits(wide).to_string(), f64::from_bits(wide)),
        VR::SV if (wide as i64).unsigned_abs() <= SAFE_INTEGER_MAX => Value::from(wide as i64),
        VR::SV => Value::from((wide as i64).to_string()),
        _ if wide <= SAFE_INTEGER_MAX => Value::from(wide),
        _ => Value::from(wide.to_string()),
    }
}

/// A float by its shortest decimal form; what JSON has no number for (NaN, infinities) as text.
fn float(text: String, value: f64) -> Value {
    let shortest = text.parse().ok().filter(|_| value.is_finite()).and_then(Number::from_f64);
    shortest.map_or(Value::from(text), Value::Number)
}

/// Attribute tags as eight hexadecimal digits.
pub fn tags(value: &[u8], order: ByteOrder) -> Value {
    let tag = |bytes: &[u8]| {
        let [group, element] = [[bytes[0], bytes[1]], [bytes[2], bytes[3]]].map(|half| order.u16(half));
        Value::from(format!("{group:04X}{element:04X}"))
    };
    Value::Array(value.chunks_exact(4).map(tag).collect())
}

/// Decoded text of any VR, parted into its values; `None` when there is nothing but padding.
pub fn texts(vr: VR, text: &str) -> Option<Value> {
    let text = text.trim_end_matches(['\0', ' ']);
    if text.is_empty() {
        return None;
    }
    if elements::is_single_valued_text(vr) {
        return Some(Value::Array(vec![Value::from(text)]));
    }
    let list = text.split('\\').map(|part| one(vr, part.trim_matches([' ', '\0']))).collect();
    Some(Value::Array(list))
}

fn one(vr: VR, text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    match vr {
        VR::PN => name(text),
        VR::IS => text.parse::<i64>().map_or_else(|_| Value::from(text), Value::from),
        VR::DS => {
            let number = text.parse::<f64>().ok().and_then(Number::from_f64);
            number.map_or_else(|| Value::from(text), Value::Number)
        }
        _ => Value::from(text),
    }
}

fn name(text: &str) -> Value {
    let mut name = Map::new();
    for (group, text) in ["Alphabetic", "Ideographic", "Phonetic"].into_iter().zip(name_groups(text)) {
        if !text.is_empty() {
            name.insert(group.into(), Value::from(text));
        }
    }
    if name.is_empty() { Value::Null } else { Value::Object(name) }
}
