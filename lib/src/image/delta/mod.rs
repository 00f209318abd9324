//! Deltas: what it takes to make one image of another that is here already, as an artifact in the format of
//! <https://github.com/containers/oci-delta>.
//!
//! The artifact is an OCI manifest whose subject is the manifest of the image to be made. It lists that manifest, its configuration, and for
//! each layer that the other image has not, either a patch in the format of tar-diff or the layer's own blob. A patch makes the tar of a
//! layer of files in the root of the other image, by path, and of bytes that it brings along.
//!
//! Whoever applies a delta believes nothing in it: what comes out has the diff_id that the configuration names, or it is an error.

mod apply;
mod artifact;
mod find;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod output;
mod patch;
mod pieces;
mod read;
mod referrers;

pub use apply::{SourceFile, SourceFiles, apply_delta, prove_delta};
pub use artifact::{Delta, DeltaBlob, DeltaLayer};
pub use find::FoundDelta;
pub use frame::{compress, compress_against};
pub use output::check_delta_output;
pub use patch::{PatchWriter, operations};
pub use pieces::pieces;

/// The type of the artifact.
pub(in crate::image) const MEDIA_TYPE: &str = oci_delta::MEDIA_TYPE_DELTA;
/// The media type of a patch.
const TAR_DIFF: &str = "application/vnd.tar-diff";
/// The media type of a configuration that says nothing, and its content (OCI image specification, "Guidance for an Empty Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_CONFIG: &[u8] = b"{}";

/// Annotations of the artifact: manifest and configuration of the image to start from, manifest of the one to be made.
const SOURCE: &str = "io.github.containers.delta.source";
const SOURCE_CONFIG: &str = "io.github.containers.delta.source-config";
const TARGET: &str = "io.github.containers.delta.target";
/// Lists in JSON of the layers that both have, by the digest of the blob and by diff_id.
const REUSED: &str = "io.github.containers.delta.reused";
const REUSED_DIFF_ID: &str = "io.github.containers.delta.reused-diff-id";

/// Annotations of what the artifact lists: what it is, and for a layer, the digest of the blob that it stands for.
const CONTENT: &str = "io.github.containers.delta.content";
const TO: &str = "io.github.containers.delta.to";
