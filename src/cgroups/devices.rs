//! Device rules: which devices a cgroup's processes may open and make.
//!
//! Rules apply in order, each right (`r`, `w`, `m`) by itself: the last rule that matches the device and names the right
//! decides it; what no rule names is denied. Version 2 has no files for this but a BPF program per cgroup
//! (`Documentation/admin-guide/cgroup-v2.rst`, "Device controller"), version 1 has `devices.allow` and `devices.deny`
//! (`cgroup-v1/devices.rst`), whose exceptions know no order: what they cannot express is refused here.

use crate::sys::bpf::BpfInsn;
use anyhow::{Context, bail, ensure};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use std::collections::BTreeMap;

/// The rights as the kernel's BPF_DEVCG_ACC_* bits.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;
/// BPF_DEVCG_DEV_*.
const BLOCK: u8 = 1;
const CHAR: u8 = 2;

/// One rule, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// None: block and character.
    kind: Option<u8>,
    /// None: any.
    major: Option<u32>,
    /// None: any.
    minor: Option<u32>,
    rights: u8,
}

impl Rule {
    fn read(rule: &LinuxDeviceCgroup) -> anyhow::Result<Rule> {
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
            LinuxDeviceType::P => bail!("a FIFO is not a device: type must be a, b, c or u"),
        };
        // dev_t of the kernel: 12 bits major, 20 bits minor. -1 is the specification's older word for "any".
        let number = |number: Option<i64>, bits: u32, what: &str| match number {
            None | Some(-1) => Ok(None),
            Some(n) if (0..1i64 << bits).contains(&n) => Ok(Some(n as u32)),
            Some(n) => bail!("{what} number {n} is not below {}", 1i64 << bits),
        };
        Ok(Rule {
            allow: rule.allow(),
            kind,
            major: number(rule.major(), 12, "major")?,
            minor: number(rule.minor(), 20, "minor")?,
            rights: Rule::rights(rule)?,
        })
    }

    fn rights(rule: &LinuxDeviceCgroup) -> anyhow::Result<u8> {
        let text = rule.access().as_deref().unwrap_or("");
        let mut rights = 0;
        for c in text.chars() {
            rights |= match c {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => bail!("access {text:?} may only hold r, w and m"),
            };
        }
        // Left out it could mean nothing or everything; only for a denial is one of them safe.
        ensure!(rights != 0 || !rule.allow(), "a rule that allows must say what: access must hold r, w or m");
        Ok(if rights == 0 { ALL } else { rights })
    }

    fn is_total(self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.rights == ALL
    }
}

fn read_all(rules: &[LinuxDeviceCgroup]) -> anyhow::Result<Vec<Rule>> {
    rules.iter().map(|r| Rule::read(r).with_context(|| format!("device rule \"{r}\""))).collect()
}

mod op {
    //! The few operations used, as `class | source | operation` of `include/uapi/linux/bpf.h`.
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const SET: u8 = 0xb7;
    pub(super) const AND: u8 = 0x57;
    pub(super) const SHIFT_RIGHT: u8 = 0x77;
    pub(super) const JUMP_IF_EQUAL: u8 = 0x15;
    pub(super) const JUMP_IF_NOT_EQUAL: u8 = 0x55;
    pub(super) const EXIT: u8 = 0x95;
}

/// Registers of the program; R0 is the result, R1 the context (`struct bpf_cgroup_dev_ctx`).
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const WANTED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn insn(code: u8, dst: u8, imm: i32) -> BpfInsn {
    BpfInsn { code, regs: registers(dst, 0), off: 0, imm }
}

fn load(dst: u8, off: i16) -> BpfInsn {
    BpfInsn { code: op::LOAD_WORD, regs: registers(dst, CONTEXT), off, imm: 0 }
}

fn copy(dst: u8, src: u8) -> BpfInsn {
    BpfInsn { code: op::MOVE, regs: registers(dst, src), off: 0, imm: 0 }
}

/// Two bit fields of a byte, whose order is the machine's.
fn registers(dst: u8, src: u8) -> u8 {
    if cfg!(target_endian = "little") { dst | src << 4 } else { dst << 4 | src }
}

/// The device filter of a version 2 cgroup as a program of type BPF_PROG_TYPE_CGROUP_DEVICE: returns 1 for an access that
/// the rules allow, else 0.
///
/// It goes through the rules from the last to the first and strikes from the wanted rights those that a rule allows; a rule
/// that denies one still wanted ends it. So each right is decided by the last rule that names it, which crun and runc
/// only reach for a whole set of rights.
///
/// # Errors
/// If a rule is malformed.
pub fn device_program(rules: &[LinuxDeviceCgroup]) -> anyhow::Result<Vec<BpfInsn>> {
    let rules = read_all(rules)?;
    let mut program = vec![
        load(KIND, 0),
        copy(WANTED, KIND),
        insn(op::AND, KIND, 0xffff),
        insn(op::SHIFT_RIGHT, WANTED, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(instructions(*rule));
        if rule.is_total() {
            // It decides everything; the kernel refuses a program with instructions that cannot be reached.
            return Ok(program);
        }
    }
    program.extend([insn(op::SET, RESULT, 0), insn(op::EXIT, 0, 0)]);
    Ok(program)
}

fn instructions(rule: Rule) -> Vec<BpfInsn> {
    // Jumps to the next rule; their distances are known when the rule is complete.
    let mut code = Vec::new();
    let mut skip_unless = |register, value: Option<u32>| {
        code.extend(value.map(|v| insn(op::JUMP_IF_NOT_EQUAL, register, v as i32)));
    };
    skip_unless(KIND, rule.kind.map(u32::from));
    skip_unless(MAJOR, rule.major);
    skip_unless(MINOR, rule.minor);
    if rule.rights != ALL {
        if rule.allow {
            code.push(insn(op::AND, WANTED, i32::from(ALL & !rule.rights)));
            code.push(insn(op::JUMP_IF_NOT_EQUAL, WANTED, 0));
        } else {
            code.push(copy(SCRATCH, WANTED));
            code.push(insn(op::AND, SCRATCH, i32::from(rule.rights)));
            code.push(insn(op::JUMP_IF_EQUAL, SCRATCH, 0));
        }
    }
    code.extend([insn(op::SET, RESULT, i32::from(rule.allow)), insn(op::EXIT, 0, 0)]);
    let length = code.len();
    for (at, insn) in code.iter_mut().enumerate() {
        if matches!(insn.code, op::JUMP_IF_EQUAL | op::JUMP_IF_NOT_EQUAL) {
            // At most ten instructions.
            insn.off = (length - at - 1) as i16;
        }
    }
    code
}

/// A device or a set of devices of version 1: type, major and minor number (None: any).
type Key = (u8, Option<u32>, Option<u32>);

/// What version 1 holds: a default and rights that are exceptions from it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DeviceList {
    /// Whether what is no exception is allowed.
    default_allow: bool,
    exceptions: BTreeMap<Key, u8>,
}

impl DeviceList {
    /// # Errors
    /// If a rule is malformed, or takes back a part of what an earlier one gave for a wider set of devices: exceptions
    /// cannot have exceptions.
    pub(super) fn read(rules: &[LinuxDeviceCgroup]) -> anyhow::Result<DeviceList> {
        let mut list = DeviceList::default();
        for (rule, source) in read_all(rules)?.into_iter().zip(rules) {
            list.add(rule).with_context(|| format!("device rule \"{source}\""))?;
        }
        Ok(list)
    }

    fn add(&mut self, rule: Rule) -> anyhow::Result<()> {
        if rule.is_total() {
            *self = DeviceList { default_allow: rule.allow, exceptions: BTreeMap::new() };
            return Ok(());
        }
        let kinds = rule.kind.map_or(vec![BLOCK, CHAR], |kind| vec![kind]);
        for key in kinds.into_iter().map(|kind| (kind, rule.major, rule.minor)) {
            if rule.allow == self.default_allow {
                self.take_back(key, rule.rights)?;
            } else {
                *self.exceptions.entry(key).or_default() |= rule.rights;
            }
        }
        Ok(())
    }

    fn take_back(&mut self, key: Key, rights: u8) -> anyhow::Result<()> {
        for (known, held) in &mut self.exceptions {
            if known.0 == key.0 && *held & rights != 0 && overlap(known.1, key.1) && overlap(known.2, key.2) {
                let covered = covers(key.1, known.1) && covers(key.2, known.2);
                ensure!(covered, "cgroup v1 cannot express it: it takes back a part of an earlier, wider rule");
                *held &= !rights;
            }
        }
        self.exceptions.retain(|_, held| *held != 0);
        Ok(())
    }

    /// What to write, in order: (file, value).
    pub(super) fn writes(&self) -> Vec<(&'static str, String)> {
        let mut writes = vec![("devices.deny", "a".to_owned())];
        if self.default_allow {
            writes.push(("devices.allow", "a".to_owned()));
        }
        let file = if self.default_allow { "devices.deny" } else { "devices.allow" };
        writes.extend(self.lines().into_iter().map(|line| (file, line)));
        writes
    }

    /// The exceptions as the kernel writes them into `devices.list`.
    fn lines(&self) -> Vec<String> {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        self.exceptions
            .iter()
            .map(|(&(kind, major, minor), &rights)| {
                let kind = if kind == BLOCK { 'b' } else { 'c' };
                let rights: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
                    .iter()
                    .filter(|(bit, _)| rights & bit != 0)
                    .map(|(_, letter)| *letter)
                    .collect();
                format!("{kind} {}:{} {rights}", number(major), number(minor))
            })
            .collect()
    }

    /// Whether `devices.list`, as the kernel shows it, allows no more than this.
    pub(super) fn is_shown_by(&self, devices_list: &str) -> bool {
        if self.default_allow {
            return devices_list.trim() == "a *:* rwm";
        }
        let mut shown: Vec<&str> = devices_list.lines().collect();
        let mut wanted = self.lines();
        shown.sort_unstable();
        wanted.sort_unstable();
        shown == wanted
    }
}

/// Whether two numbers (None: any) can mean the same device.
fn overlap(a: Option<u32>, b: Option<u32>) -> bool {
    a.is_none() || b.is_none() || a == b
}

/// Whether `wide` holds all that `narrow` does.
fn covers(wide: Option<u32>, narrow: Option<u32>) -> bool {
    wide.is_none() || wide == narrow
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
