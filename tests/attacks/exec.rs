//! Commands in running containers: who they are, and what a container can make of the files that say so.

use crate::harness::{FACTS, Live, facts, pod, shell, with};
use crate::rig::{Bench, SOON, assert_plain, file, of};
use serde_json::{Value, json};
use std::time::Instant;

fn seen(bench: &Bench, args: &[&str]) -> Value {
    let all: Vec<&str> = ["exec"].iter().chain(args).chain(&["--", "/facts"]).copied().collect();
    serde_json::from_str(&bench.host.ok(&all)).unwrap()
}

/// CVE-2026-30892, CVE-2016-3697: what looks like a number is one, and what is neither is nobody.
#[test]
fn a16_the_user_of_a_command_is_who_it_says() {
    let Some(bench) = Bench::bare() else { return };
    let passwd = b"root:x:0:0::/root:/bin/sh\n1000:x:0:0::/:/bin/sh\nweb:x:33:34::/var/www:/bin/sh\n\
        big:x:4294967296:0::/:/bin/sh\nminus:x:-1:0::/:/bin/sh\nodd:x:5:5::/a\x1b[2J:/bin/sh\n\
        4294967296:x:0:0::/:/bin/sh\n";
    let group = b"root:x:0:\nwww:x:34:\nlog:x:50:web,other\n1000:x:0:web\nbig:x:4294967296:\n";
    bench.image((FACTS, "localhost/users"), &json!({}), &[file("etc/passwd", passwd), file("etc/group", group)]);
    let context = json!({ "securityContext": { "runAsUser": 7, "allowPrivilegeEscalation": false } });
    let spec = json!({ "terminationGracePeriodSeconds": 1, "securityContext": { "supplementalGroups": [4000] },
        "containers": [with(of("localhost/users", &["sleep"]), context)] });
    bench.host.start(&pod("users", spec));
    let main = seen(&bench, &["users"]);
    assert_eq!((&main["uid"], &main["gid"]), (&json!(7), &json!(0)));
    for (user, uid, gid, groups, home) in [
        ("1", 1, 0, json!([4000]), "/"),
        ("1000", 1000, 0, json!([4000]), "/"),
        ("1000:1000", 1000, 1000, json!([4000]), "/"),
        ("0", 0, 0, json!([4000]), "/root"),
        ("root", 0, 0, json!([4000]), "/root"),
        ("33", 33, 34, json!([0, 50, 4000]), "/var/www"),
        ("web", 33, 34, json!([0, 50, 4000]), "/var/www"),
        ("web:log", 33, 50, json!([0, 4000]), "/var/www"),
        ("7:34", 7, 34, json!([4000]), "/"),
        ("odd", 5, 5, json!([4000]), "/"),
    ] {
        let of_user = seen(&bench, &["--user", user, "users"]);
        let ids = ["uid", "euid", "gid", "egid"].map(|id| of_user[id].as_i64().unwrap());
        assert_eq!(ids, [uid, uid, gid, gid], "{user}: {of_user}");
        let mut all: Vec<i64> = of_user["groups"].as_array().unwrap().iter().map(|g| g.as_i64().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(json!(all), groups, "{user}");
        assert!(
            of_user["env"].as_array().unwrap().contains(&json!(format!("HOME={home}"))),
            "{user}: {}",
            of_user["env"]
        );
        // Root or not, there is no more to be had than the container has.
        for fact in ["no_new_privs", "seccomp", "rlimits"] {
            assert_eq!(of_user[fact], main[fact], "{user}: {fact}");
        }
        for set in ["bounding", "inheritable", "ambient"] {
            assert_eq!(of_user["caps"][set], main["caps"][set], "{user}: {set}");
        }
        let permitted = if uid == 0 { &main["caps"]["bounding"] } else { &main["caps"]["ambient"] };
        assert_eq!(&of_user["caps"]["permitted"], permitted, "{user}");
    }
    for user in [
        "1:",
        ":1",
        ":",
        "",
        "nobody",
        "web:",
        "web:nogroup",
        "web:big",
        "big",
        "minus",
        "-1",
        "+1",
        " 1",
        "1 ",
        "0x1",
        "1:2:3",
        "4294967296",
        "2147483648",
        "4294967295",
        "18446744073709551616",
        "1\n0",
        "\u{1b}[2J",
    ] {
        let output = bench.run(&["exec", &format!("--user={user}"), "users", "--", "/facts"]);
        assert_eq!((output.code, output.out.as_str()), (125, ""), "{user:?}: {output:?}");
        assert!(output.err.contains("user"), "{user:?}: {output:?}");
    }
    // Also with a terminal.
    let terminal = bench.host.ok(&["exec", "-t", "-u", "web", "users", "--", "/facts"]);
    let terminal: Value = serde_json::from_str(terminal.trim()).unwrap();
    assert_eq!((&terminal["uid"], &terminal["tty"]), (&json!(33), &json!([true, true, true])));
}

#[test]
fn a16_a_command_is_not_root_where_the_pod_may_not_be() {
    let Some(bench) = Bench::bare() else { return };
    let passwd = file("etc/passwd", b"toor:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n");
    bench.image((FACTS, "localhost/non-root"), &json!({ "User": "33" }), &[passwd]);
    let context = json!({ "securityContext": { "runAsNonRoot": true } });
    let container = with(of("localhost/non-root", &["sleep"]), context);
    bench
        .host
        .start(&pod("non-root", json!({ "terminationGracePeriodSeconds": 1, "containers": [container.clone()] })));
    for user in ["0", "root", "toor", "0:5"] {
        let output = bench.run(&["exec", "-u", user, "non-root", "--", "/facts"]);
        assert_eq!((output.code, output.out.as_str()), (125, ""), "{user}: {output:?}");
    }
    bench.run(&["exec", "-u", "0", "non-root", "--", "/facts"]).says(&["runAsNonRoot"]);
    assert_eq!(seen(&bench, &["-u", "web", "non-root"])["uid"], 33);
    // Nor somebody whom a pod's own user namespace does not have.
    let spec = json!({ "hostUsers": false, "terminationGracePeriodSeconds": 1, "containers": [container] });
    bench.host.start(&pod("own", spec));
    bench.run(&["exec", "-u", "70000", "own", "--", "/facts"]).expect(125).says(&["70000", "user namespace"]);
    assert_eq!(seen(&bench, &["-u", "5:6", "own"])["gid"], 6);
}

/// The files that name users are whatever the container makes of them while it runs.
#[test]
fn a16_a_container_that_replaces_its_users_holds_nobody_up() {
    let Some(bench) = Bench::new() else { return };
    let victim = bench.victim();
    let other = facts("other", &["sleep"]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [shell("c", "sleep 1000"), other] });
    bench.host.start(&pod("swaps", spec));
    let sh = |script: &str| bench.host.ok(&["exec", "-c", "c", "swaps", "--", "sh", "-c", script]);
    for (plant, words) in [
        ("mkfifo /etc/passwd".to_owned(), "not a regular file"),
        ("mkdir /etc/passwd".to_owned(), "not a regular file"),
        // A device without a driver: whoever opened it would say so.
        ("mknod /etc/passwd c 240 77".to_owned(), "not a regular file"),
        ("mknod /etc/passwd c 1 5".to_owned(), "not a regular file"),
        ("dd if=/dev/zero of=/etc/passwd bs=1M seek=20 count=0 2>&1".to_owned(), "more than"),
        (format!("ln -s {victim}/passwd /etc/passwd"), "no matching entries"),
        (format!("ln -s /proc/1/root{victim}/passwd /etc/passwd"), "ELOOP"),
        ("ln -s /proc/self/environ /etc/passwd".to_owned(), "no matching entries"),
        ("ln -s passwd /etc/passwd".to_owned(), "ELOOP"),
        // Reading it would wait for the kernel to say something.
        ("ln -s /proc/kmsg /etc/passwd".to_owned(), "no matching entries"),
    ] {
        sh(&format!("rm -rf /etc/passwd; {plant}"));
        let before = Instant::now();
        let output = bench.run(&["exec", "-u", "web", "-c", "c", "swaps", "--", "id", "-u"]);
        assert!(before.elapsed() < SOON, "{plant}: {:?}", before.elapsed());
        assert_eq!((output.code, output.out.as_str()), (125, ""), "{plant}: {output:?}");
        assert!(output.err.contains(words), "{plant}: {output:?}");
        // Nobody else is held up.
        assert_eq!(seen(&bench, &["-c", "other", "swaps"])["uid"], 0, "{plant}");
        assert_eq!(sh("echo up"), "up\n", "{plant}");
        bench.assert_unharmed(&plant);
    }
}

/// What a container puts in the place of the programs that people execute in it runs in it, and no more.
#[test]
fn p3_a_container_that_replaced_its_shell_is_still_only_itself() {
    let Some(bench) = Bench::new() else { return };
    let container = shell("c", "sleep 1000");
    bench.host.start(&pod("shell", json!({ "terminationGracePeriodSeconds": 1, "containers": [container] })));
    let host = &bench.host;
    let plant = |script: &str| host.ok(&["exec", "shell", "--", "/bin/busybox", "sh", "-c", script]);
    for (replacement, code) in [
        ("printf '#!/proc/self/exe' > /bin/sh", None),
        ("printf '#!/proc/1/exe' > /bin/sh", None),
        ("ln -s /proc/self/exe /bin/sh", Some(126)),
        ("ln -s /bin/sh /bin/sh", Some(127)),
        ("mkfifo /bin/sh", Some(126)),
        ("mkdir /bin/sh", Some(126)),
        ("mknod /bin/sh c 1 5", Some(126)),
        ("printf 'no program' > /bin/sh", None),
        (": > /bin/sh", None),
    ] {
        plant(&format!("rm -rf /bin/sh; {replacement}; chmod 755 /bin/sh 2>/dev/null; true"));
        let before = Instant::now();
        let output = bench.run(&["exec", "shell", "--", "/bin/sh", "version"]);
        assert!(before.elapsed() < SOON, "{replacement}: {:?}", before.elapsed());
        assert!(!output.out.contains("podshim "), "podshim's own program ran: {output:?}");
        assert!(code.is_none_or(|code| code == output.code) && output.code != 0, "{replacement}: {output:?}");
    }
    // One that never reads, never ends and ignores everything holds up whoever asked, and nobody else.
    plant(
        "rm -rf /bin/sh; printf '#!/bin/busybox sh\\ntrap \"\" TERM HUP INT\\necho in\\nwhile :; do /bin/busybox sleep 1; done\\n' > /bin/sh; chmod 755 /bin/sh",
    );
    let stuck: Live = host.live(&["exec", "-i", "shell", "--", "/bin/sh"]);
    stuck.until_has("in");
    assert_eq!(host.ok(&["exec", "shell", "--", "/bin/busybox", "id", "-u"]), "0\n");
    let before = Instant::now();
    host.ok(&["rm", "-f", "shell"]);
    assert!(before.elapsed() < SOON, "{:?}", before.elapsed());
    drop(stuck);
}

/// Variables and working directories of a command are the caller's, and still inside.
#[test]
fn p4_what_a_command_is_given_stays_in_the_container() {
    let Some(bench) = Bench::new() else { return };
    let container = with(
        facts("c", &["sleep"]),
        json!({ "env": [{ "name": "HOME", "value": "/of-the-pod" }, { "name": "A", "value": "1" }] }),
    );
    let escape = shell(
        "sh",
        "ln -s /proc/1/cwd/../../../.. /out; ln -s /proc/self/fd/3 /fd; mkfifo /pipe; touch /file; echo up; sleep 1000",
    );
    bench.host.start(&pod("given", json!({ "terminationGracePeriodSeconds": 1, "containers": [container, escape] })));
    bench.host.live(&["logs", "-f", "given", "-c", "sh"]).until_has("up");
    let seen_with =
        seen(&bench, &["-e", "A=2", "-e", "B=b=c\nd", "--env=EMPTY=", "-w", "/tmp", "-u", "5", "-c", "c", "given"]);
    let env = seen_with["env"].as_array().unwrap();
    for variable in ["A=2", "B=b=c\nd", "EMPTY=", "HOME=/of-the-pod"] {
        assert_eq!(env.iter().filter(|v| **v == *variable).count(), 1, "{variable:?}: {env:?}");
    }
    assert!(!env.contains(&json!("A=1")) && seen_with["cwd"] == "/tmp", "{seen_with}");
    for (n, cwd) in [
        "/proc/self/fd/3",
        "/proc/1/root",
        "/proc/self/cwd/..",
        "/out",
        "/fd",
        "/pipe",
        "/file",
        "/file/x",
        "/proc/1/fd/4",
    ]
    .iter()
    .enumerate()
    {
        let output = bench.run(&["exec", "-w", cwd, "-c", "sh", "given", "--", "pwd"]);
        assert!(output.code == 125 && output.out.is_empty() && output.err.contains(cwd), "{n} {cwd}: {output:?}");
        assert_plain(cwd, &output);
    }
    let up = bench.run(&["exec", "-w", "/tmp/../../../../..", "-c", "sh", "given", "--", "pwd"]).expect(0);
    assert_eq!(up.out, "/\n");
    for wrong in [&["-w", "relative"][..], &["-w", ""], &["-e", "=x"], &["-e", "NAME"], &["-e", ""]] {
        let args: Vec<&str> = ["exec"].iter().chain(wrong).chain(&["given", "--", "x"]).copied().collect();
        bench.run(&args).expect(2);
    }
    bench.host.ok(&["rm", "-f", "given"]);
}
