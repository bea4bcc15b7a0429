//! What a pod refers to: ConfigMaps and Secrets that are not optional must be among the documents, with the keys that are
//! named. A kubelet would wait for them; here nobody would bring them.

use super::super::defaults::containers;
use super::super::diagnostics::{Diagnostic, Report};
use super::super::documents::{ConfigMapData, Objects, SecretData, ephemeral_claim};
use super::super::path::Path;
use super::super::syntax;
use super::super::tree::Node;
use super::{Checker, hints, quote};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, KeyToPath, Pod, Volume};

/// Checks a pod's references; says what is missing though it is no error. `node` is the part of the document that the pod
/// was read from.
pub(in super::super) fn references(
    pod: &Pod,
    objects: &Objects,
    (node, at, text, report): (&Node, &Path, &str, &mut Report),
) -> Vec<String> {
    report.begin_validation();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let c = Checker::new(node, at, (text, report));
    let mut lookup = Lookup { c, objects, namespace, whence: Whence::Documents, notes: vec![] };
    let Some(spec) = &pod.spec else { return vec![] };
    let init = spec.init_containers.as_ref().map_or(0, Vec::len);
    for (i, container) in containers(spec).enumerate() {
        let list = if i < init { "spec.initContainers" } else { "spec.containers" };
        let i = if i < init { i } else { i - init };
        lookup.env(container, &Path::of(list).index(i));
    }
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        lookup.volume(volume, &Path::of("spec.volumes").index(i));
        if volume.ephemeral.is_some() {
            lookup.ephemeral(volume, (pod, &Path::of("spec.volumes")), i);
        }
    }
    for (i, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        lookup.pull_secret(&secret.name, &Path::of("spec.imagePullSecrets").index(i).field("name"));
    }
    lookup.notes
}

/// As [`references`], of an ephemeral container: it can refer to the objects that its pod refers to. `part` is what was written
/// of it.
pub(in super::super) fn references_of_ephemeral(
    container: &Container,
    (objects, namespace): (&Objects, &str),
    (part, text, report): (&Node, &str, &mut Report),
) {
    report.begin_validation();
    let root = Path::root();
    let c = Checker::new(part, &root, (text, report));
    Lookup { c, objects, namespace, whence: Whence::Pod, notes: vec![] }.env(container, &root);
}

/// Where objects are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whence {
    /// Among the documents of the command.
    Documents,
    /// Among those that are kept with a pod.
    Pod,
}

struct Lookup<'c, 'o> {
    c: Checker<'c>,
    objects: &'o Objects,
    namespace: &'o str,
    whence: Whence,
    notes: Vec<String>,
}

/// An object that may be missing, or not.
type Wanted<'a> = (&'a str, Option<bool>);

impl<'o> Lookup<'_, 'o> {
    fn env(&mut self, container: &Container, at: &Path) {
        for (i, source) in container.env_from.iter().flatten().enumerate() {
            let at = at.field("envFrom").index(i);
            if let Some(map) = &source.config_map_ref {
                self.config_map((&map.name, map.optional), &at.field("configMapRef").field("name"));
            }
            if let Some(secret) = &source.secret_ref {
                let at = at.field("secretRef").field("name");
                let found = self.secret((&secret.name, secret.optional), &at);
                for (key, value) in found.iter().flat_map(|secret| &secret.values) {
                    self.text(value, (key, &at));
                }
            }
        }
        for (i, variable) in container.env.iter().flatten().enumerate() {
            if let Some(source) = &variable.value_from {
                self.value_from(source, &at.field("env").index(i).field("valueFrom"));
            }
        }
    }

    fn value_from(&mut self, source: &EnvVarSource, at: &Path) {
        if let Some(wanted) = &source.config_map_key_ref {
            let at = at.field("configMapKeyRef");
            let found = self.config_map((&wanted.name, wanted.optional), &at.field("name"));
            if let Some(map) = found
                && !map.text.contains_key(&wanted.key)
                && wanted.optional != Some(true)
            {
                if map.binary.contains_key(&wanted.key) {
                    self.c.fault(&at.field("key"), "is a key of binaryData, which no variable can hold");
                } else {
                    self.key(("ConfigMap", &wanted.name, &wanted.key), map.text.keys(), &at.field("key"));
                }
            }
        }
        if let Some(wanted) = &source.secret_key_ref {
            let at = at.field("secretKeyRef");
            let found = self.secret((&wanted.name, wanted.optional), &at.field("name"));
            match found.map(|secret| (secret, secret.values.get(&wanted.key))) {
                Some((_, Some(value))) => self.text(value, (&wanted.key, &at.field("key"))),
                Some((secret, None)) if wanted.optional != Some(true) => {
                    self.key(("Secret", &wanted.name, &wanted.key), secret.values.keys(), &at.field("key"));
                }
                _ => {}
            }
        }
    }

    fn volume(&mut self, volume: &Volume, at: &Path) {
        if let Some(source) = &volume.config_map {
            let at = at.field("configMap");
            let found = self.config_map((&source.name, source.optional), &at.field("name"));
            self.config_map_items(found, (&source.name, source.optional), (source.items.as_deref(), &at));
        }
        if let Some(source) = &volume.secret {
            let at = at.field("secret");
            let name = source.secret_name.as_deref().unwrap_or("");
            let found = self.secret((name, source.optional), &at.field("secretName"));
            self.secret_items(found, (name, source.optional), (source.items.as_deref(), &at));
        }
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for (i, source) in projected.enumerate() {
            let at = at.field("projected").field("sources").index(i);
            if let Some(source) = &source.config_map {
                let at = at.field("configMap");
                let found = self.config_map((&source.name, source.optional), &at.field("name"));
                self.config_map_items(found, (&source.name, source.optional), (source.items.as_deref(), &at));
            }
            if let Some(source) = &source.secret {
                let at = at.field("secret");
                let found = self.secret((&source.name, source.optional), &at.field("name"));
                self.secret_items(found, (&source.name, source.optional), (source.items.as_deref(), &at));
            }
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && !self.objects.has_claim(self.namespace, &claim.claim_name)
        {
            let path = at.field("persistentVolumeClaim").field("claimName");
            let name = quote(&claim.claim_name);
            self.notes.push(format!("{path}: there is no PersistentVolumeClaim {name} among the documents: its directory is made, or used if it is there"));
        }
    }

    /// The claim of a generic ephemeral volume is nobody else's (ValidateVolumes in pkg/apis/core/validation).
    fn ephemeral(&mut self, volume: &Volume, (pod, list): (&Pod, &Path), index: usize) {
        let claim = ephemeral_claim(pod.metadata.name.as_deref().unwrap_or_default(), &volume.name);
        let path = list.index(index).field("name");
        if let Err(rule) = syntax::dns_subdomain(&claim) {
            self.c.fault(&path, format!("its claim's name, {}, {rule}", quote(&claim)));
        } else if self.objects.has_claim(self.namespace, &claim) {
            let message = format!(
                "its claim would be {}, which is a PersistentVolumeClaim among the documents: rename one of them",
                quote(&claim)
            );
            self.c.fault(&path, message);
        }
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for (i, other) in volumes.enumerate() {
            if other.persistent_volume_claim.as_ref().is_some_and(|other| other.claim_name == claim) {
                let path = list.index(i).field("persistentVolumeClaim").field("claimName");
                let message = format!("is the claim of the ephemeral volume {}: mount that", quote(&volume.name));
                self.c.fault(&path, message);
            }
        }
    }

    fn config_map_items(
        &mut self,
        found: Option<&ConfigMapData>,
        (name, optional): Wanted<'_>,
        (items, at): (Option<&[KeyToPath]>, &Path),
    ) {
        let Some(map) = found.filter(|_| optional != Some(true)) else { return };
        for (i, item) in items.into_iter().flatten().enumerate() {
            if !map.text.contains_key(&item.key) && !map.binary.contains_key(&item.key) {
                let path = at.field("items").index(i).field("key");
                self.key(("ConfigMap", name, &item.key), map.text.keys().chain(map.binary.keys()), &path);
            }
        }
    }

    fn secret_items(
        &mut self,
        found: Option<&SecretData>,
        (name, optional): Wanted<'_>,
        (items, at): (Option<&[KeyToPath]>, &Path),
    ) {
        let Some(secret) = found.filter(|_| optional != Some(true)) else { return };
        for (i, item) in items.into_iter().flatten().enumerate() {
            if !secret.values.contains_key(&item.key) {
                let path = at.field("items").index(i).field("key");
                self.key(("Secret", name, &item.key), secret.values.keys(), &path);
            }
        }
    }

    fn config_map(&mut self, (name, optional): Wanted<'_>, at: &Path) -> Option<&'o ConfigMapData> {
        let found = self.objects.config_map(self.namespace, name);
        if found.is_none() && optional != Some(true) {
            let known = self.objects.config_maps(self.namespace);
            self.missing(("ConfigMap", name), &known, at);
        }
        found
    }

    fn secret(&mut self, (name, optional): Wanted<'_>, at: &Path) -> Option<&'o SecretData> {
        let found = self.objects.secret(self.namespace, name);
        if found.is_none() && optional != Some(true) {
            let known = self.objects.secrets(self.namespace);
            self.missing(("Secret", name), &known, at);
        }
        found
    }

    fn missing(&mut self, (kind, name): (&str, &str), known: &[&str], at: &Path) {
        let namespace = self.namespace;
        let near = hints::nearest(name, known.iter().copied());
        let name = quote(name);
        let (message, help) = match self.whence {
            Whence::Documents => (
                format!("there is no {kind} {name} in namespace {namespace} among the documents"),
                format!("give the file with the {kind} too, or write `optional: true`"),
            ),
            Whence::Pod => (
                format!("the pod came without a {kind} {name}"),
                format!(
                    "only a {kind} that the pod's own manifest refers to is kept with it; or write `optional: true`"
                ),
            ),
        };
        self.c.fault_with(at, message, |d| match near {
            Some(near) => d.label(format!("did you mean `{near}`?")),
            None => d.help(help),
        });
    }

    fn key<'k>(&mut self, (kind, name, key): (&str, &str, &str), known: impl Iterator<Item = &'k String>, at: &Path) {
        let known: Vec<&str> = known.map(String::as_str).collect();
        let near = hints::nearest(key, known.iter().copied());
        let message = format!("the {kind} {} has no key {}", quote(name), quote(key));
        let label = match (near, known.as_slice()) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => "it has no keys".to_owned(),
            (None, keys) => {
                const MOST: usize = 8;
                let more = if keys.len() > MOST { ", ..." } else { "" };
                format!("its keys are {}{more}", keys[..keys.len().min(MOST)].join(", "))
            }
        };
        self.c.fault_with(at, message, |d| Diagnostic::label(d, label));
    }

    /// What a variable can hold.
    fn text(&mut self, value: &[u8], (key, at): (&str, &Path)) {
        if std::str::from_utf8(value).map_or(true, |text| text.contains('\0')) {
            self.c.fault(at, format!("the value of the key {} is not text, which a variable must be", quote(key)));
        }
    }

    fn pull_secret(&mut self, name: &str, at: &Path) {
        let usable = |secret: &SecretData| {
            matches!(secret.type_.as_str(), "kubernetes.io/dockerconfigjson" | "kubernetes.io/dockercfg")
        };
        match self.objects.secret(self.namespace, name) {
            None => self.notes.push(format!("{at}: there is no Secret {} among the documents: images are pulled without it (a kubelet's FailedToRetrieveImagePullSecret)", quote(name))),
            Some(secret) if !usable(secret) => self.notes.push(format!("{at}: the Secret {} is of type {}, which holds no logins: images are pulled without it", quote(name), secret.type_)),
            Some(_) => {}
        }
    }
}
