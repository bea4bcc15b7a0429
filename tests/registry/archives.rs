//! Import, export, removal, and what a kill leaves.

use crate::server::Host;
use crate::support::{Blob, CONFIG, Sample, Setup, available, damage, dirs_in, reference, tar_of};
use podshim::image::archive::{Format, Import, Source};
use podshim::image::remove::Removed;
use podshim::image::{Image, PullPolicy, Quiet, Reference, Store};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Where an image comes from, and how it is had from there.
type Way<'a> = (&'a str, &'a dyn Fn(&Store));

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
        assert!(store.list().unwrap().0.is_empty(), "{name}");
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
    assert_eq!(store.list().unwrap().0.iter().filter(|l| l.name.is_none()).count(), 1);
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
    damage(&dirs_in(&setup.path("")).images(), &sample.layers[1].digest);
    let error = store.resolve("app:v1").unwrap_err();
    assert!(format!("{error:#}").contains("damaged on disk"), "{error:#}");
    import(&store, tar_of(&sample.layout("app:v1"))).unwrap();
    assert_eq!(store.resolve("app:v1").unwrap(), image, "importing again repairs it");
}

#[test]
fn a_damaged_image_is_whole_when_it_is_had_again() {
    if !available(&["root"]) {
        return;
    }
    let sample = Sample::new("damaged");
    let registry = Host::plain(&sample);
    let name = &format!("127.0.0.1:{}/app:v1", registry.port);
    let folder = tempfile::tempdir().unwrap();
    for (file, bytes) in sample.layout(name) {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let from_folder = |store: &Store| {
        let source = Source::open(folder.path().to_str().unwrap()).unwrap();
        store.import(source, Import { name: None, progress: &mut Quiet }).unwrap();
    };
    let ensure = |store: &Store| store.ensure(&reference(name), PullPolicy::IfNotPresent, &mut Quiet);
    let ways: [Way; 5] = [
        ("a registry", &|store| drop(store.pull(&reference(name), &mut Quiet).unwrap())),
        ("a registry, for a pod", &|store| drop(ensure(store).unwrap())),
        ("an OCI layout", &|store| drop(import(store, tar_of(&sample.layout(name))).unwrap())),
        ("a folder", &from_folder),
        ("a docker-archive", &|store| drop(import(store, tar_of(&docker_archive(&sample, name))).unwrap())),
    ];
    for (way, take) in ways {
        let setup = Setup::new();
        let store = setup.store();
        take(&store);
        let (image, content) = (store.resolve(name).unwrap(), setup.content());
        for (part, digest) in [("config", &image.id), ("manifest", &image.digest)] {
            damage(&dirs_in(&setup.path("")).images(), digest);
            assert!(store.resolve(name).is_err(), "{way}, {part}");
            if !way.contains("registry") {
                let error = format!("{:#}", ensure(&store).unwrap_err());
                assert!(error.contains("is damaged"), "{way}, {part}: a registry may have another: {error}");
            }
            take(&store);
            assert_eq!(store.resolve(name).unwrap(), image, "{way}, {part}");
            assert_eq!(setup.content(), content, "{way}, {part}");
        }
    }
}

#[test]
fn a_damaged_image_is_in_nobodys_way_and_can_be_removed() {
    if !available(&["root"]) {
        return;
    }
    let (sample, other) = (Sample::new("damaged"), Sample::new("other"));
    let nobody = BTreeSet::new();
    for digest in [&sample.config.digest, &sample.manifest.digest] {
        let setup = Setup::new();
        let (store, dirs) = (setup.store(), dirs_in(&setup.path("")));
        import(&store, tar_of(&other.layout("other:v1"))).unwrap();
        let whole = setup.content();
        let spoil = || {
            import(&store, tar_of(&sample.layout("app:v1"))).unwrap();
            damage(&dirs.images(), digest);
        };
        spoil();
        let all = setup.content();
        let says = |error: &anyhow::Error| {
            let text = format!("{error:#}");
            assert!(text.contains("image app:v1 cannot be used") && text.contains("is damaged"), "{text}");
        };
        says(&store.resolve("app:v1").unwrap_err());
        says(&store.inspect("app:v1").unwrap_err());
        let (listed, damaged) = store.list().unwrap();
        assert_eq!(listed.iter().map(|l| l.id.to_string()).collect::<Vec<_>>(), [other.config.digest.as_str()]);
        assert_eq!(damaged.len(), 1, "{damaged:?}");
        says(&damaged[0]);
        assert_eq!(store.known().unwrap().len(), 1);
        assert_eq!(store.known_as("app:v1").unwrap(), None);
        for name in ["other:v1", &other.config.digest, &other.config.digest[7..19]] {
            assert_eq!(store.resolve(name).unwrap().id, other.config.digest, "{name}");
            assert_eq!(store.inspect(name).unwrap()["Id"], json!(other.config.digest), "{name}");
            assert_eq!(store.known_as(name).unwrap().unwrap().id.to_string(), other.config.digest, "{name}");
        }
        // A pull was killed. What the damaged image needs is not known, so nothing goes.
        std::fs::create_dir(dirs.image_tmp().join("1-0")).unwrap();
        setup.store();
        assert!(setup.leftovers().is_empty());
        assert_eq!(setup.content(), all);
        // It is in use by its ID or, if nobody knows that any more, by its manifest.
        let used = BTreeSet::from([digest.clone()]);
        assert!(format!("{:#}", store.remove("app:v1", &used).unwrap_err()).contains("used by a pod"));
        assert_eq!(store.prune(&used).unwrap(), []);
        assert_eq!(setup.content(), all);

        let gone = [Removed::Untagged("docker.io/library/app:v1".into()), Removed::Deleted(digest.clone())];
        assert_eq!(store.remove("app:v1", &nobody).unwrap(), gone);
        assert_eq!(setup.content(), whole);
        spoil();
        assert_eq!(store.prune(&nobody).unwrap(), gone);
        assert_eq!(setup.content(), whole);
        spoil();
        assert!(store.remove_whole("app:v1", || Ok(BTreeSet::new())).unwrap());
        assert_eq!(setup.content(), whole);
        spoil();
        assert!(store.remove_whole("other:v1", || Ok(BTreeSet::new())).unwrap());
        assert!(setup.content().is_empty(), "a kubelet cannot name it: it goes with another one");
    }
}
