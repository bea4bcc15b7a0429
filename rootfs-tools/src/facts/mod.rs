//! The `facts` program: the whole content of an image, for tests. It tells what a process in a container sees, as JSON,
//! and does what a test asks of a container: end with a code, ignore TERM, take memory, fork, listen, answer DNS, HTTP
//! and gRPC health checks.
//!
//! Without a subcommand it prints one JSON object; words that are no subcommand only show up in its `args`.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use journal::{Answers, Journal};
use serde_json::json;

mod act;
mod dns;
mod health;
mod journal;
mod net;
mod probe;
mod report;
mod spy;
mod sys;
mod web;

/// What `facts help` prints.
const USAGE: &str = "facts [--file=PATH|--list=DIR|--stat=PATH|--sysctl=NAME]...   one JSON object of what is seen
facts exit N                          end with code N
facts sleep [SECONDS]                 end with 0 after SECONDS (never, without), or on TERM
facts ignore-term                     say \"ready\", ignore TERM, live until KILL
facts trap-term N                     say \"ready\", on TERM say \"got TERM\" and end with code N
facts trap CODE [--signal NAME] [--wait MS]   note \"ready\", signals, \"ends\"; the named one (TERM) is its end after MS
facts alloc MIB                       touch so much memory, say \"allocated\", live until TERM
facts shm KEY MIB                     make a System V segment of this size, touch all of it, leave it; say how large it is
facts alloc-child MIB CODE            a child touches so much memory; say how it ended, then end with CODE
facts fork N [--hold]                 start N children, say how many; with --hold live until TERM
facts zombies N [--orphans]           leave N dead children (or grandchildren, for pid 1), live until TERM
facts listen PORT [REPLY] [--bind ADDR]           answer each TCP connection with a line, until TERM
facts connect HOST PORT [--for SECONDS]           print what it gets; try again for SECONDS
facts dns [NAME=IP]... [--bind ADDR:PORT] [--records FILE]   answer A queries over UDP, until TERM
facts http PORT [--answer FILE] [--after N]       answer GET; each request is noted; see below
facts grpc PORT [--answer FILE] [--after N]       answer grpc.health.v1.Health/Check; each one is noted
facts note TEXT                       note a text
facts write|append PATH TEXT          write TEXT as it is
facts read PATH                       print a file
facts spam LINES LEN                  print LINES numbered lines of LEN bytes
facts syscalls                        try what a seccomp profile must deny; JSON of errno by name
facts flip A B                        say \"ready\", exchange two names again and again, until TERM
facts poll-exe                        say \"ready\", try to open other processes' programs for writing; JSON on TERM
facts immutable PATH...               make files immutable (chattr +i); 1 if one cannot be
facts xattr PATH NAME VALUE           set an extended attribute, as systemd marks a cgroup
facts lease PATH                      take a lease on a file, say \"ready\", keep it whoever wants to open it, until TERM
facts ask SOCKET TEXT                 send a message to a unix socket (SOCK_SEQPACKET); print the answer, or what went wrong
facts ahead                           try to get before others (nice, FIFO, OOM, files); JSON of errno by name
facts in-session KEY PROGRAM ARG...   execute a program in a new session whose keyring has this key
facts keyring KEY                     print the number of the session keyring, and whether this key is \"found\" in it or \"none\"
facts peek NAME                       say \"ready\", try to look into processes of this name; JSON on TERM
facts wait-file PATH [--for SECONDS]  end with 0 when PATH is there, 1 when the time is over

What is noted is a JSON object a line with `uptime`, in seconds, on stdout and at the end of --log FILE; --as NAME adds `who`.
http: /code/N is answered with N, /to?URL with 302 to URL, /hop/N with 302 to /hop/N-1, /slow/MS after so long; all else with
what the --answer file says (\"503\", \"302 /x\"; 200 without), but 503 to the first --after N requests.
grpc: the --answer file holds the status (NOT_SERVING; SERVING without), NOT_SERVING to the first N; the services are \"\" and \"known\".
";

/// Runs the program with the arguments after its name: its exit code.
pub fn main(args: &[OsString]) -> Result<u8> {
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let Some((command, rest)) = words.split_first() else { return print_report(&[]) };
    let rest = Words::new(rest);
    match command.as_str() {
        "help" | "--help" => {
            print(USAGE)?;
            Ok(0)
        }
        "exit" => rest.number(0, "N"),
        "sleep" => act::sleep(rest.opt_number(0)?.map(Duration::from_secs)),
        "ignore-term" => act::ignore_term(),
        "trap-term" => act::trap_term(rest.number(0, "N")?),
        "trap" => act::trap(&trap_of(&rest)?, &rest.journal()?),
        "note" => rest.journal()?.write(json!({ "what": rest.need(0, "TEXT")? })).map(|()| 0),
        "alloc-child" => act::alloc_child(rest.number(0, "MIB")?, rest.number(1, "CODE")?),
        "http" => web::serve(rest.number(0, "PORT")?, rest.answers()?, rest.journal()?),
        "grpc" => health::serve(rest.number(0, "PORT")?, rest.answers()?, rest.journal()?),
        "shm" => act::shm(rest.number(0, "KEY")?, rest.number(1, "MIB")?),
        "alloc" => act::alloc(rest.number(0, "MIB")?),
        "fork" => act::fork(rest.number(0, "N")?, rest.flag("--hold")),
        "zombies" => act::zombies(rest.number(0, "N")?, rest.flag("--orphans")),
        "listen" => net::listen(rest.number(0, "PORT")?, rest.get(1).unwrap_or("hello"), rest.option("--bind")?),
        "connect" => net::connect(rest.need(0, "HOST")?, rest.number(1, "PORT")?, rest.seconds("--for")?),
        "dns" => dns::serve(&rest.plain(), rest.option("--bind")?, rest.option("--records")?),
        "write" => act::write(rest.need(0, "PATH")?, rest.need(1, "TEXT")?, act::Place::Whole),
        "xattr" => act::xattr(rest.need(0, "PATH")?, rest.need(1, "NAME")?, rest.need(2, "VALUE")?),
        "append" => act::write(rest.need(0, "PATH")?, rest.need(1, "TEXT")?, act::Place::End),
        "read" => {
            let path = rest.need(0, "PATH")?;
            let bytes = fs::read(path).with_context(|| format!("reading {path}"))?;
            io::stdout().write_all(&bytes).context("writing stdout")?;
            Ok(0)
        }
        "spam" => act::spam(rest.number(0, "LINES")?, rest.number(1, "LEN")?),
        "syscalls" => {
            print(&format!("{}\n", probe::all()?))?;
            Ok(0)
        }
        "flip" => spy::flip(rest.need(0, "A")?, rest.need(1, "B")?),
        "poll-exe" => spy::poll_exe(),
        "immutable" => spy::immutable(&rest.plain()),
        "lease" => spy::lease(rest.need(0, "PATH")?),
        "ask" => spy::ask(rest.need(0, "SOCKET")?, rest.need(1, "TEXT")?),
        "ahead" => spy::ahead(),
        "in-session" => {
            spy::in_session(rest.need(0, "KEY")?, rest.need(1, "PROGRAM")?, args.get(3..).unwrap_or_default())
        }
        "keyring" => spy::keyring(rest.need(0, "KEY")?),
        "peek" => spy::peek(rest.need(0, "NAME")?),
        "wait-file" => act::wait_file(rest.need(0, "PATH")?, rest.seconds("--for")?),
        _ => print_report(&words),
    }
}

fn trap_of<'a>(words: &Words<'a>) -> Result<act::Trap<'a>> {
    let wait = words.option("--wait")?.map_or(Ok(0), str::parse).context("--wait: not a number of milliseconds")?;
    Ok(act::Trap {
        signal: words.option("--signal")?.unwrap_or("TERM"),
        wait: Duration::from_millis(wait),
        code: words.number(0, "CODE")?,
    })
}

fn print_report(words: &[String]) -> Result<u8> {
    print(&format!("{}\n", report::report(words)?))?;
    Ok(0)
}

/// Prints at once, whatever stdout is: a test waits for it.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing stdout")
}

/// The arguments of a subcommand: plain ones by position, `--name value` and `--name` anywhere.
struct Words<'a> {
    all: &'a [String],
}

/// Options that take a value.
const VALUED: &[&str] = &["--after", "--answer", "--as", "--bind", "--for", "--log", "--records", "--signal", "--wait"];

impl<'a> Words<'a> {
    fn new(all: &'a [String]) -> Self {
        Self { all }
    }

    fn plain(&self) -> Vec<&'a str> {
        let mut plain = Vec::new();
        let mut words = self.all.iter();
        while let Some(word) = words.next() {
            if VALUED.contains(&word.as_str()) {
                words.next();
            } else if !word.starts_with("--") {
                plain.push(word.as_str());
            }
        }
        plain
    }

    fn get(&self, index: usize) -> Option<&'a str> {
        self.plain().get(index).copied()
    }

    fn need(&self, index: usize, name: &str) -> Result<&'a str> {
        self.get(index).with_context(|| format!("{name} is missing; see `facts help`"))
    }

    fn number<T: std::str::FromStr>(&self, index: usize, name: &str) -> Result<T> {
        let text = self.need(index, name)?;
        text.parse().ok().with_context(|| format!("{name}: {text:?} is not a number that fits"))
    }

    fn opt_number(&self, index: usize) -> Result<Option<u64>> {
        self.get(index).map(|_| self.number(index, "SECONDS")).transpose()
    }

    fn flag(&self, name: &str) -> act::Switch {
        if self.all.iter().any(|w| w == name) { act::Switch::On } else { act::Switch::Off }
    }

    fn option(&self, name: &str) -> Result<Option<&'a str>> {
        match self.all.iter().position(|w| w == name) {
            None => Ok(None),
            Some(at) => match self.all.get(at + 1) {
                Some(value) => Ok(Some(value)),
                None => bail!("{name} needs a value; see `facts help`"),
            },
        }
    }

    fn journal(&self) -> Result<Journal> {
        Journal::open(self.option("--log")?, self.option("--as")?)
    }

    fn answers(&self) -> Result<Answers> {
        let after = self.option("--after")?.map_or(Ok(0), str::parse).context("--after: not a number")?;
        Ok(Answers::new(self.option("--answer")?, after))
    }

    fn seconds(&self, name: &str) -> Result<Option<Duration>> {
        let value = self.option(name)?;
        value.map(|v| Ok(Duration::from_secs_f64(v.parse().context("not a number of seconds")?))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_may_stand_anywhere() {
        let all: Vec<String> = ["--for", "2.5", "host", "--orphans", "80"].map(String::from).to_vec();
        let words = Words::new(&all);
        assert_eq!(words.plain(), ["host", "80"]);
        assert_eq!(words.number::<u16>(1, "PORT").unwrap(), 80);
        assert_eq!(words.seconds("--for").unwrap(), Some(Duration::from_millis(2500)));
        assert_eq!(words.flag("--orphans"), act::Switch::On);
        assert!(words.need(2, "X").is_err());
        assert_eq!(words.option("--bind").unwrap(), None);
    }
}
