//! What the fuzz targets start from and what they once found (`fuzz/seeds`), replayed; `scripts/fuzz.sh` goes on from there.

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own to the fuzz targets")]
mod fuzzed;

use std::path::Path;

fn replay(directory: &Path, target: fn(&[u8])) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.unwrap().path();
        if path.is_file() {
            // A panic's own message does not say which.
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            count += 1;
        }
    }
    count
}

#[test]
fn every_case_of_every_target_holds() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in fuzzed::TARGETS {
        if name == "unpack" && !nix::unistd::geteuid().is_root() {
            let skip = std::env::var("PODSHIM_MAY_SKIP").unwrap_or_default();
            assert!(skip.split([',', ' ']).any(|w| w == "root"), "needs root (or PODSHIM_MAY_SKIP=root)");
            continue;
        }
        let mut count = replay(&repository.join("fuzz/seeds").join(name), target);
        if name == "manifest" {
            count +=
                replay(&repository.join("tests/manifests"), target) + replay(&repository.join("tests/pods"), target);
        }
        assert!(count > 0, "{name} has no case");
    }
}

#[test]
fn every_target_has_its_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut found: Vec<String> = std::fs::read_dir(programs)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut listed: Vec<String> = fuzzed::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(found, listed);
}
