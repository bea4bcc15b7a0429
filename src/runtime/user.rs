//! The user that a container runs as, from the manifest's numbers and the image's `USER`, with names resolved in the
//! image's own `/etc/passwd` and `/etc/group`.
//!
//! Both files are the image's, so hostile: they are opened inside the root, must be regular and small, and ids are checked
//! for their range. A `USER` of digits is a number, never looked up as a name (CVE-2024-40635, CVE-2016-3697).

use crate::error::{Kind, failure};
use crate::plan::config::{GroupsPolicy, RootUser, SecurityContext};
use crate::plan::spec::User;
use crate::sys::Called;
use crate::sys::fs::{IN_ROOT, open_regular};
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

const MAX_FILE: u64 = 10 << 20;
const MAX_ID: u32 = i32::MAX as u32;

/// Resolves a container's user. Errors are the kubelet's words for `CreateContainerConfigError` where it has some.
pub fn resolve(rootfs: BorrowedFd<'_>, image_user: &str, security: &SecurityContext) -> Result<User> {
    let wanted = match &security.run_as_username {
        // It is looked up, never taken for a number; the image's group goes with the image's user.
        Some(name) => Wanted { user: Name::Text(name.clone()), group: None },
        None => Wanted::parse(image_user).with_context(|| format!("the image's USER {image_user:?}"))?,
    };
    check_non_root(&wanted, security)?;
    look_up(rootfs, &wanted, security)
}

/// Resolves the user of a command in a running container, `NAME|UID[:GROUP|GID]`, with the pod's groups. `rootfs` is what the
/// container has made of it by now.
///
/// # Errors
/// Of kind `Invalid` where `runAsNonRoot` forbids it.
pub fn resolve_other(rootfs: BorrowedFd<'_>, user: &str, security: &SecurityContext) -> Result<User> {
    let invalid = |error: anyhow::Error| failure(Kind::Invalid, format!("user {user:?}: {error:#}"));
    if user.is_empty() {
        return Err(failure(Kind::Invalid, "the user is empty"));
    }
    let wanted = Wanted::parse(user).map_err(invalid)?;
    let of_user = SecurityContext { run_as_user: None, run_as_group: None, ..security.clone() };
    let found = look_up(rootfs, &wanted, &of_user).map_err(invalid)?;
    if found.uid == 0 && security.root == RootUser::Forbidden {
        return Err(failure(Kind::Invalid, format!("user {user:?} is root, and the container has runAsNonRoot")));
    }
    Ok(found)
}

fn look_up(rootfs: BorrowedFd<'_>, wanted: &Wanted, security: &SecurityContext) -> Result<User> {
    let passwd = read_database(rootfs, "etc/passwd")?;
    let group = read_database(rootfs, "etc/group")?;
    let account = match (security.run_as_user, &wanted.user) {
        (Some(uid), _) => passwd_by_uid(&passwd, uid).unwrap_or(Account::unknown(uid)),
        (None, Name::Id(uid)) => passwd_by_uid(&passwd, *uid).unwrap_or(Account::unknown(*uid)),
        (None, Name::Text(name)) => passwd_by_name(&passwd, name)?.ok_or_else(|| {
            failure(Kind::Invalid, format!("unable to find user {name}: no matching entries in passwd file"))
        })?,
    };
    let gid = match (security.run_as_group, security.run_as_user, &wanted.group) {
        (Some(gid), _, _) => gid,
        // The image's group goes with the image's user.
        (None, None, Some(Name::Id(gid))) => *gid,
        (None, None, Some(Name::Text(name))) => group_by_name(&group, name)?
            .with_context(|| format!("unable to find group {name}: no matching entries in group file"))?,
        _ => account.gid,
    };
    let mut groups = security.supplemental_groups.clone();
    if let Some(name) = account.name.as_ref().filter(|_| security.groups_policy == GroupsPolicy::Merge) {
        groups.extend(groups_of(&group, name));
    }
    groups.retain(|g| *g != gid);
    groups.sort_unstable();
    groups.dedup();
    Ok(User { uid: account.uid, gid, groups, home: account.home })
}

enum Name {
    Id(u32),
    Text(String),
}

struct Wanted {
    user: Name,
    group: Option<Name>,
}

impl Wanted {
    /// `""`, `user`, `user:group`.
    fn parse(text: &str) -> Result<Wanted> {
        let one = |part: &str| -> Result<Name> {
            if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
                let id: u32 = part.parse().ok().filter(|id| *id <= MAX_ID).with_context(|| out_of_range(part))?;
                return Ok(Name::Id(id));
            }
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.$@".contains(&b);
            let starts_well = part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            ensure!(starts_well && part.bytes().all(plain), "{part:?} is neither a name nor a number");
            Ok(Name::Text(part.to_owned()))
        };
        if text.is_empty() {
            return Ok(Wanted { user: Name::Id(0), group: None });
        }
        let mut parts = text.split(':');
        let user = one(parts.next().unwrap_or_default())?;
        let group = parts.next().map(one).transpose()?;
        ensure!(parts.next().is_none(), "there is more than one ':'");
        Ok(Wanted { user, group })
    }
}

fn out_of_range(id: &str) -> String {
    format!("id {id} is out of range, it must be in the range 0-{MAX_ID}")
}

/// pod-api.md §23; the kubelet's verifyRunAsNonRoot.
fn check_non_root(wanted: &Wanted, security: &SecurityContext) -> Result<()> {
    if security.root == RootUser::Allowed {
        return Ok(());
    }
    let message = match (security.run_as_user, &wanted.user) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Name::Id(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Name::Id(_)) => return Ok(()),
        (None, Name::Text(name)) => {
            format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )
        }
    };
    Err(failure(Kind::Invalid, message))
}

/// A database's text; empty if the image has none.
fn read_database(rootfs: BorrowedFd<'_>, path: &str) -> Result<String> {
    let file = match open_regular(rootfs, Path::new(path), IN_ROOT) {
        Ok(Some(file)) => file,
        Ok(None) => bail!("the container's /{path} is not a regular file"),
        Err(e) if matches!(e.errno(), Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(e) => return Err(e).context("reading the image's users"),
    };
    let metadata = file.metadata().called("fstat", path)?;
    ensure!(metadata.len() <= MAX_FILE, "the container's /{path} has {} bytes, more than {MAX_FILE}", metadata.len());
    let mut bytes = Vec::new();
    // No more than it has: the files of procfs have no bytes, and to read /proc/kmsg would wait.
    file.take(metadata.len()).read_to_end(&mut bytes).called("read", path)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct Account {
    name: Option<String>,
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    fn unknown(uid: u32) -> Account {
        Account { name: None, uid, gid: 0, home: "/".into() }
    }
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    // The home directory becomes a variable of the container: no control characters from a hostile file.
    let home = if home.is_empty() || home.chars().any(char::is_control) { "/" } else { home };
    Some(Account { name: Some(name.to_owned()), uid: id(uid)?, gid: id(gid)?, home: home.to_owned() })
}

fn passwd_by_uid(passwd: &str, uid: u32) -> Option<Account> {
    passwd.lines().filter_map(account).find(|account| account.uid == uid)
}

fn passwd_by_name(passwd: &str, name: &str) -> Result<Option<Account>> {
    let Some(line) = passwd.lines().find(|line| line.split(':').next() == Some(name)) else { return Ok(None) };
    match account(line) {
        Some(account) => Ok(Some(account)),
        None => bail!("the container's /etc/passwd entry of {name} is malformed or its ids are out of range"),
    }
}

fn group_by_name(group: &str, name: &str) -> Result<Option<u32>> {
    let Some(line) = group.lines().find(|line| line.split(':').next() == Some(name)) else { return Ok(None) };
    match line.split(':').nth(2).and_then(id) {
        Some(gid) => Ok(Some(gid)),
        None => bail!("the container's /etc/group entry of {name} is malformed or its id is out of range"),
    }
}

fn groups_of(group: &str, user: &str) -> Vec<u32> {
    let member = |line: &&str| line.split(':').nth(3).is_some_and(|list| list.split(',').any(|name| name == user));
    group.lines().filter(member).filter_map(|line| line.split(':').nth(2).and_then(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn rootfs() -> (tempfile::TempDir, std::fs::File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n1000:x:0:0::/:/bin/sh\n\
                      evil:x:4294967296:0::/:/bin/sh\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:34:\nlog:x:50:web,other\nbig:x:4294967296:\n")
            .unwrap();
        let file = std::fs::File::open(dir.path()).unwrap();
        (dir, file)
    }

    #[test]
    fn s23_the_images_user() {
        let (_dir, root) = rootfs();
        type Expected = Result<(u32, u32, &'static [u32], &'static str), &'static str>;
        let rows: &[(&str, &str, Expected)] = &[
            ("none is root", "", Ok((0, 0, &[], "/root"))),
            ("a name", "web", Ok((33, 34, &[50], "/var/www"))),
            ("its number", "33", Ok((33, 34, &[50], "/var/www"))),
            ("name and group", "web:root", Ok((33, 0, &[50], "/var/www"))),
            ("numbers unknown to the image", "7:8", Ok((7, 8, &[], "/"))),
            ("digits are never a name", "1000", Ok((1000, 0, &[], "/"))),
            ("unknown name", "nobody", Err("unable to find user nobody")),
            ("unknown group", "web:nogroup", Err("unable to find group nogroup")),
            ("too large", "4294967296", Err("out of range")),
            ("just too large", "2147483648", Err("out of range")),
            ("too large in passwd", "evil", Err("out of range")),
            ("too large in group", "web:big", Err("out of range")),
            ("plus", "+1000", Err("neither a name nor a number")),
            ("hexadecimal", "0x10", Err("neither a name nor a number")),
            ("blank", " 1000", Err("neither a name nor a number")),
            ("negative", "-1", Err("neither a name nor a number")),
            ("two colons", "1:2:3", Err("more than one")),
            ("half", "1:", Err("neither a name nor a number")),
        ];
        for (name, user, expected) in rows {
            match (resolve(root.as_fd(), user, &SecurityContext::default()), expected) {
                (Ok(user), Ok((uid, gid, groups, home))) => {
                    assert_eq!(
                        (user.uid, user.gid, &user.groups[..], &user.home[..]),
                        (*uid, *gid, *groups, *home),
                        "{name}"
                    );
                }
                (Err(error), Err(part)) => assert!(format!("{error:#}").contains(part), "{name}: {error:#}"),
                (result, _) => panic!("{name}: {result:?}"),
            }
        }
    }

    #[test]
    fn s23_the_manifests_numbers_win() {
        let (_dir, root) = rootfs();
        let security =
            SecurityContext { run_as_user: Some(33), supplemental_groups: vec![7, 34], ..SecurityContext::default() };
        let user = resolve(root.as_fd(), "root:root", &security).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 34, vec![7, 50]));
    }

    #[test]
    fn a_users_name_is_looked_up_and_the_images_group_is_not_its() {
        let (_dir, root) = rootfs();
        let named = |name: &str, gid| {
            let security = SecurityContext {
                run_as_username: Some(name.to_owned()),
                run_as_group: gid,
                ..SecurityContext::default()
            };
            resolve(root.as_fd(), "root:log", &security)
        };
        let user = named("web", None).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 34, vec![50]));
        assert_eq!(named("web", Some(7)).unwrap().gid, 7);
        for name in ["nobody", "33"] {
            let error = named(name, None).unwrap_err();
            assert!(error.to_string().contains(&format!("unable to find user {name}")), "{error}");
        }
    }

    #[test]
    fn d15_strict_groups_are_the_manifests_only() {
        let (_dir, root) = rootfs();
        let mut security = SecurityContext { supplemental_groups: vec![9, 7], ..SecurityContext::default() };
        assert_eq!(resolve(root.as_fd(), "web", &security).unwrap().groups, [7, 9, 50]);
        security.groups_policy = GroupsPolicy::Strict;
        let user = resolve(root.as_fd(), "web", &security).unwrap();
        assert_eq!((user.gid, user.groups), (34, vec![7, 9]));
    }

    #[test]
    fn s23_run_as_non_root() {
        let (_dir, root) = rootfs();
        let mut security = SecurityContext { root: RootUser::Forbidden, ..SecurityContext::default() };
        for (user, expected) in
            [("", "image will run as root"), ("0", "image will run as root"), ("web", "non-numeric user (web)")]
        {
            let error = resolve(root.as_fd(), user, &security).unwrap_err();
            assert!(error.to_string().contains(expected), "{user}: {error}");
        }
        assert_eq!(resolve(root.as_fd(), "33", &security).unwrap().uid, 33);
        security.run_as_user = Some(0);
        assert!(resolve(root.as_fd(), "33", &security).unwrap_err().to_string().contains("breaks non-root policy"));
    }

    #[test]
    fn a_fifo_as_passwd_is_refused_at_once() {
        let (dir, root) = rootfs();
        std::fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("etc/passwd"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
        assert!(
            resolve(root.as_fd(), "web", &SecurityContext::default())
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
    }
}
