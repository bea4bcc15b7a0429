//! Class C: manifests and configs of images that lie.

use crate::harness::{FACTS, Output, pod, shell, with};
use crate::rig::{BUSYBOX, Bench, Entry, assert_plain, entry, file, link, of, once, tar_of};
use serde_json::{Value, json};

/// The documents of an image on its way in.
struct Documents {
    manifest: Value,
    config: Value,
}

/// Imports an image after `lie` has changed what it says; the digests are right unless it changed them too.
#[track_caller]
fn lied(bench: &Bench, lie: impl FnOnce(&mut Documents)) -> Output {
    bench.image((FACTS, "localhost/honest"), &json!({}), &[file("extra", b"x")]);
    bench.host.ok(&["image", "rm", "localhost/honest"]);
    let layout = bench.host.path("changed");
    let blob = |d: &Value| layout.join("blobs").join(d["digest"].as_str().unwrap().replace(':', "/"));
    let read = |path: std::path::PathBuf| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let mut index = read(layout.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]));
    let config = read(blob(&manifest["config"]));
    let honest = (manifest["config"].clone(), config.clone());
    let mut documents = Documents { manifest, config };
    lie(&mut documents);
    let put = |value: &Value, descriptor: &mut Value| {
        use sha2::Digest;
        let text = serde_json::to_vec(value).unwrap();
        let digest: String = sha2::Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(layout.join("blobs/sha256").join(&digest), &text).unwrap();
        descriptor["digest"] = json!(format!("sha256:{digest}"));
        descriptor["size"] = json!(text.len());
    };
    if documents.config != honest.1 {
        put(&documents.config, &mut documents.manifest["config"]);
    }
    put(&documents.manifest, &mut index["manifests"][0]);
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    bench.run(&["image", "import", layout.to_str().unwrap()])
}

/// As [`lied`]: it must be refused with these words, and nothing be left.
#[track_caller]
fn refused(bench: &Bench, (name, words): (&str, &[&str]), lie: impl FnOnce(&mut Documents)) {
    let output = lied(bench, lie);
    assert_eq!(output.code, 125, "{name}: {output:?}");
    output.says(words);
    assert_eq!(bench.host.ok(&["image", "ls", "-q"]), "", "{name}");
    assert_eq!(std::fs::read_dir(bench.host.path("root/tmp")).map_or(0, Iterator::count), 0, "{name}");
    bench.assert_unharmed(name);
}

#[test]
fn c1_c2_c3_c4_what_an_image_says_of_itself_is_checked() {
    let Some(bench) = Bench::bare() else { return };
    let hex = "a".repeat(64);
    refused(&bench, ("digest", &["has digest"]), |d| {
        // The layer's blob now holds something else of the same length.
        let name = d.manifest["layers"][1]["digest"].as_str().unwrap().replace(':', "/");
        let path = bench.host.path("changed/blobs").join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[600] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    });
    for (name, change) in [("larger", 1_i64), ("smaller", -1)] {
        refused(&bench, (name, &["descriptor says"]), |d| {
            let size = d.manifest["layers"][0]["size"].as_i64().unwrap();
            d.manifest["layers"][0]["size"] = json!(size + change);
        });
    }
    refused(&bench, ("diff id", &["config says"]), |d| {
        d.config["rootfs"]["diff_ids"][1] = json!(format!("sha256:{hex}"))
    });
    refused(&bench, ("diff id missing", &["1 diff_ids for 2"]), |d| {
        d.config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop();
    });
    refused(&bench, ("diff id extra", &["3 diff_ids for 2"]), |d| {
        d.config["rootfs"]["diff_ids"].as_array_mut().unwrap().push(json!(format!("sha256:{hex}")));
    });
    let up = format!("sha256:{}/file", bench.up());
    for (name, digest) in
        [("path", up.as_str()), ("md5", "md5:d41d8cd98f00b204e9800998ecf8427e"), ("short", "sha256:00")]
    {
        refused(&bench, (name, &["sha256"]), |d| d.manifest["layers"][0]["digest"] = json!(digest));
    }
    refused(&bench, ("both", &["both layers and manifests"]), |d| d.manifest["manifests"] = json!([]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/layer", listener.local_addr().unwrap());
    refused(&bench, ("urls", &["elsewhere"]), |d| d.manifest["layers"][0]["urls"] = json!([url, "file:///etc/passwd"]));
    assert!(listener.accept().is_err(), "somebody asked at {url}");
}

#[test]
fn c5_c6_c10_documents_of_every_size_and_depth_are_answered_soon() {
    let Some(bench) = Bench::bare() else { return };
    refused(&bench, ("large config", &["4194304"]), |d| d.config["author"] = json!("x".repeat(64 << 20)));
    refused(&bench, ("large manifest", &["4194304"]), |d| {
        d.manifest["annotations"] = json!({ "x": "x".repeat(5 << 20) })
    });
    refused(&bench, ("other machine", &["linux/s390x"]), |d| d.config["architecture"] = json!("s390x"));
    refused(&bench, ("other system", &["windows"]), |d| d.config["os"] = json!("windows"));
    refused(&bench, ("no layers", &["layers"]), |d| d.manifest["layers"] = json!([]));
    refused(&bench, ("too many layers", &["600"]), |d| {
        let layer = d.manifest["layers"][1].clone();
        d.manifest["layers"] = json!(vec![layer; 600]);
    });
    let layout = bench.host.path("nested");
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut text = String::from("{}");
    for kind in std::iter::once("manifest").chain(std::iter::repeat_n("index", 200)) {
        use sha2::Digest;
        let digest: String = sha2::Sha256::digest(&text).iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(blobs.join(&digest), &text).unwrap();
        let entry = json!({ "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": format!("sha256:{digest}"),
            "size": text.len(), "annotations": { "org.opencontainers.image.ref.name": "localhost/nested:latest" } });
        text = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    }
    for (name, text) in
        [("nested", text), ("deep", "[".repeat(200_000)), ("cut", r#"{"schemaVersion":2,"mani"#.to_owned())]
    {
        std::fs::write(layout.join("index.json"), text).unwrap();
        let output = bench.run(&["image", "import", layout.to_str().unwrap()]);
        assert_eq!(output.code, 125, "{name}: {output:?}");
    }
}

#[test]
fn c8_an_image_of_many_layers_runs() {
    let Some(bench) = Bench::bare() else { return };
    let tars: Vec<Vec<u8>> =
        (0..130).map(|n| tar_of(&[file(&format!("layer{n}"), b"x"), file("top", n.to_string().as_bytes())])).collect();
    bench.import((FACTS, "localhost/many"), &json!({}), &tars).expect(0);
    let words = ["--file=/top", "--file=/layer0", "--file=/layer129"];
    let seen = bench.host.seen("many", of("localhost/many", &words), json!({}));
    assert_eq!(seen["files"], json!({ "/top": "129", "/layer0": "x", "/layer129": "x" }));
}

#[test]
fn c11_users_are_numbers_in_range_or_names() {
    let Some(bench) = Bench::bare() else { return };
    let passwd =
        file("etc/passwd", b"root:x:0:0:root:/:/\n1000:x:0:0::/:/\n4294967296:x:0:0::/:/\nbig:x:4294967296:0::/:/\n");
    let wrong = [
        "4294967296",
        "2147483648",
        "4294967295",
        "-1",
        "18446744073709551616",
        "0x10",
        " 1000",
        "+1000",
        "1:2:3",
        "1:",
        ":1",
        "1000:nosuchgroup",
        "nosuchuser",
        "big",
        "root\nx",
        "99999999999999999999999999",
    ];
    for (n, user) in wrong.iter().enumerate() {
        let image = format!("localhost/u{n}");
        bench.image((FACTS, &image), &json!({ "User": user }), std::slice::from_ref(&passwd));
        for non_root in [false, true] {
            let context = json!({ "securityContext": { "runAsNonRoot": non_root } });
            bench.refused(&format!("u{n}-{non_root}"), with(of(&image, &["sleep"]), context), &["c"]);
        }
    }
    // Digits are a number even where the image has an account of that name, which would be root.
    bench.image((FACTS, "localhost/digits"), &json!({ "User": "1000" }), std::slice::from_ref(&passwd));
    let context = json!({ "securityContext": { "runAsNonRoot": true } });
    let seen = bench.host.seen("digits", with(of("localhost/digits", &[]), context.clone()), json!({}));
    assert_eq!((&seen["uid"], &seen["euid"]), (&json!(1000), &json!(1000)));
    // A name is not known not to be root.
    bench.image((FACTS, "localhost/named"), &json!({ "User": "root" }), &[passwd]);
    bench.refused("named", with(of("localhost/named", &["sleep"]), context), &["runAsNonRoot"]);
}

#[test]
fn c12_the_images_users_are_read_from_small_files_inside() {
    let Some(bench) = Bench::bare() else { return };
    let user = json!({ "User": "web" });
    let large = vec![b'#'; 11 << 20];
    let rows: [(&str, Vec<u8>, &str); 5] = [
        ("fifo", entry(b'6', "etc/passwd").bytes(), "not a regular file"),
        ("zero", Entry { device: (1, 5), ..entry(b'3', "etc/passwd") }.bytes(), "not a regular file"),
        ("link", link("etc/passwd", &format!("{}/passwd", bench.victim())), "web"),
        ("directory", entry(b'5', "etc/passwd").bytes(), "not a regular file"),
        ("large", file("etc/group", &large), "more than"),
    ];
    for (name, bytes, words) in rows {
        let image = format!("localhost/{name}");
        bench.image((FACTS, &image), &user, &[bytes]);
        bench.refused(name, of(&image, &["sleep"]), &[words]);
    }
}

#[test]
fn c13_no_text_of_an_image_becomes_an_account() {
    let Some(bench) = Bench::bare() else { return };
    let home = "/x\nevil::0:0::/:/bin/sh";
    bench.image((FACTS, "localhost/home"), &json!({ "User": "4242", "Env": [format!("HOME={home}"), "PATH=/"] }), &[]);
    let words = ["--file=/etc/passwd", "--file=/etc/group"];
    let plain = {
        bench.host.import(FACTS, "localhost/plain", &json!({}));
        bench.host.seen("plain", of("localhost/plain", &words), json!({}))
    };
    let seen = bench.host.seen("home", of("localhost/home", &words), json!({}));
    assert_eq!(seen["files"], plain["files"], "nothing is written into the image's files");
    assert!(seen["env"].as_array().unwrap().contains(&json!(format!("HOME={home}"))), "{}", seen["env"]);
    assert_eq!(seen["uid"], 4242);
}

#[test]
fn c14_c15_volumes_and_labels_of_an_image_are_no_wishes() {
    let Some(bench) = Bench::bare() else { return };
    let (victim, up) = (bench.victim(), bench.up());
    let change = json!({
        "Volumes": { up.as_str(): {}, format!("/{up}"): {}, "/link": {}, "/": {}, "/proc": {}, "/dev": {} },
        "Labels": { "podshim.uid": "0", "podshim.io/pod": "x", "run.oci.handler": "krun", "io.kubernetes.pod.name": "other",
            "containerd.io/restart.loguri": "binary:///bin/sh?-c", "io.kubernetes.cri-o.userns-mode": "host" },
    });
    bench.image((FACTS, "localhost/wishes"), &change, &[link("link", &victim)]);
    bench.host.import(FACTS, "localhost/plain", &json!({}));
    let facts = |name: &str, image: &str| {
        let mut seen = bench.host.seen(name, of(image, &["--list=/"]), json!({}));
        // The mounts are the same, whatever their numbers; nothing of the victim is in the image's directories.
        let keys = ["target", "fstype", "options", "propagation"];
        let mounts: Vec<Value> =
            seen["mounts"].as_array().unwrap().iter().map(|m| json!(keys.map(|key| &m[key]))).collect();
        seen["args"] = json!(mounts);
        let victim = victim.split('/').nth(1).unwrap();
        seen["cwd"] = json!(seen["lists"]["/"].as_object().unwrap().keys().filter(|name| *name == victim).count());
        for own in ["namespaces", "mounts", "fds", "env", "hostname", "lists", "dev"] {
            seen.as_object_mut().unwrap().remove(own);
        }
        seen
    };
    assert_eq!(facts("a", "localhost/wishes"), facts("a", "localhost/plain"));
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [of("localhost/wishes", &["sleep"])] });
    bench.host.start(&pod("wishes", spec));
    let shown = bench.host.inspect("wishes").to_string();
    assert!(!shown.contains("krun") && !shown.contains("loguri"), "{shown}");
    bench.host.ok(&["rm", "-f", "wishes"]);
}

#[test]
fn c17_odd_configs_are_answered_before_anything_starts() {
    let Some(bench) = Bench::bare() else { return };
    for (name, change, words) in [
        ("no-equals", json!({ "Env": ["NOTHING"] }), "NAME=VALUE"),
        ("no-name", json!({ "Env": ["=x"] }), "NAME=VALUE"),
        ("nul", json!({ "Env": ["A=x\u{0}y"] }), "NUL"),
        ("words", json!({ "Cmd": "sh -c x" }), "expected a sequence"),
    ] {
        let output = bench.import((FACTS, &format!("localhost/{name}")), &change, &[]);
        assert_eq!(output.code, 125, "{name}: {output:?}");
        assert_plain(name, &output.says(&[words]));
    }
    bench.image((FACTS, "localhost/nothing"), &json!({ "Entrypoint": null, "Cmd": null }), &[]);
    let refused = bench.refused("nothing", of("localhost/nothing", &[]), &["no command specified"]);
    assert_eq!(refused.code, 127);
    bench.image((FACTS, "localhost/signal"), &json!({ "StopSignal": "SIGNONSENSE" }), &[]);
    let spec = json!({ "terminationGracePeriodSeconds": 1, "containers": [of("localhost/signal", &["sleep"])] });
    let output = bench.host.run(&["run", "-d", &bench.host.manifest(&pod("signal", spec))]);
    assert_plain("signal", &output);
    // SIGTERM in its place, which is said when it comes to it.
    assert_eq!(output.code, 0, "{output:?}");
    bench.host.ok(&["stop", "signal"]);
    let ended = bench.host.status("signal", "c")["state"]["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["signal"]), (&json!(0), &Value::Null), "{ended}");
    assert!(
        bench.host.ok(&["events", "signal"]).contains("SIGNONSENSE\" is no signal"),
        "{}",
        bench.host.ok(&["events", "signal"])
    );
    bench.host.ok(&["rm", "-f", "--all"]);
    bench.image((BUSYBOX, "localhost/link-cwd"), &json!({ "WorkingDir": "/link" }), &[link("link", &bench.victim())]);
    let container = with(shell("c", "ls; pwd"), json!({ "image": "localhost/link-cwd", "imagePullPolicy": "Never" }));
    let output = bench.host.foreground(&once("cwd", json!([container]), json!([]))).expect(0);
    assert_eq!(output.out, format!("c | {}\n", bench.victim()), "made inside, and empty");
}
