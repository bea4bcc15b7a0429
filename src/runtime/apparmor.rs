//! The AppArmor profile of containers whose manifest names none, loaded into the kernel by apparmor_parser(8) when the first
//! container needs it. It stays loaded, as containerd's and Docker's do: other pods may be using it.

use crate::plan::spec::APPARMOR_DEFAULT;
use crate::sys::Called;
use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{Command, Stdio};

const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Loads the default profile unless it is loaded.
///
/// # Errors
/// The kernel's list cannot be read, apparmor_parser is missing or refuses: then no container may start with less.
pub fn ensure_default() -> Result<()> {
    let loaded = std::fs::read_to_string(LOADED).called("read", LOADED).context("is securityfs mounted?")?;
    if is_loaded(&loaded) {
        return Ok(());
    }
    let mut child = Command::new("apparmor_parser")
        .args(["--Kernel-load", "--replace", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .called("execve", "apparmor_parser")
        .context(
            "loading the AppArmor profile of containers (install apparmor, or set appArmorProfile to Unconfined)",
        )?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(profile(APPARMOR_DEFAULT).as_bytes()).called("write", "apparmor_parser")?;
    }
    let output = child.wait_with_output().called("waitpid", "apparmor_parser")?;
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "loading the AppArmor profile {APPARMOR_DEFAULT}: apparmor_parser: {words}");
    Ok(())
}

/// Lines like `podshim-default (enforce)`.
fn is_loaded(list: &str) -> bool {
    list.lines().any(|line| line.split_once(" (").is_some_and(|(name, _)| name == APPARMOR_DEFAULT))
}

/// What containerd's and Docker's profiles say (contrib/apparmor/template.go), under another name.
fn profile(name: &str) -> String {
    format!(
        "#include <tunables/global>
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>
  network,
  capability,
  file,
  umount,
  signal (receive) peer=unconfined,
  signal (send,receive) peer={name},
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/mem rwklx,
  deny @{{PROC}}/kmem rwklx,
  deny @{{PROC}}/kcore rwklx,
  deny mount,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
  ptrace (trace,read,tracedby,readby) peer={name},
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s23_the_default_profile_is_found_by_its_whole_name() {
        assert!(is_loaded("docker-default (enforce)\npodshim-default (enforce)\n"));
        assert!(!is_loaded("podshim-default-2 (enforce)\nmy podshim-default (complain)\n"));
    }

    #[test]
    fn s23_the_default_profile_is_whole() {
        let text = profile("p");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(text.contains("\nprofile p flags=") && text.contains("  deny mount,\n") && text.contains("peer=p,"));
        assert!(text.contains("deny @{PROC}/sysrq-trigger rwklx,"));
    }
}
