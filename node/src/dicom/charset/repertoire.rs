//! The character sets that DICOM knows, by their defined terms (PS3.3 tables C.12-2 to C.12-5), and the reading of
//! declarations, which real senders misspell in many ways.
//! Not for decoding bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest declaration that is kept for display, in characters.
const DECLARATION_CHARS_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CharacterSet {
    Ascii,
    Latin1,
    Latin2,
    Latin3,
    Latin4,
    Cyrillic,
    Arabic,
    Greek,
    Hebrew,
    Latin5,
    Latin9,
    Thai,
    Katakana,
    Kanji,
    SupplementaryKanji,
    Korean,
    SimplifiedChinese,
    Utf8,
    Gb18030,
    Gbk,
}

use CharacterSet::*;

/// Set, number of its ISO registration, escape sequence that designates it (without ESC).
const REGISTERED: [(CharacterSet, &str, &[u8]); 17] = [
    (Ascii, "6", b"(B"),
    (Latin1, "100", b"-A"),
    (Latin2, "101", b"-B"),
    (Latin3, "109", b"-C"),
    (Latin4, "110", b"-D"),
    (Cyrillic, "144", b"-L"),
    (Arabic, "127", b"-G"),
    (Greek, "126", b"-F"),
    (Hebrew, "138", b"-H"),
    (Latin5, "148", b"-M"),
    (Latin9, "203", b"-b"),
    (Thai, "166", b"-T"),
    (Katakana, "13", b")I"),
    (Kanji, "87", b"$B"),
    (SupplementaryKanji, "159", b"$(D"),
    (Korean, "149", b"$)C"),
    (SimplifiedChinese, "58", b"$)A"),
];

impl CharacterSet {
    /// The defined term without code extensions, or the one with where only that exists.
    pub fn term(self) -> String {
        match self {
            Utf8 => "ISO_IR 192".into(),
            Gb18030 => "GB18030".into(),
            Gbk => "GBK".into(),
            Kanji | SupplementaryKanji | Korean | SimplifiedChinese => format!("ISO 2022 IR {}", self.number()),
            _ => format!("ISO_IR {}", self.number()),
        }
    }

    fn number(self) -> &'static str {
        REGISTERED.iter().find(|(set, ..)| *set == self).map_or("6", |(_, number, _)| number)
    }

    /// Reads one term, forgiving case, blanks, hyphens and underscores ("ISO-IR 100", "iso_2022_ir_58", "utf8").
    fn parse(term: &str) -> Option<Self> {
        let plain: String = term.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect();
        match plain.as_str() {
            "" | "ASCII" | "USASCII" => return Some(Ascii),
            "UTF8" | "ISOIR192" | "ISO2022IR192" | "IR192" => return Some(Utf8),
            "GB18030" | "ISO2022GB18030" | "GB180302000" => return Some(Gb18030),
            "GBK" | "ISO2022GBK" | "CP936" | "GB2312" | "GB231280" => return Some(Gbk),
            "ISO202258" => return Some(SimplifiedChinese),
            "ISO88591" | "LATIN1" => return Some(Latin1),
            _ => {}
        }
        let number = ["ISO2022IR", "ISOIR", "IR"].iter().find_map(|prefix| plain.strip_prefix(prefix))?;
        let number = if number == "14" { "13" } else { number };
        REGISTERED.iter().find(|(_, registered, _)| *registered == number).map(|(set, ..)| *set)
    }

    /// The set that an escape sequence designates, with the length of the sequence after ESC.
    pub fn of_escape(after_escape: &[u8]) -> Option<(Self, usize)> {
        if after_escape.starts_with(b"(J") {
            // ISO-IR 14, the Roman half of JIS X 0201: read as ASCII, as everyone does.
            return Some((Ascii, 2));
        }
        REGISTERED
            .iter()
            .find(|(_, _, escape)| after_escape.starts_with(escape))
            .map(|(set, _, escape)| (*set, escape.len()))
    }

    /// Sets that stand alone: no code extensions (PS3.5 6.1.2.5.4 d).
    pub fn stands_alone(self) -> bool {
        matches!(self, Utf8 | Gb18030 | Gbk)
    }

    /// Sets of two bytes a character that are designated to G0, where ASCII usually is.
    pub fn is_double_byte_g0(self) -> bool {
        matches!(self, Kanji | SupplementaryKanji)
    }
}

impl fmt::Display for CharacterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.term())
    }
}

/// One or more sets: the first is in force at the beginning of each value, the others are reached by escapes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CharacterSets(Vec<CharacterSet>);

/// A character set term that no version of the standard knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{term}' is no character set of DICOM; examples: GB18030, ISO_IR 192, ISO_IR 100")]
pub struct UnknownCharacterSet {
    term: String,
}

impl CharacterSets {
    pub fn one(set: CharacterSet) -> Self {
        Self(vec![set])
    }

    /// Parses terms parted by backslashes, as in (0008,0005).
    pub fn parse(text: &str) -> Result<Self, UnknownCharacterSet> {
        text.split('\\')
            .map(|term| CharacterSet::parse(term).ok_or_else(|| UnknownCharacterSet { term: term.trim().into() }))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub fn first(&self) -> CharacterSet {
        self.0.first().copied().unwrap_or(Ascii)
    }

    pub fn iter(&self) -> impl Iterator<Item = CharacterSet> + '_ {
        self.0.iter().copied()
    }

    pub fn contains(&self, set: CharacterSet) -> bool {
        self.0.contains(&set)
    }

    pub(super) fn push(&mut self, set: CharacterSet) {
        self.0.push(set);
    }
}

impl TryFrom<String> for CharacterSets {
    type Error = UnknownCharacterSet;
    fn try_from(text: String) -> Result<Self, UnknownCharacterSet> {
        Self::parse(&text)
    }
}

impl From<CharacterSets> for String {
    fn from(sets: CharacterSets) -> Self {
        sets.to_string()
    }
}

impl fmt::Display for CharacterSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, set) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\\" };
            write!(f, "{separator}{set}")?;
        }
        Ok(())
    }
}

/// What an object declares in (0008,0005).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    text: String,
    sets: Option<CharacterSets>,
}

impl Declaration {
    pub fn parse(value: &[u8]) -> Self {
        let text = String::from_utf8_lossy(value);
        let text = text.trim_end_matches(['\0', ' ']).trim_start();
        let sets = CharacterSets::parse(text).ok();
        let text = text.chars().filter(|c| !c.is_control()).take(DECLARATION_CHARS_MAX).collect();
        Self { text, sets }
    }

    pub fn is_missing(&self) -> bool {
        self.text.is_empty()
    }

    /// The declared sets; `None` when the terms make no sense.
    pub fn sets(&self) -> Option<&CharacterSets> {
        self.sets.as_ref()
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }
}
