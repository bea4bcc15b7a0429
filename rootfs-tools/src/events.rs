//! What the `event-simulator` image runs: an application that logs what its users do, a line about every second.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::clock::Civil;
use crate::sys::Signals;

/// Where the application logs, unless `EVENT_LOG` says otherwise.
pub const DEFAULT_LOG: &str = "/log/app.log";
/// The time from one event to the next, unless `EVENT_INTERVAL_MS` says otherwise.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// What to do after the last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// End with code 0.
    Exit,
    /// Stay until TERM.
    Wait,
}

/// How the simulator runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The log file; its folder is made if missing (`EVENT_LOG`).
    pub log: PathBuf,
    /// From one event to the next (`EVENT_INTERVAL_MS`).
    pub interval: Duration,
    /// How many events; without it, no end (`EVENT_COUNT`).
    pub count: Option<u64>,
    /// After the last one (`EVENT_THEN=wait` or `exit`).
    pub afterwards: Afterwards,
}

impl Options {
    /// The options from environment variables, looked up by `variable`. Fails on a value that is not what it must be.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let value = variable(name).filter(|v| !v.is_empty());
            value.map(|v| v.parse().with_context(|| format!("{name}={v}: not a whole number"))).transpose()
        };
        let afterwards = match variable("EVENT_THEN").as_deref() {
            None | Some("" | "exit") => Afterwards::Exit,
            Some("wait") => Afterwards::Wait,
            Some(other) => anyhow::bail!("EVENT_THEN={other}: expected exit or wait"),
        };
        Ok(Self {
            log: variable("EVENT_LOG").filter(|v| !v.is_empty()).unwrap_or_else(|| DEFAULT_LOG.into()).into(),
            interval: number("EVENT_INTERVAL_MS")?.map_or(DEFAULT_INTERVAL, Duration::from_millis),
            count: number("EVENT_COUNT")?,
            afterwards,
        })
    }
}

/// Makes up what users do. The same seed gives the same users and actions.
#[derive(Debug)]
pub struct Simulation {
    random: u64,
    sequence: u64,
}

impl Simulation {
    /// Begins with event 1.
    pub fn new(seed: u64) -> Self {
        // xorshift has no way out of zero.
        Self { random: seed | 1, sequence: 0 }
    }

    /// Seeded by the clock and the process id.
    pub fn seeded() -> Self {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        Self::new(u64::from(nanos) << 20 ^ u64::from(process::id()))
    }

    /// The next event, as the application would log it at `time`: one line, without newline. `event=000123` counts from
    /// 1 and makes every line of a run unique.
    pub fn next_line(&mut self, time: Civil) -> String {
        self.sequence += 1;
        let user = self.pick(9) + 1;
        let (level, text) = match self.sequence {
            n if n % 23 == 0 => ("ERROR", format!("USER{user} payment was refused: the payment service timed out.")),
            n if n % 8 == 0 => ("WARN", format!("USER{user} Order failed as the item is OUT OF STOCK.")),
            n if n % 5 == 0 => {
                ("WARN", format!("USER{user} Failed to Login as the account is locked due to MANY FAILED ATTEMPTS."))
            }
            _ => match self.pick(8) {
                0 => ("INFO", format!("USER{user} logged in")),
                1 => ("INFO", format!("USER{user} logged out")),
                2 => ("INFO", format!("USER{user} added an item to the cart")),
                _ => ("INFO", format!("USER{user} is viewing page{}", self.pick(5) + 1)),
            },
        };
        format!("[{}] {level} in event-simulator: {text} event={:06}", time.python_log(), self.sequence)
    }

    fn pick(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }
}

/// Writes events to the log and to `out` until the last one, or until a signal comes.
///
/// A line is one write to each, so that readers never see half of it unless the kernel splits it.
pub fn run(options: &Options, signals: &Signals, out: &mut dyn Write) -> Result<()> {
    let mut log = open_log(&options.log)?;
    let mut simulation = Simulation::seeded();
    let mut written = 0;
    while options.count.is_none_or(|count| written < count) {
        let line = simulation.next_line(Civil::now()) + "\n";
        log.write_all(line.as_bytes()).with_context(|| format!("writing {}", options.log.display()))?;
        out.write_all(line.as_bytes()).and_then(|()| out.flush()).context("writing stdout")?;
        written += 1;
        if options.count != Some(written) && signals.wait_for(options.interval)?.is_some() {
            return Ok(());
        }
    }
    if options.afterwards == Afterwards::Wait {
        signals.wait()?;
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    let opened: io::Result<File> = OpenOptions::new().append(true).create(true).open(path);
    opened.with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn lines_look_like_an_application_log() {
        let mut simulation = Simulation::new(7);
        let time = Civil::from_unix(Duration::from_millis(1_795_369_392_345));
        let lines: Vec<_> = (0..200).map(|_| simulation.next_line(time)).collect();
        let mut levels = BTreeSet::new();
        for (index, line) in lines.iter().enumerate() {
            let rest = line.strip_prefix("[2026-11-22 17:43:12,345] ").expect(line);
            let (level, rest) = rest.split_once(" in event-simulator: USER").expect(line);
            assert!(rest.ends_with(&format!(" event={:06}", index + 1)), "{line}");
            assert!(!line.contains('\n'));
            levels.insert(level.to_string());
        }
        assert_eq!(levels.into_iter().collect::<Vec<_>>(), ["ERROR", "INFO", "WARN"]);
        assert!(lines.iter().any(|l| l.contains(" is viewing page")));
        assert_eq!(lines[0], Simulation::new(7).next_line(time));
    }

    #[test]
    fn events_go_to_the_log_and_to_stdout() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("made/app.log");
        let variable = |name: &str| match name {
            "EVENT_LOG" => Some(log.display().to_string()),
            "EVENT_INTERVAL_MS" => Some("1".into()),
            "EVENT_COUNT" => Some("5".into()),
            _ => None,
        };
        let options = Options::from_env(variable).unwrap();
        let signals = Signals::block(&[libc::SIGUSR1]).unwrap();
        let mut out = Vec::new();
        run(&options, &signals, &mut out).unwrap();
        assert_eq!(fs::read(&log).unwrap(), out);
        run(&options, &signals, &mut io::sink()).unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 10);
        assert!(Options::from_env(|name| (name == "EVENT_COUNT").then(|| "many".into())).is_err());
    }
}
