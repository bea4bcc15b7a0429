use super::*;
use crate::error::kind_of;
use crate::manifest::{Source, admit};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  securityContext: {runAsUser: 1000, runAsNonRoot: true, supplementalGroups: [7]}
  initContainers:
  - {name: init, image: i}
  containers:
  - name: app
    image: i
    securityContext: {runAsUser: 5, readOnlyRootFilesystem: true}
    resources: {requests: {memory: 1Gi}}
";

/// Of nobody in particular, for tests.
pub(crate) fn choices() -> Choices {
    Choices {
        uid: "u".into(),
        network: NetworkMode::None,
        bridge: None,
        cgroup_parent: String::new(),
        resolv_conf: None,
        log_directory: "/l".into(),
        host_memory: 8 << 30,
        node: Node { name: "node-1".into(), cpus: 4, storage: 100 << 30 },
        pids_limit: Some(99),
        swap: SwapBehavior::NoSwap,
        pull: None,
        security: SecurityChoices::default(),
        services: Vec::new(),
    }
}

fn planned(text: &str) -> (k8s::Pod, PodPlan) {
    let pods = admit(&[Source { name: "pod.yaml".into(), text: text.into() }]).unwrap();
    (pods[0].pod().clone(), pod_plan(&pods[0], choices()).unwrap())
}

fn wanted() -> k8s::Container {
    k8s::Container {
        name: "debug".into(),
        image: Some("busybox:1".into()),
        command: Some(vec!["sh".into(), "-c".into(), "echo $(A) $(B)".into()]),
        args: Some(vec![]),
        env: Some(vec![k8s::EnvVar { name: "A".into(), value: Some("1".into()), value_from: None }]),
        tty: Some(true),
        ..Default::default()
    }
}

/// The plan of a container that joins the pod of a text.
fn joined(text: &str, (wanted, custom, target): (k8s::Container, &str, Option<&str>)) -> Result<ContainerConfig> {
    let pod = admit(&[Source { name: "pod.yaml".into(), text: text.into() }]).unwrap().remove(0);
    let mut plan = pod_plan(&pod, choices()).unwrap();
    let first = ContainerConfig { name: "first".into(), kind: ContainerKind::Ephemeral, ..plan.containers[1].clone() };
    plan.containers.push(first);
    let custom = Source { name: "custom.yaml".into(), text: custom.into() };
    let joined = manifest::join(pod, wanted, Some(&custom).filter(|custom| !custom.text.is_empty())).unwrap();
    ephemeral(&joined, &plan, (target.map(str::to_owned), &choices()))
}

#[test]
fn an_ephemeral_container_is_confined_as_its_pod_is() {
    let config = joined(POD, (wanted(), "", Some("app"))).unwrap();
    assert_eq!((config.kind, config.target.as_deref()), (ContainerKind::Ephemeral, Some("app")));
    assert_eq!(config.command.unwrap()[2], "echo $(A) $(B)");
    assert_eq!((config.args, config.pull_policy), (None, PullPolicy::IfNotPresent));
    let SecurityContext { run_as_user, root, supplemental_groups, rootfs, seccomp, .. } = config.security;
    assert_eq!((run_as_user, root, rootfs), (Some(1000), RootUser::Forbidden, Access::ReadWrite));
    assert_eq!((supplemental_groups, seccomp), (vec![7], SeccompProfile::RuntimeDefault));
    let resources = config.resources;
    assert_eq!((resources.pids_limit, resources.oom_score_adj, resources.memory_limit), (Some(99), 999, None));
    assert_eq!((config.restart, config.lifecycle, config.mounts), Default::default());
    assert_eq!((config.termination_message_path.as_str(), config.stdio), ("/dev/termination-log", Stdio::Terminal));
}

#[test]
fn an_ephemeral_containers_own_fields_win() {
    let custom = "
imagePullPolicy: Always
workingDir: /data
terminationMessagePath: /tmp/end
terminationMessagePolicy: FallbackToLogsOnError
securityContext: {runAsUser: 0, runAsNonRoot: false, readOnlyRootFilesystem: true}
volumeMounts: [{name: data, mountPath: data, readOnly: true}]
env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
";
    let pod = format!("{POD}  volumes: [{{name: data}}]\n");
    let config = joined(&pod, (wanted(), custom, None)).unwrap();
    assert_eq!((config.security.run_as_user, config.security.root), (Some(0), RootUser::Allowed));
    assert_eq!((config.security.rootfs, config.pull_policy), (Access::ReadOnly, PullPolicy::Always));
    assert_eq!(config.working_dir.as_deref(), Some("/data"));
    let policy = config.termination_message_policy;
    assert_eq!(
        (&*config.termination_message_path, policy),
        ("/tmp/end", TerminationMessagePolicy::FallbackToLogsOnError)
    );
    let mount = &config.mounts[0];
    assert_eq!((&*mount.volume, &*mount.container_path, mount.access), ("data", "/data", Access::ReadOnly));
    let values: Vec<&EnvValue> = config.envs.iter().map(|env| &env.value).collect();
    assert_eq!(values, [&EnvValue::Template("1".into()), &EnvValue::Text("p".into())]);
}

#[test]
fn an_ephemeral_container_that_cannot_be_is_refused() {
    let named = |name: &str| k8s::Container { name: name.into(), ..wanted() };
    let with_env = |name: &str, value: &str| {
        let variable = k8s::EnvVar { name: name.into(), value: Some(value.into()), value_from: None };
        k8s::Container { env: Some(vec![variable]), ..wanted() }
    };
    let rows = [
        ("an init container as target", wanted(), Some("init"), None),
        ("no target", wanted(), None, None),
        (
            "an unknown target",
            wanted(),
            Some("other"),
            Some("the target \"other\" is no container of the pod; it has init, app"),
        ),
        ("an ephemeral target", wanted(), Some("first"), Some("it has init, app")),
        ("no name", named(""), None, Some("must consist of lower case letters")),
        ("a path for a name", named("../x"), None, Some("must consist of lower case letters")),
        ("an app container's name", named("app"), None, Some("has a container named app already")),
        ("an ephemeral container's name", named("first"), None, Some("has a container named first already")),
        ("a bad variable", with_env("A=B", ""), None, Some("is not the name of a variable")),
        ("a NUL in a variable", with_env("A", "\0"), None, Some("is not the name of a variable")),
    ];
    for (name, wanted, target, expected) in rows {
        match (joined(POD, (wanted, "", target)), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                assert!(format!("{error:#}").contains(expected), "{name}: {error:#}");
                assert_eq!(kind_of(&error), Some(Kind::Invalid), "{name}");
            }
            (result, _) => panic!("{name}: {result:?}"),
        }
    }
}

#[test]
fn s20_a_sidecar_is_killed_no_sooner_than_the_app_containers() {
    let text = POD.replace("{name: init, image: i}", "{name: init, image: i, restartPolicy: Always}");
    let (_, plan) = planned(&text);
    let scores: Vec<i32> = plan.containers.iter().map(|c| c.resources.oom_score_adj).collect();
    assert_eq!((plan.containers[0].kind, scores), (ContainerKind::Sidecar, vec![875, 875]));
}

/// The plan of a pod with this ConfigMap and this Secret.
fn with_data(color: &str, password: &str, immutable: bool) -> PodPlan {
    let text = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: p}}
spec:
  imagePullSecrets: [{{name: pull}}]
  containers:
  - name: app
    image: i
    envFrom: [{{secretRef: {{name: s}}}}]
  - {{name: other, image: i}}
  volumes:
  - {{name: map, configMap: {{name: c}}}}
  - {{name: secret, secret: {{secretName: s}}}}
  - {{name: empty}}
---
{{apiVersion: v1, kind: ConfigMap, metadata: {{name: c}}, immutable: {immutable}, data: {{color: {color}}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, stringData: {{password: {password}}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: pull}}, type: kubernetes.io/dockercfg, stringData: {{.dockercfg: '{{\"r\": {{\"username\": \"u\", \"password\": \"{password}\"}}}}'}}}}
"
    );
    planned(&text).1
}

#[test]
fn what_objects_say_is_compared_beside_the_pod() {
    use super::super::change::{Data, data};
    let words = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let old = with_data("blue", "p", false);
    assert!(data(&old, &with_data("blue", "p", false)).is_same());
    let red = data(&old, &with_data("red", "p", false));
    assert_eq!(red, Data { volumes: words(&["map"]), ..Data::default() });
    let secret = data(&old, &with_data("blue", "q", false));
    let logins = ["r".to_owned()].into();
    let expected = Data { volumes: words(&["secret"]), variables: words(&["app"]), logins, immutable: vec![] };
    assert_eq!(secret, expected);
    // That it becomes immutable is no change of what it holds.
    let fixed = with_data("blue", "p", true);
    assert!(data(&old, &fixed).is_same());
    assert_eq!(data(&fixed, &with_data("red", "p", true)).immutable, ["ConfigMap/c"]);
    let unfixed = data(&fixed, &with_data("red", "p", false));
    assert_eq!(unfixed.immutable, [""; 0], "which only a cluster's API server would know");
}

#[test]
fn a_pod_is_tried_before_it_is_made() {
    let long = "x".repeat(70_000);
    let text = format!(
        "{POD}    env: [{{name: A, value: {long}}}, {{name: B, value: $(A)}}]
    args: [$(A)$(B)]
"
    );
    let pods = admit(&[Source { name: "pod.yaml".into(), text }]).unwrap();
    let error = format!("{:#}", pod_plan(&pods[0], choices()).unwrap_err());
    assert!(error.starts_with("container app: args: it has 1"), "{error}");
}

#[test]
fn service_variables_come_before_the_containers_own() {
    let service: k8s::Service = serde_json::from_value(serde_json::json!({
        "metadata": { "namespace": "default", "name": "db" },
        "spec": { "clusterIP": "10.87.0.1", "ports": [{ "port": 5432, "protocol": "TCP" }] },
    }))
    .unwrap();
    let text = |links: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {links}\n  containers:\n  - name: app\n    image: i\n    env:\n    - {{name: URL, value: 'pg://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)'}}\n    - {{name: DB_PORT, value: mine}}\n"
        )
    };
    let resolved = |links: &str| {
        let pods = admit(&[Source { name: "pod.yaml".into(), text: text(links) }]).unwrap();
        let choices = Choices { services: vec![service.clone()], ..choices() };
        let plan = pod_plan(&pods[0], choices.clone()).unwrap();
        let looking = manifest::join(pods[0].clone(), k8s::Container { env: None, ..wanted() }, None).unwrap();
        let debug = ephemeral(&looking, &plan, (None, &choices));
        let has_link = |envs: &[EnvVar]| envs.iter().any(|v| v.name == "DB_PORT_5432_TCP_ADDR");
        let envs = &plan.containers[0].envs;
        assert_eq!(has_link(envs), has_link(&debug.unwrap().envs), "as in the container that looks around");
        let known = env::resolve(envs, env::UNKNOWN).unwrap();
        let last = |name: &str| known.iter().rfind(|pair| pair.key == name).map(|pair| pair.value.clone());
        (has_link(envs), last("URL").unwrap(), last("DB_PORT").unwrap())
    };
    let with = (true, "pg://10.87.0.1:5432".to_owned(), "mine".to_owned());
    assert_eq!(resolved("restartPolicy: Always"), with);
    assert_eq!(resolved("enableServiceLinks: true"), with);
    let without = (false, "pg://$(DB_SERVICE_HOST):$(DB_SERVICE_PORT)".to_owned(), "mine".to_owned());
    assert_eq!(resolved("enableServiceLinks: false"), without);
}
