//! Text of data sets as UTF-8: DICOM's character sets (PS3.3 C.12.1.1.2, PS3.5 section 6.1), and what to do when the
//! declaration is missing or wrong.
//!
//! `repertoire` names the sets and reads declarations, `decode` turns bytes into text, `detect` judges whether
//! the declaration fits the bytes. The verdict is made once an object, at ingest, over all of its text, and is
//! kept with the object's facts: one name is too short to tell GBK from Latin-1, a whole object rarely is.
//! The data set itself is never changed.

mod decode;
mod detect;
mod repertoire;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decode::TextKind;
pub use detect::Samples;
pub use repertoire::{CharacterSet, CharacterSets, Declaration};

/// What the operator has set for a sender (AE title) whose declarations can't be relied on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CharsetPolicy {
    /// Believe the declaration unless the bytes contradict it.
    #[default]
    Detect,
    /// These sets where none is declared; otherwise as `Detect`.
    WhenMissing(CharacterSets),
    /// These sets whatever is declared.
    Always(CharacterSets),
}

/// How the text of an object is read, and why. Anything but `Declared` is shown to the operator as a flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CharsetVerdict {
    /// The declaration fits (or all text is ASCII).
    Declared { used: CharacterSets },
    /// The operator's setting for this sender replaced the declaration.
    Overridden { declared: String, used: CharacterSets },
    /// The bytes contradict the declaration, or there is none; `used` fits.
    Detected { declared: String, used: CharacterSets },
    /// Nothing fits; `used` is applied with replacement characters.
    Undecodable { declared: String, used: CharacterSets },
}

impl CharsetVerdict {
    /// Judges an object by its declaration (value of 0008,0005 at the top level) and samples of its text.
    pub fn of(declared: &[u8], policy: &CharsetPolicy, samples: &Samples) -> Self {
        let declaration = Declaration::parse(declared);
        let overriding = match policy {
            CharsetPolicy::Always(sets) => Some(sets),
            CharsetPolicy::WhenMissing(sets) if declaration.is_missing() => Some(sets),
            _ => None,
        };
        match overriding {
            Some(sets) if declaration.sets() != Some(sets) => {
                Self::Overridden { declared: declaration.into_text(), used: sets.clone() }
            }
            Some(sets) => Self::Declared { used: sets.clone() },
            None => detect::judge(declaration, samples),
        }
    }

    pub fn used(&self) -> &CharacterSets {
        match self {
            Self::Declared { used }
            | Self::Overridden { used, .. }
            | Self::Detected { used, .. }
            | Self::Undecodable { used, .. } => used,
        }
    }

    /// Whether the operator should look: the declaration was not what the text was read by.
    #[cfg(test)]
    pub fn is_flagged(&self) -> bool {
        !matches!(self, Self::Declared { .. })
    }

    /// The sets for an item that declares its own (PS3.3 C.12.1.1.2 allows it in sequences). A verdict against
    /// the outer declaration also holds for items that repeat it.
    pub fn for_item(&self, outer: &CharacterSets, declared: &[u8]) -> CharacterSets {
        let declaration = Declaration::parse(declared);
        match self {
            Self::Overridden { used, .. } => used.clone(),
            Self::Detected { declared, used } | Self::Undecodable { declared, used }
                if declared == declaration.text() =>
            {
                used.clone()
            }
            _ => declaration.sets().cloned().unwrap_or_else(|| outer.clone()),
        }
    }
}

/// The component groups of one person name (PS3.5 6.2.1): alphabetic, ideographic and phonetic.
pub fn name_groups(name: &str) -> [&str; 3] {
    let mut groups = name.splitn(3, '=');
    std::array::from_fn(|_| groups.next().unwrap_or_default().trim_end_matches(' '))
}
