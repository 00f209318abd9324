//! Kernel arguments: split, look up, and the two forms that name a composefs root.
//!
//! `composefs.digest=[?]v1-sha256-12:<hex>` describes itself (EROFS format 1); the older `composefs=[?]<hex>` (what bootc writes) has
//! EROFS format 2 and tells its algorithm by length. `?` makes fs-verity optional. Several may stand in one command line: they are
//! tried in order, and only a missing image moves on to the next.

use std::fmt;

use crate::image_id::{Algorithm, ImageId};

/// A kernel command line as a list of arguments, in order. Double quotes protect white space, as in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cmdline(Vec<String>);

impl Cmdline {
    /// Splits `text` as the kernel does.
    pub fn parse(text: &str) -> Self {
        let mut args = Vec::new();
        let mut current = String::new();
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    current.push(c);
                }
                c if c.is_whitespace() && !quoted => {
                    if !current.is_empty() {
                        args.push(std::mem::take(&mut current));
                    }
                }
                c => current.push(c),
            }
        }
        if !current.is_empty() {
            args.push(current);
        }
        Self(args)
    }

    /// The arguments in order.
    pub fn args(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Appends an argument.
    pub fn push(&mut self, arg: impl Into<String>) {
        self.0.push(arg.into());
    }

    /// The line without the arguments that name a composefs root: what a deployment hands to its successor.
    #[must_use]
    pub fn without_root_image(&self) -> Self {
        Self(self.args().filter(|arg| !is_root_image(arg)).map(str::to_owned).collect())
    }

    /// The composefs roots that this line names, in order.
    ///
    /// # Errors
    ///
    /// An argument that has one of the two keys and a value that cannot be read: booting something else would be a guess.
    pub fn root_images(&self) -> Result<Vec<RootImage>, RootImageError> {
        self.args().filter(|arg| is_root_image(arg)).map(RootImage::parse).collect()
    }
}

impl fmt::Display for Cmdline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl<S: Into<String>> FromIterator<S> for Cmdline {
    fn from_iter<I: IntoIterator<Item = S>>(args: I) -> Self {
        Self(args.into_iter().map(Into::into).collect())
    }
}

/// Which of the two argument forms was used; it decides the EROFS format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootImageForm {
    /// `composefs.digest=v1-<algorithm>-12:<hex>`: EROFS format 1.
    Digest,
    /// `composefs=<hex>`: EROFS format 2.
    Legacy,
}

/// One argument that names a composefs root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootImage {
    /// The image.
    pub id: ImageId,
    /// Whether the machine must refuse to boot without fs-verity.
    pub verity_required: bool,
    /// How it was written.
    pub form: RootImageForm,
}

impl RootImage {
    /// The argument that selkie writes: self-describing, fs-verity required unless said otherwise.
    pub fn new(id: ImageId, verity_required: bool) -> Self {
        Self { id, verity_required, form: RootImageForm::Digest }
    }

    fn parse(arg: &str) -> Result<Self, RootImageError> {
        let wrong = || RootImageError(arg.to_owned());
        let (key, value) = arg.split_once('=').ok_or_else(wrong)?;
        let (verity_required, value) = value.strip_prefix('?').map_or((true, value), |rest| (false, rest));
        let form = if key == KEY { RootImageForm::Digest } else { RootImageForm::Legacy };
        let hex = match form {
            RootImageForm::Legacy => value,
            RootImageForm::Digest => {
                let (description, hex) = value.split_once(':').ok_or_else(wrong)?;
                let known = [Algorithm::Sha256, Algorithm::Sha512].into_iter();
                let algorithm = known.clone().find(|a| description == format!("v1-{a}-12")).ok_or_else(wrong)?;
                if hex.len() != algorithm.hex_len() {
                    return Err(wrong());
                }
                hex
            }
        };
        Ok(Self { id: hex.parse().map_err(|_| wrong())?, verity_required, form })
    }
}

impl fmt::Display for RootImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = if self.verity_required { "" } else { "?" };
        match self.form {
            RootImageForm::Digest => write!(f, "{KEY}={optional}v1-{}-12:{}", self.id.algorithm(), self.id),
            RootImageForm::Legacy => write!(f, "{LEGACY_KEY}={optional}{}", self.id),
        }
    }
}

/// A composefs argument that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "reading kernel argument {0:?}: expected composefs.digest=[?]v1-sha256-12:<64 hex digits>, composefs.digest=[?]v1-sha512-12:<128 hex digits> or composefs=[?]<hex>"
)]
pub struct RootImageError(String);

const KEY: &str = "composefs.digest";
const LEGACY_KEY: &str = "composefs";

fn is_root_image(arg: &str) -> bool {
    arg.split_once('=').is_some_and(|(key, _)| key == KEY || key == LEGACY_KEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: &str, len: usize) -> ImageId {
        byte.repeat(len).parse().unwrap()
    }

    #[test]
    fn splits_like_the_kernel() {
        let line = Cmdline::parse("  quiet dyndbg=\"file a.c +p\"  console=ttyS0 console=tty0\n");
        assert_eq!(line.args().collect::<Vec<_>>(), ["quiet", "dyndbg=\"file a.c +p\"", "console=ttyS0", "console=tty0"]);
        assert_eq!(Cmdline::parse(&line.to_string()), line);
    }

    #[test]
    fn both_forms_round_trip() {
        for image in [
            RootImage::new(id("ab", 32), true),
            RootImage::new(id("cd", 64), false),
            RootImage { form: RootImageForm::Legacy, ..RootImage::new(id("ef", 64), true) },
            RootImage { form: RootImageForm::Legacy, ..RootImage::new(id("01", 32), false) },
        ] {
            let line = Cmdline::parse(&format!("quiet {image} rw"));
            assert_eq!(line.root_images(), Ok(vec![image]));
            assert_eq!(line.without_root_image().to_string(), "quiet rw");
        }
    }

    #[test]
    fn order_is_kept_and_nonsense_is_an_error() {
        let (a, b) = (RootImage::new(id("aa", 32), true), RootImage::new(id("bb", 32), false));
        assert_eq!(Cmdline::parse(&format!("{a} {b}")).root_images(), Ok(vec![a, b]));
        let long = "a".repeat(128);
        for bad in [
            "composefs=",
            "composefs=xyz",
            "composefs.digest=abc",
            &format!("composefs.digest=v1-sha256-12:{long}"),
            "composefs.digest=v9-md5:00",
        ] {
            assert!(Cmdline::parse(bad).root_images().is_err(), "{bad}");
        }
        assert_eq!(Cmdline::parse("composefs rw").root_images(), Ok(vec![]));
    }
}
