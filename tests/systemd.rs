//! `systemd/podshim-recover.service`: the README shows it as it is, and podshim takes what it says.

#[path = "support/available.rs"]
mod available;

use std::path::PathBuf;
use std::process::Command;

const UNIT: &str = include_str!("../systemd/podshim-recover.service");

#[test]
fn the_readme_quotes_the_unit() {
    let readme = include_str!("../README.md");
    assert!(readme.contains(&format!("```ini\n{UNIT}```\n")), "README.md and the unit are not the same");
}

#[test]
fn podshim_takes_the_units_command() {
    let mut commands = UNIT.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    let mut words = commands.next().unwrap().split(' ');
    assert_eq!((words.next(), commands.next()), (Some("/usr/local/bin/podshim"), None));
    if !available::available(&["root"]) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let podshim = std::env::var_os("PODSHIM_BIN").map_or_else(|| env!("CARGO_BIN_EXE_podshim").into(), PathBuf::from);
    let mut command = Command::new(podshim);
    for (option, name) in [("--root", "root"), ("--state", "state"), ("--log-dir", "log")] {
        command.arg(option).arg(path(name));
    }
    let output = command.args(words).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(path("state").exists(), "it was taken for something else");
}
