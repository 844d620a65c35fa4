//! Name, sex and birth date, and whether two statements of them can speak of one person (DESIGN section 8).
//!
//! Only a contradiction counts: what one side doesn't say, or says in another script, is no disagreement. So
//! `ZHANG^SAN` beside 张三 stops nothing, while 李四 beside 张三 does.
//!
//! Everything here is personal data and redacts itself in `Debug`; a [`Disagreement`] names the field, never the
//! values.

use crate::BirthDate;
use crate::folding::fold;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest name that is read: PS3.5 gives each of three groups 64 characters.
const NAME_CHARS_MAX: usize = 194;

numbered! {
    /// Patient's sex (0010,0040). Only male and female can contradict each other.
    pub enum Sex ("sex") {
        Male = 1 "male",
        Female = 2 "female",
        Other = 3 "other",
    }
}

impl Sex {
    /// Reads DICOM's `M F O`, the codes of GB/T 2261.1 (`1 2`, with `0 9` for unknown) or 男 女. Unknown is none.
    pub fn read(text: &str) -> Option<Self> {
        match fold(text).to_ascii_uppercase().as_str() {
            "M" | "1" | "男" | "MALE" => Some(Self::Male),
            "F" | "2" | "女" | "FEMALE" => Some(Self::Female),
            "O" | "OTHER" => Some(Self::Other),
            _ => None,
        }
    }
}

/// A patient's name as one or more spellings (alphabetic, ideographic, phonetic), each as sorted parts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PersonName {
    written: String,
}

impl PersonName {
    /// Reads a decoded DICOM person name (`ZHANG^SAN=张^三`) or a plain one. An empty name is none.
    pub fn read(text: &str) -> Option<Self> {
        let bounded: String = text.chars().take(NAME_CHARS_MAX).collect();
        let mut written = fold(&bounded);
        written.make_ascii_uppercase();
        written.chars().any(char::is_alphanumeric).then_some(Self { written })
    }

    /// The name in clear, upper-cased and width-folded.
    pub fn reveal(&self) -> &str {
        &self.written
    }

    fn spellings(&self) -> impl Iterator<Item = Spelling> + '_ {
        self.written.split('=').filter_map(Spelling::read)
    }

    /// Whether the names contradict: comparable spellings exist and none of them agree.
    pub fn contradicts(&self, other: &Self) -> bool {
        let mut comparable = false;
        for mine in self.spellings() {
            for theirs in other.spellings().filter(|theirs| theirs.latin == mine.latin) {
                if mine.agrees(&theirs) {
                    return false;
                }
                comparable = true;
            }
        }
        comparable
    }
}

/// One spelling, reduced to what may be compared.
struct Spelling {
    latin: bool,
    parts: Vec<String>,
}

impl Spelling {
    fn read(group: &str) -> Option<Self> {
        let parts: Vec<String> =
            group.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let latin = parts.iter().all(|part| part.is_ascii());
        (!parts.is_empty()).then_some(Self { latin, parts })
    }

    /// Given and family name change places between systems, and blanks within a name come and go.
    fn agrees(&self, other: &Self) -> bool {
        let sorted = |spelling: &Self| {
            let mut parts = spelling.parts.clone();
            parts.sort();
            parts
        };
        self.parts.concat() == other.parts.concat() || sorted(self) == sorted(other)
    }
}

impl TryFrom<String> for PersonName {
    type Error = EmptyName;
    fn try_from(text: String) -> Result<Self, EmptyName> {
        Self::read(&text).ok_or(EmptyName)
    }
}

/// A stored name without a letter.
#[derive(Debug, thiserror::Error)]
#[error("the name is empty")]
pub struct EmptyName;

impl From<PersonName> for String {
    fn from(name: PersonName) -> String {
        name.written
    }
}

impl fmt::Debug for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PersonName(…)")
    }
}

/// What one source says of a patient. Nothing is required: sources are incomplete.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Demographics {
    name: Option<PersonName>,
    sex: Option<Sex>,
    birth_date: Option<BirthDate>,
}

/// A field in which two sources contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disagreement {
    Name,
    Sex,
    BirthDate,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Sex => "sex",
            Self::BirthDate => "birth date",
        })
    }
}

impl Demographics {
    pub fn new(name: Option<PersonName>, sex: Option<Sex>, birth_date: Option<BirthDate>) -> Self {
        Self { name, sex, birth_date }
    }

    /// Reads the fields as a data set or an export has them; what can't be read counts as not said.
    pub fn read(name: &str, sex: &str, birth_date: &str) -> Self {
        Self { name: PersonName::read(name), sex: Sex::read(sex), birth_date: BirthDate::parse(birth_date).ok() }
    }

    pub fn name(&self) -> Option<&PersonName> {
        self.name.as_ref()
    }

    pub fn sex(&self) -> Option<Sex> {
        self.sex
    }

    pub fn birth_date(&self) -> Option<BirthDate> {
        self.birth_date
    }

    /// The fields in which the two contradict each other, in a fixed order.
    pub fn disagreements(&self, other: &Self) -> Vec<Disagreement> {
        let name = matches!((&self.name, &other.name), (Some(a), Some(b)) if a.contradicts(b));
        let sex = matches!((self.sex, other.sex), (Some(a), Some(b)) if a != b && a != Sex::Other && b != Sex::Other);
        let birth_date = matches!((self.birth_date, other.birth_date), (Some(a), Some(b)) if a != b);
        [(name, Disagreement::Name), (sex, Disagreement::Sex), (birth_date, Disagreement::BirthDate)]
            .into_iter()
            .filter_map(|(contradicts, field)| contradicts.then_some(field))
            .collect()
    }
}

impl fmt::Debug for Demographics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Demographics(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_contradict_or_not() {
        for (a, b, expected) in [
            ("张三", "张三", false),
            ("张^三", "张三", false),
            ("张　三", "张三", false),
            ("张三", "李四", true),
            ("ZHANG^SAN=张^三", "张三", false),
            ("ZHANG^SAN=张^三", "李四", true),
            ("ZHANG^SAN", "张三", false),
            ("Zhang San", "SAN^ZHANG", false),
            ("ZHANGSAN", "zhang san", false),
            ("ZHANG^SAN", "LI^SI", true),
            // One spelling that agrees is enough: transliterations differ.
            ("CHANG^SAN=张^三", "ZHANG^SAN=张^三", false),
            ("阿依·古丽", "阿依古丽", false),
        ] {
            let (a, b) = (PersonName::read(a).unwrap(), PersonName::read(b).unwrap());
            assert_eq!((a.contradicts(&b), b.contradicts(&a)), (expected, expected), "{} {}", a.reveal(), b.reveal());
        }
    }

    #[test]
    fn what_is_not_said_does_not_disagree() {
        use Disagreement::{BirthDate, Name, Sex};
        let full = Demographics::read("张三", "M", "19800101");
        for (other, expected) in [
            (Demographics::default(), vec![]),
            (Demographics::read("张三", "男", "1980-01-01"), vec![]),
            (Demographics::read("", "", "unknown"), vec![]),
            (Demographics::read("", "O", ""), vec![]),
            (Demographics::read("张三", "F", ""), vec![Sex]),
            (Demographics::read("", "1", "19800102"), vec![BirthDate]),
            (Demographics::read("李四", "2", "19900101"), vec![Name, Sex, BirthDate]),
        ] {
            assert_eq!(full.disagreements(&other), expected);
        }
    }

    #[test]
    fn nothing_prints() {
        let debug = format!("{:?} {:?}", Demographics::read("张三", "M", "19800101"), PersonName::read("张三"));
        assert!(!debug.contains('张') && !debug.contains("1980"), "{debug}");
    }
}
