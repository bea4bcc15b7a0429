//! Compiles an OCI seccomp profile into a classic BPF program. Pure; `sys::seccomp` loads the result.
//!
//! ```text
//! ld arch
//! jeq x86_64 ──▶ ld nr; a binary tree of `jge` over the number ranges ──▶ ret | argument tests ──▶ ret
//! jeq i386   ──▶ likewise with i386's numbers
//! ret KILL_PROCESS                          an architecture that the profile does not name
//! ```
//!
//! Meaning, where the runtime specification leaves it open, is what runc makes of it with libseccomp:
//!
//! * The native architecture is always included. Others that this kernel cannot run are skipped: no call comes from them.
//!   x32 calls are calls of x86_64 with bit 30 set; without SCMP_ARCH_X32 they kill the process.
//! * A name that an architecture does not have (or that is newer than the table) is skipped there.
//! * A rule with the default action and errno changes nothing and is dropped, so it does not hide others.
//! * A rule without conditions decides, wherever it stands; else the first rule in the list whose conditions all hold.
//! * Conditions of one rule are ANDed, unless two of them are on the same argument: then each is a rule of its own (ORed).
//! * A 32-bit architecture (and x32) compares 32 bits, of the argument and of the value.
//! * Numbers above the newest that the profile names on that architecture give ENOSYS, not the default action, unless that
//!   allows: a program asks for a new call, learns that it is not there, and uses the old one.
//! * No `flags` at all means SPEC_ALLOW, an empty list means none.
//!
//! Differing from libseccomp, on i386 a rule that *allows* a call such as `socket` or `semop` opens only that call, not the
//! multiplexer `socketcall`/`ipc` with it: the profile must name that. A rule that *restricts* one holds for the
//! multiplexer too, whatever its conditions on arguments, which a filter cannot see there.

mod calls;
mod filters;
mod host_profile;
#[cfg(target_arch = "x86_64")]
mod ready;

pub use filters::Filters;
pub use host_profile::of_host;

use anyhow::{Context, Result, bail, ensure};
use calls::{ABIS, Abi, PRIVATE_NUMBERS, Width, X32_BIT, multiplexed};
use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The longest program that the kernel takes (BPF_MAXINSNS), in instructions.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A compiled profile, for `sys::seccomp::load`.
pub struct Filter {
    /// The program.
    pub program: Cow<'static, [sock_filter]>,
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
}

/// What happens to a system call: a SECCOMP_RET_* with its data, or rules that look at the arguments, in order, with the
/// default after the last.
#[derive(Clone, PartialEq)]
enum Decision {
    Return(u32),
    Rules(Vec<Rule>),
}

#[derive(Clone, PartialEq)]
struct Rule {
    width: Width,
    all_of: Vec<LinuxSeccompArg>,
    then: u32,
}

/// Decisions by call number: each holds from its number up to the next one's.
struct Ranges(Vec<(u32, Decision)>);

impl Ranges {
    fn hold_from(&mut self, number: u32, decision: Decision) {
        if self.0.last().is_some_and(|(start, _)| *start == number) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, before)| *before != decision) {
            self.0.push((number, decision));
        }
    }
}

/// Compiles `profile` for the architecture podshim was built for (x86_64 or aarch64) and its 32-bit ones.
///
/// # Errors
/// SCMP_ACT_NOTIFY and a listener (not supported), an errnoRet on an action that has none or out of range, an argument index
/// above 5, a program longer than [`MAX_INSTRUCTIONS`].
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    ensure!(profile.listener_path().is_none(), "seccomp: listenerPath (SCMP_ACT_NOTIFY) is not supported");
    let default =
        return_value(profile.default_action(), profile.default_errno_ret()).context("seccomp: defaultAction")?;
    let named = |abi: &Abi| {
        abi.arch == ABIS[0].arch || profile.architectures().as_deref().is_some_and(|archs| archs.contains(&abi.arch))
    };

    let mut program = vec![load(ARCH)];
    for native in ABIS.iter().filter(|abi| abi.base == 0 && named(abi)) {
        let mut ranges = Ranges(Vec::new());
        abi_ranges(profile, native, default, &mut ranges)?;
        if let Some(x32) = ABIS.iter().find(|abi| abi.base != 0 && abi.audit == native.audit) {
            if named(x32) {
                abi_ranges(profile, x32, default, &mut ranges)?;
            } else {
                ranges.hold_from(X32_BIT, Decision::Return(libc::SECCOMP_RET_KILL_PROCESS));
            }
        }
        // A tracer skips a call by making its number -1: that is no call of any ABI.
        ranges.hold_from(u32::MAX, Decision::Return(newer_than_profile(default)));
        let code = Backwards::lookup(&ranges.0, default);
        match u8::try_from(code.len()) {
            Ok(len) => program.push(jump(JEQ, native.audit, (0, len))),
            Err(_) => program.extend([jump(JEQ, native.audit, (1, 0)), jump(JA, code.len() as u32, (0, 0))]),
        }
        program.extend(code);
    }
    program.push(ret(libc::SECCOMP_RET_KILL_PROCESS));
    ensure!(
        program.len() <= MAX_INSTRUCTIONS,
        "seccomp: the profile compiles to {} BPF instructions, the kernel takes {MAX_INSTRUCTIONS}",
        program.len()
    );
    Ok(Filter { program: program.into(), flags: filter_flags(profile) })
}

/// SECCOMP_FILTER_FLAG_* of the profile. WAIT_KILLABLE_RECV says something only about a listener, and there is none.
fn filter_flags(profile: &LinuxSeccomp) -> u32 {
    let Some(flags) = profile.flags() else { return libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32 };
    flags.iter().fold(0, |all, flag| {
        all | match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
        }
    })
}

/// SECCOMP_RET_* with its data, seccomp(2).
fn return_value(action: Action, errno_ret: Option<u32>) -> Result<u32> {
    let (code, takes_data) = match action {
        Action::ScmpActKill | Action::ScmpActKillThread => (libc::SECCOMP_RET_KILL_THREAD, None),
        Action::ScmpActKillProcess => (libc::SECCOMP_RET_KILL_PROCESS, None),
        Action::ScmpActTrap => (libc::SECCOMP_RET_TRAP, None),
        Action::ScmpActErrno => (libc::SECCOMP_RET_ERRNO, Some(4095)),
        Action::ScmpActTrace => (libc::SECCOMP_RET_TRACE, Some(0xffff)),
        Action::ScmpActLog => (libc::SECCOMP_RET_LOG, None),
        Action::ScmpActAllow => (libc::SECCOMP_RET_ALLOW, None),
        Action::ScmpActNotify => bail!("SCMP_ACT_NOTIFY is not supported"),
    };
    match (takes_data, errno_ret) {
        (Some(most), Some(data)) if data > most => bail!("errnoRet {data} of {action} is above {most}"),
        (Some(_), data) => Ok(code | data.unwrap_or(libc::EPERM as u32)),
        (None, Some(data)) => bail!("errnoRet {data}: {action} takes none (OCI runtime specification, config-linux)"),
        (None, None) => Ok(code),
    }
}

fn allows(ret: u32) -> bool {
    // A tracer decides itself about calls it does not know.
    let action = ret & libc::SECCOMP_RET_ACTION_FULL;
    [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE].contains(&action)
}

fn newer_than_profile(default: u32) -> u32 {
    if allows(default) { default } else { libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 }
}

/// Adds the ranges of one ABI, from its base to the end of the numbers.
fn abi_ranges(profile: &LinuxSeccomp, abi: &Abi, default: u32, ranges: &mut Ranges) -> Result<()> {
    let (decisions, newest) = decisions(profile, abi, default)?;
    let beyond = |number: u32| match newest {
        Some(newest) if number > newest => Decision::Return(newer_than_profile(default)),
        _ => Decision::Return(default),
    };
    // Everything changes only at a decided number, behind it, and behind the newest.
    let mut points = BTreeSet::from([0]);
    points.extend(newest.map(|newest| newest + 1));
    points.extend(decisions.keys().flat_map(|number| [*number, number + 1]));
    for number in points {
        ranges.hold_from(abi.base + number, decisions.get(&number).cloned().unwrap_or_else(|| beyond(number)));
    }
    Ok(())
}

/// What the profile says about each call it names on this ABI, and the newest of them.
fn decisions(profile: &LinuxSeccomp, abi: &Abi, default: u32) -> Result<(BTreeMap<u32, Decision>, Option<u32>)> {
    let mut decisions = BTreeMap::new();
    let mut newest = None;
    let mut conditions = 0;
    for syscall in profile.syscalls().iter().flatten() {
        let then = return_value(syscall.action(), syscall.errno_ret())
            .and_then(|then| checked(syscall).map(|()| then))
            .with_context(|| format!("seccomp: rule for {}", syscall.names().join(", ")))?;
        let lists = alternatives(syscall);
        for name in syscall.names() {
            if let Some(number) = (abi.number)(name) {
                newest = newest.max(Some(number).filter(|n| *n < PRIVATE_NUMBERS));
                if then != default && !matches!(decisions.get(&number), Some(Decision::Return(_))) {
                    for all_of in &lists {
                        conditions += all_of.len();
                        decide(&mut decisions, number, Rule { width: abi.width, all_of: all_of.clone(), then });
                    }
                    // Names times conditions: a file of 1 MiB could ask for more memory than there is.
                    ensure!(
                        conditions <= MAX_INSTRUCTIONS,
                        "seccomp: {conditions} conditions on arguments or more, a program has at most {MAX_INSTRUCTIONS} instructions"
                    );
                }
            }
            if then != default && abi.arch == Arch::ScmpArchX86 && !allows(then) {
                restrict_multiplexer(&mut decisions, abi, (name, then));
            }
        }
    }
    Ok((decisions, newest))
}

fn checked(syscall: &LinuxSyscall) -> Result<()> {
    match syscall.args().iter().flatten().find(|arg| arg.index() > 5) {
        Some(arg) => bail!("argument index {} is above 5", arg.index()),
        None => Ok(()),
    }
}

/// The rule's conditions as lists of which one must hold whole: one list, or one per condition if two are on one argument.
fn alternatives(syscall: &LinuxSyscall) -> Vec<Vec<LinuxSeccompArg>> {
    let args = syscall.args().clone().unwrap_or_default();
    let twice = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    if twice { args.into_iter().map(|arg| vec![arg]).collect() } else { vec![args] }
}

fn decide(decisions: &mut BTreeMap<u32, Decision>, number: u32, rule: Rule) {
    let decision = decisions.entry(number).or_insert(Decision::Rules(Vec::new()));
    match decision {
        Decision::Return(_) => {}
        _ if rule.all_of.is_empty() => *decision = Decision::Return(rule.then),
        Decision::Rules(rules) => rules.push(rule),
    }
}

fn restrict_multiplexer(decisions: &mut BTreeMap<u32, Decision>, abi: &Abi, (name, then): (&str, u32)) {
    let Some((by, mask, value)) = multiplexed(name) else { return };
    let Some(number) = (abi.number)(by) else { return };
    let call = LinuxSeccompArgBuilder::default().index(0_usize).value(mask).value_two(value);
    let call = call.op(LinuxSeccompOperator::ScmpCmpMaskedEq).build().expect("every field has a default");
    decide(decisions, number, Rule { width: abi.width, all_of: vec![call], then });
}

const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const LD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JA: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JEQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JGT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JGE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RET: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

fn load(offset: u32) -> sock_filter {
    sock_filter { code: LD, jt: 0, jf: 0, k: offset }
}

fn ret(value: u32) -> sock_filter {
    sock_filter { code: RET, jt: 0, jf: 0, k: value }
}

/// A jump over `if_so` instructions if the test holds, else over `if_not`. (JA jumps over `k`.)
fn jump(code: u16, k: u32, (if_so, if_not): (u8, u8)) -> sock_filter {
    sock_filter { code, jt: if_so, jf: if_not, k }
}

/// A program that is written from its end: jumps go forward only, as the kernel demands, so what they lead to is there already. A place
/// is the number of instructions behind it.
#[derive(Default)]
struct Backwards {
    code: Vec<sock_filter>,
    /// Where the last `ret` of each value is.
    returns: BTreeMap<u32, usize>,
}

impl Backwards {
    /// How far back a `ret` is used again. A jump reaches 255 instructions; what comes before it may still be jumped over.
    const NEAR: usize = 128;

    /// What is done about a call: its number is loaded and looked up. In the order in which it runs.
    fn lookup(ranges: &[(u32, Decision)], default: u32) -> impl ExactSizeIterator<Item = sock_filter> {
        let mut program = Backwards::default();
        program.tree(ranges, default);
        program.put(load(NUMBER));
        program.code.into_iter().rev()
    }

    fn put(&mut self, instruction: sock_filter) -> usize {
        self.code.push(instruction);
        self.code.len() - 1
    }

    fn ret(&mut self, value: u32) -> usize {
        match self.returns.get(&value) {
            Some(place) if self.code.len() - place < Self::NEAR => *place,
            _ => {
                let place = self.put(ret(value));
                self.returns.insert(value, place);
                place
            }
        }
    }

    /// A binary search for the call number in the accumulator.
    fn tree(&mut self, ranges: &[(u32, Decision)], default: u32) -> usize {
        if let [(_, decision)] = ranges {
            return match decision {
                Decision::Return(value) => self.ret(*value),
                Decision::Rules(rules) => {
                    argument_tests(rules, default).into_iter().rev().fold(0, |_, instruction| self.put(instruction))
                }
            };
        }
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let if_so = self.tree(above, default);
        let if_not = self.tree(below, default);
        let (if_so, if_not) = (self.reachable(if_so), self.reachable(if_not));
        let over = |place| (self.code.len() - place - 1) as u8;
        self.put(jump(JGE, above[0].0, (over(if_so), over(if_not))))
    }

    /// The place itself, or that of a jump to it if it is too far away for one of the next two instructions.
    fn reachable(&mut self, place: usize) -> usize {
        let over = self.code.len() - place - 1;
        if over < usize::from(u8::MAX) { place } else { self.put(jump(JA, over as u32, (0, 0))) }
    }
}

fn argument_tests(rules: &[Rule], default: u32) -> Vec<sock_filter> {
    let mut code = Vec::new();
    for rule in rules {
        let tests: Vec<_> = rule.all_of.iter().map(|arg| condition(arg, rule.width)).collect();
        let len = tests.iter().map(Vec::len).sum::<usize>() + 1;
        let mut at = 0;
        for test in tests {
            let end = at + test.len();
            for op in test {
                // At most 6 conditions of 6 instructions: every distance fits a byte.
                let distance = |to: To| match to {
                    To::Next => 0,
                    To::Holds => (end - at - 1) as u8,
                    To::Fails => (len - at - 1) as u8,
                };
                code.push(jump(op.code, op.k, (distance(op.if_so), distance(op.if_not))));
                at += 1;
            }
        }
        code.push(ret(rule.then));
    }
    code.push(ret(default));
    code
}

/// An instruction of a condition, with where it goes.
struct Op {
    code: u16,
    k: u32,
    if_so: To,
    if_not: To,
}

#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// Behind this condition.
    Holds,
    /// Behind this rule.
    Fails,
}

/// A test of one argument, which falls through if it holds.
///
/// BPF works on 32 bits, so a 64-bit comparison looks at the upper half first; the lower decides only between equal ones.
fn condition(arg: &LinuxSeccompArg, width: Width) -> Vec<Op> {
    use LinuxSeccompOperator as Is;
    use To::{Fails, Holds, Next};
    let op = |code, k, if_so, if_not| Op { code, k, if_so, if_not };
    // Little-endian, as all architectures in ABIS are.
    let low_at = ARGS + 8 * arg.index() as u32;
    let (high_at, value) = (low_at + 4, arg.value());
    let (high, low) = ((value >> 32) as u32, value as u32);

    let mut ops = Vec::new();
    if arg.op() == Is::ScmpCmpMaskedEq {
        let wanted = arg.value_two().unwrap_or(0) & value;
        let halves = [(high_at, high, (wanted >> 32) as u32), (low_at, low, wanted as u32)];
        let skipped = if width == Width::Bits32 { 1 } else { 0 };
        for (at, mask, wanted) in halves.into_iter().skip(skipped).filter(|(_, mask, _)| *mask != 0) {
            ops.extend([op(LD, at, Next, Next), op(AND, mask, Next, Next), op(JEQ, wanted, Next, Fails)]);
        }
        return ops;
    }
    if width == Width::Bits64 {
        ops.push(op(LD, high_at, Next, Next));
        match arg.op() {
            Is::ScmpCmpEq | Is::ScmpCmpMaskedEq => ops.push(op(JEQ, high, Next, Fails)),
            Is::ScmpCmpNe => ops.push(op(JEQ, high, Next, Holds)),
            Is::ScmpCmpGt | Is::ScmpCmpGe => {
                ops.extend([op(JGT, high, Holds, Next), op(JEQ, high, Next, Fails)]);
            }
            Is::ScmpCmpLt | Is::ScmpCmpLe => {
                ops.extend([op(JGT, high, Fails, Next), op(JEQ, high, Next, Holds)]);
            }
        }
    }
    ops.push(op(LD, low_at, Next, Next));
    ops.push(match arg.op() {
        Is::ScmpCmpEq | Is::ScmpCmpMaskedEq => op(JEQ, low, Next, Fails),
        Is::ScmpCmpNe => op(JEQ, low, Fails, Next),
        Is::ScmpCmpGt => op(JGT, low, Next, Fails),
        Is::ScmpCmpGe => op(JGE, low, Next, Fails),
        Is::ScmpCmpLt => op(JGE, low, Fails, Next),
        Is::ScmpCmpLe => op(JGT, low, Fails, Next),
    });
    ops
}

#[cfg(test)]
mod tests;
