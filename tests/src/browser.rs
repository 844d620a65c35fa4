//! A real browser on a node's pages: Chromium, driven by `tests/js/visit.mjs` with Playwright.
//!
//! A visit is a list of steps as a person takes them; each returns what the page then showed. Invariants: every visit has
//! a browser with an empty profile; nothing that it asked for lay outside the node's own origin, or the test has failed.
//! Not for what a page should say: that stands in the tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::clients::{cache_folder, tests_folder};
use crate::program::run;
use crate::{Node, Scratch};

/// Pictures of the pages, if somebody wants to look at them.
const SHOTS: &str = "TESSERA_SHOTS";

pub struct Browser {
    profiles: PathBuf,
    shots: PathBuf,
}

/// What each step of a visit saw, in their order.
pub struct Visit {
    pub seen: Vec<Value>,
    /// Addresses that pages and workers asked for, without the origin.
    pub requests: Vec<String>,
}

impl Browser {
    pub fn new(scratch: &Scratch) -> Browser {
        let shots = match std::env::var_os(SHOTS) {
            Some(folder) => PathBuf::from(folder),
            None => scratch.folder("shots"),
        };
        Browser { profiles: scratch.folder("profiles"), shots }
    }

    /// Takes the steps on this node's pages.
    #[track_caller]
    pub fn visit(&self, node: &Node, steps: &[Value]) -> Visit {
        let playwright = cache_folder().join("playwright");
        assert!(playwright.is_dir(), "{} is not there: tests/bootstrap.sh browser", playwright.display());
        let profile = tempfile::tempdir_in(&self.profiles).expect("a folder for the profile");
        let url = node.url("/");
        let folders = [profile.path(), &self.shots, &playwright].map(Path::display).map(|path| path.to_string());
        let [profile_path, shots, playwright] = &folders;
        let visit =
            json!({"url": url, "profile": profile_path, "shots": shots, "playwright": playwright, "steps": steps});
        let mut command = Command::new("node");
        command.arg(tests_folder().join("js/visit.mjs")).arg(visit.to_string());
        let record = run(command).success().json_lines().remove(0);
        let texts = |name: &str| -> Vec<String> { serde_json::from_value(record[name].clone()).expect("texts") };
        for trouble in ["refused", "errors"] {
            assert_eq!(texts(trouble), [""; 0], "{trouble} on the pages of {}", node.seat.name);
        }
        let inside = |address: String| match address.strip_prefix(&url) {
            Some(path) => format!("/{path}"),
            // Made in the page itself, of data that it has.
            None if address.starts_with("data:") || address.starts_with(&format!("blob:{url}")) => address,
            None => panic!("a page of {} asked for {address}", node.seat.name),
        };
        let requests = texts("requests").into_iter().map(inside).collect();
        Visit { seen: serde_json::from_value(record["seen"].clone()).expect("a list"), requests }
    }
}
