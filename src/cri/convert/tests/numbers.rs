//! `LinuxContainerResources`, both ways.

use super::super::{check_update, resources as read, resources_told, updated};
use super::*;
use crate::plan::config::{LinuxContainerResources, Unnamed};

fn given(change: impl FnOnce(&mut api::LinuxContainerResources)) -> api::LinuxContainerResources {
    let mut given = api::LinuxContainerResources::default();
    change(&mut given);
    given
}

fn pages(page_size: &str, limit: u64) -> api::HugepageLimit {
    api::HugepageLimit { page_size: page_size.into(), limit }
}

#[test]
fn nothing_is_no_limit() {
    let held = read(&given(|_| {}), "r").unwrap();
    let expected = LinuxContainerResources { swap: -1, unnamed: Unnamed::Unlimited, ..Default::default() };
    assert_eq!(held, expected);
    assert_eq!(resources_told(&held).linux, Some(given(|_| {})));
}

#[test]
fn everything_is_read_and_told_again() {
    let all = given(|r| {
        (r.cpu_period, r.cpu_quota, r.cpu_shares) = (100_000, 50_000, 512);
        (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes, r.oom_score_adj) = (1 << 30, 3 << 29, -998);
        (r.cpuset_cpus, r.cpuset_mems) = ("0-2,4".into(), "0".into());
        r.hugepage_limits = vec![pages("64KB", 0), pages("2MB", 4 << 20), pages("1GB", 0)];
        r.unified = [("memory.high".to_owned(), "1000".to_owned())].into();
    });
    let held = read(&all, "r").unwrap();
    assert_eq!((held.cpu_shares, held.swap, held.memory_limit), (Some(512), 1 << 29, Some(1 << 30)));
    assert_eq!(held.hugepages, [(64 << 10, 0), (2 << 20, 4 << 20), (1 << 30, 0)].into());
    assert_eq!(resources_told(&held).linux, Some(all));
}

#[test]
fn swap_beside_memory() {
    let of = |memory, both| {
        let held = read(&given(|r| (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (memory, both)), "r");
        held.map(|held| held.swap)
    };
    for (name, memory, both, expected) in [
        ("no limits", 0, 0, -1),
        ("memory alone has no swap", 100, 0, 0),
        ("both", 100, 130, 30),
        ("unlimited", 100, -1, -1),
        ("unlimited without memory", 0, -1, -1),
        ("no limit of memory", -1, 0, -1),
    ] {
        assert_eq!(of(memory, both).unwrap(), expected, "{name}");
    }
    for (memory, both) in [(100, 99), (0, 5), (-1, 5), (100, -2)] {
        assert_refused("swap", of(memory, both), "r.memory_swap_limit_in_bytes: ");
    }
}

#[test]
fn what_the_kernel_would_not_take_is_refused() {
    type Row = (&'static str, fn(&mut api::LinuxContainerResources));
    let rows: &[Row] = &[
        ("r.cpu_shares: -1 is not", |r| r.cpu_shares = -1),
        ("r.cpu_shares: 262145 is not", |r| r.cpu_shares = 262_145),
        ("r.cpu_quota: -2 µs", |r| r.cpu_quota = -2),
        ("r.cpu_quota: 999 µs", |r| r.cpu_quota = 999),
        ("r.cpu_period: 999 µs", |r| r.cpu_period = 999),
        ("r.cpu_period: 1000001 µs", |r| r.cpu_period = 1_000_001),
        ("r.memory_limit_in_bytes: -5 bytes", |r| r.memory_limit_in_bytes = -5),
        ("r.oom_score_adj: 1001 is", |r| r.oom_score_adj = 1001),
        ("r.oom_score_adj: -9223372036854775808 is", |r| r.oom_score_adj = i64::MIN),
        ("r.cpuset_cpus: \"3-1\" is no list", |r| r.cpuset_cpus = "3-1".into()),
        ("r.cpuset_cpus: \"0,\" is no list", |r| r.cpuset_cpus = "0,".into()),
        ("r.cpuset_cpus: \"99999\" is no list", |r| r.cpuset_cpus = "99999".into()),
        ("r.cpuset_cpus: it has 5000 bytes", |r| r.cpuset_cpus = "1".repeat(5000)),
        ("r.cpuset_mems: \"+1\" is no list", |r| r.cpuset_mems = "+1".into()),
        ("r.hugepage_limits[0].page_size: \"2M\"", |r| r.hugepage_limits = vec![pages("2M", 0)]),
        ("r.hugepage_limits[0].page_size: \"3MB\"", |r| r.hugepage_limits = vec![pages("3MB", 0)]),
        ("r.hugepage_limits[0].page_size: \"+2MB\"", |r| r.hugepage_limits = vec![pages("+2MB", 0)]),
        ("r.hugepage_limits[0].page_size: \"99999999GB\"", |r| r.hugepage_limits = vec![pages("99999999GB", 0)]),
        ("r.hugepage_limits[1].page_size: 2MB comes twice", |r| {
            r.hugepage_limits = vec![pages("2MB", 0), pages("2MB", 1)];
        }),
        ("r.hugepage_limits[0].limit: 18446744073709551615", |r| r.hugepage_limits = vec![pages("2MB", u64::MAX)]),
        ("r.unified[\"../memory.max\"]: it is no file", |r| {
            r.unified = [("../memory.max".to_owned(), "1".to_owned())].into();
        }),
        ("r.unified[\"cgroup.procs\"]: it is no resource", |r| {
            r.unified = [("cgroup.procs".to_owned(), "1".to_owned())].into();
        }),
        ("r.unified[\"memory.max\"]: it is empty", |r| {
            r.unified = [("memory.max".to_owned(), " ".to_owned())].into();
        }),
    ];
    for (expected, change) in rows {
        assert_refused(expected, read(&given(change), "r"), expected);
    }
}

#[test]
fn what_this_host_cannot_limit_is_refused() {
    let mut context = container_context();
    context.cgroups.hierarchies[0].controllers.retain(|controller| controller == "cpu");
    context.numbers.page_sizes.clear();
    let of = |change: fn(&mut api::LinuxContainerResources)| {
        let mut request = container_request();
        change(resources(&mut request));
        planned(&request, &sandbox_request(), &context)
    };
    assert!(of(|r| r.cpu_shares = 100).is_ok());
    assert!(of(|r| r.hugepage_limits = vec![pages("2MB", 0)]).is_ok(), "a kubelet names every size");
    let at = "config.linux.resources: ";
    assert_refused("memory", of(|r| r.memory_limit_in_bytes = 1 << 20), at);
    assert_refused("cpuset", of(|r| r.cpuset_cpus = "0".into()), at);
    assert_refused("pages", of(|r| r.hugepage_limits = vec![pages("2MB", 2 << 20)]), at);
    assert_refused("unified", of(|r| r.unified = [("memory.high".to_owned(), "1".to_owned())].into()), at);
    let pages_of = |limit| {
        let mut request = container_request();
        resources(&mut request).hugepage_limits = vec![pages("512MB", limit)];
        planned(&request, &sandbox_request(), &container_context())
    };
    pages_of(0).unwrap();
    let expected = "config.linux.resources.hugepage_limits: no cgroup here limits pages of 536870912 bytes";
    assert_refused("pages of that size", pages_of(512 << 20), expected);
}

#[test]
fn an_update_is_refused_as_a_new_container_is() {
    let mut context = container_context();
    let of = |context: &ContainerContext, change: fn(&mut api::LinuxContainerResources)| {
        let (old, given) = (read(&given(|_| {}), "r").unwrap(), given(change));
        check_update(&given, &updated(&old, &given).unwrap(), context)
    };
    of(&context, |r| r.cpu_shares = 100).unwrap();
    assert_refused("cpus", of(&context, |r| r.cpuset_cpus = "65535".into()), "linux.cpuset_cpus: 65535 is not there");
    assert_refused("nodes", of(&context, |r| r.cpuset_mems = "65535".into()), "linux.cpuset_mems: 65535 is not there");
    let large = |r: &mut api::LinuxContainerResources| r.hugepage_limits = vec![pages("512MB", 512 << 20)];
    assert_refused("pages", of(&context, large), "linux.hugepage_limits: no cgroup");
    context.cgroups.hierarchies[0].controllers.retain(|controller| controller == "cpu");
    let unified = |r: &mut api::LinuxContainerResources| {
        r.unified = [("memory.high".to_owned(), "1".to_owned())].into();
    };
    assert_refused("unified", of(&context, unified), "linux: ");
}

#[test]
fn an_update_leaves_what_it_does_not_name() {
    let old = read(
        &given(|r| {
            (r.cpu_shares, r.cpu_quota, r.cpu_period) = (100, 20_000, 100_000);
            (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes, r.oom_score_adj) = (100, 150, 7);
            r.cpuset_cpus = "0".into();
            r.hugepage_limits = vec![pages("2MB", 2 << 20)];
            r.unified = [("memory.high".to_owned(), "50".to_owned())].into();
        }),
        "r",
    )
    .unwrap();
    assert_eq!(updated(&old, &given(|_| {})).unwrap(), old);
    let of = |change: fn(&mut api::LinuxContainerResources)| updated(&old, &given(change)).unwrap();
    assert_eq!(of(|r| r.cpu_quota = -1), LinuxContainerResources { cpu_quota: Some(-1), ..old.clone() });
    assert_eq!(of(|r| r.oom_score_adj = 9), old, "a process that runs keeps its own");
    let memory = of(|r| r.memory_limit_in_bytes = 200);
    assert_eq!((memory.memory_limit, memory.swap), (Some(200), 0), "memory alone has no swap");
    let swap = of(|r| r.memory_swap_limit_in_bytes = 180);
    assert_eq!((swap.memory_limit, swap.swap), (Some(100), 80));
    let pages_too = of(|r| r.hugepage_limits = vec![pages("1GB", 1 << 30)]);
    assert_eq!(pages_too.hugepages, [(2 << 20, 2 << 20), (1 << 30, 1 << 30)].into());
    assert_eq!(of(|r| r.cpuset_cpus = "1".into()).cpuset_cpus, "1");
    let low = of(|r| r.unified = [("memory.low".to_owned(), "1".to_owned())].into());
    assert_eq!(low.unified.len(), 2);
    assert_refused("wrong", updated(&old, &given(|r| r.cpu_shares = -1)), "linux.cpu_shares: -1");
}
