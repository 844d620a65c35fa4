//! Bytes to text: the sets that stand alone through encoding_rs, all others through the ISO 2022 machine of
//! PS3.5 section 6.1.2.5.
//!
//! The machine has a G0 and a G1 set, changed by escape sequences and reset to the first declared set at every
//! delimiter (PS3.5 6.1.2.5.3). It also does what senders get wrong: it follows escape sequences that were not
//! declared, and reads high bytes with no G1 designated by the first declared set that has a G1.

use encoding_rs::{
    EUC_JP, EUC_KR, Encoding, GB18030, GBK, ISO_8859_2, ISO_8859_3, ISO_8859_4, ISO_8859_5, ISO_8859_6, ISO_8859_7,
    ISO_8859_8, ISO_8859_15, UTF_8, WINDOWS_874, WINDOWS_1252, WINDOWS_1254,
};

use super::repertoire::{CharacterSet, CharacterSets};

const ESC: u8 = 0x1B;

/// What resets the sets inside a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// LO, SH, UC: values parted by backslashes.
    Values,
    /// PN: also `^` and `=`.
    Name,
    /// ST, LT, UT: lines; a backslash is a character.
    Lines,
}

impl TextKind {
    fn resets(self, byte: u8) -> bool {
        match byte {
            b'\n' | b'\r' | b'\t' | 0x0C => true,
            b'\\' => self != Self::Lines,
            b'^' | b'=' => self == Self::Name,
            _ => false,
        }
    }
}

/// Decoded text, and how well the bytes fitted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decoded {
    pub text: String,
    /// Characters that could not be decoded, not counting one that a sender cut off at the end of the value.
    pub malformed: usize,
    /// Escape sequences led to sets that were not declared.
    pub undeclared: Vec<CharacterSet>,
}

impl CharacterSets {
    /// Decodes the whole value of an element. Split it into values and groups afterwards, not before: in several
    /// sets a backslash or caret can be the second byte of a character.
    pub fn decode(&self, bytes: &[u8], kind: TextKind) -> Decoded {
        if bytes.is_ascii() && !bytes.contains(&ESC) {
            return Decoded { text: String::from_utf8_lossy(bytes).into_owned(), ..Decoded::default() };
        }
        match self.first() {
            CharacterSet::Utf8 => whole(UTF_8, bytes),
            // GBK is a subset; senders who declare it use GB18030's characters too.
            CharacterSet::Gb18030 | CharacterSet::Gbk => whole(GB18030, bytes),
            _ => Machine::new(self, kind).run(bytes),
        }
    }

    /// Decodes one value and takes padding off both ends, as it is insignificant in all VRs but ST, LT and UT.
    pub fn text(&self, bytes: &[u8], kind: TextKind) -> String {
        let text = self.decode(bytes, kind).text;
        let text = text.trim_end_matches(['\0', ' ']);
        if kind == TextKind::Lines { text.to_owned() } else { text.trim_start_matches(' ').to_owned() }
    }
}

fn whole(encoding: &'static Encoding, bytes: &[u8]) -> Decoded {
    let (text, _) = encoding.decode_without_bom_handling(bytes);
    let uncut = text.trim_end_matches(['\0', ' ']);
    let malformed = uncut.strip_suffix('\u{FFFD}').unwrap_or(uncut).matches('\u{FFFD}').count();
    Decoded { text: text.into_owned(), malformed, undeclared: Vec::new() }
}

struct Machine<'a> {
    sets: &'a CharacterSets,
    kind: TextKind,
    g0: CharacterSet,
    g1: CharacterSet,
    out: Decoded,
}

impl<'a> Machine<'a> {
    fn new(sets: &'a CharacterSets, kind: TextKind) -> Self {
        let mut machine =
            Self { sets, kind, g0: CharacterSet::Ascii, g1: CharacterSet::Ascii, out: Decoded::default() };
        machine.reset();
        machine
    }

    fn reset(&mut self) {
        self.g0 = CharacterSet::Ascii;
        let has_g1 =
            |set: &CharacterSet| !set.is_double_byte_g0() && !set.stands_alone() && *set != CharacterSet::Ascii;
        self.g1 = self.sets.iter().find(has_g1).unwrap_or(CharacterSet::Ascii);
    }

    fn run(mut self, bytes: &[u8]) -> Decoded {
        let mut rest = bytes;
        while let Some(&byte) = rest.first() {
            let taken = match byte {
                ESC => self.escape(&rest[1..]) + 1,
                0x80.. => self.high(rest),
                0x21..=0x7E if self.g0.is_double_byte_g0() => self.double(rest),
                _ => {
                    if self.kind.resets(byte) {
                        self.reset();
                    }
                    self.out.text.push(byte.into());
                    1
                }
            };
            rest = &rest[taken..];
        }
        self.out
    }

    /// Follows an escape sequence; gives its length without ESC.
    fn escape(&mut self, after: &[u8]) -> usize {
        let Some((set, length)) = CharacterSet::of_escape(after) else {
            self.out.malformed += 1;
            return 0;
        };
        if set == CharacterSet::Ascii || set.is_double_byte_g0() {
            self.g0 = set;
        } else {
            self.g1 = set;
        }
        if set != CharacterSet::Ascii && !self.sets.contains(set) && !self.out.undeclared.contains(&set) {
            self.out.undeclared.push(set);
        }
        length
    }

    /// A run of bytes with the high bit, by G1.
    fn high(&mut self, rest: &[u8]) -> usize {
        let length = rest.iter().position(|byte| *byte < 0x80).unwrap_or(rest.len());
        let at_end = length == rest.len();
        let run = &rest[..length];
        let text = match encoding_of(self.g1) {
            Some(encoding) => encoding.decode_without_bom_handling(run).0.into_owned(),
            None if self.g1 == CharacterSet::Katakana => run.iter().map(|byte| katakana(*byte)).collect(),
            None => "\u{FFFD}".repeat(run.len()),
        };
        let cut = at_end && matches!(self.g1, CharacterSet::Korean | CharacterSet::SimplifiedChinese);
        let counted = text.strip_suffix('\u{FFFD}').filter(|_| cut).unwrap_or(&text);
        self.out.malformed += counted.matches('\u{FFFD}').count();
        self.out.text.push_str(&text);
        length
    }

    /// One character of two bytes in G0.
    fn double(&mut self, rest: &[u8]) -> usize {
        let Some(&[first, second @ 0x21..=0x7E]) = rest.get(..2) else {
            self.out.malformed += usize::from(rest.len() > 1);
            self.out.text.push('\u{FFFD}');
            return 1;
        };
        let pair = [0x8F, first | 0x80, second | 0x80];
        let start = usize::from(self.g0 == CharacterSet::Kanji);
        let (text, malformed) = EUC_JP.decode_without_bom_handling(&pair[start..]);
        self.out.malformed += usize::from(malformed);
        self.out.text.push_str(&text);
        2
    }
}

/// The right half of JIS X 0201.
fn katakana(byte: u8) -> char {
    match byte {
        0xA1..=0xDF => char::from_u32(0xFF61 + u32::from(byte - 0xA1)).unwrap_or('\u{FFFD}'),
        _ => '\u{FFFD}',
    }
}

/// Latin-1 is read as Windows-1252, which adds characters where Latin-1 has none; senders on Windows use them.
fn encoding_of(set: CharacterSet) -> Option<&'static Encoding> {
    Some(match set {
        CharacterSet::Latin1 => WINDOWS_1252,
        CharacterSet::Latin2 => ISO_8859_2,
        CharacterSet::Latin3 => ISO_8859_3,
        CharacterSet::Latin4 => ISO_8859_4,
        CharacterSet::Cyrillic => ISO_8859_5,
        CharacterSet::Arabic => ISO_8859_6,
        CharacterSet::Greek => ISO_8859_7,
        CharacterSet::Hebrew => ISO_8859_8,
        CharacterSet::Latin5 => WINDOWS_1254,
        CharacterSet::Latin9 => ISO_8859_15,
        CharacterSet::Thai => WINDOWS_874,
        CharacterSet::Korean => EUC_KR,
        CharacterSet::SimplifiedChinese => GBK,
        _ => return None,
    })
}
