//! Class B: what is left of hostile layers beside the cases of src/image/hostile.rs: numbers and sizes that lie, through
//! the command as a user runs it.

use crate::harness::FACTS;
use crate::rig::{Bench, Entry, SOON, assert_plain, entry, file, link, of, pax, tar_of};
use serde_json::json;
use std::time::Instant;

/// A header of a regular file `f` whose fields are changed before its checksum is made.
fn header(change: impl FnOnce(&mut [u8; 512])) -> Vec<u8> {
    let mut bytes = entry(b'0', "f").bytes();
    let block: &mut [u8; 512] = (&mut bytes[..512]).try_into().unwrap();
    change(block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

/// A size in base-256, which may be negative (GNU).
fn sized(size: i64) -> Vec<u8> {
    header(|block| {
        block[124..128].fill(if size < 0 { 0xff } else { 0 });
        block[124] |= 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    })
}

#[test]
fn b17_b18_b19_b20_b24_numbers_that_lie_are_refused_soon() {
    let Some(bench) = Bench::bare() else { return };
    let victim = bench.victim();
    let with_pax = |records: &[(&str, &[u8])]| [pax(records), file("f", b"x")].concat();
    let raw_pax = |text: &[u8]| [Entry { data: text, ..entry(b'x', "PaxHeaders/f") }.bytes(), file("f", b"x")].concat();
    let honest = tar_of(&[file("f", &[b'x'; 4000])]);
    let whole = |entries: Vec<u8>| tar_of(&[entries]);
    let mut bad_sum = entry(b'0', "f").bytes();
    bad_sum[148] ^= 1;
    let long_name = Entry { data: &vec![b'a'; 64 << 20], ..entry(b'L', "././@LongLink") }.bytes();
    let rows: Vec<(&str, Vec<u8>, Option<&str>)> = vec![
        ("B18 cut in a header", honest[..300].to_vec(), Some("")),
        ("B18 cut in a file", honest[..2000].to_vec(), Some("")),
        ("B18 negative size", whole(sized(-1)), Some("")),
        ("B18 2^62", whole(sized(1 << 62)), Some("")),
        ("B18 PAX 2^63-1", whole(with_pax(&[("size", b"9223372036854775807")])), Some("")),
        ("B18 PAX negative", whole(with_pax(&[("size", b"-1")])), Some("")),
        ("B18 checksum", whole(bad_sum), Some("checksum")),
        ("B18 NUL", whole(with_pax(&[("path", b"a\0b")])), Some("NUL")),
        ("B18 PAX length", whole(raw_pax(b"99999999999 path=x\n")), Some("")),
        ("B18 PAX length 0", whole(raw_pax(b"0 path=x\n")), Some("")),
        ("B18 PAX without a length", whole(raw_pax(b"path=x\n")), Some("")),
        (
            "B19 GNU sparse",
            whole(header(|block| {
                block[156] = b'S';
                block[483..495].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
            })),
            Some("sparse"),
        ),
        (
            "B19 PAX sparse",
            whole(with_pax(&[("GNU.sparse.numblocks", b"4000000"), ("GNU.sparse.size", b"1099511627776")])),
            Some("sparse"),
        ),
        ("B20 long name", whole([long_name, file("f", b"x")].concat()), Some("header")),
        ("B17 far future", whole(with_pax(&[("mtime", b"100000000000000000")])), None),
        ("B17 far past", whole(with_pax(&[("mtime", b"-100000000000000000")])), None),
        ("B16 uid 2^32-1", whole(with_pax(&[("uid", b"4294967295")])), Some("out of range")),
        ("B16 gid -1", whole(with_pax(&[("gid", b"-1")])), Some("")),
        (
            "B24 global path",
            whole(
                [
                    Entry {
                        data: format!("{} path={victim}/file\n", 7 + victim.len() + 8).as_bytes(),
                        ..entry(b'g', "pax_global")
                    }
                    .bytes(),
                    file("one", b"x"),
                    file("two", b"y"),
                ]
                .concat(),
            ),
            None,
        ),
    ];
    for (n, (name, tar, expected)) in rows.iter().enumerate() {
        let output = bench.import((FACTS, &format!("localhost/t{n}")), &json!({}), std::slice::from_ref(tar));
        match expected {
            Some(words) => {
                assert_eq!(output.code, 125, "{name}: {output:?}");
                output.says(&[words]);
                assert!(!bench.host.ok(&["image", "ls"]).contains(&format!("t{n} ")), "{name}");
            }
            None => assert_eq!(output.code, 0, "{name}: {output:?}"),
        }
        assert_eq!(std::fs::read_dir(bench.host.path("root/tmp")).map_or(0, Iterator::count), 0, "{name}");
        bench.assert_unharmed(name);
    }
    // Every file has its own name, whatever was said for all.
    let global = rows.iter().position(|r| r.0 == "B24 global path").unwrap();
    let seen =
        bench.host.seen("global", of(&format!("localhost/t{global}"), &["--file=/one", "--file=/two"]), json!({}));
    assert_eq!(seen["files"], json!({ "/one": "x", "/two": "y" }));
    let times = rows.iter().position(|r| r.0 == "B17 far future").unwrap();
    bench.host.seen("times", of(&format!("localhost/t{times}"), &["--stat=/f"]), json!({}));
}

#[test]
fn b22_b26_many_links_and_deep_trees_take_linear_time() {
    let Some(bench) = Bench::bare() else { return };
    let mut links = file("f", b"x");
    let names: Vec<String> = (0..66_000).map(|n| format!("l{n}")).collect();
    names.iter().for_each(|name| links.extend(Entry { link: "f", ..entry(b'1', name) }.bytes()));
    let before = Instant::now();
    let output = bench.import((FACTS, "localhost/links"), &json!({}), &[tar_of(&[links])]);
    // ext4 has 65000 links to a file at most.
    assert!(output.code == 0 || output.err.contains("Too many links"), "{output:?}");
    assert!(before.elapsed() < SOON * 4, "{:?}", before.elapsed());
    assert_plain("links", &output);
    assert_eq!(std::fs::read_dir(bench.host.path("root/tmp")).map_or(0, Iterator::count), 0);
}

/// What is known of them is their names, not the 4000 bytes that lead to each: that would be more than podshim may have here.
#[test]
fn b22_directories_behind_a_long_link_take_little_memory() {
    let Some(bench) = Bench::bare() else { return };
    let target = format!("{}/", "a".repeat(199)).repeat(20);
    let mut entries = Entry { pax: &[("linkpath", target.as_bytes())], mode: 0o777, ..entry(b'2', "s") }.bytes();
    // Some of many, most of them one and the same.
    for n in 0..20_000 {
        let name = if n % 200 == 0 { format!("s/d{n}") } else { "s/again".to_owned() };
        entries.extend(entry(b'5', &name).bytes());
    }
    let output = bench.import((FACTS, "localhost/behind"), &json!({}), &[tar_of(&[entries])]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(std::fs::read_dir(bench.host.path("root/tmp")).map_or(0, Iterator::count), 0);
    bench.assert_unharmed("behind a long link");
}

/// What an archive holds besides layers is kept for a while, and so is what it is called.
#[test]
fn p10_an_archive_of_many_names_or_of_devices_is_refused_soon() {
    let Some(bench) = Bench::bare() else { return };
    let path = bench.host.path("archive.tar");
    let long = vec![b'x'; 900 << 10];
    let many: Vec<Vec<u8>> = (0..40_000).map(|n| file(&format!("f{n}"), b"")).collect();
    let links: Vec<Vec<u8>> = (0..40_000).map(|n| link(&format!("l{n}"), "x")).collect();
    let directories: Vec<Vec<u8>> = (0..40_000).map(|n| entry(b'5', &format!("d{n}")).bytes()).collect();
    // Packed they would be a few KiB each; 200 of them are more than the memory that podshim may have here.
    let named: Vec<Vec<u8>> = (0..200).map(|_| Entry { pax: &[("path", &long)], ..entry(b'0', "f") }.bytes()).collect();
    let linked: Vec<Vec<u8>> =
        (0..200).map(|_| Entry { pax: &[("linkpath", &long)], ..entry(b'2', "l") }.bytes()).collect();
    for (name, entries, words) in [
        ("many files", many, "more than 16384 entries"),
        ("many links", links, "more than 16384 entries"),
        ("many directories", directories, "more than 16384 entries"),
        ("long names", named, "the name of entry 1 has"),
        ("long links", linked, "the name of entry 1 has"),
    ] {
        std::fs::write(&path, tar_of(&entries)).unwrap();
        let output = bench.run(&["image", "import", path.to_str().unwrap()]);
        assert_eq!(output.code, 125, "{name}: {output:?}");
        assert!(output.err.len() < 4096, "{name}: an error of {} bytes", output.err.len());
        output.says(&[words]);
        assert_eq!(std::fs::read_dir(bench.host.path("root/tmp")).map_or(0, Iterator::count), 0, "{name}");
    }
    // A folder may hold anything in the place of a blob: nothing but a file is opened.
    type Plant = fn(&std::path::Path);
    let plants: [(&str, Plant); 4] = [
        ("character device", |at| {
            let (kind, mode) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU);
            nix::sys::stat::mknod(at, kind, mode, nix::sys::stat::makedev(240, 77)).unwrap();
        }),
        ("block device", |at| {
            let (kind, mode) = (nix::sys::stat::SFlag::S_IFBLK, nix::sys::stat::Mode::S_IRWXU);
            nix::sys::stat::mknod(at, kind, mode, nix::sys::stat::makedev(240, 77)).unwrap();
        }),
        ("fifo", |at| nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("directory", |at| std::fs::create_dir(at).unwrap()),
    ];
    for (name, plant) in plants {
        for at in ["index.json", "blob"] {
            let layout = bench.host.changed_image((FACTS, "localhost/planted"), &json!({}), &[]);
            let layout = std::path::Path::new(&layout);
            let largest = || {
                let all = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
                all.max_by_key(|e| e.metadata().unwrap().len()).unwrap().path()
            };
            let at = if at == "blob" { largest() } else { layout.join(at) };
            std::fs::remove_file(&at).unwrap();
            plant(&at);
            let output = bench.run(&["image", "import", layout.to_str().unwrap()]);
            assert_eq!(output.code, 125, "{name}: {output:?}");
            output.says(&["is not a regular file"]);
            std::fs::remove_dir_all(layout).unwrap();
        }
    }
    bench.assert_unharmed("archives");
}
