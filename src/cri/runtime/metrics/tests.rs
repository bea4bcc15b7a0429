//! The table: that it is whole, and what its values are.

use super::table::{OF_CONTAINERS, OF_SANDBOXES, Row};
use super::*;
use crate::cgroups::{CpuTime, Device, HugePages, Io, Memory, Pressure, Pressures, Stalled, Throttling, Told};
use crate::network::link::Carried;
use processes::Open;
use std::collections::BTreeSet;

/// What a kubelet with another runtime serves, besides: those of Kubernetes 1.37 as cri-tools lists them.
const EXPECTED: &str = "container_blkio_device_usage_total container_cpu_cfs_periods_total \
    container_cpu_cfs_throttled_periods_total container_cpu_cfs_throttled_seconds_total container_cpu_system_seconds_total \
    container_cpu_usage_seconds_total container_cpu_user_seconds_total container_file_descriptors container_fs_inodes_free \
    container_fs_inodes_total container_fs_limit_bytes container_fs_reads_bytes_total container_fs_reads_total \
    container_fs_usage_bytes container_fs_writes_bytes_total container_fs_writes_total container_hugetlb_max_usage_bytes \
    container_hugetlb_usage_bytes container_last_seen container_memory_cache container_memory_failcnt \
    container_memory_failures_total container_memory_kernel_usage container_memory_mapped_file \
    container_memory_max_usage_bytes container_memory_rss container_memory_swap container_memory_usage_bytes \
    container_memory_working_set_bytes container_network_receive_bytes_total container_network_receive_errors_total \
    container_network_receive_packets_dropped_total container_network_receive_packets_total \
    container_network_transmit_bytes_total container_network_transmit_errors_total \
    container_network_transmit_packets_dropped_total container_network_transmit_packets_total container_oom_events_total \
    container_pressure_cpu_stalled_seconds_total container_pressure_cpu_waiting_seconds_total \
    container_pressure_io_stalled_seconds_total container_pressure_io_waiting_seconds_total \
    container_pressure_memory_stalled_seconds_total container_pressure_memory_waiting_seconds_total container_processes \
    container_sockets container_spec_cpu_period container_spec_cpu_quota container_spec_cpu_shares \
    container_spec_memory_limit_bytes container_spec_memory_reservation_limit_bytes container_spec_memory_swap_limit_bytes \
    container_start_time_seconds container_threads container_threads_max container_ulimits_soft";

fn everything() -> Observed {
    let stalled = |total| Stalled { total, averages: [0.0; 3] };
    let pressure = |some, full| Some(Pressure { some: stalled(some), full: stalled(full) });
    let memory = Memory {
        current: 900,
        peak: Some(950),
        cache: 1,
        anonymous: 2,
        mapped: 3,
        inactive_file: 100,
        kernel: Some(4),
        swap: None,
        limit_hits: 5,
        faults: (6, 60),
        major_faults: (7, 70),
    };
    let told = Told { cpu_quota: Some(20_000), cpu_period: Some(100_000), cpu_weight: Some(100), ..Told::default() };
    let io = Io { read_bytes: 10, written_bytes: 20, discarded_bytes: 30, reads: 1, writes: 2 };
    let counters = Counters {
        cpu: Some(CpuTime { total: 3_999_999_999, user: 2_000_000_000, system: 1_500_000_000 }),
        throttling: Some(Throttling { periods: 50, throttled: 5, nanoseconds: 2_500_000_000 }),
        memory: Some(memory),
        io: [(Device { major: 4095, minor: 7 }, io)].into(),
        huge_pages: [("2MB".to_owned(), HugePages { current: 2 << 20, peak: Some(4 << 20) })].into(),
        threads: Some(8),
        max_threads: None,
        pressure: Pressures {
            cpu: pressure(1_900_000, 0),
            memory: pressure(3_000_000, 2_000_000),
            io: pressure(5_000_000, 4_000_000),
        },
        told,
    };
    Observed {
        counters,
        oom_kills: 9,
        processes: Some(Processes {
            count: 3,
            open: Some(Open { descriptors: 12, sockets: 4 }),
            max_files: Some(1024),
        }),
        written: Some(4096),
        file_system: FileSystem { device: "/dev/vda".into(), bytes: 1 << 30, inodes: 1000, free_inodes: 900 },
        started_at: Some(77),
        now: 88,
    }
}

fn traffic() -> Vec<Traffic> {
    let carried = |base| Carried { bytes: base, packets: base + 1, errors: base + 2, dropped: base + 3 };
    ["eth0", "net1"].map(|name| Traffic { name: name.to_owned(), received: carried(10), sent: carried(20) }).to_vec()
}

const BASE: [&str; 6] = ["/podshim/s/c", "c", "image", "app", "web", "shop"];

/// The values of a metric, with the labels that are its own.
fn found(all: &[api::Metric], name: &str) -> Vec<(String, u64)> {
    let of_name = all.iter().filter(|metric| metric.name == name);
    of_name.map(|metric| (metric.label_values[6..].join(","), metric.value.unwrap().value)).collect()
}

#[test]
fn each_has_a_name_help_and_values_for_its_labels() {
    fn check<T>(rows: &[Row<T>], of: &T) -> BTreeSet<&'static str> {
        for row in rows {
            assert!(!row.help.is_empty(), "{}", row.name);
            let values = (row.values)(of);
            assert!(!values.is_empty(), "{}", row.name);
            assert!(values.iter().all(|value| value.labels.len() == row.labels.len()), "{} {values:?}", row.name);
            let different: BTreeSet<_> = values.iter().map(|value| &value.labels).collect();
            assert_eq!(different.len(), values.len(), "{}: the same labels twice", row.name);
            // How many inodes there are is no count of events, and cAdvisor's name of it says otherwise.
            let is_counter = row.name != "container_fs_inodes_total"
                && (row.name.ends_with("_total") || row.name.ends_with("failcnt"));
            assert_eq!(row.kind == api::MetricType::Counter, is_counter, "{}", row.name);
        }
        let names: BTreeSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len(), "a name stands twice");
        names
    }
    let mut names = check(OF_CONTAINERS, &everything());
    names.extend(check(OF_SANDBOXES, &traffic()));
    assert_eq!(names, EXPECTED.split_whitespace().collect());
}

#[test]
fn values_of_a_container() {
    let all = metrics(OF_CONTAINERS, BASE, &everything());
    for (name, expected) in [
        ("container_last_seen", &[("", 88)][..]),
        ("container_start_time_seconds", &[("", 77)]),
        ("container_cpu_usage_seconds_total", &[("total", 3)]),
        ("container_cpu_user_seconds_total", &[("", 2)]),
        ("container_cpu_cfs_throttled_seconds_total", &[("", 2)]),
        ("container_memory_working_set_bytes", &[("", 800)]),
        ("container_memory_swap", &[("", 0)]),
        (
            "container_memory_failures_total",
            &[
                ("pgfault,container", 6),
                ("pgfault,hierarchy", 60),
                ("pgmajfault,container", 7),
                ("pgmajfault,hierarchy", 70),
            ],
        ),
        ("container_hugetlb_max_usage_bytes", &[("2MB", 4 << 20)]),
        ("container_fs_usage_bytes", &[("/dev/vda", 4096)]),
        ("container_fs_writes_total", &[("4095:7", 2)]),
        (
            "container_blkio_device_usage_total",
            &[("4095:7,4095,7,Read", 10), ("4095:7,4095,7,Write", 20), ("4095:7,4095,7,Discard", 30)],
        ),
        ("container_threads_max", &[("", 0)]),
        ("container_ulimits_soft", &[("max_open_files", 1024)]),
        ("container_spec_cpu_shares", &[("", 2597)]),
        ("container_spec_memory_limit_bytes", &[("", 0)]),
        ("container_pressure_cpu_waiting_seconds_total", &[("", 1)]),
        ("container_pressure_memory_stalled_seconds_total", &[("", 2)]),
    ] {
        let expected: Vec<_> = expected.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect();
        assert_eq!(found(&all, name), expected, "{name}");
    }
    assert!(all.iter().all(|metric| metric.label_values[..6] == BASE && metric.timestamp == 0));
}

#[test]
fn what_is_not_counted_is_not_told() {
    let mut of = everything();
    of.counters = Counters::default();
    (of.processes, of.written, of.started_at) = (None, None, None);
    let all = metrics(OF_CONTAINERS, BASE, &of);
    let names: Vec<&str> = all.iter().map(|metric| metric.name.as_str()).collect();
    let expected = [
        "container_last_seen",
        "container_oom_events_total",
        "container_fs_inodes_free",
        "container_fs_inodes_total",
        "container_fs_limit_bytes",
    ];
    assert_eq!(names, expected);
    let mut of = everything();
    of.counters.told.cpu_quota = None;
    assert_eq!(found(&metrics(OF_CONTAINERS, BASE, &of), "container_cpu_cfs_periods_total"), [], "without a quota");
    of.processes = Some(Processes { count: 3, open: None, max_files: None });
    let all = metrics(OF_CONTAINERS, BASE, &of);
    assert_eq!(found(&all, "container_processes"), [(String::new(), 3)]);
    assert_eq!((found(&all, "container_sockets"), found(&all, "container_ulimits_soft")), (vec![], vec![]));
}

#[test]
fn values_of_a_sandbox() {
    let all = metrics(OF_SANDBOXES, BASE, &traffic());
    let of = |name: &str| found(&all, name);
    let both = |value| vec![("eth0".to_owned(), value), ("net1".to_owned(), value)];
    assert_eq!(of("container_network_receive_bytes_total"), both(10));
    assert_eq!(of("container_network_receive_packets_dropped_total"), both(13));
    assert_eq!(of("container_network_transmit_errors_total"), both(22));
}

#[test]
fn descriptors_have_the_labels_of_the_values() {
    let of = |name: &str| {
        let row = OF_CONTAINERS.iter().find(|row| row.name == name).unwrap();
        descriptor(row.name, row.help, row.labels).label_keys.join(",")
    };
    assert_eq!(of("container_processes"), "id,name,image,container,pod,namespace");
    assert_eq!(of("container_memory_failures_total"), "id,name,image,container,pod,namespace,failure_type,scope");
}
