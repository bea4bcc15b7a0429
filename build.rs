//! Compresses the texts that the binary has with it and seldom needs: `src/embedded.rs` reads them.

use flate2::Compression;
use flate2::write::DeflateEncoder;
use std::io::Write;
use std::path::{Path, PathBuf};

const LESSONS: &str = "src/lab/lessons";
const TEXTS: [&str; 6] = [
    "src/manifest/explain/pod.schema.json",
    "src/explain/script/tools.sh",
    "src/explain/script/down.sh",
    "src/lab/lib.sh",
    "src/lab/wall.sh",
    "src/picture/html/style.css",
];

fn main() {
    let lessons = std::fs::read_dir(LESSONS).expect(LESSONS).map(|entry| entry.expect(LESSONS).path());
    let yaml = lessons.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    println!("cargo::rerun-if-changed={LESSONS}");
    // The linker reads them (.cargo/config.toml), of which cargo does not know.
    for script in ["scripts/first.ld", "scripts/no-eh-frame.ld"] {
        println!("cargo::rerun-if-changed={script}");
    }
    yaml.chain(TEXTS.map(PathBuf::from)).for_each(|path| compress(&path));
}

fn compress(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
    let name = path.file_name().and_then(|name| name.to_str()).expect("a file's name");
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("OUT_DIR")).join(format!("{name}.deflate"));
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&std::fs::read(path).expect(name)).expect(name);
    std::fs::write(target, encoder.finish().expect(name)).expect(name);
}
