//! One written form for text that people type, paste or receive from another system.
//!
//! Chinese input methods produce full-width digits and letters, typographic dashes and ideographic spaces;
//! copied text carries invisible characters. Here they become what they mean, so that the same number yields the
//! same blind key wherever it was typed. This is the part of Unicode NFKC that matters for numbers and names,
//! written out so that it cannot change with a table of a library.
//!
//! Invariant: folding twice is folding once.

/// Folds width, dashes, spaces and dots, drops invisible characters, trims, and joins inner blanks to one.
pub(crate) fn fold(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for character in text.chars().filter_map(fold_char) {
        if character == ' ' && (folded.is_empty() || folded.ends_with(' ')) {
            continue;
        }
        folded.push(character);
    }
    if folded.ends_with(' ') {
        folded.pop();
    }
    folded
}

/// The narrow form of a character, or nothing for a character that can't be seen.
fn fold_char(character: char) -> Option<char> {
    match character {
        // Full-width forms are the ASCII block, shifted.
        '\u{FF01}'..='\u{FF5E}' => char::from_u32(u32::from(character) - 0xFEE0),
        '\u{3000}' | '\u{00A0}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\t' => Some(' '),
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE63}' | '\u{FE58}' => Some('-'),
        // The dot between the parts of a transcribed name has several codes.
        '\u{2022}' | '\u{2027}' | '\u{30FB}' | '\u{FF65}' => Some('\u{00B7}'),
        '\u{00AD}'
        | '\u{200B}'..='\u{200F}'
        | '\u{202A}'..='\u{202E}'
        | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}'
        | '\u{FEFF}' => None,
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::fold;
    use proptest::prelude::*;

    #[test]
    fn typed_text_gets_one_form() {
        for (typed, expected) in [
            ("  12 34 ", "12 34"),
            ("１２３ＡＢｘ", "123ABx"),
            ("12\u{3000}\u{3000}34", "12 34"),
            ("H－１２—3", "H-12-3"),
            ("\u{FEFF}12\u{200B}34", "1234"),
            ("阿依\u{30FB}古丽", "阿依·古丽"),
            ("\u{3000}", ""),
        ] {
            assert_eq!(fold(typed), expected, "{typed:?}");
        }
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(text in "\\PC*|[\\x00-\\u{3100}\\u{FE00}-\\u{FFEF}]*") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }
    }
}
