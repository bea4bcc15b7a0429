//! Images made here, a store in a temporary directory, Debian's registry.

pub(crate) use crate::available::available;
use podshim::image::{Digest, Reference, Store};
use podshim::paths::Dirs;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub(crate) fn dirs_in(root: &Path) -> Dirs {
    Dirs { root: root.join("lib"), state: root.join("run"), log_dir: root.join("log") }
}

pub(crate) fn store_in(root: &Path) -> Store {
    Store::open(&dirs_in(root)).unwrap()
}

/// A temporary directory with a store.
pub(crate) struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    pub(crate) fn new() -> Setup {
        Setup { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> Store {
        store_in(self.dir.path()).with_registries(podshim::image::registry::Settings::plain())
    }

    /// What is under work in the store; nothing unless something runs.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        entries(&dirs_in(self.dir.path()).image_tmp())
    }

    /// Blobs and unpacked layers.
    pub(crate) fn content(&self) -> Vec<PathBuf> {
        let dirs = dirs_in(self.dir.path());
        [entries(&dirs.images().join("blobs/sha256")), entries(&dirs.layers())].concat()
    }

    /// A self-signed certificate for 127.0.0.1, and its key.
    pub(crate) fn certificate(&self) -> (PathBuf, PathBuf) {
        let config = self.path("openssl.cnf");
        let text = "[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=podshim test\n[v3]\n\
                    subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n";
        std::fs::write(&config, text).unwrap();
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3"])
            .arg("-config")
            .arg(&config)
            .arg("-out")
            .arg(&cert)
            .arg("-keyout")
            .arg(&key)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (cert, key)
    }
}

/// Everything of images below a root: work in progress, blobs, layers.
pub(crate) fn content_in(root: &Path) -> Vec<PathBuf> {
    let dirs = dirs_in(root);
    [dirs.image_tmp(), dirs.images().join("blobs/sha256"), dirs.layers()].iter().flat_map(|d| entries(d)).collect()
}

/// Changes a bit of a blob below `images`, as a bad disk does: its size stays.
pub(crate) fn damage(images: &Path, digest: &str) {
    let blob = images.join("blobs/sha256").join(&digest[7..]);
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
}

pub(crate) fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    list.sort();
    list
}

/// A blob and its descriptor's fields.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) kind: &'static str,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn new(kind: &'static str, bytes: Vec<u8>) -> Blob {
        Blob { kind, digest: Digest::of(&bytes).to_string(), bytes }
    }

    pub(crate) fn json(kind: &'static str, value: &Value) -> Blob {
        Blob::new(kind, serde_json::to_vec(value).unwrap())
    }

    pub(crate) fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest, "size": self.bytes.len()})
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image of two layers, gzip and zstd, behind an index that has another platform too.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) layers: Vec<Blob>,
    pub(crate) tars: Vec<Vec<u8>>,
    pub(crate) config: Blob,
    pub(crate) manifest: Blob,
    pub(crate) index: Blob,
}

fn tar_with(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

impl Sample {
    pub(crate) fn new(text: &str) -> Sample {
        // Bytes that do not pack: a layer of some size, for truncation and stalls.
        let mut state = 7u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 56) as u8
        })
        .take(300_000)
        .collect();
        let tars = vec![tar_with(&[("base", b"base"), ("noise", &noise)]), tar_with(&[("hello", text.as_bytes())])];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&tars[0]).unwrap();
        let layers = vec![
            Blob::new("application/vnd.oci.image.layer.v1.tar+gzip", gz.finish().unwrap()),
            Blob::new("application/vnd.oci.image.layer.v1.tar+zstd", zstd::encode_all(&tars[1][..], 1).unwrap()),
        ];
        let host = podshim::image::manifest::Platform::host();
        let diff_ids: Vec<String> = tars.iter().map(|t| Digest::of(t).to_string()).collect();
        let config = json!({
            "architecture": host.architecture, "os": "linux", "config": {"Cmd": ["sh"]}, "created": "2024-05-06T07:08:09Z",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Blob::json(CONFIG, &config);
        Sample::assemble(layers, tars, config)
    }

    pub(crate) fn assemble(layers: Vec<Blob>, tars: Vec<Vec<u8>>, config: Blob) -> Sample {
        let list: Vec<Value> = layers.iter().map(Blob::descriptor).collect();
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": list});
        let manifest = Blob::json(MANIFEST, &manifest);
        let host = podshim::image::manifest::Platform::host();
        let mut here = manifest.descriptor();
        here["platform"] = json!({"os": "linux", "architecture": host.architecture});
        let mut other = Blob::new(MANIFEST, b"{}".to_vec()).descriptor();
        other["platform"] = json!({"os": "plan9", "architecture": "mips"});
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, here]});
        Sample { layers, tars, config, manifest, index: Blob::json(INDEX, &index) }
    }

    pub(crate) fn blobs(&self) -> Vec<&Blob> {
        self.layers.iter().chain([&self.config]).collect()
    }

    /// The files of an OCI layout with this image under a name.
    pub(crate) fn layout(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut entry = self.manifest.descriptor();
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        let mut files = BTreeMap::from([
            ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ("index.json".to_owned(), serde_json::to_vec(&index).unwrap()),
        ]);
        for blob in self.blobs().into_iter().chain([&self.manifest]) {
            files.insert(format!("blobs/sha256/{}", &blob.digest[7..]), blob.bytes.clone());
        }
        files
    }
}

pub(crate) fn tar_of(files: &BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let list: Vec<(&str, &[u8])> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
    tar_with(&list)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Debian's `docker-registry` (distribution 2.8), killed on drop.
pub(crate) struct Debian {
    pub(crate) port: u16,
    child: Child,
}

impl Debian {
    pub(crate) fn plain(storage: PathBuf) -> Debian {
        Debian::start(storage, "")
    }

    pub(crate) fn with_tls_and_login(storage: PathBuf, certificate: &(PathBuf, PathBuf)) -> Debian {
        let file = storage.with_extension("htpasswd");
        // `htpasswd -Bbn alice sesame`
        std::fs::write(&file, "alice:$2y$05$/OJ3Z/6ZVXOmezUr6hcu3ONDCxSCMtGB2Balb1zK11jpT6jVL17wu\n").unwrap();
        let (cert, key) = (certificate.0.display(), certificate.1.display());
        let more = format!(
            "  tls:\n    certificate: {cert}\n    key: {key}\nauth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            file.display()
        );
        Debian::start(storage, &more)
    }

    fn start(storage: PathBuf, more: &str) -> Debian {
        let port = free_port();
        let config = storage.with_extension("yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Debian { port, child }
    }

    pub(crate) fn push(&self, repository: &str, tag: &str, sample: &Sample) {
        for blob in sample.blobs() {
            let (status, location) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), None);
            assert_eq!(status, 202);
            let location = location.unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let joint = if path.contains('?') { '&' } else { '?' };
            let (status, _) = self.request("PUT", &format!("{path}{joint}digest={}", blob.digest), Some(blob));
            assert_eq!(status, 201, "blob");
        }
        for (name, blob) in [(sample.manifest.digest.as_str(), &sample.manifest), (tag, &sample.manifest)] {
            let (status, _) = self.request("PUT", &format!("/v2/{repository}/manifests/{name}"), Some(blob));
            assert_eq!(status, 201, "manifest");
        }
        // The registry refuses an index whose other platform it has not: one with this host's entry only.
        let mut index: Value = serde_json::from_slice(&sample.index.bytes).unwrap();
        index["manifests"].as_array_mut().unwrap().remove(0);
        let (status, _) =
            self.request("PUT", &format!("/v2/{repository}/manifests/index"), Some(&Blob::json(INDEX, &index)));
        assert_eq!(status, 201, "index");
    }

    fn request(&self, method: &str, path: &str, blob: Option<&Blob>) -> (u16, Option<String>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (kind, bytes) = blob.map_or(("text/plain", &[][..]), |b| {
            (if path.contains("/manifests/") { b.kind } else { "application/octet-stream" }, &b.bytes[..])
        });
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            bytes.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let location = answer.lines().find_map(|l| l.strip_prefix("Location: ").map(|l| l.trim().to_owned()));
        (status, location)
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
