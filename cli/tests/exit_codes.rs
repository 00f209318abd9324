//! The table of exit codes, as a caller of the binary sees it.

use std::process::{Command, Output};

fn selkie(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selkie")).args(args).output().unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn words_that_are_off_are_usage() {
    for args in [
        &["frobnicate"][..],
        &["pull"],
        &["pull", "short-name"],
        &["digest", "quay.io/acme/os:stable", "--algorithm", "md5"],
        &["upgrade", "--check", "--apply"],
        &["health", "--timeout", "0"],
        &["health", "--timeout", "0m"],
        &["health", "--timeout", "soon"],
        &["config"],
        &["config", "show", "--root"],
        &["auto-update", "now"],
        &["health", "--root", "/", "--apply"],
        &["disk", "oci:/x", "--output", "y", "--size", "ten"],
        &["lint"],
        &["boot-once"],
        &["esp"],
        &["esp", "add"],
        &["esp", "remove"],
        &["loader"],
        &["boot-once", "3", "--cancel"],
        &["boot-once", "--cancel", "--apply"],
        &["gc", "--keep", "-1"],
        &["fsck", "--image", "quay.io/acme/os:stable"],
        &["fsck", "--esp", "/"],
        &["fsck", "--repo", "/nowhere", "--sysroot", "/"],
        &["gc", "--repo", "/nowhere", "--keep", "1"],
        &["untag", "os"],
        &["pull", "oci:/nowhere", "--repo", "/nowhere", "--tag", ".tmp-os"],
        &["lint", "oci:/x", "--rootfs", "/"],
        &["lint", "--rootfs", "/", "--skip", "no-such-check"],
        &["pull", "oci:/nowhere", "--repo", "/nowhere", "--tag", ""],
        &["pull", "oci:/nowhere", "--repo", "/nowhere", "--tag", "@sha256:aa"],
        &["delta", "quay.io/acme/os:v1", "quay.io/acme/os:v2", "--output", "quay.io/acme/other:delta"],
        &["delta", "quay.io/acme/os:v1", "quay.io/acme/os:v2", "--output", "quay.io/acme/os"],
    ] {
        let output = selkie(args);
        assert_eq!(code(&output), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn host_verbs_need_a_selkie_host() {
    for args in [
        &["status"][..],
        &["upgrade"],
        &["upgrade", "--check"],
        &["rollback"],
        &["rollback", "3"],
        &["list"],
        &["pin"],
        &["unpin", "3"],
        &["boot-once", "3"],
        &["gc", "--dry-run"],
        &["fsck"],
        &["fsck", "--repair"],
        &["switch", "quay.io/acme/os:stable"],
    ] {
        let output = selkie(args);
        assert_eq!(code(&output), Some(10), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{args:?}");
    }
}

#[test]
fn host_verbs_need_root() {
    let temp = tempfile::tempdir().unwrap();
    // The build directory may be closed to others; what nobody runs must not be.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(temp.path(), open).unwrap();
    let binary = temp.path().join("selkie");
    std::fs::copy(env!("CARGO_BIN_EXE_selkie"), &binary).unwrap();
    let output =
        Command::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).arg("status").output().unwrap();
    assert_eq!(code(&output), Some(9), "{}", stderr(&output));
}

#[test]
fn an_image_that_is_not_there_is_not_found_and_json_says_it_too() {
    let temp = tempfile::tempdir().unwrap();
    let repo = temp.path().join("repo");
    let image = format!("oci:{}", temp.path().join("nowhere").display());
    for verb in [&["pull", "--repo", repo.to_str().unwrap()][..], &["digest"]] {
        let output = selkie(&[verb, &[&image, "--json"]].concat());
        assert_eq!(code(&output), Some(3), "{}", stderr(&output));
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&json["error"]["kind"], &json["error"]["exit-code"]), (&"not-found".into(), &3.into()));
    }
}

#[test]
fn a_repository_of_another_algorithm_is_a_mismatch() {
    let temp = tempfile::tempdir().unwrap();
    let repo = temp.path().join("repo");
    let image = format!("oci:{}", temp.path().join("nowhere").display());
    for (algorithm, expected) in [("sha512", 3), ("sha256", 12)] {
        let output = selkie(&["pull", &image, "--repo", repo.to_str().unwrap(), "--algorithm", algorithm]);
        assert_eq!(code(&output), Some(expected), "{algorithm}: {}", stderr(&output));
    }
}

#[test]
fn names_of_directories_that_cannot_be_any_are_usage() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    std::fs::write(at("file"), "").unwrap();
    std::os::unix::fs::symlink("loop", at("loop")).unwrap();
    let long = at(&"x".repeat(300));
    let image = format!("oci:{}", at("none"));
    for (name, expected) in [
        (at("file"), "it is no directory"),
        (at("file/below"), "it is no directory"),
        (at("loop"), "its links lead nowhere"),
        (long, "the name is too long"),
    ] {
        let layout = format!("oci:{name}");
        for args in [
            &["pull", &image, "--algorithm", "sha256", "--repo", &name][..],
            &["digest", &layout],
            &["seal", &image, "--output", &layout],
            &["rechunk", &image, "--output", &layout],
            &["config", "show", "--root", &name],
        ] {
            let output = selkie(args);
            let (code, stderr) = (code(&output), stderr(&output));
            assert!(code == Some(2) && stderr.contains(expected) && stderr.contains("hint: "), "{args:?}: {code:?} {stderr}");
        }
    }
    for args in [&["config", "show", "--root", &at("none")][..], &["pull", &image, "--algorithm", "sha256", "--repo", &at("none/below")]] {
        let output = selkie(args);
        assert_eq!(code(&output), Some(3), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn credentials_that_are_named_and_not_there_are_an_error() {
    for args in [&["digest"][..], &["pull", "--repo", "/nowhere"]] {
        let output = selkie(&[args, &["oci:/nowhere", "--authfile", "/nowhere/auth.json"]].concat());
        assert_eq!(code(&output), Some(3), "{}", stderr(&output));
        assert!(stderr(&output).contains("there is no file /nowhere/auth.json"), "{}", stderr(&output));
    }
}

#[test]
fn a_key_without_a_certificate_is_told_whatever_the_environment_says() {
    let args = ["seal", "oci:/nowhere", "--output", "oci:/nowhere/sealed", "--key", "key.pem"];
    let output = Command::new(env!("CARGO_BIN_EXE_selkie")).args(args).env("TMPDIR", "/var/tmp").output().unwrap();
    let told = stderr(&output);
    assert!(code(&output) == Some(2) && told.contains("--cert") && !told.contains("--scratch"), "{told}");
}

#[test]
fn usage_lines_do_not_ask_for_what_the_environment_says() {
    let selkie = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_selkie")).args(args).envs([("TMPDIR", "/var/tmp"), ("SOURCE_DATE_EPOCH", "1")]).output().unwrap()
    };
    let line = |text: &str| text.lines().find(|line| line.starts_with("Usage: ")).unwrap_or_else(|| panic!("{text}")).to_owned();
    let verbs = [&["delta"][..], &["rechunk"], &["seal"], &["lint"], &["digest"], &["disk"], &["fsck", "--esp", "/"], &["esp", "add"]];
    for args in verbs {
        let (output, help) = (selkie(args), selkie(&[args, &["--help"]].concat()));
        let (told, help) = (stderr(&output), String::from_utf8(help.stdout).unwrap());
        assert!(code(&output) == Some(2) && told.starts_with("error: "), "{args:?}: {told}");
        assert!(!told.contains("--scratch") && !told.contains("--mtime"), "{args:?}: {told}");
        assert!(line(&told) == line(&help) && line(&told).starts_with(&format!("Usage: selkie {}", args[0])), "{args:?}: {told}");
    }
}

#[test]
fn a_missing_skopeo_is_no_answer_to_what_an_output_names() {
    let args = ["rechunk", "oci:/nowhere", "--output", "127.0.0.1:1/acme/os:v1"];
    let output = Command::new(env!("CARGO_BIN_EXE_selkie")).args(args).env("PATH", "/nowhere").output().unwrap();
    let told = stderr(&output);
    assert!(code(&output) == Some(3) && told.contains("running skopeo: no such program"), "{told}");
}

#[test]
fn a_name_that_cannot_be_one_is_told_before_anything_is_read() {
    for (tag, words) in [("", "it is empty (expected a name)"), ("@sha256:aa", "it begins with @")] {
        let output = selkie(&["pull", "oci:/nowhere", "--repo", "/nowhere", "--tag", tag]);
        let told = stderr(&output);
        assert!(told.contains("for '--tag <TAG>'") && told.contains(words), "{told}");
    }
}

#[test]
fn lint_answers_by_its_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    std::fs::create_dir_all(root.join("usr")).unwrap();
    let scratch = temp.path().to_str().unwrap();
    let args = ["lint", "--rootfs", root.to_str().unwrap(), "--scratch", scratch, "--json"];
    let output = selkie(&args);
    assert_eq!(code(&output), Some(1), "{}", stderr(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["id"] == "kernel" && finding["severity"] == "error"), "{json}");
    assert_eq!(json["counts"]["errors"], findings.iter().filter(|finding| finding["severity"] == "error").count());

    let errors: Vec<&str> = findings.iter().filter(|finding| finding["severity"] == "error").map(|f| f["id"].as_str().unwrap()).collect();
    let skipped: Vec<&str> = args.into_iter().chain(errors.iter().flat_map(|id| ["--skip", id])).collect();
    assert_eq!(code(&selkie(&skipped)), Some(0));
    assert_eq!(code(&selkie(&[&skipped[..], &["--fatal-warnings"]].concat())), Some(1));

    let human = String::from_utf8(selkie(&args[..5]).stdout).unwrap();
    assert!(human.contains("Errors:") && human.contains("  kernel: ") && human.contains("    -> "), "{human}");
    let list = selkie(&["lint", "--list"]);
    assert!(code(&list) == Some(0) && String::from_utf8(list.stdout).unwrap().contains("var-content"));
}

#[test]
fn health_by_hand_answers_by_its_exit_code_and_needs_no_host() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("etc/selkie/health.d");
    std::fs::create_dir_all(&folder).unwrap();
    let args = ["health", "--root", temp.path().to_str().unwrap(), "--progress", "none"];
    let says = |words: &str| {
        let output = selkie(&args);
        let human = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == Some(0) && human.contains(words), "{human}");
    };
    says("No check ran: neither the image nor this machine has any.");
    std::fs::write(folder.join("05-notes"), "not a program").unwrap();
    says("No check ran; skipped, and so not counted: 1.");
    std::fs::remove_file(folder.join("05-notes")).unwrap();
    std::os::unix::fs::symlink("/bin/true", folder.join("10-good")).unwrap();
    says("This machine is well (required checks: 1).");
    let check = "#!/bin/sh\necho no database\nexit 3\n";
    std::fs::write(folder.join("20-bad"), check).unwrap();
    std::fs::set_permissions(folder.join("20-bad"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = selkie(&args);
    let human = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(code(&output), Some(1), "{human}{}", stderr(&output));
    for words in ["ok ", "20-bad: exit code 3 (", "    no database\n", "This machine is not well: 1 of 2 required checks failed."] {
        assert!(human.contains(words), "{human}");
    }
    std::fs::write(folder.join("30-notes"), "not a program").unwrap();
    let human = String::from_utf8(selkie(&args).stdout).unwrap();
    assert!(human.contains("This machine is not well: 1 of 2 required checks failed; skipped, and so not counted: 1.\n"), "{human}");
    let output = selkie(&[&args[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &json["verdict"], &json["consequence"]), (Some(1), &"bad".into(), &serde_json::Value::Null));
    let bad = &json["checks"][1];
    assert_eq!((&bad["name"], &bad["kind"], &bad["outcome"]), (&"20-bad".into(), &"required".into(), &"failed".into()), "{json}");
}

#[test]
fn config_show_says_what_counts_and_where_it_was_said() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("etc/selkie/config.d");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("50-site.toml");
    std::fs::write(&file, "keep = 2\n[update]\nwindow = 'Sat 02:00-04:00 Europe/Berlin'\n").unwrap();
    let args = ["config", "show", "--root", temp.path().to_str().unwrap()];
    let output = selkie(&args);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines.contains(&format!("keep = 2 # {}:1", file.display())), "{text}");
    assert!(lines.contains(&format!("update.window = [\"Sat 02:00-04:00 Europe/Berlin\"] # {}:3", file.display())), "{text}");
    assert!(lines.contains(&"update.policy = \"none\" # default".to_owned()), "{text}");

    let output = selkie(&[&args[..], &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let keep = json["settings"].as_array().unwrap().iter().find(|setting| setting["key"] == "keep").unwrap();
    assert_eq!(keep, &serde_json::json!({"key": "keep", "value": 2, "from": {"file": file.to_str().unwrap(), "line": 1}}));
    assert_eq!(code(&output), Some(0));

    std::fs::write(&file, "keep = 2\ntries = 'many'\n").unwrap();
    let output = selkie(&args);
    let said = format!("error: reading configuration {}:2: tries is \"many\" (expected a whole number from 1 to 99)\n", file.display());
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).starts_with(&said), "{}", stderr(&output));
    // A boot is judged all the same.
    let output = selkie(&["health", "--root", temp.path().to_str().unwrap(), "--progress", "none", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &json["verdict"]), (Some(0), &"good".into()));
    assert!(json["problems"][0].as_str().unwrap().contains("tries is \"many\""), "{json}");
}

#[test]
fn automatic_updates_do_nothing_unless_told() {
    let output = selkie(&["auto-update", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &json["policy"], &json["outcome"]), (Some(0), &"none".into(), &serde_json::Value::Null));
}

#[test]
fn how_long_a_check_may_run_is_said_in_words_or_in_the_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("etc/selkie");
    std::fs::create_dir_all(folder.join("health.d")).unwrap();
    std::fs::create_dir_all(folder.join("config.d")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/yes", folder.join("health.d/10-hangs")).unwrap();
    std::fs::write(folder.join("config.d/10.toml"), "health.timeout = '1s'").unwrap();
    for words in [&[][..], &["--timeout", "1s"], &["--timeout", "1"]] {
        let output = selkie(&[&["health", "--root", temp.path().to_str().unwrap(), "--progress", "none", "--json"], words].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((code(&output), &json["checks"][0]["ended"]), (Some(1), &"not done after 1 s".into()), "{words:?}");
    }
}

#[test]
fn fsck_says_in_its_exit_code_what_it_found() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    for (sysroot, expected) in [("file", 3), ("nowhere", 3), (".", 10)] {
        let output = selkie(&["fsck", "--sysroot", &path(sysroot)]);
        assert_eq!(code(&output), Some(expected), "{sysroot}: {}", stderr(&output));
        assert!(stderr(&output).contains("hint: "), "{}", stderr(&output));
    }
}

#[test]
fn repositories_in_directories_are_looked_after_on_any_machine() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let repo = at("repo");
    // It is made before the image turns out not to be there.
    selkie(&["pull", &format!("oci:{}", at("none")), "--algorithm", "sha256", "--repo", &repo]);
    let answers = |args: &[&str], expected: i32| {
        let output = selkie(&[args, &["--repo", &repo]].concat());
        assert_eq!(code(&output), Some(expected), "{args:?}: {}", stderr(&output));
        stderr(&output)
    };
    for args in [&["fsck"][..], &["fsck", "--repair"], &["gc", "--dry-run"], &["gc"]] {
        answers(args, 0);
    }
    assert!(answers(&["untag", "os"], 3).contains("there are none"));
    answers(&["untag", ".tmp-os"], 2);
    std::fs::write(temp.path().join("repo/meta.json"), "{").unwrap();
    for args in [&["gc"][..], &["untag", "os"], &["pull", &format!("oci:{}", at("none"))]] {
        assert!(answers(args, 6).contains("nothing is lost: remove its directory"), "{args:?}");
    }
    answers(&["fsck"], 1);
    for verb in [&["fsck"][..], &["gc"], &["untag", "os"]] {
        for (path, expected) in [(at("nowhere"), 3), (at("repo/meta.json"), 2), (at("."), 3)] {
            let output = selkie(&[verb, &["--repo", &path]].concat());
            assert_eq!(code(&output), Some(expected), "{verb:?} {path}: {}", stderr(&output));
        }
    }
}

#[test]
fn who_closes_standard_error_ends_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let repository = temp.path().join("r");
    for progress in ["plain", "json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let arguments = ["pull", "oci:/there/is/none:v1", "--progress", progress, "--repo", repository.to_str().unwrap()];
        let status = Command::new(env!("CARGO_BIN_EXE_selkie")).args(arguments).stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(3), "{progress}");
    }
}
