//! The room as its users see it: what a container wrote comes back.

use super::*;
use jiff::tz::{Offset, TimeZone};
use nix::fcntl::{FcntlArg, fcntl};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: i64 = 1_763_834_286; // 2025-11-22T17:58:06Z

fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(SECOND) * 1_000_000_000 + i128::from(nanos)).unwrap()
}

fn writer(dir: &Path, restart_count: u32, limits: Limits) -> Writer {
    Writer::open(Place { pod_logs: dir, container: "c", restart_count }, limits, TimeZone::UTC).unwrap()
}

fn limits(max_size: u64, max_files: u32) -> Limits {
    Limits { max_size: Some(max_size), max_files }
}

fn read(dir: &Path, query: Query) -> Vec<Record> {
    let source = Source { pod_logs: dir, container: "c", instance: Instance::Newest };
    Reader::open(source, query).unwrap().collect::<Result<_, _>>().unwrap()
}

fn text(records: &[Record], stream: Stream) -> Vec<u8> {
    records.iter().filter(|r| r.stream == stream).flat_map(|r| r.text(Timestamps::Hidden)).collect()
}

fn all_text(records: &[Record]) -> String {
    String::from_utf8(records.iter().flat_map(|r| r.text(Timestamps::Hidden)).collect()).unwrap()
}

/// A log made by hand: lines of `<nanosecond> <rest>`.
fn log_by_hand(name: &str, lines: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join(name), by_hand(lines)).unwrap();
    dir
}

fn by_hand(lines: &[&str]) -> String {
    let stamped = |line: &&str| match line.split_once(' ') {
        Some((nano, rest)) if nano.len() == 1 => format!("2025-11-22T17:58:06.00000000{nano}Z {rest}\n"),
        _ => format!("{line}\n"),
    };
    lines.iter().map(stamped).collect()
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("c"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Output in pieces: mostly text with newlines, sometimes long, sometimes any bytes.
fn piece() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let bytes = prop_oneof![
        4 => proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), Just(b'F'), any::<u8>()], 0..80),
        // Not newlines: tens of thousands of files would be made of them.
        1 => (11..=255_u8, 16_000..50_000_usize, any::<bool>()).prop_map(|(byte, len, end)| {
            let mut bytes = vec![byte; len];
            bytes.extend(end.then_some(b'\n'));
            bytes
        }),
    ];
    (any::<bool>(), bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, max_shrink_iters: 60, ..ProptestConfig::default() })]
    #[test]
    fn what_was_fed_comes_back(
        pieces in proptest::collection::vec(piece(), 0..25),
        max_size in prop_oneof![Just(1_u64), 300..5_000_u64, 20_000..100_000_u64],
        followed_every in 1..5_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut follow = Follow::open(dir.path(), &["c".to_owned()], Start::Beginning).unwrap();
        let mut writer = writer(dir.path(), 0, limits(max_size, 1_000_000));
        let mut written = [Vec::new(), Vec::new()];
        let mut followed = Vec::new();
        for (i, (is_stderr, bytes)) in pieces.iter().enumerate() {
            let stream = if *is_stderr { Stream::Stderr } else { Stream::Stdout };
            written[stream.index()].extend_from_slice(bytes);
            prop_assert_eq!(writer.feed(stream, bytes, at(i as i64)), Outcome::default());
            if i % followed_every == 0 {
                followed.extend(follow.next(Some(Duration::ZERO)).unwrap());
            }
        }
        for stream in Stream::BOTH {
            prop_assert_eq!(writer.end(stream, at(100)), Outcome::default());
        }
        loop {
            let records = follow.next(Some(Duration::ZERO)).unwrap();
            if records.is_empty() {
                break;
            }
            followed.extend(records);
        }
        let read = read(dir.path(), Query::default());
        prop_assert_eq!(follow.gaps(), 0);
        prop_assert_eq!(&followed, &read);
        for stream in Stream::BOTH {
            prop_assert!(text(&read, stream) == written[stream.index()], "{} differs", stream.as_str());
        }
        prop_assert!(read.iter().all(|record| record.bytes.len() <= MAX_RECORD));
        // The last n lines, read from the end, are the last n of all.
        let lines = read.iter().filter(|record| record.starts_line).count();
        for n in [0, 1, 2, lines / 2, lines] {
            let tail = self::read(dir.path(), Query { tail: Some(n as u64), ..Query::default() });
            prop_assert_eq!(tail.iter().filter(|record| record.starts_line).count(), n.min(lines));
            for stream in Stream::BOTH {
                prop_assert!(written[stream.index()].ends_with(&text(&tail, stream)));
            }
        }
        let size = |name: &String| std::fs::metadata(dir.path().join("c").join(name)).unwrap().len();
        let records = |name: &String| std::fs::read(dir.path().join("c").join(name)).unwrap().split(|b| *b == b'\n').count() - 1;
        prop_assert!(files(dir.path()).iter().all(|name| size(name) <= max_size || records(name) == 1));
    }
}

#[test]
fn lines_of_every_length_come_back() {
    let line = |len: usize| (0..len).map(|i| b'a' + ((len + i) % 26) as u8).chain([b'\n']).collect::<Vec<u8>>();
    let lines: Vec<Vec<u8>> = (0..600).map(line).collect();
    // Together, where something follows each, and one by one.
    for pieces in [vec![lines.concat()], lines.clone()] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 0, Limits::default());
        for piece in pieces {
            assert_eq!(writer.feed(Stream::Stdout, &piece, at(0)), Outcome::default());
        }
        assert!(text(&read(dir.path(), Query::default()), Stream::Stdout) == lines.concat());
    }
}

#[test]
fn records_are_containerds() {
    let long = |n: usize| "x".repeat(n);
    let k16 = MAX_RECORD;
    type Row = (&'static str, String, Vec<(&'static str, usize)>);
    let rows: [Row; 8] = [
        ("a line", "abc\n".into(), vec![("F", 3)]),
        ("empty lines", "\n\n".into(), vec![("F", 0), ("F", 0)]),
        ("a carriage return stays", "a\r\n".into(), vec![("F", 2)]),
        ("no newline at the end", "a\nbc".into(), vec![("F", 1), ("P", 2)]),
        ("exactly 16 KiB is one record", long(k16) + "\n", vec![("F", k16)]),
        ("a byte more is two", long(k16 + 1) + "\n", vec![("P", k16), ("F", 1)]),
        ("32 KiB", long(2 * k16) + "\n", vec![("P", k16), ("F", k16)]),
        ("40 KiB without an end", long(40 * 1024), vec![("P", k16), ("P", k16), ("P", 8 * 1024)]),
    ];
    for (name, output, expected) in rows {
        for step in [1, 7, 4096, usize::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = writer(dir.path(), 0, Limits::default());
            for chunk in output.as_bytes().chunks(step.min(output.len())) {
                writer.feed(Stream::Stdout, chunk, at(5));
            }
            writer.end(Stream::Stdout, at(5));
            let log = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
            let found: Vec<_> = log
                .split_terminator('\n')
                .map(|line| {
                    line.strip_prefix("2025-11-22T17:58:06.000000005Z stdout ").unwrap().split_once(' ').unwrap()
                })
                .map(|(tag, bytes)| (tag, bytes.len()))
                .collect();
            assert_eq!(found, expected, "{name}, by {step}");
        }
    }
}

#[test]
fn times_have_the_zones_offset_and_nine_digits() {
    let zone = |hours, minutes| TimeZone::fixed(Offset::from_seconds(hours * 3600 + minutes * 60).unwrap());
    let rows = [
        ("UTC", TimeZone::UTC, "2025-11-22T17:58:06.000000000Z"),
        ("east", zone(5, 30), "2025-11-22T23:28:06.000000000+05:30"),
        ("west", zone(-3, -30), "2025-11-22T14:28:06.000000000-03:30"),
    ];
    for (name, zone, expected) in rows {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { pod_logs: dir.path(), container: "c", restart_count: 0 };
        Writer::open(place, Limits::default(), zone).unwrap().feed(Stream::Stderr, b"x\n", at(0));
        let log = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        assert_eq!(log, format!("{expected} stderr F x\n"), "{name}");
        let record = &read(dir.path(), Query::default())[0];
        assert_eq!((record.stamp.as_str(), record.time), (expected, at(0)), "{name}");
    }
}

#[test]
fn old_files_go_and_names_are_in_order_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = writer(dir.path(), 0, limits(100, 3));
    // Two records fit a file. The clock: thrice the same second, a second on, an hour back.
    for (i, second) in [0, 0, 0, 0, 0, 0, 1, 1, -3600, -3600, -3600].into_iter().enumerate() {
        log.feed(Stream::Stdout, format!("{i}\n").as_bytes(), at(second * 1_000_000_000));
    }
    assert_eq!(files(dir.path()), ["0.log", "0.log.20251122-175807.0001", "0.log.20251122-175807.0002"]);
    assert_eq!(all_text(&read(dir.path(), Query::default())), "6\n7\n8\n9\n10\n");
    // A new writer, as after the supervisor's death, goes on where the old one was.
    drop(log);
    let mut log = writer(dir.path(), 0, limits(100, 3));
    log.feed(Stream::Stdout, b"11\n12\n", at(0));
    assert_eq!(files(dir.path()), ["0.log", "0.log.20251122-175807.0002", "0.log.20251122-175807.0003"]);
    assert_eq!(all_text(&read(dir.path(), Query::default())), "8\n9\n10\n11\n12\n");
}

#[test]
fn a_pipe_in_which_much_is_found_is_made_larger() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path(), 0, limits(u64::MAX, 1));
    writer.keep_in(&dir.path().join("unlogged")).unwrap();
    for (bytes, size) in [(1000, 64 << 10), (64 << 10, 256 << 10)] {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        assert_eq!(nix::unistd::write(&pipe, &vec![b'x'; bytes]), Ok(bytes));
        assert_eq!(writer.copy(Stream::Stdout, reader.as_fd(), |_| {}).unwrap().0, bytes);
        assert_eq!(fcntl(&reader, FcntlArg::F_GETPIPE_SZ), Ok(size));
    }
}

#[test]
fn modes_are_the_kubelets() {
    let dir = tempfile::tempdir().unwrap();
    let pod = dir.path().join("a/b");
    writer(&pod, 0, Limits::default());
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(pod.join("c")), mode(pod.join("c/0.log"))), (0o755, 0o640));
}

#[test]
fn a_torn_line_is_ended_and_skipped() {
    let dir = log_by_hand("0.log", &["1 stdout F one"]);
    let path = dir.path().join("c/0.log");
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(b"2025-11-22T17:58:06.0000000");
    std::fs::write(&path, torn).unwrap();
    writer(dir.path(), 0, Limits::default()).feed(Stream::Stdout, b"two\n", at(2));
    assert_eq!(all_text(&read(dir.path(), Query::default())), "one\ntwo\n");
}

#[test]
fn only_real_log_files_are_opened() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), by_hand(&["1 stdout F secret"])).unwrap();
    type Trick = fn(&Path, &Path);
    let rows: [(&str, Trick); 4] = [
        ("the log is a symlink", |dir, secret| symlink(secret, dir.join("c/0.log")).unwrap()),
        ("a rotated log is a symlink", |dir, secret| symlink(secret, dir.join("c/0.log.20251122-175806")).unwrap()),
        ("the log is a FIFO", |dir, _| {
            nix::unistd::mkfifo(&dir.join("c/0.log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("the directory is a symlink", |dir, secret| {
            std::fs::remove_dir(dir.join("c")).unwrap();
            std::fs::create_dir(dir.join("elsewhere")).unwrap();
            std::fs::copy(secret, dir.join("elsewhere/0.log")).unwrap();
            symlink("elsewhere", dir.join("c")).unwrap();
        }),
    ];
    for (name, trick) in rows {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("c")).unwrap();
        trick(dir.path(), secret.path());
        let source = Source { pod_logs: dir.path(), container: "c", instance: Instance::Newest };
        let read = Reader::open(source, Query::default()).map(|reader| reader.collect::<Vec<_>>());
        assert!(read.is_err(), "{name}: read {read:?}");
        let follow = Follow::open(dir.path(), &["c".to_owned()], Start::Beginning);
        assert!(follow.is_err(), "{name}: followed");
        if !name.contains("rotated") {
            let place = Place { pod_logs: dir.path(), container: "c", restart_count: 0 };
            assert!(Writer::open(place, Limits::default(), TimeZone::UTC).is_err(), "{name}: written");
        }
    }
    assert_eq!(std::fs::read_to_string(secret.path()).unwrap(), by_hand(&["1 stdout F secret"]));
}

#[test]
fn queries() {
    let dir = log_by_hand(
        "0.log.20251122-175806",
        &["0 stdout F zero", "nonsense", "1 stdout P be", "2 stderr F error", "2 stdout P gin"],
    );
    let live = by_hand(&["3 stdout F end", "4 stderr F two", "5 stdout F:x three", "6 stdout P op"]);
    std::fs::write(dir.path().join("c/0.log"), live).unwrap();
    let rows = [
        ("all", Query::default(), "zero\nbeerror\nginend\ntwo\nthree\nop"),
        ("none", Query { tail: Some(0), ..Query::default() }, ""),
        ("the unfinished line is one", Query { tail: Some(1), ..Query::default() }, "op"),
        ("3", Query { tail: Some(3), ..Query::default() }, "two\nthree\nop"),
        (
            "a line in parts is one, without what came between",
            Query { tail: Some(4), ..Query::default() },
            "beginend\ntwo\nthree\nop",
        ),
        ("5", Query { tail: Some(5), ..Query::default() }, "beerror\nginend\ntwo\nthree\nop"),
        ("more than there are", Query { tail: Some(50), ..Query::default() }, "zero\nbeerror\nginend\ntwo\nthree\nop"),
        ("since, by the line's beginning", Query { since: Some(at(2)), ..Query::default() }, "error\ntwo\nthree\nop"),
        ("tail, then since", Query { tail: Some(4), since: Some(at(5)), ..Query::default() }, "three\nop"),
        ("since the future", Query { since: Some(at(50)), ..Query::default() }, ""),
        ("limited", Query { limit_bytes: Some(9), ..Query::default() }, "zero\nbeer"),
        ("limited at a newline", Query { limit_bytes: Some(5), ..Query::default() }, "zero\n"),
        ("limited before a newline", Query { limit_bytes: Some(4), ..Query::default() }, "zero"),
        ("limited to nothing", Query { limit_bytes: Some(0), ..Query::default() }, ""),
    ];
    for (name, query, expected) in rows {
        assert_eq!(all_text(&read(dir.path(), query)), expected, "{name}");
    }
    let shown = Query { timestamps: Timestamps::Shown, limit_bytes: Some(45), ..Query::default() };
    let shown: Vec<_> = read(dir.path(), shown).iter().flat_map(|r| r.text(Timestamps::Shown)).collect();
    assert_eq!(
        String::from_utf8(shown).unwrap(),
        "2025-11-22T17:58:06.000000000Z zero\n2025-11-22T17:58:06.000000001Z "
    );
}

#[test]
fn instances_are_chosen() {
    let dir = log_by_hand("0.log", &["1 stdout F zeroth"]);
    std::fs::write(dir.path().join("c/3.log"), by_hand(&["2 stdout F third"])).unwrap();
    std::fs::write(dir.path().join("c/3.log.gz"), "x").unwrap();
    assert_eq!(instances(dir.path(), "c").unwrap(), [0, 3]);
    assert!(instances(dir.path(), "none").unwrap().is_empty());
    let open = |container, instance| {
        let reader = Reader::open(Source { pod_logs: dir.path(), container, instance }, Query::default());
        reader.map(|reader| all_text(&reader.collect::<Result<Vec<_>, _>>().unwrap()))
    };
    assert_eq!(open("c", Instance::Newest).unwrap(), "third\n");
    assert_eq!(open("c", Instance::Previous).unwrap(), "zeroth\n");
    assert_eq!(open("c", Instance::Number(0)).unwrap(), "zeroth\n");
    for (container, instance) in [("c", Instance::Number(1)), ("none", Instance::Newest), ("none", Instance::Previous)]
    {
        let error = open(container, instance).unwrap_err();
        assert_eq!(crate::error::kind_of(&error), Some(crate::error::Kind::NotFound), "{error:#}");
    }
}

#[test]
fn a_tail_is_read_from_the_end() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("c")).unwrap();
    // 1 GiB of nothing, which would take long to read, before the last lines.
    let path = dir.path().join("c/0.log");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(1 << 30).unwrap();
    let lines: Vec<String> = (0..9).map(|i| format!("{i} stdout F line {i}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    std::os::unix::fs::FileExt::write_all_at(&file, format!("\n{}", by_hand(&lines)).as_bytes(), 1 << 30).unwrap();
    let begun = std::time::Instant::now();
    let tail = read(dir.path(), Query { tail: Some(2), ..Query::default() });
    assert_eq!(all_text(&tail), "line 7\nline 8\n");
    assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
}

#[test]
fn last_lines_are_cut_at_the_front() {
    let dir = log_by_hand("2.log", &["1 stdout F one", "2 stderr F two", "3 stdout F drei\u{20ac}", "4 stdout P end"]);
    let path = dir.path().join("c/2.log");
    let rows = [
        (80, 2048, "one\ntwo\ndrei\u{20ac}\nend"),
        (2, 2048, "drei\u{20ac}\nend"),
        (80, 4, "\nend"),
        (80, 6, "\nend"),
        (80, 7, "\u{20ac}\nend"),
    ];
    for (lines, bytes, expected) in rows {
        assert_eq!(last_lines(&path, lines, bytes).unwrap(), expected, "{lines} lines, {bytes} bytes");
    }
    assert_eq!(last_lines(&dir.path().join("c/3.log"), 80, 2048).unwrap(), "");
    assert_eq!(last_lines(&dir.path().join("d/0.log"), 80, 2048).unwrap(), "");
}

fn follow(dir: &Path, containers: &[&str], start: Start) -> Follow {
    let containers: Vec<String> = containers.iter().map(|name| (*name).to_owned()).collect();
    Follow::open(dir, &containers, start).unwrap()
}

#[test]
fn directories_containers_and_instances_may_come_later() {
    let root = tempfile::tempdir().unwrap();
    let pod = root.path().join("logs/pods/default_p_1");
    let mut follow = follow(&pod, &["a", "c"], Start::Beginning);
    let none = |follow: &mut Follow| assert!(follow.next(Some(Duration::ZERO)).unwrap().is_empty());
    none(&mut follow);
    std::fs::create_dir(root.path().join("logs")).unwrap();
    none(&mut follow);
    let mut zero = writer(&pod, 0, Limits::default());
    zero.feed(Stream::Stdout, b"zero\n", at(0));
    let records = follow.next(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(all_text(&records), "zero\n");
    assert_eq!((records[0].container, records[0].restart_count), (1, 0));
    let place = Place { pod_logs: &pod, container: "a", restart_count: 4 };
    let mut other = Writer::open(place, Limits::default(), TimeZone::UTC).unwrap();
    other.feed(Stream::Stderr, b"other\n", at(2));
    let mut one = writer(&pod, 1, Limits::default());
    one.feed(Stream::Stdout, b"one\n", at(3));
    // A leftover process of the instance before.
    zero.feed(Stream::Stdout, b"late\n", at(1));
    let records = follow.next(Some(Duration::from_secs(5))).unwrap();
    let found: Vec<_> = records.iter().map(|r| (r.container, r.restart_count, r.bytes.as_slice())).collect();
    assert_eq!(found, [(1, 0, &b"late"[..]), (0, 4, b"other"), (1, 1, b"one")]);
    none(&mut follow);
}

#[test]
fn a_wait_ends_with_output_from_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let mut follow = follow(dir.path(), &["c"], Start::Beginning);
    let path = dir.path().to_owned();
    const LINES: usize = 20_000;
    let thread = std::thread::spawn(move || {
        // Small files, kept all: hundreds of rotations while the follower reads.
        let mut writer = writer(&path, 0, limits(4000, 1_000_000));
        for i in 0..LINES {
            writer.feed(Stream::Stdout, format!("{i}\n").as_bytes(), at(i as i64));
        }
    });
    let mut seen = 0;
    while seen < LINES {
        let records = follow.next(Some(Duration::from_secs(20))).unwrap();
        assert!(!records.is_empty(), "only {seen} lines came");
        for record in records {
            assert_eq!(record.bytes, seen.to_string().as_bytes());
            seen += 1;
        }
    }
    thread.join().unwrap();
    assert_eq!(follow.gaps(), 0);
    assert!(follow.next(Some(Duration::ZERO)).unwrap().is_empty());
}

#[test]
fn a_follower_too_far_behind_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = writer(dir.path(), 0, limits(50, 2));
    log.feed(Stream::Stdout, b"0\n", at(0));
    let mut follow = follow(dir.path(), &["c"], Start::Beginning);
    assert_eq!(all_text(&follow.next(Some(Duration::ZERO)).unwrap()), "0\n");
    log.feed(Stream::Stdout, b"1\n2\n3\n4\n", at(1));
    let mut text = String::new();
    for _ in 0..3 {
        text += &all_text(&follow.next(Some(Duration::ZERO)).unwrap());
    }
    assert_eq!((text.as_str(), follow.gaps()), ("3\n4\n", 1));
}

#[test]
fn following_may_start_with_a_tail() {
    let dir = log_by_hand("0.log", &["1 stdout F old"]);
    let mut one = writer(dir.path(), 1, limits(100, 5));
    one.feed(Stream::Stdout, b"a\nb\nc\n", at(2));
    one.feed(Stream::Stderr, &[b'x'; MAX_RECORD + 1], at(2));
    let query = Query { tail: Some(2), ..Query::default() };
    let mut follow = follow(dir.path(), &["c"], Start::Newest(query));
    let first = follow.next(Some(Duration::ZERO)).unwrap();
    assert_eq!(first.iter().map(|r| r.bytes.len()).collect::<Vec<_>>(), [1, MAX_RECORD]);
    one.feed(Stream::Stderr, b"y\n", at(3));
    one.feed(Stream::Stdout, b"d\n", at(4));
    assert_eq!(all_text(&follow.next(Some(Duration::ZERO)).unwrap()), "xy\nd\n");
    writer(dir.path(), 2, Limits::default()).feed(Stream::Stdout, b"new\n", at(5));
    assert_eq!(all_text(&follow.next(Some(Duration::ZERO)).unwrap()), "new\n");
}
