//! Counters, of trees with the files that kernels have (Linux 6.18 for v1 and hybrid, 6.1 for v2), with round numbers in them.

use super::*;
use crate::host::cgroup::made_up;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A tree of cgroup files that is removed again.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("podshim-counters-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Tree(path)
    }

    /// Files of the cgroup of the container `pod1/app`, by the directory of the hierarchy's mount.
    fn write(&self, mount: &str, files: &[(&str, &str)]) {
        let dir = self.0.join(mount).join("podshim/pod1/app");
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    fn remove(&self, mount: &str, name: &str) {
        fs::remove_file(self.0.join(mount).join("podshim/pod1/app").join(name)).unwrap();
    }

    /// With v1 hierarchies of these controllers, and v2 with those if it is there.
    fn cgroup(&self, v1: &[&str], v2: Option<&str>) -> Cgroup {
        let root = self.0.display();
        let mut mounts = String::new();
        let mut of_process = String::new();
        for (index, controller) in v1.iter().enumerate() {
            let number = index + 1;
            mounts += &format!("{} 1 0:{number} / {root}/{controller} rw - cgroup c rw,{controller}\n", 30 + index);
            of_process += &format!("{number}:{controller}:/\n");
        }
        if v2.is_some() {
            mounts += &format!("90 1 0:90 / {root}/unified rw - cgroup2 c rw\n");
            of_process += "0::/\n";
        }
        let setup = made_up(&mounts, &of_process, v2.unwrap_or_default());
        Cgroup::at(&setup, "", "pod1/app").unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const V1: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"];

fn v1() -> Tree {
    let tree = Tree::new("v1");
    tree.write(
        "cpu",
        &[
            ("cpu.stat", "nr_periods 52\nnr_throttled 7\nthrottled_time 412000000\nnr_bursts 0\nburst_time 0\n"),
            ("cpu.cfs_quota_us", "20000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.shares", "1024\n"),
        ],
    );
    let times = [("cpuacct.usage", "5000\n"), ("cpuacct.usage_user", "3000\n"), ("cpuacct.usage_sys", "2000\n")];
    tree.write("cpuacct", &times);
    let stat = "cache 100\nrss 200\nmapped_file 10\nswap 1\npgfault 11\npgmajfault 2\ninactive_file 3\n\
        hierarchical_memory_limit 67108864\ntotal_cache 1000\ntotal_rss 2000\ntotal_mapped_file 300\ntotal_swap 40\n\
        total_pgfault 110\ntotal_pgmajfault 20\ntotal_inactive_file 600\ntotal_active_file 400\n";
    tree.write(
        "memory",
        &[
            ("memory.stat", stat),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
            ("memory.kmem.usage_in_bytes", "512\n"),
            ("memory.failcnt", "3\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.memsw.limit_in_bytes", "77108864\n"),
            ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        ],
    );
    tree.write("pids", &[("pids.current", "5\n"), ("pids.max", "max\n")]);
    let bytes = "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 4096\n8:0 Async 8192\n8:0 Discard 1\n8:0 Total 12289\n\
        254:1 Read 5\n254:1 Total 5\nTotal 12294\n";
    let requests = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 1\n8:0 Async 2\n8:0 Discard 1\n8:0 Total 4\nTotal 4\n";
    tree.write(
        "blkio",
        &[("blkio.throttle.io_service_bytes_recursive", bytes), ("blkio.throttle.io_serviced_recursive", requests)],
    );
    tree.write(
        "hugetlb",
        &[
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "7\n"),
            ("hugetlb.2MB.limit_in_bytes", "9\n"),
        ],
    );
    tree
}

#[test]
fn version_1() {
    let tree = v1();
    let cgroup = tree.cgroup(&V1, None);
    let device = |major, minor| Device { major, minor };
    let io = Io { read_bytes: 4096, written_bytes: 8192, discarded_bytes: 1, reads: 1, writes: 2 };
    let memory = Memory {
        current: 4096,
        peak: Some(8192),
        cache: 1000,
        anonymous: 2000,
        mapped: 300,
        inactive_file: 600,
        kernel: Some(512),
        swap: Some(40),
        limit_hits: 3,
        faults: (11, 110),
        major_faults: (2, 20),
    };
    let expected = Counters {
        cpu: Some(CpuTime { total: 5000, user: 3000, system: 2000 }),
        throttling: Some(Throttling { periods: 52, throttled: 7, nanoseconds: 412_000_000 }),
        memory: Some(memory),
        io: [(device(8, 0), io), (device(254, 1), Io { read_bytes: 5, ..Io::default() })].into(),
        huge_pages: [("2MB".to_owned(), HugePages { current: 2 << 20, peak: Some(4 << 20) })].into(),
        threads: Some(5),
        max_threads: None,
        pressure: Pressures::default(),
        told: Told {
            cpu_quota: Some(20_000),
            cpu_period: Some(100_000),
            cpu_shares: Some(1024),
            cpu_weight: None,
            memory_limit: Some(64 << 20),
            swap_limit: Some(77_108_864),
            memory_reservation: None,
        },
    };
    assert_eq!(cgroup.counters().unwrap(), expected);
    assert_eq!(memory.working_set(), 3496);
    assert_eq!(cgroup.swap().unwrap(), Some((40, Some(10_000_000))));
}

#[test]
fn what_a_kernel_does_not_have_is_absent() {
    let tree = v1();
    for name in ["memory.kmem.usage_in_bytes", "memory.memsw.limit_in_bytes"] {
        tree.remove("memory", name);
    }
    tree.write("memory", &[("memory.stat", "total_cache 1\n")]);
    tree.remove("blkio", "blkio.throttle.io_service_bytes_recursive");
    tree.remove("blkio", "blkio.throttle.io_serviced_recursive");
    let cgroup = tree.cgroup(&V1, None);
    let counters = cgroup.counters().unwrap();
    let memory = counters.memory.unwrap();
    assert_eq!((memory.kernel, memory.swap, counters.told.swap_limit), (None, None, None));
    assert!(counters.io.is_empty());
    assert_eq!(cgroup.swap().unwrap(), None);
    // Without the hierarchies there is nothing at all, and of a cgroup that is gone nothing is made up.
    assert_eq!(tree.cgroup(&["freezer"], None).counters().unwrap(), Counters::default());
    let gone = Cgroup::at(&cgroup.setup, "", "pod2/app").unwrap();
    assert!(gone.counters().is_err());
}

fn v2() -> Tree {
    let tree = Tree::new("v2");
    let cpu = "usage_usec 5000\nuser_usec 3000\nsystem_usec 2000\nnr_periods 52\nnr_throttled 7\nthrottled_usec 412\n\
        nr_bursts 0\nburst_usec 0\n";
    let stat = "anon 2000\nfile 1000\nkernel 512\nkernel_stack 16\nfile_mapped 300\ninactive_file 600\npgfault 110\n\
        pgmajfault 20\n";
    let psi = "some avg10=1.50 avg60=0.25 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
    tree.write(
        "unified",
        &[
            ("cpu.stat", cpu),
            ("cpu.max", "max 100000\n"),
            ("cpu.weight", "39\n"),
            ("memory.stat", stat),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("memory.swap.current", "40\n"),
            ("memory.swap.max", "max\n"),
            ("memory.events.local", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n"),
            ("memory.max", "max\n"),
            ("memory.min", "0\n"),
            ("pids.current", "5\n"),
            ("pids.max", "64\n"),
            ("io.stat", "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=1 dios=1\n254:0 \n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.rsvd.current", "0\n"),
            ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"),
            ("memory.pressure", psi),
        ],
    );
    tree
}

#[test]
fn version_2() {
    let tree = v2();
    let cgroup = tree.cgroup(&[], Some("cpu io memory hugetlb pids\n"));
    let counters = cgroup.counters().unwrap();
    assert_eq!(counters.cpu, Some(CpuTime { total: 5_000_000, user: 3_000_000, system: 2_000_000 }));
    assert_eq!(counters.throttling, Some(Throttling { periods: 52, throttled: 7, nanoseconds: 412_000 }));
    let io = Io { read_bytes: 4096, written_bytes: 8192, discarded_bytes: 1, reads: 1, writes: 2 };
    assert_eq!(counters.io, [(Device { major: 8, minor: 0 }, io)].into());
    assert_eq!(counters.huge_pages, [("1GB".to_owned(), HugePages { current: 0, peak: None })].into());
    assert_eq!((counters.threads, counters.max_threads), (Some(5), Some(64)));
    let memory = counters.memory.unwrap();
    assert_eq!((memory.current, memory.peak, memory.kernel, memory.swap), (4096, Some(8192), Some(512), Some(40)));
    assert_eq!((memory.cache, memory.anonymous, memory.mapped, memory.working_set()), (1000, 2000, 300, 3496));
    assert_eq!((memory.limit_hits, memory.faults, memory.major_faults), (3, (110, 110), (20, 20)));
    let told = Told { cpu_period: Some(100_000), cpu_weight: Some(39), memory_reservation: Some(0), ..Told::default() };
    assert_eq!(counters.told, told);
    assert_eq!(cgroup.swap().unwrap(), Some((40, None)));
    let some = Stalled { total: 1_500_000, averages: [1.5, 0.25, 0.0] };
    let full = Stalled { total: 7, averages: [0.0; 3] };
    let cpu = Pressure { some: Stalled { total: 9, ..Stalled::default() }, full: Stalled::default() };
    assert_eq!(counters.pressure, Pressures { cpu: Some(cpu), memory: Some(Pressure { some, full }), io: None });
}

#[test]
fn hybrid_has_pressure_besides_version_1() {
    let tree = v1();
    tree.write("unified", &[("io.pressure", "some avg10=0.00 avg60=0.00 avg300=2.00 total=4\nnonsense\n")]);
    let counters = tree.cgroup(&V1, Some("")).counters().unwrap();
    assert_eq!(counters.pressure.io.map(|io| (io.some.total, io.some.averages[2])), Some((4, 2.0)));
    assert_eq!((counters.pressure.cpu, counters.threads), (None, Some(5)));
}
