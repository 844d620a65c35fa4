//! Standard output of the commands: a reader that has seen enough (`tessera status | head`) ends the program quietly.
//! `println!` would panic there.
//! Not for the node itself, which logs, nor for the demo, which must end its children.

use std::io::{self, ErrorKind, Write};
use std::process;

/// What shells report for a program that a closed pipe ended: 128 + SIGPIPE.
const CLOSED_PIPE: i32 = 141;

/// Like [`println!`], by [`line()`].
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;

/// Writes one line. Ends the program when nobody reads any more, or when the output can't take it (a full disk).
pub fn line(text: std::fmt::Arguments<'_>) {
    let Err(error) = writeln!(io::stdout(), "{text}") else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(CLOSED_PIPE);
    }
    eprintln!("tessera: the output could not be written: {error}");
    process::exit(1);
}
