//! Does the declared character set fit the bytes? And if not, which does?
//!
//! The wrong declarations that matter in practice: GBK bytes under ISO_IR 100 or under nothing (most Chinese
//! modalities in their factory setting), UTF-8 bytes under ISO_IR 100, GBK or nothing, Latin-1 under nothing, escape
//! sequences of sets that were not declared. Everything else (Korean, Japanese or Big5 bytes without a word) can't
//! be told apart safely and is left to the operator's setting for the sender.
//!
//! The evidence is counted over all text of an object. Reading Latin-1 as Chinese would be as bad as the reverse,
//! so evidence against is counted too: accented letters stand alone among ASCII letters, Chinese ones do not.

use super::CharsetVerdict;
use super::decode::TextKind;
use super::repertoire::{CharacterSet, CharacterSets, Declaration};

/// Text kept as evidence for one object, in bytes; only values that are not plain ASCII count.
pub const SAMPLE_BYTES_MAX: usize = 16 << 10;

/// Good Chinese characters that outweigh one piece of evidence against Chinese.
const CHINESE_MAJORITY: usize = 3;

/// Two-byte UTF-8 characters that can't be an accident in single-byte text.
const UTF8_PAIRS_MIN: usize = 4;

/// Values of an object's text elements that are not plain ASCII.
#[derive(Debug, Default)]
pub struct Samples {
    values: Vec<(Vec<u8>, TextKind)>,
    bytes: usize,
}

impl Samples {
    /// Keeps a value if it is of use and there is room.
    pub fn add(&mut self, value: &[u8], kind: TextKind) {
        let plain = value.is_ascii() && !value.contains(&0x1B);
        if plain || self.bytes >= SAMPLE_BYTES_MAX {
            return;
        }
        let value = &value[..value.len().min(SAMPLE_BYTES_MAX - self.bytes)];
        self.bytes += value.len();
        self.values.push((value.to_vec(), kind));
    }

    fn fit(&self, sets: &CharacterSets) -> Fit {
        let mut fit = Fit::default();
        for (value, kind) in &self.values {
            let decoded = sets.decode(value, *kind);
            fit.malformed += decoded.malformed;
            for set in decoded.undeclared {
                if !fit.undeclared.contains(&set) {
                    fit.undeclared.push(set);
                }
            }
        }
        fit
    }
}

#[derive(Default)]
struct Fit {
    malformed: usize,
    undeclared: Vec<CharacterSet>,
}

impl Fit {
    fn is_clean(&self) -> bool {
        self.malformed == 0 && self.undeclared.is_empty()
    }
}

pub fn judge(declaration: Declaration, samples: &Samples) -> CharsetVerdict {
    let sets = declaration.sets().cloned().unwrap_or_else(|| CharacterSets::one(CharacterSet::Ascii));
    if samples.values.is_empty() {
        return CharsetVerdict::Declared { used: sets };
    }
    let fit = samples.fit(&sets);
    match better(&sets, &fit, samples) {
        Some(used) => CharsetVerdict::Detected { declared: declaration.into_text(), used },
        None if fit.is_clean() => CharsetVerdict::Declared { used: sets },
        None => fallback(declaration, sets, samples),
    }
}

/// Sets that the bytes speak for more loudly than for the declared ones.
fn better(sets: &CharacterSets, fit: &Fit, samples: &Samples) -> Option<CharacterSets> {
    let utf8 = Utf8Evidence::of(samples);
    let chinese = ChineseEvidence::of(samples);
    let use_utf8 = Some(CharacterSets::one(CharacterSet::Utf8));
    let use_chinese = Some(CharacterSets::one(CharacterSet::Gb18030));
    match sets.first() {
        CharacterSet::Utf8 if fit.is_clean() => None,
        CharacterSet::Utf8 if chinese.is_plausible() => use_chinese,
        CharacterSet::Gb18030 | CharacterSet::Gbk if utf8.is_chinese() => use_utf8,
        CharacterSet::Gb18030 | CharacterSet::Gbk if !fit.is_clean() && utf8.is_convincing() => use_utf8,
        set if set.stands_alone() => None,
        _ if !fit.undeclared.is_empty() && fit.malformed == 0 => {
            let mut used = sets.clone();
            fit.undeclared.iter().for_each(|set| used.push(*set));
            Some(used)
        }
        _ if samples.values.iter().any(|(value, _)| value.contains(&0x1B)) => None,
        CharacterSet::Ascii | CharacterSet::Latin1 if utf8.is_chinese() || utf8.is_latin() => use_utf8,
        CharacterSet::Ascii | CharacterSet::Latin1 if chinese.is_plausible() => use_chinese,
        CharacterSet::Ascii | CharacterSet::Latin1 if utf8.valid => use_utf8,
        _ if utf8.is_convincing() => use_utf8,
        _ => None,
    }
}

/// Nothing speaks loudly and the declaration doesn't fit: Latin-1 where it makes sense, replacement elsewhere.
fn fallback(declaration: Declaration, sets: CharacterSets, samples: &Samples) -> CharsetVerdict {
    let latin = CharacterSets::one(CharacterSet::Latin1);
    let may_be_latin = matches!(sets.first(), CharacterSet::Ascii | CharacterSet::Utf8);
    let controls = samples.values.iter().any(|(value, _)| value.iter().any(|b| (0x80..0xA0).contains(b) || *b == 0x1B));
    let declared = declaration.into_text();
    if may_be_latin && !controls {
        return CharsetVerdict::Detected { declared, used: latin };
    }
    let used = if sets.first() == CharacterSet::Ascii && !sets.iter().any(|set| set != CharacterSet::Ascii) {
        latin
    } else {
        sets
    };
    CharsetVerdict::Undecodable { declared, used }
}

/// How the bytes read as UTF-8.
struct Utf8Evidence {
    valid: bool,
    /// Characters of two bytes, those of them that are Latin letters and signs, and longer ones.
    two_byte: usize,
    latin: usize,
    longer: usize,
}

impl Utf8Evidence {
    fn of(samples: &Samples) -> Self {
        let mut evidence = Self { valid: true, two_byte: 0, latin: 0, longer: 0 };
        for (value, _) in &samples.values {
            let text = match std::str::from_utf8(value) {
                Ok(text) => text,
                // A character that the sender cut off at the end of the value.
                Err(e) if e.error_len().is_none() => std::str::from_utf8(&value[..e.valid_up_to()]).unwrap_or_default(),
                Err(_) => return Self { valid: false, two_byte: 0, latin: 0, longer: 0 },
            };
            for character in text.chars() {
                match character {
                    '\0'..='\x7F' => {}
                    '\u{80}'..='\u{7FF}' => evidence.two_byte += 1,
                    _ => evidence.longer += 1,
                }
                evidence.latin += usize::from(matches!(character, '\u{A0}'..='\u{17F}'));
            }
        }
        evidence
    }

    /// Long sequences only: what Chinese text looks like, and what GBK text practically never reads as.
    fn is_chinese(&self) -> bool {
        self.valid && self.longer > 0 && self.longer >= self.two_byte
    }

    /// All of it letters that Latin text has; GBK text practically never reads as that either.
    fn is_latin(&self) -> bool {
        self.valid && self.latin > 0 && self.latin == self.two_byte + self.longer
    }

    fn is_convincing(&self) -> bool {
        self.valid && (self.longer > 0 || self.two_byte >= UTF8_PAIRS_MIN)
    }
}

/// How the bytes read as GBK.
#[derive(Default)]
struct ChineseEvidence {
    good: usize,
    against: usize,
}

impl ChineseEvidence {
    fn of(samples: &Samples) -> Self {
        let mut evidence = Self::default();
        for (value, _) in &samples.values {
            evidence.scan(value);
        }
        evidence
    }

    fn is_plausible(&self) -> bool {
        self.good > 0 && self.good >= CHINESE_MAJORITY * self.against
    }

    fn scan(&mut self, value: &[u8]) {
        let mut at = 0;
        while at < value.len() {
            if value[at] < 0x80 {
                at += 1;
                continue;
            }
            let length = value[at..].iter().position(|byte| *byte < 0x80).unwrap_or(value.len() - at);
            let before = at.checked_sub(1).and_then(|index| value.get(index));
            self.run(&value[at..at + length], before, value.get(at + length));
            at += length;
        }
    }

    /// One run of high bytes between ASCII neighbours. GBK characters of two high bytes come in even runs.
    fn run(&mut self, run: &[u8], before: Option<&u8>, after: Option<&u8>) {
        let letter = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphabetic);
        // A run that ends the value may be cut; one that ends in an ASCII byte may be a rarer GBK character.
        let odd = run.len() % 2 == 1;
        let hanzi = run.chunks_exact(2).filter(|pair| is_common(pair)).count();
        let others = run.len() / 2 - hanzi;
        match (odd, hanzi) {
            (true, 0 | 1) if after.is_some() => self.against += 1,
            (false, 1) if run.len() == 2 && (letter(before) || letter(after)) => self.against += 1,
            (_, 0) => self.against += 1,
            _ => {
                self.good += hanzi;
                self.against += others;
            }
        }
    }
}

/// GB 2312's characters (levels 1 and 2) and its full-width punctuation: nearly all of what names and
/// descriptions hold.
fn is_common(pair: &[u8]) -> bool {
    matches!(pair, [0xB0..=0xF7 | 0xA1 | 0xA3, 0xA1..=0xFE])
}
