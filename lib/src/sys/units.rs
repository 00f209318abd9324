//! What the service manager says about its units.

use anyhow::{Context, Result};

/// The units that have failed, by name, as systemd lists them.
///
/// # Errors
///
/// There is no systemctl, or no service manager that answers.
pub fn failed() -> Result<Vec<String>> {
    let words = ["systemctl", "list-units", "--failed", "--no-legend", "--plain", "--full", "--no-pager"];
    let listed = super::process::run(&words.map(Into::into), b"").context("asking systemd for failed units")?;
    Ok(names(&String::from_utf8_lossy(&listed)))
}

fn names(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_first_word_of_its_line() {
        let listed = "a.service  loaded failed failed A thing\ndev-sda.swap loaded failed failed /dev/sda\n\n";
        assert_eq!(names(listed), ["a.service", "dev-sda.swap"]);
        assert_eq!(names(""), [""; 0]);
    }
}
