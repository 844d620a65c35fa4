//! Golden bytes: what is signed, hashed, sealed or sent stays as it was released.
//!
//! Each value of [`values`] has one file with its hexadecimal bytes. The test fails when a value no longer encodes to
//! them, or when they no longer decode to the value. A released file is never changed: a new format is a new version
//! beside the old. `GOLDEN_WRITE=1` writes the files that are missing, and only those.

mod derivations;
mod values;

use std::fmt::Debug;
use std::path::Path;

use tessera_federation::wire::Format;

/// Compares `value` with its file, both ways.
fn check<T: Format + PartialEq + Debug>(name: &str, value: &T) {
    let bytes = value.to_bytes();
    assert_eq!(value.validate(), Ok(()), "{name}");
    check_bytes(name, &bytes);
    assert_eq!(&T::from_bytes(&bytes).expect("reads its own bytes"), value, "{name}");
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(T::from_bytes(&longer).is_err(), "{name}: bytes behind the value");
    assert!(T::from_bytes(&bytes[..bytes.len() - 1]).is_err(), "{name}: cut off");
}

fn check_bytes(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<&str> =
        digits.as_bytes().chunks(96).map(|line| std::str::from_utf8(line).expect("digits")).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("GOLDEN_WRITE").is_some() && !path.exists() {
        std::fs::write(&path, &text).expect("writable folder");
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}: the format of version 1 has changed");
}
