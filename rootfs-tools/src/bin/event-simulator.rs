//! `event-simulator`: logs what made-up users do, to `/log/app.log` and stdout, until TERM.
//!
//! Environment: `EVENT_LOG` (file), `EVENT_INTERVAL_MS`, `EVENT_COUNT` (then it ends, or with `EVENT_THEN=wait` stays).

use std::process::ExitCode;
use std::{env, io};

use rootfs_tools::events::{Options, run};
use rootfs_tools::sys::Signals;

fn main() -> ExitCode {
    let result = (|| {
        let signals = Signals::termination()?;
        run(&Options::from_env(|name| env::var(name).ok())?, &signals, &mut io::stdout().lock())
    })();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("event-simulator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
