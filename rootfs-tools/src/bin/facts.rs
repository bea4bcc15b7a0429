//! `facts`: tells what a process in a container sees, and does what a test asks; see `rootfs_tools::facts`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match rootfs_tools::facts::main(&std::env::args_os().skip(1).collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("facts: {error:#}");
            ExitCode::FAILURE
        }
    }
}
