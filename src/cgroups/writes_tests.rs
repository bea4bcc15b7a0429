use super::*;
use crate::host::cgroup::made_up;

/// Host set-ups: pure v2, v1, and v1 with an empty unified tree.
fn setup(kind: &str) -> CgroupSetup {
    let v1 = |id: u32, controllers: &str| {
        format!("{id} 1 0:{id} / /sys/fs/cgroup/{controllers} rw - cgroup cgroup rw,{controllers}\n")
    };
    let v2 = "40 1 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let all_v1: String = ["memory", "cpu,cpuacct", "cpuset", "devices", "freezer", "pids", "blkio", "hugetlb"]
        .iter()
        .zip(50..)
        .map(|(c, id)| v1(id, c))
        .collect();
    let (mounts, v2_controllers) = match kind {
        "v2" => (v2.to_owned(), "cpuset cpu io memory hugetlb pids"),
        "v1" => (all_v1, ""),
        "hybrid" => (format!("{all_v1}{v2}"), ""),
        "bare v2" => (v2.to_owned(), "cpu"),
        _ => (v1(50, "memory"), ""),
    };
    made_up(&mounts, "0::/\n", v2_controllers)
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"))
}

/// `file=value`, with `?` for what may be missing and ` | ` before what takes its place.
fn show(write: &FileWrite) -> String {
    let text = format!("{}/{}={}", write.controller, write.file, write.value);
    match &write.need {
        Need::Required => text,
        Need::IfPresent => format!("{text}?"),
        Need::Else(other) => format!("{text} | {}", show(other)),
    }
}

#[test]
fn resources_become_writes() {
    let cpu = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000}}"#;
    let memory = r#"{"memory":{"limit":67108864}}"#;
    let table: &[(&str, &str, &str, &[&str])] = &[
        ("nothing", "v2", "{}", &[]),
        ("cpu v2", "v2", cpu, &["cpu/cpu.weight=100", "cpu/cpu.max=50000 100000"]),
        ("cpu v1", "v1", cpu, &["cpu/cpu.shares=1024", "cpu/cpu.cfs_period_us=100000", "cpu/cpu.cfs_quota_us=50000"]),
        ("cpu hybrid is v1", "hybrid", r#"{"cpu":{"shares":1}}"#, &["cpu/cpu.shares=2"]),
        ("no shares", "v2", r#"{"cpu":{"shares":0}}"#, &[]),
        ("no quota v2", "v2", r#"{"cpu":{"quota":-1}}"#, &["cpu/cpu.max=max 100000"]),
        ("no quota v1", "v1", r#"{"cpu":{"quota":-1}}"#, &["cpu/cpu.cfs_quota_us=-1"]),
        ("quota alone", "v2", r#"{"cpu":{"quota":1000}}"#, &["cpu/cpu.max=1000 100000"]),
        ("idle and burst", "v2", r#"{"cpu":{"idle":1,"burst":5}}"#, &["cpu/cpu.max.burst=5", "cpu/cpu.idle=1"]),
        (
            "cpuset",
            "v2",
            r#"{"cpu":{"cpus":"0-1,3","mems":"0"}}"#,
            &["cpuset/cpuset.cpus=0-1,3", "cpuset/cpuset.mems=0"],
        ),
        ("memory v2 closes swap", "v2", memory, &["memory/memory.max=67108864", "memory/memory.swap.max=0?"]),
        (
            "memory v1 closes swap",
            "v1",
            memory,
            &["memory/memory.limit_in_bytes=67108864", "memory/memory.memsw.limit_in_bytes=67108864?"],
        ),
        (
            "swap v2 is without memory",
            "v2",
            r#"{"memory":{"limit":100000,"swap":150000}}"#,
            &["memory/memory.max=100000", "memory/memory.swap.max=50000"],
        ),
        (
            "swap v1 is with memory",
            "v1",
            r#"{"memory":{"limit":100000,"swap":150000}}"#,
            &["memory/memory.limit_in_bytes=100000", "memory/memory.memsw.limit_in_bytes=150000"],
        ),
        (
            "swap equal to memory is no swap",
            "v2",
            r#"{"memory":{"limit":100000,"swap":100000}}"#,
            &["memory/memory.max=100000", "memory/memory.swap.max=0?"],
        ),
        (
            "unlimited swap",
            "v2",
            r#"{"memory":{"limit":100000,"swap":-1}}"#,
            &["memory/memory.max=100000", "memory/memory.swap.max=max?"],
        ),
        ("unlimited memory", "v2", r#"{"memory":{"limit":-1}}"#, &["memory/memory.max=max"]),
        ("reservation v2", "v2", r#"{"memory":{"reservation":4096}}"#, &["memory/memory.low=4096"]),
        ("reservation v1", "v1", r#"{"memory":{"reservation":4096}}"#, &["memory/memory.soft_limit_in_bytes=4096"]),
        (
            "v1 only",
            "v1",
            r#"{"memory":{"swappiness":10,"kernelTCP":8192,"disableOOMKiller":true}}"#,
            &[
                "memory/memory.kmem.tcp.limit_in_bytes=8192",
                "memory/memory.swappiness=10",
                "memory/memory.oom_control=1",
            ],
        ),
        ("pids", "v1", r#"{"pids":{"limit":64}}"#, &["pids/pids.max=64"]),
        ("no pids limit", "v2", r#"{"pids":{"limit":-1}}"#, &["pids/pids.max=max"]),
        (
            "hugepages v2",
            "v2",
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
            &["hugetlb/hugetlb.2MB.max=4194304", "hugetlb/hugetlb.2MB.rsvd.max=4194304?"],
        ),
        (
            "hugepages v1",
            "v1",
            r#"{"hugepageLimits":[{"pageSize":"1GB","limit":0}]}"#,
            &["hugetlb/hugetlb.1GB.limit_in_bytes=0", "hugetlb/hugetlb.1GB.rsvd.limit_in_bytes=0?"],
        ),
        (
            "block I/O v2",
            "v2",
            r#"{"blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}]}}"#,
            &["io/io.bfq.weight=500 | io/io.weight=4950", "io/io.max=8:0 rbps=1000"],
        ),
        (
            "block I/O v1",
            "v1",
            r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10}],"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":7}]}}"#,
            &[
                "blkio/blkio.bfq.weight_device=8:0 10 | blkio/blkio.weight_device=8:0 10",
                "blkio/blkio.throttle.write_iops_device=8:0 7",
            ],
        ),
        (
            "unified, sorted, a write for each line",
            "v2",
            r#"{"unified":{"memory.oom.group":"1","io.max":"8:0 rbps=1\n8:16 rbps=2","cgroup.max.depth":"3"}}"#,
            &[
                "cgroup/cgroup.max.depth=3",
                "io/io.max=8:0 rbps=1",
                "io/io.max=8:16 rbps=2",
                "memory/memory.oom.group=1",
            ],
        ),
        (
            "devices v1",
            "hybrid",
            r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]}"#,
            &["devices/devices.deny=a", "devices/devices.allow=c 1:3 rw"],
        ),
        ("devices v2 are no files", "v2", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#, &[]),
    ];
    for (name, kind, json, expect) in table {
        let got = writes(&setup(kind), &resources(json)).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(got.iter().map(show).collect::<Vec<_>>(), *expect, "{name}");
    }
}

#[test]
fn what_cannot_be_applied_is_an_error() {
    let table = [
        (
            "cpu",
            "memory only",
            r#"{"cpu":{"shares":5}}"#,
            "cpu limits cannot be applied: no cgroup hierarchy has the controller cpu",
        ),
        (
            "where it was looked for",
            "bare v2",
            r#"{"memory":{"limit":5}}"#,
            "unified at /sys/fs/cgroup/unified with cpu",
        ),
        ("pids", "bare v2", r#"{"pids":{"limit":5}}"#, "controller pids"),
        ("cpuset", "bare v2", r#"{"cpu":{"cpus":"0"}}"#, "controller cpuset"),
        ("hugetlb", "bare v2", r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#, "controller hugetlb"),
        ("blkio", "bare v2", r#"{"blockIO":{"weight":10}}"#, "controller blkio"),
        ("devices", "memory only", r#"{"devices":[{"allow":false}]}"#, "controller devices"),
        ("bad device v2", "v2", r#"{"devices":[{"allow":true,"type":"c"}]}"#, "must say what"),
        ("bad device v1", "v1", r#"{"devices":[{"allow":true,"type":"c"}]}"#, "must say what"),
        ("realtime v2", "v2", r#"{"cpu":{"realtimeRuntime":5}}"#, "realtime"),
        ("swappiness v2", "v2", r#"{"memory":{"swappiness":5}}"#, "swappiness"),
        ("oom killer v2", "v2", r#"{"memory":{"disableOOMKiller":true}}"#, "disableOOMKiller"),
        ("kernel memory", "v1", r#"{"memory":{"kernel":5}}"#, "kernel memory"),
        ("swap without memory", "v2", r#"{"memory":{"swap":5}}"#, "needs a memory limit"),
        ("swap below memory", "v1", r#"{"memory":{"limit":6,"swap":5}}"#, "is below"),
        ("page size", "v2", r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":0}]}"#, "page size"),
        ("weight", "v2", r#"{"blockIO":{"weight":5}}"#, "between 10 and 1000"),
        ("leaf weight", "v1", r#"{"blockIO":{"leafWeight":50}}"#, "leafWeight"),
        ("cpu list", "v1", r#"{"cpu":{"cpus":"0\n1"}}"#, "not a list"),
        ("unified on v1", "v1", r#"{"unified":{"memory.high":"1"}}"#, "in use by cgroup v1"),
        ("unified escapes", "v2", r#"{"unified":{"memory.max/../../x":"1"}}"#, "not a cgroup file's name"),
        ("unified dots", "v2", r#"{"unified":{"..":"1"}}"#, "not a cgroup file's name"),
        ("unified moves processes", "v2", r#"{"unified":{"cgroup.procs":"1"}}"#, "not a resource"),
        ("unified unknown controller", "v2", r#"{"unified":{"misc.max":"1"}}"#, "controller misc"),
        ("network", "v1", r#"{"network":{"classID":5}}"#, "network"),
        ("rdma", "v2", r#"{"rdma":{"mlx5":{"hcaHandles":1}}}"#, "rdma"),
    ];
    for (name, kind, json, expect) in table {
        let error = format!("{:#}", writes(&setup(kind), &resources(json)).expect_err(name));
        assert!(error.contains(expect), "{name}: {error}");
    }
}

#[test]
fn shares_become_weights() {
    let table = [
        (0, None),
        (1, Some(1)),
        (2, Some(1)),
        (10, Some(4)),
        (102, Some(17)),
        (256, Some(35)),
        (512, Some(59)),
        (1024, Some(100)),
        (2048, Some(174)),
        (4096, Some(303)),
        (262_143, Some(10_000)),
        (262_144, Some(10_000)),
        (u64::MAX, Some(10_000)),
    ];
    for (shares, weight) in table {
        assert_eq!(cpu_weight(shares), weight, "{shares}");
    }
    let all: Vec<u64> = (2..=262_144).filter_map(cpu_weight).collect();
    assert!(all.is_sorted() && all[0] == 1 && all.last() == Some(&10_000));
}

#[test]
fn values_are_compared_as_the_kernel_rounds_them() {
    let table = [
        ("exact", "pids.max", "64", "64\n", true),
        ("another", "pids.max", "64", "63\n", false),
        ("rounded to a page", "memory.max", "100000", "98304\n", true),
        ("far below", "memory.max", "1000000", "98304\n", false),
        ("above", "memory.max", "98304", "100000\n", false),
        ("not applied", "memory.max", "100000", "max\n", false),
        ("as good as unlimited", "memory.max", "9223372036854775807", "max\n", true),
        ("v1 unlimited", "memory.limit_in_bytes", "-1", "9223372036854771712\n", true),
        ("words", "cpu.max", "1000 100000", "1000 100000\n", true),
        ("words differ", "cpu.max", "1000 100000", "max 100000\n", false),
        ("a set", "cpuset.cpus", "0,1,2,5", "0-2,5\n", true),
        ("another set", "cpuset.cpus", "0,1", "0\n", false),
        ("default line", "io.weight", "4950", "default 4950\n8:0 7\n", true),
        ("one of the lines", "io.max", "8:0 rbps=1000", "8:16 rbps=1000\n8:0 rbps=1000 wbps=max\n", true),
        ("none of the lines", "io.max", "8:0 rbps=1000", "8:16 rbps=1000\n", false),
        ("a unit is not compared", "memory.high", "1G", "1073741824\n", true),
        ("a small number is not rounded", "cpu.weight", "100", "99\n", false),
    ];
    for (name, file, value, shown, expect) in table {
        let write =
            FileWrite { controller: String::new(), file: file.into(), value: value.into(), need: Need::Required };
        assert_eq!(reads_back(&write, shown), expect, "{name}");
    }
}
