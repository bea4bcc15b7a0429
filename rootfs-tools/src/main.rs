//! `rootfs-tools`: writes OCI images without network or other container software.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rootfs-tools: {error:#}");
            ExitCode::FAILURE
        }
    }
}
