//! `podshim lab`: each lesson is played by a student who does nothing, who goes wrong in each typical way, and who does it.
//!
//! What is wrong and what is right is in the lessons' own files. Commands are run as a student runs them, in a shell of the lab.

use crate::harness::{Host, Output, ip, until};
use podshim::lab::{Lesson, Lessons};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// podshim lab.
fn lab(host: &Host, words: &[&str]) -> Output {
    host.run(&[&["lab"], words].concat())
}

/// Runs a script in a shell of the lab. What it leaves in the background keeps its output, which is a file.
#[track_caller]
fn in_shell(host: &Host, script: &str) -> String {
    let path = host.path("said");
    let file = File::create(&path).unwrap();
    let mut command = host.command(&["lab", "shell", "bash", "-c", script]);
    command.stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = command.spawn().unwrap();
    until("the end of the script", || child.try_wait().unwrap());
    std::fs::read_to_string(path).unwrap()
}

/// Takes a lesson away also where the test fails.
struct Tidy<'a>(&'a Host);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for user in ["0", "1001", "1002"] {
                let mut command = self.0.command(&["lab", "reset"]);
                let _ = command.env("SUDO_UID", user).output();
            }
        }
    }
}

/// A variable of the lab.
fn variable(host: &Host, name: &str) -> String {
    let all = lab(host, &["env"]).expect(0).out;
    let line = all.lines().find_map(|line| line.strip_prefix(&format!("export {name}='")));
    line.unwrap_or_else(|| panic!("no {name} in {all}")).trim_end_matches('\'').to_owned()
}

/// The hint of a check that failed, in one line.
fn hint(checked: &Output) -> String {
    let flat = checked.out.split_whitespace().collect::<Vec<_>>().join(" ");
    flat.rsplit_once("Hint: ").map(|(_, hint)| hint.to_owned()).unwrap_or_default()
}

/// Checks again and again, as what was left in the background may take a moment, until it is as expected.
#[track_caller]
fn expect_check(host: &Host, what: &str, hint_has: Option<&str>) {
    let mut last = String::new();
    for _ in 0..12 {
        let checked = lab(host, &["check"]);
        let fine = match hint_has {
            None => checked.code == 0,
            Some(words) => checked.code == 1 && hint(&checked).contains(words),
        };
        if fine {
            return;
        }
        last = format!("{} {}\n{}", checked.code, checked.out, checked.err);
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    panic!(
        "{what}: expected {hint_has:?}, got\n{last}\nthe script said {:?}",
        std::fs::read_to_string(host.path("said"))
    );
}

/// What may be left of the lab beside what the harness looks for: names of network namespaces, links, files.
#[track_caller]
fn assert_gone(host: &Host, token: &str, what: &str) {
    let mut left = host.leaks();
    for folder in ["/run/netns", "/dev/shm", "/sys/class/net"] {
        let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
        left.extend(names.filter_map(|n| n.into_string().ok()).filter(|n| n.contains(token)));
    }
    if let Ok(entries) = std::fs::read_dir(host.path("state/lab")) {
        left.push(format!("state/lab: {:?}", entries.collect::<Vec<_>>()));
    }
    let images = host.ok(&["image", "ls"]);
    left.extend(images.lines().filter(|line| line.contains(token)).map(str::to_owned));
    let layers = std::fs::read_dir(host.path("root/layers")).into_iter().flatten().count();
    assert!(left.is_empty() && layers == 0, "{what}: {layers} layers, left behind:\n{}", left.join("\n"));
}

/// What sed(1) makes of a text.
fn changed(text: &str, expression: &str) -> String {
    let mut sed = Command::new("sed").arg(expression).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sed.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = String::from_utf8(sed.wait_with_output().unwrap().stdout).unwrap();
    assert_ne!(out, text, "{expression} changes nothing");
    out
}

fn lesson(number: u32) -> Lesson {
    Lessons::built_in().unwrap().list.into_iter().find(|lesson| lesson.number == number).unwrap()
}

/// Plays a student who tries everything that the lesson's file knows.
fn play(number: u32) {
    let Some(host) = Host::bare(&["bash", "ip", "busybox", "setpriv", "perl"]) else { return };
    let _tidy = Tidy(&host);
    let Lesson { body, .. } = lesson(number);
    let number = number.to_string();
    let mut token = String::new();
    for wrong in &body.wrong {
        lab(&host, &["start", &number]).expect(0);
        token = variable(&host, "LAB_NAME");
        let script = match wrong.change.as_str() {
            "" => wrong.run.clone(),
            expression => changed(&body.solution, expression),
        };
        if !script.is_empty() {
            in_shell(&host, &script);
        }
        expect_check(&host, &wrong.name, Some(&wrong.hint));
        lab(&host, &["reset"]).expect(0);
        assert_gone(&host, &token, &wrong.name);
    }
    // What is shown may be copied: no command of the text is unknown to the shell.
    lab(&host, &["start", &number]).expect(0);
    for step in &body.steps {
        let checked = Command::new("bash").args(["-n", "-c", &step.run]).output().unwrap();
        assert!(checked.status.success(), "{}: {}", step.run, String::from_utf8_lossy(&checked.stderr));
    }
    in_shell(&host, &body.solution);
    expect_check(&host, "the solution", None);
    lab(&host, &["show", "--solution"]).expect(0);
    lab(&host, &["reset"]).expect(0);
    assert_gone(&host, &token, "the solution");
}

macro_rules! lessons {
    ($($name:ident $number:literal)*) => { $(
        #[test]
        fn $name() {
            play($number);
        }
    )* };
}

lessons! {
    lesson_01_process 1
    lesson_02_uts 2
    lesson_03_mount 3
    lesson_04_pid 4
    lesson_05_loopback 5
    lesson_06_veth 6
    lesson_07_ipc 7
    lesson_08_user 8
    lesson_09_cpu 9
    lesson_10_memory 10
    lesson_11_capabilities 11
    lesson_12_seccomp 12
    lesson_13_overlay 13
    lesson_14_init 14
    lesson_15_signals 15
    lesson_16_by_hand 16
}

/// The commands that lessons show: run one after the other, they go on to the end, and a reset takes away what they left.
#[test]
fn the_commands_that_are_shown_run() {
    let Some(host) = Host::bare(&["bash", "ip", "busybox", "lsns", "findmnt"]) else { return };
    let _tidy = Tidy(&host);
    for Lesson { number, body, .. } in Lessons::built_in().unwrap().list {
        lab(&host, &["start", &number.to_string()]).expect(0);
        let v1 = variable(&host, "LAB_CGROUP_VERSION") == "1";
        let (token, mut script) =
            (variable(&host, "LAB_NAME"), "shopt -s expand_aliases; sleep() { command sleep $1; }\n".to_owned());
        let other = if v1 { podshim::lab::lesson::Cgroups::V2 } else { podshim::lab::lesson::Cgroups::V1 };
        for step in body.steps.iter().filter(|step| step.only != Some(other)) {
            script.push_str(&step.run);
            script.push('\n');
        }
        script.push_str("echo the end\n");
        let said = in_shell(&host, &script);
        assert!(said.contains("the end\n"), "{number}: {said}");
        for words in ["command not found", "syntax error", "Usage:", "invalid option", "unrecognized option"] {
            assert!(!said.contains(words), "{number}: {words} in {said}");
        }
        lab(&host, &["reset"]).expect(0);
        assert_gone(&host, &token, &format!("the commands of lesson {number}"));
    }
}

#[test]
fn a_course_from_its_beginning() {
    let Some(host) = Host::bare(&["bash", "lsns"]) else { return };
    let _tidy = Tidy(&host);
    lab(&host, &["check"]).expect(125).says(&["no lesson is begun", "podshim lab start 1"]);
    lab(&host, &["start", "99"]).expect(125).says(&["no lesson \"99\""]);
    let shown = lab(&host, &["start", "1"]).expect(0).out;
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let net = std::fs::read_link("/proc/self/ns/net").map(|path| path.display().to_string());
    assert!(shown.contains(&format!("this machine is called {name}")), "{shown}");
    assert!(shown.contains(&net.unwrap()) && !shown.contains("{{"), "numbers are the machine's own: {shown}");
    assert!(shown.contains("Question\n") && shown.contains("  b) Yes, in one of each kind"), "{shown}");
    assert!(!shown.contains("echo $! >\"$LAB/pid\""), "the solution is not shown: {shown}");
    assert_eq!(lab(&host, &["show"]).expect(0).out.trim(), shown.rsplit_once("\n\nThe commands").unwrap().0.trim());
    lab(&host, &["predict", "z"]).expect(125).says(&["no answer 'z'"]);
    assert!(lab(&host, &["predict", "a"]).expect(0).out.starts_with("Not so: "));
    assert!(lab(&host, &["predict", "B"]).expect(0).out.starts_with("Right: "));
    lab(&host, &["next"]).expect(125).says(&["is not passed yet", "--skip"]);
    lab(&host, &["show", "--solution"]).expect(125).says(&["when you have passed"]);
    for expected in ["Hint 1 of 3: ", "Hint 2 of 3: ", "Hint 3 of 3: ", "Hint 3 of 3: "] {
        assert!(lab(&host, &["hint"]).expect(0).out.starts_with(expected));
    }
    lab(&host, &["check", "2"]).expect(125).says(&["Lesson 2 (uts) is not begun, but Lesson 1 (process)"]);
    in_shell(&host, &lesson(1).body.solution);
    let passed = lab(&host, &["check"]).expect(0).out;
    assert!(passed.contains("\nPassed. ") && passed.contains("podshim lab next"), "{passed}");
    assert!(lab(&host, &["next"]).expect(0).out.starts_with("Lesson 2: "));
    let list = lab(&host, &["list"]).expect(0).out;
    let row = |number: &str| {
        list.lines().find(|l| l.starts_with(number)).unwrap().split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!((row("1 "), row("2 ")), ("passed".into(), "begun".into()), "{list}");
    let progress: serde_json::Value =
        serde_json::from_slice(&std::fs::read(host.path("root/lab/0/progress.json")).unwrap()).unwrap();
    let first = &progress["lessons"]["process"];
    assert_eq!(
        (&first["prediction"], &first["hints"], &first["checks"]),
        (&"b".into(), &3.into(), &1.into()),
        "{first}"
    );
    assert!(first["started"].as_str() <= first["passed"].as_str() && first["passed"].is_string(), "{first}");
    lab(&host, &["next", "--skip"]).expect(0);
    assert!(lab(&host, &["reset", "16"]).expect(0).out.contains("Lesson 16: "));
    lab(&host, &["next", "--skip"]).expect(0);
    lab(&host, &["next"]).expect(125).says(&["no lesson is begun"]);
    assert!(lab(&host, &["reset"]).expect(0).out.contains("nothing is left"));
    assert_gone(&host, "lab0-", "the course");
}

/// The token is of the state directory and the user, so two students do not meet.
#[test]
fn students_work_side_by_side() {
    let Some(host) = Host::bare(&["bash", "ip", "busybox"]) else { return };
    let _tidy = Tidy(&host);
    let as_user = |user: &str, words: &[&str]| {
        let mut command = host.command(&[&["lab"], words].concat());
        command.env("SUDO_UID", user);
        host.finish(command)
    };
    as_user("1001", &["start", "6"]).expect(0);
    as_user("1002", &["start", "6"]).expect(0);
    let solve = |user: &str| as_user(user, &["shell", "bash", "-c", &lesson(6).body.solution]).expect(0);
    solve("1001");
    as_user("1001", &["check"]).expect(0);
    as_user("1002", &["check"]).expect(1);
    as_user("1002", &["reset"]).expect(0);
    as_user("1001", &["check"]).expect(0);
    as_user("1001", &["reset"]).expect(0);
    assert!(host.path("root/lab/1001/progress.json").exists() && host.path("root/lab/1002/progress.json").exists());
    assert_eq!(std::fs::metadata(host.path("root/lab/1001")).unwrap().mode() & 0o777, 0o700);
    assert_gone(&host, "lab100", "two students");
}

/// Half of things, odd things, in odd places.
#[test]
fn a_reset_finds_whatever_is_left() {
    let Some(host) = Host::bare(&["bash", "ip", "unshare"]) else { return };
    let _tidy = Tidy(&host);
    lab(&host, &["start", "10"]).expect(0);
    let token = variable(&host, "LAB_NAME");
    in_shell(
        &host,
        r#"
        env -i setsid sleep 10001 </dev/null >/dev/null 2>&1 &
        env -i unshare --pid --fork --mount --net --kill-child=SIGTERM setsid sh -c '(sleep 10002 &); exec sleep 10003' &
        (setsid sh -c 'trap "" TERM HUP INT; while :; do sleep 10004; done' &) </dev/null >/dev/null 2>&1
        ip netns add $LAB_NAME-odd
        ip netns exec $LAB_NAME-odd env -i sleep 10005 &
        mkdir -p $LAB_MEMORY/a/b/c
        sh -c 'echo $$ >$LAB_MEMORY/a/b/c/cgroup.procs; exec env -i sleep 10006' &
        mkdir "$LAB/m m"
        mount -t tmpfs x "$LAB/m m"; mount -t tmpfs y "$LAB/m m"; mkdir "$LAB/m m/n"; mount -t proc proc "$LAB/m m/n"
        mount --bind $LAB $LAB
        chattr +i $LAB 2>/dev/null
        sleep 0.5
    "#,
    );
    lab(&host, &["reset"]).expect(0);
    assert_gone(&host, &token, "odd things");
    for number in 10001..=10006 {
        let left = crate::leaks::processes(|p| p.cmdline.contains(&format!("sleep {number}")));
        assert!(left.is_empty(), "{left:?}");
    }
}

/// A shell of the lab stays when its lesson goes, also if it moved into a cgroup of the lesson; what it started goes.
#[test]
fn a_shell_outlives_the_lesson() {
    let Some(host) = Host::bare(&["bash"]) else { return };
    let _tidy = Tidy(&host);
    lab(&host, &["start", "9"]).expect(0);
    let token = variable(&host, "LAB_NAME");
    let mut command = host.command(&["lab", "shell", "bash"]);
    command.stdin(Stdio::piped());
    let mut shell = crate::harness::Live::start(command);
    let mut input = shell.stdin();
    writeln!(input, "mkdir $LAB_CPU/mine; echo $$ >$LAB_CPU/mine/cgroup.procs; sleep 10011 & echo begun").unwrap();
    shell.until_has("begun");
    lab(&host, &["reset"]).expect(0);
    assert!(crate::leaks::processes(|p| p.cmdline.contains("sleep 10011")).is_empty());
    writeln!(input, "echo still here").unwrap();
    shell.until_has("still here");
    // It serves the next lesson as well.
    lab(&host, &["start", "2"]).expect(0);
    writeln!(input, "test -d $LAB && echo there again").unwrap();
    shell.until_has("there again");
    lab(&host, &["reset"]).expect(0);
    drop(input);
    assert_eq!(shell.wait(), 0);
    assert_gone(&host, &token, "the shell");
}

#[test]
fn a_cable_on_the_hosts_own_network_is_found_and_taken_away() {
    let Some(host) = Host::bare(&["bash", "ip"]) else { return };
    let _tidy = Tidy(&host);
    let network = host.own_network();
    lab(&host, &["start", "6"]).expect(0);
    in_shell(&host, "ip link add br0 type bridge");
    expect_check(&host, "br0 on the host", Some("is on your machine's own network"));
    lab(&host, &["reset"]).expect(0);
    let links = Command::new("ip").args(["-n", &network, "-brief", "link"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&links.stdout).contains("br0"));
    ip(&["-n", &network, "link", "add", "br0", "type", "bridge"]);
    lab(&host, &["start", "6"]).expect(0);
    lab(&host, &["reset"]).expect(0);
    // What was there before the lesson is not the lab's.
    ip(&["-n", &network, "link", "del", "br0"]);
}

#[test]
fn a_lesson_says_what_it_takes_and_undoes_a_setup_that_fails() {
    let Some(host) = Host::bare(&["bash"]) else { return };
    let _tidy = Tidy(&host);
    let folder = PathBuf::from(host.folder("lessons"));
    let small = "title: t\nquestion: q\nprediction: [{answer: a, right: true, because: b}, {answer: a, because: b}]\n\
        steps: [{text: x}]\ntask: t\nchecks: [{name: n, run: 'true', hint: h}]\nhints: [h]\nsolution: 'true'\n\
        wrong: [{name: n, hint: h}]\nafter: a\n";
    std::fs::write(folder.join("30-tool.yaml"), format!("{small}needs: {{podshim-no-such: some-package}}\n")).unwrap();
    std::fs::write(
        folder.join("31-fails.yaml"),
        format!("{small}setup: 'sleep 10021 & mount -t tmpfs x $LAB; hint not here'\n"),
    )
    .unwrap();
    let with = |words: &[&str]| host.run(&[&["lab", "--lessons", folder.to_str().unwrap()], words].concat());
    with(&["start", "tool"]).expect(125).says(&["podshim-no-such (apt-get install some-package)"]);
    with(&["start", "fails"]).expect(125).says(&["begin Lesson 31 (fails)", "not here"]);
    assert!(crate::leaks::processes(|p| p.cmdline.contains("sleep 10021")).is_empty());
    assert_gone(&host, "lab0-", "a setup that fails");
    std::fs::write(folder.join("32-wrong.yaml"), format!("{small}tile: t\n")).unwrap();
    with(&["list"]).expect(125).says(&["32-wrong.yaml: line 11, column 1: ", "tile"]);
}

/// A class: right, wrong, absent, hanging, hostile, greedy.
#[test]
fn a_class_is_graded() {
    let Some(host) = Host::bare(&["bash", "ip", "busybox"]) else { return };
    let _tidy = Tidy(&host);
    let class = PathBuf::from(host.folder("class"));
    let hand_in = |student: &str, file: &str, text: &str| {
        std::fs::create_dir_all(class.join(student)).unwrap();
        std::fs::write(class.join(student).join(file), text).unwrap();
    };
    for number in 1..=16 {
        hand_in("ann", &format!("{number:02}-mine.sh"), &lesson(number).body.solution);
    }
    hand_in("bob", "02.sh", "unshare --uts sleep 1000 & echo $! >$LAB/first; sleep 0.5");
    hand_in("eve", "2.sh", "sleep 1000");
    let secret = host.path("secret");
    std::fs::write(&secret, "not for students").unwrap();
    hand_in("mal", "2.sh", &hostile(secret.to_str().unwrap()));
    // Takes what it can get: memory, output, processes.
    hand_in(
        "zed",
        "2.sh",
        "head -c 600M /dev/zero >/tmp/fill; yes >&2 & yes & bomb() { bomb | bomb & }; bomb; sleep 0.5",
    );
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let graded =
        lab(&host, &["grade", class.to_str().unwrap(), "--only", "1,uts", "--timeout", "4", "-o", "json"]).expect(1);
    let rows: serde_json::Value = serde_json::from_str(&graded.out).unwrap();
    let of = |student: &str, lesson: u64| {
        let found = rows.as_array().unwrap().iter().find(|r| r["student"] == student && r["lesson"] == lesson);
        let found = found.unwrap_or_else(|| panic!("no {student} {lesson} in {rows:#}"));
        (found["result"].as_str().unwrap().to_owned(), found["hint"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!((of("ann", 1).0.as_str(), of("ann", 2).0.as_str()), ("passed", "passed"), "{rows:#}");
    assert_eq!(of("bob", 1).0, "no-script");
    assert!(of("bob", 2).0 == "failed" && of("bob", 2).1.contains("hostname podlet, run inside"), "{rows:#}");
    assert_eq!(of("eve", 2).0, "timed-out");
    assert!(["failed", "timed-out"].contains(&of("zed", 2).0.as_str()), "{rows:#}");
    let (result, told) = of("mal", 2);
    assert!(result == "failed" && told.contains("escapes-none-end"), "{result} {told}");
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "not for students");
    host.assert_clean();
    assert!(!host.path("state/lab").exists());
    // The whole course; what must run as root is not run unless that is asked for.
    for student in ["bob", "eve", "mal", "zed"] {
        std::fs::remove_dir_all(class.join(student)).unwrap();
    }
    let table = lab(&host, &["grade", class.to_str().unwrap()]).expect(0).out;
    assert_eq!((table.matches("passed").count(), table.matches("not run").count()), (15, 1), "{table}");
    let csv = lab(&host, &["grade", class.to_str().unwrap(), "--only", "14", "--as-root", "-o", "csv"]).expect(0).out;
    assert!(csv.ends_with("\"ann\",\"14\",\"init\",\"passed\",\"\"\n"), "{csv}");
    host.assert_clean();
    assert!(!host.path("state/lab").exists());
}

/// A script that tries what it can against the host. It ends with what the checker will show: what it could do.
fn hostile(secret: &str) -> String {
    format!(
        r#"
        escaped=
        could() {{ escaped="$escaped-$1"; }}
        [ ! -e {secret} ] || could see-the-hosts-files
        cat /etc/shadow /proc/1/root/etc/shadow >/dev/null 2>&1 && could read-shadow
        (echo '|/x' >/proc/sys/kernel/core_pattern) 2>/dev/null && could set-core-pattern
        mkdir /tmp/d; mount -t devtmpfs x /tmp/d 2>/dev/null && could mount-devices
        mknod /tmp/disk b 254 0 2>/dev/null && head -c 1 /tmp/disk >/dev/null 2>&1 && could open-a-disk
        mount -o remount,bind,rw /usr 2>/dev/null && could make-usr-writable
        touch /usr/bin/evil 2>/dev/null && could write-usr
        for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
            (echo $$ >$dir/cgroup.procs) 2>/dev/null && could leave-the-cgroup
            mkdir $dir/evil 2>/dev/null && could make-cgroups
        done
        kill -9 -1 2>/dev/null
        for pid in $(ls /proc | grep '^[1-9]'); do
            [ "$(cat /proc/$pid/comm 2>/dev/null)" != podshim ] || could see-podshim
        done
        umount -l /proc 2>/dev/null; umount -l /proc 2>/dev/null; umount -l /usr 2>/dev/null && could unmount-usr
        mount -t proc proc /proc
        setsid unshare --uts sh -c "hostname escapes${{escaped:--none}}-end; exec sleep 1000" &
        for i in 1 2 3 4 5 6 7 8; do echo $! >$LAB/first && break; sleep 0.2; done
        sleep 0.5
        "#
    )
}
