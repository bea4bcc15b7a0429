//! Each metric: its name, help and labels as cAdvisor has them (metrics/prometheus.go), and where its values come from.
//!
//! CRI's values are whole numbers: seconds are whole seconds.

use super::Observed;
use super::disk::device_name;
use crate::cgroups::{Device, Io, Memory, Pressure, Told};
use crate::cri::api::MetricType::{self, Counter, Gauge};
use crate::network::link::{Carried, Traffic};

/// A metric.
pub(super) struct Row<T> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    /// The labels that it has besides the common ones.
    pub(super) labels: &'static [&'static str],
    /// None if the host does not count it.
    pub(super) values: fn(&T) -> Vec<Value>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    /// Of the labels of the row.
    pub(super) labels: Vec<String>,
    pub(super) value: u64,
}

const fn row<T>(name: &'static str, help: &'static str, kind: MetricType, values: fn(&T) -> Vec<Value>) -> Row<T> {
    Row { name, help, kind, labels: &[], values }
}

const fn labelled<T>(labels: &'static [&'static str], row: Row<T>) -> Row<T> {
    Row { labels, ..row }
}

/// A value without labels of its own.
fn one(value: Option<u64>) -> Vec<Value> {
    value.map(|value| Value { labels: Vec::new(), value }).into_iter().collect()
}

fn value(labels: &[&str], value: u64) -> Value {
    Value { labels: labels.iter().map(|label| (*label).to_owned()).collect(), value }
}

fn seconds_of_nanoseconds(nanoseconds: u64) -> u64 {
    nanoseconds / 1_000_000_000
}

fn memory(of: &Observed, field: fn(&Memory) -> Option<u64>) -> Vec<Value> {
    one(of.counters.memory.as_ref().and_then(field))
}

/// Of a quota only, as cAdvisor has it.
fn throttling(of: &Observed, field: fn(&crate::cgroups::Throttling) -> u64) -> Vec<Value> {
    one(of.counters.throttling.as_ref().filter(|_| of.counters.told.cpu_quota.is_some()).map(field))
}

fn io(of: &Observed, field: fn(&Io) -> u64) -> Vec<Value> {
    of.counters.io.iter().map(|(device, io)| value(&[&device_name(device)], field(io))).collect()
}

/// In cAdvisor's words for what is done.
fn bytes_by_operation(of: &Observed) -> Vec<Value> {
    let by_operation = |(device, io): (&Device, &Io)| {
        let (name, major, minor) = (device_name(device), device.major.to_string(), device.minor.to_string());
        [("Read", io.read_bytes), ("Write", io.written_bytes), ("Discard", io.discarded_bytes)]
            .map(|(operation, bytes)| value(&[&name, &major, &minor, operation], bytes))
    };
    of.counters.io.iter().flat_map(by_operation).collect()
}

fn on_disk(of: &Observed, number: Option<u64>) -> Vec<Value> {
    number.map(|number| value(&[&of.file_system.device], number)).into_iter().collect()
}

fn faults(of: &Observed) -> Vec<Value> {
    let Some(memory) = &of.counters.memory else { return Vec::new() };
    let by_scope = |kind, (own, all)| [value(&[kind, "container"], own), value(&[kind, "hierarchy"], all)];
    let all = [by_scope("pgfault", memory.faults), by_scope("pgmajfault", memory.major_faults)];
    all.into_iter().flatten().collect()
}

/// Whole seconds of the microseconds that were waited.
fn waited(pressure: Option<Pressure>, field: fn(&Pressure) -> u64) -> Vec<Value> {
    one(pressure.as_ref().map(field).map(|microseconds| microseconds / 1_000_000))
}

fn some(pressure: &Pressure) -> u64 {
    pressure.some.total
}

fn full(pressure: &Pressure) -> u64 {
    pressure.full.total
}

/// v2's weight as shares, the way that cAdvisor reads it back: 1 to 10000 are 2 to 262144.
fn shares(told: &Told) -> Option<u64> {
    let of_weight = |weight: u64| 2 + weight.saturating_sub(1).saturating_mul(262_142) / 9999;
    told.cpu_shares.or(told.cpu_weight.map(of_weight))
}

/// A limit of memory; 0 without one. None if no hierarchy counts memory.
fn memory_limit(of: &Observed, field: fn(&Told) -> Option<u64>) -> Vec<Value> {
    one(of.counters.memory.map(|_| field(&of.counters.told).unwrap_or(0)))
}

/// Of a container.
pub(super) const OF_CONTAINERS: &[Row<Observed>] = &[
    row("container_last_seen", "Last time a container was seen by the exporter", Gauge, |of| one(Some(of.now))),
    row("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", Gauge, |of| {
        one(of.started_at)
    }),
    row("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", Counter, |of| {
        one(of.counters.cpu.map(|cpu| seconds_of_nanoseconds(cpu.user)))
    }),
    row("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", Counter, |of| {
        one(of.counters.cpu.map(|cpu| seconds_of_nanoseconds(cpu.system)))
    }),
    labelled(
        &["cpu"],
        row("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", Counter, |of| {
            of.counters.cpu.iter().map(|cpu| value(&["total"], seconds_of_nanoseconds(cpu.total))).collect()
        }),
    ),
    row("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", Counter, |of| {
        throttling(of, |throttling| throttling.periods)
    }),
    row("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", Counter, |of| {
        throttling(of, |throttling| throttling.throttled)
    }),
    row(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        Counter,
        |of| throttling(of, |throttling| seconds_of_nanoseconds(throttling.nanoseconds)),
    ),
    row("container_memory_cache", "Number of bytes of page cache memory.", Gauge, |of| {
        memory(of, |memory| Some(memory.cache))
    }),
    row("container_memory_rss", "Size of RSS in bytes.", Gauge, |of| memory(of, |memory| Some(memory.anonymous))),
    row("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", Gauge, |of| {
        memory(of, |memory| memory.kernel)
    }),
    row("container_memory_mapped_file", "Size of memory mapped files in bytes.", Gauge, |of| {
        memory(of, |memory| Some(memory.mapped))
    }),
    // Without swap, or where it is not counted, cAdvisor says 0 as well.
    row("container_memory_swap", "Container swap usage in bytes.", Gauge, |of| {
        memory(of, |memory| Some(memory.swap.unwrap_or(0)))
    }),
    row("container_memory_failcnt", "Number of memory usage hits limits", Counter, |of| {
        memory(of, |memory| Some(memory.limit_hits))
    }),
    row(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        Gauge,
        |of| memory(of, |memory| Some(memory.current)),
    ),
    row("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", Gauge, |of| {
        memory(of, |memory| memory.peak)
    }),
    row("container_memory_working_set_bytes", "Current working set in bytes.", Gauge, |of| {
        memory(of, |memory| Some(memory.working_set()))
    }),
    labelled(
        &["failure_type", "scope"],
        row("container_memory_failures_total", "Cumulative count of memory allocation failures.", Counter, faults),
    ),
    row("container_oom_events_total", "Count of out of memory events observed for the container", Counter, |of| {
        one(Some(of.oom_kills))
    }),
    labelled(
        &["pagesize"],
        row("container_hugetlb_usage_bytes", "Current hugepage usage in bytes", Gauge, |of| {
            of.counters.huge_pages.iter().map(|(size, pages)| value(&[size], pages.current)).collect()
        }),
    ),
    labelled(
        &["pagesize"],
        row("container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes", Gauge, |of| {
            let peaks = of.counters.huge_pages.iter().filter_map(|(size, pages)| Some((size, pages.peak?)));
            peaks.map(|(size, peak)| value(&[size], peak)).collect()
        }),
    ),
    labelled(
        &["device"],
        row("container_fs_inodes_free", "Number of available Inodes", Gauge, |of| {
            on_disk(of, Some(of.file_system.free_inodes))
        }),
    ),
    labelled(
        &["device"],
        row("container_fs_inodes_total", "Number of Inodes", Gauge, |of| on_disk(of, Some(of.file_system.inodes))),
    ),
    labelled(
        &["device"],
        row(
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem.",
            Gauge,
            |of| on_disk(of, Some(of.file_system.bytes)),
        ),
    ),
    labelled(
        &["device"],
        row(
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            Gauge,
            |of| on_disk(of, of.written),
        ),
    ),
    labelled(
        &["device"],
        row("container_fs_reads_bytes_total", "Cumulative count of bytes read", Counter, |of| {
            io(of, |io| io.read_bytes)
        }),
    ),
    labelled(
        &["device"],
        row("container_fs_reads_total", "Cumulative count of reads completed", Counter, |of| io(of, |io| io.reads)),
    ),
    labelled(
        &["device"],
        row("container_fs_writes_bytes_total", "Cumulative count of bytes written", Counter, |of| {
            io(of, |io| io.written_bytes)
        }),
    ),
    labelled(
        &["device"],
        row("container_fs_writes_total", "Cumulative count of writes completed", Counter, |of| io(of, |io| io.writes)),
    ),
    labelled(
        &["device", "major", "minor", "operation"],
        row("container_blkio_device_usage_total", "Blkio Device bytes usage", Counter, bytes_by_operation),
    ),
    row("container_processes", "Number of processes running inside the container.", Gauge, |of| {
        one(of.processes.map(|processes| processes.count))
    }),
    row("container_file_descriptors", "Number of open file descriptors for the container.", Gauge, |of| {
        one(of.processes.and_then(|processes| processes.open).map(|open| open.descriptors))
    }),
    row("container_sockets", "Number of open sockets for the container.", Gauge, |of| {
        one(of.processes.and_then(|processes| processes.open).map(|open| open.sockets))
    }),
    row("container_threads", "Number of threads running inside the container", Gauge, |of| one(of.counters.threads)),
    row(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        Gauge,
        |of| one(of.counters.threads.map(|_| of.counters.max_threads.unwrap_or(0))),
    ),
    labelled(
        &["ulimit"],
        row(
            "container_ulimits_soft",
            "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice",
            Gauge,
            |of| {
                let files = of.processes.and_then(|processes| processes.max_files);
                files.map(|files| value(&["max_open_files"], files)).into_iter().collect()
            },
        ),
    ),
    row("container_spec_cpu_period", "CPU period of the container.", Gauge, |of| one(of.counters.told.cpu_period)),
    row("container_spec_cpu_quota", "CPU quota of the container.", Gauge, |of| one(of.counters.told.cpu_quota)),
    row("container_spec_cpu_shares", "CPU share of the container.", Gauge, |of| one(shares(&of.counters.told))),
    row("container_spec_memory_limit_bytes", "Memory limit for the container.", Gauge, |of| {
        memory_limit(of, |told| told.memory_limit)
    }),
    row("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", Gauge, |of| {
        memory_limit(of, |told| told.swap_limit)
    }),
    row("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", Gauge, |of| {
        memory_limit(of, |told| told.memory_reservation)
    }),
    row(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        Counter,
        |of| waited(of.counters.pressure.cpu, full),
    ),
    row(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        Counter,
        |of| waited(of.counters.pressure.cpu, some),
    ),
    row(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        Counter,
        |of| waited(of.counters.pressure.memory, full),
    ),
    row(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        Counter,
        |of| waited(of.counters.pressure.memory, some),
    ),
    row(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        Counter,
        |of| waited(of.counters.pressure.io, full),
    ),
    row(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        Counter,
        |of| waited(of.counters.pressure.io, some),
    ),
];

const fn network(name: &'static str, help: &'static str, values: fn(&Vec<Traffic>) -> Vec<Value>) -> Row<Vec<Traffic>> {
    labelled(&["interface"], row(name, help, Counter, values))
}

fn received(links: &[Traffic], field: fn(&Carried) -> u64) -> Vec<Value> {
    links.iter().map(|link| value(&[&link.name], field(&link.received))).collect()
}

fn sent(links: &[Traffic], field: fn(&Carried) -> u64) -> Vec<Value> {
    links.iter().map(|link| value(&[&link.name], field(&link.sent))).collect()
}

/// Of a sandbox: its network.
pub(super) const OF_SANDBOXES: &[Row<Vec<Traffic>>] = &[
    network("container_network_receive_bytes_total", "Cumulative count of bytes received", |links| {
        received(links, |of| of.bytes)
    }),
    network("container_network_receive_packets_total", "Cumulative count of packets received", |links| {
        received(links, |of| of.packets)
    }),
    network(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |links| received(links, |of| of.dropped),
    ),
    network(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |links| received(links, |of| of.errors),
    ),
    network("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |links| {
        sent(links, |of| of.bytes)
    }),
    network("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |links| {
        sent(links, |of| of.packets)
    }),
    network(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |links| sent(links, |of| of.dropped),
    ),
    network(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |links| sent(links, |of| of.errors),
    ),
];
