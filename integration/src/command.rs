//! Running foreign programs: as root where they need it, with output captured, logged or shown.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Argv(pub(crate) Vec<OsString>);

impl Argv {
    /// A command line.
    pub(crate) fn new<I, S>(words: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Self(words.into_iter().map(|word| word.as_ref().to_owned()).collect())
    }

    /// The same command line with more words.
    #[must_use]
    pub(crate) fn with<I, S>(mut self, words: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.0.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// The same command line, run as root: unchanged for root, through sudo for others.
    #[must_use]
    pub(crate) fn by_root(self) -> Self {
        if is_root() { self } else { Self::new(["sudo", "--non-interactive"]).with(self.0) }
    }

    /// The same command line as user `nobody`, with no group and no capability.
    #[must_use]
    pub(crate) fn by_nobody(self) -> Self {
        Self::new(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).with(self.0).by_root()
    }

    /// The same command line, killed when this program ends, however it ends.
    #[must_use]
    pub(crate) fn dying_with_us(self) -> Self {
        Self::new(["setpriv", "--pdeathsig", "KILL"]).with(self.0)
    }

    /// A [`Command`] that has no standard input.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.0.first().map_or(OsStr::new("true"), OsString::as_os_str));
        command.args(self.0.iter().skip(1)).stdin(Stdio::null());
        command
    }

    /// Runs it and returns what it wrote to standard output. An error carries the last lines of standard error.
    pub(crate) fn read(&self) -> Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("running {self}: {}\n{}", output.status, last_lines(&stderr, 20));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it and returns everything about its end.
    pub(crate) fn output(&self) -> Result<Output> {
        self.command().output().with_context(|| format!("starting {self}"))
    }

    /// Runs it with all output going to the file `log`. An error carries that file's last lines.
    pub(crate) fn log(&self, log: &Path) -> Result<()> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let stderr = file.try_clone().context("opening the log a second time")?;
        let status = self.command().stdout(file).stderr(stderr).status().with_context(|| format!("starting {self}"))?;
        if !status.success() {
            let text = fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            bail!("running {self}: {status}\n{}\nall of it: {}", last_lines(&text, 30), log.display());
        }
        Ok(())
    }

    /// Runs it with its output shown.
    pub(crate) fn show(&self) -> Result<()> {
        let status = self.command().status().with_context(|| format!("starting {self}"))?;
        if !status.success() {
            bail!("running {self}: {status}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Argv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<_> = self.0.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        f.write_str(&words.join(" "))
    }
}

/// Whether this process is root, read from the file system so that no syscall wrapper is needed.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The last `count` lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        assert_eq!(Argv::new(["echo", "a b", "", "it's", "k=v"]).to_string(), r"echo 'a b' '' 'it'\''s' k=v");
    }

    #[test]
    fn an_error_carries_the_last_lines() {
        let error = Argv::new(["sh", "-c", "echo one >&2; echo two >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("one\ntwo"), "{error}");
    }

    #[test]
    fn last_lines_of_short_and_long_texts() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
        assert_eq!(last_lines("", 2), "");
    }
}
