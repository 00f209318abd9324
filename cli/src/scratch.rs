//! Where the verbs work that write images or unpack them.

use std::path::PathBuf;

use clap::Args;

/// The place for what is there only meanwhile.
#[derive(Debug, Args)]
pub struct ScratchArguments {
    /// Where a scratch directory is made, with room for the files of the images and for what is made of them; it is removed at the end.
    #[arg(long, env = "TMPDIR", value_name = "DIR", default_value = "/var/tmp")]
    scratch: PathBuf,
}

impl ScratchArguments {
    /// The library's form.
    pub fn directory(&self) -> PathBuf {
        self.scratch.clone()
    }
}
