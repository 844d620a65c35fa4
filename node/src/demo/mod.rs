//! `tessera demo`: three hospitals and a regulator as four processes on this machine, and the whole story.
//!
//! Everything is done as a user would do it: this program's own commands on real processes, DICOM by DCMTK's
//! `storescu` where it is installed. Each step says what it did with the figures of this very run, and fails the
//! demo when what should happen does not. The patients are generated and obviously so.
//!
//! However the demo ends, its nodes end with it. Their directories go unless somebody wants to see them: `--keep`, or a
//! step that failed. Only `kill -9` of the demo leaves its temporary directory behind.

pub(crate) mod federation;
mod story;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::cli;
use crate::config::ArchiveConfig;
use crate::ending::Ending;
use federation::Federation;

/// What the whole story writes, in bytes: four databases take most of it.
const STORY_BYTES: u64 = 1536 << 20;

/// Where the nodes lie; a temporary directory goes when this is dropped.
enum Root {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Root {
    fn make(keep: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(keep) = keep else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("tessera-demo-").tempdir()?));
        };
        std::fs::create_dir_all(&keep).with_context(|| keep.display().to_string())?;
        let is_empty = std::fs::read_dir(&keep).with_context(|| keep.display().to_string())?.next().is_none();
        ensure!(is_empty, "{} is not empty; name another directory with --keep", keep.display());
        Ok(Self::Kept(keep))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(directory) => directory,
        }
    }

    /// Keeps it in any case. Returns where it lies.
    fn keep(self) -> PathBuf {
        match self {
            Self::Temporary(directory) => directory.keep(),
            Self::Kept(directory) => directory,
        }
    }
}

/// How the demo came to its end.
enum Told {
    /// The story, and with `--once` no more than that.
    Whole,
    /// Somebody ended it; whether after the story.
    Ended {
        signal: &'static str,
        after_story: bool,
    },
    Failed(anyhow::Error),
}

/// Runs the story; with `once` it ends after it, otherwise the nodes stay until Ctrl-C.
pub async fn run(options: cli::Demo) -> anyhow::Result<()> {
    let mut ending = Ending::listen()?;
    let root = Root::make(options.keep)?;
    check_room(root.path(), free_bytes(root.path())?)?;
    let mut federation = Federation::plan(root.path(), options.viewer)?;
    let told = tell(&mut federation, root.path(), options.data.as_deref(), options.once, &mut ending).await;
    federation.stop().await;
    match told {
        Told::Whole | Told::Ended { after_story: true, .. } => Ok(()),
        Told::Ended { signal, .. } => Err(anyhow::anyhow!("the demo was ended by {signal} before its story was told")),
        Told::Failed(error) => {
            Err(error
                .context(format!("the demo failed; the nodes and their logs are kept in {}", root.keep().display())))
        }
    }
}

async fn tell(federation: &mut Federation, root: &Path, data: Option<&Path>, once: bool, ending: &mut Ending) -> Told {
    let story = async {
        federation.found(root).await?;
        story::tell(federation, root, data).await
    };
    let told = tokio::select! {
        told = story => told,
        signal = ending.asked() => return Told::Ended { signal, after_story: false },
    };
    match told {
        Err(error) => Told::Failed(error),
        Ok(()) if once => Told::Whole,
        Ok(()) => {
            federation.print_addresses();
            println!("\nThe federation runs until you press Ctrl-C.");
            Told::Ended { signal: ending.asked().await, after_story: true }
        }
    }
}

fn free_bytes(directory: &Path) -> anyhow::Result<u64> {
    let found = rustix::fs::statvfs(directory).with_context(|| directory.display().to_string())?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// The nodes refuse images when little is free, in the middle of the story; so it is said before.
fn check_room(directory: &Path, free: u64) -> anyhow::Result<()> {
    let needed = ArchiveConfig::default().free_bytes_min + STORY_BYTES;
    let (free_mb, needed_mb) = (free / 1_000_000, needed / 1_000_000);
    ensure!(
        free >= needed,
        "only {free_mb} MB are free in {}, and the demo needs {needed_mb} MB, because hospitals refuse images when their \
         disk is nearly full; name a directory on another disk with --keep or TMPDIR",
        directory.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_disk_is_named_before_anything_starts() {
        let error = check_room(Path::new("/tmp"), 1_000_000_000).expect_err("too little").to_string();
        assert!(error.contains("only 1000 MB are free in /tmp") && error.contains("--keep"), "{error}");
        assert!(check_room(Path::new("/tmp"), 4_000_000_000).is_ok());
    }
}
