//! A client of streaming servers as kubectl and crictl are (`tests/cri/streamclient`); used by several test binaries.

use crate::available::available;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// client-go's client, built once; `None` if there is no Go here, and that is allowed.
pub(crate) fn client() -> Option<&'static PathBuf> {
    static CLIENT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        if !available(&["go"]) {
            return None;
        }
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("streamclient");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cri/streamclient");
        let built = Command::new("go").args(["build", "-o"]).arg(&path).arg(".").current_dir(source).status();
        assert!(built.unwrap().success(), "go build in {source}");
        Some(path)
    };
    CLIENT.get_or_init(build).as_ref()
}
