//! A test's own folder, gone when the test has passed.
//!
//! A failed test leaves it and prints where it lies: a node's directory is the best witness of what went wrong.
//! `TESSERA_KEEP=1` keeps it in any case.

use std::path::{Path, PathBuf};

pub struct Scratch {
    folder: Option<tempfile::TempDir>,
}

impl Scratch {
    #[expect(clippy::new_without_default, reason = "it makes a folder, which no default should")]
    pub fn new() -> Scratch {
        let folder = tempfile::Builder::new().prefix("tessera-test-").tempdir().expect("a temporary folder");
        Scratch { folder: Some(folder) }
    }

    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("taken only on drop").path()
    }

    /// A folder of this name inside, made if it is not there.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// A file of this name inside, with this content.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take()
            && (std::thread::panicking() || std::env::var_os("TESSERA_KEEP").is_some())
        {
            eprintln!("the test's folder is kept: {}", folder.keep().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_gone_after_a_test_that_passed_and_kept_after_one_that_failed() {
        let scratch = Scratch::new();
        let path = scratch.folder("inner").parent().expect("inside").to_path_buf();
        assert!(scratch.file("a", "b").exists());
        drop(scratch);
        assert!(!path.exists());

        let failed = std::thread::spawn(|| {
            let scratch = Scratch::new();
            std::panic::panic_any(scratch.path().to_path_buf());
        });
        let kept = *failed.join().expect_err("it panicked").downcast::<PathBuf>().expect("with its folder");
        assert!(kept.exists());
        std::fs::remove_dir_all(kept).expect("nobody else holds it");
    }
}
