//! The command lines of skopeo: the proxy that serves images, `skopeo inspect --raw` and `skopeo copy`.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use containers_image_proxy::ImageProxyConfig;

use crate::reference::{ImageReference, Transport};
use crate::sys::process;
use crate::sys::scratch::Scratch;

use super::{OutputOptions, SourceOptions, platform};

/// A directory for what skopeo unpacks of an archive: gone when this is. It would take `/var/tmp` itself, and leave all there where it is stopped.
pub(super) fn scratch(transport: Transport) -> Result<Option<Scratch>> {
    match transport {
        Transport::OciArchive | Transport::DockerArchive => Scratch::make(&process::temporary()).map(Some),
        Transport::Registry | Transport::Oci | Transport::ContainersStorage => Ok(None),
    }
}

/// The same command, with its temporary files in `directory`.
pub(super) fn with_temporary(mut argv: Vec<OsString>, directory: Option<&Path>) -> Vec<OsString> {
    if let Some(directory) = directory {
        argv.splice(1..1, ["--tmpdir".into(), directory.into()]);
    }
    argv
}

/// How the proxy is started. The library adds the subcommand and what follows it.
pub(super) fn proxy_config(options: &SourceOptions, temporary: Option<&Path>) -> Result<ImageProxyConfig> {
    let mut config = ImageProxyConfig::default();
    config.authfile = options.authfile.clone();
    config.insecure_skip_tls_verification = options.tls_verify.map(|verify| !verify);
    config.skopeo_cmd = Some(process::command(&with_temporary(global(options), temporary)).context("starting skopeo: empty command line")?);
    Ok(config)
}

/// The command that prints the manifest or index of `reference` (in skopeo's form), byte by byte as it is.
pub(super) fn inspect_raw(reference: &str, options: &SourceOptions) -> Vec<OsString> {
    let mut argv = global(options);
    argv.extend(["inspect", "--raw"].map(OsString::from));
    if let Some(authfile) = &options.authfile {
        argv.extend(["--authfile".into(), authfile.into()]);
    }
    if options.tls_verify == Some(false) {
        argv.push("--tls-verify=false".into());
    }
    argv.push(reference.into());
    argv
}

/// The command that copies an image into a layout, compressing layers that are not. It may run in any directory.
pub(super) fn copy_from(reference: &ImageReference, layout: &str, options: &SourceOptions) -> Result<Vec<OsString>> {
    let mut from = reference.skopeo();
    if reference.transport() == Transport::DockerArchive {
        let (prefix, path) = (reference.transport().prefix(), absolute(Path::new(reference.name()))?);
        let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        from = format!("{prefix}{}{tag}", path.display());
    }
    let mut argv = global(options);
    argv.extend(["copy", "--quiet", &from, layout].map(OsString::from));
    Ok(argv)
}

/// The command that copies the image of a layout to `reference` (in skopeo's form), not one byte of it changed.
///
/// The signature policy is about images that come from elsewhere. It was applied to the base, and what is in the layout was made here:
/// without the option, a policy that wants signatures would forbid to write anything that has none yet.
pub(super) fn copy_to(layout: &str, reference: &str, options: &OutputOptions) -> Result<Vec<OsString>> {
    let mut argv: Vec<OsString> = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"].map(OsString::from).into();
    if let Some(authfile) = &options.authfile {
        argv.extend(["--dest-authfile".into(), absolute(authfile)?]);
    }
    if let Some(verify) = options.tls_verify {
        argv.push(format!("--dest-tls-verify={verify}").into());
    }
    argv.extend([layout, reference].map(OsString::from));
    Ok(argv)
}

/// Runs a command in `directory`, where it also keeps its temporary files: a colon in the path of a layout would end it, so layouts are named
/// from there.
pub(super) async fn run_in(directory: &Path, argv: Vec<OsString>) -> Result<()> {
    let directory = std::path::absolute(directory).with_context(|| format!("reading path {}", directory.display()))?;
    let argv = with_temporary(argv, Some(&directory));
    let run = move || process::call(process::Call { argv: &argv, directory: Some(&directory), ..Default::default() });
    tokio::task::spawn_blocking(run).await.context("running skopeo")??;
    Ok(())
}

fn absolute(path: &Path) -> Result<OsString> {
    Ok(std::path::absolute(path).with_context(|| format!("reading path {}", path.display()))?.into())
}

/// Program and global options. skopeo chooses the architecture, with the variants of this processor, best by itself, so
/// it is only told where another is wanted.
fn global(options: &SourceOptions) -> Vec<OsString> {
    let mut argv = vec!["skopeo".into()];
    if let Some(architecture) = options.architecture.as_ref().filter(|a| **a != platform::this_machine()) {
        argv.extend(["--override-arch".into(), architecture.into()]);
    }
    if options.tls_verify == Some(true) {
        argv.push("--tls-verify=true".into());
    }
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(argv: Vec<OsString>) -> String {
        argv.iter().map(|a| a.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn command_lines() {
        let options = SourceOptions::default();
        assert_eq!(shown(inspect_raw("docker://r.io/os:v1", &options)), "skopeo inspect --raw docker://r.io/os:v1");
        let options = SourceOptions {
            authfile: Some("/a.json".into()),
            tls_verify: Some(false),
            architecture: Some("s390x".into()),
            ..Default::default()
        };
        let expected = "skopeo --override-arch s390x inspect --raw --authfile /a.json --tls-verify=false docker://r.io/os:v1";
        assert_eq!(shown(inspect_raw("docker://r.io/os:v1", &options)), expected);
        let from = |reference: &str| shown(copy_from(&reference.parse().unwrap(), "oci:base:image", &options).unwrap());
        for reference in ["containers-storage:os:v1", "docker-archive:/os.tar", "docker-archive:/os.tar:localhost/os:v1"] {
            assert_eq!(from(reference), format!("skopeo --override-arch s390x copy --quiet {reference} oci:base:image"));
        }
        assert!(!from("docker-archive:os.tar").contains("docker-archive:os.tar"));
        let options = SourceOptions { tls_verify: Some(true), architecture: Some(platform::this_machine()), ..Default::default() };
        assert_eq!(shown(global(&options)), "skopeo --tls-verify=true");
        let to = |options| shown(copy_to("oci:image:image", "docker://r.io/os:v1", &options).unwrap());
        assert_eq!(
            to(OutputOptions::default()),
            "skopeo --insecure-policy copy --quiet --preserve-digests oci:image:image docker://r.io/os:v1"
        );
        assert_eq!(
            to(OutputOptions { authfile: Some("/a.json".into()), tls_verify: Some(false) }),
            "skopeo --insecure-policy copy --quiet --preserve-digests --dest-authfile /a.json --dest-tls-verify=false oci:image:image \
             docker://r.io/os:v1"
        );
        assert!(to(OutputOptions { tls_verify: Some(true), ..Default::default() }).contains(" --dest-tls-verify=true "));
    }
}
