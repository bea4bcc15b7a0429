//! Docker's media types, indexes of platforms, and pushing both to a registry that holds clients to the specification.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use rootfs_tools::oci::layer::digest;
use serde_json::Value;

const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// With a folder `src` that holds one file.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("src")).unwrap();
        fs::write(dir.path().join("src/file"), "content").unwrap();
        Self { dir }
    }

    fn output(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rootfs-tools")).current_dir(self.dir.path()).args(args).output().unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.dir.path().join("layout").join(name)).unwrap()).unwrap()
    }

    fn blob(&self, descriptor: &Value) -> Value {
        self.json(&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/")))
    }

    /// The index's entry of this reference.
    fn entry(&self, reference: &str) -> Value {
        let index = self.json("index.json");
        let entries = index["manifests"].as_array().unwrap();
        let named = |e: &&Value| e["annotations"]["org.opencontainers.image.ref.name"] == reference;
        entries.iter().find(named).unwrap_or_else(|| panic!("{reference} is not in {index}")).clone()
    }

    /// An index `x/index:1` of two platforms in Docker's words, and an OCI image `y/plain`.
    fn fill(&self) {
        for arch in ["amd64", "arm64"] {
            let tag = format!("localhost/{arch}");
            self.run(&["dir", "src", "--arch", arch, "--types=docker", "--tag", &tag, "-o=layout"]);
        }
        let images = ["--image=localhost/amd64", "--image=localhost/arm64"];
        self.run(&["index", "layout", images[0], images[1], "--types=docker", "--tag=a.test/x/index:1"]);
        self.run(&["dir", "src", "--tag=b.test/y/plain", "--uncompressed", "-o=layout"]);
    }
}

#[test]
fn an_index_leads_to_an_image_for_each_platform() {
    let bench = Bench::new();
    bench.fill();
    let entry = bench.entry("a.test/x/index:1");
    assert_eq!(entry["mediaType"], DOCKER_LIST);
    let index = bench.blob(&entry);
    assert_eq!(index["mediaType"], DOCKER_LIST);
    let members = index["manifests"].as_array().unwrap();
    for (member, arch) in members.iter().zip(["amd64", "arm64"]) {
        assert_eq!(member["platform"]["architecture"], arch);
        assert_eq!(member["mediaType"], DOCKER_MANIFEST);
        assert!(member["annotations"].is_null(), "a name belongs to the layout's index only");
        let manifest = bench.blob(member);
        assert_eq!(manifest["mediaType"], DOCKER_MANIFEST);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.docker.container.image.v1+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.docker.image.rootfs.diff.tar.gzip");
        assert_eq!(bench.blob(&manifest["config"])["architecture"], arch);
    }
    // What only the index leads to stays when its own names are gone.
    for arch in ["amd64", "arm64"] {
        bench.run(&["dir", "src", "--label=a=b", "--tag", &format!("localhost/{arch}"), "-o=layout"]);
    }
    for member in members {
        assert_eq!(bench.blob(member)["mediaType"], DOCKER_MANIFEST);
    }
    // An archive of Docker's older form holds no index; an OCI one holds all of it.
    let refused = bench.fails(&["pack", "layout", "--tag=a.test/x/index:1", "--format=docker-archive", "-o=out.tar"]);
    assert!(refused.contains("no place for an index"), "{refused}");
    bench.run(&["pack", "layout", "--tag=a.test/x/index:1", "-o=out.tar"]);
    let tar = fs::read(bench.dir.path().join("out.tar")).unwrap();
    let files = tar::Archive::new(tar.as_slice()).entries().unwrap().filter(|e| e.as_ref().unwrap().size() > 0).count();
    assert_eq!(files, 8, "marker, index, list, two manifests, two configurations, one layer");
}

#[test]
fn an_index_of_what_is_not_there_or_not_one_platform_each_is_refused() {
    let bench = Bench::new();
    bench.fill();
    bench.run(&["dir", "src", "--arch=amd64", "--label=a=b", "--tag=localhost/second", "-o=layout"]);
    let before = bench.json("index.json");
    for (name, images, said) in [
        ("missing", vec!["--image=localhost/none"], "no such image"),
        ("an index", vec!["--image=a.test/x/index:1"], "an index, not an image"),
        ("one platform twice", vec!["--image=localhost/amd64", "--image=localhost/second"], "a second image for"),
    ] {
        let stderr = bench.fails(&[&["index", "layout", "--tag=z"], images.as_slice()].concat());
        assert!(stderr.contains(said), "{name}: {stderr}");
        assert_eq!(bench.json("index.json"), before, "{name}");
    }
}

/// What a registry holds: repository → blobs, and repository and name → media type and bytes of a manifest.
#[derive(Default)]
struct Content {
    blobs: BTreeMap<String, BTreeSet<String>>,
    bytes: BTreeMap<String, Vec<u8>>,
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    mounts: usize,
}

/// Serves pushes until the process ends; refuses a blob under a wrong digest and a manifest whose parts are missing.
fn serve() -> (String, Arc<Mutex<Content>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let content = Arc::new(Mutex::new(Content::default()));
    let shared = Arc::clone(&content);
    thread::spawn(move || {
        for stream in listener.incoming() {
            answer(&stream.unwrap(), &mut shared.lock().unwrap());
        }
    });
    (address, content)
}

fn answer(stream: &TcpStream, content: &mut Content) {
    let mut reader = BufReader::new(stream);
    let (mut line, mut len, mut kind) = (String::new(), 0, String::new());
    reader.read_line(&mut line).unwrap();
    let request = line.clone();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some(("Content-Length", value)) => len = value.parse().unwrap(),
            Some(("Content-Type", value)) => kind = value.to_string(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).unwrap();
    let mut words = request.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let status = match (method, target.split_once('?').unwrap_or((target, ""))) {
        ("POST", (path, query)) => begin(content, path.strip_suffix("/blobs/uploads/").unwrap(), query),
        ("PUT", (path, query)) if path.contains("/blobs/uploads/") => {
            let repository = path.split_once("/blobs/").unwrap().0;
            let named = query.split_once("digest=").unwrap().1;
            if digest(&body) == named {
                content.blobs.entry(repository.to_string()).or_default().insert(named.to_string());
                content.bytes.insert(named.to_string(), body);
                "201 Created".to_string()
            } else {
                "400 Bad Request".to_string()
            }
        }
        ("PUT", (path, _)) => manifest(content, path, kind, body),
        other => panic!("{other:?}"),
    };
    write!(&mut (&*stream), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
}

fn begin(content: &mut Content, repository: &str, query: &str) -> String {
    if let Some((blob, from)) = query.strip_prefix("mount=").and_then(|q| q.split_once("&from=")) {
        assert!(content.blobs[&format!("/v2/{from}")].contains(blob));
        content.blobs.entry(repository.to_string()).or_default().insert(blob.to_string());
        content.mounts += 1;
        return "201 Created".to_string();
    }
    format!("202 Accepted\r\nLocation: {repository}/blobs/uploads/one?state=s")
}

fn manifest(content: &mut Content, path: &str, kind: String, body: Vec<u8>) -> String {
    let (repository, name) = path.split_once("/manifests/").unwrap();
    let json: Value = serde_json::from_slice(&body).unwrap();
    let parts = json["layers"].as_array().into_iter().flatten().chain(json.get("config"));
    let blobs = content.blobs.get(repository);
    let missing_blob = |part: &Value| !blobs.is_some_and(|b| b.contains(part["digest"].as_str().unwrap()));
    let missing_member = |member: &Value| {
        let name = member["digest"].as_str().unwrap().to_string();
        !content.manifests.contains_key(&(repository.to_string(), name))
    };
    if parts.into_iter().any(missing_blob) || json["manifests"].as_array().into_iter().flatten().any(missing_member) {
        return "404 Not Found".to_string();
    }
    assert_eq!(json["mediaType"], kind, "{path}");
    content.manifests.insert((repository.to_string(), name.to_string()), (kind, body));
    "201 Created".to_string()
}

#[test]
fn a_registry_gets_every_byte_as_it_stands() {
    let bench = Bench::new();
    bench.fill();
    let (address, content) = serve();
    let mut said: Vec<_> = bench.run(&["push", "layout", &address]).lines().map(str::to_string).collect();
    said.sort();
    assert_eq!(said, ["amd64:latest", "arm64:latest", "x/index:1", "y/plain:latest"]);
    let content = content.lock().unwrap();
    for (repository, name, reference) in
        [("/v2/x/index", "1", "a.test/x/index:1"), ("/v2/y/plain", "latest", "b.test/y/plain:latest")]
    {
        let (kind, bytes) = &content.manifests[&(repository.to_string(), name.to_string())];
        let entry = bench.entry(reference);
        assert_eq!(entry["mediaType"], *kind);
        assert_eq!(entry["digest"], digest(bytes));
    }
    assert!(content.mounts > 0, "a layer that several repositories have is uploaded once");
    for (name, bytes) in &content.bytes {
        assert_eq!(digest(bytes), *name);
    }
}

#[test]
fn a_registry_that_refuses_or_is_not_there_is_named() {
    let bench = Bench::new();
    bench.fill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nlogin").unwrap();
    });
    let refused = bench.fails(&["push", "layout", &address]);
    server.join().unwrap();
    assert!(refused.contains("HTTP 401: login") && refused.contains("pushing a.test/x/index:1"), "{refused}");
    let gone = bench.fails(&["push", "layout", &address]);
    assert!(gone.contains(&format!("connecting to {address}")), "{gone}");
}
