//! What a person sees while an image is pulled: bars on a terminal, plain lines elsewhere; always on stderr.

use super::reference::{Digest, Reference};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Something that happened during a pull or an import.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The registry is being asked for this image.
    Pulling(&'a Reference),
    /// A blob of so many bytes is being fetched.
    Fetching(&'a Digest, u64),
    /// So many bytes of it are here.
    Fetched(&'a Digest, u64),
    /// It is complete and verified.
    Complete(&'a Digest),
    /// It was here before.
    Present(&'a Digest),
    /// Another attempt follows after a wait.
    Retrying(&'a str, Duration),
    /// A layer is being unpacked.
    Unpacking(&'a Digest),
    /// Nothing more comes.
    Finished,
}

/// Takes events.
pub trait Progress: Send {
    /// Takes one event.
    fn report(&mut self, event: Event<'_>);
}

/// One that several threads report to.
pub struct Shared<'p>(Mutex<&'p mut dyn Progress>);

impl<'p> Shared<'p> {
    /// Passes events on.
    pub fn new(progress: &'p mut dyn Progress) -> Shared<'p> {
        Shared(Mutex::new(progress))
    }

    /// Passes one event on.
    pub fn report(&self, event: Event<'_>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).report(event);
    }
}

/// Shows nothing.
#[derive(Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn report(&mut self, _: Event<'_>) {}
}

/// Bars if stderr is a terminal, else lines.
pub fn for_stderr() -> Box<dyn Progress> {
    if std::io::stderr().is_terminal() {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Box::new(Bars { bars, blobs: BTreeMap::new() })
    } else {
        Box::new(Lines { out: Box::new(std::io::stderr()) })
    }
}

/// The first twelve hex digits, as Docker shows digests.
pub fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

struct Bars {
    bars: MultiProgress,
    blobs: BTreeMap<Digest, ProgressBar>,
}

impl Bars {
    fn note(&self, line: String) {
        // A broken terminal must not end a pull.
        let _ = self.bars.println(line);
    }
}

impl Progress for Bars {
    fn report(&mut self, event: Event<'_>) {
        match event {
            Event::Pulling(reference) => self.note(format!("Pulling {}", reference.familiar())),
            Event::Fetching(digest, size) => {
                let bar = self.bars.add(ProgressBar::new(size));
                if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:30}] {bytes}/{total_bytes} {msg}") {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(short(digest).to_owned());
                self.blobs.insert(digest.clone(), bar);
            }
            Event::Fetched(digest, bytes) => {
                if let Some(bar) = self.blobs.get(digest) {
                    bar.set_position(bytes);
                }
            }
            Event::Complete(digest) => {
                if let Some(bar) = self.blobs.get(digest) {
                    bar.finish_with_message("done");
                }
            }
            Event::Present(digest) => self.note(format!("{} already here", short(digest))),
            Event::Retrying(cause, wait) => self.note(format!("{cause}; trying again in {:.1} s", wait.as_secs_f64())),
            Event::Unpacking(digest) => match self.blobs.get(digest) {
                Some(bar) => bar.set_message("unpacking"),
                None => self.note(format!("{} unpacking", short(digest))),
            },
            Event::Finished => {
                for bar in self.blobs.values() {
                    bar.finish_with_message("done");
                }
            }
        }
    }
}

/// One line per event that a log's reader wants.
pub struct Lines {
    out: Box<dyn Write + Send>,
}

impl Lines {
    /// Lines to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Lines {
        Lines { out }
    }
}

impl Progress for Lines {
    fn report(&mut self, event: Event<'_>) {
        let line = match event {
            Event::Pulling(reference) => format!("Pulling {}", reference.familiar()),
            Event::Fetching(digest, size) => format!("{}: fetching {}", short(digest), human_size(size)),
            Event::Complete(digest) => format!("{}: done", short(digest)),
            Event::Present(digest) => format!("{}: already here", short(digest)),
            Event::Retrying(cause, wait) => format!("{cause}; trying again in {:.1} s", wait.as_secs_f64()),
            Event::Unpacking(digest) => format!("{}: unpacking", short(digest)),
            Event::Fetched(..) | Event::Finished => return,
        };
        // A closed stderr must not end a pull. By one write(2): others may write there too.
        let _ = self.out.write_all(format!("{line}\n").as_bytes());
    }
}

/// A size in bytes as `docker images` shows it: decimal units, three significant digits.
pub fn human_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = match value {
        _ if unit == "B" || value >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (4_261_550, "4.26 MB"), (123_456_789, "123 MB")]
        {
            assert_eq!(human_size(bytes), text);
        }
    }
}
