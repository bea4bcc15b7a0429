//! The compiled program, run by an interpreter, against the profile itself, read directly.

use super::*;
use oci_spec::runtime::Capabilities;
use proptest::prelude::*;

/// What the kernel hands to a filter: `struct seccomp_data`.
#[derive(Debug, Clone, Copy)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

/// The classic BPF machine, as far as seccomp allows it. Panics where the kernel would refuse the program.
fn run(program: &[sock_filter], call: Call) -> u32 {
    let mut data = [0_u8; 64];
    data[0..4].copy_from_slice(&call.number.to_le_bytes());
    data[4..8].copy_from_slice(&call.arch.to_le_bytes());
    for (i, arg) in call.args.iter().enumerate() {
        data[16 + 8 * i..24 + 8 * i].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let op = program[at];
        let branch = |holds: bool| usize::from(if holds { op.jt } else { op.jf });
        at += 1;
        match op.code {
            LD => a = u32::from_le_bytes(data[op.k as usize..op.k as usize + 4].try_into().unwrap()),
            AND => a &= op.k,
            JA => at += op.k as usize,
            JEQ => at += branch(a == op.k),
            JGT => at += branch(a > op.k),
            JGE => at += branch(a >= op.k),
            RET => return op.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the profile says about a call, by its own words.
fn judge(profile: &LinuxSeccomp, call: Call) -> u32 {
    let archs = profile.architectures().clone().unwrap_or_default();
    let is_x32 = call.arch == 0xc000_003e && (X32_BIT..u32::MAX).contains(&call.number);
    let Some(abi) = ABIS.iter().find(|abi| abi.audit == call.arch && (abi.base != 0) == is_x32) else {
        return libc::SECCOMP_RET_KILL_PROCESS;
    };
    if !archs.contains(&abi.arch) && abi.arch != ABIS[0].arch {
        return libc::SECCOMP_RET_KILL_PROCESS;
    }
    let number = call.number - abi.base;
    let default = return_value(profile.default_action(), profile.default_errno_ret()).unwrap();
    let rules = profile.syscalls().clone().unwrap_or_default();
    let mut conditional = None;
    let mut is_known = false;
    for rule in &rules {
        let then = return_value(rule.action(), rule.errno_ret()).unwrap();
        if then == default {
            continue;
        }
        for name in rule.names() {
            let args = rule.args().clone().unwrap_or_default();
            let direct = (abi.number)(name) == Some(number);
            if direct && args.is_empty() {
                return then;
            }
            let twice = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| b.index() == a.index()));
            let matches = |arg: &LinuxSeccompArg| holds(arg, call.args[arg.index()], abi.width);
            let met = direct && if twice { args.iter().any(matches) } else { args.iter().all(matches) };
            let by = multiplexed(name)
                .filter(|(by, ..)| abi.arch == Arch::ScmpArchX86 && !allows(then) && (abi.number)(by) == Some(number));
            // The call that another one goes through is no unknown one then, however new.
            is_known |= by.is_some();
            let muxed = by.is_some_and(|(_, mask, value)| call.args[0] & mask & 0xffff_ffff == value);
            if met || muxed {
                conditional = conditional.or(Some(then));
            }
        }
    }
    let newest = rules.iter().flat_map(|r| r.names()).filter_map(|n| (abi.number)(n)).filter(|n| *n < PRIVATE_NUMBERS);
    let beyond = call.number == u32::MAX || newest.max().is_some_and(|newest| number > newest);
    match conditional {
        Some(then) => then,
        None if beyond && !is_known && !allows(default) => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
        None => default,
    }
}

fn holds(arg: &LinuxSeccompArg, actual: u64, width: Width) -> bool {
    let cut = |x: u64| if width == Width::Bits32 { x & 0xffff_ffff } else { x };
    let (actual, value, second) = (cut(actual), cut(arg.value()), cut(arg.value_two().unwrap_or(0)));
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => actual != value,
        LinuxSeccompOperator::ScmpCmpLt => actual < value,
        LinuxSeccompOperator::ScmpCmpLe => actual <= value,
        LinuxSeccompOperator::ScmpCmpEq => actual == value,
        LinuxSeccompOperator::ScmpCmpGe => actual >= value,
        LinuxSeccompOperator::ScmpCmpGt => actual > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => actual & value == second & value,
    }
}

/// Values that lie close to each other in either half, so that comparisons meet equality often.
fn value() -> impl Strategy<Value = u64> {
    const HALVES: [u32; 6] = [0, 1, 2, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff];
    (0..6_usize, 0..6_usize).prop_map(|(high, low)| u64::from(HALVES[high]) << 32 | u64::from(HALVES[low]))
}

const OPERATORS: [LinuxSeccompOperator; 7] = [
    LinuxSeccompOperator::ScmpCmpNe,
    LinuxSeccompOperator::ScmpCmpLt,
    LinuxSeccompOperator::ScmpCmpLe,
    LinuxSeccompOperator::ScmpCmpEq,
    LinuxSeccompOperator::ScmpCmpGe,
    LinuxSeccompOperator::ScmpCmpGt,
    LinuxSeccompOperator::ScmpCmpMaskedEq,
];

const ACTIONS: [(Action, Option<u32>); 9] = [
    (Action::ScmpActAllow, None),
    (Action::ScmpActErrno, None),
    (Action::ScmpActErrno, Some(38)),
    (Action::ScmpActErrno, Some(0)),
    (Action::ScmpActKillProcess, None),
    (Action::ScmpActKill, None),
    (Action::ScmpActTrap, None),
    (Action::ScmpActTrace, Some(7)),
    (Action::ScmpActLog, None),
];

const NAMES: [&str; 14] = [
    "read",
    "write",
    "openat",
    "clone",
    "socket",
    "bind",
    "semop",
    "socketcall",
    "ipc",
    "ioctl",
    "personality",
    "_llseek",
    "mseal",
    "no_such_call",
];

fn arg() -> impl Strategy<Value = LinuxSeccompArg> {
    (0..6_usize, value(), proptest::option::of(value()), 0..7_usize).prop_map(|(index, value, second, op)| {
        let arg = LinuxSeccompArgBuilder::default().index(index).value(value).op(OPERATORS[op]);
        (match second {
            Some(second) => arg.value_two(second),
            None => arg,
        })
        .build()
        .unwrap()
    })
}

fn rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = proptest::collection::vec(0..NAMES.len(), 1..4);
    (names, 0..ACTIONS.len(), proptest::collection::vec(arg(), 0..4)).prop_map(|(names, action, args)| {
        let mut rule = LinuxSyscall::default();
        rule.set_names(names.into_iter().map(|i| NAMES[i].to_owned()).collect());
        rule.set_action(ACTIONS[action].0).set_errno_ret(ACTIONS[action].1).set_args(Some(args));
        rule
    })
}

fn profile() -> impl Strategy<Value = LinuxSeccomp> {
    let archs = proptest::sample::subsequence(ABIS.iter().map(|abi| abi.arch).collect::<Vec<_>>(), 0..=ABIS.len());
    (0..ACTIONS.len(), archs, proptest::collection::vec(rule(), 0..12)).prop_map(|(default, archs, rules)| {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_action(ACTIONS[default].0).set_default_errno_ret(ACTIONS[default].1);
        profile.set_architectures(Some(archs)).set_syscalls(Some(rules));
        profile
    })
}

fn call() -> impl Strategy<Value = Call> {
    let named = (0..ABIS.len(), 0..NAMES.len(), -1..2_i32)
        .prop_map(|(abi, name, by)| {
            (ABIS[abi].audit, ABIS[abi].base + (ABIS[abi].number)(NAMES[name]).unwrap_or(0), by)
        })
        .prop_map(|(arch, number, by)| (arch, number.wrapping_add_signed(by)));
    let numbered = (0..ABIS.len(), prop_oneof![0..1200_u32, X32_BIT..X32_BIT + 1200, Just(u32::MAX), any::<u32>()])
        .prop_map(|(abi, number)| (ABIS[abi].audit, number));
    let foreign = (any::<u32>(), any::<u32>());
    (prop_oneof![8 => named, 4 => numbered, 1 => foreign], proptest::array::uniform6(value()))
        .prop_map(|((arch, number), args)| Call { arch, number, args })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn the_program_does_what_the_profile_says(
        profile in profile(),
        calls in proptest::collection::vec(call(), 100),
    ) {
        let program = compile(&profile).unwrap().program;
        for call in calls {
            prop_assert_eq!(run(&program, call), judge(&profile, call), "{:x?}", call);
        }
    }
}

#[test]
fn the_default_profile_does_what_it_says_for_every_number() {
    for caps in [Capabilities::new(), Capabilities::from([oci_spec::runtime::Capability::SysAdmin])] {
        let profile = crate::plan::seccomp::default_profile(&caps);
        let program = compile(&profile).unwrap().program;
        assert!(program.len() < MAX_INSTRUCTIONS / 2, "{} instructions", program.len());
        let values = [0, 8, 38, 39, 40, 41, 1 << 32 | 38, 0x2_0000, 0x1000_0000, 0x7e02_0011, 0xffff_ffff, u64::MAX];
        for abi in ABIS {
            for number in (0..1200).chain(0xe_ffff..0xf_0010).chain([u32::MAX - abi.base]) {
                // Arguments matter to three calls only; elsewhere one value will do.
                let looks = |name: &&str| (abi.number)(name) == Some(number);
                let some =
                    if ["clone", "socket", "personality"].iter().any(looks) { &values[..] } else { &values[..1] };
                for value in some.iter().copied() {
                    let call = Call { arch: abi.audit, number: abi.base + number, args: [value; 6] };
                    assert_eq!(run(&program, call), judge(&profile, call), "{call:x?}");
                }
            }
        }
    }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_by_hand() {
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    let program = compile(&crate::plan::seccomp::default_profile(&Capabilities::new())).unwrap().program;
    let rows = [
        ("read", X86_64, 0, 0, ALLOW),
        ("x32 read", X86_64, X32_BIT, 0, ALLOW),
        ("i386 read", I386, 3, 0, ALLOW),
        ("mount", X86_64, 165, 0, EPERM),
        ("x32 mount", X86_64, X32_BIT | 165, 0, EPERM),
        ("i386 mount", I386, 21, 0, EPERM),
        ("clone of a thread", X86_64, 56, 0x3d_0f00, ALLOW),
        ("clone with NEWUSER", X86_64, 56, 0x1000_0011, EPERM),
        ("i386 clone with NEWNET", I386, 120, 0x4000_0011, EPERM),
        ("clone3", X86_64, 435, 0, ENOSYS),
        ("i386 clone3", I386, 435, 0, ENOSYS),
        ("socket AF_INET", X86_64, 41, 2, ALLOW),
        ("socket AF_ALG", X86_64, 41, 38, EPERM),
        ("socket AF_NFC", X86_64, 41, 39, ALLOW),
        ("socket AF_VSOCK", X86_64, 41, 40, EPERM),
        ("socket AF_XDP", X86_64, 41, 44, ALLOW),
        ("i386 socket AF_ALG", I386, 359, 38, EPERM),
        ("socket AF_ALG with a bit that the kernel drops", X86_64, 41, 38 | 1 << 32, EPERM),
        ("personality ADDR_NO_RANDOMIZE", X86_64, 135, 0x4_0000, EPERM),
        ("personality 0xffffffff", X86_64, 135, 0xffff_ffff, ALLOW),
        ("removexattrat, the newest on the list", X86_64, 466, 0, ALLOW),
        ("open_tree_attr, newer", X86_64, 467, 0, ENOSYS),
        ("a call that a tracer skips", X86_64, u32::MAX, 0, ENOSYS),
        ("x32 execve", X86_64, X32_BIT | 520, 0, ALLOW),
        ("a foreign architecture", 0xc000_00b7, 0, 0, KILL),
    ];
    for (name, arch, number, arg, expected) in rows {
        assert_eq!(run(&program, Call { arch, number, args: [arg; 6] }), expected, "{name}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_architecture_that_is_not_named_kills() {
    let mut profile = crate::plan::seccomp::default_profile(&Capabilities::new());
    profile.set_architectures(None);
    let program = compile(&profile).unwrap().program;
    let rows = [
        ("native is always there", 0xc000_003e, 0, ALLOW),
        ("x32", 0xc000_003e, X32_BIT, KILL),
        ("a skipped call is not x32", 0xc000_003e, u32::MAX, ENOSYS),
        ("i386", 0x4000_0003, 3, KILL),
    ];
    for (name, arch, number, expected) in rows {
        assert_eq!(run(&program, Call { arch, number, args: [0; 6] }), expected, "{name}");
    }
}

#[test]
fn every_name_of_the_default_profile_exists_somewhere() {
    let every = [oci_spec::runtime::Capability::SysAdmin, oci_spec::runtime::Capability::SysTime];
    let profile = crate::plan::seccomp::default_profile(&Capabilities::from(every));
    // i386 has the oldest calls and all of the time64 ones; what is in no table does nothing, as with libseccomp.
    let nowhere: Vec<_> = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names())
        .filter(|name| ABIS.iter().all(|abi| (abi.number)(name).is_none()))
        .map(String::as_str)
        .collect();
    let known = ["getsid", "recv", "send", "sync_file_range2", "utimensat_time64", "clock_adjtime64", "umount"];
    for name in &nowhere {
        assert!(known.contains(name), "{nowhere:?}");
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    let rule = |action, errno, index: usize| {
        let arg = LinuxSeccompArgBuilder::default().index(index).build().unwrap();
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec!["read".into()]);
        rule.set_action(action).set_errno_ret(errno).set_args(Some(vec![arg]));
        let mut profile = LinuxSeccomp::default();
        profile.set_syscalls(Some(vec![rule]));
        profile
    };
    let mut listener = LinuxSeccomp::default();
    listener.set_listener_path(Some("/run/x".into()));
    let mut long = LinuxSeccomp::default();
    let one = |i: u64| {
        let arg = LinuxSeccompArgBuilder::default().value(i).build().unwrap();
        let mut rule = LinuxSyscall::default();
        rule.set_names(vec!["read".into()]);
        rule.set_action(Action::ScmpActErrno).set_args(Some(vec![arg]));
        rule
    };
    long.set_syscalls(Some((0..1000).map(one).collect()));
    let rows = [
        ("notify", rule(Action::ScmpActNotify, None, 0), "SCMP_ACT_NOTIFY is not supported"),
        ("listener", listener, "SCMP_ACT_NOTIFY"),
        ("errno for allow", rule(Action::ScmpActAllow, Some(1), 0), "takes none"),
        ("errno too large", rule(Action::ScmpActErrno, Some(4096), 0), "above 4095"),
        ("a seventh argument", rule(Action::ScmpActErrno, None, 6), "argument index 6"),
        ("too long", long, "the kernel takes 4096"),
    ];
    for (name, profile, expected) in rows {
        let error = format!("{:#}", compile(&profile).err().expect(name));
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn flags_are_the_kernels() {
    use LinuxSeccompFilterFlag::*;
    let all = vec![
        SeccompFilterFlagLog,
        SeccompFilterFlagTsync,
        SeccompFilterFlagSpecAllow,
        SeccompFilterFlagWaitKillableRecv,
    ];
    for (flags, expected) in [(None, 4), (Some(vec![]), 0), (Some(all), 7)] {
        let mut profile = LinuxSeccomp::default();
        profile.set_flags(flags);
        assert_eq!(compile(&profile).unwrap().flags, expected);
    }
}

#[test]
fn a_profile_of_names_times_conditions_is_refused_before_it_fills_the_memory() {
    let arg = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}"#;
    let of = |names: usize, args: usize| {
        let (names, args) = (vec![r#""read""#; names].join(","), vec![arg; args].join(","));
        let rule = format!(r#"{{"names": [{names}], "action": "SCMP_ACT_ALLOW", "args": [{args}]}}"#);
        serde_json::from_str(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#)).unwrap()
    };
    // As much as a file of 1 MiB holds.
    let error = compile(&of(60_000, 8_000)).map(|filter| filter.program.len()).unwrap_err().to_string();
    assert!(error.contains("8000 conditions"), "{error}");
    assert!(compile(&of(1, 500)).is_ok());
}
