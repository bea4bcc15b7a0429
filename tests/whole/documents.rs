//! pod-api.md §27: what becomes of documents that are no Pods.

use crate::harness::{Host, documents, facts, object, pod, shell, with};
use serde_json::{Value, json};

fn workload(kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind.ends_with("Job") { "batch/v1" } else { "apps/v1" };
    json!({ "apiVersion": version, "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn replicated(replicas: u32) -> Value {
    let template = json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "terminationGracePeriodSeconds": 0, "containers": [facts("c", &["sleep"])] } });
    let spec = json!({ "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template });
    workload("Deployment", "web", spec)
}

fn running(host: &Host) -> Vec<String> {
    let mut names: Vec<String> = host.ok(&["ps", "-q"]).split_whitespace().map(str::to_owned).collect();
    names.sort();
    names
}

#[test]
fn a_deployment_is_scaled_by_apply() {
    let Some(host) = Host::new(&[]) else { return };
    let apply = |replicas: u32| host.ok(&["apply", &host.manifest(&replicated(replicas))]);
    assert_eq!(apply(2), "pod/web-0 created\npod/web-1 created\n");
    assert_eq!(running(&host).len(), 2);
    assert_eq!(host.inspect("web-1")["metadata"]["labels"], json!({ "app": "web" }));
    let first = host.uid("web-0");
    assert_eq!(apply(3), "pod/web-0 unchanged\npod/web-1 unchanged\npod/web-2 created\n");
    // A pod that is not the Deployment's stays, whatever its name.
    host.start(&pod("web-7", json!({ "containers": [facts("c", &["sleep"])] })));
    assert_eq!(apply(1), "pod/web-0 unchanged\npod/web-1 removed\npod/web-2 removed\n");
    assert_eq!(host.uid("web-0"), first);
    assert_eq!(apply(0), "pod/web-0 removed\n");
    assert_eq!(host.inspect("web-7")["metadata"]["name"], "web-7");
    host.run(&["run", "-d", &host.manifest(&replicated(0))]).expect(0).says(&["asks for no pods"]);
}

#[test]
fn a_stateful_set_has_names_numbers_and_claims_of_its_own() {
    let Some(host) = Host::new(&[]) else { return };
    let container = with(
        shell("c", "cat /data/n 2>/dev/null; echo $HOSTNAME $INDEX | tee /data/n; hostname -f"),
        json!({
            "env": [{ "name": "INDEX", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']" } } }],
            "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
        }),
    );
    let claim = json!({ "metadata": { "name": "data" }, "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    let template = json!({ "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [with(container, json!({ "restartPolicy": "Never" }))] } });
    let set = workload(
        "StatefulSet",
        "db",
        json!({
            "replicas": 2, "serviceName": "db", "selector": { "matchLabels": { "app": "db" } },
            "template": template, "volumeClaimTemplates": [claim],
        }),
    );
    let service = object("Service", "db", json!({ "spec": { "clusterIP": "None", "selector": { "app": "db" } } }));
    let path = documents(&host, "set.json", &[service, set]);
    for expected in
        ["db-1 1\ndb-1.db.default.svc.cluster.local\n", "db-1 1\ndb-1 1\ndb-1.db.default.svc.cluster.local\n"]
    {
        host.run(&["run", "-d", "--wait=complete", &path]).expect(0);
        assert_eq!(host.ok(&["logs", "db-1"]), expected);
        assert!(host.ok(&["logs", "db-0"]).contains("db-0 0\n"));
        // Claims stay when pods go.
        host.ok(&["rm", "-f", "db-0", "db-1"]);
    }
    for claim in ["data-db-0", "data-db-1"] {
        host.ok(&["volume", "rm", claim]);
    }
}

#[test]
fn a_job_runs_its_pods_to_their_end() {
    let Some(host) = Host::new(&[]) else { return };
    let job = |script: &str| {
        let container = shell("c", script);
        let template = json!({ "spec": { "restartPolicy": "Never", "containers": [container] } });
        json!({ "completionMode": "Indexed", "completions": 2, "parallelism": 2, "template": template })
    };
    let output =
        host.run(&["run", &host.manifest(&workload("Job", "sum", job("echo of $JOB_COMPLETION_INDEX")))]).expect(0);
    for line in ["of 0", "of 1"] {
        assert!(output.out.contains(line), "{output:?}");
    }
    host.run(&["run", &host.manifest(&workload("Job", "bad", job("exit $((JOB_COMPLETION_INDEX * 3))")))]).expect(3);
    let cron = workload(
        "CronJob",
        "nightly",
        json!({ "schedule": "0 3 * * *", "jobTemplate": { "spec": job("echo $JOB_COMPLETION_INDEX") } }),
    );
    let path = host.manifest(&cron);
    host.run(&["run", &path]).expect(125).says(&["a CronJob needs a clock", "--now"]);
    host.run(&["check", &path]).expect(1);
    host.run(&["check", "--now", &path]).expect(0);
    host.run(&["run", "--now", &path]).expect(0);
}

#[test]
fn a_list_of_objects_and_pods_in_several_files() {
    let Some(host) = Host::new(&[]) else { return };
    let container = with(shell("c", "echo $COLOR"), json!({ "envFrom": [{ "configMapRef": { "name": "settings" } }] }));
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        object("Namespace", "shop", json!({})),
        with(pod("app", json!({ "restartPolicy": "Never", "containers": [container] })), json!({ "metadata": { "name": "app", "namespace": "shop" } })),
    ] });
    let map = with(
        object("ConfigMap", "settings", json!({ "data": { "COLOR": "blue" } })),
        json!({ "metadata": { "name": "settings", "namespace": "shop" } }),
    );
    let (pods, maps) = (documents(&host, "pods.json", &[list]), documents(&host, "maps.json", &[map]));
    host.run(&["run", &pods]).expect(125).says(&[
        "items[1].spec.containers[0].envFrom[0].configMapRef.name",
        "there is no ConfigMap `settings` in namespace shop",
    ]);
    assert!(host.run(&["run", &pods, &maps]).expect(0).out.contains("blue"));
    let checked = host.run(&["check", &pods, &maps]).expect(0).out;
    for what in ["ok (Namespace shop)", "ok (pod shop/app)", "ok (ConfigMap shop/settings)"] {
        assert!(checked.contains(what), "{checked}");
    }
    host.run(&["run", &maps]).expect(125).says(&["nothing to run", "no document makes a pod"]);
}

#[test]
fn metadata_generate_name_makes_a_pod_of_its_own_each_time() {
    let Some(host) = Host::new(&[]) else { return };
    let mut manifest = pod("x", json!({ "containers": [facts("c", &["sleep"])] }));
    manifest["metadata"] = json!({ "generateName": "made-" });
    let path = host.manifest(&manifest);
    let names: Vec<String> = (0..2).map(|_| host.ok(&["run", "-d", &path]).trim().to_owned()).collect();
    for name in &names {
        let suffix = name.strip_prefix("default/made-").unwrap_or_else(|| panic!("{name}"));
        assert_eq!(suffix.len(), 5);
        assert_eq!(host.inspect(name)["metadata"]["name"], format!("made-{suffix}"));
    }
    assert_ne!(names[0], names[1]);
    host.run(&["apply", &path]).expect(125).says(&["apply needs a metadata.name"]);
}
