//! Manifests, indexes and image configs: read strictly, since every byte of them comes from a stranger.
//!
//! Caps on size and depth, no duplicate keys, one meaning only (never both `layers` and `manifests`), media types that
//! agree, this host's platform, as many diff IDs as layers. Sources: OCI image-spec v1.1 (manifest.md, image-index.md,
//! config.md), CVE-2021-41190. Own structs, because oci-spec's image types write maps in random order and miss `os.version`.

use super::reference::Digest;
use super::{Image, ImageConfig};
use crate::error::{Kind, failure};
use anyhow::{Context, Result, bail, ensure};
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// The largest manifest, index or config that is read, in bytes; registries have the same limit.
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// The most layers of an image: overlayfs' own limit of lower directories (OVL_MAX_STACK, fs/overlayfs/params.h).
pub const MAX_LAYERS: usize = 500;
/// How many indexes may lie above a manifest.
pub const MAX_INDEX_DEPTH: u32 = 2;

/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker image manifest, version 2 schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// How a layer's tar is packed, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A bare tar.
    Plain,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// By the label, a layer's media type.
    pub fn of_media_type(media_type: &str) -> Result<Compression> {
        Ok(match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Compression::Plain,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
            other => bail!("layer media type {other:?} is not supported"),
        })
    }

    /// By the first bytes; anything without a known magic is a bare tar.
    pub fn of_magic(first: &[u8]) -> Compression {
        match first {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::Plain,
        }
    }

    /// The OCI media type of a layer packed so.
    pub fn oci_media_type(self) -> &'static str {
        match self {
            Compression::Plain => "application/vnd.oci.image.layer.v1.tar",
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A pointer to content: type, digest and size in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The content's media type.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's size in bytes.
    pub size: u64,
    /// Other places to fetch it from; never used, an image that has some is refused.
    #[serde(default, skip_serializing_if = "is_none_or_empty")]
    pub urls: Option<Vec<String>>,
    /// What it runs on (entries of an index).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free-form notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

fn is_none_or_empty(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.to_owned(), digest, size, urls: None, platform: None, annotations: None }
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// Operating system and processor, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8` of arm64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// What this host runs.
    pub fn host() -> Platform {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Platform { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// Whether this host runs it; of variants only the baseline (amd64 v1, arm64 v8).
    pub fn runs_here(&self) -> bool {
        let host = Platform::host();
        let variant = self.variant.as_deref().unwrap_or("");
        let baseline = match host.architecture.as_str() {
            "amd64" => matches!(variant, "" | "v1"),
            "arm64" => matches!(variant, "" | "v8"),
            _ => true,
        };
        self.os == host.os && self.architecture == host.architecture && baseline
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = self.variant.as_deref().filter(|v| !v.is_empty()) {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own media type, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The entries.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The entry for this host. Entries that say no platform count only if none says this host's; attestations never.
    pub fn choose(&self) -> Result<&Descriptor> {
        let images = || {
            self.manifests
                .iter()
                .filter(|d| d.annotation("vnd.docker.reference.type").is_none())
                .filter(|d| is_manifest_type(&d.media_type) || is_index_type(&d.media_type))
        };
        if let Some(entry) = images().find(|d| d.platform.as_ref().is_some_and(Platform::runs_here)) {
            return Ok(entry);
        }
        if let Some(entry) = images().find(|d| d.platform.is_none()) {
            return Ok(entry);
        }
        let mut others: Vec<String> = images().filter_map(|d| Some(d.platform.as_ref()?.to_string())).collect();
        others.dedup();
        let more = if others.len() > 8 { ", …" } else { "" };
        others.truncate(8);
        let text =
            format!("no image for {} in the index (it has {}{more})", Platform::host(), join_or(&others, "none"));
        Err(failure(Kind::Invalid, text))
    }
}

fn join_or(list: &[String], empty: &str) -> String {
    if list.is_empty() { empty.to_owned() } else { list.join(", ") }
}

/// Whether a media type is a manifest's.
pub fn is_manifest_type(media_type: &str) -> bool {
    media_type == OCI_MANIFEST || media_type == DOCKER_MANIFEST
}

/// Whether a media type is an index's.
pub fn is_index_type(media_type: &str) -> bool {
    media_type == OCI_INDEX || media_type == DOCKER_LIST
}

/// What a reference or an index entry leads to.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

/// Reads a manifest or an index. `declared` is the media type that its descriptor or the Content-Type header gave it.
pub fn parse_document(bytes: &[u8], declared: Option<&str>) -> Result<Document> {
    let value = strict(bytes)?;
    let Value::Object(fields) = &value else { bail!("not a JSON object") };
    let has = |key: &str| fields.get(key).is_some_and(|v| !v.is_null());
    // CVE-2021-41190: one document must not be two things to two readers.
    ensure!(!((has("layers") || has("config")) && has("manifests")), "it has both layers and manifests");
    ensure!(!has("fsLayers"), "Docker schema 1 manifests are not supported");
    ensure!(fields.get("schemaVersion") == Some(&Value::from(2)), "schemaVersion is not 2");
    let own = fields.get("mediaType").and_then(Value::as_str);
    let declared = declared.filter(|d| is_manifest_type(d) || is_index_type(d));
    if let (Some(own), Some(declared)) = (own, declared) {
        ensure!(own == declared, "it says it is {own:?} but was announced as {declared:?}");
    }
    match own.or(declared) {
        Some(t) if is_manifest_type(t) => ensure!(!has("manifests"), "a manifest must not have manifests"),
        Some(t) if is_index_type(t) => ensure!(has("manifests"), "an index must have manifests"),
        Some(t) => bail!("media type {t:?} is not an image's"),
        None => ensure!(has("layers") || has("manifests"), "it is neither a manifest nor an index"),
    }
    if has("manifests") {
        return Ok(Document::Index(from_value(value).context("index")?));
    }
    let manifest: Manifest = from_value(value).context("manifest")?;
    check_layers(&manifest)?;
    Ok(Document::Manifest(manifest))
}

fn check_layers(manifest: &Manifest) -> Result<()> {
    let layers = &manifest.layers;
    ensure!(!layers.is_empty(), "the image has no layers");
    ensure!(layers.len() <= MAX_LAYERS, "the image has {} layers, at most {MAX_LAYERS} can be mounted", layers.len());
    ensure!(
        manifest.config.size <= MAX_DOCUMENT,
        "its config has {} bytes, limit {MAX_DOCUMENT}",
        manifest.config.size
    );
    for descriptor in layers.iter().chain([&manifest.config]) {
        // CVE-2020-15157: content is only ever fetched from the registry that was named.
        let foreign = descriptor.urls.as_ref().and_then(|urls| urls.first());
        if let Some(url) = foreign {
            bail!("blob {} is to be fetched from elsewhere ({url:?}), which is not supported", descriptor.digest);
        }
    }
    let total = layers.iter().try_fold(0u64, |sum, layer| sum.checked_add(layer.size));
    ensure!(total.is_some_and(|t| t <= i64::MAX as u64), "the sizes of its layers overflow");
    let mut sizes = BTreeMap::new();
    for blob in layers.iter().chain([&manifest.config]) {
        let before = sizes.insert(&blob.digest, blob.size);
        ensure!(before.is_none_or(|size| size == blob.size), "blob {} is given two sizes", blob.digest);
    }
    for layer in layers {
        Compression::of_media_type(&layer.media_type)?;
    }
    Ok(())
}

/// An image config: how to run it, and what its layers unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    /// When it was built, RFC 3339, as it says.
    pub created: Option<String>,
    /// How to run it.
    pub config: ImageConfig,
    /// The digest of each layer's tar, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ConfigFile {
    /// The chain ID of each layer, lowest first: what identifies a layer on top of those below (image-spec config.md).
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            chain.push(match chain.last() {
                None => diff_id.clone(),
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            });
        }
        chain
    }
}

#[derive(Deserialize)]
struct RawConfigFile {
    created: Option<String>,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    rootfs: RawRootFs,
}

#[derive(Deserialize)]
struct RawRootFs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, Value>>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    labels: Option<BTreeMap<String, String>>,
}

/// Reads the config of an image with these layers.
pub fn parse_config(bytes: &[u8], layers: usize) -> Result<ConfigFile> {
    let raw: RawConfigFile = from_value(strict(bytes)?)?;
    let platform = Platform { os: raw.os, architecture: raw.architecture, variant: None };
    let is_told = !(platform.os.is_empty() && platform.architecture.is_empty());
    if is_told && !platform.runs_here() {
        let text = format!("the image is for {platform}, this host is {}", Platform::host());
        return Err(failure(Kind::Invalid, text));
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    ensure!(diff_ids.len() == layers, "it lists {} diff_ids for {layers} layers", diff_ids.len());
    let raw_config = raw.config.unwrap_or_default();
    let config = ImageConfig {
        entrypoint: raw_config.entrypoint.unwrap_or_default(),
        cmd: raw_config.cmd.unwrap_or_default(),
        env: raw_config.env.unwrap_or_default(),
        user: raw_config.user.unwrap_or_default(),
        working_dir: raw_config.working_dir.unwrap_or_default(),
        stop_signal: raw_config.stop_signal.filter(|s| !s.is_empty()),
        volumes: raw_config.volumes.unwrap_or_default().into_keys().collect(),
        exposed_ports: raw_config.exposed_ports.unwrap_or_default().into_keys().collect(),
        labels: raw_config.labels.unwrap_or_default(),
    };
    check_strings(&config)?;
    Ok(ConfigFile { created: raw.created, config, diff_ids })
}

/// What execve(2) could not take is refused here, before any container starts.
fn check_strings(config: &ImageConfig) -> Result<()> {
    let lists = [
        ("Entrypoint", &config.entrypoint),
        ("Cmd", &config.cmd),
        ("Env", &config.env),
        ("Volumes", &config.volumes),
        ("ExposedPorts", &config.exposed_ports),
    ];
    for (field, list) in lists {
        ensure!(!list.iter().any(|s| s.contains('\0')), "{field} contains a NUL byte");
    }
    for (field, text) in [("User", &config.user), ("WorkingDir", &config.working_dir)] {
        ensure!(!text.contains('\0'), "{field} contains a NUL byte");
    }
    for entry in &config.env {
        ensure!(entry.find('=').is_some_and(|i| i > 0), "Env entry {entry:?} is not NAME=VALUE");
    }
    Ok(())
}

impl Image {
    /// An image whose config was read; `layers` are where its layers lie unpacked.
    pub(super) fn assemble(manifest: &Manifest, file: ConfigFile, digest: &Digest) -> Image {
        Image {
            reference: String::new(),
            id: manifest.config.digest.to_string(),
            digest: digest.to_string(),
            config: file.config,
            layers: Vec::new(),
            size: manifest.layers.iter().map(|l| l.size).sum::<u64>() + manifest.config.size,
        }
    }
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

/// Reads JSON in which no object has the same key twice: the one that was checked must be the one that is used.
/// Depth is limited to 128 by serde_json.
pub fn strict(bytes: &[u8]) -> Result<Value> {
    ensure!(bytes.len() as u64 <= MAX_DOCUMENT, "it has {} bytes, limit {MAX_DOCUMENT}", bytes.len());
    Ok(serde_json::from_slice::<Strict>(bytes)?.0)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = access.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let Strict(value) = access.next_value()?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} occurs twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::kind_of;
    use serde_json::json;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn layer() -> Value {
        json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": HEX, "size": 1})
    }

    fn manifest() -> Value {
        let config = json!({"mediaType": OCI_CONFIG, "digest": Digest::of(b"config"), "size": 2});
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer()]})
    }

    fn with(mut value: Value, pointer: &str, new: Value) -> Vec<u8> {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        value.pointer_mut(parent).unwrap()[key] = new;
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn bad_manifests_are_refused() {
        let good = serde_json::to_vec(&manifest()).unwrap();
        assert!(
            matches!(parse_document(&good, Some(OCI_MANIFEST)).unwrap(), Document::Manifest(m) if m.layers.len() == 1)
        );
        assert!(parse_document(&good, Some("application/octet-stream")).is_ok());
        let mut foreign = layer();
        foreign["urls"] = json!(["http://127.0.0.3:9/x"]);
        let mut traversal = layer();
        traversal["digest"] = json!("sha256:../../../../etc/passwd");
        let twice = String::from_utf8(good.clone()).unwrap().replacen('{', "{\"config\":{},", 1).into_bytes();
        let deep = format!("{}1{}", "[".repeat(200_000), "]".repeat(200_000)).into_bytes();
        for (name, bytes, part) in [
            ("both", with(manifest(), "/manifests", json!([])), "both layers and manifests"),
            ("index type", with(manifest(), "/mediaType", json!(OCI_INDEX)), "announced as"),
            ("schema 1", with(manifest(), "/schemaVersion", json!(1)), "schemaVersion"),
            ("no layers", with(manifest(), "/layers", json!([])), "no layers"),
            ("600 layers", with(manifest(), "/layers", Value::Array(vec![layer(); 600])), "600 layers"),
            ("two sizes", with(manifest(), "/config/digest", json!(HEX)), "two sizes"),
            ("foreign", with(manifest(), "/layers", json!([foreign])), "from elsewhere"),
            ("path as digest", with(manifest(), "/layers", json!([traversal])), "64 lower-case"),
            ("md5", with(manifest(), "/config/digest", json!("md5:00")), "only sha256"),
            ("negative size", with(manifest(), "/config/size", json!(-1)), "invalid value"),
            ("config 64 MiB", with(manifest(), "/config/size", json!(64 << 20)), "limit"),
            ("layer type", with(manifest(), "/layers/0/mediaType", json!("text/html")), "not supported"),
            ("duplicate key", twice, "occurs twice"),
            ("deep", deep, "recursion limit"),
            ("truncated", good[..good.len() - 1].to_vec(), "EOF"),
            ("trailing", [good.as_slice(), b"{}"].concat(), "trailing"),
            ("large", vec![b' '; 5 << 20], "limit"),
        ] {
            let error = parse_document(&bytes, Some(OCI_MANIFEST)).map(|_| panic!("{name} was accepted")).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{name}: {error:#}");
        }
    }

    #[test]
    fn the_index_entry_for_this_host_is_chosen() {
        let entry = |platform: Value, size: u64| json!({"mediaType": OCI_MANIFEST, "digest": HEX, "size": size, "platform": platform});
        let here = Platform::host();
        let this = json!({"os": "linux", "architecture": here.architecture});
        let index = |list: Vec<Value>| -> Index {
            serde_json::from_value(json!({"schemaVersion": 2, "manifests": list})).unwrap()
        };
        let other = json!({"os": "linux", "architecture": "s390x"});
        let newer = json!({"os": "linux", "architecture": here.architecture, "variant": "v99"});
        let mut attestation = entry(Value::Null, 9);
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        for (name, list, size) in [
            ("exact", vec![entry(other.clone(), 1), entry(this.clone(), 2)], Some(2)),
            ("baseline before newer", vec![entry(newer, 1), entry(this, 2)], Some(2)),
            ("unlabelled", vec![entry(other.clone(), 1), entry(Value::Null, 3)], Some(3)),
            ("attestation", vec![entry(other.clone(), 1), attestation], None),
            ("none", vec![entry(other, 1)], None),
            ("empty", vec![], None),
        ] {
            let index = index(list);
            let chosen = index.choose().map(|d| d.size);
            assert_eq!(chosen.as_ref().ok(), size.as_ref(), "{name}");
            assert!(chosen.err().is_none_or(|error| kind_of(&error) == Some(Kind::Invalid)), "{name}");
        }
    }

    #[test]
    fn bad_configs_are_refused_and_nulls_are_not() {
        let good = json!({
            "architecture": Platform::host().architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [HEX]},
            "config": {"Cmd": ["sh"], "Entrypoint": null, "Env": ["A=b", "E="], "Volumes": {"/v": {}}, "Labels": null}
        });
        let file = parse_config(&serde_json::to_vec(&good).unwrap(), 1).unwrap();
        assert_eq!((file.config.cmd, file.config.volumes), (vec!["sh".to_owned()], vec!["/v".to_owned()]));
        for (name, bytes, part) in [
            ("arm", with(good.clone(), "/architecture", json!("s390x")), "the image is for linux/s390x"),
            ("windows", with(good.clone(), "/os", json!("windows")), "the image is for windows"),
            ("diff ids missing", with(good.clone(), "/rootfs/diff_ids", json!([])), "0 diff_ids for 1"),
            ("diff ids extra", with(good.clone(), "/rootfs/diff_ids", json!([HEX, HEX])), "2 diff_ids for 1"),
            ("env", with(good.clone(), "/config/Env", json!(["A"])), "NAME=VALUE"),
            ("env name", with(good.clone(), "/config/Env", json!(["=b"])), "NAME=VALUE"),
            ("nul", with(good.clone(), "/config/Cmd", json!(["a\0b"])), "NUL"),
            ("type", with(good, "/config/Cmd", json!("sh")), "expected a sequence"),
        ] {
            let error = parse_config(&bytes, 1).map(|_| panic!("{name} was accepted")).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{name}: {error:#}");
            // It is what was asked for that is wrong.
            assert_eq!(kind_of(&error), part.starts_with("the image is for").then_some(Kind::Invalid), "{name}");
        }
    }

    #[test]
    fn chain_ids_are_as_the_specification_computes_them() {
        let diff_ids: Vec<Digest> = vec![Digest::of(b"a"), Digest::of(b"b")];
        let file = ConfigFile { created: None, config: ImageConfig::default(), diff_ids: diff_ids.clone() };
        let second = Digest::of(format!("{} {}", diff_ids[0], diff_ids[1]).as_bytes());
        assert_eq!(file.chain_ids(), [diff_ids[0].clone(), second]);
    }
}
