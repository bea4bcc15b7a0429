use super::*;
use oci_spec::runtime::LinuxDeviceCgroupBuilder;
use proptest::prelude::*;

/// An access as the kernel asks for it.
#[derive(Debug, Clone, Copy)]
struct Access {
    kind: u8,
    major: u32,
    minor: u32,
    rights: u8,
}

fn rule(allow: bool, text: &str) -> LinuxDeviceCgroup {
    let mut words = text.split([' ', ':']);
    let kind = match words.next().unwrap() {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        "p" => LinuxDeviceType::P,
        _ => LinuxDeviceType::U,
    };
    let mut rule = LinuxDeviceCgroupBuilder::default().allow(allow).typ(kind).build().unwrap();
    rule.set_major(words.next().and_then(|w| w.parse().ok()));
    rule.set_minor(words.next().and_then(|w| w.parse().ok()));
    rule.set_access(words.next().map(str::to_owned));
    rule
}

/// Runs the program as the kernel would; panics on what the kernel's verifier would refuse.
fn interpret(program: &[BpfInsn], access: Access) -> bool {
    let context = [u32::from(access.rights) << 16 | u32::from(access.kind), access.major, access.minor];
    let mut registers: [Option<u64>; 10] = [None; 10];
    let mut at = 0usize;
    loop {
        let i = program[at];
        let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
        let imm = i64::from(i.imm) as u64;
        let value = |r: usize| registers[r].expect("a register is read before it is set");
        let mut jump = false;
        match i.code {
            op::LOAD_WORD => {
                assert_eq!(src, usize::from(CONTEXT));
                registers[dst] = Some(u64::from(context[usize::try_from(i.off).unwrap() / 4]));
            }
            op::MOVE => registers[dst] = Some(value(src)),
            op::SET => registers[dst] = Some(imm),
            op::AND => registers[dst] = Some(value(dst) & imm),
            op::SHIFT_RIGHT => registers[dst] = Some(value(dst) >> imm),
            op::JUMP_IF_EQUAL => jump = value(dst) == imm,
            op::JUMP_IF_NOT_EQUAL => jump = value(dst) != imm,
            op::EXIT => return value(0) == 1,
            other => panic!("unknown operation {other:#x}"),
        }
        assert!(i.off >= 0, "only forward jumps end for sure");
        at += 1 + if jump { usize::try_from(i.off).unwrap() } else { 0 };
    }
}

/// What the module's first paragraph says, word by word.
fn reference(rules: &[Rule], access: Access) -> bool {
    [READ, WRITE, MKNOD].iter().filter(|&&bit| access.rights & bit != 0).all(|&bit| {
        rules
            .iter()
            .rev()
            .find(|r| {
                r.rights & bit != 0
                    && r.kind.is_none_or(|k| k == access.kind)
                    && r.major.is_none_or(|m| m == access.major)
                    && r.minor.is_none_or(|m| m == access.minor)
            })
            .is_some_and(|r| r.allow)
    })
}

/// What version 1 does with one right (`devcgroup_check_permission` in security/device_cgroup.c).
fn v1_allows(list: &DeviceList, access: Access) -> bool {
    let hit = list.exceptions.iter().any(|(&(kind, major, minor), &rights)| {
        kind == access.kind
            && major.is_none_or(|m| m == access.major)
            && minor.is_none_or(|m| m == access.minor)
            && rights & access.rights != 0
    });
    hit != list.default_allow
}

/// The rules of every default container: nothing but mknod and a few character devices.
fn default_rules() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![rule(false, "a *:* rwm"), rule(true, "c *:* m"), rule(true, "b *:* m")];
    rules.extend(["c 1:3 rwm", "c 1:5 rwm", "c 5:0 rwm", "c 136:* rwm", "c 5:2 rwm"].map(|text| rule(true, text)));
    rules
}

#[test]
fn the_default_rules_allow_what_they_name() {
    let program = device_program(&default_rules()).unwrap();
    let table = [
        ("read and write null", CHAR, 1, 3, READ | WRITE, true),
        ("make any", BLOCK, 8, 0, MKNOD, true),
        ("read a disk", BLOCK, 8, 0, READ, false),
        ("null's numbers as a block device", BLOCK, 1, 3, READ, false),
        ("any pts", CHAR, 136, 77, READ | WRITE, true),
        ("kmem", CHAR, 1, 2, READ, false),
        ("make and read a disk", BLOCK, 8, 0, MKNOD | READ, false),
    ];
    for (name, kind, major, minor, rights, expect) in table {
        assert_eq!(interpret(&program, Access { kind, major, minor, rights }), expect, "{name}");
    }
    assert!(!interpret(&device_program(&[]).unwrap(), Access { kind: CHAR, major: 1, minor: 3, rights: READ }));
}

#[test]
fn a_total_rule_ends_the_program() {
    let all = device_program(&[rule(true, "c 1:3 r"), rule(true, "a *:* rwm")]).unwrap();
    assert_eq!(all.len(), 8, "{all:?}");
    assert!(interpret(&all, Access { kind: BLOCK, major: 8, minor: 1, rights: ALL }));
}

#[test]
fn malformed_rules_are_refused() {
    let table = [
        ("fifo", rule(true, "p 1:3 r"), "not a device"),
        ("unknown right", rule(true, "c 1:3 rx"), "may only hold"),
        ("no right allowed", rule(true, "c 1:3"), "must say what"),
        ("major too large", rule(true, "c 4096:3 r"), "not below 4096"),
        ("minor negative", rule(true, "c 1:-2 r"), "minor number -2"),
    ];
    for (name, rule, expect) in table {
        let program = format!("{:#}", device_program(std::slice::from_ref(&rule)).unwrap_err());
        assert!(program.contains(expect) && program.contains("device rule"), "{name}: {program}");
        let list = format!("{:#}", DeviceList::read(&[rule]).unwrap_err());
        assert!(list.contains(expect), "{name}: {list}");
    }
}

#[test]
fn version_1_gets_a_default_and_exceptions() {
    let list = DeviceList::read(&default_rules()).unwrap();
    let shown = "b *:* m\nc *:* m\nc 1:3 rwm\nc 1:5 rwm\nc 5:0 rwm\nc 5:2 rwm\nc 136:* rwm\n";
    assert!(list.is_shown_by(shown));
    assert!(!list.is_shown_by(&format!("{shown}b 8:0 r\n")));
    assert!(!list.is_shown_by("a *:* rwm\n"));
    assert_eq!(list.writes()[..2], [("devices.deny", "a".to_owned()), ("devices.allow", "b *:* m".to_owned())]);

    let open = DeviceList::read(&[rule(true, "a *:* rwm"), rule(false, "b 8:* w")]).unwrap();
    assert_eq!(open.writes()[1..], [("devices.allow", "a".to_owned()), ("devices.deny", "b 8:* w".to_owned())]);
    assert!(open.is_shown_by("a *:* rwm\n"));

    let narrow = [rule(true, "c 1:3 rwm"), rule(false, "c *:* w")];
    assert_eq!(DeviceList::read(&narrow).unwrap().lines(), ["c 1:3 rm"]);
    let wide = [rule(true, "c *:* rw"), rule(false, "c 1:3 w")];
    assert!(format!("{:#}", DeviceList::read(&wide).unwrap_err()).contains("cannot express"));
}

fn some_number(max: i64) -> impl Strategy<Value = Option<i64>> {
    prop_oneof![Just(None), Just(Some(-1)), (0..max).prop_map(Some)]
}

fn some_rule() -> impl Strategy<Value = LinuxDeviceCgroup> {
    let kind = prop_oneof![Just("a"), Just("b"), Just("c"), Just("u")];
    (any::<bool>(), kind, some_number(3), some_number(3), "[rwm]{1,3}").prop_map(
        |(allow, kind, major, minor, access)| {
            let mut rule = rule(allow, kind);
            rule.set_major(major);
            rule.set_minor(minor);
            rule.set_access(Some(access));
            rule
        },
    )
}

proptest! {
    #[test]
    fn the_program_decides_as_the_rules_say(
        rules in prop::collection::vec(some_rule(), 0..12),
        (kind, major, minor, rights) in (1u8..3, 0u32..4, 0u32..4, 1u8..8),
    ) {
        let access = Access { kind, major, minor, rights };
        let program = device_program(&rules).unwrap();
        let checked = read_all(&rules).unwrap();
        prop_assert_eq!(interpret(&program, access), reference(&checked, access));
        if let Ok(list) = DeviceList::read(&rules) {
            for rights in [READ, WRITE, MKNOD] {
                let access = Access { rights, ..access };
                prop_assert_eq!(v1_allows(&list, access), reference(&checked, access));
            }
        }
    }
}
