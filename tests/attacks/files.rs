//! Class D: volumes of files that podshim makes (configMap, secret, downwardAPI, projected), and files of volumes that it reads.

use crate::harness::{documents, facts, object, pod, shell, until, with};
use crate::rig::{Bench, assert_plain, rounds};
use serde_json::{Value, json};
use std::path::Path;

fn mounted(container: Value, mounts: Value) -> Value {
    with(container, json!({ "volumeMounts": mounts }))
}

fn map(data: Value) -> Value {
    object("ConfigMap", "map", json!({ "data": data }))
}

fn secret(data: Value) -> Value {
    object("Secret", "secret", json!({ "stringData": data }))
}

/// One volume of each kind, each with a file `a` and a file `d/b`.
fn of_every_kind() -> Value {
    let items = json!([{ "key": "a", "path": "a" }, { "key": "b", "path": "d/b" }]);
    let field = |path: &str| json!({ "path": path, "fieldRef": { "fieldPath": "metadata.labels['tier']" } });
    json!([
        { "name": "map", "configMap": { "name": "map", "items": items } },
        { "name": "secret", "secret": { "secretName": "secret", "items": items } },
        { "name": "down", "downwardAPI": { "items": [field("a"), field("d/b")] } },
        { "name": "all", "projected": { "sources": [
            { "configMap": { "name": "map", "items": [{ "key": "a", "path": "a" }] } },
            { "downwardAPI": { "items": [field("d/b")] } } ] } },
    ])
}

const KINDS: [&str; 4] = ["map", "secret", "down", "all"];

fn at_each(base: &str) -> Value {
    json!(KINDS.map(|kind| json!({ "name": kind, "mountPath": format!("{base}/{kind}") })))
}

/// CVE-2025-9566: what is at the volume's place already, planted by another container of the pod, leads elsewhere.
#[test]
fn d4_the_place_of_a_volume_is_inside_whatever_leads_there() {
    let Some(bench) = Bench::new() else { return };
    let (victim, up) = (bench.victim(), bench.up());
    for (n, (plant, at)) in [
        (format!("ln -s {victim} /v/at"), "/v/at"),
        (format!("ln -s {up} /v/at"), "/v/at/deep"),
        (format!("mkdir /v/at; ln -s {victim} /v/at/..data"), "/v/at/..data/x"),
        (format!("ln -s {victim} /v/..data; ln -s ..data /v/at"), "/v/at/sub"),
        (format!("mkdir /v/at; ln -s {victim}/file /v/at/map; ln -s {victim}/sub /v/at/secret"), "/v/at"),
        ("ln -s /proc/self/root /v/at".to_owned(), "/v/at"),
        ("ln -s /proc/self/fd /v/at".to_owned(), "/v/at"),
        (format!("mkfifo /v/at; ln -s {victim} /v/x"), "/v/at"),
        (format!("mkdir -p /v/at; mkfifo /v/at/map; ln -s {victim} /v/x"), "/v/at"),
    ]
    .into_iter()
    .enumerate()
    {
        let shared = json!({ "name": "shared", "mountPath": "/v" });
        let mut mounts = at_each(at);
        mounts.as_array_mut().unwrap().insert(0, shared.clone());
        let mut volumes = of_every_kind();
        volumes.as_array_mut().unwrap().push(json!({ "name": "shared", "emptyDir": {} }));
        let read = KINDS.map(|kind| format!("cat {at}/{kind}/a {at}/{kind}/d/b;")).concat();
        let spec = json!({ "restartPolicy": "Never", "volumes": volumes,
            "initContainers": [mounted(shell("init", &plant), json!([shared]))],
            "containers": [mounted(shell("c", &read), mounts)] });
        let mut value = pod(&format!("at{n}"), spec);
        value["metadata"]["labels"] = json!({ "tier": "t" });
        let both = json!({ "a": "of-a\n", "b": "of-b\n" });
        let manifest = documents(&bench.host, "at.json", &[map(both.clone()), secret(both), value]);
        let output = bench.host.run(&["run", &manifest]);
        assert_plain(&plant, &output);
        // Contained: the files are where the container looks for them. Or refused, by a path that it can see.
        let has = |word: &str| output.out.contains(word);
        match output.code {
            0 => assert!(has("of-a") && has("of-b") && !has("the host's own"), "{plant}: {output:?}"),
            code => {
                assert!(code == 125 && output.err.contains("/v/at") && output.out.is_empty(), "{plant}: {output:?}")
            }
        }
        bench.assert_unharmed(&plant);
    }
}

/// What a container plants that may write in the volumes themselves: it is root there and nobody keeps it from it.
const HOSTILE: &str = "for v in map secret down all; do mount -o remount,rw,bind /f/$v || exit 9; done; echo ready; \
    while :; do for v in map secret down all; do cd /f/$v; \
        ln -sfn $VICTIM ..data; ln -sfn $VICTIM ..data_tmp; \
        rm -rf a d; ln -s $VICTIM/file a; ln -s $VICTIM d; \
        for t in ..2*; do rm -rf $t/a $t/d; ln -s $VICTIM/file $t/a; ln -s $VICTIM/sub $t/d; done; \
        mkdir -p ..2020_01_01_00_00_00.000000001/x; ln -sfn $VICTIM ..2020_01_01_00_00_00.000000001/x/y; \
        ln -sfn ..2020_01_01_00_00_00.000000001 ..data; \
        rm -rf ..data; mkdir ..data; ln -s $VICTIM ..data/a; rm -rf ..data; mkfifo ..data; rm -f ..data; \
        ln -sfn ../../../../../../../../../../../../$VICTIM ..data; ln -s $VICTIM ..data_tmp; \
        rm -f a; mkfifo a; rm -f a; mknod a c 240 77; \
    done; [ -e /stop/now ] && { echo stopped; exec sleep 1000; }; done 2>/dev/null";

/// Another one, which does one thing as fast as it can: where a directory of files has just been made, there is a link.
const FAST: &str = "mount -o remount,rw,bind /f/map || exit 9; cd /f/map; echo ready; \
    while [ ! -e /stop/now ]; do for t in ..2*; do rm -rf $t/d && ln -s $VICTIM/sub $t/d; done; done 2>/dev/null; \
    echo stopped; exec sleep 1000";

/// How many files there are in `d`: to write them takes a while.
const MANY: usize = 300;

/// CVE-2017-1002102: while `podshim apply` writes the files anew and gives them to the pod's group, and while the pod goes.
#[test]
fn d4_files_are_written_anew_where_somebody_plants() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let stop = host.folder("stop");
    let mut mounts = at_each("/f");
    mounts.as_array_mut().unwrap().push(json!({ "name": "stop", "mountPath": "/stop" }));
    let hostile = |name: &str, script: &str| {
        with(
            mounted(shell(name, script), mounts.clone()),
            json!({ "securityContext": { "privileged": true }, "env": [{ "name": "VICTIM", "value": bench.victim() }] }),
        )
    };
    let reader = mounted(facts("c", &["sleep"]), at_each("/f"));
    let mut volumes = of_every_kind();
    volumes.as_array_mut().unwrap().push(json!({ "name": "stop", "hostPath": { "path": stop } }));
    let more = (0..MANY).map(|n| json!({ "key": format!("k{n}"), "path": format!("d/f{n}") }));
    volumes[0]["configMap"]["items"].as_array_mut().unwrap().extend(more);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "securityContext": { "fsGroup": 3000 },
        "containers": [hostile("hostile", HOSTILE), hostile("fast", FAST), reader], "volumes": volumes });
    let manifest = |round: u32| {
        let mut value = pod("files", spec.clone());
        value["metadata"]["labels"] = json!({ "tier": format!("t{round}") });
        let both = json!({ "a": format!("a{round}"), "b": format!("b{round}") });
        let mut data = both.clone();
        (0..MANY).for_each(|n| data[format!("k{n}")] = json!(format!("{n} of {round}")));
        documents(host, "files.json", &[map(data), secret(both), value])
    };
    host.ok(&["run", "-d", &manifest(0)]);
    let until_both = |word: &str| {
        for name in ["hostile", "fast"] {
            host.live(&["logs", "-f", "files", "-c", name]).until_has(word);
        }
    };
    until_both("ready");
    let supervisor = host.supervisor("files");
    let mut refused = 0;
    for round in 1..=rounds() {
        let output = bench.run(&["apply", &manifest(round)]);
        assert_plain("apply", &output);
        if output.code != 0 {
            // Somebody works against it; what it names is the volume.
            assert!(output.code == 125 && output.err.contains("volume "), "round {round}: {output:?}");
            refused += 1;
        }
        bench.assert_unharmed(&format!("round {round}"));
        assert_eq!(host.supervisor("files"), supervisor, "the supervisor lives");
    }
    std::fs::write(format!("{stop}/now"), "").unwrap();
    until_both("stopped");
    // Without him it is all as it should be again.
    bench.run(&["apply", &manifest(1000)]).expect(0);
    let read = |path: &str| host.ok(&["exec", "-c", "c", "files", "--", "/facts", "read", path]);
    for (path, text) in [
        ("map/a", "a1000"),
        ("map/d/b", "b1000"),
        ("secret/a", "a1000"),
        ("down/d/b", "t1000"),
        ("all/a", "a1000"),
        ("all/d/b", "t1000"),
    ] {
        assert_eq!(read(&format!("/f/{path}")), text, "{path}, after {refused} refusals");
    }
    assert_eq!(read(&format!("/f/map/d/f{}", MANY - 1)), format!("{} of 1000", MANY - 1));
    bench.assert_unharmed("the files are right again");
    host.ok(&["rm", "-f", "files"]);
    bench.assert_unharmed("the pod is gone");
}

/// A sub-path into such a volume goes through two links that podshim made; after them, whatever is planted in their place.
#[test]
fn d4_a_sub_path_does_not_follow_what_was_planted_among_the_files() {
    let Some(bench) = Bench::new() else { return };
    let host = &bench.host;
    let victim = bench.victim();
    for (n, (kind, plant)) in [
        ("map", format!("ln -sfn {victim}/file /f/a")),
        ("secret", format!("ln -sfn {victim} /f/..data")),
        ("map", format!("ln -sfn {}/file /f/a", bench.up())),
        ("secret", "ln -sfn /proc/self/environ /f/a".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let volumes = of_every_kind();
        let plants = with(
            mounted(
                shell("plants", &format!("mount -o remount,rw,bind /f && {plant} && echo planted; sleep 1000")),
                json!([{ "name": kind, "mountPath": "/f" }]),
            ),
            json!({ "securityContext": { "privileged": true } }),
        );
        let script = "cat /seen; while [ ! -e /go/now ]; do sleep 0.05; done; exit 1";
        let go = host.folder(&format!("go{n}"));
        let c = mounted(
            shell("c", script),
            json!([{ "name": kind, "mountPath": "/seen", "subPath": "a" }, { "name": "go", "mountPath": "/go" }]),
        );
        let mut all = volumes;
        all.as_array_mut().unwrap().push(json!({ "name": "go", "hostPath": { "path": go } }));
        let mut value =
            pod("sub", json!({ "terminationGracePeriodSeconds": 1, "containers": [c, plants], "volumes": all }));
        value["metadata"]["labels"] = json!({ "tier": "t" });
        let both = json!({ "a": "of-a\n", "b": "of-b\n" });
        host.ok(&["run", "-d", &documents(host, "sub.json", &[map(both.clone()), secret(both), value])]);
        host.live(&["logs", "-f", "sub", "-c", "plants"]).until_has("planted");
        host.live(&["logs", "-f", "sub", "-c", "c"]).until_has("of-a");
        std::fs::write(format!("{go}/now"), "").unwrap();
        let status = host.until_status(("sub", "c"), "refused", |s| {
            s["state"]["waiting"]["message"].as_str().is_some_and(|message| message.contains("subPath"))
        });
        assert!(status["state"]["waiting"]["message"].as_str().unwrap().contains("subPath \"a\""), "{plant}: {status}");
        let logs = host.run(&["logs", "sub", "-c", "c"]).out + &host.run(&["logs", "-p", "sub", "-c", "c"]).out;
        assert!(!logs.contains("the host's own") && !logs.contains("PODSHIM"), "{plant}: {logs}");
        host.ok(&["rm", "-f", "sub"]);
        bench.assert_unharmed(&plant);
    }
}

/// Keys and paths are names of files: before anything is made, and told which one it is.
#[test]
fn d5_keys_and_paths_of_files_stay_in_their_volume() {
    let Some(bench) = Bench::new() else { return };
    let long = "x".repeat(300);
    let deep = "x/".repeat(3000) + "x";
    let victim = bench.victim();
    let refused = |what: &str, documents_: &[Value], words: &[&str]| {
        let output = bench.run(&["run", "-d", &documents(&bench.host, "refused.json", documents_)]);
        assert_eq!(output.code, 125, "{what}: {output:?}");
        assert!(output.err.len() < 64 << 10, "{what}: an error of {} bytes", output.err.len());
        output.says(words);
        assert_eq!(bench.host.ok(&["ps", "-q"]), "", "{what}");
        let pods = bench.host.path("root/pods");
        assert_eq!(std::fs::read_dir(&pods).into_iter().flatten().count(), 0, "{what}: {} is left", pods.display());
        bench.assert_unharmed(what);
    };
    let user = |volume: Value| {
        let mut value = pod(
            "keys",
            json!({ "volumes": [with(json!({ "name": "v" }), volume)],
            "containers": [mounted(facts("c", &["sleep"]), json!([{ "name": "v", "mountPath": "/v" }]))] }),
        );
        value["metadata"]["labels"] = json!({ "tier": "t" });
        value
    };
    // Every way to name a file by a key.
    for key in [
        "../x",
        "..",
        ".",
        "",
        "a/b",
        "/etc/passwd",
        "..data",
        "..x",
        &long,
        "a\u{0}b",
        "a\nb",
        "\u{1b}[2J",
        "a b",
        "ä",
        &victim,
    ] {
        let shown = format!("key {key:?}");
        let all = json!({ "configMap": { "name": "map" } });
        refused(&shown, &[map(json!({ key: "x" })), user(all)], &["data"]);
        let binary = object("ConfigMap", "map", json!({ "binaryData": { key: "eA==" } }));
        refused(&shown, &[binary, user(json!({ "configMap": { "name": "map" } }))], &["binaryData"]);
        refused(
            &shown,
            &[secret(json!({ key: "x" })), user(json!({ "secret": { "secretName": "secret" } }))],
            &["stringData"],
        );
        let item = json!({ "configMap": { "name": "map", "items": [{ "key": key, "path": "fine" }] } });
        refused(&shown, &[map(json!({ "a": "x" })), user(item)], &["key"]);
    }
    // And by a path.
    for path in [
        "../x",
        "..",
        "../",
        "a/..",
        "a/../../x",
        "",
        "/",
        "/etc/passwd",
        "a/../b",
        "..data",
        "..data/x",
        "..2026_11_26",
        "a\u{0}b",
        &victim,
        &bench.up(),
    ] {
        let shown = format!("path {path:?}");
        let item = json!([{ "key": "a", "path": path }]);
        let field = json!([{ "path": path, "fieldRef": { "fieldPath": "metadata.name" } }]);
        for volume in [
            json!({ "configMap": { "name": "map", "items": item } }),
            json!({ "secret": { "secretName": "secret", "items": item } }),
            json!({ "downwardAPI": { "items": field } }),
            json!({ "projected": { "sources": [{ "configMap": { "name": "map", "items": item } }] } }),
            json!({ "projected": { "sources": [{ "secret": { "name": "secret", "items": item } }] } }),
            json!({ "projected": { "sources": [{ "downwardAPI": { "items": field } }] } }),
        ] {
            refused(&shown, &[map(json!({ "a": "x" })), secret(json!({ "a": "x" })), user(volume)], &["path"]);
        }
    }
    // What no file system takes, and two files that are one.
    for path in [&long, &deep, &format!("a/{long}/b")] {
        let item = json!({ "configMap": { "name": "map", "items": [{ "key": "a", "path": path }] } });
        refused("a long path", &[map(json!({ "a": "x" })), user(item)], &["volume", "v"]);
    }
    for (first, second) in [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("./a", "a"), ("a//b", "a/b"), ("a/./b", "a/b")] {
        let two = json!({ "projected": { "sources": [
            { "configMap": { "name": "map", "items": [{ "key": "a", "path": first }] } },
            { "secret": { "name": "secret", "items": [{ "key": "a", "path": second }] } } ] } });
        refused("twice", &[map(json!({ "a": "x" })), secret(json!({ "a": "x" })), user(two)], &["path"]);
    }
    // The same through `apply`, on a pod that runs: it stays as it was.
    let good = user(json!({ "configMap": { "name": "map" } }));
    bench.host.ok(&["run", "-d", &documents(&bench.host, "good.json", &[map(json!({ "a": "whole" })), good.clone()])]);
    for key in ["../x", "..data", &long] {
        let path = documents(&bench.host, "bad.json", &[map(json!({ key: "x" })), good.clone()]);
        bench.run(&["apply", &path]).expect(125).says(&["data"]);
    }
    assert_eq!(bench.host.ok(&["exec", "keys", "--", "/facts", "read", "/v/a"]), "whole");
    assert!(!Path::new("/x").exists());
}

/// A variable by `fileKeyRef` has podshim open a file of a container's: on the host, where every device is a device.
#[test]
fn p5_what_a_container_made_of_a_file_is_not_opened_by_the_host() {
    let Some(bench) = Bench::new() else { return };
    let wanted = json!({ "volumeName": "v", "path": "app.env", "key": "TOKEN" });
    let env = json!([{ "name": "TOKEN", "valueFrom": { "fileKeyRef": wanted } }]);
    for (n, plant) in [
        // Without a driver: open(2) would say ENXIO. A default container may make the node, and not open it.
        "mknod /v/app.env c 240 77",
        "mknod /v/app.env b 240 77",
        "mkfifo /v/app.env",
        "mkdir /v/app.env",
        "mknod /v/node c 240 77; ln -s node /v/app.env",
    ]
    .iter()
    .enumerate()
    {
        let init = mounted(shell("init", plant), json!([{ "name": "v", "mountPath": "/v" }]));
        let spec = json!({ "restartPolicy": "Never", "initContainers": [init], "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [with(facts("c", &[]), json!({ "env": env }))] });
        let output = bench.host.run(&["run", &bench.host.manifest(&pod(&format!("dev{n}"), spec))]);
        assert_eq!(output.code, 125, "{plant}: {output:?}");
        output.says(&["app.env", "no regular file"]);
    }
    until("nothing left", || bench.host.leaks().is_empty().then_some(()));
}
