//! Signals, as whoever sends them sees their effect: a message, an exit code, no process left.
//!
//! The command waits for a registry that takes connections and never answers; skopeo is what connects.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

/// A command that waits for `silent`, started with the words `before` it.
fn waiting(silent: &TcpListener, before: &[&str], args: &[&str]) -> Child {
    let image = format!("{}/os:stable", silent.local_addr().unwrap());
    let words = [before, &[env!("CARGO_BIN_EXE_selkie"), "digest", &image, "--tls-verify=false"], args].concat();
    let child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Once somebody has connected, the command is at work.
    silent.accept().unwrap();
    child
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_signal_stops_what_waits_with_a_message_and_an_exit_code() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for (name, code, kind) in [("INT", 130, "interrupted"), ("TERM", 143, "terminated"), ("HUP", 129, "hung-up")] {
        let child = waiting(&silent, &[], &["--json"]);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {errors}");
        assert!(errors.contains(&format!("note: SIG{name}: stopping")), "{errors}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["error"]["kind"], &json["error"]["exit-code"]), (&kind.into(), &code.into()));
        assert!(json["error"]["message"].as_str().unwrap().contains(&format!("stopped by SIG{name}")), "{json}");
    }
}

#[test]
fn a_signal_that_was_ignored_before_stays_so() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let child = waiting(&silent, &["sh", "-c", "trap '' HUP; exec \"$@\"", "sh"], &[]);
    signal(&child, "HUP");
    signal(&child, "TERM");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_kill_is_a_kill() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = waiting(&silent, &[], &[]);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}
