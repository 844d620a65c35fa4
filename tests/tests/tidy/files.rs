//! Rules for single files: a header that says what it is for, a size that one can read, a name that means
//! something, nothing unfinished, and a place in the build.
//!
//! Not for contents that need judgement; reviewers have that.

use std::collections::BTreeSet;

use crate::tree::Tree;

const LINES_MAX: usize = 800;
const HEADER_LINES_MIN: usize = 3;
const HEADER_LINES_MAX: usize = 30;
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "manager", "misc"];

/// Where waiting for another process is the job: the harness polls, with a short pause and a deadline.
const MAY_SLEEP: &str = "tests/src/";
/// This test names the words that it forbids.
const TIDY: &str = "tests/tests/tidy/";

pub fn headers(tree: &Tree) -> Vec<String> {
    tree.rust_files().filter_map(|(path, text)| header_problem(path, text).map(|p| format!("{path}:1: {p}"))).collect()
}

fn header_problem(path: &str, text: &str) -> Option<String> {
    let header = text.lines().take_while(|line| line.starts_with("//!")).count();
    let has_code = text.lines().skip(header).any(|line| !line.trim().is_empty());
    // What a part of a test is for stands beside it; a second telling would be filler. One line says what is special.
    let needed = if is_part_of_a_test(path) { 1 } else { HEADER_LINES_MIN };
    // A crate that has not begun yet has nothing to explain.
    (has_code && !(needed..=HEADER_LINES_MAX).contains(&header))
        .then(|| format!("opens with {header} lines of `//!`, {needed} to {HEADER_LINES_MAX} say what it is for"))
}

/// A unit test beside its code, or one module of an integration test.
fn is_part_of_a_test(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts[1..] {
        ["src", .., last] if last == "tests.rs" || last.ends_with("_tests.rs") => true,
        ["src", .., "tests", _] => true,
        ["tests", _, .., last] => last != "main.rs",
        _ => false,
    }
}

pub fn sizes(tree: &Tree) -> Vec<String> {
    tree.files
        .iter()
        .filter(|(path, _)| !path.ends_with(".toml"))
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path}: {lines} lines, {LINES_MAX} at most: split by the state that a part owns"))
        .collect()
}

pub fn names(tree: &Tree) -> Vec<String> {
    let empty = |part: &str| EMPTY_NAMES.contains(&part.split('.').next().unwrap_or(part));
    tree.files
        .keys()
        .filter(|path| path.split('/').any(empty))
        .map(|path| format!("{path}: say what it holds"))
        .collect()
}

pub fn words(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.rust_files().filter(|(path, _)| !path.starts_with(TIDY)) {
        for (number, line) in text.lines().enumerate() {
            let sleeps = line.contains("thread::sleep") && !path.starts_with(MAY_SLEEP);
            let unfinished = ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"].iter().any(|w| line.contains(w));
            if sleeps || unfinished {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    found
}

/// Files that no build target reaches by `mod` declarations.
pub fn dead(tree: &Tree) -> Vec<String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<(String, bool)> =
        tree.rust_files().filter(|(path, _)| is_target(path)).map(|(path, _)| (path.to_string(), true)).collect();
    while let Some((path, is_root)) = open.pop() {
        if let Some(text) = tree.files.get(&path) {
            let children = modules(&path, is_root, text);
            if reached.insert(path) {
                open.extend(children.into_iter().filter(|c| tree.files.contains_key(c)).map(|child| (child, false)));
            }
        }
    }
    let dead = tree.rust_files().filter(|(path, _)| !reached.contains(*path));
    dead.map(|(path, _)| format!("{path}: no build target reaches it")).collect()
}

/// What cargo finds by itself: libraries, programs, build scripts, tests, benchmarks, examples.
fn is_target(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts[1..],
        ["build.rs"]
            | ["src", "lib.rs" | "main.rs"]
            | ["src", "bin", _]
            | ["src", "bin", _, "main.rs"]
            | ["tests" | "benches" | "examples", _]
            | ["tests" | "benches" | "examples", _, "main.rs"]
    )
}

/// The files that a file's `mod name;` declarations may stand for.
fn modules(path: &str, is_root: bool, text: &str) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').expect("below a crate's folder");
    let own_folder = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_string(),
        _ if is_root => folder.to_string(),
        _ => format!("{folder}/{}", file.trim_end_matches(".rs")),
    };
    let mut found = Vec::new();
    let mut given_path = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            given_path = rest.split('"').next().map(|given| normalised(&format!("{folder}/{given}")));
        } else if let Some(name) = declared_module(line) {
            match given_path.take() {
                Some(given) => found.push(given),
                None => found.extend([format!("{own_folder}/{name}.rs"), format!("{own_folder}/{name}/mod.rs")]),
            }
        }
    }
    found
}

fn declared_module(line: &str) -> Option<&str> {
    let code = line.strip_suffix(';')?;
    let (before, name) = code.rsplit_once("mod ").unwrap_or(("-", ""));
    let visibility = before.trim();
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(name.trim())
}

/// Resolves `..` in a relative path.
fn normalised(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            other => parts.push(other),
        }
    }
    parts.join("/")
}

#[test]
fn finds_missing_and_overlong_headers() {
    let long = "//! a\n".repeat(HEADER_LINES_MAX + 1) + "fn f() {}\n";
    let table = [
        ("node/src/a.rs", "//! a\n//! b\n//! c\nfn f() {}\n", None),
        ("node/src/a.rs", "//! nothing begun\n", None),
        ("node/src/a.rs", "fn f() {}\n", Some("opens with 0")),
        ("node/src/a.rs", "//! a\n//! b\nfn f() {}\n", Some("opens with 2")),
        ("node/src/a.rs", "// a\n//! b\n//! c\n//! d\nfn f() {}\n", Some("opens with 0")),
        ("node/src/a.rs", &long, Some("opens with 31")),
        ("node/src/a_tests.rs", "//! a\nfn f() {}\n", None),
        ("node/src/a/tests.rs", "fn f() {}\n", Some("opens with 0")),
        ("node/tests/golden/values.rs", "//! a\nfn f() {}\n", None),
        ("node/tests/golden/main.rs", "//! a\nfn f() {}\n", Some("opens with 1")),
        ("tests/src/a.rs", "//! a\nfn f() {}\n", Some("opens with 1")),
        ("tests/tests/a.rs", "//! a\nfn f() {}\n", Some("opens with 1")),
    ];
    for (path, text, expected) in table {
        let found = header_problem(path, text);
        assert_eq!(found.is_some(), expected.is_some(), "{path} {text:?} -> {found:?}");
        assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{path} {text:?}");
    }
}

#[test]
fn finds_long_files_empty_names_and_unfinished_code() {
    let long = "//! a line\n".repeat(LINES_MAX + 1);
    let tree = Tree::of(&[
        ("node/src/long.rs", &long),
        ("node/src/common/mod.rs", ""),
        ("node/src/id_manager.rs", "fn f() { todo!() }"),
        ("tests/src/lib.rs", "std::thread::sleep(PAUSE)"),
        ("tests/tests/crash.rs", "std::thread::sleep(PAUSE)\n#[ignore = \"slow\"]"),
    ]);
    assert_eq!(sizes(&tree).len(), 1);
    assert_eq!(names(&tree), ["node/src/common/mod.rs: say what it holds"]);
    let lines: Vec<String> =
        words(&tree).iter().map(|v| v.split(": ").next().unwrap_or_default().to_string()).collect();
    assert_eq!(lines, ["node/src/id_manager.rs:1", "tests/tests/crash.rs:1", "tests/tests/crash.rs:2"]);
}

#[test]
fn finds_dead_files() {
    let tree = Tree::of(&[
        ("node/src/main.rs", "mod a;\npub(crate) mod b;\n// mod c;\n#[cfg(test)]\n#[path = \"../odd/d.rs\"]\nmod d;"),
        ("node/src/a.rs", "pub mod deep;"),
        ("node/src/a/deep.rs", ""),
        ("node/src/b/mod.rs", "mod e;"),
        ("node/src/b/e.rs", ""),
        ("node/src/c.rs", ""),
        ("node/odd/d.rs", ""),
        ("tests/tests/crash.rs", "mod shared;"),
        ("tests/tests/shared/mod.rs", ""),
        ("tests/tests/lonely/other.rs", ""),
    ]);
    assert_eq!(
        dead(&tree),
        ["node/src/c.rs: no build target reaches it", "tests/tests/lonely/other.rs: no build target reaches it"]
    );
}
