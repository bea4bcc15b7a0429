//! `podshim debug` with `--custom` and `--profile`: everything that an ephemeral container can have, and what it cannot.

use crate::harness::{Host, Output, documents, facts, object, pod, shell, until, with};
use crate::leaks;
use serde_json::{Value, json};

/// Lines that are to come out of variables as they are.
const ODD: &str = "\u{7f}\u{85}\u{2028}\u{feff}\u{1F600} \u{1b}\\\"\t.";

/// A pod that has written to its volume, with what it refers to.
fn start(host: &Host) {
    let app = with(
        shell("app", "echo of the app >/data/file; chmod 777 /data; while :; do sleep 1; done"),
        json!({ "envFrom": [{ "configMapRef": { "name": "settings" } }],
            "env": [{ "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "token", "key": "value" } } }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            "readinessProbe": { "exec": { "command": ["test", "-e", "/data/file"] }, "periodSeconds": 1 } }),
    );
    let seen = pod(
        "seen",
        json!({ "terminationGracePeriodSeconds": 1, "containers": [app], "volumes": [{ "name": "data" }] }),
    );
    let files = documents(
        host,
        "seen.json",
        &[
            object("ConfigMap", "settings", json!({ "data": { "LEVEL": "high", "ODD": "" } })),
            object("Secret", "token", json!({ "stringData": { "value": "s3cret" } })),
            seen,
        ],
    );
    // As a manifest has to write them.
    let escaped: String =
        ODD.chars().flat_map(|c| c.encode_utf16(&mut [0; 2]).to_vec()).map(|u| format!("\\u{u:04x}")).collect();
    let text = std::fs::read_to_string(&files).unwrap().replace(r#""ODD": """#, &format!(r#""ODD": "{escaped}""#));
    std::fs::write(&files, text).unwrap();
    host.ok(&["run", "-d", "--wait=ready", &files]);
}

/// `debug` of the pod with this file.
fn debug(host: &Host, text: &str, args: &[&str]) -> Output {
    let path = host.path("custom.yaml");
    std::fs::write(&path, text).unwrap();
    host.run(&[&["debug", "seen", "--image", "busybox:1.28", "--custom", path.to_str().unwrap()], args].concat())
}

/// What `inspect` shows of an ephemeral container.
fn shown(host: &Host, name: &str) -> Value {
    let all = host.inspect("seen")["spec"]["ephemeralContainers"].clone();
    all.as_array().into_iter().flatten().find(|c| c["name"] == name).cloned().unwrap_or(Value::Null)
}

const CUSTOM: &str = r#"
args: ["pwd; cat file; echo $P_LEVEL $POD $NUMBER; echo \"$P_ODD\"; id -u; echo new >new; touch /x 2>/dev/null || echo read-only; echo the end >/dev/end; test $TOKEN = s3cret; exit $?"]
workingDir: /data
imagePullPolicy: Never
envFrom:
- prefix: P_
  configMapRef: {name: settings}
env:
- name: POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: TOKEN
  valueFrom: {secretKeyRef: {name: token, key: value}}
- {name: NUMBER, value: "2"}
securityContext:
  runAsUser: 1000
  capabilities: {drop: [ALL]}
  readOnlyRootFilesystem: true
terminationMessagePath: /dev/end
terminationMessagePolicy: FallbackToLogsOnError
volumeMounts:
- {name: data, mountPath: /data}
"#;

#[test]
fn a_file_gives_a_debug_container_all_that_it_can_have() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let output =
        debug(&host, CUSTOM, &["-i", "-c", "look", "--env", "NUMBER=1", "--profile", "baseline", "--", "sh", "-c"]);
    assert_eq!(output.out, format!("/data\nof the app\nhigh seen 2\n{ODD}\n1000\nread-only\n"));
    output.expect(0);
    let read = host.ok(&["exec", "seen", "--", "cat", "/data/new"]);
    assert_eq!(read, "new\n", "the volume is the pod's");
    // It is shown as it was asked for, a Secret by its name.
    let look = shown(&host, "look");
    for (field, expected) in [
        ("image", json!("busybox:1.28")),
        ("imagePullPolicy", json!("Never")),
        ("command", json!(["sh", "-c"])),
        ("workingDir", json!("/data")),
        ("envFrom", json!([{ "prefix": "P_", "configMapRef": { "name": "settings" } }])),
        ("stdin", json!(true)),
        ("stdinOnce", json!(true)),
        ("tty", Value::Null),
        ("terminationMessagePath", json!("/dev/end")),
        ("terminationMessagePolicy", json!("FallbackToLogsOnError")),
        ("volumeMounts", json!([{ "name": "data", "mountPath": "/data" }])),
    ] {
        assert_eq!(look[field], expected, "{field}");
    }
    assert!(look["args"][0].as_str().unwrap().starts_with("pwd;"));
    assert_eq!(
        (&look["env"][0], &look["env"][2]["name"]),
        (&json!({ "name": "NUMBER", "value": "2" }), &json!("TOKEN"))
    );
    assert_eq!(look["securityContext"]["runAsUser"], 1000);
    let ended = &host.status("seen", "look")["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["message"]), (&json!(0), &json!("the end\n")));
    assert_eq!(host.inspect("seen")["status"]["ephemeralContainerStatuses"][0]["user"]["linux"]["uid"], 1000);
    // What is given while it runs is kept; the manifest to run it again is without.
    let converted = host.ok(&["convert", "seen", "-o", "json"]);
    assert!(!converted.contains("ephemeralContainers"), "{converted}");
    let path = host.path("converted.json");
    std::fs::write(&path, converted.replace(r#""name": "seen","#, r#""name": "seen", "labels": { "a": "b" },"#))
        .unwrap();
    assert_eq!(host.ok(&["apply", path.to_str().unwrap()]), "pod/seen configured\n");
    assert_eq!(shown(&host, "look"), look);
    assert_eq!(host.ps("seen"), ["1/1", "Running", "0"].map(str::to_owned));
}

#[test]
fn a_file_gives_a_debug_container_its_input_and_terminal() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let script = "test -t 0 && echo a terminal; test -p /proc/1/fd/0 && echo a pipe; sleep 1000";
    let args = |name: &'static str| ["-c", name, "--", "sh", "-c", script];
    assert_eq!(debug(&host, "{stdin: true, tty: true}", &args("terminal")).expect(0).out, "terminal\n");
    assert_eq!(debug(&host, "{\"stdin\": true}", &args("input")).expect(0).out, "input\n");
    assert_eq!(debug(&host, "{workingDir: /}", &args("nothing")).expect(0).out, "nothing\n");
    let log = |name: &str, expected: &str| {
        until(name, || (host.run(&["logs", "seen", "-c", name]).out.replace('\r', "") == expected).then_some(()));
    };
    log("terminal", "a terminal\n");
    log("input", "a pipe\n");
    log("nothing", "");
    let fields = |name| ["stdin", "stdinOnce", "tty"].map(|field| shown(&host, name)[field] == json!(true));
    assert_eq!((fields("terminal"), fields("input")), ([true, false, true], [true, false, false]));
    // With a terminal of the file's, -i takes one on this side, too.
    debug(&host, "{tty: true}", &["-i", "--", "true"]).expect(125).says(&["takes a terminal as standard input"]);
}

#[test]
fn profiles_of_debug_are_kubectls() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let look = ["--", "grep", "-E", "Cap(Eff|Bnd)|NoNewPrivs", "/proc/self/status"];
    let of = |args: &[&str]| {
        let output = host.run(&[&["debug", "seen", "-i", "--image", "busybox:1.28"], args, &look].concat()).expect(0);
        let field = |name: &str| {
            let line = output.out.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches([':', '\t']), 16).unwrap()
        };
        [field("CapEff"), field("CapBnd"), field("NoNewPrivs")]
    };
    const BASE: u64 = 0xa804_25fb;
    let base = |more: &[u64]| {
        let all = more.iter().fold(BASE, |all, capability| all | 1 << capability);
        [all, all, 0]
    };
    const NET_ADMIN: u64 = 12;
    const SYS_PTRACE: u64 = 19;
    assert_eq!(of(&["--profile", "baseline"]), base(&[]));
    assert_eq!(of(&["--profile", "legacy"]), base(&[]));
    assert_eq!(of(&["--profile", "general"]), base(&[SYS_PTRACE]));
    assert_eq!(of(&[]), base(&[SYS_PTRACE]), "as kubectl's");
    assert_eq!(of(&["--profile", "netadmin"]), base(&[NET_ADMIN]));
    let all = of(&["--profile", "sysadmin"]);
    assert!(all[0] == all[1] && all[0] & 1 << 21 != 0, "{all:x?}");
    // Nobody knows what root of an image does where nobody may be root; a file says who it is.
    let refused = host.run(&["debug", "seen", "--image", "busybox:1.28", "--profile", "restricted"]);
    refused.expect(125).says(&["runAsNonRoot"]);
    let file = host.path("user.json");
    std::fs::write(&file, r#"{"securityContext": {"runAsUser": 1000}}"#).unwrap();
    assert_eq!(of(&["--profile", "restricted", "--custom", file.to_str().unwrap()]), [0, 0, 1]);
    // What a file says is over the profile, and what is of no use is said.
    std::fs::write(&file, r#"{"securityContext": {"runAsUser": 1000, "capabilities": {"add": ["NET_RAW"]}}}"#).unwrap();
    let args = ["debug", "seen", "-i", "--image", "busybox:1.28", "--custom", file.to_str().unwrap()];
    let output = host.run(&[&args[..], &look].concat()).expect(0).says(&["runs as user 1000", "runAsUser: 0"]);
    assert!(output.out.contains("00000000a80425fb") && output.out.contains("0000000000000000"), "{}", output.out);
}

#[test]
fn a_faulty_file_for_debug_is_refused_with_its_place() {
    let Some(host) = Host::new(&[]) else { return };
    start(&host);
    let rows: [(&str, &[&str]); 8] = [
        ("workingDir: /\nports:\n- {containerPort: 1}\n", &["error: ports: not allowed", "custom.yaml:2:1"]),
        (
            "volumeMounts:\n- {name: data, mountPath: /d, subPath: x}\n- {name: dat, mountPath: /e}\n",
            &["volumeMounts[0].subPath: not allowed", "custom.yaml:2:", "`dat` is not the name of a volume", ":3:10"],
        ),
        (
            "envFrom:\n- configMapRef: {name: other}\n",
            &["the pod came without a ConfigMap `other`", "custom.yaml:2:24"],
        ),
        ("resources: {limits: {cpu: 1}}\nworkingdir: /\n", &["resources: not allowed", "did you mean `workingDir`?"]),
        ("image: busybox\n", &["image: not allowed in this file", "`--image` gives it"]),
        ("[1, 2]\n", &["a part of a container must be a mapping of fields"]),
        ("{", &["not valid YAML"]),
        ("securityContext: {seccompProfile: {type: Localhost, localhostProfile: none.json}}", &["none.json"]),
    ];
    for (text, words) in rows {
        debug(&host, text, &["-c", "bad", "--", "true"]).expect(125).says(words);
    }
    let of = |path: &str| host.run(&["debug", "seen", "-c", "bad", "--custom", path]).expect(125);
    of("/no/such/file").says(&["/no/such/file"]);
    of(&host.folder("empty")).says(&["holds no *.yaml"]);
    // Nothing came of any of them.
    assert!(host.inspect("seen")["spec"]["ephemeralContainers"].is_null());
    assert!(host.find_status("seen", "bad").is_none());
    let logs = host.path("log").join(format!("default_seen_{}", host.uid("seen")));
    let names: Vec<_> = std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["app"]);
    assert_eq!(host.ps("seen"), ["1/1", "Running", "0"].map(str::to_owned));
}

#[test]
fn a_debug_container_shares_the_volumes_of_a_pod_with_its_own_users() {
    let Some(host) = Host::new(&[]) else { return };
    let mounts = json!({ "volumeMounts": [{ "name": "data", "mountPath": "/data" }] });
    let app = with(shell("app", "echo x >/data/file; touch /ready; while :; do sleep 1; done"), mounts);
    let app =
        with(app, json!({ "readinessProbe": { "exec": { "command": ["test", "-e", "/ready"] }, "periodSeconds": 1 } }));
    let spec = json!({ "hostUsers": false, "terminationGracePeriodSeconds": 1, "volumes": [{ "name": "data" }],
        "securityContext": { "fsGroup": 3000 }, "containers": [app, facts("other", &["sleep"])] });
    host.ok(&["run", "-d", "--wait=ready", &host.manifest(&pod("seen", spec))]);
    let custom = "volumeMounts: [{name: data, mountPath: /mnt, readOnly: true, recursiveReadOnly: Enabled}]";
    let script = "stat -c %u:%g /mnt/file; cat /mnt/file; touch /mnt/new 2>/dev/null || echo read-only; id -G";
    let output = debug(&host, custom, &["-i", "--", "sh", "-c", script]).expect(0);
    assert_eq!(output.out, "0:3000\nx\nread-only\n0 10 3000\n");
    // Without a supervisor it is shown all the same.
    debug(&host, custom, &["-c", "stays", "--", "sleep", "1000"]).expect(0);
    host.kill_supervisor("seen");
    host.until_ps("seen", "SupervisorGone");
    let stays = shown(&host, "stays");
    assert_eq!(stays["volumeMounts"][0]["mountPath"], "/mnt");
}

#[test]
fn nothing_is_left_of_a_debug_container_that_can_have_no_log() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&pod("seen", json!({ "containers": [facts("app", &["sleep"])] })));
    let supervisor = host.supervisor("seen");
    let before = leaks::children(supervisor);
    assert!(!before.is_empty());
    let log = host.path("log").join(format!("default_seen_{}/look", host.uid("seen")));
    std::fs::write(&log, "in the way").unwrap();
    let refused = host.run(&["debug", "seen", "--image", "busybox", "-c", "look", "--", "sleep", "1000"]);
    refused.expect(125).says(&["making the log directory of container look", "ENOTDIR"]);
    assert_eq!(leaks::children(supervisor), before, "its init was at work already");
    std::fs::remove_file(&log).unwrap();
    host.run(&["debug", "seen", "-i", "--image", "busybox", "-c", "again", "--", "sh", "-c", "exit 3"]).expect(3);
    host.ok(&["rm", "-f", "seen"]);
    host.assert_clean();
}
