//! Names: ambiguous ones, misspelt ones, taken ones.

use crate::harness::{Host, Live, facts, pod, with};
use serde_json::{Value, json};

fn sleeper(namespace: &str, name: &str) -> Value {
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] });
    with(pod(name, spec), json!({ "metadata": { "name": name, "namespace": namespace } }))
}

#[test]
fn pods_are_found_by_what_people_type() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("red", "same"));
    host.start(&sleeper("blue", "same"));
    host.start(&sleeper("red", "webserver"));
    let uid = host.uid("red/same");
    for name in ["red/same", "pod/red/same", &uid, &uid[..8]] {
        assert_eq!(host.inspect(name)["metadata"]["uid"], uid, "{name}");
    }
    assert_eq!(host.inspect("webserver")["metadata"]["namespace"], "red");
    let verbs: [&[&str]; 6] = [
        &["logs", "same"],
        &["inspect", "same"],
        &["stop", "same"],
        &["rm", "same"],
        &["wait", "same"],
        &["exec", "same", "--", "/facts"],
    ];
    for args in verbs {
        host.run(args).expect(125).says(&["\"same\" could be any of", "red/same", "blue/same"]);
    }
    host.run(&["logs", "webservr"]).expect(125).says(&["\"webservr\" not found", "did you mean red/webserver?"]);
    host.run(&["logs", "blue/webserver"]).expect(125).says(&["not found"]);
    host.run(&["logs", "quite-else"]).expect(125).says(&["not found", "`podshim ps` lists them"]);
    // In kubectl's default namespace a name is not ambiguous.
    host.start(&sleeper("default", "same"));
    assert_eq!(host.inspect("same")["metadata"]["namespace"], "default");
    host.ok(&["rm", "-f", "--all"]);
    host.run(&["logs", "same"]).expect(125).says(&["there are no pods"]);
}

/// `-n` is what a user of kubectl writes.
#[test]
fn a_namespace_is_said_by_an_option() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("red", "same"));
    host.start(&sleeper("blue", "same"));
    assert!(host.ok(&["exec", "-n", "red", "same", "--", "/facts", "here"]).contains("\"here\""));
    for args in
        [&["logs", "-n", "red", "same"][..], &["logs", "red/same", "-n", "red"], &["rm", "-f", "-n", "red", "none"]]
    {
        host.ok(args);
    }
    for verb in ["logs", "attach", "wait", "stop", "rm", "inspect", "events", "delete pod"] {
        let args: Vec<&str> = verb.split(' ').chain(["blue/same", "-n", "red"]).collect();
        host.run(&args).expect(125).says(&["blue/same is not in the namespace \"red\" of --namespace"]);
    }
    let events = host.ok(&["events", "-n", "red"]);
    assert!(events.contains("red/same") && !events.contains("blue/same"), "{events}");
    assert_eq!(host.ok(&["wait", "-n", "red", "same", "--for", "condition=Ready"]), "red/same\n");
    assert_eq!(host.ok(&["stop", "-n", "red", "--all"]), "red/same\n");
    assert_eq!(host.ok(&["rm", "-n", "red", "--all"]), "red/same\n");
    assert_eq!(host.ok(&["ps", "-q"]), "blue/same\n");
}

#[test]
fn a_name_in_use_is_told() {
    let Some(host) = Host::new(&[]) else { return };
    host.start(&sleeper("default", "taken"));
    let uid = host.uid("taken");
    let manifest = host.manifest(&sleeper("default", "taken"));
    for args in [&["run", &manifest][..], &["run", "-d", &manifest]] {
        host.run(args).expect(125).says(&["pod default/taken already exists", "podshim rm default/taken"]);
    }
    assert_eq!(host.uid("taken"), uid);
    assert_eq!(host.ps("taken"), ["1/1", "Running", "0"].map(str::to_owned));
    host.start(&sleeper("other", "taken"));
    host.ok(&["rm", "-f", "default/taken"]);
    host.run(&["run", "-d", &manifest]).expect(0);
}

#[test]
fn of_many_at_once_exactly_one_gets_the_name() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("default", "one"));
    let mut all: Vec<Live> = (0..20).map(|_| host.live(&["run", "-d", &manifest])).collect();
    let codes: Vec<i32> = all.iter_mut().map(Live::wait).collect();
    assert_eq!(codes.iter().filter(|c| **c == 0).count(), 1, "{codes:?}");
    for (live, code) in all.iter().zip(&codes) {
        assert!(*code == 0 || (*code == 125 && live.err().contains("already exists")), "{code}: {}", live.err());
    }
    assert_eq!(host.ok(&["ps", "-q"]), "default/one\n");
    assert_eq!(host.ps("one"), ["1/1", "Running", "0"].map(str::to_owned));
    // Nothing of those who lost.
    let count = |dir: &str| std::fs::read_dir(host.path(dir)).unwrap().count();
    assert_eq!((count("state/pods"), count("state/names"), count("root/pods"), count("log")), (1, 1, 1, 1));
    host.ok(&["rm", "-f", "one"]);
    host.assert_clean();
}

#[test]
fn different_pods_start_side_by_side() {
    let Some(host) = Host::new(&[]) else { return };
    let manifests: Vec<String> = (0..12).map(|n| host.manifest(&sleeper("many", &format!("p{n}")))).collect();
    let mut all: Vec<Live> = manifests.iter().map(|m| host.live(&["run", "-d", m])).collect();
    for live in &mut all {
        assert_eq!(live.wait(), 0, "{}", live.err());
    }
    assert_eq!(host.ok(&["ps", "-q"]).lines().count(), 12);
    // Starting one and removing others at the same time disturbs neither.
    let names: Vec<String> = (0..12).map(|n| format!("many/p{n}")).collect();
    let mut removals: Vec<Live> = names.iter().map(|n| host.live(&["rm", "-f", n])).collect();
    let mut late = host.live(&["run", "-d", &host.manifest(&sleeper("many", "late"))]);
    for live in removals.iter_mut().chain([&mut late]) {
        assert_eq!(live.wait(), 0, "{}", live.err());
    }
    assert_eq!(host.ok(&["ps", "-q"]), "many/late\n");
    assert_eq!(host.ps("late")[1], "Running");
}
