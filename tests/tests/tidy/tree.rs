//! The workspace as the rules see it: its text files, read once, with paths relative to the root.
//!
//! Rules take a `Tree` and not the disk, so that each rule is tried on a small made-up tree that breaks it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders that hold code. Whatever else lies in a clone (build output, data) is not the rules' business.
const CODE: [&str; 7] = ["policy", "storage", "consensus", "federation", "simnet", "node", "tests"];

pub struct Tree {
    pub root: PathBuf,
    /// Relative path with `/` between its parts -> content.
    pub files: BTreeMap<String, String>,
}

impl Tree {
    pub fn workspace() -> Tree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_path_buf();
        let mut files = BTreeMap::new();
        for folder in CODE {
            read_folder(&root, &root.join(folder), &mut files);
        }
        for name in ["Cargo.toml", "Makefile", "README.md", "ARCHITECTURE.md"] {
            files.insert(name.to_string(), std::fs::read_to_string(root.join(name)).expect(name));
        }
        Tree { root, files }
    }

    /// A tree of made-up files, to try a rule on.
    #[track_caller]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        Tree {
            root: PathBuf::from("/nonexistent"),
            files: files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect(),
        }
    }

    pub fn rust_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter(|(path, _)| path.ends_with(".rs")).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub fn crates(&self) -> impl Iterator<Item = (&'static str, toml::Table)> + '_ {
        CODE.into_iter().map(|name| (name, self.manifest(&format!("{name}/Cargo.toml"))))
    }

    pub fn manifest(&self, path: &str) -> toml::Table {
        self.files[path].parse().expect("cargo has read this manifest before")
    }
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries.map(|entry| entry.expect("a readable folder")) {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "__pycache__" {
                read_folder(root, &path, files);
            }
        } else if is_text(&path) {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let relative = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            files.insert(relative, text);
        }
    }
}

fn is_text(path: &Path) -> bool {
    matches!(path.extension().and_then(|e| e.to_str()), Some("rs" | "toml" | "py" | "sh" | "proto" | "js" | "mjs"))
}
