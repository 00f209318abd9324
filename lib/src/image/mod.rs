//! Images where they come from: references are resolved, blobs are fetched, and nothing leaves unverified. Read-only.
//!
//! Layouts (`oci:`) are read here, without another program; registries and everything else through skopeo's image proxy. On both
//! ways every blob is checked against its digest and every layer against its diff_id.

mod blob;
mod digest;
mod layer;
mod layout;
mod manifest;
mod platform;
mod policy;
mod proxy;
mod proxy_error;
mod skopeo;
mod tap;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};

pub use layer::LayerReader;
pub use manifest::{Layer, Resolved};

use crate::progress::Progress;
use crate::reference::{ImageReference, Transport};
use layout::Layout;
use proxy::Proxy;

/// How to reach an image.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// A file of credentials, see containers-auth.json(5); the usual places where `None`.
    pub authfile: Option<PathBuf>,
    /// Whether HTTPS with a valid certificate is required; as registries.conf says where `None`.
    pub tls_verify: Option<bool>,
    /// The architecture that is wanted, in Go's words (`amd64`, `arm64`); this machine's where `None`.
    pub architecture: Option<String>,
}

/// An image that was resolved and whose layers can be read.
pub struct Source {
    resolved: Resolved,
    from: From,
}

enum From {
    Layout(Layout),
    Proxy(Box<Proxy>),
}

impl Source {
    /// Resolves `reference`: fetches and checks index, manifest and configuration. Needs a tokio runtime with its clock enabled.
    ///
    /// # Errors
    ///
    /// A [`Failure`](crate::error::Failure) where there is no such image, where it is not for this architecture, where credentials
    /// or signature policy forbid it, where the registry cannot be reached, or where a digest does not match.
    pub async fn open(reference: &ImageReference, options: &SourceOptions) -> Result<Source> {
        let architecture = options.architecture.clone().unwrap_or_else(platform::this_machine);
        let (from, resolved) = if reference.transport() == Transport::Oci {
            let (layout, resolved) = Layout::open(reference, &architecture)?;
            (From::Layout(layout), resolved)
        } else {
            let (proxy, resolved) = Proxy::open(reference, options, &architecture).await?;
            (From::Proxy(Box::new(proxy)), resolved)
        };
        Ok(Source { resolved, from })
    }

    /// What the reference led to.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Starts reading layer `index`, lowest first. Several may be read at a time; read each to its end or drop it.
    ///
    /// # Errors
    ///
    /// Where the blob cannot be fetched. That its bytes are right is only known when the reader has reached its end.
    pub async fn open_layer(&self, index: usize, progress: Arc<dyn Progress>) -> Result<LayerReader> {
        let layer = self.resolved.layers.get(index).with_context(|| format!("reading layer {index}: no such layer"))?;
        match &self.from {
            From::Layout(layout) => layout.open_layer(layer, progress).await,
            From::Proxy(proxy) => proxy.open_layer(layer, progress).await,
        }
    }

    /// Ends the programs that served the image.
    ///
    /// # Errors
    ///
    /// Where a layer is still being read, or where such a program ended with an error of its own.
    pub async fn close(self) -> Result<()> {
        match self.from {
            From::Layout(_) => Ok(()),
            From::Proxy(proxy) => proxy.close().await,
        }
    }
}
