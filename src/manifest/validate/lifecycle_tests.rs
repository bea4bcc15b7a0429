//! A table per rule. Each row: what is written below the container (or the pod), and what is said about it, if anything.

use super::super::super::{Source, admit};

/// What is said about a pod whose container and spec have these further lines: `path: message` of each fault.
fn faults(container: &str, spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{}  containers:\n  - name: c\n    image: i\n{}",
        indented(spec, 2),
        indented(container, 4)
    );
    said(&text)
}

fn of_init(container: &str) -> Vec<String> {
    said(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers: [{{name: c, image: i}}]\n  initContainers:\n  - name: i\n    image: i\n{}",
        indented(container, 4)
    ))
}

fn indented(lines: &str, by: usize) -> String {
    lines.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn said(text: &str) -> Vec<String> {
    match admit(&[Source { name: "pod.yaml".into(), text: text.into() }]) {
        Ok(_) => vec![],
        Err(diagnostics) => {
            let rendered = diagnostics.to_string();
            rendered.lines().filter_map(|line| line.strip_prefix("error: ")).map(str::to_owned).collect()
        }
    }
}

/// Holds rows against what is said: the empty text stands for a pod that is admitted.
fn hold(rows: &[(&str, &str)], said: impl Fn(&str) -> Vec<String>) {
    for (lines, expected) in rows {
        let found = said(lines);
        match found.as_slice() {
            [] => assert_eq!(*expected, "", "admitted: {lines}"),
            [one] => {
                assert!(!expected.is_empty() && one.contains(expected), "{lines}\nexpected {expected}\nfound {one}")
            }
            more => panic!("{lines}: {more:#?}"),
        }
    }
}

#[test]
fn a_probe_has_exactly_one_handler() {
    hold(
        &[
            ("livenessProbe: {exec: {command: [a]}}", ""),
            ("readinessProbe: {httpGet: {port: 80}}", ""),
            ("startupProbe: {tcpSocket: {port: 80}}", ""),
            ("livenessProbe: {grpc: {port: 80}}", ""),
            ("livenessProbe:", ""),
            ("livenessProbe: {}", "containers[0].livenessProbe: does nothing: one of exec, httpGet, tcpSocket, grpc"),
            ("readinessProbe: {periodSeconds: 5}", "readinessProbe: does nothing"),
            ("livenessProbe: {exec: }", "livenessProbe: does nothing"),
            (
                "startupProbe: {exec: {command: [a]}, grpc: {port: 80}}",
                "startupProbe.grpc: cannot be set together with exec",
            ),
            (
                "livenessProbe: {tcpSocket: {port: 1}, exec: {command: [a]}}",
                "livenessProbe.exec: cannot be set together",
            ),
        ],
        |lines| faults(lines, ""),
    );
    let three = faults("livenessProbe: {tcpSocket: {port: 1}, exec: {command: [a]}, grpc: {port: 1}}", "");
    assert_eq!(three.len(), 2, "{three:?}");
}

#[test]
fn a_probes_numbers_are_not_negative() {
    let rows = [
        ("initialDelaySeconds: 0", ""),
        ("timeoutSeconds: 0", ""),
        ("failureThreshold: 0", ""),
        ("periodSeconds: 2147483647", ""),
        ("initialDelaySeconds: -1", "initialDelaySeconds: -1 is negative"),
        ("timeoutSeconds: -1", "timeoutSeconds: -1 is negative"),
        ("periodSeconds: -2147483648", "periodSeconds: -2147483648 is negative"),
        ("successThreshold: -1", "successThreshold: -1 is negative"),
        ("failureThreshold: -1", "failureThreshold: -1 is negative"),
        ("periodSeconds: 2147483648", "periodSeconds: must be a whole number"),
        ("periodSeconds: 10s", "periodSeconds: must be a whole number"),
    ];
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        hold(&rows, |number| faults(&format!("{probe}: {{tcpSocket: {{port: 1}}, {number}}}"), ""));
    }
}

#[test]
fn only_a_readiness_probe_has_another_success_threshold() {
    hold(
        &[
            ("readinessProbe: {tcpSocket: {port: 1}, successThreshold: 5}", ""),
            ("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 1}", ""),
            ("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 0}", ""),
            ("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}", "must be 1 for a livenessProbe"),
            ("startupProbe: {tcpSocket: {port: 1}, successThreshold: 2}", "must be 1 for a startupProbe"),
        ],
        |lines| faults(lines, ""),
    );
}

#[test]
fn a_probe_that_ends_a_container_may_have_a_grace_period() {
    hold(
        &[
            ("livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1}", ""),
            ("startupProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 3600}", ""),
            (
                "livenessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 0}",
                "terminationGracePeriodSeconds: 0 is not between 1",
            ),
            (
                "startupProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: -1}",
                "terminationGracePeriodSeconds: -1 is not between 1",
            ),
            (
                "readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1}",
                "readinessProbe.terminationGracePeriodSeconds: not allowed",
            ),
        ],
        |lines| faults(lines, ""),
    );
}

#[test]
fn a_port_is_a_number_or_a_name_that_the_container_has() {
    let rows = [
        ("1", ""),
        ("65535", ""),
        ("web", ""),
        ("0", "port: 0 is not between 1 and 65535"),
        ("65536", "port: 65536 is not between 1 and 65535"),
        ("-1", "port: -1 is not between 1 and 65535"),
        ("wep", "port: `wep` is not the name of a port of this container"),
        ("other", "port: `other` is not the name of a port of this container"),
        ("\"80\"", "port: `80` in quotes is a name"),
        ("HTTP", "port: `HTTP` must consist of lower case letters"),
        ("a-name-too-long-for-a-port", "have at most 15 characters"),
        ("\"\"", "port: required, but empty"),
        ("", "port: required, but has no value"),
        ("true", "port: invalid type: boolean `true`, expected a number or a name"),
        ("99999999999", "port: "),
    ];
    for action in ["httpGet", "tcpSocket"] {
        hold(&rows, |port| {
            let ports = "ports: [{name: web, containerPort: 80}]";
            faults(&format!("{ports}\nlivenessProbe: {{{action}: {{port: {port}}}}}"), "")
        });
    }
    hold(
        &[
            ("livenessProbe: {grpc: {port: 80}}", ""),
            ("livenessProbe: {grpc: {port: web}}", "grpc.port: must be a whole number"),
            ("livenessProbe: {grpc: {port: 0}}", "grpc.port: 0 is not between"),
            ("livenessProbe: {grpc: {}}", "grpc.port: required, but missing"),
            ("livenessProbe: {httpGet: {path: /}}", "httpGet.port: required, but missing"),
            ("livenessProbe: {tcpSocket: {host: a}}", "tcpSocket.port: required, but missing"),
            ("livenessProbe: {tcpSocket: {port: web}}", "is not the name of a port of this container"),
            // What the ports are is not known.
            ("livenessProbe: {tcpSocket: {port: web}}\nports: 80", "containers[0].ports: must be a list"),
        ],
        |lines| faults(lines, ""),
    );
}

#[test]
fn an_http_request_can_be_made() {
    hold(
        &[
            ("", ""),
            ("path: /a?b=c, scheme: HTTPS, host: example.com", ""),
            ("path: healthz, scheme: HTTP, host: \"::1\"", ""),
            ("httpHeaders: [{name: Accept, value: \"\"}, {name: Accept, value: b}]", ""),
            ("scheme: ftp", "scheme: `ftp` is none of HTTP, HTTPS"),
            ("scheme: http", "scheme: `http` is none of HTTP, HTTPS"),
            ("path: \"http://a/b\"", "path: `http://a/b` must be a path only"),
            ("path: \"/ HTTP/1.1\\r\\nA: b\"", "must not hold control characters"),
            ("httpHeaders: [{name: \"A B\", value: c}]", "httpHeaders[0].name: `A B` must consist of letters"),
            ("httpHeaders: [{name: \"A:\", value: c}]", "httpHeaders[0].name: `A:` must consist of letters"),
            ("httpHeaders: [{value: c}]", "httpHeaders[0].name: required, but missing"),
            ("httpHeaders: [{name: A, value: \"b\\nC: d\"}]", "httpHeaders[0].value: `b\\nC: d` must be one line"),
            ("host: \"a:80\"", "host: `a:80` must be an IP address or a DNS name"),
            ("host: \"http://a\"", "host: `http://a` must be an IP address or a DNS name"),
            ("host: \"a/b\"", "host: `a/b` must be"),
            ("protocol: HTTP1, host: a", ""),
            ("protocol: HTTP2", ""),
            ("protocol: h2c", "protocol: `h2c` is none of HTTP1, HTTP2"),
            ("protocol: HTTP2, scheme: HTTPS", "protocol: HTTP2 means HTTP/2 without TLS"),
            ("protocol: HTTP2, host: a", "protocol: HTTP2 is for the pod's own address"),
        ],
        |fields| faults(&format!("livenessProbe: {{httpGet: {{port: 80, {fields}}}}}"), ""),
    );
}

#[test]
fn other_actions_are_complete() {
    hold(
        &[
            ("livenessProbe: {exec: {}}", "exec.command: required, but missing"),
            ("livenessProbe: {exec: {command: }}", "exec.command: required, but has no value"),
            ("livenessProbe: {exec: {command: [\"a\\0\"]}}", "exec.command[0]: `a\\u{0}` must not hold a NUL"),
            ("livenessProbe: {exec: {command: cat x}}", "exec.command: must be a list"),
            ("livenessProbe: {tcpSocket: {port: 1, host: \"a:1\"}}", "tcpSocket.host: `a:1` must be"),
            ("livenessProbe: {grpc: {port: 1, mode: TLS, service: a.B}}", ""),
            ("livenessProbe: {grpc: {port: 1, mode: Plaintext}}", ""),
            ("livenessProbe: {grpc: {port: 1, mode: plain}}", "grpc.mode: `plain` is none of TLS, Plaintext"),
        ],
        |lines| faults(lines, ""),
    );
}

#[test]
fn a_hook_has_exactly_one_handler_that_can_work() {
    for hook in ["postStart", "preStop"] {
        hold(
            &[
                ("exec: {command: [a]}", ""),
                ("httpGet: {port: 80, scheme: HTTPS}", ""),
                ("sleep: {seconds: 0}", ""),
                ("sleep: {seconds: 10}", ""),
                ("sleep: {seconds: 11}", "sleep.seconds: 11 is more than the pod's terminationGracePeriodSeconds, 10"),
                ("sleep: {seconds: -1}", "sleep.seconds: -1 is negative"),
                ("", "does nothing: one of exec, httpGet, sleep is required"),
                ("sleep: {seconds: 1}, exec: {command: [a]}", "exec: cannot be set together with sleep"),
                ("tcpSocket: {port: 1}", "tcpSocket: not allowed"),
                ("tcpSocket: {}", "tcpSocket: not allowed"),
                ("grpc: {port: 1}", "grpc: unknown field"),
                ("httpGet: {port: web}", "is not the name of a port of this container"),
                ("exec: {command: []}", "exec.command: required, but has no value"),
            ],
            |fields| faults(&format!("lifecycle: {{{hook}: {{{fields}}}}}"), "terminationGracePeriodSeconds: 10"),
        );
    }
    // A grace period at fault is one fault, not two; a negative one counts as 1.
    let of = |grace: &str| faults("lifecycle: {preStop: {sleep: {seconds: 40}}}", grace);
    assert_eq!(of("terminationGracePeriodSeconds: x").len(), 1);
    assert!(of("terminationGracePeriodSeconds: -5")[0].contains("terminationGracePeriodSeconds, 1"));
    assert!(of("")[0].contains("terminationGracePeriodSeconds, 30"));
}

#[test]
fn an_init_container_has_probes_and_hooks_only_as_a_sidecar() {
    let fields = [
        ("lifecycle", "{preStop: {exec: {command: [a]}}}"),
        ("livenessProbe", "{tcpSocket: {port: 1}}"),
        ("readinessProbe", "{tcpSocket: {port: 1}}"),
        ("startupProbe", "{tcpSocket: {port: 1}}"),
    ];
    for (field, value) in fields {
        let refused = format!("initContainers[0].{field}: not allowed for an init container that runs to its end");
        hold(
            &[
                ("", &refused),
                ("restartPolicy: Never", &refused),
                ("restartPolicy: OnFailure", &refused),
                ("restartPolicy: Always", ""),
                ("restartPolicy: always", "initContainers[0].restartPolicy: `always` is none of Always"),
            ],
            |policy| of_init(&format!("{policy}\n{field}: {value}")),
        );
    }
    assert_eq!(of_init("restartPolicy: Always\nlivenessProbe: {}").len(), 1, "a sidecar's probes are checked");
}

#[test]
fn s4_restart_policies_and_rules() {
    let rules = |count: usize| {
        let one = "{action: Restart, exitCodes: {operator: In, values: [1]}}";
        format!("restartPolicy: Never\nrestartPolicyRules: [{}]", vec![one; count].join(", "))
    };
    let codes = |count: usize| {
        let values: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        format!(
            "restartPolicy: Never\nrestartPolicyRules: [{{action: Restart, exitCodes: {{operator: In, values: [{}]}}}}]",
            values.join(", ")
        )
    };
    let (most, too_many, most_codes, too_many_codes) = (rules(20), rules(21), codes(255), codes(256));
    let rows = [
        ("restartPolicy: Always", ""),
        ("restartPolicy: OnFailure", ""),
        ("restartPolicy: Never", ""),
        ("restartPolicy: never", "restartPolicy: `never` is none of Always, OnFailure, Never"),
        ("restartPolicyRules: []", ""),
        (
            "restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]",
            "restartPolicy: required, because restartPolicyRules are set",
        ),
        (&most, ""),
        (&too_many, "restartPolicyRules: 21 rules are more than 20"),
        (&most_codes, ""),
        (&too_many_codes, "exitCodes.values: 256 exit codes are more than 255"),
        (
            "restartPolicy: Always\nrestartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: NotIn, values: [0]}}]",
            "",
        ),
        (
            "restartPolicy: Always\nrestartPolicyRules: [{action: Stop, exitCodes: {operator: In, values: [1]}}]",
            "restartPolicyRules[0].action: `Stop` is none of Restart, RestartAllContainers",
        ),
        (
            "restartPolicy: Always\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: Is, values: [1]}}]",
            "exitCodes.operator: `Is` is none of In, NotIn",
        ),
        (
            "restartPolicy: Always\nrestartPolicyRules: [{action: Restart}]",
            "restartPolicyRules[0].exitCodes: required, but missing",
        ),
        (
            "restartPolicy: Always\nrestartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [x]}}]",
            "exitCodes.values[0]: must be a whole number",
        ),
    ];
    hold(&rows, |lines| faults(lines, ""));
    hold(&rows, of_init);
}

#[test]
fn a_stop_signal_needs_the_operating_system() {
    let with_os = |signal: &str| faults(&format!("lifecycle: {{stopSignal: {signal}}}"), "os: {name: linux}");
    hold(
        &[
            ("SIGTERM", ""),
            ("SIGRTMIN+15", ""),
            ("TERM", "stopSignal: `TERM` is not a signal"),
            ("SIGFOO", "stopSignal: `SIGFOO` is not a signal"),
            ("15", "stopSignal: must be text"),
        ],
        with_os,
    );
    let without = faults("lifecycle: {stopSignal: SIGTERM}", "");
    assert!(without[0].contains("lifecycle.stopSignal: needs spec.os.name"), "{without:?}");
}

#[test]
fn the_pods_own_fields() {
    hold(
        &[
            ("activeDeadlineSeconds: 1", ""),
            ("activeDeadlineSeconds: 2147483647", ""),
            ("activeDeadlineSeconds: 0", "activeDeadlineSeconds: 0 is not between 1 and 2147483647"),
            ("activeDeadlineSeconds: -1", "activeDeadlineSeconds: -1 is not between"),
            ("activeDeadlineSeconds: 2147483648", "activeDeadlineSeconds: 2147483648 is not between"),
            ("readinessGates: [{conditionType: a.example/B}, {conditionType: a.example/B}]", ""),
            ("readinessGates: [{conditionType: Ready}]", ""),
            ("readinessGates: [{conditionType: a b}]", "readinessGates[0].conditionType: `a b` must consist of"),
            ("readinessGates: [{}]", "readinessGates[0].conditionType: required, but missing"),
            ("os: {name: linux}", ""),
            ("os: {name: windows}", "os.name: PodOSNotSupported"),
            ("os: {name: Linux}", "os.name: `Linux` is none of linux"),
            ("os: {name: \"\"}", "os.name: required, but empty"),
            ("ephemeralContainers: []", ""),
            ("ephemeralContainers: [{name: a, image: b}]", "spec.ephemeralContainers: not allowed"),
        ],
        |lines| faults("", lines),
    );
}
