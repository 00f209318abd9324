//! Where the containers configuration is: the files that skopeo reads, in its order.

use std::path::{Path, PathBuf};

use crate::image::SourceOptions;
use crate::sys::process;

use super::Unusable;

/// Variables that send requests through a proxy. What NO_PROXY takes out again is not understood here.
const PROXIES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Variables that lead to other files, for tests of those programs.
const ELSEWHERE: [&str; 2] = ["CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH"];

/// Files and folders of the containers configuration; none of them has to exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Files of credentials. The first that knows the registry counts.
    pub(super) auth: Vec<PathBuf>,
    /// registries.conf: the first that exists counts.
    pub(super) registries: Vec<PathBuf>,
    /// Folders of files that override it.
    pub(super) drop_ins: Vec<PathBuf>,
    /// Folders with one folder a registry: the first that has it counts.
    pub(super) certs: Vec<PathBuf>,
}

impl Places {
    /// As skopeo, started by this process, would find them.
    ///
    /// # Errors
    ///
    /// Where the environment says something that is not understood here.
    pub(super) fn of_this_process(options: &SourceOptions) -> Result<Self, Unusable> {
        let user = rustix::process::getuid().as_raw();
        Self::of(&|name| process::variable(name).map(PathBuf::from), process::home().as_deref(), user, options)
    }

    fn of(variable: &dyn Fn(&str) -> Option<PathBuf>, home: Option<&Path>, user: u32, options: &SourceOptions) -> Result<Self, Unusable> {
        let get = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
        if let Some(name) = PROXIES.iter().chain(&ELSEWHERE).find(|name| get(name).is_some()) {
            return Err(Unusable::new(format!("the environment has {name}, which only skopeo understands")));
        }
        let config = get("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config")));
        let below = |from: &Option<PathBuf>, path: &str| from.as_ref().map(|from| from.join(path));
        let auth = match options.authfile.clone().or_else(|| get("REGISTRY_AUTH_FILE")) {
            Some(only) => vec![only],
            None => {
                let runtime = get("XDG_RUNTIME_DIR").map_or_else(|| format!("/run/containers/{user}").into(), |dir| dir.join("containers"));
                let docker = get("DOCKER_CONFIG").or_else(|| Some(home?.join(".docker")));
                let all = [Some(runtime.join("auth.json")), below(&config, "containers/auth.json"), below(&docker, "config.json")];
                all.into_iter().flatten().collect()
            }
        };
        let etc = |name: &str| Some(PathBuf::from("/etc").join(name));
        let certs = [below(&config, "containers/certs.d"), etc("containers/certs.d"), etc("docker/certs.d")];
        let registries = [below(&config, "containers/registries.conf"), etc("containers/registries.conf")];
        let drop_ins = [etc("containers/registries.conf.d"), below(&config, "containers/registries.conf.d")];
        let all = |paths: Vec<Option<PathBuf>>| paths.into_iter().flatten().collect();
        Ok(Self { auth, registries: all(registries.into()), drop_ins: all(drop_ins.into()), certs: all(certs.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], authfile: Option<&str>) -> Result<Places, Unusable> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value));
        let options = SourceOptions { authfile: authfile.map(PathBuf::from), ..Default::default() };
        Places::of(&variable, Some(Path::new("/home/a")), 7, &options)
    }

    fn paths<const N: usize>(paths: [&str; N]) -> Vec<PathBuf> {
        paths.map(PathBuf::from).into()
    }

    #[test]
    fn files_are_where_skopeo_looks() {
        let expected = Places {
            auth: paths(["/run/containers/7/auth.json", "/home/a/.config/containers/auth.json", "/home/a/.docker/config.json"]),
            registries: paths(["/home/a/.config/containers/registries.conf", "/etc/containers/registries.conf"]),
            drop_ins: paths(["/etc/containers/registries.conf.d", "/home/a/.config/containers/registries.conf.d"]),
            certs: paths(["/home/a/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d"]),
        };
        assert_eq!(of(&[("REGISTRY_AUTH_FILE", "")], None), Ok(expected.clone()));
        let auth = |variables: &[(&str, &str)], authfile| of(variables, authfile).unwrap().auth;
        assert_eq!(auth(&[("REGISTRY_AUTH_FILE", "/e.json")], None), paths(["/e.json"]));
        assert_eq!(auth(&[("REGISTRY_AUTH_FILE", "/e.json")], Some("/o.json")), paths(["/o.json"]));
        let moved = of(&[("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")], None).unwrap();
        assert_eq!(moved.auth, paths(["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"]));
        assert_eq!(moved.certs[0], Path::new("/c/containers/certs.d"));
    }

    #[test]
    fn proxies_and_other_configurations_are_left_to_skopeo() {
        for name in PROXIES.iter().chain(&ELSEWHERE) {
            let error = of(&[(name, "x")], None).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
