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
    for field in [
        "    ports: [{containerPort: 80, hostPort: 80}]\n",
        "  hostUsers: false\n",
        "  volumes: [{name: a, nfs: {}}]\n",
    ] {
        assert!(refused(&format!("{POD}{field}")).contains("not supported yet by podshim"), "{field}");
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
}
