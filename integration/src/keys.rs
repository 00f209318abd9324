//! Secure Boot keys of the lab: made anew, with the tools that docs/sealing.md shows to users.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{command::Argv, lab::Lab};

/// A platform key, a key-exchange key and a key that signs, each with its certificate, and their signed lists.
#[derive(Debug)]
pub(crate) struct Keys {
    dir: PathBuf,
}

/// The owner that the lists name; any GUID will do.
const OWNER: &str = "6a0e5a5c-0c4f-4a6b-9f5d-5e1c1e000001";

impl Keys {
    /// Makes them.
    pub(crate) fn make(lab: &Lab) -> Result<Self> {
        let keys = Self { dir: lab.fresh_subdir("keys")? };
        for (name, by) in [("PK", "PK"), ("KEK", "PK"), ("db", "KEK")] {
            keys.key(name)?;
            keys.list(name, by)?;
        }
        Ok(keys)
    }

    /// The directory that `selkie disk --secure-boot-keys` takes.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key that signs, and its certificate.
    pub(crate) fn signing(&self) -> [PathBuf; 2] {
        [self.file("db.key"), self.file("db.crt")]
    }

    fn key(&self, name: &str) -> Result<()> {
        Argv::new(["openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj"])
            .with([format!("/CN=selkie lab {name}/")])
            .with(["-keyout".into(), self.file(&format!("{name}.key"))])
            .with(["-out".into(), self.file(&format!("{name}.crt"))])
            .read()
            .map(drop)
    }

    /// The list for variable `name`, signed with the key `by`.
    fn list(&self, name: &str, by: &str) -> Result<()> {
        let list = self.file(&format!("{name}.esl"));
        Argv::new(["cert-to-efi-sig-list", "-g", OWNER]).with([&self.file(&format!("{name}.crt")), &list]).read()?;
        let signer = ["-k".into(), self.file(&format!("{by}.key")), "-c".into(), self.file(&format!("{by}.crt"))];
        let files = [name.into(), list, self.file(&format!("{name}.auth"))];
        Argv::new(["sign-efi-sig-list", "-g", OWNER]).with(signer).with(files).read().map(drop)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}
