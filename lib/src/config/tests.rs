use super::*;

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

fn zones(name: Option<&str>) -> Option<TimeZone> {
    name.is_none_or(|name| name == "UTC").then_some(TimeZone::UTC)
}

fn one(text: &str) -> Result<Effective, ConfigError> {
    read(&[file("/etc/x.toml", text)], &zones)
}

#[test]
fn every_key_is_taken() {
    let text = r#"
keep = 2
tries = 5
[health]
timeout = "2m"
failed-units = true
[update]
policy = "apply"
interval = "1h"
randomized-delay = "0s"
window = ["Sat 02:00-04:00 UTC", "Sun 03:00-04:00"]
reboot = "never"
wait-for-users = false
wait-for-inhibitors = false
wait-limit = "2d"
back-off.first = "1m"
back-off.limit = "1h"
"#;
    let config = one(text).unwrap().config;
    let seconds = Duration::from_secs;
    let expected = Config {
        keep: 2,
        tries: 5,
        health: Health { timeout: seconds(120), failed_units: true },
        update: Update {
            policy: Policy::Apply,
            interval: seconds(3600),
            randomized_delay: seconds(0),
            windows: ["Sat 02:00-04:00 UTC", "Sun 03:00-04:00"].map(|text| Window::parse(text, &zones).unwrap()).to_vec(),
            reboot: Reboot::Never,
            wait_for_users: false,
            wait_for_inhibitors: false,
            wait_limit: seconds(2 * 86400),
            back_off: BackOff { first: seconds(60), limit: seconds(3600) },
        },
    };
    assert_eq!(config, expected);
    assert_eq!(keys::ALL.len(), one(text).unwrap().from.len(), "a key is missing above");
    assert!(keys::ALL.is_sorted_by_key(|key| key.name));
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shown = |effective: &Effective| effective.settings().into_iter().map(|s| format!("{} = {}\n", s.key, s.value)).collect::<String>();
    for effective in [one("").unwrap(), one("keep = 3\nupdate.window = 'Sat 02:00-04:00'\nupdate.interval = '90s'").unwrap()] {
        assert_eq!(one(&shown(&effective)).unwrap().config, effective.config);
    }
    assert_eq!(one("").unwrap().config, Config::default());
}

#[test]
fn the_last_file_that_says_a_key_counts() {
    let files = [file("/usr/lib/a", "keep = 1\nupdate = { policy = 'check' }"), file("/etc/b", "\n[update]\npolicy = 'stage'")];
    let effective = read(&files, &zones).unwrap();
    assert_eq!((effective.config.keep, effective.config.update.policy), (1, Policy::Stage));
    let from = |key: &str| effective.settings().into_iter().find(|s| s.key == key).unwrap().from.map(|from| from.to_string());
    assert_eq!((from("keep").as_deref(), from("update.policy").as_deref(), from("tries")), (Some("/usr/lib/a:1"), Some("/etc/b:3"), None));
}

#[test]
fn files_are_ordered_by_name_and_replaced_by_folder() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let folders =
        [names(&["10-a.toml", "30-c.toml", "README"]), names(&["20-b.toml", "30-c.toml", ".x.toml"]), names(&["30-c.toml", "05-z.toml"])];
    let expected = [(2, "05-z.toml"), (0, "10-a.toml"), (1, "20-b.toml"), (2, "30-c.toml")];
    assert_eq!(order(&folders), expected.map(|(folder, name)| (folder, name.to_owned())));
}

#[test]
fn what_is_not_understood_is_told_with_its_place() {
    for (text, line, what) in [
        ("kep = 1", 1, "unknown key kep (expected health.failed-units, health.timeout, keep, tries, "),
        ("\n[update]\n\npolcy = 'x'", 4, "unknown key update.polcy (expected update.back-off.first, "),
        ("update.back-off.frist = '1m'", 1, "unknown key update.back-off.frist (expected update.back-off.first, update.back-off.limit)"),
        ("[upgrade]\npolicy = 'x'", 1, "unknown key upgrade ("),
        ("update = 3", 1, "update is the number 3 (expected a table with update.back-off.first, "),
        ("update.reboot.when = 'now'", 1, "update.reboot is a table (expected \"now\", \"in-window\" or \"never\")"),
        ("update.reboot = 'sometimes'", 1, "update.reboot is \"sometimes\" (expected \"now\", \"in-window\" or \"never\")"),
        ("update.policy = true", 1, "update.policy is true (expected \"none\", "),
        ("keep = -1", 1, "keep is the number -1 (expected a whole number from 0 on)"),
        ("keep = 1.5", 1, "keep is the number 1.5 ("),
        ("keep = '1'", 1, "keep is \"1\" ("),
        ("tries = 0", 1, "tries is the number 0 (expected a whole number from 1 to 99)"),
        ("health.timeout = 60", 1, "health.timeout is the number 60 (expected a span of time such as \"30s\""),
        ("health.timeout = '0s'", 1, "health.timeout is \"0s\" (expected a span of time"),
        ("health.timeout = '5 minutes'", 1, "health.timeout is \"5 minutes\" ("),
        ("health.failed-units = 'yes'", 1, "health.failed-units is \"yes\" (expected true or false)"),
        (
            "update.window = [\n  'Sat 02:00-04:00',\n  'Sun 2-4',\n]",
            3,
            "update.window is \"Sun 2-4\": \"2-4\" are no times of a day (expected a list",
        ),
        (
            "update.window = ['02:00-04:00 Mars/Olympus']",
            1,
            "update.window is \"02:00-04:00 Mars/Olympus\": there is no time zone \"Mars/Olympus\"",
        ),
        ("update.window = [1]", 1, "update.window is the number 1 ("),
        ("update.window = 2026-01-01", 1, "update.window is the time 2026-01-01 ("),
        ("keep = 1\nkeep = 2", 2, "this is not TOML: duplicate key"),
        ("keep = 1\n\nupdate", 3, "this is not TOML: "),
        ("keep = 1\n[update\n", 2, "this is not TOML: "),
    ] {
        let error = one(text).unwrap_err();
        assert_eq!((error.location.file.as_str(), error.location.line), ("/etc/x.toml", line), "{text}: {error}");
        assert!(error.what.starts_with(what), "{text}: {error}");
        assert!(error.to_string().starts_with(&format!("reading configuration /etc/x.toml:{line}: ")));
    }
}
