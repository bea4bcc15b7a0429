use super::sources::MAX_BYTES;
use super::*;

const POD: &str =
    "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app\nspec:\n  containers:\n  - name: app\n    image: busybox\n";

fn one(text: &str) -> AdmittedPod {
    match admit(&[Source { name: "pod.yaml".into(), text: text.into() }]) {
        Ok(mut pods) => pods.pop().unwrap(),
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

fn refused(text: &str) -> String {
    match admit(&[Source { name: "pod.yaml".into(), text: text.into() }]) {
        Ok(_) => panic!("admitted:\n{text}"),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let pod = one(&format!(
        "{POD}    ports: [{{containerPort: 80}}]\n    resources: {{limits: {{cpu: 1, memory: 64Mi}}, requests: {{cpu: 500m}}}}\n    volumeMounts: [{{name: a, mountPath: rel}}]\n  volumes:\n  - name: a\n  - name: b\n    hostPath: {{path: /x}}\n  terminationGracePeriodSeconds: -5\n"
    ));
    assert_eq!((pod.namespace(), pod.name(), pod.source()), ("default", "app", "pod.yaml"));
    let spec = pod.pod().spec.as_ref().unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
    assert_eq!(spec.termination_grace_period_seconds, Some(1));
    assert!(spec.security_context.is_some());
    let container = &spec.containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
    assert!(!pod.pull_policy_written("app"));
    assert_eq!(container.termination_message_path.as_deref(), Some("/dev/termination-log"));
    assert_eq!(container.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
    assert_eq!(container.volume_mounts.as_ref().unwrap()[0].mount_path, "/rel");
    let requests = container.resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("500m", "64Mi"));
    let volumes = spec.volumes.as_ref().unwrap();
    assert!(volumes[0].empty_dir.is_some());
    assert_eq!(volumes[1].host_path.as_ref().unwrap().type_.as_deref(), Some(""));
}

#[test]
fn windows_line_ends_and_values_without_effect_are_no_faults() {
    let text = format!("{POD}  hostNetwork: true\n  hostname: web\n  terminationGracePeriodSeconds: -1\n");
    let pod = one(&text.replace('\n', "\r\n"));
    assert_eq!(pod.pod().spec.as_ref().unwrap().containers[0].image.as_deref(), Some("busybox"));
    assert_eq!(pod.notes().len(), 2, "{:?}", pod.notes());
}

#[test]
fn a_written_pull_policy_is_remembered() {
    assert!(one(&format!("{POD}    imagePullPolicy: Never\n")).pull_policy_written("app"));
}

#[test]
fn a_pod_exported_from_a_cluster_is_admitted_with_notes() {
    let pod = one(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: app\n  uid: 1-2\n  creationTimestamp: \"2026-01-01T00:00:00Z\"\n  resourceVersion: \"7\"\n  managedFields: [{anything: 1}]\nspec:\n  affinity: {nodeAffinity: {}}\n  nodeName: node-1\n  enableServiceLinks: true\n  serviceAccountName: default\n  schedulerName: default-scheduler\n  tolerations: [{key: a, operator: Exists}]\n  hostNetwork: true\n  containers:\n  - name: app\n    image: busybox\n    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]\nstatus:\n  phase: Running\n  new: [1]\n",
    );
    assert!(pod.notes().iter().any(|n| n == "spec.tolerations has no effect on one host"), "{:?}", pod.notes());
    assert!(pod.notes().iter().any(|n| n.starts_with("status ")));
    assert_eq!(pod.pod().metadata.uid, None);
    assert_eq!(pod.pod().status, None);
}

#[test]
fn a_field_that_says_nothing_needs_no_support() {
    for field in [
        "  hostUsers: true\n",
        "  setHostnameAsFQDN: false\n",
        "  imagePullSecrets: []\n",
        "  subdomain: \"\"\n",
        "  os: {name: linux}\n",
        "  runtimeClassName:\n",
        "  securityContext: {fsGroupChangePolicy: Always, sysctls: []}\n",
    ] {
        one(&format!("{POD}{field}"));
    }
}

#[test]
fn json_goes_the_same_way() {
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"app"},"spec":{"containers":[{"name":"app","image":"busybox:1"}],"hostNetwork":true}}"#;
    assert_eq!(one(json).pod().spec.as_ref().unwrap().host_network, Some(true));
    let tabbed = json.replace("\"spec\"", "\n\t\"spec\"");
    assert_eq!(one(&tabbed).name(), "app");
}

#[test]
fn several_documents_and_files_are_several_pods() {
    let sources = [POD, &POD.replace("name: app\nspec", "name: other\nspec")]
        .map(|text| Source { name: "f".into(), text: text.into() });
    assert_eq!(admit(&sources).unwrap().len(), 2);
    let two = format!("---\n{POD}---\n{}---\n", POD.replace("name: app\nspec", "name: other\nspec"));
    assert_eq!(admit(&[Source { name: "f".into(), text: two }]).unwrap().len(), 2);
    let again = [POD, POD].map(|text| Source { name: "f".into(), text: text.into() });
    assert!(admit(&again).unwrap_err().to_string().contains("another pod is named default/app"));
}

#[test]
fn merge_keys_and_anchors_work() {
    let pod = one(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: app}\nspec:\n  initContainers:\n  - &c\n    name: init\n    image: busybox:1\n  containers:\n  - <<: *c\n    name: app\n",
    );
    assert_eq!(pod.pod().spec.as_ref().unwrap().containers[0].image.as_deref(), Some("busybox:1"));
    // Also of what is taken from the text as it is written.
    for (name, first, second) in [
        ("a mapping", "resources: &r {limits: {cpu: 0.50}}", "resources: *r"),
        ("a number", "resources: {limits: {cpu: &n 0.50}}", "resources: {limits: {cpu: *n}}"),
        ("a merge key", "resources: {limits: &l {cpu: 0.50}}", "resources: {limits: {<<: *l}}"),
    ] {
        let pod = one(&format!("{POD}    {first}\n  - name: other\n    image: busybox\n    {second}\n"));
        for container in &pod.pod().spec.as_ref().unwrap().containers {
            let limits = container.resources.as_ref().unwrap().limits.as_ref().unwrap();
            assert_eq!(limits["cpu"].0, "0.50", "{name}: {}", container.name);
        }
    }
}

#[test]
fn requests_and_limits_of_zero_are_none() {
    for resources in [
        "{limits: {cpu: 0, memory: 0}}",
        "{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 0m, memory: 0Mi}}",
        "{requests: {cpu: 0.0, memory: -0}}",
    ] {
        one(&format!("{POD}    resources: {resources}\n"));
        one(&format!("{POD}  resources: {resources}\n"));
    }
    for (resources, why) in [
        ("{limits: {cpu: -1}}", "`-1` is negative"),
        ("{requests: {memory: -0.5}}", "`-0.5` is negative"),
        ("{limits: {memory: 1}}", "`1` is too low"),
        ("{limits: {cpu: 0}, requests: {cpu: 1m}}", "`1m` is more than the limit `0`"),
    ] {
        let rendered = refused(&format!("{POD}    resources: {resources}\n"));
        assert!(rendered.contains(why), "{resources}:\n{rendered}");
    }
}

#[test]
fn hostile_texts_are_refused_without_delay() {
    let cases = [
        ("nul", "apiVersion: v1\0".to_owned()),
        ("binary", "\u{1}\u{2}".to_owned()),
        ("tag", format!("{POD}    stdin: !!python/object:os.system x\n")),
        ("wide", format!("{POD}{}", (0..20_000).map(|i| format!("    f{i}: 1\n")).collect::<String>())),
        ("long line", format!("{POD}    env: [{{name: A, value: {}}}]\n    x: 1\n", "x".repeat(1 << 20))),
        ("many errors", format!("{POD}    env:\n{}", "    - {nam: A}\n".repeat(3000))),
        ("flat", format!("metadata:\nspec:\n{}", "containers:\nname: a\n".repeat(3000))),
    ];
    for (name, text) in cases {
        let start = std::time::Instant::now();
        let rendered = refused(&text);
        assert!(rendered.len() < 1 << 20, "{name}: {} bytes", rendered.len());
        assert!(start.elapsed().as_secs() < 20, "{name}: {:?}", start.elapsed());
    }
}

/// Any line of a good pod lost, doubled, or moved sideways: an answer, never a panic, and an excerpt that renders.
#[test]
fn mutilated_pods_get_an_answer() {
    let pods = [
        include_str!("../../tests/pods/elastic-stack.yaml"),
        include_str!("../../tests/pods/myapp-init-services.yaml"),
        include_str!("../../tests/pods/myapp-git.yaml"),
        include_str!("../../tests/plans/lifecycle/pod.yaml"),
    ];
    let mutations: [fn(&str) -> String; 9] = [
        |_| String::new(),
        |l| format!("{l}\n{l}\n"),
        |l| format!("  {l}\n"),
        |l| format!("{}\n", l.strip_prefix("  ").unwrap_or(l)),
        |l| format!("{}\n", l.trim_start()),
        |l| format!("{}\n", l.replacen("- ", "", 1)),
        |l| format!("{}\n", l.replacen(": ", ":", 1)),
        |l| format!("{}\n", l.split(':').next().unwrap_or("")),
        |l| format!("{}\u{e9}\u{1b}[31m\n", l),
    ];
    for pod in pods {
        for at in 0..pod.lines().count() {
            for mutate in mutations {
                let text: String = pod
                    .lines()
                    .enumerate()
                    .map(|(i, line)| if i == at { mutate(line) } else { format!("{line}\n") })
                    .collect();
                if let Err(diagnostics) = admit(&[Source { name: "pod.yaml".into(), text }]) {
                    let rendered = diagnostics.render(Color::Plain);
                    assert!(diagnostics.count() > 0 && !rendered.contains('\u{1b}'), "{rendered}");
                }
            }
        }
    }
}

#[test]
fn sources_come_from_files_and_directories() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("b.yaml", "b: 1");
    write("a.json", "\u{feff}{}");
    write("c.txt", "no");
    std::fs::create_dir(dir.path().join("sub.yaml")).unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    let sources = read_sources(std::slice::from_ref(&path)).unwrap();
    let texts: Vec<&str> = sources.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(texts, ["{}", "b: 1"]);
    assert!(sources[0].name.ends_with("/a.json"));
    std::fs::write(dir.path().join("latin.yaml"), b"a: 1\nb: \xe9\n").unwrap();
    let latin = format!("{path}/latin.yaml");
    assert!(format!("{:#}", read_sources(&[latin]).unwrap_err()).contains("not UTF-8: line 2"));
    assert!(read_sources(&[format!("{path}/none.yaml")]).is_err());
    assert!(format!("{:#}", read_sources(&[format!("{path}/sub.yaml")]).unwrap_err()).contains("holds no"));
    let big = format!("{path}/big.yaml");
    std::fs::write(&big, vec![b'#'; MAX_BYTES as usize + 1]).unwrap();
    assert!(format!("{:#}", read_sources(&[big]).unwrap_err()).contains("larger than 8 MiB"));
    // Together: no one of them is too large, and the last one is small.
    let many = tempfile::tempdir().unwrap();
    let put = |name: &str, size: u64| std::fs::write(many.path().join(name), vec![b'#'; size as usize]).unwrap();
    (0..4).for_each(|i| put(&format!("{i}.yaml"), MAX_BYTES));
    let path = many.path().to_str().unwrap().to_owned();
    assert_eq!(read_sources(std::slice::from_ref(&path)).unwrap().len(), 4);
    put("z.yaml", 1);
    assert!(format!("{:#}", read_sources(&[path]).unwrap_err()).contains("together more than 32 MiB"));
}

fn all(text: &str, cron_jobs: CronJobs) -> Documents {
    documents(&[Source { name: "f.yaml".into(), text: text.into() }], cron_jobs).unwrap_or_else(|d| panic!("{d}"))
}

fn names(documents: &Documents) -> Vec<String> {
    documents.pods.iter().map(|pod| format!("{}/{}", pod.namespace(), pod.name())).collect()
}

const TEMPLATE: &str = "  selector: {matchLabels: {app: w}}\n  template:\n    metadata: {labels: {app: w}}\n    spec: {containers: [{name: a, image: b}]}\n";

#[test]
fn s27_controllers_become_pods_with_names_that_stay() {
    let of = |kind: &str, more: &str| {
        format!("apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: w, namespace: ns}}\nspec:\n{more}{TEMPLATE}")
    };
    let rows: &[(&str, &str, &[&str])] = &[
        ("Deployment", "", &["ns/w-0"]),
        ("Deployment", "  replicas: 3\n", &["ns/w-0", "ns/w-1", "ns/w-2"]),
        ("ReplicaSet", "  replicas: 2\n", &["ns/w-0", "ns/w-1"]),
        ("StatefulSet", "  replicas: 2\n  ordinals: {start: 7}\n", &["ns/w-7", "ns/w-8"]),
        ("DaemonSet", "", &["ns/w-0"]),
        ("Deployment", "  replicas: 0\n", &[]),
    ];
    for (kind, more, expected) in rows {
        let found = all(&of(kind, more), CronJobs::Refused);
        assert_eq!(names(&found), *expected, "{kind} {more}");
        assert_eq!(found.owners.len(), 1, "{kind} {more}");
        assert_eq!(found.notes.len(), usize::from(expected.is_empty()), "{:?}", found.notes);
        for pod in &found.pods {
            assert_eq!(pod.owner(), Some(&found.owners[0]));
            assert_eq!(pod.pod().metadata.labels.as_ref().unwrap()["app"], "w");
        }
    }
    // A note of the template comes once, with its whole path.
    let noted = of("Deployment", "  replicas: 2\n").replace("{containers:", "{nodeName: x, containers:");
    let noted = all(&noted, CronJobs::Refused);
    let notes: Vec<&String> = noted.pods.iter().flat_map(AdmittedPod::notes).collect();
    assert_eq!(notes, ["spec.template.spec.nodeName has no effect: the pod runs on this host"]);
}

#[test]
fn s27_a_job_runs_all_its_pods_at_once() {
    let job = |kind: &str, more: &str, end: &str| {
        format!(
            "apiVersion: batch/v1\nkind: {kind}\nmetadata: {{name: j}}\nspec:{more}{end}template: {{spec: {{restartPolicy: Never, containers: [{{name: a, image: b}}]}}}}\n"
        )
    };
    let rows: &[(&str, &[&str])] = &[
        ("", &["default/j-0"]),
        ("\n  parallelism: 2", &["default/j-0", "default/j-1"]),
        ("\n  completions: 2\n  parallelism: 5", &["default/j-0", "default/j-1"]),
        ("\n  suspend: true\n  completions: 9", &[]),
    ];
    for (more, expected) in rows {
        assert_eq!(names(&all(&job("Job", more, "\n  "), CronJobs::Refused)), *expected, "{more}");
    }
    let cron = job("CronJob", "\n  schedule: \"*/5 * * * *\"\n  jobTemplate:\n    spec:", "\n      ");
    let now = all(&cron, CronJobs::Now);
    assert_eq!(names(&now), ["default/j-0"]);
    assert_eq!(now.pods[0].notes(), ["spec.schedule has no effect: --now runs the Job once"]);
    assert!(refused(&cron).contains("--now runs its Job once"));
}

#[test]
fn s27_a_list_is_flattened() {
    let items = "[{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}, {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a, image: b, envFrom: [{configMapRef: {name: c}}]}]}}]";
    let list = all(
        &format!("apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: \"\"}}\nitems: {items}\n"),
        CronJobs::Refused,
    );
    let found: Vec<&str> = list.found.iter().map(|f| f.what.as_str()).collect();
    assert_eq!(found, ["ConfigMap default/c", "pod default/p"]);
    assert!(refused("apiVersion: v1\nkind: List\nitems: []\n").contains("the List is empty"));
    assert!(refused("apiVersion: v1\nkind: List\n").contains("the List is empty"));
}

#[test]
fn objects_are_found_in_any_file_and_in_any_order() {
    let pod = format!("{POD}    envFrom: [{{configMapRef: {{name: c}}}}]\n");
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {A: b}\n";
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    for sources in [[source("1", &pod), source("2", map)], [source("1", map), source("2", &pod)]] {
        let pods = admit(&sources).unwrap();
        assert_eq!(pods[0].objects().config_map("default", "c").unwrap().text["A"], "b");
    }
    let elsewhere = map.replace("{name: c}", "{name: c, namespace: ns}");
    let missing = admit(&[source("1", &pod), source("2", &elsewhere)]).unwrap_err().to_string();
    assert!(missing.contains("there is no ConfigMap `c` in namespace default"), "{missing}");
    // While another document cannot be read, what is missing is not to be known.
    let broken = admit(&[source("1", &pod), source("2", "apiVersion: v1\nkind: ConfigMap\n")]).unwrap_err().to_string();
    assert!(!broken.contains("there is no ConfigMap"), "{broken}");
}

#[test]
fn metadata_generate_name_is_completed_at_random() {
    let text = POD.replacen("  name: app\n", "  generateName: job-\n", 1);
    let made: Vec<String> = (0..20).map(|_| one(&text).name().to_owned()).collect();
    for name in &made {
        let suffix = name.strip_prefix("job-").unwrap();
        assert_eq!(suffix.len(), 5, "{name}");
        assert!(suffix.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)), "{name}");
    }
    assert!(made.iter().collect::<std::collections::BTreeSet<_>>().len() > 18, "{made:?}");
    assert_eq!(one(&text).name_comes_from(), Name::Generated);
    assert_eq!(one(POD).name_comes_from(), Name::Given);
    let long = text.replace("job-", &"x".repeat(100));
    assert_eq!(one(&long).name().len(), 63);
    let both = POD.replacen("  name: app\n", "  name: app\n  generateName: job-\n", 1);
    assert_eq!(one(&both).name(), "app");
    assert!(refused(&text.replace("job-", "Job-")).contains("metadata.name"));
}

#[test]
fn spec_image_pull_secrets_come_from_the_service_account_too() {
    let account =
        "---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\nimagePullSecrets: [{name: s}]\n";
    let secrets = |text: &str| -> Vec<String> {
        let pod = all(text, CronJobs::Refused).pods.remove(0);
        pod.pod().spec.as_ref().unwrap().image_pull_secrets.iter().flatten().map(|s| s.name.clone()).collect()
    };
    assert_eq!(secrets(POD), [""; 0]);
    assert_eq!(secrets(&format!("{POD}{account}")), ["s"]);
    assert_eq!(secrets(&format!("{POD}  serviceAccountName: other\n{account}")), [""; 0]);
    assert_eq!(secrets(&format!("{POD}  imagePullSecrets: [{{name: own}}]\n{account}")), ["own"]);
    let noted = one(&format!("{POD}  imagePullSecrets: [{{name: own}}]\n"));
    assert!(noted.notes()[0].contains("FailedToRetrieveImagePullSecret"), "{:?}", noted.notes());
}

#[test]
fn there_is_an_end_to_the_number_of_pods() {
    let one = |name: &str, n: usize| {
        format!("apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: {name}}}\nspec:\n  replicas: {n}\n{TEMPLATE}")
    };
    let two = |n: usize| format!("{}---\n{}", one("a", n), one("b", n));
    assert_eq!(all(&two(55), CronJobs::Refused).pods.len(), 110);
    assert!(refused(&two(56)).contains("there are 112 pods"));
    assert!(refused(&two(2_000_000_000)).contains("more than 110"));
}

/// Any line of good documents lost, doubled or moved: an answer, never a panic, and no secret in it.
#[test]
fn mutilated_documents_get_an_answer_without_secrets() {
    let texts = [
        include_str!("../../tests/plans/data/pod.yaml"),
        include_str!("../../tests/plans/stateful-set/pod.yaml"),
        include_str!("../../tests/plans/indexed-job/pod.yaml"),
    ];
    let mutations: [fn(&str) -> String; 7] = [
        |_| String::new(),
        |l| format!("{l}\n{l}\n"),
        |l| format!("  {l}\n"),
        |l| format!("{}\n", l.strip_prefix("  ").unwrap_or(l)),
        |l| format!("{}\n", l.trim_start()),
        |l| format!("{}\n", l.replacen("- ", "", 1)),
        |l| format!("{}\n", l.replacen(": ", ":", 1)),
    ];
    for text in texts {
        for at in 0..text.lines().count() {
            for mutate in mutations {
                let lines = text.lines().enumerate();
                let text: String =
                    lines.map(|(i, line)| if i == at { mutate(line) } else { format!("{line}\n") }).collect();
                if let Err(diagnostics) = admit(&[Source { name: "f.yaml".into(), text }]) {
                    let rendered = diagnostics.render(Color::Plain);
                    // A document that is no Secret any more has none.
                    let is_secret = !text_lost_its_kind(texts[0], at);
                    assert!(diagnostics.count() > 0 && (!is_secret || !rendered.contains("s3cret")), "{rendered}");
                }
            }
        }
    }
}

fn text_lost_its_kind(text: &str, at: usize) -> bool {
    text.lines().nth(at).is_some_and(|line| line.contains("kind: Secret") || line == "---")
}
