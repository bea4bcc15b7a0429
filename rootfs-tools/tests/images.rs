//! Images as the program writes them, read back by the specification's rules.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use flate2::read::GzDecoder;
use rootfs_tools::oci::layer::digest;
use serde_json::Value;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A folder with a file of two names, a symlink, a mode, an empty folder.
    fn source(&self, name: &str) -> PathBuf {
        let root = self.path(name);
        fs::create_dir_all(root.join("etc/empty")).unwrap();
        fs::write(root.join("etc/file"), "content").unwrap();
        fs::write(root.join("z"), "two names").unwrap();
        fs::hard_link(root.join("z"), root.join("a")).unwrap();
        symlink("etc/file", root.join("link")).unwrap();
        fs::set_permissions(root.join("etc/file"), fs::Permissions::from_mode(0o2751)).unwrap();
        root
    }

    fn output(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rootfs-tools"))
            .current_dir(self.dir.path())
            .env_remove("SOURCE_DATE_EPOCH")
            .args(args)
            .output()
            .unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn tar(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        files(&fs::read(self.path(name)).unwrap())
    }
}

/// Path → content of the regular files of a tar.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(entry.path().unwrap().display().to_string(), content);
    }
    found
}

/// Reads a layout by the specification: every digest, size and diff_id is right. Gives reference → (config, tars).
fn read_layout(get: impl Fn(&str) -> Vec<u8>) -> BTreeMap<String, (Value, Vec<Vec<u8>>)> {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
    let blob = |descriptor: &Value| {
        let name = descriptor["digest"].as_str().unwrap();
        let bytes = get(&format!("blobs/{}", name.replace(':', "/")));
        assert_eq!(digest(&bytes), name);
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    assert_eq!(json(&get("oci-layout"))["imageLayoutVersion"], "1.0.0");
    let index = json(&get("index.json"));
    assert_eq!(index["schemaVersion"], 2);
    let mut images = BTreeMap::new();
    for descriptor in index["manifests"].as_array().unwrap() {
        assert_eq!(descriptor["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        let annotations = &descriptor["annotations"];
        let reference = annotations["org.opencontainers.image.ref.name"].as_str().unwrap();
        assert_eq!(annotations["io.containerd.image.name"], reference);
        let manifest = json(&blob(descriptor));
        assert_eq!(manifest["mediaType"], descriptor["mediaType"]);
        let config = json(&blob(&manifest["config"]));
        let layers = manifest["layers"].as_array().unwrap();
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!(layers.len(), diff_ids.len());
        assert_eq!(config["history"].as_array().unwrap().len(), layers.len());
        let mut tars = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let mut tar = blob(layer);
            if layer["mediaType"].as_str().unwrap().ends_with("+gzip") {
                let mut plain = Vec::new();
                GzDecoder::new(tar.as_slice()).read_to_end(&mut plain).unwrap();
                tar = plain;
            }
            assert_eq!(digest(&tar), *diff_id);
            tars.push(tar);
        }
        images.insert(reference.to_string(), (config, tars));
    }
    images
}

fn read_folder(root: &Path) -> BTreeMap<String, (Value, Vec<Vec<u8>>)> {
    read_layout(|name| fs::read(root.join(name)).unwrap())
}

#[test]
fn the_same_input_gives_the_same_digest() {
    let bench = Bench::new();
    let (one, two) = (bench.source("one"), bench.source("two"));
    let later = SystemTime::now() + Duration::from_secs(3600);
    fs::File::open(two.join("etc/file")).unwrap().set_modified(later).unwrap();
    let a = bench.run(&["dir", one.to_str().unwrap(), "--tag", "x", "-o", "a"]);
    let b = bench.run(&["dir", two.to_str().unwrap(), "--tag", "x", "-o", "b"]);
    assert_eq!(a, b);
    fs::write(two.join("etc/file"), "other").unwrap();
    assert_ne!(a, bench.run(&["dir", two.to_str().unwrap(), "--tag", "x", "-o", "b"]));
    for format in ["oci-archive", "docker-archive"] {
        for out in ["a.tar", "b.tar"] {
            bench.run(&["dir", one.to_str().unwrap(), "--tag", "x", "--format", format, "-o", out]);
        }
        assert_eq!(fs::read(bench.path("a.tar")).unwrap(), fs::read(bench.path("b.tar")).unwrap(), "{format}");
    }
    let left: Vec<_> = fs::read_dir(bench.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.display().to_string().starts_with('.')), "scratch folders are left: {left:?}");
}

#[test]
fn a_layout_is_valid_and_keeps_links_and_modes() {
    let bench = Bench::new();
    let source = bench.source("src");
    bench.run(&[
        "dir",
        source.to_str().unwrap(),
        "--tag=one",
        "--tag=localhost/two:3",
        r#"--entrypoint=["/bin/a", "b c"]"#,
        "--cmd=-x",
        "--cmd=y",
        "--env=A=1",
        "--env=B=2=3",
        "--user=7:8",
        "--workdir=/w",
        "--expose=80",
        "--expose=53/udp",
        "--volume=/data",
        "--label=k=v",
        "--stop-signal=SIGINT",
        "-o=layout",
    ]);
    let images = read_folder(&bench.path("layout"));
    let names: Vec<_> = images.keys().map(String::as_str).collect();
    assert_eq!(names, ["docker.io/library/one:latest", "localhost/two:3"]);
    let (config, tars) = &images["localhost/two:3"];
    let expected = serde_json::json!({
        "User": "7:8", "ExposedPorts": { "53/udp": {}, "80/tcp": {} }, "Env": ["A=1", "B=2=3"],
        "Entrypoint": ["/bin/a", "b c"], "Cmd": ["-x", "y"], "Volumes": { "/data": {} }, "WorkingDir": "/w",
        "Labels": { "k": "v" }, "StopSignal": "SIGINT",
    });
    assert_eq!(config["config"], expected);
    assert_eq!(config["os"], "linux");

    let mut archive = tar::Archive::new(tars[0].as_slice());
    let entries: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            assert_eq!((header.username_bytes(), header.groupname_bytes()), (Some(&b""[..]), Some(&b""[..])));
            let link = entry.link_name().unwrap().map(|l| l.display().to_string());
            (entry.path().unwrap().display().to_string(), header.entry_type(), header.mode().unwrap(), link)
        })
        .collect();
    let paths: Vec<_> = entries.iter().map(|e| e.0.as_str()).collect();
    assert_eq!(paths, ["a", "etc/", "etc/empty/", "etc/file", "link", "z"]);
    assert_eq!(entries[3].2, 0o2751);
    assert_eq!((entries[4].1, entries[4].3.as_deref()), (tar::EntryType::Symlink, Some("etc/file")));
    assert_eq!((entries[5].1, entries[5].3.as_deref()), (tar::EntryType::Link, Some("a")));
}

#[test]
fn layers_and_whiteouts_follow_the_command_line() {
    let bench = Bench::new();
    let (base, upper) = (bench.source("base"), bench.path("upper"));
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/new"), "new").unwrap();
    let (base, upper) = (base.to_str().unwrap(), upper.to_str().unwrap());
    let args = ["dir", base, "--delete=/link", "--layer", upper, "--opaque=etc", "--delete=a", "--uncompressed"];
    bench.run(&[&args[..], &["--tag=x", "-o=layout"]].concat());
    let images = read_folder(&bench.path("layout"));
    let layers: Vec<Vec<_>> =
        images.values().next().unwrap().1.iter().map(|t| files(t).into_keys().collect()).collect();
    assert_eq!(layers[1], [".wh.link"]);
    assert_eq!(layers[2], [".wh.a", "etc/", "etc/.wh..wh..opq", "etc/new"]);
    assert_eq!(layers.len(), 3);
}

#[test]
fn an_image_replaces_the_one_with_its_name_and_its_blobs() {
    let bench = Bench::new();
    let source = bench.source("src");
    let source = source.to_str().unwrap();
    bench.run(&["dir", source, "--tag=x", "--tag=y", "-o=layout"]);
    fs::write(bench.path("src/etc/file"), "changed").unwrap();
    bench.run(&["dir", source, "--tag=x", "-o=layout"]);
    let images = read_folder(&bench.path("layout"));
    assert_eq!(images.len(), 2);
    let content = |name: &str| files(&images[name].1[0])["etc/file"].clone();
    assert_eq!(content("docker.io/library/x:latest"), b"changed");
    assert_eq!(content("docker.io/library/y:latest"), b"content");
    bench.run(&["dir", source, "--tag=y", "-o=layout"]);
    let blobs = fs::read_dir(bench.path("layout/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 3, "manifest, configuration and layer of what both names are now");
    assert_eq!(bench.run(&["list", "layout"]).lines().count(), 2);
}

#[test]
fn archives_hold_what_the_layout_holds() {
    let bench = Bench::new();
    let source = bench.source("src");
    let source = source.to_str().unwrap();
    bench.run(&["dir", source, "--tag=x:1", "--tag=x:2", "--delete=z", "-o=layout"]);
    bench.run(&["dir", source, "--tag=other", "--cmd=sh", "-o=layout"]);

    bench.run(&["pack", "layout", "--format=oci-archive", "-o=all.tar"]);
    let all = bench.tar("all.tar");
    assert_eq!(read_layout(|name| all[name].clone()), read_folder(&bench.path("layout")));
    bench.run(&["pack", "layout", "--tag=other", "-o=one.tar"]);
    let one = bench.tar("one.tar");
    assert_eq!(read_layout(|name| one[name].clone()).len(), 1);

    bench.run(&["pack", "layout", "--format=docker-archive", "-o=docker.tar"]);
    let docker = bench.tar("docker.tar");
    let manifest: Value = serde_json::from_slice(&docker["manifest.json"]).unwrap();
    let mut tags: Vec<_> = manifest.as_array().unwrap().iter().map(|m| m["RepoTags"].to_string()).collect();
    tags.sort();
    assert_eq!(tags, [r#"["docker.io/library/other:latest"]"#, r#"["docker.io/library/x:1","docker.io/library/x:2"]"#]);
    for image in manifest.as_array().unwrap() {
        let name = image["Config"].as_str().unwrap();
        let config: Value = serde_json::from_slice(&docker[name]).unwrap();
        assert_eq!(format!("sha256:{}", name.trim_end_matches(".json")), digest(&docker[name]));
        let layers = image["Layers"].as_array().unwrap();
        assert_eq!(layers.len(), config["rootfs"]["diff_ids"].as_array().unwrap().len());
        for (layer, diff_id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().unwrap()) {
            assert_eq!(digest(&docker[layer.as_str().unwrap()]), *diff_id);
        }
    }
    let output = bench.output(&["pack", "layout", "--tag=none", "-o=none.tar"]);
    assert!(!output.status.success());
    assert!(!bench.path("none.tar").exists());
}

#[test]
fn a_tar_is_taken_as_it_is_also_from_stdin() {
    let bench = Bench::new();
    let source = bench.source("src");
    let source = source.to_str().unwrap();
    bench.run(&["dir", source, "--tag=x", "--opaque=etc", "--gzip", "-o=layout"]);
    let images = read_folder(&bench.path("layout"));
    let tars = &images.values().next().unwrap().1;
    fs::write(bench.path("base.tar"), &tars[0]).unwrap();
    fs::write(bench.path("top.tar"), &tars[1]).unwrap();
    bench.run(&["tar", "base.tar", "--layer=top.tar", "--tag=x", "-o=again"]);
    assert_eq!(fs::read(bench.path("layout/index.json")).unwrap(), fs::read(bench.path("again/index.json")).unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_rootfs-tools"))
        .current_dir(bench.dir.path())
        .args(["tar", "-", "--layer=top.tar", "--tag=x", "-o=third"])
        .stdin(fs::File::open(bench.path("base.tar")).unwrap())
        .status();
    assert!(output.unwrap().success());
    assert_eq!(fs::read(bench.path("layout/index.json")).unwrap(), fs::read(bench.path("third/index.json")).unwrap());
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    let source = bench.source("src");
    let source = source.to_str().unwrap();
    fs::create_dir(bench.path("full")).unwrap();
    fs::write(bench.path("full/file"), "").unwrap();
    fs::write(bench.path("script"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(bench.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, args, said) in [
        ("a bad reference", vec!["dir", source, "--tag=UP/x y", "-o=out"], "not a repository name"),
        ("no such folder", vec!["dir", "none", "--tag=x", "-o=out"], "listing none"),
        ("not a layout", vec!["dir", source, "--tag=x", "-o=full"], "neither empty nor an OCI layout"),
        ("a script as program", vec!["program", "script", "--tag=x", "-o=out"], "not a 64-bit ELF program"),
        ("a bad variable", vec!["dir", source, "--tag=x", "--env=A", "-o=out"], "expected NAME=VALUE"),
        ("a bad port", vec!["dir", source, "--tag=x", "--expose=http", "-o=out"], "not a port number"),
        ("a whiteout outside", vec!["dir", source, "--tag=x", "--delete=../x", "-o=out"], "no place for `..`"),
        ("no layout to pack", vec!["pack", "src", "-o=out"], "not an OCI layout"),
    ] {
        let output = bench.output(&args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(stderr.contains(said), "{name}: {stderr}");
        assert!(!bench.path("out").exists(), "{name}");
    }
}

/// Needs Debian's busybox-static (`scripts/images.sh` installs it), or `PODSHIM_MAY_SKIP` to name it.
#[test]
fn busybox_has_all_its_applets() {
    let may_skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
    if !Path::new("/bin/busybox").exists() && may_skip.split([',', ' ']).any(|s| s == "busybox-static") {
        return;
    }
    let bench = Bench::new();
    for (links, entry_type) in [(None, tar::EntryType::Link), (Some("--symlinks"), tar::EntryType::Symlink)] {
        let args: Vec<_> = ["busybox", "--tag=busybox", "-o=layout"].into_iter().chain(links).collect();
        bench.run(&args);
        let images = read_folder(&bench.path("layout"));
        let (config, tars) = &images["docker.io/library/busybox:latest"];
        assert_eq!(config["config"]["Cmd"], serde_json::json!(["sh"]));
        let mut types = BTreeMap::new();
        for entry in tar::Archive::new(tars[0].as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            types.insert(entry.path().unwrap().display().to_string(), entry.header().entry_type());
        }
        for applet in ["bin/sh", "bin/ls", "usr/bin/nslookup", "usr/bin/["] {
            assert_eq!(types.get(applet), Some(&entry_type), "{applet}");
        }
        assert_eq!(types.get("etc/passwd"), Some(&tar::EntryType::Regular));
        assert_eq!(types.get("tmp/"), Some(&tar::EntryType::Directory));
    }
}
