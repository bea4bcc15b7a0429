//! The settings below `/proc/sys/net`, which shows the network namespace of whoever looks: see the kernel's
//! Documentation/networking/ip-sysctl.rst.

use super::Socket;
use crate::plan::network::Family;
use crate::sys::{Called, SysResult};
use nix::errno::Errno;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A setting of the whole host that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Like `net.ipv4.ip_forward`.
    pub name: String,
    /// What it was.
    pub before: String,
    /// What it is now.
    pub now: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} before, {} now", self.name, self.before, self.now)
    }
}

/// One setting of a link.
pub(super) struct Setting<'a> {
    pub family: Family,
    /// The link, or `all` or `default`.
    pub link: &'a str,
    pub name: &'a str,
    pub value: &'a str,
}

impl Setting<'_> {
    fn path(&self) -> PathBuf {
        root(self.family).join("conf").join(self.link).join(self.name)
    }
}

fn root(family: Family) -> &'static Path {
    Path::new(match family {
        Family::V4 => "/proc/sys/net/ipv4",
        Family::V6 => "/proc/sys/net/ipv6",
    })
}

/// The settings of one link in the order given.
pub(super) fn of<'a>(family: Family, link: &'a str, settings: &[(&'a str, &'a str)]) -> Vec<Setting<'a>> {
    settings.iter().map(|&(name, value)| Setting { family, link, name, value }).collect()
}

impl Socket {
    /// Makes settings of links in the socket's namespace. Those of IPv6 of a link that has no IPv6 (the kernel has none, or the
    /// MTU is below 1280) are left out: nothing can come in that way.
    pub(super) fn set(&self, settings: &[Setting<'_>]) -> SysResult<()> {
        self.inside(|| {
            for setting in settings {
                let path = setting.path();
                if setting.family == Family::V6 && path.parent().is_some_and(|link| !link.exists()) {
                    continue;
                }
                write(&path, setting.value)?;
            }
            Ok(())
        })
    }

    /// Lets the host pass on packets from one link to another, and says what it had to change. A host that passes on IPv6 no
    /// longer takes routers' advertisements where `accept_ra` is 1: those get 2 before, so that it keeps its own router.
    pub(super) fn enable_forwarding(&self, families: &[Family]) -> SysResult<Vec<Change>> {
        self.inside(|| {
            let mut changes = Vec::new();
            if families.contains(&Family::V4) {
                change(&root(Family::V4).join("ip_forward"), "1", &mut changes)?;
            }
            let forwarding = root(Family::V6).join("conf/all/forwarding");
            if families.contains(&Family::V6) && read(&forwarding)? != "1" {
                for link in links_with_ipv6()? {
                    let accept = root(Family::V6).join("conf").join(&link).join("accept_ra");
                    match read(&accept) {
                        Ok(value) if value == "1" => change(&accept, "2", &mut changes)?,
                        // The link is gone meanwhile.
                        Err(error) if error.errno() == Errno::ENOENT => {}
                        other => drop(other?),
                    }
                }
                change(&forwarding, "1", &mut changes)?;
            }
            Ok(changes)
        })
    }
}

/// The links' directories. A name cannot lead out of there: the kernel's own listing has no `/` in names.
fn links_with_ipv6() -> SysResult<Vec<std::ffi::OsString>> {
    let conf = root(Family::V6).join("conf");
    let entries = std::fs::read_dir(&conf).called("opendir", conf.display())?;
    let names: SysResult<Vec<_>> =
        entries.map(|entry| Ok(entry.called("readdir", conf.display())?.file_name())).collect();
    Ok(names?.into_iter().filter(|name| name != "all" && name != "default" && name != "lo").collect())
}

fn change(path: &Path, now: &str, changes: &mut Vec<Change>) -> SysResult<()> {
    let before = read(path)?;
    if before != now {
        write(path, now)?;
        let name = path.strip_prefix("/proc/sys").unwrap_or(path).display().to_string();
        // As sysctl(8) has it: a dot of a link's name is a slash.
        let name = name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect();
        changes.push(Change { name, before, now: now.to_owned() });
    }
    Ok(())
}

fn read(path: &Path) -> SysResult<String> {
    Ok(std::fs::read_to_string(path).called("read", path.display())?.trim().to_owned())
}

/// Only if it differs: where `/proc/sys` is read-only, what is right already is no error.
fn write(path: &Path, value: &str) -> SysResult<()> {
    if read(path)? == value {
        return Ok(());
    }
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .called("write", format_args!("{} to {}", value, path.display()))
}
