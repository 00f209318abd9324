//! Signals, as whoever sends them sees their effect: a message, an exit code, no process left.
//!
//! The command waits for a registry that takes connections and never answers; skopeo is what connects.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A command at work, started with the words `before` it, and the registry that it waits for: each has its own, because skopeo may connect twice.
fn waiting(before: &[&str], args: &[&str]) -> (TcpListener, Child) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let image = format!("{}/os:stable", silent.local_addr().unwrap());
    let words = [before, &[env!("CARGO_BIN_EXE_selkie"), "digest", &image, "--tls-verify=false"], args].concat();
    let child = Command::new(words[0]).args(&words[1..]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Once somebody has connected, the command is at work.
    silent.accept().unwrap();
    (silent, child)
}

/// How it ends, which it has to soon: the registry would have it wait for ever.
fn end(mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("it has not ended a minute after the signal: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Both pipes end with the last process that has them: skopeo's is gone, too.
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_signal_stops_what_waits_with_a_message_and_an_exit_code() {
    for (name, code, kind) in [("INT", 130, "interrupted"), ("TERM", 143, "terminated"), ("HUP", 129, "hung-up")] {
        // Whoever runs the tests in the background may have them ignored from the start.
        let (_silent, child) = waiting(&["env", "--default-signal"], &["--json"]);
        signal(&child, name);
        let output = end(child);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {errors}");
        assert!(errors.contains(&format!("note: SIG{name}: stopping")), "{errors}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["error"]["kind"], &json["error"]["exit-code"]), (&kind.into(), &code.into()));
        assert!(json["error"]["message"].as_str().unwrap().contains(&format!("stopped by SIG{name}")), "{json}");
        assert_eq!(json["error"]["hint"], "run the same command again", "nothing is kept: {json}");
    }
}

#[test]
fn a_signal_that_was_ignored_before_stays_so() {
    let (_silent, child) = waiting(&["env", "--default-signal", "sh", "-c", "trap '' HUP; exec \"$@\"", "sh"], &[]);
    signal(&child, "HUP");
    signal(&child, "TERM");
    let output = end(child);
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_kill_is_a_kill() {
    let (_silent, mut child) = waiting(&[], &[]);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}
