//! Writes podshim's types of the Container Runtime Interface and of the Node Resource Interface, from their `api.proto`s.
//!
//!     cargo run -- <directory for the generated files>
//!
//! The protos are copies: cri/api.proto of k8s.io/cri-api v0.37.2, nri/api.proto of github.com/containerd/nri v0.12.5.

use anyhow::{Context, Result};
use std::path::Path;

fn main() -> Result<()> {
    let into = std::env::args().nth(1).context("which directory?")?;
    let into = Path::new(&into);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cri = protox::compile(["api.proto"], [here.join("cri")])?;
    tonic_prost_build::configure()
        .generate_default_stubs(true)
        // Its containers are encoded once, and not at every call.
        .extern_path(".runtime.v1.ListContainersResponse", "super::ListContainersResponse")
        .out_dir(into)
        .emit_rerun_if_changed(false)
        .compile_fds(cri)
        .context("cri/api.proto")?;
    let nri = protox::compile(["api.proto"], [here.join("nri")])?;
    prost_build::Config::new().out_dir(into).compile_fds(nri).context("nri/api.proto")?;
    Ok(())
}
