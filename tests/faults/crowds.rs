//! Clients come all at once: each is answered in time, and what they leave is one state that all agree about.

use crate::harness::{Host, Live, Numbers, facts, pod, shell, until};
use crate::rig;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const MANY: usize = 20;

fn sleeper(name: &str) -> Value {
    pod(name, json!({ "terminationGracePeriodSeconds": 1, "containers": [facts("c", &["sleep"])] }))
}

#[test]
fn one_of_many_has_the_name_and_the_others_are_told() {
    let Some(host) = Host::new(&[]) else { return };
    let manifest = host.manifest(&sleeper("p"));
    let rounds = if rig::is_long() { 50 } else { 4 };
    for round in 0..rounds {
        let mut all: Vec<Live> = (0..MANY).map(|_| host.live(&["run", "-d", &manifest])).collect();
        let codes: Vec<i32> = all.iter_mut().map(Live::wait).collect();
        let winners = codes.iter().filter(|code| **code == 0).count();
        let told = all.iter().filter(|one| one.err().contains("default/p already exists")).count();
        assert_eq!((winners, told), (1, MANY - 1), "round {round}: {codes:?}");
        assert_eq!(host.ok(&["ps", "-q"]), "default/p\n");
        host.run(&["exec", "p", "--", "/facts", "exit", "7"]).expect(7);
        // As many remove it: it is gone, and nobody is told anything else.
        let mut all: Vec<Live> = (0..MANY).map(|_| host.live(&["rm", "-f", "p"])).collect();
        for one in &mut all {
            assert_eq!(one.wait(), 0, "round {round}: {}", one.err());
        }
        host.assert_clean();
    }
    eprintln!("{rounds} rounds of {MANY} who run and {MANY} who remove one pod");
}

#[test]
fn many_make_pods_of_their_own_at_once() {
    let Some(host) = Host::new(&[]) else { return };
    host.own_network();
    let names: Vec<String> = (0..MANY).map(|n| format!("p{n}")).collect();
    let manifests: Vec<String> = names.iter().map(|name| host.manifest(&sleeper(name))).collect();
    let mut all: Vec<Live> = manifests.iter().map(|manifest| host.live(&["run", "-d", manifest])).collect();
    for one in &mut all {
        assert_eq!(one.wait(), 0, "{}", one.err());
    }
    let mut addresses: Vec<String> =
        names.iter().map(|name| host.inspect(name)["status"]["podIP"].as_str().unwrap().to_owned()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), MANY, "each has an address of its own");
    let mut all: Vec<Live> = names.iter().map(|name| host.live(&["rm", "-f", name])).collect();
    for one in &mut all {
        assert_eq!(one.wait(), 0, "{}", one.err());
    }
    assert_eq!(host.ok(&["ps", "-q"]), "");
}

/// Two users who have chosen the same name are in no one's way, if they have namespaces.
#[test]
fn one_name_in_two_namespaces_is_two_pods() {
    let Some(host) = Host::new(&[]) else { return };
    let of = |namespace: &str| {
        let mut value = pod(
            "p",
            json!({ "terminationGracePeriodSeconds": 1,
            "containers": [shell("c", &format!("echo {namespace}; exec sleep 1000"))] }),
        );
        value["metadata"]["namespace"] = json!(namespace);
        host.manifest(&value)
    };
    let manifests = ["one", "two"].map(of);
    let mut all: Vec<Live> = manifests.iter().map(|manifest| host.live(&["run", "-d", manifest])).collect();
    for one in &mut all {
        assert_eq!(one.wait(), 0, "{}", one.err());
    }
    for namespace in ["one", "two"] {
        let name = format!("{namespace}/p");
        until("its line", || (host.ok(&["logs", &name]) == format!("{namespace}\n")).then_some(()));
    }
    // Neither is meant by the name alone.
    for verb in [&["logs", "p"][..], &["exec", "p", "--", "true"], &["stop", "p"], &["rm", "-f", "p"]] {
        host.run(verb).expect(125).says(&["one/p", "two/p"]);
    }
    host.ok(&["rm", "-f", "one/p"]);
    assert_eq!(host.ok(&["ps", "-q"]), "two/p\n");
    host.ok(&["exec", "two/p", "--", "true"]);
    host.ok(&["rm", "-f", "two/p"]);
    host.assert_clean();
}

/// What a verb may be answered while others make and remove the pod that it is about.
const ANSWERS: [&str; 15] = [
    "already exists",
    "not found",
    "is running",
    "is gone",
    "has ended",
    "is over",
    "was stopped",
    "no supervisor",
    "is not running",
    "has no supervisor",
    "is being",
    "failed, exit code 137",
    "before the container was created",
    "has no log yet",
    "ended before the command was started",
];

#[test]
fn many_do_anything_to_the_same_pods() {
    let Some(host) = Host::new(&[]) else { return };
    let names = ["a", "b", "c"];
    let manifests = names.map(|name| host.manifest(&sleeper(name)));
    let seconds = if rig::is_long() { 600 } else { 6 };
    let seed = std::env::var("PODSHIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut numbers, mut done, mut slowest, mut others) = (Numbers(seed), 0, Duration::ZERO, Vec::new());
    let mut busy: Vec<(Instant, Vec<String>, Live)> = Vec::new();
    let mut choose = || {
        let which = numbers.below(3) as usize;
        let name = names[which];
        let words: Vec<&str> = match numbers.below(9) {
            0..=2 => vec!["run", "-d", &manifests[which]],
            3 => vec!["rm", "-f", name],
            4 => vec!["rm", name],
            5 => vec!["stop", "-t", "0", name],
            6 => vec!["exec", name, "--", "/facts", "exit", "7"],
            7 => vec!["logs", name],
            _ => vec!["ps"],
        };
        words.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    while Instant::now() < end || !busy.is_empty() {
        while busy.len() < 6 && Instant::now() < end {
            let words = choose();
            busy.push((Instant::now(), words.clone(), host.live(&words)));
        }
        let (since, words, mut live) = busy.remove(0);
        let code = live.wait();
        slowest = slowest.max(since.elapsed());
        done += 1;
        let err = live.err();
        let is_known = match code {
            0 => true,
            7 => words[0] == "exec",
            125..=127 => ANSWERS.iter().any(|answer| err.contains(answer)),
            // That of a command in a container that was killed.
            137 => words[0] == "exec",
            _ => false,
        };
        if !is_known || err.contains("panicked") {
            others.push(format!("{words:?}: {code}: {err}"));
        }
    }
    eprintln!("{done} commands by 6 clients in {seconds} s, seed {seed}; none took longer than {slowest:?}");
    assert!(others.is_empty(), "{} of {done}:\n{}", others.len(), others.join("\n"));
    assert!(slowest < Duration::from_secs(30), "{slowest:?}");
    host.ok(&["rm", "-f", "--all"]);
    host.assert_clean();
}
