//! Signs that a PatientID or a name stands for nobody in particular.
//!
//! Emergency rooms register the unknown under `UNKNOWN`, 无名氏 or a row of zeros; newborns are examined under the
//! mother's name with a suffix. Linking either would join strangers. The lists hold what the field writes; what they
//! miss is caught by sex and birth date, or by a person.

use crate::PersonName;
use crate::folding::fold;

/// PatientIDs that stand for many patients, letters in upper case, without separators.
const PLACEHOLDERS: [&str; 18] = [
    "UNKNOWN",
    "UNK",
    "UNKOWN",
    "ANON",
    "ANONYMOUS",
    "ANONYMIZED",
    "NONE",
    "NULL",
    "NA",
    "NOID",
    "NOPATIENTID",
    "TEST",
    "TEMP",
    "EMERGENCY",
    "PATIENT",
    "无",
    "未知",
    "无名氏",
];

/// Whether a PatientID is empty, a placeholder, or one character repeated (`000000`, `9999`, `------`).
pub(crate) fn is_placeholder(patient_id: &str) -> bool {
    let folded = fold(patient_id.trim_end_matches('\0')).to_uppercase();
    let compact: String = folded.chars().filter(|c| c.is_alphanumeric()).collect();
    let Some(first) = compact.chars().next() else { return true };
    // A real number may be a single digit other than zero, or a pair: short numbers are not judged by repetition.
    let repeated = compact.chars().all(|c| c == first) && (first == '0' || compact.chars().count() >= 4);
    (repeated && first.is_ascii_digit()) || PLACEHOLDERS.contains(&compact.as_str())
}

/// What a name says beside the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamePattern {
    Ordinary,
    /// Nobody knows who it is.
    Unknown,
    /// A newborn, named after the mother.
    Newborn,
}

/// Parts of a name that say that it is none.
const UNKNOWN_WORDS: [&str; 8] = ["UNKNOWN", "ANONYMOUS", "ANON", "NONAME", "WUMINGSHI", "无名", "未知", "不详"];
/// What an unknown patient's name begins with, a number after it or not.
const UNKNOWN_BEGINNING: &str = "无名氏";
/// Parts of a name that say newborn.
const NEWBORN_WORDS: [&str; 6] = ["BABY", "BABYBOY", "BABYGIRL", "NEWBORN", "NB", "INFANT"];
/// What stands anywhere in a newborn's name.
const NEWBORN_MARK: &str = "新生儿";
/// What stands after the mother's name.
const NEWBORN_ENDINGS: [&str; 9] = ["之子", "之女", "之婴", "之长子", "之次子", "之长女", "之次女", "之大子", "之大女"];

impl NamePattern {
    pub(crate) fn of(name: Option<&PersonName>) -> Self {
        let spellings = name.into_iter().flat_map(|name| name.reveal().split('='));
        let patterns: Vec<Self> = spellings.map(Self::of_spelling).collect();
        let found = |pattern: Self| patterns.contains(&pattern).then_some(pattern);
        found(Self::Unknown).or(found(Self::Newborn)).unwrap_or(Self::Ordinary)
    }

    fn of_spelling(spelling: &str) -> Self {
        let words: Vec<&str> = spelling.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let joined = words.concat();
        let unknown = joined.starts_with(UNKNOWN_BEGINNING) || words.iter().any(|word| UNKNOWN_WORDS.contains(word));
        let newborn = joined.contains(NEWBORN_MARK)
            || words.iter().any(|word| NEWBORN_WORDS.contains(word))
            || NEWBORN_ENDINGS.iter().any(|ending| joined.len() > ending.len() && joined.ends_with(ending));
        match (unknown, newborn) {
            (true, _) => Self::Unknown,
            (false, true) => Self::Newborn,
            (false, false) => Self::Ordinary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders() {
        for (patient_id, expected) in [
            ("", true),
            ("  ", true),
            ("\0", true),
            ("0", true),
            ("000000", true),
            ("９９９９", true),
            ("----", true),
            ("unknown", true),
            ("N/A", true),
            ("no id", true),
            ("无名氏", true),
            ("test", true),
            ("1", false),
            ("11", false),
            ("100000", false),
            ("AAAA", false),
            ("TEST001", false),
            ("P-000012", false),
        ] {
            assert_eq!(is_placeholder(patient_id), expected, "{patient_id:?}");
        }
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("张三", NamePattern::Ordinary),
            ("无名氏", NamePattern::Unknown),
            ("无名氏1", NamePattern::Unknown),
            ("UNKNOWN^MALE", NamePattern::Unknown),
            ("WU MING SHI=无名氏", NamePattern::Unknown),
            ("王芳之子", NamePattern::Newborn),
            ("WANG^FANG=王芳^之女", NamePattern::Newborn),
            ("王芳之次女", NamePattern::Newborn),
            ("新生儿王", NamePattern::Newborn),
            ("BABY BOY^WANG", NamePattern::Newborn),
            ("BABYLON^AL", NamePattern::Ordinary),
        ] {
            let name = PersonName::read(name).unwrap();
            assert_eq!(NamePattern::of(Some(&name)), expected, "{}", name.reveal());
        }
        assert_eq!(NamePattern::of(None), NamePattern::Ordinary);
    }
}
