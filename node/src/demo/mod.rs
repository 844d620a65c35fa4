//! `tessera demo`: three hospitals and a regulator as four processes on this machine, and the whole story.
//!
//! Everything is done as a user would do it: this program's own commands on real processes, DICOM by DCMTK's
//! `storescu` where it is installed. Each step says what it did with the figures of this very run, and fails the
//! demo when what should happen does not. The patients are generated and obviously so.

pub(crate) mod federation;
mod story;

use std::path::PathBuf;

use crate::cli;

/// Runs the story; with `once` it ends after it, otherwise the nodes stay until Ctrl-C.
pub async fn run(options: cli::Demo) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("tessera-demo-").tempdir()?;
    let root: PathBuf = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&root)?;
    let mut federation = federation::Federation::found(&root, options.viewer.clone()).await?;
    let result = story::tell(&mut federation, &root, options.data.as_deref()).await;
    if result.is_ok() && !options.once {
        federation.print_addresses();
        println!("\nThe federation runs until you press Ctrl-C.");
        tokio::signal::ctrl_c().await?;
    }
    federation.stop().await;
    if let Err(error) = &result
        && options.keep.is_none()
    {
        let kept = temporary.keep();
        println!("\nThe demo failed: {error:#}\nThe nodes' logs are in {}", kept.display());
    }
    result
}
