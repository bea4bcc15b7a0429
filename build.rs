//! Compresses the texts that the binary has with it and seldom needs: `src/embedded.rs` reads them.

use std::path::{Path, PathBuf};

const LESSONS: &str = "src/lab/lessons";
const TEXTS: [&str; 7] = [
    "src/manifest/explain/pod.schema.json",
    "src/explain/script/tools.sh",
    "src/explain/script/down.sh",
    "src/lab/lib.sh",
    "src/lab/wall.sh",
    "src/picture/html/style.css",
    "src/picture/html/words.html",
];
/// The most that zstd can do.
const LEVEL: i32 = 22;

fn main() {
    // The linker reads them (.cargo/config.toml), of which cargo does not know.
    for script in ["scripts/first.ld", "scripts/no-eh-frame.ld", LESSONS] {
        println!("cargo::rerun-if-changed={script}");
    }
    compress("lessons", &lessons());
    for path in TEXTS.map(Path::new) {
        println!("cargo::rerun-if-changed={}", path.display());
        compress(&name(path), &text(path));
    }
}

/// All of them in one, as they are much alike: before each its file's name in a line, behind it a NUL.
fn lessons() -> String {
    let entries = std::fs::read_dir(LESSONS).expect(LESSONS).map(|entry| entry.expect(LESSONS).path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect();
    paths.sort();
    paths.iter().map(|path| format!("{}\n{}\0", name(path), text(path))).collect()
}

fn name(path: &Path) -> String {
    path.file_name().expect("a file's name").to_string_lossy().into_owned()
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn compress(name: &str, text: &str) {
    let target = PathBuf::from(std::env::var_os("OUT_DIR").expect("OUT_DIR")).join(format!("{name}.zst"));
    std::fs::write(target, zstd::bulk::compress(text.as_bytes(), LEVEL).expect(name)).expect(name);
}
