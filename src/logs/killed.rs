//! A writer that is killed, and the one after it: what the container said is in the log once.

use super::journal::Journal;
use super::*;
use crate::sys::process;
use jiff::tz::TimeZone;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

fn writer(dir: &Path) -> Writer {
    let limits = Limits { max_size: Some(200_000), max_files: 1_000_000 };
    Writer::open(Place { pod_logs: dir, container: "c", restart_count: 0 }, limits, TimeZone::UTC).unwrap()
}

fn resumed(dir: &Path) -> Writer {
    let mut writer = writer(dir);
    assert_eq!(writer.resume(&dir.join("unlogged"), Timestamp::now()).unwrap(), Outcome::default());
    writer
}

fn logged(dir: &Path) -> [Vec<u8>; 2] {
    let source = Source { pod_logs: dir, container: "c", instance: Instance::Newest };
    let mut texts = [Vec::new(), Vec::new()];
    for record in Reader::open(source, Query::default()).unwrap() {
        let record = record.unwrap();
        texts[record.stream.index()].extend(record.text(Timestamps::Hidden));
    }
    texts
}

/// A FIFO that stays open, and its end for a writer of logs.
fn fifo(path: &Path) -> (OwnedFd, OwnedFd) {
    mkfifo(path, Mode::S_IRWXU).unwrap();
    let open = |flags| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let ours = open(OFlag::O_RDONLY | OFlag::O_NONBLOCK);
    (open(OFlag::O_RDWR), ours)
}

/// Copies until there is nothing; whether there was something.
fn drain(writer: &mut Writer, outputs: &[(Stream, OwnedFd)]) -> bool {
    let mut any = false;
    for (stream, fd) in outputs {
        match writer.copy(*stream, fd.as_fd(), |_| ()) {
            Ok((count, outcome)) => {
                assert_eq!(outcome, Outcome::default());
                any |= count > 0;
            }
            Err(errno) => assert_eq!(errno, Errno::EAGAIN),
        }
    }
    any
}

fn copy_until_killed(dir: &Path, outputs: &[(Stream, OwnedFd)]) -> ! {
    let mut writer = resumed(dir);
    loop {
        if !drain(&mut writer, outputs) {
            writer.release();
            let mut fds = [0, 1].map(|index: usize| PollFd::new(outputs[index].1.as_fd(), PollFlags::POLLIN));
            poll(&mut fds, PollTimeout::NONE).unwrap();
        }
    }
}

/// Lines, long and short and without an end.
fn said(round: usize) -> Vec<u8> {
    let length = [3, 90, 0, 700, 17, 5000, 40_000, 16_383][round % 8] + round % 5;
    let mut line = format!("{round} ").into_bytes();
    line.resize(line.len() + length, b'a' + (round % 26) as u8);
    line.extend((!round.is_multiple_of(3)).then_some(b'\n'));
    line
}

const KILLS: u64 = 400;

#[test]
fn of_writers_that_are_killed_at_any_moment_each_goes_on_where_the_one_before_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut theirs, mut outputs) = (Vec::new(), Vec::new());
    for stream in Stream::BOTH {
        let (container, ours) = fifo(&dir.path().join(stream.as_str()));
        theirs.push(container);
        outputs.push((stream, ours));
    }
    writer(dir.path()).keep_in(&dir.path().join("unlogged")).unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let speaking = scope.spawn(|| {
            let mut written = [Vec::new(), Vec::new()];
            let mut round = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let (bytes, index) = (said(round), round % 7 % 2);
                std::fs::File::from(theirs[index].try_clone().unwrap()).write_all(&bytes).unwrap();
                written[index].extend(bytes);
                round += 1;
            }
            written
        });
        for round in 0..KILLS {
            // One that finds the allocator's lock taken, by a thread that it does not have, does nothing until it is killed.
            let Some(child) = process::clone3(0, None).unwrap() else { copy_until_killed(dir.path(), &outputs) };
            std::thread::sleep(Duration::from_micros(200 + round * 7919 % 5000));
            process::send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
            let ended = waitpid(Pid::from_raw(child.pid), None).unwrap();
            assert!(matches!(ended, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{ended:?}");
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        // What waits for room is read here.
        let mut writer = resumed(dir.path());
        while drain(&mut writer, &outputs) || !speaking.is_finished() {}
        while drain(&mut writer, &outputs) {}
        writer.end_all(Timestamp::now());
        speaking.join().unwrap()
    });
    let logged = logged(dir.path());
    for stream in Stream::BOTH {
        let (is, ought) = (&logged[stream.index()], &written[stream.index()]);
        let first = is.iter().zip(ought).position(|(a, b)| a != b);
        assert!(is == ought, "{}: {} bytes of {}, differing at {first:?}", stream.as_str(), is.len(), ought.len());
        assert!(is.len() > 1 << 20, "{} bytes while {KILLS} were killed", is.len());
    }
}

/// What a writer had come to when it was killed.
type Moment = fn(&mut Journal, &Path);

#[test]
fn every_moment_of_a_copy_is_told_from_the_next() {
    let log = |dir: &Path| dir.join("c/0.log");
    let head = "2026-11-27T12:00:00.000000000Z stdout F ";
    let append = |dir: &Path, text: String| {
        let path = dir.join("c/0.log");
        let mut file = std::fs::File::options().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
    // The log has "old\n" and what a moment adds; the FIFO gave "one\ntwo\nthr" if it was read.
    let read: Moment = |journal, _| {
        journal.begin(Stream::Stdout, 11).unwrap().copy_from_slice(b"one\ntwo\nthr");
    };
    let announced: Moment = |journal, dir| {
        read_of(journal);
        let live = super::file::Live::open(&dir::open_dir(&dir.join("c")).unwrap(), "0.log").unwrap();
        journal.writing(Stream::Stdout, 3, live.append(2 * 44));
    };
    let rows: [(&str, Moment, usize, &str); 7] = [
        ("a read was announced", |journal, _| assert!(journal.begin(Stream::Stdout, 11).is_some()), 0, ""),
        ("it was made", read, 0, "one\ntwo\nthr"),
        ("it is known to be made", |journal, _| read_of(journal), 0, "one\ntwo\nthr"),
        ("a write was announced", announced, 0, "one\ntwo\nthr"),
        ("it was made in part", announced, 60, "one\ntwo\nthr"),
        ("it was made", announced, 88, "one\ntwo\nthr"),
        (
            "it is known to be made",
            |journal, _| {
                read_of(journal);
                journal.written(Stream::Stdout, 3);
            },
            88,
            "one\ntwo\nthr",
        ),
    ];
    for (name, moment, logged_bytes, wanted) in rows {
        let dir = tempfile::tempdir().unwrap();
        writer(dir.path()).feed(Stream::Stdout, b"old\n", Timestamp::now());
        let mut journal = Journal::create(&dir.path().join("unlogged")).unwrap();
        moment(&mut journal, dir.path());
        let lines = format!("{head}one\n{head}two\n");
        append(dir.path(), lines[..logged_bytes].to_owned());
        drop(journal);
        let mut next = resumed(dir.path());
        next.end_all(Timestamp::now());
        let text = String::from_utf8(logged(dir.path())[0].clone()).unwrap();
        assert_eq!(text, format!("old\n{wanted}"), "{name}: {}", std::fs::read_to_string(log(dir.path())).unwrap());
        // And nothing a second time.
        drop(next);
        resumed(dir.path()).end_all(Timestamp::now());
        assert_eq!(logged(dir.path())[0].len(), 4 + wanted.len(), "{name}: resumed twice");
    }
}

fn read_of(journal: &mut Journal) {
    journal.begin(Stream::Stdout, 11).unwrap().copy_from_slice(b"one\ntwo\nthr");
    assert_eq!(journal.took(Stream::Stdout, 11), b"one\ntwo\nthr");
}

/// What makes something else of a path.
type Damage = fn(&Path);

#[test]
fn what_is_no_journal_is_replaced_by_one() {
    let other: [(&str, Damage); 4] = [
        ("nothing", |_| ()),
        ("an empty file", |path| std::fs::write(path, "").unwrap()),
        ("any bytes", |path| std::fs::write(path, [0xa5; 200_000]).unwrap()),
        ("a FIFO", |path| mkfifo(path, Mode::S_IRWXU).unwrap()),
    ];
    for (name, make) in other {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("unlogged"));
        let (container, ours) = fifo(&dir.path().join("stdout"));
        let mut first = resumed(dir.path());
        std::fs::File::from(container).write_all(b"a line\nand a ha").unwrap();
        assert!(drain(&mut first, &[(Stream::Stdout, ours)]), "{name}");
        first.release();
        drop(first);
        resumed(dir.path()).end_all(Timestamp::now());
        assert_eq!(logged(dir.path())[0], b"a line\nand a ha", "{name}");
    }
}
