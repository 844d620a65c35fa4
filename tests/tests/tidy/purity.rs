//! What runs in the simulator and in the replicated machine is a pure function of its inputs: no clock, no files,
//! no threads, no async runtime, no randomness of its own, no iteration in hash order.
//!
//! Textual on purpose: it also sees what a feature or a macro hides from the compiler. Unit tests beside the code may
//! read files; the drivers behind the features `grpc` and `net` are the only modules that meet the world.

use crate::tree::Tree;

/// Crate sources, and the modules in them that are drivers (compiled only with the feature of that name).
const PURE: [(&str, &str); 3] = [("policy/src/", "-"), ("consensus/src/", "grpc"), ("federation/src/", "net")];

const FORBIDDEN: [(&str, &str); 14] = [
    ("Instant::now", "time comes in as an input"),
    ("SystemTime", "time comes in as an input"),
    ("std::fs", "files belong to storage and node"),
    ("std::net", "addresses belong to the drivers"),
    ("std::env", "configuration comes in as an input"),
    ("std::thread", "threads belong to the drivers"),
    ("std::process", "processes belong to node"),
    ("tokio", "the async runtime belongs to the drivers"),
    ("HashMap", "hash order differs between replicas: BTreeMap"),
    ("HashSet", "hash order differs between replicas: BTreeSet"),
    ("thread_rng", "randomness comes in as an input"),
    ("rand::rng(", "randomness comes in as an input"),
    ("OsRng", "randomness comes in as an input"),
    ("from_os_rng", "randomness comes in as an input"),
];

pub fn impurities(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.rust_files() {
        let Some((folder, driver)) = PURE.iter().find(|(folder, _)| path.starts_with(folder)) else { continue };
        if !is_driver(&path[folder.len()..], driver) && !is_test_file(path) {
            found.extend(impure_lines(text).map(|(line, reason)| format!("{path}:{line}: {reason}")));
        }
    }
    found
}

fn is_driver(inside: &str, driver: &str) -> bool {
    inside.split('/').any(|part| part == driver || part.strip_suffix(".rs") == Some(driver))
}

fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

fn impure_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let code = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    code.filter_map(|(number, line)| {
        let code = line.split("//").next().unwrap_or(line);
        let (word, reason) = FORBIDDEN.iter().find(|(word, _)| code.contains(word))?;
        Some((number + 1, format!("{word}: {reason}")))
    })
}

#[test]
fn finds_impurities() {
    let tree = Tree::of(&[
        ("policy/src/lib.rs", "// a HashMap would be wrong\nuse std::collections::HashMap;\n"),
        ("consensus/src/lib.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use std::fs; }\n"),
        ("consensus/src/kernel.rs", "let now = std::time::Instant::now();"),
        ("consensus/src/grpc/mod.rs", "use tokio::net::TcpStream;"),
        ("consensus/src/grpc.rs", "use tokio::net::TcpStream;"),
        ("consensus/src/wire/tests.rs", "std::fs::read(path)"),
        ("federation/src/grpc.rs", "use tokio::net::TcpStream;"),
        ("node/src/main.rs", "use std::collections::HashMap;"),
    ]);
    let found: Vec<String> =
        impurities(&tree).iter().map(|v| v.split(": ").next().unwrap_or_default().into()).collect();
    assert_eq!(found, ["consensus/src/kernel.rs:1", "federation/src/grpc.rs:1", "policy/src/lib.rs:2"]);
}
