//! Where things are, seen from the physical root: for whoever writes the state of a new machine before there is a directory to open.

use crate::image_id::ImageId;

use super::{DEPLOY, ORIGIN, VAR};

/// The directories of a machine with one deployment, parents first, with their permission bits. The contents of [`VAR`] and
/// [`origin_path`] are the caller's to add.
pub fn skeleton(id: &ImageId) -> Vec<(String, u32)> {
    let mut directories = Vec::new();
    // The upper directory's mode is what the merged /etc shows: anything less than 0755 would lock everyone but root out of it.
    for (path, mode) in [(format!("{DEPLOY}/{id}/etc/upper"), 0o755), (format!("{DEPLOY}/{id}/etc/work"), 0o700), (VAR.to_owned(), 0o755)] {
        for (end, _) in path.match_indices('/') {
            directories.push((path[..end].to_owned(), 0o755));
        }
        directories.push((path, mode));
    }
    directories.sort();
    directories.dedup();
    directories
}

/// The file that says where a deployment came from.
pub fn origin_path(id: &ImageId) -> String {
    format!("{DEPLOY}/{id}/{ORIGIN}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::Deployments;
    use crate::origin::Origin;

    #[test]
    fn parents_come_first_and_the_result_is_a_deployment() {
        let id: ImageId = "ab".repeat(32).parse().unwrap();
        let temp = tempfile::tempdir().unwrap();
        for (path, _) in skeleton(&id) {
            std::fs::create_dir(temp.path().join(path)).unwrap();
        }
        let origin = Origin {
            version: Origin::VERSION,
            image: "quay.io/acme/os:stable".into(),
            manifest_digest: "sha256:aa".into(),
            index_digest: None,
            config_digest: "sha256:bb".into(),
            kernel_arguments: String::new(),
            image_arguments: vec![],
            os_version: None,
            os_name: None,
            made_under: None,
            number: None,
            staged: None,
        };
        std::fs::write(temp.path().join(origin_path(&id)), crate::record::write(&origin).unwrap()).unwrap();
        let deployments = Deployments::open(crate::sys::dir::open_path(temp.path()).unwrap()).unwrap();
        assert_eq!(deployments.get(&id).unwrap().unwrap().origin().unwrap(), origin);
    }
}
