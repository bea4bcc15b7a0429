//! Import, export, removal, and what a kill leaves.

use crate::support::{Blob, CONFIG, Sample, Setup, available, dirs_in, reference, tar_of};
use podshim::image::archive::{Format, Import, Source};
use podshim::image::remove::Removed;
use podshim::image::{Image, PullPolicy, Quiet, Reference, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Of an archive: name and content.
type Files = BTreeMap<String, Vec<u8>>;

fn import(store: &Store, bytes: Vec<u8>) -> anyhow::Result<Vec<(Vec<Reference>, Image)>> {
    let source = Source::Stream(Box::new(std::io::Cursor::new(bytes)), "test".into());
    store.import(source, Import { name: None, progress: &mut Quiet })
}

fn docker_archive(sample: &Sample, tag: &str) -> BTreeMap<String, Vec<u8>> {
    let list = json!([{"Config": "c.json", "RepoTags": [tag], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    BTreeMap::from([
        ("c.json".into(), sample.config.bytes.clone()),
        ("a/layer.tar".into(), sample.tars[0].clone()),
        ("b/layer.tar".into(), sample.tars[1].clone()),
        ("manifest.json".into(), serde_json::to_vec(&list).unwrap()),
    ])
}

#[test]
fn every_kind_of_archive_gives_the_same_image() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("imported");
    let layout = tar_of(&sample.layout("app:v1"));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&layout).unwrap();
    let zst = zstd::encode_all(&layout[..], 1).unwrap();
    let docker = tar_of(&docker_archive(&sample, "app:v1"));
    for (name, bytes) in [("oci", layout), ("oci gz", gz.finish().unwrap()), ("oci zst", zst), ("docker", docker)] {
        let setup = Setup::new();
        let store = setup.store();
        let loaded = import(&store, bytes).unwrap();
        assert_eq!(loaded[0].0, [reference("app:v1")], "{name}");
        let image = store.resolve("app:v1").unwrap();
        assert_eq!(image.id, sample.config.digest, "{name}");
        assert_eq!(std::fs::read_to_string(image.layers[1].join("hello")).unwrap(), "imported", "{name}");
        assert_eq!(store.resolve(&image.id).unwrap().layers, image.layers, "{name}");
        assert_eq!(store.resolve(&image.id[7..19]).unwrap().id, image.id, "{name}");
        assert!(setup.leftovers().is_empty(), "{name}: {:?}", setup.leftovers());
    }
    // A folder.
    let setup = Setup::new();
    for (name, bytes) in sample.layout("app:v1") {
        let path = setup.path("layout").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let source = Source::open(setup.path("layout").to_str().unwrap()).unwrap();
    let loaded =
        setup.store().import(source, Import { name: Some(reference("other:2")), progress: &mut Quiet }).unwrap();
    assert_eq!(loaded[0].1.reference, "docker.io/library/other:2");
}

#[test]
fn broken_archives_leave_nothing() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("broken");
    let good = sample.layout("app:v1");
    let edit = |f: &dyn Fn(&mut Files)| {
        let mut files = good.clone();
        f(&mut files);
        tar_of(&files)
    };
    let blob = |i: usize| format!("blobs/sha256/{}", &sample.layers[i].digest[7..]);
    let rebuilt = |diff_ids: Vec<Value>| {
        let mut config: Value = serde_json::from_slice(&sample.config.bytes).unwrap();
        config["rootfs"]["diff_ids"] = Value::Array(diff_ids);
        let config = Blob::json(CONFIG, &config);
        tar_of(&Sample::assemble(sample.layers.clone(), Vec::new(), config).layout("app:v1"))
    };
    let wrong = json!(sample.config.digest);
    let sized = |by: i64| {
        let mut manifest: Value = serde_json::from_slice(&sample.manifest.bytes).unwrap();
        let size = manifest["layers"][1]["size"].as_i64().unwrap() + by;
        manifest["layers"][1]["size"] = json!(size);
        let other = Sample { manifest: Blob::json(crate::support::MANIFEST, &manifest), ..sample.clone() };
        tar_of(&other.layout("app:v1"))
    };
    let whole = tar_of(&good);
    for (name, bytes, part) in [
        ("empty", Vec::new(), "empty"),
        ("not a tar", b"hello, world\n".repeat(200), "reading test"),
        ("truncated", whole[..whole.len() / 2].to_vec(), "truncated"),
        ("neither", tar_of(&BTreeMap::from([("x".to_owned(), b"y".to_vec())])), "neither an OCI image layout"),
        ("layer missing", edit(&|f| drop(f.remove(&blob(1)))), "the archive has no blob"),
        ("layer changed", edit(&|f| f.get_mut(&blob(1)).unwrap().push(0)), "has digest"),
        ("size + 1", sized(1), "the archive has no blob"),
        ("size - 1", sized(-1), "the archive has no blob"),
        ("diff id missing", rebuilt(vec![wrong.clone()]), "1 diff_ids for 2"),
        ("diff id wrong", rebuilt(vec![wrong.clone(), wrong.clone()]), "image's config says"),
        ("diff id extra", rebuilt(vec![wrong.clone(), wrong.clone(), wrong]), "3 diff_ids for 2"),
        ("index damaged", edit(&|f| drop(f.insert("index.json".into(), b"{".to_vec()))), "index.json"),
        ("bad name", tar_of(&sample.layout("Not A Name")), "invalid image reference"),
    ] {
        let setup = Setup::new();
        let store = setup.store();
        let error = import(&store, bytes).map(|_| panic!("{name} was accepted")).unwrap_err();
        assert!(format!("{error:#}").contains(part), "{name}: {error:#}");
        assert!(setup.leftovers().is_empty() && setup.content().is_empty(), "{name}: {:?}", setup.content());
        assert!(store.list().unwrap().is_empty(), "{name}");
        import(&store, whole.clone()).unwrap_or_else(|e| panic!("{name}: the next import works: {e:#}"));
    }
}

#[test]
fn exported_images_can_be_imported_and_are_reproducible() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("exported");
    let setup = Setup::new();
    let store = setup.store();
    import(&store, tar_of(&sample.layout("app:v1"))).unwrap();
    for format in [Format::Oci, Format::Docker] {
        let write = || {
            let mut out = Vec::new();
            store.export(&["app:v1".into()], format, &mut out).unwrap();
            out
        };
        let archive = write();
        assert!(archive == write(), "{format:?}");
        let other = Setup::new();
        let loaded = import(&other.store(), archive).unwrap();
        assert_eq!(
            (loaded[0].1.id.as_str(), loaded[0].0[0].familiar().as_str()),
            (sample.config.digest.as_str(), "app:v1")
        );
    }
    let error = store.export(&["absent".into()], Format::Oci, &mut Vec::new()).unwrap_err();
    assert!(format!("{error:#}").contains("no such image: absent"), "{error:#}");
}

#[test]
fn names_and_images_go_as_docker_has_it() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let store = setup.store();
    let (first, second) = (Sample::new("first"), Sample::new("second"));
    import(&store, tar_of(&first.layout("app:v1"))).unwrap();
    import(&store, tar_of(&first.layout("app:v2"))).unwrap();
    let nobody = BTreeSet::new();
    let used = BTreeSet::from([first.config.digest.clone()]);
    let untagged = |tag: &str| Removed::Untagged(format!("docker.io/library/app:{tag}"));

    assert_eq!(store.remove("app:v2", &used).unwrap(), [untagged("v2")], "another name stays");
    let error = store.remove("app:v1", &used).unwrap_err();
    assert!(format!("{error:#}").contains("used by a pod"), "{error:#}");
    assert!(store.remove("absent", &nobody).is_err());

    // The name goes to another image; the first stays without one as long as it is used. The base layer is shared.
    import(&store, tar_of(&second.layout("app:v1"))).unwrap();
    let shared = store.resolve("app:v1").unwrap().layers[0].clone();
    assert_eq!(store.resolve(&first.config.digest).unwrap().layers[0], shared);
    assert_eq!(store.prune(&used).unwrap(), []);
    assert_eq!(store.list().unwrap().iter().filter(|l| l.name.is_none()).count(), 1);
    assert_eq!(store.prune(&nobody).unwrap(), [Removed::Deleted(first.config.digest.clone())]);
    assert!(shared.join("base").exists(), "still needed");
    assert_eq!(store.resolve("app:v1").unwrap().id, second.config.digest);

    let inspected = store.inspect("app:v1").unwrap();
    assert_eq!((&inspected["Id"], &inspected["RepoTags"][0]), (&json!(second.config.digest), &json!("app:v1")));
    assert_eq!(store.remove(&second.config.digest, &nobody).unwrap().len(), 2);
    assert!(setup.content().is_empty() && setup.leftovers().is_empty(), "{:?}", setup.content());
}

#[test]
fn the_policies_ask_a_registry_only_when_they_must() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let store = setup.store();
    let name = format!("127.0.0.1:{}/app:latest", crate::support::free_port());
    import(&store, tar_of(&Sample::new("x").layout(&name))).unwrap();
    for (policy, here) in [
        (PullPolicy::Always, false),
        (PullPolicy::AlwaysByDefault, true),
        (PullPolicy::IfNotPresent, true),
        (PullPolicy::Never, true),
    ] {
        assert_eq!(store.ensure(&reference(&name), policy, &mut Quiet).is_ok(), here, "{policy:?}");
    }
}

#[test]
fn what_dead_processes_left_is_swept_and_what_live_ones_do_is_not() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let sample = Sample::new("swept");
    import(&setup.store(), tar_of(&sample.layout("app:v1"))).unwrap();
    let before = setup.content();
    let dirs = dirs_in(&setup.path(""));
    // Killed while it committed: a blob and a layer that no image names, and its directory.
    for dir in ["1-0", "2-0"] {
        std::fs::create_dir_all(dirs.image_tmp().join(dir).join("layers/x/deep")).unwrap();
    }
    std::fs::write(dirs.images().join("blobs/sha256").join("0".repeat(64)), "half").unwrap();
    std::fs::create_dir(dirs.layers().join("1".repeat(64))).unwrap();
    let alive = std::fs::File::open(dirs.image_tmp().join("2-0")).unwrap();
    alive.lock().unwrap();
    let store = setup.store();
    assert_eq!(setup.content(), before);
    assert_eq!(setup.leftovers(), [dirs.image_tmp().join("2-0")]);
    assert_eq!(store.resolve("app:v1").unwrap().id, sample.config.digest);
    drop(alive);
    setup.store();
    assert!(setup.leftovers().is_empty());
}

#[test]
fn a_layer_that_was_lost_is_unpacked_again_and_a_damaged_blob_is_named() {
    if !available(&["root"]) {
        return;
    }
    let setup = Setup::new();
    let store = setup.store();
    let sample = Sample::new("again");
    import(&store, tar_of(&sample.layout("app:v1"))).unwrap();
    let image = store.resolve("app:v1").unwrap();
    std::fs::remove_dir_all(&image.layers[1]).unwrap();
    assert_eq!(store.resolve("app:v1").unwrap(), image);
    assert_eq!(std::fs::read_to_string(image.layers[1].join("hello")).unwrap(), "again");
    std::fs::remove_dir_all(&image.layers[1]).unwrap();
    let blob = dirs_in(&setup.path("")).images().join("blobs/sha256").join(&sample.layers[1].digest[7..]);
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let error = store.resolve("app:v1").unwrap_err();
    assert!(format!("{error:#}").contains("damaged on disk"), "{error:#}");
    import(&store, tar_of(&sample.layout("app:v1"))).unwrap();
    assert_eq!(store.resolve("app:v1").unwrap(), image, "importing again repairs it");
}
