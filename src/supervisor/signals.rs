//! Signals by their names, as manifests (`stopSignal`) and images (`STOPSIGNAL`) write them.

use crate::plan::config::{ContainerConfig, ImageSpec};

/// What a name without `SIG` stands for: those of Kubernetes' `core.Signal`, which are docker's (moby/sys/signal).
const NAMES: [(&str, i32); 34] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGIO),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// The first and the last real-time signal as glibc and Go programs know them. Not `libc::SIGRTMIN()`: musl keeps one more to
/// itself, so that it has 35 there, and what systemd takes for `SIGRTMIN+3` is 37 whatever podshim is linked with.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// What a container is asked to end by: `lifecycle.stopSignal`, else what its image says, as it is written (pod-api.md §8).
pub(super) fn wanted<'a>(container: &'a ContainerConfig, image: &'a ImageSpec) -> Option<&'a str> {
    container.lifecycle.stop_signal.as_deref().or(image.config.stop_signal.as_deref())
}

/// The number of the signal that a container gets: SIGTERM if none is wanted, or what is wanted is no signal.
pub(super) fn effective(container: &ContainerConfig, image: &ImageSpec) -> i32 {
    wanted(container, image).and_then(number).unwrap_or(libc::SIGTERM)
}

/// The signal by which a container is asked to end, by the name that Kubernetes has for it: `SIGTERM`, `SIGRTMIN+3`.
pub fn stop_signal(container: &ContainerConfig, image: &ImageSpec) -> String {
    name(effective(container, image))
}

/// As `core.Signal` has it; a number without a name there (32 and 33 are the C library's own) is written as one.
fn name(number: i32) -> String {
    match number {
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        35..=49 => format!("SIGRTMIN+{}", number - RTMIN),
        50..=63 => format!("SIGRTMAX-{}", RTMAX - number),
        _ => match NAMES.iter().find(|(_, known)| *known == number) {
            Some((name, _)) => format!("SIG{name}"),
            None => number.to_string(),
        },
    }
}

/// The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-3`; `None` if it is no signal.
pub(super) fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return Some(number).filter(|n| (1..=RTMAX).contains(n));
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        // Digits only: not a second sign.
        _ => {
            rest.strip_prefix(sign).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?.parse::<u8>().ok().map(i32::from)
        }
    };
    let real_time = |signal: &i32| (RTMIN..=RTMAX).contains(signal);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return Some(RTMIN + offset(rest, '+')?).filter(real_time);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return Some(RTMAX - offset(rest, '-')?).filter(real_time);
    }
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_every_signal_that_kubernetes_knows() {
        // signal(7), x86 and arm; the numbers are Linux's for every architecture that Rust builds podshim for but mips and sparc.
        let numbers = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN \
            TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";
        let others = [("CLD", 17), ("IOT", 6), ("POLL", 29)];
        let all = numbers.split_whitespace().zip(1..).chain(others);
        let mut seen = 0;
        for (name, expected) in all {
            seen += 1;
            for text in
                [name.to_owned(), format!("SIG{name}"), format!("sig{}", name.to_lowercase()), expected.to_string()]
            {
                assert_eq!(number(&text), Some(expected), "{text}");
            }
        }
        assert_eq!(seen, NAMES.len(), "no name is left out");
        for n in 0..=15 {
            assert_eq!(number(&format!("SIGRTMIN+{n}")), Some(34 + n));
        }
        for n in 0..=14 {
            assert_eq!(number(&format!("RTMAX-{n}")), Some(64 - n));
        }
    }

    #[test]
    fn s8_a_number_has_one_name_of_kubernetes() {
        for n in (1..=31).chain(34..=64) {
            let name = name(n);
            assert!(name.starts_with("SIG"), "{n}: {name}");
            assert_eq!(number(&name), Some(n), "{name}");
        }
        let some = [6, 17, 29, 49, 50].map(name);
        assert_eq!(some, ["SIGABRT", "SIGCHLD", "SIGIO", "SIGRTMIN+15", "SIGRTMAX-14"]);
        assert_eq!(name(33), "33");
    }

    #[test]
    fn s8_what_is_a_signal_and_what_is_not() {
        let rows = [
            ("SIGRTMIN", Some(34)),
            ("rtmax", Some(64)),
            ("64", Some(64)),
            ("9", Some(9)),
            ("SIGRTMIN+30", Some(64)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+2147483647", None),
            ("SIGRTMAX-31", None),
            ("SIGRTMAX+1", None),
            ("SIGRTMAX--1", None),
            ("SIGRTMIN++1", None),
            ("SIGRTMIN3", None),
            ("0", None),
            ("-9", None),
            ("65", None),
            ("SIG9", None),
            ("SIGSIGTERM", None),
            ("SIG", None),
            ("SIGNONE", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
