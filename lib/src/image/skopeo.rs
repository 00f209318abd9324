//! The command lines of skopeo: the proxy that serves images, and `skopeo inspect --raw`.

use std::ffi::OsString;

use anyhow::{Context, Result};
use containers_image_proxy::ImageProxyConfig;

use crate::sys::process;

use super::{SourceOptions, platform};

/// How the proxy is started. The library adds the subcommand and what follows it.
pub(super) fn proxy_config(options: &SourceOptions) -> Result<ImageProxyConfig> {
    let mut config = ImageProxyConfig::default();
    config.authfile = options.authfile.clone();
    config.insecure_skip_tls_verification = options.tls_verify.map(|verify| !verify);
    config.skopeo_cmd = Some(process::command(&global(options)).context("starting skopeo: empty command line")?);
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
        let options = SourceOptions { authfile: Some("/a.json".into()), tls_verify: Some(false), architecture: Some("s390x".into()) };
        let expected = "skopeo --override-arch s390x inspect --raw --authfile /a.json --tls-verify=false docker://r.io/os:v1";
        assert_eq!(shown(inspect_raw("docker://r.io/os:v1", &options)), expected);
        let options = SourceOptions { tls_verify: Some(true), architecture: Some(platform::this_machine()), ..Default::default() };
        assert_eq!(shown(global(&options)), "skopeo --tls-verify=true");
    }
}
