//! `filebeat`: follows the `*.log` files of `/var/log/event-simulator/` and emits each line once, as JSON, until TERM.
//!
//! Environment: `FILEBEAT_DIR` (folder), `FILEBEAT_SCAN_MS` (from one look to the next).

use std::process::ExitCode;
use std::time::Duration;
use std::{env, io};

use anyhow::Context;
use rootfs_tools::shipper::{DEFAULT_DIR, DEFAULT_SCAN, Shipper};
use rootfs_tools::sys::Signals;

fn main() -> ExitCode {
    let result = (|| {
        let signals = Signals::termination()?;
        let dir = env::var_os("FILEBEAT_DIR").unwrap_or_else(|| DEFAULT_DIR.into());
        let scan = match env::var("FILEBEAT_SCAN_MS") {
            Err(_) => DEFAULT_SCAN,
            Ok(ms) => {
                Duration::from_millis(ms.parse().with_context(|| format!("FILEBEAT_SCAN_MS={ms}: not a number"))?)
            }
        };
        Shipper::new(dir).run(scan, &signals, &mut io::BufWriter::new(io::stdout().lock()))
    })();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("filebeat: {error:#}");
            ExitCode::FAILURE
        }
    }
}
