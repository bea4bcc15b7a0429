//! What was probably meant: the nearest name, the shortest correct form.

/// Kinds that people hand to podshim and that it does not do.
pub(super) const OTHER_KINDS: [&str; 7] = [
    "ClusterRole",
    "HorizontalPodAutoscaler",
    "Ingress",
    "PersistentVolume",
    "PodDisruptionBudget",
    "PodTemplate",
    "StorageClass",
];

/// The candidate nearest to a word: the same but for case, or within about a third of its letters.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = word.to_lowercase();
    if lower.len() > 60 {
        return None;
    }
    let distance = |c: &str| strsim::damerau_levenshtein(&lower, &c.to_lowercase());
    let best = candidates.into_iter().map(|c| (distance(c), c)).min_by_key(|(d, _)| *d)?;
    (best.0 <= (lower.chars().count() / 3).clamp(1, 3)).then_some(best.1)
}

/// A correct entry of a list, to be shown where something else stands.
pub(super) fn sample_entry(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers" | "initContainers" => "- name: app\n  image: busybox",
        "env" => "- name: NAME\n  value: \"text\"",
        "ports" => "- containerPort: 80",
        "volumes" => "- name: data\n  emptyDir: {}",
        "volumeMounts" => "- name: data\n  mountPath: /data",
        "hostAliases" => "- ip: 192.0.2.1\n  hostnames: [\"example\"]",
        _ => return None,
    })
}

/// A command line, written as a list.
pub(super) fn as_command(line: &str) -> String {
    let shell = line.contains(['|', '&', ';', '<', '>', '$', '`', '"', '\'', '*', '\n']);
    let words: Vec<String> = if shell {
        vec!["sh".into(), "-c".into(), line.to_owned()]
    } else {
        line.split_whitespace().map(str::to_owned).collect()
    };
    let quoted: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let fields = ["image", "imagePullPolicy", "name", "command", "volumeMounts"];
        let cases = [
            ("imagepullpolicy", Some("imagePullPolicy")),
            ("volumeMount", Some("volumeMounts")),
            ("comand", Some("command")),
            ("nmae", Some("name")),
            ("zebra", None),
            ("", None),
        ];
        for (word, expect) in cases {
            assert_eq!(nearest(word, fields), expect, "{word}");
        }
    }

    #[test]
    fn a_command_line_becomes_a_list() {
        assert_eq!(as_command("sleep 3600"), r#"["sleep", "3600"]"#);
        assert_eq!(as_command("echo hi && sleep 1"), r#"["sh", "-c", "echo hi && sleep 1"]"#);
    }
}
