use super::*;
use crate::error::kind_of;
use std::os::unix::fs::PermissionsExt;
use std::thread::JoinHandle;

/// The other end of a conversation.
struct Fake(OwnedFd);

impl Fake {
    fn talk(patience: Duration, say: impl FnOnce(Fake) + Send + 'static) -> (Conversation, JoinHandle<()>) {
        let (ours, theirs) = socket::pair().unwrap();
        let deadline = Instant::now() + patience;
        let thread = std::thread::spawn(move || say(Fake(theirs)));
        (Conversation { socket: ours, deadline, has_to_answer: false }, thread)
    }

    fn say(&self, response: &Response) {
        send(self.0.as_raw_fd(), &response.encode_to_vec(), MsgFlags::empty()).unwrap();
    }

    fn tell(&self, script: &str) {
        let notify = Some(super::super::messages::Notify { script: Some(script.to_owned()) });
        self.say(&Response { kind: Kind::Notify.into(), success: true, notify, ..Response::default() });
    }

    fn hear(&self) -> Option<Request> {
        let mut buffer = vec![0; MAX_ANSWER];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap();
        (length > 0).then(|| Request::decode(&buffer[..length]).unwrap())
    }
}

const SOON: Duration = Duration::from_secs(20);

#[test]
fn the_processes_are_held_until_each_step_is_answered() {
    let (mut talk, fake) = Fake::talk(SOON, |fake| {
        for script in ["pre-dump", "network-lock", "query-ext-files", "post-dump", "network-unlock"] {
            fake.tell(script);
            let answer = fake.hear().unwrap();
            assert_eq!((answer.kind(), answer.notify_success), (Kind::Notify, Some(true)));
            let external = answer.options.map(|options| options.external).unwrap_or_default();
            assert_eq!(external.len(), usize::from(script == "query-ext-files"), "{script}");
        }
        fake.say(&Response { kind: Kind::Dump.into(), success: true, ..Response::default() });
    });
    for expected in [Progress::Paused, Progress::Captured, Progress::Over] {
        assert_eq!(talk.next().unwrap(), expected);
        if expected == Progress::Paused {
            talk.answer(vec![b"file[1:2]".to_vec()]).unwrap();
        }
    }
    fake.join().unwrap();
}

#[test]
fn refusals_silence_and_ends_are_told_apart() {
    let refused = Response { kind: Kind::Dump.into(), errno: Some(3), ..Response::default() };
    let (mut talk, fake) = Fake::talk(SOON, move |fake| fake.say(&refused));
    let error = format!("{:#}", talk.next().unwrap_err());
    assert_eq!(error, "criu could not dump the container: No such process");
    fake.join().unwrap();

    let (mut talk, fake) = Fake::talk(SOON, drop);
    fake.join().unwrap();
    assert!(format!("{:#}", talk.next().unwrap_err()).contains("ended without an answer"));

    let (mut talk, fake) = Fake::talk(Duration::from_millis(50), |fake| assert!(fake.hear().is_none()));
    assert_eq!(kind_of(&talk.next().unwrap_err()), Some(Failed::TimedOut));
    drop(talk);
    fake.join().unwrap();

    let garbage = |fake: Fake| {
        send(fake.0.as_raw_fd(), b"\xff\xff\xff", MsgFlags::empty()).unwrap();
    };
    let (mut talk, fake) = Fake::talk(SOON, garbage);
    assert!(format!("{:#}", talk.next().unwrap_err()).contains("criu's answer"));
    fake.join().unwrap();
}

/// A program that stands for criu.
fn program(place: &Path, script: &str) -> Criu {
    let path = place.join("criu");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Criu::find(&path).unwrap()
}

fn job(place: &Path) -> Job {
    let (images, work) = (place.join("images"), place.to_owned());
    std::fs::create_dir_all(&images).unwrap();
    Job { pid: 77, external: vec![b"mnt[/a]:/a".to_vec()], images, work, has_terminal: true }
}

#[test]
fn what_is_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let job = job(place.path());
    let directories = [File::open(&job.images).unwrap(), File::open(&job.work).unwrap()];
    let descriptors = [directories[0].as_raw_fd(), directories[1].as_raw_fd()];
    let (ours, _theirs) = socket::pair().unwrap();
    let talk = Conversation { socket: ours, deadline: Instant::now() + SOON, has_to_answer: false };
    let child = Command::new("true").spawn().unwrap();
    let running = Running { child, has_ended: false };
    let dump = Dump { running, talk, work: job.work.clone(), directories };
    let asked = request(&job, Version { major: 4, minor: 1 }, &dump);
    let options = asked.options.clone().unwrap();
    assert_eq!([options.images_dir_fd, options.work_dir_fd.unwrap()], descriptors);
    assert_eq!((asked.kind(), options.pid, options.log_file.as_deref()), (Kind::Dump, Some(77), Some("dump.log")));
    assert_eq!(options.external, [b"mnt[/a]:/a"]);
    let flags = [
        options.leave_running,
        options.tcp_established,
        options.ext_unix_sk,
        options.file_locks,
        options.shell_job,
        options.orphan_pts_master,
        options.notify_scripts,
        options.tcp_skip_in_flight,
    ];
    assert_eq!(flags, [Some(true); 8]);
    assert_eq!((options.manage_cgroups_mode, options.network_lock()), (Some(0), NetworkLock::Skip));
    assert!((1..=20).contains(&options.timeout.unwrap()), "{:?}", options.timeout);
    let older = request(&job, Version { major: 3, minor: 17 }, &dump);
    assert_eq!(older.options.unwrap().network_lock, None, "it does not know how to skip it");
}

#[test]
fn a_criu_that_is_not_there_is_unsupported() {
    let place = tempfile::tempdir().unwrap();
    let error = Criu::find(&place.path().join("criu")).unwrap_err();
    assert_eq!(kind_of(&error), Some(Failed::Unsupported));
    assert!(format!("{error:#}").contains("criu is not there"), "{error:#}");
}

#[test]
fn what_criu_complains_of_is_told() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(
        place.path().join(LOG),
        "(0.1) Dumping\n(0.2) Error (a.c:1): first\x1b\n(0.3) Warn\n(0.4) Error (b.c:2): last\n",
    )
    .unwrap();
    let (ours, theirs) = socket::pair().unwrap();
    let talk = Conversation { socket: ours, deadline: Instant::now() + SOON, has_to_answer: false };
    drop(theirs);
    let running = Running { child: Command::new("true").spawn().unwrap(), has_ended: false };
    let directories = [File::open(place.path()).unwrap(), File::open(place.path()).unwrap()];
    let mut dump = Dump { running, talk, work: place.path().to_owned(), directories };
    let error = format!("{:#}", dump.advance().unwrap_err());
    let log = "criu's log ends with (0.2) Error (a.c:1): first\u{fffd} / (0.4) Error (b.c:2): last";
    assert_eq!(error, format!("{log}: criu ended without an answer"));

    // Before it has a log there is what it wrote to its standard error.
    std::fs::write(place.path().join(LOG), "").unwrap();
    std::fs::write(place.path().join(STDERR), "criu: libprotobuf-c.so.1 is missing\n").unwrap();
    assert!(dump.complaint().contains("libprotobuf-c.so.1"), "{}", dump.complaint());
}

#[test]
fn a_criu_that_fails_or_hangs_is_gone_afterwards() {
    let place = tempfile::tempdir().unwrap();
    let failing = program(place.path(), "echo broken >&2; exit 1");
    let error = failing.dump(&job(place.path()), Instant::now() + SOON).err().unwrap();
    assert!(format!("{error:#}").contains("for its version"), "{error:#}");

    let pid = place.path().join("pid");
    let hanging = program(place.path(), &format!("echo $$ > {}; exec sleep 1000", pid.display()));
    let begin = Instant::now();
    let error = hanging.dump(&job(place.path()), Instant::now() + Duration::from_secs(3)).err().unwrap();
    assert_eq!(kind_of(&error), Some(Failed::TimedOut), "{error:#}");
    assert!(begin.elapsed() < GRACE, "{:?}", begin.elapsed());
    let pid = std::fs::read_to_string(pid).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}

#[test]
fn one_that_is_given_up_can_write_no_more_and_says_so_itself() {
    let place = tempfile::tempdir().unwrap();
    let (out, told) = (place.path().join("out"), place.path().join("told"));
    // As criu: it goes on writing, and undoes its work when it cannot. The told one is a FIFO, which has no size.
    nix::unistd::mkfifo(&told, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let script = format!("while echo x >> {}; do :; done; echo undone > {}; exit 1", out.display(), told.display());
    let criu = program(place.path(), &script);
    let (child, talk) = criu.spawn(Stdio::null(), Instant::now() + Duration::from_millis(200)).unwrap();
    let directories = [File::open(place.path()).unwrap(), File::open(place.path()).unwrap()];
    let mut dump =
        Dump { running: Running { child, has_ended: false }, talk, work: place.path().to_owned(), directories };
    let reader = std::thread::spawn(move || std::fs::read_to_string(told).unwrap());
    let error = dump.advance().unwrap_err();
    assert_eq!(kind_of(&error), Some(Failed::TimedOut), "{error:#}");
    assert!(dump.running.has_ended);
    assert_eq!(reader.join().unwrap(), "undone\n");
}
