//! Matching of attributes, PS3.4 C.2.2.2: lists of UIDs, wildcards, ranges of dates, person names.
//!
//! Names match without regard to case, in any of their component groups, with `^` and blank taken alike: a
//! clinician who types a name as it is written must find it. Numbers of patients match exactly: two that differ only
//! in case are two patients.

use std::collections::BTreeSet;

use crate::dicom::charset::name_groups;

/// Characters of one pattern; longer ones match nothing that fits into an attribute.
pub const PATTERN_CHARS_MAX: usize = 256;

/// How one attribute is matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// One of these, exactly.
    OneOf(BTreeSet<String>),
    Dates(DateRange),
    Times(TimeRange),
    Name(Pattern),
    Text(Pattern),
}

impl Rule {
    pub fn matches(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.contains(value),
            Self::Dates(range) => range.holds(value),
            Self::Times(range) => range.holds(value),
            Self::Text(pattern) => pattern.matches(value),
            Self::Name(pattern) => {
                name_groups(value).iter().any(|group| pattern.matches(&as_typed(group)))
                    || pattern.matches(&as_typed(value))
            }
        }
    }

    /// The one value that is asked for, without wildcards.
    pub fn exact(&self) -> Option<&str> {
        match self {
            Self::Text(pattern) if !pattern.has_wildcard() => Some(&pattern.text),
            _ => None,
        }
    }
}

/// A name as people type it: blanks for carets, none at the end of a group, no empty groups at the end.
fn as_typed(name: &str) -> String {
    let text: String = name.chars().map(|c| if c == '^' { ' ' } else { c }).collect();
    let groups: Vec<&str> = text.split('=').map(str::trim_end).collect();
    groups.join("=").trim_end_matches('=').to_owned()
}

/// Text with `*` and `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    folded: Vec<char>,
    ignores_case: bool,
}

impl Pattern {
    pub fn new(text: &str, ignores_case: bool) -> Self {
        let folded = fold(text, ignores_case);
        Self { text: text.to_owned(), folded, ignores_case }
    }

    /// A pattern for a person name; `fuzzy`: any part of it that begins so.
    pub fn name(text: &str, fuzzy: bool) -> Self {
        let typed = as_typed(text);
        let wild = typed.contains(['*', '?']);
        Self::new(&if fuzzy && !wild { format!("*{typed}*") } else { typed }, true)
    }

    fn has_wildcard(&self) -> bool {
        self.folded.iter().any(|c| matches!(c, '*' | '?'))
    }

    /// Goes back to the last star only, so it takes at most pattern × value steps.
    pub fn matches(&self, value: &str) -> bool {
        let (pattern, value) = (&self.folded, fold(value, self.ignores_case));
        let (mut p, mut v) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while v < value.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, v));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == value[v] => {
                    p += 1;
                    v += 1;
                }
                _ => match star {
                    Some((at, taken)) => {
                        star = Some((at, taken + 1));
                        (p, v) = (at + 1, taken + 1);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

fn fold(text: &str, ignores_case: bool) -> Vec<char> {
    if ignores_case { text.chars().flat_map(char::to_lowercase).collect() } else { text.chars().collect() }
}

/// Dates `YYYYMMDD`, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateRange {
    pub from: String,
    pub to: String,
}

impl DateRange {
    /// `D`, `D-`, `-D` or `D-D`.
    pub fn parse(text: &str) -> Option<Self> {
        let date = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
        let (from, to) = match text.split_once('-') {
            None => (text, text),
            Some((from, to)) => (from, to),
        };
        let fits = [from, to].iter().all(|end| end.is_empty() || date(end)) && !(from.is_empty() && to.is_empty());
        let end = |text: &str, open: &str| if text.is_empty() { open.to_owned() } else { text.to_owned() };
        fits.then(|| Self { from: end(from, "00000000"), to: end(to, "99999999") })
    }

    fn holds(&self, date: &str) -> bool {
        !date.is_empty() && *self.from <= *date && *date <= *self.to
    }
}

/// Times of the day, both ends included (PS3.4 C.2.2.2.5). What an end leaves out is open: `1015` as an end is all of
/// that minute, and as a single value it means the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeRange {
    from: String,
    to: String,
}

impl TimeRange {
    /// `T`, `T-`, `-T` or `T-T`, where T is `HH`, `HHMM`, `HHMMSS` or `HHMMSS.F` with up to six digits of a fraction.
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        if from.is_empty() && to.is_empty() {
            return None;
        }
        let end = |text: &str, open: char| match text {
            "" => Some(digits_of_day("", open)),
            text => is_time(text).then(|| digits_of_day(text, open)),
        };
        Some(Self { from: end(from, '0')?, to: end(to, '9')? })
    }

    fn holds(&self, time: &str) -> bool {
        // Old senders wrote colons.
        let time = time.replace(':', "");
        is_time(&time) && (&*self.from..=&*self.to).contains(&&*digits_of_day(&time, '0'))
    }
}

fn is_time(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fits = fraction.is_none_or(|f| whole.len() == 6 && (1..=6).contains(&f.len()) && is_number(f));
    fits && matches!(whole.len(), 2 | 4 | 6) && is_number(whole)
}

/// The twelve digits of a time down to the microsecond; `open` stands for what it leaves out.
fn digits_of_day(time: &str, open: char) -> String {
    time.chars().filter(|c| *c != '.').chain(std::iter::repeat(open)).take(12).collect()
}

/// The values of a list: commas by the web standard, backslashes by DICOM.
pub fn list(text: &str) -> BTreeSet<String> {
    text.split([',', '\\']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let table = [
            ("A*", "ABC", false, true),
            ("a*", "ABC", false, false),
            ("a*", "ABC", true, true),
            ("*B*", "ABC", false, true),
            ("A?C", "ABC", false, true),
            ("A?C", "AC", false, false),
            ("", "", false, true),
            ("*", "", false, true),
            ("?", "", false, false),
            ("*a*b*c", "xxaxxbxxc", false, true),
            ("*a*b*c", "xxaxxcxxb", false, false),
            ("**", "abc", false, true),
            ("王?", "王芳", false, true),
            ("É*", "éa", true, true),
        ];
        for (pattern, value, ignores_case, expected) in table {
            assert_eq!(Pattern::new(pattern, ignores_case).matches(value), expected, "{pattern} {value}");
        }
    }

    #[test]
    fn names_match_in_every_group() {
        const NAME: &str = "Wang^XiaoDong=王^小东=ㄨㄤˊ";
        let table = [
            ("Wang^XiaoDong", false, true),
            ("wang^xiaodong", false, true),
            ("wang xiao*", false, true),
            ("WANG*", false, true),
            ("Wang", false, false),
            ("Wang", true, true),
            ("xiao", true, true),
            ("王^小东", false, true),
            ("王*", false, true),
            ("*小东*", false, true),
            ("王?小东", false, true),
            ("李*", false, false),
            ("Wang^XiaoDong=王^小东=ㄨㄤˊ", false, true),
            ("wang xiaodong=王 小东=ㄨㄤˊ=", false, true),
            ("Wang^XiaoDong=王^*", false, true),
            ("Wang^XiaoDong=李^小东=ㄨㄤˊ", false, false),
        ];
        for (typed, fuzzy, expected) in table {
            assert_eq!(Rule::Name(Pattern::name(typed, fuzzy)).matches(NAME), expected, "{typed} {fuzzy}");
        }
        assert!(Rule::Name(Pattern::name("Wang^", false)).matches("Wang^^"));
    }

    #[test]
    fn date_ranges() {
        let table = [
            ("20260101", Some(("20260101", "20260101"))),
            ("20260101-", Some(("20260101", "99999999"))),
            ("-20260101", Some(("00000000", "20260101"))),
            ("20250101-20260101", Some(("20250101", "20260101"))),
            ("2026", None),
            ("-", None),
            ("2026010a", None),
            ("20260101-20260201-", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(from, to)| DateRange { from: from.into(), to: to.into() });
            assert_eq!(DateRange::parse(text), expected, "{text}");
        }
        let range = DateRange::parse("-20260101").expect("a range");
        assert!(range.holds("20251231") && !range.holds("20260102") && !range.holds(""));
    }

    #[test]
    fn time_ranges() {
        let table = [
            ("101500", "101500", true),
            ("101500", "101500.25", true),
            ("101500", "101501", false),
            ("1015", "101559.999999", true),
            ("1000-1100", "105959", true),
            ("1000-1100", "110030", true),
            ("1000-1100", "110100", false),
            ("1000-", "095959", false),
            ("-0930", "0930", true),
            ("-0930", "09:31:00", false),
            ("0900-", "", false),
            ("101500.5", "101500.500000", true),
        ];
        for (range, time, expected) in table {
            assert_eq!(TimeRange::parse(range).expect("a range").holds(time), expected, "{range} {time}");
        }
        for wrong in ["", "-", "1", "101", "10:15", "1015.5", "10-11-12", "101500.1234567", "*"] {
            assert_eq!(TimeRange::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = Pattern::new(&"*a".repeat(128), false);
        assert!(!pattern.matches(&"a".repeat(100)));
    }
}
