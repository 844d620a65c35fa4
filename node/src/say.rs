//! Standard output of the commands: a reader that has seen enough (`tessera status | head`) ends the program quietly.
//! `println!` would panic there.
//!
//! What other hospitals and devices wrote is shown here. Characters that would move a terminal's cursor, colour it, or
//! turn the order of what is read (C0, C1, the directional controls of Unicode) come out as the replacement character.
//! Not for the node itself, which logs, nor for the demo, which must end its children.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::process;

/// What shells report for a program that a closed pipe ended: 128 + SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// Like [`println!`], by [`line()`].
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Writes one line, which it stays whatever it is made of. Ends the program when nobody reads any more, or when the
/// output can't take it (a full disk).
pub fn line(text: std::fmt::Arguments<'_>) {
    write(&plain(&text.to_string()));
}

/// Writes several lines of our own making: a configuration.
pub fn lines(text: &str) {
    text.lines().for_each(|line| write(&plain(line)));
}

/// Writes a value as JSON, for programs: what can't be shown is escaped.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match is_shown(character) || character == '\n' {
            true => escaped.push(character),
            // All of them have four digits, and stand in strings alone. Writing to a string can't fail.
            false => drop(write!(escaped, "\\u{:04x}", u32::from(character))),
        }
    }
    write(&escaped);
    Ok(())
}

/// Writes an error's line, or lines, to standard error.
pub fn error(text: &str) {
    text.lines().for_each(|line| eprintln!("{}", plain(line)));
}

/// The text as a terminal may have it.
fn plain(text: &str) -> String {
    let shown = |character| if is_shown(character) { character } else { char::REPLACEMENT_CHARACTER };
    text.chars().map(shown).collect()
}

fn is_shown(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    let breaks = matches!(character, '\u{2028}' | '\u{2029}');
    !character.is_control() && !turns && !breaks
}

fn write(text: &str) {
    let Err(error) = writeln!(io::stdout(), "{text}") else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(CLOSED_PIPE);
    }
    eprintln!("tessera: the output could not be written: {error}");
    process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_the_cursor_or_turn_the_text_is_replaced() {
        for (text, expected) in [
            ("县医院 — é ñ", "县医院 — é ñ"),
            ("\u{1b}[2Jgone\u{7}", "\u{fffd}[2Jgone\u{fffd}"),
            ("\u{9b}31m", "\u{fffd}31m"),
            ("one\r\nanother line\t", "one\u{fffd}\u{fffd}another line\u{fffd}"),
            ("\u{202e}txt.\u{2066}\u{61c}", "\u{fffd}txt.\u{fffd}\u{fffd}"),
            ("one\u{2028}two", "one\u{fffd}two"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
