//! Tables of what plugins want together.

use super::*;
use crate::cri::api::nri::{
    CdiDevice, Hook, HugepageLimit, KeyValue, LinuxCpu, LinuxMemory, LinuxNamespace, LinuxNetDevice, LinuxSeccomp,
    OptionalInt, OptionalInt64, OptionalString, OptionalUInt64, PosixRlimit,
};

fn adjust(change: impl FnOnce(&mut ContainerAdjustment)) -> ContainerAdjustment {
    let mut adjustment = ContainerAdjustment::default();
    change(&mut adjustment);
    adjustment
}

fn linux(change: impl FnOnce(&mut LinuxContainerAdjustment)) -> ContainerAdjustment {
    adjust(|a| change(a.linux.get_or_insert_default()))
}

fn limits(change: impl FnOnce(&mut LinuxResources)) -> ContainerAdjustment {
    linux(|l| change(l.resources.get_or_insert_default()))
}

fn answer(adjustment: ContainerAdjustment) -> CreateContainerResponse {
    CreateContainerResponse { adjust: Some(adjustment), ..CreateContainerResponse::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.into() }
}

fn mount(destination: &str) -> Mount {
    Mount { destination: destination.into(), source: "/srv".into(), r#type: "bind".into(), options: Vec::new() }
}

fn device(path: &str) -> LinuxDevice {
    LinuxDevice { path: path.into(), r#type: "c".into(), ..LinuxDevice::default() }
}

fn creation() -> Creation {
    Creation::new(Container {
        id: "c".into(),
        args: vec!["run".into()],
        env: vec!["OWN=1".into(), "KEPT=1".into()],
        mounts: vec![mount("/own"), mount("/kept")],
        annotations: [("own".to_owned(), "1".to_owned())].into(),
        ..Container::default()
    })
}

/// What two plugins want, one after the other.
fn both(first: ContainerAdjustment, second: ContainerAdjustment) -> Result<Creation> {
    let mut creation = creation();
    creation.add(answer(first), "10-first")?;
    creation.add(answer(second), "20-second")?;
    Ok(creation)
}

fn wanted(key: &str, value: i64) -> ContainerUpdate {
    let cpu = Some(LinuxCpu { quota: Some(OptionalInt64 { value }), ..LinuxCpu::default() });
    let linux = Some(LinuxContainerUpdate { resources: Some(LinuxResources { cpu, ..LinuxResources::default() }) });
    ContainerUpdate { container_id: key.into(), linux, ignore_failure: false }
}

#[test]
fn whatever_two_plugins_set_is_a_conflict_that_names_both() {
    let number = || Some(OptionalInt64 { value: 1 });
    let natural = || Some(OptionalUInt64 { value: 1 });
    let cases = [
        ("Annotations \"k\"", adjust(|a| drop(a.annotations.insert("k".into(), "v".into())))),
        ("Mounts \"/m\"", adjust(|a| a.mounts.push(mount("/m")))),
        ("Env \"E\"", adjust(|a| a.env.push(variable("E", "v")))),
        ("Args", adjust(|a| a.args.push("x".into()))),
        (
            "Rlimits \"RLIMIT_CORE\"",
            adjust(|a| a.rlimits.push(PosixRlimit { r#type: "RLIMIT_CORE".into(), hard: 1, soft: 1 })),
        ),
        ("CdiDevices \"v/c=d\"", adjust(|a| a.cdi_devices.push(CdiDevice { name: "v/c=d".into() }))),
        ("Devices \"/dev/x\"", linux(|l| l.devices.push(device("/dev/x")))),
        ("CgroupsPath", linux(|l| l.cgroups_path = "/x".into())),
        ("OomScoreAdj", linux(|l| l.oom_score_adj = Some(OptionalInt { value: 1 }))),
        ("IoPriority", linux(|l| l.io_priority = Some(Default::default()))),
        ("SeccompPolicy", linux(|l| l.seccomp_policy = Some(LinuxSeccomp::default()))),
        ("LinuxSched", linux(|l| l.scheduler = Some(Default::default()))),
        ("MemoryPolicy", linux(|l| l.memory_policy = Some(Default::default()))),
        (
            "Namespace \"pid\"",
            linux(|l| l.namespaces.push(LinuxNamespace { r#type: "pid".into(), path: String::new() })),
        ),
        ("Sysctl \"s\"", linux(|l| drop(l.sysctl.insert("s".into(), "1".into())))),
        (
            "LinuxNetDevices \"e\"",
            linux(|l| drop(l.net_devices.insert("e".into(), LinuxNetDevice { name: "f".into() }))),
        ),
        ("RdtClosID", linux(|l| l.rdt.get_or_insert_default().clos_id = Some(OptionalString { value: "c".into() }))),
        ("MemLimit", limits(|r| r.memory = Some(LinuxMemory { limit: number(), ..Default::default() }))),
        ("MemSwappiness", limits(|r| r.memory = Some(LinuxMemory { swappiness: natural(), ..Default::default() }))),
        ("CPUShares", limits(|r| r.cpu = Some(LinuxCpu { shares: natural(), ..Default::default() }))),
        ("CPUQuota", limits(|r| r.cpu = Some(LinuxCpu { quota: number(), ..Default::default() }))),
        ("CPUSetCPUs", limits(|r| r.cpu = Some(LinuxCpu { cpus: "0".into(), ..Default::default() }))),
        ("CPUSetMems", limits(|r| r.cpu = Some(LinuxCpu { mems: "0".into(), ..Default::default() }))),
        ("PidsLimit", limits(|r| r.pids = Some(Default::default()))),
        (
            "HugepageLimits \"2MB\"",
            limits(|r| r.hugepage_limits.push(HugepageLimit { page_size: "2MB".into(), limit: 1 })),
        ),
        ("CgroupsUnified \"f\"", limits(|r| drop(r.unified.insert("f".into(), "1".into())))),
        ("BlockioClass", limits(|r| r.blockio_class = Some(OptionalString { value: "b".into() }))),
        ("RdtClass", limits(|r| r.rdt_class = Some(OptionalString { value: "b".into() }))),
    ];
    for (thing, adjustment) in cases {
        let mut alone = creation();
        alone.add(answer(adjustment.clone()), "10-first").unwrap_or_else(|e| panic!("{thing}: {e:#}"));
        alone.add(CreateContainerResponse::default(), "20-second").unwrap();
        assert_eq!(alone.done().0, adjustment, "{thing}");
        let conflict = both(adjustment.clone(), adjustment).unwrap_err().to_string();
        assert_eq!(conflict, format!("the NRI plugins 10-first and 20-second both set {thing}"));
    }
}

#[test]
fn hooks_and_device_rules_add_up() {
    let hook = adjust(|a| a.hooks.get_or_insert_default().poststop.push(Hook { path: "/h".into(), ..Hook::default() }));
    let (merged, ..) = both(hook.clone(), hook).unwrap().done();
    assert_eq!(merged.hooks.unwrap().poststop.len(), 2);
    let rule = limits(|r| r.devices.push(Default::default()));
    let (merged, ..) = both(rule.clone(), rule).unwrap().done();
    assert_eq!(merged.linux.unwrap().resources.unwrap().devices.len(), 2);
}

#[test]
fn one_that_removes_what_another_set_may_set_it() {
    let set = adjust(|a| {
        a.annotations.insert("k".into(), "1".into());
        a.mounts.push(mount("/m"));
        a.env.push(variable("E", "1"));
        a.args = vec!["first".into()];
    });
    let reset = adjust(|a| {
        a.annotations.extend([("-k".to_owned(), String::new()), ("k".to_owned(), "2".to_owned())]);
        a.mounts = vec![mount("-/m"), mount("/m")];
        a.env = vec![variable("-E", ""), variable("E", "2")];
        a.args = vec![String::new(), "second".into()];
    });
    let creation = both(set, reset).unwrap();
    assert_eq!(creation.container.annotations["k"], "2");
    assert_eq!(creation.container.env, ["OWN=1", "KEPT=1", "E=2"]);
    assert_eq!(creation.container.mounts.iter().filter(|m| m.destination == "/m").count(), 1);
    let (merged, ..) = creation.done();
    assert_eq!(merged.annotations, [("k".to_owned(), "2".to_owned())].into());
    assert_eq!(merged.mounts, [mount("/m")]);
    assert_eq!(merged.env, [variable("E", "2")]);
    assert_eq!(merged.args, ["second"]);
}

#[test]
fn what_is_removed_stays_removed_and_is_the_removers_to_set() {
    let set = adjust(|a| a.env.push(variable("E", "1")));
    let remove = adjust(|a| {
        a.env = vec![variable("-E", ""), variable("-OWN", "")];
        a.mounts = vec![mount("-/own")];
        a.annotations.insert("-own".into(), String::new());
    });
    let mut creation = both(set.clone(), remove).unwrap();
    assert_eq!(creation.container.env, ["KEPT=1"]);
    assert_eq!(creation.container.mounts, [mount("/kept")]);
    assert!(creation.container.annotations.is_empty());
    let conflict = creation.add(answer(set), "30-third").unwrap_err().to_string();
    assert_eq!(conflict, "the NRI plugins 20-second and 30-third both set Env \"E\"");
    let (merged, ..) = creation.done();
    assert_eq!(merged.env, [variable("-E", ""), variable("-OWN", "")]);
    assert_eq!(merged.mounts, [mount("-/own")]);
    assert_eq!(merged.annotations, [("-own".to_owned(), String::new())].into());
}

#[test]
fn updates_of_others_are_merged_and_conflicts_may_be_overlooked() {
    let mut updates = Updates::default();
    updates.add(vec![wanted("a", 1), wanted("b", 2)], "10-first").unwrap();
    let conflict = format!("{:#}", updates.add(vec![wanted("a", 3)], "20-second").unwrap_err());
    assert!(conflict.contains("container a") && conflict.contains("CPUQuota"), "{conflict}");
    let overlooked = ContainerUpdate { ignore_failure: true, ..wanted("a", 4) };
    updates.add(vec![overlooked], "30-third").unwrap();
    assert_eq!(updates.done().0, [wanted("a", 1), wanted("b", 2)]);
}

#[test]
fn a_container_being_created_cannot_be_updated_but_others_can_and_be_evicted() {
    let mut creation = creation();
    let evict = vec![ContainerEviction { container_id: "v".into(), reason: "old".into() }; 2];
    let answer = CreateContainerResponse { adjust: None, update: vec![wanted("other", 1)], evict };
    creation.add(answer, "10-first").unwrap();
    let own = CreateContainerResponse { update: vec![wanted("c", 1)], ..CreateContainerResponse::default() };
    assert!(creation.add(own, "20-second").unwrap_err().to_string().contains("while it is created"));
    let (_, updates, evictions) = creation.done();
    assert_eq!(updates, [wanted("other", 1)]);
    assert_eq!(evictions.len(), 1);
}

#[test]
fn an_update_is_asked_for_and_then_as_the_plugins_want_it() {
    let quota = |resources: &LinuxResources| resources.cpu.as_ref().unwrap().quota.unwrap().value;
    let shares = Some(OptionalUInt64 { value: 7 });
    let asked = LinuxResources { cpu: Some(LinuxCpu { shares, ..LinuxCpu::default() }), ..LinuxResources::default() };
    let mut update = Update::new("c", asked);
    update.add(vec![wanted("c", 5), wanted("other", 6)], Vec::new(), "10-first").unwrap();
    assert_eq!(quota(&update.resources), 5);
    assert!(update.add(vec![wanted("c", 8)], Vec::new(), "20-second").is_err());
    let (resources, others, _) = update.done();
    assert_eq!((quota(&resources), resources.cpu.unwrap().shares), (5, shares));
    assert_eq!(others, [wanted("other", 6)]);
}
