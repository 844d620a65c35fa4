//! HTML as text: everything that is not a constant of this program goes through [`escape`], and figures and times in
//! the forms in which people read them.
//! Not here: pages. Everything that is written passes through here, so nothing reaches a browser unescaped.

use std::fmt::Write;

/// Text for content and for attributes in double quotes.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Controls, and the marks that reverse the direction of text and so can make one name look like another.
            c if c.is_control() => safe.push(' '),
            '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {
                // Writing into a String does not fail.
                let _ = write!(safe, "&lt;U+{:04X}&gt;", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

/// `1,234,567`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that people read.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration as `2 s`, `5 min`, `3 h`, `4 d`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `YYYYMMDD` with hyphens; anything else as it is.
pub fn date(text: &str) -> String {
    if text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit()) {
        return format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]);
    }
    text.to_owned()
}

/// An RFC 3339 time as an element: the page's script writes it by the clock on the reader's wall, and without it UTC stays.
pub fn moment(text: &str) -> String {
    let whole = text.split('.').next().unwrap_or(text).trim_end_matches('Z');
    format!("<time datetime=\"{}\">{} UTC</time>", escape(text), escape(&whole.replace('T', " ")))
}

/// The name that people of this place write: the ideographic group first where there is one.
pub fn name(dicom: &str) -> String {
    let [alphabetic, ideographic, _] = crate::dicom::charset::name_groups(dicom);
    match (joined(alphabetic), joined(ideographic)) {
        (alphabetic, ideographic) if ideographic.is_empty() => alphabetic,
        (alphabetic, ideographic) if alphabetic.is_empty() => ideographic,
        (alphabetic, ideographic) => format!("{ideographic} ({alphabetic})"),
    }
}

/// Chinese, Japanese and Korean names are written without blanks between their parts.
fn joined(group: &str) -> String {
    let cjk = group.chars().any(|c| ('\u{2E80}'..='\u{FAFF}').contains(&c) || c >= '\u{20000}');
    group.trim_matches('^').replace('^', if cjk { "" } else { " " })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        let table = [
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("\" onclick=\"x", "&quot; onclick=&quot;x"),
            ("a&b", "a&amp;b"),
            ("王小东", "王小东"),
            ("a\0b\nc", "a b c"),
            ("a\u{202E}b", "a&lt;U+202E&gt;b"),
        ];
        for (text, expected) in table {
            assert_eq!(escape(text), expected);
        }
    }

    #[test]
    fn figures_read_well() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1500, 3_200_000_000].map(size), ["0 B", "999 B", "1.5 kB", "3.2 GB"]);
        assert_eq!([12, 2500, 600_000, 86_400_000].map(span), ["12 ms", "2 s", "10 min", "24 h"]);
        assert_eq!(["20260131", "", "2026"].map(date), ["2026-01-31", "", "2026"]);
        let shown = "<time datetime=\"2026-01-31T08:09:10.123Z\">2026-01-31 08:09:10 UTC</time>";
        assert_eq!(moment("2026-01-31T08:09:10.123Z"), shown);
        assert!(!moment("\"><b>").contains("<b>"));
        let names = ["Wang^XiaoDong=王^小东", "王^小东", "=王^小东", "Doe^Jane^^", ""];
        assert_eq!(names.map(name), ["王小东 (Wang XiaoDong)", "王小东", "王小东", "Doe Jane", ""]);
    }
}
