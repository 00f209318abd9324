//! Options of every command that reaches for an image.

use std::path::PathBuf;

use clap::Args;
use selkie::image::{OutputOptions, SourceOptions};

/// How to reach registries. Mirrors, TLS and signature policy come from registries.conf, certs.d and policy.json as for skopeo.
#[derive(Debug, Args)]
pub struct SourceArguments {
    /// File with registry credentials (default: auth.json as podman and skopeo find it).
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Whether the registry must speak TLS with a certificate that is trusted (default: as registries.conf says).
    #[arg(long, value_name = "BOOL")]
    tls_verify: Option<bool>,
}

impl SourceArguments {
    /// The library's form.
    pub fn options(&self) -> SourceOptions {
        SourceOptions { authfile: self.authfile.clone(), tls_verify: self.tls_verify, ..SourceOptions::default() }
    }

    /// The same for a place that an image is written to.
    pub fn output_options(&self) -> OutputOptions {
        OutputOptions { authfile: self.authfile.clone(), tls_verify: self.tls_verify }
    }
}
