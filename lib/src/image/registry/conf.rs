//! registries.conf(5), version 2: which registry or mirror is asked for what, and how. Reads the files; the rest is pure.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::reference::ImageReference;

use super::Unusable;

/// Where a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `HOST[:PORT]`
    pub(super) host: String,
    /// The repository there.
    pub(super) repository: String,
    /// Whether plain HTTP and unknown certificates are good enough.
    pub(super) insecure: bool,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Config {
    registries: Vec<Registry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
    /// Programs that know credentials; without this key, the files of credentials are all there is.
    credential_helpers: Option<Vec<String>>,
    /// Version 1 of the format, which skopeo still reads.
    registries: Option<toml::Table>,
}

/// Unknown keys are refused: one that changes where an image comes from must not be passed over.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<String>,
}

impl Config {
    /// Reads the first of `main` that exists, and every `*.conf` of the folders `drop_ins`, by name; a registry there replaces one with the
    /// same prefix.
    ///
    /// # Errors
    ///
    /// Where a file cannot be read or says something that is not understood here.
    pub(super) fn read(main: &[PathBuf], drop_ins: &[PathBuf]) -> Result<Self, Unusable> {
        let mut files: Vec<PathBuf> = main.iter().find(|path| path.exists()).cloned().into_iter().collect();
        for folder in drop_ins {
            files.extend(confs(folder)?);
        }
        let mut config = Self::default();
        for path in files {
            let text = std::fs::read_to_string(&path).map_err(|e| Unusable::new(format!("reading {}: {e}", path.display())))?;
            config.add(&text).map_err(|found| Unusable::new(format!("reading {}: {found}", path.display())))?;
        }
        Ok(config)
    }

    /// Adds what one file says.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|e| e.message().to_owned())?;
        if file.registries.is_some() {
            return Err("it is of version 1 (expected [[registry]])".into());
        }
        if file.credential_helpers.is_some_and(|helpers| helpers.iter().any(|h| h != "containers-auth.json")) {
            return Err("it has credential-helpers, which only skopeo calls".into());
        }
        for registry in file.registry {
            let Some(prefix) = registry.prefix.clone().or_else(|| registry.location.clone()) else {
                return Err("a registry has neither prefix nor location".into());
            };
            let registry = Registry { prefix: Some(prefix), ..registry };
            self.registries.retain(|old| old.prefix != registry.prefix);
            self.registries.push(registry);
        }
        Ok(())
    }

    /// Where the repository of `reference` is looked for, in this order: mirrors, then the registry itself.
    ///
    /// # Errors
    ///
    /// Where it is blocked, or where the configuration is not understood.
    pub(super) fn endpoints(&self, reference: &ImageReference) -> Result<Vec<Endpoint>, Unusable> {
        let name = reference.name();
        let Some((length, registry)) = self.registry(name)? else { return Ok(vec![endpoint(name, false)?]) };
        let rest = &name[length..];
        let by_digest = reference.digest().is_some();
        let mut endpoints = Vec::new();
        for mirror in &registry.mirror {
            let wanted = match mirror.pull_from_mirror.as_deref().unwrap_or("all") {
                "all" => by_digest || !registry.mirror_by_digest_only,
                "digest-only" => by_digest,
                "tag-only" => !by_digest,
                other => return Err(Unusable::new(format!("registries.conf has pull-from-mirror {other:?}"))),
            };
            if wanted {
                endpoints.push(endpoint(&format!("{}{rest}", mirror.location), mirror.insecure)?);
            }
        }
        let own = match registry.location.as_deref() {
            None | Some("") => name.to_owned(),
            Some(location) => format!("{location}{rest}"),
        };
        endpoints.push(endpoint(&own, registry.insecure)?);
        Ok(endpoints)
    }

    /// Where the repository of `reference` is written to: by its own name, as skopeo does it.
    ///
    /// # Errors
    ///
    /// As of [`endpoints`](Self::endpoints).
    pub(super) fn destination(&self, reference: &ImageReference) -> Result<Endpoint, Unusable> {
        let name = reference.name();
        endpoint(name, self.registry(name)?.is_some_and(|(_, registry)| registry.insecure))
    }

    /// What is said of a repository, and how much of its name that covers.
    fn registry(&self, name: &str) -> Result<Option<(usize, &Registry)>, Unusable> {
        let matching = self.registries.iter().filter_map(|r| Some((matched(name, r.prefix.as_deref()?)?, r)));
        // The longest prefix; skopeo compares the prefixes as they are written.
        match matching.max_by_key(|(_, r)| r.prefix.as_ref().map(String::len)) {
            Some((_, registry)) if registry.blocked => Err(Unusable::new(format!("registries.conf blocks {name}"))),
            found => Ok(found),
        }
    }
}

fn confs(folder: &Path) -> Result<Vec<PathBuf>, Unusable> {
    let unreadable = |e: std::io::Error| Unusable::new(format!("reading {}: {e}", folder.display()));
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let paths = entries.map(|entry| entry.map(|e| e.path()).map_err(unreadable)).collect::<Result<Vec<_>, _>>()?;
    let mut confs: Vec<PathBuf> = paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "conf")).collect();
    confs.sort();
    Ok(confs)
}

/// How much of `name` a prefix covers; `None` where it does not match.
fn matched(name: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name.split_once('/').map_or(name, |(host, _)| host);
        // A wildcard covers the whole host and may go on with a path.
        let (domain, path) = domain.find('/').map_or((domain, ""), |slash| domain.split_at(slash));
        let covers = domain.starts_with('.') && host.ends_with(domain) && host.len() > domain.len();
        return matched(&name[host.len()..], path).filter(|_| covers).map(|length| host.len() + length);
    }
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || prefix.is_empty() || rest.starts_with('/')).then_some(prefix.len())
}

/// Takes a name apart. Docker's registry has other names than its images.
fn endpoint(name: &str, insecure: bool) -> Result<Endpoint, Unusable> {
    let reference: ImageReference = name.parse().map_err(|e| Unusable::new(format!("reading registries.conf: {e}")))?;
    let Some((host, repository)) = reference.name().split_once('/') else {
        return Err(Unusable::new(format!("reading registries.conf: {name:?} has no repository")));
    };
    if reference.name() != name {
        return Err(Unusable::new(format!("reading registries.conf: {name:?} is no repository")));
    }
    let repository = match host {
        "docker.io" if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    Ok(Endpoint { host: host.to_owned(), repository, insecure })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(texts: &[&str]) -> Config {
        let mut config = Config::default();
        texts.iter().for_each(|text| config.add(text).unwrap());
        config
    }

    fn shown(config: &Config, reference: &str) -> Result<Vec<String>, Unusable> {
        let endpoints = config.endpoints(&reference.parse().unwrap())?;
        let insecure = |e: &Endpoint| if e.insecure { " insecure" } else { "" };
        Ok(endpoints.iter().map(|e| format!("{} {}{}", e.host, e.repository, insecure(e))).collect())
    }

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn without_a_word_about_it_a_registry_is_itself() {
        let none = config(&["unqualified-search-registries = ['docker.io']\nshort-name-mode = 'enforcing'\n[aliases]\nos = 'quay.io/os'"]);
        assert_eq!(shown(&none, "quay.io/acme/os:v1").unwrap(), ["quay.io acme/os"]);
        assert_eq!(shown(&none, "docker.io/debian").unwrap(), ["docker.io library/debian"]);
        assert_eq!(shown(&none, "[::1]:5000/os").unwrap(), ["[::1]:5000 os"]);
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        let all = config(&[r#"
            [[registry]]
            prefix = "quay.io"
            insecure = true
            [[registry]]
            prefix = "quay.io/acme"
            location = "own.example/copies/acme"
            [[registry.mirror]]
            location = "mirror.example:5000/q"
            insecure = true
            [[registry.mirror]]
            location = "digests.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "blocked.example"
            blocked = true
            [[registry]]
            prefix = "*.wild.example"
            insecure = true
            [[registry]]
            prefix = "*.moved.example/a"
            location = "one.example/b"
            [[registry]]
            location = "only.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "only-mirror.example""#]);
        let (mirror, own) = ("mirror.example:5000 q/os insecure", "own.example copies/acme/os");
        assert_eq!(shown(&all, "quay.io/acme/os:v1").unwrap(), [mirror, "tags.example os", own]);
        assert_eq!(shown(&all, &format!("quay.io/acme/os@{DIGEST}")).unwrap(), [mirror, "digests.example os", own]);
        assert_eq!(shown(&all, "quay.io/acmeos/os").unwrap(), ["quay.io acmeos/os insecure"]);
        assert_eq!(shown(&all, "quay.iox/acme/os").unwrap(), ["quay.iox acme/os"]);
        assert_eq!(shown(&all, "a.b.wild.example/os").unwrap(), ["a.b.wild.example os insecure"]);
        assert_eq!(shown(&all, "wild.example/os").unwrap(), ["wild.example os"]);
        assert_eq!(shown(&all, "x.moved.example/a/os").unwrap(), ["one.example b/os"]);
        assert_eq!(shown(&all, "only.example/os:v1").unwrap(), ["only.example os"]);
        assert_eq!(shown(&all, &format!("only.example/os@{DIGEST}")).unwrap(), ["only-mirror.example os", "only.example os"]);
        assert!(shown(&all, "blocked.example/os").unwrap_err().to_string().contains("blocks blocked.example/os"));
    }

    #[test]
    fn what_is_written_goes_to_the_registry_itself() {
        let config = config(&[
            "[[registry]]\nprefix = \"r.io\"\nlocation = \"other.io\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"m.io\"\n\
            [[registry]]\nprefix = \"b.io\"\nblocked = true\n",
        ]);
        let to = |reference: &str| config.destination(&reference.parse().unwrap());
        let endpoint = |host: &str, insecure| Endpoint { host: host.into(), repository: "a/b".into(), insecure };
        assert_eq!(to("r.io/a/b:v1"), Ok(endpoint("r.io", true)));
        assert_eq!(to("q.io/a/b:v1"), Ok(endpoint("q.io", false)));
        assert!(to("b.io/a/b:v1").is_err());
    }

    #[test]
    fn later_files_replace_what_earlier_ones_say() {
        let temp = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
        write("main", "[[registry]]\nlocation = 'a.example'\ninsecure = true\n[[registry]]\nlocation = 'b.example'\ninsecure = true");
        std::fs::create_dir(temp.path().join("d")).unwrap();
        write("d/10.conf", "[[registry]]\nlocation = 'b.example'\nblocked = true");
        write("d/20.conf", "[[registry]]\nlocation = 'b.example'");
        write("d/30.txt", "[[registry]]\nlocation = 'b.example'\nblocked = true");
        let path = |name: &str| temp.path().join(name);
        let config = Config::read(&[path("none"), path("main")], &[path("none"), path("d")]).unwrap();
        assert_eq!(shown(&config, "a.example/os").unwrap(), ["a.example os insecure"]);
        assert_eq!(shown(&config, "b.example/os").unwrap(), ["b.example os"]);
        write("d/40.conf", "[[registry]]\nlocation = 'b.example'\nsigned = true");
        let error = Config::read(&[], &[path("d")]).unwrap_err().to_string();
        assert!(error.contains("40.conf") && error.contains("signed"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let table = [
            ("[registries.search]\nregistries = ['docker.io']", "version 1"),
            ("credential-helpers = ['containers-auth.json', 'secretservice']", "credential-helpers"),
            ("[[registry]]\ninsecure = true", "neither prefix nor location"),
            ("[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'b.example'\nweight = 3", "weight"),
            ("registry = 3", "invalid type"),
        ];
        for (text, expected) in table {
            let error = Config::default().add(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        Config::default().add("credential-helpers = ['containers-auth.json']").unwrap();
        let odd = config(&["[[registry]]\nlocation='a.example'\n[[registry.mirror]]\nlocation='b.example'\npull-from-mirror='often'"]);
        assert!(shown(&odd, "a.example/os").unwrap_err().to_string().contains("often"));
        let odd = config(&["[[registry]]\nprefix='a.example'\nlocation='https://b.example'"]);
        assert!(shown(&odd, "a.example/os").is_err());
    }
}
