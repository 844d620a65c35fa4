//! The map must fit the land: every path that ARCHITECTURE.md or README.md names in backticks exists, and the map
//! stays short enough to be read.
//!
//! A path is a word of plain characters with a `/` inside or a file's ending; commands, URLs and types are not.

use crate::tree::Tree;

/// Three printed pages, roughly.
const MAP_WORDS_MAX: usize = 1_800;
const ENDINGS: [&str; 7] = [".rs", ".md", ".toml", ".sh", ".py", ".proto", ".csv"];

pub fn missing_paths(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for document in ["ARCHITECTURE.md", "README.md"] {
        for (line, path) in paths(&tree.files[document]) {
            if !tree.root.join(&path).exists() {
                found.push(format!("{document}:{line}: {path} does not exist"));
            }
        }
    }
    found
}

pub fn too_long(tree: &Tree) -> Vec<String> {
    let words = tree.files["ARCHITECTURE.md"].split_whitespace().count();
    (words > MAP_WORDS_MAX)
        .then(|| format!("ARCHITECTURE.md: {words} words, {MAP_WORDS_MAX} at most"))
        .into_iter()
        .collect()
}

fn paths(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // Every second piece lies between backticks.
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.filter(|word| is_path(word)).map(|word| (number + 1, word.to_string())));
        }
    }
    found
}

fn is_path(word: &str) -> bool {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let is_file = ENDINGS.iter().any(|ending| word.ends_with(ending) && word.len() > ending.len());
    plain && !word.starts_with('/') && (is_file || word.contains('/'))
}

#[test]
fn tells_paths_from_other_words() {
    let text = "Read `policy/src/lib.rs`, `node/`, `Cargo.toml`; run `make test`.\n\
                ```\n`inside/a/block`\n```\n\
                Not `/dicom-web/studies`, `Ledger::apply`, `step(now, input)`, `tessera`, `.rs`, nor a/b.\n";
    let found: Vec<String> = paths(text).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(found, ["1 policy/src/lib.rs", "1 node/", "1 Cargo.toml"]);
}
