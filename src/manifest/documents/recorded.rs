//! A pod that was admitted before, from what podshim wrote down of it then: it is what it was, and only what came of it is asked
//! for. (Reading and judging it like a manifest was a tenth of what one more container took.)

use super::super::diagnostics::{Diagnostic, Diagnostics, Report, Secrecy};
use super::super::kind::Kind;
use super::super::tree::{Node, Span};
use super::super::{AdmittedPod, Name, Source};
use super::assemble::pull_secrets;
use super::objects::Objects;
use super::read::{Reader, Subject, settle};
use super::{Content, CronJobs};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value as Json;
use std::sync::Arc;

/// From the objects that it refers to, and itself.
pub(in super::super) fn readmit(documents: &[Json], source: &str) -> Result<AdmittedPod, Diagnostics> {
    let (mut objects, mut found) = (Objects::default(), None);
    let (mut report, mut notes) = (Report::default(), vec![]);
    let reader = Reader { text: "", cron_jobs: CronJobs::Refused };
    for document in documents {
        let node = Node::from(document);
        let kind = node.get("kind").and_then(Node::as_str).and_then(Kind::of);
        match kind {
            Some(kind @ Kind::Pod) => {
                let (report, notes) = (&mut report, &mut notes);
                let pod: Pod = Subject { reader: &reader, node: &node, kind, report, notes }.unchecked(vec![]);
                found = Some(pod);
            }
            Some(kind) => {
                if let Content::Object(object) = reader.content(&node, kind, (&mut report, &mut notes)) {
                    // None has the name of another: they were admitted together.
                    let _ = objects.add(object);
                }
            }
            None => report.add(Diagnostic::new(Span::default(), "not what podshim records of a pod")),
        }
    }
    let found = found.filter(|pod| pod.metadata.name.is_some() && pod.spec.is_some());
    let Some(mut pod) = found.filter(|_| report.list.is_empty()) else {
        if report.list.is_empty() {
            report.add(Diagnostic::new(Span::default(), "there is no pod in this record"));
        }
        let list = report.list.into_iter().map(|fault| (0, fault)).collect();
        let source = Source { name: source.to_owned(), text: String::new() };
        return Err(Diagnostics::new(&[source], vec![Secrecy::Hidden], list));
    };
    let written_policies = settle(&mut pod, &mut notes);
    pull_secrets(&mut pod, &objects);
    Ok(AdmittedPod {
        pod,
        source: source.to_owned(),
        // Whoever ran it was told.
        notes: vec![],
        written_policies,
        objects: Arc::new(objects),
        name: Name::Given,
        owner: None,
        ephemeral: None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::admit;
    use super::*;
    use serde_json::json;

    /// As `store` keeps it: the pod with its defaults.
    fn recorded(pod: &AdmittedPod) -> Json {
        let mut json = serde_json::to_value(pod.pod()).unwrap();
        json["apiVersion"] = json!("v1");
        json["kind"] = json!("Pod");
        json
    }

    #[test]
    fn it_is_what_it_was() {
        let text = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: '1'}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
type: kubernetes.io/dockerconfigjson
data: {.dockerconfigjson: eyJhdXRocyI6e319}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default}
imagePullSecrets: [{name: login}]
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: b}, annotations: {podshim.io/network: none}}
spec:
  securityContext: {runAsUser: 7, fsGroup: 8, seccompProfile: {type: Unconfined}}
  initContainers: [{name: i, image: 'x:1', restartPolicy: Always}]
  containers:
  - name: app
    image: busybox
    imagePullPolicy: Always
    ports: [{containerPort: 80}]
    env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: a}}}]
    resources: {limits: {cpu: 100m, memory: 1Gi}}
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 3}
    volumeMounts: [{name: d, mountPath: /d}]
  volumes: [{name: d, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
";
        let pod = admit(&[Source { name: "pod.yaml".into(), text: text.into() }]).unwrap().remove(0);
        let object = |kind: &str, more: Json| {
            let mut object = json!({ "apiVersion": "v1", "kind": kind });
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object
        };
        let documents = [
            object("ConfigMap", json!({ "metadata": { "name": "settings" }, "data": { "a": "1" } })),
            object(
                "ServiceAccount",
                json!({ "metadata": { "name": "default" }, "imagePullSecrets": [{ "name": "login" }] }),
            ),
            recorded(&pod),
        ];
        let again = readmit(&documents, "record").unwrap();
        assert_eq!(again.pod(), pod.pod());
        assert_eq!(
            again.written_policies,
            ["app".to_owned(), "i".to_owned()].into(),
            "they are all written down by then"
        );
        assert_eq!(again.objects.config_map("default", "settings"), pod.objects.config_map("default", "settings"));
        assert!(again.objects.config_map("default", "settings").is_some());
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let pod =
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" }, "spec": { "containers": [] } });
        assert!(readmit(std::slice::from_ref(&pod), "record").is_ok());
        let without = |field: &str| {
            let mut pod = pod.clone();
            pod.as_object_mut().unwrap().remove(field);
            pod
        };
        let wrong = json!({ "kind": "Pod", "metadata": { "name": 1 }, "spec": { "containers": [] } });
        let secret = json!({ "kind": "Secret", "metadata": { "name": "s" }, "data": { "a": "!" } });
        for (documents, expected) in [
            (vec![], "there is no pod in this record"),
            (vec![without("spec")], "there is no pod in this record"),
            (vec![without("metadata")], "there is no pod in this record"),
            (vec![without("kind")], "not what podshim records of a pod"),
            (vec![json!([])], "not what podshim records of a pod"),
            (vec![wrong], "metadata.name"),
            (vec![secret, pod.clone()], "base64"),
        ] {
            let refused = readmit(&documents, "the record").unwrap_err().to_string();
            assert!(refused.contains(expected) && refused.contains("the record"), "{refused}");
        }
    }
}
