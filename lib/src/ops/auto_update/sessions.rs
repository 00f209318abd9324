//! Who would mind a restart: people who are logged in, and programs that hold an inhibitor. As logind tells both in its files below /run/systemd, which
//! sd-login(3) reads, too: no bus is needed for it.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sys::dir;

const SESSIONS: &str = "run/systemd/sessions";
const INHIBITORS: &str = "run/systemd/inhibit";
/// Sessions of people; greeters, lock screens, timers and managers of services are none.
const PEOPLE: [&str; 3] = ["user", "user-early", "user-light"];

/// Who would mind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Busy {
    /// Names of users who are logged in.
    pub users: Vec<String>,
    /// Who holds an inhibitor of shutdowns, and why.
    pub inhibitors: Vec<String>,
}

/// Looks below a root directory. Without logind there are neither.
///
/// # Errors
///
/// Something is there and cannot be read.
pub fn look(root: impl AsFd) -> Result<Busy> {
    let mut users: Vec<String> = records(root.as_fd(), SESSIONS)?.iter().filter_map(|record| person(record)).collect();
    users.sort();
    users.dedup();
    let inhibitors = records(root, INHIBITORS)?.iter().filter_map(|record| inhibitor(record)).collect();
    Ok(Busy { users, inhibitors })
}

/// The records in a folder. Pipes lie beside them (`3.ref`), and reading those would wait.
fn records(root: impl AsFd, folder: &str) -> Result<Vec<String>> {
    let Some(opened) = dir::open_optional(root, folder).with_context(|| format!("opening /{folder}"))? else { return Ok(Vec::new()) };
    let names = dir::names(&opened).with_context(|| format!("listing /{folder}"))?;
    let is_record = |name: &&std::ffi::OsString| name.as_encoded_bytes().iter().all(u8::is_ascii_alphanumeric);
    // What has ended since is nobody's.
    let read = names.iter().filter(is_record).map(|name| dir::read_optional(&opened, name));
    let read = read.collect::<Result<Vec<_>>>().with_context(|| format!("reading /{folder}"))?;
    Ok(read.into_iter().flatten().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
}

/// The user of a session that goes on.
fn person(record: &str) -> Option<String> {
    let is_person = PEOPLE.contains(&value(record, "CLASS")?.as_str());
    let goes_on = value(record, "STATE").is_none_or(|state| state != "closing");
    (is_person && goes_on).then(|| value(record, "USER").or_else(|| value(record, "UID")).unwrap_or_default())
}

/// Who blocks a shutdown; who only delays it is asked by logind itself.
fn inhibitor(record: &str) -> Option<String> {
    let blocks = value(record, "MODE")?.starts_with("block");
    let shutdown = value(record, "WHAT")?.split(':').any(|what| what == "shutdown");
    let told = |key| value(record, key).filter(|text| !text.is_empty());
    let who = told("WHO").unwrap_or_else(|| "somebody".to_owned());
    (blocks && shutdown).then(|| told("WHY").map_or(who.clone(), |why| format!("{who} ({why})")))
}

/// The value of a line `KEY=value`, fit to be shown.
fn value(record: &str, key: &str) -> Option<String> {
    let value = record.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    Some(value.trim_matches('"').replace("\\x20", " ").chars().map(clean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_those_who_block_a_shutdown_mind() {
        let temp = tempfile::tempdir().unwrap();
        let root = dir::open_path(temp.path()).unwrap();
        assert_eq!(look(&root).unwrap(), Busy::default());
        let put = |path: &str, text: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put(
            "run/systemd/sessions/1",
            "# This is private data. Do not parse.\nUID=0\nUSER=root\nACTIVE=1\nSTATE=active\nCLASS=user-early\n",
        );
        put("run/systemd/sessions/2", "UID=1000\nUSER=ann\nSTATE=online\nCLASS=user\n");
        put("run/systemd/sessions/3", "UID=1000\nUSER=ann\nSTATE=active\nCLASS=user\n");
        put("run/systemd/sessions/4", "UID=1001\nUSER=bob\nSTATE=closing\nCLASS=user\n");
        put("run/systemd/sessions/c1", "UID=100\nUSER=gdm\nSTATE=active\nCLASS=greeter\n");
        put("run/systemd/sessions/5", "UID=1002\nUSER=cron\nSTATE=active\nCLASS=background\n");
        put("run/systemd/sessions/6", "UID=1003\nUSER=carl\nSTATE=active\nCLASS=manager\n");
        put("run/systemd/inhibit/1", "WHAT=shutdown:sleep\nMODE=block\nUID=0\nPID=1\nWHO=backup\nWHY=nightly\\x20backup\n");
        put("run/systemd/inhibit/2", "WHAT=shutdown\nMODE=delay\nWHO=network\nWHY=bye\n");
        put("run/systemd/inhibit/3", "WHAT=sleep\nMODE=block\nWHO=player\nWHY=music\n");
        put("run/systemd/inhibit/4", "WHAT=shutdown\nMODE=block-weak\nWHO=db\nWHY=\n");
        rustix::fs::mkfifoat(&root, "run/systemd/inhibit/1.ref", rustix::fs::Mode::RUSR).unwrap();
        let expected = Busy { users: vec!["ann".into(), "root".into()], inhibitors: vec!["backup (nightly backup)".into(), "db".into()] };
        assert_eq!(look(&root).unwrap(), expected);
    }
}
