//! The units in `systemd/`: the README shows them as they are, and podshim takes what they say.

#[path = "support/available.rs"]
mod available;

use std::path::PathBuf;
use std::process::Command;

const RECOVER: &str = include_str!("../systemd/podshim-recover.service");
const CRI: &str = include_str!("../systemd/podshim-cri.service");

#[test]
fn the_readme_quotes_the_units() {
    let readme = include_str!("../README.md");
    for unit in [RECOVER, CRI] {
        assert!(readme.contains(&format!("```ini\n{unit}```\n")), "not the same in README.md:\n{unit}");
        // Supervisors are in the unit's cgroup: they are not to be killed with it.
        assert!(unit.contains("\nKillMode=process\n"), "{unit}");
    }
}

/// The words of the only command of a unit, which is podshim's.
fn words(unit: &str) -> Vec<&str> {
    let commands: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
    let [command] = commands[..] else { panic!("{commands:?}") };
    command.strip_prefix("/usr/local/bin/podshim ").unwrap().split(' ').collect()
}

#[test]
fn podshim_takes_the_units_commands() {
    if !available::available(&["root"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let podshim = std::env::var_os("PODSHIM_BIN").map_or_else(|| env!("CARGO_BIN_EXE_podshim").into(), PathBuf::from);
    let run = |words: &[&str]| {
        let mut command = Command::new(&podshim);
        for (option, name) in [("--root", "root"), ("--state", "state"), ("--log-dir", "log")] {
            command.arg(option).arg(path(name));
        }
        let output = command.args(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    };
    run(&words(RECOVER));
    assert!(path("state").exists(), "it was taken for something else");
    // It would serve for ever.
    run(&[&words(CRI)[..], &["--print-config"]].concat());
}
